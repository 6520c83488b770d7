//! Journal reports of Exchange, Microsoft 365 and WorkMail: the copy is the message inside, the envelope is the report's.
//!
//! A report is a multipart message with a marker header; its text part lists sender and recipients, a `message/rfc822`
//! part is the journaled message, unaltered (MS-XJRNL; TechNet bb738122). The parser is pushed: content goes in as it
//! arrives, in any chunking, the inner message's bytes come out at once, and only headers and the text part are held.
//! It never guesses. Whatever it does not fully understand is a [`ReportError`], and the caller keeps the whole report
//! as [`Fidelity::ReportUnparsed`](super::Fidelity::ReportUnparsed): until [`ReportParser::finish`] says `Ok`, keep both.

mod boundary;
mod fields;
mod text;
mod transfer;

use self::{
    boundary::{Boundary, Found},
    fields::{ContentType, Fields},
    transfer::{Encoding, Transfer},
};
use super::{Envelope, WireText};

/// Bounds on what the parser holds in memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of the report's own header, and of each part's.
    pub header_bytes_max: usize,
    /// Of the text part, as it is encoded. Recipients are not counted, only bounded by this.
    pub text_bytes_max: usize,
}

impl Default for Limits {
    /// 16 MiB of text is some 300,000 recipients.
    fn default() -> Self {
        Self {
            header_bytes_max: 256 << 10,
            text_bytes_max: 16 << 20,
        }
    }
}

/// What a report says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub envelope: Envelope,
    pub message_id: Option<WireText>,
    /// In UTF-8, where the text part's charset is known.
    pub subject: Option<WireText>,
}

/// Why the whole message is the copy: it is no report, or one that is not fully understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    #[error("journal report: no report header")]
    NotAReport,
    #[error("journal report: {part} of more than {max} bytes")]
    TooLarge { part: &'static str, max: usize },
    #[error("journal report: not multipart with a boundary")]
    NotMultipart,
    #[error("journal report: unknown transfer encoding {0}")]
    UnknownEncoding(WireText),
    #[error("journal report: broken {0} encoding")]
    BrokenEncoding(&'static str),
    #[error("journal report: {0} text parts, expected one")]
    TextParts(usize),
    #[error("journal report: {0} inner messages, expected one")]
    InnerMessages(usize),
    #[error("journal report: the inner message is empty")]
    EmptyInner,
    #[error("journal report: it ends before its last boundary")]
    Unclosed,
    #[error("journal report: no Sender line")]
    NoSender,
    #[error("journal report: no recipient")]
    NoRecipient,
    #[error("journal report: line without an address: {0}")]
    NoAddress(WireText),
}

/// How the parser stands with the message so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The header has not ended: nothing is known.
    Undecided,
    /// No report header, or a report that cannot be taken apart: the message as it is, is the copy. Nothing more will
    /// come out; `finish` tells which it was.
    Whole,
    /// So far it is a report.
    Report,
}

#[derive(Debug)]
enum Place {
    Header,
    /// Before the first boundary, after the last, and in parts of no interest.
    Skip,
    PartHeader,
    Text(ContentType),
    Inner(Transfer),
    Closed,
    Failed(ReportError),
}

/// Takes one message in any chunking.
#[derive(Debug)]
pub struct ReportParser {
    limits: Limits,
    place: Place,
    /// The header being read.
    header: Vec<u8>,
    /// Bytes of `header` before its last line, which may be incomplete.
    line_start: usize,
    boundary: Boundary,
    /// The text part, still encoded.
    text: Vec<u8>,
    text_type: ContentType,
    texts: usize,
    inners: usize,
    /// Decoded length of the inner message, and whether it ends with a line end.
    inner_bytes: u64,
    inner_ends_line: bool,
}

