//! What a broker says about itself before the login: `connection.start` (AMQP 0-9-1, section 1.4).
//!
//! `check --connect` shows the broker's version and its login mechanisms. lapin receives both but exposes neither, so
//! this module asks on a connection of its own. The frame's content is read by lapin's parser.

use std::net::SocketAddr;

use futures_util::FutureExt as _;
use lapin::protocol::connection::AMQPMethod;
use lapin::protocol::{AMQPClass, parse_class};
use lapin::types::AMQPValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::address::Address;
use super::hosts::open_any;
use super::stream::Stream;
use crate::sinks::{Failure, Reason};

/// The client's first bytes: the protocol and its version.
const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";

/// Bytes of a frame's header: type, channel, size.
const FRAME_HEAD: usize = 7;

/// The largest payload that is read. A broker's greeting has about 500 bytes.
const MAX_PAYLOAD: usize = 64 * 1024;

/// The first two bytes of the alert that a TLS server sends to a client without TLS (RFC 8446, section 5.1).
const TLS_ALERT: [u8; 2] = [21, 3];

/// The detail of the failure in that case.
pub(super) const SPEAKS_TLS: &str = "the server expects TLS, but TLS is not configured";

/// What the broker says before the login.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Greeting {
    /// `RabbitMQ 4.0.5`
    pub(super) product: String,
    /// The login mechanisms that it offers, such as `PLAIN` and `EXTERNAL`.
    pub(super) mechanisms: Vec<String>,
    /// `TLS 1.3`. `None` if the connection is plain.
    pub(super) tls: Option<String>,
}

/// Connects, reads the greeting, and disconnects.
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
        // Other protocols, and other versions of AMQP, begin differently.
        let mut payload = vec![0; if head[0] == 1 && size <= MAX_PAYLOAD { size } else { 0 }];
        stream.read_exact(&mut payload).await?;
        std::io::Result::Ok(Ok(payload))
    };
    let payload = read.await.map_err(|error| Failure::new(Reason::Unreachable, error.to_string()))??;
    let greeting = parse(&payload)
        .ok_or_else(|| Failure::new(Reason::Unreachable, "found another protocol, expected AMQP 0-9-1"))?;
    Ok(Greeting { tls, ..greeting })
}

/// Reads `connection.start` with lapin's own parser. Returns `None` if the payload is anything else.
fn parse(payload: &[u8]) -> Option<Greeting> {
    let (_, class) = parse_class(payload).ok()?;
    let AMQPClass::Connection(AMQPMethod::Start(start)) = class else { return None };
    let property = |name| match start.server_properties.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        _ => String::new(),
    };
    let product = format!("{} {}", property("product"), property("version")).trim().to_owned();
    let mechanisms = start.mechanisms.to_string().split_whitespace().map(str::to_owned).collect();
    Some(Greeting { product, mechanisms, tls: None })
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
    fn anything_incomplete_or_different_is_refused() {
        let whole = start();
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), None, "cut at {cut}");
        }
        assert_eq!(parse(b"HTTP/1.1 400 Bad Request"), None);
    }
}
