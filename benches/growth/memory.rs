//! What a large body and each further sink add to the resident memory.

use super::harness::Bridge;
use super::harness::brokers::{Broker, Place};
use super::load::{Events, Profile, block_on, send};
use super::report::{Report, mib};
use super::waiting::rest;

const EVENTS: u64 = 40_000;
const BYTES: usize = 1_536;
/// The largest that is taken: `max_body` as it stands.
const LARGEST: usize = 8 << 20;

/// The brokers that `tests/brokers` has started.
pub(crate) fn brokers() -> Vec<Broker> {
    let all = [("KAFKA", Broker::Kafka), ("RABBITMQ", Broker::RabbitMq), ("NATS", Broker::Nats)];
    all.into_iter()
        .filter(|(name, _)| std::env::var_os(format!("ALMA_BRIDGE_TEST_{name}")).is_some())
        .map(|(_, broker)| broker)
        .collect()
}

/// So many sinks of one kind: the keys of the first, and the tables of the others.
fn sinks(broker: Option<Broker>, count: u64) -> String {
    let keys = |number: u64| match broker {
        Some(broker) => block_on(async { Place::new(broker).await.sink() }),
        None => format!("type = \"file\"\ndir = \"topics-{number}\""),
    };
    (1..count).fold(keys(0), |text, number| format!("{text}\n[sinks.more-{number}]\n{}", keys(number)))
}

pub(crate) fn run(counts: &[u64], report: &mut Report) {
    largest_body(report);
    report.section(
        "Sinks",
        "Peak of resident memory while the bridge took 40,000 events of 1.5 KiB in a closed loop and every sink delivered them.",
        &["sinks", "one, MiB", "all, MiB", "each further, MiB"],
    );
    for kind in std::iter::once(None).chain(brokers().into_iter().map(Some)) {
        let peak = |sinks: &str| {
            let bridge = Bridge::start(sinks);
            bridge.wait_until_up();
            send(bridge.subject.address, &Events { profiles: Profile::only(), numbers: 0..EVENTS, bytes: BYTES });
            bridge.wait_until_delivered();
            mib(bridge.subject.memory_kib("VmHWM"))
        };
        let name = kind.map_or_else(|| "file".to_owned(), |broker| format!("{broker:?}"));
        let one = peak(&sinks(kind, 1));
        for count in counts {
            let all = peak(&sinks(kind, *count));
            let further = (all - one) / f64::from(u32::try_from(count - 1).expect("few"));
            let name = format!("{count} x {name}");
            report.row(&[name.clone(), format!("{one:.1}"), format!("{all:.1}"), format!("{further:.1}")]);
            let what = format!("memory of each further sink, {name}");
            report.goal(&what, "<= +12 MiB", &format!("{further:+.1} MiB"), further <= 12.0);
        }
    }
}

fn largest_body(report: &mut Report) {
    report.section(
        "One body of 8 MiB",
        "Resident memory in MiB. Nothing else was sent.",
        &["sink", "before", "peak", "more"],
    );
    for (name, sink) in
        [("file, nothing subscribed", "type = \"file\"\nactions = [\"nothing\"]"), ("file", "type = \"file\"")]
    {
        let bridge = Bridge::start(sink);
        // What the first event of any size sets up is not the large one's.
        send(bridge.subject.address, &Events { profiles: Profile::only(), numbers: 0..1_000, bytes: BYTES });
        bridge.wait_until_delivered();
        rest();
        bridge.subject.forget_peak();
        let before = mib(bridge.subject.memory_kib("VmHWM"));
        send(bridge.subject.address, &Events { profiles: Profile::only(), numbers: 1_000..1_001, bytes: LARGEST });
        bridge.wait_until_delivered();
        let peak = mib(bridge.subject.memory_kib("VmHWM"));
        let more = peak - before;
        report.row(&[name.to_owned(), format!("{before:.1}"), format!("{peak:.1}"), format!("{more:.1}")]);
        report.goal(&format!("one 8 MiB body, {name}"), "<= +48 MiB", &format!("{more:+.1} MiB"), more <= 48.0);
    }
}
