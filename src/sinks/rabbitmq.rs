//! The sink for RabbitMQ, by lapin.
//!
//! There is one durable topic exchange, and the topic is the routing key. Messages are persistent, mandatory and
//! confirmed. A window is settled once all its confirms have arrived and its returns are paired with its messages
//! (`flight`). Windows overlap on one channel, so that the broker has work while a window is settled.
//!
//! The sink does not use the client's own recovery, which leaves confirms pending and gives up. The pump connects
//! again, and an old connection is cut at its socket, so that nothing of it is still sent.
//!
//! # Errors of the broker and their reasons
//! Codes are those of AMQP 0-9-1 in `channel.close` and `connection.close`.
//! | error | reason |
//! |---|---|
//! | connection lost, refused, DNS, no heartbeat, 320 (shut down), 402, 503, 504 | [`Reason::Unreachable`] |
//! | 403 with "Login was refused", 530 (no access to the vhost), TLS, a certificate refused | [`Reason::Login`] |
//! | no confirm in time | [`Reason::Timeout`] |
//! | `connection.blocked` (memory or disk alarm), 405, 506, 541, 530 with "limit" | [`Reason::Busy`] |
//! | `basic.nack`: a bound queue is full and refuses, or has failed | [`Reason::Nacked`] |
//! | 406 with "message size", 311 | [`Reason::TooLarge`] |
//! | 406 for anything else, 501, 502, 505, 540 | [`Reason::Malformed`] |
//! | 403 on an exchange or a topic | [`Reason::Rights`] |
//! | 404 (no exchange), 530 with "not found" (no vhost) | [`Reason::Missing`] |
//! | returned: 312 (no route), 313 | [`Reason::Unroutable`], or as `unroutable = "drop"` says |
//!
//! The broker closes a channel because of one message. If its error tells which one (by size or topic), that message is
//! refused, and the others are sent again at once on a new channel, each window by itself. Otherwise, if the window had
//! the channel for itself, all its unconfirmed messages are refused, and the pump sends them one by one.

mod address;
mod connection;
mod errors;
mod exchange;
mod flight;
mod greeting;
mod hosts;
mod ledger;
mod probe;
mod publication;
mod stream;
mod tail;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use super::tools::{Check, TailOptions};
use super::{Failure, Outcome, Outcomes, Reason, Sink, SinkType, Windows, message_limit};
use crate::config::{self, RabbitMqSink as Settings, SinkName};
use crate::message::Message;
use address::Address;
use connection::{Connection, connection_name};
use exchange::{FoundExchange, Names};
use flight::{End, RabbitFlight, Returned};
use ledger::Ledger;

pub use probe::probe;
pub use tail::tail;

/// Time limit for the confirms of a window, from when they are awaited.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(20);

/// Time limit for a whole window: its confirms, and perhaps a new channel or exchange.
const WINDOW_DEADLINE: Duration = Duration::from_secs(30);

/// The default of `max_message_size` in RabbitMQ 4, in bytes. In 3.8 to 3.13, it is 128 MiB.
const DEFAULT_MAX_MESSAGE_SIZE: usize = 16 << 20;

impl SinkType for Settings {
    fn build(&self, sink: &config::Sink, max_body: usize) -> Box<dyn Sink> {
        Box::new(RabbitMqSink::new(&sink.name, self, max_body))
    }

    fn tail<'a>(&'a self, sink: &'a config::Sink, options: TailOptions) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(tail(&sink.name, self, sink.topic.prefix(), options))
    }

    fn probe<'a>(&'a self, sink: &'a config::Sink, max_body: usize, topics: &'a [String]) -> BoxFuture<'a, Vec<Check>> {
        Box::pin(probe(&sink.name, self, max_body, topics))
    }
}

