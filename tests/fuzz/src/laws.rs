//! What each fuzz target holds for whatever input, its first bytes the sizes of pieces. The targets call these, and so does
//! the test of the inputs that are kept, which has the product from elsewhere: hence `super`.

use super::{
    message::{
        Client, Difference, Fingerprinter,
        difference::rebuild,
        journal_report::{Limits, ReportParser, parse},
    },
    wire::{
        imap,
        milter::{self, Mta, Offer},
        pop3::{self, fuzz::Side},
        smtp::{
            Dialect, Role, Server,
            command::Command,
            content::{ChunkDecoder, DataDecoder, Stuffer},
            fuzz, reply, xforward,
        },
    },
};

/// Cuts input into pieces as its first byte says, so that the fuzzer chooses the chunking too.
fn chunked(input: &[u8]) -> (usize, &[u8]) {
    match input.split_first() {
        Some((&size, rest)) => (if size == 0 { usize::MAX } else { size.into() }, rest),
        None => (usize::MAX, input),
    }
}

/// The pieces of `bytes`, each at most `size` long.
fn pieces(bytes: &[u8], size: usize) -> impl Iterator<Item = &[u8]> {
    bytes.chunks(size.min(bytes.len()).max(1))
}

/// A client's command lines: the parser, XFORWARD, and whole sessions; no panic, and what the next hop took, the copy has.
pub fn smtp_command(input: &[u8]) {
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
}

/// What our own next hop says and keeps.
fn served(said: &[u8], size: usize) -> (Vec<u8>, Vec<Vec<u8>>, u64) {
    let mut server = Server::new(Dialect::Smtp, "hop.test").keeping_content();
    for piece in pieces(said, size) {
        server.receive(piece);
    }
    let messages = server.messages();
    (server.to_client, server.kept, messages)
}

/// Content after DATA: any chunking gives the same, only CRLF.CRLF ends it, no bare line end survives, and what is stuffed
/// again decodes to itself.
pub fn data(input: &[u8]) {
    let (size, content) = chunked(input);
    let (decoded, bare, end) = decode(content, usize::MAX);
    assert_eq!(decode(content, size), (decoded.clone(), bare, end));

    // the definition, the slow way: the first CRLF.CRLF, where content stands behind a CRLF already
    let mut framed = b"\r\n".to_vec();
    framed.extend_from_slice(content);
    let first = framed.windows(5).position(|w| w == b"\r\n.\r\n");
    assert_eq!(end, first.map(|at| at + 3), "where the content ends");

    for (at, byte) in decoded.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(decoded.get(at + 1), Some(&b'\n'), "a bare CR"),
            b'\n' => assert!(at > 0 && decoded[at - 1] == b'\r', "a bare LF"),
            _ => {}
        }
    }

    if end.is_some() {
        let mut stuffed = Vec::new();
        let mut stuffer = Stuffer::default();
        for piece in pieces(&decoded, size) {
            stuffer.stuff(piece, &mut stuffed);
        }
        stuffed.extend_from_slice(b".\r\n");
        let length = stuffed.len();
        assert_eq!(decode(&stuffed, size), (decoded, false, Some(length)));
    }

    fuzz::data(content);
}

/// What it decodes to, whether a bare CR or LF was seen, and how many bytes of input there are up to the end of data.
fn decode(content: &[u8], size: usize) -> (Vec<u8>, bool, Option<usize>) {
    let mut decoder = DataDecoder::default();
    let mut out = Vec::new();
    let mut consumed = 0;
    for piece in pieces(content, size) {
        let decoded = decoder.decode(piece, &mut out);
        consumed += decoded.consumed;
        if decoded.ended {
            return (out, decoder.saw_bare(), Some(consumed));
        }
    }
    (out, decoder.saw_bare(), None)
}

