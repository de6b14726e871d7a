//! What needs a person: lost events, silent sources, brokers that stay down; and what does not.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Bridge, Setup, client_with_secret, loan, wait_for};

const REFUSED: &str = "alma_bridge_source_refused_events{source=\"alma\"}";
const SILENCE: &str = "no valid event for 1s (silence)";
const SILENT: &str = "alma_bridge_source_silent{source=\"alma\"}";

fn attention(bridge: &Bridge) -> Vec<String> {
    serde_json::from_value(bridge.status()["attention"].clone()).expect("a list of lines")
}

fn page(bridge: &Bridge) -> String {
    bridge.admin_get("/").text().to_owned()
}

fn post_without_signature(bridge: &Bridge) {
    let request = b"POST /webhooks HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(bridge.client().send(request).status, 401);
}

#[test]
fn a_wrong_secret_in_alma_needs_a_person_until_an_event_is_valid() {
    let setup = Setup::new("");
    let bridge = setup.start();
    assert_eq!(attention(&bridge), [""; 0]);
    for number in 0..3 {
        assert_eq!(client_with_secret(bridge.ingress, "another", &loan(number)).status, 401);
    }
    let said = attention(&bridge);
    for words in ["source alma: 3 requests were refused", "no valid event", "secret --source alma", "explain"] {
        assert!(said.len() == 1 && said[0].contains(words), "{words}: {said:?}");
    }
    let source = &bridge.status()["sources"][0];
    assert_eq!((&source["refused"]["events"], &source["needs_person"]), (&json!(3), &json!(true)));
    assert_eq!(source["refused"]["reasons"], json!({ "mismatch": 3 }));
    for key in ["since", "last", "cause", "next_step"] {
        assert!(source["refused"][key].as_str().is_some_and(|text| !text.is_empty()), "{source}");
    }
    assert_eq!(bridge.metric(REFUSED), Some(3.0));
    assert!(setup.fails(1, &["status"]).contains("  ! source alma: 3 requests were refused"));
    assert!(page(&bridge).contains("needs a person") && page(&bridge).contains("3 requests were refused"));

    // Requests from strangers do not hide it, and a reload keeps the counts.
    post_without_signature(&bridge);
    assert_eq!(bridge.post_reload(&setup).status, 200);
    assert_eq!(bridge.metric(REFUSED), Some(4.0));
    assert!(attention(&bridge)[0].contains("4 requests were refused"));

    assert_eq!(bridge.post(&loan(7)).status, 204);
    assert_eq!(attention(&bridge), [""; 0]);
    assert_eq!(bridge.metric(REFUSED), Some(0.0));
    assert!(page(&bridge).contains("all is well"));
    setup.done(&["status"]);
    // It worked before, so somebody changed the secret.
    client_with_secret(bridge.ingress, "another", &loan(8));
    let said = attention(&bridge);
    assert!(said[0].contains("1 request was refused") && said[0].contains("the last valid event came at"), "{said:?}");
}

#[test]
fn requests_without_a_signature_need_a_person_only_before_the_first_valid_event() {
    let setup = Setup::new("");
    let bridge = setup.start();
    post_without_signature(&bridge);
    let said = attention(&bridge);
    assert!(said.len() == 1 && said[0].contains("Alma did not send this"), "{said:?}");
    assert_eq!(bridge.post(&loan(1)).status, 204);
    post_without_signature(&bridge);
    assert_eq!((attention(&bridge), bridge.metric(REFUSED)), (Vec::new(), Some(1.0)));
    let event_was_at = bridge.status()["sources"][0]["last_event"].clone();
    bridge.signal(Signal::TERM);
    drop(bridge);

    // A new process finds in the journal that the source had valid events.
    let bridge = setup.start();
    wait_for("the last event to be known", || bridge.status()["sources"][0]["last_event"].is_string().then_some(()));
    post_without_signature(&bridge);
    assert_eq!(attention(&bridge), [""; 0]);
    let known = bridge.metric("alma_bridge_source_last_event_timestamp_seconds{source=\"alma\"}");
    assert!(known > Some(1.7e9), "{known:?} for {event_was_at}");
}

