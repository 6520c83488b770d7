//! Journal reports, taken apart: each case of `tests/cases/journal/` in any chunking, in bounded memory, and through the
//! endpoint as Exchange sends them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use mailtee::message::{
    Fidelity, Protocol, RecipientRole, Sighting, WireText,
    journal_report::{Limits, Report, ReportError, ReportParser, Standing, parse},
};
use proptest::prelude::*;

use crate::kit::{Archive, Mail, Mailtee, SmtpClient, wait_until};

/// `tests/cases/journal/NAME.eml` is a report (with bare line feeds, made CRLF here), `NAME.expect` what it says and,
/// after a blank line, the inner message.
fn cases() -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/journal");
    let mut cases: Vec<_> = fs::read_dir(dir)
        .expect("the cases")
        .map(|entry| entry.expect("a case").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "eml"))
        .map(|path| {
            let read = |path: &Path| with_crlf(&fs::read(path).expect("a case's file"));
            let name = path
                .file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            (name, read(&path), read(&path.with_extension("expect")))
        })
        .collect();
    cases.sort();
    assert!(cases.len() >= 30, "{} cases", cases.len());
    cases
}

fn with_crlf(bytes: &[u8]) -> Vec<u8> {
    bytes
        .split_inclusive(|byte| *byte == b'\n')
        .flat_map(|line| match line.strip_suffix(b"\n") {
            Some(line) => [line, b"\r\n"].concat(),
            None => line.to_vec(),
        })
        .collect()
}

fn taken_apart(content: &[u8], chunk: usize) -> Result<(Report, Vec<u8>), ReportError> {
    let mut inner = Vec::new();
    let mut parser = ReportParser::new(Limits::default());
    for bytes in content.chunks(chunk) {
        parser.feed(bytes, &mut inner);
    }
    parser.finish(&mut inner).map(|report| (report, inner))
}

/// What came out, as the `.expect` files write it.
fn written(result: Result<(Report, Vec<u8>), ReportError>) -> Vec<u8> {
    let (report, inner) = match result {
        Ok(taken) => taken,
        Err(error) => {
            let text = error.to_string();
            return text.replace("journal report: ", "unparsed: ").into_bytes();
        }
    };
    let sender = report.envelope.sender.to_string();
    let sender = if sender.is_empty() { "<>" } else { &sender };
    let mut out = format!("sender: {sender}\r\n");
    for recipient in &report.envelope.recipients {
        let role = match recipient.role.expect("a report gives each a role") {
            RecipientRole::To => "to",
            RecipientRole::Cc => "cc",
            RecipientRole::Bcc => "bcc",
            RecipientRole::Recipient => "recipient",
            RecipientRole::OnBehalfOf => "on-behalf-of",
        };
        write!(out, "{role}: {}", recipient.address).expect("memory takes it");
        for (word, source) in [
            ("expanded", &recipient.expanded_from),
            ("forwarded", &recipient.forwarded_from),
        ] {
            if let Some(source) = source {
                write!(out, ", {word} {source}").expect("memory takes it");
            }
        }
        out.push_str("\r\n");
    }
    let text = |field: &Option<WireText>| {
        field
            .as_ref()
            .map(|text| text.to_string())
            .unwrap_or_default()
    };
    write!(
        out,
        "subject: {}\r\nmessage-id: {}\r\n\r\n",
        text(&report.subject),
        text(&report.message_id)
    )
    .expect("memory takes it");
    [out.as_bytes(), &inner].concat()
}

#[test]
fn each_case_is_taken_apart_the_same_in_any_chunks() {
    for (name, content, expect) in cases() {
        for chunk in [content.len(), 7, 1] {
            let came = written(taken_apart(&content, chunk));
            assert_eq!(
                String::from_utf8_lossy(&came).trim_end(),
                String::from_utf8_lossy(&expect).trim_end(),
                "{name} in chunks of {chunk}"
            );
            if !came.starts_with(b"unparsed") {
                assert_eq!(came, expect, "{name} in chunks of {chunk}, to the byte");
            }
        }
    }
}

#[test]
fn bare_line_feeds_are_line_ends_too() {
    for (name, content, expect) in cases() {
        let bare = |bytes: &[u8]| {
            bytes
                .iter()
                .copied()
                .filter(|byte| *byte != b'\r')
                .collect::<Vec<_>>()
        };
        let came = bare(&written(taken_apart(&bare(&content), 5)));
        assert_eq!(
            came.trim_ascii_end(),
            bare(&expect).trim_ascii_end(),
            "{name}"
        );
    }
}

#[test]
fn an_ordinary_message_is_known_as_one_at_the_end_of_its_header() {
    let mut parser = ReportParser::new(Limits::default());
    let mut inner = Vec::new();
    assert_eq!(
        parser.feed(b"Subject: x\r\n", &mut inner),
        Standing::Undecided
    );
    assert_eq!(parser.feed(b"\r", &mut inner), Standing::Undecided);
    assert_eq!(parser.feed(b"\n", &mut inner), Standing::Whole);
    assert!(inner.is_empty());
}

