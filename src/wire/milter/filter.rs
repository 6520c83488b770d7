//! The milter: an onlooker. It negotiates away what it does not need, asks for no change, and its one opinion of a message
//! is whether it has been captured.
//!
//! [`Filter::next`] takes bytes and hands content on as it comes: the header block as it was, the empty line, the body. A
//! message is over with [`Step::End`], to which [`Filter::answer`] belongs, or with [`Step::Dropped`].

use super::{
    VERSION, action, answer,
    command::*,
    frame::{Garbage, Piece, Splitter, number, put},
    macros::{self, Macros},
    protocol::{self, *},
    transaction::{Connection, Ended, Transaction},
};

/// Every event that we can do without, every answer that the MTA does not wait for, and headers with their white space.
const WANTED: u32 = NO_END_OF_HEADERS
    | NO_UNKNOWN
    | NO_DATA
    | SILENT_CONNECT
    | SILENT_HELO
    | SILENT_MAIL
    | SILENT_RCPT
    | SILENT_DATA
    | SILENT_UNKNOWN
    | SILENT_HEADER
    | SILENT_END_OF_HEADERS
    | SILENT_BODY
    | REFUSED_RECIPIENTS
    | LEADING_SPACE;

/// What one milter may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub recipients_max: usize,
}

/// What was agreed on, in bits of [`protocol`] and [`action`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub version: u32,
    pub actions: u32,
    pub protocol: u32,
}

impl Negotiated {
    fn has(self, bit: u32) -> bool {
        self.protocol & bit != 0
    }
}

/// What the caller has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    Negotiated(Negotiated),
    /// The next bytes of the message; the first of them begin it.
    Content(&'a [u8]),
    /// The message is whole: [`Filter::take_ended`], then [`Filter::answer`], and only then more bytes.
    End,
    /// What came of the message is void.
    Dropped,
    /// The MTA takes its leave.
    Quit,
}

/// What the MTA is to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Continue,
    TempFail,
}

/// The milter's side of one connection.
#[derive(Debug)]
pub struct Filter {
    splitter: Splitter,
    talk: Talk,
}

impl Filter {
    pub fn new(rules: Rules) -> Self {
        Self {
            splitter: Splitter::default(),
            talk: Talk::new(rules),
        }
    }

    /// Takes bytes from the front of `input`, up to the next step; none where it has taken all. After an error the
    /// connection is of no more use.
    pub fn next<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Step<'s>>, Garbage> {
        loop {
            let piece = self.splitter.next(input);
            let done = piece.and_then(|piece| match piece {
                Some(piece) => self.talk.take(piece).map(Some),
                None => Ok(None),
            });
            match done {
                Ok(Some(Done::Noted)) => {}
                Ok(Some(Done::Header)) => return Ok(Some(Step::Content(&self.talk.header))),
                Ok(Some(Done::Step(step))) => return Ok(Some(step)),
                Ok(None) => return Ok(None),
                Err(Garbage::FrameLength(_) | Garbage::OutOfOrder(_)) if !self.is_negotiated() => {
                    return Err(Garbage::NotAMilter(self.splitter.head()));
                }
                Err(garbage) => return Err(garbage),
            }
        }
    }

    /// The message behind [`Step::End`].
    pub fn take_ended(&mut self) -> Ended {
        // A header may have been as long as a frame, and a session may be idle for hours.
        self.talk.header = Vec::new();
        self.talk.ended.take().unwrap_or_default()
    }

    /// Answers [`Step::End`].
    pub fn answer(&mut self, verdict: Verdict) {
        let letter = match verdict {
            Verdict::Continue => answer::CONTINUE,
            Verdict::TempFail => answer::TEMPFAIL,
        };
        put(&mut self.talk.out, letter, &[]);
    }

    /// Tells the MTA to wait on for the answer.
    pub fn progress(&mut self) {
        put(&mut self.talk.out, answer::PROGRESS, &[]);
    }

    /// Bytes for the MTA; whoever has written them clears them.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.talk.out
    }

    /// No message is under way.
    pub fn is_idle(&self) -> bool {
        self.talk.transaction.is_none() && self.talk.ended.is_none()
    }

    /// Before this it may be anybody.
    pub fn is_negotiated(&self) -> bool {
        self.talk.negotiated.is_some()
    }
}

