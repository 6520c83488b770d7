//! The milter in real mail servers: each `tests/cases/milter/*.case` is said to Postfix and to Sendmail, and the copy and
//! its sighting are what the case says. The README there has the format.

use std::{fmt::Write as _, path::Path, time::Duration};

use crate::{
    kit::{
        Archive, Mailtee, Peer, Sink, SmtpClient,
        archive::{Copy, Sighted},
        wait_until,
    },
    postfix_deploy_milter::milter,
    smtp_cases::bytes,
};

/// Where the clients sit: an address that only they have.
const CLIENT: [u8; 4] = [127, 0, 0, 2];
/// Both mail servers refuse it.
const REFUSED: &str = "refused@example.org";

struct Case {
    name: String,
    /// `C`, `S` or `X`, and the rest of the line.
    session: Vec<(char, String)>,
    copies: Vec<Expected>,
}

#[derive(Default)]
struct Expected {
    facts: Vec<String>,
    /// Lines of the message, as they are written.
    message: Vec<String>,
}

/// The cases as they are for this mail server.
fn cases(server: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/milter");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "case"))
        .collect();
    paths.sort();
    assert!(paths.len() > 15, "the cases are gone");
    let read = |path: &std::path::PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap();
        case(name, &std::fs::read_to_string(path).unwrap(), server)
    };
    paths.iter().filter_map(read).collect()
}

fn case(name: &str, text: &str, server: &str) -> Option<Case> {
    let mut case = Case {
        name: name.to_owned(),
        session: Vec::new(),
        copies: Vec::new(),
    };
    for line in text.lines() {
        let (only, line) = match line.split_once(' ') {
            Some((word @ ("postfix" | "sendmail"), line)) => (Some(word), line),
            _ => (None, line),
        };
        if only.is_some_and(|it| it != server) || line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (mark, rest) = line.split_at_checked(3).unwrap_or((line, ""));
        let expected = case.copies.last_mut();
        match mark {
            "NOT" => return None,
            "C: " | "C:" | "S: " | "X!" => case
                .session
                .push((line.chars().next().unwrap(), rest.to_owned())),
            "COP" => case.copies.push(Expected::default()),
            "F: " => expected.expect("below COPY").facts.push(rest.to_owned()),
            "M: " | "M:" => expected.expect("below COPY").message.push(rest.to_owned()),
            _ => panic!("{name}: what is {line:?}?"),
        }
    }
    Some(case)
}

/// `\{N text}` is N times that text.
pub(crate) fn repeated(line: &str) -> String {
    let Some((before, rest)) = line.split_once("\\{") else {
        return line.to_owned();
    };
    let (inside, after) = rest.split_once('}').expect("a closing brace");
    let (times, text) = inside.split_once(' ').expect("number, space, text");
    let times = times.parse().expect("a number");
    format!("{before}{}{}", text.repeat(times), repeated(after))
}

/// Says what the case says, lines in a row in one write, and hears a reply for each `S:`.
fn say(case: &Case, server: &Peer) {
    let (mut client, _) = SmtpClient::connect_from(CLIENT, server.address("SMTP")).unwrap();
    let mut unsent = Vec::new();
    for (who, what) in &case.session {
        if *who == 'C' {
            unsent.extend(bytes(&repeated(what)));
            continue;
        }
        client.send(&std::mem::take(&mut unsent)).unwrap();
        if *who == 'S' {
            let reply = client.reply();
            let reply = reply.unwrap_or_else(|e| panic!("{}: {what}: {e}", case.name));
            let heard = reply.text();
            assert!(
                heard.starts_with(what),
                "{}: {what} expected: {heard}",
                case.name
            );
        }
    }
    client.send(&unsent).unwrap();
}

/// A sighting as a case writes it down.
fn facts(sighted: &Sighted) -> Vec<String> {
    let envelope = sighted.sighting.envelope().expect("seen in a transaction");
    let line = |word: &str, value: &str, parameters: &str| {
        let mut line = format!("{word} <{value}>");
        if !parameters.is_empty() {
            let _ = write!(line, " {parameters}");
        }
        line
    };
    let mut out = vec![line(
        "sender",
        &envelope.sender.to_text(),
        &envelope.sender_parameters.to_text(),
    )];
    for recipient in &envelope.recipients {
        let word = match recipient.refused {
            Some(_) => "refused",
            None => "recipient",
        };
        let (address, parameters) = (&recipient.address, &recipient.parameters);
        out.push(line(word, &address.to_text(), &parameters.to_text()));
    }
    out
}

