//! The client's side: command lines and their literals, and the two dialogues that have no tags, AUTHENTICATE and IDLE.
//!
//! Whether a line that announced a literal is followed by it or by a new command is for the server to say: till then
//! nothing more of the client is read. A line that may name the user is held back until that is known.

use super::{
    COMMANDS, COMMANDS_MAX, COPIES_AT_ONCE, LITERAL, Move, REPLICATION, REPLY, Side, TAG_BYTES_MAX,
    Verdict, Watcher,
    command::{self, Command, Kind},
    lexis::{Literal, NAME_BYTES_MAX},
    line::{LINE_BYTES_MAX, Line, Whole},
    login::Name,
    removing::{Deed, deed},
    saving::Role,
    words::{CommandLine, is_tag},
};
use crate::{
    message::WireText,
    wire::watch::{CopyId, Message, Step},
};

#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) state: State,
    /// The server's `+` decides what the next bytes are.
    pub(super) awaits: bool,
    line: Line,
    /// The line under way was answered when it was so long: its end alone may follow.
    answered: Option<usize>,
    /// The line under way may go on: [`Step::Settle`] was told before it.
    pub(super) is_settled: bool,
    unfinished: Unfinished,
    serial: u32,
    /// LOGIN with its name in a literal: what is with the server already, and what is held back.
    pub(super) name: Option<Box<Name>>,
    /// The tag of the command under way, where the server hears nothing of it.
    pub(super) withheld: Option<Box<[u8]>>,
}

#[derive(Debug, Default)]
pub(super) enum State {
    /// A command's first line.
    #[default]
    Line,
    /// Its text behind a literal.
    More,
    Literal {
        left: u64,
        sink: Sink,
    },
    Sasl,
    Idle,
}

#[derive(Debug)]
pub(super) enum Sink {
    Skip,
    Copy(CopyId),
    Folder(Vec<u8>),
    Name,
    /// It is not handed on.
    Nowhere,
}

/// The command whose text is not at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Unfinished {
    #[default]
    Nothing,
    Command(u32),
    /// One that was answered before its end.
    Answered,
}

impl Client {
    pub(super) fn is_between_lines(&self) -> bool {
        matches!(self.state, State::Line | State::Idle) && self.line.kept.is_empty()
    }

    /// May the line that goes on with `piece` be a command that removes? Only as long as nothing of it was handed on.
    fn may_remove(&self, piece: &[u8]) -> bool {
        let Line { kept, passed, .. } = &self.line;
        let begins = matches!(self.state, State::Line) && *passed == 0;
        begins
            && matches!(
                deed(kept.iter().chain(piece).copied()),
                None | Some(Deed::Removes | Deed::Unclear)
            )
    }

    /// Nothing of a command is still to come.
    pub(super) fn has_said_all(&self) -> bool {
        matches!(self.state, State::Line) && self.line.kept.is_empty()
    }

    /// Bytes of memory for what is held back or read.
    pub(super) fn held(&self) -> usize {
        let name = self.name.as_ref().map_or(0, |name| name.held.capacity());
        self.line.kept.capacity() + name
    }

    /// What was held back.
    pub(super) fn give_up(&mut self) -> Vec<u8> {
        let mut unsaid = self.name.take().map(|name| name.held).unwrap_or_default();
        unsaid.extend_from_slice(self.line.unsaid());
        self.line.clear();
        unsaid
    }
}

/// The tag by which a command is answered.
fn told_tag(text: &[u8]) -> &[u8] {
    let tag = CommandLine::of(text).tag;
    match tag.len() <= TAG_BYTES_MAX && is_tag(tag) {
        true => tag,
        false => b"*",
    }
}

impl Watcher {
    pub(super) fn client_bytes(&mut self, bytes: &[u8]) -> Move {
        if self.blind && self.client.withheld.is_none() {
            return self.pass_blindly(Side::Client, bytes);
        }
        if self.client.awaits {
            return Move::Wait;
        }
        if let State::Literal { .. } = self.client.state {
            return self.client_literal(bytes);
        }
        match memchr::memchr(b'\n', bytes) {
            Some(end) => self.client_line(&bytes[..=end]),
            None => self.client_piece(bytes),
        }
    }

