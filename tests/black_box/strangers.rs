//! Clients without the secret get little, and keep nobody out.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::harness::{Bridge, Client, Setup, loan, request, wait_for};

#[test]
fn idle_and_half_sent_connections_give_way_to_almas() {
    let setup = Setup::new("[ingress]\nlisten = \"127.0.0.1:0\"\nmax_connections = 4\n");
    let bridge = setup.start();
    let mut alma = bridge.client();
    assert_eq!(alma.post("/webhooks", &loan(1)).status, 204);
    // Three connections that hold their places in different ways.
    let _idle = bridge.client();
    let mut half_head = bridge.client();
    half_head.write(b"POST /webhooks HTTP/1.1\r\nHost: b");
    let mut half_body = bridge.client();
    let whole = request("/webhooks", &loan(2));
    half_body.write(&whole[..whole.len() - 1]);
    for number in 3..10 {
        assert_eq!(bridge.post(&loan(number)).status, 204, "{number}");
    }
    assert_eq!(alma.post("/webhooks", &loan(10)).status, 204, "the one that carried a proven event stayed");
}

#[test]
fn a_body_of_1_gib_is_not_read() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let mut client = bridge.client();
    client.write(
        format!(
            "POST /webhooks HTTP/1.1\r\nHost: b\r\nX-Exl-Signature: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
            crate::harness::signature(b"")
        )
        .as_bytes(),
    );
    // Sends until it is refused: nine MiB exceed the limit, and the bridge never reads the rest.
    let chunk = [b"100000\r\n".to_vec(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
    let sent = (0..1_024).take_while(|_| client.try_write(&chunk)).count();
    assert!(sent < 64, "{sent} MiB were read");
    assert_eq!(client.try_answer().map(|answer| answer.status), Some(503));
    assert_eq!(bridge.post(&loan(1)).status, 204);
    let memory = bridge.memory_kib("VmRSS");
    assert!(memory < 100 * 1024, "{memory} KiB resident");
}

#[test]
fn large_bodies_of_strangers_leave_room_for_small_events() {
    let setup = Setup::new(
        "[ingress]\nlisten = \"127.0.0.1:0\"\nmax_body = \"1MiB\"\nbody_memory = \"8MiB\"\nbody_timeout = \"4s\"\n",
    );
    let bridge = setup.start();
    let head = format!(
        "POST /webhooks HTTP/1.1\r\nHost: b\r\nX-Exl-Signature: {}\r\nContent-Length: 1048576\r\n\r\n",
        crate::harness::signature(b"another")
    );
    let whole = [head.into_bytes(), vec![b' '; 1 << 20]].concat();
    // Eight bodies without their last byte: as much as the memory of all bodies.
    let strangers: Vec<Client> = (0..8)
        .map(|_| {
            let mut client = bridge.client();
            client.write(&whole[..whole.len() - 1]);
            client
        })
        .collect();
    // Until two of them are refused for lack of memory, a small event may still find some.
    wait_for("the large bodies to use up what they may", || {
        let refused = bridge.metric("alma_bridge_requests_total{source=\"alma\",outcome=\"unavailable\"}");
        (refused >= Some(2.0)).then_some(())
    });
    for number in 0..20 {
        let answer = bridge.post(&loan(number));
        assert_eq!(answer.status, 204, "event {number}: {}", answer.text());
    }
    drop(strangers);
}

#[test]
fn a_slow_body_holds_memory_only_for_the_bytes_that_it_sent() {
    let setup = Setup::new("[ingress]\nlisten = \"127.0.0.1:0\"\nbody_memory = \"8MiB\"\n");
    let bridge = setup.start();
    let slow: Vec<_> = (0..50)
        .map(|_| {
            let mut client = bridge.client();
            client.write(
                format!(
                    "POST /webhooks HTTP/1.1\r\nHost: b\r\nX-Exl-Signature: {}\r\nContent-Length: 8000000\r\n\r\n{{",
                    crate::harness::signature(b"")
                )
                .as_bytes(),
            );
            client
        })
        .collect();
    assert_eq!(bridge.post(&loan(1)).status, 204, "a claimed length reserves nothing");
    drop(slow);
    assert!(bridge.client().is_silent(Duration::from_millis(10)));
}

/// How long Alma waits.
const ALMAS_PATIENCE: Duration = Duration::from_secs(5);

/// The bridge's memory limit in KiB: 64 MiB of bodies, a thousand connections, and itself.
const MEMORY_BUDGET: u64 = 128 * 1024;

/// One of many clients without the secret. Returns the connection if it stays open.
fn stranger(bridge: &Bridge, number: usize) -> Option<Client> {
    let mut client = Client::try_connect(bridge.ingress)?;
    let signed = format!("X-Exl-Signature: {}", crate::harness::signature(b"another"));
    let head = format!("POST /webhooks HTTP/1.1\r\nHost: b\r\n{signed}\r\n");
    match number % 9 {
        // Says nothing.
        0 => {}
        1 => client.write(b"POST /webhooks HTTP/1.1\r\nHost: b\r\nX-A: "),
        2 => client.write(format!("{head}Content-Length: 8000000\r\n\r\n{{").as_bytes()),
        3 => {
            client.write(format!("{head}Content-Length: 100\r\n\r\n{{").as_bytes());
            client.end_of_sending();
        }
        4 => client.write(format!("{head}Content-Length: 2\r\n\r\n{{}}").repeat(20).as_bytes()),
        5 => client.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no HTTP at all \x00\xff\r\n\r\n"),
        // One reader would end the body by its length, and another by its chunks.
        6 => client.write(
            format!("{head}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nPOST /webhooks HTTP/1.1\r\n\r\n")
                .as_bytes(),
        ),
        7 => client.write(format!("{head}{}\r\n", "X-Long: y\r\n".repeat(2_000)).as_bytes()),
        _ => {
            client.write(format!("{head}Transfer-Encoding: chunked\r\n\r\n10000\r\n{}", "z".repeat(60_000)).as_bytes());
        }
    }
    Some(client)
}

#[test]
fn ten_thousand_strangers_delay_no_event_and_memory_stays_bounded() {
    const STRANGERS: usize = 10_000;
    const THREADS: usize = 4;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("as many files as may be");
    let setup = Setup::new("");
    let bridge = setup.start();
    let (met, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (slowest, good) = std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (bridge, met) = (&bridge, &met);
            scope.spawn(move || {
                let mut held = Vec::new();
                for number in (thread..STRANGERS).step_by(THREADS) {
                    held.extend(stranger(bridge, number));
                    met.fetch_add(1, Ordering::Relaxed);
                }
                held
            });
        }
        scope.spawn(|| {
            // 1 GiB of body, and a flood of wrong signatures, until the others are done.
            let chunk = [b"100000\r\n".to_vec(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
            let signed = crate::harness::signature(b"another");
            let endless = format!(
                "POST /webhooks HTTP/1.1\r\nHost: b\r\nX-Exl-Signature: {signed}\r\nTransfer-Encoding: chunked\r\n\r\n"
            );
            let wrong = format!(
                "POST /webhooks HTTP/1.1\r\nHost: b\r\nX-Exl-Signature: {signed}\r\nContent-Length: 2\r\n\r\n{{}}"
            );
            while !over.load(Ordering::Relaxed) {
                let Some(mut client) = Client::try_connect(bridge.ingress) else { continue };
                client.write(endless.as_bytes());
                let _ = (0..1_024).take_while(|_| client.try_write(&chunk)).count();
                for _ in 0..50 {
                    if let Some(mut client) = Client::try_connect(bridge.ingress) {
                        client.write(wrong.as_bytes());
                        let _ = client.try_answer();
                    }
                }
            }
        });
        let alma = scope.spawn(|| {
            let (mut slowest, mut good) = (Duration::ZERO, 0);
            let mut kept = bridge.client();
            while met.load(Ordering::Relaxed) < STRANGERS {
                // Alternately on its connection and on a new one.
                let begun = Instant::now();
                let body = loan(good);
                let answer = if good % 2 == 0 { kept.post("/webhooks", &body) } else { bridge.post(&body) };
                assert_eq!(answer.status, 204, "event {good}: {}", answer.text());
                slowest = slowest.max(begun.elapsed());
                good += 1;
            }
            over.store(true, Ordering::Relaxed);
            (slowest, good)
        });
        alma.join().expect("all events are answered")
    });
    let peak = bridge.memory_kib("VmHWM");
    println!("{STRANGERS} strangers: {good} events taken meanwhile, slowest {slowest:?}; at most {peak} KiB resident");
    assert!(good > 100, "{good}");
    assert!(slowest < ALMAS_PATIENCE, "{slowest:?}");
    assert!(peak < MEMORY_BUDGET, "{peak} KiB resident");
    wait_for("all good events to land", || (setup.landed("alma.loan").len() as u64 == good).then_some(()));
}

#[test]
fn a_body_of_the_maximum_size_is_stored_and_a_larger_one_is_not() {
    const MAX_BODY: usize = 8 << 20;
    let setup = Setup::new("");
    let bridge = setup.start();
    for (size, status) in [(MAX_BODY - 1, 204), (MAX_BODY, 204), (MAX_BODY + 1, 503)] {
        let mut body = loan(size as u64);
        body.resize(size, b' ');
        assert_eq!(bridge.post(&body).status, status, "{size} bytes");
        let chunked = [
            format!(
                "POST /webhooks HTTP/1.1\r\nHost: b\r\nX-Exl-Signature: {}\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n",
                crate::harness::signature(&body)
            )
            .as_bytes(),
            &body,
            b"\r\n0\r\n\r\n",
        ]
        .concat();
        assert_eq!(bridge.client().send(&chunked).status, status, "{size} bytes in chunks");
    }
}
