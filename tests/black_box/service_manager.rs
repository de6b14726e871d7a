//! What systemd is told, and the sockets that it hands over. The tests play systemd.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use rustix::process::Signal;

use crate::harness::{Client, PATIENCE, Setup, loan, number_of, request, wait_for};

/// The end of `NOTIFY_SOCKET` that systemd reads.
struct Notifications(UnixDatagram);

impl Notifications {
    /// For the bridges that are started from now on.
    fn of(setup: &mut Setup) -> Self {
        let path = setup.path("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        setup.environment("NOTIFY_SOCKET", &path.display().to_string());
        Self(socket)
    }

    /// The next message; its lines.
    fn next(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let length = self.0.recv(&mut message).expect("a message in time");
        let text = std::str::from_utf8(&message[..length]).expect("UTF-8");
        text.lines().map(str::to_owned).collect()
    }

    /// All messages up to the first one with a line that begins so.
    fn until(&self, beginning: &str) -> Vec<Vec<String>> {
        let mut messages = Vec::new();
        loop {
            messages.push(self.next());
            if messages.last().is_some_and(|lines| lines.iter().any(|line| line.starts_with(beginning))) {
                return messages;
            }
        }
    }
}

#[test]
fn systemd_hears_of_start_reloads_stop_and_life() {
    let mut setup = Setup::new("");
    let notifications = Notifications::of(&mut setup);
    setup.environment("WATCHDOG_USEC", "200000");
    let bridge = setup.start_unready(&[]);

    let ready = notifications.until("READY=1").pop().expect("a message");
    assert_eq!(bridge.admin_get("/readyz").status, 200, "it says so once it is so");
    assert_eq!(ready, ["READY=1".to_owned(), format!("STATUS=taking events on {}", bridge.ingress)]);
    for _ in 0..3 {
        notifications.until("WATCHDOG=1");
    }

    // A reload ends with READY=1 even if the bridge refuses it: systemd would wait for it otherwise.
    for (broken, status) in [(false, 200), (true, 422)] {
        if broken {
            fs::write(setup.path("config.toml"), "nonsense").expect("written");
        }
        assert_eq!(bridge.post_reload(&setup).status, status);
        let reloading = notifications.until("RELOADING=1").pop().expect("a message");
        let now: u128 = reloading[1].strip_prefix("MONOTONIC_USEC=").expect("a time").parse().expect("a number");
        assert!(now > 0);
        notifications.until("READY=1");
    }
    notifications.until("STATUS=taking events on ");

    bridge.signal(Signal::TERM);
    let last = notifications.until("STOPPING=1");
    assert!(!last.concat().contains(&"READY=1".to_owned()), "{last:?}");
}

#[test]
fn a_start_that_waits_is_not_reported_as_done() {
    let mut setup = Setup::new("");
    let holder = setup.start();
    let notifications = Notifications::of(&mut setup);
    let waiting = setup.start_beside();
    let before = notifications.until("STATUS=not ready: ").concat();
    assert!(!before.contains(&"READY=1".to_owned()), "{before:?}");
    assert!(holder.stop().success());
    notifications.until("READY=1");
    assert!(waiting.stop().success());
}

/// systemd gives a start 90 s. Without a journal it can take as long as the broker is down.
#[test]
fn a_start_that_waits_for_a_broker_gets_more_time() {
    let sink = "[journal]\nstorage = \"none\"\n[sinks.main]\ntype = \"nats\"\nservers = [\"nats://127.0.0.1:1\"]\n";
    let mut setup = Setup::new(sink);
    let notifications = Notifications::of(&mut setup);
    let bridge = setup.start_unready(&[]);
    let mut before = notifications.until("EXTEND_TIMEOUT_USEC=30000000").concat();
    before.extend(notifications.until("EXTEND_TIMEOUT_USEC=30000000").concat());
    assert!(!before.contains(&"READY=1".to_owned()), "{before:?}");
    assert!(bridge.stop().success());
}

/// Sends events, each on a connection of its own, until told to stop: the numbers of those that were sent.
fn send_events(address: std::net::SocketAddr, next: &Arc<AtomicU64>, stop: &Arc<AtomicBool>) -> JoinHandle<Vec<u64>> {
    let (next, stop) = (Arc::clone(next), Arc::clone(stop));
    std::thread::spawn(move || {
        let mut sent = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let mut client = Client::try_connect(address).expect("no connection is refused");
            client.write(&request("/webhooks", &loan(number)));
            let answer = client.try_answer().expect("no connection ends without an answer");
            assert_eq!(answer.status, 204, "event {number}");
            sent.push(number);
        }
        sent
    })
}

