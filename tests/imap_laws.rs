//! What holds for every IMAP session that is watched: what one side says the other hears, byte for byte; the copies are the
//! messages that passed; the server's OK is not heard before the copy is safe; the chunking changes nothing; and no bytes
//! of either side break the watcher or stay with it.

use mailtee::{
    message::WireText,
    wire::{
        imap::{
            Rules,
            fuzz::{Seen, Session, scramble},
        },
        watch::{Hint, Message},
    },
};
use proptest::{collection::vec, prelude::*, sample::select};

/// A command, what the server says to it, and what must come of it.
#[derive(Clone, Debug)]
enum Act {
    Append {
        messages: Vec<Vec<u8>>,
        form: Form,
        ok: bool,
    },
    Fetch {
        messages: Vec<Fetched>,
    },
    List(Vec<Vec<u8>>),
    Idle {
        exists: bool,
    },
    Noise(String),
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Waits,
    WaitsNot,
    Utf8,
    Catenate,
    /// Refused at once: the client says none of it.
    Refused,
}

#[derive(Clone, Debug)]
struct Fetched {
    content: Vec<u8>,
    how: How,
    uid_last: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Literal,
    Binary,
    Quoted,
    Part,
    None,
}

/// Bytes that look like the protocol's own.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let word = select(vec![
        &b"\r\n"[..],
        b"{5}\r\n",
        b"{3+}\r\n",
        b"t1 OK done\r\n",
        b"* 1 FETCH (BODY[] {9}\r\n",
        b"+ go\r\n",
        b"a LOGOUT\r\n",
        b"DONE\r\n",
        b")",
        b"(",
        b"\"",
        b"\\",
        b"\0",
        b"Subject: hi\r\n\r\nbody",
        b"\xff\xfe",
    ]);
    vec(word, 1..12).prop_map(|words| words.concat())
}

fn act() -> impl Strategy<Value = Act> {
    let form = select(vec![
        Form::Waits,
        Form::WaitsNot,
        Form::Utf8,
        Form::Catenate,
        Form::Refused,
    ]);
    let append = (vec(message(), 1..4), form, any::<bool>());
    let how = select(vec![
        How::Literal,
        How::Binary,
        How::Quoted,
        How::Part,
        How::None,
    ]);
    let fetched = (message(), how, any::<bool>()).prop_map(|(content, how, uid_last)| Fetched {
        content,
        how,
        uid_last,
    });
    // What stands behind a status is free.
    let noise = "[ -~]{0,40}( \\{[0-9]{1,3}\\+?\\})?";
    prop_oneof![
        append.prop_map(|(messages, form, ok)| Act::Append { messages, form, ok }),
        vec(fetched, 0..4).prop_map(|messages| Act::Fetch { messages }),
        vec(message(), 0..3).prop_map(Act::List),
        any::<bool>().prop_map(|exists| Act::Idle { exists }),
        noise.prop_map(Act::Noise),
    ]
}

/// What each side says, in turns, and what comes of it.
#[derive(Default)]
struct Script {
    turns: Vec<(bool, Vec<u8>)>,
    seen: Vec<Expected>,
    tag: usize,
    exists: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expected {
    Saved {
        content: Vec<u8>,
        uid: Option<u32>,
        tag: String,
    },
    Read {
        content: Vec<u8>,
        uid: Option<u32>,
    },
    Dropped,
    Hint(Hint),
}

impl Script {
    fn client(&mut self, bytes: impl AsRef<[u8]>) {
        self.turns.push((true, bytes.as_ref().to_vec()));
    }

    fn server(&mut self, bytes: impl AsRef<[u8]>) {
        self.turns.push((false, bytes.as_ref().to_vec()));
    }

