//! What the configuration accepts, its defaults, and its errors.

mod environment;
mod reload;
mod secrets;

use std::fs;
use std::path::Path;

use super::load::from_text;
use super::*;

fn load_text(text: &str) -> Result<Loaded, ConfigErrors> {
    load_with(text, &[])
}

fn load_with(text: &str, env: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    from_text(Some((Path::new("test.toml"), text)), &env)
}

fn errors(text: &str) -> Vec<ConfigError> {
    load_text(text).expect_err("refused").errors
}

/// The one error of a text: its key and problem.
fn error(text: &str) -> (String, String) {
    let mut errors = errors(text);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    let error = errors.remove(0);
    assert_eq!(error.origin, "test.toml");
    (error.key.unwrap_or_default(), error.problem)
}

#[test]
fn without_a_file_there_is_a_source_and_a_sink() {
    let config = load_defaults(&[]).expect("valid").config;
    assert_eq!((config.sources.len(), config.sources[0].name.as_str()), (1, "alma"));
    assert_eq!(config.sources[0].path, "/webhooks");
    assert_eq!((config.sinks.len(), config.sinks[0].kind.as_str()), (1, "file"));
    assert_eq!(config.ingress.listen.to_string(), "0.0.0.0:2562");
    assert_eq!(config.ingress.max_body, 8 << 20);
    assert_eq!(config.journal.max_size, 8 << 30);
    assert_eq!(config.admin.token_file, Path::new("data/admin.token"));
    let state = [("STATE_DIRECTORY".to_owned(), "/var/lib/x:/other".to_owned())];
    assert_eq!(load_defaults(&state).expect("valid").config.data_dir, Path::new("/var/lib/x"));
}

#[test]
fn the_environment_wins_over_the_file_key_by_key() {
    let text = "[journal]\nmax_size = \"1GiB\"\nretain = \"1h\"\n[sinks.my-sink]\ntype = \"file\"\n";
    let loaded = load_with(
        text,
        &[
            ("ALMA_BRIDGE__JOURNAL__MAX_SIZE", "2GiB"),
            ("ALMA_BRIDGE__SINKS__MY-SINK__ACTIONS", "JOB_END, loan.loan_lost"),
            ("ALMA_BRIDGE__SINKS__MY-SINK__BEST_EFFORT", "true"),
            ("ALMA_BRIDGE__INGRESS__MAX_CONNECTIONS", "7"),
            ("ALMA_BRIDGE_PORT", "tcp://10.0.0.1:2562"),
            ("ALMA_BRIDGE_SERVICE_PORT", "2562"),
        ],
    )
    .expect("valid");
    let config = &loaded.config;
    assert_eq!((config.journal.max_size, config.journal.retain.as_secs()), (2 << 30, 3_600));
    assert_eq!(config.ingress.max_connections, 7);
    assert_eq!(config.sinks[0].actions, ActionFilter::new(&["job_end", "loan.loan_lost"]).expect("patterns"));
    assert!(config.sinks[0].best_effort);
    let origin = |key: &str| loaded.values.iter().find(|value| value.key == key).expect("there").origin.as_str();
    assert_eq!(origin("journal.max_size"), "ALMA_BRIDGE__JOURNAL__MAX_SIZE");
    assert_eq!(origin("journal.retain"), "test.toml");
    assert_eq!(origin("journal.min_free"), "default");
}

#[test]
fn all_errors_are_reported_at_once() {
    let errors = errors(
        "dat_dir = \"x\"\n[ingress]\nlisten = \"here\"\nmax_boddy = 1\n[journal]\nretain = \"soon\"\nstorage = \"dsk\"\n[sinks.Main]\ntype = \"file\"\n",
    );
    let keys: Vec<_> = errors.iter().filter_map(|error| error.key.as_deref()).collect();
    assert_eq!(
        keys,
        ["dat_dir", "ingress.listen", "ingress.max_boddy", "journal.retain", "journal.storage", "sinks.Main"]
    );
    let shown = ConfigErrors { errors, warnings: Vec::new() }.to_string();
    for part in ["did you mean `data_dir`", "did you mean `max_body`", "did you mean `disk`", "\"soon\"", "test.toml"] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
}

