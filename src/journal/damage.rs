//! Reports lost records loudly: it keeps the bytes, counts the records, and logs an error.

use std::io;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use tracing::error;

use super::paths::Paths;
use super::scan::Damage;
use super::segment::Segment;
use super::state::Shared;
use crate::storage::{Disk, DiskFile};

/// Bytes that are copied at once.
const BLOCK: u64 = 1024 * 1024;

/// Moves a file that can't be used to `damaged/`, under a name that is free there, and says so: the error is logged, the
/// line is for `/status`. A file that can't even be moved stays where it is.
pub(super) fn set_aside(disk: &dyn Disk, paths: &Paths, path: &Path, why: &str) -> String {
    let name = path.strip_prefix(&paths.dir).unwrap_or(path).display().to_string().replace('/', "-");
    let taken = disk.list(&paths.damaged).unwrap_or_default();
    let names = std::iter::once(name.clone()).chain((2..).map(|count| format!("{name}-{count}")));
    let kept = paths.damaged.join(names.into_iter().find(|name| !taken.contains(name)).unwrap_or_default());
    let above = path.parent().unwrap_or(&paths.dir);
    let moved =
        disk.rename(path, &kept).and_then(|()| disk.sync_dir(&paths.damaged)).and_then(|()| disk.sync_dir(above));
    let (path, kept) = (path.display(), kept.display());
    match moved {
        Ok(()) => {
            error!(%path, why, %kept, "journal damaged: a file can't be used and is set aside");
            format!("{path} could not be used ({why}); it is set aside as {kept}")
        }
        Err(error) => {
            error!(%path, why, %error, "journal damaged: a file can't be used, and can't be set aside either");
            format!("{path} could not be used ({why}), and could not be set aside either ({error})")
        }
    }
}

impl Shared {
    /// Notes files that could not be used. Each counts as one damaged record, so that whoever watches the counter sees it.
    pub(super) fn note_set_aside(&self, lines: Vec<String>) {
        self.metrics.damaged(lines.len() as u64);
        self.state().set_aside.extend(lines);
    }

    /// Gives up on a segment whose file can't be read at all: what it had from this offset on is lost, and the file is
    /// kept.
    pub(super) fn lose_segment(&self, segment: &Segment, offset: u64, why: &str) {
        self.report_missing(segment.first, segment.lost_from(offset));
        let kept: PathBuf = self.paths.damaged.join(super::format::file_name(segment.first, ".log"));
        let path = self.paths.segment(segment.first);
        let moved = self.disk.rename(&path, &kept).and_then(|()| self.disk.sync_dir(&self.paths.damaged));
        let line = match moved.and_then(|()| self.disk.sync_dir(&self.paths.segments)) {
            // Another sink's reader was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => format!("{} can't be read ({why}), nor be set aside ({error})", path.display()),
            Ok(()) => format!("{} can't be read ({why}); it is set aside as {}", path.display(), kept.display()),
        };
        error!(segment = segment.first, "journal damaged: {line}");
        self.state().set_aside.push(line);
    }

    /// Reports damage to durable records. Does nothing if the same damage was reported before.
    pub(super) fn report_damage(&self, segment: u64, file: &dyn DiskFile, damage: Damage) {
        if !self.note_damage((segment, damage.from), damage.lost) {
            return;
        }
        let kept = self.paths.damaged.join(format!("{segment:020}-{:010}", damage.from));
        let bytes = damage.to - damage.from;
        error!(
            segment, from = damage.from, bytes, records = damage.lost, kept = %kept.display(),
            "journal damaged: records that were durable can't be read; reading goes on behind them"
        );
        if let Err(error) = self.keep(&kept, file, damage) {
            error!(%error, kept = %kept.display(), "damaged bytes could not be kept");
        }
    }

    /// Reports a segment that is missing.
    pub(super) fn report_missing(&self, segment: u64, lost: u64) {
        if self.note_damage((segment, 0), lost) {
            error!(
                segment,
                records = lost,
                "journal damaged: a segment is missing or unreadable; reading goes on behind it"
            );
        }
    }

    /// Counts damage; false where so much of it was counted before. Sinks that stand at different places miss different
    /// numbers of the same records.
    fn note_damage(&self, place: (u64, u64), lost: u64) -> bool {
        let mut state = self.state();
        let before = state.reported.insert(place, lost);
        if before.is_some_and(|before| before >= lost) {
            state.reported.extend(before.map(|before| (place, before)));
            return false;
        }
        let more = lost - before.unwrap_or(0);
        state.damaged += more;
        drop(state);
        self.metrics.damaged(more);
        true
    }

    fn keep(&self, kept: &std::path::Path, file: &dyn DiskFile, damage: Damage) -> io::Result<()> {
        let copy = match self.disk.create(kept) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            created => created?,
        };
        let mut at = damage.from;
        while at < damage.to {
            let mut block = BytesMut::zeroed(usize::try_from(BLOCK.min(damage.to - at)).unwrap_or(usize::MAX));
            // Bytes that can't be read are zero in the copy.
            let read = file.read_at(&mut block, at).unwrap_or(block.len());
            if read == 0 {
                break;
            }
            copy.write_at(&block[..read], at - damage.from)?;
            at += read as u64;
        }
        copy.sync_data()?;
        self.disk.sync_dir(&self.paths.damaged)
    }
}
