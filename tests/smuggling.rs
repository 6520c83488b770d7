//! False ends of data and command lines with control bytes, straight at mailtee before servers that nobody here wrote:
//! whatever each of them takes for a line or an end, no more messages come out behind it than were captured.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use crate::kit::{Archive, Mail, Mailtee, Peer, Sink, SmtpClient, sink::Received, wait_until};

/// What no server has to complete.
const HEADER: &str = "From: <a@mailtee.test>\r\nTo: <to@example.org>\r\nDate: Tue, 24 Nov 2026 10:00:00 +0000\r\n\
Message-ID: <odd@mailtee.test>\r\nSubject: odd\r\n";
const RCPT: &str = "RCPT TO:<to@example.org>";

/// The end of data as it is, and what some server somewhere has taken for it.
pub(crate) const ENDS: &[&[u8]] = &[
    b"\r\n.\r\n",
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r.\n",
    b"\n.\r",
    b"\n\n.\n\n",
    b"\r\r\n.\r\r\n",
    b"\r\n.\r\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\r\0\n.\r\0\n",
    b"\r\n.\r\0\n",
    b"\r\n. \r\n",
    b"\r\n.\t\r\n",
    b"\r\n \x08.\r\n",
    b"\r\n.\x0b\r\n",
    b"\r\n\x0b.\r\n",
    b"\r\n.\x0c\r\n",
    b"\x0b.\x0b",
    b"\x0c.\x0c",
    b"\x1e.\x1e",
    b"\r\n.\x1a\r\n",
    b"\x1a\r\n",
    b"\xc2\x85.\xc2\x85",
    b"\x85.\x85",
    b"\xe2\x80\xa8.\xe2\x80\xa8",
    b"\r\n..\r\n",
    b"\r\n.\r\n.\r\n",
];

/// What may stand before, in or behind a command word, or end its line.
const ODD: &[&[u8]] = &[
    b"\x0b", b"\x0c", b"\0", b"\t", b" ", b"\r", b"\n", b"\x1a", b"\xa0",
];

/// How a chunk's size can be written, where nine bytes are meant, or more or fewer.
const CHUNKS: &[&[u8]] = &[
    b"BDAT 9 LAST\r\n",
    b"BDAT 9 LAST\n",
    b"BDAT 9\x0bLAST\r\n",
    b"BDAT\x0b9 LAST\r\n",
    b"BDAT\t9 LAST\r\n",
    b"BDAT  9  LAST \r\n",
    b"BDAT 09 LAST\r\n",
    b"BDAT 011 LAST\r\n",
    b"BDAT 0x9 LAST\r\n",
    b"BDAT +9 LAST\r\n",
    b"BDAT -9 LAST\r\n",
    b"BDAT 9. LAST\r\n",
    b"BDAT 9,9 LAST\r\n",
    b"BDAT 9 9 LAST\r\n",
    b"BDAT 9 LAST LAST\r\n",
    b"BDAT 9\0 LAST\r\n",
    b"BDAT 9 LAST\0\r\n",
    b"BDAT 18446744073709551625 LAST\r\n",
    b"bdat 9 last\r\n",
];

/// One session's bytes behind EHLO, in the steps in which a client sends them: it waits for a reply after each.
struct Case {
    steps: Vec<Vec<u8>>,
    what: String,
}

/// What gets no answer for so long gets none: more is awaited, or nothing was understood.
const SILENCE: Duration = Duration::from_millis(500);

/// The sender that tells this case's messages from others'.
fn tag(role: &str, serial: usize) -> String {
    format!("case-{role}-{serial}@mailtee.test")
}

fn mail(tag: &str) -> String {
    format!("MAIL FROM:<{tag}>")
}

/// A transaction inside something else, all at once.
fn inner(tag: &str) -> Vec<u8> {
    let mail = mail(tag);
    format!("{mail}\r\n{RCPT}\r\nDATA\r\n{HEADER}\r\ninner\r\n.\r\n").into_bytes()
}

fn cases(role: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |what: String, steps: &dyn Fn(&str) -> Vec<Vec<u8>>| {
        let steps = steps(&tag(role, cases.len()));
        cases.push(Case { steps, what });
    };
    for end in ENDS {
        add(format!("end \"{}\"", end.escape_ascii()), &|tag| {
            vec![
                format!("{}\r\n", mail(tag)).into_bytes(),
                format!("{RCPT}\r\n").into_bytes(),
                b"DATA\r\n".to_vec(),
                [HEADER.as_bytes(), b"\r\nouter", *end, &inner(tag)].concat(),
            ]
        });
    }
    for at in 0..3 {
        for odd in ODD {
            for form in 0..5 {
                let line = |tag: &str| {
                    let word = [mail(tag), RCPT.into(), "DATA".into()][at]
                        .clone()
                        .into_bytes();
                    match form {
                        0 => [odd, &word[..], b"\r\n"].concat(),
                        1 => [&word, *odd, b"\r\n"].concat(),
                        2 => [&word, *odd].concat(),
                        3 => [&word[..2], odd, &word[2..], b"\r\n"].concat(),
                        _ => [&word[..4], odd, word[4..].trim_ascii_start(), b"\r\n"].concat(),
                    }
                };
                add(format!("line \"{}\"", line("a@b").escape_ascii()), &|tag| {
                    let lines = [mail(tag), RCPT.into(), "DATA".into()];
                    let mut steps = lines
                        .map(|line| format!("{line}\r\n").into_bytes())
                        .to_vec();
                    steps[at] = line(tag);
                    let content = format!("{HEADER}\r\nouter\r\n.\r\n");
                    steps.push([content.as_bytes(), &inner(tag)].concat());
                    if !steps[at].ends_with(b"\n") {
                        let rest = steps.remove(at + 1);
                        steps[at].extend(rest);
                    }
                    steps
                });
            }
        }
    }
    for chunk in CHUNKS {
        add(format!("chunk \"{}\"", chunk.escape_ascii()), &|tag| {
            let envelope = format!("{}\r\n{RCPT}\r\n", mail(tag));
            vec![[envelope.as_bytes(), chunk, b"X: 4567\r\n", &inner(tag)].concat()]
        });
    }
    cases
}

