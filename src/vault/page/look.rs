//! The list, a message, and its files.

use askama::Template;
use axum::{
    body::Body,
    extract::{Path, Query, State as Of},
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use mail_parser::MimeHeaders;
use serde::Deserialize;

use super::{State, guard, not_found, render, unavailable};
use crate::{
    message::{CaptureId, K1, Origin},
    vault::{
        export,
        jmap::attachment,
        mime,
        storage::{StoreError, rows},
        view::{self, Row, Search, Shown},
    },
};

const ROWS_A_PAGE: u64 = 50;
/// Pictures that a message brings and its HTML shows.
const PICTURE_BYTES_MAX: usize = 4 << 20;
/// A rebuilt sighting is made in memory; a larger one comes from the command line.
const REBUILT_BYTES_MAX: u64 = 64 << 20;

#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    q: String,
    #[serde(default)]
    page: u64,
}

#[derive(Template)]
#[template(path = "list.html", config = "src/vault/askama.toml")]
struct ListPage {
    query: String,
    rows: Vec<Row>,
    first: u64,
    last: u64,
    total: u64,
    newer: Option<String>,
    older: Option<String>,
    pending: i64,
}

pub(super) async fn list(Of(state): Of<State>, Query(asked): Query<Asked>) -> Response {
    let search = Search {
        words: Some(asked.q.clone()),
        ..Search::default()
    };
    let page = asked.page.min(1 << 40);
    if !asked.q.trim().is_empty() {
        state.store.searchable().await;
    }
    let shared = state.clone();
    let found = state.store.read(move |index| {
        let rows = view::list(
            index,
            &shared.store.blobs,
            &search,
            page * ROWS_A_PAGE,
            ROWS_A_PAGE,
        )?;
        let total = view::count(index, &search)?;
        Ok::<_, StoreError>((rows, total))
    });
    let (rows, total) = match found.await {
        Ok(found) => found,
        Err(error) => return unavailable(&error),
    };
    let link = |page: u64| {
        let words = percent_encoded(&asked.q);
        format!("/?q={words}&page={page}")
    };
    let first = page * ROWS_A_PAGE;
    let last = first + rows.len() as u64;
    render(&ListPage {
        first: if rows.is_empty() { 0 } else { first + 1 },
        last,
        newer: (page > 0).then(|| link(page - 1)),
        older: (last < total).then(|| link(page + 1)),
        total,
        rows,
        query: asked.q,
        pending: state.metrics.vault_index_pending_messages.get(),
    })
}

/// For a query string: all but what needs no thought is escaped.
fn percent_encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[derive(Template)]
#[template(path = "message.html", config = "src/vault/askama.toml")]
struct MessagePage {
    shown: Shown,
}

pub(super) async fn message(Of(state): Of<State>, Path(id): Path<String>) -> Response {
    let Some(k1) = k1_of(&id) else {
        return not_found();
    };
    let shared = state.clone();
    let found = state.store.read(move |index| {
        let Some(email) = rows::email(index, &k1)? else {
            return Ok(None);
        };
        view::show(index, &shared.store.blobs, &email).map(Some)
    });
    match found.await {
        Ok(Some(shown)) => render(&MessagePage { shown }),
        Ok(None) => not_found(),
        Err(error) => unavailable(&error),
    }
}

/// The message's own HTML, for the frame; its policy goes with it, so that opened by itself it can do no more.
pub(super) async fn html(Of(state): Of<State>, Path(id): Path<String>) -> Response {
    let content = match content(&state, &id).await {
        Ok(content) => content,
        Err(refused) => return refused,
    };
    let message = mime::parse(&content);
    let Some(text) = mime::html_with_pictures(&message, PICTURE_BYTES_MAX) else {
        return not_found();
    };
    let policy = [
        (header::CONTENT_SECURITY_POLICY, guard::MESSAGE),
        (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
    ];
    (policy, Html(text)).into_response()
}

pub(super) async fn part(Of(state): Of<State>, Path((id, part)): Path<(String, u32)>) -> Response {
    let content = match content(&state, &id).await {
        Ok(content) => content,
        Err(refused) => return refused,
    };
    let message = mime::parse(&content);
    let Some(part) = message.part(part).filter(|part| !part.is_multipart()) else {
        return not_found();
    };
    let name = part.attachment_name().unwrap_or("part").to_owned();
    let bytes = part.contents().to_vec();
    attachment(
        &mime::media_type(part),
        &name,
        bytes.len() as u64,
        Body::from(bytes),
    )
}

/// The beginning of a message, as much as is ever parsed.
async fn content(state: &State, id: &str) -> Result<Vec<u8>, Response> {
    let k1 = k1_of(id).ok_or_else(not_found)?;
    let shared = state.clone();
    let read = state.store.read(move |index| {
        if rows::email(index, &k1)?.is_none() {
            return Ok(None);
        }
        let content = shared.store.blobs.read(&k1, mime::PARSED_BYTES_MAX);
        content
            .map(Some)
            .map_err(|error| StoreError::io("blob", error))
    });
    match read.await {
        Ok(Some(content)) => Ok(content),
        Ok(None) => Err(not_found()),
        Err(error) => Err(unavailable(&error)),
    }
}

pub(super) async fn eml(Of(state): Of<State>, Path(id): Path<String>) -> Response {
    let Some(k1) = k1_of(&id) else {
        return not_found();
    };
    let found = state
        .store
        .read(move |index| Ok::<_, StoreError>(rows::email(index, &k1)?));
    let email = match found.await {
        Ok(Some(email)) => email,
        Ok(None) => return not_found(),
        Err(error) => return unavailable(&error),
    };
    match state.store.blobs.stream(&k1).await {
        Ok(bytes) => attachment(
            "message/rfc822",
            &format!("{k1}.eml"),
            email.bytes,
            Body::from_stream(bytes),
        ),
        Err(error) => unavailable(&StoreError::io("blob", error)),
    }
}

/// A sighting's exact bytes.
pub(super) async fn sighting(Of(state): Of<State>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse::<CaptureId>() else {
        return not_found();
    };
    let shared = state.clone();
    let made = state.store.read(move |index| {
        let Some(row) = rows::sighting(index, id)? else {
            return Ok::<_, StoreError>(None);
        };
        let size = rows::email_by_row(index, row.email)?.map_or(0, |email| email.bytes);
        if size > REBUILT_BYTES_MAX {
            return Ok(Some(Err(export::ExportError::NotFound(id.to_string()))));
        }
        let mut bytes = Vec::new();
        let made = export::sighting(index, &shared.store.blobs, id, &mut bytes);
        Ok(Some(made.map(|_| bytes)))
    });
    match made.await {
        Ok(Some(Ok(bytes))) => {
            let size = bytes.len() as u64;
            attachment(
                "message/rfc822",
                &format!("{id}.eml"),
                size,
                Body::from(bytes),
            )
        }
        Ok(Some(Err(error))) => {
            tracing::error!(%error, "vault: sighting");
            let text = "This sighting cannot be made here; try mailtee vault export --sighting.";
            (StatusCode::UNPROCESSABLE_ENTITY, text).into_response()
        }
        Ok(None) => not_found(),
        Err(error) => unavailable(&error),
    }
}

fn k1_of(id: &str) -> Option<K1> {
    id.strip_prefix('M')?.parse().ok()
}
