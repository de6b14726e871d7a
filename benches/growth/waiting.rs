//! Events that wait for a sink that can't be reached: what one more costs, taken and delivered; start and memory.

use std::time::{Duration, Instant};

use super::harness::{Bridge, median, median_time, wait};
use super::load::{Events, Profile, UNREACHABLE, send};
use super::report::{Report, grouped, mib, ms, spread, us_each};

/// Events over which a cost is taken.
const SAMPLE: u64 = 200_000;
/// Each backlog takes its turn in each round, so that a machine that slows down slows them all; a cost is the median of
/// the rounds.
const ROUNDS: usize = 5;
/// The time of an empty start is the median of so many.
const STARTS: usize = 3;
/// As many as are known by default: below them each event is only added to what is known, which is another cost.
const KNOWN: u64 = 500_000;
/// Bytes of a body: ten million are 4 GB of journal.
const SMALL: usize = 300;
const LARGE: usize = 64 << 10;

/// Figures that differ by no more are the same.
const FLAT: f64 = 1.15;

/// A bound that nothing here reaches.
fn with_room(sink: &str) -> String {
    format!("{sink}\n[journal]\nmax_size = \"1TiB\"\n")
}

/// A bridge with a backlog.
struct Backlog {
    bridge: Bridge,
    next: u64,
    bytes: usize,
}

impl Backlog {
    fn new(bytes: usize) -> Self {
        Self { bridge: Bridge::start(&with_room(UNREACHABLE)), next: 0, bytes }
    }

    /// Has everything known that can be, and nothing waiting.
    fn full_of_digests(mut self) -> Self {
        self.bridge = self.bridge.restart(&with_room("type = \"file\""));
        self.grow(KNOWN);
        self.bridge.wait_until_delivered();
        self.bridge = self.bridge.restart(&with_room(UNREACHABLE));
        self
    }

    /// Sends so many more; the CPU that the bridge took.
    fn grow(&mut self, events: u64) -> Duration {
        let numbers = self.next..self.next + events;
        self.next = numbers.end;
        let cpu = self.bridge.subject.cpu();
        send(self.bridge.subject.address, &Events { profiles: Profile::only(), numbers, bytes: self.bytes });
        self.bridge.subject.cpu().saturating_sub(cpu)
    }

    /// Starts again behind a stop in good order, then behind a kill: from the start until it is ready.
    fn starts(mut self) -> (Self, [Duration; 2]) {
        self.bridge = self.bridge.restart(&with_room(UNREACHABLE));
        let stopped = self.bridge.ready_after;
        self.bridge = self.bridge.crash(&with_room(UNREACHABLE));
        let killed = self.bridge.ready_after;
        (self, [stopped, killed])
    }