#[test]
fn each_bad_value_is_reported_with_what_was_expected() {
    for (text, key, expected) in [
        ("ingress = 7", "ingress", "expected a table"),
        ("[ingress]\nmax_body = \"0B\"", "ingress.max_body", "at least 1 byte"),
        ("[ingress]\nmax_body = \"65MiB\"", "ingress.body_memory", "at least as much"),
        ("[ingress]\nanswer_within = \"5s\"", "ingress.answer_within", "5 s that Alma waits"),
        ("[ingress]\nbody_timeout = \"0s\"", "ingress.body_timeout", "above 0"),
        ("[ingress]\nmax_connections = 0", "ingress.max_connections", "at least 1"),
        (
            concat!(
                "[ingress]\ntls = { cert_file = \"/no/such\", key_file = \"",
                env!("CARGO_MANIFEST_DIR"),
                "/Cargo.toml\" }"
            ),
            "ingress.tls.cert_file",
            "/no/such cannot be read",
        ),
        ("[admin]\nlisten = \"0.0.0.0:2562\"", "admin.listen", "ingress.listen too"),
        ("[log]\nlevel = \"loud\"", "log.level", "expected a level"),
        ("[sinks.main]\ntopic = \"alma\"", "sinks.main.type", "missing"),
        ("[sinks.main]\ntype = \"file\"\ntopic = \"{action}\"", "sinks.main.topic", "literal"),
        (
            "[sinks.main]\ntype = \"file\"\nformat = \"cloudevents-binary\"",
            "sinks.main.format",
            "a file has no headers",
        ),
        (
            "[sinks.main]\ntype = \"file\"\nbrokers = [\"a:1\"]",
            "sinks.main.brokers",
            "it belongs to type kafka, but this sink has type file",
        ),
        ("[sinks.main]\ntype = \"file\"\nsources = [\"almas\"]", "sinks.main.sources", "did you mean `alma`"),
        ("[sinks.main]\ntype = \"file\"\nsources = [\"!almas\"]", "sinks.main.sources", "did you mean `alma`"),
        ("[sinks.main]\ntype = \"file\"\nsources = [\"test-*\"]", "sinks.main.sources", "pattern that matches one"),
        ("[sinks.main]\ntype = \"file\"\njobs = [\"!\"]", "sinks.main.jobs", "expected a text, or a pattern"),
        ("[sinks.main]\ntype = \"file\"\nactions = [\"a.b.c\"]", "sinks.main.actions", "loan.loan_returned"),
        ("[sinks.main]\ntype = \"file\"\nactions = []", "sinks.main.actions", "at least one"),
        ("[sinks.main]\ntype = \"file\"\ncontinues = \"main\"", "sinks.main.continues", "names a configured sink"),
        ("[sinks.main]\ntype = \"kafka\"\nbrokers = [\"a\"]", "sinks.main.brokers", "host:port"),
        ("[sinks.main]\ntype = \"kafka\"\nproperties = { acks = 1 }", "sinks.main.properties.acks", "always all"),
        (
            "[sinks.main]\ntype = \"kafka\"\nproperties = { \"sasl.password\" = \"x\" }",
            "sinks.main.properties.sasl.password",
            "password_file",
        ),
        ("[sinks.main]\ntype = \"kafka\"\nusername = \"x\"", "sinks.main.password_file", "but username is set"),
        ("[sinks.main]\ntype = \"kafka\"\npassword = \"x\"", "sinks.main.password", "use password_file"),
        ("[sinks.main]\ntype = \"rabbitmq\"\nurl = \"http://x\"", "sinks.main.url", "amqp://"),
        ("[sinks.main]\ntype = \"rabbitmq\"\nexchange = \"amq.topic\"", "sinks.main.exchange", "amq."),
        ("[sinks.main]\ntype = \"nats\"\nreplicas = 6", "sinks.main.replicas", "from 1 to 5"),
        ("[sinks.main]\ntype = \"nats\"\nmax_age = \"1h\"", "sinks.main.duplicate_window", "longer than max_age"),
        ("[sources.alma]\npath = \"/x\"", "sources.alma.secret_file", "no secret"),
        (
            "[sources.alma]\npath = \"/x\"\nsecret = \"x\"\nsecret_env = \"PATH\"",
            "sources.alma.secret",
            "does not belong in the configuration",
        ),
    ] {
        let found = load_with(text, &[("PATH", "x")]).expect_err("refused").errors;
        assert_eq!(found.len(), 1, "{text}\n{found:#?}");
        assert_eq!(found[0].key.as_deref(), Some(key), "{text}");
        assert!(found[0].problem.contains(expected), "{text}\n{}", found[0].problem);
    }
}

