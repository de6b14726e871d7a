//! The whole bridge against real brokers: the real binary, real HTTP, and readers that share no code with it.
//!
//! - `places`: where a test's events go on each broker, and how they are read back
//! - `samples`: every document of Alma's, in every format, as the CloudEvents project's own SDK reads it
//! - `clock`: the wall clock jumps
//! - `commands`: what a person types
//! - `faults`: many connections, a broker that is away, a bridge that is killed, brokers that are down at the start
//! - `refusals`: missing rights, bounds of size, nobody bound
//! - `docs`: the sinks and subscribers that the documentation shows
//! - `swap`: from one broker to the next with events waiting
//!
//! A test that stops a broker, or changes the rights of its limited user, holds that broker alone.

#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "each suite uses its part")]
mod harness;

mod places;

mod clock;
mod commands;
mod docs;
mod faults;
mod refusals;
mod samples;
mod swap;

/// A test of each broker for each of these functions, which take the broker.
macro_rules! on_each_broker {
    ($($scenario:ident),+ $(,)?) => {
        mod kafka {
            $(#[test] fn $scenario() { super::$scenario($crate::places::Broker::Kafka); })+
        }
        mod rabbitmq {
            $(#[test] fn $scenario() { super::$scenario($crate::places::Broker::RabbitMq); })+
        }
        mod nats {
            $(#[test] fn $scenario() { super::$scenario($crate::places::Broker::Nats); })+
        }
    };
}
pub(crate) use on_each_broker;
