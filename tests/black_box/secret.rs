//! A new secret: the running bridge accepts it before it is shown, and the one that Alma uses never ends.

use std::cell::Cell;
use std::fs;

use crate::harness::{Bridge, Setup, client_with_secret, loan, text};

/// The built-in source. The harness would configure its own.
const BUILT_IN: &str = "# instead of [sources.alma]\n";

/// What `secret` prints with these arguments.
fn secret(setup: &Setup, arguments: &[&str]) -> String {
    setup.done(&[&["secret"][..], arguments].concat()).trim().to_owned()
}

/// Sends events with a secret, a new one each time.
struct Alma<'a> {
    bridge: &'a Bridge,
    number: Cell<u64>,
}

impl<'a> Alma<'a> {
    fn new(bridge: &'a Bridge) -> Self {
        Self { bridge, number: Cell::new(0) }
    }

    fn post(&self, secret: &str) -> u16 {
        self.number.set(self.number.get() + 1);
        client_with_secret(self.bridge.ingress, secret, &loan(self.number.get())).status
    }
}

fn last_used(bridge: &Bridge, secret: &str) -> f64 {
    let labels = format!("{{source=\"alma\",secret=\"{secret}\"}}");
    bridge.metric(&format!("alma_bridge_secret_last_used_timestamp_seconds{labels}")).expect("a time")
}

#[test]
fn directly_after_a_new_secret_both_the_old_and_the_new_one_are_accepted() {
    let setup = Setup::new(BUILT_IN);
    let bridge = setup.start();
    let alma = Alma::new(&bridge);
    let first = secret(&setup, &[]);
    assert_eq!(alma.post(&first), 204);
    let output = setup.command(&["secret", "--new"]);
    let (second, said) = (text(&output.stdout).trim().to_owned(), text(&output.stderr));
    // Without any wait.
    assert_eq!((alma.post(&second), alma.post(&first)), (204, 204), "{said}");
    assert!(said.contains("now paste this into Alma. The old secret stays valid until the next --new"), "{said}");
    assert_eq!(secret(&setup, &[]), second);
}

#[test]
fn a_second_new_secret_is_refused_until_alma_uses_the_first() {
    let setup = Setup::new(BUILT_IN);
    let bridge = setup.start();
    let alma = Alma::new(&bridge);
    let first = secret(&setup, &[]);
    assert_eq!(alma.post(&first), 204);
    let second = secret(&setup, &["--new"]);
    // The time of last use moves with a secret to its new name.
    assert!(last_used(&bridge, "default") == 0.0 && last_used(&bridge, "previous") > 0.0);
    for used in [None, Some(&first)] {
        if let Some(secret) = used {
            assert_eq!(alma.post(secret), 204);
        }
        let said = setup.fails(1, &["secret", "--new"]);
        assert!(said.contains("Alma still uses the older secret"), "{said}");
        assert!(said.contains("alma-bridge secret --revoke"), "the way out: {said}");
        assert_eq!((secret(&setup, &[]), alma.post(&first)), (second.clone(), 204));
    }
    assert_eq!(alma.post(&second), 204);
    assert!(bridge.status()["sources"][0]["secrets_last_used"]["default"].is_string());
    let third = secret(&setup, &["--new"]);
    assert_eq!((alma.post(&first), alma.post(&second), alma.post(&third)), (401, 204, 204));
}

#[test]
fn an_interrupted_new_secret_does_not_end_one_that_alma_uses() {
    let setup = Setup::new(BUILT_IN);
    let bridge = setup.start();
    let alma = Alma::new(&bridge);
    let first = secret(&setup, &[]);
    assert_eq!(alma.post(&first), 204);
    // The bridge calls it `default` until it loads these files.
    setup.write_secret("data/webhook.secret.previous", &first);
    setup.write_secret("data/webhook.secret", "never-shown-to-anybody");
    let said = setup.fails(1, &["secret", "--new"]);
    assert!(said.contains("Alma still uses the older secret"), "{said}");
    assert_eq!(alma.post(&first), 204);
}

