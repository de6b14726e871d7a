//! `cursors/` and `sinks`: the cursor of each sink, and the list of sinks.
//!
//! ```text
//! cursor = slot (at 0 and at 512, written in turn)
//! slot   = magic[8] generation:8 offset:8 segment:8 place:8 crc:4
//! sinks  = "alma-bridge sinks 1\n" { name "\n" } "crc32c " 8 hex digits "\n"
//! ```
//!
//! A slot's CRC also covers the sink's name, so that a file put in another's place is seen.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::u64_at;
use crate::config::SinkName;
use crate::storage::{Disk, DiskFile, read_all, replace};

const MAGIC: &[u8; 8] = b"\xA7ALMACUR";
const SLOT: usize = 44;
const SLOT_SPACING: usize = 512;
const LIST_TITLE: &str = "alma-bridge sinks 1";

/// A sink's progress: everything before `offset` is settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) offset: u64,
    /// Where the record is on disk. The reader checks it, because it may be wrong.
    pub(super) hint: Option<Hint>,
}

/// The segment of a cursor and the place of an item in it, at or before the cursor's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) segment: u64,
    pub(super) at: u64,
}

/// A sink's cursor on disk.
pub(super) struct CursorFile {
    path: PathBuf,
    name: SinkName,
    /// `None` if there is no file, or if a sync of it failed, after which it must not be trusted.
    file: Option<Arc<dyn DiskFile>>,
    generation: u64,
}

impl CursorFile {
    /// A cursor whose file will be replaced by the next write.
    pub(super) fn new(dir: &Path, name: &SinkName) -> Self {
        Self { path: dir.join(name.as_str()), name: name.clone(), file: None, generation: 0 }
    }

    /// Opens a cursor and reads its newest slot. The place is `None` if both slots are damaged.
    pub(super) fn open(disk: &dyn Disk, dir: &Path, name: &SinkName) -> io::Result<(Self, Option<Cursor>)> {
        let path = dir.join(name.as_str());
        let read = read_all(disk, &path)?;
        let slots = [0, SLOT_SPACING].map(|at| read.get(at..at + SLOT).and_then(|slot| decode(name, slot)));
        let newest = slots.into_iter().flatten().max_by_key(|(generation, _)| *generation);
        // A file that can't be read is replaced instead of written to.
        let file = newest.and_then(|_| disk.open(&path, true).ok());
        let (generation, cursor) = newest.unzip();
        Ok((Self { path, name: name.clone(), file, generation: generation.unwrap_or(0) }, cursor))
    }

    /// Makes a place durable in the older slot.
    pub(super) fn write(&mut self, disk: &dyn Disk, cursor: Cursor) -> io::Result<()> {
        let generation = self.generation + 1;
        let slot = encode(&self.name, generation, cursor);
        let place = if generation.is_multiple_of(2) { 0 } else { SLOT_SPACING };
        if let Some(file) = &self.file {
            let written = file.write_at(&slot, place as u64).and_then(|()| file.sync_data());
            if let Err(error) = written {
                self.file = None;
                return Err(error);
            }
        } else {
            let mut both = [0; SLOT_SPACING + SLOT];
            both[place..place + SLOT].copy_from_slice(&slot);
            replace(disk, &self.path, &both)?;
            self.file = Some(disk.open(&self.path, true)?);
        }
        self.generation = generation;
        Ok(())
    }
}

fn encode(name: &SinkName, generation: u64, cursor: Cursor) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..8].copy_from_slice(MAGIC);
    let hint = cursor.hint.unwrap_or(Hint { segment: u64::MAX, at: 0 });
    let numbers = [generation, cursor.offset, hint.segment, hint.at];
    for (place, number) in slot[8..].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    let crc = slot_crc(name, &slot[..SLOT - 4]);
    slot[SLOT - 4..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(name: &SinkName, slot: &[u8]) -> Option<(u64, Cursor)> {
    let (content, crc) = slot.split_at(SLOT - 4);
    if !content.starts_with(MAGIC) || slot_crc(name, content).to_le_bytes() != crc {
        return None;
    }
    let [generation, offset, segment, at] = [8, 16, 24, 32].map(|place| u64_at(content, place));
    let hint = (segment != u64::MAX).then_some(Hint { segment, at });
    Some((generation, Cursor { offset, hint }))
}

fn slot_crc(name: &SinkName, content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(name.as_str().as_bytes()), content)
}

