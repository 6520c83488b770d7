//! Content after DATA: any chunking gives the same, only CRLF.CRLF ends it, no bare line end survives, and what is stuffed
//! again decodes to itself.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mailtee_fuzz::laws::data(input));
