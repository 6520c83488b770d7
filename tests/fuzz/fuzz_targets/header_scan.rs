//! Fingerprint and difference of any bytes: no panic, chunking changes nothing, trace headers change neither K2 nor Core,
//! and what a difference rebuilds is the sighting.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailtee_fuzz::{
    chunked,
    message::{Difference, Fingerprinter, difference::rebuild},
    pieces,
};

const TRACE: &[u8] = b"Received: from a by b;\r\n\tMon, 1 Jun 2026 10:00:00 +0000\r\n";

fuzz_target!(|input: &[u8]| {
    let (size, message) = chunked(input);
    let whole = Fingerprinter::of(message);
    let mut cut = Fingerprinter::new();
    for piece in pieces(message, size) {
        cut.update(piece);
    }
    assert_eq!(
        cut.finish(),
        whole,
        "the fingerprint under another chunking"
    );

    let traced = [TRACE, message].concat();
    let other = Fingerprinter::of(&traced);
    if other.core == whole.core {
        // one can be made from the other: both ways, exactly
        for (stored, wanted) in [(message, &traced[..]), (&traced[..], message)] {
            let Some(difference) = Difference::extract(wanted).expect("memory does not fail")
            else {
                continue;
            };
            let mut out = Vec::new();
            let k1 = rebuild(stored, &difference, &mut out).expect("memory does not fail");
            assert_eq!(out, wanted, "the rebuilt sighting");
            assert_eq!(k1, Fingerprinter::of(wanted).k1);
        }
    }
});
