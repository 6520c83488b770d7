//! Values as Postfix writes them: lists whose items may be groups in braces, milters with their settings, endpoints, times.
//! Pure. What Postfix itself would refuse gives none here, never a guess.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use crate::net::Address;

/// The items of a list, separated by white space or commas outside braces; a group keeps its braces.
pub(super) fn items(list: &str) -> Vec<&str> {
    let mut items = Vec::new();
    let mut depth = 0usize;
    let mut start = None;
    for (at, c) in list.char_indices() {
        let separates = depth == 0 && (c == ',' || c.is_ascii_whitespace());
        match (separates, start) {
            (true, Some(from)) => {
                items.push(&list[from..at]);
                start = None;
            }
            (false, None) => start = Some(at),
            _ => {}
        }
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    items.extend(start.map(|from| &list[from..]));
    items
}

/// What stands in a group's braces.
fn inside(group: &str) -> Option<&str> {
    Some(group.strip_prefix('{')?.strip_suffix('}')?.trim())
}

/// One milter of a list: `inet:host:port`, or `{ inet:host:port, name=value, … }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Milter<'a> {
    /// As it is written, without its settings.
    pub(super) written: &'a str,
    settings: Vec<(&'a str, &'a str)>,
}

impl<'a> Milter<'a> {
    pub(super) fn parse(item: &'a str) -> Self {
        let Some(group) = inside(item) else {
            return Self {
                written: item,
                settings: Vec::new(),
            };
        };
        let mut parts = items(group).into_iter();
        Self {
            written: parts.next().unwrap_or_default(),
            settings: parts
                .filter_map(|part| inside(part).unwrap_or(part).split_once('='))
                .map(|(name, value)| (name.trim(), value.trim()))
                .collect(),
        }
    }

    pub(super) fn setting(&self, name: &str) -> Option<&'a str> {
        let found = self.settings.iter().rev().find(|(key, _)| *key == name);
        found.map(|(_, value)| *value)
    }

    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        let (kind, rest) = self.written.split_once(':')?;
        match kind.to_ascii_lowercase().as_str() {
            "inet" => inet(rest),
            "unix" | "local" => Some(Endpoint::Unix(rest.into())),
            _ => None,
        }
    }
}

/// Where Postfix connects to. A unix path is as it is written: relative, or absolute within a chroot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Inet { host: String, port: u16 },
    Unix(PathBuf),
}

impl Endpoint {
    /// Of `content_filter`: a transport and a next hop.
    pub(super) fn of_content_filter(value: &str) -> Option<Self> {
        let (_transport, next_hop) = value.trim().split_once(':')?;
        Self::of_proxy_filter(next_hop)
    }

    /// Of `smtpd_proxy_filter`.
    pub(super) fn of_proxy_filter(value: &str) -> Option<Self> {
        let value = value.trim();
        match value.strip_prefix("unix:") {
            Some(path) => Some(Self::Unix(path.into())),
            None => inet(value.strip_prefix("inet:").unwrap_or(value)),
        }
    }

    /// Of a service of type inet in master.cf: `port`, `host:port`; a name for a port is its number in /etc/services
    /// where that is mail's.
    pub(super) fn of_service(name: &str) -> Option<Self> {
        inet(name)
    }

    /// Whether who connects here reaches who listens there, as far as the two names tell.
    pub(super) fn reaches(&self, listen: &Address) -> bool {
        match (self, listen) {
            (Self::Unix(path), Address::Unix(at)) => path == at,
            (Self::Inet { host, port }, Address::Tcp { host: at, port: on }) => {
                port == on && same_host(host, at)
            }
            _ => false,
        }
    }
}

fn inet(text: &str) -> Option<Endpoint> {
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let host = host
        .strip_prefix('[')
        .map_or(Some(host), |inside| inside.strip_suffix(']'))?;
    let port = match port {
        "smtp" => 25,
        "submission" => 587,
        "smtps" | "submissions" => 465,
        number => number.parse().ok()?,
    };
    Some(Endpoint::Inet {
        host: if host.is_empty() { "localhost" } else { host }.to_owned(),
        port,
    })
}

fn same_host(to: &str, at: &str) -> bool {
    let local = |host: &str| host.eq_ignore_ascii_case("localhost");
    let ip = |host: &str| host.parse::<IpAddr>().ok();
    match (ip(to), ip(at)) {
        (_, Some(at)) if at.is_unspecified() => true,
        (Some(to), Some(at)) => to == at,
        (Some(ip), None) => local(at) && ip.is_loopback(),
        (None, Some(ip)) => local(to) && ip.is_loopback(),
        (None, None) => to.eq_ignore_ascii_case(at),
    }
}

