//! A siege: many strangers at once, over TLS and a network with a delay, while Alma's events arrive.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{Setup, loan, request, signature};
use crate::tls::{TLS, write_certificate};

/// How long the siege lasts.
const SIEGE: Duration = Duration::from_secs(12);

/// The delay in one direction: half of a round trip of 40 ms.
const ONE_WAY: Duration = Duration::from_millis(20);

/// How long Alma waits.
const ALMAS_PATIENCE: Duration = Duration::from_secs(5);

const BODY: usize = 8 << 20;

/// The beginning of a `ClientHello`.
const HALF_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

/// What the strangers did.
#[derive(Default)]
struct Strangers {
    over: AtomicBool,
    silent: AtomicUsize,
    bodies: AtomicUsize,
}

/// Connects from a given local address.
async fn connect(from: [u8; 4], to: SocketAddr) -> io::Result<TcpStream> {
    // The round trip of TCP's own handshake.
    sleep(2 * ONE_WAY).await;
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::from(from), 0).into())?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects over TLS and through a proxy that delays each byte by [`ONE_WAY`].
async fn connect_tls(tls: &TlsConnector, from: [u8; 4], to: SocketAddr) -> io::Result<TlsStream<DuplexStream>> {
    let (near_read, near_write) = connect(from, to).await?.into_split();
    let (client, far) = tokio::io::duplex(64 * 1024);
    let (far_read, far_write) = tokio::io::split(far);
    tokio::spawn(delayed(far_read, near_write));
    tokio::spawn(delayed(near_read, far_write));
    let name = ServerName::try_from("localhost").expect("a name");
    tls.connect(name, client).await
}

/// Passes on bytes, and finally the end, each [`ONE_WAY`] after it arrived.
async fn delayed(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let (tell, mut told) = mpsc::channel::<(Instant, Vec<u8>)>(32);
    let reading = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if tell.send((Instant::now() + ONE_WAY, buffer[..read].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = told.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}

/// Opens a thousand TLS connections a second that send nothing, or half of a `ClientHello`, and stay until they are
/// closed.
async fn silent(to: SocketAddr, strangers: Arc<Strangers>) {
    let mut held = JoinSet::new();
    let mut tick = interval(Duration::from_millis(10));
    let mut number = 0_u32;
    while !strangers.over.load(Ordering::Relaxed) {
        tick.tick().await;
        for _ in 0..10 {
            number += 1;
            let strangers = Arc::clone(&strangers);
            held.spawn(async move {
                let from = [127, 0, 1, u8::try_from(number % 250).expect("a byte") + 1];
                let Ok(mut stream) = connect(from, to).await else { return };
                strangers.silent.fetch_add(1, Ordering::Relaxed);
                if number.is_multiple_of(2) {
                    let _ = stream.write_all(HALF_HELLO).await;
                }
                let _ = stream.read(&mut [0]).await;
            });
        }
        while held.try_join_next().is_some() {}
    }
}

/// Sends one large body after another. Each lacks its last byte for two seconds, which is most of the time that it may
/// take.
async fn large_bodies(host: u8, to: SocketAddr, tls: TlsConnector, strangers: Arc<Strangers>) {
    let head = format!(
        "POST /webhooks HTTP/1.1\r\nHost: b\r\nX-Exl-Signature: {}\r\nContent-Length: {BODY}\r\n\r\n",
        signature(b"another")
    );
    let body = vec![b' '; BODY];
    while !strangers.over.load(Ordering::Relaxed) {
        let send = async {
            let mut stream = connect_tls(&tls, [127, 0, 2, host], to).await?;
            let last = Instant::now() + Duration::from_secs(2);
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body[..BODY - 1]).await?;
            stream.flush().await?;
            strangers.bodies.fetch_add(1, Ordering::Relaxed);
            sleep_until(last).await;
            stream.write_all(&body[BODY - 1..]).await?;
            stream.flush().await?;
            stream.read(&mut [0]).await
        };
        // Refused, cut off, or answered with 401.
        let _ = send.await;
        sleep(ONE_WAY).await;
    }
}

/// Sends one of Alma's events on its own connection. Returns the status.
async fn event(number: u64, to: SocketAddr, tls: TlsConnector) -> io::Result<String> {
    let mut stream = connect_tls(&tls, [127, 0, 3, 1], to).await?;
    stream.write_all(&request("/webhooks", &loan(number))).await?;
    stream.flush().await?;
    let mut status = vec![0; "HTTP/1.1 204".len()];
    stream.read_exact(&mut status).await?;
    Ok(String::from_utf8_lossy(&status).into_owned())
}

/// Sends ten events a second during the siege. Returns how many, the slowest answer, and the errors.
async fn alma(to: SocketAddr, tls: TlsConnector) -> (u64, Duration, Vec<String>) {
    let (begun, mut tick) = (Instant::now(), interval(Duration::from_millis(100)));
    let (mut events, mut number) = (JoinSet::new(), 0);
    while begun.elapsed() < SIEGE {
        tick.tick().await;
        let tls = tls.clone();
        events.spawn(async move {
            let begun = Instant::now();
            let wrong = match timeout(ALMAS_PATIENCE, event(number, to, tls)).await {
                Ok(Ok(status)) if status == "HTTP/1.1 204" => None,
                Ok(Ok(status)) => Some(status),
                Ok(Err(error)) => Some(format!("{error} after {:?}", begun.elapsed())),
                Err(_) => Some("no answer in time".to_owned()),
            };
            (begun.elapsed(), wrong)
        });
        number += 1;
    }
    let results = events.join_all().await;
    let slowest = results.iter().map(|(took, _)| *took).max().unwrap_or_default();
    (number, slowest, results.into_iter().filter_map(|(_, wrong)| wrong).collect())
}

fn tls_of(setup: &Setup) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(setup.path("tls.crt")).expect("a certificate")).expect("added");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

#[test]
fn every_event_is_stored_while_strangers_open_1000_tls_connections_a_second_and_send_large_bodies() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("as many files as may be");
    let setup = Setup::unwritten();
    write_certificate(&setup);
    setup.configure(TLS);
    let bridge = setup.start();
    let (to, tls) = (bridge.ingress, tls_of(&setup));
    let strangers = Arc::new(Strangers::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("starts");
    let (events, slowest, wrong) = runtime.block_on(async {
        tokio::spawn(silent(to, Arc::clone(&strangers)));
        for host in 1..=8 {
            tokio::spawn(large_bodies(host, to, tls.clone(), Arc::clone(&strangers)));
        }
        let result = alma(to, tls).await;
        strangers.over.store(true, Ordering::Relaxed);
        result
    });
    runtime.shutdown_background();
    let (silent, bodies) = (strangers.silent.load(Ordering::Relaxed), strangers.bodies.load(Ordering::Relaxed));
    let whole = bridge.metric("alma_bridge_signature_failures_total{source=\"alma\",reason=\"mismatch\"}");
    let evicted = bridge.metric("alma_bridge_connections_evicted_total");
    println!(
        "{events} events, slowest {slowest:?}, {} went wrong; {silent} silent connections, {bodies} bodies but for their \
         last byte, {whole:?} whole; {evicted:?} connections gave way",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{} of {events} events: {wrong:?}", wrong.len());
    assert!(events >= 100, "{events}");
    // The siege really happened.
    assert!(silent >= 8_000, "{silent} silent connections in {SIEGE:?}");
    assert!(bodies >= 16 && whole >= Some(8.0), "{bodies} large bodies, {whole:?} whole");
    assert!(evicted >= Some(5_000.0), "{evicted:?} connections gave way");
}
