//! Entries for the fuzz target in `tests/fuzz/` and for the property tests.

use super::{Ended, Filter, Garbage, Rules, Step, Verdict};

/// What came of a connection whose every message was captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What the mail server heard.
    pub replies: Vec<u8>,
    /// Each message that was told to its end.
    pub copies: Vec<(Vec<u8>, Ended)>,
    /// Messages that were begun and given up.
    pub dropped: usize,
    /// Why it ended before its time.
    pub garbage: Option<Garbage>,
}

/// Lets a mail server say `input`, in pieces of `step` bytes.
pub fn connection(input: &[u8], step: usize) -> Outcome {
    let mut filter = Filter::new(Rules { recipients_max: 10 });
    let (mut outcome, mut copy) = (Outcome::default(), Vec::new());
    'connection: for mut piece in input.chunks(step.max(1)) {
        loop {
            match filter.next(&mut piece) {
                Ok(None) => break,
                Ok(Some(Step::Negotiated(_))) => {}
                Ok(Some(Step::Content(bytes))) => copy.extend_from_slice(bytes),
                Ok(Some(Step::Dropped)) => {
                    outcome.dropped += 1;
                    copy.clear();
                }
                Ok(Some(Step::End)) => {
                    let ended = filter.take_ended();
                    outcome.copies.push((std::mem::take(&mut copy), ended));
                    filter.answer(Verdict::Continue);
                }
                Ok(Some(Step::Quit)) => break 'connection,
                Err(garbage) => {
                    outcome.garbage = Some(garbage);
                    break 'connection;
                }
            }
        }
    }
    outcome.replies = std::mem::take(filter.out());
    outcome
}
