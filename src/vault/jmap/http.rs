//! The JMAP endpoints over HTTP: who asks, how much, how long; then on to the plan and the calls.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    sync::Arc,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Query, State as Of},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::StreamExt;
use serde::Serialize;

use super::{
    ACCOUNT,
    call::{Access, Context},
    k1_in,
    plan::{Plan, Rejected, over_limit, plan, problem},
    session::{self, SESSION_STATE},
};
use crate::{
    message::{Fingerprint, Fingerprinter, K1},
    targets::jmap::shapes::{self, Invocation, Problem, Uploaded, blob_id},
    vault::{
        Shared,
        auth::Scope,
        mime,
        storage::{StoreError, Writer, rows},
    },
};

pub(crate) type State = Arc<Shared>;

pub(crate) fn routes(state: State) -> Router {
    Router::new()
        .route("/.well-known/jmap", get(session))
        .route("/jmap/session", get(session))
        .route("/jmap/api", post(api))
        // The session object must name it (RFC 8620 section 2); nothing is pushed.
        .route("/jmap/events", get(async || StatusCode::NOT_IMPLEMENTED))
        .route("/jmap/upload/{account}", post(upload))
        .route("/jmap/upload/{account}/", post(upload))
        .route("/jmap/download/{account}/{blob}/{name}", get(download))
        .with_state(state)
}

/// What the request may do, or the answer that it may not.
#[expect(clippy::result_large_err, reason = "a refusal is made once a request")]
fn authorize(state: &State, headers: &HeaderMap) -> Result<Scope, Response> {
    let given = headers.get(header::AUTHORIZATION);
    let scope = given
        .and_then(|value| value.to_str().ok())
        .and_then(|value| state.tokens.authorize(value));
    scope.ok_or_else(|| {
        let ask = r#"Bearer realm="mailtee vault", Basic realm="mailtee vault", charset="UTF-8""#;
        (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, ask)]).into_response()
    })
}

async fn session(Of(state): Of<State>, headers: HeaderMap, uri: axum::http::Uri) -> Response {
    let scope = match authorize(&state, &headers) {
        Ok(scope) => scope,
        Err(refused) => return refused,
    };
    // HTTP/2 has the authority in the URI, HTTP/1.1 in the Host header.
    let authority = uri.authority().map(|authority| authority.to_string());
    let host = authority.or_else(|| {
        let host = headers.get(header::HOST)?.to_str().ok()?;
        Some(host.to_owned())
    });
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-:[]_".contains(c);
    let base = match host {
        Some(host) if host.chars().all(is_plain) => format!("https://{host}"),
        _ => String::new(),
    };
    let session = session::session(&base, &state.limits, scope);
    json(StatusCode::OK, "application/json", &session)
}