#[test]
fn a_source_has_up_to_four_secrets_and_its_own_path() {
    let text = "[sources.a]\npath = \"/x/\"\nsecrets = [{ name = \"one\", env = \"ONE\" }, { name = \"two\", env = \"TWO\", optional = true }]\n[sources.b]\npath = \"/x\"\nsecret_env = \"ONE\"\n";
    let found = load_with(text, &[("ONE", "1")]).expect_err("refused").errors;
    assert_eq!((found.len(), found[0].key.as_deref()), (1, Some("sources.b.path")), "{found:?}");
    let config = load_with(&text.replace("\"/x\"", "\"/y\""), &[("ONE", "1")]).expect("valid").config;
    let secrets = &config.sources[0].secrets;
    assert_eq!((secrets[0].secret.is_some(), secrets[1].secret.is_some()), (true, false));
    assert_eq!(config.sources[1].secrets[0].name, "default");
    let five = "{ name = \"n\", env = \"ONE\" },".repeat(5);
    let found =
        load_with(&format!("[sources.a]\npath = \"/x\"\nsecrets = [{five}]"), &[("ONE", "1")]).expect_err("refused");
    assert!(found.to_string().contains("at most 4") && found.to_string().contains("twice"), "{found}");
    let optional = "[sources.a]\npath = \"/x\"\nsecrets = [{ name = \"n\", env = \"NOT\", optional = true }]";
    assert!(error(optional).1.contains("no secret"), "no source accepts everything");
}

#[test]
fn a_broker_is_set_by_its_own_keys() {
    let folder = tempfile::tempdir().expect("a folder");
    let pem = folder.path().join("ca.pem");
    fs::write(&pem, "x").expect("written");
    let text = format!(
        "[sinks.k]\ntype = \"kafka\"\nbrokers = [\"a:1\", \"b:2\"]\nproperties = {{ \"compression.type\" = \"zstd\", \"linger.ms\" = 7 }}\nusername = \"u\"\npassword_env = \"P\"\ntls = {{ ca_file = \"{pem}\" }}\nstart = \"oldest\"\nformat = \"cloudevents-binary\"\n\
         [sinks.r]\ntype = \"rabbitmq\"\nunroutable = \"dead\"\ntls = {{}}\n\
         [sinks.n]\ntype = \"nats\"\nservers = [\"tls://x:1\"]\ntoken_env = \"P\"\n[journal]\nstorage = \"none\"\n",
        pem = pem.display()
    );
    let config = load_with(&text, &[("P", "hush")]).expect("valid").config;
    assert_eq!(config.journal.storage, Storage::None);
    let [kafka, nats, rabbitmq] = config.sinks.as_slice() else { panic!("three") };
    assert_eq!((kafka.start, kafka.format), (Start::Oldest, Format::CloudEventsBinary));
    let SinkKind::Kafka(kafka) = &kafka.kind else { panic!("kafka") };
    assert_eq!(kafka.properties.get("compression.type").map(String::as_str), Some("zstd"));
    assert_eq!(kafka.properties.get("linger.ms").map(String::as_str), Some("7"));
    assert_eq!(kafka.login.as_ref().map(|login| login.password.expose()), Some(&b"hush"[..]));
    assert_eq!(kafka.tls.as_ref().and_then(|tls| tls.ca_file.as_ref()), Some(&pem));
    let SinkKind::RabbitMq(rabbitmq) = &rabbitmq.kind else { panic!("rabbitmq") };
    assert!(rabbitmq.tls.is_some(), "an empty table turns TLS on");
    let SinkKind::Nats(nats) = &nats.kind else { panic!("nats") };
    assert!(matches!(nats.auth, NatsAuth::Token(_)));
}

