//! `/api/…`: what the command line asks of a running daemon. JSON in and out, but for a message's own bytes.
//!
//! | request | answer |
//! |---|---|
//! | `GET /api/queue?target=&state=&after=&limit=` | `{"captures": […], "next": token or null}` |
//! | `GET /api/queue/ID` | the sighting, its acceptance, its state for each target |
//! | `GET /api/queue/ID/message` | the bytes |
//! | `POST /api/queue/ID/hold`, `…/release`, `…/retry?target=` | `{"changed": bool}` |
//! | `POST /api/queue/ID/drop?target=` | `{"changed": bool}`: only what is parked there or held |
//! | `POST /api/queue/retry?target=` | `{"retried": number}`: all that the target refused |
//! | `GET /api/frontends` | `{"frontends": […]}`: each as it stands now |
//! | `POST /api/verify?target=` | journal and dedup map compared with the target |

use std::{io, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;

use super::{Shared, Standing};
use crate::{
    forward::{ReconcileError, Reconciled, reconcile},
    journal::{Filter, Journal, JournalError, Listed, View},
    message::CaptureId,
};

const PAGE_MAX: usize = 1_000;
/// Pieces of a message on their way to a slow reader.
const PIECES: usize = 8;

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/queue", get(list))
        .route("/queue/retry", post(retry_all))
        .route("/queue/{id}", get(show))
        .route("/queue/{id}/message", get(message))
        .route("/queue/{id}/hold", post(hold))
        .route("/queue/{id}/release", post(release))
        .route("/queue/{id}/retry", post(retry))
        .route("/queue/{id}/drop", post(drop_capture))
        .route("/frontends", get(frontends))
        .route("/verify", post(verify))
}

/// A page of the queue.
#[derive(Debug, Serialize)]
struct ListedPage {
    captures: Vec<Listed>,
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    target: Option<String>,
    state: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct TargetQuery {
    target: Option<String>,
}

enum Refusal {
    NotFound,
    Asked(String),
    Journal(JournalError),
    Reconcile(ReconcileError),
}

impl From<JournalError> for Refusal {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, why) = match self {
            Self::NotFound => (
                StatusCode::NOT_FOUND,
                "no such capture is waiting".to_owned(),
            ),
            Self::Asked(why) => (StatusCode::BAD_REQUEST, why),
            Self::Journal(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            Self::Reconcile(error) => (StatusCode::BAD_GATEWAY, error.to_string()),
        };
        (status, Json(json!({ "error": why }))).into_response()
    }
}

type Answer<T> = Result<T, Refusal>;

fn capture_id(text: &str) -> Answer<CaptureId> {
    text.parse()
        .map_err(|_| Refusal::Asked("a capture id has 32 hexadecimal digits".to_owned()))
}

fn journal(shared: &Shared) -> Answer<&Journal> {
    shared.watched.journal.as_ref().ok_or(Refusal::NotFound)
}

/// The journal's view reads the disk: never on a thread of the runtime.
async fn viewed<T: Send + 'static>(
    shared: &Shared,
    look: impl FnOnce(&View) -> Result<T, JournalError> + Send + 'static,
) -> Answer<T> {
    let view = journal(shared)?.view();
    let looked = tokio::task::spawn_blocking(move || look(&view)).await;
    Ok(looked.map_err(|_| JournalError::Closed)??)
}

async fn list(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<ListQuery>,
) -> Answer<Json<ListedPage>> {
    let after = match query.after {
        None => None,
        Some(token) => Some(
            token
                .parse()
                .map_err(|_| Refusal::Asked("`after` is no page token".to_owned()))?,
        ),
    };
    let filter = Filter {
        target: query.target,
        state: query.state,
    };
    let count = query.limit.unwrap_or(100).clamp(1, PAGE_MAX);
    let page = viewed(&shared, move |view| view.list(&filter, after, count)).await?;
    Ok(Json(ListedPage {
        captures: page.captures,
        next: page.next.map(|token| token.to_string()),
    }))
}

