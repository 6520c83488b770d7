//! What holds for every POP3 session: what one side says the other hears, but for the few lines that are ours; the copy is
//! the message; QUIT is not heard before the copies of all that was read are settled; the chunking of the bytes changes
//! nothing; no bytes make it panic.

use mailtee::wire::pop3::fuzz::{Outcome, Side, check};
use proptest::prelude::*;

/// A command and what the server says to it.
#[derive(Clone, Debug)]
struct Exchange {
    command: String,
    reply: Vec<u8>,
    /// The number and content of the message that it reads.
    copy: Option<(u32, Vec<u8>)>,
    /// A command that nobody knows: it is not said beside others.
    is_alone: bool,
}

impl Exchange {
    fn new(command: impl Into<String>, reply: impl Into<Vec<u8>>) -> Self {
        Self {
            command: command.into(),
            reply: reply.into(),
            copy: None,
            is_alone: false,
        }
    }
}

/// `content`, which ends a line, as it stands on the wire.
fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for (at, byte) in content.iter().enumerate() {
        let begins_line = at == 0 || content[..at].ends_with(b"\r\n");
        wire.extend((begins_line && *byte == b'.').then_some(b'.'));
        wire.push(*byte);
    }
    [&wire[..], b".\r\n"].concat()
}

/// Bytes among which dots and line ends are frequent; they end a line.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "\r\n", ".", "\r", "\n", "..", "\r\n.", "\n.\r\n", "+OK", "-ERR", "From: a",
    ];
    let piece = prop_oneof![
        prop::sample::select(pieces.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(piece, 0..20).prop_map(|pieces| [&pieces.concat()[..], b"\r\n"].concat())
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let list = |command: &'static str| {
        content().prop_map(move |content| {
            Exchange::new(command, [&b"+OK\r\n"[..], &stuffed(&content)].concat())
        })
    };
    let line = [
        ("NOOP", "+OK"),
        ("noop", "+OK 3 octets"),
        ("DELE 1", "+OK gone"),
        ("STAT", "+OK 0 0"),
        ("LIST 2", "+OK 2 200"),
        ("RETR 9", "-ERR no such message"),
        ("TOP 9 1", "-ERR"),
        ("UIDL", "-ERR not here"),
        ("CAPA", "-ERR"),
        ("LANG en", "+OK en"),
        ("RSET", "+OK"),
    ];
    let unknown = prop_oneof![list("XLIST"), Just(Exchange::new("XLINE", "+OK\r\n"))];
    prop_oneof![
        4 => (1u32..6, content(), any::<bool>(), any::<bool>()).prop_map(|(number, content, tells, is_top)| {
            let size = if tells { format!(" {} octets", content.len()) } else { String::new() };
            let command = if is_top { format!("TOP {number} 99999999") } else { format!("RETR {number}") };
            let reply = [format!("+OK{size}\r\n").as_bytes(), &stuffed(&content)].concat();
            Exchange {
                copy: Some((number, content)),
                ..Exchange::new(command, reply)
            }
        }),
        3 => prop::sample::select(line.to_vec())
            .prop_map(|(command, reply)| Exchange::new(command, format!("{reply}\r\n"))),
        1 => prop::sample::select(&["TOP 1 0", "LANG", "LIST", "CAPA"][..]).prop_flat_map(list),
        1 => unknown.prop_map(|exchange| Exchange { is_alone: true, ..exchange }),
    ]
}

/// Where QUIT begins in what the server heard last.
fn before_quit(outcome: &Outcome) -> usize {
    let before = outcome.to_server.strip_suffix(b"QUIT\r\n");
    before.expect("it ends with QUIT").len()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_copy_is_the_message_and_the_session_is_untouched(
        exchanges in prop::collection::vec(exchange(), 0..20),
        pipelined in 1usize..6,
        ids in prop::collection::vec("[!-~]{1,70}", 0..6),
        step in 1usize..300,
        quits_at_once in any::<bool>(),
    ) {
        let line = |side, line: &str| (side, format!("{line}\r\n").into_bytes());
        let mut said = vec![
            line(Side::Server, "+OK ready"),
            line(Side::Client, "USER anna"),
            line(Side::Server, "+OK"),
            line(Side::Client, "PASS secret"),
            line(Side::Server, "+OK"),
            line(Side::Client, "UIDL"),
        ];
        let mut list = b"+OK\r\n".to_vec();
        for (number, id) in (1..).zip(&ids) {
            list.extend_from_slice(format!("{number} {id}\r\n").as_bytes());
        }
        list.extend_from_slice(b".\r\n");
        said.push((Side::Server, list));
        let mut copies = Vec::new();
        for group in exchanges.chunk_by(|one, other| !one.is_alone && !other.is_alone) {
            for group in group.chunks(pipelined) {
                let commands = group.iter().map(|exchange| format!("{}\r\n", exchange.command));
                said.push((Side::Client, commands.collect::<String>().into_bytes()));
                let replies = group.iter().flat_map(|exchange| exchange.reply.clone());
                said.push((Side::Server, replies.collect()));
                copies.extend(group.iter().filter_map(|exchange| exchange.copy.clone()));
            }
        }
        // QUIT comes right behind the last commands.
        let last = (Side::Client, b"QUIT\r\n".to_vec());
        match said.iter().rposition(|(side, _)| *side == Side::Client) {
            Some(at) if quits_at_once => said[at].1.extend_from_slice(&last.1),
            _ => said.push(last),
        }
        said.push((Side::Client, Vec::new()));
        said.push(line(Side::Server, "+OK bye"));
        let copies: Vec<_> = copies
            .into_iter()
            .map(|(number, content)| (ids.get(number as usize - 1).cloned(), content))
            .collect();
        for step in [1, 7, step] {
            let outcome = check(&said, step);
            prop_assert_eq!(&outcome.copies, &copies);
            prop_assert!(outcome.kept.concat().is_empty());
            prop_assert!(outcome.replies.is_empty());
            prop_assert_eq!(&outcome.settled, &[(before_quit(&outcome), copies.len())]);
            prop_assert!(!outcome.told.iter().any(|told| told.starts_with("Lost")));
        }
    }

    #[test]
    fn any_bytes(
        turns in prop::collection::vec((any::<bool>(), prop::collection::vec(piece(), 0..12)), 0..12),
        step in 1usize..50,
    ) {
        let said: Vec<_> = turns
            .into_iter()
            .map(|(by_client, pieces)| {
                let side = if by_client { Side::Client } else { Side::Server };
                (side, pieces.concat())
            })
            .collect();
        check(&said, step);
    }
}

