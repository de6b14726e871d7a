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

/// What the names of topic files end with.
const TOPIC_FILE_ENDING: &str = ".jsonl";

/// Between two looks. Files have no broker that tells.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Gives what is appended to the topic files, until the reader has had enough.
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
    // Before anything is given: nobody takes it earlier. Whoever waits for it may have gone already.
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
                // New since the last look, so all of it is new.
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

/// Topics and their current files; a folder that is not there yet has none.
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

/// One topic file, read up to the last whole line.
struct Follower {
    topic: String,
    file: BufReader<File>,
    inode: u64,
    /// What is read of a line that is still being written.
    half: Vec<u8>,
    /// Reading began within a line, which is passed over.
    within_line: bool,
}

impl Follower {
    fn open(topic: &str, path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self { topic: topic.to_owned(), file: BufReader::new(file), inode, half: Vec::new(), within_line: false })
    }

    /// Passes what is there.
    fn skip_to_end(&mut self) -> io::Result<()> {
        if self.file.seek(SeekFrom::End(0))? > 0 {
            self.file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            self.file.read_exact(&mut last)?;
            self.within_line = last != *b"\n";
        }
        Ok(())
    }

    /// As [`Follower::give_new`], going on with the new file where the path is another one by now.
    async fn give_new_through_rotation(&mut self, path: &Path, into: &mpsc::Sender<Landed>) -> io::Result<bool> {
        // Asked first, so that what was still written to the old file is read before it is left.
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

    /// Gives the lines that came since; false once the reader has had enough.
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
