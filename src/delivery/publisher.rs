//! What all parts of a pump publish with: the sink, the feed that is read ahead meanwhile, and the requests that arrive.

use std::collections::VecDeque;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, Sent};
use super::guarded_sink::{GuardedSink, until};
use super::handles::Request;
use super::reader::Reader;
use crate::dead_letters::DeadLetters;
use crate::journal::Feed;
use crate::sinks::Failure;

/// How many requests may wait for a pump. One more waits for room, or is dropped if it only asks for haste.
const REQUESTS: usize = 16;

/// The pump must stop, or its feed is closed.
#[derive(Debug)]
pub(super) struct Stop;

pub(super) struct Publisher<F> {
    pub(super) sink: GuardedSink,
    pub(super) reader: Reader<F>,
    pub(super) dead_letters: DeadLetters,
    pub(super) inbox: Inbox,
}

/// The requests to a pump.
pub(super) struct Inbox {
    pub(super) requests: mpsc::Receiver<Request>,
    /// Requests that are received and not finished.
    pub(super) open: VecDeque<Request>,
    /// Somebody asked for the parked topics to be tried now.
    pub(super) retry_parked: bool,
}

impl Inbox {
    pub(super) fn new() -> (mpsc::Sender<Request>, Self) {
        let (ask, requests) = mpsc::channel(REQUESTS);
        (ask, Self { requests, open: VecDeque::new(), retry_parked: false })
    }

    pub(super) fn has_room(&self) -> bool {
        self.open.len() < REQUESTS
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.requests.is_empty() && !self.retry_parked
    }

    pub(super) fn note(&mut self, request: Request) {
        match request {
            Request::RetryParked => self.retry_parked = true,
            request => self.open.push_back(request),
        }
    }
}

impl<F: Feed> Publisher<F> {
    /// Sends a batch, see [`GuardedSink::send`]. The next window is read meanwhile.
    pub(super) async fn send<K>(&mut self, batch: Batch<K>, queue: &mut VecDeque<Batch<K>>) -> Sent<K> {
        self.sink.send(batch, queue, self.reader.read_ahead()).await
    }

    /// Connects unless the sink is up. Tries for ever, and at once if a request asks for it.
    pub(super) async fn ensure_up(&mut self, stop: &CancellationToken) -> Result<(), Stop> {
        while !self.sink.is_up() {
            self.wait(self.sink.next_try(), stop).await?;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Stop),
                () = self.sink.connect(self.reader.read_ahead()) => {}
            }
        }
        Ok(())
    }

    /// Waits until `at` or until a request arrives.
    pub(super) async fn wait(&mut self, at: Option<Instant>, stop: &CancellationToken) -> Result<(), Stop> {
        self.end_overdue_retries();
        let room = self.inbox.has_room();
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Stop),
            Some(request) = self.inbox.requests.recv(), if room => self.inbox.note(request),
            () = until(at) => {}
            never = self.reader.read_ahead() => match never {},
        }
        Ok(())
    }

    /// Ends the retries whose deadline has passed or whose caller is gone, while the sink takes nothing.
    fn end_overdue_retries(&mut self) {
        let now = Instant::now();
        for request in std::mem::take(&mut self.inbox.open) {
            match request {
                Request::Retry(retry) if retry.reply.is_closed() => {}
                Request::Retry(mut retry) if retry.until <= now => {
                    let why = self.why_not_tried(retry.failure.take());
                    retry.end(&why);
                }
                request => self.inbox.open.push_back(request),
            }
        }
    }

    pub(super) fn why_not_tried(&self, failure: Option<Failure>) -> String {
        match failure.or_else(|| self.sink.held()) {
            Some(failure) => format!("the sink did not take it in time: {failure}"),
            None => "the sink did not come to it in time".to_owned(),
        }
    }
}
