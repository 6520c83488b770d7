//! Journal reports: no panic, chunking changes nothing, never more comes out than went in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailtee_fuzz::{
    chunked,
    message::journal_report::{Limits, ReportParser, parse},
    pieces,
};

fuzz_target!(|input: &[u8]| {
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
});
