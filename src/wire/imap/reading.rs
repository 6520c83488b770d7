//! Messages that the server shows: FETCH responses, item by item. A header that is shown by itself is kept for the text
//! that may follow, and both are the message.

use std::borrow::Cow;

use super::{
    LITERAL, Move, Side, Watcher,
    fetch::{Event, Fetch, Shown},
    server::{Mode, Server},
};
use crate::wire::watch::{CopyId, Form, Found, Hint, Message, Step};

/// A header is kept for the text that may follow, up to so much.
const HEADER_BYTES_MAX: u64 = 32 << 10;

/// A message's header.
#[derive(Debug)]
pub(super) struct Header {
    of: Numbered,
    uid: Option<u32>,
    bytes: Vec<u8>,
}

impl Header {
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

/// Which message of the selected folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbered {
    /// FETCH has its sequence number.
    Sequence(u32),
    /// UIDFETCH (RFC 9586).
    Uid(u32),
}

impl Numbered {
    /// None: of no message.
    fn uid(self) -> Option<u32> {
        match self {
            Self::Uid(uid @ 1..) => Some(uid),
            Self::Uid(0) | Self::Sequence(_) => None,
        }
    }

    fn is_of_one(self) -> bool {
        !matches!(self, Self::Sequence(0) | Self::Uid(0))
    }
}

#[derive(Debug)]
pub(super) struct Fetching {
    of: Numbered,
    fetch: Fetch,
    copy: Option<CopyId>,
    /// Of the literal that is passing, and what it is.
    left: u64,
    shown: Shown,
    /// Of the header that the text at hand was joined to.
    header_uid: Option<u32>,
}

impl Fetching {
    /// A response to its last parenthesis; `header`: the latest that was shown by itself.
    pub(super) fn new(of: Numbered, header: Option<&Header>) -> Self {
        Self {
            of,
            fetch: Fetch::new(of.uid(), header.is_some_and(|it| it.of == of)),
            copy: None,
            left: 0,
            shown: Shown::Other,
            header_uid: None,
        }
    }
}

impl Watcher {
    pub(super) fn fetch_bytes(&mut self, bytes: &[u8]) -> Move {
        let Server { mode, header, .. } = &mut self.server;
        let Mode::Fetch(fetching) = mode else {
            return Move::Take(0);
        };
        if fetching.left > 0 {
            let left = usize::try_from(fetching.left).unwrap_or(usize::MAX);
            let taken = left.min(bytes.len());
            if let (Some(copy), Shown::Content) = (fetching.copy, fetching.shown) {
                return Move::Content(copy, taken);
            }
            fetching.left -= taken as u64;
            if let (Some(header), Shown::Header) = (header.as_mut(), fetching.shown) {
                header.bytes.extend_from_slice(&bytes[..taken]);
                fetching.fetch.joins = fetching.left == 0;
            }
            return Move::Pass(taken);
        }
        let (read, event) = fetching.fetch.read(bytes);
        match event {
            None => {}
            Some(Event::Content(_)) if read > 0 => {}
            Some(Event::Content(run)) => {
                if let Some(copy) = fetching.copy {
                    return Move::Content(copy, run);
                }
                fetching.fetch.content_read();
                return Move::Pass(run);
            }
            Some(Event::Begin) => self.begin_read(None),
            Some(Event::Literal { bytes, shown }) => {
                fetching.left = bytes;
                fetching.shown = shown;
                match shown {
                    Shown::Content => self.begin_read(Some(bytes)),
                    Shown::Header => {
                        let of = fetching.of;
                        let is_kept = of.is_of_one() && bytes <= HEADER_BYTES_MAX;
                        fetching.fetch.joins = is_kept && bytes == 0;
                        *header = is_kept.then(|| {
                            let bytes = Vec::with_capacity(bytes as usize);
                            let uid = None;
                            Box::new(Header { of, uid, bytes })
                        });
                    }
                    Shown::Other => {}
                }
            }
            Some(Event::End) => self.fetched(),
            Some(Event::Over) => self.server.mode = Mode::Line,
            Some(Event::CutOff) => {
                let copy = fetching.copy;
                self.server.mode = Mode::Line;
                if let Some(copy) = copy {
                    self.drop_copy(Side::Server, copy);
                }
            }
            Some(Event::Doubt) => {
                self.server.mode = Mode::Line;
                self.lost(Side::Server, LITERAL);
            }
        }
        Move::Pass(read)
    }

    /// So many bytes of a message were shown, and will be passed on.
    pub(super) fn server_content(&mut self, bytes: usize) {
        if let Mode::Fetch(fetching) = &mut self.server.mode {
            match fetching.left {
                0 => fetching.fetch.content_read(),
                left => fetching.left = left.saturating_sub(bytes as u64),
            }
        }
    }

    /// `bytes` of a message, or of the text behind the header that is kept.
    fn begin_read(&mut self, bytes: Option<u64>) {
        let Server { mode, header, .. } = &mut self.server;
        let Mode::Fetch(fetching) = mode else {
            return;
        };
        let is_joined = fetching.fetch.form == Form::Joined;
        let header = header.take().filter(|_| is_joined);
        let of_header = header.as_ref().and_then(|it| it.uid);
        if is_joined && (header.is_none() || differ(fetching.fetch.uid, of_header)) {
            fetching.fetch.in_part = true;
            return;
        }
        fetching.fetch.uid = fetching.fetch.uid.or(of_header);
        fetching.header_uid = of_header;
        let before = header.map_or_else(Vec::new, |header| header.bytes);
        let (uid, form) = (fetching.fetch.uid, fetching.fetch.form);
        let copy = self.open_copy();
        if let Mode::Fetch(fetching) = &mut self.server.mode {
            fetching.copy = copy;
        }
        let bytes = bytes.map(|bytes| bytes + before.len() as u64);
        let Some(copy) = copy else {
            return self.hint(Hint::Unseen);
        };
        self.tell(Step::Begin {
            copy,
            message: Message::Read {
                uid,
                uidl: None,
                bytes,
                form,
            },
        });
        if !before.is_empty() {
            let bytes = Cow::Owned(before);
            self.tell(Step::Content { copy, bytes });
        }
    }

    fn fetched(&mut self) {
        let Server { mode, header, .. } = &mut self.server;
        let Mode::Fetch(fetching) = mode else {
            return;
        };
        if let Some(header) = header.as_mut().filter(|it| it.of == fetching.of) {
            header.uid = fetching.fetch.uid.or(header.uid);
        }
        let Some(copy) = fetching.copy.take() else {
            if fetching.fetch.in_part {
                self.hint(Hint::Seen);
            }
            return;
        };
        if differ(fetching.fetch.uid, fetching.header_uid) {
            return self.drop_copy(Side::Server, copy);
        }
        let found = Found {
            folder: self.place.folder.clone().unwrap_or_default(),
            uid: fetching.fetch.uid,
            uid_validity: self.place.uid_validity,
            flags: std::mem::take(&mut fetching.fetch.flags),
            internal_date: fetching.fetch.internal_date,
        };
        self.close_copy();
        self.tell(Step::Commit { copy, found });
    }
}

/// Are both known, and of two messages?
fn differ(one: Option<u32>, other: Option<u32>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one != other)
}
