//! What one sighting of a message has that the stored copy has not: its delivery-trace headers and where they stand.
//!
//! ```text
//! sighting      R1 R2 │ Subject │ S1 │ To │ │ body          R, S: trace fields
//! difference    R1 R2 at 0, S1 at 20                         offsets into the header without any trace
//! stored copy   R9 │ Subject │ To │ │ body        rebuild:   R9 out, R1 R2 and S1 in
//! ```
//!
//! Where two sightings agree in their [`Core`](super::fingerprint::Core), the rebuilt bytes are the sighting's, and their
//! K1 proves it; where they do not, the result is some message with another K1, which is why rebuilding answers the K1
//! and the caller compares before it trusts. Both directions stream: a message is never held, traces are, up to
//! [`TRACE_BYTES_MAX`]. Fails only as the reader or the writer does.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    K1,
    header::{Part, Piece, Scanner},
};

/// A sighting with more trace headers than this is kept whole instead: it is an attack or a loop.
pub const TRACE_BYTES_MAX: usize = 256 * 1024;

const READ_BYTES: usize = 16 * 1024;

/// The trace headers of one sighting. Put into the stored copy, after that copy's own trace headers are taken out, they
/// make the sighting's exact bytes again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// In order of position.
    pub traces: Vec<Trace>,
}

/// A run of trace headers, raw, and its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Offset in bytes into the header block without any trace header, before which the run stands.
    pub at: u64,
    /// The headers as they came, line ends included.
    #[serde(with = "super::text::bytes_as_wire_text")]
    pub bytes: Vec<u8>,
}

impl Difference {
    /// The traces of a message; `None` where they are more than [`TRACE_BYTES_MAX`]. Reads no further than the header,
    /// in pieces.
    pub fn extract(mut message: impl Read) -> io::Result<Option<Self>> {
        let mut found = Self::default();
        let (mut at, mut trace_bytes) = (0u64, 0);
        let mut scanner = Scanner::new();
        let mut sink = |piece: Piece<'_>| match piece.part {
            Part::Trace => {
                trace_bytes += piece.bytes.len();
                if trace_bytes <= TRACE_BYTES_MAX {
                    found.push(at, piece.bytes);
                }
            }
            Part::Field => at += piece.bytes.len() as u64,
            Part::End | Part::Body => {}
        };
        let mut block = [0; READ_BYTES];
        while !scanner.in_body() {
            match read(&mut message, &mut block)? {
                [] => break,
                bytes => scanner.feed(bytes, &mut sink),
            }
        }
        scanner.finish(&mut sink);
        Ok((trace_bytes <= TRACE_BYTES_MAX).then_some(found))
    }

    fn push(&mut self, at: u64, bytes: &[u8]) {
        match self.traces.last_mut() {
            Some(last) if last.at == at => last.bytes.extend_from_slice(bytes),
            _ => self.traces.push(Trace {
                at,
                bytes: bytes.to_vec(),
            }),
        }
    }

    /// Bytes that the difference holds.
    pub fn bytes(&self) -> usize {
        self.traces.iter().map(|trace| trace.bytes.len()).sum()
    }
}

/// Writes the sighting that `difference` was extracted from, made from the `stored` copy, and answers the K1 of what was
/// written. It is the sighting only where that K1 is the sighting's.
pub fn rebuild(stored: impl Read, difference: &Difference, out: impl Write) -> io::Result<K1> {
    let mut rebuilding = Rebuilding {
        traces: &difference.traces,
        at: 0,
        out,
        hasher: Sha256::new(),
        failed: None,
    };
    let mut stored = stored;
    let mut scanner = Scanner::new();
    let mut block = [0; READ_BYTES];
    loop {
        match read(&mut stored, &mut block)? {
            [] => break,
            bytes => scanner.feed(bytes, &mut |piece| rebuilding.put(piece)),
        }
        if let Some(error) = rebuilding.failed.take() {
            return Err(error);
        }
    }
    scanner.finish(&mut |piece| rebuilding.put(piece));
    rebuilding.traces_through(u64::MAX);
    if let Some(error) = rebuilding.failed.take() {
        return Err(error);
    }
    rebuilding.out.flush()?;
    Ok(K1(rebuilding.hasher.finalize().into()))
}

struct Rebuilding<'a, W> {
    /// Those not yet written.
    traces: &'a [Trace],
    /// Bytes of own fields written.
    at: u64,
    out: W,
    hasher: Sha256,
    /// The first failure to write; later pieces are dropped.
    failed: Option<io::Error>,
}

