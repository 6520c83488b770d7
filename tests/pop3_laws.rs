//! What holds for every POP3 session: what one side says the other hears, but for the few lines that are ours; the copy is
//! the message; the chunking of the bytes changes nothing; no bytes make it panic.

use mailtee::wire::pop3::fuzz::{Side, check};
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_copy_is_the_message_and_the_session_is_untouched(
        exchanges in prop::collection::vec(exchange(), 0..20),
        pipelined in 1usize..6,
        ids in prop::collection::vec("[!-~]{1,70}", 0..6),
        step in 1usize..300,
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
        let copies: Vec<_> = copies
            .into_iter()
            .map(|(number, content)| (ids.get(number as usize - 1).cloned(), content))
            .collect();
        for step in [1, 7, step] {
            let outcome = check(&said, step);
            prop_assert_eq!(&outcome.copies, &copies);
            prop_assert!(outcome.kept.concat().is_empty());
            prop_assert!(outcome.replies.is_empty());
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
