//! Reads a capture back from the log, with its content or without, and checks it before it is believed.

use std::{fmt, io, sync::Arc};

use bytes::Bytes;

use super::{
    disk::{Area, Disk, DiskFile},
    format::{
        CAPTURE_HEAD_BYTES, CaptureHead, HEADER_BYTES, Header, Kind, LargeRef, Location, Record,
    },
    large,
    shared::Log,
};
use crate::message::{Acceptance, Body, CaptureId, LargeBody, Sighting};

#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// Its segment was freed meanwhile.
    #[error("no such capture")]
    Gone,
    #[error("{0}")]
    Damaged(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A capture's record, whole.
pub(super) struct Whole {
    pub(super) sighting: Sighting,
    pub(super) acceptance: Acceptance,
    pub(super) body: Body,
}

/// A record of at most this length is read at once: a second read would cost more than it spares.
const SHORT_BYTES: usize = 16 * 1024;
/// Most sightings, with what stands before them.
const FRONT_BYTES: usize = 4 * 1024;

/// The sighting of a long record without its content. `None` where it must be read whole: a short or a moved one, one with
/// more to say of itself, and any in doubt.
pub(super) fn sighting_alone(log: &Log, of: Location) -> Result<Option<Sighting>, ReadError> {
    let (file, record_bytes) = segment_of(log, of)?;
    if record_bytes.is_none_or(|bytes| bytes <= SHORT_BYTES) {
        return Ok(None);
    }
    let mut start = [0; FRONT_BYTES];
    let count = file.read_at(&mut start, u64::from(of.offset))?;
    let start = &start[..count];
    let header = Header::parse(start).filter(|it| it.at == of && it.kind == Kind::Capture);
    Ok(header.and_then(|header| {
        let payload = &start[HEADER_BYTES..];
        let head = CaptureHead::parse_front(payload, header.length.into())?;
        serde_json::from_slice(&payload[CAPTURE_HEAD_BYTES..head.body_at()]).ok()
    }))
}

pub(super) fn sighting(log: &Log, of: Location) -> Result<Sighting, ReadError> {
    match sighting_alone(log, of)? {
        Some(sighting) => Ok(sighting),
        None => Ok(whole(log, of)?.sighting),
    }
}

pub(super) fn whole(log: &Log, of: Location) -> Result<Whole, ReadError> {
    let (kind_of, payload) = payload_at(log, of)?;
    let (head, start) = match &kind_of {
        Record::Capture(head) => (*head, 0),
        Record::Moved(_, head, start) => (*head, *start),
        _ => return Err(ReadError::Damaged("not a capture")),
    };
    let capture = payload.slice(start..);
    let body_at = head.body_at();
    let sighting = serde_json::from_slice(&capture[CAPTURE_HEAD_BYTES..body_at])
        .map_err(|_| ReadError::Damaged("sighting cannot be read"))?;
    let body = match head.large {
        None => Body::Small(capture.slice(body_at..)),
        Some(large) => Body::Large(Arc::new(LargeFile {
            disk: log.disk.clone(),
            large,
            bytes: head.content_bytes,
        })),
    };
    let acceptance = acceptance(log, of)?;
    Ok(Whole {
        sighting,
        acceptance,
        body,
    })
}

/// What the next hop made of the capture.
pub(super) fn acceptance(log: &Log, of: Location) -> Result<Acceptance, ReadError> {
    let fate = log.index.lock().fate_of(of).ok_or(ReadError::Gone)?;
    if fate == of {
        return Ok(match payload_at(log, of)?.0 {
            Record::Moved(state, ..) => state.acceptance,
            _ => Acceptance::Unknown,
        });
    }
    // The message matters more than what was answered to it.
    Ok(match payload_at(log, fate) {
        Ok((Record::Fate { acceptance, .. }, _)) => acceptance,
        Ok(_) => Acceptance::Unknown,
        Err(ReadError::Damaged(cause)) => {
            tracing::warn!(cause, "journal: a fate cannot be read");
            Acceptance::Unknown
        }
        Err(error) => return Err(error),
    })
}

/// The ids are in the heads, so that a capture is found without reading its message.
pub(super) fn id_of(log: &Log, of: Location) -> Result<CaptureId, ReadError> {
    let file = {
        let index = log.index.lock();
        index.segment(of).ok_or(ReadError::Gone)?.file.clone()
    };
    let mut start = [0; HEADER_BYTES + CAPTURE_HEAD_BYTES];
    let count = file.read_at(&mut start, u64::from(of.offset))?;
    let header = Header::parse(&start[..count])
        .filter(|header| header.at == of)
        .ok_or(ReadError::Damaged("header checksum does not match"))?;
    let payload = match header.kind {
        Kind::Capture => Bytes::copy_from_slice(&start[HEADER_BYTES..]),
        // Its head stands behind the state that it took along.
        _ => capture_payload(log, of)?,
    };
    let id = payload.get(..16).and_then(|id| id.try_into().ok());
    id.map(CaptureId::from_bytes)
        .ok_or(ReadError::Damaged("no head"))
}

/// A capture's payload, as it would be written into another segment.
pub(super) fn capture_payload(log: &Log, of: Location) -> Result<Bytes, ReadError> {
    let (record, payload) = payload_at(log, of)?;
    match record {
        Record::Capture(_) => Ok(payload),
        Record::Moved(_, _, start) => Ok(payload.slice(start..)),
        _ => Err(ReadError::Damaged("not a capture")),
    }
}

/// Enough for the header and most fates.
const GUESS_BYTES: usize = 512;

fn payload_at(log: &Log, at: Location) -> Result<(Record, Bytes), ReadError> {
    let (file, record_bytes) = segment_of(log, at)?;
    read_record(&*file, at, record_bytes.unwrap_or(GUESS_BYTES))
}

/// The file that a record stands in, and its length where that is known.
fn segment_of(log: &Log, at: Location) -> Result<(Arc<dyn DiskFile>, Option<usize>), ReadError> {
    let index = log.index.lock();
    let segment = index.segment(at).ok_or(ReadError::Gone)?;
    let known = index.entry(at).map(|entry| entry.record_bytes as usize);
    Ok((segment.file.clone(), known))
}

/// The record at `at`, reading `guess` bytes at first.
pub(super) fn read_record(
    file: &dyn DiskFile,
    at: Location,
    guess: usize,
) -> Result<(Record, Bytes), ReadError> {
    let mut bytes = vec![0; guess.max(HEADER_BYTES)];
    let offset = u64::from(at.offset);
    let count = file.read_at(&mut bytes, offset)?;
    bytes.truncate(count);
    let header = Header::parse(&bytes)
        .filter(|header| header.at == at)
        .ok_or(ReadError::Damaged("header checksum does not match"))?;
    let end = HEADER_BYTES + header.length as usize;
    if end > bytes.len() {
        if u64::from(header.length) > file.bytes()? {
            return Err(ReadError::Damaged("impossible length"));
        }
        let have = bytes.len();
        bytes.resize(end, 0);
        let count = file.read_at(&mut bytes[have..], offset + have as u64)?;
        bytes.truncate(have + count);
    }
    let bytes = Bytes::from(bytes);
    if bytes.len() < end || crc32fast::hash(&bytes[HEADER_BYTES..end]) != header.payload_crc {
        return Err(ReadError::Damaged("payload checksum does not match"));
    }
    let payload = bytes.slice(HEADER_BYTES..end);
    let record = Record::decode(header.kind, &payload)
        .ok_or(ReadError::Damaged("payload is not what its kind demands"))?;
    Ok((record, payload))
}

struct LargeFile {
    disk: Arc<dyn Disk>,
    large: LargeRef,
    bytes: u64,
}

impl fmt::Debug for LargeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({} bytes)",
            large::file_name(self.large.name),
            self.bytes
        )
    }
}

impl LargeBody for LargeFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn open(&self) -> io::Result<Box<dyn io::Read + Send>> {
        let name = large::file_name(self.large.name);
        Ok(Box::new(CheckedReader {
            file: self.disk.open(Area::Large, &name)?,
            at: 0,
            bytes: self.bytes,
            crc: crc32fast::Hasher::new(),
            expected: self.large.crc,
        }))
    }
}

/// Reads to the end of the content, and fails there if it was not what was captured.
struct CheckedReader {
    file: Arc<dyn DiskFile>,
    at: u64,
    bytes: u64,
    crc: crc32fast::Hasher,
    expected: u32,
}

impl io::Read for CheckedReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes - self.at;
        let wanted = left.min(out.len() as u64) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.file.read_at(&mut out[..wanted], self.at)?;
        self.crc.update(&out[..count]);
        self.at += count as u64;
        let is_end = self.at == self.bytes;
        if count == 0 || (is_end && self.crc.clone().finalize() != self.expected) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(count)
    }
}
