//! JMAP (RFC 8620, 8621) as a target.

pub mod shapes;
