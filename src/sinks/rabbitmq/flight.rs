//! Messages in flight: they are sent in order, confirmed in any order, and settled once all confirms of a flight have
//! arrived.
//!
//! RabbitMQ returns a message that it can't route before it confirms it, but neither refers to the other. lapin
//! attaches each return to whatever confirm arrives next, so only all returns together mean something: they are paired
//! with the messages by `message_id` and routing key. If some confirms are missing, some returns may be missing too. As
//! soon as there is any return, a confirm then proves nothing, and its message counts as unknown.
//!
//! Flights that overlap share a channel, and therefore its returns. The oldest can still be settled: it was sent first,
//! so its returns arrive first, each before its own confirm, and each confirm carries at most one. When its last
//! confirm has arrived, so has the last of its returns, with one of its own confirms or with one of a later flight. If
//! a flight ends early, this does not hold for the later ones, and messages that are sent again would follow them. No
//! further flight begins until they are settled.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt as _;
use futures_util::future::poll_fn;
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{Channel, Confirmation, PublisherConfirm};
use tokio::time::{Instant, timeout_at};

use super::publication::Publication;
use crate::sinks::LOOK;

/// The outcome of one publication in a round.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    /// Confirmed, and routed to a queue.
    Confirmed,
    /// Confirmed as returned: no queue is bound for it.
    Returned,
    /// A queue refused it (`basic.nack`).
    Nacked,
    /// The channel is not in confirm mode. That can only be a channel that is not ours.
    NotRequested,
    /// It is not known whether the broker has the message.
    Unknown,
}

/// The result of a flight.
pub(super) struct Round {
    /// One fate for each publication, in their order.
    pub(super) fates: Vec<Fate>,
    /// Why the flight ended early. The broker's own error takes precedence over the client's.
    pub(super) ended: Option<End>,
    /// Whether other flights were on the channel, whose messages may be the reason why it was closed.
    pub(super) shared: bool,
}

/// Why a round ended before all confirms had arrived.
#[derive(Debug)]
pub(super) enum End {
    /// The channel or the connection was closed.
    Closed(lapin::Error),
    /// The time limit was reached.
    Late,
}

/// Publications that were sent one behind the other on one channel.
pub(super) struct RabbitFlight {
    sent: Vec<Sent>,
    told: Vec<Told>,
    ended: Option<End>,
    /// The channel was closed while an older flight was settled. The cause is known, and need not be this flight.
    pub(super) cut: bool,
}

/// The state of one publication.
enum Sent {
    Writing(Pin<Box<dyn Future<Output = lapin::Result<PublisherConfirm>> + Send + Sync>>),
    Written(PublisherConfirm),
    /// The result is noted. Must not be polled any more.
    Over,
}

impl Sent {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<lapin::Result<Confirmation>> {
        loop {
            let over = match self {
                Self::Writing(writing) => match ready!(writing.as_mut().poll(context)) {
                    Ok(confirm) => {
                        *self = Self::Written(confirm);
                        continue;
                    }
                    Err(error) => Err(error),
                },
                Self::Written(confirm) => ready!(Pin::new(confirm).poll(context)),
                Self::Over => return Poll::Pending,
            };
            *self = Self::Over;
            return Poll::Ready(over);
        }
    }
}