/// In whatever pieces and words it comes, and however much was asked for before it.
#[test]
fn quit_waits_for_all_that_was_read() {
    let client = |text: &str| (Side::Client, text.as_bytes().to_vec());
    let server = |text: &str| (Side::Server, text.as_bytes().to_vec());
    let begin = [
        server("+OK ready\r\n"),
        client("USER anna\r\n"),
        server("+OK\r\n"),
        client("PASS secret\r\n"),
        server("+OK\r\n"),
    ];
    let long = format!("QUIT {}\r\n", "x".repeat(8_000));
    for quit in ["QUIT\r\n", "quit \r\n", "QUIT\n", &long] {
        let pipelined = format!("RETR 1\r\nDELE 1\r\nTOP 2 99999999\r\nDELE 2\r\n{quit}");
        let told = [
            "+OK\r\none\r\n.\r\n+OK\r\n+OK\r\ntw",
            "o\r\n.\r\n",
            "+OK\r\n",
        ];
        for step in [1, 7, usize::MAX] {
            let mut said = begin.to_vec();
            said.push(client(&pipelined));
            for told in told {
                let outcome = check(&said, step);
                assert_eq!(outcome.settled, [], "{quit:?} by {step}");
                assert!(
                    outcome.to_server.ends_with(b"DELE 2\r\n"),
                    "{quit:?} by {step}"
                );
                said.extend([server(told), client("")]);
            }
            let outcome = check(&said, step);
            let before = outcome.to_server.strip_suffix(quit.as_bytes());
            let before = before.expect("QUIT is said in the end").len();
            assert_eq!(outcome.settled, [(before, 2)], "{quit:?} by {step}");
        }
    }
    // nothing that is asked is waited for but what is asked
    let mut said = begin.to_vec();
    said.push(client("QUIT\r\n"));
    let outcome = check(&said, 1);
    assert_eq!(outcome.settled, [(before_quit(&outcome), 0)]);
    // the answer in a dialogue, and the argument of a command, are no QUIT
    let said = [
        server("+OK\r\n"),
        client("AUTH PLAIN\r\n"),
        server("+ \r\n"),
        client("QUIT\r\n"),
    ];
    assert_eq!(check(&said, 1).settled, []);
    assert_eq!(
        check(&[server("+OK\r\n"), client("NOOP QUIT\r\n")], 1).settled,
        []
    );
    // who knows what is said once the watcher is lost
    let said = [server("+OK\r\n"), server("* what\r\n"), client("QUIT\r\n")];
    assert_eq!(check(&said, 7).settled, [(0, 0)]);
}

/// What either side may say, or may not.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known = [
        "+OK",
        "-ERR",
        "+ ",
        "\r\n",
        "\n",
        ".\r\n",
        "1 a\r\n",
        "USER a",
        "PASS b",
        "APOP a b",
        "AUTH PLAIN",
        "AUTH",
        "AGEAYg==",
        "*",
        "STLS",
        "CAPA",
        "SASL PLAIN NTLM",
        "RETR 1",
        "TOP 1 0",
        "UIDL",
        "LIST",
        "STAT",
        "XCLIENT a",
        "XOIP a",
        "AUTH  PLAIN",
        "USER\tb",
        "XCLIENTADDR",
        "\r",
        "\0",
        "XTND",
        "LANG",
        "NOOP",
        " ",
        "[XCLIENT] ",
        "QUIT",
    ];
    prop_oneof![
        4 => prop::sample::select(known.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
        2 => prop::sample::select(known.to_vec()).prop_map(|piece| format!("{piece}\r\n").into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ]
}
