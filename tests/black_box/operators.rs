//! The admin listener, metrics, logs, stop.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Client, Setup, loan, wait_for};

#[test]
fn all_metrics_exist_from_the_start_with_the_value_0() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let mut expected = Vec::new();
    for outcome in [
        "stored",
        "repeat",
        "challenge",
        "bad_signature",
        "bad_request",
        "too_large",
        "timeout",
        "unavailable",
        "not_found",
    ] {
        expected.push(format!("requests_total{{source=\"alma\",outcome=\"{outcome}\"}}"));
        expected.push(format!("requests_total{{source=\"none\",outcome=\"{outcome}\"}}"));
    }
    for reason in ["missing", "repeated", "not_base64", "wrong_length", "mismatch"] {
        expected.push(format!("signature_failures_total{{source=\"alma\",reason=\"{reason}\"}}"));
    }
    for reason in ["unreachable", "login", "timeout", "too_large", "malformed", "rights", "missing", "unroutable"] {
        expected.push(format!("publish_errors_total{{sink=\"main\",reason=\"{reason}\"}}"));
        expected.push(format!("dead_letters{{sink=\"main\",reason=\"{reason}\"}}"));
    }
    for name in [
        "request_duration_seconds_count",
        "source_last_event_timestamp_seconds{source=\"alma\"}",
        "source_refused_events{source=\"alma\"}",
        "source_silent{source=\"alma\"}",
        "secret_last_used_timestamp_seconds{source=\"alma\",secret=\"default\"}",
        "journal_sync_duration_seconds_count",
        "journal_damaged_records_total",
        "sink_waiting_events{sink=\"main\"}",
        "sink_oldest_waiting_age_seconds{sink=\"main\"}",
        "sink_parked_topics{sink=\"main\"}",
        "unwanted_events_total",
        "given_up_events_total{sink=\"main\"}",
        "delivery_delay_seconds_count{sink=\"main\"}",
        "log_lines_dropped_total",
        "connections{listener=\"ingress\"}",
        "connections_evicted_total",
    ] {
        expected.push(name.to_owned());
    }
    for action in ["job_end", "loan", "request", "bib", "item", "user", "notification", "unparsed"] {
        expected.push(format!("published_events_total{{sink=\"main\",topic=\"alma.{action}\"}}"));
    }
    for name in expected {
        assert_eq!(bridge.metric(&format!("alma_bridge_{name}")), Some(0.0), "{name}");
    }
    for name in [
        "journal_bytes{state=\"waiting\"}",
        "journal_bytes{state=\"delivered\"}",
        "journal_max_bytes",
        "journal_free_bytes",
        "journal_min_free_bytes",
        "config_last_reload_successful",
        "config_last_reload_success_timestamp_seconds",
        "connections{listener=\"admin\"}",
    ] {
        assert!(bridge.metric(&format!("alma_bridge_{name}")).is_some(), "{name}");
    }
    wait_for("the sink to be up", || {
        (bridge.metric("alma_bridge_sink_up{sink=\"main\",type=\"file\"}") == Some(1.0)).then_some(())
    });
    let plain = bridge.admin_get("/metrics");
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(plain.text().contains("# TYPE alma_bridge_build_info gauge\nalma_bridge_build_info{"), "{}", plain.text());
    assert!(!plain.text().contains("# EOF"), "{}", plain.text());
    let asked = "GET /metrics HTTP/1.1\r\nhost: x\r\naccept: application/openmetrics-text;q=0.5,*/*;q=0.2\r\n\r\n";
    let open_metrics = Client::connect(bridge.admin).send(asked.as_bytes());
    let expected = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(open_metrics.header("content-type"), Some(expected));
    let text = open_metrics.text();
    assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1, "{text}");
}

/// The page is where operators look up what to alert on.
#[test]
fn every_metric_is_in_docs_metrics_md() {
    let page = include_str!("../../docs/metrics.md");
    let setup = Setup::new("");
    let metrics = setup.start().admin_get("/metrics");
    let described: Vec<_> = metrics.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(described.len() > 30, "{described:?}");
    for line in described {
        let (metric, kind) = line.split_once(' ').expect("a name and a type");
        let name = format!("`{}", metric.trim_start_matches("alma_bridge_"));
        let is_named = page.split(&name).skip(1).any(|after| after.starts_with(['`', '{']));
        assert!(is_named, "{metric} ({kind}) is not in docs/metrics.md");
    }
}