/// What a piece came to.
enum Done<'i> {
    Noted,
    /// A header, or the empty line behind the last one, lies in `Talk::header`.
    Header,
    Step(Step<'i>),
}

/// All of the filter but its frames.
#[derive(Debug)]
struct Talk {
    rules: Rules,
    negotiated: Option<Negotiated>,
    connection: Connection,
    /// What was told ahead of MAIL.
    before_mail: Option<Macros>,
    transaction: Option<Transaction>,
    ended: Option<Ended>,
    header: Vec<u8>,
    out: Vec<u8>,
}

impl Talk {
    fn new(rules: Rules) -> Self {
        Self {
            rules,
            negotiated: None,
            connection: Connection::default(),
            before_mail: None,
            transaction: None,
            ended: None,
            header: Vec::new(),
            out: Vec::new(),
        }
    }

    fn take<'i>(&mut self, piece: Piece<'_, 'i>) -> Result<Done<'i>, Garbage> {
        let Some(negotiated) = self.negotiated else {
            return match piece {
                Piece::Whole {
                    command: NEGOTIATE,
                    payload,
                } => self.negotiate(payload),
                Piece::Whole { command, .. } | Piece::Starts(command) | Piece::Ends(command) => {
                    Err(Garbage::OutOfOrder(command))
                }
                Piece::Part(_) => Ok(Done::Noted),
            };
        };
        match piece {
            Piece::Whole { command, payload } => {
                let done = self.event(command, payload)?;
                self.reply(negotiated, command);
                Ok(done)
            }
            Piece::Starts(command) => self.end_headers(command),
            Piece::Part(bytes) => Ok(Done::Step(Step::Content(bytes))),
            Piece::Ends(END_OF_BODY) => {
                let transaction = self.transaction.take();
                self.ended = transaction.map(|it| it.end(&self.connection));
                Ok(Done::Step(Step::End))
            }
            Piece::Ends(command) => {
                self.reply(negotiated, command);
                Ok(Done::Noted)
            }
        }
    }

    /// Our choice is a part of the offer, or Postfix drops us.
    fn negotiate<'i>(&mut self, mut payload: &[u8]) -> Result<Done<'i>, Garbage> {
        let mut next = || number(&mut payload).ok_or(Garbage::Malformed(NEGOTIATE));
        let (version, actions, offered) = (next()?, next()?, next()?);
        // Version 1 knew none of the bits that follow.
        if version < 2 {
            return Err(Garbage::Version(version));
        }
        let negotiated = Negotiated {
            version: version.min(VERSION),
            actions: actions & action::SET_MACROS,
            protocol: offered & WANTED,
        };
        self.negotiated = Some(negotiated);
        let mut answer = Vec::new();
        for number in [negotiated.version, negotiated.actions, negotiated.protocol] {
            answer.extend_from_slice(&number.to_be_bytes());
        }
        if negotiated.actions & action::SET_MACROS != 0 {
            macros::ask(&mut answer);
        }
        put(&mut self.out, NEGOTIATE, &answer);
        Ok(Done::Step(Step::Negotiated(negotiated)))
    }

    /// CONTINUE, where the MTA has not agreed to go on without: it would wait for it until its patience ends.
    fn reply(&mut self, negotiated: Negotiated, command: u8) {
        let (_, silent) = protocol::bits(command);
        if silent != 0 && !negotiated.has(silent) {
            put(&mut self.out, answer::CONTINUE, &[]);
        }
    }

