//! Who does not hold the secret gets little, and keeps nobody out.

use std::time::Duration;

use crate::harness::{Setup, loan, request, wait_for};

#[test]
fn idle_and_half_sent_connections_give_way_to_almas() {
    let setup = Setup::new("[ingress]\nlisten = \"127.0.0.1:0\"\nmax_connections = 4\n");
    let bridge = setup.start();
    let mut alma = bridge.client();
    assert_eq!(alma.post("/webhooks", &loan(1)).status, 204);
    // Three that hold their places, each in another way.
    let _idle = bridge.client();
    let mut half_head = bridge.client();
    half_head.write(b"POST /webhooks HTTP/1.1\r\nHost: b");
    let mut half_body = bridge.client();
    let whole = request("/webhooks", &loan(2));
    half_body.write(&whole[..whole.len() - 1]);
    for number in 3..10 {
        assert_eq!(bridge.post(&loan(number)).status, 204, "{number}");
    }
    assert_eq!(alma.post("/webhooks", &loan(10)).status, 204, "the one that carried a proven event stayed");
}

#[test]
fn a_flood_of_401s_is_summed_up_in_the_log_and_counted_in_full() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let body = b"{\"patron\":\"patron-0001\"}";
    let head = format!(
        "POST /webhooks HTTP/1.1\r\nHost: b\r\nX-Exl-Signature: {}\r\nContent-Length: {}\r\n\r\n",
        crate::harness::signature(b"another"),
        body.len()
    );
    let flood = [head.as_bytes(), body].concat();
    for _ in 0..200 {
        assert_eq!(bridge.client().send(&flood).status, 401);
    }
    let counted = bridge.metric("alma_bridge_signature_failures_total{source=\"alma\",reason=\"mismatch\"}");
    assert_eq!(counted, Some(200.0));
    let lines = bridge.log().matches("mismatch").count();
    assert!((1..150).contains(&lines), "{lines} lines for 200 refusals");
    wait_for("a line that sums up", || {
        bridge.client().send(&flood);
        bridge.log().contains("\"left_out\"").then_some(())
    });
    assert!(!bridge.log().contains("patron-0001"));
}

#[test]
fn a_body_of_1_gib_is_not_read() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let mut client = bridge.client();
    client.write(
        format!(
            "POST /webhooks HTTP/1.1\r\nHost: b\r\nX-Exl-Signature: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
            crate::harness::signature(b"")
        )
        .as_bytes(),
    );
    // Sends on until it is told off: nine MiB are over the bound, the rest is never wanted.
    let chunk = [b"100000\r\n".to_vec(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
    let sent = (0..1_024).take_while(|_| client.try_write(&chunk)).count();
    assert!(sent < 64, "{sent} MiB were read");
    assert_eq!(client.try_answer().map(|answer| answer.status), Some(503));
    assert_eq!(bridge.post(&loan(1)).status, 204);
    let memory = bridge.resident_kib();
    assert!(memory < 100 * 1024, "{memory} KiB resident");
}

#[test]
fn a_slow_body_holds_no_memory_it_does_not_send() {
    let setup = Setup::new("[ingress]\nlisten = \"127.0.0.1:0\"\nbody_memory = \"8MiB\"\n");
    let bridge = setup.start();
    let slow: Vec<_> = (0..50)
        .map(|_| {
            let mut client = bridge.client();
            client.write(
                format!(
                    "POST /webhooks HTTP/1.1\r\nHost: b\r\nX-Exl-Signature: {}\r\nContent-Length: 8000000\r\n\r\n{{",
                    crate::harness::signature(b"")
                )
                .as_bytes(),
            );
            client
        })
        .collect();
    assert_eq!(bridge.post(&loan(1)).status, 204, "a claimed length reserves nothing");
    drop(slow);
    assert!(bridge.client().is_silent(Duration::from_millis(10)));
}