impl ReportParser {
    /// What it holds in memory just now.
    pub fn held_bytes(&self) -> usize {
        self.header.capacity() + self.text.capacity()
    }

    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            place: Place::Header,
            header: Vec::new(),
            line_start: 0,
            boundary: Boundary::default(),
            text: Vec::new(),
            text_type: ContentType::default(),
            texts: 0,
            inners: 0,
            inner_bytes: 0,
            inner_ends_line: false,
        }
    }

    /// Shows the next bytes of content. Bytes of the inner message are appended to `inner`.
    pub fn feed(&mut self, bytes: &[u8], inner: &mut Vec<u8>) -> Standing {
        if let Err(error) = self.advance(bytes, inner) {
            self.fail(error);
        }
        self.standing()
    }

    pub fn standing(&self) -> Standing {
        match self.place {
            Place::Header => Standing::Undecided,
            Place::Failed(_) => Standing::Whole,
            _ => Standing::Report,
        }
    }

    /// The end of content. The last bytes of the inner message may come out only now.
    pub fn finish(mut self, inner: &mut Vec<u8>) -> Result<Report, ReportError> {
        if let Some(Found::Delimiter { close }) = self.boundary.finish() {
            self.delimiter(close, inner)?;
        }
        match self.place {
            Place::Failed(error) => return Err(error),
            Place::Header => return Err(ReportError::NotAReport),
            Place::Closed => {}
            _ => return Err(ReportError::Unclosed),
        }
        if self.inners != 1 {
            return Err(ReportError::InnerMessages(self.inners));
        }
        if self.texts != 1 {
            return Err(ReportError::TextParts(self.texts));
        }
        let decoded = transfer::decode(self.text_type.encoding, &self.text)?;
        text::parse(&text::to_utf8(self.text_type.charset.as_deref(), decoded))
    }

    fn fail(&mut self, error: ReportError) {
        self.place = Place::Failed(error);
        self.header = Vec::new();
        self.text = Vec::new();
    }

    fn advance(&mut self, mut bytes: &[u8], inner: &mut Vec<u8>) -> Result<(), ReportError> {
        while !bytes.is_empty() {
            bytes = match self.place {
                Place::Failed(_) | Place::Closed => return Ok(()),
                Place::Header | Place::PartHeader => self.header_line(bytes, inner)?,
                Place::Skip | Place::Text(_) | Place::Inner(_) => self.body(bytes, inner)?,
            };
        }
        Ok(())
    }

    /// Takes bytes up to the end of a header line; at the blank line, goes into what it announces.
    fn header_line<'a>(
        &mut self,
        bytes: &'a [u8],
        inner: &mut Vec<u8>,
    ) -> Result<&'a [u8], ReportError> {
        let end = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
        let (taken, rest) = bytes.split_at(end);
        if self.header.len() + taken.len() > self.limits.header_bytes_max {
            return Err(ReportError::TooLarge {
                part: "a header",
                max: self.limits.header_bytes_max,
            });
        }
        self.header.extend_from_slice(taken);
        if !taken.ends_with(b"\n") {
            return Ok(rest);
        }
        let line = &self.header[self.line_start..];
        if matches!(line, b"\r\n" | b"\n") {
            let header = std::mem::take(&mut self.header);
            self.line_start = 0;
            self.enter(&Fields(&header))?;
        } else if let Some(close) = self.boundary.is_delimiter(line) {
            // A part that ends within its own header has no content.
            self.delimiter(close, inner)?;
        } else {
            self.line_start = self.header.len();
        }
        Ok(rest)
    }

    fn enter(&mut self, fields: &Fields<'_>) -> Result<(), ReportError> {
        if matches!(self.place, Place::Header) {
            if !fields.announce_a_report() {
                return Err(ReportError::NotAReport);
            }
            let boundary = ContentType::of(fields)?
                .boundary
                .ok_or(ReportError::NotMultipart)?;
            self.boundary = Boundary::new(&boundary);
            self.place = Place::Skip;
            return Ok(());
        }
        let content_type = ContentType::of(fields)?;
        self.boundary.begin_line();
        self.place = match content_type.media_type.as_slice() {
            b"text/plain" => {
                self.texts += 1;
                Place::Text(content_type)
            }
            // RFC 6532 names the second for messages with UTF-8 headers.
            b"message/rfc822" | b"message/global" => {
                self.inners += 1;
                Place::Inner(Transfer::new(content_type.encoding))
            }
            _ => Place::Skip,
        };
        // With two inner messages (a decrypted copy beside the encrypted one) neither alone is the message.
        if self.inners > 1 {
            return Err(ReportError::InnerMessages(self.inners));
        }
        Ok(())
    }

    fn body<'a>(&mut self, bytes: &'a [u8], inner: &mut Vec<u8>) -> Result<&'a [u8], ReportError> {
        let before = inner.len();
        let mut pieces = Pieces {
            place: &mut self.place,
            text: &mut self.text,
            text_bytes_max: self.limits.text_bytes_max,
            inner,
        };
        let (used, found) = self.boundary.scan(bytes, |content| pieces.take(content))?;
        self.note_inner(&inner[before..]);
        if let Found::Delimiter { close } = found {
            self.delimiter(close, inner)?;
        }
        Ok(&bytes[used..])
    }

    fn note_inner(&mut self, bytes: &[u8]) {
        self.inner_bytes += bytes.len() as u64;
        if let Some(last) = bytes.last() {
            self.inner_ends_line = *last == b'\n';
        }
    }

    /// A boundary line: what stood before it has ended.
    fn delimiter(&mut self, close: bool, inner: &mut Vec<u8>) -> Result<(), ReportError> {
        let next = if close {
            Place::Closed
        } else {
            Place::PartHeader
        };
        self.header.clear();
        self.line_start = 0;
        match std::mem::replace(&mut self.place, next) {
            Place::Text(content_type) => self.text_type = content_type,
            Place::Inner(transfer) => {
                let encoding = transfer.encoding();
                let before = inner.len();
                transfer.finish(inner)?;
                self.note_inner(&inner[before..]);
                // The line end before a boundary belongs to the boundary (RFC 2046 section 5.1.1), but a message that
                // came by SMTP ends with one: where the writer of the report added none, this was the message's own.
                if encoding != Encoding::Base64 && !self.inner_ends_line {
                    inner.extend_from_slice(self.boundary.line_end_before());
                }
                if self.inner_bytes == 0 {
                    return Err(ReportError::EmptyInner);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Where the content of the present part goes.
struct Pieces<'a> {
    place: &'a mut Place,
    text: &'a mut Vec<u8>,
    text_bytes_max: usize,
    inner: &'a mut Vec<u8>,
}

impl Pieces<'_> {
    fn take(&mut self, content: &[u8]) -> Result<(), ReportError> {
        match self.place {
            Place::Text(_) if self.text.len() + content.len() > self.text_bytes_max => {
                Err(ReportError::TooLarge {
                    part: "the text part",
                    max: self.text_bytes_max,
                })
            }
            Place::Text(_) => {
                self.text.extend_from_slice(content);
                Ok(())
            }
            Place::Inner(transfer) => transfer.push(content, self.inner),
            _ => Ok(()),
        }
    }
}

/// Takes a report apart that is in memory as a whole: what it says, and the inner message.
pub fn parse(content: &[u8], limits: Limits) -> Result<(Report, Vec<u8>), ReportError> {
    let mut inner = Vec::new();
    let mut parser = ReportParser::new(limits);
    parser.feed(content, &mut inner);
    let report = parser.finish(&mut inner)?;
    Ok((report, inner))
}
