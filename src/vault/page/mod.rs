//! The vault's page: a reader logs in with a token, lists, searches, looks at a message, takes it as a file.
//!
//! A message is a stranger's. Its text is shown escaped; its HTML only in a frame without script, forms, origin or network
//! (`guard.rs` has the policies). The page itself has no script at all. It reads, and changes nothing.

mod guard;
mod login;
mod look;

use std::sync::Arc;

use axum::{
    Router,
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};

pub(super) use login::Logins;

use super::{Shared, StoreError};

type State = Arc<Shared>;

pub(super) fn routes(state: State) -> Router {
    // Everything behind `inside` needs a login.
    let inside = Router::new()
        .route("/", get(look::list))
        .route("/message/{id}", get(look::message))
        .route("/message/{id}/html", get(look::html))
        .route("/message/{id}/eml", get(look::eml))
        .route("/message/{id}/part/{part}", get(look::part))
        .route("/sighting/{id}/eml", get(look::sighting))
        .route_layer(middleware::from_fn_with_state(
            state.clone(),
            login::required,
        ));
    Router::new()
        .route("/login", get(login::form).post(login::enter))
        .route("/logout", post(login::leave))
        .route("/style.css", get(style))
        .merge(inside)
        .with_state(state)
        .route_layer(middleware::map_response(guard::page))
}

async fn style() -> Response {
    let text = include_str!("../templates/style.css");
    let kind = [
        (header::CONTENT_TYPE, "text/css; charset=utf-8"),
        (header::CACHE_CONTROL, "max-age=300"),
    ];
    (kind, text).into_response()
}

/// A template as a page; one that does not render is our fault.
fn render(template: &impl askama::Template) -> Response {
    match template.render() {
        Ok(text) => axum::response::Html(text).into_response(),
        Err(error) => {
            tracing::error!(%error, "vault: page");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn unavailable(error: &StoreError) -> Response {
    tracing::error!(%error, "vault: page");
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "The vault cannot answer now. Try again later.",
    )
        .into_response()
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "There is no such message.").into_response()
}

fn to_login() -> Response {
    Redirect::to("/login").into_response()
}
