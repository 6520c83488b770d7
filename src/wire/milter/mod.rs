//! The mail filter protocol of Sendmail and Postfix, versions 2 to 6, without I/O.
//!
//! [`Filter`] is the milter: it looks on, and never asks for a change. [`Mta`] is the mail server's side. Each frame is a
//! length (u32, big-endian), a command byte, which the length counts, and a payload. What the bits and letters mean is
//! fixed by Sendmail's `include/libmilter/mfdef.h`; there is no RFC.

mod filter;
mod frame;
pub mod fuzz;
mod macros;
mod mta;
mod transaction;

pub use filter::{Filter, Negotiated, Rules, Step, Verdict};
pub use frame::{FRAME_BYTES_MAX, Garbage};
pub use mta::{Mta, Offer, Reply, WantedMacros};
pub use transaction::Ended;

/// The newest version there is.
pub const VERSION: u32 = 6;

/// What an MTA says: the first letter of a frame.
pub mod command {
    pub const NEGOTIATE: u8 = b'O';
    pub const MACROS: u8 = b'D';
    pub const CONNECT: u8 = b'C';
    pub const HELO: u8 = b'H';
    pub const MAIL: u8 = b'M';
    pub const RCPT: u8 = b'R';
    pub const DATA: u8 = b'T';
    pub const HEADER: u8 = b'L';
    pub const END_OF_HEADERS: u8 = b'N';
    pub const BODY: u8 = b'B';
    /// It may carry a last piece of the body.
    pub const END_OF_BODY: u8 = b'E';
    /// The message is over, the connection is not.
    pub const ABORT: u8 = b'A';
    pub const UNKNOWN: u8 = b'U';
    pub const QUIT: u8 = b'Q';
    /// Another SMTP connection follows on the same socket.
    pub const QUIT_NEW_CONNECTION: u8 = b'K';
}

/// What a milter answers.
pub mod answer {
    pub const CONTINUE: u8 = b'c';
    pub const TEMPFAIL: u8 = b't';
    /// Not an answer yet: the MTA's clock starts anew.
    pub const PROGRESS: u8 = b'p';
    pub const ACCEPT: u8 = b'a';
    pub const REJECT: u8 = b'r';
    pub const DISCARD: u8 = b'd';
    pub const SKIP: u8 = b's';
    pub const REPLY_CODE: u8 = b'y';
}

/// What a milter may ask to do; the one thing that we do.
pub mod action {
    /// Name the macros that it wants.
    pub const SET_MACROS: u32 = 0x100;
}

/// What an MTA can do without, as bits of its offer and of the milter's choice.
pub mod protocol {
    pub const NO_CONNECT: u32 = 0x1;
    pub const NO_HELO: u32 = 0x2;
    pub const NO_MAIL: u32 = 0x4;
    pub const NO_RCPT: u32 = 0x8;
    pub const NO_BODY: u32 = 0x10;
    pub const NO_HEADERS: u32 = 0x20;
    pub const NO_END_OF_HEADERS: u32 = 0x40;
    /// The milter answers no header.
    pub const SILENT_HEADER: u32 = 0x80;
    pub const NO_UNKNOWN: u32 = 0x100;
    pub const NO_DATA: u32 = 0x200;
    pub const SKIP: u32 = 0x400;
    /// Recipients that the MTA has refused are told too.
    pub const REFUSED_RECIPIENTS: u32 = 0x800;
    pub const SILENT_CONNECT: u32 = 0x1000;
    pub const SILENT_HELO: u32 = 0x2000;
    pub const SILENT_MAIL: u32 = 0x4000;
    pub const SILENT_RCPT: u32 = 0x8000;
    pub const SILENT_DATA: u32 = 0x1_0000;
    pub const SILENT_UNKNOWN: u32 = 0x2_0000;
    pub const SILENT_END_OF_HEADERS: u32 = 0x4_0000;
    pub const SILENT_BODY: u32 = 0x8_0000;
    /// A header's value comes with the white space before it.
    pub const LEADING_SPACE: u32 = 0x10_0000;

    /// For each event the bit that keeps it away, and the bit that keeps its answer away.
    pub(super) fn bits(command: u8) -> (u32, u32) {
        use super::command::*;
        match command {
            CONNECT => (NO_CONNECT, SILENT_CONNECT),
            HELO => (NO_HELO, SILENT_HELO),
            MAIL => (NO_MAIL, SILENT_MAIL),
            RCPT => (NO_RCPT, SILENT_RCPT),
            DATA => (NO_DATA, SILENT_DATA),
            HEADER => (NO_HEADERS, SILENT_HEADER),
            END_OF_HEADERS => (NO_END_OF_HEADERS, SILENT_END_OF_HEADERS),
            BODY => (NO_BODY, SILENT_BODY),
            UNKNOWN => (NO_UNKNOWN, SILENT_UNKNOWN),
            _ => (0, 0),
        }
    }
}

/// The stages for which a milter may name macros, in the numbers of the negotiation.
pub mod stage {
    pub const CONNECT: u32 = 0;
    pub const HELO: u32 = 1;
    pub const MAIL: u32 = 2;
    pub const RCPT: u32 = 3;
    pub const DATA: u32 = 4;
    /// After the body. Its number stands before that of the stage which comes first.
    pub const END_OF_BODY: u32 = 5;
    pub const END_OF_HEADERS: u32 = 6;
}
