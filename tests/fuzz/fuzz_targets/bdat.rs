//! Content by BDAT: the fuzzer's bytes cut into chunks as it likes; lengths never change, the copy is what was passed on.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mailtee_fuzz::laws::bdat(input));
