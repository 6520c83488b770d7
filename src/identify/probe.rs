//! The order of a probe: listen first; where nothing is said, TLS on a new connection, then HTTP, then a milter's terms.
//!
//! Listening goes on beside the questions, for who greets late; who hangs up is asked at once. On the ports of mail exchange nothing is asked before the
//! listening has ended: there a client that speaks first is taken for a spammer's, and the first question is TLS alone.
//! Once anything was heard, nothing more is asked on other connections. Everything ends within [`WHOLE`].

use std::{io, time::Duration};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    dial::Dial,
    dialogue,
    greeting::{self, Greeting},
    http::{self, Answer},
    identity::{Certificate, Identity, Kind, TlsMode},
    jmap, milter,
    talk::{Talk, Trouble},
    tls,
};

/// postscreen keeps its greeting back for six seconds, others look a name up first.
const GREETING: Duration = Duration::from_secs(10);

/// All that a probe may take.
const WHOLE: Duration = Duration::from_millis(11_700);

/// Silence after which a question is asked on a connection of its own.
const SILENCE: Duration = Duration::from_millis(700);

/// The same under TLS: who greets there has had the time of a handshake.
const SILENCE_SECURED: Duration = Duration::from_millis(300);

/// One question beside the listening.
const QUESTION: Duration = Duration::from_secs(3);

/// Never spoken to first.
const EXCHANGE_PORTS: &[u16] = &[24, 25, 26, 2525];

/// Where the server surely waits for us: asked at once.
const ASKED_PORTS: &[u16] = &[80, 443, 465, 563, 636, 993, 995, 8080, 8443];
const HTTP_PORTS: &[u16] = &[80, 443, 8080, 8443];

/// What answered first.
enum Answered {
    Voice(Talk),
    Tls(Talk, Box<Certificate>),
    /// It speaks TLS, and will not speak it with us.
    TlsRefused(String),
    Http(Answer),
    Milter(milter::Terms),
    Nothing,
}

struct Probe<'a> {
    dial: &'a Dial,
    begun: Instant,
}

/// Fills `found`; whatever happens is a finding.
pub(super) async fn probe(dial: &Dial, found: &mut Identity) {
    let probe = Probe {
        dial,
        begun: Instant::now(),
    };
    match dial.connect(probe.end()).await {
        Ok(socket) => {
            let talk = Talk::new(socket.into(), probe.greeting_end());
            let answered = probe.listen(talk, false, found).await;
            probe.settle(answered, found).await;
        }
        Err(error) => {
            found.kind = match error.kind() {
                io::ErrorKind::ConnectionRefused => Kind::Refused,
                _ => Kind::Unreachable,
            };
            found.saw(error.to_string());
        }
    }
    found.took = probe.begun.elapsed();
}

