//! Segment bytes, raw or with right checksums around whatever payload: recovery neither panics nor takes more records than
//! can be there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailtee_fuzz::journal;

fuzz_target!(|input: &[u8]| {
    let (records, _) = journal::recover_bytes(input);
    assert!(records <= input.len() / 40);

    let segment = journal::segment(input);
    let (records, gaps) = journal::recover_bytes(&segment);
    assert!(records <= segment.len() / 40 && gaps <= segment.len() / 8 + 1);
});
