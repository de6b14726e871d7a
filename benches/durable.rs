//! Requests a second of the durable 204 at 64 connections, beside a bare hyper server that only verifies.
//!
//! `cargo bench --bench durable`: both in one run on one machine, so that the ratio holds; absolute figures hold for
//! that machine alone. Every event is unique and signed beforehand. The bridge's sink asks for nothing, so that the
//! figure is that of ingress and journal.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use alma_bridge::alma::{SignatureHeader, Unverified};
use alma_bridge::bridge::Listeners;
use alma_bridge::config::{NamedSecret, Secret, SecretFrom, SourceName};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const SECRET: &str = "made-up-secret";
const CONNECTIONS: usize = 64;
const EVENTS: usize = 40_000;
const BODY_BYTES: usize = 1_536;
const ROUNDS: usize = 3;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if let Some(file) = std::env::var_os(BARE) {
        runtime.block_on(serve_bare(file));
    }
    let requests = Arc::new(requests());
    println!("{EVENTS} events of {BODY_BYTES} bytes, {CONNECTIONS} connections, {ROUNDS} rounds");
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        let bare = {
            let server = BareServer::start();
            runtime.block_on(load(server.address, &requests))
        };
        let bridge = Bridge::start();
        let durable = runtime.block_on(load(bridge.address, &requests));
        let memory = bridge.resident_kib();
        println!(
            "round {round}: bare {bare:>7.0}/s   durable {durable:>7.0}/s   ratio {:.2}   bridge resident {memory} KiB",
            durable / bare
        );
        ratios.push(durable / bare);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2}", ratios[ROUNDS / 2]);
}

fn requests() -> Vec<Vec<u8>> {
    let one = |number: usize| {
        let head = format!(r#"{{"id":"1{number:018}","action":"LOAN","institution":{{"value":"01TEST_INST"}},"x":""#);
        let body = format!("{head}{}\"}}", "x".repeat(BODY_BYTES - head.len() - 2));
        let signature = SignatureHeader::sign(SECRET.as_bytes(), body.as_bytes()).to_base64();
        format!(
            "POST /webhooks HTTP/1.1\r\nHost: bridge\r\nContent-Type: application/json\r\nX-Exl-Signature: {signature}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    };
    (0..EVENTS).map(one).collect()
}

/// Closed loop: each connection sends its next event when the last is answered. Gives events a second.
async fn load(address: SocketAddr, requests: &Arc<Vec<Vec<u8>>>) -> f64 {
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let mut connections = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (next, requests) = (Arc::clone(&next), Arc::clone(requests));
        connections.spawn(async move {
            let mut stream = TcpStream::connect(address).await.expect("connects");
            stream.set_nodelay(true).expect("set");
            let mut answer = [0; 1_024];
            while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                stream.write_all(request).await.expect("sent");
                let read = stream.read(&mut answer).await.expect("answered");
                assert!(answer[..read].starts_with(b"HTTP/1.1 204"), "{}", String::from_utf8_lossy(&answer[..read]));
            }
        });
    }
    while let Some(done) = connections.join_next().await {
        done.expect("no panic");
    }
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let events = EVENTS as f64;
    events / started.elapsed().as_secs_f64()
}

/// hyper that reads, verifies and answers 204; in a process of its own, as the bridge is.
struct BareServer {
    address: SocketAddr,
    child: Child,
}

/// Set for the process that is the bare server.
const BARE: &str = "DURABLE_BENCH_BARE";

impl BareServer {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("address");
        let child = Command::new(std::env::current_exe().expect("this")).env(BARE, &file).spawn().expect("starts");
        let address = wait(|| std::fs::read_to_string(&file).ok()?.parse().ok());
        Self { address, child }
    }
}

impl Drop for BareServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn serve_bare(file: std::ffi::OsString) -> ! {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound").to_string();
    std::fs::write(&file, address).expect("written");
    let secret = Some(Secret::new(SECRET.as_bytes()));
    let secrets = Arc::new(vec![NamedSecret { name: "default".into(), from: SecretFrom::Env("X".into()), secret }]);
    let source: SourceName = "alma".parse().expect("a name");
    loop {
        let (stream, _) = listener.accept().await.expect("accepted");
        stream.set_nodelay(true).expect("set");
        let (secrets, source) = (Arc::clone(&secrets), source.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (secrets, source) = (Arc::clone(&secrets), source.clone());
                async move {
                    let header = request.headers().get("x-exl-signature").map(|value| value.as_bytes().to_vec());
                    let signature = SignatureHeader::parse(header.as_deref()).expect("signed");
                    let body = request.into_body().collect().await.expect("a body").to_bytes();
                    let fits = Unverified::new(signature, body).verify(&source, &secrets).is_ok();
                    let mut answer = Response::new(Full::<Bytes>::default());
                    *answer.status_mut() = if fits { StatusCode::NO_CONTENT } else { StatusCode::UNAUTHORIZED };
                    Ok::<_, Infallible>(answer)
                }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// The real binary, its sink asking for nothing.
struct Bridge {
    address: SocketAddr,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Bridge {
    fn start() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on a real disk");
        let config = folder.path().join("config.toml");
        std::fs::write(
            &config,
            "[ingress]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[sources.alma]\npath = \"/webhooks\"\nsecret_env = \"BENCH_SECRET\"\n[sinks.main]\ntype = \"file\"\nactions = [\"nothing\"]\n[log]\nlevel = \"warn\"\n",
        )
        .expect("written");
        let child = Command::new(env!("CARGO_BIN_EXE_alma-bridge"))
            .args(["run", "--config"])
            .arg(&config)
            .current_dir(folder.path())
            .env("BENCH_SECRET", SECRET)
            .stderr(Stdio::inherit())
            .spawn()
            .expect("starts");
        let data = folder.path().join("data");
        let listeners = wait(|| Listeners::read(&data).ok());
        wait(|| {
            let mut stream = std::net::TcpStream::connect(listeners.admin).ok()?;
            std::io::Write::write_all(&mut stream, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
            let mut answer = [0; 12];
            std::io::Read::read_exact(&mut stream, &mut answer).ok()?;
            (&answer == b"HTTP/1.1 200").then_some(())
        });
        Self { address: listeners.ingress, child, _folder: folder }
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited 10 s");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
