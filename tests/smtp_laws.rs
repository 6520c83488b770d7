//! What holds for every session: the next hop gets what was sent, the copy is the message or there is none, and the
//! chunking of the bytes changes nothing.

use std::sync::Arc;

use mailtee::{
    message::Client,
    wire::smtp::{Dialect, Relay, Role, Rules, TellClient, fuzz},
};
use proptest::prelude::*;

/// A message as a client has it: lines with CRLF, dots at their start now and then.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        3 => "[ -~]{0,80}".prop_map(String::into_bytes),
        1 => "[.]{1,3}[a.]{0,3}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..200)
            .prop_map(|bytes| bytes.into_iter().filter(|b| !b"\r\n".contains(b)).collect()),
    ];
    prop::collection::vec(line, 0..20).prop_map(|lines| {
        lines
            .into_iter()
            .flat_map(|mut line| {
                line.extend_from_slice(b"\r\n");
                line
            })
            .collect()
    })
}

/// Dot-stuffing as the RFC has it, line by line (RFC 5321 section 4.5.2).
fn stuff(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in message.split_inclusive(|b| *b == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b".\r\n");
    out
}

/// A session that sends each message, by DATA or in chunks of a size.
fn client(messages: &[(Vec<u8>, Option<usize>)]) -> Vec<u8> {
    let mut out = b"EHLO c\r\n".to_vec();
    for (message, chunk) in messages {
        out.extend_from_slice(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n");
        let Some(size) = chunk else {
            out.extend_from_slice(b"DATA\r\n");
            out.extend(stuff(message));
            continue;
        };
        for piece in message.chunks(*size) {
            out.extend_from_slice(format!("BDAT {}\r\n", piece.len()).as_bytes());
            out.extend_from_slice(piece);
        }
        out.extend_from_slice(b"BDAT 0 LAST\r\n");
    }
    out.extend_from_slice(b"QUIT\r\n");
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn relayed_is_sent_and_copied(
        messages in prop::collection::vec((message(), prop::option::of(1usize..300)), 1..4),
        step in 1usize..200,
        proxy in any::<bool>(),
    ) {
        let role = if proxy { Role::Proxy } else { Role::Filter };
        let sent: Vec<_> = messages.iter().map(|(message, _)| message.clone()).collect();
        let outcome = fuzz::session(role, &client(&messages), step);
        prop_assert_eq!(&outcome.copies, &sent);
        prop_assert_eq!(&outcome.taken, &sent);
        prop_assert!(outcome.replies.ends_with(b"221 2.0.0 Bye\r\n"));
    }

    /// Content full of false ends: whatever is in it, no second message comes of it.
    #[test]
    fn nothing_is_smuggled(content in "[\r\n.a]{0,40}", step in 1usize..9, proxy in any::<bool>()) {
        let role = if proxy { Role::Proxy } else { Role::Filter };
        let before_end = content.split("\r\n.\r\n").next().unwrap_or_default();
        let before_end = before_end.strip_prefix(".\r\n").map_or(before_end, |_| "");
        let input = format!("EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n{content}\r\n.\r\n");
        let outcome = fuzz::session(role, input.as_bytes(), step);
        prop_assert!(outcome.taken.len() <= 1);
        prop_assert_eq!(&outcome.copies, &outcome.taken);
        let bare = before_end.replace("\r\n", "").contains(['\r', '\n']);
        if bare && proxy {
            prop_assert_eq!(outcome.taken.len(), 0);
        }
        let taken = String::from_utf8(outcome.taken.concat()).unwrap();
        prop_assert!(!taken.replace("\r\n", "").contains(['\r', '\n']));
    }

    #[test]
    fn any_commands(input in prop::collection::vec(
        prop_oneof![
            Just("EHLO c\r\n"), Just("MAIL FROM:<a@b>\r\n"), Just("RCPT TO:<c@d>\r\n"), Just("DATA\r\n"),
            Just("BDAT 4\r\n"), Just("BDAT 3 LAST\r\n"), Just("BDAT 0 LAST\r\n"), Just("RSET\r\n"), Just("QUIT\r\n"),
            Just("a\r\n"), Just(".\r\n"), Just("\n"), Just("XFORWARD ADDR=1.2.3.4\r\n"), Just("XCLIENT ADDR=1.2.3.4\r\n"),
            Just("AUTH PLAIN\r\n"), Just("STARTTLS\r\n"), Just("HELO c\r\n"), Just("BDAT x\r\n"), Just("MAIL FROM:<a@b> BODY=BINARYMIME\r\n"),
        ], 0..25), step in 1usize..20) {
        fuzz::check(Role::Proxy, input.concat().as_bytes(), step);
        fuzz::check(Role::Filter, input.concat().as_bytes(), step);
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz::command(&bytes);
        fuzz::data(&bytes);
        fuzz::bdat(&bytes);
    }
}

/// A relay of the default limits, greeted.
fn greeted() -> Relay {
    let rules = Rules {
        dialect: Dialect::Smtp,
        role: Role::Proxy,
        hostname: "tee.example".to_owned(),
        hold_end: true,
        starttls: false,
        upstream_starttls: false,
        keep_upstream: false,
        tell_client: TellClient::No,
        line_bytes_max: 64 << 10,
        recipients_max: 50_000,
        message_bytes_max: 0,
    };
    let mut relay = Relay::new(Arc::new(rules), Client::default(), false, false);
    relay.receive_upstream(b"220 next\r\n");
    relay
}

/// A next hop that reads and never answers: the client is not read for ever.
#[test]
fn the_queue_of_awaited_replies_is_bounded() {
    let mut relay = greeted();
    let commands = b"NOOP\r\n".repeat(100_000);
    let mut at = relay.receive_client(&commands);
    assert!(at <= 6 * 1000, "{at} bytes of commands await replies");
    while at < commands.len() {
        relay.receive_upstream(b"250 ok\r\n");
        let taken = relay.receive_client(&commands[at..]);
        assert!(taken > 0, "a reply makes room");
        at += taken;
    }
}

/// Each with the longest line and the longest refusal, and MAIL again and again between them.
#[test]
fn refused_recipients_are_kept_within_bounds() {
    let mut relay = greeted();
    let line = format!("RCPT TO:<{}>\r\n", "x".repeat(60_000));
    let refusal = format!("550 {}\r\n", "y".repeat(60_000));
    relay.receive_client(b"MAIL FROM:<a@b>\r\n");
    relay.receive_upstream(b"250 ok\r\n");
    let mut kept = 0;
    for _ in 0..1000 {
        relay.receive_client(line.as_bytes());
        if relay
            .to_client
            .ends_with(b"452 4.5.3 Too many recipients\r\n")
        {
            break;
        }
        relay.receive_upstream(refusal.as_bytes());
        kept += line.len();
        relay.receive_client(b"MAIL FROM:<a@b>\r\n");
        relay.receive_upstream(b"503 nested\r\n");
        relay.to_client.clear();
        relay.to_upstream.clear();
    }
    assert!(kept <= 16 << 20, "{kept} bytes of recipients are held");
    let envelope = relay.take_ended().envelope;
    let refused = envelope.recipients.iter();
    let refused = refused.filter_map(|recipient| recipient.refused.as_ref());
    assert!(refused.clone().count() > 100);
    assert!(refused.clone().all(|text| text.to_string().len() <= 512));
}
