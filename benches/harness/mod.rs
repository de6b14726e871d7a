//! What the benches share: signed events, load, and the real binary as a process of its own.

pub(crate) mod brokers;
pub(crate) mod processors;
pub(crate) mod provenance;
pub(crate) mod report;
pub(crate) mod servers;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use alma_bridge::alma::SignatureHeader;
use alma_bridge::bridge::Listeners;
use alma_bridge::clock::{Clock as _, SystemClock};
use alma_bridge::config;
use alma_bridge::message::{Messages, StoredEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What the bridge and its caller share.
pub(crate) const SECRET: &str = "made-up-secret";
/// Of the closed loop.
pub(crate) const CONNECTIONS: usize = 64;
/// Of every event.
pub(crate) const BODY_BYTES: usize = 1_536;

/// Of the open loop.
const OPEN_CONNECTIONS: usize = 16;

/// The body of an event; no two numbers give the same.
pub(crate) fn body(number: usize) -> String {
    let mut body = String::new();
    write_body(&mut body, number as u64, BODY_BYTES);
    body
}

/// The same of another size, in a buffer that is used again.
pub(crate) fn write_body(body: &mut String, number: u64, bytes: usize) {
    use std::fmt::Write as _;
    body.clear();
    let head = r#"","action":"LOAN","institution":{"value":"01TEST_INST"},"x":""#;
    let _ = write!(body, "{{\"id\":\"1{number:018}{head}");
    body.extend(std::iter::repeat_n('x', bytes.saturating_sub(body.len() + 2)));
    body.push_str("\"}");
}

/// As large as the document that the bridge makes of a body; no two numbers give the same.
pub(crate) fn document(number: usize) -> String {
    static BYTES: LazyLock<usize> = LazyLock::new(|| {
        let config = config::load_defaults(&[]).expect("the defaults are valid").config;
        let source = config.sources[0].name.clone();
        let moment = SystemClock.now();
        let stored = StoredEvent { source, received: moment, recorded: moment, body: body(0).into() };
        let messages = Messages::new(&config.sinks[0], &config.sources, &config.privacy);
        messages.make(&stored, None).expect("asked for").structured().len()
    });
    let mut document = String::new();
    write_body(&mut document, number as u64, *BYTES);
    document
}

/// The signed request of a body, in a buffer that is used again.
pub(crate) fn write_request(request: &mut Vec<u8>, path: &str, secret: &str, body: &str) {
    request.clear();
    let signature = SignatureHeader::sign(secret.as_bytes(), body.as_bytes()).to_base64();
    let _ = write!(
        request,
        "POST {path} HTTP/1.1\r\nHost: bridge\r\nContent-Type: application/json\r\nX-Exl-Signature: {signature}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
}

/// Unique signed requests.
pub(crate) fn requests(count: usize) -> Arc<Vec<Vec<u8>>> {
    requests_from(0, count)
}

/// The same, numbered from `first`.
pub(crate) fn requests_from(first: usize, count: usize) -> Arc<Vec<Vec<u8>>> {
    let one = |number: usize| {
        let mut request = Vec::new();
        write_request(&mut request, "/webhooks", SECRET, &body(number));
        request
    };
    Arc::new((first..first + count).map(one).collect())
}

/// The middle one of an odd number of figures.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The same of times.
pub(crate) fn median_time(times: impl Iterator<Item = Duration>) -> Duration {
    Duration::from_secs_f64(median(times.map(|time| time.as_secs_f64()).collect()))
}

/// The same of times side by side, each for itself.
pub(crate) fn median_times<const N: usize>(rounds: &[[Duration; N]]) -> [Duration; N] {
    std::array::from_fn(|index| median_time(rounds.iter().map(|times| times[index])))
}

/// Of `count` in that time, a second.
#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(crate) fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// Closed loop: each connection sends its next event when the last is answered. Gives how long all took, and the
/// answers' times, sorted.
pub(crate) async fn load(address: SocketAddr, requests: &Arc<Vec<Vec<u8>>>) -> (Duration, Vec<Duration>) {
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let mut connections = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (next, requests) = (Arc::clone(&next), Arc::clone(requests));
        connections.spawn(async move {
            let mut stream = connect(address).await;
            let mut times = Vec::new();
            while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                let sent = Instant::now();
                exchange(&mut stream, request).await;
                times.push(sent.elapsed());
            }
            times
        });
    }
    let times = sorted(connections).await;
    (started.elapsed(), times)
}

