//! The seam to the file system: what the journal asks of a disk, and the real one.
//!
//! Behind it tests put a disk that forgets what was not synced, tears writes, fills up and fails. Every call blocks;
//! the journal makes them on threads of its own.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file system, as far as the journal needs one.
pub trait Disk: Send + Sync + 'static {
    /// Creates a folder, 0700. An existing one is [`io::ErrorKind::AlreadyExists`].
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Creates a file that must not exist, 0600, for reading and writing.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file, for writing too where asked.
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn DiskFile>>;

    /// The names in a folder, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Renames a file, over another where there is one.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the folder's entries durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Bytes that we may still write on the disk of this folder.
    fn free(&self, dir: &Path) -> io::Result<u64>;
}

/// An open file.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads from a place; fewer bytes than asked for, or none, only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes all of it at a place.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Makes data and length durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts the file off.
    fn set_size(&self, size: u64) -> io::Result<()>;

    /// Length in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// The machine's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl RealDisk {
    /// Shared, as [`crate::journal::JournalOptions`] wants it.
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
        // A name that is not UTF-8 is none of ours.
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
        // What a process without privileges may use.
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
        // A file without a name is gone with the process, whatever was synced.
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

/// Whether an error says that the file itself can't be read. Any other may be of the process or the machine: it is no
/// reason to give a file up.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    use rustix::io::Errno;
    match error.raw_os_error() {
        Some(code) => [Errno::IO, Errno::ISDIR, Errno::BADMSG, Errno::UCLEAN].map(Errno::raw_os_error).contains(&code),
        None => error.kind() == io::ErrorKind::Other,
    }
}

/// Creates a folder and those above it where they are missing, each made durable in the one above. One that is there is
/// made durable too: whoever made it may have been killed, or failed, before it was.
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

/// The folder that holds an entry of this path.
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

/// Puts a file in the place of another so that after a crash there is the old one or the new one, whole.
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

/// Creates a file, and its folder again where somebody has deleted it.
pub(crate) fn create_in_folder(disk: &dyn Disk, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
    match disk.create(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_dirs(disk, folder_of(path))?;
            disk.create(path)
        }
        created => created,
    }
}

/// What a file is called while [`replace`] writes it; a name of ours has no dot, so it is never one of these.
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
