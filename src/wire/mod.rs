//! Protocols as pure state machines: bytes in, bytes and steps out. No sockets, no clock, no files.

pub mod milter;
pub mod smtp;
pub mod watch;