    fn play(&mut self, act: &Act) {
        self.tag += 1;
        let tag = format!("t{}", self.tag);
        match act {
            Act::Append { messages, form, ok } => self.append(&tag, messages, *form, *ok),
            Act::Fetch { messages } => {
                self.client(format!("{tag} UID FETCH 1:* (UID BODY.PEEK[])\r\n"));
                for (at, fetched) in messages.iter().enumerate() {
                    self.fetched(at as u32 + 1, fetched);
                }
                self.server(format!("{tag} OK done {{3}}\r\n"));
            }
            Act::List(names) => {
                self.client(format!("{tag} LIST \"\" *\r\n"));
                for name in names {
                    let head = format!("* LIST (\\A) \"/\" {{{}}}\r\n", name.len());
                    self.server([head.as_bytes(), name, b"\r\n"].concat());
                }
                self.server(format!("{tag} OK done\r\n"));
            }
            Act::Idle { exists } => {
                self.client(format!("{tag} IDLE\r\n"));
                self.server("+ idling {4}\r\n");
                if *exists {
                    self.exists += 1;
                    self.server(format!("* {} EXISTS\r\n", self.exists));
                    self.seen.push(Expected::Hint(Hint::Arrival));
                }
                self.client("DONE\r\n");
                self.server(format!("{tag} OK done\r\n"));
            }
            Act::Noise(text) => {
                self.client(format!("{tag} NOOP\r\n"));
                self.server(format!(
                    "* NO x{text}\r\n* BAD {{5}}\r\n{tag} NO x{text}\r\n"
                ));
            }
        }
    }

    fn append(&mut self, tag: &str, messages: &[Vec<u8>], form: Form, ok: bool) {
        self.client(format!("{tag} APPEND INBOX"));
        let mut refused = false;
        for message in messages {
            let (open, tilde, close) = match form {
                Form::Utf8 => (" UTF8 (", "~", ")"),
                Form::Catenate => (" CATENATE (TEXT ", "", ")"),
                _ => (" (\\Seen) ", "", ""),
            };
            let waits = matches!(form, Form::Waits | Form::Refused);
            let plus = if waits { "" } else { "+" };
            self.client(format!("{open}{tilde}{{{}{plus}}}\r\n", message.len()));
            if let Form::Refused = form {
                refused = true;
                break;
            }
            if waits {
                self.server("+ go {7}\r\n");
            }
            self.client(message);
            self.client(close);
        }
        if refused {
            self.server(format!("{tag} NO [OVERQUOTA] {{9}}\r\n"));
            return self.seen.push(Expected::Dropped);
        }
        self.client("\r\n");
        if !ok {
            self.server(format!("{tag} NO [LIMIT] no\r\n"));
            let dropped = messages.iter().map(|_| Expected::Dropped);
            return self.seen.extend(dropped);
        }
        let last = 10 + messages.len() - 1;
        self.server(format!("{tag} OK [APPENDUID 5 10:{last}] done\r\n"));
        for (at, message) in messages.iter().enumerate() {
            self.seen.push(Expected::Saved {
                content: message.clone(),
                uid: Some(10 + at as u32),
                tag: tag.to_owned(),
            });
        }
    }

