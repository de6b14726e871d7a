//! Environment variables that set nothing.

use std::path::Path;

use crate::config::load::from_text;
use crate::config::{ConfigErrors, Loaded};

fn load(text: &str, variables: &[&str]) -> Result<Loaded, ConfigErrors> {
    let env: Vec<_> = variables.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
    from_text(Some((Path::new("test.toml"), text)), &env)
}

fn error(text: &str, variable: &str) -> String {
    let errors = load(text, &[variable]).expect_err("refused").errors;
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_name_that_is_nearly_ours_causes_a_warning_unless_kubernetes_sets_it() {
    let sink = "[sinks.main]\ntype = \"file\"\n";
    for (name, meant) in [
        ("ALMA_BRIDGE_JOURNAL_MAX_SIZE", "ALMA_BRIDGE__JOURNAL__MAX_SIZE"),
        ("ALMA_BRIDGE_JOURNAL__MAX_SIZE", "ALMA_BRIDGE__JOURNAL__MAX_SIZE"),
        ("ALMA_BRIDGE_JORNAL_MAX_SIZE", "ALMA_BRIDGE__JOURNAL__MAX_SIZE"),
        ("alma_bridge__journal__max_size", "ALMA_BRIDGE__JOURNAL__MAX_SIZE"),
        ("ALMA_BRIDGE_DATA_DIR", "ALMA_BRIDGE__DATA_DIR"),
        ("ALMA_BRIDGE_SINKS_MAIN_TYPE", "ALMA_BRIDGE__SINKS__MAIN__TYPE"),
        ("ALMA_BRIDGE_SOURCES_PROD_PATH", "ALMA_BRIDGE__SOURCES__…"),
        ("ALMA_BRIDGE_LOG", "ALMA_BRIDGE__LOG__…"),
    ] {
        let warnings = load(sink, &[name]).expect("valid").warnings;
        assert_eq!(warnings, [format!("environment variable {name} is ignored, did you mean {meant}?")]);
    }
    let others = [
        "ALMA_BRIDGE_CONFIG",
        "ALMA_BRIDGE_PORT",
        "ALMA_BRIDGE_SERVICE_HOST",
        "ALMA_BRIDGE_SERVICE_PORT_HTTP",
        "ALMA_BRIDGE_PORT_2562_TCP",
        "ALMA_BRIDGE_PORT_2562_TCP_ADDR",
        "ALMA_BRIDGE_ADMIN_SERVICE_HOST",
        "ALMA_BRIDGE_ADMIN_PORT",
        "ALMA_BRIDGE_INGRESS_PORT_80_TCP_PROTO",
        "ALMA_BRIDGE_VERSION",
        "ALMA_BRIDGE_IMAGE",
        "ALMA_BRIDGE_SECRET",
        "ALMA_BRIDGES_LOG_LEVEL",
    ];
    assert_eq!(load(sink, &others).expect("valid").warnings, Vec::<String>::new());
}

#[test]
fn the_error_about_an_unknown_key_names_its_variable_and_a_similar_key() {
    for (variable, meant) in [
        ("ALMA_BRIDGE__JOURNAL_MAX_SIZE", ", did you mean ALMA_BRIDGE__JOURNAL__MAX_SIZE?"),
        ("ALMA_BRIDGE__JORNAL__MAX_SIZE", ", did you mean ALMA_BRIDGE__JOURNAL__MAX_SIZE?"),
        ("ALMA_BRIDGE__JOURNAL__MAX_SICE", ", did you mean ALMA_BRIDGE__JOURNAL__MAX_SIZE?"),
        ("ALMA_BRIDGE__LOG_LEVEL", ", did you mean ALMA_BRIDGE__LOG__LEVEL?"),
        ("ALMA_BRIDGE__SOMETHING__ELSE", ""),
    ] {
        let said = error("[journal]\nretain = \"1h\"\n", variable);
        assert!(said.starts_with(&format!("{variable}: ")), "{said}");
        assert!(said.ends_with(&format!("unknown key{meant}")), "{said}");
        assert!(!said.contains("test.toml") && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn the_error_about_a_sink_or_source_that_only_variables_name_is_attributed_to_them() {
    let file = "[sinks.main]\ntype = \"file\"\n";
    let said = error(file, "ALMA_BRIDGE__SINKS__MIAN__TOPIC");
    assert!(said.contains("ALMA_BRIDGE__SINKS__MIAN__TOPIC: sinks.mian.type: missing"), "{said}");
    assert!(said.contains("the file has no sinks.mian, did you mean `main`?"), "{said}");
    assert!(!said.contains("test.toml"), "{said}");
    let said = error("[sources.prod]\npath = \"/x\"\n", "ALMA_BRIDGE__SOURCES__PROD__SILENCE");
    assert!(said.contains("test.toml: sources.prod.secret_file"), "{said}");
}
