//! Lines of IMAP, in pieces or whole: whether one announces a literal, and its words, are as a slow reader finds them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailtee_fuzz::{chunked, wire::imap::fuzz::lexis};

fuzz_target!(|input: &[u8]| {
    let (step, said) = chunked(input);
    lexis(said, step);
});
