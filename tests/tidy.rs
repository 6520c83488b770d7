//! The map at the head of `src/lib.rs`, held: who may import whom, which code is pure, and how files look.
//!
//! It reads the sources as text, up to each file's own tests: a rule that needs more than that is not worth having here.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Which stages each stage may name. `cli`, `daemon` and `main` know everything.
const IMPORTS: &[(&str, &[&str])] = &[
    ("message", &[]),
    ("metrics", &[]),
    ("wire", &["message"]),
    ("criteria", &["message"]),
    ("net", &["message", "metrics"]),
    ("journal", &["message", "metrics"]),
    (
        "frontends",
        &["journal", "message", "metrics", "net", "wire"],
    ),
    ("identify", &["net"]),
    ("dedup", &["message", "metrics"]),
    ("channel", &["message", "metrics"]),
    ("targets", &["channel", "dedup", "message", "metrics"]),
    (
        "forward",
        &[
            "criteria", "dedup", "journal", "message", "metrics", "targets",
        ],
    ),
    ("vault", &["dedup", "message", "metrics", "net", "targets"]),
    (
        "admin",
        &[
            "dedup", "forward", "journal", "message", "metrics", "net", "targets",
        ],
    ),
    (
        "config",
        &[
            "admin",
            "channel",
            "criteria",
            "dedup",
            "forward",
            "frontends",
            "journal",
            "message",
            "net",
            "targets",
            "vault",
            "wire",
        ],
    ),
];

/// Code that has no tokio, sockets, files, clock or randomness: `now` is an argument.
const PURE: &[&str] = &[
    "message/",
    "wire/",
    "criteria/",
    "forward/policy.rs",
    "journal/format.rs",
];

const IMPURE: &[&str] = &[
    "tokio",
    "std::fs",
    "fs::",
    "std::thread",
    "rustix",
    "reqwest",
    "rand::",
    "TcpStream",
    "UnixStream",
    "SystemTime::now",
    "Instant::now",
];

/// A word of the code, and where alone it may stand.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("prometheus::", &["metrics.rs"]),
    ("anyhow", &["main.rs", "cli/"]),
    (
        "reqwest",
        &["channel/", "cli/", "identify/domain/", "targets/"],
    ),
];

const LINES_MAX: usize = 600;
const HEAD_LINES_MAX: usize = 15;

struct Source {
    /// Below `src/` or `tests/`, with slashes.
    path: String,
    text: String,
}

impl Source {
    /// The product's own part: up to the tests at the file's foot.
    fn code(&self) -> &str {
        match self.text.find("#[cfg(test)]\nmod ") {
            Some(end) => &self.text[..end],
            None => &self.text,
        }
    }

    fn stage(&self) -> &str {
        let name = self
            .path
            .split('/')
            .next()
            .expect("a path has a first part");
        name.trim_end_matches(".rs")
    }