async fn api(Of(state): Of<State>, headers: HeaderMap, body: Body) -> Response {
    let scope = match authorize(&state, &headers) {
        Ok(scope) => scope,
        Err(refused) => return refused,
    };
    let Ok(permit) = state.requests.clone().try_acquire_owned() else {
        return refuse(&over_limit("maxConcurrentRequests", 429));
    };
    let body = match collect(&state, &headers, body).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    // The client may go away: what it has sent is still carried out, and holds its permit until then.
    let task = tokio::spawn(async move {
        let _permit = permit;
        run(&state, body, scope).await
    });
    match task.await {
        Ok(Ok(answer)) => (
            [(header::CONTENT_TYPE, "application/json")],
            [(header::CACHE_CONTROL, "no-store")],
            answer,
        )
            .into_response(),
        Ok(Err(Rejected::Request(problem))) => refuse(&problem),
        Ok(Err(Rejected::Store(error))) => unavailable(&error),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The body of an API request, whole, within its limits of size and time.
async fn collect(state: &State, headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Response> {
    let bytes_max = state.limits.request_bytes_max;
    let too_large = || refuse(&over_limit("maxSizeRequest", 413));
    let announced = headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > bytes_max) {
        return Err(too_large());
    }
    let mut whole = Vec::with_capacity(announced.unwrap_or(0) as usize);
    let mut pieces = body.into_data_stream();
    loop {
        match tokio::time::timeout(state.limits.idle, pieces.next()).await {
            Ok(None) => return Ok(whole),
            Ok(Some(Ok(piece))) if (whole.len() + piece.len()) as u64 > bytes_max => {
                return Err(too_large());
            }
            Ok(Some(Ok(piece))) => whole.extend_from_slice(&piece),
            Ok(Some(Err(_))) => return Err(StatusCode::BAD_REQUEST.into_response()),
            Err(_) => return Err(StatusCode::REQUEST_TIMEOUT.into_response()),
        }
    }
}

async fn run(state: &State, body: Vec<u8>, scope: Scope) -> Result<Vec<u8>, Rejected> {
    let uploading = state.store.uploading().await;
    let shared = state.clone();
    let planning = tokio::task::spawn_blocking(move || {
        let mut written = Vec::new();
        let planned = plan(&body, &shared.store, &shared.limits, scope, &mut written);
        (planned, written)
    });
    let (planned, written) = planning.await.map_err(|_| StoreError::Closed)?;
    let answer = match planned {
        Err(rejected) => Err(rejected),
        Ok(planned) => carry_out(state, scope, planned)
            .await
            .map_err(Rejected::Store),
    };
    drop(uploading);
    if answer.is_err() {
        state.store.discard(written).await;
    }
    answer
}

async fn carry_out(state: &State, scope: Scope, plan: Plan) -> Result<Vec<u8>, StoreError> {
    let shared = state.clone();
    if plan.writes {
        let work =
            move |writer: &mut Writer<'_>| perform(&shared, scope, Access::Write(writer), plan);
        state.store.write(work).await
    } else {
        if scope.may("Email/query") && plan.searches() {
            state.store.searchable().await;
        }
        let work =
            move |index: &rusqlite::Connection| perform(&shared, scope, Access::Read(index), plan);
        state.store.read(work).await
    }
}

/// Runs the calls in order; the response, as it goes out.
fn perform(
    shared: &Shared,
    scope: Scope,
    access: Access<'_, '_>,
    plan: Plan,
) -> Result<Vec<u8>, StoreError> {
    let mut context = Context {
        access,
        blobs: &shared.store.blobs,
        limits: &shared.limits,
        scope,
        created: plan.created.clone().unwrap_or_default(),
        uploaded: HashMap::new(),
        mailboxes: None,
        done: Vec::with_capacity(plan.calls.len()),
    };
    for call in plan.calls {
        context.run(call)?;
    }
    let response = shapes::Response {
        method_responses: context
            .done
            .iter()
            .map(|done| Invocation((&*done.name).into(), &done.arguments, (&*done.id).into()))
            .collect(),
        created_ids: plan.created.is_some().then_some(context.created),
        session_state: SESSION_STATE.into(),
    };
    serde_json::to_vec(&response).map_err(|error| StoreError::Unavailable {
        step: "response",
        cause: error.to_string(),
    })
}

/// An upload of any length: hashed and written as it comes, never held (RFC 8620 section 6.1).
async fn upload(
    Of(state): Of<State>,
    Path(account): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let scope = match authorize(&state, &headers) {
        Ok(scope) => scope,
        Err(refused) => return refused,
    };
    if !scope.write {
        return StatusCode::FORBIDDEN.into_response();
    }
    if account != ACCOUNT {
        return StatusCode::NOT_FOUND.into_response();
    }
    let Ok(_permit) = state.uploads.clone().try_acquire_owned() else {
        return refuse(&over_limit("maxConcurrentUpload", 429));
    };
    let media_type = headers.get(header::CONTENT_TYPE);
    let media_type = media_type.and_then(|value| value.to_str().ok());
    let media_type = media_type.unwrap_or("application/octet-stream").to_owned();
    match receive(&state, body).await {
        Err(refused) => refused,
        Ok((fingerprint, bytes)) => json(
            StatusCode::CREATED,
            "application/json",
            &Uploaded {
                account_id: ACCOUNT.into(),
                blob_id: blob_id(&fingerprint.k1),
                media_type: Some(media_type),
                size: bytes,
            },
        ),
    }
}

async fn receive(state: &State, body: Body) -> Result<(Fingerprint, u64), Response> {
    let (pieces, mut queue) = tokio::sync::mpsc::channel::<Bytes>(4);
    let blobs = state.store.blobs.clone();
    let writing = tokio::task::spawn_blocking(move || {
        let mut staged = blobs.stage()?;
        let (mut fingerprinter, mut bytes) = (Fingerprinter::new(), 0);
        while let Some(piece) = queue.blocking_recv() {
            fingerprinter.update(&piece);
            bytes += piece.len() as u64;
            staged.write_all(&piece)?;
        }
        Ok::<_, std::io::Error>((staged, fingerprinter.finish(), bytes))
    });
    let mut incoming = body.into_data_stream();
    let mut total = 0;
    loop {
        let piece = match tokio::time::timeout(state.limits.idle, incoming.next()).await {
            Ok(None) => break,
            Ok(Some(Ok(piece))) => piece,
            Ok(Some(Err(_))) => return Err(StatusCode::BAD_REQUEST.into_response()),
            Err(_) => return Err(StatusCode::REQUEST_TIMEOUT.into_response()),
        };
        total += piece.len() as u64;
        if total > state.limits.message_bytes_max {
            return Err(refuse(&over_limit("maxSizeUpload", 413)));
        }
        if pieces.send(piece).await.is_err() {
            // The writer has failed; its answer says why.
            break;
        }
    }
    drop(pieces);
    let written = writing
        .await
        .map_err(|_| unavailable(&StoreError::Closed))?;
    let failed = |error| unavailable(&StoreError::io("upload", error));
    let (staged, fingerprint, bytes) = written.map_err(failed)?;

    let uploading = state.store.uploading().await;
    let named = name(state, fingerprint, bytes, staged).await;
    drop(uploading);
    if named.is_err() {
        state.store.discard(vec![fingerprint.k1]).await;
    }
    named.map_err(|error| unavailable(&error))?;
    Ok((fingerprint, bytes))
}

/// Makes a finished upload a blob, unless it is there already.
async fn name(
    state: &State,
    fingerprint: Fingerprint,
    bytes: u64,
    staged: tempfile::NamedTempFile,
) -> Result<(), StoreError> {
    let known = state
        .store
        .read(move |index| Ok::<_, StoreError>(rows::blob(index, &fingerprint.k1)?.is_some()));
    if !known.await? {
        let blobs = state.store.blobs.clone();
        let adopted = tokio::task::spawn_blocking(move || blobs.adopt(&fingerprint.k1, staged));
        let adopted = adopted.await.map_err(|_| StoreError::Closed)?;
        adopted.map_err(|error| StoreError::io("upload", error))?;
    }
    let record = move |writer: &mut Writer<'_>| writer.put_blob(&fingerprint, bytes).map(drop);
    state.store.write(record).await
}

async fn download(
    Of(state): Of<State>,
    Path((account, blob, name)): Path<(String, String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let scope = match authorize(&state, &headers) {
        Ok(scope) => scope,
        Err(refused) => return refused,
    };
    if !scope.read {
        return StatusCode::FORBIDDEN.into_response();
    }
    // A part of a message is its blob's id and its number.
    let (whole, part) = match blob.split_once('-') {
        Some((whole, part)) => (whole, Some(part)),
        None => (&*blob, None),
    };
    let Some(k1) = k1_in(whole, 'G').filter(|_| account == ACCOUNT) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let media_type = query.get("type").or_else(|| query.get("accept"));
    let media_type = media_type.map_or("application/octet-stream", String::as_str);
    if let Some(part) = part {
        return match content_of(&state, k1, part).await {
            Ok(Some(bytes)) => {
                let length = bytes.len() as u64;
                attachment(media_type, &name, length, Body::from(bytes))
            }
            Ok(None) => StatusCode::NOT_FOUND.into_response(),
            Err(error) => unavailable(&error),
        };
    }
    let found = state
        .store
        .read(move |index| Ok::<_, StoreError>(rows::blob(index, &k1)?));
    let row = match found.await {
        Ok(Some(row)) => row,
        Ok(None) => return StatusCode::NOT_FOUND.into_response(),
        Err(error) => return unavailable(&error),
    };
    let bytes = match state.store.blobs.stream(&k1).await {
        Ok(bytes) => bytes,
        Err(error) => return unavailable(&StoreError::io("blob", error)),
    };
    attachment(media_type, &name, row.bytes, Body::from_stream(bytes))
}

/// The decoded content of one part of an e-mail.
async fn content_of(state: &State, k1: K1, part: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let Ok(part) = part.parse::<u32>() else {
        return Ok(None);
    };
    let shared = state.clone();
    let read = state.store.read(move |index| {
        if rows::email(index, &k1)?.is_none() {
            return Ok(None);
        }
        let content = shared.store.blobs.read(&k1, mime::PARSED_BYTES_MAX);
        let content = content.map_err(|error| StoreError::io("blob", error))?;
        let message = mime::parse(&content);
        let part = message.part(part).filter(|part| !part.is_multipart());
        Ok::<_, StoreError>(part.map(|part| part.contents().to_vec()))
    });
    read.await
}

/// Content from strangers: saved, never shown, whatever type it claims.
pub(crate) fn attachment(media_type: &str, name: &str, bytes: u64, body: Body) -> Response {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name: String = name
        .chars()
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect();
    let media_type = header::HeaderValue::from_str(media_type)
        .unwrap_or(header::HeaderValue::from_static("application/octet-stream"));
    let mut response = (
        [
            (
                header::CONTENT_DISPOSITION,
                format!("attachment; filename=\"{name}\""),
            ),
            (header::CONTENT_LENGTH, bytes.to_string()),
        ],
        [
            (
                header::CONTENT_SECURITY_POLICY,
                "default-src 'none'; sandbox",
            ),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (
                header::CACHE_CONTROL,
                "private, immutable, max-age=31536000",
            ),
        ],
        body,
    )
        .into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type);
    response
}

fn json(status: StatusCode, media_type: &'static str, shape: &impl Serialize) -> Response {
    match serde_json::to_vec(shape) {
        Ok(body) => (
            status,
            [
                (header::CONTENT_TYPE, media_type),
                (header::CACHE_CONTROL, "no-store"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ],
            body,
        )
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn refuse(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
    let mut response = json(status, "application/problem+json", problem);
    if status == StatusCode::TOO_MANY_REQUESTS {
        let soon = header::HeaderValue::from_static("1");
        response.headers_mut().insert(header::RETRY_AFTER, soon);
    }
    response
}

/// Our own trouble is always worth another try.
fn unavailable(error: &StoreError) -> Response {
    tracing::error!(%error, "vault: request failed");
    let (status, detail) = match error {
        StoreError::Full { .. } => (507, "the disk is full"),
        _ => (503, "try again later"),
    };
    let mut response = refuse(&problem("serverUnavailable", status, detail));
    let later = header::HeaderValue::from_static("10");
    response.headers_mut().insert(header::RETRY_AFTER, later);
    response
}
