//! A client's command lines: the parser, XFORWARD, and whole sessions; no panic, and what the next hop took, the copy has.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mailtee_fuzz::laws::smtp_command(input));
