//! One session, from the client's connection to its end.

use std::{fmt::Display, sync::Arc, time::Duration};

use tokio::{io::AsyncWriteExt, time::timeout};
use tracing::{debug, info, warn};

use super::{
    Mailbox,
    copies::session_id,
    dialect::Entry,
    leg::Leg,
    splice::{End, Side, Splice, Turn},
    upstream::{self, Caller, Greeted, Refused},
};
use crate::{
    frontends::{UpstreamTls, arrival::Open},
    net::{Address, Connection, Refusal, Stream},
    wire::sasl::wipe,
};

/// To tell a client why it must leave.
const FAREWELL: Duration = Duration::from_secs(5);

/// A session from its first byte to its last.
pub(super) async fn run(mailbox: Arc<Mailbox>, connection: Connection) {
    let session = Session {
        id: session_id(&mailbox),
        caller: Caller {
            peer: connection.peer,
            local: connection.local,
        },
        mailbox,
    };
    let mut client = connection.stream;
    if let Some(refusal) = connection.refused {
        return session.turn_away(&mut client, refusal).await;
    }
    let allowed = session.mailbox.options.allowed.as_ref();
    if allowed.is_some_and(|networks| !networks.contains(&connection.peer)) {
        session.count("protocol", &"not among the allowed networks");
        return session.leave(&mut client, "you may not connect here").await;
    }
    let _open = Open::new(&session.mailbox.metrics, &session.mailbox.options.name);
    session.talk(client).await;
}

struct Session {
    mailbox: Arc<Mailbox>,
    id: String,
    caller: Caller,
}

impl Session {
    async fn talk(&self, mut client: Stream) {
        let default = &self.mailbox.options.upstream.address;
        let Greeted { stream, greeting } = match self.connect(default).await {
            Ok(greeted) => greeted,
            Err(error) => {
                self.mailbox.options.mismatch.suspect();
                return self.server_refused(&mut client, &error).await;
            }
        };
        let watcher = self.mailbox.dialect.watcher(self.entry(&client));
        let splice = Splice::new(
            self.mailbox.clone(),
            self.id.clone(),
            self.caller.peer,
            watcher,
        );
        let (mut client, mut server) = (Leg::new(client), Leg::new(stream));
        let mut said = [Vec::new(), greeting];
        let end = loop {
            match splice
                .carry(&client, &server, std::mem::take(&mut said))
                .await
            {
                Turn::End(end) => break end,
                Turn::StartTls { reply } => match self.secure(client, &reply).await {
                    Some(secured) => client = secured,
                    None => return splice.finish(),
                },
                Turn::Switch {
                    address,
                    before,
                    mut then,
                    waiting,
                } => {
                    said[0] = waiting;
                    let switched = self.switch(&address, &before, &then).await;
                    // The secret was in it.
                    wipe(&mut then);
                    match switched {
                        Ok(leg) => server = leg,
                        Err(error) => {
                            splice.finish();
                            let mut client = client.into_stream();
                            return self.server_refused(&mut client, &error).await;
                        }
                    }
                }
            }
            if client.has_tls() {
                splice.secured();
            }
        };
        splice.finish();
        self.ended(end, client).await;
    }

    fn entry(&self, client: &Stream) -> Entry {
        let options = &self.mailbox.options;
        let is_clear = client.tls().is_none();
        // What a server says to a leg with TLS is not for one without it, but where nobody is in between.
        let server_has_tls = !matches!(options.upstream.tls, UpstreamTls::None);
        let is_exempt = options.auth_allow_cleartext || self.caller.is_on_this_host();
        Entry {
            offers_tls: is_clear && options.tls.is_some(),
            withholds_logins: is_clear && server_has_tls && !is_exempt,
        }
    }

    /// Boxed, as all that happens once is: a session that idles for days should be small.
    async fn connect(&self, address: &Address) -> Result<Greeted, Refused> {
        Box::pin(upstream::connect(&self.mailbox, address, self.caller)).await
    }

