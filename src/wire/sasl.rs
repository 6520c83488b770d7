//! Whose name a SASL dialogue carries (RFC 4422), in whichever protocol. The secret is never stored: each line is decoded,
//! the names copied out, the rest overwritten and dropped.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::message::WireText;

/// Watches one dialogue.
#[derive(Debug)]
pub struct AuthWatch {
    mechanism: Mechanism,
    login: Option<WireText>,
    acts_as: Option<WireText>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mechanism {
    Plain,
    /// `LOGIN` before its first answer, which is the name; the second is the password.
    Login,
    LoginNamed,
    /// `XOAUTH2` and `OAUTHBEARER`.
    Bearer,
    CramMd5,
    /// Any `SCRAM-`, without channel binding or with.
    Scram,
    Other,
}

impl AuthWatch {
    /// `argument` is that of AUTH or AUTHENTICATE: the mechanism, perhaps an initial response.
    pub fn begin(argument: &[u8]) -> Self {
        let mut words = argument
            .split(u8::is_ascii_whitespace)
            .filter(|w| !w.is_empty());
        let mechanism = match words
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase()
            .as_slice()
        {
            b"PLAIN" => Mechanism::Plain,
            b"LOGIN" => Mechanism::Login,
            b"XOAUTH2" | b"OAUTHBEARER" => Mechanism::Bearer,
            b"CRAM-MD5" => Mechanism::CramMd5,
            name if name.starts_with(b"SCRAM-") => Mechanism::Scram,
            _ => Mechanism::Other,
        };
        let mut this = Self {
            mechanism,
            login: None,
            acts_as: None,
        };
        // `=` is an empty one (RFC 5034 section 4): the answer that counts is still to come.
        if let Some(initial) = words.next().filter(|response| *response != b"=") {
            this.answer(initial);
        }
        this
    }

    /// A line that the client sent in answer to a challenge. Behind one that cannot be read nothing is: a server may have read
    /// it, and what it takes for the secret would be the name.
    pub fn answer(&mut self, line: &[u8]) {
        if matches!(self.mechanism, Mechanism::Other | Mechanism::LoginNamed) {
            return;
        }
        let mut decoded = Vec::with_capacity(line.len());
        let said = |name: Cow<'_, [u8]>| (!name.is_empty()).then(|| WireText::from(&*name));
        match STANDARD.decode_vec(line.trim_ascii(), &mut decoded) {
            Ok(()) => {
                [self.login, self.acts_as] = self.names(&decoded).map(|name| name.and_then(said));
            }
            Err(_) => self.mechanism = Mechanism::Other,
        }
        wipe(&mut decoded);
    }

    /// Who logs in, and as whom, if as another.
    fn names<'a>(&mut self, said: &'a [u8]) -> [Option<Cow<'a, [u8]>>; 2] {
        match self.mechanism {
            // authorisation identity NUL authentication identity NUL password (RFC 4616)
            Mechanism::Plain => {
                let mut parts = said.split(|b| *b == 0).map(Cow::from);
                let acts_as = parts.next();
                [parts.next(), acts_as]
            }
            Mechanism::Login => {
                self.mechanism = Mechanism::LoginNamed;
                [Some(said.into()), None]
            }
            // user=NAME ^A auth=Bearer …, or n,a=NAME,^A … (RFC 7628)
            Mechanism::Bearer => {
                let name = said
                    .split(|b| matches!(b, 1 | b','))
                    .find_map(|part| part.strip_prefix(b"user=").or(part.strip_prefix(b"a=")));
                [name.map(Cow::from), None]
            }
            // NAME digest (RFC 2195 section 2)
            Mechanism::CramMd5 => {
                let space = memchr::memrchr(b' ', said);
                [space.map(|space| said[..space].into()), None]
            }
            // n,a=AS,n=NAME,r=nonce, and only in the first answer (RFC 5802 section 7)
            Mechanism::Scram => {
                self.mechanism = Mechanism::Other;
                [&b"n="[..], b"a="].map(|key| {
                    let mut parts = said.split(|b| *b == b',');
                    let name = parts.find_map(|part| part.strip_prefix(key));
                    name.map(|name| scram_name(name).into())
                })
            }
            Mechanism::LoginNamed | Mechanism::Other => [None, None],
        }
    }

    /// The name that logs in, with which the secret goes.
    pub fn into_login(self) -> Option<WireText> {
        self.login
    }

    /// Whose mailbox it is to be: another's, where the client asks for one (RFC 4616 section 2).
    pub fn mailbox(&self) -> Option<&WireText> {
        self.acts_as.as_ref().or(self.login.as_ref())
    }
}

