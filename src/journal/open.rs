//! What a start does: format, folders, segments, sinks, digests.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::Path;

use tracing::{error, warn};

use super::cursor::{Cursor, CursorFile, read_list};
use super::dedupe::{Dedupe, KnownEvent, seconds};
use super::error::JournalOpenError;
use super::format::{VERSION, file_name, parse_file_name};
use super::heads::{SegmentHead, heads};
use super::paths::Paths;
use super::recover::{Recovered, SCAN_BLOCK, recover};
use super::scan::{Item, Scan, Span};
use super::segment::Segment;
use super::state::{JournalState, Shared, SinkEntry, SmallFiles};
use super::{JournalOptions, Registration, damage, digests};
use crate::config::{SinkName, Start};
use crate::storage::{Disk, create_dirs, folder_of, is_unreadable, read_all, remove_if_there, replace};

const FORMAT_TITLE: &str = "alma-bridge journal ";

fn format_text() -> String {
    format!("{FORMAT_TITLE}{VERSION}\n")
}

/// What `format` says.
pub(super) enum FormatFile {
    /// The version of this program.
    Ours,
    /// There is no such file.
    Missing,
    /// The file is unusable for this reason, and no segment has another version.
    Unusable(String),
}

/// Checks that this program can read the journal. Changes nothing.
pub(super) fn check_format(disk: &dyn Disk, dir: &Path) -> Result<FormatFile, JournalOpenError> {
    let paths = Paths::new(dir);
    let why = match read_all(disk, &paths.format) {
        Ok(bytes) if bytes == format_text().as_bytes() => return Ok(FormatFile::Ours),
        Ok(bytes) => {
            let found = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).trim_end().to_owned();
            if names_another_version(&found) {
                return Err(JournalOpenError::UnknownFormat { path: paths.format, found });
            }
            if bytes.is_empty() { "it is empty" } else { "it is damaged" }.to_owned()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FormatFile::Missing),
        Err(error) if is_unreadable(&error) => error.to_string(),
        Err(error) => return Err(JournalOpenError::io("read", &paths.format)(error)),
    };
    // A segment that the disk does not give says nothing; one that is not ours may be of another version.
    let other =
        heads(disk, &paths)?.into_iter().find(|found| found.has_room() && matches!(found.head, SegmentHead::Broken));
    match other {
        Some(segment) => {
            let path = paths.segment(segment.first);
            Err(JournalOpenError::UnknownFormat {
                path,
                found: format!("no version, as {} ({why})", paths.format.display()),
            })
        }
        None => Ok(FormatFile::Unusable(why)),
    }
}

/// Whether the text names a version, and another than ours.
fn names_another_version(text: &str) -> bool {
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    let version = text.strip_prefix(FORMAT_TITLE).map(digits);
    version.is_some_and(|version| !version.is_empty() && version != VERSION.to_string())
}

