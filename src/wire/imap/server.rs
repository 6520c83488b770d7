//! The server's side: what a line is by its first words, and what follows from it.
//!
//! Text behind OK, NO, BAD, BYE, PREAUTH and `+` is free: no literal is looked for in it. A line that can carry
//! capabilities is held back until it is whole; of any other nothing is, once its first words are there.

use super::{
    COMPRESS, LAYER, LITERAL, MULTIPLEX, Move, REPLY, Side, TAG_BYTES_MAX, Verdict, Watcher,
    capability::{self, Offer},
    command::Kind,
    lexis::{code, is, members, number, split_word},
    line::{Line, Whole},
    reading::{Fetching, Header, Numbered},
};
use crate::{
    message::WireText,
    wire::watch::{Hint, Step},
};

/// The words by which untagged lines are told apart are shorter.
const UNTAGGED_WORD_BYTES_MAX: usize = 20;

#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) mode: Mode,
    line: Line,
    /// What the line is, as soon as that is known.
    class: Option<Class>,
    /// The latest that was shown by itself.
    pub(super) header: Option<Box<Header>>,
}

#[derive(Debug, Default)]
pub(super) enum Mode {
    #[default]
    Line,
    /// A literal that is of no interest.
    Literal(u64),
    Fetch(Box<Fetching>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Class {
    kind: Said,
    /// May carry capabilities.
    held: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// `+`
    Continue,
    Tagged,
    /// Untagged OK, NO, BAD, BYE, PREAUTH.
    Status,
    Data,
    /// Behind a literal.
    More,
    /// Up to the word's end, so many bytes.
    Fetch {
        bytes: usize,
        of: Numbered,
    },
}

impl Server {
    pub(super) fn is_between_lines(&self) -> bool {
        matches!(self.mode, Mode::Line) && self.line.kept.is_empty() && self.class.is_none()
    }

    /// Bytes of memory for what is held back or read.
    pub(super) fn held(&self) -> usize {
        let header = self.header.as_ref();
        self.line.kept.capacity() + header.map_or(0, |header| header.capacity())
    }

    /// Another folder, other numbers, or no text in sight.
    pub(super) fn forget_header(&mut self) {
        self.header = None;
    }

    /// What was held back.
    pub(super) fn give_up(&mut self) -> Vec<u8> {
        let unsaid = self.line.unsaid().to_vec();
        *self = Self::default();
        unsaid
    }
}

/// None: more of the line is needed. `text` may be all of it, up to its LF.
fn classify(text: &[u8]) -> Option<Class> {
    let is_whole = text.last() == Some(&b'\n');
    let class = |kind, held| Some(Class { kind, held });
    let carries = |text: &[u8], kind| {
        let held = starts(text, b"[CAPABILITY ", is_whole)?;
        class(kind, held)
    };
    match text {
        [] | [b'*'] | [b'+'] => None,
        [b'+', b' ', text @ ..] => match starts(text, b"OK ", is_whole)? {
            true => carries(&text[3..], Said::Continue),
            false => carries(text, Said::Continue),
        },
        [b'+', b'\r' | b'\n', ..] => class(Said::Continue, false),
        [b'*', b' ', text @ ..] => {
            let Some((first, rest)) = word(text, is_whole, UNTAGGED_WORD_BYTES_MAX)? else {
                return class(Said::Data, false);
            };
            match first.to_ascii_uppercase().as_slice() {
                b"OK" | b"PREAUTH" | b"NO" | b"BAD" | b"BYE" => carries(rest, Said::Status),
                b"CAPABILITY" => class(Said::Data, true),
                count if !count.is_empty() && count.iter().all(u8::is_ascii_digit) => {
                    let Some((verb, rest)) = word(rest, is_whole, UNTAGGED_WORD_BYTES_MAX)? else {
                        return class(Said::Data, false);
                    };
                    // 0: of none, for the number is beyond all that there are.
                    let count = number(count).unwrap_or_default();
                    let of = match () {
                        () if is(verb, "FETCH") => Numbered::Sequence(count),
                        () if is(verb, "UIDFETCH") => Numbered::Uid(count),
                        () => return class(Said::Data, false),
                    };
                    let bytes = 2 + text.len() - rest.len();
                    class(Said::Fetch { bytes, of }, false)
                }
                _ => class(Said::Data, false),
            }
        }
        _ => {
            let Some((_, rest)) = word(text, is_whole, TAG_BYTES_MAX)? else {
                return class(Said::Tagged, false);
            };
            match starts(rest, b"OK ", is_whole)? {
                true => carries(&rest[3..], Said::Tagged),
                false => class(Said::Tagged, false),
            }
        }
    }
}

/// The word up to its space or the line's end, and what is behind. `Some(None)`: it is longer than any that is looked for.
fn word(text: &[u8], is_whole: bool, bytes_max: usize) -> Option<Option<(&[u8], &[u8])>> {
    let start = &text[..text.len().min(bytes_max + 1)];
    match memchr::memchr(b' ', start) {
        Some(end) => Some(Some((&text[..end], &text[end + 1..]))),
        None if start.len() > bytes_max => Some(None),
        None if is_whole => {
            let word = text.strip_suffix(b"\n").unwrap_or(text);
            Some(Some((word.strip_suffix(b"\r").unwrap_or(word), b"")))
        }
        None => None,
    }
}

/// None: it may.
fn starts(text: &[u8], with: &[u8], is_whole: bool) -> Option<bool> {
    let both = text.len().min(with.len());
    if !text[..both].eq_ignore_ascii_case(&with[..both]) {
        return Some(false);
    }
    if both == with.len() {
        return Some(true);
    }
    is_whole.then_some(false)
}

impl Watcher {
    pub(super) fn server_bytes(&mut self, bytes: &[u8]) -> Move {
        if self.blind {
            return self.pass_blindly(Side::Server, bytes);
        }
        match &mut self.server.mode {
            Mode::Line => self.server_text(bytes),
            Mode::Literal(left) => {
                let taken = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                *left -= taken as u64;
                if *left == 0 {
                    self.server.mode = Mode::Line;
                }
                Move::Pass(taken)
            }
            Mode::Fetch(_) => self.fetch_bytes(bytes),
        }
    }

    fn server_text(&mut self, bytes: &[u8]) -> Move {
        let end = memchr::memchr(b'\n', bytes);
        let piece = &bytes[..end.map_or(bytes.len(), |end| end + 1)];
        let server = &mut self.server;
        if server.class.is_none() {
            let before = server.line.kept.len();
            server.class = match before {
                0 => classify(piece),
                _ => classify(&[&server.line.kept, piece].concat()),
            };
            if let Some(Class {
                kind: Said::Fetch { bytes, of },
                ..
            }) = server.class
            {
                let unsaid = std::mem::take(&mut server.line.kept);
                server.class = None;
                let fetching = Fetching::new(of, server.header.as_deref());
                server.mode = Mode::Fetch(Box::new(fetching));
                let piece = &piece[..bytes - before];
                return self.carry_out(Verdict::Forward, Side::Server, unsaid, piece);
            }
        }
        match end {
            Some(_) => self.server_line(piece),
            None => self.server_piece(piece),
        }
    }

    fn server_piece(&mut self, piece: &[u8]) -> Move {
        let Server { line, class, .. } = &mut self.server;
        let unsaid = line.unsaid().to_vec();
        line.add(piece);
        if class.is_none_or(|class| class.held) && !line.is_long() {
            return Move::Take(piece.len());
        }
        line.passed = line.kept.len();
        self.carry_out(Verdict::Forward, Side::Server, unsaid, piece)
    }

    fn server_line(&mut self, piece: &[u8]) -> Move {
        self.greeted = true;
        let mut line = std::mem::take(&mut self.server.line);
        let unsaid = line.unsaid().to_vec();
        let whole = line.complete(piece);
        let class = self.server.class.take().unwrap_or(Class {
            kind: Said::Tagged,
            held: false,
        });
        match class.kind {
            Said::Continue => self.continued(),
            Said::Tagged => self.tagged(whole.text),
            Said::Status => self.status(&whole),
            Said::Data => {
                self.data(whole.text);
                self.server_literal_follows(&whole);
            }
            Said::More | Said::Fetch { .. } => self.server_literal_follows(&whole),
        }
        let mut verdict = Verdict::Forward;
        if class.held && !whole.long {
            let offer = Offer {
                starttls: self.rules.starttls && !self.secured && !self.authenticated,
                clear_logins: !self.withholds_logins(),
            };
            if let Some(line) = capability::edit(whole.raw, offer) {
                verdict = Verdict::Replace(line);
            }
        }
        line.clear();
        self.carry_out(verdict, Side::Server, unsaid, piece)
    }

    fn server_literal_follows(&mut self, whole: &Whole<'_>) {
        match whole.literal {
            Ok(None) => {}
            Ok(Some(literal)) if literal.waits => {
                if literal.bytes > 0 {
                    self.server.mode = Mode::Literal(literal.bytes);
                }
                self.server.class = Some(Class {
                    kind: Said::More,
                    held: false,
                });
            }
            // A server asks no leave, and needs none.
            Ok(Some(_)) | Err(_) => self.lost(Side::Server, LITERAL),
        }
    }

    pub(super) fn tell(&mut self, step: Step<'static>) {
        self.to_client.steps.push_back(step);
    }

    pub(super) fn hint(&mut self, hint: Hint) {
        self.tell(Step::Hint(hint));
    }

    fn status(&mut self, whole: &Whole<'_>) {
        let (word, rest) = split_word(whole.text.get(2..).unwrap_or_default());
        if is(word, "BAD") {
            // To a line that the server took for no command, whichever that was.
            for command in &mut self.commands {
                command.doubted = true;
            }
        }
        if is(word, "PREAUTH") && self.commands.is_empty() && !self.authenticated {
            self.let_in(None);
        }
        let Some((name, argument)) = code(rest) else {
            if rest.starts_with(b"[") && whole.literal != Ok(None) {
                self.lost(Side::Server, LITERAL);
            }
            return;
        };
        if is(name, "UIDVALIDITY") {
            let validity = number(argument);
            let mut kinds = self.commands.iter_mut().map(|command| &mut command.kind);
            match kinds.find(|kind| matches!(kind, Kind::Select(_))) {
                Some(Kind::Select(selecting)) => selecting.uid_validity = validity,
                _ => {
                    self.server.forget_header();
                    self.place.uid_validity = validity;
                }
            }
        } else if is(name, "APPENDUID") {
            let mut kinds = self.commands.iter_mut().map(|command| &mut command.kind);
            let replacing = |kind: &&mut Kind| matches!(kind, Kind::Save(s) if s.replaces);
            if let Some(Kind::Save(saving)) = kinds.find(replacing) {
                saving.placed(argument);
            }
        }
    }

    fn let_in(&mut self, user: Option<WireText>) {
        self.authenticated = true;
        self.server.forget_header();
        self.place.user.clone_from(&user);
        self.tell(Step::Authenticated { user });
    }

    fn leave_folder(&mut self) {
        self.place.folder = None;
        self.place.uid_validity = None;
        self.exists = None;
        self.server.forget_header();
    }

    fn tagged(&mut self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        let (tag, rest) = split_word(text);
        let (status, text) = split_word(rest);
        let ok = is(status, "OK");
        let is_reply = ok || is(status, "NO") || is(status, "BAD");
        let at = self
            .commands
            .iter()
            .position(|command| *command.tag == *tag);
        let Some(command) = at
            .filter(|_| is_reply)
            .and_then(|at| self.commands.remove(at))
        else {
            if !is_reply || !self.answered_early(tag) {
                self.lost(Side::Server, REPLY);
            }
            return;
        };
        if self.commands.is_empty() {
            self.commands = Default::default();
        }
        self.answered(command.serial);
        match command.kind {
            Kind::Save(mut saving) => {
                if let Some((name, argument)) = code(text)
                    && is(name, "APPENDUID")
                {
                    saving.placed(argument);
                }
                let (unseen, uncopied) = (saving.unseen, saving.uncopied);
                if !ok {
                    for copy in saving.copies() {
                        self.drop_copy(Side::Server, copy);
                    }
                    return;
                }
                for (copy, found) in saving.into_found() {
                    self.close_copy();
                    self.tell(Step::Commit { copy, found });
                }
                if uncopied {
                    self.tell(Step::Uncopied);
                }
                if unseen {
                    self.hint(Hint::Unseen);
                }
            }
            Kind::Select(selecting) if ok => {
                self.server.forget_header();
                self.place.folder = Some(selecting.folder.unwrap_or_default());
                self.place.uid_validity = selecting.uid_validity;
            }
            // The one that was selected is so no more (RFC 9051 section 6.3.2).
            Kind::Select(_) if is(status, "NO") => self.leave_folder(),
            _ if !ok => {}
            Kind::Login(user) => self.let_in(user),
            Kind::Authenticate(authenticating) => {
                self.let_in(authenticating.sasl.mailbox().cloned());
                if authenticating.layered {
                    self.lost(Side::Server, LAYER);
                }
            }
            Kind::Compress => self.lost(Side::Server, COMPRESS),
            Kind::Unauthenticate => {
                self.leave_folder();
                self.place.user = None;
                self.authenticated = false;
            }
            Kind::Logout | Kind::Deselect => self.leave_folder(),
            Kind::Copy => self.hint(Hint::Unseen),
            Kind::Select(_)
            | Kind::StartTls
            | Kind::Idle
            | Kind::Id
            | Kind::Replicate
            | Kind::Show
            | Kind::Other => {}
        }
    }

    /// Untagged, and no status.
    fn data(&mut self, text: &[u8]) {
        let (first, rest) = split_word(text.get(2..).unwrap_or_default());
        let (second, _) = split_word(rest);
        if is(first, "MULTIPLEX") {
            return self.lost(Side::Server, MULTIPLEX);
        }
        let is_selecting = self
            .commands
            .front()
            .is_some_and(|command| matches!(command.kind, Kind::Select(_)));
        if is(first, "VANISHED") {
            self.server.forget_header();
            if !second.starts_with(b"(") {
                let gone = members(second);
                self.exists = self
                    .exists
                    .zip(gone)
                    .map(|(n, gone)| n.saturating_sub(gone));
            }
            return;
        }
        let Some(count) = number::<u64>(first) else {
            return;
        };
        let is_here = !is_selecting && self.place.folder.is_some();
        if is(second, "EXISTS") {
            self.grown = is_here && self.exists.is_none_or(|before| count > before);
            self.exists = Some(count);
            if self.grown {
                self.hint(Hint::Arrival);
            }
        } else if is(second, "RECENT") {
            if is_here && count > 0 && !std::mem::take(&mut self.grown) {
                self.hint(Hint::Arrival);
            }
        } else if is(second, "EXPUNGE") {
            self.server.forget_header();
            self.exists = self.exists.map(|count| count.saturating_sub(1));
        }
    }
}
