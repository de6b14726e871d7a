//! A link of 1 Mbit/s.

use std::time::{Duration, Instant};

use alma_bridge::message::Message;
use alma_bridge::sinks::{Outcome, Outcomes, Sink};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::{Place, SERVER, Stored, reason};

/// 1 Mbit/s.
const BYTES_A_SECOND: u32 = 125_000;

/// Bytes that wait in the buffers of a socket on a slow link: less than a second's.
const BUFFER: u32 = 64 << 10;

/// Passes bytes on, so many a second.
async fn pass_slowly(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut piece = vec![0; 4 << 10];
    let mut due = Instant::now();
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        if to.write_all(&piece[..count]).await.is_err() {
            return;
        }
        due = due.max(Instant::now()) + Duration::from_secs(1) * u32::try_from(count).expect("small") / BYTES_A_SECOND;
        tokio::time::sleep_until(due.into()).await;
    }
}

/// The address of a proxy before `server`, slow in the direction of the server.
fn slow_link(server: String) -> String {
    let socket = TcpSocket::new_v4().expect("a socket");
    // The connections have it from the listener.
    socket.set_recv_buffer_size(BUFFER).expect("set");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let listener: TcpListener = socket.listen(16).expect("listens");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(&server).await.expect("the server listens");
            let ((near_read, mut near_write), (mut far_read, far_write)) = (near.into_split(), far.into_split());
            tokio::spawn(pass_slowly(near_read, far_write));
            tokio::spawn(async move { tokio::io::copy(&mut far_read, &mut near_write).await });
        }
    });
    address.to_string()
}

/// A whole window has 4 MiB, which takes 34 s: more than its deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_misses_its_deadline_makes_progress_all_the_same() {
    let _shared = SERVER.read().await;
    let mut place = Place::new();
    let server = place.settings.servers[0].trim_start_matches("nats://").to_owned();
    place.settings.servers = vec![format!("nats://{}", slow_link(server))];
    let mut sink = place.connected().await;
    let mut left: Vec<Message> = (0..512).map(|number| place.event("loan", number, 8 << 10)).collect();
    let mut rounds = Vec::new();
    while !left.is_empty() {
        assert!(rounds.len() < 4, "{} are left after {rounds:?}", left.len());
        let (mut outcomes, begun) = (Outcomes::open(left.len()), Instant::now());
        // As the pump does it.
        let in_time = tokio::time::timeout(sink.deadline(), sink.publish_into(&left, &mut outcomes)).await.is_ok();
        let before = left.len();
        let mut place_in_window = 0..;
        left.retain(|_| {
            let outcome = place_in_window.next().and_then(|place: usize| outcomes.get(place));
            !matches!(outcome, Some(Outcome::Confirmed { .. }))
        });
        rounds.push((before - left.len(), in_time, begun.elapsed()));
        if !left.is_empty() {
            sink.abandon().await;
            sink.connect().await.expect("connects again");
        }
    }
    println!("confirmed, in time, after: {rounds:?}");
    assert!(!rounds[0].1, "the link is slow: {rounds:?}");
    assert!(rounds[0].0 > 256, "most of what arrived in time counts: {rounds:?}");
    let landed = place.read();
    assert_eq!(landed.iter().map(Stored::id).collect::<std::collections::BTreeSet<_>>().len(), 512);
    assert_eq!(landed.len(), 512, "each once");
    assert_eq!(reason(&sink.publish(&[place.event("loan", 512, 10)]).await[0]), None);
}
