//! The configuration changes while events arrive.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::process::Signal;

use crate::harness::{Bridge, Load, Setup, client_with_secret, loan, number_of, text, wait_for};

const SUCCESS: &str = "alma_bridge_config_last_reload_successful";

fn reloads(bridge: &Bridge) -> usize {
    bridge.log().matches("configuration reloaded").count()
}

fn reload(bridge: &Bridge) {
    let before = reloads(bridge);
    bridge.signal(Signal::HUP);
    wait_for("the reload", || (reloads(bridge) > before).then_some(()));
}

#[test]
fn a_second_secret_is_accepted_after_sighup_and_replaces_the_first_without_a_gap() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let post = |secret: &str, number| client_with_secret(bridge.ingress, secret, &loan(number)).status;
    assert_eq!((post("made-up-secret", 1), post("next", 2)), (204, 401));
    setup.write_secret("secret2", "next\n");
    let both = "[sources.alma]\npath = \"/webhooks\"\nsecrets = [{ name = \"current\", file = \"DIR/secret\" }, { name = \"next\", file = \"DIR/secret2\" }]\n";
    setup.configure(both);
    reload(&bridge);
    assert_eq!((post("made-up-secret", 3), post("next", 4)), (204, 204));
    setup.configure("[sources.alma]\npath = \"/webhooks\"\nsecret_file = \"DIR/secret2\"\n");
    reload(&bridge);
    assert_eq!((post("made-up-secret", 5), post("next", 6)), (401, 204));
}

#[test]
fn a_changed_file_is_picked_up_automatically() {
    let setup = Setup::new("");
    let bridge = setup.start();
    setup.write_secret("secret", "rotated\n");
    wait_for("the new secret to be in effect", || {
        (client_with_secret(bridge.ingress, "rotated", &loan(1)).status == 204).then_some(())
    });
    // An empty file is not a secret, so the old one stays.
    setup.write_secret("secret", "");
    wait_for("the refusal", || (bridge.metric(SUCCESS) == Some(0.0)).then_some(()));
    assert_eq!(client_with_secret(bridge.ingress, "rotated", &loan(2)).status, 204);
    assert!(bridge.status()["config"]["refused"][0].as_str().is_some_and(|why| why.contains("empty")));
    setup.write_secret("secret", "again\n");
    wait_for("the next secret", || (bridge.metric(SUCCESS) == Some(1.0)).then_some(()));
    assert_eq!(client_with_secret(bridge.ingress, "again", &loan(3)).status, 204);
}

#[test]
fn an_invalid_file_changes_nothing_and_all_errors_are_reported() {
    let setup = Setup::new("");
    let bridge = setup.start();
    setup.configure("[log]\nlevel = \"loud\"\n[journal]\nretain = \"soon\"\n");
    bridge.signal(Signal::HUP);
    wait_for("the refusal", || (bridge.metric(SUCCESS) == Some(0.0)).then_some(()));
    bridge.wait_for_log(&["log.level", "journal.retain"]);
    assert_eq!(bridge.post(&loan(1)).status, 204);
    setup.configure("");
    reload(&bridge);
    assert_eq!(bridge.metric(SUCCESS), Some(1.0));
}

#[test]
fn an_automatic_reload_may_not_remove_a_sink_but_sighup_may() {
    let two = "[sinks.main]\ntype = \"file\"\n[sinks.other]\ntype = \"file\"\ndir = \"DIR/blocked/other\"\n";
    let one = "[sinks.main]\ntype = \"file\"\n";
    let setup = Setup::new(two);
    fs::write(setup.path("blocked"), "").expect("written");
    let bridge = setup.start();
    assert_eq!(bridge.post(&loan(1)).status, 204);
    setup.configure(one);
    wait_for("the refusal", || bridge.log().contains("sink other would be removed").then_some(()));
    assert_eq!(bridge.status()["sinks"].as_array().map(Vec::len), Some(2));
    reload(&bridge);
    assert_eq!(bridge.post(&loan(2)).status, 204);
    let other = || {
        let status = bridge.status();
        status["sinks"].as_array().expect("sinks").iter().find(|sink| sink["name"] == "other").cloned()
    };
    let removed = other().expect("it keeps its place");
    assert_eq!((&removed["state"], &removed["waiting_events"]), (&"removed".into(), &2.into()));
    assert!(!bridge.status()["attention"].as_array().expect("a list").is_empty());
    fs::remove_file(setup.path("blocked")).expect("removed");
    setup.configure(two);
    reload(&bridge);
    wait_for("what waited to land", || {
        (crate::harness::landed(&setup.path("blocked/other"), "alma.loan").len() == 2).then_some(())
    });
}