#[test]
fn changes_tell_what_needs_a_restart_and_what_is_taken_away() {
    let old = load_text("[sinks.a]\ntype = \"file\"\n[sinks.b]\ntype = \"file\"\ndir = \"b\"\n").expect("valid").config;
    let new = load_text("data_dir = \"other\"\n[journal]\nretain = \"1h\"\n[sinks.a]\ntype = \"file\"\n")
        .expect("valid")
        .config;
    let changes = old.changes(&new);
    assert_eq!(changes.need_restart, ["data_dir", "admin", "journal"]);
    assert_eq!(changes.taken_away, ["sink b"]);
    assert_eq!(old.changes(&old), Changes::default());
}

/// The project's own files, as they are shipped.
fn shipped(name: &str) -> (std::path::PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    let text = fs::read_to_string(&path).expect("shipped");
    (path, text)
}

#[test]
fn the_shipped_default_is_the_same_as_no_file() {
    let (path, text) = shipped("alma-bridge.toml");
    let from_file = from_text(Some((&path, &text)), &[]).expect("valid");
    let without = load_defaults(&[]).expect("valid");
    assert_eq!(from_file.values, without.values);
}

#[cfg(feature = "default")]
#[test]
fn the_shipped_examples_load() {
    for name in SinkKind::NAMES.iter().filter(|name| **name != "file") {
        let (path, text) = shipped(&format!("{name}.toml"));
        let config = from_text(Some((&path, &text)), &[]).expect("valid").config;
        assert_eq!(config.sinks[0].kind.as_str(), *name);
        assert!(text.lines().count() < 20, "{name} is too long for an example");
    }
}

#[cfg(feature = "default")]
#[test]
fn the_container_configurations_load_and_name_their_source_and_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("alma");
    fs::write(&secret, "a secret that is long enough\n").expect("written");
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
    for name in ["image/alma-bridge", "compose/kafka", "compose/rabbitmq", "compose/nats"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(format!("{name}.toml"));
        let text = fs::read_to_string(&path).expect("shipped");
        let local = text.replace("/run/secrets/", &format!("{}/", folder.path().display()));
        let environment = [("ALMA_SECRET", "a secret that is long enough"), ("RABBITMQ_PASSWORD", "x")];
        let environment = environment.map(|(name, value)| (name.into(), value.into()));
        let config = from_text(Some((&path, &local)), &environment).expect("valid").config;
        assert!(text.contains("[sources.alma]") && text.contains("secret_"), "{name}");
        assert_eq!(
            config.admin.listen.to_string(),
            "0.0.0.0:2563",
            "{name}: kubelet and Prometheus connect to the Pod's address"
        );
    }
}

