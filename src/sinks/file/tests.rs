use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use super::*;
use crate::clock::Timestamp;
use crate::message::ContentType;

struct Bench {
    dir: tempfile::TempDir,
    sink: FileSink,
}

impl Bench {
    async fn new() -> Self {
        Self::with(1 << 20, 16).await
    }

    async fn with(rotate: u64, keep: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let settings = config::FileSink { dir: dir.path().join("data/topics"), rotate, keep };
        let mut bench = Self { dir, sink: FileSink::new(&settings) };
        bench.connect().await;
        bench
    }

    async fn connect(&mut self) {
        assert_eq!(self.sink.connect().await, Ok(Vec::new()));
    }

    async fn publish(&mut self, messages: &[(&str, &str)]) -> Vec<Outcome> {
        let message =
            |(topic, id): &(&str, &str)| Message::sample(topic, id, br#"{"a":209.0}"#, Timestamp::from_micros(1));
        self.sink.publish(&messages.iter().map(message).collect::<Vec<_>>()).await
    }

    async fn confirm(&mut self, messages: &[(&str, &str)]) {
        assert_eq!(self.publish(messages).await, vec![Outcome::CONFIRMED; messages.len()]);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("data/topics").join(name)
    }

    /// The ids of the lines in a file, each a whole document.
    fn ids(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).expect("reads");
        assert!(text.is_empty() || text.ends_with('\n'), "a half line at the end of {name}");
        let document = |line| serde_json::from_str::<serde_json::Value>(line).expect("a document");
        text.lines().map(|line| document(line)["id"].as_str().expect("an id").to_owned()).collect()
    }

    fn rotated(&self, topic: &str) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.path(&format!("rotated/{topic}")))
            .expect("the folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        names
    }

    fn fail_sync(&mut self, sync: fn(&fs::File) -> io::Result<()>) {
        self.sink.files.lock().expect("not poisoned").sync = sync;
    }
}

fn reason(outcome: &Outcome) -> Option<Reason> {
    match outcome {
        Outcome::Failed(failure) => Some(failure.reason),
        Outcome::Confirmed { .. } => None,
    }
}

