//! Whatever is sent through a proxy, the bridge answers it, and not the proxy.

use std::time::{Duration, Instant};

use crate::harness::{Answer, Client, Setup, loan, request, signature, wait_for};
use crate::load::ALMA_WAITS;
use crate::on_each_proxy;
use crate::proxy::{Kind, Proxy};

const MAX_BODY: usize = 8 * 1024 * 1024;

on_each_proxy!(
    large_bodies_reach_the_bridge,
    large_heads_reach_the_bridge,
    every_path_and_method_reaches_the_bridge,
    a_slow_body_gets_the_bridges_answer,
    an_idle_connection_takes_the_next_event,
);

/// An event of this size.
pub(crate) fn event(size: usize) -> Vec<u8> {
    let head = format!("{{\"id\":\"{size}\",\"action\":\"LOAN\",\"pad\":\"");
    format!("{head}{}\"}}", "x".repeat(size - head.len() - 2)).into_bytes()
}

/// Whether the bridge wrote this error, and not a proxy.
fn is_the_bridges(answer: &Answer) -> bool {
    let json = answer.header("content-type").is_some_and(|value| value.starts_with("application/json"));
    json && answer.text().starts_with("{\"errorMessage\":")
        && (answer.status != 503 || answer.header("retry-after") == Some("30"))
}

fn assert_bridges(answer: &Answer, status: u16) {
    assert!(answer.status == status && is_the_bridges(answer), "expected the bridge's {status}, found {answer:?}");
}

/// A signed POST of a small event with more headers.
pub(crate) fn with_headers(number: u64, headers: &str) -> Vec<u8> {
    let request = String::from_utf8(request("/webhooks", &loan(number))).expect("UTF-8");
    request.replacen("\r\n\r\n", &format!("\r\n{headers}\r\n"), 1).into_bytes()
}

fn large_bodies_reach_the_bridge(kind: Kind) {
    let setup = Setup::new("");
    let bridge = setup.start();
    let proxy = Proxy::start(kind, &[(&bridge).into()]);
    let mut client = proxy.door.client();
    for size in [100, 100_000, 1_500_000, MAX_BODY] {
        let answer = client.post("/webhooks", &event(size));
        assert_eq!((answer.status, answer.outcome()), (204, Some("stored")), "{size} bytes");
    }
    for size in [MAX_BODY + 1, 3 * MAX_BODY] {
        let request = request("/webhooks", &event(size));
        // The bridge answers as soon as it knows the length.
        assert_bridges(&proxy.door.client().send(&request[..10_000]), 503);
        // It then closes the connection. A client that looks at the answer only after the whole body may get a 502, or none.
        let mut client = proxy.door.client();
        client.write(&request);
        let answer = client.try_answer();
        assert!(answer.as_ref().is_none_or(|answer| matches!(answer.status, 502 | 503)), "{answer:?}");
    }
    // A body whose length is not told in advance.
    let body = event(1_400_000);
    let mut chunked =
        format!("POST /webhooks HTTP/1.1\r\nHost: bridge\r\nX-Exl-Signature: {}\r\n", signature(&body)).into_bytes();
    chunked.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
    for chunk in body.chunks(10_000) {
        chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunked.extend_from_slice(chunk);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(proxy.door.client().send(&chunked).status, 204);
}

/// So many headers with values of this size.
pub(crate) fn lines(count: usize, size: usize) -> String {
    let value = "x".repeat(size);
    (0..count).fold(String::new(), |lines, number| lines + &format!("X-Large-{number}: {value}\r\n"))
}

fn large_heads_reach_the_bridge(kind: Kind) {
    let setup = Setup::new("");
    let bridge = setup.start();
    let proxy = Proxy::start(kind, &[(&bridge).into()]);
    for (number, headers) in
        [lines(1, 10_000), lines(1, 20_000), lines(1, 60_000), lines(6, 10_000), lines(110, 10)].iter().enumerate()
    {
        let answer = proxy.door.client().send(&with_headers(number as u64, headers));
        assert_eq!(answer.status, 204, "{} bytes of headers: {answer:?}", headers.len());
    }
    // More than the bridge takes.
    for (number, headers) in [lines(8, 9_000), lines(140, 10)].iter().enumerate() {
        let answer = proxy.door.client().send(&with_headers(100 + number as u64, headers));
        assert_bridges(&answer, 503);
    }
}

fn every_path_and_method_reaches_the_bridge(kind: Kind) {
    let setup = Setup::new("");
    let bridge = setup.start();
    let proxy = Proxy::start(kind, &[(&bridge).into()]);
    let get = |path: &str| proxy.door.client().send(format!("GET {path} HTTP/1.1\r\nHost: bridge\r\n\r\n").as_bytes());
    let answer = get("/webhooks?challenge=a%20b");
    assert_eq!((answer.status, answer.text()), (200, r#"{"challenge":"a b"}"#));
    assert_bridges(&get("/webhooks"), 400);
    for (number, path) in ["/webhooks", "/webhooks/"].into_iter().enumerate() {
        let answer = proxy.door.client().post(path, &loan(number as u64));
        assert_eq!((answer.status, answer.outcome()), (204, Some("stored")), "{path}");
    }
    for path in ["/", "/webhook", "/webhooks/alma", "//webhooks", "/Webhooks", "/index.html", "/.well-known/alma"] {
        assert_bridges(&get(path), 404);
        assert_bridges(&proxy.door.client().post(path, &loan(7)), 503);
    }
    let put = request("/webhooks", &loan(8));
    assert_bridges(&proxy.door.client().send(&[b"PUT", &put[4..]].concat()), 405);
    let body = loan(9);
    let other =
        String::from_utf8(request("/webhooks", &body)).expect("UTF-8").replace(&signature(&body), &signature(b""));
    assert_bridges(&proxy.door.client().send(other.as_bytes()), 401);
}

fn a_slow_body_gets_the_bridges_answer(kind: Kind) {
    let setup = Setup::new("");
    let bridge = setup.start();
    let proxy = Proxy::start(kind, &[(&bridge).into()]);
    let mut client = proxy.door.client();
    let (request, begun) = (request("/webhooks", &event(2_000)), Instant::now());
    client.write(&request[..request.len() - 1_000]);
    assert_bridges(&client.answer(), 503);
    assert!(begun.elapsed() < ALMA_WAITS, "{:?}", begun.elapsed());
}

fn an_idle_connection_takes_the_next_event(kind: Kind) {
    let setup = Setup::new("[ingress]\nlisten = \"127.0.0.1:0\"\nidle_timeout = \"200ms\"\n");
    let bridge = setup.start();
    let proxy = Proxy::start(kind, &[(&bridge).into()]);
    let mut clients: Vec<Client> = (0..8).map(|_| proxy.door.client()).collect();
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.post("/webhooks", &loan(round * 100 + number as u64)).status, 204);
        }
        wait_for("the bridge to have closed what was idle", || {
            let open = bridge.metric("alma_bridge_connections{listener=\"ingress\"}");
            (open == Some(0.0)).then_some(())
        });
    }
    // At the moment when the bridge closes what is idle.
    for number in 1_000..1_020 {
        assert_eq!(clients[0].post("/webhooks", &loan(number)).status, 204);
        assert!(clients[0].is_silent(Duration::from_millis(200)));
    }
}
