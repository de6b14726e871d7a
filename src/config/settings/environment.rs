//! Environment variables that set nothing: unknown keys behind our prefix, and names that nearly have it.
//!
//! Kubernetes puts variables of its own into every container beside a service that is named `alma-bridge`, such as
//! `ALMA_BRIDGE_SERVICE_HOST`. A single underscore is therefore no error, and of those variables not even worth a warning.

use super::{ConfigError, ENV_PREFIX, NAMED, Walk, values};

/// What variables begin with that are nearly ours.
const NEARLY: &str = "ALMA_BRIDGE_";

/// Names the file, and is not a key.
const FILE: &str = "CONFIG";

/// An unknown key of an environment variable.
#[derive(Debug)]
pub(super) struct Unknown {
    key: String,
    variable: String,
    /// What a table makes of it by itself.
    hint: String,
}

impl Walk {
    /// A key that no table has. In a variable it is judged once all keys are known, because what was meant may belong to
    /// another table: a single underscore in `ALMA_BRIDGE__JOURNAL_MAX_SIZE` makes it a key at the top.
    pub(super) fn unknown_key(&mut self, key: &str, hint: &str) {
        let exact = Self::variable(key);
        let exact = self.env.keys().filter(|name| name.eq_ignore_ascii_case(&exact));
        let variables: Vec<String> = exact.chain(self.variables_in(key)).cloned().collect();
        if variables.is_empty() {
            self.error(key, format!("unknown key{hint}"));
        }
        self.unknown.extend(variables.into_iter().map(|variable| {
            let key = variable[ENV_PREFIX.len()..].to_lowercase().replace("__", ".");
            Unknown { key, variable, hint: hint.to_owned() }
        }));
    }
}

/// To be called after the walk, when every key is known.
pub(super) fn judge(walk: &mut Walk) {
    for Unknown { key, variable, hint } in std::mem::take(&mut walk.unknown) {
        let meant =
            meant(&key, walk, |length| 1 + length / 4).map(|key| format!(", did you mean {}?", Walk::variable(key)));
        let problem = format!("unknown key{}", meant.unwrap_or(hint));
        walk.errors.push(ConfigError { key: Some(key), origin: variable, problem });
    }
    suggest_names(walk);
    let mut ignored: Vec<String> = walk.env.keys().filter_map(|name| ignored(name, walk)).collect();
    ignored.sort();
    walk.warnings.extend(ignored);
}

/// The warning about a variable that was meant for us, as far as its name tells.
fn ignored(name: &str, walk: &Walk) -> Option<String> {
    if name.starts_with(ENV_PREFIX) {
        return None;
    }
    let upper = name.to_uppercase();
    let rest = upper.strip_prefix(NEARLY)?.trim_start_matches('_');
    if rest == FILE || is_of_kubernetes(rest) {
        return None;
    }
    // Others may have variables of this prefix: closer than for a key that can only be ours.
    let meant = match meant(rest, walk, |length| 1 + length / 8) {
        Some(key) => Walk::variable(key),
        None => format!("{ENV_PREFIX}{}__…", section(rest, walk)?.to_uppercase()),
    };
    Some(format!("environment variable {name} is ignored, did you mean {meant}?"))
}

/// Whether Kubernetes makes such a variable for a service, of whose name only the beginning is ours.
fn is_of_kubernetes(rest: &str) -> bool {
    let has_number = rest.split("PORT_").skip(1).any(|after| after.starts_with(|c: char| c.is_ascii_digit()));
    let is_port = rest == "PORT" || rest.ends_with("_PORT");
    rest.ends_with("SERVICE_HOST") || rest.contains("SERVICE_PORT") || is_port || has_number
}

/// The key that is most like what was written, whatever separates its parts. `bound`: of the letters that may differ.
fn meant<'a>(written: &str, walk: &'a Walk, bound: impl Fn(usize) -> usize) -> Option<&'a String> {
    let written = joined(written);
    let distance = |key: &String| strsim::damerau_levenshtein(&written, &joined(key));
    let (distance, key) = walk.known.iter().filter(|key| !is_table(key, walk)).map(|key| (distance(key), key)).min()?;
    (distance <= bound(written.len())).then_some(key)
}

fn is_table(key: &str, walk: &Walk) -> bool {
    let beginning = format!("{key}.");
    NAMED.contains(&key) || walk.known.range(beginning.clone()..).next().is_some_and(|key| key.starts_with(&beginning))
}

/// The table that the name of a variable begins with.
fn section<'a>(rest: &str, walk: &'a Walk) -> Option<&'a str> {
    let written = joined(rest);
    let tables = walk.known.iter().filter_map(|key| Some(key.split_once('.')?.0)).chain(NAMED);
    tables
        .into_iter()
        .find(|table| written.strip_prefix(*table).is_some_and(|rest| rest.is_empty() || rest.starts_with('_')))
}

/// Lower case, with one underscore wherever parts or words are separated.
fn joined(name: &str) -> String {
    let words = name.split(['.', '_', '-']).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_").to_lowercase()
}

/// A source or sink that only variables name is most likely one of the file's with another name.
fn suggest_names(walk: &mut Walk) {
    let mut suggested = Vec::new();
    for (index, error) in walk.errors.iter().enumerate() {
        let Some(table) = error.key.as_deref().and_then(|key| walk.only_in_variables(key)) else { continue };
        let Some((section, name)) = table.split_once('.') else { continue };
        let others = walk.named_in_file.iter().filter_map(|other| other.strip_prefix(section)?.strip_prefix('.'));
        let hint = values::suggestion(name, others);
        if !hint.is_empty() && !suggested.iter().any(|(_, known, _)| *known == table) {
            suggested.push((index, table.to_owned(), format!("; the file has no {table}{hint}")));
        }
    }
    for (index, _, hint) in suggested {
        walk.errors[index].problem.push_str(&hint);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ConfigErrors, Loaded, from_text};
    use std::path::Path;

    fn load(text: &str, variables: &[&str]) -> Result<Loaded, ConfigErrors> {
        let env: Vec<_> = variables.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
        from_text(Some((Path::new("test.toml"), text)), &env)
    }

    fn error(text: &str, variable: &str) -> String {
        let errors = load(text, &[variable]).expect_err("refused").errors;
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_name_that_is_nearly_ours_is_warned_of_and_those_of_kubernetes_are_not() {
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
    fn an_unknown_key_is_blamed_on_its_variable_with_what_was_meant() {
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
    fn a_sink_or_source_that_only_variables_name_is_blamed_on_them() {
        let file = "[sinks.main]\ntype = \"file\"\n";
        let said = error(file, "ALMA_BRIDGE__SINKS__MIAN__TOPIC");
        assert!(said.contains("ALMA_BRIDGE__SINKS__MIAN__TOPIC: sinks.mian.type: missing"), "{said}");
        assert!(said.contains("the file has no sinks.mian, did you mean `main`?"), "{said}");
        assert!(!said.contains("test.toml"), "{said}");
        let said = error("[sources.prod]\npath = \"/x\"\n", "ALMA_BRIDGE__SOURCES__PROD__SILENCE");
        assert!(said.contains("test.toml: sources.prod.secret_file"), "{said}");
    }
}
