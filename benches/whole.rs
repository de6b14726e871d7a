//! The bridge beside the floor, and each broker beside its bare client: all in one run on one machine.
//!
//!     tests/brokers run cargo bench --bench whole
//!
//! writes `benches/RESULTS.md` and `benches/results.svg`. With names of rows (`-- floor nothing kafka`, see [`SERVERS`],
//! [`BRIDGES`] and [`BROKERS`]) only these are run, and nothing is written: for one who is at work on them.
//!
//! Ratios hold; absolute figures hold for that machine alone, whose cores load, bridge and broker share. All but the
//! million events that wait take turns over [`ROUNDS`] rounds, each with a process of its own and, where there is a broker,
//! with a topic, queue or stream of its own, which is removed behind it. Every event is unique and signed beforehand. Bare
//! clients are of the same crates as the sinks, keep 512 messages in flight and wait for every confirm; they have no HTTP,
//! no journal and no headers. Beside the backlog they publish as many bodies, and as many documents as large as those that
//! the bridge makes of the bodies.

#[allow(dead_code, reason = "each bench uses its part")]
mod harness;

use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::brokers::{Broker, Place};
use harness::processors::{Processors, Spent};
use harness::report::{BACKLOG, Backlog, Ends, Report, Row};
use harness::servers::{Kind, Server, serve_if_asked};
use harness::{
    BODY_BYTES, Bridge, Subject, body, document, load, load_at, median, median_times, rate, requests, requests_from,
    within,
};

/// Of the closed loop.
const EVENTS: usize = 40_000;
/// Of the open loop, at each rate.
const RATES: [u32; 2] = [1_000, 4_000];
const SECONDS: u32 = 4;
/// In each round everything has its turn, and the middle one of the rounds counts: a machine that is faster for a minute is
/// so for all, and a disk that stalls for a second does so in one of them.
const ROUNDS: usize = 3;
/// Of the [`BACKLOG`], how many are made at once.
const PORTION: usize = 50_000;
/// Whose delay from receipt to confirm is looked at.
const DELAYED: usize = 5_000;

/// How long a broker is at work before it is measured.
const WARM_UP: Duration = Duration::from_secs(40);

/// By the names that ask for them: what is measured beside the bridge, ...
const SERVERS: [(&str, Kind, &str); 4] = [
    ("floor", Kind::Floor, "floor: raw socket, no HTTP library"),
    ("hyper", Kind::Hyper, "hyper alone"),
    ("verifying", Kind::Verifying, "hyper + HMAC"),
    ("durable", Kind::Durable, "hyper + HMAC + a file, synced"),
];
/// ... the bridge with keys of its one sink, ...
const BRIDGES: [(&str, &str, &str); 2] = [
    ("nothing", "type = \"file\"\nactions = [\"nothing\"]", "bridge, nothing subscribed"),
    ("file", "type = \"file\"", "bridge, file sink"),
];
/// ... and the bridge with a broker, beside the broker's bare client.
const BROKERS: [(&str, Broker); 3] = [("kafka", Broker::Kafka), ("rabbitmq", Broker::RabbitMq), ("nats", Broker::Nats)];

type Requests = Arc<Vec<Vec<u8>>>;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        serve_if_asked().await;
        whole().await;
    });
}

async fn whole() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let is_asked = |name: &str| asked.is_empty() || asked.iter().any(|asked| asked == name);
    let requests = requests(EVENTS);
    let mut report = Report { sync: sync_of_4_kib(), ..Report::default() };
    let servers = SERVERS.into_iter().map(|(asked, kind, name)| (asked, name, Alone::Server(kind)));
    let bridges = BRIDGES.into_iter().map(|(asked, sink, name)| (asked, name, Alone::Bridge(sink)));
    let alone = servers.chain(bridges).filter(|(asked, ..)| is_asked(asked));
    let mut rows: Vec<_> = alone.map(|(_, name, what)| (name, what, Vec::new(), Vec::new())).collect();
    for _ in 0..ROUNDS {
        for (_, what, closed, open) in &mut rows {
            match *what {
                Alone::Server(kind) => {
                    let server = Server::start(kind);
                    measure(server.subject, &requests, || {}, closed, open).await;
                }
                Alone::Bridge(sink) => {
                    let bridge = Bridge::start(sink);
                    report.ready.get_or_insert(bridge.ready_after);
                    let delivered = || bridge.wait_until_delivered();
                    measure(bridge.subject, &requests, delivered, closed, open).await;
                }
            }
        }
    }
    for (name, _, closed, open) in rows {
        report.rows.push(row(name, &closed, &open));
    }
    for (_, broker) in BROKERS.into_iter().filter(|(name, _)| is_asked(name)) {
        end_to_end(broker, &requests, &mut report).await;
    }
    if asked.is_empty() {
        report.write();
    } else {
        println!("{}", report.figures());
    }
}