impl<W: Write> Rebuilding<'_, W> {
    fn put(&mut self, piece: Piece<'_>) {
        match piece.part {
            Part::Trace => {}
            Part::Field => {
                if piece.begins {
                    self.traces_through(self.at);
                }
                self.at += piece.bytes.len() as u64;
                self.write(piece.bytes);
            }
            Part::End | Part::Body => {
                self.traces_through(u64::MAX);
                self.write(piece.bytes);
            }
        }
    }

    /// Writes the traces that stand at or before an offset. They stand between fields: an offset within a field was
    /// extracted from a message with another core.
    fn traces_through(&mut self, at: u64) {
        while let [first, rest @ ..] = self.traces {
            if first.at > at {
                break;
            }
            self.write(&first.bytes);
            self.traces = rest;
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.hasher.update(bytes);
            self.failed = self.out.write_all(bytes).err();
        }
    }
}

/// The next bytes; none at the end.
fn read<'a>(from: &mut impl Read, block: &'a mut [u8]) -> io::Result<&'a [u8]> {
    loop {
        match from.read(block) {
            Ok(bytes) => return Ok(&block[..bytes]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::samples::{mail_like, own_field, trace_field},
        *,
    };
    use crate::message::Fingerprinter;

    fn rebuilt(stored: &[u8], sighting: &[u8]) -> (Vec<u8>, K1) {
        let difference = Difference::extract(sighting).unwrap().unwrap();
        let mut out = Vec::new();
        let k1 = rebuild(stored, &difference, &mut out).unwrap();
        (out, k1)
    }

    #[test]
    fn traces_go_back_where_they_stood() {
        let stored = b"Return-Path: <z>\r\nSubject: s\r\nTo: t\r\n\r\nbody\r\n";
        let sighting = b"Received: a\r\n\tb\r\nReceived: c\r\nSubject: s\r\nX-Spam-Flag: NO\r\nTo: t\r\nStatus: RO\r\n\r\nbody\r\n";
        let (bytes, k1) = rebuilt(stored, sighting);
        assert_eq!(bytes, sighting);
        assert_eq!(k1, Fingerprinter::of(sighting).k1);
    }

    #[test]
    fn traces_beyond_the_limit_are_no_difference() {
        let field = b"Received: from somewhere\r\n";
        let many = field.repeat(TRACE_BYTES_MAX / field.len() + 1);
        assert_eq!(Difference::extract(&many[..]).unwrap(), None);
        let long = [b"Received: ".as_slice(), &vec![b'x'; TRACE_BYTES_MAX]].concat();
        assert_eq!(Difference::extract(&long[..]).unwrap(), None);
    }

    #[test]
    fn a_full_disk_is_the_callers_error() {
        let mut small = [0; 10];
        let error = rebuild(
            &b"A: b\r\n\r\nmore than ten bytes"[..],
            &Difference::default(),
            &mut small[..],
        );
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::WriteZero);
    }

    fn message(fields: &[Vec<u8>], body: &[u8]) -> Vec<u8> {
        [&fields.concat(), &b"\r\n"[..], body].concat()
    }

    proptest! {
        /// A message passes two ways; each way adds traces of its own, anywhere.
        #[test]
        fn each_sighting_is_rebuilt_from_the_others_copy(
            own in prop::collection::vec(own_field(), 0..5),
            traces in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), trace_field()), 0..8),
            body in mail_like(),
        ) {
            let mut ways = [own.clone(), own.clone()];
            for (way, at, trace) in traces {
                let fields = &mut ways[usize::from(way)];
                fields.insert(at.index(fields.len() + 1), trace);
            }
            let [one, other] = ways.map(|fields| message(&fields, &body));
            let (first, second) = (Fingerprinter::of(&one), Fingerprinter::of(&other));
            prop_assert_eq!(first.k2, second.k2);
            prop_assert_eq!(first.core, second.core);
            let (bytes, k1) = rebuilt(&one, &other);
            prop_assert_eq!(&bytes, &other);
            prop_assert_eq!(k1, second.k1);
        }

        /// Whatever the bytes: a message is rebuilt from itself, and equal cores are enough.
        #[test]
        fn equal_cores_are_enough(one in mail_like(), other in mail_like(), traces in prop::collection::vec(trace_field(), 0..3)) {
            let traced = [traces.concat(), one.clone()].concat();
            for (stored, sighting) in [(&one, &one), (&one, &other), (&one, &traced), (&traced, &one)] {
                let (kept, seen) = (Fingerprinter::of(stored), Fingerprinter::of(sighting));
                let (bytes, k1) = rebuilt(stored, sighting);
                prop_assert_eq!(k1, Fingerprinter::of(&bytes).k1);
                if kept.core == seen.core {
                    prop_assert_eq!(&bytes, sighting);
                }
            }
        }
    }
}
