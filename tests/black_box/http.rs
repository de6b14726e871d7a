//! Every row of the table of answers, and hostile HTTP.

use std::time::{Duration, Instant};

use crate::harness::{Answer, Setup, landed, loan, request, signature, wait_for};

fn error_message(answer: &Answer) -> String {
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    body["errorMessage"].as_str().expect("a message").to_owned()
}

#[test]
fn the_challenge_is_answered() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let get =
        |query: &str| bridge.client().send(format!("GET /webhooks{query} HTTP/1.1\r\nHost: b\r\n\r\n").as_bytes());
    let answer = get("?challenge=a%20b%2B%C3%A9+%22c");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.text(), r#"{"challenge":"a b+é \"c"}"#);
    assert_eq!(get("/?challenge=x").text(), r#"{"challenge":"x"}"#);
    assert_eq!(get("?other=1&challenge=x").text(), r#"{"challenge":"x"}"#);
    assert_eq!(get(&format!("?challenge={}", "y".repeat(1_024))).status, 200);
    assert_eq!(get(&format!("?challenge={}", "y".repeat(1_025))).status, 400);
    assert_eq!(get("?challenge=%FF").status, 400);
    let without = get("");
    assert_eq!(without.status, 400);
    assert!(error_message(&without).contains("?challenge="), "{}", without.text());
}

#[test]
fn an_event_is_stored_once_and_arrives_byte_for_byte() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let body = r#"{ "action":"BIB" ,"id":"7","x":209.0,"title":"Ünïcode","time":"2024-01-02T03:04:05Z"}"#.as_bytes();
    let first = bridge.post(body);
    assert_eq!((first.status, first.outcome()), (204, Some("stored")));
    let again = bridge.post(body);
    assert_eq!((again.status, again.outcome()), (204, Some("repeat")));
    assert_eq!(first.header("alma-bridge-first-seen"), None);
    let first_seen = again.header("alma-bridge-first-seen").expect("when the first copy was recorded").to_owned();
    wait_for("the event to land", || (!setup.landed("alma.bib").is_empty()).then_some(()));
    let raw = std::fs::read(setup.data().join("topics/alma.bib.jsonl")).expect("a topic file");
    assert!(raw.windows(body.len()).any(|window| window == body), "data is not byte for byte");
    assert_eq!(raw.split_inclusive(|byte| *byte == b'\n').count(), 1, "the repeat was published");
    // To the second: 2024-01-02T03:04:05.678Z in the event, 2024-01-02T03:04:05Z in the header.
    let recorded = setup.landed("alma.bib")[0]["recordedtime"].as_str().expect("a time").to_owned();
    assert_eq!(Some(&*first_seen), recorded.get(..19).map(|seconds| format!("{seconds}Z")).as_deref());
    assert!(bridge.log().contains(&format!(r#""first_seen":"{first_seen}""#)), "the log says so, too");
}

#[test]
fn a_request_that_is_not_from_alma_gets_401_and_the_connection_is_closed() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let body = loan(1);
    let with = |header: &str| {
        let mut bytes = format!("POST /webhooks HTTP/1.1\r\nHost: b\r\n{header}Content-Length: {}\r\n\r\n", body.len())
            .into_bytes();
        bytes.extend_from_slice(&body);
        let mut client = bridge.client();
        let answer = client.exchange(&bytes);
        assert_eq!(answer.text(), r#"{"errorMessage":"Invalid Signature"}"#, "{header}");
        assert!(client.is_closed(), "{header}");
        answer.status
    };
    let good = signature(&body);
    assert_eq!(with(""), 401);
    assert_eq!(with(&format!("X-Exl-Signature: {good}\r\nX-Exl-Signature: {good}\r\n")), 401);
    assert_eq!(with("X-Exl-Signature: ???\r\n"), 401);
    assert_eq!(with("X-Exl-Signature: AAAA\r\n"), 401);
    assert_eq!(with(&format!("X-Exl-Signature: {}\r\n", good.trim_end_matches('='))), 401);
    assert_eq!(with(&format!("X-Exl-Signature: {}\r\n", signature(b"other"))), 401);
    for (reason, count) in
        [("missing", 1.0), ("repeated", 1.0), ("not_base64", 2.0), ("wrong_length", 1.0), ("mismatch", 1.0)]
    {
        let name = format!("alma_bridge_signature_failures_total{{source=\"alma\",reason=\"{reason}\"}}");
        assert_eq!(bridge.metric(&name), Some(count), "{reason}");
    }
}

#[test]
fn the_signature_header_is_accepted_in_any_case() {
    let setup = Setup::new("");
    let bridge = setup.start();
    for (number, name) in ["x-exl-signature", "X-EXL-SIGNATURE", "X-eXl-SiGnAtUrE"].into_iter().enumerate() {
        let body = loan(number as u64);
        let bytes = String::from_utf8(request("/webhooks", &body)).expect("UTF-8").replace("X-Exl-Signature", name);
        assert_eq!(bridge.client().send(bytes.as_bytes()).status, 204, "{name}");
    }
}

#[test]
fn the_form_of_the_signature_is_checked_before_the_body_is_read() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let mut client = bridge.client();
    // The body never arrives, and the bridge does not wait for it.
    let answer = client.exchange(b"POST /webhooks HTTP/1.1\r\nHost: b\r\nContent-Length: 1000\r\n\r\n");
    assert_eq!(answer.status, 401);
    let mut client = bridge.client();
    let head = "POST /webhooks HTTP/1.1\r\nHost: b\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n";
    client.write(head.as_bytes());
    assert_eq!(client.head().expect("an answer").status, 401, "100 Continue for a stranger");
}

#[test]
fn expect_continue_chunked_and_http_1_0_work() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let body = loan(1);
    let mut client = bridge.client();
    let head = format!(
        "POST /webhooks HTTP/1.1\r\nHost: b\r\nX-Exl-Signature: {}\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        signature(&body),
        body.len()
    );
    client.write(head.as_bytes());
    assert_eq!(client.head().expect("an interim answer").status, 100);
    assert_eq!(client.exchange(&body).status, 204);

    let body = loan(2);
    let (one, two) = body.split_at(100);
    let mut chunked = format!(
        "POST /webhooks HTTP/1.1\r\nHost: b\r\nX-Exl-Signature: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        signature(&body)
    )
    .into_bytes();
    for part in [one, two, b""] {
        chunked.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        chunked.extend_from_slice(part);
        chunked.extend_from_slice(b"\r\n");
    }
    assert_eq!(client.exchange(&chunked).status, 204, "chunked, on the kept connection");

    let body = loan(3);
    let old = String::from_utf8(request("/webhooks", &body)).expect("UTF-8").replace("HTTP/1.1", "HTTP/1.0");
    let mut client = bridge.client();
    assert_eq!(client.exchange(old.as_bytes()).status, 204);
    assert!(client.is_closed(), "HTTP/1.0 without keep-alive");
}

#[test]
fn pipelined_events_are_answered_in_order() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let mut client = bridge.client();
    client.write(&(0..20).flat_map(|number| request("/webhooks", &loan(number))).collect::<Vec<u8>>());
    for number in 0..20 {
        assert_eq!(client.answer().status, 204, "{number}");
    }
    wait_for("all to land", || (setup.landed("alma.loan").len() == 20).then_some(()));
}

