//! Front ends with protocol "auto": each waits for its server to be identified, opens as what that is, and changes with it.
//!
//! One task a front end owns its entrance. A server that is remembered opens it at once, as what it was, and is looked at
//! meanwhile; one that is down, silent or unknown is looked at again with back-off, and holds nobody else up. Once it has
//! been seen it is left alone until a session finds it to be something else. An entrance that closes ends its sessions as
//! the daemon's own end does: what is under way is ended, and nobody goes on by the rules of a server that is gone.

mod cache;
mod judge;

use std::{panic::AssertUnwindSafe, path::Path, sync::Arc, time::Duration};

use futures_util::FutureExt;
use rand::random;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::{
    cache::Cache,
    judge::{Spoken, Verdict, as_found, look, told},
};
use super::{
    DaemonError,
    entrance::{self, Doors},
};
use crate::{
    admin::{self, Standing},
    config::{AutoFrontend, Config, Frontend},
    forward::Policy,
    frontends::{Entrance, Mismatch},
    message::Protocol,
};

/// Between two looks at one server.
const PAUSES: Policy = Policy {
    base: Duration::from_secs(1),
    cap: Duration::from_secs(60),
};
/// After so long without a suspicion the pauses begin anew.
const QUIET: Duration = Duration::from_secs(600);

/// Opens those whose servers are remembered, and begins to look at all of them. An error is the operator's: a file that does
/// not read.
pub(super) async fn start(
    config: &Config,
    named: &[admin::Frontend],
    doors: &Doors,
) -> Result<(), DaemonError> {
    let autos = config.frontends.iter().filter_map(|it| match it {
        Frontend::Auto(auto) => Some(auto),
        _ => None,
    });
    let mut cache = None;
    for frontend in autos {
        entrance::check_files(frontend)?;
        let cache = cache.get_or_insert_with(|| Arc::new(Cache::open(&config.data_dir)));
        let Some(named) = named.iter().find(|it| it.name == frontend.name) else {
            continue;
        };
        let mut auto = Auto {
            frontend: (**frontend).clone(),
            named: named.clone(),
            known: cache.find(&frontend.name, &frontend.upstream.address),
            cache: cache.clone(),
            doors: doors.clone(),
            mismatch: Mismatch::default(),
            open: None,
        };
        auto.open_remembered().await;
        doors.tasks.spawn(auto.run());
    }
    Ok(())
}

/// What a front end with protocol "auto" would be just now, in words too; an error says why it would not open.
pub async fn check(frontend: &AutoFrontend, data_dir: &Path) -> Result<(String, Frontend), String> {
    let known = Cache::open(data_dir).find(&frontend.name, &frontend.upstream.address);
    match look(frontend, known).await.0 {
        Verdict::Fits(spoken) => Ok((told(spoken), as_found(frontend, spoken)?)),
        Verdict::Unclear(why) | Verdict::Refused { why, .. } => Err(why),
    }
}

struct Auto {
    frontend: AutoFrontend,
    named: admin::Frontend,
    /// What its server was when it was last seen.
    known: Option<Spoken>,
    cache: Arc<Cache>,
    doors: Doors,
    mismatch: Mismatch,
    open: Option<Open>,
}

/// A front end that listens.
struct Open {
    protocol: Protocol,
    frontend: Frontend,
    entrance: Entrance,
    stop: CancellationToken,
}

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// The server is what the front end is open as, now or already.
    AsOpen {
        changed: bool,
    },
    Otherwise,
}

impl Auto {
    async fn open_remembered(&mut self) {
        let Some(known) = self.known else { return };
        let opened = match as_found(&self.frontend, known) {
            Ok(frontend) => self.open_as(known, frontend).await,
            Err(why) => Err(why),
        };
        match opened {
            Ok(()) => self.stand(true, Some(format!("as remembered: {}", told(known)))),
            Err(why) => self.stand(false, Some(why)),
        }
    }

    async fn run(mut self) {
        let stop = self.doors.stop.clone();
        // What is open at the end closes with the rest.
        let _ = stop.run_until_cancelled(self.watch()).await;
    }

