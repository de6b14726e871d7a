//! Reads the topic files of a `file` sink as they grow, through rotation.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::FileSink;
use crate::sinks::tools::{Landed, TailOptions};
use crate::sinks::{Failure, Reason};

/// The extension of topic files.
const TOPIC_FILE_ENDING: &str = ".jsonl";

/// How often to check the files for new lines.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Reads what is appended to the topic files, until the reader wants no more.
pub async fn tail(sink: &FileSink, options: TailOptions) -> Result<(), Failure> {
    let failed =
        |error: io::Error| Failure::new(Reason::Unreachable, format!("cannot read {}: {error}", sink.dir.display()));
    let TailOptions { topics, from_start, into, ready } = options;
    let (mut followers, mut older) = (HashMap::new(), Vec::new());
    let there = topic_files(&sink.dir).map_err(failed)?;
    for (topic, path) in there.iter().filter(|(topic, _)| topics.ask_for(topic)) {
        let mut follower = Follower::open(topic, path).map_err(failed)?;
        if from_start {
            for path in rotated(&sink.dir, topic).map_err(failed)? {
                older.push(Follower::open(topic, &path).map_err(failed)?);
            }
        } else {
            follower.skip_to_end().map_err(failed)?;
        }
        followers.insert(topic.clone(), follower);
    }
    // Before the first event, because the reader takes none earlier. The receiver may be gone.
    let _ = ready.send(Some(there.into_iter().map(|(topic, _)| topic).collect()));
    for mut follower in older {
        if !follower.give_new(&into).await.map_err(failed)? {
            return Ok(());
        }
    }
    loop {
        for (topic, path) in topic_files(&sink.dir).map_err(failed)? {
            if !topics.ask_for(&topic) {
                continue;
            }
            let follower = match followers.entry(topic) {
                Entry::Occupied(known) => known.into_mut(),
                // The file is new since the last check, so all of its lines are new.
                Entry::Vacant(new) => {
                    let follower = Follower::open(new.key(), &path).map_err(failed)?;
                    new.insert(follower)
                }
            };
            if !follower.give_new_through_rotation(&path, &into).await.map_err(failed)? {
                return Ok(());
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = into.closed() => return Ok(()),
        }
    }
}

/// Topics and their current files. Empty if the folder does not exist yet.
fn topic_files(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(topic) = name.and_then(|name| name.strip_suffix(TOPIC_FILE_ENDING)) {
            files.push((topic.to_owned(), path.clone()));
        }
    }
    files.sort();
    Ok(files)
}

/// The rotated files of a topic, oldest first.
fn rotated(dir: &Path, topic: &str) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir.join("rotated").join(topic)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// Reads one topic file up to its last complete line.
struct Follower {
    topic: String,
    file: BufReader<File>,
    inode: u64,
    /// The beginning of a line that is still being written.
    half: Vec<u8>,
    /// Reading began within a line, which is skipped.
    within_line: bool,
}

impl Follower {
    fn open(topic: &str, path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self { topic: topic.to_owned(), file: BufReader::new(file), inode, half: Vec::new(), within_line: false })
    }

    /// Skips what is already there.
    fn skip_to_end(&mut self) -> io::Result<()> {
        if self.file.seek(SeekFrom::End(0))? > 0 {
            self.file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            self.file.read_exact(&mut last)?;
            self.within_line = last != *b"\n";
        }
        Ok(())
    }

    /// Like [`Follower::give_new`], but continues with the new file if the file was rotated.
    async fn give_new_through_rotation(&mut self, path: &Path, into: &mpsc::Sender<Landed>) -> io::Result<bool> {
        // Checked first, so that the rest of the old file is read before it is closed.
        let rotated = fs::metadata(path).is_ok_and(|metadata| metadata.ino() != self.inode);
        if !self.give_new(into).await? {
            return Ok(false);
        }
        if !rotated {
            return Ok(true);
        }
        *self = Self::open(&self.topic, path)?;
        self.give_new(into).await
    }

    /// Passes on the lines that were added since. Returns `false` if the reader wants no more.
    async fn give_new(&mut self, into: &mpsc::Sender<Landed>) -> io::Result<bool> {
        loop {
            self.file.read_until(b'\n', &mut self.half)?;
            if self.half.pop_if(|last| *last == b'\n').is_none() {
                return Ok(true);
            }
            let document = std::mem::take(&mut self.half);
            if std::mem::take(&mut self.within_line) {
                continue;
            }
            if into.send(Landed { topic: self.topic.clone(), document }).await.is_err() {
                return Ok(false);
            }
        }
    }
}
