//! Loss is loud: the bytes are kept, the records counted, an error logged.

use std::io;

use bytes::BytesMut;
use tracing::error;

use super::disk::DiskFile;
use super::scan::Damage;
use super::state::Shared;

/// Copied at once.
const BLOCK: u64 = 1024 * 1024;

impl Shared {
    /// Tells of damage to what was durable once; the second time it is met, nothing.
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

    /// Tells of a segment that is gone whole.
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
        self.metrics.journal_damaged(more);
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
            // What the disk does not give is zero in the copy.
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