    fn fetched(&mut self, number: u32, fetched: &Fetched) {
        let content = &fetched.content;
        let uid = format!("UID {number}");
        let value = match fetched.how {
            How::Literal => [
                format!("BODY[] {{{}}}\r\n", content.len()).as_bytes(),
                content,
            ]
            .concat(),
            How::Binary => [
                format!("BINARY[] ~{{{}}}\r\n", content.len()).as_bytes(),
                content,
            ]
            .concat(),
            How::Part => [
                format!("BODY[1] {{{}}}\r\n", content.len()).as_bytes(),
                content,
            ]
            .concat(),
            How::Quoted => b"RFC822 \"a \\\"quoted\\\" one \\\\\"".to_vec(),
            How::None => b"BODY[] NIL".to_vec(),
        };
        let items: Vec<&[u8]> = match fetched.uid_last {
            true => vec![b"FLAGS (\\Seen)", &value, uid.as_bytes()],
            false => vec![uid.as_bytes(), b"ENVELOPE (\"x {3}\" NIL)", &value],
        };
        let head = format!("* {number} FETCH (");
        self.server([head.as_bytes(), &items.join(&b' '), b")\r\n"].concat());
        match fetched.how {
            How::Literal | How::Binary => self.seen.push(Expected::Read {
                content: content.clone(),
                uid: Some(number),
            }),
            How::Quoted => self.seen.push(Expected::Read {
                content: b"a \"quoted\" one \\".to_vec(),
                uid: Some(number),
            }),
            How::Part => self.seen.push(Expected::Hint(Hint::Seen)),
            How::None => {}
        }
    }
}

fn script(acts: &[Act]) -> Script {
    let mut script = Script::default();
    script.server("* OK [CAPABILITY IMAP4rev1] hi {5}\r\n");
    script.client("a LOGIN anna secret\r\n");
    script.server("a OK in\r\n");
    script.client("b SELECT INBOX\r\n");
    script.server("* 0 EXISTS\r\n* OK [UIDVALIDITY 5] ok\r\nb OK done\r\n");
    acts.iter().for_each(|act| script.play(act));
    script
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_said_is_heard_and_what_passed_is_copied(
        acts in vec(act(), 0..8),
        size in select(vec![1, 7, usize::MAX]),
    ) {
        let script = script(&acts);
        let mut session = Session::new(Rules::default(), size);
        let (mut by_client, mut by_server) = (Vec::new(), Vec::new());
        for (from_client, bytes) in &script.turns {
            if *from_client {
                session.client(bytes);
                by_client.extend_from_slice(bytes);
            } else {
                session.server(bytes);
                by_server.extend_from_slice(bytes);
            }
            prop_assert!(!session.is_put_off());
        }
        prop_assert_eq!(&session.to_server, &by_client);
        prop_assert_eq!(&session.to_client, &by_server);

        let mut seen = Vec::new();
        for it in &session.seen {
            match it {
                Seen::Committed { message: Message::Saved { folder }, content, found, heard } => {
                    prop_assert_eq!(folder, &WireText::from("INBOX"));
                    let Some(Expected::Saved { tag, .. }) = script.seen.get(seen.len()) else {
                        return Err(TestCaseError::fail("saved what was not"));
                    };
                    let line = format!("\r\n{tag} OK [APPENDUID");
                    let at = memchr::memmem::rfind(&by_server, line.as_bytes());
                    let end = at.expect("it was said") + line.len();
                    let end = end + memchr::memchr(b'\n', &by_server[end..]).expect("its end");
                    prop_assert!(*heard <= end, "the client heard it before the copy was safe");
                    seen.push(Expected::Saved {
                        content: content.clone(),
                        uid: found.uid,
                        tag: tag.clone(),
                    });
                }
                Seen::Committed { content, found, .. } => seen.push(Expected::Read {
                    content: content.clone(),
                    uid: found.uid,
                }),
                Seen::Dropped => seen.push(Expected::Dropped),
                Seen::Hint(hint) => seen.push(Expected::Hint(*hint)),
                Seen::Lost(reason) => return Err(TestCaseError::fail(*reason)),
                Seen::Uncopied => return Err(TestCaseError::fail("saved without a copy")),
                Seen::Begun(_)
                | Seen::Login { .. }
                | Seen::Authenticated(_)
                | Seen::StartTls
                | Seen::Settle { .. } => {}
            }
        }
        prop_assert_eq!(seen, script.seen);
    }

    /// Cut off, doubled and jumbled: nothing is certain but that all of it passes and little is held.
    #[test]
    fn no_session_breaks_the_watcher(
        acts in vec(act(), 1..6),
        cuts in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        size in select(vec![1, 7, usize::MAX]),
    ) {
        let mut input = Vec::new();
        for (from_client, bytes) in script(&acts).turns {
            for line in bytes.split_inclusive(|b| *b == b'\n') {
                input.push(if from_client { 0xfe } else { 0xff });
                input.extend_from_slice(line);
            }
        }
        for (at, byte) in cuts {
            let at = at.index(input.len());
            match byte {
                ..80 => input[at] = byte,
                80..160 => {
                    input.remove(at);
                    input.push(byte);
                }
                _ => input.insert(at, byte),
            }
        }
        scramble(&input, size);
    }
}

/// A command of a client that waits for nothing, and how many messages its answer shows.
fn piped() -> impl Strategy<Value = (String, bool, usize)> {
    let removes = select(vec![
        "EXPUNGE\r\n",
        "UID EXPUNGE 1:*\r\n",
        "CLOSE\r\n",
        "MOVE 1 {3+}\r\nbin\r\n",
        "UID MOVE 1 bin\r\n",
        "STORE 1 +FLAGS (\\Deleted)\r\n",
        "uid store 1 +FLAGS.SILENT (\\Deleted)\r\n",
        "DELETE {3+}\r\nold\r\n",
        "DELETE old\r\n",
    ]);
    let neither = select(vec!["NOOP\r\n", "UID SEARCH ALL\r\n", "UNSELECT\r\n"]);
    prop_oneof![
        removes.prop_map(|text| (text.to_owned(), true, 0)),
        neither.prop_map(|text| (text.to_owned(), false, 0)),
        (0usize..3).prop_map(|count| ("UID FETCH 1:* BODY[]\r\n".to_owned(), false, count)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// All is said at once. What removes is heard when all that was shown before it was told to be copied, not before, and
    /// not later either.
    #[test]
    fn what_removes_is_heard_behind_the_copies(
        commands in vec(piped(), 1..12),
        size in select(vec![1, 7, usize::MAX]),
    ) {
        let mut session = Session::new(Rules::default(), size);
        session.server(b"* OK hi\r\n");
        let said = commands.iter().enumerate();
        let said: Vec<_> = said.map(|(at, (text, ..))| format!("t{at} {text}")).collect();
        session.client(said.concat().as_bytes());
        let (mut shown, mut heard, mut expected) = (0, 0, Vec::new());
        for (at, (_, removes, count)) in commands.iter().enumerate() {
            if *removes {
                expected.push((heard, shown));
            }
            heard += said[at].len();
            prop_assert!(session.to_server.len() >= heard, "it waits for nothing");
            for _ in 0..*count {
                session.server(b"* 1 FETCH (BODY[] {4}\r\nmail)\r\n");
            }
            shown += count;
            session.server(format!("t{at} OK done\r\n").as_bytes());
        }
        prop_assert!(session.to_server == said.concat().as_bytes());
        let (mut copied, mut settled) = (0, Vec::new());
        for seen in &session.seen {
            match seen {
                Seen::Committed { .. } => copied += 1,
                Seen::Settle { heard } => settled.push((*heard, copied)),
                _ => {}
            }
        }
        prop_assert_eq!(settled, expected);
    }
}

#[test]
fn a_thousand_messages_of_one_command_are_copied_and_no_more() {
    let mut session = Session::new(Rules::default(), 100);
    session.server(b"* OK hi\r\n");
    session.client(b"a APPEND x");
    for _ in 0..1001 {
        session.client(b" {4+}\r\nmail");
    }
    session.client(b"\r\n");
    session.server(b"a OK [APPENDUID 1 1:1001] done\r\n");
    let committed = |seen: &&Seen| matches!(seen, Seen::Committed { .. });
    assert_eq!(session.seen.iter().filter(committed).count(), 1000);
    assert_eq!(session.seen.last(), Some(&Seen::Uncopied), "it is told");
    // Their places are free again.
    session.client(b"b APPEND x {4+}\r\nmail\r\n");
    session.server(b"b OK done\r\n");
    assert_eq!(session.seen.iter().filter(committed).count(), 1001);
}

/// A client need not wait for its answers: the next command that saves waits for it.
#[test]
fn however_many_messages_are_saved_in_a_row_each_is_copied() {
    let mut session = Session::new(Rules::default(), 100);
    session.server(b"* OK hi\r\n");
    for number in 0..300 {
        let command = format!("a{number} APPEND x {{4+}}\r\nmail\r\n");
        session.client(command.as_bytes());
    }
    assert!(session.is_put_off(), "it does not copy so many at once");
    for number in 0..300 {
        session.server(format!("a{number} OK done\r\n").as_bytes());
    }
    let committed = |seen: &&Seen| matches!(seen, Seen::Committed { .. });
    assert_eq!(session.seen.iter().filter(committed).count(), 300);
}
