//! Secrets must not be shown, and files that hold them are checked.

use super::*;

#[test]
fn a_syntax_error_has_line_and_column_but_does_not_quote_the_line() {
    let shown = load_text("[ingress\nlisten = 1").expect_err("refused").to_string();
    assert!(shown.contains("test.toml") && shown.contains("line 1, column 9"), "{shown}");
    for text in [
        "[sources.alma]\nsecret = hush",
        "[sources.alma]\nsecret = \"hush",
        "[sources.alma]\nsecret_file = \"a\" hush",
        "[sources.alma]\nsecret_file = \"\\hush\"",
        "[sources.alma]\nsecret_file = 'a'\nsecret_file = 'hush'",
        "[sources.alma]\nsecrets = [hush]",
        "sources = 'x'\nsources.hush = 'hush'",
        "x = 2024-13-45T99:hush",
        "x = 99999999999999999999hush",
    ] {
        let shown = load_text(text).expect_err("refused").to_string();
        assert!(
            shown.contains("not valid TOML") && shown.contains("line") && !shown.contains("hush"),
            "{text}: {shown}"
        );
        assert!(shown.trim_end().lines().count() == 2 && !shown.trim_end().ends_with(':'), "with a reason: {shown}");
    }
}

#[test]
fn no_secret_appears_in_an_error_or_in_the_values_in_effect() {
    for text in [
        "[sinks.main]\ntype = \"rabbitmq\"\nurl = \"amqp://u:hush@x/\"",
        "[sinks.main]\ntype = \"rabbitmq\"\nurl = \"http://u:hush@x/\"",
        "[sinks.main]\ntype = \"nats\"\nservers = [\"nats://u:hush@x\"]",
        "[sinks.main]\ntype = \"nats\"\nservers = [\"http://u:hush@x\"]",
        "[sinks.main]\ntype = \"kafka\"\npassword = \"hush\"",
        "[sinks.main]\ntype = \"kafka\"\nproperties = { \"ssl.key.password\" = \"hush\" }",
        "[sinks.main]\ntype = \"kafka\"\nproperties = { \"ssl.key.pem\" = \"hush\" }",
        "[sinks.main]\ntype = \"kafka\"\nproperties = { \"sasl.oauthbearer.client.credentials.client.secret\" = \"hush\" }",
        "[sinks.main]\ntype = \"kafka\"\nproperties = { \"sasl.oauthbearer.assertion.private.key.passphrase\" = \"hush\" }",
        "[sources.alma]\npath = \"/x\"\nsecret = \"hush\"",
        "[sources.alma]\npath = \"/x\"\nsecret_env = \"hush hush\"",
        "[sources.alma]\npath = \"/x\"\nsecret_env = \"hush\"",
        "[sources.alma]\npath = \"/x\"\nsecret_file = \"hush\"",
        "[sources.alma]\npath = \"/x\"\nsecrets = [\"hush\"]",
        "[sources.alma]\npath = \"/x\"\nsecrets = \"hush\"",
        "[sources.alma]\npath = \"/x\"\nsecrets = [{ name = \"a\", file = \"hush\" }]",
        "[sources.alma]\npath = \"/x\"\nsecrets = [{ name = \"a\", env = \"hush\" }]",
        "sources = \"hush\"",
        "[sources]\nalma = \"hush\"",
        "[privacy]\nkey_file = \"hush\"",
        "[privacy]\nkey_env = \"hush\"",
        "privacy = \"hush\"",
        "[ingress]\ntls = \"hush\"",
        "[ingress]\ntls = { cert_file = \"/dev/null\", key_file = \"hush\" }",
        "[sinks.main]\ntype = \"kafka\"\nusername = \"x\"\npassword_file = \"hush\"",
        "[sinks.main]\ntype = \"kafka\"\nusername = \"x\"\npassword_env = \"hush\"",
        "[sinks.main]\ntype = \"kafka\"\ntls = { cert_file = \"/dev/null\", key_file = \"hush\" }",
        "[sinks.main]\ntype = \"kafka\"\nproperties = \"hush\"",
        "[sinks.main]\ntype = \"kafka\"\nproperties = { password = \"hush\" }",
        "[sinks.main]\ntype = \"rabbitmq\"\nurl_file = \"hush\"",
        "[sinks.main]\ntype = \"rabbitmq\"\nurl_env = \"hush\"",
        "[sinks.main]\ntype = \"nats\"\ntoken_file = \"hush\"",
        "[sinks.main]\ntype = \"nats\"\nnkey_env = \"hush\"",
        "[sinks.main]\ntype = \"nats\"\ncreds_file = \"hush\"",
    ] {
        let shown = load_text(text).expect_err("refused").to_string();
        assert!(!shown.contains("hush"), "{shown}");
    }
    let loaded = load_with(
        "[sources.alma]\npath = \"/x\"\nsecret_env = \"SECRET\"\n[sinks.main]\ntype = \"rabbitmq\"\nurl_env = \"URL\"\n",
        &[("SECRET", "hush"), ("URL", "amqp://u:hush@x/")],
    )
    .expect("valid");
    assert!(!format!("{loaded:?}").contains("hush"));
    // An optional secret that is missing is not an error, and is not shown either.
    for place in ["file", "env"] {
        let text = format!(
            "[sources.alma]\npath = \"/x\"\nsecrets = [{{ name = \"a\", env = \"SECRET\" }}, {{ name = \"b\", {place} = \"hush\", optional = true }}]\n"
        );
        let values = load_with(&text, &[("SECRET", "x")]).expect("valid").values;
        assert!(!format!("{values:?}").contains("hush"), "{values:?}");
    }
}

