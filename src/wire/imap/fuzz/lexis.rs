//! The words of IMAP, read once more: slowly, each rule by itself, from a line that is whole.

use crate::wire::imap::{
    lexis::{Doubt, Framing, Literal, Token, Tokens},
    line::{LINE_BYTES_MAX, Line},
};

/// Every line of the input, in pieces of `size` bytes and whole: announcements and words are those that a slow reader finds.
pub fn lexis(input: &[u8], size: usize) {
    for text in input.split_inclusive(|byte| *byte == b'\n') {
        words(text);
        if text.ends_with(b"\n") {
            let expected = announcement(text);
            assert_eq!(Framing::of(text), expected, "{}", text.escape_ascii());
            in_pieces(text, size, expected);
        }
    }
}

/// The same line as it comes in by the wire.
fn in_pieces(text: &[u8], size: usize, expected: Result<Option<Literal>, Doubt>) {
    let mut line = Line::default();
    let mut pieces = text.chunks(size.max(1)).peekable();
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_some() {
            line.add(piece);
            continue;
        }
        let whole = line.complete(piece);
        assert_eq!(whole.literal, expected, "{} by {size}", text.escape_ascii());
        assert_eq!(whole.long, text.len() > LINE_BYTES_MAX);
        assert!(text.starts_with(whole.raw) && text.starts_with(whole.text));
        if !whole.long {
            assert_eq!(whole.raw, text);
            let marker = text[whole.text.len()..].trim_ascii_end();
            let marker = marker.strip_prefix(b"~").unwrap_or(marker);
            assert_eq!(
                !marker.is_empty(),
                expected != Ok(None),
                "{}",
                text.escape_ascii()
            );
            assert!(marker.is_empty() || marker.starts_with(b"{") && marker.ends_with(b"}"));
        }
    }
}

/// `{n}` or `{n+}` at the line's end.
fn announcement(line: &[u8]) -> Result<Option<Literal>, Doubt> {
    let text = &line[..line.len() - 1];
    let (text, has_cr) = match text.strip_suffix(b"\r") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let Some(open) = text.iter().rposition(|byte| *byte == b'{') else {
        return Ok(None);
    };
    let Some(inside) = text[open + 1..].strip_suffix(b"}") else {
        return Ok(None);
    };
    let (digits, waits) = match inside.strip_suffix(b"+") {
        Some(digits) => (digits, false),
        None => (inside, true),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Ok(None);
    }
    let before = &text[..open];
    let is_apart = before.is_empty() || b" ([~".contains(&before[before.len() - 1]);
    let number = digits.iter().skip_while(|digit| **digit == b'0');
    let number: String = number.map(|digit| char::from(*digit)).collect();
    let number = match number.len() {
        0 => Some(0),
        1..20 => number.parse::<u64>().ok().filter(|n| *n <= i64::MAX as u64),
        _ => None,
    };
    match number {
        Some(bytes) if has_cr && is_apart && !is_quoted(before) => {
            Ok(Some(Literal { bytes, waits }))
        }
        _ => Err(Doubt),
    }
}

/// Does a quoted string stand open behind this?
fn is_quoted(text: &[u8]) -> bool {
    let Some(open) = text.iter().position(|byte| *byte == b'"') else {
        return false;
    };
    match closing(&text[open + 1..]) {
        Some(close) => is_quoted(&text[open + 1 + close + 1..]),
        None => true,
    }
}

/// Where the quote is that is not escaped.
fn closing(text: &[u8]) -> Option<usize> {
    let is_escape = |at: usize| {
        let slashes = text[..at].iter().rev().take_while(|byte| **byte == b'\\');
        slashes.count() % 2 == 1
    };
    (0..text.len()).find(|&at| text[at] == b'"' && !is_escape(at))
}

fn words(text: &[u8]) {
    let mut rest = text;
    let mut tokens = Tokens(text);
    loop {
        while let Some(more) = [&b" "[..], b"\r", b"\n"]
            .iter()
            .find_map(|s| rest.strip_prefix(*s))
        {
            rest = more;
        }
        let token = tokens.next();
        let Some(first) = rest.first() else {
            return assert_eq!(token, None);
        };
        match first {
            b'(' | b')' => {
                let expected = if *first == b'(' {
                    Token::Open
                } else {
                    Token::Close
                };
                assert_eq!(token, Some(expected));
                rest = &rest[1..];
            }
            b'"' => match closing(&rest[1..]) {
                Some(close) => {
                    let text = unescaped(&rest[1..=close]);
                    assert_eq!(token, Some(Token::Quoted(text.into())));
                    rest = &rest[close + 2..];
                }
                None => {
                    assert_eq!(token, Some(Token::Broken));
                    return assert_eq!(tokens.next(), None);
                }
            },
            _ => {
                let end = rest.iter().position(|byte| b" ()\"\r\n".contains(byte));
                let (atom, behind) = rest.split_at(end.unwrap_or(rest.len()));
                assert_eq!(token, Some(Token::Atom(atom)));
                rest = behind;
            }
        }
    }
}

fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = text.iter();
    let mut out = Vec::new();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => out.extend(bytes.next()),
            _ => out.push(byte),
        }
    }
    out
}
