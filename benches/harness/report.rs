//! What was measured, as `benches/RESULTS.md` and `benches/results.svg`.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::processors::Spent;
use super::provenance::provenance;

/// One server under load.
pub(crate) struct Row {
    pub(crate) name: String,
    /// Answers a second in the closed loop.
    pub(crate) answered: f64,
    /// Events a second until the last was delivered, too.
    pub(crate) delivered: f64,
    /// p50, p99, p99.9.
    pub(crate) closed: [Duration; 3],
    /// Rate a second, with p50, p99, p99.9 from when an event was due.
    pub(crate) open: Vec<(u32, [Duration; 3])>,
    /// In the closed loop; the subject is the server.
    pub(crate) spent: Spent,
    /// After the closed loop.
    pub(crate) peak_kib: u64,
    /// Bytes to the disk for each of a body.
    pub(crate) written: f64,
}

/// One broker, end to end.
pub(crate) struct Ends {
    pub(crate) broker: String,
    /// Events a second by its bare client.
    pub(crate) bare: f64,
    pub(crate) bare_spent: Spent,
    /// Receipt to confirm at 1,000 a second: p50, p99.
    pub(crate) confirmed: [Duration; 2],
    /// The bare client's send to confirm at the same rate: p50, p99.
    pub(crate) bare_delays: [Duration; 2],
    /// By the bridge, and by the bare client: bodies, and documents as large as the bridge's.
    pub(crate) drained: Backlog,
    pub(crate) bare_backlog: Backlog,
    pub(crate) bare_documents: Backlog,
    /// Connected, before the first event.
    pub(crate) idle_kib: u64,
    pub(crate) sent: u64,
    pub(crate) landed: u64,
}

/// [`BACKLOG`] events, published one behind the other.
pub(crate) struct Backlog {
    /// Events a second.
    pub(crate) rate: f64,
    spent: Spent,
}

impl Backlog {
    pub(crate) fn of((took, spent): (Duration, Spent)) -> Self {
        Self { rate: super::rate(BACKLOG, took), spent }
    }
}

/// Of one run.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    pub(crate) ends: Vec<Ends>,
    /// A write of 4 KiB and its fdatasync on the journal's disk.
    pub(crate) sync: Duration,
    /// Start to ready with an empty journal.
    pub(crate) ready: Option<Duration>,
}

/// Events that wait for a broker.
pub(crate) const BACKLOG: usize = 1_000_000;

const FLOOR: usize = 0;
/// The limit of what is built on hyper and answers when it is durable.
const DURABLE: usize = 3;
const NOTHING_SUBSCRIBED: usize = 4;

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(crate) fn mib(kib: u64) -> f64 {
    kib as f64 / 1_024.0
}

