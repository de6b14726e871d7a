//! What happens in one run, drawn from a seed.

use fastrand::Rng;

use crate::testing::disk::{Fail, Kind};

/// Sinks of the simulation, by index.
pub(super) const SINKS: [&str; 2] = ["main", "other"];
/// The sink that may be `best_effort`, and may be forgotten. The first is neither, and so reads every event.
pub(super) const OTHER: usize = 1;
/// Topics, by index.
pub(super) const TOPICS: usize = 3;
/// Events have numbers below this one; the same number is the same event.
pub(super) const EVENTS: u64 = 40;

/// One thing that happens.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) what: What,
    /// What chance does from here on hangs on this, and so not on the steps before.
    pub(super) seed: u64,
}

/// What happens.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// Events come at once.
    Take(Vec<u64>),
    /// So many milliseconds pass: pumps pump, cursors are written, what was delivered is deleted.
    Pass(u64),
    /// The wall clock jumps by so many seconds.
    Jump(i64),
    /// The process dies after so many operations of its disk; and the machine's power with it, or not.
    Crash { after: u32, power: bool },
    /// The process ends in good order, and another begins.
    Restart,
    /// Operations of the disk fail.
    Fail(Fail),
    /// The disk is full, or is not any more.
    Full(bool),
    /// The disk says that it is nearly full, or does not any more.
    Low(bool),
    /// Dead letters of a sink may have so many bytes, from the next start on.
    LettersRoom(u64),
    /// A broker does this from now on.
    Broker(usize, Mood),
    /// A broker refuses a topic until an operator mends it, or it is mended.
    Topic(usize, usize, Refusal),
    /// A sink is replaced by another at the same broker.
    Reload(usize),
    /// A sink is taken out of the configuration, or comes back.
    Configured(usize, bool),
    /// Somebody asks for the parked topics to be tried now.
    RetryParked,
    /// A sink gets a new name that continues the place of the old one.
    Rename(usize),
    /// [`OTHER`] is `best_effort` from now on, or is not any more.
    BestEffort(bool),
    /// [`OTHER`] is forgotten if it is taken out.
    Forget,
    /// The next start can't read one file.
    Unreadable(Unreadable),
    /// Operations of the disk fail from the next start on.
    FailStart(Fail),
    /// A bit of one of a sink's letters flips.
    Rot(usize),
    /// The disk does not give one of a sink's letters until the process ends.
    Spoil(usize),
    /// Somebody has all letters of a sink published, by another sink perhaps, within so many milliseconds.
    RetryLetters { sink: usize, to: usize, within: u64 },
}

/// A file that the disk does not give.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unreadable {
    pub(super) of: FileKind,
    /// Which of these files.
    pub(super) pick: usize,
    /// Whether it can't even be opened.
    pub(super) opening: bool,
}

/// The kinds of files that a start reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Segment,
    Sinks,
    Cursor,
    Digests,
    Format,
    Letters,
}

impl FileKind {
    /// Where such files are.
    pub(super) const fn under(self) -> &'static str {
        match self {
            Self::Segment => "/data/journal/segments",
            Self::Sinks => "/data/journal/sinks",
            Self::Cursor => "/data/journal/cursors",
            Self::Digests => "/data/journal/digests",
            Self::Format => "/data/journal/format",
            Self::Letters => "/data/journal/dead",
        }
    }
}

impl What {
    /// Whether it may be so from the first start on.
    pub(super) const fn is_fault(&self) -> bool {
        matches!(self, Self::Crash { .. } | Self::Fail(_) | Self::Full(_) | Self::Low(_) | Self::LettersRoom(_))
    }
}

/// How a broker answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    /// It condemns others for one message that it refuses.
    Harsh,
    Unreachable,
    /// It never answers, not even a connect.
    Hangs,
    /// Nothing is heard of what it was sent, though it has some of it.
    Deaf,
    /// The connection breaks in the middle of a window.
    Breaks,
    /// It has no room.
    Busy,
    /// It takes all, and says that it did not.
    Liar,
    /// It confirms some of a window, and the rest too late.
    Slow,
}

/// What a broker says of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    None,
    Rights,
    Missing,
    /// It refuses some of the topic's messages and takes others: a queue that is full most of the time.
    Nacks,
}

