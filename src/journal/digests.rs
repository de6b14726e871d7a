//! `digests/`: what dedupe knew of each sealed segment, so that a start need not read the backlog.
//!
//! ```text
//! file = magic[8] version:4 count:4 first:8 { key[16] seconds:4 } crc:4
//! ```

use std::io;
use std::path::Path;

use super::dedupe::KnownEvent;
use super::format::{VERSION, file_name, u32_at, u64_at};
use crate::storage::{Disk, read_all, replace};

const MAGIC: &[u8; 8] = b"\xA7ALMADIG";
const HEADER: usize = 24;
const ENTRY: usize = 20;

/// Writes the digests of a segment's events, oldest first.
pub(super) fn write(disk: &dyn Disk, dir: &Path, first: u64, known: &[KnownEvent]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEADER + known.len() * ENTRY + 4);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(known.len()).map_err(io::Error::other)?.to_le_bytes());
    bytes.extend_from_slice(&first.to_le_bytes());
    for KnownEvent { key, seconds } in known {
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(&seconds.to_le_bytes());
    }
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    replace(disk, &dir.join(file_name(first, "")), &bytes)
}

/// Reads them; none if they are not whole.
pub(super) fn read(disk: &dyn Disk, dir: &Path, first: u64) -> io::Result<Option<Vec<KnownEvent>>> {
    let bytes = read_all(disk, &dir.join(file_name(first, "")))?;
    Ok(decode(&bytes, first))
}

fn decode(bytes: &[u8], first: u64) -> Option<Vec<KnownEvent>> {
    let (content, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let entries = content.get(HEADER..)?;
    let whole = crc32c::crc32c(content) == u32_at(crc, 0)
        && content.starts_with(MAGIC)
        && u32_at(content, 8) == VERSION
        && u32_at(content, 12) as usize * ENTRY == entries.len()
        && u64_at(content, 16) == first;
    let entry =
        |bytes: &[u8]| KnownEvent { key: bytes[..16].try_into().expect("16 of 20 bytes"), seconds: u32_at(bytes, 16) };
    whole.then(|| entries.chunks_exact(ENTRY).map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::RealDisk;

    #[test]
    fn come_back_or_are_seen_to_be_torn() {
        let temp = tempfile::tempdir().expect("a folder");
        let known: Vec<_> = (0..9).map(|n| KnownEvent { key: [n; 16], seconds: u32::from(n) }).collect();
        write(&RealDisk, temp.path(), 7, &known).expect("written");
        assert_eq!(read(&RealDisk, temp.path(), 7).expect("there"), Some(known));
        read(&RealDisk, temp.path(), 8).expect_err("not there");
        let path = temp.path().join(file_name(7, ""));
        let whole = std::fs::read(&path).expect("there");
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("written");
            assert_eq!(read(&RealDisk, temp.path(), 7).expect("there"), None, "{cut}");
        }
    }
}
