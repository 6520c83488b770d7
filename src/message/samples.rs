//! Generated messages for the tests of this stage: short, and dense in what the header scan must tell apart.

use proptest::prelude::*;

/// What a message is made of here; words meet in every order, so most messages are malformed somewhere.
const WORDS: &[&[u8]] = &[
    b"Received:",
    b"Subject:",
    b"From ",
    b">From ",
    b"x",
    b" ",
    b"\t",
    b"\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b":",
    b"\0",
    b"\xff",
    b"Status: RO\r\n",
];

pub(super) fn mail_like() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::collection::vec(prop::sample::select(WORDS), 0..60).prop_map(|w| w.concat());
    prop_oneof![8 => words, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

/// A well-formed header field that is no trace, on one line or folded.
pub(super) fn own_field() -> impl Strategy<Value = Vec<u8>> {
    "(Subject|To|X-Own|Message-ID):( [a-z]{0,9}(\r?\n[ \t][a-z]{1,9})?)?\r?\n"
        .prop_map(String::into_bytes)
}

/// A well-formed trace field.
pub(super) fn trace_field() -> impl Strategy<Value = Vec<u8>> {
    "(Received|return-path|ARC-Seal|X-Spam-Flag): [a-z]{0,9}(\r?\n[ \t][a-z]{1,9}){0,2}\r?\n"
        .prop_map(String::into_bytes)
}