/// Publishes to one exchange.
pub struct RabbitMqSink {
    name: SinkName,
    settings: Settings,
    max_body: usize,
    connection: Option<Connection>,
    /// Windows that were sent and are to be published, the oldest first.
    begun: VecDeque<(Ledger, RabbitFlight)>,
    /// What came back of what is on its way.
    returned: Returned,
}

impl RabbitMqSink {
    /// A sink that is not connected. `max_body` is the largest body in bytes.
    pub fn new(name: &SinkName, settings: &Settings, max_body: usize) -> Self {
        Self {
            name: name.clone(),
            settings: settings.clone(),
            max_body,
            connection: None,
            begun: VecDeque::new(),
            returned: Returned::default(),
        }
    }

    /// Cuts the connection, which ends everything in flight.
    fn cut(&mut self) {
        self.connection = None;
        self.begun.clear();
        self.returned = Returned::default();
    }

    async fn connect_anew(&mut self) -> Result<Vec<String>, Failure> {
        self.cut();
        let address = Address::of(&self.settings)?;
        let mut connection = Connection::open(&connection_name(&self.name), &address).await?;
        connection.publishing().await?;
        let exchange = &self.settings.exchange;
        let mut warnings = match exchange::prepare(&connection, &self.settings).await? {
            FoundExchange::Exists(shortfalls) => shortfalls,
            FoundExchange::Declared => {
                tracing::info!(sink = %self.name, exchange, "exchange declared");
                Vec::new()
            }
            FoundExchange::Missing(why) => vec![format!("exchange {exchange} does not exist: {why}")],
        };
        let limit = message_limit(self.max_body);
        if limit > DEFAULT_MAX_MESSAGE_SIZE {
            warnings.push(format!(
                "events can have {limit} bytes, but RabbitMQ 4 accepts {DEFAULT_MAX_MESSAGE_SIZE} unless max_message_size \
                 is set in rabbitmq.conf"
            ));
        }
        self.connection = Some(connection);
        Ok(warnings)
    }

    async fn publish_window(&mut self, window: &[Message], outcomes: &mut Outcomes) {
        let until = Instant::now() + CONFIRM_TIMEOUT;
        let (mut ledger, mut begun) = match self.begun.pop_front() {
            Some((ledger, flight)) => (ledger, Some(flight)),
            None => (Ledger::new(window), None),
        };
        let mut may_declare = self.settings.declare;
        while !ledger.is_settled() {
            let round = self.round(&mut ledger, begun.take(), until, outcomes).await;
            ledger.tell_confirmed(outcomes);
            let Err(Ended { failure, is_anothers }) = round else { continue };
            if failure.reason == Reason::Missing && may_declare {
                may_declare = false;
                if self.declare_again(until).await {
                    continue;
                }
            }
            if !ledger.pin(&failure) && !is_anothers {
                ledger.fail_open(&failure);
            }
        }
        for (place, outcome) in ledger.into_outcomes(&self.name, self.settings.unroutable).into_iter().enumerate() {
            outcomes.set(place, outcome);
        }
    }

    /// Sends a window where that needs no wait.
    fn send_ahead(&mut self, window: &[Message]) -> Option<(Ledger, RabbitFlight)> {
        let connection = self.connection.as_ref().filter(|connection| !connection.is_blocked())?;
        if self.begun.iter().any(|(_, flight)| flight.cut) {
            return None;
        }
        let channel = connection.open_publishing()?;
        let exchange = Names::of(&self.settings).ok()?.exchange;
        let mut ledger = Ledger::new(window);
        ledger.refuse_larger_than(connection.max_message_size);
        let flight = RabbitFlight::send(&channel, &exchange, ledger.publications());
        Some((ledger, flight))
    }

