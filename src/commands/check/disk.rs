//! `check --connect` for the disks: whether the data folder can be written, its file system, and whether there is room.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::config::{Config, SinkKind, Storage};
use crate::message::known_topics;
use crate::sinks::tools::{Check, nearest, try_to_write};

/// File systems that do not survive what the journal must survive. Numbers from `statfs(2)`.
const TMPFS_MAGIC: u64 = 0x0102_1994;
const OVERLAYFS_MAGIC: u64 = 0x794c_7630;

/// Assumed topics of a sink whose template does not tell how many there will be: one for each event that Alma is known
/// to send.
const TOPICS_IF_UNKNOWN: u64 = 22;

/// The data folder, and the journal's disk if there is a journal.
pub(super) fn of_data_dir(config: &Config) -> Vec<Check> {
    let mut checks = vec![written(config)];
    if config.journal.storage == Storage::Disk {
        checks.push(lasting(&config.journal_dir()));
    }
    checks
}

fn written(config: &Config) -> Check {
    let dir = &config.data_dir;
    let what = format!("data_dir {}", dir.display());
    let keeps_journal = config.journal.storage == Storage::Disk;
    let mut tried = try_to_write(dir);
    if keeps_journal {
        // An existing journal folder may have another owner than the data folder.
        tried = tried.and_then(|()| try_to_write(&config.journal_dir()));
    }
    let error = match tried {
        Ok(()) if dir.exists() => return Check::good(what, "files can be written in it"),
        Ok(()) => return Check::good(what, "does not exist yet and can be created"),
        Err(error) => error,
    };
    let found = format!("cannot be written: {error}");
    match error.kind() {
        _ if !keeps_journal => Check::warning(
            what,
            found,
            "with storage = \"none\" the bridge runs without it, but has no admin token unless admin.token_file is elsewhere",
        ),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Check::bad(what, found, "free some space: Alma gets 503"),
        _ => Check::bad(what, found, "let the bridge's user write there, or set data_dir: the bridge does not start"),
    }
}

fn lasting(dir: &Path) -> Check {
    let what = format!("disk of {}", dir.display());
    let found = match rustix::fs::statfs(nearest(dir)) {
        Ok(found) => found,
        Err(error) => return Check::bad(what, error.to_string(), "create the folder, or set data_dir"),
    };
    #[allow(clippy::cast_sign_loss, reason = "the magic numbers are bit patterns")]
    let kind = found.f_type as u64;
    let lasts = "mount a volume there that survives the end of the container and a restart of the host";
    match kind {
        TMPFS_MAGIC => Check::warning(what, "tmpfs: acknowledged events are lost when the machine restarts", lasts),
        OVERLAYFS_MAGIC => Check::warning(what, "overlayfs: acknowledged events are lost with the container", lasts),
        _ => Check::good(what, "neither tmpfs nor overlayfs"),
    }
}

/// The room that the bridge may need in one folder.
struct Need {
    dir: PathBuf,
    bytes: u64,
    /// The keys that determine it.
    words: String,
}

/// Checks whether each disk has room for everything that the bridge may keep there: journal, dead letters, topic files.
pub(super) fn room(config: &Config) -> Vec<Check> {
    let mut disks: BTreeMap<u64, Vec<Need>> = BTreeMap::new();
    for need in needs(config) {
        // An error here was already reported by `written`.
        if let Ok(there) = fs::metadata(nearest(&need.dir)) {
            disks.entry(there.dev()).or_default().push(need);
        }
    }
    disks.into_values().filter_map(|needs| room_on_one(config, &needs)).collect()
}

fn needs(config: &Config) -> Vec<Need> {
    let journal = &config.journal;
    let mut needs = Vec::new();
    if journal.storage == Storage::Disk {
        let sinks = config.sinks.len() as u64;
        let parts =
            [journal.max_size, journal.retain_size, journal.min_free, journal.dead_max_size.saturating_mul(sinks)];
        let words = format!("max_size + retain_size + min_free + {sinks} x dead_max_size (once per sink)");
        needs.push(Need { dir: config.journal_dir(), bytes: parts.into_iter().fold(0, u64::saturating_add), words });
    }
    for sink in &config.sinks {
        if let SinkKind::File(file) = &sink.kind {
            let topics = match known_topics(sink, &config.sources).len() as u64 {
                0 => TOPICS_IF_UNKNOWN,
                known => known,
            };
            let topics = topics.min(sink.max_topics as u64);
            let files = (file.keep as u64).saturating_add(1).saturating_mul(topics);
            let words = format!("{topics} x rotate x (keep + 1) (once per topic of sink {})", sink.name);
            needs.push(Need { dir: file.dir.clone(), bytes: file.rotate.saturating_mul(files), words });
        }
    }
    needs
}

fn room_on_one(config: &Config, needs: &[Need]) -> Option<Check> {
    let dir = &needs.first()?.dir;
    let found = rustix::fs::statfs(nearest(dir)).ok()?;
    #[allow(clippy::cast_sign_loss, reason = "a block has a size")]
    let free = found.f_bavail * found.f_bsize as u64;
    let needed = needs.iter().fold(0_u64, |sum, need| sum.saturating_add(need.bytes));
    let kept = needs.iter().map(|need| size_of(&need.dir)).sum();
    let words: Vec<&str> = needs.iter().map(|need| need.words.as_str()).collect();
    let size = |bytes| bytesize::ByteSize(bytes).display().iec().to_string();
    let what = format!("room on the disk of {}", dir.display());
    let found = format!(
        "{} free, {} already used by the bridge; it may need up to {}: {}",
        size(free),
        size(kept),
        size(needed),
        words.join(", and ")
    );
    let holds_journal = needs.iter().any(|need| need.dir == config.journal_dir());
    Some(if holds_journal && free <= config.journal.min_free {
        Check::bad(what, found, "free some space: below min_free, Alma gets 503")
    } else if free.saturating_add(kept) < needed {
        Check::warning(what, found, "use a larger volume, or lower these keys")
    } else {
        Check::good(what, found)
    })
}

/// Bytes of the files in a folder and below it. Files that can't be read count as 0.
fn size_of(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => size_of(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
