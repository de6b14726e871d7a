//! What the proxies do as they are, for the figures in `docs/connect-alma.md`:
//! `tests/brokers run --only nats cargo test --test proxies -- --ignored --nocapture`

use std::time::{Duration, Instant};

use crate::answers::{event, lines, with_headers};
use crate::harness::{Setup, loan, request};
use crate::load::ALMA_WAITS;
use crate::proxy::{Backend, Kind, Proxy};
use crate::restarts::{End, restart_behind};

/// As a first try would be, with what Debian's own configuration sets.
fn plain(kind: Kind, bridge: Backend, location: &str) -> Proxy {
    let to = bridge.ingress;
    let text = match kind {
        Kind::Nginx => format!("server {{ listen ADDRESS; location {location} {{ proxy_pass http://{to}; }} }}\n"),
        Kind::HaProxy => format!(
            "defaults\nmode http\ntimeout connect 5000\ntimeout client 50000\ntimeout server 50000\n\
             frontend alma\nbind ADDRESS\ndefault_backend alma\nbackend alma\nserver bridge {to}\n"
        ),
        Kind::Caddy => format!("http://:PORT {{\nreverse_proxy {to}\n}}\n"),
    };
    Proxy::start_with(kind, &text)
}

fn measure(kind: Kind) {
    let setup = Setup::new("");
    let bridge = setup.start();
    let proxy = plain(kind, (&bridge).into(), "/");
    let mut number = 0;
    let mut fresh = || {
        number += 1;
        loan(number)
    };
    for size in [1_000_000, 1_500_000, 8 * 1024 * 1024] {
        println!("{kind:?}: {size} bytes of body: {}", proxy.door.client().post("/webhooks", &event(size)).status);
    }
    for (count, size) in [(1, 10_000), (1, 20_000), (6, 10_000), (110, 10)] {
        let headers = lines(count, size);
        let answer = proxy.door.client().send(&with_headers(100_000 + headers.len() as u64, &headers));
        println!("{kind:?}: headers of {size} bytes, {count} of them: {}", answer.status);
    }
    println!("{kind:?}: a wrong path: {}", proxy.door.client().post("/wrong", &fresh()).status);
    let (slow, begun) = (request("/webhooks", &event(2_000)), Instant::now());
    let mut client = proxy.door.client();
    client.write(&slow[..slow.len() - 1_000]);
    let silent = client.is_silent(ALMA_WAITS);
    println!("{kind:?}: half a body: {} after {:?}", if silent { "no answer" } else { "an answer" }, begun.elapsed());
    if kind == Kind::Nginx {
        for location in ["/webhooks/", "= /webhooks"] {
            let proxy = plain(kind, (&bridge).into(), location);
            for path in ["/webhooks", "/webhooks/", "/wrong"] {
                let answer = proxy.door.client().post(path, &fresh());
                println!("{kind:?}: location {location}: {path}: {}", answer.status);
            }
        }
    }
    for away in [500, 2_000] {
        println!("{kind:?}: a restart of {away} ms:");
        restart_behind(|place| plain(kind, place, "/"), End::Stop, Duration::from_millis(away));
    }
}

#[test]
#[ignore = "measures; run it by name"]
fn what_the_defaults_do() {
    [Kind::Nginx, Kind::HaProxy, Kind::Caddy].into_iter().for_each(measure);
}
