//! The product's pure modules, compiled from their own files.

#![allow(dead_code, reason = "of each module the fuzzers take a part")]

#[path = "../../../src/message/mod.rs"]
pub mod message;
#[path = "../../../src/wire/mod.rs"]
pub mod wire;

pub mod journal;
pub mod laws;