#[cfg(all(feature = "kafka", feature = "nats"))]
#[test]
fn keys_and_credentials_have_the_modes_of_secrets_and_are_watched() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    for name in ["cert", "key", "creds", "password", "pseudonyms"] {
        fs::write(path(name), "made up").expect("written");
    }
    let mode = |name: &str, mode| {
        fs::set_permissions(path(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("set");
    };
    let text = "[ingress]\ntls = { cert_file = \"DIR/cert\", key_file = \"DIR/key\" }\n\
                [privacy]\nkey_file = \"DIR/pseudonyms\"\n\
                [sinks.a]\ntype = \"nats\"\ncreds_file = \"DIR/creds\"\n\
                [sinks.b]\ntype = \"kafka\"\nusername = \"x\"\npassword_file = \"DIR/password\"\n\
                tls = { cert_file = \"DIR/cert\", key_file = \"DIR/key\" }\n"
        .replace("DIR", &folder.path().display().to_string());
    for name in ["key", "creds", "password", "pseudonyms"] {
        mode(name, 0o600);
    }
    let loaded = load_text(&text).expect("valid");
    assert_eq!(loaded.warnings, Vec::<String>::new());
    for name in ["cert", "key", "creds", "password", "pseudonyms"] {
        assert!(loaded.config.files().contains(&path(name)), "{name} is not watched");
    }
    for (name, keys) in
        [("key", &["ingress.tls.key_file", "sinks.b.tls.key_file"][..]), ("creds", &["sinks.a.creds_file"])]
    {
        mode(name, 0o602);
        let refused = load_text(&text).expect_err("refused").errors;
        let found: Vec<_> = refused.iter().filter_map(|error| error.key.as_deref()).collect();
        assert_eq!(found, keys, "{refused:?}");
        assert!(refused.iter().all(|error| error.problem.contains("written by everybody")), "{refused:?}");
        mode(name, 0o644);
        let warnings = load_text(&text).expect("valid").warnings;
        assert_eq!(warnings.len(), keys.len(), "{warnings:?}");
        assert!(warnings[0].contains("read by everybody"), "{warnings:?}");
        mode(name, 0o600);
    }
    // The content of the credentials is part of the sink's configuration, so that a reload restarts the sink.
    fs::write(path("creds"), "others").expect("written");
    assert_ne!(load_text(&text).expect("valid").config.sinks[0], loaded.config.sinks[0]);
}

#[cfg(feature = "kafka")]
#[test]
fn a_property_in_an_environment_variable_has_underscores_for_dots() {
    let text = "[sinks.main]\ntype = \"kafka\"\nproperties = { \"compression.type\" = \"lz4\" }\n";
    let set =
        |name: &str, value: &str| load_with(text, &[(&format!("ALMA_BRIDGE__SINKS__MAIN__PROPERTIES__{name}"), value)]);
    let loaded = set("COMPRESSION_TYPE", "zstd").expect("valid");
    let SinkKind::Kafka(kafka) = &loaded.config.sinks[0].kind else { panic!("kafka") };
    assert_eq!(kafka.properties, [("compression.type".to_owned(), "zstd".to_owned())].into());
    let shown = loaded.values.iter().find(|value| value.key == "sinks.main.properties.compression.type");
    assert_eq!(shown.expect("shown").origin, "ALMA_BRIDGE__SINKS__MAIN__PROPERTIES__COMPRESSION_TYPE");
    for (name, value, part) in [
        ("COMPRESION_TYPE", "zstd", "did you mean `compression.type`"),
        ("COMPRESSION_TYPE", "zstandard", "librdkafka refuses it"),
        ("COMPRESSION__TYPE", "zstd", "found a table"),
        ("ACKS", "1", "always all"),
    ] {
        let refused = set(name, value).expect_err("refused").errors;
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].problem.contains(part), "{refused:?}");
        assert_eq!(refused[0].origin, format!("ALMA_BRIDGE__SINKS__MAIN__PROPERTIES__{name}"));
    }
    // In a file, the underscore is not replaced.
    let refused = errors(&text.replace("compression.type", "compression_type"));
    assert!(refused[0].problem.contains("did you mean `compression.type`"), "{refused:?}");
}
