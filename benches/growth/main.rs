//! Whether the bridge stays as it is while it grows: with what waits, with its sources, with time.
//!
//!     tests/brokers run cargo bench --bench growth -- all
//!
//! runs every section, two hours with its soak of one, and writes `benches/GROWTH.md` and `benches/soak.svg`. It needs
//! 20 GB of disk under the target folder, which it gives back. An argument is a section, alone or with sizes of its own;
//! with `write` these sections take the place of their like in what is written:
//!
//!     cargo bench --bench growth -- waiting=0,100000 sources=1,100 idle soak=60
//!     tests/brokers run cargo bench --bench growth -- write memory
//!
//! | section | sizes | default |
//! |---|---|---|
//! | `waiting` | events that wait for a sink that can't be reached | 0, 1,000,000, 10,000,000 |
//! | `bytes` | GiB of events that wait | 10 |
//! | `sources` | sources, each with a path and a secret | 1, 10, 100, 1,000 |
//! | `memory` | sinks of one kind beside the memory of one | 3 |
//! | `bib` | events of 100 KiB | 5,000 |
//! | `idle` | seconds | 30 |
//! | `soak` | seconds | 3,600 |
//!
//! Without `all` or `write` figures are printed and nothing is written. Started by `tests/brokers run`, the sections
//! `memory`, `idle` and `soak` have a sink of each broker; alone they have files. Load is signed as it is sent, in the process of
//! the bench; the CPU that is told is the bridge's alone.

#[allow(dead_code, reason = "each bench uses its part")]
#[path = "../harness/mod.rs"]
mod harness;

mod bib;
mod idle;
mod load;
mod memory;
mod report;
mod soak;
mod sources;
mod waiting;

use report::Report;

/// Its name, its sizes, and what runs with them.
type Section = (&'static str, &'static [u64], fn(&[u64], &mut Report));

const SECTIONS: [Section; 7] = [
    ("waiting", &[0, 1_000_000, 10_000_000], waiting::events),
    ("bytes", &[10], waiting::bytes),
    ("sources", &[1, 10, 100, 1_000], sources::run),
    ("memory", &[3], memory::run),
    ("bib", &[5_000], bib::run),
    ("idle", &[30], idle::run),
    ("soak", &[3_600], soak::run),
];

fn main() {
    // Cargo's own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let mut asked = Vec::new();
    for argument in arguments.iter().filter(|argument| !["all", "write"].contains(&argument.as_str())) {
        let (name, sizes) = argument.split_once('=').unwrap_or((argument, ""));
        let section = SECTIONS.iter().find(|(known, ..)| *known == name);
        let Some((name, usual, _)) = section else {
            let known = SECTIONS.map(|(name, ..)| name).join(", ");
            panic!("found {name:?}, expected all or some of {known}, each alone or with =SIZE,SIZE, and write");
        };
        let given = sizes.split(',').filter(|size| !size.is_empty());
        let given: Vec<u64> = given.map(|size| size.replace('_', "").parse().expect("a size is a number")).collect();
        asked.push((*name, if given.is_empty() { usual.to_vec() } else { given }));
    }
    let all = arguments.iter().any(|argument| argument == "all");
    let kept = all || arguments.iter().any(|argument| argument == "write");
    let mut report = Report::new(kept, &arguments);
    for (name, usual, run) in SECTIONS {
        let given = asked.iter().find(|(asked, _)| *asked == name).map(|(_, sizes)| sizes.clone());
        if let Some(sizes) = given.or_else(|| all.then(|| usual.to_vec())) {
            run(&sizes, &mut report);
        }
    }
    report.finish();
}
