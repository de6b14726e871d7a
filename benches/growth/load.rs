//! Load without end: events made and signed as they are sent, over all sources in turn.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::{CONNECTIONS, SECRET, write_body, write_request};

/// Where nothing listens: all waits.
pub(crate) const UNREACHABLE: &str = "type = \"nats\"\nservers = [\"nats://127.0.0.1:1\"]\n";

/// A profile of Alma: the path it calls, and its secret.
#[derive(Clone)]
pub(crate) struct Profile {
    pub(crate) path: String,
    pub(crate) secret: String,
}

impl Profile {
    /// The one that every bridge of the harness has.
    pub(crate) fn only() -> Arc<Vec<Self>> {
        Arc::new(vec![Self { path: "/webhooks".into(), secret: SECRET.into() }])
    }
}

/// What is sent: by whom, which numbers, bytes of a body.
#[derive(Clone)]
pub(crate) struct Events {
    pub(crate) profiles: Arc<Vec<Profile>>,
    pub(crate) numbers: Range<u64>,
    pub(crate) bytes: usize,
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Closed loop over 64 connections, until all are answered.
pub(crate) fn send(address: SocketAddr, events: &Events) {
    send_at(address, events, None);
}

/// The same, no faster than so many a second where that is given.
pub(crate) fn send_at(address: SocketAddr, events: &Events, per_second: Option<u32>) {
    let next = Arc::new(AtomicU64::new(events.numbers.start));
    let between = per_second.map(|per_second| Duration::from_secs(1) / per_second);
    let again: u64 = block_on(async {
        let mut connections = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            connections.spawn(send_some(address, events.clone(), Arc::clone(&next), between));
        }
        connections.join_all().await.into_iter().sum()
    });
    if again > 0 {
        println!("  {again} sent again");
    }
}

/// One connection's part of the events, one after the other; how many had to be sent again.
async fn send_some(address: SocketAddr, events: Events, next: Arc<AtomicU64>, between: Option<Duration>) -> u64 {
    let (begun, mut connection, mut again) = (Instant::now(), Connection::open(address).await, 0);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= events.numbers.end {
            return again;
        }
        if let Some(between) = between {
            let due = between * u32::try_from(number - events.numbers.start).expect("an hour's");
            tokio::time::sleep_until((begun + due).into()).await;
        }
        let profile = &events.profiles[usize::try_from(number).expect("64 bits") % events.profiles.len()];
        connection.make(profile, number, events.bytes);
        // A machine that stands still for four seconds makes it a 503; Alma would come again too.
        let mut tries = 0;
        while let Err(answer) = connection.send().await {
            tries += 1;
            assert!(tries < 10, "{answer}");
            connection = Connection { request: connection.request, ..Connection::open(address).await };
        }
        again += tries;
    }
}

/// With buffers that are used again.
struct Connection {
    stream: TcpStream,
    body: String,
    request: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connects");
        stream.set_nodelay(true).expect("set");
        Self { stream, body: String::new(), request: Vec::new() }
    }

    fn make(&mut self, profile: &Profile, number: u64, bytes: usize) {
        write_body(&mut self.body, number, bytes);
        write_request(&mut self.request, &profile.path, &profile.secret, &self.body);
    }

    /// What was made; the answer where it is no 204.
    async fn send(&mut self) -> Result<(), String> {
        self.stream.write_all(&self.request).await.map_err(|error| error.to_string())?;
        let mut answer = [0; 1_024];
        let read = self.stream.read(&mut answer).await.map_err(|error| error.to_string())?;
        let answer = &answer[..read];
        if answer.starts_with(b"HTTP/1.1 204") { Ok(()) } else { Err(String::from_utf8_lossy(answer).into_owned()) }
    }
}