async fn show(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer<Response> {
    let id = capture_id(&id)?;
    let shown = viewed(&shared, move |view| view.show(id)).await?;
    shown
        .map(|shown| Json(shown).into_response())
        .ok_or(Refusal::NotFound)
}

/// Streams the content as the reader takes it, however large it is.
async fn message(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer<Response> {
    let id = capture_id(&id)?;
    if viewed(&shared, move |view| view.show(id)).await?.is_none() {
        return Err(Refusal::NotFound);
    }
    let view = journal(&shared)?.view();
    let (pieces, coming) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut out = Pieces(pieces);
        // A message cut short must not look whole: the body ends with an error.
        let failure = match view.export(id, &mut out) {
            Ok(Some(_)) => return,
            Ok(None) => io::Error::from(io::ErrorKind::NotFound),
            Err(error) => io::Error::other(error),
        };
        let _ = out.0.blocking_send(Err(failure));
    });
    let body = futures_util::stream::unfold(coming, |mut coming| async {
        coming.recv().await.map(|piece| (piece, coming))
    });
    let media_type = [(header::CONTENT_TYPE, "message/rfc822")];
    Ok((media_type, Body::from_stream(body)).into_response())
}

/// Turns writes into pieces of a body; a reader that went away is a broken pipe.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        match self.0.blocking_send(Ok(piece)) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn changed(changed: bool) -> Answer<Response> {
    Ok(Json(json!({ "changed": changed })).into_response())
}

async fn hold(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer<Response> {
    let id = capture_id(&id)?;
    tracing::info!(capture = %id, "an operator holds it");
    changed(journal(&shared)?.hold(id).await?)
}

async fn release(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer<Response> {
    let id = capture_id(&id)?;
    tracing::info!(capture = %id, "an operator releases it");
    changed(journal(&shared)?.release(id).await?)
}

async fn retry(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(query): Query<TargetQuery>,
) -> Answer<Response> {
    let id = capture_id(&id)?;
    tracing::info!(capture = %id, "an operator lets it be tried again");
    let target = query.target.as_deref();
    changed(journal(&shared)?.retry(id, target).await?)
}

async fn drop_capture(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(query): Query<TargetQuery>,
) -> Answer<Response> {
    let id = capture_id(&id)?;
    let target = query.target.ok_or_else(needs_target)?;
    changed(journal(&shared)?.give_up(id, &target).await?)
}

fn needs_target() -> Refusal {
    Refusal::Asked("`target` is needed".to_owned())
}

async fn retry_all(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<TargetQuery>,
) -> Answer<Response> {
    let target = query.target.ok_or_else(needs_target)?;
    let retried = journal(&shared)?.retry_all(&target).await?;
    tracing::info!(target_name = %target, retried, "an operator lets what is parked be tried again");
    Ok(Json(json!({ "retried": retried })).into_response())
}

/// A front end, and how it stands.
#[derive(Debug, Serialize)]
struct ShownFrontend<'a> {
    name: &'a str,
    listen: &'a str,
    upstream: &'a str,
    #[serde(flatten)]
    standing: &'a Standing,
}

async fn frontends(State(shared): State<Arc<Shared>>) -> Response {
    let shown = shared.watched.frontends.iter().map(|frontend| {
        json!(ShownFrontend {
            name: &frontend.name,
            listen: &frontend.listen,
            upstream: &frontend.upstream,
            standing: &frontend.standing.load(),
        })
    });
    Json(json!({ "frontends": shown.collect::<Vec<_>>() })).into_response()
}

async fn verify(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<TargetQuery>,
) -> Answer<Json<Reconciled>> {
    let targets = shared.watched.targets.load_full();
    let wanted = query.target.unwrap_or_default();
    let target = targets.iter().find(|target| target.name == wanted);
    let Some(target) = target else {
        return Err(Refusal::Asked(format!("there is no target {wanted:?}")));
    };
    let view = journal(&shared)?.view();
    let found = reconcile(view, &target.dedup, &target.name, &*target.store).await;
    found.map(Json).map_err(Refusal::Reconcile)
}