/// What is measured without a broker.
enum Alone {
    Server(Kind),
    Bridge(&'static str),
}

/// A closed loop, and behind it the open ones.
async fn measure(
    subject: Subject,
    requests: &Requests,
    delivered: impl Fn(),
    closed: &mut Vec<Closed>,
    open: &mut Vec<Open>,
) {
    closed.push(in_a_closed_loop(subject, requests, &delivered).await);
    open.push(in_open_loops(subject, &delivered).await);
}

/// What a closed loop showed.
struct Closed {
    answered: f64,
    delivered: f64,
    times: [Duration; 3],
    spent: Spent,
    peak_kib: u64,
    written: f64,
}

/// The answers' times at each of [`RATES`]: p50, p99, p99.9.
type Open = Vec<[Duration; 3]>;

async fn in_a_closed_loop(subject: Subject, requests: &Requests, delivered: impl Fn()) -> Closed {
    let (cpu, written) = (subject.cpu(), subject.written());
    let processors = Processors::now();
    let begun = Instant::now();
    let (took, times) = load(subject.address, requests).await;
    delivered();
    let all = begun.elapsed();
    Closed {
        answered: rate(EVENTS, took),
        delivered: rate(EVENTS, all),
        times: [500, 990, 999].map(|share| within(&times, share)),
        spent: processors.spent(subject.cpu().saturating_sub(cpu), EVENTS),
        peak_kib: subject.memory_kib("VmHWM"),
        written: ratio(subject.written() - written, EVENTS * BODY_BYTES),
    }
}

async fn in_open_loops(subject: Subject, delivered: impl Fn()) -> Open {
    let mut open = Vec::new();
    for (index, per_second) in RATES.into_iter().enumerate() {
        // Others than those before: a repeat would cost less.
        let from = EVENTS + index * 100_000;
        let some = requests_from(from, usize::try_from(per_second * SECONDS).expect("few"));
        let times = load_at(subject.address, &some, per_second).await;
        delivered();
        open.push([500, 990, 999].map(|share| within(&times, share)));
    }
    open
}

/// Each figure is the middle one of the rounds, but the peak of memory, which is the highest.
fn row(name: &str, rounds: &[Closed], open: &[Open]) -> Row {
    let middle = |figure: &dyn Fn(&Closed) -> f64| median(rounds.iter().map(figure).collect());
    let slow = |rate: usize| median_times(&open.iter().map(|open| open[rate]).collect::<Vec<_>>());
    let row = Row {
        name: name.to_owned(),
        answered: middle(&|closed| closed.answered),
        delivered: middle(&|closed| closed.delivered),
        closed: median_times(&rounds.iter().map(|closed| closed.times).collect::<Vec<_>>()),
        open: RATES.into_iter().enumerate().map(|(rate, per_second)| (per_second, slow(rate))).collect(),
        spent: Spent::median(&rounds.iter().map(|closed| closed.spent).collect::<Vec<_>>()),
        peak_kib: rounds.iter().map(|closed| closed.peak_kib).max().unwrap_or(0),
        written: middle(&|closed| closed.written),
    };
    println!("{name}: {:.0}/s, {:.1} us CPU", row.answered, row.spent.subject.as_secs_f64() * 1e6);
    row
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn ratio(of: u64, to: usize) -> f64 {
    of as f64 / to as f64
}

async fn end_to_end(broker: Broker, requests: &Requests, report: &mut Report) {
    warm_up(broker, requests).await;
    let (mut bare, mut bare_spent, mut closed, mut open) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut idle_kib, mut landed) = (0, 0);
    let (mut delays, mut bare_delays) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let messages: Vec<String> = (0..EVENTS).map(body).collect();
        let (took, spent) = Place::within(broker, async |place| place.publish_bare(messages.into_iter()).await).await;
        bare.push(rate(EVENTS, took));
        bare_spent.push(spent);
        Place::within(broker, async |place| {
            let bridge = Bridge::start(&place.sink());
            bridge.wait_until_up();
            idle_kib = bridge.subject.memory_kib("VmRSS");
            measure(bridge.subject, requests, || bridge.wait_until_delivered(), &mut closed, &mut open).await;
            landed = place.landed().await;
        })
        .await;
        let of_a_bridge = Place::within(broker, async |place| {
            // Of one that has had no rush.
            let bridge = Bridge::start(&place.sink());
            bridge.wait_until_up();
            load_at(bridge.subject.address, &requests_from(0, DELAYED), 1_000).await;
            bridge.wait_until_delivered();
            [0.5, 0.99].map(|share| bridge.delivered_within(share))
        });
        delays.push(of_a_bridge.await);
        let of_the_bare_client = async |place: &Place| place.delays_of_the_bare_client(DELAYED, 1_000).await;
        bare_delays.push(Place::within(broker, of_the_bare_client).await);
    }
    let bare = median(bare);
    let name = format!("bridge, {broker:?}");
    let row = row(&name, &closed, &open);

