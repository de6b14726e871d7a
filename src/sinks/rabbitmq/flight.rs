//! What is on its way: sent in order, confirmed in any, and settled once all confirms of a flight are in.
//!
//! RabbitMQ returns what it can't route before it confirms it, and names neither by the other. lapin hands each return
//! to whatever confirm comes next, so only the returns as a whole mean something: they are paired with the messages by
//! `message_id` and routing key. Where some confirms are missing, some returns may be too; then a confirm beside a
//! return proves nothing, and its message counts as unknown.
//!
//! Flights that overlap share a channel, and so its returns. The oldest can be settled all the same: it was sent first,
//! so its returns come first, each before its own confirm, and each confirm takes one along. When its last confirm is
//! in, the last of its returns is too, with one of its own confirms or with one of a later flight that has come. Where a
//! flight ends early this does not hold for those behind it, and what is sent again would go behind them: nothing is
//! begun until they have landed.

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

/// What a flight came to.
pub(super) struct Round {
    /// One fate a publication, in their order.
    pub(super) fates: Vec<Fate>,
    /// What ended it early; the broker's own words before what the client says of the same.
    pub(super) ended: Option<End>,
    /// Others were on the channel with it: what it was closed for may be theirs.
    pub(super) shared: bool,
}

/// What ended a round before all confirms were in.
#[derive(Debug)]
pub(super) enum End {
    /// The channel or the connection was closed.
    Closed(lapin::Error),
    /// The time is up.
    Late,
}

/// Publications that were sent one behind the other on one channel.
pub(super) struct RabbitFlight {
    sent: Vec<Sent>,
    told: Vec<Told>,
    ended: Option<End>,
    /// Its channel was closed while an older flight was looked at: why is known, and need not be of this one's making.
    pub(super) cut: bool,
}

/// A publication on its way to its confirm.
enum Sent {
    Writing(Pin<Box<dyn Future<Output = lapin::Result<PublisherConfirm>> + Send + Sync>>),
    Written(PublisherConfirm),
    /// What came of it is noted; not to be polled any more.
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
            // The first poll takes the delivery tag and queues the frames: the order is ours.
            match (&mut writing).now_or_never() {
                Some(Ok(confirm)) => Sent::Written(confirm),
                Some(Err(error)) => Sent::Writing(Box::pin(std::future::ready(Err(error)))),
                None => Sent::Writing(writing),
            }
        };
        let sent: Vec<Sent> = publications.map(write).collect();
        Self { told: vec![Told::Nothing; sent.len()], sent, ended: None, cut: false }
    }

    /// Awaits all confirms until `until`, and settles. `publications` are those that were sent, `behind` are the flights
    /// that were sent behind it on its channel, `returned` is what came back of them all and is not settled yet. `proven`
    /// is told of those that are known to be confirmed before the others are, by their places in the flight.
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
            // Nothing that has arrived is left with the client: had one of these come back, its return would be here.
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

    /// Waits for all confirms until `until`; whether all are in.
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

    /// Notes what has come by now.
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

/// What came back, how often, and is not paired with its message yet. Two windows may each have a message of one id and
/// key: the same body of two sources.
#[derive(Default)]
pub(super) struct Returned(HashMap<Key, usize>);

impl Returned {
    /// One fate a publication of the oldest flight, by what was told of it. `cut`: an older one ended early, and may have
    /// left its returns to this one's confirms, so that this one's are still with the client.
    fn settle(&mut self, told: &[Told], keys: impl Iterator<Item = Key>, cut: bool) -> Vec<Fate> {
        let proves = !cut && (self.0.is_empty() || told.iter().all(|told| *told != Told::Nothing));
        if self.0.is_empty() {
            return told.iter().map(|told| told.fate(false, proves)).collect();
        }
        let keys: Vec<Key> = keys.collect();
        // Two of the same id and key stand and fall together: which of them came back can't be told.
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

/// What was told of a message, before returns are paired.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    Acked,
    Nacked,
    NotRequested,
    Nothing,
}

impl Told {
    /// `proves`: no return can be missing.
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
        let mut flight = flight(Vec::new());
        flight.note_end(End::Late);
        flight.note_end(End::Closed(lapin::ErrorKind::ProtocolError(said).into()));
        flight.note_end(End::Closed(lapin::ErrorKind::FutureCompleted.into()));
        assert!(matches!(flight.ended, Some(End::Closed(error)) if error.is_amqp_error()));
    }

    #[test]
    fn a_return_that_came_with_a_confirm_of_another_flight_waits_for_its_own() {
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
    fn the_same_id_and_key_in_two_flights_came_back_twice() {
        let mut returned = returned(&["1", "1"]);
        assert_eq!(returned.settle(&[Told::Acked], keys(&["1"]), false), [Fate::Returned]);
        assert_eq!(returned.settle(&[Told::Acked], keys(&["1"]), false), [Fate::Returned]);
        assert!(returned.0.is_empty());
    }

    #[test]
    fn behind_a_flight_that_ended_early_a_confirm_proves_nothing() {
        // It came with the return of the older one, and its own is behind that.
        assert_eq!(Returned::default().settle(&[Told::Acked], keys(&["1"]), true), [Fate::Unknown]);
        assert_eq!(returned(&["1"]).settle(&[Told::Acked], keys(&["1"]), true), [Fate::Returned]);
    }

    #[tokio::test]
    async fn a_flight_behind_one_whose_channel_was_closed_bears_no_blame() {
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