/// `\*` stands for anything within its line.
fn matches(pattern: &[String], message: &[u8]) -> bool {
    let mut rest = message;
    for line in pattern {
        for (at, part) in line.split("\\*").enumerate() {
            let last = at == line.matches("\\*").count();
            // Only the last part has the line's end.
            let part = match last {
                true => bytes(&repeated(part)),
                false => bytes(&format!("{part}\\")),
            };
            let line_end = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
            let found = match at {
                0 => rest.starts_with(&part).then_some(0),
                _ if last => rest[..line_end]
                    .ends_with(&part)
                    .then(|| line_end - part.len()),
                _ => memchr::memmem::find(&rest[..line_end], &part),
            };
            match found {
                Some(found) => rest = &rest[found + part.len()..],
                None => return false,
            }
        }
    }
    rest.is_empty()
}

/// What is wrong with the copies of one case; empty if nothing is.
fn wrong(case: &Case, archive: &Archive) -> String {
    let mut seen: Vec<(&Copy, &Sighted)> = archive
        .copies
        .iter()
        .flat_map(|copy| copy.sightings.iter().map(move |sighted| (copy, sighted)))
        .filter(|(_, sighted)| {
            sighted
                .client()
                .helo
                .as_ref()
                .is_some_and(|it| it == &case.name.as_str().into())
        })
        .collect();
    seen.sort_by_key(|(_, sighted)| sighted.sighting.captured_at);
    let mut wrong = String::new();
    if seen.len() != case.copies.len() {
        let _ = writeln!(wrong, "{} copies, not {}", seen.len(), case.copies.len());
    }
    for ((copy, sighted), expected) in seen.into_iter().zip(&case.copies) {
        let client = sighted.client();
        if client.queue_id.is_none() || client.address != Some("127.0.0.2".into()) {
            let _ = writeln!(wrong, "the client: {client:?}");
        }
        if facts(sighted) != expected.facts {
            let _ = writeln!(wrong, "the envelope: {:#?}", facts(sighted));
        }
        if !matches(&expected.message, &copy.bytes) {
            let shown = &copy.bytes[..copy.bytes.len().min(2_000)];
            let _ = writeln!(
                wrong,
                "the copy:\n{}",
                shown.escape_ascii().to_string().replace("\\r\\n", "\n")
            );
        }
    }
    wrong
}

fn run(server_name: &'static str, start: impl FnOnce(&Sink, &Mailtee) -> Peer) {
    let sink = Sink::start();
    let mailtee = milter().start();
    let server = start(&sink, &mailtee);
    let cases = cases(server_name);
    for case in &cases {
        let hello = case.session.first().map(|(_, line)| line.as_str());
        let says = |verb| hello == Some(&format!("{verb} {}", case.name));
        assert!(
            says("EHLO") || says("HELO"),
            "{}: EHLO and its own name",
            case.name
        );
        say(case, &server);
    }
    let copies = cases.iter().map(|case| case.copies.len()).sum::<usize>();
    wait_until(Duration::from_secs(60), "all has gone on", || {
        (sink.count() >= copies).then_some(())
    });
    mailtee.wait_until_forwarded(Duration::from_secs(60));
    let archive = Archive::read(&mailtee);
    let mut report = String::new();
    for case in &cases {
        let wrong = wrong(case, &archive);
        if !wrong.is_empty() {
            let _ = writeln!(report, "--- {}\n{wrong}", case.name);
        }
    }
    assert!(report.is_empty(), "{server_name}:\n{report}");
    let sightings: usize = archive.copies.iter().map(|copy| copy.sightings.len()).sum();
    assert_eq!(sightings, copies, "and of no other message");
    assert!(!mailtee.log().contains("WARN"), "{}", mailtee.log());
}

#[test]
fn postfix() {
    run("postfix", |sink, mailtee| {
        Peer::set("postfix")
            .argument("milter")
            .env("NEXT_HOP", sink.address())
            .env("FILTER", mailtee.frontend)
            .env(
                "EXTRA_MAIN",
                format!("smtpd_recipient_restrictions = check_recipient_access inline:{{ {{ {REFUSED} = 550 5.1.1 nobody here }} }}"),
            )
            .start()
    });
}

#[test]
fn sendmail() {
    run("sendmail", |sink, mailtee| {
        Peer::set("sendmail")
            .env("NEXT_HOP", sink.address())
            .env("MILTER", mailtee.frontend)
            .env(
                "EXTRA_MC",
                format!("define(`confMAX_HEADERS_LENGTH', `1000000')dnl\nLOCAL_RULESETS\nSLocal_check_rcpt\nR<{REFUSED}>\t\t$#error $@ 5.1.1 $: \"550 nobody here\""),
            )
            .start()
    });
}
