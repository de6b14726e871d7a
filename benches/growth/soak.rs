//! Whether resident memory grows with time.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::harness::Bridge;
use super::harness::brokers::Place;
use super::load::{Events, Profile, block_on, send_at};
use super::memory::brokers;
use super::report::{Report, mib};

const PER_SECOND: u32 = 500;
const BYTES: usize = 1_536;
/// Points of the plot.
const POINTS: u32 = 200;
/// Known digests fill their ring in 200 s, and then grow no more.
const DEDUPE_MAX: u32 = 100_000;
/// MiB an hour that count as none.
const FLAT: f64 = 1.0;

/// Seconds since the start, MiB.
type Point = (f64, f64);

pub(crate) fn run(durations: &[u64], report: &mut Report) {
    let mut sinks = String::from("type = \"file\"\n");
    let mut names = vec!["file".to_owned()];
    for broker in brokers() {
        let name = format!("{broker:?}").to_lowercase();
        let _ = write!(sinks, "[sinks.{name}]\n{}\n", block_on(async { Place::new(broker).await.sink() }));
        names.push(name);
    }
    let _ = write!(sinks, "[journal]\ndedupe_max = {DEDUPE_MAX}\n");
    for seconds in durations {
        let duration = Duration::from_secs(*seconds);
        let bridge = Bridge::start(&sinks);
        bridge.wait_until_up();
        let points = soak(&bridge, duration);
        bridge.wait_until_delivered();
        drop(bridge);
        let half = &points[points.len() / 2..];
        let per_hour = slope(half) * 3_600.0;
        let plot = report.plot("soak.svg");
        std::fs::write(&plot, svg(&points)).expect("written");
        let most = points.iter().map(|point| point.1).fold(0.0, f64::max);
        report.section(
            "Soak",
            &format!(
                "{seconds} s at {PER_SECOND} events/s of 1.5 KiB, delivered to {}, with {DEDUPE_MAX} known digests. \
                 The slope is that of the second half.\n\n![resident memory](soak.svg)",
                names.join(", ")
            ),
            &["seconds", "MiB at the start", "MiB at half", "MiB at the end", "most", "MiB an hour"],
        );
        let figures = [points[0].1, half[0].1, half[half.len() - 1].1, most].map(|figure| format!("{figure:.1}"));
        report.row(&[&[seconds.to_string()], &figures[..], &[format!("{per_hour:+.2}")]].concat());
        report.goal(
            "resident memory does not grow with time",
            "< 1 MiB an hour",
            &format!("{per_hour:+.2} MiB"),
            per_hour < FLAT,
        );
    }
}

/// Sends at a steady rate, and looks at the memory meanwhile.
fn soak(bridge: &Bridge, duration: Duration) -> Vec<Point> {
    let numbers = 0..duration.as_secs() * u64::from(PER_SECOND);
    let (address, events) = (bridge.subject.address, Events { profiles: Profile::only(), numbers, bytes: BYTES });
    let load = std::thread::spawn(move || send_at(address, &events, Some(PER_SECOND)));
    let (begun, mut points) = (Instant::now(), Vec::new());
    for number in 1..=POINTS {
        let due = duration * number / POINTS;
        std::thread::park_timeout(due.saturating_sub(begun.elapsed()));
        points.push((begun.elapsed().as_secs_f64(), mib(bridge.subject.memory_kib("VmRSS"))));
    }
    load.join().expect("no panic");
    points
}

/// By least squares: MiB a second.
#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn slope(points: &[Point]) -> f64 {
    let count = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
    let (over, under) = points.iter().fold((0.0, 0.0), |(over, under), point| {
        (over + (point.0 - x) * (point.1 - y), under + (point.0 - x) * (point.0 - x))
    });
    over / under
}

fn svg(points: &[Point]) -> String {
    const LEFT: f64 = 60.0;
    const WIDTH: f64 = 660.0;
    const HEIGHT: f64 = 220.0;
    let end = points[points.len() - 1].0;
    // A whole number of steps of 10 MiB.
    let top = (points.iter().map(|point| point.1).fold(0.0, f64::max) / 10.0 + 0.1).ceil() * 10.0;
    let place = |(seconds, mib): Point| (LEFT + seconds / end * WIDTH, 20.0 + HEIGHT - mib / top * HEIGHT);
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"280\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
    );
    for tenth in 0..=4 {
        let value = top / 4.0 * f64::from(tenth);
        let (_, y) = place((0.0, value));
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"52\" y=\"{:.1}\" text-anchor=\"end\">{value:.0} MiB</text>",
            LEFT + WIDTH,
            y + 4.0
        );
        let (x, _) = place((end / 4.0 * f64::from(tenth), 0.0));
        let minutes = end / 240.0 * f64::from(tenth);
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"260\" text-anchor=\"middle\">{minutes:.0} min</text>");
    }
    let line: Vec<String> = points.iter().map(|point| place(*point)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ =
        writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"#33608f\" stroke-width=\"2\"/>", line.join(" "));
    svg.push_str("</svg>\n");
    svg
}
