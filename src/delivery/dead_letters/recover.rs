//! A start: what is in the folder is looked through, and what a crash left half is cut off.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::DeadLetterError;
use super::format::{self, BadHeader, FILE_HEADER, Found, STATE_AT, Seed};
use super::store::{LetterFile, SUFFIX, Store, at};
use crate::durable;

impl Store {
    pub(super) fn open(dir: &Path) -> Result<Self, DeadLetterError> {
        durable::create_dirs(dir).map_err(at(dir))?;
        let mut store = Self::new(dir.to_owned());
        let mut contents = Vec::new();
        for (number, path) in files_of(dir)? {
            store.next_file = store.next_file.max(number + 1);
            let mut header = [0; FILE_HEADER];
            let length = File::open(&path).and_then(|file| read_up_to(&file, &mut header)).map_err(at(&path))?;
            let seed = Seed::of_file(&header[..length]);
            if let Err(found @ BadHeader::Version(_)) = seed {
                return Err(DeadLetterError::Version { path, found: found.to_string() });
            }
            contents.push((number, path, seed.ok(), length));
        }
        for (number, path, seed, header) in contents {
            match seed {
                Some(seed) => store.load(number, path, seed)?,
                None if header < FILE_HEADER => fs::remove_file(&path).map_err(at(&path))?,
                None => {
                    store.damaged += 1;
                    store.set_aside(&path)?;
                }
            }
        }
        Ok(store)
    }

    /// Indexes a file and cuts off a half frame at its end.
    fn load(&mut self, number: u64, path: PathBuf, seed: Seed) -> Result<(), DeadLetterError> {
        let bytes = fs::read(&path).map_err(at(&path))?;
        let mut file = LetterFile::new(path, seed, bytes.len() as u64);
        for found in format::scan(seed, &bytes) {
            match found {
                Found::Frame(range) => {
                    let gone = bytes[range.start + STATE_AT..][..4] == seed.gone();
                    match seed.payload(&bytes[range.clone()]).and_then(format::decode) {
                        Some(letter) => self.index(&mut file, &letter, range.start as u64, range.len(), gone),
                        None => file.damaged += 1,
                    }
                }
                Found::Damaged(range) => {
                    let state = bytes[range].get(STATE_AT..STATE_AT + 4);
                    file.damaged += u64::from(state != Some(&seed.gone()));
                }
                Found::Half(range) => {
                    file.size = range.start as u64;
                    file.with_file(|file| {
                        file.set_len(range.start as u64)?;
                        file.sync_all()
                    })?;
                }
            }
        }
        self.damaged += file.damaged;
        self.files.insert(number, file);
        self.remove_if_done(number)
    }
}

/// The letter files of a folder in the order of their numbers.
fn files_of(dir: &Path) -> Result<BTreeMap<u64, PathBuf>, DeadLetterError> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let path = entry.map_err(at(dir))?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(SUFFIX)?.parse().ok());
        if let Some(number) = number {
            files.insert(number, path);
        }
    }
    Ok(files)
}

fn read_up_to(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}