#[test]
fn silence_is_reported_everywhere_and_ends_with_an_event() {
    let setup = Setup::new(
        "[sources.alma]\npath = \"/webhooks\"\nsecret_file = \"DIR/secret\"\nsilence = \"1s\"\n\
         [sources.other]\npath = \"/other\"\nsecret_file = \"DIR/secret\"\n",
    );
    let bridge = setup.start();
    wait_for("the silence to pass", || (bridge.metric(SILENT) == Some(1.0)).then_some(()));
    let said = attention(&bridge);
    assert!(said.len() == 1 && said[0].starts_with("source alma: ") && said[0].contains(SILENCE), "{said:?}");
    assert!(page(&bridge).contains("needs a person") && page(&bridge).contains(SILENCE));
    assert!(setup.fails(1, &["status"]).contains(SILENCE));
    assert_eq!(bridge.metric("alma_bridge_source_silent{source=\"other\"}"), Some(0.0));
    bridge.wait_for_log(&[SILENCE]);
    bridge.post(&loan(1));
    wait_for("the end of the silence", || (bridge.metric(SILENT) == Some(0.0)).then_some(()));
}

/// A port on which nobody listens.
fn dead_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn sink_of(status: &Value) -> &Value {
    &status["sinks"][0]
}

#[test]
fn a_broker_that_is_down_is_retried_and_needs_no_person_yet() {
    let port = dead_port();
    let setup = Setup::new(&format!("[sinks.main]\ntype = \"nats\"\nservers = [\"nats://127.0.0.1:{port}\"]\n"));
    let bridge = setup.start();
    assert_eq!(bridge.post(&loan(1)).status, 204);
    let status = wait_for("the sink to retry", || {
        let status = bridge.status();
        (sink_of(&status)["state"] == "retrying").then_some(status)
    });
    let why = sink_of(&status)["why"].as_str().expect("a reason");
    assert!(why.starts_with("unreachable: "), "{why}");
    assert_eq!((&status["attention"], &sink_of(&status)["needs_person"]), (&json!([]), &json!(false)));
    let page = page(&bridge);
    assert!(page.contains("all is well") && page.contains("retrying") && page.contains("unreachable: "), "{page}");
    let said = setup.done(&["status"]);
    assert!(said.contains("retrying") && said.contains("unreachable: "), "{said}");
}

/// A NATS server that refuses every login.
fn refusing_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { break };
            let info = format!(
                r#"INFO {{"server_id":"X","server_name":"x","version":"2.11.0","proto":1,"host":"127.0.0.1","port":{port},"headers":true,"max_payload":1048576,"auth_required":true}}"#
            );
            let _ = stream.write_all(format!("{info}\r\n").as_bytes());
            // The answer to CONNECT.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"-ERR 'Authorization Violation'\r\n");
        }
    });
    port
}

#[test]
fn a_refused_login_needs_a_person_at_once() {
    let port = refusing_server();
    let setup = Setup::new(&format!("[sinks.main]\ntype = \"nats\"\nservers = [\"nats://127.0.0.1:{port}\"]\n"));
    let bridge = setup.start();
    let said = wait_for("word of the sink", || {
        let said = attention(&bridge);
        (!said.is_empty()).then_some(said)
    });
    assert!(said.len() == 1 && said[0].contains("sink main has been retrying since"), "{said:?}");
    assert!(said[0].contains("login: "), "{said:?}");
    assert_eq!(sink_of(&bridge.status())["needs_person"], true);
    let page = page(&bridge);
    assert_eq!((page.contains("needs a person"), page.matches("login: ").count()), (true, 1), "{page}");
}

