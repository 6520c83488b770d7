//! Does this capture go to that target? A list of rules; the first that matches decides; without one it goes.
//!
//! Pure: the sighting is given, a header is asked for only by a rule that needs one, so most decisions read nothing. The
//! receipt date is when the message was received where it is known (INTERNALDATE), else when it was captured. Rules
//! about the envelope never match a message that has none (one that lay in a mailbox). Fails only as the lookup fails;
//! what becomes of a message whose header cannot be read is the caller's choice (forwarding sends it).

mod direction;
mod headers;
mod matcher;
mod pattern;
mod rule;

use std::{io, net::IpAddr};

use jiff::Timestamp;
use serde::Serialize;

pub use direction::Direction;
pub use headers::{HeaderLookup, LazyHeaders};
use matcher::ip_of;
pub use pattern::DomainPattern;
use pattern::domain_of;
use rule::Rule;
pub use rule::{BadRule, WrittenRule};

use crate::message::{Origin, Sighting};

/// The checked rules of one target. The default sends everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Criteria {
    rules: Vec<Rule>,
    own_domains: Vec<DomainPattern>,
}

/// What a rule that matches does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Send,
    Skip,
}

/// What becomes of a capture for the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    Send,
    /// The name of the rule that said so.
    Skip {
        rule: &'a str,
    },
}

/// What decided, and why each rule before it did not; for `mailtee check --explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub action: Action,
    /// `None` where no rule matched: the default.
    pub rule: Option<String>,
    pub passed_over: Vec<PassedOver>,
}

/// A rule that did not match, and why, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    pub rule: String,
    pub because: String,
}

impl Criteria {
    /// Checks the rules of one target: all that is wrong at once, each with the number of its rule, from 0.
    pub fn new(
        written: &[WrittenRule],
        own_domains: Vec<DomainPattern>,
    ) -> Result<Self, Vec<(usize, BadRule)>> {
        let mut wrong = Vec::new();
        let mut rules = Vec::new();
        for (index, written) in written.iter().enumerate() {
            if !written.direction.is_empty() && own_domains.is_empty() {
                wrong.push((
                    index,
                    BadRule {
                        key: "direction",
                        found: "no own domains".to_owned(),
                        expected: "own_domains at the top of the file: without it no direction is known",
                    },
                ));
            }
            match Rule::new(written, index + 1) {
                Ok(rule) => rules.push(rule),
                Err(bad) => wrong.extend(bad.into_iter().map(|bad| (index, bad))),
            }
        }
        match wrong.is_empty() {
            true => Ok(Self { rules, own_domains }),
            false => Err(wrong),
        }
    }

    /// The first rule that matches decides. An error is the lookup's: a rule asked for a header that cannot be read.
    pub fn decide(
        &self,
        sighting: &Sighting,
        headers: &mut dyn HeaderLookup,
    ) -> io::Result<Decision<'_>> {
        let context = self.context(sighting);
        for rule in &self.rules {
            if rule.refusal(&context, headers)?.is_none() {
                return Ok(match rule.action {
                    Action::Send => Decision::Send,
                    Action::Skip => Decision::Skip { rule: &rule.name },
                });
            }
        }
        Ok(Decision::Send)
    }

    /// Decides as [`decide`](Self::decide) does, and says why.
    pub fn explain(
        &self,
        sighting: &Sighting,
        headers: &mut dyn HeaderLookup,
    ) -> io::Result<Explanation> {
        let context = self.context(sighting);
        let mut passed_over = Vec::new();
        for rule in &self.rules {
            match rule.refusal(&context, headers)? {
                Some(matcher) => passed_over.push(PassedOver {
                    rule: rule.name.clone(),
                    because: matcher.describe_refusal(&context, headers)?,
                }),
                None => {
                    return Ok(Explanation {
                        action: rule.action,
                        rule: Some(rule.name.clone()),
                        passed_over,
                    });
                }
            }
        }
        Ok(Explanation {
            action: Action::Send,
            rule: None,
            passed_over,
        })
    }

    fn context<'a>(&'a self, sighting: &'a Sighting) -> Context<'a> {
        Context {
            sighting,
            own_domains: &self.own_domains,
        }
    }
}

