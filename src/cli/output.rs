//! Standard output: listings as aligned text or JSON lines, and bytes as they are. Every write is checked: a reader that
//! went away is an error that [`super::main`] knows.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Aligned columns for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A row of a listing.
pub(super) trait Row: Serialize {
    const HEADINGS: &'static [&'static str];
    fn cells(&self) -> Vec<String>;
}

/// Prints rows; as text with a head line and columns as wide as their widest cell.
pub(super) fn rows<R: Row>(format: Format, rows: &[R]) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match format {
        Format::Json => {
            for row in rows {
                serde_json::to_writer(&mut out, row)?;
                out.write_all(b"\n")?;
            }
        }
        Format::Text => out.write_all(aligned(R::HEADINGS, rows).as_bytes())?,
    }
    out.flush()
}

pub(super) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
}

pub(super) fn raw(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Text of others for a terminal: neither control characters nor what turns the direction of writing around reach it.
pub(super) fn printable(text: &str) -> String {
    let turns = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars()
        .filter(|c| !c.is_control() && !turns(*c))
        .collect()
}

/// A file that is made at the first byte, or at the flush that ends it: an id that names nothing leaves alone what lay
/// there before.
pub(super) struct LateFile {
    path: PathBuf,
    file: Option<io::BufWriter<File>>,
}

impl LateFile {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: None,
        }
    }

    fn file(&mut self) -> io::Result<&mut io::BufWriter<File>> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let named = |error: io::Error| {
                    let path = self.path.display();
                    io::Error::new(error.kind(), format!("{path}: {error}"))
                };
                io::BufWriter::new(File::create(&self.path).map_err(named)?)
            }
        };
        Ok(self.file.insert(file))
    }
}

impl Write for LateFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file()?.flush()
    }
}

fn aligned<R: Row>(headings: &[&str], rows: &[R]) -> String {
    let head: Vec<String> = headings.iter().map(|text| text.to_string()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(head)
        .chain(rows.iter().map(Row::cells))
        .collect();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let padded: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Named(&'static str, u32);

    impl Row for Named {
        const HEADINGS: &'static [&'static str] = &["NAME", "COUNT"];
        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned(), self.1.to_string()]
        }
    }

    #[test]
    fn a_file_is_only_replaced_when_there_is_something_to_put_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("message.eml");
        std::fs::write(&path, "old").unwrap();
        drop(LateFile::new(&path));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        // An empty message is a message.
        LateFile::new(&path).flush().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
        let mut file = LateFile::new(&path);
        file.write_all(b"ne").unwrap();
        file.write_all(b"w").unwrap();
        file.flush().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn no_message_moves_the_cursor_or_turns_a_line_around() {
        let text = "\u{1b}[2J\u{7}gr\u{fc}\u{df}e \u{202e}fdp.exe\u{2069}\r\n";
        assert_eq!(printable(text), "[2Jgr\u{fc}\u{df}e fdp.exe");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = aligned(Named::HEADINGS, &[Named("größer", 1), Named("x", 22)]);
        assert_eq!(text, "NAME    COUNT\ngrößer  1\nx       22\n");
    }
}
