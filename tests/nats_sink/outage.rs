//! A server that dies, hangs, is not there, and comes back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use alma_bridge::sinks::{Class, Outcome, Reason, Sink};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::support::{Place, SERVER, brokers, deliver, deliver_though_killed, reason, timed};

/// Events enough to be still on their way when the server dies.
const LOAD: usize = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_lands_though_the_server_is_killed_under_load() {
    let _alone = SERVER.write().await;
    let place = Place::new();
    let sink = place.connected().await;
    deliver_though_killed(sink, place.events("loan", LOAD), "nats").await;
    let landed = place.read();
    let unique: BTreeSet<&str> = landed.iter().map(crate::support::Stored::id).collect();
    assert_eq!((landed.len(), unique.len()), (LOAD, LOAD), "each once");
}

/// Well before an acknowledgement's time is up.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Passes bytes on and counts them.
async fn pass(from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>, passed: &AtomicUsize) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        passed.fetch_add(count, Ordering::Relaxed);
    }
}

/// The client itself tells acknowledgements that will never come only when their time is up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_a_dead_server_held_fails_at_once() {
    let _alone = SERVER.write().await;
    let place = Place::new();
    let mut sink = place.connected().await;
    assert_eq!(sink.publish(&place.events("loan", 1)).await, [Outcome::CONFIRMED]);
    brokers(&["stop", "nats"]);
    let window = place.events("loan", 513).split_off(1);
    let kill = || {
        brokers(&["kill", "nats"]);
        Instant::now()
    };
    // The window is on its way before the other is looked at.
    let published = async { (sink.publish(&window).await, Instant::now()) };
    let ((outcomes, failed), killed) = tokio::join!(biased; published, tokio::task::spawn_blocking(kill));
    let killed = killed.expect("killed");
    assert!(failed < killed + AT_ONCE, "{:?}", failed - killed);
    for outcome in &outcomes {
        assert_eq!(reason(outcome).map(Reason::class), Some(Class::Retry), "{outcome:?}");
    }
    let ((), abandoned) = timed(sink.abandon()).await;
    assert!(!sink.is_up());
    let (failure, refused) = timed(sink.connect()).await;
    assert_eq!(failure.expect_err("the server is dead").reason, Reason::Unreachable);
    assert!(abandoned + refused < Duration::from_secs(1), "{abandoned:?} {refused:?}");
    // Not connected, it refuses and does not hang.
    let (outcomes, took) = timed(sink.publish(&window)).await;
    assert!(outcomes.iter().all(|outcome| reason(outcome) == Some(Reason::Unreachable)), "{outcomes:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    brokers(&["start", "nats"]);
    deliver(&mut sink, &window, &AtomicUsize::new(0)).await;
    assert!(sink.is_up());
    let landed = place.read();
    let unique: BTreeSet<&str> = landed.iter().map(crate::support::Stored::id).collect();
    assert_eq!((landed.len(), unique.len()), (513, 513));
}

/// The client itself goes on waiting, for its connection and then for acknowledgements that nobody will send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_whose_connection_is_cut_fails_at_once() {
    let _alone = SERVER.write().await;
    let mut place = Place::new();
    let server = place.settings.servers[0].trim_start_matches("nats://").to_owned();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    place.settings.servers = vec![format!("nats://{}", listener.local_addr().expect("an address"))];
    let (cut, _) = tokio::sync::broadcast::channel::<()>(1);
    let passed = Arc::new(AtomicUsize::new(0));
    let proxy = tokio::spawn({
        let (cut, seen) = (cut.clone(), Arc::clone(&passed));
        async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut cut, mut far) =
                    (cut.subscribe(), tokio::net::TcpStream::connect(&server).await.expect("the server listens"));
                let passed = Arc::clone(&seen);
                tokio::spawn(async move {
                    let (mut near, mut far) = (near.split(), far.split());
                    tokio::select! {
                        () = pass(&mut near.0, &mut far.1, &passed) => {}
                        _ = tokio::io::copy(&mut far.0, &mut near.1) => {}
                        _ = cut.recv() => {}
                    }
                });
            }
        }
    });
    let mut sink = place.connected().await;
    assert_eq!(sink.publish(&place.events("loan", 1)).await, [Outcome::CONFIRMED]);
    brokers(&["stop", "nats"]);
    let window = place.events("loan", 513).split_off(1);
    let before = passed.load(Ordering::Relaxed);
    let cutting = tokio::spawn(async move {
        while passed.load(Ordering::Relaxed) < before + 10_000 {
            tokio::task::yield_now().await;
        }
        cut.send(()).expect("the proxy runs");
    });
    let (outcomes, took) = timed(sink.publish(&window)).await;
    brokers(&["cont", "nats"]);
    cutting.await.expect("cut");
    assert!(took < AT_ONCE, "{took:?}");
    for outcome in &outcomes {
        assert_eq!(reason(outcome), Some(Reason::Unreachable), "{outcome:?}");
    }
    deliver(&mut sink, &window, &AtomicUsize::new(0)).await;
    assert_eq!(place.read().len(), 513, "each once");
    proxy.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_left_within_the_deadline() {
    let _alone = SERVER.write().await;
    let place = Place::new();
    let mut sink = place.connected().await;
    assert_eq!(sink.publish(&place.events("loan", 1)).await, [Outcome::CONFIRMED]);
    brokers(&["stop", "nats"]);
    let mut window = place.events("loan", 100).split_off(1);
    window.push(place.event("bib", 100, 10));
    let (outcomes, took) = timed(tokio::time::timeout(sink.deadline(), sink.publish(&window))).await;
    let ((), abandoned) = timed(sink.abandon()).await;
    brokers(&["cont", "nats"]);
    let outcomes = outcomes.expect("the sink gives up before the pump does");
    assert!(took < Duration::from_secs(20) && abandoned < Duration::from_secs(1), "{took:?} {abandoned:?}");
    for outcome in &outcomes {
        assert_eq!(reason(outcome).map(Reason::class), Some(Class::Retry), "{outcome:?}");
    }
    deliver(&mut sink, &window, &AtomicUsize::new(0)).await;
    assert_eq!(place.read().len(), 101, "the server took up what it had in its buffer, and knew it again");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_quickly() {
    let mut place = Place::new();
    place.settings.servers = vec!["nats://127.0.0.1:1".into(), "nats://127.0.0.1:2".into()];
    let mut sink = place.sink();
    let (failure, took) = timed(sink.connect()).await;
    let failure = failure.expect_err("nobody listens");
    assert_eq!(failure.reason, Reason::Unreachable, "{failure}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    // One of several is enough.
    let _shared = SERVER.read().await;
    place.settings.servers.push(crate::support::var("NATS"));
    place.connected().await;
}
