//! Files written anew, and letters that another sink takes over.

use super::*;
use crate::testing::disk::{Fail, Kind};

/// A letter with a body of so many bytes.
fn large(offset: u64, bytes: usize) -> DeadLetter {
    let mut letter = letter(offset, "t", Reason::Rights);
    letter.event.body = format!("body {offset} {}", "x".repeat(bytes)).into_bytes().into();
    letter
}

fn size(bench: &Bench) -> u64 {
    bench.files().iter().map(|file| file.metadata().expect("is there").len()).sum()
}

async fn bodies(letters: &DeadLetters) -> Vec<(LetterId, u64)> {
    let mut found = Vec::new();
    for id in ids(letters).await {
        let letter = letters.get(id).await.expect("reads").expect("is there");
        let text = String::from_utf8(letter.event.body.to_vec()).expect("a text");
        assert!(text.starts_with(&format!("body {}", letter.offset)), "another letter's body");
        found.push((id, letter.offset.0));
    }
    found
}

#[tokio::test]
async fn a_few_live_letters_do_not_hold_the_bound() {
    let mut bench = Bench::new();
    bench.max_size = 100 << 10;
    let letters = bench.open();
    let mut id_of_first = None;
    for round in 0..20 {
        let offsets = round * 20 + 1..=round * 20 + 20;
        letters.append(offsets.map(|offset| large(offset, 4_000)).collect()).await.expect("has room");
        let all = ids(&letters).await;
        id_of_first = id_of_first.or(Some(all[0]));
        letters.remove(all[1..].to_vec()).await.expect("removes");
        assert!(size(&bench) < bench.max_size * 9 / 8, "{} bytes in round {round}", size(&bench));
    }
    assert_eq!(bodies(&letters).await, [(id_of_first.expect("there was one"), 1)], "it keeps its id");
    drop(letters);
    assert_eq!(bodies(&bench.open()).await, [(id_of_first.expect("there was one"), 1)]);
}

#[tokio::test]
async fn a_file_that_is_mostly_gone_is_written_anew_with_the_same_letters() {
    let bench = Bench::new();
    let letters = bench.open();
    letters.append((1..=100).map(|offset| large(offset, 2_000)).collect()).await.expect("appends");
    let before = size(&bench);
    let all = ids(&letters).await;
    letters.remove(all[..40].to_vec()).await.expect("removes");
    assert_eq!(size(&bench), before, "less than half is gone");
    letters.remove(all[40..90].to_vec()).await.expect("removes");
    assert!(size(&bench) < before / 5, "{} of {before} bytes", size(&bench));
    let kept: Vec<_> = all[90..].iter().map(|id| (*id, id.0)).collect();
    assert_eq!(bodies(&letters).await, kept);
    letters.append(vec![letter(101, "t", Reason::Rights)]).await.expect("appends");
    drop(letters);
    let letters = bench.open();
    assert_eq!(bodies(&letters).await[..10], kept);
    let rest = ids(&letters).await;
    letters.remove(rest).await.expect("removes");
    assert!(bench.files().is_empty());
}

