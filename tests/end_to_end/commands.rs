//! What a person types, on each broker: `check --connect`, `demo --config`, `tail`, `send`.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};

use crate::harness::{PATIENCE, Setup, binary, text};
use crate::places::{Away, Broker, Place, wait_until_up};

fn check_tells_that_all_is_well(broker: Broker) {
    let _shared = broker.shared();
    let place = Place::new(broker);
    let setup = Setup::new(&place.sink("main"));
    let checked = setup.command(&["check", "--connect"]);
    let said = text(&checked.stdout);
    assert_eq!(checked.status.code(), Some(0), "{said}{}", text(&checked.stderr));
    assert!(said.contains(&format!("sink main ({})", broker.name())) && !said.contains("FAIL"), "{said}");
    assert!(said.contains("reached"), "{said}");
}

fn check_tells_what_to_do_about_a_broker_that_is_down(broker: Broker) {
    let _alone = broker.alone();
    let setup = Setup::new(&Place::new(broker).sink("main"));
    let _away = Away::ended(broker);
    let checked = setup.command(&["check", "--connect"]);
    let said = text(&checked.stdout);
    assert_eq!(checked.status.code(), Some(1), "{said}{}", text(&checked.stderr));
    let line = said.lines().find(|line| line.contains("reached")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.trim_start().starts_with("FAIL"), "{said}");
}

fn demo_shows_every_sample_as_it_lands(broker: Broker) {
    let _shared = broker.shared();
    let place = Place::new(broker);
    let setup = Setup::new(&place.sink("main"));
    let shown = setup.command(&["demo"]);
    let said = text(&shown.stdout);
    assert_eq!(shown.status.code(), Some(0), "{said}{}", text(&shown.stderr));
    for action in ["job_end", "loan", "request", "bib", "item", "user", "notification", "new_action"] {
        assert!(said.contains(&place.topic(action)), "{action}: {said}");
    }
}

/// `tail`, ended when dropped.
struct Tail {
    child: Child,
    lines: Receiver<String>,
}

impl Tail {
    /// Returns once it reads.
    fn start(setup: &Setup, arguments: &[&str]) -> Self {
        let mut command = binary();
        command.arg("tail").args(arguments).arg("--config").arg(setup.path("config.toml"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let (seen, lines) = channel();
        let out = child.stdout.take().expect("piped");
        std::thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| seen.send(line))
        });
        let mut said = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("it says something");
        assert!(line.starts_with("reading sink main"), "{line}");
        Self { child, lines }
    }

    /// The next document.
    fn next(&self) -> serde_json::Value {
        let line = self.lines.recv_timeout(PATIENCE).expect("an event is shown");
        serde_json::from_str(&line).expect("a document")
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tail_shows_what_send_sends(broker: Broker) {
    let _shared = broker.shared();
    let place = Place::new(broker);
    let setup = Setup::new(&place.sink("main"));
    let bridge = setup.start();
    wait_until_up(&bridge, "main", broker);
    let send = |what: &str| {
        let sent = setup.command(&["send", what]);
        assert!(sent.status.success(), "{}", text(&sent.stderr));
    };
    let from_start = broker != Broker::RabbitMq;
    if from_start {
        send("loan");
    } else {
        // RabbitMQ keeps nothing for new readers, and says so.
        let refused = setup.command(&["tail", "--from-start"]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(text(&refused.stderr).contains("RabbitMQ keeps no events for new readers"));
    }
    let tail = Tail::start(&setup, if from_start { &["--from-start"] } else { &[] });
    if from_start {
        assert_eq!(tail.next()["almaaction"], "LOAN");
    }
    // RabbitMQ lists no topics; the template tells what can come.
    let refused = setup.command(&["tail", "loan"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = text(&refused.stderr);
    let named = if from_start {
        "unknown topic \"loan\"; there are: "
    } else {
        "unknown topic \"loan\"; the topics of this sink are: "
    };
    assert!(said.contains(named) && said.contains(".loan"), "{said}");
    send("BIB");
    assert_eq!(tail.next()["almaaction"], "BIB");
}

crate::on_each_broker!(
    check_tells_that_all_is_well,
    check_tells_what_to_do_about_a_broker_that_is_down,
    demo_shows_every_sample_as_it_lands,
    tail_shows_what_send_sends,
);
