//! A mail server's side of the milter protocol: whatever it says and however it is cut, the same comes of it, and no more
//! is copied than was said. Behind an offer that the fuzzer need not find, and before none.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mailtee_fuzz::laws::milter(input));
