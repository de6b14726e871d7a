use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::PathBuf;

use super::*;
use crate::storage::{RealDisk, create_dirs};
use crate::telemetry::Registry;
use crate::testing::disk::SimDisk;

mod compaction;

struct Bench {
    dir: tempfile::TempDir,
    max_size: u64,
    registry: Registry,
    metrics: DeadLetterMetrics,
}

/// For tests that read no metrics.
fn metrics() -> DeadLetterMetrics {
    DeadLetterMetrics::register(&mut Registry::default())
}

impl Bench {
    fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = DeadLetterMetrics::register(&mut registry);
        Self { dir: tempfile::tempdir().expect("a temporary folder"), max_size: 1 << 30, registry, metrics }
    }

    fn open(&self) -> DeadLetters {
        self.try_open().expect("opens")
    }

    fn try_open(&self) -> Result<DeadLetters, DeadLetterError> {
        let sink = "main".parse().expect("a name");
        DeadLetters::open(RealDisk::shared(), &self.dir.path().join("dead"), &sink, self.max_size, &self.metrics)
    }

    fn sink_dir(&self) -> PathBuf {
        self.dir.path().join("dead/main")
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.sink_dir()).expect("the folder");
        let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).filter(|p| p.is_file()).collect();
        files.sort();
        files
    }
}

fn letter(offset: u64, topic: &str, reason: Reason) -> DeadLetter {
    DeadLetter {
        id: LetterId(0),
        offset: Offset(offset),
        died: Timestamp::from_micros(3),
        topic: topic.into(),
        failure: Failure::new(reason, "no"),
        event: StoredEvent {
            source: "alma".parse().expect("a name"),
            received: Timestamp::from_micros(offset + 1),
            recorded: Timestamp::from_micros(2),
            body: format!("body {offset}").into_bytes().into(),
        },
    }
}

/// Changes the bytes of a file with one letter, and returns the file and its bytes.
async fn changed_file(bench: &Bench, change: impl FnOnce(&mut Vec<u8>)) -> (PathBuf, Vec<u8>) {
    bench.open().append(vec![letter(1, "t", Reason::Rights)]).await.expect("appends");
    let file = bench.files().remove(0);
    let mut bytes = fs::read(&file).expect("reads");
    change(&mut bytes);
    fs::write(&file, &bytes).expect("writes");
    (file, bytes)
}

async fn offsets(letters: &DeadLetters) -> Vec<u64> {
    letters.list().await.expect("lists").iter().map(|letter| letter.offset.0).collect()
}

async fn ids(letters: &DeadLetters) -> Vec<LetterId> {
    letters.list().await.expect("lists").iter().map(|letter| letter.id).collect()
}

