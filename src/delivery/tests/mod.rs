//! The rules of delivery, each by name, against a scripted sink and a feed in memory.

mod bench;
mod direct;
mod giving_up;
mod kit;
mod letters;
mod overlap;
mod parking;
mod pump;
mod replay;
mod slow;
mod supervisor;
mod trouble;
