//! The log lines that strangers can cause, and a stderr that nobody reads.

use std::io::{BufRead as _, BufReader};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::harness::{Bridge, Load, Setup, loan, request, signature, text, wait_for};

/// An event that is signed with a wrong secret.
fn wrongly_signed(body: &[u8]) -> Vec<u8> {
    String::from_utf8(request("/webhooks", body))
        .expect("UTF-8")
        .replace(&signature(body), &signature(b"another"))
        .into_bytes()
}

/// The log lines that contain all of these.
fn lines_with(bridge: &Bridge, words: &[&str]) -> Vec<String> {
    let log = bridge.log();
    log.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
}

/// How many lines with these words there are, and how many further lines they sum up.
fn told_and_left_out(bridge: &Bridge, words: &[&str]) -> (u64, u64) {
    let lines = lines_with(bridge, words);
    let documents = lines.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let left_out: Vec<u64> = documents.filter_map(|line| line["left_out"].as_u64()).collect();
    ((lines.len() - left_out.len()) as u64, left_out.iter().sum())
}

#[test]
fn a_flood_of_401s_is_summed_up_in_the_log_and_counted_in_full() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let flood = wrongly_signed(&loan(1));
    for _ in 0..200 {
        assert_eq!(bridge.client().send(&flood).status, 401);
    }
    let counted = bridge.metric("alma_bridge_signature_failures_total{source=\"alma\",reason=\"mismatch\"}");
    assert_eq!(counted, Some(200.0));
    // No further request is needed.
    let told = wait_for("all to be told of", || {
        let (told, left_out) = told_and_left_out(&bridge, &["mismatch"]);
        (told + left_out == 200).then_some(told)
    });
    assert!((10..150).contains(&told), "{told} lines for 200 refusals");
    assert!(!bridge.log().contains("patron-0001"));
}

/// What `run` logs to a terminal before it finds its address taken.
fn logged_to_a_terminal(setup: &Setup, no_color: Option<&str>) -> String {
    // -e returns the command's exit code. `script` gives the command its own terminal, and copies it to stdout.
    let mut script = std::process::Command::new("script");
    let command =
        format!("'{}' run --config '{}'", env!("CARGO_BIN_EXE_alma-bridge"), setup.path("config.toml").display());
    script.args(["-q", "-e", "-c", &command, "/dev/null"]).env_remove("NO_COLOR");
    if let Some(value) = no_color {
        script.env("NO_COLOR", value);
    }
    let output =
        script.stdin(std::process::Stdio::null()).output().expect("no `script`: install util-linux (bsdutils)");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    text(&output.stdout)
}

#[test]
fn a_terminal_gets_colours_unless_no_color_is_set() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    // The secret of the built-in source has a log line at every start.
    let setup = Setup::new(&format!("[ingress]\nlisten = \"{address}\"\n# instead of [sources.alma]\n"));
    for (no_color, colours) in [(None, true), (Some(""), true), (Some("1"), false)] {
        let log = logged_to_a_terminal(&setup, no_color);
        assert!(log.contains("INFO") && log.contains("alma-bridge secret"), "{log}");
        assert_eq!(log.contains('\x1b'), colours, "{no_color:?}: {log:?}");
    }
}

#[test]
fn challenges_and_unknown_paths_are_also_summed_up() {
    let setup = Setup::new("");
    let bridge = setup.start();
    for (path, status, words) in [
        ("/webhooks?challenge=x", 200, ["\"challenge\"", "\"status\":200"]),
        ("/elsewhere", 404, ["no source has this path", "\"status\":404"]),
    ] {
        for _ in 0..200 {
            let get = format!("GET {path} HTTP/1.1\r\nHost: b\r\n\r\n");
            assert_eq!(bridge.client().send(get.as_bytes()).status, status);
        }
        let told = wait_for("all to be told of", || {
            let (told, left_out) = told_and_left_out(&bridge, &words);
            (told + left_out == 200).then_some(told)
        });
        assert!((10..150).contains(&told), "{told} lines for 200 times {path}");
    }
}

#[test]
fn a_flood_of_401s_hides_no_503_of_a_good_event() {
    let setup = Setup::new("[journal]\nmin_free = \"1000000GiB\"\n");
    let bridge = setup.start_unready(&[]);
    wait_for("the journal to be open", || bridge.log().contains("\"not ready\"").then_some(()));
    let flood = wrongly_signed(&loan(1));
    let mut refused = 0;
    for number in 0..5 {
        for _ in 0..20 {
            assert_eq!(bridge.client().send(&flood).status, 401);
        }
        assert_eq!(bridge.post(&loan(number)).status, 503);
        refused += 1;
    }
    wait_for("a line for each good event", || {
        (lines_with(&bridge, &["\"status\":503", "\"sha256\""]).len() == refused).then_some(())
    });
}

#[test]
fn a_refused_head_is_logged_and_counted() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let body = loan(1);
    let many = format!("Host: bridge\r\n{}", "X-Proxy: x\r\n".repeat(2_000));
    let stuffed = String::from_utf8(request("/webhooks", &body)).expect("UTF-8").replacen("Host: bridge\r\n", &many, 1);
    assert_eq!(bridge.client().send(stuffed.as_bytes()).status, 503);
    wait_for("the line", || {
        (lines_with(&bridge, &["request refused", "\"status\":503", "head"]).len() == 1).then_some(())
    });
    assert_eq!(bridge.metric("alma_bridge_requests_total{source=\"none\",outcome=\"bad_request\"}"), Some(1.0));
}

#[test]
fn no_request_waits_for_stderr() {
    let setup = Setup::new("");
    let mut bridge = setup.start_with_piped_stderr();
    wait_for("the bridge to be ready", || (bridge.admin_get("/readyz").status == 200).then_some(()));
    let load = Load::start(bridge.ingress, &Arc::new(AtomicU64::new(0)), 16);
    let dropped = || bridge.metric("alma_bridge_log_lines_dropped_total");
    let first = wait_for("lines to be dropped", || dropped().filter(|dropped| *dropped > 0.0));
    // The pipe and the bridge's buffer are full, so each further event drops one more line.
    let taken = load.count();
    wait_for("more events to be taken", || (load.count() > taken + 100).then_some(()));
    assert!(load.slowest() < Duration::from_secs(5), "{:?}", load.slowest());
    assert!(dropped() > Some(first), "{:?} after {first}", dropped());
    let taken = load.end().len();
    println!("{taken} events taken, {:?} lines dropped", dropped());
    let mut reader = BufReader::new(bridge.stderr().expect("a pipe"));
    let told = std::iter::from_fn(|| {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).ok().filter(|read| *read > 0).map(|_| text(&line))
    });
    assert!(told.into_iter().any(|line| line.contains("log lines were dropped")), "the log says so itself");
    drop(reader);
    assert_eq!(bridge.stop().code(), Some(0), "without a reader it stops as ever");
}

#[test]
fn a_full_stderr_does_not_delay_a_stop() {
    let setup = Setup::new("");
    let bridge = setup.start_with_piped_stderr();
    wait_for("the bridge to be ready", || (bridge.admin_get("/readyz").status == 200).then_some(()));
    let mut client = bridge.client();
    // A line has about 250 bytes, and a pipe holds 64 KiB.
    for number in 0..600 {
        assert_eq!(client.post("/webhooks", &loan(number)).status, 204);
    }
    assert_eq!(bridge.stop().code(), Some(0));
}
