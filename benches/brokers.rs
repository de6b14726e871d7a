//! Each broker end to end, beside its bare client: events a second, times from receipt to confirm, memory.
//!
//! `tests/brokers run cargo bench --bench brokers`: all in one run on one machine, so that ratios hold; absolute figures
//! hold for that machine alone, whose cores load, bridge and broker share. The bare client is of the same crate as the
//! sink, keeps 512 messages in flight and waits for every confirm; it has no HTTP, no journal and no headers.

#[allow(dead_code, reason = "each bench uses its part")]
mod harness;

use std::time::Duration;

use harness::brokers::{Broker, Place};
use harness::{BODY_BYTES, Bridge, CONNECTIONS, body, load, load_at, rate, requests};

const EVENTS: usize = 40_000;
const ROUNDS: usize = 3;

/// Of the open loop.
const PER_SECOND: u32 = 1_000;
const OPEN_EVENTS: usize = 10_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("{EVENTS} events of {BODY_BYTES} bytes, {CONNECTIONS} connections, {ROUNDS} rounds");
    for broker in [Broker::Kafka, Broker::RabbitMq, Broker::Nats] {
        println!("{broker:?}");
        let mut ratios: Vec<f64> = (0..ROUNDS).map(|_| runtime.block_on(full_load(broker))).collect();
        ratios.sort_by(f64::total_cmp);
        println!("  median ratio {:.2}", ratios[ROUNDS / 2]);
        runtime.block_on(steady_load(broker));
    }
}

/// As fast as it goes, and the bare client's rate in the same minute. Gives the ratio.
async fn full_load(broker: Broker) -> f64 {
    let place = Place::new(broker).await;
    let messages = (0..EVENTS).map(body).collect();
    let bare = rate(EVENTS, place.publish_bare(messages).await);

    let place = Place::new(broker).await;
    let bridge = Bridge::start(&place.sink());
    bridge.wait_until_up();
    let requests = requests(EVENTS);
    let begun = std::time::Instant::now();
    let answered = rate(EVENTS, load(bridge.address, &requests).await);
    bridge.wait_until_delivered();
    let ours = rate(EVENTS, begun.elapsed());
    let landed = place.landed().await;
    println!(
        "  bare {bare:>7.0}/s   bridge: 204 {answered:>7.0}/s, confirmed {ours:>7.0}/s   ratio {:.2}   sent {EVENTS}, \
         landed {landed}   resident {} KiB, at most {} KiB",
        ours / bare,
        bridge.memory_kib("VmRSS"),
        bridge.memory_kib("VmHWM"),
    );
    ours / bare
}

/// At a rate that leaves room.
async fn steady_load(broker: Broker) {
    let place = Place::new(broker).await;
    let bridge = Bridge::start(&place.sink());
    bridge.wait_until_up();
    let idle = bridge.memory_kib("VmRSS");
    let times = load_at(bridge.address, &requests(OPEN_EVENTS), PER_SECOND).await;
    bridge.wait_until_delivered();
    let at = |share: usize| milliseconds(times[(times.len() - 1) * share / 100]);
    println!(
        "  at {PER_SECOND}/s: 204 median {:.2} ms, p99 {:.2} ms   receipt to confirm median {:.2} ms, p99 {:.2} ms   \
         sent {OPEN_EVENTS}, landed {}   resident {idle} KiB connected and idle, {} KiB after",
        at(50),
        at(99),
        milliseconds(bridge.delivered_within(0.5)),
        milliseconds(bridge.delivered_within(0.99)),
        place.landed().await,
        bridge.memory_kib("VmRSS"),
    );
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
