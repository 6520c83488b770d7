//! A mail server's side of the milter protocol: whatever it says and however it is cut, the same comes of it, and no more
//! is copied than was said. Behind an offer that the fuzzer need not find, and before none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailtee_fuzz::{
    chunked,
    wire::milter::{
        Mta, Offer,
        fuzz::{Outcome, connection},
    },
};

fuzz_target!(|input: &[u8]| {
    let (step, said) = chunked(input);
    alike(said, step);
    let (old, said) = chunked(said);
    let offer = match old {
        ..128 => Offer {
            version: 2 + old as u32 % 4,
            actions: 0x1f,
            protocol: 0x7f,
        },
        _ => Offer::default(),
    };
    let mut spoken = Mta::new(offer).out;
    spoken.extend_from_slice(said);
    let outcome = alike(&spoken, step);
    assert!(!outcome.replies.is_empty(), "an offer is answered");
});

/// In pieces or whole.
fn alike(said: &[u8], step: usize) -> Outcome {
    let outcome = connection(said, usize::MAX);
    assert_eq!(connection(said, step), outcome);
    // A frame's head outweighs what a header grows by, but for its line ends and the space that is put back.
    let copied: usize = outcome.copies.iter().map(|(copy, _)| copy.len()).sum();
    assert!(
        copied <= 2 * said.len(),
        "{copied} bytes out of {}",
        said.len()
    );
    outcome
}