/// Does all that a start does before it starts the threads.
pub(super) fn open(options: JournalOptions) -> Result<(Shared, Dedupe), JournalOpenError> {
    let paths = Paths::new(&options.dir);
    let disk = &*options.disk;
    let format = check_format(disk, &options.dir)?;
    let has_format = matches!(format, FormatFile::Ours);
    let mut recovered = if has_format { None } else { Some(recover(disk, &paths, false)?) };
    let above = [folder_of(&paths.dir), &paths.dir];
    for dir in
        above.into_iter().chain([&paths.segments, &paths.cursors, &paths.digests, &paths.damaged].map(|dir| &**dir))
    {
        create_dirs(disk, dir).map_err(JournalOpenError::io("create", dir))?;
    }
    // What is there may be there for this start only: a process that was killed had not synced it yet.
    for dir in [&paths.segments, &paths.cursors, &paths.digests, &paths.damaged, &paths.dir] {
        disk.sync_dir(dir).map_err(JournalOpenError::io("sync", dir))?;
    }
    let is_new = recovered.take().is_some_and(|found| found.segments.is_empty() && found.next == 1);
    let recovered = recover(disk, &paths, true)?;
    let mut state =
        JournalState { next: recovered.next, unproven: recovered.unproven.clone(), ..JournalState::default() };
    state.segments.clone_from(&recovered.segments);
    let mut set_aside = Vec::new();
    if let FormatFile::Unusable(why) = &format {
        set_aside.push(damage::set_aside(disk, &paths, &paths.format, why));
    }
    // A start whose disk failed may have written everything but the list. It took no event.
    let took_events = recovered.segments.iter().any(|segment| segment.records() > 0);
    let mut found = find_sinks(disk, &paths, is_new, took_events, &mut set_aside)?;
    let mut files = SmallFiles { cursors: std::mem::take(&mut found.files), ..SmallFiles::default() };
    let must_write = place_sinks(&mut state, &found, &options.sinks) || !found.whole;
    let dedupe = load_digests(&options, &paths, &recovered, &mut state, &mut files, &mut set_aside)?;
    let JournalOptions { disk, clock, metrics, config, limits, .. } = options;
    let shared = Shared::new(disk, clock, metrics, paths, config, limits, state, files);
    shared.note_set_aside(set_aside);
    if let Some(segment) = recovered.lost {
        // Nobody knows how many records there were. Count one.
        shared.report_missing(segment, 1);
    }
    shared.write_sink_list(&found, must_write);
    if !has_format {
        if !is_new && matches!(format, FormatFile::Missing) {
            warn!(path = %shared.paths.format.display(), "journal: the file that tells its format is missing; written again");
        }
        let path = &shared.paths.format;
        replace(&*shared.disk, path, format_text().as_bytes()).map_err(JournalOpenError::io("write", path))?;
    }
    shared.ask_free();
    Ok((shared, dedupe))
}

/// What `sinks` and `cursors/` contain.
struct FoundSinks {
    /// The names in the list of sinks.
    listed: BTreeSet<SinkName>,
    /// Whether `sinks` could be read.
    whole: bool,
    /// The sinks that have a cursor, listed or not.
    cursors: BTreeSet<SinkName>,
    opened: BTreeMap<SinkName, Option<Cursor>>,
    files: BTreeMap<SinkName, CursorFile>,
}

fn find_sinks(
    disk: &dyn Disk,
    paths: &Paths,
    is_new: bool,
    took_events: bool,
    set_aside: &mut Vec<String>,
) -> Result<FoundSinks, JournalOpenError> {
    let names = disk.list(&paths.cursors).map_err(JournalOpenError::io("list", &paths.cursors))?;
    let cursors: BTreeSet<SinkName> = names.iter().filter_map(|name| name.parse().ok()).collect();
    let list = match read_list(disk, &paths.sinks) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            set_aside.extend(took_events.then(|| format!("{} is missing", paths.sinks.display())));
            is_new.then(BTreeSet::new)
        }
        Err(error) if is_unreadable(&error) => {
            set_aside.push(damage::set_aside(disk, paths, &paths.sinks, &error.to_string()));
            None
        }
        Ok(None) => {
            set_aside.push(damage::set_aside(disk, paths, &paths.sinks, "it is damaged"));
            None
        }
        list => list.map_err(JournalOpenError::io("read", &paths.sinks))?,
    };
    if list.is_none() {
        error!(
            path = %paths.sinks.display(),
            "journal damaged: the list of sinks can't be read; its names are taken from the cursors, and a sink without one starts at the oldest event"
        );
    }
    let whole = list.is_some();
    let listed = list.unwrap_or_else(|| cursors.clone());
    let mut files = BTreeMap::new();
    let mut opened = BTreeMap::new();
    for name in listed.union(&cursors) {
        let (file, cursor) = open_cursor(disk, paths, name, whole, set_aside)?;
        files.insert(name.clone(), file);
        opened.insert(name.clone(), cursor);
    }
    Ok(FoundSinks { listed, whole, cursors, opened, files })
}

/// A sink's cursor; without a place if it is missing or can't be read, and must be written anew.
fn open_cursor(
    disk: &dyn Disk,
    paths: &Paths,
    name: &SinkName,
    is_listed: bool,
    set_aside: &mut Vec<String>,
) -> Result<(CursorFile, Option<Cursor>), JournalOpenError> {
    let path = paths.cursors.join(name.as_str());
    let why = match CursorFile::open(disk, &paths.cursors, name) {
        Ok((file, Some(cursor))) => return Ok((file, Some(cursor))),
        Ok((_, None)) => Some("it is damaged".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) if is_unreadable(&error) => Some(error.to_string()),
        Err(error) => return Err(JournalOpenError::io("read", &path)(error)),
    };
    // Without the list its file is all that tells of the sink. It is replaced by the cursor that is written next.
    let line = match why {
        Some(why) if is_listed => Some(damage::set_aside(disk, paths, &path, &why)),
        why => why.map(|why| format!("{} could not be used ({why})", path.display())),
    };
    set_aside.extend(line);
    Ok((CursorFile::new(&paths.cursors, name), None))
}