impl RabbitFlight {
    /// Hands all to the client, which sends them in this order.
    pub(super) fn send<'a>(
        channel: &Arc<Channel>,
        exchange: &ShortString,
        publications: impl Iterator<Item = &'a Publication>,
    ) -> Self {
        let write = |publication: &Publication| {
            let (channel, exchange) = (Arc::clone(channel), exchange.clone());
            let (routing_key, properties) = (publication.routing_key.clone(), publication.properties.clone());
            let body = publication.body.clone();
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let mut writing =
                Box::pin(async move { channel.basic_publish(exchange, routing_key, options, &body, properties).await });
            // The first poll takes the delivery tag and queues the frames, which fixes the order.
            match (&mut writing).now_or_never() {
                Some(Ok(confirm)) => Sent::Written(confirm),
                Some(Err(error)) => Sent::Writing(Box::pin(std::future::ready(Err(error)))),
                None => Sent::Writing(writing),
            }
        };
        let sent: Vec<Sent> = publications.map(write).collect();
        Self { told: vec![Told::Nothing; sent.len()], sent, ended: None, cut: false }
    }

    /// Awaits all confirms until `until`, and settles the flight. `publications` are those that were sent. `behind` are
    /// the flights that were sent later on the same channel. `returned` are the returns of all of them that are not
    /// settled yet. `proven` is called early with the place of each message that is known to be confirmed.
    pub(super) async fn land<'a>(
        mut self,
        publications: impl Iterator<Item = &'a Publication>,
        mut behind: Vec<&mut Self>,
        returned: &mut Returned,
        until: Instant,
        mut proven: impl FnMut(usize),
    ) -> Round {
        while !self.wait(until.min(Instant::now() + LOOK), returned).await {
            let is_late = Instant::now() >= until;
            self.look(returned);
            for flight in &mut behind {
                flight.look(returned);
            }
            // Everything that has arrived is noted: if one of these had been returned, its return would be here.
            if !self.cut && returned.0.is_empty() {
                let acked = self.told.iter().enumerate().filter(|(_, told)| **told == Told::Acked);
                acked.for_each(|(index, _)| proven(index));
            }
            if is_late {
                self.note_end(End::Late);
                break;
            }
        }
        for flight in &mut behind {
            flight.look(returned);
        }
        let fates = returned.settle(&self.told, publications.map(Key::of), self.cut);
        let shared = behind.iter().any(|flight| !flight.cut);
        let ended = self.ended.filter(|end| !self.cut || matches!(end, End::Late));
        if matches!(ended, Some(End::Closed(_))) {
            for flight in behind {
                flight.cut = true;
            }
        }
        Round { fates, ended, shared }
    }

    /// Waits for all confirms until `until`. Returns whether all have arrived.
    async fn wait(&mut self, until: Instant, returned: &mut Returned) -> bool {
        for index in 0..self.sent.len() {
            if !matches!(self.sent[index], Sent::Over) {
                let confirm = timeout_at(until, poll_fn(|context| self.sent[index].poll(context))).await;
                let Ok(confirm) = confirm else { return false };
                self.note(index, confirm.map_err(End::Closed), returned);
            }
        }
        true
    }

    /// Notes what has arrived so far.
    fn look(&mut self, returned: &mut Returned) {
        for index in 0..self.sent.len() {
            if let Some(confirm) = poll_fn(|context| self.sent[index].poll(context)).now_or_never() {
                self.note(index, confirm.map_err(End::Closed), returned);
            }
        }
    }

    fn note(&mut self, index: usize, confirm: Result<Confirmation, End>, returned: &mut Returned) {
        let (told, came) = match confirm {
            Ok(Confirmation::Ack(came)) => (Told::Acked, came),
            Ok(Confirmation::Nack(came)) => (Told::Nacked, came),
            Ok(Confirmation::NotRequested) => (Told::NotRequested, None),
            Err(end) => return self.note_end(end),
        };
        self.told[index] = told;
        if let Some(came) = came {
            *returned.0.entry(Key::of_returned(&came)).or_default() += 1;
        }
    }

    fn note_end(&mut self, end: End) {
        let spoken = |end: &End| matches!(end, End::Closed(error) if error.is_amqp_error());
        if self.ended.is_none() || (spoken(&end) && !self.ended.as_ref().is_some_and(spoken)) {
            self.ended = Some(end);
        }
    }
}

/// Pairs a return with its message: id and routing key.
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

/// The returns that are not paired with their messages yet, with their counts. Two windows may each have a message with
/// the same id and key: the same body from two sources.
#[derive(Default)]
pub(super) struct Returned(HashMap<Key, usize>);

impl Returned {
    /// Returns one fate for each publication of the oldest flight. `cut` says that an older flight ended early: this
    /// flight's confirms may have carried its returns, and this flight's own returns may still be missing.
    fn settle(&mut self, told: &[Told], keys: impl Iterator<Item = Key>, cut: bool) -> Vec<Fate> {
        let proves = !cut && (self.0.is_empty() || told.iter().all(|told| *told != Told::Nothing));
        if self.0.is_empty() {
            return told.iter().map(|told| told.fate(false, proves)).collect();
        }
        let keys: Vec<Key> = keys.collect();
        // Two messages with the same id and key share their fate, because it is not known which of them was returned.
        let fates = told.iter().zip(&keys).map(|(told, key)| told.fate(self.0.contains_key(key), proves)).collect();
        for key in &keys {
            if let Some(times) = self.0.get_mut(key) {
                *times -= 1;
                if *times == 0 {
                    self.0.remove(key);
                }
            }
        }
        fates
    }
}

/// What the broker said about a message, before returns are paired.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    Acked,
    Nacked,
    NotRequested,
    Nothing,
}

