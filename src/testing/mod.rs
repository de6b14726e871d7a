//! What the unit tests share: a simulation of the whole bridge, a disk and a clock that tests control.
//!
//! Nothing here is part of the program.

mod clock;
pub(crate) mod disk;
mod simulation;

pub(crate) use clock::TestClock;
