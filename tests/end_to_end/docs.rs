//! The sinks in docs/brokers.md and the subscribers in docs/subscribe.md, unchanged except for the broker's address.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::harness::brokers::{output, var};
use crate::harness::{PATIENCE, Setup, wait_for};
use crate::places::{Broker, rabbitmq_api, wait_until_delivered, wait_until_up};

const BROKERS: &str = include_str!("../../docs/brokers.md");
const SUBSCRIBE: &str = include_str!("../../docs/subscribe.md");

/// The first block of a language under a heading of a page.
fn block(page: &'static str, heading: &str, language: &str) -> &'static str {
    let section = page.split_once(&format!("\n## {heading}\n")).expect("a section").1;
    let section = section.split("\n## ").next().expect("a section");
    let block = section.split_once(&format!("```{language}\n")).expect("a block").1;
    block.split_once("```").expect("the block's end").0
}

/// A program from the docs; ended when dropped.
struct Subscriber {
    child: Child,
    lines: Receiver<String>,
    shown: String,
}

impl Subscriber {
    fn start(mut command: Command) -> Self {
        use std::os::unix::process::CommandExt as _;
        let mut child = command.stdout(Stdio::piped()).process_group(0).spawn().expect("it starts");
        let out = child.stdout.take().expect("piped");
        let (seen, lines) = channel();
        std::thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| seen.send(line))
        });
        Self { child, lines, shown: String::new() }
    }

    /// The Python subscriber of RabbitMQ, once its queue is bound: before that, it gets nothing.
    fn of_rabbitmq() -> Self {
        let (from, to) = rabbitmq();
        let mut python = Command::new(var("PYTHON"));
        python.args(["-c", &block(SUBSCRIBE, "RabbitMQ", "python").replace(from, &to)]);
        let subscriber = Self::start(python);
        wait_for("the queue to be bound", || {
            let bindings = rabbitmq_api("GET", "bindings/%2f/e/alma/q/my-service", &Value::Null);
            bindings.as_array().is_some_and(|bindings| !bindings.is_empty()).then_some(())
        });
        subscriber
    }

    /// Waits until it shows this.
    fn shows(&mut self, text: &str) {
        while !self.shown.contains(text) {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|error| panic!("{text}: {error}; it has shown:\n{}", self.shown));
            self.shown.extend([line.as_str(), "\n"]);
        }
    }
}

/// The broker's address in the docs, and the one here.
fn rabbitmq() -> (&'static str, String) {
    ("127.0.0.1:5672", var("RABBITMQ").split('/').nth(2).expect("a host").into())
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        // Alone in its group, so that what the shell has started goes too.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

fn a_subscriber_gets_the_event(broker: Broker) {
    let _alone = broker.alone();
    let (heading, (from, to)) = match broker {
        Broker::Kafka => ("Apache Kafka", ("127.0.0.1:9092", var("KAFKA"))),
        Broker::RabbitMq => ("RabbitMQ", rabbitmq()),
        Broker::Nats => ("NATS JetStream", ("nats://127.0.0.1:4222", var("NATS"))),
    };
    let sink = block(BROKERS, heading, "toml").replace(from, &to);
    assert!(sink.lines().count() == 4 && sink.contains(&to), "{sink}");
    let setup = Setup::new(&sink);
    let bridge = setup.start();
    wait_until_up(&bridge, "main", broker);
    let send = || assert_eq!(bridge.post(include_bytes!("samples/job_end_2024.json")).status, 204);
    let mut subscriber = if broker == Broker::RabbitMq {
        let subscriber = Subscriber::of_rabbitmq();
        send();
        subscriber
    } else {
        send();
        wait_until_delivered(&bridge, "main");
        let mut shell = Command::new("sh");
        let programs = ["KCAT", "NATS_CLI"].map(|name| Path::new(&var(name)).parent().expect("a folder").to_owned());
        let path = std::env::join_paths(
            programs.iter().cloned().chain(std::env::split_paths(&std::env::var_os("PATH").expect("a path"))),
        );
        shell.args(["-ec", &block(SUBSCRIBE, heading, "sh").replace(from, &to)]);
        shell.env("PATH", path.expect("a path")).env("NATS_URL", var("NATS"));
        Subscriber::start(shell)
    };
    subscriber.shows("900000000001235");
}

/// A subscriber that dies on an event gets it again at every start.
#[test]
fn the_rabbitmq_subscriber_survives_what_send_sends_and_a_restart() {
    let _alone = Broker::RabbitMq.alone();
    let (from, to) = rabbitmq();
    let setup = Setup::new(&block(BROKERS, "RabbitMQ", "toml").replace(from, &to));
    let bridge = setup.start();
    wait_until_up(&bridge, "main", Broker::RabbitMq);
    let ids = |arguments: &[&str]| -> Vec<String> {
        let sent = setup.done(arguments);
        let jobs = sent.lines().filter(|line| line.contains(" job_end"));
        jobs.map(|line| line.split_whitespace().last().expect("an id").to_owned()).collect()
    };
    let mut subscriber = Subscriber::of_rabbitmq();
    let sent = ids(&["send"]);
    assert_eq!(sent.len(), 2, "as JSON and as XML: {sent:?}");
    for id in sent {
        subscriber.shows(&id);
    }
    subscriber.shows("COMPLETED_SUCCESS");
    drop(subscriber);
    let mut again = Subscriber::of_rabbitmq();
    for id in ids(&["send", "job_end_xml", "job_end"]) {
        again.shows(&id);
    }
}

crate::on_each_broker!(a_subscriber_gets_the_event);

#[test]
fn the_consumer_that_drops_repeats_works_once_an_event() {
    let folder = tempfile::tempdir().expect("a folder");
    let tried = "
for event in [dict(source='/a', id='1'), dict(source='/a', id='2'), dict(source='/a', id='1'), dict(source='/b', id='1')]:
    once(event, lambda event: print(event['source'], event['id']))
def fails(event):
    raise ValueError
try:
    once(dict(source='/a', id='3'), fails)
except ValueError:
    once(dict(source='/a', id='3'), lambda event: print('again', event['id']))
";
    // Twice: the second time it knows all from the first.
    let run = || {
        let program = format!("{}{tried}", block(SUBSCRIBE, "Repeats", "python"));
        output(Command::new(var("PYTHON")).args(["-c", &program]).current_dir(folder.path()))
    };
    assert_eq!(run(), "/a 1\n/a 2\n/b 1\nagain 3\n");
    assert_eq!(run(), "");
}
