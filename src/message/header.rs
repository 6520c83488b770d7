//! The header scan: finds header fields in a stream of bytes, keeps none.
