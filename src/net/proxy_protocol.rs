//! The PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt), in and out.
//!
//! Incoming headers are read only from peers that the configuration trusts, are bounded in bytes and time, and what
//! follows a header in the same packet (a TLS hello, an eager client's EHLO) is given back to the stream.

use std::{io, net::SocketAddr, time::Duration};

use bytes::{Buf, BytesMut};
use ppp::{v1, v2};
use tokio::{io::AsyncReadExt, time::timeout};

use super::{Networks, Peer, Socket};

/// `PROXY TCP6 ` with the longest addresses and ports, and its CRLF (section 2.1 of the specification).
const V1_BYTES_MAX: usize = 107;
/// Our own limit for version 2, TLVs included; the specification allows 64 KiB, senders stay below 1 KiB.
const V2_BYTES_MAX: usize = 4096;
const V2_FIXED_BYTES: usize = 16;

/// Which of the two forms to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// A listener that stands behind a load balancer.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// A peer outside these must not send a header, and is not asked for one.
    pub from: Networks,
    /// Time for the whole header.
    pub timeout: Duration,
}

/// The connection as the header tells it; none of it where the header says `UNKNOWN` or `LOCAL` (a health check).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub source: Option<SocketAddr>,
    pub destination: Option<SocketAddr>,
}

/// Why there is no header; the connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("proxy protocol: {0}")]
    Malformed(String),
    #[error("proxy protocol: no header within {0:?}")]
    TimedOut(Duration),
    #[error("proxy protocol: {0}")]
    Io(#[from] io::Error),
}

/// Reads the header that must open this connection.
pub async fn read(socket: &mut Socket, limit: Duration) -> Result<Header, ProxyError> {
    timeout(limit, read_header(socket))
        .await
        .unwrap_or(Err(ProxyError::TimedOut(limit)))
}

async fn read_header(socket: &mut Socket) -> Result<Header, ProxyError> {
    let mut buffer = BytesMut::with_capacity(512);
    loop {
        if let Some((header, length)) = parse(&buffer)? {
            buffer.advance(length);
            socket.give_back(buffer.freeze());
            return Ok(header);
        }
        if socket.read_buf(&mut buffer).await? == 0 {
            return Err(malformed("the connection ended before the header did"));
        }
    }
}

/// The header at the start of `bytes` and its length; none while it is not complete. Never asks for more than a
/// header may be long.
pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
    if bytes.starts_with(v2::PROTOCOL_PREFIX) {
        return parse_v2(bytes);
    }
    if v2::PROTOCOL_PREFIX.starts_with(bytes) {
        return Ok(None);
    }
    let start = &bytes[..bytes.len().min(6)];
    if !b"PROXY ".starts_with(start) {
        return Err(malformed("a header was expected and something else came"));
    }
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    match memchr::memmem::find(window, b"\r\n") {
        Some(end) => parse_v1(&window[..end + 2]).map(|header| Some((header, end + 2))),
        None if window.len() == V1_BYTES_MAX => {
            Err(malformed("version 1 header of more than 107 bytes"))
        }
        None => Ok(None),
    }
}

fn parse_v1(line: &[u8]) -> Result<Header, ProxyError> {
    let header = v1::Header::try_from(line).map_err(|error| malformed(&error.to_string()))?;
    Ok(match header.addresses {
        v1::Addresses::Unknown => Header::default(),
        v1::Addresses::Tcp4(a) => between(
            (a.source_address, a.source_port).into(),
            (a.destination_address, a.destination_port).into(),
        ),
        v1::Addresses::Tcp6(a) => between(
            (a.source_address, a.source_port).into(),
            (a.destination_address, a.destination_port).into(),
        ),
    })
}

fn parse_v2(bytes: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
    let Some(fixed) = bytes.first_chunk::<V2_FIXED_BYTES>() else {
        return Ok(None);
    };
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > V2_BYTES_MAX {
        return Err(malformed("version 2 header of more than 4096 bytes"));
    }
    let Some(whole) = bytes.get(..length) else {
        return Ok(None);
    };
    let header = v2::Header::try_from(whole).map_err(|error| malformed(&error.to_string()))?;
    let header = match (header.command, header.addresses) {
        (v2::Command::Local, _) => Header::default(),
        (_, v2::Addresses::IPv4(a)) => between(
            (a.source_address, a.source_port).into(),
            (a.destination_address, a.destination_port).into(),
        ),
        (_, v2::Addresses::IPv6(a)) => between(
            (a.source_address, a.source_port).into(),
            (a.destination_address, a.destination_port).into(),
        ),
        (_, v2::Addresses::Unix(_) | v2::Addresses::Unspecified) => Header::default(),
    };
    Ok(Some((header, length)))
}

fn between(source: SocketAddr, destination: SocketAddr) -> Header {
    Header {
        source: Some(source),
        destination: Some(destination),
    }
}

fn malformed(why: &str) -> ProxyError {
    ProxyError::Malformed(why.to_owned())
}