#[test]
fn a_sink_moves_under_load_without_a_lost_or_refused_event() {
    let setup = Setup::new("[sinks.main]\ntype = \"file\"\ndir = \"DIR/one\"\n");
    let bridge = setup.start();
    let next = Arc::new(AtomicU64::new(1));
    let load = Load::start(bridge.ingress, &next, 8);
    for dir in ["two", "three"] {
        let before = load.count();
        wait_for("more events", || (load.count() >= before + 200).then_some(()));
        setup.configure(&format!("[sinks.main]\ntype = \"file\"\ndir = \"DIR/{dir}\"\n"));
        reload(&bridge);
    }
    let before = load.count();
    wait_for("more events", || (load.count() >= before + 200).then_some(()));
    let taken = load.end();
    wait_for("all to land somewhere", || {
        let dirs = ["one", "two", "three"].map(|dir| crate::harness::landed(&setup.path(dir), "alma.loan"));
        let landed: std::collections::BTreeSet<u64> = dirs.iter().flatten().map(number_of).collect();
        taken.iter().all(|number| landed.contains(number)).then_some(())
    });
}

#[test]
fn the_log_level_changes_and_what_needs_a_restart_is_named() {
    let setup = Setup::new("");
    let bridge = setup.start();
    setup.configure("[log]\nlevel = \"error\"\n[journal]\nretain = \"1h\"\n");
    bridge.signal(Signal::HUP);
    wait_for("the level to be in effect", || {
        let before = bridge.log().len();
        bridge.post(&loan(1));
        (bridge.log().len() == before).then_some(())
    });
    setup.configure("[journal]\nretain = \"2h\"\n");
    reload(&bridge);
    bridge.wait_for_log(&["takes a restart", "\"journal\""]);
}

#[cfg(feature = "nats")]
#[test]
fn changed_passwords_credentials_and_pseudonym_keys_are_picked_up_automatically() {
    // Nobody listens there. The test only checks that the sink is started again.
    let setup = Setup::unwritten();
    for name in ["password", "creds", "pseudonyms"] {
        setup.write_secret(name, "first");
    }
    let broker = "type = \"nats\"\nservers = [\"nats://127.0.0.1:9\"]\n";
    setup.configure(&format!(
        "[privacy]\nkey_file = \"DIR/pseudonyms\"\n[sinks.main]\ntype = \"file\"\n\
         [sinks.by-password]\n{broker}username = \"x\"\npassword_file = \"DIR/password\"\n\
         [sinks.by-creds]\n{broker}creds_file = \"DIR/creds\"\n"
    ));
    let bridge = setup.start();
    let started = || {
        let log = bridge.log();
        let of = |sink: &str| {
            log.lines().filter(|line| line.contains("sink in effect") && line.contains(&format!("\"{sink}\""))).count()
        };
        (of("by-password"), of("by-creds"), of("main"))
    };
    assert_eq!(started(), (0, 0, 0));
    setup.write_secret("password", "second");
    wait_for("the new password", || (started() == (1, 0, 0)).then_some(()));
    setup.write_secret("creds", "second");
    wait_for("the new credentials", || (started() == (1, 1, 0)).then_some(()));
    setup.write_secret("pseudonyms", "second");
    wait_for("the new key, with which all messages are made", || (started() == (2, 2, 1)).then_some(()));
    let log = bridge.log();
    assert!(!log.contains("first") && !log.contains("second"), "{log}");
}