    // Of as many events as wait for the bridge: a broker that holds more may take longer.
    let bare_client = async |message: fn(usize) -> String| {
        let publish = async |place: &Place| place.publish_bare((0..BACKLOG).map(message)).await;
        Backlog::of(Place::within(broker, publish).await)
    };
    let bare_backlog = bare_client(body).await;
    let drained = Backlog::of(Place::within(broker, drain).await);
    let bare_documents = bare_client(document).await;
    println!(
        "{name}: confirmed {:.0}/s, bare {bare:.0}/s; drained {:.0}/s, bare {:.0}/s, documents {:.0}/s",
        row.delivered, drained.rate, bare_backlog.rate, bare_documents.rate
    );
    report.rows.push(row);
    report.ends.push(Ends {
        broker: format!("{broker:?}"),
        bare,
        bare_spent: Spent::median(&bare_spent),
        confirmed: median_times(&delays),
        bare_delays: median_times(&bare_delays),
        bare_backlog,
        bare_documents,
        drained,
        idle_kib,
        sent: EVENTS as u64 + u64::from(RATES.iter().sum::<u32>() * SECONDS),
        landed,
    });
}

/// A broker that compiles as it goes has taken four times as long an event in its first half minute. Both clients publish,
/// because each takes ways of its own through it.
async fn warm_up(broker: Broker, requests: &Requests) {
    let begun = Instant::now();
    while begun.elapsed() < WARM_UP {
        Place::within(broker, async |place| {
            place.publish_bare((0..EVENTS).map(body)).await;
            let bridge = Bridge::start(&place.sink());
            load(bridge.subject.address, requests).await;
            bridge.wait_until_delivered();
        })
        .await;
    }
}

/// What a backlog takes that waited while the broker could not be reached.
async fn drain(place: &Place) -> (Duration, Spent) {
    let bridge = Bridge::start(&place.unreachable_sink());
    for first in (0..BACKLOG).step_by(PORTION) {
        load(bridge.subject.address, &requests_from(first, PORTION)).await;
    }
    let bridge = bridge.restart(&place.sink());
    let (begun, cpu, processors) = (Instant::now(), bridge.subject.cpu(), Processors::now());
    bridge.wait_until_delivered();
    (begun.elapsed(), processors.spent(bridge.subject.cpu().saturating_sub(cpu), BACKLOG))
}

/// What one write of 4 KiB and its fdatasync take on the disk of the journals: the median.
fn sync_of_4_kib() -> Duration {
    use std::os::unix::fs::FileExt as _;
    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).expect("a file");
    let block = [7; 4_096];
    let mut times: Vec<Duration> = (0..500)
        .map(|number| {
            let begun = Instant::now();
            file.write_all_at(&block, number * 4_096).expect("written");
            file.sync_data().expect("synced");
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    within(&times, 500)
}
