//! `mailtee identify` before every server that there is: named right, each within 12 seconds, most within one, and the front
//! end that it prints for a mail server is one that mailtee takes. The table is `tests/cases/identify/servers`.

use std::{
    collections::BTreeSet,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use serde_json::Value;

use crate::{
    identify_rig::{Place, Servers},
    kit::{TestDir, free_port},
};

const TABLE: &str = include_str!("cases/identify/servers");

/// What the program promises of itself.
const WITHIN_SECS: f64 = 12.0;

/// Of the answers that no server delays, how many come within a second.
const MOST: f64 = 0.9;

/// Programs at once, where no time is measured.
const AT_ONCE: usize = 12;

const OUR_NAMES: [&str; 5] = [
    "localhost",
    "mail.mailtee.test",
    "*.mailtee.test",
    "127.0.0.1",
    "::1",
];

/// A server of the table.
struct Row {
    name: &'static str,
    protocol: &'static str,
    tls: &'static str,
    facts: Vec<(&'static str, &'static str)>,
}

impl Row {
    fn delays(&self) -> bool {
        self.facts.iter().any(|(key, _)| *key == "delays")
    }

    fn has_front_end(&self) -> bool {
        ["smtp", "lmtp", "imap", "pop3"].contains(&self.protocol)
    }
}

fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in TABLE.lines() {
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        match line.strip_prefix("    ") {
            Some(fact) => {
                let (key, value) = fact.split_once("  ").unwrap_or((fact, ""));
                let row = rows.last_mut().expect("a server first");
                row.facts.push((key, value.trim()));
            }
            None => {
                let (name, what) = line.split_once(": ").expect("server: protocol, TLS");
                let (protocol, tls) = what.split_once(", ").expect("protocol, TLS");
                rows.push(Row {
                    name,
                    protocol,
                    tls,
                    facts: Vec::new(),
                });
            }
        }
    }
    rows
}

fn texts(value: &Value) -> Vec<&str> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(Value::as_str).collect()
}

/// Each word is offered, or with a dash before it is not; why not, otherwise.
fn offers(capabilities: &Value, words: &str) -> Result<(), String> {
    if words == "nothing" {
        return match capabilities {
            Value::Null => Ok(()),
            some => Err(format!("it was asked: {some}")),
        };
    }
    let all = texts(&capabilities["all"]);
    for word in words.split_whitespace() {
        let (word, wanted) = match word.strip_prefix('-') {
            Some(word) => (word, false),
            None => (word, true),
        };
        let is_offered = all.iter().any(|it| it.split(' ').next() == Some(word));
        if is_offered != wanted || capabilities.is_null() {
            return Err(format!("{word}: {all:?}"));
        }
    }
    Ok(())
}

fn certified(certificate: &Value, expected: &str) -> Result<(), String> {
    let fault = |what: &str| Err(format!("{what}: {certificate}"));
    let verifies = certificate["verifies"] == true && certificate["why_not"].is_null();
    if let Some(why) = expected.strip_prefix("does not verify: ") {
        let told = certificate["why_not"].as_str().unwrap_or_default();
        let is_told = told.contains(why) && certificate["verifies"] == false;
        return if is_told { Ok(()) } else { fault("why not") };
    }
    match expected {
        "none" if certificate.is_null() => Ok(()),
        "verifies" if verifies => Ok(()),
        "ours" if verifies => {
            let until = certificate["not_after"].as_str().unwrap_or_default();
            let until: jiff::Timestamp = until.parse().map_err(|_| format!("expiry: {until}"))?;
            let left = (until - jiff::Timestamp::now()).get_seconds() / 86_400;
            match () {
                () if certificate["subject"] != "localhost" => fault("subject"),
                () if certificate["issuer"] != "mailtee test CA" => fault("issuer"),
                () if texts(&certificate["names"]) != OUR_NAMES => fault("names"),
                () if !(3600..=3650).contains(&left) => fault("expiry"),
                () => Ok(()),
            }
        }
        _ => fault(expected),
    }
}

