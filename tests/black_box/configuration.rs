//! Errors of the configuration: all at once, with key, file, what was found and what was expected; exit 78.

use crate::harness::{Setup, binary, text};

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let setup = Setup::new(
        "[ingress]\nlisten = \"nowhere\"\nmax_boddy = \"8MiB\"\nbody_timeout = \"soon\"\n\
         [sources.alma]\npath = \"webhooks\"\nsecret_file = \"DIR/missing\"\n\
         [sources.Other]\npath = \"/other\"\n\
         [sinks.main]\ntype = \"kafkaa\"\n",
    );
    for command in ["run", "check"] {
        let output = setup.command(&[command]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert!(output.stdout.is_empty());
        let said = text(&output.stderr);
        for part in [
            "ingress.listen",
            "nowhere",
            "max_boddy",
            "did you mean `max_body`",
            "body_timeout",
            "soon",
            "sources.alma.path",
            "missing",
            "Other",
            "kafkaa",
            "config.toml",
        ] {
            assert!(said.contains(part), "{part:?} is not in\n{said}");
        }
    }
    assert!(!setup.data().exists(), "a refused configuration makes nothing");
}

#[test]
fn a_file_that_is_named_and_missing_is_an_error() {
    let output = binary().args(["check", "--config", "/no/such/file.toml"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("/no/such/file.toml"));
    let output = binary().arg("check").env("ALMA_BRIDGE_CONFIG", "/no/such/other.toml").output().expect("runs");
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn the_environment_overrides_the_file_and_kubernetes_variables_are_none_of_ours() {
    let setup = Setup::new("");
    let output = binary()
        .args(["check", "--show", "--config"])
        .arg(setup.path("config.toml"))
        .env("ALMA_BRIDGE__JOURNAL__MAX_SIZE", "4GiB")
        .env("ALMA_BRIDGE__SINKS__MAIN__TYPE", "file")
        .env("ALMA_BRIDGE_PORT", "tcp://10.0.0.1:2562")
        .env("ALMA_BRIDGE_SERVICE_HOST", "10.0.0.1")
        .output()
        .expect("runs");
    assert!(output.status.success(), "{output:?}");
    let shown = text(&output.stdout);
    let line = |key: &str| {
        shown.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key} is not in\n{shown}"))
    };
    assert!(
        line("journal.max_size").contains('4') && line("journal.max_size").contains("ALMA_BRIDGE__JOURNAL__MAX_SIZE")
    );
    assert!(line("ingress.listen").contains("config.toml"));
    assert!(line("journal.retain").contains("default"));
    assert!(!shown.contains(crate::harness::SECRET));
}

#[test]
fn a_named_source_without_a_secret_is_never_accept_all() {
    let setup = Setup::new("[sources.alma]\npath = \"/webhooks\"\n");
    let output = setup.command(&["run"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("sources.alma"), "{}", text(&output.stderr));
    std::fs::write(setup.path("secret"), "\n").expect("written");
    setup.configure("");
    let output = setup.command(&["run"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("empty"), "{}", text(&output.stderr));
}
