//! One criterion, as written in the configuration and as checked.

use std::{io, str::FromStr};

use jiff::Timestamp;

use super::{
    Action, Context,
    direction::Direction,
    headers::HeaderLookup,
    matcher::{HeaderPattern, Matcher},
    pattern::{DomainPattern, Glob},
};

/// A `[[target.criterion]]` as its keys stand in the file. A rule matches where every key that it has matches; a key with
/// a list matches where any item does; a rule without keys matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrittenRule {
    /// Shown in logs and by `--explain`; `criterion 3` where there is none.
    pub name: Option<String>,
    pub action: Option<String>,
    /// Globs over the envelope's sender; `<>` is the null sender.
    pub sender: Vec<String>,
    /// Globs over the envelope's recipients, those that the next hop took.
    pub recipient: Vec<String>,
    /// The sender's or any recipient's domain.
    pub domain: Vec<String>,
    /// `inbound`, `outbound`, `internal`.
    pub direction: Vec<String>,
    pub size_bytes_min: Option<u64>,
    pub size_bytes_max: Option<u64>,
    /// `List-Id` (it is there) or `X-Spam-Flag: YES*` (a value matches).
    pub header: Vec<String>,
    /// Globs over the front end's name.
    pub frontend: Vec<String>,
    /// Networks of the client that sent it.
    pub client: Vec<String>,
    /// RFC 3339; the receipt date is at or after this.
    pub received_after: Option<String>,
    /// RFC 3339; the receipt date is before this.
    pub received_before: Option<String>,
}

/// A key of a rule that does not say anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: found {found}, expected {expected}")]
pub struct BadRule {
    pub key: &'static str,
    pub found: String,
    pub expected: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) action: Action,
    /// Cheap ones first: the header is read last.
    pub(super) matchers: Vec<Matcher>,
}

impl Rule {
    /// All that is wrong at once. `number` counts from 1.
    pub(super) fn new(written: &WrittenRule, number: usize) -> Result<Self, Vec<BadRule>> {
        let mut wrong = Vec::new();
        let action = match written.action.as_deref() {
            Some("send") => Action::Send,
            Some("skip") => Action::Skip,
            other => {
                wrong.push(BadRule {
                    key: "action",
                    found: other.map_or("nothing".to_owned(), |text| format!("{text:?}")),
                    expected: "\"send\" | \"skip\"",
                });
                Action::Send
            }
        };
        let mut matchers = Vec::new();
        let mut add = |matcher: Option<Matcher>| matchers.extend(matcher);
        add(list(
            &written.frontend,
            "frontend",
            "a front end's name, or a glob",
            &mut wrong,
            |text| (!text.is_empty()).then(|| Glob::new(text)),
        )
        .map(Matcher::Frontend));
        add(size(written, &mut wrong));
        add(received(written, &mut wrong));
        add(list(
            &written.client,
            "client",
            "an address or network such as \"10.0.0.0/8\"",
            &mut wrong,
            parsed,
        )
        .map(Matcher::Client));
        let address = "an address, a glob such as \"*@example.org\", or \"<>\" for the null sender";
        add(
            list(&written.sender, "sender", address, &mut wrong, address_glob).map(Matcher::Sender),
        );
        add(list(
            &written.recipient,
            "recipient",
            address,
            &mut wrong,
            address_glob,
        )
        .map(Matcher::Recipient));
        let domain = "a domain such as \"example.org\", or \"*.example.org\" for those below it";
        add(list(
            &written.domain,
            "domain",
            domain,
            &mut wrong,
            DomainPattern::new,
        )
        .map(Matcher::Domain));
        let direction = "\"inbound\" | \"outbound\" | \"internal\"";
        add(list(
            &written.direction,
            "direction",
            direction,
            &mut wrong,
            Direction::named,
        )
        .map(Matcher::Direction));
        let header = "a header's name, or name and value as \"X-Spam-Flag: YES*\"";
        add(list(
            &written.header,
            "header",
            header,
            &mut wrong,
            HeaderPattern::new,
        )
        .map(Matcher::Header));
        if !wrong.is_empty() {
            return Err(wrong);
        }
        Ok(Self {
            name: written
                .name
                .clone()
                .unwrap_or_else(|| format!("criterion {number}")),
            action,
            matchers,
        })
    }

    /// The first matcher that says no; `None` where the rule matches.
    pub(super) fn refusal(
        &self,
        context: &Context<'_>,
        headers: &mut dyn HeaderLookup,
    ) -> io::Result<Option<&Matcher>> {
        for matcher in &self.matchers {
            if !matcher.matches(context, headers)? {
                return Ok(Some(matcher));
            }
        }
        Ok(None)
    }
}

/// `None` where the key is absent; what does not parse is noted.
fn list<T>(
    written: &[String],
    key: &'static str,
    expected: &'static str,
    wrong: &mut Vec<BadRule>,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<Vec<T>> {
    if written.is_empty() {
        return None;
    }
    let parse = |text: &String| {
        let made = parse(text);
        if made.is_none() {
            wrong.push(BadRule {
                key,
                found: format!("{text:?}"),
                expected,
            });
        }
        made
    };
    Some(written.iter().filter_map(parse).collect())
}

fn parsed<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn address_glob(text: &str) -> Option<Glob> {
    match text {
        "<>" => Some(Glob::new("")),
        _ => text.contains(['@', '*']).then(|| Glob::new(text)),
    }
}

fn size(written: &WrittenRule, wrong: &mut Vec<BadRule>) -> Option<Matcher> {
    if written.size_bytes_min.is_none() && written.size_bytes_max.is_none() {
        return None;
    }
    let (min, max) = (
        written.size_bytes_min.unwrap_or(0),
        written.size_bytes_max.unwrap_or(u64::MAX),
    );
    if min > max {
        wrong.push(BadRule {
            key: "size_max",
            found: max.to_string(),
            expected: "at least size_min",
        });
    }
    Some(Matcher::Size { min, max })
}

fn received(written: &WrittenRule, wrong: &mut Vec<BadRule>) -> Option<Matcher> {
    let mut date = |key, text: &Option<String>| {
        let text = text.as_ref()?;
        let date = text.parse().ok();
        if date.is_none() {
            wrong.push(BadRule {
                key,
                found: format!("{text:?}"),
                expected: "a date and time with its zone, as \"2026-01-31T00:00:00Z\" (RFC 3339)",
            });
        }
        date
    };
    let from: Option<Timestamp> = date("received_after", &written.received_after);
    let until: Option<Timestamp> = date("received_before", &written.received_before);
    match (from, until) {
        (None, None) => None,
        (Some(from), Some(until)) if from >= until => {
            wrong.push(BadRule {
                key: "received_before",
                found: until.to_string(),
                expected: "a time after received_after",
            });
            None
        }
        (from, until) => Some(Matcher::Received { from, until }),
    }
}