#[tokio::test]
async fn each_event_is_one_line_in_the_file_of_its_topic() {
    let mut bench = Bench::new().await;
    bench.confirm(&[("alma.loan", "1"), ("alma.bib", "2"), ("alma.loan", "3")]).await;
    bench.confirm(&[("alma.loan", "4")]).await;
    assert_eq!(bench.ids("alma.loan.jsonl"), ["1", "3", "4"]);
    assert_eq!(bench.ids("alma.bib.jsonl"), ["2"]);
    let text = fs::read_to_string(bench.path("alma.bib.jsonl")).expect("reads");
    assert!(text.contains(r#""data":{"a":209.0}"#), "{text}");
}

#[test]
fn an_event_is_one_line_whatever_its_data() {
    let with = |content_type, data: &'static [u8]| {
        let sample = Message::sample("t", "1", data, Timestamp::from_micros(1));
        let line = line(&Message { content_type, ..sample });
        String::from_utf8(line.to_vec()).expect("a text")
    };
    let head = r#"{"specversion":"1.0","id":"1","data"#;
    assert_eq!(with(ContentType::Json, b"{\r\n\t\"a\": 209.0\n}"), format!("{head}\":{{  \t\"a\": 209.0 }}}}\n"));
    assert_eq!(with(ContentType::Xml, b"<a\n b=\"1\"/>"), format!(r#"{head}":"<a\n b=\"1\"/>"}}"#) + "\n");
    assert_eq!(with(ContentType::Opaque, b"\xff\n"), format!("{head}_base64\":\"/wo=\"}}\n"));
}

#[tokio::test]
async fn files_and_folders_are_only_for_their_owner() {
    let mut bench = Bench::with(1, 2).await;
    bench.confirm(&[("alma.loan", "1"), ("alma.loan", "2")]).await;
    let mode = |path: PathBuf| path.metadata().expect("is there").permissions().mode() & 0o777;
    assert_eq!(mode(bench.path("alma.loan.jsonl")), 0o600);
    assert_eq!(mode(bench.path("rotated/alma.loan/0000000001.jsonl")), 0o600);
    for dir in ["", "rotated", "rotated/alma.loan"] {
        assert_eq!(mode(bench.path(dir)), 0o700, "{dir}");
    }
}

#[tokio::test]
async fn an_incomplete_line_is_cut_off_when_the_file_is_opened() {
    let mut bench = Bench::new().await;
    bench.confirm(&[("t", "1"), ("t", "2")]).await;
    for half in [b"{".to_vec(), vec![b'x'; 200_000], vec![0; 100]] {
        let mut file = fs::OpenOptions::new().append(true).open(bench.path("t.jsonl")).expect("opens");
        file.write_all(&half).expect("writes");
        bench.connect().await;
        bench.confirm(&[("t", "3")]).await;
        assert_eq!(bench.ids("t.jsonl").last().map(String::as_str), Some("3"));
    }
    assert_eq!(bench.ids("t.jsonl"), ["1", "2", "3", "3", "3"]);
    // A file that is nothing but a half line.
    fs::write(bench.path("u.jsonl"), b"{\"half").expect("writes");
    bench.confirm(&[("u", "1")]).await;
    assert_eq!(bench.ids("u.jsonl"), ["1"]);
}

#[tokio::test]
async fn a_full_file_is_rotated_and_the_newest_files_are_kept() {
    let line = line(&Message::sample("t", "10", br#"{"a":209.0}"#, Timestamp::from_micros(1))).len() as u64;
    let mut bench = Bench::with(2 * line, 2).await;
    let ids: Vec<_> = (10..19).map(|id| id.to_string()).collect();
    bench.confirm(&ids.iter().map(|id| ("t", id.as_str())).collect::<Vec<_>>()).await;
    assert_eq!(bench.ids("t.jsonl"), ["18"]);
    assert_eq!(bench.rotated("t"), ["0000000003.jsonl", "0000000004.jsonl"]);
    assert_eq!(bench.ids("rotated/t/0000000003.jsonl"), ["14", "15"]);
    assert_eq!(bench.ids("rotated/t/0000000004.jsonl"), ["16", "17"]);
    // The count goes on after a restart.
    bench.connect().await;
    bench.confirm(&[("t", "19"), ("t", "20")]).await;
    assert_eq!(bench.rotated("t"), ["0000000004.jsonl", "0000000005.jsonl"]);
    assert_eq!(bench.ids("t.jsonl"), ["20"]);
}

#[tokio::test]
async fn a_line_that_exceeds_the_size_limit_gets_its_own_file() {
    let mut bench = Bench::with(10, 16).await;
    bench.confirm(&[("t", "1"), ("t", "2")]).await;
    assert_eq!((bench.ids("rotated/t/0000000001.jsonl"), bench.ids("t.jsonl")), (vec!["1".into()], vec!["2".into()]));
}

#[tokio::test]
async fn no_rotated_file_is_kept_if_keep_is_0() {
    let mut bench = Bench::with(10, 0).await;
    bench.confirm(&[("t", "1"), ("t", "2"), ("t", "3")]).await;
    assert!(bench.rotated("t").is_empty());
    assert_eq!(bench.ids("t.jsonl"), ["3"]);
}

#[tokio::test]
async fn the_longest_topic_can_be_written_and_rotated() {
    let mut bench = Bench::with(10, 16).await;
    let topic = "a".repeat(249);
    bench.confirm(&[(&topic, "1"), (&topic, "2")]).await;
    assert_eq!(bench.rotated(&topic).len(), 1);
}

#[tokio::test]
async fn many_topics_are_written_with_at_most_64_files_open() {
    let mut bench = Bench::new().await;
    let topics: Vec<_> = (0..150).map(|n| format!("alma.t{n}")).collect();
    for id in ["1", "2"] {
        bench.confirm(&topics.iter().map(|topic| (topic.as_str(), id)).collect::<Vec<_>>()).await;
        assert_eq!(bench.sink.files.lock().expect("not poisoned").open_files(), files::MAX_OPEN);
    }
    for topic in topics {
        assert_eq!(bench.ids(&format!("{topic}.jsonl")), ["1", "2"], "{topic}");
    }
}

#[tokio::test]
async fn a_full_disk_is_busy_and_fails_only_its_topic() {
    let mut bench = Bench::new().await;
    // Writing to it fails with ENOSPC.
    symlink("/dev/full", bench.path("full.jsonl")).expect("links");
    let outcomes = bench.publish(&[("a", "1"), ("full", "2"), ("z", "3"), ("full", "4")]).await;
    assert_eq!(outcomes.iter().map(reason).collect::<Vec<_>>(), [None, Some(Reason::Busy), None, Some(Reason::Busy)]);
    assert_eq!((bench.ids("a.jsonl"), bench.ids("z.jsonl")), (vec!["1".into()], vec!["3".into()]));
    // There is room again.
    fs::remove_file(bench.path("full.jsonl")).expect("removes");
    bench.connect().await;
    bench.confirm(&[("full", "2"), ("full", "4")]).await;
    assert_eq!(bench.ids("full.jsonl"), ["2", "4"]);
}

#[tokio::test]
async fn lines_do_not_count_as_durable_after_a_failed_fsync() {
    let mut bench = Bench::new().await;
    bench.confirm(&[("t", "1")]).await;
    bench.fail_sync(|_| Err(io::Error::other("scripted")));
    let outcomes = bench.publish(&[("t", "2"), ("t", "3")]).await;
    assert_eq!(outcomes.iter().map(reason).collect::<Vec<_>>(), [Some(Reason::Unreachable); 2]);
    // The lines are in the file, but nothing says that they are on the disk: while fsync fails, all fails.
    assert_eq!(reason(&bench.publish(&[("t", "2")]).await[0]), Some(Reason::Unreachable));
    bench.fail_sync(fs::File::sync_data);
    bench.connect().await;
    bench.confirm(&[("t", "2"), ("t", "3")]).await;
    assert_eq!(bench.ids("t.jsonl"), ["1", "2", "3"], "what was not durable is cut off and written again");
}

#[tokio::test]
async fn a_fsync_that_fails_on_a_device_is_a_failure() {
    let mut bench = Bench::new().await;
    // Writing to it succeeds, but its fsync fails with EINVAL.
    symlink("/dev/null", bench.path("null.jsonl")).expect("links");
    assert_eq!(reason(&bench.publish(&[("null", "1")]).await[0]), Some(Reason::Unreachable));
}

#[tokio::test]
async fn a_file_that_somebody_removes_or_truncates_is_noticed() {
    let mut bench = Bench::new().await;
    bench.confirm(&[("t", "1")]).await;
    fs::remove_file(bench.path("t.jsonl")).expect("removes");
    bench.confirm(&[("t", "2")]).await;
    assert_eq!(bench.ids("t.jsonl"), ["2"]);
    fs::write(bench.path("t.jsonl"), b"").expect("cuts");
    bench.confirm(&[("t", "3")]).await;
    assert_eq!(bench.ids("t.jsonl"), ["3"]);
    // Replaced as editors do, by a file with a half line.
    fs::write(bench.path("new"), b"{\"id\":\"x\"}\n{\"ha").expect("writes");
    fs::rename(bench.path("new"), bench.path("t.jsonl")).expect("renames");
    bench.confirm(&[("t", "4")]).await;
    assert_eq!(bench.ids("t.jsonl"), ["x", "4"]);
}

#[tokio::test]
async fn a_folder_that_cannot_be_created_is_unreachable() {
    let mut bench = Bench::new().await;
    fs::remove_dir(bench.path("")).expect("removes");
    fs::write(bench.dir.path().join("data/topics"), b"in the way").expect("writes");
    let failure = bench.sink.connect().await.expect_err("can't");
    assert_eq!(failure.reason, Reason::Unreachable);
    assert_eq!(reason(&bench.publish(&[("t", "1")]).await[0]), Some(Reason::Unreachable));
}

#[tokio::test]
async fn a_folder_belongs_to_one_sink_until_it_is_closed() {
    let mut bench = Bench::new().await;
    // Another path to it.
    let link = bench.dir.path().join("link");
    symlink(bench.dir.path().join("data"), &link).expect("links");
    let settings = config::FileSink { dir: link.join("topics"), rotate: 1 << 20, keep: 16 };
    let mut other = FileSink::new(&settings);
    bench.confirm(&[("t", "1")]).await;
    let half = fs::OpenOptions::new().append(true).open(bench.path("t.jsonl")).expect("opens");
    (&half).write_all(b"{\"id\":\"half").expect("writes");
    let failure = other.connect().await.expect_err("it is taken");
    assert_eq!(failure.reason, Reason::Unreachable);
    assert!(failure.detail.contains("link/topics") && failure.detail.contains("one sink"), "{failure}");
    let sample = Message::sample("t", "2", b"{}", Timestamp::from_micros(1));
    assert_eq!(reason(&other.publish(std::slice::from_ref(&sample)).await[0]), Some(Reason::Unreachable));
    assert!(fs::read(bench.path("t.jsonl")).expect("reads").ends_with(b"half"), "the other cuts nothing off");
    bench.sink.close().await;
    assert_eq!(other.connect().await, Ok(Vec::new()));
    assert_eq!(other.publish(&[sample]).await, [Outcome::CONFIRMED]);
    assert_eq!(bench.ids("t.jsonl"), ["1", "2"]);
    // The one that let go does not write any more, and gets its turn when the other one ends.
    assert_eq!(reason(&bench.publish(&[("t", "3")]).await[0]), Some(Reason::Unreachable));
    let (connected, ()) = tokio::join!(bench.sink.connect(), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(other);
    });
    assert_eq!(connected, Ok(Vec::new()));
}

#[tokio::test]
async fn a_folder_that_is_replaced_is_locked_again() {
    let mut bench = Bench::new().await;
    bench.confirm(&[("t", "1")]).await;
    fs::rename(bench.path(""), bench.dir.path().join("moved")).expect("moves");
    assert_eq!(reason(&bench.publish(&[("t", "2")]).await[0]), Some(Reason::Unreachable));
    bench.connect().await;
    bench.confirm(&[("t", "2")]).await;
    assert_eq!(bench.ids("t.jsonl"), ["2"]);
}

#[tokio::test]
async fn a_disk_that_hangs_blocks_only_one_thread() {
    let mut bench = Bench::new().await;
    let files = Arc::clone(&bench.sink.files);
    let (held, is_held) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let disk = std::thread::spawn(move || {
        let _held = files.lock().expect("not poisoned");
        held.send(()).expect("the test waits");
        released.recv().expect("the test lets go");
    });
    is_held.recv().expect("is held");
    // The pump's deadline drops the publish; the thread goes on.
    let hung = tokio::time::timeout(Duration::from_millis(20), bench.publish(&[("t", "1")])).await;
    assert!(hung.is_err());
    assert_eq!(bench.sink.connect().await.map_err(|failure| failure.reason), Err(Reason::Timeout));
    release.send(()).expect("the disk waits");
    disk.join().expect("ends");
    bench.sink.abandon().await;
    bench.connect().await;
    bench.confirm(&[("t", "2")]).await;
    assert_eq!(bench.ids("t.jsonl"), ["1", "2"]);
    bench.sink.close().await;
}

/// Its second file is synced only once somebody lets it.
static SLOW_DISK: Mutex<(usize, bool)> = Mutex::new((0, false));
static SLOW_DISK_MOVED: std::sync::Condvar = std::sync::Condvar::new();

fn sync_the_first_file_only(file: &fs::File) -> io::Result<()> {
    let mut disk = SLOW_DISK.lock().expect("not poisoned");
    disk.0 += 1;
    if disk.0 == 2 {
        SLOW_DISK_MOVED.notify_all();
        while !disk.1 {
            disk = SLOW_DISK_MOVED.wait(disk).expect("not poisoned");
        }
    }
    drop(disk);
    file.sync_data()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_slow_disk_each_topic_counts_as_soon_as_it_is_synced() {
    let mut bench = Bench::new().await;
    bench.fail_sync(sync_the_first_file_only);
    let window = ["a", "b"].map(|topic| Message::sample(topic, "1", b"{}", Timestamp::from_micros(1)));
    let mut outcomes = Outcomes::open(2);
    {
        let mut publish = bench.sink.publish_into(&window, &mut outcomes);
        let second_is_begun = tokio::task::spawn_blocking(|| {
            let mut disk = SLOW_DISK.lock().expect("not poisoned");
            while disk.0 < 2 {
                disk = SLOW_DISK_MOVED.wait(disk).expect("not poisoned");
            }
        });
        tokio::select! {
            () = &mut publish => panic!("the second file is not synced"),
            begun = second_is_begun => begun.expect("begun"),
        }
        // The first was told before the second was begun.
        assert_eq!(futures_util::FutureExt::now_or_never(&mut publish), None);
    }
    assert_eq!((outcomes.get(0), outcomes.get(1)), (Some(&Outcome::CONFIRMED), None));
    SLOW_DISK.lock().expect("not poisoned").1 = true;
    SLOW_DISK_MOVED.notify_all();
    bench.sink.abandon().await;
    assert_eq!((bench.ids("a.jsonl"), bench.ids("b.jsonl")), (vec!["1".to_owned()], vec!["1".to_owned()]));
}
