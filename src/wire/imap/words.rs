//! The words of a client's line, tag and verb and what is behind, for all that reads them.
//!
//! [`CommandLine`] is strict: RFC 9051 section 9 knows a tag, one space, a verb, and behind one more space what the verb is
//! about. It says what a command is. [`Words`] is forgiving: it takes what any server takes, and says where nobody can tell.
//! By it a line is held that may remove messages. Servers were asked what they carry out as EXPUNGE:
//!
//! | | Dovecot 2.3 | Cyrus 3.6 | Courier |
//! |---|---|---|---|
//! | between words, and before the tag | one space | one space | any run of spaces, tabs and CRs; none before a quote |
//! | the verb ends at | CR | NUL | NUL |
//! | the tag may be | as in the RFC | `+`, with a NUL | `+`, `a*`, with a NUL |
//! | the line ends at | LF | LF | LF |
//! | a literal may be tag or verb | no: its text is the next line | no | no |

use super::lexis::{is, split_word};

/// A whole line, as the RFC has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CommandLine<'a> {
    pub(super) tag: &'a [u8],
    pub(super) verb: &'a [u8],
    pub(super) arguments: &'a [u8],
}

impl<'a> CommandLine<'a> {
    /// `text` is without the line's end.
    pub(super) fn of(text: &'a [u8]) -> Self {
        let (tag, rest) = split_word(text);
        let (verb, arguments) = split_word(rest);
        Self {
            tag,
            verb,
            arguments,
        }
    }

    /// May the line that begins so have this verb?
    pub(super) fn may_become(begun: &[u8], verb: &str) -> bool {
        // A CR there may be of the line's end.
        let begun = begun.strip_suffix(b"\r").unwrap_or(begun);
        let line = CommandLine::of(begun);
        let is_whole = line.tag.len() + 1 + line.verb.len() < begun.len();
        match is_whole {
            true => is(line.verb, verb),
            false => {
                let start = verb.as_bytes().get(..line.verb.len());
                start.is_some_and(|start| start.eq_ignore_ascii_case(line.verb))
            }
        }
    }
}

/// May a command have it (RFC 9051 section 9)? A server answers one of another with no tag, or with what reads as another
/// response.
pub(super) fn is_tag(tag: &[u8]) -> bool {
    let fits = |byte: &u8| byte.is_ascii_graphic() && !b"+*(){%\"\\".contains(byte);
    !tag.is_empty() && tag.iter().all(fits)
}

/// A line, or its beginning: what is there of it.
pub(super) struct Words<I> {
    bytes: I,
    /// The line has ended: every further word is empty.
    is_over: bool,
}

/// What some server ends a word by.
const ENDING: &[u8] = b" \t\r\"()[]{}\\";

/// More than any word has that is looked for.
const COMPARED_BYTES_MAX: usize = 16;

/// A word, cut.
#[derive(Debug, Default)]
pub(super) struct Word {
    start: [u8; COMPARED_BYTES_MAX],
    length: usize,
    /// Its end was seen; else it may go on.
    pub(super) is_whole: bool,
    /// There is a control character in it: to some server it ends there, or has another one in it.
    pub(super) is_unclear: bool,
}

impl<I: Iterator<Item = u8>> Words<I> {
    pub(super) fn of(bytes: impl IntoIterator<IntoIter = I>) -> Self {
        Self {
            bytes: bytes.into_iter(),
            is_over: false,
        }
    }

    /// An empty one where there is none.
    pub(super) fn next(&mut self) -> Word {
        let mut word = Word::default();
        while !self.is_over {
            match self.bytes.next() {
                None => return word,
                Some(b'\n') => self.is_over = true,
                Some(byte) if ENDING.contains(&byte) && word.length == 0 => {}
                Some(byte) if ENDING.contains(&byte) => break,
                Some(byte) => {
                    if let Some(place) = word.start.get_mut(word.length) {
                        *place = byte;
                    }
                    word.length += 1;
                    word.is_unclear |= byte.is_ascii_control();
                }
            }
        }
        word.is_whole = true;
        word
    }
}

impl Word {
    pub(super) fn is(&self, name: &str) -> bool {
        let start = self.start.get(..self.length);
        start.is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strictly_a_space_is_between_words_and_nothing_else() {
        for (text, tag, verb, arguments) in [
            ("a", "a", "", ""),
            ("a NOOP", "a", "NOOP", ""),
            ("a UID FETCH 1 x", "a", "UID", "FETCH 1 x"),
            ("a  NOOP", "a", "", "NOOP"),
            ("a\tNOOP x", "a\tNOOP", "x", ""),
            ("a NO\rOP x", "a", "NO\rOP", "x"),
            (" a NOOP", "", "a", "NOOP"),
        ] {
            let [tag, verb, arguments] = [tag, verb, arguments].map(str::as_bytes);
            let expected = CommandLine {
                tag,
                verb,
                arguments,
            };
            assert_eq!(CommandLine::of(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_tag_is_what_no_server_reads_as_something_else() {
        for tag in ["a", "A0001", "a.b", "x-1", "[", "]", "a/b'c"] {
            assert!(is_tag(tag.as_bytes()), "{tag}");
        }
        for none in [
            "", "+", "*", "a*", "a(", "{1}", "a\0", "a\r", "\u{e4}", "\"a\"",
        ] {
            assert!(!is_tag(none.as_bytes()), "{none:?}");
        }
    }

    #[test]
    fn forgivingly_words_are_apart_however_they_are() {
        for line in [
            "a NOOP x",
            "a  NOOP\tx",
            "\t a\rNOOP\rx\r\n",
            "\ra \r\tnoop\n",
        ] {
            let mut words = Words::of(line.bytes());
            let (tag, verb) = (words.next(), words.next());
            assert!(tag.is("A") && verb.is("NOOP"), "{line:?}: {tag:?} {verb:?}");
            assert!(tag.is_whole && verb.is_whole && !verb.is_unclear);
        }
    }

    #[test]
    fn what_is_not_there_yet_may_be_anything_that_begins_so() {
        for (begun, yes, no) in [
            ("a", Some("NOOP"), None),
            ("a ", Some("NOOP"), None),
            ("a no", Some("NOOP"), Some("LIST")),
            ("a NOOP", Some("NOOP"), Some("NO")),
            ("a NO\r", Some("NO"), Some("LIST")),
            ("a NO\rx", None, Some("NO")),
            ("a NO ", Some("NO"), Some("NOOP")),
            ("a  NO", None, Some("NO")),
            ("a\rb NO", Some("NO"), Some("b")),
        ] {
            let may_be = |verb| CommandLine::may_become(begun.as_bytes(), verb);
            assert!(yes.is_none_or(may_be), "{begun:?}");
            assert!(!no.is_some_and(may_be), "{begun:?}");
        }
        let mut words = Words::of("a UID".bytes());
        assert!(words.next().is_whole && !words.next().is_whole);
    }

    #[test]
    fn a_control_character_leaves_a_word_unclear() {
        for (line, unclear) in [
            ("a EXPUNGE\0x", [false, true]),
            ("\0a EXPUNGE", [true, false]),
            ("a\0b EXPUNGE", [true, false]),
            ("a EXP\x7fUNGE", [false, true]),
            ("a EXPUNGE \0", [false, false]),
        ] {
            let mut words = Words::of(line.bytes());
            let found = [words.next().is_unclear, words.next().is_unclear];
            assert_eq!(found, unclear, "{line:?}");
        }
    }
}
