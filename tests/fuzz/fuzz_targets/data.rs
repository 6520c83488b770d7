//! Content after DATA: any chunking gives the same, only CRLF.CRLF ends it, no bare line end survives, and what is stuffed
//! again decodes to itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailtee_fuzz::{
    chunked, pieces,
    wire::smtp::{
        content::{DataDecoder, Stuffer},
        fuzz,
    },
};

fuzz_target!(|input: &[u8]| {
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
});

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