async fn sorted(mut connections: tokio::task::JoinSet<Vec<Duration>>) -> Vec<Duration> {
    let mut times = Vec::new();
    while let Some(done) = connections.join_next().await {
        times.extend(done.expect("no panic"));
    }
    times.sort_unstable();
    times
}

/// The time within which that share of a thousand was answered.
pub(crate) fn within(times: &[Duration], per_mille: usize) -> Duration {
    times[(times.len() - 1) * per_mille / 1_000]
}

/// Open loop: events are due at a fixed rate, and a late answer counts from when its event was due. Gives the answers'
/// times, sorted. Each connection has a thread of its own that the kernel wakes: a runtime's timers are late by up to a
/// millisecond, which would be more than what is measured.
#[allow(clippy::disallowed_methods, reason = "what is waited for is the time itself")]
pub(crate) async fn load_at(address: SocketAddr, requests: &Arc<Vec<Vec<u8>>>, per_second: u32) -> Vec<Duration> {
    let started = Instant::now() + Duration::from_millis(20);
    let mut connections = tokio::task::JoinSet::new();
    for connection in 0..OPEN_CONNECTIONS {
        let requests = Arc::clone(requests);
        connections.spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(address).expect("connects");
            stream.set_nodelay(true).expect("set");
            let mut times = Vec::new();
            for number in (connection..requests.len()).step_by(OPEN_CONNECTIONS) {
                let due = started + Duration::from_secs(1) / per_second * u32::try_from(number).expect("few");
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let mut answer = [0; 1_024];
                stream.write_all(&requests[number]).expect("sent");
                let read = stream.read(&mut answer).expect("answered");
                assert_taken(&answer[..read]);
                times.push(due.elapsed());
            }
            times
        });
    }
    sorted(connections).await
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("connects");
    stream.set_nodelay(true).expect("set");
    stream
}

async fn exchange(stream: &mut TcpStream, request: &[u8]) {
    let mut answer = [0; 1_024];
    AsyncWriteExt::write_all(stream, request).await.expect("sent");
    let read = AsyncReadExt::read(stream, &mut answer).await.expect("answered");
    assert_taken(&answer[..read]);
}

fn assert_taken(answer: &[u8]) {
    assert!(answer.starts_with(b"HTTP/1.1 204"), "{}", String::from_utf8_lossy(answer));
}

/// A process that is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    pub(crate) address: SocketAddr,
    pub(crate) pid: u32,
}

impl Subject {
    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.pid)).expect("it runs")
    }

    fn line(&self, file: &str, name: &str) -> u64 {
        let text = self.proc(file);
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("a line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// A size of `/proc/PID/status` in KiB, such as `VmRSS` or `VmHWM`.
    pub(crate) fn memory_kib(&self, name: &str) -> u64 {
        self.line("status", name)
    }

    /// Time of the processors so far, its own and the kernel's for it.
    pub(crate) fn cpu(&self) -> Duration {
        processors::time_of(self.pid)
    }

    /// Takes what it has now for its `VmHWM`.
    pub(crate) fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid), "5").expect("it runs");
    }

    /// Its threads: name, switches of context so far, and the nanoseconds that it ran.
    pub(crate) fn threads(&self) -> Vec<(String, u64, u64)> {
        let folders = std::fs::read_dir(format!("/proc/{}/task", self.pid)).expect("it runs");
        let thread = |folder: std::io::Result<std::fs::DirEntry>| {
            // One that ends while it is looked at is left out.
            let read = |file| std::fs::read_to_string(folder.as_ref().ok()?.path().join(file)).ok();
            let switches = read("status")?;
            let switches = switches.lines().filter(|line| line.contains("ctxt_switches"));
            let switches = switches.filter_map(|line| line.rsplit_once('\t')?.1.parse::<u64>().ok()).sum();
            let ran = read("schedstat")?.split(' ').next()?.parse().ok()?;
            Some((read("comm")?.trim().to_owned(), switches, ran))
        };
        folders.filter_map(thread).collect()
    }

    /// Bytes that it had written to disks so far.
    pub(crate) fn written(&self) -> u64 {
        self.line("io", "write_bytes")
    }
}