#[test]
fn the_process_has_metrics_with_the_usual_names() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let metric = |name: &str| bridge.metric(name).unwrap_or_else(|| panic!("{name}"));
    // The scrape is slightly later than the values that it is compared with.
    let resident = f64::from(u32::try_from(bridge.memory_kib("VmRSS")).expect("less than 4 TiB")) * 1024.0;
    assert!((0.5..2.0).contains(&(metric("process_resident_memory_bytes") / resident)));
    assert!(metric("process_virtual_memory_bytes") >= resident);
    let files = std::fs::read_dir(format!("/proc/{}/fd", bridge.id())).expect("it runs").count();
    let files = f64::from(u32::try_from(files).expect("some files"));
    assert!((metric("process_open_fds") - files).abs() < 10.0);
    assert!(metric("process_max_fds") >= files);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs_f64();
    assert!((0.0..600.0).contains(&(now - metric("process_start_time_seconds"))));
    let before = metric("process_cpu_seconds_total");
    wait_for("some CPU time to be used", || (metric("process_cpu_seconds_total") > before).then_some(()));
}

#[test]
fn metrics_count_what_happened() {
    let setup = Setup::new("");
    let bridge = setup.start();
    for number in 0..5 {
        bridge.post(&loan(number));
    }
    bridge.post(&loan(0));
    wait_for("five to be published", || {
        (bridge.metric("alma_bridge_published_events_total{sink=\"main\",topic=\"alma.loan\"}") == Some(5.0))
            .then_some(())
    });
    assert_eq!(bridge.metric("alma_bridge_requests_total{source=\"alma\",outcome=\"stored\"}"), Some(5.0));
    assert_eq!(bridge.metric("alma_bridge_requests_total{source=\"alma\",outcome=\"repeat\"}"), Some(1.0));
    assert_eq!(bridge.metric("alma_bridge_delivery_delay_seconds_count{sink=\"main\"}"), Some(5.0));
    assert!(bridge.metric("alma_bridge_journal_sync_duration_seconds_count") >= Some(1.0));
    assert!(bridge.metric("alma_bridge_source_last_event_timestamp_seconds{source=\"alma\"}") > Some(1.7e9));
}

#[test]
fn requests_that_change_something_need_the_token() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let post = |authorization: &str| {
        Client::connect(bridge.admin)
            .send(format!("POST /reload HTTP/1.1\r\nHost: x\r\n{authorization}Content-Length: 0\r\n\r\n").as_bytes())
            .status
    };
    assert_eq!(post(""), 401);
    assert_eq!(post("Authorization: Bearer wrong\r\n"), 401);
    let token = std::fs::read_to_string(setup.data().join("admin.token")).expect("a token");
    assert!(token.trim().len() >= 32);
    assert_eq!(post(&format!("Authorization: Bearer {}\r\n", token.trim())), 200);
}

#[test]
fn livez_is_answered_even_if_all_connections_are_used() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let connect = |sent: &str| {
        let mut client = Client::connect(bridge.admin);
        client.write(sent.as_bytes());
        client
    };
    let half_sent: Vec<Client> = (0..64).map(|_| connect("GET /livez HTTP/1.1\r\nHost: x\r\n")).collect();
    let begun = Instant::now();
    assert_eq!(bridge.admin_get("/livez").status, 200);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?} after half-sent requests", begun.elapsed());
    // Some clients never read their answers. Each requests more than the sockets' buffers hold.
    let pages = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(500);
    let unread: Vec<Client> = (0..64).map(|_| connect(&pages)).collect();
    let begun = Instant::now();
    assert_eq!(bridge.admin_get("/livez").status, 200);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?} after answers that nobody reads", begun.elapsed());
    assert!(bridge.metric("alma_bridge_connections_evicted_total") >= Some(64.0));
    drop((half_sent, unread));
}

