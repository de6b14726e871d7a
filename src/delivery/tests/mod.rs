//! The rules of delivery, each by name, against a scripted sink and a feed in memory.

mod bench;
mod kit;
mod parking;
mod pump;
mod trouble;