#[test]
fn transfer_encoding_with_content_length_closes_the_connection() {
    let setup = Setup::new("");
    let bridge = setup.start();
    for headers in
        ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"]
    {
        let mut client = bridge.client();
        client.write(
            format!(
                "POST /webhooks HTTP/1.1\r\nHost: b\r\nX-Exl-Signature: {}\r\n{headers}\r\n\r\n0\r\n\r\nGET /webhooks?challenge=x HTTP/1.1\r\nHost: b\r\n\r\n",
                signature(b"")
            )
            .as_bytes(),
        );
        // Whatever the answer is, the smuggled request gets none.
        let _ = client.try_answer();
        assert!(client.is_closed(), "{headers}");
    }
}

#[test]
fn a_request_that_may_be_a_good_event_never_gets_4xx() {
    let setup = Setup::new("[ingress]\nlisten = \"127.0.0.1:0\"\nmax_body = \"4KiB\"\nbody_timeout = \"300ms\"\n");
    let bridge = setup.start();
    let unavailable = |answer: &Answer| {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.header("retry-after").is_some());
        error_message(answer);
    };
    let large = vec![b' '; 4 * 1024 + 1];
    unavailable(&bridge.post(&large));
    // With a Content-Length, the bridge does not wait for the body.
    let head = format!(
        "POST /webhooks HTTP/1.1\r\nHost: b\r\nX-Exl-Signature: {}\r\nContent-Length: 99999999\r\n\r\n",
        signature(b"")
    );
    unavailable(&bridge.client().send(head.as_bytes()));
    // Chunked, without a length: the bridge reads no further than the limit.
    let mut client = bridge.client();
    client.write(
        format!(
            "POST /webhooks HTTP/1.1\r\nHost: b\r\nX-Exl-Signature: {}\r\nTransfer-Encoding: chunked\r\n\r\n1001\r\n",
            signature(b"")
        )
        .as_bytes(),
    );
    client.write(&large);
    unavailable(&client.answer());
    // Slow.
    let body = loan(1);
    let whole = request("/webhooks", &body);
    unavailable(&bridge.client().send(&whole[..whole.len() - 1]));
    // Cut off.
    let mut client = bridge.client();
    client.write(&whole[..whole.len() - 1]);
    client.end_of_sending();
    if let Some(answer) = client.try_answer() {
        unavailable(&answer);
    }
    // An unknown path, signed.
    unavailable(&bridge.client().post("/elsewhere", &body));
    // A GET, or a request without a signature, with as many headers gets 4xx.
    let unsigned = format!("GET /webhooks HTTP/1.1\r\n{}\r\n", "X-Proxy: x\r\n".repeat(2_000));
    assert_eq!(bridge.client().send(unsigned.as_bytes()).status, 431);
    // Too many headers, as from a proxy that adds its own.
    let many = "X-Proxy: x\r\n".repeat(2_000);
    let stuffed = String::from_utf8(whole.clone()).expect("UTF-8").replacen(
        "Host: bridge\r\n",
        &format!("Host: bridge\r\n{many}"),
        1,
    );
    assert_eq!(bridge.client().send(stuffed.as_bytes()).status, 503);
    assert!(landed(&setup.data().join("topics"), "alma.loan").is_empty());
    assert_eq!(bridge.post(&body).status, 204);
}

