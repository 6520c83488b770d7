//! Finds boundary lines in a stream (RFC 2046 section 5.1.1) and passes everything between them on, byte for byte.
//!
//! Held back is only what may still belong to a boundary: the line end before it and the start of its line.

use super::ReportError;

/// White space that a gateway may add behind a boundary; a line longer than this is none.
const PADDING_BYTES_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Boundary {
    /// `--` and the boundary; empty before it is known.
    mark: Vec<u8>,
    /// The start of a line, as long as it may become a boundary line.
    line: Vec<u8>,
    within_line: bool,
    /// A line end that belongs to the next line if that is a boundary.
    held: &'static [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// All bytes are used, no boundary yet.
    Nothing,
    Delimiter {
        close: bool,
    },
}

impl Boundary {
    pub(super) fn new(boundary: &[u8]) -> Self {
        Self {
            mark: [b"--", boundary].concat(),
            ..Self::default()
        }
    }

    /// A part's content begins: its first line may already be the next boundary.
    pub(super) fn begin_line(&mut self) {
        self.within_line = false;
        self.line.clear();
        self.held = b"";
    }

    /// The line end that stood before the boundary just found.
    pub(super) fn line_end_before(&self) -> &'static [u8] {
        self.held
    }

    /// Is this whole line a boundary, and if so, the last?
    pub(super) fn is_delimiter(&self, line: &[u8]) -> Option<bool> {
        if self.mark.is_empty() {
            return None;
        }
        let rest = line.strip_prefix(self.mark.as_slice())?;
        let (close, padding) = match rest.strip_prefix(b"--") {
            Some(padding) => (true, padding),
            None => (false, rest),
        };
        let is_padding = padding
            .iter()
            .all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
        is_padding.then_some(close)
    }

    /// Passes content on until a boundary line has been read or `bytes` are used up; how many were used.
    pub(super) fn scan(
        &mut self,
        bytes: &[u8],
        mut content: impl FnMut(&[u8]) -> Result<(), ReportError>,
    ) -> Result<(usize, Found), ReportError> {
        let mut used = 0;
        while used < bytes.len() {
            let rest = &bytes[used..];
            if self.within_line {
                used += self.pass(rest, &mut content)?;
                continue;
            }
            // Collect the line while it may be a boundary: an ordinary line is found out at its first byte.
            let taken = rest
                .iter()
                .position(|byte| {
                    self.line.push(*byte);
                    *byte == b'\n' || !self.may_be_delimiter()
                })
                .map_or(rest.len(), |at| at + 1);
            used += taken;
            if self.line.ends_with(b"\n")
                && let Some(close) = self.is_delimiter(&self.line)
            {
                self.line.clear();
                return Ok((used, Found::Delimiter { close }));
            }
            if self.line.ends_with(b"\n") || !self.may_be_delimiter() {
                self.release(&mut content)?;
            }
        }
        Ok((used, Found::Nothing))
    }

    /// The stream ended; the last line may be a boundary without a line end.
    pub(super) fn finish(&mut self) -> Option<Found> {
        if self.within_line {
            return None;
        }
        let close = self.is_delimiter(&self.line)?;
        self.line.clear();
        Some(Found::Delimiter { close })
    }

    fn may_be_delimiter(&self) -> bool {
        let compared = self.line.len().min(self.mark.len());
        self.line[..compared] == self.mark[..compared]
            && self.line.len() <= self.mark.len() + PADDING_BYTES_MAX
    }

    /// The line is none: it is content, and so is the line end before it.
    fn release(
        &mut self,
        content: &mut impl FnMut(&[u8]) -> Result<(), ReportError>,
    ) -> Result<(), ReportError> {
        content(std::mem::take(&mut self.held))?;
        self.within_line = true;
        let mut line = std::mem::take(&mut self.line);
        let mut passed = 0;
        while passed < line.len() {
            passed += self.pass(&line[passed..], content)?;
        }
        line.clear();
        self.line = line;
        Ok(())
    }

    /// Within a line that is content: passes bytes on up to its end, which is held. At least one byte is used.
    fn pass(
        &mut self,
        bytes: &[u8],
        content: &mut impl FnMut(&[u8]) -> Result<(), ReportError>,
    ) -> Result<usize, ReportError> {
        if self.held == b"\r" {
            if bytes[0] == b'\n' {
                self.held = b"\r\n";
                self.within_line = false;
                return Ok(1);
            }
            content(b"\r")?;
            self.held = b"";
        }
        let end = memchr::memchr(b'\n', bytes);
        let line = &bytes[..end.unwrap_or(bytes.len())];
        let (text, carriage_return) = match line.strip_suffix(b"\r") {
            Some(text) => (text, true),
            None => (line, false),
        };
        content(text)?;
        self.held = match (carriage_return, end) {
            (true, Some(_)) => b"\r\n",
            (true, None) => b"\r",
            (false, Some(_)) => b"\n",
            (false, None) => b"",
        };
        self.within_line = end.is_none();
        Ok(end.map_or(bytes.len(), |at| at + 1))
    }
}