/// Gives every sink its place; whether the list or a cursor must be written before an event is taken.
fn place_sinks(state: &mut JournalState, found: &FoundSinks, configured: &[Registration]) -> bool {
    // No offset may be assigned twice, whatever was lost.
    let highest = found.opened.values().flatten().map(|cursor| cursor.offset).max().unwrap_or(0);
    state.next = state.next.max(highest);
    for name in &found.listed {
        let cursor = found.opened[name];
        if cursor.is_none() {
            error!(sink = %name, "journal damaged: the cursor of a sink can't be read; it goes back to the oldest event");
        }
        let place = SinkEntry::new(cursor.unwrap_or_else(|| state.oldest_cursor()));
        state.sinks.insert(name.clone(), place);
    }
    let mut taken_over = Vec::new();
    let mut is_new = false;
    for registration in configured.iter().filter(|registration| !found.listed.contains(&registration.name)) {
        let place = match found.opened.get(&registration.name).copied().flatten() {
            Some(cursor) => SinkEntry::new(cursor),
            // The list is lost, but the cursor of the sink that it continues is there.
            None if !found.whole && !registration.continues.as_ref().is_some_and(|it| state.sinks.contains_key(it)) => {
                SinkEntry::new(state.oldest_cursor())
            }
            None => {
                taken_over.extend(&registration.continues);
                SinkEntry::new(first_cursor(state, registration))
            }
        };
        state.sinks.insert(registration.name.clone(), place);
        is_new = true;
    }
    for registration in configured {
        if let Some(place) = state.sinks.get_mut(&registration.name) {
            (place.configured, place.best_effort) = (true, registration.best_effort);
        }
    }
    for name in taken_over {
        if state.sinks.get(name).is_some_and(|place| !place.configured) {
            state.sinks.remove(name);
        }
    }
    is_new
}

/// The first cursor of a sink that the journal does not know.
pub(super) fn first_cursor(state: &JournalState, registration: &Registration) -> Cursor {
    if let Some(other) = &registration.continues {
        if let Some(place) = state.sinks.get(other) {
            return place.cursor;
        }
        warn!(sink = %registration.name, continues = %other, "journal: the sink to continue is not known; the new one begins as its start says");
    }
    match registration.start {
        Start::Next => state.end_cursor(),
        Start::Oldest => state.oldest_cursor(),
    }
}

impl Shared {
    /// Makes the list durable where it must be, then removes the cursors of those that are not in it.
    fn write_sink_list(&self, found: &FoundSinks, must_write: bool) {
        let mut files = self.small_files();
        let written = if must_write { self.write_sinks(&mut files) } else { Ok(()) };
        if let Err(error) = written {
            error!(%error, "journal: the list of sinks can't be written; events get 503 until it can");
            self.state().unregistered = Some(format!("can't write the list of sinks: {error}"));
            return;
        }
        for name in &found.cursors {
            if !self.state().sinks.contains_key(name) {
                self.remove_cursor(&mut files, name);
            }
        }
    }

    /// Removes the cursor of a sink that is not in the list any more; one that stays is removed at the next start.
    pub(super) fn remove_cursor(&self, files: &mut SmallFiles, name: &SinkName) {
        files.cursors.remove(name);
        let path = self.paths.cursors.join(name.as_str());
        let removed = remove_if_there(&*self.disk, &path);
        if let Err(error) = removed.and_then(|()| self.disk.sync_dir(&self.paths.cursors)) {
            warn!(sink = %name, %error, "journal: the cursor of a sink that is gone can't be removed");
        }
    }
}

