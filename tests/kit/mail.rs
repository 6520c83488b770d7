//! Varied mail, the same on every machine: what real senders do to a relay, one oddity a kind. Line ends are CRLF
//! throughout; the tests of bare ones make their own.

use std::fmt::Write as _;

/// A message with its envelope.
#[derive(Clone, Debug)]
pub struct Mail {
    pub sender: String,
    pub recipients: Vec<String>,
    /// Ends with CRLF unless it is empty.
    pub bytes: Vec<u8>,
    /// The kind, for a failure's text.
    pub kind: &'static str,
}

/// The kinds, in the order in which `varied` goes round.
const KINDS: [&str; 16] = [
    "plain",
    "dot lines",
    "long line",
    "8-bit",
    "utf8 address",
    "attachment",
    "null sender",
    "many recipients",
    "empty body",
    "no header",
    "folded header",
    "raw 8-bit header",
    "control characters",
    "trailing blank lines",
    "html",
    "quoted local part",
];

impl Mail {
    /// A short message that no other has: `serial` is in its subject, Message-ID and body.
    pub fn plain(serial: u64) -> Self {
        Self {
            sender: "sender@mailtee.test".to_owned(),
            recipients: vec!["recipient@mailtee.test".to_owned()],
            bytes: format!(
                "From: <sender@mailtee.test>\r\nTo: <recipient@mailtee.test>\r\nSubject: message {serial}\r\n\
                 Message-ID: <{serial}@kit.mailtee.test>\r\nDate: Mon, 01 Jun 2026 10:00:00 +0000\r\n\r\n\
                 This is message {serial}.\r\n"
            )
            .into_bytes(),
            kind: "plain",
        }
    }

    /// A plain message with a body of about `bytes` bytes.
    pub fn sized(serial: u64, bytes: usize) -> Self {
        let mut mail = Self::plain(serial);
        let mut random = Random(serial);
        mail.bytes.reserve(bytes + 80);
        while mail.bytes.len() < bytes {
            let line = random.text(70);
            mail.bytes.extend_from_slice(line.as_bytes());
            mail.bytes.extend_from_slice(b"\r\n");
        }
        mail.kind = "sized";
        mail
    }

    /// Message number `serial` of the varied set `seed`.
    pub fn varied(seed: u64, serial: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9).wrapping_add(serial));
        let kind = KINDS[(serial % KINDS.len() as u64) as usize];
        let id = format!("{seed}.{serial}");
        let mut sender = format!("sender{}@mailtee.test", random.below(20));
        let mut recipients = vec![format!("user{}@example.org", random.below(50))];
        let mut extra = String::new();
        let mut body = Vec::new();
        for _ in 0..=random.below(20) {
            body.extend_from_slice(random.text(72).as_bytes());
            body.extend_from_slice(b"\r\n");
        }
        match kind {
            "dot lines" => body.extend_from_slice(b".\r\n..\r\n...\r\n.a\r\n . \r\n.\r\n"),
            "long line" => {
                body.extend_from_slice(random.text(900).as_bytes());
                body.extend_from_slice(b"\r\n");
            }
            "8-bit" => {
                extra.push_str("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n");
                body.extend_from_slice("Grüße, привет, 会議 📎\r\n".as_bytes());
            }
            "utf8 address" => {
                sender = "jürgen@mailtee.test".to_owned();
                recipients.push("用户@example.org".to_owned());
            }
            "attachment" => attachment(&mut extra, &mut body, &mut random),
            "null sender" => sender.clear(),
            "many recipients" => {
                recipients.extend((0..60).map(|n| format!("list{n}@example.net")));
            }
            "empty body" => body.clear(),
            "folded header" => {
                extra.push_str("X-Folded: one\r\n two\r\n\tthree\r\n  \tfour\r\nReferences: <a@x>\r\n <b@x>\r\n");
            }
            "raw 8-bit header" => extra.push_str("X-Raw: na\u{ef}ve caf\u{e9}\r\n"),
            "control characters" => {
                body.extend_from_slice(b"bell \x07 escape \x1b[0m tab\tend\r\n")
            }
            "trailing blank lines" => body.extend_from_slice(b"\r\n\r\n \r\n\r\n"),
            "html" => {
                extra
                    .push_str("MIME-Version: 1.0\r\nContent-Type: text/html; charset=us-ascii\r\n");
                body = format!("<html><body><p>{}</p></body></html>\r\n", random.text(60))
                    .into_bytes();
            }
            "quoted local part" => recipients.push("\"odd local part\"@example.org".to_owned()),
            _ => {}
        }
        let mut head = String::new();
        if kind != "no header" {
            let _ = write!(
                head,
                "From: <{sender}>\r\nTo: <{}>\r\nSubject: {kind} {id}\r\nMessage-ID: <{id}@kit.mailtee.test>\r\n\
                 Date: Mon, 01 Jun 2026 10:00:00 +0000\r\n{extra}",
                recipients[0]
            );
        } else {
            body.extend_from_slice(format!("number {id}\r\n").as_bytes());
        }
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(b"\r\n");
        bytes.append(&mut body);
        Self {
            sender,
            recipients,
            bytes,
            kind,
        }
    }

    /// MAIL's parameters that this message needs, with the space before them.
    pub fn parameters(&self) -> String {
        let mut out = String::new();
        if !self.bytes.is_ascii() {
            out.push_str(" BODY=8BITMIME");
        }
        if self.needs_smtputf8() {
            out.push_str(" SMTPUTF8");
        }
        out
    }

    pub fn needs_smtputf8(&self) -> bool {
        let headers = match self.bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            Some(end) => &self.bytes[..end],
            None => &self.bytes,
        };
        !self.sender.is_ascii()
            || self.recipients.iter().any(|r| !r.is_ascii())
            || !headers.is_ascii()
    }
}

fn attachment(extra: &mut String, body: &mut Vec<u8>, random: &mut Random) {
    extra.push_str("MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"=_b\"\r\n");
    let text = std::mem::take(body);
    body.extend_from_slice(b"--=_b\r\nContent-Type: text/plain\r\n\r\n");
    body.extend_from_slice(&text);
    body.extend_from_slice(b"--=_b\r\nContent-Type: application/octet-stream; name=\"a.bin\"\r\nContent-Transfer-Encoding: base64\r\n\r\n");
    for _ in 0..200 + random.below(800) {
        for _ in 0..76 {
            let digit = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
                [random.below(64) as usize];
            body.push(digit);
        }
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--=_b--\r\n");
}

/// SplitMix64: small, and the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Words of lower-case letters, exactly `length` characters.
    fn text(&mut self, length: usize) -> String {
        (0..length)
            .map(|at| match self.below(7) {
                0 if at > 0 && at + 1 < length => ' ',
                _ => char::from(b'a' + self.below(26) as u8),
            })
            .collect()
    }
}