impl Report {
    /// Writes both files beside the benches.
    pub(crate) fn write(&self) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
        let text = self.text();
        std::fs::write(folder.join("RESULTS.md"), &text).expect("written");
        std::fs::write(folder.join("results.svg"), self.plot()).expect("written");
        println!("{text}");
    }

    fn text(&self) -> String {
        let mut text = String::from(
            "# Results\n\n`tests/brokers run cargo bench --bench whole` writes this page. The head of `whole.rs` says \
             what is measured and how.\nAll figures come from one run on one machine of 2 cores, which load, server \
             and broker share. Compare them with each other, not with those of another machine.\n",
        );
        let _ = writeln!(text, "{}\n\n![requests a second](results.svg)\n", provenance());
        text.push_str(&self.figures());
        self.goals(&mut text);
        text
    }

    /// The tables without the goals, which need every row.
    pub(crate) fn figures(&self) -> String {
        let mut text = String::new();
        self.servers(&mut text);
        if !self.ends.is_empty() {
            self.brokers(&mut text);
        }
        text
    }

    fn servers(&self, text: &mut String) {
        text.push_str("## Servers\n64 connections in a closed loop, with bodies of 1.5 KiB. Here and below, the figures are those of the middle one of three rounds. Times are in ms.\n\n");
        text.push_str("| | requests/s | p50 | p99 | p99.9 | CPU us/event | peak MiB | bytes written per byte |\n|---|---|---|---|---|---|---|---|\n");
        for row in &self.rows {
            let [p50, p99, p999] = row.closed.map(ms);
            let _ = writeln!(
                text,
                "| {} | {:.0} | {p50:.2} | {p99:.2} | {p999:.2} | {:.1} | {:.1} | {:.2} |",
                row.name,
                row.answered,
                us(row.spent.subject),
                mib(row.peak_kib),
                row.written
            );
        }
        text.push_str("\nOpen loop: a late answer counts from when its event was due. Times are in ms.\n\n| | rate/s | p50 | p99 | p99.9 |\n|---|---|---|---|---|\n");
        for row in &self.rows {
            for (per_second, times) in &row.open {
                let [p50, p99, p999] = times.map(ms);
                let _ = writeln!(text, "| {} | {per_second} | {p50:.2} | {p99:.2} | {p999:.2} |", row.name);
            }
        }
    }

    fn brokers(&self, text: &mut String) {
        text.push_str(
            "\n## Brokers\nConfirmed events a second, and the time from receipt (bare client: from sending) to the \
             confirm at 1,000 events/s, in ms.\n\n\
             | | bare client/s | bridge/s | p50 | p99 | bare p50 | bare p99 | MiB connected | sent | landed |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
        );
        for (ends, row) in self.ends.iter().zip(self.of_brokers()) {
            let ([p50, p99], [bare_p50, bare_p99]) = (ends.confirmed.map(ms), ends.bare_delays.map(ms));
            let _ = writeln!(
                text,
                "| {} | {:.0} | {:.0} | {p50:.2} | {p99:.2} | {bare_p50:.2} | {bare_p99:.2} | {:.1} | {} | {} |",
                ends.broker,
                ends.bare,
                row.delivered,
                mib(ends.idle_kib),
                ends.sent,
                ends.landed
            );
        }
        self.processors(text);
    }

    /// What stands between a bridge and a broker's bare client when all processors are busy.
    fn processors(&self, text: &mut String) {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let _ = writeln!(
            text,
            "\nWhat the {count} processors spend their time on, in us an event. `at most/s`: how many events they \
             could handle if they were never idle. `draining`: 1,000,000 waiting events, without other load. `as \
             many`: as many bodies, published by the bare client. `as many documents`: likewise, with documents as \
             large as those that the bridge makes of the bodies. These three come from one round.\n\n| | confirmed/s \
             | goal/s | bridge | load or bare client | broker, kernel | idle | had by other machines | at most/s |\n\
             |---|---|---|---|---|---|---|---|---|"
        );
        let nothing = self.rows.get(NOTHING_SUBSCRIBED).map_or(f64::INFINITY, |row| row.answered);
        for (ends, row) in self.ends.iter().zip(self.of_brokers()) {
            let (bodies, documents) = (&ends.bare_backlog, &ends.bare_documents);
            for (what, rate, goal, spent) in [
                ("bridge", row.delivered, Some(ends.goal(nothing)), row.spent),
                ("bare client", ends.bare, None, ends.bare_spent),
                ("bridge, draining", ends.drained.rate, Some(ends.draining_goal()), ends.drained.spent),
                ("bare client, as many", bodies.rate, None, bodies.spent),
                ("bare client, as many documents", documents.rate, None, documents.spent),
            ] {
                let goal = goal.map(|goal| format!("{goal:.0}")).unwrap_or_default();
                let name = format!("{}: {what}", ends.broker);
                let [subject, own, others] = [spent.subject, spent.own, spent.others].map(us);
                let _ = writeln!(
                    text,
                    "| {name} | {rate:.0} | {goal} | {subject:.1} | {own:.1} | {others:.1} | {:.0} % | {:.0} % | {:.0} |",
                    spent.idle * 100.0,
                    spent.stolen * 100.0,
                    super::rate(count, spent.all()),
                );
            }
        }
    }

    /// Their rows are the last.
    fn of_brokers(&self) -> &[Row] {
        &self.rows[self.rows.len() - self.ends.len()..]
    }

    fn goals(&self, text: &mut String) {
        let [floor, durable, nothing] = [FLOOR, DURABLE, NOTHING_SUBSCRIBED].map(|row| &self.rows[row]);
        let mut lines = Vec::new();
        let share = nothing.answered / floor.answered;
        lines.push((
            "durable 204, closed loop, of the floor's requests/s".to_owned(),
            ">= 60 %".to_owned(),
            format!("{:.0} %", share * 100.0),
            share >= 0.6,
        ));
        let times = us(nothing.spent.subject) / us(floor.spent.subject);
        lines.push((
            "CPU an event, nothing subscribed, of the floor's".into(),
            "<= 2.5x".into(),
            format!("{times:.2}x"),
            times <= 2.5,
        ));
        let p99 = nothing.open[0].1[1];
        lines.push((
            "p99 of the 204 at 1,000/s, of one 4 KiB fdatasync".into(),
            format!("<= 3x {:.2} ms", ms(self.sync)),
            format!("{:.2} ms", ms(p99)),
            p99 <= self.sync * 3,
        ));
        if let Some(ready) = self.ready {
            let met = ready <= Duration::from_millis(50);
            lines.push(("ready after start, empty".into(), "<= 50 ms".into(), format!("{:.0} ms", ms(ready)), met));
        }
        for (ends, row) in self.ends.iter().zip(self.of_brokers()) {
            lines.extend(ends.goals(row, floor, nothing));
        }
        text.push_str("\n## Goals\n| what | goal | found | met |\n|---|---|---|---|\n");
        for (what, wanted, found, met) in lines {
            let _ = writeln!(text, "| {what} | {wanted} | {found} | {} |", if met { "yes" } else { "no" });
        }
        let _ = writeln!(
            text,
            "\nA server that uses hyper and answers when the event is durable, and does nothing else (hyper + HMAC + \
             a file, synced), shows the limit on this machine: {:.0} % of the floor's requests/s and {:.2}x its CPU. \
             At 1,000/s, the p99 of its 204 is {:.2} ms; that of the floor, which touches no disk, is {:.2} ms.",
            durable.answered / floor.answered * 100.0,
            us(durable.spent.subject) / us(floor.spent.subject),
            ms(durable.open[0].1[1]),
            ms(floor.open[0].1[1]),
        );
        let least = |ends: &Ends| {
            let (ingress, client) = (us(durable.spent.subject), us(ends.bare_spent.own));
            format!("{} {ingress:.0} + {client:.0} = {:.0} us", ends.broker, ingress + client)
        };
        let _ = writeln!(
            text,
            "\nThe same limit for a delivered event is the CPU time of that server plus that of the bare client: {}.",
            self.ends.iter().map(least).collect::<Vec<_>>().join(", "),
        );
        let large = |ends: &Ends| {
            let (bodies, documents, drained) = (ends.bare_backlog.rate, ends.bare_documents.rate, ends.drained.rate);
            let [limit, found] = [documents / bodies, drained / documents].map(|share| share * 100.0);
            format!("{} {limit:.0} % of the bodies' rate, of which the bridge has {found:.0} %", ends.broker)
        };
        let _ = writeln!(
            text,
            "\nThe bare client with as many documents shows the limit for draining: {}.",
            self.ends.iter().map(large).collect::<Vec<_>>().join("; "),
        );
    }

    /// A bar for each row: answers a second, and confirmed ones where that is less.
    fn plot(&self) -> String {
        const WIDTH: f64 = 420.0;
        const LINE: usize = 26;
        let most = self.rows.iter().map(|row| row.answered).fold(1.0, f64::max);
        let height = self.rows.len() * LINE + 10;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        for (index, row) in self.rows.iter().enumerate() {
            let y = index * LINE + 8;
            let _ = writeln!(
                svg,
                "<text x=\"220\" y=\"{}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"230\" y=\"{y}\" width=\"{:.1}\" height=\"16\" fill=\"#9db8d9\"/>\
                 <rect x=\"230\" y=\"{y}\" width=\"{:.1}\" height=\"16\" fill=\"#33608f\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{:.0}/s</text>",
                y + 13,
                row.name,
                row.answered / most * WIDTH,
                row.delivered.min(row.answered) / most * WIDTH,
                236.0 + row.answered / most * WIDTH,
                y + 13,
                row.delivered.min(row.answered),
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// What, goal, found, met.
type Line = (String, String, String, bool);

impl Ends {
    /// The most events a second under load, where `durable` are answered with nothing subscribed.
    fn ceiling(&self, durable: f64) -> f64 {
        durable.min(self.bare)
    }

    /// Confirmed events a second under load.
    fn goal(&self, durable: f64) -> f64 {
        0.8 * self.ceiling(durable)
    }

    /// Events a second of a backlog.
    fn draining_goal(&self) -> f64 {
        0.9 * self.bare_backlog.rate
    }

    fn goals(&self, row: &Row, floor: &Row, nothing: &Row) -> Vec<Line> {
        let broker = &self.broker;
        // On a machine where the floor takes 9 us.
        let bound = if broker == "RabbitMq" { 60.0 } else { 40.0 } / 9.0 * us(floor.spent.subject);
        let [p50, p99] = self.confirmed;
        vec![
            (
                format!("{broker}: CPU a delivered event"),
                format!("<= {bound:.0} us"),
                format!("{:.0} us", us(row.spent.subject)),
                us(row.spent.subject) <= bound,
            ),
            (
                format!("{broker}: confirmed, of the lesser of durable and bare"),
                ">= 80 %".into(),
                format!("{:.0} %", row.delivered / self.ceiling(nothing.answered) * 100.0),
                row.delivered >= self.goal(nothing.answered),
            ),
            (
                format!("{broker}: draining 1,000,000 waiting events, of the bare client"),
                ">= 90 %".into(),
                format!("{:.0} %", self.drained.rate / self.bare_backlog.rate * 100.0),
                self.drained.rate >= self.draining_goal(),
            ),
            (
                format!("{broker}: receipt to confirm at 1,000/s, p50"),
                "<= 5 ms".into(),
                format!("{:.2} ms", ms(p50)),
                p50 <= Duration::from_millis(5),
            ),
            (
                format!("{broker}: receipt to confirm at 1,000/s, p99"),
                // Not a multiple of the bare client's p99: one that is itself disturbed is met by anything.
                "<= 25 ms".into(),
                format!("{:.2} ms", ms(p99)),
                p99 <= Duration::from_millis(25),
            ),
            (
                format!("{broker}: peak memory at full load"),
                "<= 32 MiB".into(),
                format!("{:.1} MiB", mib(row.peak_kib)),
                mib(row.peak_kib) <= 32.0,
            ),
        ]
    }
}
