//! What a broker says of itself before anybody logs in: `connection.start` (AMQP 0-9-1, section 1.4).
//!
//! lapin reads it and keeps it to itself; the checklist wants version and log-in mechanisms.

use std::net::SocketAddr;

use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::address::Address;
use super::hosts::open_any;
use super::stream::Stream;
use crate::sinks::{Failure, Reason};

/// The client's first bytes: the protocol and its version.
const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";

/// Bytes of a frame's head: type, channel, size.
const FRAME_HEAD: usize = 7;

/// Largest payload that is read. A broker's greeting has some 500 bytes.
const MAX_PAYLOAD: usize = 64 * 1024;

/// The first two bytes of what a TLS server says to a client that does not speak it: an alert (RFC 8446, section 5.1).
const TLS_ALERT: [u8; 2] = [21, 3];

/// What such a server's port is called in a failure.
pub(super) const SPEAKS_TLS: &str = "the port speaks TLS, and this connection does not";

/// A broker before the log-in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Greeting {
    /// `RabbitMQ 4.0.5`
    pub(super) product: String,
    /// What it takes as a log-in: `PLAIN`, `EXTERNAL`.
    pub(super) mechanisms: Vec<String>,
    /// `TLS 1.3`, or none where it is plain.
    pub(super) tls: Option<String>,
}

/// Connects, listens to the greeting, and hangs up.
pub(super) async fn greet(address: &Address) -> Result<Greeting, Failure> {
    open_any(address, |at| greet_at(address, at).boxed()).await
}

async fn greet_at(address: &Address, at: SocketAddr) -> Result<Greeting, Failure> {
    let mut stream = Stream::open(address, at).await?;
    let tls = stream.protocol();
    let read = async {
        stream.write_all(PROTOCOL_HEADER).await?;
        stream.flush().await?;
        let mut head = [0; FRAME_HEAD];
        stream.read_exact(&mut head).await?;
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        if tls.is_none() && head[..2] == TLS_ALERT {
            return Ok(Err(Failure::new(Reason::Unreachable, SPEAKS_TLS)));
        }
        // Another protocol, or another version of this one, begins otherwise.
        let mut payload = vec![0; if head[0] == 1 && size <= MAX_PAYLOAD { size } else { 0 }];
        stream.read_exact(&mut payload).await?;
        std::io::Result::Ok(Ok(payload))
    };
    let payload = read.await.map_err(|error| Failure::new(Reason::Unreachable, error.to_string()))??;
    let greeting = parse(&payload).ok_or_else(|| Failure::new(Reason::Unreachable, "found no AMQP 0-9-1 there"))?;
    Ok(Greeting { tls, ..greeting })
}

/// Class 10, method 10, version 0-9, then server properties, mechanisms, locales.
fn parse(payload: &[u8]) -> Option<Greeting> {
    let mut rest = payload.strip_prefix(&[0, 10, 0, 10, 0, 9])?;
    let mut properties = long_string(&mut rest)?;
    let (mut product, mut version) = (None, None);
    while !properties.is_empty() {
        let length = usize::from(*take(&mut properties, 1)?.first()?);
        let name = take(&mut properties, length)?;
        match (name, value(&mut properties)?) {
            (b"product", Value::Text(text)) => product = Some(text),
            (b"version", Value::Text(text)) => version = Some(text),
            _ => {}
        }
    }
    let mechanisms = String::from_utf8_lossy(long_string(&mut rest)?).split_whitespace().map(str::to_owned).collect();
    let product = [product?, version.unwrap_or_default()].join(" ");
    Some(Greeting { product: product.trim_end().to_owned(), mechanisms, tls: None })
}

/// The value of a field.
enum Value {
    Text(String),
    Other,
}

/// Reads a value; of the types only those that a broker's properties have are known.
fn value(from: &mut &[u8]) -> Option<Value> {
    let passed_over = match take(from, 1)?.first()? {
        b'S' => return Some(Value::Text(String::from_utf8_lossy(long_string(from)?).into_owned())),
        b'F' | b'A' | b'x' => long_string(from),
        b't' | b'b' | b'B' => take(from, 1),
        b's' | b'u' | b'U' => take(from, 2),
        b'I' | b'i' | b'f' => take(from, 4),
        b'D' => take(from, 5),
        b'l' | b'L' | b'd' | b'T' => take(from, 8),
        b'V' => take(from, 0),
        _ => None,
    };
    passed_over.map(|_| Value::Other)
}

/// What follows its own length in four bytes.
fn long_string<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_be_bytes(take(from, 4)?.try_into().ok()?);
    take(from, length as usize)
}

fn take<'a>(from: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(count)?;
    *from = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).expect("short");
        [&length.to_be_bytes()[..], bytes].concat()
    }

    fn field(name: &str, kind: u8, value: &[u8]) -> Vec<u8> {
        [&[u8::try_from(name.len()).expect("short")][..], name.as_bytes(), &[kind], value].concat()
    }

    fn start() -> Vec<u8> {
        let properties = [
            field("capabilities", b'F', &long(&field("basic.nack", b't', &[1]))),
            field("product", b'S', &long(b"RabbitMQ")),
            field("uptime", b'l', &[0; 8]),
            field("version", b'S', &long(b"4.0.5")),
        ];
        [&[0, 10, 0, 10, 0, 9][..], &long(&properties.concat()), &long(b"PLAIN EXTERNAL"), &long(b"en_US")].concat()
    }

    #[test]
    fn reads_product_version_and_mechanisms() {
        let greeting = parse(&start()).expect("a greeting");
        assert_eq!(greeting.product, "RabbitMQ 4.0.5");
        assert_eq!(greeting.mechanisms, ["PLAIN", "EXTERNAL"]);
    }

    #[test]
    fn what_is_cut_or_something_else_is_no_greeting() {
        let whole = start();
        let needed = whole.len() - long(b"en_US").len();
        for cut in 0..needed {
            assert_eq!(parse(&whole[..cut]), None, "cut at {cut}");
        }
        assert_eq!(parse(b"HTTP/1.1 400 Bad Request"), None);
    }
}
