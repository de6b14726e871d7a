//! The file system as the journal and the dead letters use it, and the threads for work that blocks.
//!
//! Everything that must survive a power cut goes through the [`Disk`] trait, so that tests can replace the machine's file
//! system with one that forgets, tears writes, fills up and fails.

pub(crate) mod blocking;
mod disk;

pub(crate) use blocking::blocking;
pub use disk::{Disk, DiskFile, RealDisk};
pub(crate) use disk::{create_dirs, create_in_folder, folder_of, is_unreadable, read_all, remove_if_there, replace};
