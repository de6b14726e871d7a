//! Journal and pumps together on a simulated disk, clock and broker.

pub(crate) mod disk;
