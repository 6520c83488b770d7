//! Inputs on which a fuzzer once failed, or would have: each of `tests/fuzz/kept/TARGET/` is held to its target's law, and to
//! what must come of it. `tests/fuzz/seeds.py` has the format, and makes seeds of them.

use std::{fs, path::Path};

use mailtee::{message, wire};

use crate::{milter_cases::repeated, smtp_cases::bytes};

#[allow(
    unreachable_pub,
    reason = "the fuzz targets call it from their own crate"
)]
#[path = "fuzz/src/laws.rs"]
mod laws;

/// One file.
#[derive(Default)]
struct Kept {
    input: Vec<u8>,
    /// None: it does not say.
    copied: Option<Vec<Vec<u8>>>,
}

fn read(target: &str, text: &str) -> Kept {
    let mut kept = Kept::default();
    let mut from_client = false;
    for line in text.lines() {
        if let Some(step) = line.strip_prefix("step ") {
            kept.input.push(step.parse().expect("a byte"));
        } else if let Some(copy) = line.strip_prefix("copied ") {
            let copies = kept.copied.get_or_insert_default();
            if copy != "nothing" {
                copies.push(bytes(&format!("{}\\", repeated(copy))));
            }
        } else if let Some((kind @ ("C" | "S" | "B"), said)) = line.split_once(": ") {
            let is_clients = kind == "C";
            match (target, kind) {
                (_, "B") => {}
                ("imap_watcher", _) => kept.input.push(if is_clients { 0xfe } else { 0xff }),
                _ if is_clients != from_client => kept.input.push(0xff),
                _ => {}
            }
            from_client = is_clients;
            kept.input.extend(bytes(&repeated(said)));
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "{line}");
        }
    }
    kept
}

/// The law of a target; gives the copies, where it knows of any.
fn held(target: &str, input: &[u8]) -> Option<Vec<Vec<u8>>> {
    match target {
        "bdat" => laws::bdat(input),
        "data" => laws::data(input),
        "header_scan" => laws::header_scan(input),
        "imap_lexis" => laws::imap_lexis(input),
        "imap_watcher" => return Some(laws::imap_watcher(input)),
        "journal_report" => laws::journal_report(input),
        "milter" => laws::milter(input),
        "pop3_watcher" => return Some(laws::pop3_watcher(input)),
        "smtp_command" => laws::smtp_command(input),
        other => panic!("no law of {other} is known here"),
    }
    None
}

fn escaped(copies: &[Vec<u8>]) -> Vec<String> {
    let copies = copies.iter();
    copies.map(|it| it.escape_ascii().to_string()).collect()
}

#[test]
fn what_failed_once_holds_now() {
    let folder = Path::new("tests/fuzz/kept");
    let entries = |path: &Path| {
        let entries =
            fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        entries.map(|it| it.expect("an entry").path())
    };
    let mut failed = Vec::new();
    let mut count = 0;
    for file in entries(folder).flat_map(|target| entries(&target)) {
        let target = file.parent().and_then(Path::file_name).expect("a folder");
        let target = target.to_str().expect("a name");
        let text = fs::read_to_string(&file).expect("a text");
        assert!(text.starts_with("# "), "{} says what it is", file.display());
        let kept = read(target, &text);
        count += 1;
        let outcome = std::panic::catch_unwind(|| {
            let copies = held(target, &kept.input);
            if let Some(expected) = &kept.copied {
                let copies = copies.expect("a target that copies");
                assert_eq!(escaped(&copies), escaped(expected));
            }
        });
        if outcome.is_err() {
            failed.push(file);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(count > 10, "{count} are kept");
}
