//! An APPEND or REPLACE, in all its forms: one message or several (RFC 3502), `UTF8 (…)` (RFC 6855), CATENATE (RFC 4469),
//! with flags, date and whatever extensions (RFC 4466) before each. It is fed the words of the command in their order and
//! says what its literals are; what becomes of the messages is for the server's reply to say.

use super::{
    date::date_time,
    lexis::{Token, Tokens, is, member, name, number, split_word},
};
use crate::{
    message::{UnixMillis, WireText},
    wire::watch::{CopyId, Found},
};

/// Flags of a message that are remembered.
const FLAGS_MAX: usize = 64;
/// A set that names the messages of one command.
const SET_BYTES_MAX: usize = 1 << 10;

#[derive(Debug)]
pub(super) struct Saving {
    at: At,
    folder: Option<WireText>,
    saved: Vec<Saved>,
    /// Messages of this command up to now, copied or not.
    messages: usize,
    flags: Vec<WireText>,
    internal_date: Option<UnixMillis>,
    joined: Joined,
    /// A message of it did not pass here whole.
    pub(super) unseen: bool,
    /// A message of it may have passed without a copy: there were too many, or the words before it were not understood.
    pub(super) uncopied: bool,
    /// REPLACE tells the new UID in an untagged OK (RFC 8508 section 3.4).
    pub(super) replaces: bool,
    place: Option<(u32, Vec<u8>)>,
}

/// A message whose content passed.
#[derive(Debug)]
struct Saved {
    copy: CopyId,
    /// Which of the command's messages it is.
    nth: usize,
    flags: Vec<WireText>,
    internal_date: Option<UnixMillis>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before REPLACE's number.
    Number,
    Folder,
    /// Before a message: flags, date, an extension's name, or itself.
    Message,
    Flags,
    /// Behind an extension's name, then that deep in its value.
    Extension,
    Nested(u32),
    Utf8,
    Utf8Open,
    Utf8End,
    Catenate,
    Part,
    Text,
    Url,
    /// Not understood. The copies up to here stand, if the server says so.
    Strange,
}

/// What CATENATE's texts make up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joined {
    Nothing,
    Copy(CopyId),
    /// A part of the message does not pass here, or there is no room for a copy.
    Spoiled,
}

/// What a literal of the command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Folder,
    Message,
    /// A further part of this copy.
    Continues(CopyId),
    Other,
}

impl Saving {
    pub(super) fn new(replaces: bool) -> Self {
        Self {
            at: if replaces { At::Number } else { At::Folder },
            folder: None,
            saved: Vec::new(),
            messages: 0,
            flags: Vec::new(),
            internal_date: None,
            joined: Joined::Nothing,
            unseen: false,
            uncopied: false,
            replaces,
            place: None,
        }
    }

    pub(super) fn folder(&self) -> WireText {
        self.folder.clone().unwrap_or_default()
    }

    /// Words between literals. The copy that is given up by them, if one is.
    pub(super) fn words(&mut self, text: &[u8]) -> Option<CopyId> {
        let mut given_up = None;
        for token in Tokens(text) {
            given_up = self.word(token).or(given_up);
        }
        given_up
    }

