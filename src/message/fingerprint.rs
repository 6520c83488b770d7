//! The identity of a message: K1 is its exact bytes, K2 is the message whatever route it took, Core is what two copies
//! must agree in to be made from each other.
//!
//! ```text
//! message          =  trace fields, own fields, empty line, body          (told apart by [`super::header`])
//! K1               =  SHA-256 of all of it
//! K2               =  BLAKE3( H(own fields, relaxed) H(body, line ends CRLF, none at the end) )
//! Core             =  BLAKE3( H(own fields and empty line, exact) H(body as for K2) H(what that form lost) )
//! H(x)             =  BLAKE3 of x, 32 bytes
//! ```
//!
//! The body is hashed once for both: its canonical form and what the form lost determine its bytes, so Core is a digest
//! of the exact bytes without the traces. Adding, removing or reordering traces changes neither; the empty line is not in
//! K2 because an MTA inserts it where a malformed line ended the header. One pass, bounded memory, any bytes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    canonical::{Body, Fields, Gathered},
    header::{Part, Piece, Scanner},
};

/// A digest of 32 bytes, written as 64 hexadecimal digits.
macro_rules! digest {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0u8; 64];
                for (byte, pair) in self.0.iter().zip(text.chunks_exact_mut(2)) {
                    pair[0] = HEX[usize::from(byte >> 4)];
                    pair[1] = HEX[usize::from(byte & 15)];
                }
                f.write_str(std::str::from_utf8(&text).expect("hexadecimal digits are ASCII"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = NotADigest;
            fn from_str(text: &str) -> Result<Self, NotADigest> {
                parse_hex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

const HEX: &[u8; 16] = b"0123456789abcdef";

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 hexadecimal digits")]
pub struct NotADigest;

fn parse_hex(text: &str) -> Result<[u8; 32], NotADigest> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return Err(NotADigest);
    }
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16).ok_or(NotADigest)?;
        let low = char::from(pair[1]).to_digit(16).ok_or(NotADigest)?;
        *byte = (high << 4 | low) as u8;
    }
    Ok(out)
}

digest! {
    /// SHA-256 of the exact bytes, bare line ends as they are; what `sha256sum` prints for the `.eml`.
    K1
}
digest! {
    /// The message without its delivery-trace headers, header fields unfolded, line ends normalised.
    K2
}
digest! {
    /// The exact bytes without the trace headers: where two sightings agree in it, each can be made from the other's
    /// copy by exchanging trace headers alone.
    Core
}

/// The three digests of one message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint {
    pub k1: K1,
    pub k2: K2,
    pub core: Core,
}

/// Computes a [`Fingerprint`] in one pass over bytes in any chunking.
///
/// Fastest when fed what one read gave (8 KiB and more); its own buffers are under 32 KiB.
pub struct Fingerprinter {
    /// Boxed: the hashers' stacks would make a session's future large.
    streams: Box<Streams>,
}

struct Streams {
    scanner: Scanner,
    exact: Sha256,
    parts: Parts,
}

struct Parts {
    own_fields: Fields,
    own_fields_exact: Gathered,
    body: Body,
}

impl Default for Fingerprinter {
    fn default() -> Self {
        Self::new()
    }
}

impl Fingerprinter {
    pub fn new() -> Self {
        Self {
            streams: Box::new(Streams {
                scanner: Scanner::new(),
                exact: Sha256::new(),
                parts: Parts {
                    own_fields: Fields::new(),
                    own_fields_exact: Gathered::new(),
                    body: Body::new(),
                },
            }),
        }
    }

    /// The fingerprint of a message held whole.
    pub fn of(message: &[u8]) -> Fingerprint {
        let mut fingerprinter = Self::new();
        fingerprinter.update(message);
        fingerprinter.finish()
    }

    pub fn update(&mut self, bytes: &[u8]) {
        let Streams {
            scanner,
            exact,
            parts,
        } = &mut *self.streams;
        exact.update(bytes);
        scanner.feed(bytes, &mut |piece| parts.put(piece));
    }

    /// K1 of the bytes so far.
    pub fn k1(&self) -> K1 {
        K1(self.streams.exact.clone().finalize().into())
    }

    /// The fingerprint of all bytes so far, which are the message.
    pub fn finish(self) -> Fingerprint {
        let Streams {
            mut scanner,
            exact,
            mut parts,
        } = *self.streams;
        scanner.finish(&mut |piece| parts.put(piece));
        let own_fields = parts.own_fields.finish();
        let (body, deviations) = parts.body.finish();
        Fingerprint {
            k1: K1(exact.finalize().into()),
            k2: K2(digest_of(&[own_fields, body])),
            core: Core(digest_of(&[
                parts.own_fields_exact.finish(),
                body,
                deviations,
            ])),
        }
    }
}

impl Parts {
    fn put(&mut self, piece: Piece<'_>) {
        match piece.part {
            Part::Trace => {}
            Part::Field => {
                if piece.begins {
                    self.own_fields.begin();
                }
                self.own_fields.put(piece.bytes);
                self.own_fields_exact.put(piece.bytes);
            }
            Part::End => self.own_fields_exact.put(piece.bytes),
            Part::Body => self.body.put(piece.bytes),
        }
    }
}

