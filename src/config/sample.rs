//! Holds `deploy/mailtee.toml` to the schema: it parses, it names every key, and the defaults it shows are the defaults.

use std::{collections::BTreeSet, path::Path};

use toml::de::{DeTable, DeValue};

use super::{Config, read};

const SAMPLE: &str = include_str!("../../deploy/mailtee.toml");

fn parse(text: &str) -> Config {
    let file = Path::new("/etc/mailtee/mailtee.toml");
    Config::parse(file, text, &|_| None).unwrap_or_else(|error| panic!("{error}"))
}

/// The file with some of its commented settings in force.
fn with(wanted: impl Fn(&str) -> bool) -> String {
    let lines = SAMPLE.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if is_setting(setting) && wanted(setting) => setting,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// `#key = …` and `#[[table]]`; prose has a space behind its sign.
fn is_setting(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c == '[')
}

fn is_example(setting: &str) -> bool {
    setting.ends_with("# e.g.")
}

/// Every key that stands in a document, as the reader names them.
fn keys(table: &DeTable<'_>, name: &str, found: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = match name {
            "" => key.get_ref().to_string(),
            _ => format!("{name}.{}", key.get_ref()),
        };
        match value.get_ref() {
            DeValue::Table(inner) => keys(inner, &path, found),
            DeValue::Array(items) => {
                let tables = items.iter().filter_map(|item| item.get_ref().as_table());
                tables.for_each(|inner| keys(inner, &path, found));
            }
            _ => {}
        }
        found.insert(path);
    }
}

#[test]
fn it_is_a_configuration_as_it_stands() {
    let config = parse(SAMPLE);
    assert_eq!(config.target_names(), ["vault"]);
    assert_eq!(config.frontends.len(), 1);
}

#[test]
fn it_names_every_key_and_no_other() {
    let all = with(|_| true);
    let (_, _, asked) = read(Path::new("mailtee.toml"), &all, &|_| None);
    let document = DeTable::parse(&all).unwrap_or_else(|error| panic!("{error}"));
    let mut named = BTreeSet::new();
    keys(document.get_ref(), "", &mut named);
    let missing: Vec<_> = asked.difference(&named).collect();
    let unknown: Vec<_> = named.difference(&asked).collect();
    assert_eq!((missing, unknown), (Vec::new(), Vec::new()));
}

#[test]
fn the_defaults_it_shows_are_the_defaults() {
    // The target's keys follow a table that is itself an example.
    let target = SAMPLE.find("#[[target]]").expect("a target");
    let above = &SAMPLE[..target];
    let shown = with(|setting| !is_example(setting) && above.contains(&format!("\n#{setting}\n")));
    assert_eq!(
        format!("{:#?}", parse(&shown)),
        format!("{:#?}", parse(SAMPLE))
    );
}

#[test]
fn the_target_defaults_it_shows_are_the_defaults() {
    let needed = ["[[target]]", "name = \"archive\"", "type =", "url ="];
    let is_needed = |setting: &str| needed.iter().any(|start| setting.starts_with(start));
    let bare = with(is_needed);
    let target = SAMPLE.find("#[[target]]").expect("a target");
    let above = &SAMPLE[..target];
    let shown = with(|setting| {
        let is_default = !is_example(setting) && !setting.starts_with("[[");
        is_needed(setting) || (is_default && !above.contains(&format!("\n#{setting}\n")))
    });
    assert_ne!(bare, shown);
    assert_eq!(
        format!("{:#?}", parse(&shown)),
        format!("{:#?}", parse(&bare))
    );
}
