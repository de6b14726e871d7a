//! Tries the addresses of a host name one after the other.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::address::Address;
use crate::sinks::{Failure, Reason};

/// Time limit for a connection to one address, with TLS and login.
const LONGEST: Duration = Duration::from_secs(10);

/// The same if a name has so many addresses that all of them would take longer than [`ALL`].
const SHORTEST: Duration = Duration::from_secs(2);

/// Time limit for all addresses, shorter than the pump waits for a connection. The rest is tried the next time.
const ALL: Duration = Duration::from_secs(20);

/// An attempt to connect to one address.
type Opening<'a, T> = BoxFuture<'a, Result<T, Failure>>;

/// Connects to one of the addresses of a host. An address that does not answer costs only its own time, and the order
/// varies, so a broker whose name has several addresses is found even if some of them are dead.
pub(super) async fn open_any<'a, T>(
    address: &Address,
    open: impl Fn(SocketAddr) -> Opening<'a, T> + Send + Sync,
) -> Result<T, Failure> {
    let (host, port) = (address.host(), address.port());
    let unreachable = |why: String| Failure::new(Reason::Unreachable, format!("{host}:{port}: {why}"));
    let looked_up = timeout(LONGEST, tokio::net::lookup_host((host, port))).await;
    let looked_up = looked_up.map_err(|_| unreachable("the name was not resolved in time".to_owned()))?;
    let found = in_varied_order(looked_up.map_err(|error| unreachable(error.to_string()))?);
    first_of(&found, open).await.unwrap_or_else(|| Err(unreachable("the name has no address".to_owned())))
}

/// Each address once, in random order.
fn in_varied_order(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut order: Vec<_> = addresses.collect();
    // A resolver returns an address once for each type of socket.
    order.sort_unstable();
    order.dedup();
    fastrand::shuffle(&mut order);
    order
}

/// The result of the first address that works, or the most informative failure: a refused login says more than a
/// machine that does not answer. `None` if there are no addresses.
async fn first_of<'a, T>(
    addresses: &[SocketAddr],
    open: impl Fn(SocketAddr) -> Opening<'a, T> + Send + Sync,
) -> Option<Result<T, Failure>> {
    let each = (ALL / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX)).clamp(SHORTEST, LONGEST);
    let mut failed: Option<Failure> = None;
    let try_all = async {
        for at in addresses {
            let failure = match timeout(each, open(*at)).await {
                Ok(Ok(opened)) => return Some(opened),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::new(Reason::Unreachable, format!("no connection to {at} within {each:?}")),
            };
            tracing::debug!(%at, %failure, "this address is not available");
            if failed.as_ref().is_none_or(|before| before.reason == Reason::Unreachable) {
                failed = Some(failure);
            }
        }
        None
    };
    let opened = timeout(ALL, try_all).await.ok().flatten();
    opened.map(Ok).or_else(|| failed.map(Err))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::time::Instant;

    use super::*;

    fn addresses(count: u8) -> Vec<SocketAddr> {
        (1..=count).map(|number| SocketAddr::from(([127, 0, 0, number], 5672))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_costs_only_its_own_time() {
        for (count, costs) in [(2, 10), (4, 5)] {
            let begun = Instant::now();
            let addresses = addresses(count);
            let dead = addresses[0];
            let opened = first_of(&addresses, move |at| {
                Box::pin(async move { if at == dead { std::future::pending().await } else { Ok(at) } })
            });
            assert_eq!(opened.await, Some(Ok(addresses[1])));
            assert_eq!(begun.elapsed(), Duration::from_secs(costs));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_with_many_dead_addresses_ends_before_the_pump_gives_up() {
        let begun = Instant::now();
        let addresses = addresses(50);
        let opened = first_of(&addresses, |_| Box::pin(std::future::pending::<Result<(), Failure>>()));
        assert!(matches!(opened.await, Some(Err(failure)) if failure.reason == Reason::Unreachable));
        assert!(begun.elapsed() <= ALL && ALL < super::super::WINDOW_DEADLINE, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_refused_login_is_reported_rather_than_a_machine_that_does_not_answer() {
        let addresses = addresses(3);
        let refusing = addresses[1];
        let fail = |at: SocketAddr| -> Opening<'static, ()> {
            let reason = if at == refusing { Reason::Login } else { Reason::Unreachable };
            Box::pin(std::future::ready(Err(Failure::new(reason, "scripted"))))
        };
        let failed = first_of(&addresses, fail).await;
        assert!(matches!(failed, Some(Err(failure)) if failure.reason == Reason::Login));
        assert_eq!(first_of(&[], fail).await, None);
    }

    #[test]
    fn each_address_is_tried_once_and_their_order_varies() {
        let given = [addresses(3), addresses(3)].concat();
        let orders: BTreeSet<_> = (0..64).map(|_| in_varied_order(given.iter().copied())).collect();
        assert!(orders.len() > 1, "{orders:?}");
        assert!(orders.iter().all(|order| BTreeSet::from_iter(order.clone()) == addresses(3).into_iter().collect()));
        assert!(orders.iter().all(|order| order.len() == 3), "{orders:?}");
    }
}
