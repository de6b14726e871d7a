//! What the service manager is told (`NOTIFY_SOCKET`): that the bridge is ready, reloads, stops and lives.
//! Without a service manager that listens, nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::bridge::Bridge;

/// Between two looks at whether the line that `systemctl status` shows is still true.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How much longer a start may take each time that the bridge says why it is not ready.
const MORE_TIME: NotifyState<'_> = NotifyState::ExtendTimeoutUsec(30_000_000);

/// Shows what the bridge is doing in `systemctl status`, and each change of it. Never ends.
pub(super) async fn show_status(bridge: &Bridge) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        std::future::pending::<()>().await;
    }
    let mut shown = String::new();
    loop {
        let line = status_line(bridge);
        if line != shown {
            tell(&[NotifyState::Status(&line)]);
            shown = line;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn status_line(bridge: &Bridge) -> String {
    let status = bridge.status();
    let doing = match status.unready_reason {
        None => format!("taking events on {}", bridge.ingress_addr()),
        Some(why) => format!("not ready: {why}"),
    };
    match status.attention.len() {
        0 => doing,
        1 => format!("{doing}; 1 thing needs a person, see: alma-bridge status"),
        things => format!("{doing}; {things} things need a person, see: alma-bridge status"),
    }
}

/// The start is complete, or a reload is over.
pub(super) fn ready(bridge: &Bridge) {
    tell(&[NotifyState::Ready, NotifyState::Status(&status_line(bridge))]);
}

/// The start takes longer. What the bridge waits for may take hours; it needs no restart for that.
pub(super) fn not_ready_yet() {
    tell(&[MORE_TIME]);
}

/// A reload begins. [`ready`] must follow, whatever becomes of it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no monotonic clock: the service manager is not told of the reload"),
    }
}

/// The stop begins.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// Feeds the watchdog, if there is one, for as long as the runtime lives.
///
/// The worker threads do it, which also answer `/livez`: it says the same thing. A broker that is down or a disk that is
/// full does not stop it, because a restart would not help.
pub(super) fn feed_watchdog() {
    if let Some(patience) = sd_notify::watchdog_enabled() {
        tokio::spawn(repeat(patience / 2, || tell(&[NotifyState::Watchdog])));
    }
}

async fn repeat(every: Duration, act: impl Fn()) {
    loop {
        act();
        tokio::time::sleep(every).await;
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "can't tell the service manager");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// A bridge whose worker threads are stuck must be restarted.
    #[test]
    fn the_watchdog_is_fed_only_while_the_worker_threads_turn() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build();
        let runtime = runtime.expect("a runtime");
        let (fed, meals) = mpsc::channel();
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        runtime.spawn(repeat(Duration::from_millis(1), move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = fed.send(());
        }));
        let patience = Duration::from_secs(20);
        for _ in 0..3 {
            meals.recv_timeout(patience).expect("it is fed");
        }
        let ((stuck, is_stuck), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
        runtime.spawn(async move {
            stuck.send(()).expect("the test waits");
            released.recv().expect("released");
        });
        is_stuck.recv_timeout(patience).expect("the worker is stuck");
        let before = count.load(Ordering::SeqCst);
        while meals.try_recv().is_ok() {}
        meals.recv_timeout(Duration::from_millis(200)).expect_err("nobody feeds it");
        assert_eq!(count.load(Ordering::SeqCst), before);
        release.send(()).expect("the worker waits");
        meals.recv_timeout(patience).expect("it is fed again");
    }
}
