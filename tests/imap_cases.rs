//! The watcher of an IMAP session: each `tests/cases/imap/*.case` in pieces of 1 byte, of 7, and whole. The README there
//! has the format.

use std::{fmt::Write as _, path::Path};

use mailtee::{
    message::WireText,
    wire::{
        imap::{
            Rules,
            fuzz::{Seen, Session},
        },
        watch::{Form, Found, Message, Watch},
    },
};

use crate::{milter_cases::repeated, smtp_cases::bytes};

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// As a case writes it down.
fn line(seen: &Seen) -> String {
    match seen {
        Seen::Login { user, before, .. } if before.is_empty() => format!("login {}", text(user)),
        Seen::Login { user, before, .. } => {
            let before = before.trim_ascii_end();
            format!("login {} before {}", text(user), text(before))
        }
        Seen::Authenticated(None) => "authenticated".to_owned(),
        Seen::Authenticated(Some(user)) => format!("authenticated {}", text(user)),
        Seen::StartTls => "starttls".to_owned(),
        Seen::Settle { .. } => unreachable!("it is told with what it is before"),
        Seen::Begun(Message::Saved { folder }) => format!("begin saved {folder}"),
        Seen::Begun(Message::Read {
            uid, bytes, form, ..
        }) => {
            let mut line = "begin read".to_owned();
            if let Some(uid) = uid {
                let _ = write!(line, " uid={uid}");
            }
            if let Some(bytes) = bytes {
                let _ = write!(line, " bytes={bytes}");
            }
            line += match form {
                Form::AsItLies => "",
                Form::Decoded => " decoded",
                Form::Joined => " joined",
            };
            line
        }
        Seen::Committed { content, found, .. } => committed(content, found),
        Seen::Dropped => "drop".to_owned(),
        Seen::Uncopied => "uncopied".to_owned(),
        Seen::Hint(hint) => format!("hint {}", hint.name()),
        Seen::Lost(reason) => format!("lost {reason}"),
    }
}

/// Right before or behind a loss, no case tells of it.
fn forget_settled_at_a_loss(seen: &mut Vec<Seen>) {
    let Some(lost) = seen.iter().position(|it| matches!(it, Seen::Lost(_))) else {
        return;
    };
    let is_settled = |at: &usize| matches!(seen.get(*at), Some(Seen::Settle { .. }));
    let settled = [lost.wrapping_sub(1), lost + 1]
        .into_iter()
        .find(is_settled);
    seen.remove(settled.expect("what comes then is not known: it may remove"));
}

/// `behind` is what the server hears next.
fn settled(behind: &[u8]) -> String {
    let line = behind.split_inclusive(|byte| *byte == b'\n').next();
    let line = text(line.unwrap_or_default().trim_ascii_end());
    let line: String = line.chars().take(60).collect();
    match line.as_str() {
        "" => "settle".to_owned(),
        line => format!("settle before {line}"),
    }
}

fn committed(content: &[u8], found: &Found) -> String {
    // Long ones are of one byte again and again.
    let content = match content {
        [first, .., last] if content.len() > 100 && first == last => {
            format!("{} times {}", content.len(), text(&[*first]))
        }
        _ => format!("\"{}\"", text(content)),
    };
    let mut line = format!("commit {content} {}", found.folder);
    if let Some(uid) = found.uid {
        let _ = write!(line, " uid={uid}");
    }
    if let Some(validity) = found.uid_validity {
        let _ = write!(line, " validity={validity}");
    }
    for flag in &found.flags {
        let _ = write!(line, " {flag}");
    }
    if let Some(date) = found.internal_date {
        let _ = write!(line, " date={}", date.0);
    }
    line
}

fn place(session: &Session) -> String {
    let place = session.watcher.place();
    let or_none = |text: &Option<WireText>| match text {
        Some(text) => text.to_string(),
        None => "-".to_owned(),
    };
    let validity = place.uid_validity.map_or("-".to_owned(), |v| v.to_string());
    let (user, folder) = (or_none(&place.user), or_none(&place.folder));
    format!("{user} {folder} {validity}")
}

/// What is said in a row by one side, and what must come of it.
#[derive(Default)]
struct Turn<'a> {
    by_client: bool,
    said: Vec<u8>,
    heard: Vec<u8>,
    /// How much of `heard` the last line is.
    last: usize,
    back: Vec<u8>,
    seen: Vec<&'a str>,
    put_off: bool,
    place: Option<&'a str>,
}