#[test]
fn the_command_reloads_and_names_what_needs_a_restart() {
    let setup = Setup::new("");
    let said = setup.fails(1, &["reload"]);
    assert!(said.contains("no bridge runs with data_dir"), "{said}");
    let bridge = setup.start();
    setup.write_secret("secret", "short");
    setup.configure("[journal]\nretain = \"1h\"\n");
    let output = setup.command(&["reload"]);
    assert!(output.status.success(), "{output:?}");
    // At once, not when the bridge next checks its files.
    assert_eq!(client_with_secret(bridge.ingress, "short", &loan(1)).status, 204);
    assert_eq!(text(&output.stdout), "configuration reloaded\n");
    let said = text(&output.stderr);
    assert!(said.contains("warning: journal changed, but takes effect only after a restart"), "{said}");
    assert_eq!(said.matches("shorter than 14 bytes").count(), 1, "{said}");
}

#[test]
fn the_command_finds_the_bridge_even_if_the_file_is_broken_and_reports_all_errors() {
    let setup = Setup::new("");
    let bridge = setup.start();
    for (broken, parts) in [
        ("[log]\nlevel = \"loud\"\n[journal]\nretain = \"soon\"\n", &["log.level", "journal.retain"][..]),
        ("[log\nlevel = \"info\"\n", &["not valid TOML"]),
    ] {
        setup.configure(broken);
        let output = setup.command(&["reload"]);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{said}");
        assert!(said.contains("error: reload refused; the configuration loaded at "), "{said}");
        for part in parts.iter().chain(&["stays in effect", "config.toml"]) {
            assert!(said.contains(part), "{part:?} is not in\n{said}");
        }
        assert_eq!(bridge.post(&loan(1)).status, 204);
    }
    let log = bridge.log();
    let line = log.lines().find(|line| line.contains("reload refused: ")).expect("a line");
    let (_, time) = line.split_once("; the configuration loaded at ").expect("what is in effect");
    let (time, _) = time.split_once(" stays in effect").expect("that it stays");
    assert!(time.split(':').count() == 3 && time.len() >= "18:51:25".len(), "{line}");
    let attention = bridge.status()["attention"].to_string();
    assert!(attention.contains("stays in effect"), "{attention}");
}

#[test]
fn the_command_reports_a_partial_reload() {
    let setup = Setup::new("");
    let bridge = setup.start();
    // The journal can't write the new sink's cursor.
    fs::create_dir_all(setup.data().join("journal/cursors/other/x")).expect("made");
    setup.configure("[sinks.main]\ntype = \"file\"\n[sinks.other]\ntype = \"file\"\ndir = \"DIR/other\"\n");
    let said = setup.fails(1, &["reload"]);
    assert!(
        said.contains("only a part of the configuration is in effect; the bridge keeps trying")
            && said.contains("sink other: "),
        "{said}"
    );
    assert_eq!(bridge.post(&loan(1)).status, 204);
}

#[test]
fn the_previous_generated_secret_is_revoked_at_once() {
    // The built-in source. The harness would configure its own.
    let setup = Setup::new("# instead of [sources.alma]\n");
    let bridge = setup.start();
    let secret = |arguments: &[&str]| setup.done(&[&["secret"][..], arguments].concat()).trim().to_owned();
    let mut number = 0;
    let mut post = |secret: &str| {
        number += 1;
        client_with_secret(bridge.ingress, secret, &loan(number)).status
    };
    let first = secret(&[]);
    assert_eq!(post(&first), 204);
    let second = secret(&["--new"]);
    assert_eq!(post(&first), 204, "still accepted");
    assert_eq!(post(&second), 204);
    let revoked = setup.command(&["secret", "--revoke"]);
    assert!(revoked.status.success() && revoked.stdout.is_empty(), "{revoked:?}");
    assert_eq!(post(&first), 401, "at once");
    assert_eq!(post(&second), 204);
    assert!(!setup.data().join("webhook.secret.previous").exists());
    let again = setup.command(&["secret", "--revoke"]);
    assert!(text(&again.stderr).contains("no previous secret"), "{again:?}");
    setup.configure("");
    assert!(setup.fails(2, &["secret", "--revoke"]).contains("the secrets of source"));
}