#[tokio::test]
async fn damaged_bytes_are_kept_when_their_file_is_written_anew() {
    let mut bench = Bench::new();
    bench.max_size = 1_000;
    let letters = bench.open();
    letters.append((1..=3).map(|offset| large(offset, 100)).collect()).await.expect("appends");
    let file = bench.files().remove(0);
    let mut bytes = fs::read(&file).expect("reads");
    let at = memchr::memmem::find(&bytes, b"body 2").expect("is in it");
    bytes[at] = b'B';
    fs::write(&file, &bytes).expect("writes");
    let all = ids(&letters).await;
    letters.remove(vec![all[0]]).await.expect("removes");
    letters.append(vec![large(4, 100), large(5, 100)]).await.expect("is given room");
    assert_eq!(bodies(&letters).await.iter().map(|(_, offset)| *offset).collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!(letters.summary().damaged, 1);
    let kept = fs::read(bench.sink_dir().join("damaged").join(file.file_name().expect("a name"))).expect("is kept");
    assert!(memchr::memmem::find(&kept, b"Body 2").is_some());
    let now = fs::read(&file).expect("is there");
    assert!(memchr::memmem::find(&now, b"ody 2").is_none() && memchr::memmem::find(&now, b"body 3").is_some());
    drop(letters);
    assert_eq!(bench.open().summary().damaged, 0, "the damage is told once");
}

#[tokio::test]
async fn a_crash_at_any_moment_of_writing_anew_leaves_each_letter_once() {
    for power in [false, true] {
        for crash in 0..16 {
            let (disk, dead) = (SimDisk::new(), Path::new("/journal/dead"));
            let (sink, metrics) = ("main".parse().expect("a name"), metrics());
            let open = || DeadLetters::open(Arc::new(disk.clone()), dead, &sink, 1_000, &metrics).expect("opens");
            let letters = open();
            letters.append((1..=3).map(|offset| large(offset, 150)).collect()).await.expect("appends");
            let all = ids(&letters).await;
            letters.remove(vec![all[0], all[1]]).await.expect("removes");
            disk.reseed(crash.into());
            disk.faults(|faults| faults.crash = Some(crash));
            let appended = letters.append(vec![large(4, 150), large(5, 150)]).await.is_ok();
            drop(letters);
            disk.restart(power);
            let letters = open();
            let found = bodies(&letters).await;
            assert_eq!(found[0], (all[2], 3), "power {power}, crash {crash}");
            let more: Vec<_> = found[1..].iter().map(|(_, offset)| *offset).collect();
            assert!(
                more == [4, 5] || (!appended && (more.is_empty() || more == [4])),
                "{more:?}: {power}, crash {crash}"
            );
            assert_eq!(letters.summary().damaged, 0, "power {power}, crash {crash}");
            assert!(disk.find(&dead.join("main"), b"body 1").is_none() || !appended, "what is gone makes room");
        }
    }
}

/// A removal is durable, also if the file that it is in has just been written anew.
#[tokio::test]
async fn a_removed_letter_does_not_come_back_with_an_old_file() {
    let (disk, dead) = (SimDisk::new(), Path::new("/journal/dead"));
    let (sink, metrics) = ("main".parse().expect("a name"), metrics());
    for seed in 0..20 {
        let open = || DeadLetters::open(Arc::new(disk.clone()), dead, &sink, 1_500, &metrics).expect("opens");
        let letters = open();
        let first = seed * 10;
        letters.append((first + 1..=first + 4).map(|offset| large(offset, 150)).collect()).await.expect("appends");
        let all = ids(&letters).await;
        letters.remove(vec![all[0], all[1]]).await.expect("removes");
        // The file is written anew, and its folder can't be synced.
        disk.reseed(seed);
        disk.fail(Fail::new(Kind::SyncDir, 1));
        drop(letters.append(vec![large(first + 5, 150), large(first + 6, 150)]).await);
        disk.stop_failing();
        letters.remove(vec![all[2]]).await.expect("removes");
        drop(letters);
        disk.restart(true);
        let letters = open();
        assert!(!ids(&letters).await.contains(&all[2]), "seed {seed}");
        let rest = ids(&letters).await;
        assert!(rest.contains(&all[3]), "seed {seed}");
        letters.remove(rest).await.expect("removes");
    }
}

#[tokio::test]
async fn a_full_store_takes_a_letter_under_another_reason() {
    let mut bench = Bench::new();
    bench.max_size = 200;
    let letters = bench.open();
    letters.append(vec![letter(1, "t", Reason::Rights)]).await.expect("appends");
    letters.append(vec![letter(2, "t", Reason::Rights)]).await.expect_err("is full");
    let id = ids(&letters).await[0];
    let failure = Failure::new(Reason::TooLarge, "no");
    letters.reclassify(id, failure.clone(), Timestamp::from_micros(9)).await.expect("has room");
    assert_eq!(letters.summary().by_reason, BTreeMap::from([(Reason::TooLarge, 1)]));
}

/// The copy was made and the letter stayed: a crash, or its removal failed.
#[tokio::test]
async fn a_letter_is_not_copied_again_each_time_its_removal_fails() {
    let (disk, dead) = (SimDisk::new(), Path::new("/journal/dead"));
    let (sink, metrics) = ("main".parse().expect("a name"), metrics());
    let letters = DeadLetters::open(Arc::new(disk.clone()), dead, &sink, 1 << 20, &metrics).expect("opens");
    letters.append(vec![letter(1, "t", Reason::Rights)]).await.expect("appends");
    let id = ids(&letters).await[0];
    let reclassify = || letters.reclassify(id, Failure::new(Reason::TooLarge, "no"), Timestamp::from_micros(9));
    // After the copy is written.
    disk.fail(Fail::new(Kind::Write, 1).after(1));
    reclassify().await.expect_err("the letter can't be marked");
    assert_eq!(offsets(&letters).await, [1, 1]);
    reclassify().await.expect("does");
    assert_eq!(letters.summary().by_reason, BTreeMap::from([(Reason::TooLarge, 1)]));
}

fn letter_box(disk: &SimDisk, metrics: &DeadLetterMetrics) -> DeadLetterStores {
    DeadLetterStores::new(Arc::new(disk.clone()), "/journal/dead".into(), 1 << 20, metrics.clone())
}

fn names() -> (SinkName, SinkName) {
    ("old".parse().expect("a name"), "new".parse().expect("a name"))
}

#[tokio::test]
async fn a_sink_takes_over_letters_with_their_ids() {
    let (disk, mut registry, (old, new)) = (SimDisk::new(), Registry::default(), names());
    let metrics = DeadLetterMetrics::register(&mut registry);
    let all = letter_box(&disk, &metrics);
    assert_eq!(all.adopt(&new, &old).expect("there are none"), 0);
    assert_eq!(all.names().expect("lists"), [], "no folder is made for that");
    let from = all.open(&old).expect("opens");
    from.append(vec![letter(4, "a", Reason::Rights), letter(5, "b", Reason::TooLarge)]).await.expect("appends");
    let before = ids(&from).await;
    assert_eq!(all.adopt(&new, &old).expect("takes over"), 2);
    let to = all.open(&new).expect("opens");
    assert_eq!((ids(&to).await, ids(&from).await), (before.clone(), vec![]));
    assert_eq!(to.summary().letters_of("a", |reason| reason == Reason::Rights), 1);
    let text = registry.encode();
    assert!(text.contains(r#"dead_letters{sink="new",reason="rights"} 1"#), "{text}");
    assert!(text.contains(r#"dead_letters{sink="old",reason="rights"} 0"#), "{text}");
    to.append(vec![letter(6, "a", Reason::Rights)]).await.expect("appends");
    disk.restart(true);
    let to = letter_box(&disk, &metrics).open(&new).expect("opens");
    assert_eq!(ids(&to).await[..2], before);
    assert_eq!(bodies(&to).await.iter().map(|(_, offset)| *offset).collect::<Vec<_>>(), [4, 5, 6]);
}

#[tokio::test]
async fn letters_that_do_not_fit_behind_others_get_new_ids_and_none_is_kept_twice() {
    let (disk, metrics, (old, new)) = (SimDisk::new(), metrics(), names());
    let all = letter_box(&disk, &metrics);
    let (from, to) = (all.open(&old).expect("opens"), all.open(&new).expect("opens"));
    from.append([3, 4, 5].map(|offset| letter(offset, "a", Reason::Rights)).to_vec()).await.expect("appends");
    to.append(vec![letter(4, "a", Reason::TooLarge), letter(9, "a", Reason::Rights)]).await.expect("appends");
    all.adopt(&new, &old).expect("takes over");
    let found = bodies(&to).await;
    assert_eq!(found.iter().map(|(_, offset)| *offset).collect::<Vec<_>>(), [4, 9, 3, 5]);
    assert!(found.is_sorted_by_key(|(id, _)| *id), "in the order of their ids: {found:?}");
    assert!(from.list().await.expect("lists").is_empty());
}

#[tokio::test]
async fn a_crash_at_any_moment_of_taking_over_loses_no_letter() {
    for own in [false, true] {
        for power in [false, true] {
            for crash in 0..24 {
                let (disk, metrics, (old, new)) = (SimDisk::new(), metrics(), names());
                let all = letter_box(&disk, &metrics);
                let from = all.open(&old).expect("opens");
                from.append(vec![letter(1, "a", Reason::Rights)]).await.expect("appends");
                drop((from, all));
                let all = letter_box(&disk, &metrics);
                all.open(&old).expect("opens").append(vec![letter(2, "a", Reason::Rights)]).await.expect("appends");
                if own {
                    all.open(&new).expect("opens").append(vec![letter(3, "a", Reason::Rights)]).await.expect("appends");
                }
                disk.reseed(crash.into());
                disk.faults(|faults| faults.crash = Some(crash));
                drop(all.adopt(&new, &old));
                disk.restart(power);
                let all = letter_box(&disk, &metrics);
                all.adopt(&new, &old).expect("takes over the rest");
                let to = all.open(&new).expect("opens");
                let mut found = offsets(&to).await;
                found.sort_unstable();
                let expected: &[u64] = if own { &[1, 2, 3] } else { &[1, 2] };
                assert_eq!(found, expected, "own {own}, power {power}, crash {crash}");
                assert!(all.open(&old).expect("opens").list().await.expect("lists").is_empty());
                assert_eq!(to.summary().damaged, 0);
            }
        }
    }
}
