//! Where the queue is read and changed: through the daemon that runs, or in the journal itself where none does.

use std::io::Write;

use anyhow::{Context, bail};
use futures_util::StreamExt;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    admin::Token,
    config::Config,
    forward::Reconciled,
    journal::{Filter, Journal, View},
    message::CaptureId,
    metrics::Metrics,
};

pub(super) enum Source {
    Daemon(Api),
    Disk(Box<Config>),
}

/// The admin API of a running daemon.
pub(super) struct Api {
    client: Client,
    base: String,
    token: Token,
}

/// What an operator may do to one capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Hold,
    Release,
    Retry,
    /// For one target.
    Drop,
}

impl Change {
    fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Retry => "retry",
            Self::Drop => "drop",
        }
    }
}

impl Source {
    /// A daemon that answers on the configured address, else the journal on disk.
    pub(super) async fn find(config: Config) -> anyhow::Result<Self> {
        let Some(admin) = &config.admin else {
            return Ok(Self::Disk(Box::new(config)));
        };
        let base = format!("http://{}", admin.listen);
        let client = Client::builder().no_proxy().build()?;
        if client.get(format!("{base}/healthz")).send().await.is_err() {
            return Ok(Self::Disk(Box::new(config)));
        }
        let file = Token::file(&config.data_dir);
        let token = Token::read(&config.data_dir)
            .with_context(|| format!("the daemon runs, but {} cannot be read", file.display()))?;
        Ok(Self::Daemon(Api {
            client,
            base,
            token,
        }))
    }

    /// One page, and the token of the next.
    pub(super) async fn list(
        &self,
        filter: &Filter,
        after: Option<&str>,
        count: usize,
    ) -> anyhow::Result<(Vec<Value>, Option<String>)> {
        match self {
            Self::Daemon(api) => {
                let mut query = vec![("limit", count.to_string())];
                let pairs = [
                    ("target", filter.target.as_deref()),
                    ("state", filter.state.as_deref()),
                    ("after", after),
                ];
                for (key, value) in pairs {
                    query.extend(value.map(|value| (key, value.to_owned())));
                }
                let mut page = api.json(Method::GET, "/api/queue", &query).await?;
                let next = page["next"].as_str().map(str::to_owned);
                let captures = match page["captures"].take() {
                    Value::Array(captures) => captures,
                    _ => bail!("the daemon's answer is not understood: another version?"),
                };
                Ok((captures, next))
            }
            Self::Disk(config) => {
                let after = after.map(str::parse).transpose()?;
                let page = View::open(&config.journal.data_dir)?.list(filter, after, count)?;
                let captures: Result<_, _> =
                    page.captures.iter().map(serde_json::to_value).collect();
                Ok((captures?, page.next.map(|token| token.to_string())))
            }
        }
    }

    pub(super) async fn show(&self, id: CaptureId) -> anyhow::Result<Option<Value>> {
        match self {
            Self::Daemon(api) => {
                api.json_or_absent(Method::GET, &format!("/api/queue/{id}"), &[])
                    .await
            }
            Self::Disk(config) => {
                let shown = View::open(&config.journal.data_dir)?.show(id)?;
                Ok(shown.map(serde_json::to_value).transpose()?)
            }
        }
    }

    /// Writes the message's bytes; `false` where there is no such capture.
    pub(super) async fn export(
        &self,
        id: CaptureId,
        out: &mut (impl Write + Send),
    ) -> anyhow::Result<bool> {
        match self {
            Self::Daemon(api) => {
                let path = format!("/api/queue/{id}/message");
                let Some(answer) = api.send(Method::GET, &path, &[]).await? else {
                    return Ok(false);
                };
                let mut pieces = answer.bytes_stream();
                while let Some(piece) = pieces.next().await {
                    out.write_all(&piece.context("the message was cut short")?)?;
                }
                Ok(true)
            }
            Self::Disk(config) => {
                let view = View::open(&config.journal.data_dir)?;
                Ok(view.export(id, out)?.is_some())
            }
        }
    }

    /// `false` where there is no such capture, or nothing to change.
    pub(super) async fn change(
        &self,
        change: Change,
        id: CaptureId,
        target: Option<&str>,
    ) -> anyhow::Result<bool> {
        match self {
            Self::Daemon(api) => {
                let path = format!("/api/queue/{id}/{}", change.name());
                let query: Vec<_> = target
                    .map(|name| ("target", name.to_owned()))
                    .into_iter()
                    .collect();
                let answer = api.json_or_absent(Method::POST, &path, &query).await?;
                Ok(answer.is_some_and(|answer| answer["changed"] == json!(true)))
            }
            Self::Disk(config) => {
                let journal = open_journal(config)?;
                let changed = match change {
                    Change::Hold => journal.hold(id).await,
                    Change::Release => journal.release(id).await,
                    Change::Retry => journal.retry(id, target).await,
                    Change::Drop => journal.give_up(id, target.unwrap_or_default()).await,
                };
                journal.close().await?;
                Ok(changed?)
            }
        }
    }

    /// Lets all that a target refused be tried again; how many.
    pub(super) async fn retry_all(&self, target: &str) -> anyhow::Result<u64> {
        match self {
            Self::Daemon(api) => {
                let query = [("target", target.to_owned())];
                let answer = api.json(Method::POST, "/api/queue/retry", &query).await?;
                Ok(answer["retried"].as_u64().unwrap_or(0))
            }
            Self::Disk(config) => {
                let journal = open_journal(config)?;
                let retried = journal.retry_all(target).await;
                journal.close().await?;
                Ok(retried?)
            }
        }
    }
}

fn open_journal(config: &Config) -> anyhow::Result<Journal> {
    let metrics = std::sync::Arc::new(Metrics::new());
    let names = config.target_names();
    Ok(Journal::open(config.journal.clone(), &names, metrics)?)
}

impl Api {
    /// What `mailtee verify` finds for one target.
    pub(super) async fn reconcile(&self, target: &str) -> anyhow::Result<Reconciled> {
        let query = [("target", target.to_owned())];
        let answer = self.json(Method::POST, "/api/verify", &query).await?;
        Ok(serde_json::from_value(answer)?)
    }

    async fn json(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
    ) -> anyhow::Result<Value> {
        let answer = self.json_or_absent(method, path, query).await?;
        answer.context("the daemon does not know this request: another version?")
    }

    async fn json_or_absent(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
    ) -> anyhow::Result<Option<Value>> {
        match self.send(method, path, query).await? {
            Some(answer) => Ok(Some(answer.json().await?)),
            None => Ok(None),
        }
    }

    /// `None` for 404.
    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
    ) -> anyhow::Result<Option<Response>> {
        let mut url = reqwest::Url::parse(&format!("{}{path}", self.base))?;
        for (key, value) in query {
            url.query_pairs_mut().append_pair(key, value);
        }
        let request = self.client.request(method, url);
        let answer = request.bearer_auth(self.token.expose()).send().await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(answer)),
            status => {
                let text = answer.text().await.unwrap_or_default();
                match serde_json::from_str::<Value>(&text) {
                    Ok(Value::Object(told)) if told["error"].is_string() => {
                        bail!("{}", told["error"].as_str().unwrap_or_default())
                    }
                    _ => bail!("the daemon answered {status}: {}", text.trim()),
                }
            }
        }
    }
}