fn turns(case: &str) -> Vec<Turn<'_>> {
    let mut turns: Vec<Turn<'_>> = Vec::new();
    for line in case.lines() {
        let (mark, rest) = line.split_at_checked(3).unwrap_or((line, ""));
        let ends = turns
            .last()
            .is_none_or(|turn| turn.put_off || turn.place.is_some() || !turn.seen.is_empty());
        match mark {
            "C: " | "S: " => {
                let by_client = mark == "C: ";
                if ends || turns.last().is_none_or(|turn| turn.by_client != by_client) {
                    turns.push(Turn {
                        by_client,
                        ..Turn::default()
                    });
                }
                let turn = turns.last_mut().expect("pushed just above");
                let bytes = bytes(&repeated(rest));
                turn.last = bytes.len();
                turn.heard.extend_from_slice(&bytes);
                turn.said.extend(bytes);
                continue;
            }
            "RUL" => continue,
            _ if line.is_empty() || line.starts_with('#') => continue,
            _ => {}
        }
        let turn = turns.last_mut().expect("below what is said");
        match (mark.trim_end(), line.get(2..).unwrap_or_default()) {
            ("=>", _) => {
                let before = turn.heard.len() - std::mem::take(&mut turn.last);
                turn.heard.truncate(before);
                if !rest.is_empty() {
                    turn.heard.extend(bytes(&repeated(rest)));
                }
            }
            ("<=", _) => turn.back.extend(bytes(rest)),
            ("PUT", _) => turn.put_off = true,
            (_, seen) if line.starts_with("! ") => turn.seen.push(seen),
            (_, place) if line.starts_with("@ ") => turn.place = Some(place),
            _ => panic!("what is {line:?}?"),
        }
    }
    turns
}

fn run(name: &str, case: &str, size: usize) {
    let rules = case.lines().find_map(|line| line.strip_prefix("RULES "));
    let mut rules = rules.unwrap_or_default().split(' ');
    let rules = Rules {
        starttls: rules.clone().any(|rule| rule == "starttls"),
        withholds_logins: rules.any(|rule| rule == "withholds_logins"),
    };
    let mut session = Session::new(rules, size);
    // What was put off is heard when it is taken.
    let mut later = Vec::new();
    for turn in turns(case) {
        let start: String = text(&turn.said).chars().take(200).collect();
        let at = format!("{name} by {size}, at {start:?}");
        let before = session.seen.len();
        match turn.by_client {
            true => session.client(&turn.said),
            false => session.server(&turn.said),
        }
        assert_eq!(session.is_put_off(), turn.put_off, "{at}: put off");
        let mut up = std::mem::take(&mut session.to_server);
        let mut down = std::mem::take(&mut session.to_client);
        down.append(&mut session.replies);
        let (ahead, back) = match turn.by_client {
            true => (&mut up, &mut down),
            false => (&mut down, &mut up),
        };
        let mut heard = turn.heard;
        let mut answered = turn.back;
        if turn.put_off {
            // Some of it may have been said before the rest was put off.
            let said = ahead.len();
            later = heard.split_off(said.min(heard.len()));
        } else if !turn.by_client {
            answered.append(&mut later);
        }
        assert_eq!(text(ahead), text(&heard), "{at}: heard");
        assert_eq!(text(back), text(&answered), "{at}: heard by who said it");
        let to_server = if turn.by_client { &*ahead } else { &*back };
        let mut seen: Vec<_> = session.seen[before..].to_vec();
        forget_settled_at_a_loss(&mut seen);
        let seen = seen.iter().map(|seen| match seen {
            Seen::Settle { heard } => settled(&to_server[*heard..]),
            seen => line(seen),
        });
        let seen: Vec<_> = seen.collect();
        assert_eq!(seen, turn.seen, "{at}: seen");
        for seen in &session.seen[before..] {
            if let Seen::Committed {
                message: Message::Saved { .. },
                heard: by_then,
                ..
            } = seen
            {
                assert!(
                    *by_then < heard.len(),
                    "{at}: the client hears of it before it is safe"
                );
            }
        }
        if let Some(expected) = turn.place {
            assert_eq!(place(&session), expected, "{at}: the place");
        }
    }
}

#[test]
fn every_case_is_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/imap");
    let (mut cases, mut failed) = (0, false);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "case") {
            continue;
        }
        let case = std::fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy();
        for size in [1, 7, usize::MAX] {
            let outcome = std::panic::catch_unwind(|| run(&name, &case, size));
            failed |= outcome.is_err();
        }
        cases += 1;
    }
    assert!(cases > 60, "the cases are gone");
    assert!(!failed, "see above");
}
