//! A client's command lines: the parser, XFORWARD, and whole sessions; no panic, and what the next hop took, the copy has.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailtee_fuzz::{
    chunked,
    message::Client,
    pieces,
    wire::smtp::{Dialect, Role, Server, command::Command, fuzz, reply, xforward},
};

fuzz_target!(|input: &[u8]| {
    let (size, said) = chunked(input);
    for line in said.split(|byte| *byte == b'\n') {
        let command = Command::parse(line);
        let path = command.path();
        let _ = (path.parameter(b"SIZE"), command.chunk());
        xforward::apply(line, &mut Client::default());
        reply::scan(line);
    }

    let whole = served(said, usize::MAX);
    assert_eq!(
        served(said, size),
        whole,
        "the server under another chunking"
    );

    for role in [Role::Filter, Role::Proxy] {
        fuzz::check(role, said, size);
    }
});

/// What our own next hop says and keeps.
fn served(said: &[u8], size: usize) -> (Vec<u8>, Vec<Vec<u8>>, u64) {
    let mut server = Server::new(Dialect::Smtp, "hop.test").keeping_content();
    for piece in pieces(said, size) {
        server.receive(piece);
    }
    let messages = server.messages();
    (server.to_client, server.kept, messages)
}
