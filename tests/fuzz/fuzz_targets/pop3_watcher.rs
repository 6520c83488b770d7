//! Both sides of a POP3 session, in turns: whatever they say and however it is cut, all of it is handed on but for the few
//! lines that are ours, and the same comes of it. A byte that no mail has ends a turn.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    mailtee_fuzz::laws::pop3_watcher(input);
});
