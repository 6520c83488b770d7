//! `/api/queue/…`: what the command line asks of a running daemon.

use std::sync::Arc;

use axum::Router;

use super::Shared;

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
}
