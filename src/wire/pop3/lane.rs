//! One direction of a session: what of it has been looked at, what is held back, and the steps that are due before it.

use std::{borrow::Cow, collections::VecDeque, mem};

use crate::wire::{
    sasl::{extend, overwrite},
    watch::Step,
};

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// So much of the input has been looked at; it is handed on before anything behind it is.
    pub(super) seen: usize,
    /// Taken and not yet handed on: the beginning of a line that must be whole first. Then `seen` is 0.
    pub(super) held: Vec<u8>,
    pub(super) steps: VecDeque<Step<'static>>,
}

/// Where a line ends that is to be whole.
pub(super) enum LineEnd {
    /// So much of what is unseen belongs to it.
    At(usize),
    Awaited,
    TooLong,
}

/// How far a look at some input came.
pub(super) enum Heard<'a> {
    /// Steps are due, or there is more to look at.
    More,
    Step(Step<'a>),
    Wait,
}

impl<'a> From<Option<Step<'a>>> for Heard<'a> {
    fn from(step: Option<Step<'a>>) -> Self {
        step.map_or(Self::Wait, Self::Step)
    }
}

impl Lane {
    /// Hands on what has been seen.
    pub(super) fn pass<'a>(&mut self, input: &mut &'a [u8]) -> Option<Step<'a>> {
        let (seen, rest) = input.split_at(mem::take(&mut self.seen));
        *input = rest;
        (!seen.is_empty()).then_some(Step::Pass(seen))
    }

    /// Takes the whole input without handing it on; first goes what is before it.
    pub(super) fn hold<'a>(&mut self, input: &mut &'a [u8]) -> Option<Step<'a>> {
        let passed = self.pass(input);
        if passed.is_none() {
            extend(&mut self.held, mem::take(input));
        }
        passed
    }

    /// Forgets what was added to the first so many bytes that are held.
    pub(super) fn hold_only(&mut self, count: usize) {
        overwrite(&mut self.held[count..]);
        self.held.truncate(count);
    }

    /// Hands on what was held.
    pub(super) fn release(&mut self) -> Option<Step<'static>> {
        (!self.held.is_empty()).then(|| Step::Say(mem::take(&mut self.held)))
    }

    /// How far the line reaches that begins with what is held, or else with what is unseen.
    pub(super) fn line_end(&self, input: &[u8], bytes_max: usize) -> LineEnd {
        let unseen = &input[self.seen..];
        let end = memchr::memchr(b'\n', unseen).map(|lf| lf + 1);
        let length = self.held.len() + end.unwrap_or(unseen.len());
        match end {
            _ if length > bytes_max => LineEnd::TooLong,
            Some(end) => LineEnd::At(end),
            None => LineEnd::Awaited,
        }
    }

    /// Hands on everything.
    pub(super) fn blindly<'a>(&mut self, input: &mut &'a [u8]) -> Option<Step<'a>> {
        if let Some(held) = self.release() {
            return Some(held);
        }
        self.seen = input.len();
        self.pass(input)
    }

    pub(super) fn line<'a>(&self, input: &&'a [u8], end: usize) -> Cow<'a, [u8]> {
        let piece = &input[self.seen..self.seen + end];
        match self.held.as_slice() {
            [] => piece.into(),
            held => [held, piece].concat().into(),
        }
    }

    /// Hands on a whole line, or what it was edited to. All that was seen before an edited one has been handed on.
    pub(super) fn say<'a>(
        &mut self,
        input: &mut &'a [u8],
        end: usize,
        line: Cow<'a, [u8]>,
        edited: Option<Vec<u8>>,
    ) -> Heard<'a> {
        if edited.is_none() && self.held.is_empty() {
            self.seen += end;
            return Heard::More;
        }
        *input = &input[end..];
        self.held = Vec::new();
        match edited.unwrap_or_else(|| line.into_owned()) {
            line if line.is_empty() => Heard::More,
            line => Heard::Step(Step::Say(line)),
        }
    }
}

impl Drop for Lane {
    /// It may be half of a login.
    fn drop(&mut self) {
        overwrite(&mut self.held);
    }
}