/// A time: a number and one of s, m, h, d, w; seconds where no unit stands.
pub(super) fn time(value: &str) -> Option<Duration> {
    let value = value.trim();
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = match &value[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    let count: u64 = digits.parse().ok()?;
    Some(Duration::from_secs(count.checked_mul(seconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_and_blanks_separate_outside_braces() {
        let list = "inet:a:1,  unix:b\t{ inet:c:3, default_action=accept { x = y, z } },{inet:d:4}";
        let expected = [
            "inet:a:1",
            "unix:b",
            "{ inet:c:3, default_action=accept { x = y, z } }",
            "{inet:d:4}",
        ];
        assert_eq!(items(list), expected);
        assert_eq!(items(" , "), Vec::<&str>::new());
        // Faulty, and not ours to mend: nothing is lost, nothing panics.
        assert_eq!(items("{ inet:a:1"), ["{ inet:a:1"]);
        assert_eq!(items("inet:a:1 } b"), ["inet:a:1", "}", "b"]);
    }

    #[test]
    fn a_milter_has_settings_of_its_own() {
        let milter =
            Milter::parse("{ inet:localhost:8891, default_action=accept { protocol = 4 } }");
        assert_eq!(milter.written, "inet:localhost:8891");
        assert_eq!(milter.setting("default_action"), Some("accept"));
        assert_eq!(milter.setting("protocol"), Some("4"));
        assert_eq!(milter.setting("content_timeout"), None);
        assert_eq!(Milter::parse("unix:spamass/s").setting("protocol"), None);
        assert_eq!(Milter::parse("{}").endpoint(), None);
    }

    #[test]
    fn endpoints_are_read_where_postfix_reads_them() {
        let inet = |host: &str, port| {
            Some(Endpoint::Inet {
                host: host.to_owned(),
                port,
            })
        };
        let unix = |path: &str| Some(Endpoint::Unix(path.into()));
        for (written, expected) in [
            ("inet:localhost:8891", inet("localhost", 8891)),
            ("inet:[::1]:8891", inet("::1", 8891)),
            ("INET:127.0.0.1:1", inet("127.0.0.1", 1)),
            ("unix:mailtee/milter.sock", unix("mailtee/milter.sock")),
            ("local:/run/m", unix("/run/m")),
            ("inet:localhost:99999", None),
            ("inet:[::1:1", None),
            ("127.0.0.1:8891", None),
            ("}", None),
        ] {
            assert_eq!(Milter::parse(written).endpoint(), expected, "{written}");
        }
        for (written, expected) in [
            ("mailtee:[127.0.0.1]:10025", inet("127.0.0.1", 10025)),
            ("lmtp:inet:filter.example:24", inet("filter.example", 24)),
            ("lmtp:unix:/run/f", unix("/run/f")),
            ("mailtee", None),
            ("", None),
        ] {
            let found = Endpoint::of_content_filter(written);
            assert_eq!(found, expected, "{written}");
        }
        let proxy = Endpoint::of_proxy_filter;
        assert_eq!(proxy("inet:127.0.0.1:10025"), inet("127.0.0.1", 10025));
        assert_eq!(proxy(":10025"), inet("localhost", 10025));
        assert_eq!(proxy("unix:private/f"), unix("private/f"));
        assert_eq!(Endpoint::of_service("smtp"), inet("localhost", 25));
        assert_eq!(Endpoint::of_service("[::1]:10026"), inet("::1", 10026));
    }

    #[test]
    fn who_connects_there_reaches_us() {
        for (endpoint, listen, reaches) in [
            ("inet:localhost:8892", "127.0.0.1:8892", true),
            ("inet:127.0.0.1:8892", "localhost:8892", true),
            ("inet:[::1]:8892", "localhost:8892", true),
            ("inet:192.0.2.1:8892", "0.0.0.0:8892", true),
            ("inet:mx.example:8892", "MX.example:8892", true),
            ("inet:127.0.0.1:8892", "127.0.0.1:8893", false),
            ("inet:192.0.2.1:8892", "127.0.0.1:8892", false),
            ("inet:mx.example:8892", "127.0.0.1:8892", false),
            ("unix:/run/m", "unix:/run/m", true),
            ("unix:run/m", "unix:/run/m", false),
            ("unix:/run/m", "127.0.0.1:8892", false),
        ] {
            let found = Milter::parse(endpoint).endpoint().unwrap();
            let listen: Address = listen.parse().unwrap();
            assert_eq!(found.reaches(&listen), reaches, "{endpoint} {listen}");
        }
    }

    #[test]
    fn times_have_units() {
        for (value, seconds) in [
            ("30s", 30),
            ("300", 300),
            ("5m", 300),
            ("1h", 3_600),
            ("1d", 86_400),
        ] {
            assert_eq!(time(value), Some(Duration::from_secs(seconds)), "{value}");
        }
        for odd in ["", "s", "5x", "-1s", "99999999999999999999d", "5 m"] {
            assert_eq!(time(odd), None, "{odd}");
        }
    }
}
