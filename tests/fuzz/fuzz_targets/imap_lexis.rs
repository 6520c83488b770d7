//! Lines of IMAP, in pieces or whole: whether one announces a literal, and its words, are as a slow reader finds them.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mailtee_fuzz::laws::imap_lexis(input));
