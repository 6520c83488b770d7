//! The walker over a parsed TOML document: typed readers that note every fault and go on.
//!
//! serde stops at the first error, and an operator would mend a file one error a restart. So the document is parsed into
//! spanned values, each stage's reader asks a [`Section`] for its keys, and what does not fit is noted with its line. A
//! key that nobody asked for is a fault too: [`Section::finish`] finds it.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{fault::Fault, setting::Setting};

/// What all sections of one file share.
pub(super) struct Document<'a> {
    source: &'a str,
    /// Relative paths start here: the folder of the configuration file.
    folder: &'a Path,
    environment: &'a dyn Fn(&str) -> Option<String>,
    faults: RefCell<Vec<Fault>>,
    /// Every key that was asked for: the schema, as the code has it.
    asked: RefCell<BTreeSet<String>>,
}

impl<'a> Document<'a> {
    pub(super) fn new(
        source: &'a str,
        folder: &'a Path,
        environment: &'a dyn Fn(&str) -> Option<String>,
    ) -> Self {
        Self {
            source,
            folder,
            environment,
            faults: RefCell::default(),
            asked: RefCell::default(),
        }
    }

    pub(super) fn note(&self, at: Range<usize>, key: String, found: String, expected: String) {
        let before = &self.source.as_bytes()[..at.start.min(self.source.len())];
        self.faults.borrow_mut().push(Fault {
            line: 1 + memchr::memchr_iter(b'\n', before).count(),
            key,
            found,
            expected,
        });
    }

    /// Reads something whose faults and keys are not the file's yet: gives them with what was read.
    pub(super) fn apart<T>(&self, read: impl FnOnce() -> T) -> (T, Vec<Fault>, BTreeSet<String>) {
        let faults = self.faults.take();
        let asked = self.asked.take();
        let value = read();
        (
            value,
            self.faults.replace(faults),
            self.asked.replace(asked),
        )
    }

    pub(super) fn note_again(&self, fault: Fault) {
        self.faults.borrow_mut().push(fault);
    }

    pub(super) fn knows(&self, keys: &BTreeSet<String>) {
        self.asked.borrow_mut().extend(keys.iter().cloned());
    }

    pub(super) fn into_faults(self) -> (Vec<Fault>, BTreeSet<String>) {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|fault| fault.line);
        (faults, self.asked.into_inner())
    }

    /// The value as it stands in the file, short enough for one line.
    fn quote(&self, at: Range<usize>) -> String {
        let text = self.source.get(at).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let mut short: String = line.chars().take(60).collect();
        if short.len() < text.len() {
            short.push('…');
        }
        short
    }
}

/// One table of the file, present or not. A clone is another reading of the same table.
#[derive(Clone)]
pub(super) struct Section<'d> {
    pub(super) document: &'d Document<'d>,
    /// `frontend`; empty for the top.
    name: String,
    table: Option<&'d DeTable<'d>>,
    at: Range<usize>,
    asked: BTreeSet<&'static str>,
}

impl<'d> Section<'d> {
    pub(super) fn top(document: &'d Document<'d>, table: &'d Spanned<DeTable<'d>>) -> Self {
        Self {
            document,
            name: String::new(),
            table: Some(table.get_ref()),
            at: 0..0,
            asked: BTreeSet::new(),
        }
    }

    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// The text under `key`, unchecked: to compare sections with each other.
    pub(super) fn text(&self, key: &str) -> Option<&'d str> {
        self.table?.get(key)?.get_ref().as_str()
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    fn ask(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.asked.insert(key);
        let path = self.path_of(key);
        self.document.asked.borrow_mut().insert(path);
        self.table?.get(key)
    }

