//! Where the time of the processors goes.

use std::time::Duration;

/// Time that a process has had so far, its own and the kernel's for it.
pub(crate) fn time_of(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields = text.rsplit_once(')').expect("a name").1;
    ticks(fields.split_whitespace().skip(11).take(2))
}

/// A tick is 10 ms.
fn ticks<'a>(fields: impl Iterator<Item = &'a str>) -> Duration {
    Duration::from_millis(10 * fields.map(|field| field.parse::<u64>().expect("ticks")).sum::<u64>())
}

/// The time of all processors since the machine started.
pub(crate) struct Processors {
    /// This process, which is the load or the bare client.
    own: Duration,
    /// All processes.
    used: Duration,
    idle: Duration,
    /// Had by other machines on the same host.
    stolen: Duration,
}

/// What it went to while something was measured.
#[derive(Clone, Copy)]
pub(crate) struct Spent {
    /// By this process, an event.
    pub(crate) own: Duration,
    /// By the process that is measured, an event.
    pub(crate) subject: Duration,
    /// By all others, an event: the broker.
    pub(crate) others: Duration,
    /// Of the whole, from 0 to 1.
    pub(crate) idle: f64,
    pub(crate) stolen: f64,
}

impl Processors {
    pub(crate) fn now() -> Self {
        let text = std::fs::read_to_string("/proc/stat").expect("Linux");
        // proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; what follows is in user already.
        let fields: Vec<&str> = text.lines().next().expect("all of them").split_whitespace().skip(1).take(8).collect();
        let of = |which: &[usize]| ticks(which.iter().map(|&field| fields[field]));
        Self { own: time_of(std::process::id()), used: of(&[0, 1, 2, 5, 6]), idle: of(&[3, 4]), stolen: of(&[7]) }
    }

    /// What it went to since these, over so many events, of which the process that is measured took that much.
    pub(crate) fn spent(self, subject: Duration, events: usize) -> Spent {
        let now = Self::now();
        let [own, used, idle, stolen] = [
            now.own.saturating_sub(self.own),
            now.used.saturating_sub(self.used),
            // The kernel lets it go back by a little.
            now.idle.saturating_sub(self.idle),
            now.stolen.saturating_sub(self.stolen),
        ];
        let events = u32::try_from(events).expect("few");
        let share = |time: Duration| time.as_secs_f64() / (used + idle + stolen).as_secs_f64();
        Spent {
            own: own / events,
            subject: subject / events,
            others: used.saturating_sub(own + subject) / events,
            idle: share(idle),
            stolen: share(stolen),
        }
    }
}

impl Spent {
    /// Each figure is the middle one of the rounds.
    pub(crate) fn median(rounds: &[Self]) -> Self {
        let share = |of: fn(&Self) -> f64| super::median(rounds.iter().map(of).collect());
        let time = |of: fn(&Self) -> Duration| super::median_time(rounds.iter().map(of));
        Self {
            own: time(|spent| spent.own),
            subject: time(|spent| spent.subject),
            others: time(|spent| spent.others),
            idle: share(|spent| spent.idle),
            stolen: share(|spent| spent.stolen),
        }
    }

    /// Of all processes.
    pub(crate) fn all(&self) -> Duration {
        self.own + self.subject + self.others
    }
}
