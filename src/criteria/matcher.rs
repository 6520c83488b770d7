//! What one key of a rule looks at, and how it says for people why it did not match.

use std::{fmt, io, net::IpAddr};

use jiff::Timestamp;

use super::{
    Context,
    direction::Direction,
    headers::HeaderLookup,
    pattern::{DomainPattern, Glob, domain_of},
};
use crate::message::network::Network;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Matcher {
    Frontend(Vec<Glob>),
    Size {
        min: u64,
        max: u64,
    },
    Received {
        from: Option<Timestamp>,
        until: Option<Timestamp>,
    },
    Client(Vec<Network>),
    Sender(Vec<Glob>),
    Recipient(Vec<Glob>),
    Domain(Vec<DomainPattern>),
    Direction(Vec<Direction>),
    Header(Vec<HeaderPattern>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeaderPattern {
    name: String,
    value: Option<Glob>,
}

impl HeaderPattern {
    pub(super) fn new(text: &str) -> Option<Self> {
        let (name, value) = match text.split_once(':') {
            Some((name, value)) => (name.trim(), Some(Glob::new(value.trim()))),
            None => (text.trim(), None),
        };
        let possible = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic());
        possible.then(|| Self {
            name: name.to_owned(),
            value,
        })
    }

    fn matches(&self, headers: &mut dyn HeaderLookup) -> io::Result<bool> {
        let values = headers.values(&self.name)?;
        Ok(match &self.value {
            None => !values.is_empty(),
            Some(glob) => values.iter().any(|value| glob.matches(value)),
        })
    }
}

impl Matcher {
    pub(super) fn matches(
        &self,
        context: &Context<'_>,
        headers: &mut dyn HeaderLookup,
    ) -> io::Result<bool> {
        let any = |globs: &[Glob], text: &str| globs.iter().any(|glob| glob.matches(text));
        Ok(match self {
            Self::Frontend(globs) => any(globs, &context.sighting.frontend),
            Self::Size { min, max } => (*min..=*max).contains(&context.sighting.bytes),
            Self::Received { from, until } => {
                let at = context.received();
                from.is_none_or(|from| at >= from) && until.is_none_or(|until| at < until)
            }
            Self::Client(networks) => context
                .client()
                .is_some_and(|address| networks.iter().any(|network| network.contains(address))),
            Self::Sender(globs) => context.sender().is_some_and(|sender| any(globs, &sender)),
            Self::Recipient(globs) => context.recipients().any(|recipient| any(globs, &recipient)),
            Self::Domain(patterns) => context
                .sender()
                .into_iter()
                .chain(context.recipients())
                .any(|address| {
                    patterns
                        .iter()
                        .any(|pattern| pattern.matches(domain_of(&address)))
                }),
            Self::Direction(directions) => context
                .direction()
                .is_some_and(|direction| directions.contains(&direction)),
            Self::Header(patterns) => {
                for pattern in patterns {
                    if pattern.matches(headers)? {
                        return Ok(true);
                    }
                }
                false
            }
        })
    }

    /// Why it said no, for people: what the message has, and what the rule wants.
    pub(super) fn describe_refusal(
        &self,
        context: &Context<'_>,
        headers: &mut dyn HeaderLookup,
    ) -> io::Result<String> {
        let has = match self {
            Self::Frontend(_) => format!("front end is {}", context.sighting.frontend),
            Self::Size { .. } => format!("size is {} bytes", context.sighting.bytes),
            Self::Received { .. } => format!("received at {}", context.received()),
            Self::Client(_) => match context.client() {
                Some(address) => format!("client is {address}"),
                None => "client address is not known".to_owned(),
            },
            Self::Sender(_) => match context.sender() {
                Some(sender) => format!("sender is <{sender}>"),
                None => "there is no envelope".to_owned(),
            },
            Self::Recipient(_) => format!("recipients are {}", joined(context.recipients())),
            Self::Domain(_) => {
                let addresses = context.sender().into_iter().chain(context.recipients());
                format!(
                    "domains are {}",
                    joined(addresses.map(|a| domain_of(&a).to_owned()))
                )
            }
            Self::Direction(_) => match context.direction() {
                Some(direction) => format!("direction is {}", direction.name()),
                None => "direction is not known: neither side is an own domain".to_owned(),
            },
            Self::Header(patterns) => {
                let mut has = Vec::new();
                for pattern in patterns {
                    let values = headers.values(&pattern.name)?;
                    match values.first() {
                        None => has.push(format!("there is no {}", pattern.name)),
                        Some(value) => has.push(format!("{} is {value:?}", pattern.name)),
                    }
                }
                has.join(", ")
            }
        };
        Ok(format!("{has}; wants {self}"))
    }
}

fn joined(items: impl Iterator<Item = impl Into<String>>) -> String {
    const SHOWN: usize = 10;
    let mut items: Vec<String> = items.map(Into::into).collect();
    let more = items.len().saturating_sub(SHOWN);
    items.truncate(SHOWN);
    let mut text = items.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    if text.is_empty() {
        "none".to_owned()
    } else {
        text
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let globs = |globs: &[Glob]| {
            joined(globs.iter().map(|glob| match glob.as_str() {
                "" => "<>",
                text => text,
            }))
        };
        match self {
            Self::Frontend(list) | Self::Sender(list) | Self::Recipient(list) => {
                f.write_str(&globs(list))
            }
            Self::Size { min, max: u64::MAX } => write!(f, "at least {min}"),
            Self::Size { min, max } => write!(f, "{min} to {max}"),
            Self::Received { from, until } => {
                if let Some(from) = from {
                    write!(f, "at or after {from}")?;
                }
                if let Some(until) = until {
                    write!(
                        f,
                        "{}before {until}",
                        if from.is_some() { " and " } else { "" }
                    )?;
                }
                Ok(())
            }
            Self::Client(networks) => f.write_str(&joined(networks.iter().map(Network::to_string))),
            Self::Domain(patterns) => {
                f.write_str(&joined(patterns.iter().map(DomainPattern::as_str)))
            }
            Self::Direction(list) => f.write_str(&joined(list.iter().map(|d| d.name()))),
            Self::Header(patterns) => {
                f.write_str(&joined(patterns.iter().map(|p| match &p.value {
                    None => p.name.clone(),
                    Some(value) => format!("{}: {}", p.name, value.as_str()),
                })))
            }
        }
    }
}

/// The client's address, where it is one.
pub(super) fn ip_of(text: &str) -> Option<IpAddr> {
    // XFORWARD and Received write IPv6 addresses with this prefix (RFC 5321 4.1.3).
    text.strip_prefix("IPv6:").unwrap_or(text).parse().ok()
}
