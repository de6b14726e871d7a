//! Requests a second of the durable 204 at 64 connections, beside a bare hyper server that only verifies.
//!
//! `cargo bench --bench durable`: both in one run on one machine, so that the ratio holds; absolute figures hold for
//! that machine alone. Every event is unique and signed beforehand. The bridge's sink asks for nothing, so that the
//! figure is that of ingress and journal.

#[allow(dead_code, reason = "each bench uses its part")]
mod harness;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::{Child, Command};
use std::sync::Arc;

use alma_bridge::alma::{SignatureHeader, Unverified};
use alma_bridge::config::{NamedSecret, Secret, SecretFrom, SourceName};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use harness::{BODY_BYTES, Bridge, CONNECTIONS, SECRET, load, rate, requests, wait};

const EVENTS: usize = 40_000;
const ROUNDS: usize = 3;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if let Some(file) = std::env::var_os(BARE) {
        runtime.block_on(serve_bare(file));
    }
    let requests = requests(EVENTS);
    println!("{EVENTS} events of {BODY_BYTES} bytes, {CONNECTIONS} connections, {ROUNDS} rounds");
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        let bare = {
            let server = BareServer::start();
            rate(EVENTS, runtime.block_on(load(server.address, &requests)))
        };
        let bridge = Bridge::start("type = \"file\"\nactions = [\"nothing\"]");
        let durable = rate(EVENTS, runtime.block_on(load(bridge.address, &requests)));
        let memory = bridge.memory_kib("VmRSS");
        println!(
            "round {round}: bare {bare:>7.0}/s   durable {durable:>7.0}/s   ratio {:.2}   bridge resident {memory} KiB",
            durable / bare
        );
        ratios.push(durable / bare);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2}", ratios[ROUNDS / 2]);
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
