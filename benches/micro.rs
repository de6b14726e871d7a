//! The steps of an event's way, each alone, by criterion:
//!
//!     cargo bench --bench micro
//!     cargo bench --bench micro -- verify
//!
//! `benches/instructions` counts the instructions of the same steps, which do not depend on the machine's mood. It calls
//! this program with words of its own: `prepare FOLDER` makes the journal that is read; `list` names the operations, each
//! with the events in one of it; `run NAME TIMES FOLDER` does one so often.

use std::hint::black_box;
use std::path::Path;

use alma_bridge::alma::{BodyDigest, Event, SignatureHeader, Unverified, Verified, samples};
use alma_bridge::clock::{SystemClock, Timestamp};
use alma_bridge::config::{self, NamedSecret, Secret, SecretFrom, SourceName};
use alma_bridge::journal::bench_api::{append_record, key};
use alma_bridge::journal::{
    Intake as _, Journal, JournalLimits, JournalLock, JournalMetrics, JournalOptions, Snapshot,
};
use alma_bridge::message::{Message, Messages, StoredEvent, percent_encode};
use alma_bridge::storage::RealDisk;
use alma_bridge::telemetry::Registry;
use bytes::Bytes;
use criterion::{Criterion, Throughput};

const SECRET: &[u8] = b"made-up-secret";
/// Of the journal that is read.
const JOURNAL_BYTES: u64 = 64 << 20;
/// The same where every instruction is counted.
const COUNTED_BYTES: u64 = 4 << 20;
const BODY: usize = 1_536;

/// One step, done again and again.
struct Operation {
    name: &'static str,
    /// In one of it.
    events: u64,
    /// Of those events' bodies.
    bytes: u64,
    run: Box<dyn FnMut()>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["prepare", folder] => prepare(Path::new(folder), COUNTED_BYTES),
        ["list"] => {
            for one in operations(Path::new("unused"), COUNTED_BYTES) {
                println!("{} {}", one.name, one.events);
            }
        }
        ["run", name, times, folder] => {
            let mut all = operations(Path::new(folder), COUNTED_BYTES);
            let one = all.iter_mut().find(|one| one.name == *name).expect("one of the list");
            (0..times.parse::<u64>().expect("a number")).for_each(|_| (one.run)());
        }
        _ => measure(),
    }
}

fn measure() {
    let folder = tempfile::tempdir().expect("a folder");
    prepare(folder.path(), JOURNAL_BYTES);
    let mut criterion = Criterion::default().configure_from_args();
    for mut one in operations(folder.path(), JOURNAL_BYTES) {
        let mut group = criterion.benchmark_group(one.name);
        group.throughput(Throughput::BytesDecimal(one.bytes));
        if one.events > 1 {
            // A second each, as a rule less.
            group.sample_size(10);
        }
        group.bench_function(format!("{} bytes", one.bytes), |bencher| bencher.iter(&mut *one.run));
        group.finish();
    }
    criterion.final_summary();
}

/// A JSON body of so many bytes.
fn body(bytes: usize) -> Bytes {
    let head = r#"{"id":"1000000000000000001","action":"LOAN","institution":{"value":"01TEST_INST"},"x":""#;
    format!("{head}{}\"}}", "x".repeat(bytes - head.len() - 2)).into()
}

fn source() -> SourceName {
    "alma".parse().expect("a name")
}

fn secrets() -> [NamedSecret; 1] {
    let secret = Some(Secret::new(SECRET));
    [NamedSecret { name: "default".into(), from: SecretFrom::Env("X".into()), secret }]
}

fn sample(name: &str) -> Bytes {
    let sample = samples::find(name).expect("a sample");
    sample.render("1000000000000000001", "2024-01-02T03:04:05.678Z").into()
}

fn events_in(journal: u64) -> u64 {
    journal / BODY as u64
}