/// What rules may ask about a message.
struct Context<'a> {
    sighting: &'a Sighting,
    own_domains: &'a [DomainPattern],
}

impl Context<'_> {
    fn sender(&self) -> Option<String> {
        let envelope = self.sighting.envelope()?;
        Some(envelope.sender.to_text().into_owned())
    }

    fn recipients(&self) -> impl Iterator<Item = String> {
        let accepted = self
            .sighting
            .envelope()
            .into_iter()
            .flat_map(|e| e.accepted());
        accepted.map(|recipient| recipient.address.to_text().into_owned())
    }

    fn client(&self) -> Option<IpAddr> {
        let address = self.sighting.client()?.address.as_ref()?;
        ip_of(&address.to_text())
    }

    fn received(&self) -> Timestamp {
        let received = match &self.sighting.origin {
            Origin::Placement(placement) => placement.internal_date,
            Origin::Transaction { .. } => None,
        };
        let at = received.unwrap_or(self.sighting.captured_at);
        Timestamp::from_millisecond(at.0 as i64).unwrap_or(Timestamp::MAX)
    }

    fn direction(&self) -> Option<Direction> {
        let own = |address: &str| {
            let domain = domain_of(address);
            self.own_domains
                .iter()
                .any(|pattern| pattern.matches(domain))
        };
        let sender = self.sender()?;
        let from_own = (!sender.is_empty()).then(|| own(&sender));
        Direction::of(from_own, self.recipients().map(|recipient| own(&recipient)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{
        CaptureId, Client, Envelope, Fingerprint, Placement, Protocol, Recipient, UnixMillis,
    };

    fn sighting(sender: &str, recipients: &[&str]) -> Sighting {
        let recipient = |address: &&str| Recipient {
            address: (*address).into(),
            ..Recipient::default()
        };
        Sighting {
            id: CaptureId::from_bytes([1; 16]),
            captured_at: UnixMillis(1_767_225_600_000), // 2026-01-01T00:00:00Z
            frontend: "postfix".to_owned(),
            protocol: Protocol::Smtp,
            session: "1".to_owned(),
            origin: Origin::Transaction {
                envelope: Envelope {
                    sender: sender.into(),
                    recipients: recipients.iter().map(recipient).collect(),
                    ..Envelope::default()
                },
                client: Client {
                    address: Some("192.0.2.7".into()),
                    ..Client::default()
                },
            },
            fidelity: Vec::new(),
            bytes: 1000,
            fingerprint: Fingerprint::default(),
        }
    }

    fn plain() -> Sighting {
        sighting("a@example.org", &["b@example.net", "c@sub.example.org"])
    }

    /// A rule from its keys, as they would stand in the file.
    fn skip(set: impl FnOnce(&mut WrittenRule)) -> WrittenRule {
        let mut rule = WrittenRule {
            action: Some("skip".to_owned()),
            ..WrittenRule::default()
        };
        set(&mut rule);
        rule
    }

    fn criteria(rules: &[WrittenRule]) -> Criteria {
        let own = ["example.org", "*.example.org"].map(|d| DomainPattern::new(d).unwrap());
        Criteria::new(rules, own.to_vec()).unwrap()
    }

    fn no_headers() -> impl HeaderLookup {
        LazyHeaders::new(|| -> io::Result<&[u8]> { panic!("no rule here needs a header") })
    }

    fn matches(sighting: &Sighting, set: impl FnOnce(&mut WrittenRule)) -> bool {
        let criteria = criteria(&[skip(set)]);
        criteria.decide(sighting, &mut no_headers()).unwrap() != Decision::Send
    }

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn each_key_looks_at_its_own_thing() {
        let m = plain();
        assert!(matches(&m, |_| {}));
        for (yes, rule) in [
            (true, skip(|r| r.sender = list(&["x@y", "*@EXAMPLE.org"]))),
            (false, skip(|r| r.sender = list(&["*@example.net"]))),
            (true, skip(|r| r.recipient = list(&["c@*"]))),
            (false, skip(|r| r.recipient = list(&["a@*"]))),
            (true, skip(|r| r.domain = list(&["example.org"]))),
            (true, skip(|r| r.domain = list(&["*.example.org"]))),
            (false, skip(|r| r.domain = list(&["*.example.net"]))),
            (
                true,
                skip(|r| r.direction = list(&["internal", "outbound"])),
            ),
            (false, skip(|r| r.direction = list(&["inbound"]))),
            (true, skip(|r| r.size_bytes_min = Some(1000))),
            (true, skip(|r| r.size_bytes_max = Some(1000))),
            (false, skip(|r| r.size_bytes_min = Some(1001))),
            (false, skip(|r| r.size_bytes_max = Some(999))),
            (true, skip(|r| r.frontend = list(&["post*"]))),
            (false, skip(|r| r.frontend = list(&["exchange"]))),
            (
                true,
                skip(|r| r.client = list(&["10.0.0.0/8", "192.0.2.0/24"])),
            ),
            (false, skip(|r| r.client = list(&["2001:db8::/32"]))),
            (
                true,
                skip(|r| r.received_after = Some("2026-01-01T01:00:00+01:00".to_owned())),
            ),
            (
                false,
                skip(|r| r.received_before = Some("2026-01-01T00:00:00Z".to_owned())),
            ),
            (
                true,
                skip(|r| r.received_before = Some("2026-01-01T00:00:01Z".to_owned())),
            ),
        ] {
            let decision = criteria(std::slice::from_ref(&rule))
                .decide(&m, &mut no_headers())
                .unwrap()
                != Decision::Send;
            assert_eq!(decision, yes, "{rule:?}");
        }
    }

    #[test]
    fn every_key_of_a_rule_must_match() {
        let both = |r: &mut WrittenRule| {
            r.sender = list(&["a@example.org"]);
            r.size_bytes_min = Some(2000);
        };
        assert!(!matches(&plain(), both));
    }

    #[test]
    fn a_refused_recipient_is_no_recipient() {
        let mut m = plain();
        let Origin::Transaction { envelope, .. } = &mut m.origin else {
            unreachable!("plain() has an envelope")
        };
        envelope.recipients[1].refused = Some("550 no".into());
        assert!(!matches(&m, |r| r.recipient = list(&["c@*"])));
    }

    #[test]
    fn the_null_sender_is_asked_for_by_its_brackets() {
        let bounce = sighting("", &["b@example.org"]);
        assert!(matches(&bounce, |r| r.sender = list(&["<>"])));
        assert!(!matches(&plain(), |r| r.sender = list(&["<>"])));
        assert!(matches(&bounce, |r| r.direction = list(&["inbound"])));
    }

    #[test]
    fn a_message_from_a_mailbox_has_a_receipt_date_and_no_envelope() {
        let mut m = plain();
        m.origin = Origin::Placement(Placement {
            account: "a".into(),
            folder: "INBOX".into(),
            uid: None,
            uid_validity: None,
            flags: Vec::new(),
            internal_date: Some(UnixMillis(0)),
        });
        assert!(matches(&m, |r| r.received_before =
            Some("1970-01-01T00:00:01Z".to_owned())));
        assert!(!matches(&m, |r| r.sender = list(&["*"])));
        assert!(!matches(&m, |r| r.recipient = list(&["*"])));
    }

    const HEADER: &[u8] = b"List-Id: <news.example.org>\r\nX-Spam-Flag: YES\r\n\r\n";

    #[test]
    fn a_header_is_there_or_has_a_value() {
        for (yes, pattern) in [
            (true, "list-id"),
            (true, "X-Spam-Flag: yes"),
            (true, "List-Id: *example.org>"),
            (false, "List-Id: news"),
            (false, "X-Absent"),
            (false, "X-Absent: *"),
        ] {
            let criteria = criteria(&[skip(|r| r.header = list(&[pattern]))]);
            let decision = criteria
                .decide(&plain(), &mut LazyHeaders::new(|| Ok(HEADER)))
                .unwrap();
            assert_eq!(decision != Decision::Send, yes, "{pattern}");
        }
    }

    #[test]
    fn a_header_that_cannot_be_read_decides_nothing() {
        let criteria = criteria(&[skip(|r| r.header = list(&["List-Id"]))]);
        let mut broken = LazyHeaders::new(|| -> io::Result<&[u8]> {
            Err(io::ErrorKind::PermissionDenied.into())
        });
        assert!(criteria.decide(&plain(), &mut broken).is_err());
    }

    #[test]
    fn the_first_rule_that_matches_decides_and_the_explanation_says_why() {
        let rules = [
            skip(|r| {
                r.name = Some("no large ones".to_owned());
                r.size_bytes_min = Some(10_000);
            }),
            skip(|r| r.header = list(&["X-Loop", "List-Id: *other*"])),
            WrittenRule {
                name: Some("the boss".to_owned()),
                action: Some("send".to_owned()),
                recipient: list(&["b@example.net"]),
                ..WrittenRule::default()
            },
            skip(|_| {}),
        ];
        let criteria = criteria(&rules);
        let headers = || LazyHeaders::new(|| Ok(HEADER));
        assert_eq!(
            criteria.decide(&plain(), &mut headers()).unwrap(),
            Decision::Send
        );
        let explanation = criteria.explain(&plain(), &mut headers()).unwrap();
        assert_eq!(explanation.action, Action::Send);
        assert_eq!(explanation.rule.as_deref(), Some("the boss"));
        let because: Vec<_> = explanation
            .passed_over
            .iter()
            .map(|p| (p.rule.as_str(), p.because.as_str()))
            .collect();
        assert_eq!(
            because,
            [
                ("no large ones", "size is 1000 bytes; wants at least 10000"),
                (
                    "criterion 2",
                    "there is no X-Loop, List-Id is \"<news.example.org>\"; wants X-Loop, List-Id: *other*"
                ),
            ]
        );
        let stranger = sighting("x@y.example", &["z@y.example"]);
        assert_eq!(
            criteria.decide(&stranger, &mut headers()).unwrap(),
            Decision::Skip {
                rule: "criterion 4"
            }
        );
    }

    #[test]
    fn without_a_rule_everything_goes_and_no_header_is_read() {
        let all = Criteria::default();
        assert_eq!(
            all.decide(&plain(), &mut no_headers()).unwrap(),
            Decision::Send
        );
        assert_eq!(all.explain(&plain(), &mut no_headers()).unwrap().rule, None);
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let rules = [
            WrittenRule::default(),
            skip(|r| {
                r.sender = list(&["nobody", "a@b"]);
                r.client = list(&["10.0.0.1/8"]);
                r.domain = list(&["a@b"]);
                r.direction = list(&["sideways"]);
                r.header = list(&["two words: x"]);
                r.received_after = Some("yesterday".to_owned());
                r.size_bytes_min = Some(2);
                r.size_bytes_max = Some(1);
            }),
        ];
        let wrong = Criteria::new(&rules, Vec::new()).unwrap_err();
        let keys: Vec<_> = wrong.iter().map(|(rule, bad)| (*rule, bad.key)).collect();
        assert_eq!(
            keys,
            [
                (0, "action"),
                (1, "direction"),
                (1, "size_max"),
                (1, "received_after"),
                (1, "client"),
                (1, "sender"),
                (1, "domain"),
                (1, "direction"),
                (1, "header"),
            ]
        );
        assert_eq!(
            wrong[0].1.to_string(),
            "action: found nothing, expected \"send\" | \"skip\""
        );
    }
}
