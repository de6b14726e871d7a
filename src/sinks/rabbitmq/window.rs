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
        match confirmation(sent, until).await {
            Ok(Confirmation::Ack(returned)) => tally.note(Told::Acked, returned.as_ref().map(Key::of_returned)),
            Ok(Confirmation::Nack(returned)) => tally.note(Told::Nacked, returned.as_ref().map(Key::of_returned)),
            Ok(Confirmation::NotRequested) => tally.note(Told::NotRequested, None),
            Err(end) => tally.note_end(end),
        }
    }
    let keys: Vec<Key> = publications.iter().map(|publication| Key::of(publication)).collect();
    tally.settle(&keys)
}

async fn confirmation(sent: Result<lapin::Result<PublisherConfirm>, End>, until: Instant) -> Result<Confirmation, End> {
    let mut confirm = sent?.map_err(End::Closed)?;
    // A confirm that is there counts, even past the time.
    match timeout_at(until, Pin::new(&mut confirm)).await {
        Ok(confirmation) => confirmation.map_err(End::Closed),
        Err(_) => Err(End::Late),
    }
}

/// What a return and its message have in common: id and routing key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key(String, String);

impl Key {
    fn of(publication: &Publication) -> Self {
        Self(publication.id.to_string(), publication.routing_key.to_string())
    }

    fn of_returned(returned: &BasicReturnMessage) -> Self {
        let id = returned.properties.message_id().as_ref().map(ShortString::to_string);
        Self(id.unwrap_or_default(), returned.routing_key.to_string())
    }
}

/// What was told of each message, before returns are paired.
#[derive(Default)]
struct Tally {
    told: Vec<Told>,
    returned: HashSet<Key>,
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
    /// What was told of the next message, and the return that came with it, of whatever message.
    fn note(&mut self, told: Told, returned: Option<Key>) {
        self.told.push(told);
        self.returned.extend(returned);
    }

    /// Nothing was told of the next message, and why.
    fn note_end(&mut self, end: End) {
        self.told.push(Told::Nothing);
        let spoken = |end: &End| matches!(end, End::Closed(error) if error.is_amqp_error());
        if self.ended.is_none() || (spoken(&end) && !self.ended.as_ref().is_some_and(spoken)) {
            self.ended = Some(end);
        }
    }

    fn settle(self, keys: &[Key]) -> Round {
        let Self { told, returned, ended } = self;
        let all_told = told.iter().all(|told| *told != Told::Nothing);
        let fate = |told: Told, key: &Key| match told {
            // Two of the same id and key stand and fall together: which of them came back can't be told.
            Told::Acked if returned.contains(key) => Fate::Returned,
            Told::Acked if all_told || returned.is_empty() => Fate::Confirmed,
            Told::Nacked => Fate::Nacked,
            Told::NotRequested => Fate::NotRequested,
            Told::Acked | Told::Nothing => Fate::Unknown,
        };
        Round { fates: told.into_iter().zip(keys).map(|(told, key)| fate(told, key)).collect(), ended }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        Key(id.to_owned(), "alma.loan".to_owned())
    }

    fn settle(told: &[(Told, Option<&str>)], ids: &[&str]) -> Vec<Fate> {
        let mut tally = Tally::default();
        for (told, returned) in told {
            match told {
                Told::Nothing => tally.note_end(End::Late),
                told => tally.note(*told, returned.map(key)),
            }
        }
        let keys: Vec<Key> = ids.iter().map(|id| key(id)).collect();
        tally.settle(&keys).fates
    }

    #[test]
    fn a_return_is_paired_by_what_it_holds_and_not_by_the_confirm_it_came_with() {
        let told = [(Told::Acked, Some("3")), (Told::Acked, Some("1")), (Told::Acked, None), (Told::Nacked, None)];
        let fates = settle(&told, &["1", "2", "3", "4"]);
        assert_eq!(fates, [Fate::Returned, Fate::Confirmed, Fate::Returned, Fate::Nacked]);
    }

    #[test]
    fn a_nack_may_bring_anothers_return() {
        let fates = settle(&[(Told::Nacked, Some("2")), (Told::Acked, None)], &["1", "2"]);
        assert_eq!(fates, [Fate::Nacked, Fate::Returned]);
    }

    #[test]
    fn beside_a_return_a_confirm_proves_nothing_while_others_are_missing() {
        // The return of 2 may still be with the confirm of 3.
        let told = [(Told::Acked, None), (Told::Acked, Some("1")), (Told::Nothing, None)];
        assert_eq!(settle(&told, &["1", "2", "3"]), [Fate::Returned, Fate::Unknown, Fate::Unknown]);
        // Had one come back, its confirm would have brought a return.
        let told = [(Told::Acked, None), (Told::Nothing, None)];
        assert_eq!(settle(&told, &["1", "2"]), [Fate::Confirmed, Fate::Unknown]);
    }

    #[test]
    fn the_same_id_and_key_twice_stand_and_fall_together() {
        let told = [(Told::Acked, Some("1")), (Told::Acked, None), (Told::Acked, None)];
        assert_eq!(settle(&told, &["1", "1", "2"]), [Fate::Returned, Fate::Returned, Fate::Confirmed]);
    }

    #[test]
    fn a_channel_that_is_not_in_confirm_mode_confirms_nothing() {
        assert_eq!(settle(&[(Told::NotRequested, None)], &["1"]), [Fate::NotRequested]);
    }

    #[test]
    fn the_brokers_words_come_before_the_clients() {
        let said = lapin::protocol::AMQPError::from_id(404, "NOT_FOUND - no exchange".into()).expect("a code");
        let mut tally = Tally::default();
        tally.note_end(End::Late);
        tally.note_end(End::Closed(lapin::ErrorKind::ProtocolError(said).into()));
        tally.note_end(End::Closed(lapin::ErrorKind::FutureCompleted.into()));
        let ended = tally.settle(&[key("1"), key("2"), key("3")]).ended;
        assert!(matches!(ended, Some(End::Closed(error)) if error.is_amqp_error()));
    }
}
