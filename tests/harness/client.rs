//! Raw HTTP/1.1 over a socket: what is sent is what the test says, byte for byte.

use std::io::{BufRead as _, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use alma_bridge::alma::SignatureHeader;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::{PATIENCE, SECRET};

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn outcome(&self) -> Option<&str> {
        self.header("alma-bridge-outcome")
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }
}

/// One connection, with or without TLS.
pub(crate) struct Client {
    stream: BufReader<Box<dyn Stream>>,
    socket: TcpStream,
}

trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("connects")
    }

    /// None where nobody listens (any more).
    pub(crate) fn try_connect(address: SocketAddr) -> Option<Self> {
        let socket = TcpStream::connect(address).ok()?;
        let stream = socket.try_clone().expect("a second handle");
        Some(Self::over(Box::new(stream), socket))
    }

    /// A connection over TLS; the handshake comes with the first bytes. None where nobody listens (any more).
    pub(crate) fn try_connect_tls(address: SocketAddr, config: Arc<ClientConfig>) -> Option<Self> {
        let socket = TcpStream::connect(address).ok()?;
        let session = ClientConnection::new(config, address.ip().into()).expect("a session");
        let stream = StreamOwned::new(session, socket.try_clone().expect("a second handle"));
        Some(Self::over(Box::new(stream), socket))
    }

    fn over(stream: Box<dyn Stream>, socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        socket.set_write_timeout(Some(PATIENCE)).expect("set");
        socket.set_nodelay(true).expect("set");
        Self { stream: BufReader::new(stream), socket }
    }

    /// Whether the bytes could be written.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.stream.get_mut().write_all(bytes).is_ok()
    }

    /// Writes; a server that has closed already is seen when the answer is read.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.get_mut().write_all(bytes);
    }

    pub(crate) fn send(mut self, bytes: &[u8]) -> Answer {
        self.exchange(bytes)
    }

    pub(crate) fn exchange(&mut self, bytes: &[u8]) -> Answer {
        self.write(bytes);
        self.answer()
    }

    pub(crate) fn post(&mut self, path: &str, body: &[u8]) -> Answer {
        self.exchange(&request(path, body))
    }

    /// Nothing more will be sent.
    pub(crate) fn end_of_sending(&self) {
        self.socket.shutdown(Shutdown::Write).expect("shut down");
    }

    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer().expect("an answer")
    }

    /// None where the connection ended without one.
    pub(crate) fn try_answer(&mut self) -> Option<Answer> {
        let mut answer = self.head()?;
        while answer.status == 100 {
            answer = self.head()?;
        }
        let length = answer.header("content-length").map_or(0, |length| length.parse().expect("a number"));
        answer.body = vec![0; length];
        self.stream.read_exact(&mut answer.body).ok()?;
        Some(answer)
    }

    /// The next head, also that of an interim answer.
    pub(crate) fn head(&mut self) -> Option<Answer> {
        let line = self.line()?;
        let status = line.split(' ').nth(1)?.parse().expect("a status");
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(Answer { status, headers, body: Vec::new() });
            }
            let (name, value) = line.split_once(':').expect("a header");
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(line.trim_end_matches(['\r', '\n']).to_owned()),
        }
    }

    /// Whether the server closes the connection without sending anything more. Not if it leaves the connection open until
    /// [`PATIENCE`] is over.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        let closed = match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            // A reset closes it too.
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        closed && rest.is_empty()
    }

    /// Whether nothing comes for so long, and the connection stays open.
    pub(crate) fn is_silent(&mut self, time: Duration) -> bool {
        self.socket.set_read_timeout(Some(time)).expect("set");
        let read = self.stream.get_mut().read(&mut [0]);
        self.socket.set_read_timeout(Some(PATIENCE)).expect("set");
        read.is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }
}

pub(crate) fn signature(body: &[u8]) -> String {
    SignatureHeader::sign(SECRET.as_bytes(), body).to_base64()
}

/// A signed POST.
pub(crate) fn request(path: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "POST {path} HTTP/1.1\r\nHost: bridge\r\nContent-Type: application/json\r\nX-Exl-Signature: {}\r\nContent-Length: {}\r\n\r\n",
        signature(body),
        body.len(),
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Sends an event that is signed with another secret, on a connection of its own.
pub(crate) fn client_with_secret(address: SocketAddr, secret: &str, body: &[u8]) -> Answer {
    let signed = SignatureHeader::sign(secret.as_bytes(), body).to_base64();
    let text = String::from_utf8(request("/webhooks", body)).expect("UTF-8").replace(&signature(body), &signed);
    Client::connect(address).send(text.as_bytes())
}