/// Reads the names of the sinks. Returns `None` if the list is damaged.
pub(super) fn read_list(disk: &dyn Disk, path: &Path) -> io::Result<Option<BTreeSet<SinkName>>> {
    let bytes = read_all(disk, path)?;
    Ok(std::str::from_utf8(&bytes).ok().and_then(parse_list))
}

fn parse_list(text: &str) -> Option<BTreeSet<SinkName>> {
    let (names, last) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    let crc = u32::from_str_radix(last.strip_prefix("crc32c ")?, 16).ok()?;
    let mut lines = names.lines();
    if lines.next() != Some(LIST_TITLE) || crc32c::crc32c(names.as_bytes()) != crc {
        return None;
    }
    lines.map(|line| line.parse().ok()).collect()
}

/// Replaces the list of sinks.
pub(super) fn write_list<'a>(
    disk: &dyn Disk,
    path: &Path,
    names: impl Iterator<Item = &'a SinkName>,
) -> io::Result<()> {
    let mut text = LIST_TITLE.to_owned();
    for name in names {
        text.push('\n');
        text.push_str(name.as_str());
    }
    let crc = crc32c::crc32c(text.as_bytes());
    writeln!(text, "\ncrc32c {crc:08x}").expect("a String takes any write");
    replace(disk, path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::RealDisk;

    fn name(name: &str) -> SinkName {
        name.parse().expect("a name")
    }

    #[test]
    fn the_older_slot_stands_in_for_a_torn_one() {
        let temp = tempfile::tempdir().expect("a folder");
        let main = name("main");
        let missing = CursorFile::open(&RealDisk, temp.path(), &main).err().expect("not there");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let mut file = CursorFile::new(temp.path(), &main);
        let at = |offset| Cursor { offset, hint: Some(Hint { segment: 1, at: 1024 }) };
        for offset in 1..=5 {
            file.write(&RealDisk, at(offset)).expect("written");
            let (_, read) = CursorFile::open(&RealDisk, temp.path(), &main).expect("read");
            assert_eq!(read, Some(at(offset)));
        }
        let path = temp.path().join("main");
        let whole = std::fs::read(&path).expect("there");
        let read_with = |torn: std::ops::Range<usize>| {
            let mut bytes = whole.clone();
            bytes[torn].fill(0);
            std::fs::write(&path, bytes).expect("written");
            CursorFile::open(&RealDisk, temp.path(), &main).expect("read").1
        };
        assert_eq!(read_with(0..512), Some(at(5)));
        assert_eq!(read_with(512..556), Some(at(4)));
        assert_eq!(read_with(0..556), None);
        std::fs::write(temp.path().join("other"), &whole).expect("written");
        let (_, read) = CursorFile::open(&RealDisk, temp.path(), &name("other")).expect("read");
        assert_eq!(read, None, "another sink's file");
    }

    #[test]
    fn the_list_comes_back_or_is_seen_to_be_torn() {
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("sinks");
        for names in [vec![], vec![name("main")], vec![name("a"), name("b")]] {
            write_list(&RealDisk, &path, names.iter()).expect("written");
            let read = read_list(&RealDisk, &path).expect("there").expect("whole");
            assert_eq!(read.into_iter().collect::<Vec<_>>(), names);
        }
        let whole = std::fs::read(&path).expect("there");
        for at in 0..whole.len() {
            std::fs::write(&path, &whole[..at]).expect("written");
            assert_eq!(read_list(&RealDisk, &path).expect("there"), None);
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, flipped).expect("written");
            assert_eq!(read_list(&RealDisk, &path).expect("there"), None, "{at}");
        }
    }
}