/// The header to open a connection to the next hop with: `source` is the client, `destination` the address it came
/// to. Where one is unknown (a unix socket) or their families differ, the header says that nothing is known.
pub fn header(version: Version, source: &Peer, destination: Option<SocketAddr>) -> Vec<u8> {
    let ends = match (source, destination) {
        (Peer::Tcp(source), Some(destination)) => {
            let ends = (canonical(*source), canonical(destination));
            (ends.0.is_ipv4() == ends.1.is_ipv4()).then_some(ends)
        }
        _ => None,
    };
    match (version, ends) {
        (Version::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (Version::V1, Some((source, destination))) => format!(
            "PROXY {} {} {} {} {}\r\n",
            if source.is_ipv4() { "TCP4" } else { "TCP6" },
            source.ip(),
            destination.ip(),
            source.port(),
            destination.port(),
        )
        .into_bytes(),
        (Version::V2, ends) => header_v2(ends),
    }
}

/// Of a connection that is our own and nobody's whom we stand for.
pub fn own_header(version: Version) -> Vec<u8> {
    /// Version 2, command LOCAL, family unspecified, no addresses.
    const LOCAL: [u8; 4] = [0x20, 0x00, 0, 0];
    match version {
        Version::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
        Version::V2 => [v2::PROTOCOL_PREFIX, &LOCAL].concat(),
    }
}

fn header_v2(ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    /// Version 2, command PROXY.
    const PROXY: u8 = 0x21;
    let mut out = v2::PROTOCOL_PREFIX.to_vec();
    match ends {
        Some((SocketAddr::V4(source), SocketAddr::V4(destination))) => {
            out.extend([PROXY, 0x11, 0, 12]);
            out.extend(source.ip().octets());
            out.extend(destination.ip().octets());
        }
        Some((SocketAddr::V6(source), SocketAddr::V6(destination))) => {
            out.extend([PROXY, 0x21, 0, 36]);
            out.extend(source.ip().octets());
            out.extend(destination.ip().octets());
        }
        // PROXY with an unspecified family: the connection is relayed, its ends cannot be told.
        _ => {
            out.extend([PROXY, 0x00, 0, 0]);
            return out;
        }
    }
    let (source, destination) = ends.expect("both arms above have ends");
    out.extend(source.port().to_be_bytes());
    out.extend(destination.port().to_be_bytes());
    out
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "192.0.2.1:40000";
    const DESTINATION: &str = "198.51.100.2:25";

    fn tcp(source: &str, destination: &str) -> (Peer, Option<SocketAddr>) {
        (
            Peer::Tcp(source.parse().unwrap()),
            Some(destination.parse().unwrap()),
        )
    }

    #[test]
    fn what_we_send_we_read_whatever_the_cut() {
        for (source, destination) in [
            tcp(SOURCE, DESTINATION),
            tcp("[2001:db8::1]:40000", "[2001:db8::2]:25"),
            tcp("[::ffff:192.0.2.1]:40000", DESTINATION),
            (Peer::Unix, None),
        ] {
            for version in [Version::V1, Version::V2] {
                let mut bytes = header(version, &source, destination);
                let length = bytes.len();
                for cut in 0..length {
                    assert!(parse(&bytes[..cut]).unwrap().is_none(), "{version:?} {cut}");
                }
                bytes.extend(b"EHLO eager\r\n");
                let (read, used) = parse(&bytes).unwrap().unwrap();
                assert_eq!(used, length);
                assert_eq!(read.source.map(|a| a.ip()), source.ip());
                assert_eq!(read.destination, destination);
            }
        }
    }

    #[test]
    fn a_health_check_and_an_unknown_family_name_nobody() {
        for version in [Version::V1, Version::V2] {
            let ours = own_header(version);
            let read = Some((Header::default(), ours.len()));
            assert_eq!(parse(&ours).unwrap(), read);
        }
        let unknown = b"PROXY UNKNOWN whatever the sender likes\r\n";
        assert_eq!(
            parse(unknown).unwrap(),
            Some((Header::default(), unknown.len()))
        );
    }

    #[test]
    fn what_is_no_header_is_refused_at_once() {
        let long_v1 = [b"PROXY TCP4 ".as_slice(), &[b'1'; 100]].concat();
        let long_v2 = [v2::PROTOCOL_PREFIX, &[0x21, 0x11, 0xff, 0xff]].concat();
        let version_3 = [v2::PROTOCOL_PREFIX, &[0x31, 0x11, 0, 0]].concat();
        for bytes in [
            b"EHLO".as_slice(),
            b"PROXY TCP4 192.0.2.1\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 70000 2\r\n",
            &long_v1,
            &long_v2,
            &version_3,
        ] {
            assert!(parse(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
            let _ = parse(&[v2::PROTOCOL_PREFIX, &bytes].concat());
            let _ = parse(&[b"PROXY ".as_slice(), &bytes].concat());
        }
    }
}
