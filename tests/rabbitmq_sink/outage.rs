//! A broker that dies, hangs, blocks, and comes back.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use alma_bridge::sinks::{Reason, Sink};

use crate::support::{
    Alarm, BROKER, bind, brokers, connected, deliver, deliver_though_killed, events, fresh, read_ids, reasons,
    settings, sink, sync_metadata,
};
use crate::wait::wait_up_to;

/// No thread of the client is left, whatever the broker does.
fn threads_end() {
    let count = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("lapin")).count()
    };
    let begun = Instant::now();
    while count() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(5), "{} threads of lapin stay", count());
        std::thread::yield_now();
    }
}

/// Events enough to be still on their way when the broker dies.
const LOAD: usize = 30_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_lands_though_the_broker_is_killed_under_load() {
    let _alone = BROKER.write().await;
    let exchange = fresh();
    let sink = connected(&settings(&exchange)).await;
    // Not a quorum queue: RabbitMQ 4.0 forgets one that is killed a second after it was made, and never confirms then.
    bind(&exchange, &exchange, "alma.loan");
    sync_metadata();
    deliver_though_killed(sink, events("alma.loan", LOAD), "rabbitmq").await;
    let ids = read_ids(&exchange);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), LOAD);
    println!("{} repeats", ids.len() - LOAD);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_is_noticed_at_once_and_between_windows_too() {
    let _alone = BROKER.write().await;
    let exchange = fresh();
    let mut live = connected(&settings(&exchange)).await;
    assert!(live.is_up());
    brokers(&["term", "rabbitmq"]);
    wait_up_to(Duration::from_secs(5), "the death to be noticed", || (!live.is_up()).then_some(()));
    let outcomes = live.publish(&events("alma.loan", 3)).await;
    assert_eq!(reasons(&outcomes), [Some(Reason::Unreachable); 3], "{outcomes:?}");
    let failure = sink(&settings(&exchange)).connect().await.expect_err("the broker is gone");
    assert_eq!(failure.reason, Reason::Unreachable);
    brokers(&["start", "rabbitmq"]);
    deliver(&mut live, &events("alma.loan", 3), &AtomicUsize::new(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_hangs_is_left_within_the_deadline() {
    let _alone = BROKER.write().await;
    let exchange = fresh();
    let mut sink = connected(&settings(&exchange)).await;
    brokers(&["stop", "rabbitmq"]);
    let window = events("alma.loan", 100);
    let begun = Instant::now();
    let outcomes = tokio::time::timeout(sink.deadline(), sink.publish(&window)).await;
    let took = begun.elapsed();
    let begun = Instant::now();
    sink.abandon().await;
    let abandoned = begun.elapsed();
    threads_end();
    // In the middle of a login too.
    let failure = sink.connect().await.expect_err("nobody answers");
    let connecting = begun.elapsed();
    threads_end();
    brokers(&["cont", "rabbitmq"]);
    let outcomes = outcomes.expect("the sink gives up before the pump does");
    assert!(took >= Duration::from_secs(15) && abandoned < Duration::from_millis(500), "{took:?} {abandoned:?}");
    assert!(reasons(&outcomes).iter().all(|reason| matches!(reason, Some(Reason::Timeout | Reason::Unreachable))));
    assert_eq!(failure.reason, Reason::Unreachable, "{failure}");
    assert!(connecting < Duration::from_secs(12), "{connecting:?}");
    deliver(&mut sink, &window, &AtomicUsize::new(0)).await;
    let ids: BTreeSet<String> = read_ids(&format!("{exchange}.unrouted")).into_iter().collect();
    assert_eq!(ids.len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_blocks_publishers_is_busy_and_all_lands_later() {
    let _alone = BROKER.write().await;
    let exchange = fresh();
    let mut sink = connected(&settings(&exchange)).await;
    assert_eq!(reasons(&sink.publish(&events("alma.loan", 1)).await), [None]);
    let alarm = Alarm::set();
    let window = events("alma.loan", 600);
    let outcomes = tokio::time::timeout(sink.deadline(), sink.publish(&window)).await.expect("within the deadline");
    assert_eq!(reasons(&outcomes), vec![Some(Reason::Busy); 600], "{:?}", outcomes[0]);
    let begun = Instant::now();
    sink.abandon().await;
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    threads_end();
    sink.connect().await.expect("one may connect");
    // A window that the pump's deadline drops in the middle.
    let dropped = tokio::time::timeout(Duration::from_secs(1), sink.publish(&window)).await;
    assert!(dropped.is_err(), "nobody confirms");
    sink.abandon().await;
    threads_end();
    sink.connect().await.expect("one may connect");
    drop(alarm);
    deliver(&mut sink, &window, &AtomicUsize::new(0)).await;
    let ids = read_ids(&format!("{exchange}.unrouted"));
    println!("{} repeats", ids.len() - 601);
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>().len(), 600);
}

/// What ends a block ends the wait for it, without a new connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_block_costs_nothing() {
    let _alone = BROKER.write().await;
    let exchange = fresh();
    let mut sink = connected(&settings(&exchange)).await;
    let alarm = Alarm::set();
    let end = tokio::task::spawn_blocking(move || drop(alarm));
    let outcomes = sink.publish(&events("alma.loan", 100)).await;
    end.await.expect("ended");
    assert_eq!(reasons(&outcomes), [None; 100]);
    assert_eq!(read_ids(&format!("{exchange}.unrouted")).len(), 100);
}
