//! Both sides of a POP3 session, in turns: whatever they say and however it is cut, all of it is handed on but for the few
//! lines that are ours, and the same comes of it. A byte that no mail has ends a turn.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailtee_fuzz::{
    chunked,
    wire::pop3::fuzz::{Side, check},
};

const TURN: u8 = 0xff;

fuzz_target!(|input: &[u8]| {
    let (step, said) = chunked(input);
    let turns = said.split(|byte| *byte == TURN).enumerate();
    let turns: Vec<_> = turns
        .map(|(turn, bytes)| {
            let side = [Side::Server, Side::Client][turn % 2];
            (side, bytes.to_vec())
        })
        .collect();
    check(&turns, step);
});
