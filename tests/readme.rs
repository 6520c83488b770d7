//! The tables in the README are made from the code they describe: a difference is a failure.
//!
//! `MAILTEE_WRITE_README=1 cargo test --test tests readme` writes them anew.

use std::{collections::BTreeMap, fs, path::PathBuf};

use mailtee::metrics::Metrics;

fn readme() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("README.md")
}

/// Compares what stands between `<!-- name -->` and `<!-- /name -->`, or writes it.
#[track_caller]
fn assert_block(name: &str, expected: &str) {
    let text = fs::read_to_string(readme()).expect("a README");
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let start = text.find(&open).expect("the block's start") + open.len();
    let end = start + text[start..].find(&close).expect("the block's end");
    if text[start..end] == *expected {
        return;
    }
    if std::env::var_os("MAILTEE_WRITE_README").is_some() {
        let written = [&text[..start], expected, &text[end..]].concat();
        fs::write(readme(), written).expect("written");
        return;
    }
    panic!(
        "the table {name:?} differs from the code:\n{}\nexpected:\n{expected}",
        &text[start..end]
    );
}

/// Name, kind, labels and help of every metric, from a scrape in which each has a series.
fn metrics_table() -> String {
    let metrics = Metrics::new();
    metrics.touch_frontend("front");
    metrics.touch_mailbox("front", &["arrival"], &["compress"]);
    metrics.touch_target("target");
    let scrape = metrics.render();
    let mut kinds = BTreeMap::new();
    let mut helps = BTreeMap::new();
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    for line in scrape.lines().filter(|line| line.contains("mailtee_")) {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            helps.insert(name.to_owned(), help.to_owned());
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        {
            kinds.insert(name.to_owned(), kind.to_owned());
        } else {
            let (series, _) = line.rsplit_once(' ').expect("a sample");
            let (name, inside) = series.split_once('{').unwrap_or((series, ""));
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .filter(|name| kinds.contains_key(*name))
                .unwrap_or(name);
            let names: Vec<&str> = inside
                .trim_end_matches('}')
                .split("\",")
                .filter_map(|pair| pair.split_once('='))
                .map(|(label, _)| label)
                .filter(|label| *label != "le")
                .collect();
            labels.entry(name.to_owned()).or_insert(names.join(", "));
        }
    }
    let mut table = String::from("| metric | kind | labels | meaning |\n|---|---|---|---|\n");
    for (name, help) in &helps {
        let labels = labels.get(name).map_or("", String::as_str);
        table += &format!("| `{name}` | {} | {labels} | {help} |\n", kinds[name]);
    }
    table
}

#[test]
fn the_metrics_table_is_what_a_scrape_says() {
    assert_block("metrics", &metrics_table());
}

/// The table that decides, as the target has it.
fn answers_table() -> String {
    use mailtee::targets::jmap::verdict::{Layer, TABLE, Verdict};
    let mut table = String::from(
        "| where | the server says | what mailtee does | because |\n|---|---|---|---|\n",
    );
    for rule in TABLE {
        let place = match rule.layer {
            Layer::Http => "HTTP status",
            Layer::Request => "JMAP request",
            Layer::Method => "JMAP method",
            Layer::Set => "one message",
        };
        let does = match rule.verdict {
            Verdict::Stored => "settles it: the copy is there",
            Verdict::Unavailable => "waits and tries again; nothing is parked",
            Verdict::Failed => {
                "halves the batch; a message alone is tried again, and parked where others pass"
            }
            Verdict::TooLarge => "halves the batch; parks a message alone",
            Verdict::Refused => "parks the message",
            Verdict::Unauthorized => "stops the target and probes it",
            Verdict::Rediscover => "reads the session again, then tries again",
            Verdict::BlobGone => "uploads once more",
            Verdict::CopyGone => "sends the bytes again",
        };
        let said = match rule.said {
            "" => "anything else".to_owned(),
            said => format!("`{said}`"),
        };
        table += &format!("| {place} | {said} | {does} | {} |\n", rule.because);
    }
    table
}

#[test]
fn the_answers_table_is_the_one_that_decides() {
    assert_block("answers", &answers_table());
}
