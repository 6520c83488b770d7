//! Both sides of an IMAP session, in turns: whatever they say and however it is cut, all of it is handed on but for the few
//! lines that are ours, the same comes of it, little is held, and no copy has what was not said. Two bytes that no mail has
//! begin a turn of the client or of the server.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    mailtee_fuzz::laws::imap_watcher(input);
});