    fn word(&mut self, token: Token<'_>) -> Option<CopyId> {
        self.at = match (self.at, token) {
            (At::Number, Token::Atom(_)) => At::Folder,
            (At::Folder, token @ (Token::Atom(_) | Token::Quoted(_))) => {
                // One that is too long has no name; its messages are copied all the same.
                self.folder = name(Some(token));
                At::Message
            }
            (At::Message, Token::Open) => {
                self.flags.clear();
                At::Flags
            }
            (At::Flags, Token::Atom(flag)) => {
                if self.flags.len() < FLAGS_MAX {
                    self.flags.push(WireText::from(flag));
                }
                At::Flags
            }
            (At::Flags, Token::Close) => At::Message,
            (At::Message, Token::Quoted(date)) => {
                self.internal_date = date_time(&date);
                At::Message
            }
            (At::Message, Token::Atom(name)) if is(name, "UTF8") => At::Utf8,
            (At::Message, Token::Atom(name)) if is(name, "CATENATE") => At::Catenate,
            (At::Message, Token::Atom(_)) => At::Extension,
            (At::Extension, Token::Open) => At::Nested(1),
            (At::Extension, Token::Atom(_) | Token::Quoted(_)) => At::Message,
            (At::Nested(depth), Token::Open) => At::Nested(depth.saturating_add(1)),
            (At::Nested(1), Token::Close) => At::Message,
            (At::Nested(depth), Token::Close) => At::Nested(depth - 1),
            (At::Nested(depth), Token::Atom(_) | Token::Quoted(_)) => At::Nested(depth),
            (At::Utf8, Token::Open) => At::Utf8Open,
            (At::Utf8End, Token::Close) => At::Message,
            (At::Catenate, Token::Open) => At::Part,
            (At::Part, Token::Atom(kind)) if is(kind, "TEXT") => At::Text,
            (At::Part, Token::Atom(kind)) if is(kind, "URL") => At::Url,
            (At::Url, Token::Quoted(_) | Token::Atom(_)) => return self.url(),
            (At::Part, Token::Close) => {
                self.joined = Joined::Nothing;
                self.messages += 1;
                At::Message
            }
            _ => return self.is_strange(),
        };
        None
    }

    /// A part that does not pass here: the message is never whole.
    fn url(&mut self) -> Option<CopyId> {
        self.at = At::Part;
        self.unseen = true;
        self.give_up_joined()
    }

    fn give_up_joined(&mut self) -> Option<CopyId> {
        let Joined::Copy(copy) = std::mem::replace(&mut self.joined, Joined::Spoiled) else {
            return None;
        };
        self.saved.retain(|saved| saved.copy != copy);
        Some(copy)
    }

    /// What is not understood, or too long to be: further messages are not looked for.
    pub(super) fn is_strange(&mut self) -> Option<CopyId> {
        self.at = At::Strange;
        self.uncopied = true;
        self.give_up_joined()
    }

    /// A literal of so many bytes comes. Behind it, the words go on. And the copy that is given up by it, if one is.
    pub(super) fn literal(&mut self, bytes: u64) -> (Role, Option<CopyId>) {
        let role = match self.at {
            At::Folder => Role::Folder,
            // An empty one is no message: it gives the whole command up (RFC 3502 section 4).
            At::Message | At::Utf8Open if bytes == 0 => {
                self.message_ends();
                Role::Other
            }
            At::Message | At::Utf8Open => Role::Message,
            At::Text => {
                self.at = At::Part;
                match self.joined {
                    Joined::Copy(copy) => Role::Continues(copy),
                    Joined::Nothing if bytes > 0 => Role::Message,
                    Joined::Nothing | Joined::Spoiled => Role::Other,
                }
            }
            At::Url => return (Role::Other, self.url()),
            At::Extension => {
                self.at = At::Message;
                Role::Other
            }
            At::Nested(_) => Role::Other,
            _ => return (Role::Other, self.is_strange()),
        };
        (role, None)
    }

    /// The literal that was [`Role::Folder`].
    pub(super) fn folder_literal(&mut self, name: Option<&[u8]>) {
        self.folder = name.map(WireText::from);
        self.at = At::Message;
    }

    /// The literal that was [`Role::Message`] is copied, or there was no room for one more.
    pub(super) fn begun(&mut self, copy: Option<CopyId>) {
        match copy {
            Some(copy) => self.saved.push(Saved {
                copy,
                nth: self.messages,
                flags: std::mem::take(&mut self.flags),
                internal_date: self.internal_date.take(),
            }),
            None => self.uncopied = true,
        }
        if self.at == At::Part {
            self.joined = copy.map_or(Joined::Spoiled, Joined::Copy);
        } else {
            self.message_ends();
        }
    }

    fn message_ends(&mut self) {
        self.messages += 1;
        self.flags.clear();
        self.internal_date = None;
        self.at = match self.at {
            At::Utf8Open => At::Utf8End,
            _ => At::Message,
        };
    }

    /// `[APPENDUID validity set]` (RFC 4315 section 3): `argument` is what stands behind the name.
    pub(super) fn placed(&mut self, argument: &[u8]) {
        let (validity, set) = split_word(argument);
        self.place = number(validity)
            .filter(|_| set.len() <= SET_BYTES_MAX)
            .map(|validity| (validity, set.to_vec()));
    }