    /// STARTTLS: none if the handshake came to nothing.
    async fn secure(&self, client: Leg, reply: &[u8]) -> Option<Leg> {
        let options = &self.mailbox.options;
        let tls = options.tls.as_ref()?;
        let secured = async {
            client
                .write(reply)
                .await
                .map_err(|error| error.to_string())?;
            let stream = client.into_stream();
            let secured = stream.accept_tls(&tls.identity).await;
            secured.map_err(|error| error.to_string())
        };
        match timeout(options.limits.handshake, Box::pin(secured)).await {
            Ok(Ok(stream)) => Some(Leg::new(stream)),
            Ok(Err(cause)) => {
                self.count("tls_handshake", &cause);
                None
            }
            Err(_) => {
                self.count("tls_handshake", &"no handshake in time");
                None
            }
        }
    }

    /// The user's own server, which hears what the other one has heard.
    async fn switch(&self, address: &Address, before: &[u8], then: &[u8]) -> Result<Leg, Refused> {
        let leg = Leg::new(self.connect(address).await?.stream);
        let limit = self.mailbox.options.limits.upstream_connect;
        let repeated = async {
            if !before.is_empty() {
                leg.write(before).await?;
                let mut line = Vec::new();
                let mut read = Vec::new();
                while !line.ends_with(b"\n") {
                    if leg.read(&mut read).await? == 0 {
                        return Err(Refused::Closed);
                    }
                    line.extend_from_slice(&read);
                }
            }
            leg.write(then).await?;
            Ok(())
        };
        match timeout(limit, Box::pin(repeated)).await {
            Ok(repeated) => repeated?,
            Err(_) => return Err(Refused::Late(address.clone())),
        }
        Ok(leg)
    }

    async fn ended(&self, end: End, client: Leg) {
        let (frontend, session, peer) = (&self.mailbox.options.name, &self.id, &self.caller.peer);
        match end {
            End::Server => debug!(%frontend, session, "session closed"),
            End::Stopped(last) => {
                let farewell = async {
                    client.write(last).await?;
                    client.shutdown().await
                };
                // Whoever does not read it is not told.
                let _ = timeout(FAREWELL, farewell).await;
                debug!(%frontend, session, "session closed: the daemon stops");
            }
            End::Idle => {
                info!(%frontend, session, %peer, "session closed: idle for too long");
                self.mailbox.metrics.session_error(frontend, "idle_timeout");
            }
            End::Lost(Side::Client, cause) => {
                debug!(%frontend, session, %peer, %cause, "client lost");
                self.mailbox.metrics.session_error(frontend, "client_lost");
            }
            End::Lost(Side::Server, cause) => self.count("upstream_lost", &cause),
            End::Confused => self.count("protocol", &"TLS and another server wanted at once"),
        }
    }

    /// No server, no session.
    async fn server_refused(&self, client: &mut Stream, cause: &Refused) {
        self.count("upstream_refused", cause);
        self.leave(client, "the mail server is not there, try again later")
            .await;
    }

    async fn turn_away(&self, client: &mut Stream, refusal: Refusal) {
        self.count(refusal.reason(), &"refused");
        self.leave(client, "too many connections, try again later")
            .await;
    }

    async fn leave(&self, client: &mut Stream, why: &str) {
        let line = self.mailbox.dialect.refusal(why);
        let farewell = async {
            client.write_all(line.as_bytes()).await?;
            client.shutdown().await
        };
        // Whoever does not read it is not told.
        let _ = timeout(FAREWELL, farewell).await;
    }

    fn count(&self, reason: &'static str, cause: &(dyn Display + Sync)) {
        let (frontend, session, peer) = (&self.mailbox.options.name, &self.id, &self.caller.peer);
        self.mailbox.metrics.session_error(frontend, reason);
        warn!(%frontend, session, %peer, reason, %cause, "session failed");
    }
}
