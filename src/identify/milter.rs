//! A milter says nothing before its MTA has offered terms. We offer them, read its own, and leave.
//!
//! No connection of a client and no message is made up: to the milter it is an MTA that changed its mind.

use tokio::time::Instant;

use super::{dial::Dial, talk::Trouble};

/// What Postfix offers: version 6, every action, every protocol step. A milter that misses an action it needs would
/// complain in its log.
const OFFER: &[u8] = b"\x00\x00\x00\x0dO\x00\x00\x00\x06\x00\x00\x01\xff\x00\x1f\xff\xff";

const QUIT: &[u8] = b"\x00\x00\x00\x01Q";

/// What a milter wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) version: u32,
    pub(super) actions: u32,
    pub(super) protocol: u32,
}

pub(super) async fn negotiate(dial: &Dial, deadline: Instant) -> Result<Terms, Trouble> {
    let (mut talk, _) = dial.open(false, deadline).await?;
    talk.send(OFFER).await?;
    let head = talk.exactly(17).await?;
    let terms = read(&head).ok_or_else(|| Trouble::Broken("no milter's answer".to_owned()))?;
    talk.send(QUIT).await?;
    Ok(terms)
}

/// Length, `O`, version, actions, protocol; macro lists may follow.
fn read(frame: &[u8]) -> Option<Terms> {
    let word = |at: usize| {
        let bytes = frame.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    let terms = Terms {
        version: word(5)?,
        actions: word(9)?,
        protocol: word(13)?,
    };
    let is_milter = (13..=4096).contains(&word(0)?)
        && frame.get(4) == Some(&b'O')
        && (2..=6).contains(&terms.version);
    is_milter.then_some(terms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_milter_s_answer_is_told_from_other_bytes() {
        let terms = read(OFFER).expect("an offer looks as its answer does");
        assert_eq!((terms.version, terms.actions), (6, 0x1ff));
        assert_eq!(read(b"HTTP/1.1 400 Bad Request\r\n"), None);
        assert_eq!(read(b"\x00\x00\x00\x0dO\x00\x00\x00\x06"), None);
        assert_eq!(read(&[0; 17]), None);
    }
}
