//! Rewrites files without the letters that are gone.
//!
//! A file is replaced by one of the same number: the new one is written and synced under another name and then renamed
//! over the old one. So a crash leaves one of the two, whole, and no letter is there twice or gets another id.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::DeadLetterError;
use super::format::Seed;
use super::letter_file::{LetterSlot, at};
use super::letter_files::LetterFiles;
use crate::storage::{create_dirs, read_all, remove_if_there};

/// The end of a file's name while it is rewritten.
pub(super) const UNFINISHED: &str = ".new";
/// A file is not rewritten to gain fewer bytes than this, unless they are needed.
const WORTH_IT: u64 = 64 << 10;
/// If room is needed, files are written anew that would lose at least this part of themselves.
const PART: u64 = 8;

impl LetterFiles {
    /// Gives the bytes of letters that are gone back once they are more than half of a file: so no more is written than
    /// was removed.
    pub(super) fn compact_if_worth_it(&mut self, number: u64) {
        let Some(file) = self.files.get(&number) else { return };
        if file.dead_bytes() < WORTH_IT || file.dead_bytes() < file.live_bytes {
            return;
        }
        if let Err(error) = self.compact(number) {
            tracing::debug!(%error, "a file of dead letters can't be written anew; it stays as it is");
        }
    }

    /// Makes room for `more` bytes. What is left of letters that are gone is at most an eighth of each file.
    pub(super) fn make_room(&mut self, more: u64, max_size: u64) {
        let mut failed = BTreeSet::new();
        while self.bytes().saturating_add(more) > max_size {
            let spends = self.files.iter().filter(|(_, file)| file.dead_bytes() > file.size / PART);
            let spends = spends.filter(|(number, _)| !failed.contains(*number));
            let Some((number, _)) = spends.max_by_key(|(_, file)| file.dead_bytes()) else { return };
            let number = *number;
            if let Err(error) = self.compact(number) {
                tracing::warn!(%error, "a file of dead letters can't be written anew; it stays as it is");
                failed.insert(number);
            }
        }
    }

    fn compact(&mut self, number: u64) -> Result<(), DeadLetterError> {
        let Some(file) = self.files.get_mut(&number) else { return Ok(()) };
        // It takes no more letters, because its handle would be that of the old file.
        file.file = None;
        self.active = self.active.filter(|active| *active != number);
        let seed = Seed(fastrand::u32(..));
        let (mut bytes, mut slots, mut damaged) = (seed.file_header().to_vec(), Vec::new(), Vec::new());
        let file = &self.files[&number];
        for (index, slot) in file.slots.iter().enumerate().filter(|(_, slot)| !slot.gone) {
            let frame = file.read_frame(&*self.disk, slot)?;
            match file.seed.payload(&frame) {
                Some(payload) => {
                    slots.push((index, bytes.len() as u64));
                    bytes.extend_from_slice(&seed.frame(payload));
                }
                None => damaged.push(slot.id),
            }
        }
        for id in damaged {
            self.lose(id);
        }
        let file = &self.files[&number];
        if file.damaged > 0 {
            self.keep_copy(&file.path)?;
        }
        if file.live == 0 {
            let file = self.files.remove(&number).expect("it is among the files");
            remove_if_there(&*self.disk, &file.path).map_err(at(&file.path))?;
            return self.sync_dir();
        }
        self.write_over(&file.path, &bytes)?;
        let file = self.files.get_mut(&number).expect("it is among the files");
        let mut old = std::mem::take(&mut file.slots);
        file.slots.extend(slots.into_iter().map(|(index, at)| {
            let slot = &mut old[index];
            LetterSlot { at, ..*slot }
        }));
        (file.seed, file.size, file.damaged, file.proven) = (seed, bytes.len() as u64, 0, true);
        self.dir_unsure = true;
        self.settle_dir()
    }

    /// Replaces a file, except that the folder must still be synced.
    fn write_over(&self, path: &Path, bytes: &[u8]) -> Result<(), DeadLetterError> {
        let mut new = path.as_os_str().to_owned();
        new.push(UNFINISHED);
        let new = PathBuf::from(new);
        remove_if_there(&*self.disk, &new).map_err(at(&new))?;
        let written = self.disk.create(&new).and_then(|file| {
            file.write_at(bytes, 0)?;
            file.sync_data()?;
            self.disk.rename(&new, path)
        });
        // The next start removes what is left of it.
        written.map_err(at(&new)).inspect_err(|_| drop(self.disk.remove(&new)))
    }

    /// Makes a rename durable if that is not sure yet.
    pub(super) fn settle_dir(&mut self) -> Result<(), DeadLetterError> {
        if self.dir_unsure {
            self.sync_dir()?;
            self.dir_unsure = false;
        }
        Ok(())
    }

    pub(super) fn sync_dir(&self) -> Result<(), DeadLetterError> {
        self.disk.sync_dir(&self.dir).map_err(at(&self.dir))
    }

    /// Keeps the damaged bytes of a file that is rewritten without them.
    fn keep_copy(&self, path: &Path) -> Result<(), DeadLetterError> {
        let bytes = read_all(&*self.disk, path).map_err(at(path))?;
        let kept = self.place_for_damaged(path)?;
        let copied = self.disk.create(&kept).and_then(|file| {
            file.write_at(&bytes, 0)?;
            file.sync_data()
        });
        copied.and_then(|()| self.disk.sync_dir(&self.dir.join("damaged"))).map_err(at(&kept))
    }

    /// Moves a file to `damaged/`.
    pub(super) fn set_aside(&self, path: &Path) -> Result<(), DeadLetterError> {
        let kept = self.place_for_damaged(path)?;
        self.disk.rename(path, &kept).map_err(at(path))?;
        self.disk.sync_dir(&self.dir.join("damaged")).map_err(at(&kept))?;
        self.sync_dir()
    }

    /// Returns an unused path in `damaged/`, so that no kept file is overwritten.
    fn place_for_damaged(&self, path: &Path) -> Result<PathBuf, DeadLetterError> {
        let dir = self.dir.join("damaged");
        create_dirs(&*self.disk, &dir).map_err(at(&dir))?;
        let taken = self.disk.list(&dir).map_err(at(&dir))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let again = (2_u32..).map(|count| format!("{name}.{count}"));
        let mut names = std::iter::once(name.to_string()).chain(again);
        Ok(dir.join(names.find(|name| !taken.contains(name)).expect("names do not end")))
    }
}
