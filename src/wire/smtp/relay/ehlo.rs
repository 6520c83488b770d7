//! The EHLO reply: the next hop's, less what cannot pass through us, with what we offer ourselves.

use super::*;
use crate::wire::smtp::{command::decimal, reply::Multiline, xforward};

impl Relay {
    /// A greeting command was taken: a new session for both sides (RFC 5321 section 4.1.4).
    pub(super) fn hello(&mut self, name: WireText, verb: &'static str, reply: &[u8]) {
        self.transaction = Transaction::default();
        self.client.helo = Some(name);
        let protocol = match (verb, self.client.tls.is_some()) {
            ("ESMTP", true) => "ESMTPS",
            ("LMTP", true) => "LMTPS",
            (verb, _) => verb,
        };
        self.client.protocol = Some(protocol.into());
        if verb == "SMTP" {
            self.next_hop = NextHop::default();
            self.to_client.extend_from_slice(reply);
            return;
        }
        self.learn(reply);
        let mut out = std::mem::take(&mut self.to_client);
        let mut lines = reply::lines(reply);
        let mut list = Multiline::new(&mut out, b"250");
        list.line(lines.next().unwrap_or_default());
        let limit = self.rules.message_bytes_max;
        let mut size_said = false;
        for line in lines {
            let (keyword, argument) = split_keyword(line);
            match keyword.to_ascii_uppercase().as_slice() {
                b"STARTTLS" => {}
                // Binary data of a length that only its parties know follows its command.
                b"XEXCH50" => {}
                // Content that the next hop fetches elsewhere would pass uncopied.
                b"BURL" => {}
                b"XFORWARD" | b"XCLIENT" if !self.trusted => {}
                b"SIZE" if limit > 0 => {
                    // 0 or no number: the next hop has no fixed limit (RFC 1870 section 4)
                    let theirs = decimal(argument).filter(|n| *n > 0).unwrap_or(limit);
                    list.line(format!("SIZE {}", theirs.min(limit)).as_bytes());
                    size_said = true;
                }
                b"AUTH" => {
                    if let Some(line) = self.mechanisms(argument) {
                        list.line(&line);
                    }
                }
                // An old form of the same: AUTH=LOGIN
                word if word.starts_with(b"AUTH=") && self.hides_auth() => {}
                _ => list.line(line),
            }
        }
        if limit > 0 && !size_said {
            list.line(format!("SIZE {limit}").as_bytes());
        }
        if self.rules.starttls && self.client.tls.is_none() {
            list.line(b"STARTTLS");
        }
        if self.trusted {
            if self.next_hop.xforward.is_none() {
                list.line(format!("XFORWARD {}", xforward::ATTRIBUTES.join(" ")).as_bytes());
            }
            if self.next_hop.xclient.is_none() {
                let attributes = xforward::XCLIENT_ATTRIBUTES.join(" ");
                list.line(format!("XCLIENT {attributes}").as_bytes());
            }
        }
        list.end();
        self.to_client = out;
    }

    /// Keeps what the next hop can do.
    pub(super) fn learn(&mut self, reply: &[u8]) {
        let mut next_hop = NextHop::default();
        for line in reply::lines(reply).skip(1) {
            let (keyword, argument) = split_keyword(line);
            match keyword.to_ascii_uppercase().as_slice() {
                b"CHUNKING" => next_hop.chunking = true,
                b"STARTTLS" => next_hop.starttls = true,
                b"XFORWARD" => next_hop.xforward = Some(argument.to_vec()),
                b"XCLIENT" => next_hop.xclient = Some(argument.to_vec()),
                _ => {}
            }
        }
        self.next_hop = next_hop;
    }

    /// The next hop offers AUTH because its own leg is secured; the client's is not.
    fn hides_auth(&self) -> bool {
        self.upstream_tls && self.client.tls.is_none() && !self.trusted
    }

    /// The mechanisms that work through us: not those that bind to the TLS channel or to the client's certificate, for
    /// the next hop sees our channel and our certificate.
    fn mechanisms(&self, argument: &[u8]) -> Option<Vec<u8>> {
        if self.hides_auth() {
            return None;
        }
        let mut line = b"AUTH".to_vec();
        for mechanism in argument.split(|b| *b == b' ').filter(|m| !m.is_empty()) {
            let upper = mechanism.to_ascii_uppercase();
            if !upper.ends_with(b"-PLUS") && upper != b"EXTERNAL" {
                line.push(b' ');
                line.extend_from_slice(mechanism);
            }
        }
        (line.len() > 4).then_some(line)
    }
}

fn split_keyword(line: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b' ', line) {
        Some(space) => (&line[..space], line[space + 1..].trim_ascii()),
        None => (line, b""),
    }
}