#[test]
fn a_nearly_full_disk_is_reported_with_sizes() {
    let setup = Setup::new("[journal]\nmin_free = \"1000000GiB\"\n");
    let bridge = setup.start_unready(&[]);
    wait_for("the journal to be open", || bridge.log().contains("\"not ready\"").then_some(()));
    let answer = bridge.post(&loan(1));
    let said = answer.text();
    assert_eq!(answer.status, 503);
    assert!(said.contains("disk nearly full: ") && said.contains("iB free, min_free is 976.6 TiB; free some space"));
    assert!(attention(&bridge).iter().any(|line| line.contains("free some space")));
    assert_eq!(page(&bridge).matches("free some space").count(), 1);
    assert!(!bridge.log().contains("\"ready\""), "the log agrees with /readyz");
    assert_eq!(bridge.metric("alma_bridge_journal_min_free_bytes"), Some(1_000_000.0 * f64::from(1 << 30)));
}

#[test]
fn a_wrong_path_is_logged_without_its_query() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let long = "x".repeat(2_000);
    for path in ["/webhook?token=abc123", &format!("/{long}"), "/a%1b%5bb"] {
        let request = format!("POST {path} HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(bridge.client().send(request.as_bytes()).status, 404, "{path}");
    }
    bridge.wait_for_log(&["\"path\":\"/webhook\"", "\"path\":\"/a%1b%5bb\"", "x…\""]);
    assert!(!bridge.log().contains("abc123") && !bridge.log().contains(&long));
}

#[test]
fn signed_events_that_get_503_for_a_wrong_path_or_their_size_need_a_person() {
    let setup = Setup::new("[ingress]\nmax_body = \"64KiB\"\nbody_memory = \"1MiB\"\n");
    let bridge = setup.start();
    // Requests without a signature need nobody.
    let unsigned = b"POST /nowhere HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(bridge.client().send(unsigned).status, 404);
    assert_eq!(attention(&bridge), [""; 0]);

    for path in ["/webhook", "/webhook?token=abc123"] {
        assert_eq!(bridge.client().post(path, &loan(1)).status, 503);
    }
    let said = attention(&bridge);
    for words in
        ["2 signed requests came to paths that no source has", "to \"/webhook\".", "after four tries", ": /webhooks)"]
    {
        assert!(said.len() == 1 && said[0].contains(words), "{words}: {said:?}");
    }
    assert!(setup.fails(1, &["status"]).contains("  ! 2 signed requests came to paths"));
    assert_eq!(bridge.status()["problems"], json!([{ "about": "paths", "text": said[0] }]));
    assert!(page(&bridge).contains("needs a person") && page(&bridge).contains("2 signed requests came to paths"));
    assert_eq!(bridge.status()["wrong_paths"]["requests"], 2);

    assert_eq!(bridge.post(&vec![b' '; 70_000]).status, 503);
    let said = attention(&bridge);
    for words in ["source alma: 1 signed request was larger than ingress.max_body", "(64 KiB)", "restart"] {
        assert!(said.len() == 2 && said[1].contains(words), "{words}: {said:?}");
    }
    assert_eq!(bridge.status()["problems"][1], json!({ "about": "source", "name": "alma", "text": said[1] }));
    let source = &bridge.status()["sources"][0];
    assert_eq!((&source["too_large"]["requests"], &source["needs_person"]), (&json!(1), &json!(true)));
    assert_eq!(bridge.post(&loan(2)).status, 204);
    assert_eq!(attention(&bridge).len(), 2, "other events do not bring back those that are lost");
}

#[test]
fn a_reload_that_adds_the_wrong_path_ends_its_alarm() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let post = |path: &str| bridge.client().post(path, &loan(1)).status;
    assert_eq!(post("/webhook"), 503);
    assert!(setup.fails(1, &["status"]).contains("1 signed request came to paths that no source has"));
    // A source with another path does not explain the requests.
    let source = |path: &str| format!("[sources.second]\npath = \"{path}\"\nsecret_file = \"DIR/secret\"\n");
    setup.configure(&source("/elsewhere"));
    assert_eq!(bridge.post_reload(&setup).status, 200);
    assert_eq!(attention(&bridge).len(), 1);
    setup.configure(&source("/webhook"));
    assert_eq!(bridge.post_reload(&setup).status, 200);
    assert_eq!((attention(&bridge), bridge.status().get("wrong_paths")), (Vec::new(), None));
    assert_eq!(post("/webhook"), 204);
}