impl Probe<'_> {
    fn end(&self) -> Instant {
        self.begun + WHOLE
    }

    fn greeting_end(&self) -> Instant {
        self.begun + GREETING
    }

    fn is_on(&self, ports: &[u16]) -> bool {
        self.dial.port().is_some_and(|port| ports.contains(&port))
    }

    /// Waits for a voice, and asks beside it. `secured`: the connection is under TLS already.
    async fn listen(&self, mut talk: Talk, secured: bool, found: &mut Identity) -> Answered {
        let mut notes = Vec::new();
        let hung_up = Notify::new();
        let (answered, deaf) = {
            let asking = self.ask(secured, &hung_up, &mut notes);
            tokio::pin!(asking);
            let first = tokio::select! {
                biased;
                heard = talk.more() => Err(heard),
                answered = &mut asking => Ok(answered),
            };
            match first {
                Err(Ok(())) => return Answered::Voice(talk),
                Err(Err(deaf)) => {
                    hung_up.notify_one();
                    (asking.await, deaf)
                }
                Ok(Answered::Nothing) => match talk.more().await {
                    Ok(()) => return Answered::Voice(talk),
                    Err(deaf) => (Answered::Nothing, deaf),
                },
                Ok(answered) => return answered,
            }
        };
        if matches!(answered, Answered::Nothing) {
            found.saw(format!("listening: {deaf}"));
            notes.into_iter().for_each(|note| found.saw(note));
            if !secured && !self.is_on(EXCHANGE_PORTS) {
                match milter::negotiate(self.dial, self.end()).await {
                    Ok(terms) => return Answered::Milter(terms),
                    Err(trouble) => found.saw(format!("as a milter: {trouble}")),
                }
            }
        }
        answered
    }

    /// The questions, one after the other.
    async fn ask(&self, secured: bool, hung_up: &Notify, notes: &mut Vec<String>) -> Answered {
        let patient = self.is_on(EXCHANGE_PORTS);
        let (hint, silence) = if secured {
            (HTTP_PORTS, SILENCE_SECURED)
        } else {
            (ASKED_PORTS, SILENCE)
        };
        let start = match (patient, self.is_on(hint)) {
            (true, _) => self.greeting_end(),
            (false, true) => Instant::now(),
            (false, false) => Instant::now() + silence,
        };
        tokio::select! {
            () = sleep_until(start) => {}
            () = hung_up.notified() => {}
        }
        let mut hangs_up = true;
        if !secured {
            match self.ask_tls().await {
                Ok(answered) => return answered,
                Err(trouble) => {
                    hangs_up &= trouble == Trouble::Closed;
                    notes.push(format!("TLS: {trouble}"));
                }
            }
        }
        if patient {
            return Answered::Nothing;
        }
        match jmap::ask(self.dial, secured, jmap::WELL_KNOWN, self.soon()).await {
            Ok(answer) => return Answered::Http(answer),
            Err(trouble) => {
                hangs_up &= trouble == Trouble::Closed;
                notes.push(format!("HTTP: {trouble}"));
            }
        }
        // A milter takes both for frames of absurd length, and hangs up without a word.
        if hangs_up
            && !secured
            && let Ok(terms) = milter::negotiate(self.dial, self.soon()).await
        {
            return Answered::Milter(terms);
        }
        if hangs_up {
            notes.push("it hangs up whatever it is asked: does it want a PROXY header?".to_owned());
        }
        Answered::Nothing
    }

    fn soon(&self) -> Instant {
        (Instant::now() + QUESTION).min(self.end())
    }

    async fn ask_tls(&self) -> Result<Answered, Trouble> {
        let socket = self.dial.connect(self.soon()).await?;
        let shaking = tls::handshake(socket, &self.dial.trust);
        match tokio::time::timeout_at(self.soon(), shaking).await {
            Err(_) => Err(Trouble::Late),
            Ok(Ok((stream, certificate))) => {
                let talk = Talk::new(stream, self.greeting_end());
                Ok(Answered::Tls(talk, Box::new(certificate)))
            }
            Ok(Err(error)) => match tls::refused_in_tls(&error) {
                Some(why) => Ok(Answered::TlsRefused(why)),
                None => Err(error.into()),
            },
        }
    }

    async fn settle(&self, answered: Answered, found: &mut Identity) {
        match answered {
            Answered::Tls(talk, certificate) => {
                found.tls = TlsMode::Implicit;
                found.certificate = Some(*certificate);
                found.saw("it says nothing in the clear, and takes a TLS handshake");
                let inside = self.listen(talk, true, found).await;
                self.settle_one(inside, found).await;
            }
            answered => self.settle_one(answered, found).await,
        }
    }

    async fn settle_one(&self, answered: Answered, found: &mut Identity) {
        match answered {
            Answered::Voice(talk) => self.converse(talk, found).await,
            Answered::Http(answer) => {
                let secured = found.certificate.is_some();
                jmap::judge(self.dial, secured, answer, self.end(), found).await;
            }
            Answered::Milter(terms) => {
                found.kind = Kind::Milter;
                found.saw(format!(
                    "it answers a milter's negotiation: version {}, actions {:#x}, protocol {:#x}",
                    terms.version, terms.actions, terms.protocol
                ));
            }
            Answered::TlsRefused(why) => {
                found.kind = Kind::Unknown;
                found.tls = TlsMode::Implicit;
                found.saw(format!("it speaks TLS, and refuses the handshake: {why}"));
            }
            Answered::Tls(..) | Answered::Nothing => found.kind = Kind::Silent,
        }
    }

    /// Something was said: reads as much of it as tells what it is, and answers it.
    async fn converse(&self, mut talk: Talk, found: &mut Identity) {
        let greeting = loop {
            match greeting::read(talk.unread(), false) {
                Some(greeting) => break greeting,
                None => {
                    if talk.more().await.is_err() {
                        break greeting::read(talk.unread(), true).unwrap_or(Greeting::Unknown);
                    }
                }
            }
        };
        // What is not known is not worth waiting for.
        talk.until(match greeting {
            Greeting::Unknown => self.soon().min(Instant::now() + Duration::from_millis(300)),
            _ => self.end(),
        });
        if greeting == Greeting::Http {
            found.kind = Kind::Http;
            match http::read(&mut talk).await {
                Ok(answer) => found.saw(format!("unasked, it says: {}", answer.status_line)),
                Err(trouble) => found.saw(format!("unasked, it speaks HTTP: {trouble}")),
            }
            return;
        }
        if let Err(trouble) = dialogue::hold(greeting, talk, &self.dial.trust, found).await {
            found.saw(format!("the dialogue breaks off: {trouble}"));
        }
    }
}