#[test]
fn each_use_of_the_tools_is_logged_with_what_was_asked() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let token = std::fs::read_to_string(setup.data().join("admin.token")).expect("a token");
    let post = |token: &str, body: &str| {
        let length = body.len();
        let head = format!("POST /tools HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n");
        Client::connect(bridge.admin).send(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes()).status
    };
    let drop = r#"{"do":"drop","sink":"main","ids":[41,42]}"#;
    assert_eq!(post(token.trim(), drop), 200);
    assert_eq!(post("wrong", drop), 401);
    let lines = wait_for("the lines", || {
        let log = bridge.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let lines: Vec<_> = lines.filter(|line| line["target"] == "alma_bridge::admin").collect();
        (lines.len() >= 2).then_some(lines)
    });
    assert_eq!(lines[0]["message"], "tools used");
    assert_eq!((&lines[0]["operation"], &lines[0]["sink"]), (&"drop".into(), &"main".into()));
    assert_eq!(lines[0]["parameters"], r#"{"ids":[41,42]}"#);
    assert_eq!(lines[1]["status"], 401, "who has no token is told of too");
}

#[test]
fn each_request_is_logged_without_personal_data() {
    let setup = Setup::new("[log]\nlevel = \"trace\"\nformat = \"json\"\n");
    let bridge = setup.start();
    bridge.post(&loan(7));
    bridge.client().exchange(b"POST /webhooks HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n");
    wait_for("the event to land", || (!setup.landed("alma.loan").is_empty()).then_some(()));
    let digits =
        setup.landed("alma.loan")[0]["id"].as_str().expect("an id").rsplit('.').next().expect("digits").to_owned();
    let admin =
        [bridge.admin_get("/status").body, bridge.admin_get("/").body, bridge.admin_get("/metrics").body].concat();
    assert!(bridge.admin_get("/status").text().contains("\"alma\""));
    let log = wait_for("the line of the event", || Some(bridge.log()).filter(|log| log.contains(&digits)));
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("one JSON object a line");
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
    assert!(log.contains("missing"), "the reason of the 401");
    let shown = log + &String::from_utf8(admin).expect("UTF-8");
    for personal in ["patron-0001", "xample title", "Loan created", crate::harness::SECRET] {
        assert!(!shown.contains(personal), "{personal}");
    }
}

#[test]
fn a_stop_is_graceful_and_a_second_signal_ends_the_bridge_at_once() {
    let setup = Setup::new("");
    let bridge = setup.start();
    bridge.post(&loan(1));
    assert_eq!(bridge.stop().code(), Some(0));
    let log = std::fs::read_to_string(setup.path("log")).expect("a log");
    assert!(log.lines().last().is_some_and(|line| line.contains("stopped")), "the last line is written: {log}");
    let mut bridge = setup.start_unready(&["--stop-delay", "1h"]);
    bridge.signal(Signal::TERM);
    wait_for("the stop to begin", || (bridge.admin_get("/readyz").status == 503).then_some(()));
    assert!(bridge.runs());
    assert_eq!(bridge.admin_get("/livez").status, 200);
    bridge.signal(Signal::INT);
    bridge.ended();
}

#[test]
fn topics_beyond_64_count_as_other() {
    let setup = Setup::new("");
    let bridge = setup.start();
    for number in 0..70 {
        let body = format!(r#"{{"id":"{number}","action":"ACTION_{number}"}}"#);
        assert_eq!(bridge.post(body.as_bytes()).status, 204);
    }
    let published = "alma_bridge_published_events_total{sink=\"main\"";
    wait_for("all to be published", || (bridge.metric_sum(published) == 70).then_some(()));
    let metrics = bridge.admin_get("/metrics");
    let named = metrics.text().lines().filter(|line| line.starts_with(published) && !line.contains("topic=\"other\""));
    assert_eq!(named.count(), 64);
    // Eight of the 64 exist from the start: the topics of Alma's seven known actions, and alma.unparsed.
    assert_eq!(bridge.metric(&format!("{published},topic=\"other\"}}")), Some(14.0));
}