impl Told {
    /// `proves` says that no return can be missing.
    fn fate(self, came_back: bool, proves: bool) -> Fate {
        match self {
            Self::Acked if came_back => Fate::Returned,
            Self::Acked if proves => Fate::Confirmed,
            Self::Nacked => Fate::Nacked,
            Self::NotRequested => Fate::NotRequested,
            Self::Acked | Self::Nothing => Fate::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(sent: Vec<Sent>) -> RabbitFlight {
        RabbitFlight { told: vec![Told::Nothing; sent.len()], sent, ended: None, cut: false }
    }

    fn key(id: &str) -> Key {
        Key(id.to_owned(), "alma.loan".to_owned())
    }

    fn keys(ids: &[&str]) -> impl Iterator<Item = Key> {
        ids.iter().map(|id| key(id))
    }

    fn returned(ids: &[&str]) -> Returned {
        let mut returned = Returned::default();
        for key in keys(ids) {
            *returned.0.entry(key).or_default() += 1;
        }
        returned
    }

    fn settle(told: &[(Told, Option<&str>)], ids: &[&str]) -> Vec<Fate> {
        let (told, came): (Vec<Told>, Vec<Option<&str>>) = told.iter().copied().unzip();
        returned(&came.into_iter().flatten().collect::<Vec<_>>()).settle(&told, keys(ids), false)
    }

    #[test]
    fn a_return_is_paired_by_its_content_and_not_by_the_confirm_that_carried_it() {
        let told = [(Told::Acked, Some("3")), (Told::Acked, Some("1")), (Told::Acked, None), (Told::Nacked, None)];
        let fates = settle(&told, &["1", "2", "3", "4"]);
        assert_eq!(fates, [Fate::Returned, Fate::Confirmed, Fate::Returned, Fate::Nacked]);
    }

    #[test]
    fn a_nack_may_carry_the_return_of_another_message() {
        let fates = settle(&[(Told::Nacked, Some("2")), (Told::Acked, None)], &["1", "2"]);
        assert_eq!(fates, [Fate::Nacked, Fate::Returned]);
    }

    #[test]
    fn after_a_return_a_confirm_proves_nothing_while_other_confirms_are_missing() {
        // The confirm of 3 may still carry the return of 2.
        let told = [(Told::Acked, None), (Told::Acked, Some("1")), (Told::Nothing, None)];
        assert_eq!(settle(&told, &["1", "2", "3"]), [Fate::Returned, Fate::Unknown, Fate::Unknown]);
        // If it had been returned, its confirm would have carried a return.
        let told = [(Told::Acked, None), (Told::Nothing, None)];
        assert_eq!(settle(&told, &["1", "2"]), [Fate::Confirmed, Fate::Unknown]);
    }

    #[test]
    fn two_messages_with_the_same_id_and_key_share_their_fate() {
        let told = [(Told::Acked, Some("1")), (Told::Acked, None), (Told::Acked, None)];
        assert_eq!(settle(&told, &["1", "1", "2"]), [Fate::Returned, Fate::Returned, Fate::Confirmed]);
    }

    #[test]
    fn a_channel_that_is_not_in_confirm_mode_confirms_nothing() {
        assert_eq!(settle(&[(Told::NotRequested, None)], &["1"]), [Fate::NotRequested]);
    }

    #[test]
    fn the_brokers_error_takes_precedence_over_the_clients() {
        let said = lapin::protocol::AMQPError::from_id(404, "NOT_FOUND - no exchange".into()).expect("a code");
        let mut flight = flight(Vec::new());
        flight.note_end(End::Late);
        flight.note_end(End::Closed(lapin::ErrorKind::ProtocolError(said).into()));
        flight.note_end(End::Closed(lapin::ErrorKind::FutureCompleted.into()));
        assert!(matches!(flight.ended, Some(End::Closed(error)) if error.is_amqp_error()));
    }

    #[test]
    fn a_return_that_another_flights_confirm_carried_waits_for_its_own_flight() {
        let mut returned = returned(&["2", "3"]);
        assert_eq!(
            returned.settle(&[Told::Acked, Told::Acked], keys(&["1", "2"]), false),
            [Fate::Confirmed, Fate::Returned]
        );
        assert_eq!(
            returned.settle(&[Told::Acked, Told::Acked], keys(&["3", "4"]), false),
            [Fate::Returned, Fate::Confirmed]
        );
        assert!(returned.0.is_empty());
    }

    #[test]
    fn the_same_id_and_key_in_two_flights_can_be_returned_twice() {
        let mut returned = returned(&["1", "1"]);
        assert_eq!(returned.settle(&[Told::Acked], keys(&["1"]), false), [Fate::Returned]);
        assert_eq!(returned.settle(&[Told::Acked], keys(&["1"]), false), [Fate::Returned]);
        assert!(returned.0.is_empty());
    }

    #[test]
    fn after_a_flight_that_ended_early_a_confirm_proves_nothing() {
        // The confirm may have carried a return of the older flight, and its own return may follow.
        assert_eq!(Returned::default().settle(&[Told::Acked], keys(&["1"]), true), [Fate::Unknown]);
        assert_eq!(returned(&["1"]).settle(&[Told::Acked], keys(&["1"]), true), [Fate::Returned]);
    }

    #[tokio::test]
    async fn a_later_flight_is_not_the_reason_why_the_channel_was_closed() {
        let closed = || lapin::Error::from(lapin::ErrorKind::FutureCompleted);
        let failing = || flight(vec![Sent::Writing(Box::pin(std::future::ready(Err(closed()))))]);
        let (mut returned, soon) = (Returned::default(), Instant::now());
        let mut behind = failing();
        let round = failing().land([].into_iter(), vec![&mut behind], &mut returned, soon, |_| ()).await;
        assert_eq!(round.fates, [Fate::Unknown]);
        assert!(round.shared && matches!(round.ended, Some(End::Closed(_))));
        let mut last = flight(Vec::new());
        last.cut = true;
        let round = behind.land([].into_iter(), vec![&mut last], &mut returned, soon, |_| ()).await;
        assert_eq!(round.fates, [Fate::Unknown]);
        assert!(!round.shared && round.ended.is_none());
    }
}
