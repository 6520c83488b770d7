//! Standard output: listings as aligned text or JSON lines, and bytes as they are. Every write is checked: a reader that
//! went away is an error that [`super::main`] knows.

use std::io::{self, Write};

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
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = aligned(Named::HEADINGS, &[Named("größer", 1), Named("x", 22)]);
        assert_eq!(text, "NAME    COUNT\ngrößer  1\nx       22\n");
    }
}
