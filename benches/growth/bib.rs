//! Large records: how fast they are taken, beside what SHA-256 and the disk allow one after the other.

use std::hint::black_box;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alma_bridge::alma::{BodyDigest, SignatureHeader};

use super::harness::{self, Bridge, SECRET};
use super::load::block_on;
use super::report::{Report, grouped};

const BYTES: usize = 100 << 10;
/// As much as the journal syncs at once.
const GROUP: usize = 4 << 20;

/// A BIB event with a MARC record in it, as Alma writes one: XML as a string of JSON.
fn body(number: u64) -> String {
    const FIELD: &str = r#"<datafield ind1=\"1\" ind2=\" \" tag=\"650\"><subfield code=\"a\">Example of a heading</subfield><subfield code=\"0\">(TEST)0001</subfield></datafield>"#;
    let record = r#"<?xml version=\"1.0\" encoding=\"UTF-16\"?><record><leader>00000nam a2200000 a 4500</leader>"#;
    let mut body = format!(
        r#"{{"id":"1{number:018}","action":"BIB","event":{{"value":"BIB_UPDATED","desc":"BIB record updated"}},"institution":{{"value":"01TEST_INST","desc":"Test University"}},"time":"2024-01-02T03:04:05.678Z","bib":{{"mms_id":"990000000000001","record_format":"marc21","anies":["{record}"#
    );
    while body.len() < BYTES {
        body.push_str(FIELD);
    }
    body + r#"</record>"]}}"#
}

fn request(number: u64) -> Vec<u8> {
    let body = body(number);
    let signature = SignatureHeader::sign(SECRET.as_bytes(), body.as_bytes()).to_base64();
    let length = body.len();
    format!("POST /webhooks HTTP/1.1\r\nHost: bridge\r\nContent-Type: application/json\r\nX-Exl-Signature: {signature}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// Bytes a microsecond: MB/s.
#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn rate(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64() / 1e6
}

/// One thread.
fn sha256(bodies: usize) -> f64 {
    let body = body(0);
    let begun = Instant::now();
    for _ in 0..bodies {
        black_box(BodyDigest::of(black_box(body.as_bytes())));
    }
    rate(bodies * body.len(), begun.elapsed())
}

/// Written and synced by groups, on the disk of the journals.
fn disk(groups: usize) -> f64 {
    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).expect("a file");
    let block = vec![7; GROUP];
    let begun = Instant::now();
    for number in 0..groups {
        file.write_all_at(&block, (number * GROUP) as u64).expect("written");
        file.sync_data().expect("synced");
    }
    rate(groups * GROUP, begun.elapsed())
}

pub(crate) fn run(counts: &[u64], report: &mut Report) {
    report.section(
        "BIB of 100 KiB",
        "A closed loop over 64 connections. SHA-256 is that of one thread, and the disk that of writes of 4 MiB, each \
         synced. `both`: one after the other.",
        &["events", "SHA-256 MB/s", "disk MB/s", "both MB/s", "taken MB/s", "taken and delivered to files MB/s"],
    );
    for count in counts {
        let requests: Arc<Vec<Vec<u8>>> = Arc::new((0..*count).map(request).collect());
        let all = requests.iter().map(Vec::len).sum();
        let (sha256, disk) = (sha256(requests.len()), disk(all / GROUP));
        let both = (sha256.recip() + disk.recip()).recip();
        let [taken, delivered] = ["actions = [\"nothing\"]", ""].map(|actions| {
            let bridge = Bridge::start(&format!("type = \"file\"\n{actions}"));
            let begun = Instant::now();
            let (took, _) = block_on(harness::load(bridge.subject.address, &requests));
            bridge.wait_until_delivered();
            if actions.is_empty() { rate(all, begun.elapsed()) } else { rate(all, took) }
        });
        let figures = [sha256, disk, both, taken, delivered].map(|figure| format!("{figure:.0}"));
        report.row(&[&[grouped(*count)], &figures[..]].concat());
        let share = taken / both;
        let found = format!("{:.0} %", share * 100.0);
        report.goal("BIB of 100 KiB, MB/s of SHA-256 and disk one after the other", ">= 70 %", &found, share >= 0.7);
    }
}