fn digest_of(parts: &[[u8; 32]]) -> [u8; 32] {
    *blake3::hash(parts.as_flattened()).as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::samples::mail_like, *};

    fn k2(message: &str) -> K2 {
        Fingerprinter::of(message.as_bytes()).k2
    }

    const PLAIN: &str =
        "From: a@example.org\r\nSubject: hello there\r\n\r\nFirst line\r\nSecond line\r\n";

    #[test]
    fn k1_is_what_sha256sum_prints() {
        assert_eq!(
            Fingerprinter::of(b"abc").k1.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn the_way_a_message_took_is_not_in_k2() {
        for other in [
            PLAIN.replace("\r\n", "\n"),
            PLAIN.replace("Subject: hello there", "subject :hello\r\n\t there "),
            format!("Received: by x\r\n\tfor y\r\n{PLAIN}"),
            format!("From a@example.org Mon Jan  1 00:00:00 2026\n{PLAIN}"),
            PLAIN.replace("Subject", "X-Spam-Flag: NO\r\nSubject"),
            PLAIN.replace("\r\n\r\n", "\r\nStatus: RO\r\n\r\n"),
            format!("{PLAIN}\r\n\n"),
            PLAIN.trim_end().to_owned(),
        ] {
            assert_eq!(k2(&other), k2(PLAIN), "{other:?}");
            assert_ne!(
                Fingerprinter::of(other.as_bytes()).k1,
                Fingerprinter::of(PLAIN.as_bytes()).k1
            );
        }
    }

    #[test]
    fn what_the_author_wrote_is_in_k2() {
        for other in [
            PLAIN.replace("hello there", "hello There"),
            PLAIN.replace("hello there", "hellothere"),
            PLAIN.replace("Subject", "X-Subject"),
            PLAIN.replace(
                "From: a@example.org\r\nSubject: hello there",
                "Subject: hello there\r\nFrom: a@example.org",
            ),
            PLAIN.replace("First line", "First line "),
            PLAIN.replace("First line\r\n", "First line\r\n\r\n"),
            PLAIN.replace("First line\r\n", "First line\r\r\n"),
            PLAIN.replace("First line\r\n", "First line\r"),
            PLAIN.replace("Second line\r\n", "Second line\r"),
            PLAIN.replace("\r\n\r\n", "\r\nBcc: b@example.org\r\n\r\n"),
            PLAIN.replace(
                "Subject: hello there\r\n\r\n",
                "\r\nSubject: hello there\r\n",
            ),
            PLAIN.replace("First", "Fi\0rst"),
        ] {
            assert_ne!(k2(&other), k2(PLAIN), "{other:?}");
        }
    }

    #[test]
    fn the_same_header_over_another_body_is_another_message() {
        let with_id = PLAIN.replace("Subject", "Message-ID: <1@example.org>\r\nSubject");
        assert_ne!(k2(&with_id), k2(&with_id.replace("Second", "2nd")));
        // A draft that was saved, and what was sent of it under the same Message-ID.
        assert_ne!(k2(&with_id), k2(&with_id.replace("hello there", "hello")));
    }

    #[test]
    fn messages_without_message_id_subject_or_header_are_told_apart() {
        let bodies = [
            "\r\none\r\n",
            "\r\ntwo\r\n",
            "",
            "one two",
            "From: a@example.org\r\n\r\none\r\n",
        ];
        let seen: std::collections::HashSet<K2> = bodies.iter().map(|body| k2(body)).collect();
        assert_eq!(seen.len(), bodies.len());
    }

    #[test]
    fn an_mta_that_puts_the_missing_empty_line_in_changes_the_core_alone() {
        let (without, with) = ("A: b\r\nnot a field\r\n", "A: b\r\n\r\nnot a field\r\n");
        assert_eq!(k2(without), k2(with));
        assert_ne!(
            Fingerprinter::of(without.as_bytes()).core,
            Fingerprinter::of(with.as_bytes()).core
        );
    }

    #[test]
    fn the_core_sees_every_line_end() {
        let core = |message: &str| Fingerprinter::of(message.as_bytes()).core;
        let mut seen = std::collections::HashSet::new();
        for body in [
            "a\r\nb\r\n",
            "a\nb\r\n",
            "a\r\nb\n",
            "a\nb\n",
            "a\r\nb",
            "a\nb",
            "a\nb\n\n",
            "a\nb\r\n\n",
            "a\nb\n\r\n",
        ] {
            assert!(
                seen.insert(core(&format!("A: b\r\n\r\n{body}"))),
                "{body:?}"
            );
        }
        assert!(seen.insert(core("A: b\n\r\na\r\nb\r\n")));
        assert!(seen.insert(core("A:b\r\n\r\na\r\nb\r\n")));
    }

    proptest! {
        #[test]
        fn chunking_changes_nothing(message in mail_like(), padding in prop_oneof![Just(0usize), 8100..8300usize], cuts in prop::collection::vec(1..40usize, 1..8)) {
            let mut message = message;
            message.extend(std::iter::repeat_n(b"line\r\n", padding / 6).flatten());
            message.extend_from_slice(b"\r\nend\n\r\n");
            let whole = Fingerprinter::of(&message);
            let mut pieces = Fingerprinter::new();
            let mut rest = &message[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.update(piece);
                rest = after;
            }
            prop_assert_eq!(pieces.finish(), whole);
        }
    }
}
