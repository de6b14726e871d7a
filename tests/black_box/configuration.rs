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
            "sources.alma.secret_file",
            "the file that it names can't be read",
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

#[test]
fn a_secret_in_the_wrong_place_is_not_shown() {
    let source = "[sources.alma]\npath = \"/webhooks\"\n";
    for more in [
        format!("{source}secrets = [\"hush\"]\n"),
        format!("{source}secret_file = \"hush\"\n"),
        format!("{source}secret_env = \"hush\"\n"),
        format!("{source}secret_file = hush\n"),
    ] {
        let setup = Setup::new(&more);
        for command in ["run", "check", "status"] {
            let output = setup.command(&[command]);
            assert_eq!(output.status.code(), Some(78), "{output:?}");
            let said = text(&[output.stdout, output.stderr].concat());
            assert!(said.contains("config.toml") && !said.contains("hush"), "{said}");
        }
    }
}

#[cfg(feature = "kafka")]
#[test]
fn properties_that_are_not_allowed_or_refused_end_check_and_run_at_once() {
    for (property, part) in [
        ("\"enable.ssl.certificate.verification\" = false", "always checked"),
        ("\"ssl.engine.location\" = \"/tmp/evil.so\"", "no foreign code"),
        ("\"bootstrap.servers\" = \"a:1\"", "use brokers"),
        ("\"compresion.type\" = \"zstd\"", "did you mean `compression.type`"),
        ("\"compression.type\" = \"zstandard\"", "librdkafka refuses it"),
        ("\"sasl.mechanism\" = \"SCRAM-SHA-256\"", "without a log-in"),
    ] {
        let setup = Setup::new(&format!("[sinks.main]\ntype = \"kafka\"\nproperties = {{ {property} }}\n"));
        for command in ["check", "run"] {
            let said = setup.fails(78, &[command]);
            assert!(said.contains("sinks.main.properties") && said.contains(part), "{said}");
        }
    }
}

#[cfg(feature = "kafka")]
#[test]
fn a_property_in_a_variable_is_in_effect_or_refused() {
    let setup = Setup::new("[sinks.main]\ntype = \"kafka\"\n");
    let check = |name: &str, value: &str| {
        let variable = format!("ALMA_BRIDGE__SINKS__MAIN__PROPERTIES__{name}");
        let output = setup.prepared(&["check", "--show"]).env(&variable, value).output().expect("runs");
        (output.status.code(), text(&[output.stdout, output.stderr].concat()))
    };
    let (code, said) = check("COMPRESSION_TYPE", "zstd");
    assert_eq!(code, Some(0), "{said}");
    let line = said.lines().find(|line| line.starts_with("sinks.main.properties.compression.type"));
    assert!(line.is_some_and(|line| line.ends_with("PROPERTIES__COMPRESSION_TYPE")), "{said}");
    let (code, said) = check("COMPRESSION_TIPE", "zstd");
    assert!(code == Some(78) && said.contains("ALMA_BRIDGE__SINKS__MAIN__PROPERTIES__COMPRESSION_TIPE"), "{said}");
}
