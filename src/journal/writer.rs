//! The writer thread. It takes queued events, writes them as one commit group, syncs the file, and answers.

mod active;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::dedupe::{Dedupe, KnownEvent};
use super::format::{DedupeKey, GROUP_HEADER, GroupHeader, Previous, RecordHeader, record_length};
use super::state::Shared;
use super::{NotTaken, Taken};
use crate::alma::Verified;
use crate::clock::Timestamp;
use active::Active;

/// The idle time after which the durable end is named, and the time between two tries to open a segment.
const IDLE: Duration = Duration::from_secs(1);
/// The wait if the durable end is named already.
const NAMED_IDLE: Duration = Duration::from_mins(1);
/// A segment ends this long after its first record.
const SEGMENT_AGE: Duration = Duration::from_hours(1);
/// A buffer that grew beyond this for a large event is freed.
const BUFFER_KEPT: usize = 8 * 1024 * 1024;

/// A request to the writer.
pub(super) enum WriterCommand {
    Append(Append),
    /// Write the queued events, name the durable end, and stop.
    Close,
    /// Panic.
    #[cfg(test)]
    Panic,
}

/// An event on its way into the journal.
pub(super) struct Append {
    pub(super) event: Verified,
    pub(super) received: Timestamp,
    pub(super) key: DedupeKey,
    pub(super) answer: TakeAnswer,
    /// The event's place in the queue, held until the answer.
    pub(super) _permit: OwnedSemaphorePermit,
}

type TakeAnswer = oneshot::Sender<Result<Taken, NotTaken>>;

/// The events of one commit group, before the fsync.
#[derive(Default)]
struct Group {
    /// The bodies, which count in `body_memory` until they are durable.
    stored: Vec<Append>,
    keys: HashSet<DedupeKey>,
    /// Repeats of events that are in this group.
    repeats: Vec<TakeAnswer>,
}

/// The bounds on one commit group.
struct Room {
    waiting: u64,
    free: u64,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    commands: Receiver<WriterCommand>,
    dedupe: Dedupe,
    active: Option<Active>,
    previous: Option<Previous>,
    /// The offset of the next event.
    next: u64,
    buffer: Vec<u8>,
    retry_at: Instant,
    closing: bool,
    /// The runtime that gives a group's answers. If there is none, this thread gives them.
    runtime: Option<Handle>,
}

impl Writer {
    /// Opens the first segment of this process, if the disk allows it.
    pub(super) fn start(
        shared: Arc<Shared>,
        commands: Receiver<WriterCommand>,
        dedupe: Dedupe,
        previous: Option<Previous>,
    ) -> Self {
        let next = shared.state().next;
        let mut writer = Self {
            shared,
            commands,
            dedupe,
            active: None,
            previous,
            next,
            buffer: Vec::new(),
            retry_at: Instant::now(),
            closing: false,
            runtime: None,
        };
        writer.try_open();
        writer
    }

    /// Runs until it is told to close, or nobody is left who could tell it.
    pub(super) fn run(mut self, runtime: Option<Handle>) {
        self.runtime = runtime;
        let _mark = MarkClosed(Arc::clone(&self.shared));
        while !self.closing {
            let named = self.active.as_ref().is_some_and(|active| active.named);
            match self.commands.recv_timeout(if named { NAMED_IDLE } else { IDLE }) {
                Ok(command) => self.obey(command),
                Err(RecvTimeoutError::Disconnected) => self.closing = true,
                Err(RecvTimeoutError::Timeout) => self.idle(),
            }
        }
        // A sender that comes after the close finds the channel closed, or its answer dropped.
        self.name_end();
    }

    fn obey(&mut self, command: WriterCommand) {
        match command {
            WriterCommand::Append(append) => self.write(append),
            WriterCommand::Close => self.closing = true,
            #[cfg(test)]
            WriterCommand::Panic => panic!("as the test wants it"),
        }
    }

