//! The checklist of `check --connect`: the journal's disk, then each sink.

use std::collections::BTreeSet;
use std::path::Path;

use crate::alma::samples;
use crate::clock::{Clock as _, SystemClock};
use crate::commands::Failure;
use crate::config::{Config, Sink, Storage};
use crate::message::{Messages, StoredEvent};
use crate::sinks;
use crate::sinks::tools::{Check, Verdict};

/// File systems that do not survive what the journal must: `statfs(2)`.
const TMPFS_MAGIC: u64 = 0x0102_1994;
const OVERLAYFS_MAGIC: u64 = 0x794c_7630;

/// Prints a line a thing; fails where one of them is bad.
pub(super) async fn run(config: &Config) -> Result<(), Failure> {
    let mut all_good = true;
    if config.journal.storage == Storage::Disk {
        all_good &= print("journal", &disk(config));
    }
    for sink in &config.sinks {
        let checks = sinks::probe(sink, config.ingress.max_body, &topics(sink, config)).await;
        all_good &= print(&format!("sink {} ({})", sink.name, sink.kind.as_str()), &checks);
    }
    if all_good { Ok(()) } else { Err(Failure::Silent) }
}

/// Whether none is bad.
fn print(title: &str, checks: &[Check]) -> bool {
    println!("{title}");
    for check in checks {
        match &check.verdict {
            Verdict::Good(found) => println!("  ok    {}: {found}", check.what),
            Verdict::Warning(found, mend) => println!("  warn  {}: {found}\n        {mend}", check.what),
            Verdict::Bad(found, mend) => println!("  FAIL  {}: {found}\n        {mend}", check.what),
        }
    }
    !checks.iter().any(|check| matches!(check.verdict, Verdict::Bad(..)))
}

/// The topics of the known actions that a sink asks for.
fn topics(sink: &Sink, config: &Config) -> Vec<String> {
    let Some(source) = config.sources.first() else { return Vec::new() };
    let messages = Messages::new(sink, &config.sources, &config.privacy);
    let now = SystemClock.now();
    let made = samples::ALL.iter().filter_map(|sample| {
        let body = sample.render("1", &now.to_string()).into();
        messages.make(&StoredEvent { source: source.name.clone(), received: now, recorded: now, body }, None)
    });
    made.map(|message| message.topic.to_string()).collect::<BTreeSet<_>>().into_iter().collect()
}

fn disk(config: &Config) -> Vec<Check> {
    // The folder may not be there yet; its nearest ancestor tells as much.
    let dir = config.journal_dir();
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("."));
    let what = format!("disk of {}", dir.display());
    let found = match rustix::fs::statfs(there) {
        Ok(found) => found,
        Err(error) => return vec![Check::bad(what, error.to_string(), "make the folder, or set data_dir")],
    };
    #[allow(clippy::cast_sign_loss, reason = "the magic numbers are bit patterns")]
    let kind = found.f_type as u64;
    let lasts = "mount a volume there that outlives the container or the host's restart";
    let durable = match kind {
        TMPFS_MAGIC => Check::warning(&*what, "tmpfs: what was answered 204 is gone with the machine", lasts),
        OVERLAYFS_MAGIC => Check::warning(&*what, "overlayfs: what was answered 204 is gone with the container", lasts),
        _ => Check::good(&*what, "neither tmpfs nor overlayfs"),
    };
    #[allow(clippy::cast_sign_loss, reason = "a block has a size")]
    let free = found.f_bavail * found.f_bsize as u64;
    vec![durable, room(config, free)]
}

fn room(config: &Config, free: u64) -> Check {
    let journal = &config.journal;
    let needed = journal.max_size.saturating_add(journal.retain_size).saturating_add(journal.min_free);
    let size = |bytes| bytesize::ByteSize(bytes).display().iec().to_string();
    let found = format!("{} free, max_size + retain_size + min_free is {}", size(free), size(needed));
    if free <= journal.min_free {
        Check::bad("room", found, "free some: under min_free Alma gets 503")
    } else if free < needed {
        Check::warning("room", found, "a larger volume, or a smaller journal.max_size")
    } else {
        Check::good("room", found)
    }
}
