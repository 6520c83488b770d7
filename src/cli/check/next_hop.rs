//! Is the next hop what its front end takes it for? As far with it as a session would go before a client is let in: PROXY
//! header, TLS with its certificate verified, greeting, what the server is told of the client, and goodbye.
//!
//! The machines are those of the sessions, so that what is a fault there is a fault here. Nobody logs in, no mail is offered.

use std::{fmt::Display, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout_at},
};

use crate::{
    cli::output::printable,
    config::{Frontend, MailboxFrontend, SmtpFrontend, Upstream, UpstreamTls},
    frontends::{TellClient, TellMailbox},
    message::{Client, Protocol, WireText},
    net::{ClientTls, Peer, Socket, Stream, proxy_protocol},
    wire::{
        imap, pop3,
        smtp::{self, Dialect, Relay, Rules, Step, answer::Failure, reply},
        watch::{Opening, OpeningError, OpeningStep},
    },
};

/// For the server's goodbye.
const GOODBYE: Duration = Duration::from_millis(500);

/// What is shown of a server's words.
const SHOWN_BYTES_MAX: usize = 200;

/// None: the front end has no next hop.
pub(super) async fn look(frontend: &Frontend, patience: Duration) -> Option<Result<(), String>> {
    let upstream = frontend.upstream()?;
    let deadline = Instant::now() + patience;
    let proxy = match frontend {
        Frontend::Smtp(smtp) => match smtp.tell_client {
            TellClient::Proxy(version) => Some(version),
            _ => None,
        },
        Frontend::Mailbox(mailbox) => match mailbox.tell_client {
            TellMailbox::Proxy(version) => Some(version),
            _ => None,
        },
        Frontend::Milter(_) | Frontend::Auto(_) => None,
    };
    let hop = NextHop::connect(upstream, proxy, deadline);
    let found = match timeout_at(deadline, hop).await {
        Err(_) => Err("no connection in time".to_owned()),
        Ok(Err(why)) => Err(why),
        Ok(Ok(hop)) => match frontend {
            Frontend::Smtp(smtp) => hop.introduce(smtp).await,
            Frontend::Mailbox(mailbox) => hop.open(mailbox).await,
            // What an automatic one stands before is found out elsewhere.
            Frontend::Milter(_) | Frontend::Auto(_) => Ok(()),
        },
    };
    Some(found.map_err(|why| printable(&why)))
}

/// A connection, and what is needed to secure it.
struct NextHop<'a> {
    upstream: &'a Upstream,
    tls: Option<ClientTls>,
    stream: Stream,
    /// Our own end, where it has an address.
    client: Peer,
    deadline: Instant,
}

