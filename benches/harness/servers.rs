//! What the bridge is measured beside: servers that do less and less of what it does, each a process of its own.

use std::convert::Infallible;
use std::io::Write as _;
use std::process::{Child, Command};
use std::sync::{Arc, mpsc};

use alma_bridge::alma::{SignatureHeader, Unverified};
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
use tokio::sync::oneshot;

use super::{SECRET, Subject, wait};

/// Names the server in the environment of its process, and the file that it writes its address to.
const KIND: &str = "BENCH_SERVER";
const ADDRESS: &str = "BENCH_SERVER_ADDRESS";

/// How much a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Reads a request off a socket and answers 204, without an HTTP library: the floor.
    Floor,
    /// The same by hyper.
    Hyper,
    /// And verifies the signature.
    Verifying,
    /// And has the body in a file and synced before it answers, many bodies by one sync: what no server of this kind can
    /// do without. No format, no dedupe, no bounds, nobody who reads.
    Durable,
}

impl Kind {
    const ALL: [(Self, &str); 4] =
        [(Self::Floor, "floor"), (Self::Hyper, "hyper"), (Self::Verifying, "verifying"), (Self::Durable, "durable")];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).expect("all are listed").1
    }
}

/// A running server; ended when dropped.
pub(crate) struct Server {
    pub(crate) subject: Subject,
    child: Child,
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("address");
        let this = std::env::current_exe().expect("this");
        let child = Command::new(this).env(KIND, kind.name()).env(ADDRESS, &file).spawn().expect("starts");
        let address = wait(|| std::fs::read_to_string(&file).ok()?.parse().ok());
        Self { subject: Subject { address, pid: child.id() }, child }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves for ever where this process is to be a server; returns otherwise.
pub(crate) async fn serve_if_asked() {
    let Ok(name) = std::env::var(KIND) else { return };
    let kind = Kind::ALL.iter().find(|(_, known)| *known == name).expect("a known server").0;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound").to_string();
    let file = std::path::PathBuf::from(std::env::var_os(ADDRESS).expect("a file"));
    // At once, so that nobody reads half of it.
    std::fs::write(file.with_extension("new"), address).expect("written");
    std::fs::rename(file.with_extension("new"), file).expect("renamed");
    let secret = Some(Secret::new(SECRET.as_bytes()));
    let secrets = Arc::new(vec![NamedSecret { name: "default".into(), from: SecretFrom::Env("X".into()), secret }]);
    let source: SourceName = "alma".parse().expect("a name");
    let file = (kind == Kind::Durable).then(Synced::start);
    loop {
        let (stream, _) = listener.accept().await.expect("accepted");
        stream.set_nodelay(true).expect("set");
        let (secrets, source, file) = (Arc::clone(&secrets), source.clone(), file.clone());
        tokio::spawn(async move {
            if kind == Kind::Floor {
                return serve_floor(stream).await;
            }
            let verifies = matches!(kind, Kind::Verifying | Kind::Durable);
            let service = service_fn(move |request: Request<Incoming>| {
                let (secrets, source, file) = (Arc::clone(&secrets), source.clone(), file.clone());
                async move {
                    let verify = verifies.then_some((&source, &*secrets));
                    Ok::<_, Infallible>(answer(request, verify, file.as_ref()).await)
                }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    verify: Option<(&SourceName, &Vec<NamedSecret>)>,
    file: Option<&Synced>,
) -> Response<Full<Bytes>> {
    let header = request.headers().get("x-exl-signature").map(|value| value.as_bytes().to_vec());
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    let fits = verify.is_none_or(|(source, secrets)| {
        let signature = SignatureHeader::parse(header.as_deref()).expect("signed");
        Unverified::new(signature, body.clone()).verify(source, secrets).is_ok()
    });
    if let Some(file) = file {
        file.store(body).await;
    }
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = if fits { StatusCode::NO_CONTENT } else { StatusCode::UNAUTHORIZED };
    answer
}

/// A file with a thread that writes all that is queued at once, syncs it, and says so.
#[derive(Clone)]
struct Synced(mpsc::Sender<(Bytes, oneshot::Sender<()>)>);

impl Synced {
    fn start() -> Self {
        let (queue, queued) = mpsc::channel::<(Bytes, oneshot::Sender<()>)>();
        let mut file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).expect("a file on a real disk");
        std::thread::spawn(move || {
            let mut buffer = Vec::new();
            while let Ok(first) = queued.recv() {
                let group: Vec<_> = std::iter::once(first).chain(queued.try_iter()).collect();
                buffer.clear();
                for (body, _) in &group {
                    buffer.extend_from_slice(body);
                }
                file.write_all(&buffer).expect("written");
                file.sync_data().expect("synced");
                for (_, synced) in group {
                    synced.send(()).expect("awaited");
                }
            }
        });
        Self(queue)
    }

    async fn store(&self, body: Bytes) {
        let (synced, is_synced) = oneshot::channel();
        self.0.send((body, synced)).expect("the thread runs");
        is_synced.await.expect("synced");
    }
}

/// One request after the other, found by its head's end and its Content-Length.
async fn serve_floor(mut stream: TcpStream) {
    let mut buffer = Vec::with_capacity(16 << 10);
    loop {
        let end = loop {
            if let Some(end) = end_of_request(&buffer) {
                break end;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(1..) => {}
                _ => return,
            }
        };
        buffer.drain(..end);
        if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
            return;
        }
    }
}

fn end_of_request(bytes: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let at = memchr::memmem::find(&bytes[..head], b"Content-Length: ")? + 16;
    let digits = bytes[at..head].iter().take_while(|byte| byte.is_ascii_digit());
    let end = head + digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
    (bytes.len() >= end).then_some(end)
}
