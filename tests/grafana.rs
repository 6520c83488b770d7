//! Dashboard and alert rules against the metrics: every name and label value they use exists, every alert has its test.

use std::{collections::BTreeSet, fs, path::PathBuf};

use mailtee::metrics::{self, Metrics};

fn file(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("grafana")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every `mailtee_…` word of a text.
fn names(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
        if word.starts_with("mailtee_") {
            names.insert(word.to_owned());
        }
    }
    names
}

/// The values given to a label in selectors: `outcome="gap"`, `outcome=\"gap\"` in JSON.
fn values(text: &str, label: &str) -> BTreeSet<String> {
    let text = text.replace("\\\"", "\"");
    let start = format!("{label}=\"");
    text.split(&start)
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .filter(|value| !value.starts_with('$'))
        .map(str::to_owned)
        .collect()
}

/// The names that a scrape has, histograms with their three series.
fn exported() -> BTreeSet<String> {
    let metrics = Metrics::new();
    metrics.touch_frontend("f");
    metrics.touch_mailbox("f", &["arrival"], &["reply"]);
    metrics.touch_target("t");
    names(&metrics.render())
}

#[test]
fn every_metric_named_is_exported() {
    let exported = exported();
    for file_name in ["mailtee.json", "prometheus-rules.yml"] {
        let unknown: Vec<_> = names(&file(file_name))
            .difference(&exported)
            .cloned()
            .collect();
        assert!(unknown.is_empty(), "{file_name} names {unknown:?}");
    }
}

#[test]
fn every_label_value_named_exists() {
    for file_name in ["mailtee.json", "prometheus-rules.yml"] {
        let text = file(file_name);
        let known: BTreeSet<String> = metrics::CAPTURE_OUTCOMES
            .iter()
            .chain(&metrics::FORWARD_OUTCOMES)
            .map(|outcome| (*outcome).to_owned())
            .collect();
        for outcome in values(&text, "outcome") {
            assert!(known.contains(&outcome), "{file_name}: outcome {outcome}");
        }
        for result in values(&text, "result") {
            let labelled = format!("result=\"{result}\"");
            let metrics = Metrics::new();
            metrics.touch_target("t");
            assert!(
                metrics.render().contains(&labelled),
                "{file_name}: {labelled}"
            );
        }
    }
}

#[test]
fn every_alert_has_a_runbook_and_a_case_that_fires() {
    let rules = file("prometheus-rules.yml");
    let cases = file("prometheus-rules.test.yml");
    let alerts: Vec<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(alerts.len() >= 7);
    assert_eq!(rules.matches("runbook: |").count(), alerts.len());
    for alert in alerts {
        let firing = format!("labels: 'ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"");
        assert!(cases.contains(&firing), "no case in which {alert} fires");
    }
}

#[test]
fn the_dashboard_asks_for_its_data_source_and_places_no_panel_on_another() {
    let dashboard: serde_json::Value = serde_json::from_str(&file("mailtee.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut taken = BTreeSet::new();
    for panel in panels {
        if panel["type"] != "row" {
            assert_eq!(
                panel["datasource"]["uid"], "${datasource}",
                "{}",
                panel["title"]
            );
        }
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for y in place("y")..place("y") + place("h") {
            for x in place("x")..place("x") + place("w") {
                assert!(
                    x < 24 && taken.insert((x, y)),
                    "{} overlaps",
                    panel["title"]
                );
            }
        }
    }
}