    /// Publishes the open messages, or awaits them if they are in flight. The error is why some of them are still open.
    async fn round(
        &mut self,
        ledger: &mut Ledger,
        begun: Option<RabbitFlight>,
        until: Instant,
        outcomes: &mut Outcomes,
    ) -> Result<(), Ended> {
        let connection = self.connection.as_mut().filter(|connection| connection.is_up());
        let connection = connection.ok_or_else(|| Failure::new(Reason::Unreachable, "not connected"))?;
        let flight = if let Some(flight) = begun {
            flight
        } else {
            ledger.refuse_larger_than(connection.max_message_size);
            if ledger.is_settled() {
                return Ok(());
            }
            let exchange = Names::of(&self.settings)?.exchange;
            let channel = timeout_at(until, connection.publishing()).await.map_err(|_| overdue(connection))??;
            RabbitFlight::send(&channel, &exchange, ledger.publications())
        };
        let behind = self.begun.iter_mut().map(|(_, flight)| flight).collect();
        let places = ledger.open_places();
        let proven = |index: usize| outcomes.set(places[index], Outcome::CONFIRMED);
        let round = flight.land(ledger.publications(), behind, &mut self.returned, until, proven).await;
        ledger.settle(&round.fates);
        let is_closed = matches!(round.ended, Some(End::Closed(_)));
        let failure = match round.ended {
            None => return Ok(()),
            Some(End::Late) => overdue(connection),
            Some(End::Closed(error)) => errors::sort(&error),
        };
        if failure.reason == Reason::TooLarge {
            connection.max_message_size = errors::max_message_size(&failure.detail).or(connection.max_message_size);
        }
        Err(Ended { failure, is_anothers: is_closed && round.shared && connection.is_up() })
    }

    /// Declares the exchange again if it was deleted meanwhile. If it is still missing, an operator is needed.
    async fn declare_again(&self, until: Instant) -> bool {
        let Some(connection) = &self.connection else { return false };
        let exchange = &self.settings.exchange;
        match timeout_at(until, exchange::prepare(connection, &self.settings)).await {
            Ok(Ok(FoundExchange::Exists(_))) => true,
            Ok(Ok(FoundExchange::Declared)) => {
                tracing::warn!(sink = %self.name, exchange, "the exchange was gone and is declared again");
                true
            }
            Ok(Ok(FoundExchange::Missing(why))) => {
                tracing::warn!(sink = %self.name, exchange, why, "the exchange is gone");
                false
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

impl Sink for RabbitMqSink {
    fn connect(&mut self) -> BoxFuture<'_, Result<Vec<String>, Failure>> {
        self.connect_anew().boxed()
    }

    fn publish_into<'a>(&'a mut self, window: &'a [Message], outcomes: &'a mut Outcomes) -> BoxFuture<'a, ()> {
        self.publish_window(window, outcomes).boxed()
    }

    fn windows(&self) -> Windows {
        Windows::HALVES
    }

    fn begin(&mut self, window: &[Message]) -> bool {
        let ahead = self.send_ahead(window);
        let has_begun = ahead.is_some();
        self.begun.extend(ahead);
        has_begun
    }

    fn abandon(&mut self) -> BoxFuture<'_, ()> {
        self.cut();
        std::future::ready(()).boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        async move {
            let connection = self.connection.take();
            self.cut();
            if let Some(connection) = connection {
                connection.close().await;
            }
        }
        .boxed()
    }

    fn deadline(&self) -> Duration {
        WINDOW_DEADLINE
    }

    fn is_up(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::is_up)
    }
}

/// Why some messages of a window are still open.
struct Ended {
    failure: Failure,
    /// The error may be about another window on the same channel, unless its text tells.
    is_anothers: bool,
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self { failure, is_anothers: false }
    }
}

/// The failure if the time is up. It is not known whether the broker has the open messages.
fn overdue(connection: &Connection) -> Failure {
    if connection.is_blocked() {
        return Failure::new(Reason::Busy, "the broker blocks publishers: memory or disk alarm");
    }
    let detail = format!("no confirm within {CONFIRM_TIMEOUT:?}: the broker or a bound queue does not answer");
    Failure::new(Reason::Timeout, detail)
}