/// Content by BDAT: the fuzzer's bytes cut into chunks as it likes; lengths never change, the copy is what was passed on.
pub fn bdat(input: &[u8]) {
    let (chunk, rest) = chunked(input);
    let (size, content) = chunked(rest);

    let mut decoder = ChunkDecoder::default();
    let (mut out, mut passed) = (Vec::new(), 0);
    let chunks: Vec<_> = pieces(content, chunk).collect();
    for (at, piece) in chunks.iter().enumerate() {
        let last = at + 1 == chunks.len();
        if decoder.decode(piece, true, last, &mut out).is_err() {
            break;
        }
        passed += piece.len();
        assert_eq!(out.len(), passed, "a chunk changed its length");
    }

    fuzz::bdat(rest);
    let mut said = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n".to_vec();
    for piece in &chunks {
        said.extend_from_slice(format!("BDAT {}\r\n", piece.len()).as_bytes());
        said.extend_from_slice(piece);
    }
    said.extend_from_slice(b"BDAT 0 LAST\r\nNOOP\r\nQUIT\r\n");
    for role in [Role::Filter, Role::Proxy] {
        for outcome in fuzz::check(role, &said, size) {
            let lengths = outcome.copies.iter().map(Vec::len);
            assert!(lengths.eq(outcome.copies.iter().map(|_| content.len())));
        }
    }
}

const TRACE: &[u8] = b"Received: from a by b;\r\n\tMon, 1 Jun 2026 10:00:00 +0000\r\n";

/// Fingerprint and difference of any bytes: no panic, chunking changes nothing, trace headers change neither K2 nor Core,
/// and what a difference rebuilds is the sighting.
pub fn header_scan(input: &[u8]) {
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
}

/// Journal reports: no panic, chunking changes nothing, never more comes out than went in.
pub fn journal_report(input: &[u8]) {
    let (size, content) = chunked(input);
    let limits = Limits {
        header_bytes_max: 4096,
        text_bytes_max: 4096,
    };
    let whole = parse(content, limits);
    let mut parser = ReportParser::new(limits);
    let mut inner = Vec::new();
    for piece in pieces(content, size) {
        parser.feed(piece, &mut inner);
    }
    let cut = parser.finish(&mut inner).map(|report| (report, inner));
    if let Ok((_, inner)) = &whole {
        assert!(inner.len() <= content.len());
    }
    assert_eq!(cut, whole, "the report under another chunking");
}

/// A mail server's side of the milter protocol: whatever it says and however it is cut, the same comes of it, and no more
/// is copied than was said. Behind an offer that the fuzzer need not find, and before none.
pub fn milter(input: &[u8]) {
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
}

/// In pieces or whole.
fn alike(said: &[u8], step: usize) -> milter::fuzz::Outcome {
    let outcome = milter::fuzz::connection(said, usize::MAX);
    assert_eq!(milter::fuzz::connection(said, step), outcome);
    // A frame's head outweighs what a header grows by, but for its line ends and the space that is put back.
    let copied: usize = outcome.copies.iter().map(|(copy, _)| copy.len()).sum();
    assert!(
        copied <= 2 * said.len(),
        "{copied} bytes out of {}",
        said.len()
    );
    outcome
}

const TURN: u8 = 0xff;

/// Both sides of a POP3 session, in turns: whatever they say and however it is cut, all of it is handed on but for the few
/// lines that are ours, and the same comes of it. A byte that no mail has ends a turn. Gives the copies.
pub fn pop3_watcher(input: &[u8]) -> Vec<Vec<u8>> {
    let (step, said) = chunked(input);
    let turns = said.split(|byte| *byte == TURN).enumerate();
    let turns: Vec<_> = turns
        .map(|(turn, bytes)| {
            let side = [Side::Server, Side::Client][turn % 2];
            (side, bytes.to_vec())
        })
        .collect();
    let copies = pop3::fuzz::check(&turns, step).copies.into_iter();
    copies.map(|(_, copy)| copy).collect()
}

/// Lines of IMAP, in pieces or whole: whether one announces a literal, and its words, are as a slow reader finds them.
pub fn imap_lexis(input: &[u8]) {
    let (step, said) = chunked(input);
    imap::fuzz::lexis(said, step);
}

/// Both sides of an IMAP session, in turns: whatever they say and however it is cut, all of it is handed on but for the few
/// lines that are ours, the same comes of it, little is held, and no copy has what was not said. Two bytes that no mail has
/// begin a turn of the client or of the server. Gives the copies.
pub fn imap_watcher(input: &[u8]) -> Vec<Vec<u8>> {
    let (step, said) = chunked(input);
    imap::fuzz::scramble(said, step)
}