#[test]
fn the_inner_message_comes_out_while_it_arrives_and_nothing_of_it_is_held() {
    let (_, content, _) = cases().swap_remove(0);
    let at = content
        .windows(5)
        .position(|w| w == b"From:")
        .expect("the report's own header");
    let inner_from = content[at + 1..]
        .windows(5)
        .position(|w| w == b"From:")
        .expect("the inner header")
        + at
        + 1;
    let mut parser = ReportParser::new(Limits::default());
    let mut inner = Vec::new();
    parser.feed(&content[..inner_from], &mut inner);
    let line = [b"y".repeat(1000).as_slice(), b"\r\n"].concat();
    let mut sent = 0;
    for _ in 0..10_000 {
        inner.clear();
        parser.feed(&line, &mut inner);
        sent += line.len();
        assert!(
            inner.len() >= line.len() - 2,
            "at most a line end is held, after {sent} bytes"
        );
    }
    assert!(std::mem::size_of_val(&parser) < 1024);
}

#[test]
fn headers_and_text_are_bounded_and_recipients_are_not_counted() {
    let limits = Limits {
        header_bytes_max: 1000,
        text_bytes_max: 5000,
    };
    let report = |header: usize, recipients: usize| {
        let mut out = format!("X-MS-Journal-Report:\r\nX-Long: {}\r\n", "h".repeat(header));
        out += "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nSender: a@b\r\n";
        for n in 0..recipients {
            write!(out, "To: r{n}@b\r\n").expect("memory takes it");
        }
        out += "--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: x\r\n--b--\r\n";
        out.into_bytes()
    };
    let too_large = |result| matches!(result, Err(ReportError::TooLarge { .. }));
    assert!(too_large(parse(&report(1000, 1), limits)));
    assert!(too_large(parse(&report(1, 1000), limits)));
    let (many, _) =
        parse(&report(1, 200_000), Limits::default()).expect("200,000 recipients are a report");
    assert_eq!(many.envelope.recipients.len(), 200_000);
}