    /// Lines of code that are not comments, with their numbers.
    fn statements(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code().lines().enumerate();
        lines
            .map(|(index, line)| (index + 1, line))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() && name != "target" {
                folders.push(path);
            } else if extensions.iter().any(|end| name.ends_with(end)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn sources(folder: &str) -> Vec<Source> {
    let sources: Vec<Source> = files(folder, &[".rs"])
        .into_iter()
        .map(|path| Source {
            text: fs::read_to_string(&path).expect("UTF-8"),
            path: path
                .strip_prefix(root().join(folder))
                .expect("below its folder")
                .to_string_lossy()
                .into_owned(),
        })
        .collect();
    assert!(!sources.is_empty(), "no sources in {folder}");
    sources
}

/// The first names after each `crate::`, one level of braces included.
fn imports(code: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => {
                names.insert(word(rest));
            }
            Some(group) => {
                let mut depth = 0;
                let mut starts = true;
                for (index, ch) in group.char_indices() {
                    match ch {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => starts = true,
                        _ if starts && !ch.is_whitespace() => {
                            names.insert(word(&group[index..]));
                            starts = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names.remove("");
    names
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

#[track_caller]
fn assert_none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn stages_import_whom_the_map_allows() {
    let stages: BTreeSet<&str> = IMPORTS.iter().map(|(stage, _)| *stage).collect();
    let mut found = Vec::new();
    for source in sources("src") {
        let Some((stage, allowed)) = IMPORTS.iter().find(|(name, _)| *name == source.stage())
        else {
            continue;
        };
        let code: Vec<&str> = source.statements().map(|(_, line)| line).collect();
        for name in imports(&code.join("\n")) {
            let stage_or_top = stages.contains(name) || ["cli", "daemon"].contains(&name);
            if stage_or_top && name != *stage && !allowed.contains(&name) {
                found.push(format!("{}: {stage} may not know {name}", source.path));
            }
        }
    }
    assert_none("imports that the map forbids", found);
}

#[test]
fn pure_code_touches_nothing() {
    let mut found = Vec::new();
    for source in sources("src") {
        if !PURE.iter().any(|pure| source.path.starts_with(pure)) {
            continue;
        }
        for (number, line) in source.statements() {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    assert_none("pure code that does I/O, waits or looks at a clock", found);
}

#[test]
fn some_words_stand_in_one_place_alone() {
    let mut found = Vec::new();
    for source in sources("src") {
        for (word, places) in ONLY_IN {
            if places.iter().any(|place| source.path.starts_with(place)) {
                continue;
            }
            for (number, _) in source.statements().filter(|(_, line)| line.contains(word)) {
                found.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    assert_none("words outside their place", found);
}

#[test]
fn files_are_read_in_one_sitting() {
    let mut found = Vec::new();
    for folder in ["src", "tests", "benches"] {
        if !root().join(folder).exists() {
            continue;
        }
        for path in files(folder, &[".rs"]) {
            let lines = fs::read_to_string(&path).expect("UTF-8").lines().count();
            if lines > LINES_MAX {
                found.push(format!("{}: {lines} lines", path.display()));
            }
        }
    }
    assert_none("files over 600 lines", found);
}

#[test]
fn every_file_says_what_it_is() {
    let mut found = Vec::new();
    for source in sources("src") {
        let head = source
            .text
            .lines()
            .take_while(|line| line.starts_with("//!"));
        let lines = head.count();
        // The map itself may be as long as it must.
        if lines == 0 || (lines > HEAD_LINES_MAX && source.path != "lib.rs") {
            found.push(format!("{}: a head of {lines} lines", source.path));
        }
    }
    assert_none("files with no head, or one over 15 lines", found);
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not find itself.
    let later = ["to", "fi", "xx", "unimple"].into_iter();
    let words: Vec<String> = later
        .zip(["do!", "xme", "x:", "mented!("])
        .map(|(start, end)| format!("{start}{end}"))
        .chain([["to", "do:"].concat()])
        .collect();
    let mut found = Vec::new();
    for folder in ["src", "tests", "benches", "deploy", "grafana"] {
        for path in files(folder, &[".rs", ".toml", ".yml", ".sh", ".service", ".md"]) {
            let text = fs::read_to_string(&path).expect("UTF-8").to_lowercase();
            for (index, line) in text.lines().enumerate() {
                if words.iter().any(|word| line.contains(word.as_str())) {
                    found.push(format!("{}:{}: {line}", path.display(), index + 1));
                }
            }
        }
    }
    assert_none("left for later", found);
}

#[test]
fn names_are_the_fields_words() {
    let vague = ["Manager", "Helper", "Util", "Handler", "Processor"];
    let mut found = Vec::new();
    for source in sources("src") {
        for (number, line) in source.statements() {
            let defines = ["struct ", "enum ", "trait ", "mod ", "type "]
                .iter()
                .find_map(|kind| line.split_once(kind))
                .map(|(_, rest)| word(rest))
                .unwrap_or_default();
            let is_vague = vague.iter().any(|word| {
                defines.ends_with(word) || defines == word.to_lowercase() || defines == "utils"
            });
            if is_vague || line.contains("fn get_") {
                found.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    assert_none("names that say nothing", found);
}

#[test]
fn imports_are_read_through_braces() {
    let code = "use crate::{\n    admin,\n    journal::{Queue, Journal},\n    message::K1,\n};\ncrate::net::f();";
    let expected = BTreeSet::from(["admin", "journal", "message", "net"]);
    assert_eq!(imports(code), expected);
}