/// The real binary.
pub(crate) struct Bridge {
    pub(crate) subject: Subject,
    admin: SocketAddr,
    child: Child,
    folder: Arc<tempfile::TempDir>,
    /// From its start until it was ready.
    pub(crate) ready_after: Duration,
}

impl Bridge {
    /// `sink`: the keys of `[sinks.main]`. Returns once it is ready.
    pub(crate) fn start(sink: &str) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on a real disk");
        Self::start_in(Arc::new(folder), sink)
    }

    /// Ends in good order and starts again on the same journal with another sink in the place of the first.
    pub(crate) fn restart(mut self, sink: &str) -> Self {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        self.child.wait().expect("it ends");
        Self::start_in(Arc::clone(&self.folder), sink)
    }

    /// The same, but ends as by a crash.
    pub(crate) fn crash(mut self, sink: &str) -> Self {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
        Self::start_in(Arc::clone(&self.folder), sink)
    }

    fn start_in(folder: Arc<tempfile::TempDir>, sink: &str) -> Self {
        let config = folder.path().join("config.toml");
        let text = format!(
            "[ingress]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[sources.alma]\npath = \"/webhooks\"\nsecret_env = \"BENCH_SECRET\"\n[log]\nlevel = \"error\"\n[sinks.main]\n{sink}\n"
        );
        std::fs::write(&config, text).expect("written");
        let data = folder.path().join("data");
        let _ = std::fs::remove_file(data.join("listeners.json"));
        let begun = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_alma-bridge"))
            .args(["run", "--config"])
            .arg(&config)
            .current_dir(folder.path())
            .env("BENCH_SECRET", SECRET)
            .stderr(Stdio::inherit())
            .spawn()
            .expect("starts");
        let listeners = wait(|| Listeners::read(&data).ok());
        let subject = Subject { address: listeners.ingress, pid: child.id() };
        let mut bridge = Self { subject, admin: listeners.admin, child, folder, ready_after: Duration::ZERO };
        wait(|| bridge.get("/readyz").filter(|answer| answer.starts_with("HTTP/1.1 200")));
        bridge.ready_after = begun.elapsed();
        bridge
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = std::net::TcpStream::connect(self.admin).ok()?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// All lines of a metric: what stands between name and value, and the value.
    pub(crate) fn metric(&self, name: &str) -> Vec<(String, f64)> {
        let text = self.get("/metrics").expect("answered");
        let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
        lines.map(|(labels, value)| (labels.to_owned(), value.parse().expect("a number"))).collect()
    }

    /// Waits until the one sink is connected.
    pub(crate) fn wait_until_up(&self) {
        wait(|| self.metric("alma_bridge_sink_up").iter().all(|(_, up)| *up > 0.0).then_some(()));
    }

    /// Waits until the one sink has confirmed all.
    pub(crate) fn wait_until_delivered(&self) {
        let delivered = || self.metric("alma_bridge_sink_waiting_events").iter().all(|(_, waiting)| *waiting < 1.0);
        // Seldom enough that asking costs the bridge nothing that shows.
        wait_every(Duration::from_millis(20), || delivered().then_some(()));
    }

    /// The time under which that share of events had been confirmed, from their receipt; interpolated in its bucket.
    pub(crate) fn delivered_within(&self, share: f64) -> Duration {
        let buckets = self.metric("alma_bridge_delivery_delay_seconds_bucket");
        let all = buckets.last().expect("buckets").1;
        let (mut below, mut counted) = (0.0, 0.0);
        for (labels, count) in &buckets {
            let bound = labels.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a bound");
            let bound = bound.parse().unwrap_or(below);
            if *count >= share * all {
                let part = if count > &counted { (share * all - counted) / (count - counted) } else { 1.0 };
                return Duration::from_secs_f64(below + (bound - below) * part);
            }
            (below, counted) = (bound, *count);
        }
        Duration::from_secs_f64(below)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `look` gives something, for five minutes at most.
pub(crate) fn wait<T>(look: impl FnMut() -> Option<T>) -> T {
    wait_every(Duration::from_millis(1), look)
}

fn wait_every<T>(pause: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_mins(5);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited five minutes");
        std::thread::park_timeout(pause);
    }
}