    /// Everything but the body.
    fn event<'i>(&mut self, command: u8, payload: &[u8]) -> Result<Done<'i>, Garbage> {
        match command {
            MACROS => {
                if let Some((&stage, values)) = payload.split_first() {
                    self.macros(stage, values);
                }
            }
            CONNECT => {
                let begun = self.connection.begin(payload);
                begun.ok_or(Garbage::Malformed(CONNECT))?;
                self.before_mail = None;
                return Ok(self.drop_message());
            }
            HELO => self.connection.helo(payload),
            MAIL => {
                let dropped = self.drop_message();
                let macros = self.before_mail.take();
                let macros = macros.unwrap_or_else(|| self.connection.macros.clone());
                self.transaction = Some(Transaction::begin(payload, macros)?);
                return Ok(dropped);
            }
            RCPT => {
                let max = self.rules.recipients_max;
                let transaction = self.transaction.as_mut();
                let transaction = transaction.ok_or(Garbage::OutOfOrder(RCPT))?;
                transaction.recipient(payload, max)?;
            }
            DATA | END_OF_HEADERS | UNKNOWN => {}
            HEADER => return self.header(payload),
            ABORT => return Ok(self.drop_message()),
            QUIT => return Ok(Done::Step(Step::Quit)),
            QUIT_NEW_CONNECTION => {
                self.connection = Connection::default();
                self.before_mail = None;
                return Ok(self.drop_message());
            }
            other => return Err(Garbage::OutOfOrder(other)),
        }
        Ok(Done::Noted)
    }

    /// They come before their event, and even where the event is kept away.
    fn macros(&mut self, stage: u8, values: &[u8]) {
        match (stage, &mut self.transaction) {
            (CONNECT | HELO, _) => self.connection.macros.take(values),
            // The message before was never ended, or this one has not begun.
            (MAIL, _) => {
                let mut macros = self.connection.macros.clone();
                macros.take(values);
                self.before_mail = Some(macros);
            }
            (_, Some(transaction)) => transaction.macros.take(values),
            (_, None) => {}
        }
    }

    /// Whatever of it was handed on is void.
    fn drop_message<'i>(&mut self) -> Done<'i> {
        self.header = Vec::new();
        match self.transaction.take() {
            Some(transaction) if transaction.has_content => Done::Step(Step::Dropped),
            _ => Done::Noted,
        }
    }

    /// The line as it was: name, colon, white space, value, with the line ends of a message.
    fn header<'i>(&mut self, payload: &[u8]) -> Result<Done<'i>, Garbage> {
        let transaction = self.transaction.as_mut();
        let transaction = transaction.ok_or(Garbage::OutOfOrder(HEADER))?;
        let mut strings = super::frame::strings(payload);
        let (Some(name), Some(value)) = (strings.next(), strings.next()) else {
            return Err(Garbage::Malformed(HEADER));
        };
        if transaction.has_body {
            return Err(Garbage::OutOfOrder(HEADER));
        }
        transaction.has_content = true;
        let spaced = self.negotiated.is_some_and(|it| it.has(LEADING_SPACE));
        self.header.clear();
        self.header.extend_from_slice(name);
        self.header.push(b':');
        if !spaced {
            self.header.push(b' ');
        }
        put_lines(&mut self.header, value);
        self.header.extend_from_slice(b"\r\n");
        Ok(Done::Header)
    }

    /// The first piece of body, or the end without one, ends the headers: their own end may be negotiated away.
    fn end_headers<'i>(&mut self, command: u8) -> Result<Done<'i>, Garbage> {
        let transaction = self.transaction.as_mut();
        let transaction = transaction.ok_or(Garbage::OutOfOrder(command))?;
        if std::mem::replace(&mut transaction.has_body, true) {
            return Ok(Done::Noted);
        }
        transaction.has_content = true;
        self.header.clear();
        self.header.extend_from_slice(b"\r\n");
        Ok(Done::Header)
    }
}

