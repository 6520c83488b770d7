//! Why the vault could not be opened.

use std::io;

use super::{StoreError, TokenError};
use crate::net::TlsError;

/// What opening the vault failed at.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("vault: {0}")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Tokens(#[from] TokenError),
    #[error("vault: listen ({address}): {cause}")]
    Listen {
        address: String,
        #[source]
        cause: io::Error,
    },
}