/// May this mechanism hand over the secret itself? Whoever listens has it then. Those that are known to prove only that
/// they know it do not.
pub fn shows_secret(mechanism: &[u8]) -> bool {
    const PROVING: [&[u8]; 7] = [
        b"ANONYMOUS",
        b"CRAM-MD5",
        b"DIGEST-MD5",
        b"EXTERNAL",
        b"GSSAPI",
        b"GSS-SPNEGO",
        b"NTLM",
    ];
    let upper = mechanism.to_ascii_uppercase();
    let is_scram = upper.strip_prefix(b"SCRAM-").is_some_and(|hash| {
        let fits = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
        hash.iter().all(fits)
    });
    !is_scram && !PROVING.contains(&upper.as_slice())
}

/// Overwrites what may hold a secret, and empties it.
pub fn wipe(bytes: &mut Vec<u8>) {
    overwrite(bytes);
    bytes.clear();
}

/// Overwrites what may hold a secret.
pub fn overwrite(bytes: &mut [u8]) {
    bytes.fill(0);
    // Seen by nobody, and for that left out by the compiler otherwise.
    std::hint::black_box(bytes);
}

/// Adds to what may hold a secret: where it has to move, nothing of it stays where it was.
pub fn extend(secret: &mut Vec<u8>, bytes: &[u8]) {
    let length = secret.len() + bytes.len();
    if length > secret.capacity() {
        let mut larger = Vec::with_capacity(length.next_power_of_two());
        larger.extend_from_slice(secret);
        wipe(secret);
        *secret = larger;
    }
    secret.extend_from_slice(bytes);
}

/// A name in which `,` and `=` were written as `=2C` and `=3D` (RFC 5802 section 5.1).
fn scram_name(written: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(written.len());
    let mut rest = written;
    while let Some((&byte, tail)) = rest.split_first() {
        let (byte, tail) = match (byte, tail) {
            (b'=', [b'2', b'C', tail @ ..]) => (b',', tail),
            (b'=', [b'3', b'D', tail @ ..]) => (b'=', tail),
            _ => (byte, tail),
        };
        name.push(byte);
        rest = tail;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(argument: &str, answers: &[&[u8]]) -> Option<String> {
        let mut watch = AuthWatch::begin(argument.as_bytes());
        for answer in answers {
            watch.answer(STANDARD.encode(answer).as_bytes());
        }
        watch.into_login().map(|l| l.to_string())
    }

    #[test]
    fn the_mailbox_is_the_one_that_is_asked_for() {
        let mailbox = |mechanism: &str, answer: &[u8]| {
            let mut watch = AuthWatch::begin(mechanism.as_bytes());
            watch.answer(STANDARD.encode(answer).as_bytes());
            watch.mailbox().map(ToString::to_string)
        };
        let plain = mailbox("PLAIN", b"shared\0anna\0secret");
        assert_eq!(plain.as_deref(), Some("shared"));
        let plain = mailbox("PLAIN", b"\0anna\0secret");
        assert_eq!(plain.as_deref(), Some("anna"));
        let scram = mailbox("SCRAM-SHA-1", b"n,a=shared,n=anna,r=nonce");
        assert_eq!(scram.as_deref(), Some("shared"));
    }

    #[test]
    fn the_name_is_found_and_the_secret_is_not() {
        let initial = STANDARD.encode(b"\0anna\0secret");
        assert_eq!(
            login(&format!("PLAIN {initial}"), &[]).as_deref(),
            Some("anna")
        );
        assert_eq!(
            login("plain", &[b"\0anna\0secret"]).as_deref(),
            Some("anna")
        );
        assert_eq!(
            login("LOGIN", &[b"anna", b"secret"]).as_deref(),
            Some("anna")
        );
        let bearer = b"user=anna@example.org\x01auth=Bearer secret\x01\x01";
        assert_eq!(
            login("XOAUTH2", &[bearer]).as_deref(),
            Some("anna@example.org")
        );
        let bearer = b"n,a=anna@example.org,\x01auth=Bearer secret\x01\x01";
        assert_eq!(
            login("OAUTHBEARER", &[bearer]).as_deref(),
            Some("anna@example.org")
        );
        let digest = b"anna berg 3f0a";
        assert_eq!(login("CRAM-MD5", &[digest]).as_deref(), Some("anna berg"));
        let scram = [&b"n,,n=a=2Cb=3D,r=nonce"[..], b"c=biws,r=n=x,p=proof"];
        assert_eq!(login("SCRAM-SHA-256", &scram).as_deref(), Some("a,b="));
        assert_eq!(login("GSSAPI", &[b"anna 0123"]), None);
        assert_eq!(login("PLAIN =", &[b"nonsense"]), None);
    }
}
