//! The journal on disks that forget, tear, fill up and fail.

mod basics;
mod crash;
mod damage;
mod giving_up;
mod limits;
mod maintenance;
mod model;
mod sinks;
mod unreadable;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{
    Feed as _, Intake as _, Journal, JournalLimits, JournalMetrics, JournalOptions, JournalReader, NotTaken, Offset,
    Registration, Taken,
};
use crate::alma::{SignatureHeader, Unverified, Verified};
use crate::clock::Clock;
use crate::config::{self, NamedSecret, Secret, SecretFrom, SinkName, Start, Storage};
use crate::storage::Disk;
use crate::telemetry::Registry;
use crate::testing::disk::{Fail, Kind, SimDisk};

fn sink(name: &str) -> SinkName {
    name.parse().expect("a name")
}

fn registration(name: &str) -> Registration {
    Registration { name: sink(name), start: Start::Next, continues: None, best_effort: false }
}

fn config() -> config::Journal {
    config::Journal {
        storage: Storage::Disk,
        max_size: 1 << 30,
        min_free: 0,
        retain: Duration::from_hours(24),
        retain_size: 1 << 30,
        dedupe_window: Duration::from_hours(12),
        dedupe_max: 500_000,
        dead_max_size: 1 << 30,
    }
}

/// A journal at `/journal` of this disk with one sink, `main`.
fn options(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> JournalOptions {
    JournalOptions {
        dir: "/journal".into(),
        config: config(),
        sinks: vec![registration("main")],
        disk,
        clock,
        metrics: JournalMetrics::register(&mut Registry::default()),
        lock: None,
        limits: JournalLimits { segment_bytes: 64 << 20, group_bytes: 4 << 20, queue: 1024 },
    }
}

/// The next syncs of segments fail.
fn fail_syncs(disk: &SimDisk, times: u32) {
    disk.fail(Fail::new(Kind::Sync, times).under("/journal/segments"));
}

fn real(dir: &Path, clock: Arc<dyn Clock>) -> JournalOptions {
    let lock = super::JournalLock::acquire(dir).expect("a lock").expect("free");
    JournalOptions { dir: dir.to_owned(), lock: Some(lock), ..options(crate::storage::RealDisk::shared(), clock) }
}

fn verified(source: &str, body: &Bytes) -> Verified {
    let secrets = [NamedSecret {
        name: "default".into(),
        from: SecretFrom::Env("S".into()),
        secret: Some(Secret::new(b"made-up".as_slice())),
    }];
    let signature = SignatureHeader::sign(b"made-up", body);
    Unverified::new(signature, body.clone()).verify(&source.parse().expect("a name"), &secrets).expect("signed")
}

/// A body that tells its number, with this many bytes more.
fn body(number: u64, more: usize) -> Bytes {
    let mut body = format!(r#"{{"id":"{number}","action":"LOAN","more":""#).into_bytes();
    body.extend(std::iter::repeat_n(b'x', more));
    body.extend_from_slice(b"\"}");
    body.into()
}

/// The number of such a body.
fn number(body: &[u8]) -> u64 {
    let digits = body[7..].iter().take_while(|b| b.is_ascii_digit()).map(|b| u64::from(b - b'0'));
    digits.fold(0, |number, digit| number * 10 + digit)
}

async fn take(journal: &Journal, body: Bytes) -> Result<Taken, NotTaken> {
    let now = journal.now();
    journal.take(verified("alma", &body), now).await
}

fn is_repeat(taken: &Result<Taken, NotTaken>) -> bool {
    matches!(taken, Ok(Taken::Repeat(_)))
}

/// Reads all that is there without moving the cursor: numbers by offset.
async fn read_all(reader: &mut JournalReader) -> BTreeMap<Offset, u64> {
    let mut read = BTreeMap::new();
    while reader.has_more() {
        let window = soon(reader.next_window(512, 1 << 20)).await.expect("open");
        for (offset, event) in window.events {
            assert!(read.insert(offset, number(&event.body)).is_none(), "{offset} came twice");
        }
    }
    read
}

/// With a deadline, so that a test that waits in vain fails.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("within 20 s")
}

/// Until a condition holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..4_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 20 s: {what}");
}
