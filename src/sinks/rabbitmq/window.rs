//! One round of publishing: sent in order, confirmed in any, and settled once all confirms are in.
//!
//! RabbitMQ returns what it can't route before it confirms it, and names neither by the other. lapin hands each return
//! to whatever confirm comes next, so only the returns as a whole mean something: they are paired with the messages by
//! `message_id` and routing key. Where some confirms are missing, some returns may be too; then a confirm beside a
//! return proves nothing, and its message counts as unknown.

use std::collections::HashSet;
use std::pin::Pin;
use std::task::Poll;

use futures_util::poll;
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{Channel, Confirmation, PublisherConfirm};
use tokio::time::{Instant, timeout_at};

use super::publication::Publication;

/// What became of one publication in a round.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    /// Confirmed, and routed to a queue.
    Confirmed,
    /// Confirmed as returned: no queue is bound for it.
    Returned,
    /// A queue refused it (`basic.nack`).
    Nacked,
    /// The channel is not in confirm mode. lapin would say so of a channel that is not ours.
    NotRequested,
    /// Whether the broker has it is not known.
    Unknown,
}

/// What a round came to.
pub(super) struct Round {
    /// One fate a publication, in their order.
    pub(super) fates: Vec<Fate>,
    /// What ended it early; the broker's own words before what the client says of the same.
    pub(super) ended: Option<End>,
}

/// What ended a round before all confirms were in.
#[derive(Debug)]
pub(super) enum End {
    /// The channel or the connection was closed.
    Closed(lapin::Error),
    /// The time is up.
    Late,
}

/// Publishes all, and awaits the confirms until `until`.
pub(super) async fn publish(
    channel: &Channel,
    exchange: &ShortString,
    publications: &[&Publication],
    until: Instant,
) -> Round {
    let mut sending = Vec::with_capacity(publications.len());
    for publication in publications {
        let mut sent = Box::pin(channel.basic_publish(
            exchange.clone(),
            publication.routing_key.clone(),
            BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() },
            &publication.body,
            publication.properties.clone(),
        ));
        // The first poll takes the delivery tag and queues the frames: the order is ours.
        let done = match poll!(&mut sent) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        };
        sending.push((sent, done));
    }
    let mut tally = Tally::default();
    for (sent, done) in sending {
        let sent = match done {
            Some(done) => Ok(done),
            None => timeout_at(until, sent).await.map_err(|_| End::Late),
        };
        tally.note(confirmation(sent, until).await);
    }
    tally.settle(publications)
}

async fn confirmation(sent: Result<lapin::Result<PublisherConfirm>, End>, until: Instant) -> Result<Confirmation, End> {
    let mut confirm = sent?.map_err(End::Closed)?;
    // A confirm that is there counts, even past the time.
    match timeout_at(until, Pin::new(&mut confirm)).await {
        Ok(confirmation) => confirmation.map_err(End::Closed),
        Err(_) => Err(End::Late),
    }
}

/// What was told of each message, before returns are paired.
#[derive(Default)]
struct Tally {
    told: Vec<Told>,
    returned: HashSet<(String, String)>,
    ended: Option<End>,
}

#[derive(Clone, Copy, PartialEq)]
enum Told {
    Acked,
    Nacked,
    NotRequested,
    Nothing,
}

impl Tally {
    fn note(&mut self, confirmation: Result<Confirmation, End>) {
        let told = match confirmation {
            Ok(Confirmation::Ack(returned)) => self.take(returned, Told::Acked),
            Ok(Confirmation::Nack(returned)) => self.take(returned, Told::Nacked),
            Ok(Confirmation::NotRequested) => Told::NotRequested,
            Err(end) => {
                let spoken = |end: &End| matches!(end, End::Closed(error) if error.is_amqp_error());
                if self.ended.is_none() || (spoken(&end) && !self.ended.as_ref().is_some_and(spoken)) {
                    self.ended = Some(end);
                }
                Told::Nothing
            }
        };
        self.told.push(told);
    }

    fn take(&mut self, returned: Option<BasicReturnMessage>, told: Told) -> Told {
        if let Some(returned) = returned {
            let id = returned.properties.message_id().as_ref().map(ShortString::to_string);
            self.returned.insert((id.unwrap_or_default(), returned.routing_key.to_string()));
        }
        told
    }

    fn settle(self, publications: &[&Publication]) -> Round {
        let Self { told, returned, ended } = self;
        let all_told = told.iter().all(|told| *told != Told::Nothing);
        let fate = |told: Told, publication: &Publication| match told {
            // Two of the same id and key stand and fall together: which of them came back can't be told.
            Told::Acked if is_among(&returned, publication) => Fate::Returned,
            Told::Acked if all_told || returned.is_empty() => Fate::Confirmed,
            Told::Nacked => Fate::Nacked,
            Told::NotRequested => Fate::NotRequested,
            Told::Acked | Told::Nothing => Fate::Unknown,
        };
        Round { fates: told.into_iter().zip(publications).map(|(told, of)| fate(told, of)).collect(), ended }
    }
}

fn is_among(returned: &HashSet<(String, String)>, publication: &Publication) -> bool {
    !returned.is_empty() && returned.contains(&(publication.id.to_string(), publication.routing_key.to_string()))
}