    /// Drains the queue synchronously, for tests.
    #[cfg(test)]
    pub(super) fn obey_all(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
    }

    /// Does what is due after a while without an event.
    pub(super) fn idle(&mut self) {
        self.name_end();
        if self.is_old() {
            self.rotate();
        }
        if self.active.is_none() {
            self.try_open();
        }
    }

    /// Writes one event together with those that are queued after it, up to the bounds of a group.
    fn write(&mut self, first: Append) {
        if self.active.is_none() && self.retry_at <= Instant::now() {
            self.try_open();
        }
        if self.is_old() || self.active.as_ref().is_some_and(|active| active.length >= self.shared.limits.segment_bytes)
        {
            self.rotate();
        }
        let now = self.shared.clock.now();
        let mut group = Group::default();
        let mut room = self.room();
        self.buffer.clear();
        self.buffer.resize(GROUP_HEADER, 0);
        let mut append = Some(first);
        while let Some(event) = append.take() {
            self.admit(event, &mut group, &mut room, now);
            if self.is_full() {
                break;
            }
            match self.commands.try_recv() {
                Ok(WriterCommand::Append(event)) => append = Some(event),
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
            }
        }
        if !group.stored.is_empty() {
            self.commit(group, now);
        }
        self.buffer.shrink_to(BUFFER_KEPT);
    }

    /// Whether the group has reached its size, or would fill the segment.
    fn is_full(&self) -> bool {
        let length = self.active.as_ref().map_or(0, |active| active.length);
        let left = self.shared.limits.segment_bytes.saturating_sub(length);
        self.buffer.len() as u64 >= left.min(self.shared.limits.group_bytes)
    }

    /// Whether the segment's hour is over. If the clock went back, the hour starts again.
    fn is_old(&mut self) -> bool {
        let now = self.shared.clock.now();
        let Some(since) = self.active.as_mut().and_then(|active| active.since.as_mut()) else { return false };
        *since = now.min(*since);
        now.since(*since) >= SEGMENT_AGE
    }

    /// Puts an event into the group, or answers that it can't be taken.
    fn admit(&mut self, append: Append, group: &mut Group, room: &mut Room, now: Timestamp) {
        if let Some(first_seen) = self.dedupe.first_seen(&append.key, now) {
            answer(append.answer, Ok(Taken::Repeat(first_seen)));
        } else if group.keys.contains(&append.key) {
            group.repeats.push(append.answer);
        } else {
            match self.encode(&append, group.stored.len() as u64, room) {
                Ok(()) => {
                    group.keys.insert(append.key);
                    group.stored.push(append);
                }
                Err(refusal) => answer(append.answer, Err(refusal)),
            }
        }
    }

    fn encode(&mut self, append: &Append, index: u64, room: &mut Room) -> Result<(), NotTaken> {
        if let Some(why) = self.shared.state().failure() {
            return Err(NotTaken::DiskFailing(why));
        }
        let (source, body) = (append.event.source().as_str(), append.event.body());
        let size = self.buffer.len() as u64 + record_length(source, body);
        self.check_room(room, size)?;
        let Some(active) = &self.active else {
            return Err(NotTaken::DiskFailing(self.shared.state().failure().unwrap_or_default()));
        };
        let place = (self.next + index, append.received, &append.key);
        RecordHeader::append(&mut self.buffer, active.seed, place, source, body)
            .ok_or_else(|| NotTaken::DiskFailing(format!("a record can't hold {} bytes", body.len())))
    }

    fn room(&self) -> Room {
        let waiting = self.shared.state().waiting_bytes();
        Room { waiting, free: self.shared.ask_free() }
    }

