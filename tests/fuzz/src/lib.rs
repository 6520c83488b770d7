//! The product's pure modules, compiled from their own files.

#![allow(dead_code, reason = "of each module the fuzzers take a part")]

#[path = "../../../src/message/mod.rs"]
pub mod message;
#[path = "../../../src/wire/mod.rs"]
pub mod wire;

pub mod journal;

/// Cuts input into pieces as its first byte says, so that the fuzzer chooses the chunking too.
pub fn chunked(input: &[u8]) -> (usize, &[u8]) {
    match input.split_first() {
        Some((&size, rest)) => (if size == 0 { usize::MAX } else { size.into() }, rest),
        None => (usize::MAX, input),
    }
}

/// The pieces of `bytes`, each at most `size` long.
pub fn pieces(bytes: &[u8], size: usize) -> impl Iterator<Item = &[u8]> {
    bytes.chunks(size.min(bytes.len()).max(1))
}
