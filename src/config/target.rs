//! `[[target]]`: where copies go, and its `[[target.criterion]]` rules.

use super::{
    channel::{read_channel, refuse_userinfo},
    criterion::read_criteria,
    section::Section,
    setting::{Bytes, Setting},
};
use crate::{
    criteria::{Criteria, DomainPattern},
    forward::{self, Policy},
    targets::{BatchLimits, jmap},
};

/// A target, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Labels its metrics, and is its key in the journal and the dedup map: renaming it makes a new target.
    pub name: String,
    pub store: Store,
    pub criteria: Criteria,
    pub forward: forward::Options,
}

/// By `type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    Jmap(jmap::Options),
}

impl Store {
    /// The word of `type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Jmap(_) => "jmap",
        }
    }

    /// Where the target is, as the configuration says it.
    pub fn url(&self) -> &str {
        match self {
            Self::Jmap(options) => &options.url,
        }
    }
}

pub(super) fn read_target(
    mut section: Section<'_>,
    allow_inline: bool,
    own_domains: &[DomainPattern],
) -> Option<Target> {
    let name = super::read_name(&mut section);
    let kind = section.choice("type", &[("jmap", ())]);
    if !section.has("type") {
        section.complain("type", "\"jmap\"");
    }
    // Read as the one type that there is, where it is missing or wrong too: its keys are no faults of their own.
    let store = read_jmap(&mut section, allow_inline).filter(|_| kind.is_some());
    let criteria = read_criteria(&mut section, own_domains);
    let forward = read_forward(&mut section);
    section.finish();
    Some(Target {
        criteria,
        forward,
        name: name?,
        store: Store::Jmap(store?),
    })
}

fn read_forward(section: &mut Section<'_>) -> forward::Options {
    let default = forward::Options::default();
    let options = forward::Options {
        message: Policy {
            base: section.or("message_retry_min", default.message.base),
            cap: section.or("message_retry_max", default.message.cap),
        },
        target: Policy {
            base: section.or("target_retry_min", default.target.base),
            cap: section.or("target_retry_max", default.target.cap),
        },
        failures_to_open: section.or("failures_to_pause", default.failures_to_open),
        attempts_to_park: section.or("attempts_to_park", default.attempts_to_park),
        linger: section.or("linger", default.linger),
    };
    for (min, max, policy) in [
        ("message_retry_min", "message_retry_max", options.message),
        ("target_retry_min", "target_retry_max", options.target),
    ] {
        if policy.base.is_zero() {
            section.complain(min, "more than nothing");
        }
        if policy.cap < policy.base {
            section.complain(max, &format!("at least `{min}`"));
        }
    }
    for (key, number) in [
        ("failures_to_pause", options.failures_to_open),
        ("attempts_to_park", options.attempts_to_park),
    ] {
        if number == 0 {
            section.complain(key, "at least 1");
        }
    }
    options
}

fn read_jmap(section: &mut Section<'_>, allow_inline: bool) -> Option<jmap::Options> {
    let default = jmap::Options::default();
    let url: Option<String> = section.required("url");
    let instead = "`user` and `password_file`, or `token_file`";
    if let Some(url) = &url
        && !refuse_userinfo(section, "url", url, instead)
        && !url.starts_with("https://")
        && !url.starts_with("http://")
    {
        section.complain("url", "https://host/.well-known/jmap");
    }
    let sightings = match section.optional::<SightingsMailbox>("sightings_mailbox") {
        Some(SightingsMailbox(place)) => place,
        None => default.sightings_mailbox,
    };
    let batch = BatchLimits {
        count: section.or("batch_messages", default.batch.count),
        bytes: section.or("batch_bytes", Bytes(default.batch.bytes)).0,
        in_flight: section.or("batches_in_flight", default.batch.in_flight),
    };
    for (key, number) in [
        ("batch_messages", batch.count),
        ("batches_in_flight", batch.in_flight),
    ] {
        if number == 0 {
            section.complain(key, "at least 1");
        }
    }
    let account = section.optional("account");
    let mailbox = section.or("mailbox", default.mailbox);
    let keywords = section.or("keywords", default.keywords);
    let channel = read_channel(section, allow_inline);
    // All was asked for: what is missing hides no other fault.
    Some(jmap::Options {
        url: url?,
        account,
        mailbox,
        sightings_mailbox: sightings,
        keywords,
        batch,
        channel,
    })
}

impl Setting for jmap::Place {
    fn expected() -> String {
        "a path such as \"archive/2026\", or a role such as \"role:archive\"".to_owned()
    }
    fn from_value(value: &toml::de::DeValue<'_>) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

/// A mailbox, or `"none"`.
struct SightingsMailbox(Option<jmap::Place>);

impl Setting for SightingsMailbox {
    fn expected() -> String {
        format!("\"none\", {}", jmap::Place::expected())
    }
    fn from_value(value: &toml::de::DeValue<'_>) -> Option<Self> {
        if value.as_str() == Some("none") {
            return Some(Self(None));
        }
        jmap::Place::from_value(value).map(|place| Self(Some(place)))
    }
}
