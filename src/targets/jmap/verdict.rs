//! What an answer means, as one table: every HTTP status, request error, method error and set error that a JMAP server
//! can say, and what becomes of the message. The README prints it; nothing else decides, and no text is ever read.

use std::time::Duration;

use super::shapes::{Problem, SetError};
use crate::{channel::ChannelError, targets::PutError};

/// What an answer means for the message, or for the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is there: success.
    Stored,
    /// The target takes nothing now: wait, then try again.
    Unavailable,
    /// It failed: a batch is halved until the message that fails stands alone; that one is tried again with growing
    /// delays, and parked where it keeps failing while others pass.
    Failed,
    /// Too much at once: a batch is halved; a message alone is parked.
    TooLarge,
    /// This message will never be taken: parked.
    Refused,
    /// Nothing goes until credentials or rights change; probed meanwhile.
    Unauthorized,
    /// What we know of the server is out of date: its session is read again, then as `Unavailable`.
    Rediscover,
    /// The uploaded bytes are gone: uploaded again, once.
    BlobGone,
    /// The copy that we took for stored is gone: its bytes are sent again.
    CopyGone,
}

/// Where in an answer it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The status of an answer that is no JMAP problem document.
    Http,
    /// A problem document's `type` (RFC 8620 section 3.6.1).
    Request,
    /// RFC 8620 section 3.6.2.
    Method,
    /// RFC 8620 section 5.3, RFC 8621 section 4.8.
    Set,
}

/// A row of the table.
pub struct Rule {
    pub layer: Layer,
    /// What the server said; `""`: anything else.
    pub said: &'static str,
    pub verdict: Verdict,
    pub because: &'static str,
}

const fn rule(layer: Layer, said: &'static str, verdict: Verdict, because: &'static str) -> Rule {
    Rule {
        layer,
        said,
        verdict,
        because,
    }
}

use Layer::{Http, Method, Request, Set};
use Verdict::*;

/// What decides. Within a layer the first rule that fits holds.
#[rustfmt::skip] // one rule a line
pub const TABLE: &[Rule] = &[
    rule(Http, "3xx", Rediscover, "the service moved; only discovery follows redirects"),
    rule(Http, "401", Unauthorized, "the credentials are not taken"),
    rule(Http, "403", Unauthorized, "the credentials do not suffice"),
    rule(Http, "404", Rediscover, "the URL from the session is gone"),
    rule(Http, "408", Unavailable, "the server gave up waiting for us"),
    rule(Http, "410", Rediscover, "the URL from the session is gone"),
    rule(Http, "413", TooLarge, "beyond a limit that the session does not tell"),
    rule(Http, "421", Unavailable, "the connection reached the wrong server"),
    rule(Http, "425", Unavailable, "sent too early"),
    rule(Http, "429", Unavailable, "too many requests; Retry-After is honoured"),
    rule(Http, "4xx", Failed, "may be one message's fault"),
    rule(Http, "500", Failed, "may be one message's fault"),
    rule(Http, "5xx", Unavailable, "the server or the proxy before it is in trouble; Retry-After is honoured"),
    rule(Http, "", Unavailable, "not an answer that HTTP knows"),
    rule(Request, "limit: maxSizeRequest", TooLarge, "the request is beyond a limit of the session"),
    rule(Request, "limit", Unavailable, "too many requests at once"),
    rule(Request, "unknownCapability", Rediscover, "the server lost a capability"),
    rule(Request, "notJSON", Failed, "may be one message's fault"),
    rule(Request, "notRequest", Failed, "may be one message's fault"),
    rule(Request, "", Failed, "may be one message's fault"),
    rule(Method, "serverUnavailable", Unavailable, "the server says so"),
    rule(Method, "serverFail", Failed, "may be one message's fault"),
    rule(Method, "serverPartialFail", Failed, "what was done is found by the look-up of the next attempt"),
    rule(Method, "unknownMethod", Rediscover, "the server lost a capability"),
    rule(Method, "forbidden", Unauthorized, "the account may not do this"),
    rule(Method, "accountNotFound", Rediscover, "the account is gone"),
    rule(Method, "accountNotSupportedByMethod", Unauthorized, "the account keeps no mail"),
    rule(Method, "accountReadOnly", Unauthorized, "the account takes nothing"),
    rule(Method, "requestTooLarge", TooLarge, "beyond maxObjectsInSet or a limit untold"),
    rule(Method, "stateMismatch", Unavailable, "somebody changed the account at once with us"),
    rule(Method, "", Failed, "may be one message's fault"),
    rule(Set, "alreadyExists", Stored, "the copy is there"),
    rule(Set, "invalidEmail", Refused, "the server takes no such message"),
    rule(Set, "tooLarge", Refused, "the server takes no message of this size"),
    rule(Set, "blobNotFound", BlobGone, "the upload expired"),
    rule(Set, "notFound", CopyGone, "the copy was removed"),
    rule(Set, "overQuota", Unavailable, "the account is full"),
    rule(Set, "rateLimit", Unavailable, "too many at once"),
    rule(Set, "", Failed, "may be this message's fault"),
];

/// A layer's rule for what was said; every layer ends in a rule for the rest.
fn verdict(layer: Layer, said: &str) -> Verdict {
    let mut rules = TABLE.iter().filter(|rule| rule.layer == layer);
    rules
        .find(|rule| rule.said == said || rule.said.is_empty())
        .map_or(Failed, |rule| rule.verdict)
}

