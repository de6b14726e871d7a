//! The real bridge behind real reverse proxies, with the configurations in `deploy/proxies`: `tests/brokers run cargo test`.
//!
//! - `proxy`: starts nginx, `HAProxy` or Caddy in front of bridges
//! - `load`: sends events at a steady rate, and keeps what became of each
//! - `answers`: large bodies and heads, wrong paths, slow bodies, idle connections
//! - `restarts`: the bridge restarts or is killed under load
//! - `rolling`: two bridges behind a balancer are replaced one after the other
//! - `defaults`: what the proxies do without these configurations; measured on demand

#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "each suite uses its part")]
mod harness;

mod load;
mod proxy;

mod answers;
mod defaults;
mod restarts;
mod rolling;

/// A test of each proxy for each of these functions, which take the kind of proxy.
macro_rules! on_each_proxy {
    ($($scenario:ident),+ $(,)?) => {
        mod nginx {
            $(#[test] fn $scenario() { super::$scenario($crate::proxy::Kind::Nginx); })+
        }
        mod haproxy {
            $(#[test] fn $scenario() { super::$scenario($crate::proxy::Kind::HaProxy); })+
        }
        mod caddy {
            $(#[test] fn $scenario() { super::$scenario($crate::proxy::Kind::Caddy); })+
        }
    };
}
pub(crate) use on_each_proxy;