/// Fills dedupe from the newest segment back, until it is full or the window ends.
fn load_digests(
    options: &JournalOptions,
    paths: &Paths,
    recovered: &Recovered,
    state: &mut JournalState,
    files: &mut SmallFiles,
    set_aside: &mut Vec<String>,
) -> Result<Dedupe, JournalOpenError> {
    let (disk, config) = (&*options.disk, &options.config);
    let oldest = seconds(options.clock.now().before(config.dedupe_window));
    let on_disk = disk.list(&paths.digests).unwrap_or_default();
    let on_disk: BTreeSet<u64> = on_disk.iter().filter_map(|name| parse_file_name(name, "")).collect();
    let segments: HashMap<u64, &Segment> = recovered.segments.iter().map(|segment| (segment.first, segment)).collect();
    let firsts: BTreeSet<u64> = on_disk.iter().copied().chain(segments.keys().copied()).collect();
    let (mut loaded, mut count) = (Vec::new(), 0);
    for first in firsts.into_iter().rev() {
        let segment = segments.get(&first);
        if count >= config.dedupe_max || segment.is_some_and(|segment| segment.records() == 0) {
            // These digests are not needed. Maintenance removes them.
            files.digests.extend(on_disk.contains(&first).then_some((first, 0, 0)));
            continue;
        }
        let known = match recovered.known.get(&first) {
            Some(known) => {
                if on_disk.contains(&first) {
                    remove_incomplete(disk, paths, first);
                }
                Some(known.clone())
            }
            None => read_digests(disk, paths, first, set_aside)?.inspect(|known| {
                let latest = known.iter().map(|known| known.seconds).max();
                files.digests.push_back((first, known.len(), latest.unwrap_or(0)));
            }),
        };
        let known = known.or_else(|| {
            let segment = segment.filter(|segment| seconds(segment.newest) >= oldest)?;
            let known = read_known(disk, paths, segment);
            known.inspect_err(|error| warn!(segment = first, %error, "journal: can't read a segment for dedupe")).ok()
        });
        let Some(known) = known else { continue };
        if files.digests.back().is_none_or(|(written, ..)| *written != first) {
            state.sealed.push((first, known.clone()));
        }
        count += known.len();
        loaded.push(known);
    }
    files.digests.make_contiguous().sort_unstable();
    state.sealed.reverse();
    let mut dedupe = Dedupe::new(config.dedupe_max, config.dedupe_window);
    loaded.into_iter().rev().flatten().for_each(|known| dedupe.insert(known));
    Ok(dedupe)
}

/// Returns the digests of a segment. There are none if the file is missing or unusable.
fn read_digests(
    disk: &dyn Disk,
    paths: &Paths,
    first: u64,
    set_aside: &mut Vec<String>,
) -> Result<Option<Vec<KnownEvent>>, JournalOpenError> {
    let path = paths.digests.join(file_name(first, ""));
    let why = match digests::read(disk, &paths.digests, first) {
        Ok(Some(known)) => return Ok(Some(known)),
        Ok(None) => "it is damaged".to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if is_unreadable(&error) => error.to_string(),
        Err(error) => return Err(JournalOpenError::io("read", &path)(error)),
    };
    set_aside.push(damage::set_aside(disk, paths, &path, &why));
    Ok(None)
}

/// Digests that were written when a sync failed: more may be in the segment than was known to be in it.
fn remove_incomplete(disk: &dyn Disk, paths: &Paths, first: u64) {
    let removed = remove_if_there(disk, &paths.digests.join(file_name(first, "")));
    if let Err(error) = removed.and_then(|()| disk.sync_dir(&paths.digests)) {
        warn!(segment = first, %error, "journal: digests that are not complete can't be removed");
    }
}

/// The digests of a segment whose own file of them is missing or torn.
fn read_known(disk: &dyn Disk, paths: &Paths, segment: &Segment) -> io::Result<Vec<KnownEvent>> {
    let seed = segment.seed.ok_or_else(|| io::Error::other("its head can't be read"))?;
    let file = disk.open(&paths.segment(segment.first), false)?;
    let part = Span { file, seed, length: segment.length, end: Some(segment.end) };
    let mut scan = Scan::new(part, super::format::SEGMENT_START, segment.first, SCAN_BLOCK);
    let mut known = Vec::new();
    while let Some(item) = scan.next()? {
        if let Item::Record(record) = item {
            known.push(KnownEvent::new(record.key, record.event.recorded));
        }
    }
    Ok(known)
}