#[tokio::test]
async fn letters_come_back_after_a_restart_in_order_and_whole() {
    let bench = Bench::new();
    let letters = bench.open();
    letters
        .append(vec![letter(4, "alma.loan", Reason::TooLarge), letter(7, "alma.bib", Reason::Rights)])
        .await
        .expect("appends");
    letters.append(vec![letter(9, "alma.loan", Reason::TooLarge)]).await.expect("appends");
    drop(letters);

    let letters = bench.open();
    assert_eq!(offsets(&letters).await, [4, 7, 9]);
    let id = ids(&letters).await[1];
    let whole = letters.get(id).await.expect("reads").expect("is there");
    assert_eq!((&*whole.topic, whole.failure.reason, &*whole.failure.detail), ("alma.bib", Reason::Rights, "no"));
    assert_eq!(&*whole.event.body, b"body 7");
    let summary = letters.summary();
    assert_eq!(summary.by_reason, BTreeMap::from([(Reason::TooLarge, 2), (Reason::Rights, 1)]));
    assert_eq!(summary.letters_of("alma.bib", |reason| reason == Reason::Rights), 1);
    assert!(bench.registry.encode().contains(r#"dead_letters{sink="main",reason="too_large"} 2"#));
    for file in bench.files() {
        assert_eq!(file.metadata().expect("is there").permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_removed_letter_stays_removed_and_an_empty_file_goes() {
    let bench = Bench::new();
    let letters = bench.open();
    letters.append((1..=3).map(|offset| letter(offset, "t", Reason::Rights)).collect()).await.expect("appends");
    let all = ids(&letters).await;
    assert_eq!(letters.remove(vec![all[1], LetterId(999)]).await.expect("removes"), 1);
    assert_eq!(letters.remove(vec![all[1]]).await.expect("removes"), 0);
    assert_eq!(letters.get(all[1]).await.expect("reads").map(|letter| letter.id), None);
    drop(letters);

    let letters = bench.open();
    assert_eq!(offsets(&letters).await, [1, 3]);
    letters.append(vec![letter(5, "t", Reason::Rights)]).await.expect("appends");
    assert_eq!(bench.files().len(), 2, "a start begins a new file");
    letters.remove(vec![all[0], all[2]]).await.expect("removes");
    assert_eq!(bench.files().len(), 1);
    let rest = ids(&letters).await;
    letters.remove(rest).await.expect("removes");
    assert!(bench.files().is_empty());
    assert_eq!(letters.summary(), LetterSummary::default());
}

#[tokio::test]
async fn ids_are_never_given_twice() {
    let bench = Bench::new();
    let mut last = LetterId(0);
    for offset in [5, 6, 20] {
        let letters = bench.open();
        letters.append(vec![letter(offset, "t", Reason::Rights)]).await.expect("appends");
        let id = ids(&letters).await[0];
        assert!(id > last, "{id} after {last}");
        last = id;
        letters.remove(vec![id]).await.expect("removes");
    }
}

#[tokio::test]
async fn the_same_event_again_is_not_kept_twice() {
    let bench = Bench::new();
    let letters = bench.open();
    letters.append(vec![letter(4, "t", Reason::Rights), letter(5, "t", Reason::Rights)]).await.expect("appends");
    drop(letters);
    // The cursor was behind: the window comes again, with one more event.
    let letters = bench.open();
    letters.append((4..=6).map(|offset| letter(offset, "t", Reason::Rights)).collect()).await.expect("appends");
    assert_eq!(offsets(&letters).await, [4, 5, 6]);
    // Another event at the same offset (a journal begun anew) is another letter.
    let mut other = letter(5, "t", Reason::Rights);
    other.event.received = Timestamp::from_micros(77);
    letters.append(vec![other]).await.expect("appends");
    assert_eq!(offsets(&letters).await, [4, 5, 6, 5]);
}

/// A process was killed between write and sync: its letter is in the page cache, and the next process finds it there.
#[tokio::test]
async fn a_letter_that_was_found_is_made_durable_before_it_counts_as_kept() {
    let bench = Bench::new();
    bench.open().append(vec![letter(1, "t", Reason::TooLarge)]).await.expect("appends");
    let bytes = fs::read(bench.files().remove(0)).expect("reads");

    let (disk, dead) = (SimDisk::new(), Path::new("/journal/dead"));
    let dir = dead.join("main");
    create_dirs(&disk, &dir).expect("made");
    let file = disk.create(&dir.join("0000000000000001.letters")).expect("made");
    file.write_at(&bytes[..format::FILE_HEADER], 0).expect("writes");
    file.sync_data().and_then(|()| disk.sync_dir(&dir)).expect("synced");
    file.write_at(&bytes[format::FILE_HEADER..], format::FILE_HEADER as u64).expect("writes");
    disk.restart(false);

    let sink = "main".parse().expect("a name");
    let letters = DeadLetters::open(Arc::new(disk.clone()), dead, &sink, 1 << 20, &bench.metrics).expect("opens");
    assert_eq!(offsets(&letters).await, [1]);
    assert!(!disk.has_durably(&dir, b"body 1"));
    letters.append(vec![letter(1, "t", Reason::TooLarge)]).await.expect("is kept already");
    assert_eq!(offsets(&letters).await, [1]);
    assert!(disk.has_durably(&dir, b"body 1"), "the cursor passes it now");
}

#[tokio::test]
async fn any_torn_tail_costs_only_what_was_not_acknowledged() {
    let bench = Bench::new();
    let letters = bench.open();
    letters.append(vec![letter(1, "t", Reason::Rights), letter(2, "t", Reason::Rights)]).await.expect("appends");
    let file = bench.files().remove(0);
    let whole = fs::metadata(&file).expect("is there").len();
    letters.append(vec![letter(3, "t", Reason::Rights)]).await.expect("appends");
    drop(letters);
    let bytes = fs::read(&file).expect("reads");
    for end in usize::try_from(whole).expect("small")..bytes.len() {
        fs::write(&file, &bytes[..end]).expect("writes");
        let letters = bench.open();
        assert_eq!(offsets(&letters).await, [1, 2], "cut at {end}");
        assert_eq!(letters.summary().damaged, 0, "cut at {end}");
        assert_eq!(fs::metadata(&file).expect("is there").len(), whole, "the half letter is cut off");
        let mut zeros = bytes[..usize::try_from(whole).expect("small")].to_vec();
        zeros.resize(end, 0);
        fs::write(&file, &zeros).expect("writes");
        assert_eq!(offsets(&bench.open()).await, [1, 2], "zeros to {end}");
    }
}

#[tokio::test]
async fn a_damaged_letter_is_skipped_loudly_and_its_bytes_are_kept() {
    let bench = Bench::new();
    let letters = bench.open();
    letters.append((1..=3).map(|offset| letter(offset, "t", Reason::Rights)).collect()).await.expect("appends");
    drop(letters);
    let file = bench.files().remove(0);
    let mut bytes = fs::read(&file).expect("reads");
    let at = memchr::memmem::find(&bytes, b"body 2").expect("is in it");
    bytes[at] ^= 1;
    fs::write(&file, &bytes).expect("writes");

    let letters = bench.open();
    assert_eq!(offsets(&letters).await, [1, 3]);
    assert_eq!(letters.summary().damaged, 1);
    let rest = ids(&letters).await;
    letters.remove(rest).await.expect("removes");
    assert!(bench.files().is_empty());
    let kept = bench.sink_dir().join("damaged").join(file.file_name().expect("a name"));
    let kept = fs::read(kept).expect("the damaged file is kept");
    assert!(memchr::memmem::find(&kept, &bytes[at..at + 6]).is_some());
    drop(letters);
    assert_eq!(bench.open().summary().letters(), 0);
}

#[tokio::test]
async fn a_letter_that_rots_while_it_is_kept_is_passed_over() {
    let bench = Bench::new();
    let letters = bench.open();
    letters.append((1..=3).map(|offset| letter(offset, "t", Reason::Rights)).collect()).await.expect("appends");
    let file = bench.files().remove(0);
    let bytes = fs::read(&file).expect("reads");
    let at = memchr::memmem::find(&bytes, b"body 1").expect("is in it") as u64;
    OpenOptions::new().write(true).open(&file).expect("opens").write_all_at(b"B", at).expect("writes");
    let next = letters.next_of("t".into(), |_| true, None, 10, 1 << 20).await.expect("reads");
    assert_eq!(next.letters.iter().map(|letter| letter.offset.0).collect::<Vec<_>>(), [2, 3]);
    assert_eq!((letters.summary().letters(), letters.summary().damaged), (2, 1));
}

#[tokio::test]
async fn a_file_of_another_version_stops_everything_and_is_not_touched() {
    let bench = Bench::new();
    let (file, bytes) = changed_file(&bench, |bytes| {
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..16]);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        bytes.push(1);
    })
    .await;
    let error = bench.try_open().expect_err("is refused").to_string();
    assert!(error.contains("format version 2, expected 1"), "{error}");
    assert_eq!(fs::read(&file).expect("reads"), bytes);
}

#[tokio::test]
async fn a_file_with_a_damaged_header_is_set_aside_and_a_stump_removed() {
    let bench = Bench::new();
    changed_file(&bench, |bytes| bytes[13] ^= 1).await;
    fs::write(bench.sink_dir().join("0000000000000008.letters"), [0; format::FILE_HEADER]).expect("writes");
    fs::write(bench.sink_dir().join("0000000000000009.letters"), b"ALMAD").expect("writes");
    let letters = bench.open();
    assert_eq!((letters.summary().letters(), letters.summary().damaged), (0, 1));
    assert!(bench.files().is_empty());
    assert!(bench.sink_dir().join("damaged/0000000000000001.letters").is_file());
}

#[tokio::test]
async fn over_the_bound_nothing_is_kept_until_there_is_room() {
    let mut bench = Bench::new();
    bench.max_size = 400;
    let letters = bench.open();
    letters.append(vec![letter(1, "t", Reason::Rights)]).await.expect("appends");
    letters.append(vec![letter(2, "t", Reason::Rights)]).await.expect("appends");
    let more = vec![letter(3, "t", Reason::Rights), letter(4, "t", Reason::Rights)];
    let full = letters.append(more.clone()).await.expect_err("is full");
    assert!(matches!(full, DeadLetterError::Full { max_size: 400, .. }), "{full}");
    assert_eq!(offsets(&letters).await, [1, 2]);
    let all = ids(&letters).await;
    letters.remove(all).await.expect("removes");
    letters.append(more).await.expect("has room again");
    assert_eq!(offsets(&letters).await, [3, 4]);
}

#[tokio::test]
async fn a_folder_that_can_not_be_written_is_an_error_and_later_a_new_file() {
    let bench = Bench::new();
    let letters = bench.open();
    let moved = bench.dir.path().join("moved");
    fs::rename(bench.sink_dir(), &moved).expect("renames");
    fs::write(bench.sink_dir(), b"in the way").expect("writes");
    let error = letters.append(vec![letter(1, "t", Reason::Rights)]).await.expect_err("can't");
    assert!(matches!(error, DeadLetterError::Io { .. }), "{error}");
    assert_eq!(letters.summary().letters(), 0);
    fs::remove_file(bench.sink_dir()).expect("removes");
    letters.append(vec![letter(1, "t", Reason::Rights)]).await.expect("appends");
    assert_eq!(offsets(&bench.open()).await, [1]);
}

#[tokio::test]
async fn a_topics_letters_are_read_in_order_within_bounds() {
    let bench = Bench::new();
    let letters = bench.open();
    let mut mixed: Vec<_> = (1..=6).map(|offset| letter(offset, "a", Reason::Rights)).collect();
    mixed[1].failure.reason = Reason::TooLarge;
    mixed[2].topic = "b".into();
    letters.append(mixed).await.expect("appends");
    let read = |after, max, bytes| {
        let letters = letters.clone();
        async move {
            let read = letters.next_of("a".into(), |why| why == Reason::Rights, after, max, bytes).await;
            read.expect("reads").letters.iter().map(|letter| letter.offset.0).collect::<Vec<_>>()
        }
    };
    assert_eq!(read(None, 10, 1 << 20).await, [1, 4, 5, 6]);
    assert_eq!(read(None, 2, 1 << 20).await, [1, 4]);
    assert_eq!(read(None, 10, 1).await, [1], "one at least");
    let first = ids(&letters).await[0];
    assert_eq!(read(Some(first), 10, 1 << 20).await, [4, 5, 6]);
}

#[tokio::test]
async fn a_reclassified_letter_is_there_once_under_its_new_reason() {
    let bench = Bench::new();
    let letters = bench.open();
    letters.append(vec![letter(1, "a", Reason::Rights)]).await.expect("appends");
    let id = ids(&letters).await[0];
    let failure = Failure::new(Reason::TooLarge, "9 MiB");
    letters.reclassify(id, failure, Timestamp::from_micros(9)).await.expect("does");
    drop(letters);
    let letters = bench.open();
    assert_eq!(letters.summary().by_reason, BTreeMap::from([(Reason::TooLarge, 1)]));
    let again = letters.get(ids(&letters).await[0]).await.expect("reads").expect("is there");
    assert_eq!((again.offset, &*again.failure.detail, &*again.event.body), (Offset(1), "9 MiB", &b"body 1"[..]));
}