/// Draws a schedule.
pub(super) fn draw(seed: u64) -> Vec<Step> {
    let mut random = Rng::with_seed(seed);
    let length = random.usize(4..26);
    (0..length).map(|_| Step { what: what(&mut random), seed: random.u64(..) }).collect()
}

/// Draws a schedule around a process that is killed in a commit, and a next start whose disk fails.
pub(super) fn draw_failing_start(seed: u64) -> Vec<Step> {
    let mut random = Rng::with_seed(seed);
    let kind = [Kind::Write, Kind::Sync][random.usize(0..2)];
    let after = random.u32(0..3);
    let fails = Fail::new(kind, random.u32(1..4)).after(after);
    let mut some = |most| What::Take((0..random.usize(1..most)).map(|_| random.u64(0..EVENTS)).collect());
    let (first, second, last) = (some(5), some(5), some(5));
    let steps = [
        first,
        What::FailStart(fails),
        What::Crash { after: random.u32(0..24), power: false },
        second,
        last,
        What::Crash { after: random.u32(0..24), power: true },
        What::Pass(random.u64(1..5_000)),
    ];
    steps.into_iter().map(|what| Step { what, seed: random.u64(..) }).collect()
}

fn what(random: &mut Rng) -> What {
    let sink = random.usize(0..SINKS.len());
    match random.u8(0..78) {
        0..18 => What::Take((0..random.usize(1..5)).map(|_| random.u64(0..EVENTS)).collect()),
        18..30 => What::Pass(match random.u8(0..8) {
            0..5 => random.u64(1..400),
            5..7 => random.u64(400..5_000),
            _ => random.u64(5_000..70_000),
        }),
        30 => What::Jump(random.i64(-90_000..90_000)),
        31..38 => What::Crash { after: random.u32(0..24), power: random.bool() },
        38 => What::Restart,
        39..43 => What::Fail(fail(random)),
        43 => What::Full(random.u8(0..3) > 0),
        44 => What::Low(random.u8(0..3) > 0),
        45..52 => What::Broker(sink, mood(random)),
        52..57 => {
            let refusal = [Refusal::None, Refusal::Rights, Refusal::Missing, Refusal::Nacks][random.usize(0..4)];
            What::Topic(sink, random.usize(0..TOPICS), refusal)
        }
        57..59 => What::Reload(sink),
        59..61 => What::Configured(sink, random.bool()),
        61 => What::LettersRoom(random.u64(200..3_000)),
        62 => What::RetryParked,
        63..65 => What::Rename(sink),
        65..67 => What::BestEffort(random.u8(0..3) > 0),
        67..69 => What::Forget,
        69..72 => What::Unreadable(unreadable(random)),
        72..74 => What::Rot(sink),
        74 => What::Spoil(sink),
        _ => {
            let to = random.usize(0..SINKS.len());
            What::RetryLetters { sink, to, within: random.u64(100..20_000) }
        }
    }
}

fn unreadable(random: &mut Rng) -> Unreadable {
    const KINDS: [FileKind; 8] = [
        FileKind::Segment,
        FileKind::Segment,
        FileKind::Sinks,
        FileKind::Cursor,
        FileKind::Digests,
        FileKind::Format,
        FileKind::Letters,
        FileKind::Letters,
    ];
    Unreadable { of: KINDS[random.usize(0..KINDS.len())], pick: random.usize(..), opening: random.bool() }
}

fn fail(random: &mut Rng) -> Fail {
    const KINDS: [Kind; 9] = [
        Kind::Write,
        Kind::Sync,
        Kind::Sync,
        Kind::Create,
        Kind::SyncDir,
        Kind::Rename,
        Kind::Remove,
        Kind::Read,
        Kind::Open,
    ];
    let kind = KINDS[random.usize(0..KINDS.len())];
    let after = random.u32(0..8);
    Fail::new(kind, random.u32(1..4)).after(after)
}

fn mood(random: &mut Rng) -> Mood {
    const MOODS: [Mood; 11] = [
        Mood::Well,
        Mood::Well,
        Mood::Well,
        Mood::Harsh,
        Mood::Unreachable,
        Mood::Hangs,
        Mood::Deaf,
        Mood::Breaks,
        Mood::Busy,
        Mood::Liar,
        Mood::Slow,
    ];
    MOODS[random.usize(0..MOODS.len())]
}
