//! Commands find the running bridge, even with a second bridge or a broken file, and say where they looked if none
//! runs.

use std::fs;
use std::net::TcpListener;

use serde_json::Value;

use crate::harness::{Bridge, Setup, loan, text, wait_for};

const HELD: &str = "waiting: another alma-bridge uses this journal; is a second one running?";

/// The operators' address of the bridge that `status` finds.
fn found(setup: &Setup) -> Option<String> {
    let output = setup.command(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).ok()?;
    Some(status["listeners"]["admin"].as_str()?.to_owned())
}

fn is_found(setup: &Setup, bridge: &Bridge) -> bool {
    found(setup) == Some(bridge.admin.to_string())
}

#[test]
fn a_second_bridge_waits_and_does_not_hide_the_first() {
    let setup = Setup::new("");
    let first = setup.start();
    let second = setup.start_beside();
    wait_for("the second to say why it waits", || (second.status()["unready_reason"] == HELD).then_some(()));
    let readyz = second.admin_get("/readyz");
    assert_eq!((readyz.status, readyz.text().trim()), (503, HELD));
    second.wait_for_log(&[HELD]);
    assert_eq!(second.post(&loan(1)).status, 503);
    assert!(is_found(&setup, &first));
    assert!(second.stop().success());
    assert!(is_found(&setup, &first), "what ends is not the bridge that is found");
    setup.done(&["sinks", "list"]);
    // After the handover, the file belongs to the other bridge.
    let third = setup.start_beside();
    third.wait_for_log(&[HELD]);
    assert!(first.stop().success());
    wait_for("the third to take over", || (third.admin_get("/readyz").status == 200).then_some(()));
    assert!(is_found(&setup, &third));
    assert!(third.stop().success());
    assert!(!setup.data().join("listeners.json").exists());
}

#[test]
fn without_a_journal_the_first_bridge_is_found() {
    let setup = Setup::new("[journal]\nstorage = \"none\"\n[sinks.main]\ntype = \"file\"\n");
    let first = setup.start();
    let second = setup.start_beside();
    second.wait_for_log(&["another bridge has written listeners.json"]);
    assert!(is_found(&setup, &first));
    assert!(second.stop().success());
    assert!(is_found(&setup, &first));
    assert!(first.stop().success());
    assert!(!setup.data().join("listeners.json").exists());
}

/// Broken files, and what the error says about each.
fn broken_files(setup: &Setup) -> [(String, &'static str); 3] {
    let whole = fs::read_to_string(setup.path("config.toml")).expect("a file");
    [
        (format!("{whole}[sinks.main\n"), "not valid TOML"),
        (format!("what is this\n{whole}"), "not valid TOML"),
        (format!("{whole}[sinks.main]\ntype = \"kafak\"\n"), "kafak"),
    ]
}

#[test]
fn a_bridge_is_found_while_its_file_is_broken() {
    let setup = Setup::new("");
    let bridge = setup.start();
    assert_eq!(bridge.post(&loan(1)).status, 204);
    wait_for("it to land", || (!setup.landed("alma.loan").is_empty()).then_some(()));
    let elsewhere = tempfile::tempdir().expect("a folder");
    for (broken, what) in broken_files(&setup) {
        fs::write(setup.path("config.new"), &broken).expect("written");
        fs::rename(setup.path("config.new"), setup.path("config.toml")).expect("renamed");
        // The bridge reports the error by itself after it has read the file. It is still shown only once.
        for refused in [false, true] {
            if refused {
                wait_for("the bridge to refuse the file", || {
                    bridge.status()["config"]["refused"].to_string().contains(what).then_some(())
                });
            }
            let said = setup.fails(1, &["status"]);
            assert!(said.contains(": ready, since") && said.contains("main"), "{said}");
            assert!(said.contains("! the configuration on disk is broken: ") && said.contains(what), "{said}");
            assert!(said.contains("stays in effect"), "{said}");
            assert!(!refused || said.matches(what).count() == 1, "{said}");
        }
        let output = setup.prepared(&["status"]).current_dir(elsewhere.path()).output().expect("runs");
        assert_eq!(output.status.code(), Some(1), "by the data_dir of the broken file: {output:?}");
        let status: Value = serde_json::from_str(&setup.fails(1, &["status", "--json"])).expect("JSON");
        assert!(status["attention"][0].as_str().is_some_and(|line| line.contains(what)), "{status}");
        assert_eq!(setup.command(&["status", "--ready"]).status.code(), Some(0), "it can take events");
        for works in [
            &["sinks", "list"][..],
            &["dead-letters", "list"],
            &["replay", "--sink", "main", "--from", "1h", "--dry-run"],
        ] {
            let output = setup.command(works);
            assert!(output.status.success(), "{works:?}: {output:?}");
            assert!(text(&output.stderr).contains(what), "{works:?}: {output:?}");
        }
        assert!(setup.fails(78, &["sinks", "forget", "old", "--yes"]).contains(what), "its heir is in the file");
    }
    // data_dir is set only in the environment.
    fs::write(setup.path("config.toml"), "[sinks.main\n").expect("written");
    let mut command = setup.prepared(&["status"]);
    command.current_dir(elsewhere.path());
    assert_eq!(command.output().expect("runs").status.code(), Some(78), "not found");
    for (variable, value) in [("ALMA_BRIDGE__DATA_DIR", setup.data()), ("STATE_DIRECTORY", setup.data())] {
        let output = setup.prepared(&["status"]).current_dir(elsewhere.path()).env(variable, value).output();
        let output = output.expect("runs");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stdout).contains("not valid TOML"), "{output:?}");
    }
    assert!(bridge.stop().success());
    for command in [&["status"][..], &["sinks", "list"], &["dead-letters", "list"]] {
        assert!(setup.fails(78, command).contains("not valid TOML"), "{command:?}");
    }
}

#[test]
fn if_no_bridge_runs_commands_say_where_they_looked() {
    let setup = Setup::new("");
    let (data, file) = (setup.data(), setup.data().join("listeners.json"));
    let expected = format!("no bridge runs with data_dir = {} (no {})", data.display(), file.display());
    for command in ["status", "send"] {
        let why = setup.fails(1, &[command]);
        assert!(why.contains(&expected), "{command}: {why}");
    }
    // Ports on which nothing listens any more.
    let free = || TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let (ingress, admin) = (free(), free());
    setup.configure(&format!("[ingress]\nlisten = \"{ingress}\"\n[admin]\nlisten = \"{admin}\"\n"));
    for (command, address, key) in [("status", admin, "admin.listen"), ("send", ingress, "ingress.listen")] {
        let why = setup.fails(1, &[command]);
        let expected =
            format!("no bridge answers on {address} ({key}): is it running? start it with \"alma-bridge run\"");
        assert!(why.contains(&expected), "{command}: {why}");
    }
}

#[test]
fn the_log_names_the_url_of_each_source() {
    let setup = Setup::new("[sources.law]\npath = \"/law\"\nsecret_file = \"DIR/secret\"\n");
    let bridge = setup.start();
    let urls: Vec<String> = ["webhooks", "law"].map(|path| format!("\"http://{}/{path}\"", bridge.ingress)).into();
    bridge.wait_for_log(&urls.iter().map(String::as_str).collect::<Vec<_>>());
    let setup = Setup::unwritten();
    super::tls::write_certificate(&setup);
    setup.configure(super::tls::TLS);
    let bridge = setup.start();
    bridge.wait_for_log(&[&format!("\"https://{}/webhooks\"", bridge.ingress)]);
}