    fn client_piece(&mut self, piece: &[u8]) -> Move {
        let may_remove = self.client.may_remove(piece);
        // Whatever it is: only as a whole is it surely no login.
        let is_taken = self.withholds_logins() && matches!(self.client.state, State::Line);
        let is_released = self.client.line.kept.len() + piece.len() > LINE_BYTES_MAX;
        if may_remove
            && is_released
            && !is_taken
            && self.client.withheld.is_none()
            && let Some(first) = self.settle_first()
        {
            return first;
        }
        let line = &mut self.client.line;
        let before = line.kept.len();
        line.add(piece);
        if is_taken {
            // Of what is taken no more is kept: it cannot go on any more, whatever the server says meanwhile.
            if line.is_long() && self.client.withheld.is_none() {
                self.client.withheld = Some(told_tag(&line.kept).into());
            }
            return Move::Take(piece.len());
        }
        let is_held = match self.client.state {
            State::Line => line.passed == 0 && (may_remove || command::is_held(&line.kept)),
            State::Sasl => true,
            _ => false,
        };
        if self.client.withheld.is_some() || (is_held && !line.is_long()) {
            return Move::Take(piece.len());
        }
        let unsaid = line.kept[line.passed..before].to_vec();
        line.passed = line.kept.len();
        self.carry_out(Verdict::Forward, Side::Client, unsaid, piece)
    }

    fn client_line(&mut self, piece: &[u8]) -> Move {
        if self.client.may_remove(piece)
            && let Some(first) = self.settle_first()
        {
            return first;
        }
        self.client.is_settled = false;
        let mut line = std::mem::take(&mut self.client.line);
        let unsaid = line.unsaid().to_vec();
        let before = line.mark();
        let whole = line.complete(piece);
        let verdict = match self.client.state {
            State::More | State::Line if let Some(tag) = self.client.withheld.clone() => {
                self.withhold(&tag, &whole)
            }
            State::Line => self.command(&whole),
            State::Sasl => {
                self.sasl_answer(&whole);
                Verdict::Forward
            }
            State::Idle => {
                self.client.state = State::Line;
                self.client.unfinished = Unfinished::Nothing;
                Verdict::Forward
            }
            State::More | State::Literal { .. } => {
                self.more(&whole);
                Verdict::Forward
            }
        };
        if let Verdict::Wait = verdict {
            line.back_to(before);
            self.client.line = line;
            return self.carry_out(verdict, Side::Client, unsaid, piece);
        }
        line.clear();
        self.carry_out(verdict, Side::Client, unsaid, piece)
    }

    pub(super) fn step(&mut self, step: Step<'static>) {
        self.to_server.steps.push_back(step);
    }

