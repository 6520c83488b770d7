//! Protocols as pure state machines: bytes in, bytes and steps out. No sockets, no clock, no files.

pub mod imap;
pub mod milter;
pub mod pop3;
pub mod sasl;
pub mod smtp;
pub mod watch;