#[test]
fn other_paths_and_methods_are_refused() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let send = |head: &str| {
        bridge.client().send(format!("{head} HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n").as_bytes())
    };
    assert_eq!(send("GET /").status, 404);
    assert_eq!(send("POST /webhooks/alma").status, 404);
    assert_eq!(send("POST /webhooks").status, 401);
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS"] {
        let answer = send(&format!("{method} /webhooks"));
        assert_eq!(answer.status, 405, "{method}");
        let allow = answer.header("allow").expect("Allow");
        assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    }
    assert_eq!(bridge.client().post("/webhooks/", &loan(1)).status, 204, "one trailing slash");
    assert_eq!(bridge.metric("alma_bridge_requests_total{source=\"none\",outcome=\"not_found\"}"), Some(2.0));
}

#[test]
fn slow_heads_and_silent_connections_are_closed() {
    let setup =
        Setup::new("[ingress]\nlisten = \"127.0.0.1:0\"\nheader_timeout = \"300ms\"\nidle_timeout = \"900ms\"\n");
    let bridge = setup.start();
    let started = Instant::now();
    let mut slow = bridge.client();
    slow.write(b"POST /webhooks HTTP/1.1\r\nHost: b\r\n");
    let _ = slow.try_answer();
    assert!(slow.is_closed());
    assert!(started.elapsed() < Duration::from_secs(10), "a half head is held for {:?}", started.elapsed());
    let mut kept = bridge.client();
    assert_eq!(kept.post("/webhooks", &loan(1)).status, 204);
    assert!(kept.is_silent(Duration::from_millis(450)), "idle_timeout is longer than header_timeout");
    assert_eq!(kept.post("/webhooks", &loan(2)).status, 204);
    assert!(kept.is_closed());
}