    fn command(&mut self, whole: &Whole<'_>) -> Verdict {
        if let Some(answered) = self.client.answered.take() {
            // The server may have taken more text for another command.
            if whole.long || whole.text.len() != answered || whole.literal != Ok(None) {
                self.lost(Side::Client, REPLY);
            }
            return Verdict::Forward;
        }
        if whole.text.is_empty() && whole.literal == Ok(None) {
            return Verdict::Forward;
        }
        let is_one_line = !whole.long && whole.literal == Ok(None);
        if self.withholds_logins() && !(is_one_line && command::passes_in_clear(whole.text)) {
            return self.withhold(told_tag(whole.text), whole);
        }
        let Ok(literal) = whole.literal else {
            self.lost(Side::Client, LITERAL);
            return Verdict::Forward;
        };
        // No server takes one there: what we would skip as its text is the next command.
        if literal.is_some() && CommandLine::of(whole.text).verb.is_empty() {
            self.lost(Side::Client, LITERAL);
            return Verdict::Forward;
        }
        let (tag, mut kind) = command::parse(whole.text);
        if tag.len() > TAG_BYTES_MAX {
            self.lost(Side::Client, COMMANDS);
            return Verdict::Forward;
        }
        if self.commands.len() == COMMANDS_MAX {
            return Verdict::Wait;
        }
        let mut verdict = Verdict::Forward;
        let mut dialogue = None;
        match &mut kind {
            Kind::StartTls => return self.starttls(tag),
            // Those that are open are of commands that were said to their ends: the server will answer.
            Kind::Save(_) if self.copies >= COPIES_AT_ONCE && !self.commands.is_empty() => {
                return Verdict::Wait;
            }
            Kind::Replicate => {
                self.lost(Side::Client, REPLICATION);
                return Verdict::Forward;
            }
            Kind::Id if literal.is_none() && !whole.long => {
                if let Some(line) = command::without_multiplex(whole.raw) {
                    verdict = Verdict::Replace(line);
                }
            }
            Kind::Login(Some(user)) if !whole.long => {
                let user = user.clone();
                self.step(Step::Login {
                    user,
                    before: Vec::new(),
                });
            }
            Kind::Login(None) if !whole.long => {
                if let Some(literal) = literal.filter(|l| l.bytes <= NAME_BYTES_MAX as u64) {
                    verdict = self.name_follows(literal, whole.raw);
                }
            }
            Kind::Authenticate(authenticating) if literal.is_none() => {
                if !whole.long {
                    // With an initial response, nothing was said before it.
                    let told = authenticating.login(Vec::new());
                    self.to_server.steps.extend(told);
                    let arguments = CommandLine::of(whole.text).arguments;
                    if !arguments.contains(&b' ') {
                        authenticating.line = whole.raw.to_vec();
                    }
                }
                dialogue = Some(State::Sasl);
            }
            Kind::Idle if literal.is_none() => dialogue = Some(State::Idle),
            _ => {}
        }
        let serial = self.client.serial;
        self.client.serial = serial.wrapping_add(1);
        self.client.unfinished = Unfinished::Command(serial);
        self.commands.push_back(Command {
            serial,
            tag: tag.into(),
            kind,
            doubted: !is_tag(tag),
        });
        match dialogue {
            Some(state) => {
                self.client.state = state;
                self.client.awaits = true;
            }
            None => self.literal_follows(literal),
        }
        verdict
    }

    /// The text of a command behind a literal of it.
    fn more(&mut self, whole: &Whole<'_>) {
        let Ok(literal) = whole.literal else {
            return self.lost(Side::Client, LITERAL);
        };
        let mut given_up = None;
        if let Some(Kind::Save(saving)) = self.unfinished() {
            given_up = match whole.long {
                true => saving.is_strange(),
                false => saving.words(whole.text),
            };
        }
        if let Some(copy) = given_up {
            self.drop_copy(Side::Client, copy);
        }
        self.literal_follows(literal);
    }

    pub(super) fn unfinished(&mut self) -> Option<&mut Kind> {
        let Unfinished::Command(serial) = self.client.unfinished else {
            return None;
        };
        let last = self.commands.back_mut();
        last.filter(|command| command.serial == serial)
            .map(|command| &mut command.kind)
    }

    /// A command's text ends with a literal, or at last.
    fn literal_follows(&mut self, literal: Option<Literal>) {
        let answered = self.client.unfinished == Unfinished::Answered;
        let Some(literal) = literal.filter(|l| !(answered && l.waits)) else {
            self.client.state = State::Line;
            self.client.unfinished = Unfinished::Nothing;
            return;
        };
        self.client.state = State::Literal {
            left: literal.bytes,
            sink: self.sink(literal.bytes),
        };
        self.client.awaits = literal.waits;
        self.end_literal();
    }

    fn sink(&mut self, bytes: u64) -> Sink {
        if self.client.name.is_some() {
            return Sink::Name;
        }
        let may_be_kept = bytes <= NAME_BYTES_MAX as u64;
        let (role, given_up) = match self.unfinished() {
            Some(Kind::Save(saving)) => saving.literal(bytes),
            Some(Kind::Select(selecting)) if selecting.folder.is_none() && may_be_kept => {
                return Sink::Folder(Vec::new());
            }
            _ => return Sink::Skip,
        };
        if let Some(copy) = given_up {
            self.drop_copy(Side::Client, copy);
        }
        match role {
            Role::Folder if may_be_kept => Sink::Folder(Vec::new()),
            Role::Folder => {
                self.folder_is(None);
                Sink::Skip
            }
            Role::Message => match self.begin() {
                Some(copy) => Sink::Copy(copy),
                None => Sink::Skip,
            },
            Role::Continues(copy) => Sink::Copy(copy),
            Role::Other => Sink::Skip,
        }
    }