    async fn watch(&mut self) {
        let mut looks = 0;
        loop {
            // What was suspected up to now is looked into now.
            let _ = self.mismatch.suspected().now_or_never();
            let seen = self.look().await;
            looks = match seen {
                Seen::AsOpen { changed: true } => 1,
                _ => looks + 1,
            };
            let rested = Instant::now() + PAUSES.delay(looks, None, random());
            match seen {
                Seen::Otherwise => {}
                Seen::AsOpen { .. } => {
                    let since = Instant::now();
                    self.mismatch.suspected().await;
                    if since.elapsed() > QUIET {
                        looks = 0;
                    }
                }
            }
            sleep_until(rested).await;
        }
    }

    async fn look(&mut self) -> Seen {
        // Strangers' bytes are read here: a fault of ours in it must not end the looking.
        let looking = AssertUnwindSafe(look(&self.frontend, self.known));
        let (verdict, evidence) = looking.catch_unwind().await.unwrap_or_else(|_| {
            let why = "a fault of ours while it was looked at".to_owned();
            (Verdict::Unclear(why), Vec::new())
        });
        match verdict {
            Verdict::Fits(spoken) => {
                let is_news = self.known != Some(spoken);
                if is_news {
                    tracing::info!(frontend = %self.frontend.name, upstream = %self.frontend.upstream.address, server = %told(spoken), ?evidence, "identified");
                }
                self.remember(spoken).await;
                self.become_what_is_there(spoken).await
            }
            Verdict::Unclear(why) => {
                // No news: what is open stays so, and sessions find out for themselves whether it is there.
                let accepting = self.named.standing.load().accepting;
                self.trouble(accepting, why);
                Seen::Otherwise
            }
            Verdict::Refused { protocol, why } => {
                // Where the protocol is the same, clients hear in it that they should come again.
                let is_same = self.open.as_ref().map(|open| open.protocol) == protocol;
                if !is_same {
                    self.close().await;
                }
                self.trouble(false, why);
                Seen::Otherwise
            }
        }
    }

    async fn become_what_is_there(&mut self, spoken: Spoken) -> Seen {
        let frontend = match as_found(&self.frontend, spoken) {
            Ok(frontend) => frontend,
            Err(why) => {
                self.trouble(false, why);
                return Seen::Otherwise;
            }
        };
        let is_open = self
            .open
            .as_ref()
            .is_some_and(|open| open.frontend == frontend);
        if !is_open {
            self.close().await;
            if let Err(why) = self.open_as(spoken, frontend).await {
                self.trouble(false, why);
                return Seen::Otherwise;
            }
        }
        self.stand(true, None);
        Seen::AsOpen { changed: !is_open }
    }

    async fn open_as(&mut self, spoken: Spoken, frontend: Frontend) -> Result<(), String> {
        let stop = self.doors.stop.child_token();
        let opening = self
            .doors
            .open(&frontend, self.mismatch.clone(), stop.clone());
        let entrance = opening.await.map_err(|error| error.to_string())?;
        self.open = Some(Open {
            protocol: spoken.protocol,
            frontend,
            entrance,
            stop,
        });
        Ok(())
    }

    async fn close(&mut self) {
        if let Some(open) = self.open.take() {
            tracing::info!(frontend = %self.frontend.name, protocol = open.protocol.name(), "no longer accepting mail as this");
            open.stop.cancel();
            // The next one listens at the same address.
            open.entrance.closed().await;
        }
    }

    async fn remember(&mut self, spoken: Spoken) {
        self.known = Some(spoken);
        let (cache, frontend) = (self.cache.clone(), self.frontend.clone());
        let kept = tokio::task::spawn_blocking(move || {
            cache.keep(&frontend.name, &frontend.upstream.address, spoken)
        });
        if let Ok(Err(error)) = kept.await {
            tracing::warn!(frontend = %self.frontend.name, %error, "what its server is cannot be kept");
        }
    }

    /// Says what is amiss, once as long as it stays the same.
    fn trouble(&self, accepting: bool, why: String) {
        let shown = self.named.standing.load();
        if shown.note.as_ref() != Some(&why) || shown.accepting != accepting {
            tracing::warn!(frontend = %self.frontend.name, upstream = %self.frontend.upstream.address, accepting, %why, "its server is not as it should be");
        }
        self.stand(accepting, Some(why));
    }

    fn stand(&self, accepting: bool, note: Option<String>) {
        let kind = match (&self.open, self.known) {
            (Some(open), Some(known)) => {
                format!(
                    "auto: {}, {}",
                    entrance::kind(&open.frontend),
                    known.tls.told()
                )
            }
            _ => "auto".to_owned(),
        };
        self.named.standing.store(Arc::new(Standing {
            kind,
            accepting,
            note,
        }));
    }
}