#[test]
fn a_client_that_half_closes_after_the_request_gets_its_answer() {
    let setup = Setup::new("");
    let bridge = setup.start();
    for number in 0..20 {
        let mut client = bridge.client();
        client.write(&request("/webhooks", &loan(number)));
        client.end_of_sending();
        assert_eq!(client.try_answer().map(|answer| answer.status), Some(204), "event {number}");
        assert!(client.is_closed(), "event {number}");
    }
    let mut client = bridge.client();
    client.write(&(20..25).flat_map(|number| request("/webhooks", &loan(number))).collect::<Vec<u8>>());
    client.end_of_sending();
    for number in 20..25 {
        assert_eq!(client.try_answer().map(|answer| answer.status), Some(204), "pipelined event {number}");
    }
}

#[test]
fn a_connection_that_half_closes_before_the_request_is_complete_ends_at_once() {
    let setup = Setup::new(
        "[ingress]\nlisten = \"127.0.0.1:0\"\nheader_timeout = \"20s\"\nbody_timeout = \"20s\"\nanswer_within = \"4900ms\"\n",
    );
    let bridge = setup.start();
    let whole = request("/webhooks", &loan(1));
    for part in [0, 20, whole.len() - 1] {
        let mut client = bridge.client();
        let begun = Instant::now();
        client.write(&whole[..part]);
        client.end_of_sending();
        if let Some(answer) = client.try_answer() {
            assert_ne!(answer.status, 204, "after {part} bytes");
        }
        assert!(client.is_closed(), "after {part} bytes");
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?} after {part} bytes", begun.elapsed());
    }
    wait_for("no connection to be left", || {
        (bridge.metric("alma_bridge_connections{listener=\"ingress\"}") == Some(0.0)).then_some(())
    });
}

/// A unique body of 700 kB.
fn large(kind: &str, number: u32) -> Vec<u8> {
    let mut body = format!("{kind}{number}").into_bytes();
    body.resize(700_000, b' ');
    body
}

#[test]
fn body_memory_is_limited_and_released() {
    let setup = Setup::new(
        "[ingress]\nlisten = \"127.0.0.1:0\"\nmax_body = \"1MiB\"\nbody_memory = \"1MiB\"\nbody_timeout = \"3s\"\n",
    );
    let bridge = setup.start();
    let mut number = 0;
    let (mut holder, whole, refused) = wait_for("memory to be used up", || {
        // It is not known which of the two is read first. The second one is refused.
        number += 1;
        let whole = request("/webhooks", &large("", number));
        let mut holder = bridge.client();
        holder.write(&whole[..whole.len() - 1]);
        let answer = bridge.post(&large("x", number));
        (answer.status == 503).then_some((holder, whole, answer))
    });
    assert!(refused.header("retry-after").is_some());
    assert_eq!(holder.exchange(&whole[whole.len() - 1..]).status, 204);
    // The journal releases a body shortly after its answer.
    wait_for("memory to come back", || (bridge.post(&large("y", number)).status == 204).then_some(()));
}

#[test]
fn each_source_has_its_own_path_and_secrets() {
    let setup = Setup::new(
        "[sources.alma]\npath = \"/a\"\nsecret_file = \"DIR/secret\"\n\
         [sources.sandbox]\npath = \"/b/\"\ninstitution = \"01SANDBOX_INST\"\nsecrets = [{ name = \"old\", env = \"NOT_THERE\", optional = true }, { name = \"new\", file = \"DIR/secret\" }]\n",
    );
    let bridge = setup.start();
    assert_eq!(bridge.client().post("/a", &loan(1)).outcome(), Some("stored"));
    assert_eq!(bridge.client().post("/b", &loan(1)).outcome(), Some("stored"), "a repeat is one at the same source");
    wait_for("the misdirected one", || (setup.landed("alma.misdirected").len() == 1).then_some(()));
    wait_for("the other", || (setup.landed("alma.loan").len() == 1).then_some(()));
    assert_eq!(setup.landed("alma.loan")[0]["source"], "/alma/01TEST_INST");
    assert!(
        bridge.metric("alma_bridge_secret_last_used_timestamp_seconds{source=\"sandbox\",secret=\"new\"}") > Some(0.0)
    );
    assert_eq!(
        bridge.metric("alma_bridge_secret_last_used_timestamp_seconds{source=\"sandbox\",secret=\"old\"}"),
        Some(0.0)
    );
}