#[test]
fn an_upgrade_refuses_no_connection() {
    let setup = Setup::new("");
    let [ingress, admin] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("bound"));
    let address = ingress.local_addr().expect("an address");
    let mut bridge = setup.start_with_sockets(&ingress, &admin);
    assert_eq!(bridge.ingress, address, "it says where it listens");
    let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let load: Vec<_> = (0..8).map(|_| send_events(address, &next, &stop)).collect();
    for upgrade in 1..=3 {
        let before = next.load(Ordering::Relaxed);
        wait_for("some events", || (next.load(Ordering::Relaxed) > before + 100).then_some(()));
        assert_eq!(bridge.stop().code(), Some(0), "upgrade {upgrade}");
        // Nobody runs, and the kernel queues what arrives.
        let mut operator = Client::connect(admin.local_addr().expect("an address"));
        bridge = setup.start_with_sockets(&ingress, &admin);
        assert_eq!(operator.exchange(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").status, 200);
    }
    let before = next.load(Ordering::Relaxed);
    wait_for("events after the last upgrade", || (next.load(Ordering::Relaxed) > before + 100).then_some(()));
    stop.store(true, Ordering::Relaxed);
    let sent: BTreeSet<u64> =
        load.into_iter().flat_map(|worker| worker.join().expect("no connection failed")).collect();
    wait_for("every event to land", || {
        let landed: BTreeSet<u64> = setup.landed("alma.loan").iter().map(number_of).collect();
        sent.is_subset(&landed).then_some(())
    });
}

/// The client has connected, and its request is on the way when the listener closes.
#[test]
fn the_first_request_of_a_new_connection_is_answered_during_a_stop() {
    let setup = Setup::new("");
    let mut bridge = setup.start();
    let mut client = bridge.client();
    let accepted = "alma_bridge_connections{listener=\"ingress\"}";
    wait_for("the connection to be accepted", || (bridge.metric(accepted) == Some(1.0)).then_some(()));
    bridge.signal(Signal::TERM);
    wait_for("the listener to close", || Client::try_connect(bridge.ingress).is_none().then_some(()));
    assert_eq!(client.post("/webhooks", &loan(1)).status, 204);
    assert_eq!(bridge.ended().code(), Some(0));
}

#[test]
fn sockets_that_are_not_ours_are_refused_with_the_remedy() {
    for (names, expected) in [
        ("http", "hands over a socket named \"http\", expected \"ingress\" or \"admin\""),
        ("ingress:ingress", "hands over two sockets named \"ingress\""),
    ] {
        let setup = Setup::new("");
        let socket = TcpListener::bind("127.0.0.1:0").expect("bound");
        let stream = || std::os::fd::OwnedFd::from(socket.try_clone().expect("cloned"));
        let run = setup.prepared(&["run"]);
        let mut command = std::process::Command::new("sh");
        let hand_over = "exec 3<&0 4<&0; export LISTEN_PID=$$ LISTEN_FDS=$1; shift; exec \"$@\"";
        command.args(["-c", hand_over, "sh", &names.split(':').count().to_string()]);
        command.arg(run.get_program()).args(run.get_args()).env("LISTEN_FDNAMES", names).stdin(stream());
        let output = command.output().expect("runs");
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(said.contains(expected), "{said}");
    }
}
