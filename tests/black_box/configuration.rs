//! Errors of the configuration are reported at once, with key, file, what was found and what was expected; exit 78.

use crate::harness::{Setup, binary, text};

#[test]
fn all_errors_are_reported_at_once() {
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
            "the file that it names cannot be read",
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
fn a_named_file_that_is_missing_is_an_error() {
    let output = binary().args(["check", "--config", "/no/such/file.toml"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("/no/such/file.toml"));
    let output = binary().arg("check").env("ALMA_BRIDGE_CONFIG", "/no/such/other.toml").output().expect("runs");
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn the_environment_overrides_the_file_and_variables_of_kubernetes_are_ignored() {
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
fn a_variable_that_is_nearly_ours_causes_a_warning_and_an_unknown_key_of_ours_is_an_error() {
    let setup = Setup::new("");
    let check = |name: &str, command: &str| {
        let output = setup.prepared(&[command]).env(name, "1GiB").output().expect("runs");
        (output.status.code(), text(&output.stderr))
    };
    let (code, said) = check("ALMA_BRIDGE_JOURNAL_MAX_SIZE", "check");
    let warning =
        "environment variable ALMA_BRIDGE_JOURNAL_MAX_SIZE is ignored, did you mean ALMA_BRIDGE__JOURNAL__MAX_SIZE?";
    assert!(code == Some(0) && said.contains(&format!("warning: {warning}")), "{said}");
    for name in ["ALMA_BRIDGE_PORT_2562_TCP_ADDR", "ALMA_BRIDGE_ADMIN_SERVICE_PORT", "ALMA_BRIDGE_VERSION"] {
        let (code, said) = check(name, "check");
        assert!(code == Some(0) && !said.contains("warning"), "{said}");
    }
    for (name, meant) in [
        ("ALMA_BRIDGE__JORNAL__MAX_SIZE", ", did you mean ALMA_BRIDGE__JOURNAL__MAX_SIZE?"),
        ("ALMA_BRIDGE__JOURNAL_MAX_SIZE", ", did you mean ALMA_BRIDGE__JOURNAL__MAX_SIZE?"),
        ("ALMA_BRIDGE__SOMETHING__ELSE", ""),
    ] {
        for command in ["check", "run"] {
            let (code, said) = check(name, command);
            assert_eq!(code, Some(78), "{said}");
            let blamed = said.lines().find(|line| line.trim_start().starts_with(&format!("{name}: ")));
            assert!(blamed.is_some_and(|line| line.ends_with(&format!("unknown key{meant}"))), "{said}");
            assert!(!said.contains("config.toml"), "{said}");
        }
    }
    // The missing type of a sink that only a variable names is attributed to the variable, not to the file.
    setup.configure("[sinks.main]\ntype = \"file\"\n");
    let (code, said) = check("ALMA_BRIDGE__SINKS__MIAN__TOPIC", "check");
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("ALMA_BRIDGE__SINKS__MIAN__TOPIC: sinks.mian.type: missing"), "{said}");
    assert!(said.contains("did you mean `main`?") && !said.contains("config.toml"), "{said}");
}

#[test]
fn warnings_are_shown_with_errors() {
    let setup = Setup::new("[journal]\nretain = \"soon\"\n");
    setup.write_secret("secret", "12345");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(setup.path("secret"), mode).expect("set");
    for command in ["check", "run", "secret"] {
        let output = setup.prepared(&[command]).env("ALMA_BRIDGE_JOURNAL_RETAIN", "1h").output().expect("runs");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        for part in [
            "journal.retain",
            "warning: sources.alma: default: the secret is shorter than 14 bytes",
            "can be read by everybody",
            "warning: environment variable ALMA_BRIDGE_JOURNAL_RETAIN is ignored",
        ] {
            assert!(said.contains(part), "{part:?} is not in\n{said}");
        }
        assert!(!said.contains("12345"), "{said}");
    }
    setup.configure("");
    let said = text(&setup.command(&["check"]).stderr);
    assert!(said.contains("shorter than 14 bytes"), "{said}");
    setup.write_secret("secret", "fourteen-bytes");
    let said = text(&setup.command(&["check"]).stderr);
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn a_source_without_a_secret_is_refused() {
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
fn check_and_run_refuse_properties_that_are_not_allowed_or_invalid() {
    for (property, part) in [
        ("\"enable.ssl.certificate.verification\" = false", "always checked"),
        ("\"ssl.engine.location\" = \"/tmp/evil.so\"", "no foreign code"),
        ("\"bootstrap.servers\" = \"a:1\"", "use brokers"),
        ("\"compresion.type\" = \"zstd\"", "did you mean `compression.type`"),
        ("\"compression.type\" = \"zstandard\"", "librdkafka refuses it"),
        ("\"sasl.mechanism\" = \"SCRAM-SHA-256\"", "without a login"),
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
fn a_property_in_a_variable_takes_effect_or_is_refused() {
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

#[test]
fn a_short_secret_causes_a_warning_even_with_errors_and_a_long_name_is_counted() {
    let long = "a".repeat(68);
    let setup = Setup::new(&format!(
        "[sources.alma]\npath = \"/webhooks\"\nsecret_file = \"DIR/short\"\nsilense = \"1h\"\n\
         [sinks.{long}]\ntype = \"file\"\ndir = \"DIR/topics\"\n"
    ));
    setup.write_secret("short", "12345");
    let said = setup.fails(78, &["check"]);
    assert!(said.contains("sources.alma.silense: unknown key"), "{said}");
    assert!(said.contains("warning: sources.alma: default: the secret is shorter than 14 bytes"), "{said}");
    assert!(said.contains("expected 1 to 64 of a-z, 0-9 and -, but it has 68 characters"), "{said}");
}

#[test]
fn an_address_in_use_hints_at_another_bridge() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("bound");
    let setup = Setup::new(&format!("[ingress]\nlisten = \"{address}\"\n"));
    let said = setup.fails(1, &["run"]);
    assert!(said.contains("(os error 98); is another alma-bridge running?"), "{said}");
}
