//! The dialogue after a greeting: each protocol is asked what it can do, in the clear, then under STARTTLS or STLS, and left.
//!
//! Nobody logs in, nothing is written, no mail is offered. A dialogue that breaks off leaves what was found before; where
//! the server agreed to TLS and the handshake failed, nothing more is asked: there is no going back to the clear.

mod imap;
mod nntp;
mod pop3;
mod sieve;
mod smtp;

use super::{
    greeting::Greeting,
    identity::{Identity, Kind, TlsMode},
    talk::{Talk, Trouble},
    tls::Trust,
};

/// Where a dialogue stands.
struct Dialogue<'a> {
    talk: Talk,
    trust: &'a Trust,
    found: &'a mut Identity,
}

/// Goes through the dialogue that a greeting invites to. The greeting is still unread in `talk`.
pub(super) async fn hold(
    greeting: Greeting,
    talk: Talk,
    trust: &Trust,
    found: &mut Identity,
) -> Result<(), Trouble> {
    let dialogue = Dialogue { talk, trust, found };
    match greeting {
        Greeting::Smtp => smtp::hold(dialogue).await,
        Greeting::Imap => imap::hold(dialogue).await,
        Greeting::Pop3 => pop3::hold(dialogue).await,
        Greeting::ManageSieve => sieve::hold(dialogue).await,
        Greeting::Nntp => nntp::hold(dialogue).await,
        Greeting::Http | Greeting::Unknown => {
            let mut dialogue = dialogue;
            dialogue.found.kind = match greeting {
                Greeting::Http => Kind::Http,
                _ => Kind::Unknown,
            };
            let words = match dialogue.talk.line().await {
                Ok(line) => line.into_bytes(),
                Err(_) => dialogue.talk.unread().to_vec(),
            };
            dialogue.heard("it says", &String::from_utf8_lossy(&words));
            Ok(())
        }
    }
}

impl Dialogue<'_> {
    /// Takes the greeting's next line.
    async fn greeting(&mut self, kind: Kind) -> Result<String, Trouble> {
        self.found.kind = kind;
        let line = match self.talk.line().await {
            Ok(line) => line,
            Err(trouble) => {
                let begun = String::from_utf8_lossy(self.talk.unread()).into_owned();
                self.heard("it begins to greet", &begun);
                if trouble == Trouble::TooMuch {
                    self.found.kind = Kind::Unknown;
                }
                return Err(trouble);
            }
        };
        self.heard("it greets", &line);
        Ok(line)
    }

    fn heard(&mut self, what: &str, line: &str) {
        let line = super::identity::printable(line.as_bytes());
        self.found.saw(format!("{what}: {line}"));
        self.found.greeting.get_or_insert(line);
    }

    fn under_tls(&self) -> bool {
        self.found.certificate.is_some()
    }

    /// The server offers TLS, and does not begin with it. It was promised: whoever needs it may not go without.
    fn refuses_tls(&mut self, told: &str) {
        self.found.tls = TlsMode::StartTls;
        self.found
            .saw(format!("it offers TLS, and refuses it: {told}"));
    }

    /// The server has agreed to TLS: carries it through.
    async fn secure(mut self) -> Result<Self, Trouble> {
        self.found.tls = TlsMode::StartTls;
        self.found.is_settled = true;
        match self.talk.begin_tls(self.trust).await {
            Ok((talk, certificate)) => {
                self.talk = talk;
                self.found.certificate = Some(certificate);
                Ok(self)
            }
            Err(trouble) => {
                self.found.saw(format!(
                    "it agrees to TLS, and the handshake fails: {trouble}"
                ));
                Err(trouble)
            }
        }
    }
}