/// What of a fact is not as it should be.
fn holds(found: &Value, key: &str, expected: &str) -> Result<(), String> {
    let contains = |value: &Value| match value.to_string().is_empty() {
        false if texts(value).iter().any(|it| it.contains(expected)) => Ok(()),
        false if value.as_str().is_some_and(|it| it.contains(expected)) => Ok(()),
        _ => Err(value.to_string()),
    };
    let latest = match &found["secured"] {
        Value::Null => &found["plain"],
        secured => secured,
    };
    match key {
        "in the clear" => offers(&found["plain"], expected),
        "under TLS" => offers(&found["secured"], expected),
        "mechanisms" => match texts(&latest["auth"]).join(" ") == expected {
            true => Ok(()),
            false => Err(latest["auth"].to_string()),
        },
        "size" => match latest["size"].as_u64() == expected.parse().ok() {
            true => Ok(()),
            false => Err(latest.to_string()),
        },
        "greeting" => contains(&found["greeting"]),
        "about" => contains(&found["about"]),
        "JMAP" => contains(&found["jmap"]["authenticate"]),
        "evidence" => contains(&found["evidence"]),
        "certificate" => certified(&found["certificate"], expected),
        "delays" => Ok(()),
        other => Err(format!("the table knows no {other}")),
    }
}

fn look(place: &Place) -> Value {
    let output = place.identify(&["--format", "json"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    serde_json::from_str(&text).unwrap_or_else(|_| {
        let error = String::from_utf8_lossy(&output.stderr);
        panic!("{}: {text}{error}", place.address)
    })
}

fn took(found: &Value) -> f64 {
    found["seconds"].as_f64().expect("a number")
}

/// What is wrong with what was found.
fn faults(row: &Row, found: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let mut is = |what: &str, expected: &str| {
        if found[what] != expected {
            faults.push(format!("{}: {what} is {}", row.name, found[what]));
        }
    };
    is("protocol", row.protocol);
    is("tls", row.tls);
    for (key, expected) in &row.facts {
        if let Err(why) = holds(found, key, expected) {
            faults.push(format!("{}: {key} {expected}: {why}", row.name));
        }
    }
    if took(found) >= WITHIN_SECS {
        faults.push(format!("{}: it took {} s", row.name, took(found)));
    }
    faults
}

/// The report for people has the same in it, and the exit code says whether a protocol was found.
fn told_alike(row: &Row, place: &Place, found: &Value) -> Vec<String> {
    let output = place.identify(&[]);
    let text = String::from_utf8_lossy(&output.stdout);
    let protocol = match row.protocol {
        "unknown" => "speaks, but unknown",
        protocol => protocol,
    };
    let tls = match row.tls {
        "starttls" => ", STARTTLS",
        "implicit" => ", implicit TLS",
        _ => "",
    };
    let mut wanted = vec![format!("{}: {protocol}{tls}\n", place.address)];
    let certificate = &found["certificate"];
    if let Some(until) = certificate["not_after"].as_str() {
        let issuer = certificate["issuer"].as_str().unwrap_or_default();
        wanted.push(format!("by {issuer}, until {}", &until[..10]));
        let verifies = certificate["why_not"].as_str().unwrap_or("yes");
        // The moment at which it was looked at stands behind that.
        let verifies = verifies.split(": verification time").next();
        wanted.push(format!(
            "\n  verifies      {}",
            verifies.unwrap_or_default()
        ));
    }
    let first = match &found["plain"] {
        Value::Null => &found["secured"],
        plain => plain,
    };
    // An id of the session's own stands there too.
    let steady = |it: &&str| !it.contains("SESSIONID");
    wanted.extend(
        texts(&first["all"])
            .into_iter()
            .filter(steady)
            .map(str::to_owned),
    );
    let known = !["unknown", "silent", "refused"].contains(&row.protocol);
    let mut faults: Vec<String> = wanted
        .into_iter()
        .filter(|it| !text.contains(it.as_str()))
        .map(|it| format!("{}: the text lacks {it:?}:\n{text}", row.name))
        .collect();
    if output.status.code() != Some(if known { 0 } else { 1 }) {
        faults.push(format!("{}: {}", row.name, output.status));
    }
    if text.chars().any(|c| c.is_control() && c != '\n') {
        faults.push(format!("{}: control characters: {text:?}", row.name));
    }
    faults
}

/// What is printed for the configuration is one that is accepted; nothing is printed where there is no front end.
fn configures(row: &Row, place: &Place, found: &Value) -> Vec<String> {
    let output = place.identify(&["--config"]);
    let block = String::from_utf8_lossy(&output.stdout).into_owned();
    let fault = |what: &str| vec![format!("{}: {what}: {block}{output:?}", row.name)];
    if !row.has_front_end() {
        return match block.is_empty() && output.status.code() == Some(3) {
            true => Vec::new(),
            false => fault("a front end for that"),
        };
    }
    let protocol = format!("protocol = \"{}\"\n", row.protocol);
    let tls = match row.tls {
        "none" => String::new(),
        tls => format!("upstream_tls = \"{tls}\"\n"),
    };
    if !block.contains(&protocol) || !block.contains(&tls) {
        return fault("not what was found");
    }
    let verifies = row.tls == "none" || found["certificate"]["verifies"] == true;
    if block.contains("# mailtee will not connect") == verifies {
        return fault("what is known of its certificate");
    }
    let dir = TestDir::new();
    let file = dir.join("mailtee.toml");
    let data = dir.join("data").display().to_string();
    let vault = format!("127.0.0.1:{}", free_port());
    let whole = format!("data_dir = {data:?}\n[vault]\nlisten = {vault:?}\n{block}");
    std::fs::write(&file, whole).expect("a file");
    let mut check = Command::new(env!("CARGO_BIN_EXE_mailtee"));
    let options = ["check", "--offline", "--config"];
    let checked = check.args(options).arg(&file).output().expect("mailtee");
    match checked.status.code() {
        Some(0) => Vec::new(),
        _ => fault(&format!("it is refused: {checked:?}")),
    }
}

/// Does `work` for each, several at once.
fn all_at_once<T: Sync>(items: &[T], work: impl Fn(&T) -> Vec<String> + Sync) -> Vec<String> {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    let mut faults = Vec::new();
                    while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                        faults.extend(work(item));
                    }
                    faults
                })
            })
            .collect();
        let done = workers.into_iter();
        done.flat_map(|it| it.join().expect("it ends")).collect()
    })
}

