//! What one direction writes: stretches of the buffer that was read into, lines of the watcher's, or, where another server
//! is wanted, what that one is to hear first.

use super::{
    leg::Leg,
    splice::{End, Side, Turn},
};
use crate::wire::sasl::extend;

/// The way on: to the other leg, or, once another server is wanted, into what that one is to hear first.
pub(super) struct Onward<'a> {
    side: Side,
    to: &'a Leg,
    stretch: Stretch<'a>,
    turn: Option<Turn>,
}

impl<'a> Onward<'a> {
    pub(super) fn new(side: Side, buffer: &'a [u8], to: &'a Leg) -> Self {
        Self {
            side,
            to,
            stretch: Stretch::new(buffer),
            turn: None,
        }
    }

    pub(super) async fn pass(&mut self, bytes: &[u8]) -> Result<(), End> {
        if let Some(Turn::Switch { then, .. }) = &mut self.turn {
            extend(then, bytes);
            return Ok(());
        }
        if self.stretch.extend(bytes).is_none() {
            self.flush().await?;
            if self.stretch.extend(bytes).is_none() {
                return self.write(bytes).await;
            }
        }
        Ok(())
    }

    pub(super) async fn say(&mut self, line: &[u8]) -> Result<(), End> {
        if let Some(Turn::Switch { then, .. }) = &mut self.turn {
            extend(then, line);
            return Ok(());
        }
        self.flush().await?;
        self.write(line).await
    }

    pub(super) async fn flush(&mut self) -> Result<(), End> {
        match self.stretch.take() {
            b"" => Ok(()),
            bytes => self.write(bytes).await,
        }
    }

    async fn write(&self, bytes: &[u8]) -> Result<(), End> {
        let hearer = match self.side {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        };
        let written = self.to.write(bytes).await;
        written.map_err(|error| End::Lost(hearer, error))
    }

    pub(super) fn turn(&mut self, turn: Turn) {
        self.turn = Some(match self.turn {
            None => turn,
            Some(_) => Turn::End(End::Confused),
        });
    }

    pub(super) async fn finish(&mut self) -> Result<Option<Turn>, End> {
        self.flush().await?;
        Ok(self.turn.take())
    }
}

/// Bytes to be written, as a stretch of the buffer that they lie in: what is shown piece by piece goes in one write.
struct Stretch<'a> {
    buffer: &'a [u8],
    from: usize,
    to: usize,
}

impl<'a> Stretch<'a> {
    fn new(buffer: &'a [u8]) -> Self {
        Self {
            buffer,
            from: 0,
            to: 0,
        }
    }

    /// Adds what follows; none: it lies elsewhere, and what there is must be written first.
    fn extend(&mut self, bytes: &[u8]) -> Option<()> {
        let at = (bytes.as_ptr() as usize).checked_sub(self.buffer.as_ptr() as usize)?;
        if self.from == self.to {
            (self.from, self.to) = (at, at);
        }
        let fits = self.to == at && at + bytes.len() <= self.buffer.len();
        fits.then(|| self.to = at + bytes.len())
    }

    fn take(&mut self) -> &'a [u8] {
        let bytes = &self.buffer[self.from..self.to];
        self.from = self.to;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_that_lie_together_are_one_stretch() {
        let buffer = b"0123456789".as_slice();
        let mut stretch = Stretch::new(buffer);
        assert_eq!(stretch.extend(&buffer[2..4]), Some(()));
        assert_eq!(stretch.extend(&buffer[4..9]), Some(()));
        assert_eq!(stretch.extend(&buffer[1..2]), None, "it lies before");
        assert_eq!(stretch.extend(b"elsewhere"), None);
        assert_eq!(stretch.take(), b"2345678");
        assert_eq!(stretch.take(), b"");
        assert_eq!(stretch.extend(&buffer[1..2]), Some(()));
        assert_eq!(stretch.take(), b"1");
    }
}