    fn begin(&mut self) -> Option<CopyId> {
        let copy = self.open_copy();
        let Some(Kind::Save(saving)) = self.unfinished() else {
            return None;
        };
        saving.begun(copy);
        let folder = saving.folder();
        let copy = copy?;
        self.step(Step::Begin {
            copy,
            message: Message::Saved { folder },
        });
        Some(copy)
    }

    fn folder_is(&mut self, name: Option<&[u8]>) {
        match self.unfinished() {
            Some(Kind::Save(saving)) => saving.folder_literal(name),
            Some(Kind::Select(selecting)) => selecting.folder = name.map(WireText::from),
            _ => {}
        }
    }

    fn client_literal(&mut self, bytes: &[u8]) -> Move {
        let State::Literal { left, sink } = &mut self.client.state else {
            return Move::Take(0);
        };
        let taken = usize::try_from(*left)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        match sink {
            Sink::Copy(copy) => return Move::Content(*copy, taken),
            Sink::Folder(name) => name.extend_from_slice(&bytes[..taken]),
            Sink::Skip | Sink::Name | Sink::Nowhere => {}
        }
        *left -= taken as u64;
        if let Sink::Nowhere = sink {
            self.end_literal();
            return Move::Take(taken);
        }
        if let (Sink::Name, Some(name)) = (sink, &mut self.client.name) {
            name.held.extend_from_slice(&bytes[..taken]);
            self.end_literal();
            return Move::Take(taken);
        }
        self.end_literal();
        Move::Pass(taken)
    }

    /// So many bytes of a message were shown, and will be passed on.
    pub(super) fn client_content(&mut self, bytes: usize) {
        if let State::Literal { left, .. } = &mut self.client.state {
            *left -= bytes as u64;
        }
        self.end_literal();
    }

    /// If it is at its end, and not still awaited.
    pub(super) fn end_literal(&mut self) {
        if self.client.awaits || !matches!(self.client.state, State::Literal { left: 0, .. }) {
            return;
        }
        let ended = std::mem::replace(&mut self.client.state, State::More);
        if let State::Literal { sink, .. } = ended {
            match sink {
                Sink::Folder(name) => self.folder_is(Some(&name)),
                Sink::Name => self.name_ends(),
                Sink::Skip | Sink::Copy(_) | Sink::Nowhere => {}
            }
        }
    }

    /// The server said `+`: the next bytes are what it asked for.
    pub(super) fn continued(&mut self) {
        if self.client.awaits && matches!(self.client.state, State::Idle) {
            // It may stay there for hours.
            self.server.forget_header();
        }
        self.client.awaits = false;
        self.end_literal();
    }

    /// The server answered the line under way, whose end is still to come: to SETQUOTA both Dovecot and Cyrus do so, when
    /// they have its list. Is it that, and of no consequence?
    pub(super) fn answered_early(&mut self, tag: &[u8]) -> bool {
        let client = &mut self.client;
        let line = &client.line;
        let is_said = line.passed > 0 && line.unsaid().is_empty() && !line.is_long();
        if !is_said || client.answered.is_some() || !matches!(client.state, State::Line) {
            return false;
        }
        let (of, kind) = command::parse(&line.kept);
        let is_it = of == tag && matches!(kind, Kind::Show | Kind::Other);
        if is_it {
            client.answered = Some(line.kept.len());
        }
        is_it
    }

    /// The server answered this command.
    pub(super) fn answered(&mut self, serial: u32) {
        let client = &mut self.client;
        if client.unfinished != Unfinished::Command(serial) {
            return;
        }
        let is_dialogue = matches!(client.state, State::Sasl | State::Idle);
        if client.awaits || is_dialogue {
            client.awaits = false;
            client.state = State::Line;
            client.unfinished = Unfinished::Nothing;
            client.name = None;
            return;
        }
        // What is under way is read to its end by the server, too (RFC 7888 section 4).
        client.unfinished = Unfinished::Answered;
        if let State::Literal { sink, .. } = &mut client.state
            && let Sink::Copy(_) = sink
        {
            *sink = Sink::Skip;
        }
    }
}
