//! The limit of a listener's connections, and which one is evicted when a new one arrives.
//!
//! A connection is a stranger's until it is trusted. The listener for Alma trusts it after its first proven event; the
//! listener for operators, while it serves a request with the token. When every place is taken, a stranger's connection
//! gives way to the new one. It is the oldest of the network that has the most strangers' connections, including the
//! new one. A client that opens many connections therefore evicts its own, not those of others.
//!
//! A connection that gives way frees its place at once, whatever it is doing. Its task ends the next time it runs.

mod metrics;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

pub use metrics::ConnectionMetrics;

/// Sockets beyond the limit, for connections that gave way and whose tasks have not run since. The process reserves
/// files for them.
const GOING: usize = 32;

/// The limit of one listener.
pub struct Limit {
    sockets: Arc<Semaphore>,
    shared: Arc<Shared>,
    evicted: Counter,
}

struct Shared {
    places: Mutex<Places>,
    /// A place is free, or a connection is a stranger's again.
    changed: Notify,
    open: Gauge,
}

#[derive(Debug)]
struct Places {
    max: usize,
    taken: usize,
    next: u64,
    strangers: HashMap<Network, BTreeMap<u64, CancellationToken>>,
}

/// One connection's place under the limit. Dropping it frees the place.
pub struct Place {
    connection: Arc<Connection>,
    _socket: OwnedSemaphorePermit,
}

/// What is known of one connection.
pub struct Connection {
    peer: IpAddr,
    network: Network,
    number: u64,
    shared: Arc<Shared>,
    trusted: AtomicBool,
    gives_way: CancellationToken,
}

/// A block of addresses that may all belong to one person, as the bits that they share: a /24 of IPv4, a /48 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4(u32),
    V6(u128),
}

impl Network {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits() >> 8),
            IpAddr::V6(address) => Self::V6(address.to_bits() >> 80),
        }
    }
}

impl Limit {
    /// Allows `max` connections of a listener, which is the label of its metric.
    pub fn new(max: usize, listener: &'static str, metrics: &ConnectionMetrics) -> Self {
        let places = Places { max, taken: 0, next: 0, strangers: HashMap::new() };
        let shared = Shared { places: Mutex::new(places), changed: Notify::new(), open: metrics.open(listener) };
        Self {
            sockets: Arc::new(Semaphore::new(max.saturating_add(GOING).min(Semaphore::MAX_PERMITS))),
            shared: Arc::new(shared),
            evicted: metrics.evicted.clone(),
        }
    }

    /// Returns a place for a new connection from `peer`. Waits only if every other connection is trusted.
    pub async fn place(&self, peer: IpAddr) -> Place {
        let socket = Arc::clone(&self.sockets).acquire_owned().await.expect("the semaphore is never closed");
        loop {
            if let Some(connection) = self.try_place(peer) {
                self.shared.open.inc();
                return Place { connection: Arc::new(connection), _socket: socket };
            }
            self.shared.changed.notified().await;
        }
    }

    fn try_place(&self, peer: IpAddr) -> Option<Connection> {
        let network = Network::of(peer);
        let mut places = self.shared.lock();
        if places.taken >= places.max {
            places.evict_for(network)?;
            self.evicted.inc();
        }
        let number = places.next;
        places.next += 1;
        places.taken += 1;
        let gives_way = CancellationToken::new();
        places.strangers.entry(network).or_default().insert(number, gives_way.clone());
        let shared = Arc::clone(&self.shared);
        Some(Connection { peer, network, number, shared, trusted: AtomicBool::new(false), gives_way })
    }
}

impl Places {
    /// Frees a place for a connection from `newcomer`. Returns `None` if every connection is trusted.
    fn evict_for(&mut self, newcomer: Network) -> Option<()> {
        let crowd = |network: &Network, of: &BTreeMap<_, _>| of.len() + usize::from(*network == newcomer);
        // If several networks have equally many, the one with the oldest connection.
        let most = self
            .strangers
            .iter()
            .max_by_key(|(network, of)| (crowd(network, of), Reverse(of.first_key_value().map(|(number, _)| *number))));
        let network = *most?.0;
        let of = self.strangers.get_mut(&network)?;
        let (_, gives_way) = of.pop_first()?;
        if of.is_empty() {
            self.strangers.remove(&network);
        }
        self.taken -= 1;
        gives_way.cancel();
        Some(())
    }