    /// The key's value; `None` where it is absent, or wrong and noted.
    pub(super) fn optional<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        let value = self.ask(key)?;
        T::read(value, &mut |at, expected| {
            let found = self.document.quote(at.clone());
            self.document.note(at, self.path_of(key), found, expected);
        })
    }

    pub(super) fn or<T: Setting>(&mut self, key: &'static str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// `None` only where a fault has been noted.
    pub(super) fn required<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        let value = self.optional(key);
        if !self.has(key) {
            self.missing(key, &T::expected());
        }
        value
    }

    /// A word out of a list.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&'static str, T)],
    ) -> Option<T> {
        let value = self.ask(key)?;
        let word = value.get_ref().as_str().unwrap_or_default();
        let found = words.iter().find(|(name, _)| *name == word);
        if found.is_none() {
            let names: Vec<String> = words
                .iter()
                .map(|(name, _)| format!("\"{name}\""))
                .collect();
            self.complain(key, &names.join(" | "));
        }
        found.map(|(_, meaning)| *meaning)
    }

    /// A path; a relative one starts at the configuration file's folder. A leading `${NAME}` stands for an environment
    /// variable, as systemd's `${CREDENTIALS_DIRECTORY}`.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let given: String = self.optional(key)?;
        let variable = given
            .strip_prefix("${")
            .and_then(|rest| rest.split_once('}'));
        // An unset one stays as it is written: whoever opens the file names it so.
        let value = variable.and_then(|(name, rest)| {
            let value = (self.document.environment)(name)?;
            Some(PathBuf::from(value + rest))
        });
        Some(match value {
            Some(path) => path,
            None if variable.is_some() => given.into(),
            None => self.document.folder.join(given),
        })
    }

    /// The table under `key`: an empty section where there is none.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'d> {
        let value = self.ask(key);
        let table = value.and_then(|value| match value.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => {
                self.complain(key, &format!("a table: [{}]", self.path_of(key)));
                None
            }
        });
        self.inner(key, table, value)
    }

    /// The tables of the array under `key`.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'d>> {
        let Some(value) = self.ask(key) else {
            return Vec::new();
        };
        let DeValue::Array(items) = value.get_ref() else {
            self.complain(
                key,
                &format!("an array of tables: [[{}]]", self.path_of(key)),
            );
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items {
            match item.get_ref() {
                DeValue::Table(table) => sections.push(self.inner(key, Some(table), Some(item))),
                _ => self.complain(key, &format!("tables: [[{}]]", self.path_of(key))),
            }
        }
        sections
    }

    fn inner(
        &self,
        key: &str,
        table: Option<&'d DeTable<'d>>,
        value: Option<&'d Spanned<DeValue<'d>>>,
    ) -> Section<'d> {
        Section {
            document: self.document,
            name: self.path_of(key),
            table,
            at: value.map_or(self.at.clone(), Spanned::span),
            asked: BTreeSet::new(),
        }
    }

    /// Notes a fault in the value of `key`, or in the section where the key is absent.
    pub(super) fn complain(&self, key: &str, expected: &str) {
        match self.table.and_then(|table| table.get(key)) {
            Some(value) => {
                let found = self.document.quote(value.span());
                self.note(value.span(), key, found, expected);
            }
            None => self.missing(key, expected),
        }
    }

    pub(super) fn complain_of(&self, key: &str, found: &str, expected: &str) {
        let value = self.table.and_then(|table| table.get(key));
        let at = value.map_or(self.at.clone(), Spanned::span);
        self.note(at, key, found.to_owned(), expected);
    }

    fn missing(&self, key: &str, expected: &str) {
        self.note(self.at.clone(), key, "nothing".to_owned(), expected);
    }

    fn note(&self, at: Range<usize>, key: &str, found: String, expected: &str) {
        self.document
            .note(at, self.path_of(key), found, expected.to_owned());
    }

    /// Every key of the table must have been asked for.
    pub(super) fn finish(self) {
        let known: Vec<&str> = self.asked.iter().copied().collect();
        self.finish_with(&known);
    }

    /// The same, where the keys that exist are told.
    pub(super) fn finish_with(&self, known: &[&str]) {
        let Some(table) = self.table else { return };
        for key in table.keys() {
            if !known.contains(&key.get_ref().as_ref()) {
                self.note(
                    key.span(),
                    key.get_ref(),
                    "a key that does not exist".to_owned(),
                    &nearest(key.get_ref(), known),
                );
            }
        }
    }
}

/// The key that was probably meant, or all that there are.
fn nearest(key: &str, known: &[&str]) -> String {
    let close = known
        .iter()
        .map(|name| (distance(key, name), name))
        .filter(|(distance, name)| *distance <= name.len().max(key.len()) / 3)
        .min();
    match close {
        Some((_, name)) => format!("`{name}`?"),
        None => format!("one of {}", known.join(", ")),
    }
}

/// Levenshtein's distance: how many letters to add, drop or change.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