/// Something did not go through: what to do, and why in words for the operator.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub verdict: Verdict,
    pub why: String,
    pub retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) fn new(verdict: Verdict, why: impl Into<String>) -> Self {
        Self {
            verdict,
            why: why.into(),
            retry_after: None,
        }
    }

    /// An HTTP answer that is no success.
    pub(super) fn http(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let problem: Option<Problem> = serde_json::from_slice(body).ok();
        let kind = problem
            .as_ref()
            .and_then(|p| p.kind.strip_prefix("urn:ietf:params:jmap:error:"));
        let (verdict, why) = match (kind, problem.as_ref()) {
            (Some(kind), Some(problem)) => {
                let limit = problem.limit.as_deref().unwrap_or_default();
                let exact = format!("{kind}: {limit}");
                let known = TABLE.iter().any(|r| r.layer == Request && r.said == exact);
                let detail = problem.detail.as_deref().unwrap_or_default();
                (
                    verdict(Request, if known { &exact } else { kind }),
                    said(&["HTTP", &status.to_string(), kind, limit, detail]),
                )
            }
            _ => {
                let exact = status.to_string();
                let class = format!("{}xx", status / 100);
                let known = TABLE.iter().any(|r| r.layer == Http && r.said == exact);
                (
                    verdict(Http, if known { &exact } else { &class }),
                    format!("HTTP {status}"),
                )
            }
        };
        Self {
            verdict,
            why,
            retry_after,
        }
    }

    pub(super) fn method(kind: &str, description: Option<&str>) -> Self {
        Self::new(
            verdict(Method, kind),
            said(&[kind, description.unwrap_or_default()]),
        )
    }

    pub(super) fn set(kind: &str, description: Option<&str>) -> Self {
        Self::new(
            verdict(Set, kind),
            said(&[kind, description.unwrap_or_default()]),
        )
    }

    /// The target as a whole takes nothing: asking it about more messages brings no other answer.
    pub(super) fn is_of_target(&self) -> bool {
        matches!(self.verdict, Unavailable | Unauthorized | Rediscover)
    }

    /// The e-mail that holds a sighting was not taken. That is never the captured message's fault, so it is not parked
    /// for it.
    pub(super) fn of_sighting(mut self) -> Self {
        if !self.is_of_target() {
            self.verdict = Failed;
        }
        self.why = format!("sighting: {}", self.why);
        self
    }

    /// What it means for one message, alone in its request.
    pub(super) fn for_message(self, remote_id: Option<&str>) -> PutError {
        let Self {
            verdict,
            why,
            retry_after,
        } = self;
        match verdict {
            Unavailable | Rediscover => PutError::Unavailable { why, retry_after },
            Refused | TooLarge => PutError::Refused { why },
            Unauthorized => PutError::Unauthorized { why },
            CopyGone => match remote_id {
                Some(id) => PutError::CopyMissing {
                    remote_id: id.into(),
                },
                None => PutError::Failed { why },
            },
            Failed | BlobGone | Stored => PutError::Failed { why },
        }
    }
}

impl SetError {
    pub(super) fn refusal(&self) -> Refusal {
        Refusal::set(&self.kind, self.description.as_deref())
    }
}

impl From<ChannelError> for Refusal {
    fn from(error: ChannelError) -> Self {
        let verdict = match error {
            ChannelError::Unreachable { .. } | ChannelError::Lost { .. } => Unavailable,
            ChannelError::Options { .. } => Unauthorized,
            ChannelError::Content(_) => Failed,
        };
        Self::new(verdict, error.to_string())
    }
}

/// The server's own words are kept short: they go into the journal and the log with every attempt.
fn said(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().filter(|w| !w.is_empty()).copied().collect();
    words
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .take(300)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_has_one_last_rule_for_the_rest_and_no_rule_twice() {
        for layer in [Http, Request, Method, Set] {
            let said: Vec<_> = TABLE
                .iter()
                .filter(|r| r.layer == layer)
                .map(|r| r.said)
                .collect();
            assert_eq!(said.iter().filter(|s| s.is_empty()).count(), 1);
            assert_eq!(said.last(), Some(&""));
            let mut unique = said.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), said.len());
        }
    }

    #[test]
    fn answers_are_judged_by_the_most_exact_rule() {
        let judged = |status, body: &str| Refusal::http(status, None, body.as_bytes()).verdict;
        assert_eq!(judged(503, "<html>"), Unavailable);
        assert_eq!(judged(500, ""), Failed);
        assert_eq!(judged(418, ""), Failed);
        assert_eq!(judged(302, ""), Rediscover);
        assert_eq!(judged(99, ""), Unavailable);
        let problem = |kind: &str, limit: &str| {
            let kind = format!("urn:ietf:params:jmap:error:{kind}");
            let body = serde_json::json!({"type": kind, "status": 400, "limit": limit});
            judged(400, &body.to_string())
        };
        assert_eq!(problem("limit", "maxSizeRequest"), TooLarge);
        assert_eq!(problem("limit", "maxConcurrentRequests"), Unavailable);
        assert_eq!(problem("unknownCapability", ""), Rediscover);
        assert_eq!(Refusal::method("serverFail", None).verdict, Failed);
        assert_eq!(Refusal::set("invalidEmail", None).verdict, Refused);
        assert_eq!(Refusal::set("somethingNew", None).verdict, Failed);
    }

    #[test]
    fn what_the_server_says_is_kept_short_and_printable() {
        let long = format!("\r\nnasty\0{}", "x".repeat(5000));
        let why = Refusal::set("invalidEmail", Some(&long)).why;
        assert!(
            why.starts_with("invalidEmail nasty") && why.len() == 300,
            "{why}"
        );
    }
}
