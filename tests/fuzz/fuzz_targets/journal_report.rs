//! Journal reports: no panic, chunking changes nothing, never more comes out than went in.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mailtee_fuzz::laws::journal_report(input));
