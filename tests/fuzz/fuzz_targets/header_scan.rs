//! Fingerprint and difference of any bytes: no panic, chunking changes nothing, trace headers change neither K2 nor Core,
//! and what a difference rebuilds is the sighting.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mailtee_fuzz::laws::header_scan(input));