impl<'a> NextHop<'a> {
    async fn connect(
        upstream: &'a Upstream,
        proxy: Option<proxy_protocol::Version>,
        deadline: Instant,
    ) -> Result<Self, String> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut socket: Socket = upstream.address.connect(left).await.map_err(told)?;
        let client = socket.local().map_or(Peer::Unix, Peer::Tcp);
        if let Some(version) = proxy {
            let header = proxy_protocol::header(version, &client, socket.local());
            socket.write_all(&header).await.map_err(told)?;
        }
        let tls = match upstream.tls {
            UpstreamTls::None => None,
            _ => Some(ClientTls::load(upstream.files.clone(), &[]).map_err(told)?),
        };
        let stream = match &tls {
            Some(tls) if upstream.tls == UpstreamTls::Implicit => tls
                .connect(socket, &upstream.tls_name)
                .await
                .map_err(told)?,
            _ => Stream::from(socket),
        };
        Ok(Self {
            upstream,
            tls,
            stream,
            client,
            deadline,
        })
    }

    fn wants_starttls(&self) -> bool {
        self.upstream.tls == UpstreamTls::StartTls
    }

    async fn secure(mut self) -> Result<Self, String> {
        let Some(tls) = &self.tls else {
            return Ok(self);
        };
        let shaking = self.stream.connect_tls(tls, &self.upstream.tls_name);
        self.stream = within(self.deadline, shaking).await?;
        Ok(self)
    }

    async fn say(&mut self, bytes: &[u8]) -> Result<(), String> {
        within(self.deadline, async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        })
        .await
    }

    async fn hear(&mut self, heard: &mut Vec<u8>) -> Result<(), String> {
        match within(self.deadline, self.stream.read_buf(heard)).await? {
            0 => Err("it closed the connection".to_owned()),
            _ => Ok(()),
        }
    }

    async fn leave(mut self, goodbye: &[u8]) {
        self.deadline = self.deadline.min(Instant::now() + GOODBYE);
        let mut heard = Vec::new();
        // It has shown what it is; how it goes does not matter.
        if self.say(goodbye).await.is_ok() {
            while heard.len() < SHOWN_BYTES_MAX && self.hear(&mut heard).await.is_ok() {}
        }
    }

    /// A mailbox server, up to its greeting.
    async fn open(mut self, frontend: &MailboxFrontend) -> Result<(), String> {
        let is_imap = frontend.protocol == Protocol::Imap;
        let mut opening: Box<dyn Opening + Send> = match is_imap {
            true => Box::new(imap::Opening::new(imap::OpeningRules {
                starttls: self.wants_starttls(),
                id: None,
            })),
            false => Box::new(pop3::Opening::new(pop3::OpeningRules {
                stls: self.wants_starttls(),
                xclient: None,
            })),
        };
        loop {
            match opening.poll() {
                OpeningStep::Wait => {
                    let mut heard = Vec::with_capacity(4096);
                    self.hear(&mut heard).await?;
                    opening.receive(&heard);
                }
                OpeningStep::Send(bytes) => self.say(&bytes).await?,
                OpeningStep::StartTls => {
                    self = self.secure().await?;
                    opening.secured();
                }
                OpeningStep::Failed(error) => return Err(error.to_string()),
                OpeningStep::Done { greeting } => {
                    let is_away = match is_imap {
                        true => greeting
                            .get(..5)
                            .is_some_and(|it| it.eq_ignore_ascii_case(b"* BYE")),
                        false => greeting.starts_with(b"-"),
                    };
                    if is_away {
                        return Err(format!("it turns us away: {}", shown(&greeting)));
                    }
                    let goodbye: &[u8] = if is_imap {
                        b"mailtee LOGOUT\r\n"
                    } else {
                        b"QUIT\r\n"
                    };
                    self.leave(goodbye).await;
                    return Ok(());
                }
            }
        }
    }

    /// A mail server, up to its answer to a client's hello.
    async fn introduce(mut self, frontend: &SmtpFrontend) -> Result<(), String> {
        let (dialect, verb) = match frontend.protocol {
            Protocol::Lmtp => (Dialect::Lmtp, "LHLO"),
            _ => (Dialect::Smtp, "EHLO"),
        };
        let rules = rules(frontend, dialect, self.wants_starttls());
        let client = Client {
            address: self.client.ip().map(|ip| WireText::from(ip.to_string())),
            port: self.client.port(),
            ..Client::default()
        };
        let is_secured = self.upstream.tls == UpstreamTls::Implicit;
        let mut relay = Relay::new(Arc::new(rules), client, false, is_secured);
        let mut talk = Spoken::default();
        let mut greeted = false;
        loop {
            while let Some(step) = relay.poll() {
                match step {
                    Step::SecureUpstream => {
                        self = self.secure().await?;
                        relay.upstream_secured();
                    }
                    Step::Failed(failure) => return Err(talk.fault(failure)),
                    _ => {}
                }
            }
            if !relay.to_upstream.is_empty() {
                talk.said = std::mem::take(&mut relay.to_upstream);
                talk.heard.clear();
                self.say(&talk.said).await?;
            } else if !relay.to_client.is_empty() {
                let heard = std::mem::take(&mut relay.to_client);
                let is_well = reply::code(&heard).is_some_and(reply::is_success);
                match (greeted, is_well) {
                    (false, _) => {
                        greeted = true;
                        let hello = format!("{verb} {}\r\n", frontend.hostname);
                        relay.receive_client(hello.as_bytes());
                    }
                    (true, true) => {
                        self.leave(b"QUIT\r\n").await;
                        return Ok(());
                    }
                    (true, false) => return Err(format!("it refuses {verb}: {}", shown(&heard))),
                }
            } else {
                let mut bytes = Vec::with_capacity(4096);
                self.hear(&mut bytes).await?;
                talk.heard.extend_from_slice(&bytes);
                relay.receive_upstream(&bytes);
            }
        }
    }
}

/// The latest that was said to a mail server, and what it has said to that.
#[derive(Default)]
struct Spoken {
    said: Vec<u8>,
    heard: Vec<u8>,
}

impl Spoken {
    /// What the session's failure is about: the session itself tells its client nothing of it.
    fn fault(&self, failure: Failure) -> String {
        let heard = shown(&self.heard);
        let verb = self.said.split(|b| b.is_ascii_whitespace()).next();
        let verb = String::from_utf8_lossy(verb.unwrap_or_default());
        let is_well = reply::code(&self.heard).is_some_and(reply::is_success);
        match (failure, verb.as_ref()) {
            (Failure::UpstreamInjection, _) => OpeningError::Injected.to_string(),
            (Failure::UpstreamRefused, "") => format!("it turns us away: {heard}"),
            (_, "") => OpeningError::Greeting(heard).to_string(),
            (Failure::UpstreamRefused, "EHLO" | "LHLO") if is_well => {
                // The session asks for XCLIENT under TLS, where there is to be TLS.
                let offers = |word: &[u8]| {
                    let mut lines = reply::lines(&self.heard);
                    lines.any(|line| line.eq_ignore_ascii_case(word))
                };
                match offers(b"STARTTLS") {
                    false => OpeningError::NoTls.to_string(),
                    true => "it offers us no XCLIENT".to_owned(),
                }
            }
            (Failure::UpstreamRefused, "STARTTLS") => OpeningError::TlsRefused(heard).to_string(),
            (_, verb) => format!("it refuses {verb}: {heard}"),
        }
    }
}

/// As the front end's sessions have them, for as far as they matter here.
fn rules(frontend: &SmtpFrontend, dialect: Dialect, upstream_starttls: bool) -> Rules {
    Rules {
        dialect,
        role: frontend.role,
        hostname: frontend.hostname.clone(),
        hold_end: true,
        starttls: false,
        upstream_starttls,
        keep_upstream: false,
        tell_client: match frontend.tell_client {
            TellClient::Xclient => smtp::TellClient::Xclient,
            _ => smtp::TellClient::No,
        },
        line_bytes_max: frontend.limits.line_bytes,
        recipients_max: frontend.limits.recipients,
        message_bytes_max: 0,
    }
}

async fn within<T, E: Display>(
    deadline: Instant,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match timeout_at(deadline, work).await {
        Ok(result) => result.map_err(told),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

fn told(error: impl Display) -> String {
    error.to_string()
}

/// The beginning of a server's words.
fn shown(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    String::from_utf8_lossy(bytes.trim_ascii()).replace("\r\n", " / ")
}