/// Bytes that are likely to be part of a report's structure.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        any::<Vec<u8>>(),
        Just(b"\r\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"--b".to_vec()),
        Just(b"--b--".to_vec()),
        Just(b"\r\n--b\r\n".to_vec()),
        Just(b"Content-Type: message/rfc822\r\n\r\n".to_vec()),
        Just(b"Content-Transfer-Encoding: base64\r\n".to_vec()),
        Just(b"Content-Transfer-Encoding: quoted-printable\r\n".to_vec()),
        Just(b"Sender: a@b\r\nTo: c@d\r\n".to_vec()),
        Just(b"=".to_vec()),
        Just(b" \t".to_vec()),
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

/// Every case, sent to the endpoint as Exchange would: the copy is the inner message, however many reports carried it.
#[test]
fn the_journal_endpoint_keeps_the_inner_message_once_and_every_report_as_a_sighting() {
    let mailtee = Mailtee::filter("nowhere:25")
        .without("upstream")
        .without("role")
        .option("protocol", "\"journal\"")
        .start();
    let mut client = SmtpClient::greeted(mailtee.frontend).unwrap();
    let mut expected = BTreeMap::<Vec<u8>, Vec<Result<Report, ReportError>>>::new();
    for (name, mut content, _) in cases() {
        if !content.ends_with(b"\r\n") {
            content.extend_from_slice(b"\r\n");
        }
        let mail = Mail {
            sender: String::new(),
            recipients: vec!["journal@archive.mailtee.test".to_owned()],
            bytes: content.clone(),
            kind: "journal report",
        };
        let reply = client.mail(&mail).unwrap();
        assert!(reply.is_success(), "{name}: {}", reply.text());
        let (kept, report) = match parse(&content, Limits::default()) {
            Ok((report, inner)) => (inner, Ok(report)),
            Err(error) => (content, Err(error)),
        };
        expected.entry(kept).or_default().push(report);
    }
    mailtee.wait_until_forwarded(Duration::from_secs(30));

    let archive = Archive::read(&mailtee);
    let kept: BTreeSet<_> = archive.copies.iter().map(|copy| &copy.bytes).collect();
    assert!(
        kept == expected.keys().collect(),
        "each inner message, and each report that cannot be taken apart"
    );
    assert_eq!(kept.len(), archive.copies.len(), "once");
    for copy in &archive.copies {
        let reports = &expected[&copy.bytes];
        assert_eq!(copy.sightings.len(), reports.len());
        // Several may have been captured in one millisecond: in no order then.
        let mut left: Vec<_> = copy.sightings.iter().map(|s| &s.sighting).collect();
        for report in reports {
            let tells = |sighting: &&Sighting| tells_of(sighting, report);
            let at = left.iter().position(tells);
            left.remove(at.unwrap_or_else(|| panic!("no sighting tells of {report:?}")));
        }
    }
}

/// A report up to where the message inside it would begin, with as much before that as a report may have.
fn largest_report() -> Vec<u8> {
    let mut out = b"X-MS-Journal-Report:\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
        --b\r\n\r\nSender: a@example.org\r\nTo: c@example.org\r\n"
        .to_vec();
    let line = [b"X-More: ".as_slice(), &[b'x'; 900], b"\r\n"].concat();
    while out.len() + line.len() < Limits::default().text_bytes_max {
        out.extend_from_slice(&line);
    }
    out
}

/// Opens a session and sends that much of a report.
fn begun(server: SocketAddr, report: &[u8]) -> SmtpClient {
    let mut client = SmtpClient::greeted(server).unwrap();
    for command in ["MAIL FROM:<>", "RCPT TO:<journal@archive.mailtee.test>"] {
        assert!(client.command(command).unwrap().is_success());
    }
    assert_eq!(client.command("DATA").unwrap().code, 354);
    client.send(report).unwrap();
    client
}

fn ended(mut client: SmtpClient, serial: usize) -> u16 {
    let inner = format!(
        "--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: {serial}\r\n\r\nbody\r\n--b--\r\n.\r\n"
    );
    client.send(inner.as_bytes()).unwrap();
    client.reply().unwrap().code
}

/// Nine that arrive at once hold more than all may hold together, whatever of them is still in the kernel's buffers.
#[test]
fn reports_that_hold_too_much_together_hear_451_and_are_taken_later() {
    let mailtee = Mailtee::filter("nowhere:25")
        .without("upstream")
        .without("role")
        .option("protocol", "\"journal\"")
        .start();
    let report = largest_report();
    let clients: Vec<_> = (0..9).map(|_| begun(mailtee.frontend, &report)).collect();
    let mut replies = Vec::new();
    for (serial, client) in clients.into_iter().enumerate() {
        // Half of them give up in the middle: what they held is free again, too.
        if serial % 2 == 0 {
            replies.push(ended(client, serial));
        }
    }
    let refused = replies.iter().filter(|code| **code == 451).count();
    let taken = replies.iter().filter(|code| **code == 250).count();
    assert!(refused > 0 && refused + taken == 5, "{replies:?}");

    // As many as fit, at once: nothing is held any more.
    wait_until(Duration::from_secs(60), "two at once are taken", || {
        let clients: Vec<_> = (0..2).map(|_| begun(mailtee.frontend, &report)).collect();
        let replies: Vec<_> = (10..).zip(clients).map(|(n, c)| ended(c, n)).collect();
        (replies == [250; 2]).then_some(())
    });
}

/// Is it the sighting that this report makes?
fn tells_of(sighting: &Sighting, report: &Result<Report, ReportError>) -> bool {
    let envelope = sighting.envelope().expect("an envelope");
    let unparsed = sighting.fidelity.contains(&Fidelity::ReportUnparsed);
    let said = match report {
        Ok(report) => *envelope == report.envelope && !unparsed,
        Err(error) => {
            let recipient = envelope.recipients[0].address.to_string();
            recipient == "journal@archive.mailtee.test"
                && unparsed == (*error != ReportError::NotAReport)
        }
    };
    said && sighting.protocol == Protocol::Journal
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same(
        body in likely(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let start = b"X-MS-Journal-Report:\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n";
        let content = [start.as_slice(), &body].concat();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(content.len())).collect();
        cuts.extend([0, content.len()]);
        cuts.sort_unstable();
        let mut parser = ReportParser::new(Limits::default());
        let mut inner = Vec::new();
        for pair in cuts.windows(2) {
            parser.feed(&content[pair[0]..pair[1]], &mut inner);
        }
        let cut = parser.finish(&mut inner).map(|report| (report, inner));
        prop_assert_eq!(cut, parse(&content, Limits::default()));
    }

    #[test]
    fn whatever_is_put_in_comes_out(
        message in prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'b'), any::<u8>()], 1..300),
        base64: bool,
    ) {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let mut message = message;
        // What a boundary would cut cannot be sent as it is; a writer chooses another boundary then.
        prop_assume!(!message.windows(3).any(|w| w == b"--b"));
        let (encoding, encoded) = if base64 {
            ("base64", STANDARD.encode(&message).into_bytes())
        } else {
            if !message.ends_with(b"\n") {
                message.extend_from_slice(b"\r\n");
            }
            ("binary", message.clone())
        };
        let content = [
            b"X-MS-Journal-Report:\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n".as_slice(),
            b"Sender: a@b\r\nTo: c@d\r\n--b\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: ",
            encoding.as_bytes(), b"\r\n\r\n", &encoded, b"\r\n--b--\r\n",
        ].concat();
        let (_, inner) = parse(&content, Limits::default()).expect("a report");
        prop_assert_eq!(inner, message);
    }
}