    fn forget(&mut self, network: Network, number: u64) {
        if let Some(of) = self.strangers.get_mut(&network) {
            of.remove(&number);
            if of.is_empty() {
                self.strangers.remove(&network);
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The connection whose place it is.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let connection = &self.connection;
        let mut places = connection.shared.lock();
        // If it gave way, another connection already has its place.
        if !connection.gives_way.is_cancelled() {
            places.forget(connection.network, connection.number);
            places.taken -= 1;
            connection.shared.changed.notify_one();
        }
        connection.shared.open.dec();
    }
}

impl Connection {
    /// The client's address.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Resolves when the connection has lost its place and must end.
    pub async fn gives_way(&self) {
        self.gives_way.cancelled().await;
    }

    /// From now on, this connection does not give way.
    pub fn trust(&self) {
        if self.trusted.swap(true, Ordering::Relaxed) {
            return;
        }
        self.shared.lock().forget(self.network, self.number);
    }

    /// Trusts this connection until the guard is dropped.
    pub fn trust_meanwhile(&self) -> impl Drop + use<'_> {
        self.trust();
        Meanwhile(self)
    }
}

struct Meanwhile<'a>(&'a Connection);

impl Drop for Meanwhile<'_> {
    fn drop(&mut self) {
        let connection = self.0;
        connection.trusted.store(false, Ordering::Relaxed);
        let mut places = connection.shared.lock();
        if !connection.gives_way.is_cancelled() {
            let of = places.strangers.entry(connection.network).or_default();
            of.insert(connection.number, connection.gives_way.clone());
            connection.shared.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::telemetry::Registry;

    fn limit(max: usize) -> Limit {
        Limit::new(max, "ingress", &ConnectionMetrics::register(&mut Registry::default()))
    }

    async fn place(limit: &Limit, peer: &str) -> Place {
        let place = limit.place(peer.parse().expect("an address"));
        timeout(Duration::from_secs(30), place).await.expect("a place at once")
    }

    fn gave_way(place: &Place) -> bool {
        place.connection.gives_way.is_cancelled()
    }

    #[test]
    fn networks_are_24_and_48_bits_wide() {
        let network = |address: &str| Network::of(address.parse().expect("an address"));
        assert_eq!(network("192.0.2.1"), network("192.0.2.255"));
        assert_ne!(network("192.0.2.1"), network("192.0.3.1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.7"));
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:ffff::9"));
        assert_ne!(network("2001:db8:1::1"), network("2001:db8:2::1"));
    }

    #[tokio::test]
    async fn the_network_with_the_most_strangers_gives_way() {
        let limit = limit(4);
        let old = place(&limit, "192.0.2.1").await;
        let crowd = [place(&limit, "198.51.100.1").await, place(&limit, "198.51.100.2").await];
        let other = place(&limit, "203.0.113.1").await;
        // No task of theirs runs here: a place is free before whoever held it has noticed.
        let _new = place(&limit, "203.0.113.2").await;
        assert!(gave_way(&crowd[0]), "the oldest of the crowd");
        assert!(!gave_way(&old) && !gave_way(&other) && !gave_way(&crowd[1]));
        let _own = place(&limit, "203.0.113.3").await;
        assert!(gave_way(&other), "the newcomer's own network has the most, including the newcomer");
        assert!(!gave_way(&old), "the oldest of all, alone in its network, stays");
    }

    #[tokio::test]
    async fn trusted_connections_stay_and_newcomers_wait_for_one_to_end() {
        let limit = limit(2);
        let [one, two] = [place(&limit, "192.0.2.1").await, place(&limit, "192.0.2.1").await];
        one.connection.trust();
        let meanwhile = two.connection.trust_meanwhile();
        let waiting = limit.place("192.0.2.2".parse().expect("an address"));
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(meanwhile);
        let three = timeout(Duration::from_secs(30), &mut waiting).await.expect("two is a stranger again");
        assert!(gave_way(&two) && !gave_way(&one));
        drop(two);
        three.connection.trust();
        let waiting = limit.place("192.0.2.3".parse().expect("an address"));
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending(), "a connection that gave way frees one place, not two");
        drop(one);
        timeout(Duration::from_secs(30), waiting).await.expect("one has ended");
    }
}
