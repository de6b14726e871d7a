//! What the journal and the dead letters need of a file system, and the machine's own.
//!
//! Tests replace it with a disk that forgets what was not synced, tears writes, fills up and fails. Every call blocks.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The operations of a file system that the bridge needs for what must survive a power cut.
pub trait Disk: Send + Sync + 'static {
    /// Creates a folder with mode 0700. Fails with [`io::ErrorKind::AlreadyExists`] if it exists.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Creates a file with mode 0600 for reading and writing. Fails if it exists.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading, and for writing if `write` is set.
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn DiskFile>>;

    /// Returns the names in a folder, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Renames a file. Replaces another of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the folder's entries durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Returns how many bytes we may still write on the disk of this folder.
    fn free(&self, dir: &Path) -> io::Result<u64>;
}

/// An open file.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads at a position. Returns fewer bytes than the buffer holds only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes all bytes at a position.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Makes data and length durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;

    /// Sets the length.
    fn set_size(&self, size: u64) -> io::Result<()>;

    /// Returns the length in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// The machine's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl RealDisk {
    /// Returns it as [`crate::journal::JournalOptions`] takes it.
    pub fn shared() -> Arc<dyn Disk> {
        Arc::new(Self)
    }
}

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(write).open(path)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        // The bridge has no name that is not UTF-8.
        let names = std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn free(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        // Only what a process without privileges may use.
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match std::os::unix::fs::FileExt::read_at(self, &mut buffer[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)?;
        // A file without a name vanishes with the process, whatever was synced.
        if std::os::unix::fs::MetadataExt::nlink(&self.metadata()?) == 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the file was deleted while it was in use"));
        }
        Ok(())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// Whether an error says that the file itself can't be read. Any other error may be due to the process or the machine, and
/// is no reason to give the file up.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    use rustix::io::Errno;
    match error.raw_os_error() {
        Some(code) => [Errno::IO, Errno::ISDIR, Errno::BADMSG, Errno::UCLEAN].map(Errno::raw_os_error).contains(&code),
        None => error.kind() == io::ErrorKind::Other,
    }
}

/// Creates a folder and the missing ones above it, and makes each durable in the one above. An existing folder is made
/// durable too, because the process that created it may have been killed before it did so.
pub(crate) fn create_dirs(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    match disk.create_dir(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return match disk.sync_dir(folder_of(dir)) {
                // Where we may not even look, we made nothing.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
                synced => synced,
            };
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = dir.parent().filter(|above| !above.as_os_str().is_empty()).ok_or(error)?;
            create_dirs(disk, above)?;
            disk.create_dir(dir)?;
        }
        Err(error) => return Err(error),
    }
    disk.sync_dir(folder_of(dir))
}

/// Returns the folder that holds the entry of this path.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    }
}

/// Reads a whole small file.
pub(crate) fn read_all(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, false)?;
    let mut bytes = vec![0; usize::try_from(file.size()?).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces a file. After a crash, either the old or the new one is there, whole.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(TEMPORARY);
    let temporary: PathBuf = folder_of(path).join(name);
    remove_if_there(disk, &temporary)?;
    let file = create_in_folder(disk, &temporary)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(folder_of(path))
}

/// Creates a file, and its folder if somebody has deleted it.
pub(crate) fn create_in_folder(disk: &dyn Disk, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
    match disk.create(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_dirs(disk, folder_of(path))?;
            disk.create(path)
        }
        created => created,
    }
}

/// The end of a file's name while [`replace`] writes it. No name of a sink or a segment ends like this.
const TEMPORARY: &str = ".new";

/// Removes a file that may be gone already.
pub(crate) fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::testing::disk::SimDisk;

    /// A process was killed before the entries of the folders that it made were durable.
    #[test]
    fn folders_that_are_there_are_made_durable_too() {
        let disk = SimDisk::new();
        let dir = Path::new("/data/journal");
        create_dirs(&disk, Path::new("/data")).expect("made");
        disk.create_dir(dir).expect("made");
        disk.restart(false);
        create_dirs(&disk, dir).expect("there already");
        replace(&disk, &dir.join("file"), b"bytes").expect("written");
        assert!(disk.has_durably(dir, b"bytes"), "with its folder");
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn makes_folders_and_files_that_only_we_can_read() {
        let temp = tempfile::tempdir().expect("a folder");
        let dir = temp.path().join("a/b");
        create_dirs(&RealDisk, &dir).expect("made");
        create_dirs(&RealDisk, &dir).expect("there already");
        replace(&RealDisk, &dir.join("file"), b"old").expect("written");
        replace(&RealDisk, &dir.join("file"), b"new").expect("replaced");
        assert_eq!(read_all(&RealDisk, &dir.join("file")).expect("read"), b"new");
        assert_eq!((mode(&dir), mode(&dir.join("file"))), (0o700, 0o600));
        assert_eq!(RealDisk.list(&dir).expect("listed"), ["file"]);
        let open = RealDisk.open(&dir.join("file"), true).expect("opened");
        open.sync_data().expect("synced");
        std::fs::remove_dir_all(&dir).expect("removed");
        assert_eq!(open.sync_data().expect_err("nothing is durable there").kind(), io::ErrorKind::NotFound);
        replace(&RealDisk, &dir.join("file"), b"newer").expect("written where no folder is");
        assert_eq!(read_all(&RealDisk, &dir.join("file")).expect("read"), b"newer");
        assert!(RealDisk.free(&dir).expect("statvfs") > 0);
    }
}