/// Says it all, whatever is answered, and leaves.
fn play(server: SocketAddr, case: &Case) {
    let mut client = SmtpClient::greeted(server).expect("it greets");
    client.set_patience(SILENCE);
    for step in &case.steps {
        let left = |error: std::io::Error| error.kind() != std::io::ErrorKind::WouldBlock;
        if client.send(step).is_err() || client.reply().is_err_and(left) {
            return; // turned out
        }
    }
    // Out of data mode, and out of a chunk's last bytes, before the end.
    let _ = client.send(b"\r\n.\r\nQUIT\r\nQUIT\r\n");
    while client.reply().is_ok_and(|reply| reply.code != 221) {}
}

/// How many have each case's tag; those without one are counted together.
fn counted(senders: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for sender in senders {
        let tag = sender.find("case-").map(|at| &sender[at..]);
        let tag = tag
            .and_then(|tag| tag.split('>').next())
            .unwrap_or_default();
        *counts.entry(tag.to_owned()).or_insert(0) += 1;
    }
    counts
}

/// What a server does with false and true ends.
struct Known {
    /// Messages that come of two with a true end between them, sent without waiting.
    two: usize,
    /// Without mailtee before it, two come of one with a dot between bare line feeds.
    smuggles: bool,
}

fn nothing_comes_out_uncaptured(name: &'static str, lenient: &str, known: Known) {
    let sink = Sink::start();
    let server = Peer::set(name)
        .env("NEXT_HOP", sink.address())
        .env("EXTRA_MAIN", lenient)
        .start();
    if known.smuggles {
        play(server.address("SMTP"), &cases("alone")[1]);
        sink.wait_for(2);
    }
    for role in ["filter", "proxy"] {
        let before = sink.count();
        let mailtee = Mailtee::filter(server.address("SMTP"))
            .option("role", format!("{role:?}"))
            .start();
        let cases = cases(role);
        for case in &cases {
            play(mailtee.frontend, case);
        }

        mailtee.wait_until_forwarded(Duration::from_secs(60));
        let archive = Archive::read(&mailtee);
        let envelopes = archive.copies.iter().flat_map(|copy| copy.envelopes());
        let captured = counted(envelopes.map(|envelope| envelope.sender.to_string()));
        let total: usize = captured.values().sum();
        sink.wait_for(before + total);
        // One more: what came in unseen before it comes out with it, or before.
        let mut last = SmtpClient::greeted(mailtee.frontend).unwrap();
        let one_more = Mail {
            sender: "last@mailtee.test".to_owned(),
            ..Mail::plain(0)
        };
        assert!(last.mail(&one_more).unwrap().is_success());
        wait_until(Duration::from_secs(60), "the last comes out", || {
            let arrived = sink.received();
            let is_last = |got: &Received| got.mail.contains("last@mailtee.test");
            arrived[before..].iter().any(is_last).then_some(())
        });

        let arrived = sink.received();
        let arrived = arrived[before..]
            .iter()
            .filter(|got| !got.mail.contains("<last@"));
        let arrived = counted(arrived.map(|got| got.mail.clone()));
        let count = |of: &BTreeMap<_, _>, tag: &str| of.get(tag).copied().unwrap_or(0);
        for (serial, case) in cases.iter().enumerate() {
            let tag = tag(role, serial);
            let (came, kept) = (count(&arrived, &tag), count(&captured, &tag));
            assert!(
                came <= kept,
                "{name}, {role}: {came} came, {kept} captured: {}",
                case.what
            );
        }
        let came: usize = arrived.values().sum();
        assert_eq!(came, total, "{name}, {role}");
        // The first end is a true one.
        assert_eq!(count(&arrived, &tag(role, 0)), known.two, "{name}, {role}");
    }
}

/// As lenient as it can be: a bare line feed ends a line, and no command turns a client out.
#[test]
fn no_odd_bytes_smuggle_into_postfix() {
    let lenient =
        "smtpd_forbid_bare_newline = no\nsmtpd_forbidden_commands =\nsmtpd_hard_error_limit = 100";
    nothing_comes_out_uncaptured(
        "postfix",
        lenient,
        Known {
            two: 2,
            smuggles: true,
        },
    );
}

/// As lenient as it can be: it takes what comes too early, and unknown commands.
#[test]
fn no_odd_bytes_smuggle_into_exim() {
    let lenient =
        "smtp_enforce_sync = false\nsmtp_max_synprot_errors = 100\nsmtp_max_unknown_commands = 100";
    nothing_comes_out_uncaptured(
        "exim",
        lenient,
        Known {
            two: 2,
            smuggles: false,
        },
    );
}

/// It turns out whoever does not wait for a reply.
#[test]
fn no_odd_bytes_smuggle_into_opensmtpd() {
    nothing_comes_out_uncaptured(
        "opensmtpd",
        "",
        Known {
            two: 0,
            smuggles: false,
        },
    );
}

#[test]
fn no_odd_bytes_smuggle_into_sendmail() {
    nothing_comes_out_uncaptured(
        "sendmail",
        "",
        Known {
            two: 2,
            smuggles: false,
        },
    );
}