#[test]
fn every_server_is_named_right_and_in_time() {
    let servers = Servers::start();
    let rows = rows();
    let told: BTreeSet<&str> = rows.iter().map(|row| row.name).collect();
    assert_eq!(told.len(), rows.len(), "a server stands there twice");
    let place = |row: &Row| {
        let place = servers.places.get(row.name);
        place.unwrap_or_else(|| panic!("no server {}", row.name))
    };

    // Those that answer at once: one after the other, so that none waits for another.
    let (slow, quick): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.delays());
    let mut faults = Vec::new();
    let mut found: Vec<(&Row, Value)> = Vec::new();
    let mut seconds = Vec::new();
    for row in quick {
        let first = look(place(row));
        faults.extend(self::faults(row, &first));
        let mut times = vec![took(&first)];
        // The machine may have been busy just then.
        if times[0] >= 1.0 {
            times.extend([(); 2].map(|()| took(&look(place(row)))));
            times.sort_by(f64::total_cmp);
        }
        seconds.push((times[times.len() / 2], row.name));
        found.push((row, first));
    }
    // Those that let everybody wait do so together.
    let waited: Vec<(&Row, Value)> = thread::scope(|scope| {
        let looking: Vec<_> = slow
            .into_iter()
            .map(|row| (row, scope.spawn(move || look(place(row)))))
            .collect();
        let looked = looking.into_iter();
        looked
            .map(|(row, it)| (row, it.join().expect("it ends")))
            .collect()
    });
    for (row, it) in &waited {
        faults.extend(self::faults(row, it));
    }
    found.extend(waited);
    faults.extend(all_at_once(&found, |(row, found)| {
        let mut faults = told_alike(row, place(row), found);
        faults.extend(configures(row, place(row), found));
        faults
    }));

    seconds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let at_once = seconds.iter().filter(|(took, _)| *took < 1.0).count();
    let (median, slowest) = (seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
    println!(
        "{} servers; of {} that answer at once {at_once} did so within 1 s, median {median:?}, slowest {slowest:?}",
        rows.len(),
        seconds.len(),
    );
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(at_once as f64 >= MOST * seconds.len() as f64, "{seconds:?}");
}
