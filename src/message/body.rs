//! The bytes of a message on their way out of the journal: small ones in memory, large ones read in pieces.

use std::{fmt, io, sync::Arc};

use bytes::Bytes;

/// A message's content, exactly as captured.
#[derive(Clone, Debug)]
pub enum Body {
    Small(Bytes),
    Large(Arc<dyn LargeBody>),
}

/// Content too large to hold in memory; each `open` reads it from its start, so that a retry can.
pub trait LargeBody: Send + Sync + fmt::Debug {
    /// Length in bytes.
    fn bytes(&self) -> u64;
    /// A blocking reader from the first byte.
    fn open(&self) -> io::Result<Box<dyn io::Read + Send>>;
}

impl Body {
    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Small(bytes) => bytes.len() as u64,
            Self::Large(large) => large.bytes(),
        }
    }

    /// A blocking reader from the first byte.
    pub fn open(&self) -> io::Result<Box<dyn io::Read + Send>> {
        match self {
            Self::Small(bytes) => Ok(Box::new(io::Cursor::new(bytes.clone()))),
            Self::Large(large) => large.open(),
        }
    }
}
