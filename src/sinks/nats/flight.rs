//! The messages of one window in flight, each until its `PubAck` arrives or can't arrive any more.

use std::future::IntoFuture as _;

use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::task::coop::unconstrained;
use tokio::time::timeout;

use super::client::{Connection, Watch};
use super::{ACK_TIMEOUT, sort};
use crate::message::Message;
use crate::sinks::{Failure, Outcome, Outcomes, Reason};

/// A message's place in its window, and the answer to it.
type Answer = (usize, Result<PublishAck, PublishError>);

/// What is on its way.
pub(super) struct NatsFlight<'a> {
    connection: &'a Connection,
    stream: &'a str,
    window: &'a [Message],
    outcomes: &'a mut Outcomes,
    /// Events that may make waiting pointless.
    watch: Watch,
    acks: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// The places of the messages that were sent, and how many of them have no outcome yet. A denied message has an
    /// outcome, although its answer never arrives.
    sent: Vec<usize>,
    waiting: usize,
}

impl<'a> NatsFlight<'a> {
    /// With nothing sent yet.
    pub(super) fn new(
        connection: &'a Connection,
        stream: &'a str,
        window: &'a [Message],
        outcomes: &'a mut Outcomes,
    ) -> Self {
        let watch = connection.watch();
        Self {
            connection,
            stream,
            window,
            outcomes,
            watch,
            acks: FuturesUnordered::new(),
            sent: Vec::new(),
            waiting: 0,
        }
    }

    /// Sends a message. Returns whether that succeeded.
    pub(super) async fn send(&mut self, place: usize, publish: PublishMessage) -> bool {
        let topic = self.window[place].topic.to_string();
        match self.connection.jetstream.send_publish(topic, publish).await {
            Ok(ack) => {
                self.acks.push(ack.into_future().map(move |answer| (place, answer)).boxed());
                self.sent.push(place);
                self.waiting += 1;
                true
            }
            Err(error) => self.fail(place, sort(&error)),
        }
    }

    /// Fails a message without sending it. Always returns `false`.
    pub(super) fn fail(&mut self, place: usize, failure: Failure) -> bool {
        self.outcomes.set(place, Outcome::Failed(failure));
        false
    }

    /// Why a message failed.
    pub(super) fn failure(&self, place: usize) -> Option<&Failure> {
        match self.outcomes.get(place) {
            Some(Outcome::Failed(failure)) => Some(failure),
            _ => None,
        }
    }

    /// Waits until no message is in flight any more, or only until the message `one` has its outcome. Notes each
    /// outcome as soon as it is known.
    pub(super) async fn land(&mut self, one: Option<usize>) {
        while self.waiting > 0 && one.is_none_or(|place| self.outcomes.get(place).is_none()) {
            tokio::select! {
                // An acknowledgement that has arrived counts, even if the connection was lost after it.
                biased;
                answer = timeout(ACK_TIMEOUT, self.acks.next()) => match answer {
                    Ok(Some(answer)) => self.note(answer),
                    // All answers have arrived. Denied messages get none.
                    Ok(None) => self.give_up(&Failure::new(Reason::Timeout, "no acknowledgement arrived")),
                    Err(_) => {
                        let detail = format!("no acknowledgement within {ACK_TIMEOUT:?}");
                        self.give_up(&Failure::new(Reason::Timeout, detail));
                    }
                },
                () = self.watch.changed() => {
                    // Takes everything that has arrived, without the runtime's limit on work per poll.
                    while let Some(Some(answer)) = unconstrained(self.acks.next()).now_or_never() {
                        self.note(answer);
                    }
                    self.fail_hopeless();
                }
            }
        }
    }

    fn note(&mut self, (place, answer): Answer) {
        self.set(place, judge(self.stream, answer));
    }

    fn set(&mut self, place: usize, outcome: Outcome) {
        self.waiting -= usize::from(self.outcomes.get(place).is_none());
        self.outcomes.set(place, outcome);
    }

    /// Fails the messages in flight.
    fn give_up(&mut self, failure: &Failure) {
        for place in self.open() {
            self.set(place, Outcome::Failed(failure.clone()));
        }
    }

    /// Fails the messages that can't get an answer any more.
    fn fail_hopeless(&mut self) {
        for place in self.open() {
            if let Some(failure) = self.connection.hopeless(self.window[place].topic.as_str()) {
                self.set(place, Outcome::Failed(failure));
            }
        }
    }

    fn open(&self) -> Vec<usize> {
        self.sent.iter().copied().filter(|place| self.outcomes.get(*place).is_none()).collect()
    }
}

fn judge(stream: &str, answer: Result<PublishAck, PublishError>) -> Outcome {
    match answer {
        Ok(ack) if ack.stream == stream => Outcome::Confirmed { duplicate: ack.duplicate },
        Ok(ack) => {
            let detail = format!("landed in stream {}, expected {stream}", ack.stream);
            Outcome::Failed(Failure::new(Reason::Missing, detail))
        }
        Err(error) => Outcome::Failed(sort(&error)),
    }
}