    /// Delivers the oldest of them to files: microseconds of CPU an event, from one look at it to another.
    fn deliver(mut self) -> (Self, f64) {
        let file = with_room("type = \"file\"");
        self.bridge = self.bridge.restart(&file);
        let look = |bridge: &Bridge| (bridge.subject.cpu(), waiting(bridge));
        let first = look(&self.bridge);
        // A look at the very end would count the time in which nothing was left.
        let enough = SAMPLE.min(first.1) * 9 / 10;
        let second = wait(|| {
            // Seldom enough that asking costs the bridge nothing that shows.
            std::thread::park_timeout(Duration::from_millis(50));
            Some(look(&self.bridge)).filter(|(_, now)| first.1 - now >= enough)
        });
        self.bridge = self.bridge.crash(&with_room(UNREACHABLE));
        (self, us_each(second.0.saturating_sub(first.0), first.1 - second.1))
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
fn waiting(bridge: &Bridge) -> u64 {
    bridge.metric("alma_bridge_sink_waiting_events").iter().map(|(_, events)| *events as u64).sum()
}

/// What one backlog showed.
struct Shown {
    backlog: Backlog,
    /// Behind a stop in good order, behind a kill.
    starts: [Duration; 2],
    /// KiB at rest, behind taking them and behind a start.
    memory: [u64; 2],
    /// Microseconds of CPU an event, one a round.
    taken: Vec<f64>,
    delivered: Vec<f64>,
}

impl Shown {
    fn of(level: u64) -> Self {
        let mut backlog = Backlog::new(SMALL).full_of_digests();
        backlog.grow(level);
        rest();
        let full = backlog.bridge.subject.memory_kib("VmRSS");
        let (backlog, starts) = backlog.starts();
        rest();
        let restarted = backlog.bridge.subject.memory_kib("VmRSS");
        Self { backlog, starts, memory: [full, restarted], taken: Vec::new(), delivered: Vec::new() }
    }

    /// Takes some and delivers as many, so that what waits stays what it was.
    fn round(mut self) -> Self {
        self.taken.push(us_each(self.backlog.grow(SAMPLE), SAMPLE));
        let cost;
        (self.backlog, cost) = self.backlog.deliver();
        self.delivered.push(cost);
        self
    }
}

pub(crate) fn events(levels: &[u64], report: &mut Report) {
    report.section(
        "Waiting events",
        "Bodies have 300 bytes, the sink can't be reached, and the bridge remembers as many digests as it can. CPU is \
         that of the bridge, for the next 200,000 events that it takes, and for as many of the oldest when it \
         delivers them to files. Each figure is the median of five rounds in which every backlog has its turn. Memory \
         is resident memory at rest, after taking the events and after a start.",
        &[
            "waiting",
            "CPU us/event taken",
            "CPU us/event delivered",
            "ready after a stop, ms",
            "ready after kill -9, ms",
            "MiB after taking",
            "MiB after a start",
        ],
    );
    let empty = median_time((0..STARTS).map(|_| Backlog::new(SMALL).bridge.ready_after));
    let mut all: Vec<Shown> = levels.iter().map(|level| Shown::of(*level)).collect();
    for _ in 0..ROUNDS {
        all = all.into_iter().map(Shown::round).collect();
    }
    let (mut taking, mut delivering) = (Vec::new(), Vec::new());
    for (level, shown) in levels.iter().zip(&all) {
        let costs = [&shown.taken, &shown.delivered].map(|rounds| median(rounds.clone()));
        taking.push(costs[0]);
        delivering.push(costs[1]);
        let [stopped, killed] = shown.starts.map(ms);
        let [taken, delivered] = costs.map(|cost| format!("{cost:.1}"));
        let [full, memory] = shown.memory.map(|kib| format!("{:.1}", mib(kib)));
        report.row(&[grouped(*level), taken, delivered, stopped, killed, full, memory]);
    }
    report.goal("ready after start, empty", "<= 50 ms", &format!("{} ms", ms(empty)), empty.as_millis() <= 50);
    let Some((level, most)) = levels.iter().zip(&all).max_by_key(|(level, _)| **level) else { return };
    let level = grouped(*level);
    for (what, figures) in [("taken", taking), ("delivered", delivering)] {
        let spread = spread(&figures);
        let what = format!("CPU an event {what}, up to {level} waiting: greatest over least");
        report.goal(&what, "<= 1.15x", &format!("{spread:.2}x"), spread <= FLAT);
    }
    started(report, &format!("{level} waiting"), most.starts[0].max(most.starts[1]));
    let (what, memory) = (format!("resident memory, {level} waiting"), mib(most.memory[0].max(most.memory[1])));
    report.goal(&what, "<= 48 MiB", &format!("{memory:.1} MiB"), memory <= 48.0);
}

pub(crate) fn bytes(levels: &[u64], report: &mut Report) {
    report.section(
        "Waiting bytes",
        "Bodies have 64 KiB, and the sink can't be reached. `taken`: MB/s of bodies while the bridge took them.",
        &["GiB waiting", "taken MB/s", "ready after a stop, ms", "ready after kill -9, ms", "MiB at rest"],
    );
    let mut backlog = Backlog::new(LARGE);
    for gib in levels {
        let missing = (gib * (1 << 30) / LARGE as u64).saturating_sub(backlog.next);
        let begun = Instant::now();
        backlog.grow(missing);
        // Bytes a microsecond.
        let rate = us_each(begun.elapsed(), missing).recip() * f64::from(u32::try_from(LARGE).expect("small"));
        let (restarted, starts) = backlog.starts();
        backlog = restarted;
        rest();
        let memory = mib(backlog.bridge.subject.memory_kib("VmRSS"));
        let [stopped, killed] = starts.map(ms);
        report.row(&[gib.to_string(), format!("{rate:.0}"), stopped, killed, format!("{memory:.1}")]);
        started(report, &format!("{gib} GiB waiting"), starts[0].max(starts[1]));
    }
}

fn started(report: &mut Report, with: &str, after: Duration) {
    let what = format!("ready after start, {with}, stopped or killed");
    report.goal(&what, "<= 250 ms", &format!("{} ms", ms(after)), after <= Duration::from_millis(250));
}

/// Until what a start sets off is done.
pub(crate) fn rest() {
    std::thread::park_timeout(Duration::from_secs(3));
}