/// A journal with one segment, which is read whole at each start.
fn prepare(folder: &Path, bytes: u64) {
    let lock = JournalLock::acquire(folder).expect("a lock").expect("free");
    let config = config::load_defaults(&[]).expect("the defaults are valid").config.journal;
    let options = JournalOptions {
        dir: folder.to_owned(),
        limits: JournalLimits { segment_bytes: 2 * bytes, ..JournalLimits::of(&config) },
        config,
        sinks: Vec::new(),
        disk: RealDisk::shared(),
        clock: SystemClock::shared(),
        metrics: JournalMetrics::register(&mut Registry::default()),
        lock: Some(lock),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let journal = Journal::open(options).expect("opened");
        let mut taking = tokio::task::JoinSet::new();
        for number in 0..events_in(bytes) {
            let body = Bytes::from(format!("{number:0BODY$}"));
            let event = verified(&body);
            let journal = journal.clone();
            taking.spawn(async move { journal.take(event, Timestamp::from_micros(1)).await });
        }
        assert!(taking.join_all().await.iter().all(Result::is_ok));
        journal.close().await;
    });
}

fn verified(body: &Bytes) -> Verified {
    let signature = SignatureHeader::sign(SECRET, body);
    Unverified::new(signature, body.clone()).verify(&source(), &secrets()).expect("signed")
}

fn operations(journal: &Path, journal_bytes: u64) -> Vec<Operation> {
    let mut all = Vec::new();
    let mut add =
        |name, events: u64, bytes: u64, run: Box<dyn FnMut()>| all.push(Operation { name, events, bytes, run });
    for (name, bytes) in [("verify_1_5_kib", BODY), ("verify_100_kib", 100 << 10)] {
        let (body, source, secrets) = (body(bytes), source(), secrets());
        let signature = SignatureHeader::sign(SECRET, &body).to_base64();
        let run = move || {
            let signature = SignatureHeader::parse([signature.as_bytes()]).expect("well-formed");
            drop(black_box(Unverified::new(signature, body.clone()).verify(&source, &secrets).expect("signed")));
        };
        add(name, 1, bytes as u64, Box::new(run));
    }
    for (name, sample) in [("envelope_json", sample("loan")), ("envelope_xml", sample("job_end_xml"))] {
        add(name, 1, sample.len() as u64, Box::new(move || drop(black_box(Event::parse(black_box(&sample))))));
    }
    for (names, sample) in [
        (["message_json", "structured_json", "binary_json"], sample("loan")),
        (["message_xml", "structured_xml", "binary_xml"], sample("job_end_xml")),
    ] {
        let bytes = sample.len() as u64;
        let moment = Timestamp::from_micros(1_704_164_646_000_000);
        let stored = StoredEvent { source: source(), received: moment, recorded: moment, body: sample };
        let config = config::load_defaults(&[]).expect("the defaults are valid").config;
        let messages = Messages::new(&config.sinks[0], &config.sources, &config.privacy);
        let made = messages.make(&stored, None).expect("asked for");
        let binary = made.clone();
        add(names[0], 1, bytes, Box::new(move || drop(black_box(messages.make(black_box(&stored), None)))));
        add(names[1], 1, bytes, Box::new(move || drop(black_box(made.structured()))));
        add(names[2], 1, bytes, Box::new(move || headers(&binary)));
    }
    let (name, body) = (source(), body(BODY));
    let digest = BodyDigest::of(&body);
    let own = key(&name, &digest);
    let other = name.clone();
    let make_key = move || {
        black_box(key(&other, black_box(&digest)));
    };
    add("dedupe_key", 1, BODY as u64, Box::new(make_key));
    let mut buffer = Vec::new();
    let encode = move || {
        buffer.clear();
        append_record(&mut buffer, &own, &name, &body);
        black_box(&buffer);
    };
    add("record_encode", 1, BODY as u64, Box::new(encode));
    let events = events_in(journal_bytes);
    let open = |folder: &Path| Snapshot::open(folder, RealDisk::shared()).expect("opened");
    let folder = journal.to_owned();
    add("recovery_scan", events, journal_bytes, Box::new(move || drop(black_box(open(&folder)))));
    let (folder, mut opened) = (journal.to_owned(), None);
    let decode = move || {
        let all = opened.get_or_insert_with(|| open(&folder)).scan(Timestamp::default(), None);
        assert_eq!(all.flatten().count() as u64, events);
    };
    add("record_decode", events, journal_bytes, Box::new(decode));
    all
}

/// The attributes as headers: what binary mode has in the place of the document.
fn headers(message: &Message) {
    message.attributes.iter().for_each(|(name, value)| drop(black_box((format!("ce-{name}"), percent_encode(value)))));
}