    pub(super) fn copies(&self) -> impl Iterator<Item = CopyId> {
        self.saved.iter().map(|saved| saved.copy)
    }

    /// Where the messages lie, now that the server has taken them all.
    pub(super) fn into_found(self) -> impl Iterator<Item = (CopyId, Found)> {
        let folder = self.folder.unwrap_or_default();
        let place = self.place;
        self.saved.into_iter().map(move |saved| {
            let found = Found {
                folder: folder.clone(),
                uid: place.as_ref().and_then(|(_, set)| member(set, saved.nth)),
                uid_validity: place.as_ref().map(|(validity, _)| *validity),
                flags: saved.flags,
                internal_date: saved.internal_date,
            };
            (saved.copy, found)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a command in which `<n>` stands for a literal; what each is.
    fn roles(command: &str, replaces: bool) -> (Vec<Role>, Vec<CopyId>, Saving) {
        let mut saving = Saving::new(replaces);
        let (mut roles, mut given_up) = (Vec::new(), Vec::new());
        for piece in command.split_inclusive('>') {
            let (words, literal) = piece.split_once('<').unwrap_or((piece, ""));
            given_up.extend(saving.words(words.as_bytes()));
            if let Ok(bytes) = literal.trim_end_matches('>').parse() {
                let (role, dropped) = saving.literal(bytes);
                given_up.extend(dropped);
                match role {
                    Role::Folder => saving.folder_literal(Some(b"lit")),
                    Role::Message => saving.begun(Some(CopyId(roles.len() as u32))),
                    _ => {}
                }
                roles.push(role);
            }
        }
        (roles, given_up, saving)
    }

    #[test]
    fn every_form_is_understood() {
        for (command, messages) in [
            ("INBOX <9>", 1),
            ("\"a b\" (\\Seen) \"17-Jul-1996 02:44:25 -0700\" <9>", 1),
            ("INBOX <9> (\\Seen) <9> <9>", 3),
            ("INBOX UTF8 (<9>) UTF8 (<9>)", 2),
            ("INBOX ANNOTATION (/comment (value.priv \"x\")) <9>", 1),
            ("INBOX CATENATE (TEXT <9>)", 1),
        ] {
            let (_, given_up, saving) = roles(command, false);
            assert_eq!(saving.saved.len(), messages, "{command}");
            assert!(given_up.is_empty() && !saving.unseen, "{command}");
            assert_eq!(saving.messages, messages);
        }
        let (_, _, saving) = roles("4 INBOX (\\Seen) <9>", true);
        assert_eq!(saving.saved.len(), 1);
        let (seen, _, saving) = roles("<3> <9>", false);
        assert_eq!(seen, [Role::Folder, Role::Message]);
        assert_eq!(saving.folder(), "lit".into());
    }

    #[test]
    fn texts_join_and_a_url_gives_the_message_up() {
        let (seen, given_up, saving) = roles("INBOX CATENATE (TEXT <9> TEXT <1>) <5>", false);
        let joined = [Role::Message, Role::Continues(CopyId(0)), Role::Message];
        assert_eq!(seen, joined);
        assert!(given_up.is_empty());
        assert_eq!(saving.messages, 2);
        let (_, given_up, saving) = roles(
            "INBOX CATENATE (TEXT <9> URL \"/INBOX/;UID=1\" TEXT <9>) <5>",
            false,
        );
        assert_eq!(given_up, [CopyId(0)]);
        assert!(saving.unseen);
        assert_eq!(saving.copies().collect::<Vec<_>>(), [CopyId(2)]);
    }

    #[test]
    fn uids_go_to_their_messages_and_flags_to_their_own() {
        let (_, _, mut saving) = roles("x (\\Seen) <9> <0> <9>", false);
        saving.placed(b"5 10:11,20");
        let found: Vec<_> = saving.into_found().map(|(_, found)| found).collect();
        assert_eq!(found[0].uid, Some(10));
        assert_eq!(found[0].flags, ["\\Seen".into()]);
        assert_eq!(found[1].uid, Some(20));
        assert!(found[1].flags.is_empty());
        assert_eq!(found[1].uid_validity, Some(5));
    }
}