#[test]
fn if_the_use_of_a_secret_is_unknown_it_is_not_ended() {
    let setup = Setup::new(BUILT_IN);
    let first = secret(&setup, &[]);
    let output = setup.command(&["secret", "--new"]);
    let (second, said) = (text(&output.stdout).trim().to_owned(), text(&output.stderr));
    assert!(said.contains("no bridge runs. Start it") && said.contains("before you paste this"), "{said}");
    let said = setup.fails(1, &["secret", "--new"]);
    assert!(said.contains("no bridge runs, and only a running one knows"), "{said}");
    let bridge = setup.start();
    let alma = Alma::new(&bridge);
    let said = setup.fails(1, &["secret", "--new"]);
    assert!(said.contains("no event has come since the bridge started"), "{said}");
    assert_eq!((alma.post(&first), alma.post(&second)), (204, 204));
    // --revoke ends the older one at once, but asks first if Alma may use it.
    assert_eq!(alma.post(&first), 204);
    for _ in 0..2 {
        let said = setup.fails(2, &["secret", "--revoke"]);
        assert!(said.contains("Alma still uses the older secret") && said.contains("add --yes"), "{said}");
        assert!(!said.contains("is removed"), "{said}");
        assert_eq!((alma.post(&first), alma.post(&second), alma.post(&first)), (204, 204, 204), "nothing changed");
    }
    let output = setup.command(&["secret", "--revoke", "--yes"]);
    let said = text(&output.stderr);
    assert_eq!((alma.post(&first), alma.post(&second)), (401, 204), "{said}");
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(said.contains("the running bridge no longer accepts it"), "{said}");
    assert!(said.contains("Alma still uses the older secret") && said.contains("previous secret is removed"), "{said}");
    let third = secret(&setup, &["--new"]);
    assert_eq!((alma.post(&second), alma.post(&third)), (204, 204));
}

#[test]
fn a_secret_that_the_bridge_does_not_load_is_not_shown() {
    let setup = Setup::new(&format!("{BUILT_IN}[sinks.main]\ntype = \"file\"\n"));
    let bridge = setup.start();
    let alma = Alma::new(&bridge);
    let first = secret(&setup, &[]);
    assert_eq!(alma.post(&first), 204);
    // The file is valid, but a reload never replaces a configured sink with the built-in one.
    setup.configure(BUILT_IN);
    let output = setup.command(&["secret", "--new"]);
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{said}");
    for part in ["reload refused", "sinks", "would not accept it", "the old secret stays valid"] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    assert_eq!((secret(&setup, &[]), alma.post(&first)), (first.clone(), 204));
    assert!(!setup.data().join("webhook.secret.previous").exists());
}

#[test]
fn a_bridge_that_reads_other_secrets_is_noticed_and_nothing_changes() {
    let setup = Setup::new("");
    let bridge = setup.start();
    // The same data_dir and listeners, but a file other than the bridge's.
    let data = setup.data().display().to_string();
    fs::write(
        setup.path("other.toml"),
        format!("data_dir = \"{data}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[ingress]\nlisten = \"127.0.0.1:0\"\n"),
    )
    .expect("written");
    let run = |arguments: &[&str]| {
        let mut command = crate::harness::binary();
        command.arg("secret").args(arguments).arg("--config").arg(setup.path("other.toml")).output().expect("runs")
    };
    let made = text(&run(&[]).stdout);
    let output = run(&["--new"]);
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{said}");
    assert!(said.contains("does not read this source's secrets") && said.contains("config.toml"), "{said}");
    assert_eq!(text(&run(&[]).stdout), made, "undone");
    assert!(!setup.data().join("webhook.secret.previous").exists());
    assert_eq!(bridge.post(&loan(1)).status, 204);
}

#[test]
fn a_source_with_its_own_secrets_gets_the_line_to_write() {
    let setup = Setup::new("");
    let output = setup.command(&["secret", "--new"]);
    let (fresh, said) = (text(&output.stdout), text(&output.stderr));
    let file = setup.path("secret").display().to_string();
    let line = format!(
        "secrets = [{{ name = \"current\", file = \"{file}\" }}, {{ name = \"next\", file = \"{file}.next\" }}]"
    );
    assert!(said.contains("not stored anywhere: add it to source alma:"), "{said}");
    assert!(said.contains(&line), "{said}");
    // The line works.
    let bridge = setup.start();
    setup.write_secret("secret.next", &fresh);
    setup.configure(&format!("[sources.alma]\npath = \"/webhooks\"\n{line}\n"));
    setup.done(&["reload"]);
    assert_eq!(Alma::new(&bridge).post(fresh.trim()), 204);
    assert_eq!(bridge.post(&loan(2)).status, 204);
}

#[test]
fn every_start_says_where_to_paste_the_secret_and_the_first_that_it_was_generated() {
    let setup = Setup::new(BUILT_IN);
    let generated = |log: &str| log.matches("the secret was generated").count();
    let where_it_goes = |log: &str| log.matches("paste it into Alma's integration profile").count();
    for starts in 1..=2 {
        let bridge = setup.start();
        let log = bridge.log();
        assert_eq!((generated(&log), where_it_goes(&log)), (1, starts), "{log}");
        assert_eq!(log.matches("`alma-bridge secret`").count(), starts);
        assert!(bridge.stop().success());
    }
}
