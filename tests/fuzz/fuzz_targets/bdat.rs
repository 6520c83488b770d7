//! Content by BDAT: the fuzzer's bytes cut into chunks as it likes; lengths never change, the copy is what was passed on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailtee_fuzz::{
    chunked,
    wire::smtp::{Role, content::ChunkDecoder, fuzz},
};

fuzz_target!(|input: &[u8]| {
    let (chunk, rest) = chunked(input);
    let (size, content) = chunked(rest);

    let mut decoder = ChunkDecoder::default();
    let (mut out, mut passed) = (Vec::new(), 0);
    let chunks: Vec<_> = mailtee_fuzz::pieces(content, chunk).collect();
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
});