/// The entries of free tables such as `properties` are not checked.
#[cfg(feature = "default")]
#[test]
#[allow(clippy::too_many_lines, reason = "one walk through one file")]
fn the_reference_names_every_key_and_no_other_with_its_default() {
    let (path, text) = shipped("reference.toml");
    let folder = tempfile::tempdir().expect("a folder");
    // The files and variables that it names are made here. Their content serves as a secret and as a URL.
    let made_up = "amqp://user:made-up@x/";
    let dirs = ["/run/secrets/", "/etc/ssl/", "/etc/alma-bridge/"];
    let here = format!("{}/", folder.path().display());
    let local = |text: &str| dirs.iter().fold(text.to_owned(), |text, dir| text.replace(dir, &here));
    for name in text.split('"').filter_map(|quoted| dirs.iter().find_map(|dir| quoted.strip_prefix(dir))) {
        fs::write(folder.path().join(name), made_up).expect("written");
    }
    let is_variable = |quoted: &&str| quoted.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    let env: Vec<_> = text.split('"').filter(is_variable).map(|name| (name.to_owned(), made_up.to_owned())).collect();

    // Unchanged, it has the defaults, except for the sinks that it adds and the source's secret.
    let loaded = from_text(Some((&path, &local(&text))), &env).expect("valid");
    let default = load_defaults(&[]).expect("valid");
    for value in &default.values {
        if value.key != "sources.alma.secret_file" && value.key != "log.format" {
            let found = loaded.values.iter().find(|found| found.key == value.key);
            let found = found.unwrap_or_else(|| panic!("{} is not in the reference", value.key));
            assert_eq!(found.origin, path.display().to_string(), "{} is not in the reference", value.key);
            assert_eq!(found.shown.replace('"', ""), value.shown.replace('"', ""), "{}", value.key);
        }
    }
    for kind in SinkKind::NAMES.iter().filter(|kind| **kind != "file") {
        let bare = load_text(&format!("[sinks.{kind}-example]\ntype = \"{kind}\"\n")).expect("valid");
        let of_type = format!("sinks.{kind}-example.");
        let lists = ["actions", "sources", "jobs", "statuses", "institutions"];
        let general = ["topic", "format", "start", "setup_grace", "best_effort", "max_topics"].iter().chain(&lists);
        for value in bare.values.iter().filter(|value| value.key.starts_with(&of_type)) {
            if general.clone().any(|name| value.key == format!("{of_type}{name}")) {
                continue;
            }
            let found = loaded.values.iter().find(|found| found.key == value.key);
            let found = found.unwrap_or_else(|| panic!("{} is not in the reference", value.key));
            assert_eq!(found.origin, path.display().to_string(), "{} is not in the reference", value.key);
            assert_eq!(found.shown, value.shown, "{}", value.key);
        }
    }

    // Each alternative is a known key: the file loads with it.
    let mut alternatives = std::collections::BTreeSet::new();
    for (index, line) in text.lines().enumerate() {
        let Some(alternative) = line.strip_prefix("#= ") else { continue };
        let name = alternative.split(' ').next().expect("a key").to_owned();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines[index] = alternative.to_owned();
        if let Some(stem) = ["_file", "_env"].iter().find_map(|end| name.strip_suffix(end)) {
            let section = lines[..index].iter().rposition(|line| line.starts_with('[')).expect("a section");
            for other in &mut lines[section..index] {
                if other.starts_with(&format!("{stem} = ")) || other.starts_with(&format!("{stem}_file = ")) {
                    *other = String::new();
                }
            }
            if stem == "password" {
                lines.insert(index, "username = \"x\"".to_owned());
            }
        }
        if name == "username" {
            lines.insert(index, "password_env = \"KAFKA_PASSWORD\"".to_owned());
        }
        if name == "secrets" {
            lines.retain(|line| !line.starts_with("secret_file"));
        }
        let result = from_text(Some((&path, &local(&lines.join("\n")))), &env);
        assert!(result.is_ok(), "{name} (line {}): {}", index + 1, result.expect_err("refused"));
        alternatives.insert(name);
    }

    // No key without a default is missing.
    let mut walk = settings::Walk::new(Some(&path), &env, None);
    let root = settings::merge(Some((&path, &local(&text))), &env).expect("valid");
    Config::read(settings::Table::new("", root), &mut walk);
    let is_table = |key: &str| walk.known.iter().any(|other| other.starts_with(&format!("{key}.")));
    let has_default = |key: &str| walk.values.contains_key(key) && key != "log.format";
    let left = walk.known.iter().filter(|key| !has_default(key) && !is_table(key));
    let left = left.filter_map(|key| Some(key.rsplit_once('.')?.1.to_owned())).collect();
    assert_eq!(alternatives, left);
}

#[test]
fn data_dir_and_the_listener_are_read_from_a_broken_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    let read = |text: &str, env: &[(&str, &str)]| {
        std::fs::write(&file, text).expect("written");
        let env: Vec<_> = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let config = salvage(Some(&file), &env);
        (config.data_dir.display().to_string(), config.admin.listen.port())
    };
    let whole = "data_dir = \"here\"\n[admin]\nlisten = \"127.0.0.1:9\"\n";
    for broken in [
        format!("{whole}[sinks.main]\ntype = \"kafak\"\n"),
        format!("{whole}[sinks.main\n"),
        format!("what\n{whole}"),
        format!("{whole}listen = \"127.0.0.1:10\"\n"),
        format!("{whole}[ingress]\nlisten = \"127.0.0.1:\n"),
    ] {
        assert_eq!(read(&broken, &[]), ("here".to_owned(), 9), "{broken}");
    }
    assert_eq!(read("data_dir = \"here\n", &[]), ("data".to_owned(), 2563));
    let variable = [("ALMA_BRIDGE__DATA_DIR", "there")];
    assert_eq!(read("data_dir = \"here\n", &variable), ("there".to_owned(), 2563));
    assert_eq!(read("data_dir = \"here\n", &[("STATE_DIRECTORY", "/state")]).0, "/state");
    let missing = salvage(Some(&folder.path().join("missing")), &[]);
    assert_eq!(missing.data_dir, Path::new("data"));
}
