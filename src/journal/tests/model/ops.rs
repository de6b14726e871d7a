//! What may happen to a journal, drawn at random.

use proptest::prelude::*;

use super::SINKS;

/// What happens.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Events that come at once, by number; the same number is the same event.
    Take(Vec<u64>),
    /// A sink reads so many events, and settles so many of them.
    Read(usize, usize, usize),
    Rewind(usize),
    KeepHouse,
    Pass(u64),
    GoBack(u64),
    /// The next so many syncs of a segment fail.
    FailSyncs(u32),
    Full(bool),
    LowSpace(bool),
    Reopen(End, Harm),
}

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Killed,
    Power,
}

/// What happens to the files before the next start.
#[derive(Clone, Copy, Debug)]
pub(super) enum Harm {
    None,
    /// A bit of a segment turns; only after a clean stop, or it may be the torn tail that it hits.
    Flip(prop::sample::Index, prop::sample::Index),
    /// A segment before the last is cut.
    Truncate(prop::sample::Index, prop::sample::Index),
    DropCursor(usize),
    SpoilCursor(usize),
    SpoilDigests,
    DropDigests,
    SpoilList,
}

pub(super) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let end = prop_oneof![3 => Just(End::Closed), 2 => Just(End::Killed), 2 => Just(End::Power)];
    let index = any::<prop::sample::Index>;
    let harm = prop_oneof![
        6 => Just(Harm::None),
        4 => (index(), index()).prop_map(|(file, at)| Harm::Flip(file, at)),
        1 => (index(), index()).prop_map(|(file, at)| Harm::Truncate(file, at)),
        1 => (0..SINKS.len()).prop_map(Harm::DropCursor),
        1 => (0..SINKS.len()).prop_map(Harm::SpoilCursor),
        1 => Just(Harm::SpoilDigests),
        1 => Just(Harm::DropDigests),
        1 => Just(Harm::SpoilList),
    ];
    let op = prop_oneof![
        8 => prop::collection::vec(0..60u64, 1..6).prop_map(Op::Take),
        8 => (0..SINKS.len(), 1..12usize, 0..12usize).prop_map(|(sink, read, settled)| Op::Read(sink, read, settled)),
        1 => (0..SINKS.len()).prop_map(Op::Rewind),
        2 => Just(Op::KeepHouse),
        1 => (0..40_000u64).prop_map(Op::Pass),
        1 => (0..40_000u64).prop_map(Op::GoBack),
        1 => (1..3u32).prop_map(Op::FailSyncs),
        1 => any::<bool>().prop_map(Op::Full),
        1 => any::<bool>().prop_map(Op::LowSpace),
        5 => (end, harm).prop_map(|(end, harm)| Op::Reopen(end, harm)),
    ];
    prop::collection::vec(op, 1..70)
}
