//! Room in the log: which segment takes the next record, and the record put into the buffer.
//!
//! A segment opens with what recovery needs to know of the one before it, and with what became of captures and could not
//! be written there. Near its end a part is kept for settles; a record larger than a segment has one made for its size.

use super::{Current, PAGE_BYTES, Staged, Writer};
use crate::journal::{
    JournalError,
    format::{Header, Kind, Location, Opening, Record, record_bytes},
    keeper,
    shared::failed,
};

/// Room for an opening, with the longest names.
const OPENING_BYTES: u64 = 8 << 10;
/// No segment is larger; offsets have 32 bits.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Bytes at the end of a segment that only settles may use.
pub(in crate::journal) fn reserve_bytes(segment_bytes: u64) -> u64 {
    (segment_bytes / 8).min(64 << 10)
}

impl Writer {
    /// Makes sure that a record of `size` fits in the current segment with `reserve` to spare, going on to the next one
    /// where it does not.
    pub(super) fn make_room(&mut self, size: u64, reserve: u64) -> Result<(), JournalError> {
        if let Some(current) = &self.current
            && current.base + self.buffer.len() as u64 + size + reserve <= current.bytes
        {
            return Ok(());
        }
        let needed = size + reserve + OPENING_BYTES;
        if needed > SEGMENT_BYTES_MAX {
            return Err(JournalError::Full(format!(
                "a record of {size} bytes does not fit in a segment"
            )));
        }
        let is_outsize = needed > self.shared.options.segment_bytes;
        if is_outsize {
            self.shared.check_free_space(needed)?;
        }
        self.flush(true);
        let prepared = self
            .shared
            .keeper
            .take()
            .map_err(failed("make a segment"))?;
        if let Some(done) = self.current.take() {
            self.previous.push(Location {
                segment: done.id,
                offset: done.synced as u32,
            });
            self.shared.log.index.lock().seal(done.id);
        }
        let mut index = self.shared.log.index.lock();
        index.add_segment(prepared.id, prepared.file.clone());
        let opening = Record::Opening(Opening {
            previous: self.previous.clone(),
            targets: index.slots(),
        });
        drop(index);
        self.current = Some(Current {
            id: prepared.id,
            file: prepared.file,
            bytes: self.shared.options.segment_bytes,
            base: 0,
            synced: 0,
        });
        let (kind, payload) = opening.encode();
        self.stage(kind, &[&payload], crc32fast::hash(&payload));
        let grown = match is_outsize {
            true => self.grow(needed.next_multiple_of(PAGE_BYTES as u64)),
            false => Ok(()),
        };
        let room = self.shared.options.segment_bytes.max(needed) - size - reserve;
        for record in self.backlog.take_unwritten() {
            let (kind, payload) = record.encode();
            let bytes = record_bytes(payload.len());
            if (self.buffer.len() + bytes) as u64 > room {
                // In the next segment, then.
                self.backlog.is_unwritten(record);
                continue;
            }
            let at = self.stage(kind, &[&payload], crc32fast::hash(&payload));
            self.staged
                .push(Staged::Change(at, bytes as u32, record, None));
        }
        grown
    }

    /// Lengthens the current segment for a record that no other would hold: an envelope of very many recipients, as a
    /// rule. It is written over as every segment is, here rather than by the keeper, since hardly any ever comes.
    fn grow(&mut self, bytes: u64) -> Result<(), JournalError> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let _promise = self.shared.promise_space(bytes - current.bytes)?;
        keeper::fill(&*current.file, current.bytes, bytes).map_err(failed("grow a segment"))?;
        current.bytes = bytes;
        Ok(())
    }

    /// Appends a record to the buffer; the caller has made room.
    pub(super) fn stage(&mut self, kind: Kind, parts: &[&[u8]], payload_crc: u32) -> Location {
        let current = self.current.as_ref().expect("make_room came first");
        let at = Location {
            segment: current.id,
            offset: (current.base + self.buffer.len() as u64) as u32,
        };
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let header = Header {
            kind,
            at,
            synced: current.synced as u32,
            length: length as u32,
            payload_crc,
        };
        let end = self.buffer.len() + record_bytes(length);
        self.buffer.extend_from_slice(&header.encode());
        for part in parts {
            self.buffer.extend_from_slice(part);
        }
        self.buffer.resize(end, 0);
        at
    }
}
