//! What a reload refuses, and errors about several keys at once.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{Config, ConfigErrors, Loaded, SecretFrom, load, reload};

/// A folder with a configuration file.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(text: &str) -> Self {
        let bench = Self { folder: tempfile::tempdir().expect("a folder") };
        bench.write(text);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, text: &str) {
        let text = text.replace("DIR", &self.folder.path().display().to_string());
        fs::write(self.path("config.toml"), text).expect("written");
        fs::write(self.path("secret"), "made-up").expect("written");
    }

    fn load(&self) -> Result<Loaded, ConfigErrors> {
        load(Some(&self.path("config.toml")), &[])
    }

    fn start(&self) -> Config {
        let mut config = self.load().expect("valid").config;
        config.generate_missing().expect("made");
        config
    }

    /// Keys and problems of what a reload would refuse.
    fn refused(&self, running: &Config) -> Vec<(String, String)> {
        let errors = reload(running, Some(&self.path("config.toml")), &[]).expect_err("refused").errors;
        errors.into_iter().map(|error| (error.key.unwrap_or(error.origin), error.problem)).collect()
    }
}

/// The one error of a file: its key and problem.
fn error(text: &str) -> (String, String) {
    let mut errors = Bench::new(text).load().expect_err("refused").errors;
    assert_eq!(errors.len(), 1, "{errors:#?}");
    let error = errors.remove(0);
    (error.key.unwrap_or_default(), error.problem)
}

const SOURCE: &str = "[sources.main]\npath = \"/x\"\nsecret_file = \"DIR/secret\"\n";
const SINK: &str = "[sinks.broker]\ntype = \"file\"\ndir = \"DIR/own\"\n";

#[test]
fn a_reload_never_replaces_something_configured_with_something_built_in() {
    let bench = Bench::new(&format!("data_dir = \"DIR/data\"\n{SOURCE}{SINK}"));
    let running = bench.start();
    bench.write("");
    let refused = bench.refused(&running);
    let keys: Vec<_> = refused.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["sources", "sinks"]);
    assert!(refused[0].1.contains("main") && refused[1].1.contains("broker"), "{refused:?}");
    bench.write(SOURCE);
    assert_eq!(bench.refused(&running).into_iter().map(|(key, _)| key).collect::<Vec<_>>(), ["sinks"]);
    bench.write(SINK);
    assert_eq!(bench.refused(&running).into_iter().map(|(key, _)| key).collect::<Vec<_>>(), ["sources"]);
    fs::remove_file(bench.path("config.toml")).expect("removed");
    assert!(bench.refused(&running)[0].1.contains("cannot be read"));
    // The same if nobody named the file: it was found at the start.
    assert!(reload(&running, None, &[]).is_err());
    assert!(!Path::new("data/webhook.secret").exists(), "a refused reload creates nothing");
    bench.write("");
    bench.load().expect("a start may use the built-in source and sink");
}

#[test]
fn a_reload_keeps_the_built_in_source_and_its_secret() {
    let bench = Bench::new("data_dir = \"DIR/data\"\n");
    let running = bench.start();
    let secret = |config: &Config| {
        let named = config.sources[0].secrets.iter().find(|named| matches!(named.from, SecretFrom::Generated(_)));
        named.and_then(|named| named.secret.clone())
    };
    // The emptied file loses data_dir too, which takes effect only at the next start.
    bench.write("");
    let new = reload(&running, Some(&bench.path("config.toml")), &[]).expect("accepted").config;
    assert!(secret(&new).is_some());
    assert_eq!((secret(&new), &new.sinks), (secret(&running), &running.sinks));
    assert_eq!(running.changes(&new).need_restart, ["data_dir"]);
    for spoil in [fs::remove_file as fn(PathBuf) -> _, |path| fs::write(path, "")] {
        spoil(bench.path("data/webhook.secret")).expect("spoiled");
        let refused = bench.refused(&running);
        assert!(refused[0].0.ends_with("webhook.secret") && refused[0].1.contains("stays"), "{refused:?}");
    }
    bench.write(&format!("data_dir = \"DIR/data\"\n{SOURCE}{SINK}"));
    reload(&running, Some(&bench.path("config.toml")), &[])
        .expect("something configured may replace something built in");
}

#[test]
fn a_value_that_returns_to_its_default_counts_as_taken_away() {
    let bench = Bench::new(&format!("{SOURCE}{SINK}actions = [\"loan\"]\n"));
    let running = bench.start();
    let taken_away = |text: &str| {
        bench.write(text);
        let new = reload(&running, Some(&bench.path("config.toml")), &[]).expect("accepted").config;
        running.changes(&new).taken_away
    };
    assert_eq!(taken_away(&format!("{SOURCE}{SINK}")), ["the value of sinks.broker.actions"]);
    assert_eq!(taken_away(&format!("{SOURCE}{SINK}actions = [\"*\"]\n")), [""; 0]);
    assert_eq!(taken_away(&format!("{SOURCE}[sinks.broker]\ntype = \"kafka\"\nactions = [\"*\"]\n")), [""; 0]);
    assert_eq!(taken_away(&format!("{SOURCE}{SINK}actions = [\"loan\"]\n[sinks.new]\ntype = \"kafka\"\n")), [""; 0]);
}

#[test]
fn two_file_sinks_never_share_a_folder() {
    let default = "[sinks.a]\ntype = \"file\"\n[sinks.b]\ntype = \"file\"\n";
    let (key, problem) = error(default);
    assert_eq!(key, "sinks.b.dir");
    assert!(problem.contains("data/topics") && problem.contains("sink a"), "{problem}");
    for dir in ["data/topics/", "./data/topics", "data/other/../topics"] {
        let (key, problem) = error(&format!("{default}dir = \"{dir}\"\n"));
        assert_eq!(key, "sinks.b.dir", "{problem}");
    }
    for dir in ["data/topics2", "data/topics/b", "topics"] {
        Bench::new(&format!("{default}dir = \"{dir}\"\n")).load().expect("a folder of its own");
    }
}

#[test]
fn only_one_sink_continues_another() {
    let text = "[sinks.a]\ntype = \"kafka\"\ncontinues = \"old\"\n[sinks.b]\ntype = \"nats\"\ncontinues = ";
    let (key, problem) = error(&format!("{text}\"old\"\n"));
    assert_eq!(key, "sinks.b.continues");
    assert!(problem.contains("old") && problem.contains("sink a"), "{problem}");
    Bench::new(&format!("{text}\"older\"\n")).load().expect("another name");
}
