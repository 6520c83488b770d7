//! `[[target.criterion]]`: which captures go to a target.

use toml::de::DeValue;

use super::{
    section::Section,
    setting::{Bytes, Setting},
};
use crate::criteria::{Criteria, DomainPattern, WrittenRule};

/// The default, which sends everything, where a fault was noted.
pub(super) fn read_criteria(target: &mut Section<'_>, own_domains: &[DomainPattern]) -> Criteria {
    let mut sections = target.sections("criterion");
    let written: Vec<WrittenRule> = sections.iter_mut().map(read_rule).collect();
    let criteria = Criteria::new(&written, own_domains.to_vec()).unwrap_or_else(|wrong| {
        for (rule, bad) in wrong {
            sections[rule].complain_of(bad.key, &bad.found, bad.expected);
        }
        Criteria::default()
    });
    sections.into_iter().for_each(Section::finish);
    criteria
}

fn read_rule(section: &mut Section<'_>) -> WrittenRule {
    let mut texts = |key| {
        section
            .optional(key)
            .map_or(Vec::new(), |Texts(texts)| texts)
    };
    let (sender, recipient) = (texts("sender"), texts("recipient"));
    let (domain, direction) = (texts("domain"), texts("direction"));
    let (header, frontend, client) = (texts("header"), texts("frontend"), texts("client"));
    let mut size = |key| section.optional(key).map(|Bytes(bytes)| bytes);
    let (size_bytes_min, size_bytes_max) = (size("size_min"), size("size_max"));
    let mut date = |key| section.optional(key).map(|Date(date)| date);
    let (received_after, received_before) = (date("received_after"), date("received_before"));
    WrittenRule {
        name: section.optional("name"),
        action: section.optional("action"),
        sender,
        recipient,
        domain,
        direction,
        size_bytes_min,
        size_bytes_max,
        header,
        frontend,
        client,
        received_after,
        received_before,
    }
}

/// One text, or a list.
struct Texts(Vec<String>);

impl Setting for Texts {
    fn expected() -> String {
        "a text or a list of texts".to_owned()
    }
    fn from_value(value: &DeValue<'_>) -> Option<Self> {
        match String::from_value(value) {
            Some(one) => Some(Self(vec![one])),
            None => Vec::from_value(value).map(Self),
        }
    }
}

/// A date as TOML has it, or in quotes.
struct Date(String);

impl Setting for Date {
    fn expected() -> String {
        "a date and time with its zone: 2026-01-31T00:00:00Z".to_owned()
    }
    fn from_value(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::Datetime(date) => Some(Self(date.to_string())),
            _ => String::from_value(value).map(Self),
        }
    }
}

impl Setting for DomainPattern {
    fn expected() -> String {
        "a domain such as \"example.org\", or \"*.example.org\" for those below it".to_owned()
    }
    fn from_value(value: &DeValue<'_>) -> Option<Self> {
        Self::new(value.as_str()?)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;

    const TARGET: &str = "[[target]]\nname = 'vault'\ntype = 'jmap'\nurl = 'https://127.0.0.1/'\n";

    fn faults(criteria: &str) -> Vec<String> {
        let text = format!("own_domains = ['example.org', '*.example.org']\n{TARGET}{criteria}");
        match Config::parse(Path::new("mailtee.toml"), &text, &|_| None) {
            Ok(_) => Vec::new(),
            Err(error) => error.to_string().lines().map(str::to_owned).collect(),
        }
    }

    #[test]
    fn every_key_of_a_criterion_is_read() {
        let all = "[[target.criterion]]\nname = 'x'\naction = 'skip'\nsender = '*@example.org'\nrecipient = ['<>', 'a@b']\n\
            domain = '*.example.org'\ndirection = ['inbound', 'internal']\nsize_min = 1\nsize_max = '10 MiB'\n\
            header = 'X-Spam-Flag: YES'\nfrontend = 'postfix'\nclient = '10.0.0.0/8'\n\
            received_after = 2026-01-01T00:00:00Z\nreceived_before = '2026-02-01T00:00:00+01:00'\n";
        assert_eq!(faults(all), Vec::<String>::new());
    }

    #[test]
    fn the_faults_of_all_rules_are_told_with_their_lines() {
        let wrong = "[[target.criterion]]\naction = 'drop'\n[[target.criterion]]\naction = 'send'\nsender = 'nobody'\nsizemax = 3\n";
        let faults = faults(wrong);
        assert_eq!(faults.len(), 3, "{faults:#?}");
        assert!(
            faults[0].contains("mailtee.toml:7: target.criterion.action: found \"drop\""),
            "{faults:#?}"
        );
        assert!(
            faults[1].contains(":10: target.criterion.sender"),
            "{faults:#?}"
        );
        assert!(faults[2].contains("`size_max`?"), "{faults:#?}");
    }
}