    /// Checks that a group of this size exceeds no bound. Deletes delivered segments first if that makes room.
    fn check_room(&mut self, room: &mut Room, size: u64) -> Result<(), NotTaken> {
        let (max_size, min_free) = (self.shared.config.max_size, self.shared.config.min_free);
        if room.waiting + size > max_size {
            room.waiting = self.shared.give_up(size);
            if room.waiting + size > max_size {
                return Err(NotTaken::Full { waiting: room.waiting, max_size });
            }
        }
        if room.free < min_free.saturating_add(size) {
            room.free = self.shared.make_room(min_free.saturating_add(size));
            // The active segment can be ended only between two groups. Then it can be deleted too.
            if room.free < min_free.saturating_add(size) && self.buffer.len() == GROUP_HEADER && self.is_passed() {
                self.rotate();
                room.free = self.shared.make_room(min_free.saturating_add(size));
            }
            if room.free < min_free.saturating_add(size) {
                return Err(NotTaken::DiskFull { free: room.free, min_free });
            }
        }
        Ok(())
    }

    /// Whether the active segment has records and all of them are delivered.
    fn is_passed(&self) -> bool {
        let state = self.shared.state();
        let last = state.segments.back().filter(|_| self.active.is_some());
        last.is_some_and(|segment| segment.records() > 0 && state.is_delivered(segment))
    }

    fn commit(&mut self, group: Group, now: Timestamp) {
        let Some(active) = &mut self.active else { return };
        let count = group.stored.len();
        let header = GroupHeader {
            count: u32::try_from(count).expect("a queue is shorter than that"),
            first: self.next,
            recorded: now,
            durable_end: active.length,
            bytes: u32::try_from(self.buffer.len() - GROUP_HEADER).expect("bounded by the group's size and one event"),
        };
        self.buffer[..GROUP_HEADER].copy_from_slice(&header.encode(active.seed));
        let began = Instant::now();
        let written = active.file.write_at(&self.buffer, active.length).and_then(|()| active.file.sync_data());
        self.shared.metrics.synced(began.elapsed());
        self.next += count as u64;
        let outcome = match written {
            Ok(()) => {
                active.length += self.buffer.len() as u64;
                active.since.get_or_insert(now);
                active.named = false;
                Ok(())
            }
            Err(error) => Err(self.fail(&error)),
        };
        if outcome.is_ok() {
            self.remember(&group.stored, now);
            self.publish(now);
        }
        self.tell(group, outcome, now);
    }

    /// Answers all events of a group. By one hand-over to the runtime: each wake from outside it costs its lock, and
    /// may wake a worker.
    fn tell(&self, group: Group, outcome: Result<(), NotTaken>, recorded: Timestamp) {
        let many = group.stored.len() + group.repeats.len() > 1;
        let tell = move || {
            for append in group.stored {
                answer(append.answer, outcome.clone().map(|()| Taken::Stored));
            }
            for repeat in group.repeats {
                answer(repeat, outcome.clone().map(|()| Taken::Repeat(recorded)));
            }
        };
        match &self.runtime {
            Some(runtime) if many => drop(runtime.spawn(async move { tell() })),
            _ => tell(),
        }
    }

    fn remember(&mut self, stored: &[Append], now: Timestamp) {
        let Some(active) = &mut self.active else { return };
        for append in stored {
            self.dedupe.insert(KnownEvent::new(append.key, now));
        }
        active.known += stored.len();
    }

    /// Shows readers what is durable.
    fn publish(&self, now: Timestamp) {
        let Some(active) = &self.active else { return };
        let mut state = self.shared.state();
        if let Some(segment) = state.segments.back_mut() {
            segment.length = active.length;
            segment.end = self.next;
            segment.newest = segment.newest.max(now);
        }
        state.next = self.next;
        drop(state);
        self.shared.grown.notify_waiters();
    }
}

/// Drops the answer if nobody waits for it any more. The event is taken all the same.
fn answer(to: TakeAnswer, outcome: Result<Taken, NotTaken>) {
    drop(to.send(outcome));
}

/// However the writer ends, nobody must wait for it afterwards.
struct MarkClosed(Arc<Shared>);

impl Drop for MarkClosed {
    fn drop(&mut self) {
        self.0.mark_closed();
    }
}