/// The lines of a folded value come with LF, some of them with CRLF already.
fn put_lines(out: &mut Vec<u8>, value: &[u8]) {
    let mut before = 0;
    for &byte in value {
        if byte == b'\n' && before != b'\r' {
            out.push(b'\r');
        }
        out.push(byte);
        before = byte;
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Mta, Offer, Reply, fuzz},
        *,
    };

    /// What the MTA's side says, whole, with this offer.
    fn said(offer: Offer, say: impl FnOnce(&mut Mta)) -> Vec<u8> {
        let mut mta = Mta::new(offer);
        let mut bytes = std::mem::take(&mut mta.out);
        let replies = fuzz::connection(&bytes, 1).replies;
        let chosen = mta.next(&mut replies.as_slice()).expect("no garbage");
        assert!(
            matches!(chosen, Some(Reply::Negotiated { .. })),
            "{chosen:?}"
        );
        say(&mut mta);
        bytes.append(&mut mta.out);
        bytes
    }

    fn replies(mta_offer: Offer, bytes: &[u8]) -> Vec<Reply> {
        let heard = fuzz::connection(bytes, bytes.len()).replies;
        let (mut mta, mut heard, mut replies) = (Mta::new(mta_offer), heard.as_slice(), Vec::new());
        while let Some(reply) = mta.next(&mut heard).expect("no garbage") {
            replies.push(reply);
        }
        replies
    }

    fn message(mta: &mut Mta) {
        mta.connect("mx.example", "192.0.2.1:25".parse().unwrap());
        mta.helo(b"mx.example");
        mta.mail(&[b"<a@example>", b"SIZE=10"]);
        mta.rcpt(&[b"<b@example>"]);
        mta.data();
        mta.header(b"Subject", b" one\n\ttwo");
        mta.header(b"X-Tight", b"yes");
        mta.end_of_headers();
        mta.body(b"first\r\n");
        mta.body(b"second\r\n");
        mta.end_of_body(b"");
    }

    const COPY: &[u8] = b"Subject: one\r\n\ttwo\r\nX-Tight:yes\r\n\r\nfirst\r\nsecond\r\n";

    #[test]
    fn only_what_was_offered_is_chosen() {
        for protocol in [0, 0x7f, 0x1f_ffff, 0x3ff, u32::MAX] {
            for (version, actions) in [(2, 0x1f), (3, 0xff), (4, 0x3f), (6, 0x1ff), (9, u32::MAX)] {
                let offer = Offer {
                    version,
                    actions,
                    protocol,
                };
                let negotiate = std::mem::take(&mut Mta::new(offer).out);
                let replies = replies(offer, &negotiate);
                let [Reply::Negotiated { chosen, macros }] = replies.as_slice() else {
                    panic!("one reply: {replies:?}");
                };
                assert_eq!(chosen.version, version.min(6));
                assert_eq!(chosen.actions, actions & 0x100);
                assert_eq!(chosen.protocol, protocol & WANTED);
                assert_eq!(macros.is_empty(), chosen.actions == 0);
            }
        }
    }

    #[test]
    fn one_answer_a_message_where_the_mta_agrees_and_one_an_event_where_not() {
        let newest = Offer::default();
        let bytes = said(newest, message);
        assert_eq!(replies(newest, &bytes)[1..], [Reply::Continue]);
        let oldest = Offer {
            version: 2,
            actions: 0x1f,
            protocol: 0x7f,
        };
        let bytes = said(oldest, message);
        // connect, helo, mail, rcpt, two headers, two pieces of body, the end; DATA and the headers' end are not told
        let events = 9 + 1; // version 2 has no bit for DATA: it is told
        assert_eq!(replies(oldest, &bytes)[1..], vec![Reply::Continue; events]);
    }

    #[test]
    fn the_copy_is_the_message_in_any_chunking() {
        let bytes = said(Offer::default(), message);
        let whole = fuzz::connection(&bytes, bytes.len());
        let [(copy, ended)] = whole.copies.as_slice() else {
            panic!("one message: {whole:?}");
        };
        assert_eq!(
            copy.escape_ascii().to_string(),
            COPY.escape_ascii().to_string()
        );
        assert_eq!(ended.envelope.sender_parameters, "SIZE=10".into());
        assert_eq!(ended.client.helo, Some("mx.example".into()));
        for step in [1, 7, 64] {
            assert_eq!(fuzz::connection(&bytes, step), whole, "{step}");
        }
    }

    #[test]
    fn without_leading_space_one_space_is_put_back() {
        let offer = Offer {
            protocol: 0x1f_ffff & !LEADING_SPACE,
            ..Offer::default()
        };
        let outcome = fuzz::connection(&said(offer, message), 100);
        let copy = COPY.escape_ascii().to_string();
        assert_eq!(
            outcome.copies[0].0.escape_ascii().to_string(),
            copy.replace("X-Tight:", "X-Tight: ")
        );
    }

    #[test]
    fn a_body_may_end_with_the_end_or_be_missing() {
        let last = said(Offer::default(), |mta| {
            mta.mail(&[b"<>"]);
            mta.header(b"A", b" b");
            mta.end_of_body(b"last\r\n");
            mta.mail(&[b"<>"]);
            mta.header(b"A", b" b");
            mta.end_of_body(b"");
        });
        let copies = fuzz::connection(&last, 3).copies;
        assert_eq!(copies[0].0, b"A: b\r\n\r\nlast\r\n");
        assert_eq!(copies[1].0, b"A: b\r\n\r\n");
    }

    #[test]
    fn a_message_ends_with_abort_or_another_mail_but_the_connection_does_not() {
        let bytes = said(Offer::default(), |mta| {
            mta.macros(MAIL, &[("{auth_authen}", "jo")]);
            mta.mail(&[b"<a@example>"]);
            mta.header(b"A", b" given up");
            mta.abort();
            mta.abort();
            mta.mail(&[b"<b@example>"]);
            mta.header(b"A", b" forgotten");
            mta.mail(&[b"<c@example>"]);
            mta.abort();
            mta.mail(&[b"<d@example>"]);
            mta.macros(END_OF_BODY, &[("i", "4Fq")]);
            mta.end_of_body(b"");
        });
        let outcome = fuzz::connection(&bytes, 5);
        assert_eq!(outcome.dropped, 2);
        let [(copy, ended)] = outcome.copies.as_slice() else {
            panic!("one message: {outcome:?}");
        };
        assert_eq!(
            (copy.as_slice(), &ended.envelope.sender),
            (b"\r\n".as_slice(), &"d@example".into())
        );
        assert_eq!(
            (&ended.client.login, &ended.client.queue_id),
            (&None, &Some("4Fq".into()))
        );
    }

    #[test]
    fn a_new_connection_on_the_same_socket_knows_nothing_of_the_old() {
        let bytes = said(Offer::default(), |mta| {
            mta.macros(
                HELO,
                &[
                    ("{tls_version}", "TLSv1.3"),
                    ("{cipher}", "TLS_AES_256_GCM_SHA384"),
                ],
            );
            message(mta);
            mta.macros(MAIL, &[("{auth_authen}", "jo")]);
            mta.quit_for_new_connection();
            mta.connect("other.example", "192.0.2.2:26".parse().unwrap());
            mta.mail(&[b"<a@example>"]);
            mta.end_of_body(b"");
        });
        let copies = fuzz::connection(&bytes, 9).copies;
        assert_eq!(copies[0].1.client.tls.as_ref().unwrap().version, "TLSv1.3");
        let second = &copies[1].1.client;
        assert_eq!(second.name, Some("other.example".into()));
        assert_eq!((&second.helo, &second.tls), (&None, &None));
        assert_eq!(second.login, None);
    }

    #[test]
    fn who_does_not_begin_with_an_offer_is_no_milter_peer() {
        for first in [
            "GET / HTTP/1.0\r\n\r\n",
            "EHLO there\r\n",
            "\0\0\0\x01Q",
            "\0\0\0\x02Bx",
        ] {
            let outcome = fuzz::connection(first.as_bytes(), 3);
            let garbage = outcome.garbage.expect("refused");
            assert!(matches!(garbage, Garbage::NotAMilter(_)), "{garbage}");
            assert!(outcome.replies.is_empty());
        }
    }

    #[test]
    fn what_is_out_of_order_ends_the_connection() {
        let cases: [&dyn Fn(&mut Mta); 5] = [
            &|mta| _ = mta.rcpt(&[b"<a@b>"]),
            &|mta| _ = mta.header(b"A", b" b"),
            &|mta| _ = mta.body(b"x"),
            &|mta| _ = mta.end_of_body(b""),
            &|mta| {
                mta.mail(&[b"<>"]);
                mta.body(b"x");
                mta.header(b"A", b" b");
            },
        ];
        for say in cases {
            let outcome = fuzz::connection(&said(Offer::default(), say), 100);
            assert!(
                matches!(outcome.garbage, Some(Garbage::OutOfOrder(_))),
                "{outcome:?}"
            );
        }
    }

    #[test]
    fn the_memory_of_a_long_header_is_given_back() {
        let mut filter = Filter::new(Rules { recipients_max: 1 });
        filter.talk.header = vec![0; 1 << 20];
        filter.take_ended();
        assert_eq!(filter.talk.header.capacity(), 0);
    }
}
