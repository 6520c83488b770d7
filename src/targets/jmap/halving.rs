//! One bad item must not fail its batch mates: what fails as a whole is halved until it stands alone.

use super::verdict::{Refusal, Verdict};

/// Chunks of a batch still to be sent.
pub(super) struct Halving<T> {
    chunks: Vec<Vec<T>>,
    /// Requests that halving may still cost; beyond, the fault is taken for the server's.
    budget: u32,
}

impl<T> Halving<T> {
    /// Every bad item among `n` costs about `2 log2 n` requests.
    pub(super) fn new(chunks: Vec<Vec<T>>) -> Self {
        Self { chunks, budget: 48 }
    }

    pub(super) fn next(&mut self) -> Option<Vec<T>> {
        self.chunks.pop()
    }

    /// A chunk failed as a whole: it is halved, or handed back to be given up. Where the fault is the server's, what was
    /// not sent yet is given up with it.
    pub(super) fn failed(&mut self, mut chunk: Vec<T>, mut refusal: Refusal) -> Vec<(T, Refusal)> {
        let divisible = matches!(refusal.verdict, Verdict::Failed | Verdict::TooLarge);
        if divisible && chunk.len() > 1 {
            if self.budget >= 2 {
                self.budget -= 2;
                let half = chunk.split_off(chunk.len() / 2);
                self.chunks.extend([chunk, half]);
                return Vec::new();
            }
            refusal.verdict = Verdict::Unavailable;
        }
        if refusal.is_of_target() {
            chunk.extend(self.chunks.drain(..).flatten());
        }
        chunk
            .into_iter()
            .map(|item| (item, refusal.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends chunks to a server that fails whenever `bad` is among them; answers (passed, given up, requests).
    fn run(count: u32, bad: impl Fn(u32) -> bool) -> (usize, Vec<(u32, Verdict)>, u32) {
        let mut halving = Halving::new(vec![(0..count).collect::<Vec<_>>()]);
        let (mut passed, mut given_up, mut requests) = (0, vec![], 0);
        while let Some(chunk) = halving.next() {
            requests += 1;
            if !chunk.iter().any(|i| bad(*i)) {
                passed += chunk.len();
            } else {
                let refusal = Refusal::new(Verdict::Failed, "");
                let items = halving.failed(chunk, refusal).into_iter();
                given_up.extend(items.map(|(item, refusal)| (item, refusal.verdict)));
            }
        }
        (passed, given_up, requests)
    }

    #[test]
    fn one_poison_message_among_a_thousand_is_found_and_the_others_pass() {
        let (passed, given_up, requests) = run(1000, |i| i == 637);
        assert_eq!((passed, given_up), (999, vec![(637, Verdict::Failed)]));
        assert!(requests <= 21, "{requests} requests");
    }

    #[test]
    fn a_server_that_fails_on_everything_is_not_asked_for_ever() {
        let (passed, given_up, requests) = run(1000, |_| true);
        assert_eq!((passed, given_up.len()), (0, 1000));
        assert!(requests <= 49, "{requests} requests");
        let unavailable = given_up.iter().filter(|g| g.1 == Verdict::Unavailable);
        assert!(unavailable.count() > 900);
    }
}
