//! What holds for every milter connection: the copy is the message, whatever was offered; each event that awaits an answer
//! gets one, and no other does; the chunking of the bytes changes nothing; no bytes make it panic.

use mailtee::wire::milter::{Mta, Offer, Reply, fuzz, protocol::LEADING_SPACE};
use proptest::prelude::*;

/// A message in the pieces in which a mail server tells it.
#[derive(Clone, Debug)]
struct Told {
    /// Name and value, its lines ended by LF.
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    piece: usize,
    /// The last piece comes with the end.
    with_end: bool,
    given_up: bool,
}

impl Told {
    /// True for each event that awaits an answer.
    fn say(&self, mta: &mut Mta) -> Vec<bool> {
        let mut due = vec![mta.mail(&[b"<a@b>", b"SIZE=1"]), mta.rcpt(&[b"<c@d>"])];
        due.push(mta.data());
        let headers = self.headers.iter();
        due.extend(headers.map(|(name, value)| mta.header(name, value)));
        due.push(mta.end_of_headers());
        let mut pieces: Vec<_> = self.body.chunks(self.piece).collect();
        let last = match self.with_end {
            true => pieces.pop().unwrap_or_default(),
            false => b"",
        };
        due.extend(pieces.into_iter().map(|piece| mta.body(piece)));
        if self.given_up {
            mta.abort();
        } else {
            due.push(mta.end_of_body(last));
        }
        due
    }

    /// The header block, the empty line, the body.
    fn bytes(&self, spaced: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name);
            bytes.push(b':');
            if !spaced && !value.starts_with(b" ") {
                bytes.push(b' ');
            }
            bytes.extend(
                value
                    .split(|&byte| byte == b'\n')
                    .collect::<Vec<_>>()
                    .join(&b"\r\n"[..]),
            );
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

fn header() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let line = prop::collection::vec(any::<u8>(), 0..60).prop_map(|bytes| {
        let bytes = bytes.into_iter();
        bytes.filter(|byte| !b"\0\r\n".contains(byte)).collect()
    });
    let value = prop::collection::vec((prop::sample::select(vec![" ", "\t", "  "]), line), 1..4);
    ("[!-9;-~]{1,20}", value, any::<bool>()).prop_map(|(name, lines, is_tight)| {
        let folded = lines
            .into_iter()
            .map(|(space, line): (_, Vec<u8>)| [space.as_bytes(), &line].concat());
        let value = folded.collect::<Vec<_>>().join(&b'\n');
        let value = value[usize::from(is_tight)..].to_vec();
        (name.into_bytes(), value)
    })
}

fn told() -> impl Strategy<Value = Told> {
    let headers = prop::collection::vec(header(), 0..6);
    let body = prop::collection::vec(any::<u8>(), 0..400);
    (headers, body, 1usize..200, any::<bool>(), any::<bool>()).prop_map(
        |(headers, body, piece, with_end, given_up)| Told {
            headers,
            body,
            piece,
            with_end,
            given_up,
        },
    )
}

fn offer() -> impl Strategy<Value = Offer> {
    (2u32..10, any::<u32>(), any::<u32>()).prop_map(|(version, actions, protocol)| Offer {
        version,
        actions,
        protocol,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_copy_is_the_message(
        messages in prop::collection::vec(told(), 1..4),
        offer in offer(),
        step in 1usize..300,
    ) {
        let mut mta = Mta::new(offer);
        let mut said = std::mem::take(&mut mta.out);
        let chosen = fuzz::connection(&said, 1).replies;
        let chosen = mta.next(&mut chosen.as_slice());
        prop_assert!(matches!(chosen, Ok(Some(Reply::Negotiated { .. }))), "{chosen:?}");
        let mut due = vec![mta.connect("mx", ([192, 0, 2, 1], 25).into()), mta.helo(b"mx")];
        due.extend(messages.iter().flat_map(|told| told.say(&mut mta)));
        mta.quit();
        said.append(&mut mta.out);

        let outcome = fuzz::connection(&said, usize::MAX);
        let spaced = offer.protocol & LEADING_SPACE != 0;
        let whole = messages.iter().filter(|told| !told.given_up);
        let whole: Vec<_> = whole.map(|told| told.bytes(spaced)).collect();
        let copies: Vec<_> = outcome.copies.iter().map(|(copy, _)| copy.clone()).collect();
        prop_assert_eq!(copies, whole);
        prop_assert_eq!(&outcome.garbage, &None);

        let (mut heard, mut answers) = (outcome.replies.as_slice(), 0);
        let mut mta = Mta::new(offer);
        while let Some(reply) = mta.next(&mut heard).unwrap() {
            match reply {
                Reply::Negotiated { .. } => {}
                reply => {
                    prop_assert_eq!(reply, Reply::Continue);
                    answers += 1;
                }
            }
        }
        prop_assert_eq!(answers, due.into_iter().filter(|&is_due| is_due).count());
        for step in [1, 7, step] {
            prop_assert_eq!(&fuzz::connection(&said, step), &outcome);
        }
    }

    #[test]
    fn any_bytes(
        frames in prop::collection::vec(
            (0usize..40, prop::sample::select(b"ODCHMRTLNBEAUKQx".to_vec()), prop::collection::vec(any::<u8>(), 0..40)),
            0..30,
        ),
        offered in any::<bool>(),
        step in 1usize..50,
    ) {
        let mut said = if offered { Mta::new(Offer::default()).out } else { Vec::new() };
        for (length, command, payload) in frames {
            said.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
            said.push(command);
            said.extend_from_slice(&payload[..payload.len().min(length)]);
        }
        prop_assert_eq!(fuzz::connection(&said, step), fuzz::connection(&said, usize::MAX));
    }
}
