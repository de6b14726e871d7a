//! What a start does: it reads the folder and cuts off torn writes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::DeadLetterError;
use super::compact::UNFINISHED;
use super::format::{self, BadFileHeader, FILE_HEADER, FoundLetter, STATE_AT, Seed};
use super::letter_file::{LetterFile, at};
use super::letter_files::{LetterFiles, SUFFIX};
use crate::storage::{Disk, create_dirs, is_unreadable, read_all, remove_if_there};

/// A file that can't be read counts as if it had this many letters. No file has so many.
const UNREADABLE_IDS: u64 = 1 << 32;

impl LetterFiles {
    pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, DeadLetterError> {
        for dir in dir.parent().into_iter().chain([dir]) {
            create_dirs(&*disk, dir).map_err(at(dir))?;
        }
        let mut store = Self::new(disk, dir.to_owned());
        store.remove_unfinished()?;
        let mut contents = Vec::new();
        for (number, path) in files_of(&*store.disk, dir)? {
            store.next_file = store.next_file.max(number + 1);
            let (seed, size) = match look(&*store.disk, &path) {
                Err(error) if is_unreadable(&error) => {
                    store.pass_over(&path, &error);
                    continue;
                }
                looked => looked.map_err(at(&path))?,
            };
            if let Err(found @ BadFileHeader::Version(_)) = seed {
                return Err(DeadLetterError::Version { path, found: found.to_string() });
            }
            contents.push((number, path, seed.ok(), size));
        }
        for (number, path, seed, size) in contents {
            match seed {
                Some(seed) => match read_all(&*store.disk, &path) {
                    Err(error) if is_unreadable(&error) => store.pass_over(&path, &error),
                    bytes => store.load(number, path.clone(), seed, &bytes.map_err(at(&path))?)?,
                },
                // Its header was being written, so it has no letter.
                None if size <= FILE_HEADER as u64 => store.disk.remove(&path).map_err(at(&path))?,
                None => {
                    store.damaged += 1;
                    store.set_aside(&path)?;
                }
            }
        }
        Ok(store)
    }

    /// A file that the disk does not give stays where it is: the next start tries again. Its letters have names that
    /// must not be given meanwhile.
    fn pass_over(&mut self, path: &Path, error: &io::Error) {
        tracing::error!(path = %path.display(), %error, "a file of dead letters can't be read; the next start tries again");
        self.damaged += 1;
        self.skip_ids(UNREADABLE_IDS);
    }

    /// Removes files that were being rewritten. The old ones are still there.
    fn remove_unfinished(&self) -> Result<(), DeadLetterError> {
        let names = self.disk.list(&self.dir).map_err(at(&self.dir))?;
        for name in names.iter().filter(|name| name.strip_suffix(UNFINISHED).is_some_and(|name| name.ends_with(SUFFIX)))
        {
            let path = self.dir.join(name);
            if let Err(error) = remove_if_there(&*self.disk, &path) {
                tracing::debug!(path = %path.display(), %error, "an unfinished file of dead letters stays");
            }
        }
        Ok(())
    }

    /// Indexes a file and cuts off a half frame at its end.
    fn load(&mut self, number: u64, path: PathBuf, seed: Seed, bytes: &[u8]) -> Result<(), DeadLetterError> {
        let mut file = LetterFile::new(path, seed, bytes.len() as u64);
        for found in format::scan(seed, bytes) {
            match found {
                FoundLetter::Frame(range) => {
                    let gone = bytes[range.start + STATE_AT..][..4] == seed.gone();
                    match seed.payload(&bytes[range.clone()]).and_then(format::decode) {
                        Some(letter) => self.index(&mut file, &letter, range.start as u64, range.len(), gone),
                        None => file.damaged += 1,
                    }
                }
                FoundLetter::Damaged(range) => {
                    let state = bytes[range].get(STATE_AT..STATE_AT + 4);
                    file.damaged += u64::from(state != Some(&seed.gone()));
                }
                FoundLetter::Half(range) => {
                    file.size = range.start as u64;
                    file.with_file(&*self.disk, |file| {
                        file.set_size(range.start as u64)?;
                        file.sync_data()
                    })?;
                }
            }
        }
        self.damaged += file.damaged;
        self.files.insert(number, file);
        self.remove_if_done(number)
    }
}

/// Reads a file's header and size.
fn look(disk: &dyn Disk, path: &Path) -> io::Result<(Result<Seed, BadFileHeader>, u64)> {
    let mut header = [0; FILE_HEADER];
    let file = disk.open(path, false)?;
    let length = file.read_at(&mut header, 0)?;
    Ok((Seed::of_file(&header[..length]), file.size()?))
}

/// The letter files of a folder in the order of their numbers.
fn files_of(disk: &dyn Disk, dir: &Path) -> Result<BTreeMap<u64, PathBuf>, DeadLetterError> {
    let names = disk.list(dir).map_err(at(dir))?;
    let numbered = names.iter().filter_map(|name| Some((name.strip_suffix(SUFFIX)?.parse().ok()?, dir.join(name))));
    Ok(numbered.collect())
}
