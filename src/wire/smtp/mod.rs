//! SMTP (RFC 5321) and LMTP (RFC 2033) without I/O.
//!
//! [`Relay`] stands between a client and the next hop and is a party to both talks: what one says is said to the other,
//! and the content of each message comes out a third time, as the copy. [`Server`] is a next hop of our own that takes
//! every message and keeps none. Both take bytes in any chunking and give the same result for each.

pub mod answer;
pub mod command;
pub mod content;
pub mod fuzz;
pub mod relay;
pub mod reply;
pub mod server;
pub mod xforward;

pub use relay::{Relay, Rules, Step, TellClient};
pub use server::Server;

/// Which of the two protocols is spoken; they differ in the greeting verb and in the replies after the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Smtp,
    Lmtp,
}

/// Who the peer of a front end is, and with that what becomes of a CR or LF that stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Our own mail server hands us mail that it has accepted: a refusal would bounce it, so bare line ends are replaced.
    Filter,
    /// Strangers: bare line ends are refused.
    Proxy,
    /// Our own mail server sends journal reports; there is no next hop. Bare line ends are replaced.
    Journal,
}
