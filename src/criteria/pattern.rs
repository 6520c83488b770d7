//! Patterns of addresses, domains and header values: `*` is any run of characters, `?` one, case does not matter.

/// A glob over a whole text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glob {
    written: String,
    lower: Vec<char>,
}

impl Glob {
    pub(super) fn new(written: &str) -> Self {
        Self {
            written: written.to_owned(),
            lower: written.chars().flat_map(char::to_lowercase).collect(),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.written
    }

    /// Time is at most the product of both lengths: only the last `*` is ever tried again.
    pub(super) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().flat_map(char::to_lowercase).collect();
        let (mut p, mut t) = (0, 0);
        // Where the last star stands, and up to where of the text it reaches.
        let mut star: Option<(usize, usize)> = None;
        while t < text.len() {
            match self.lower.get(p) {
                Some('*') => {
                    star = Some((p, t));
                    p += 1;
                }
                Some(c) if *c == '?' || *c == text[t] => {
                    p += 1;
                    t += 1;
                }
                _ => match star {
                    Some((at, reach)) => {
                        star = Some((at, reach + 1));
                        p = at + 1;
                        t = reach + 1;
                    }
                    None => return false,
                },
            }
        }
        self.lower[p..].iter().all(|c| *c == '*')
    }
}

/// `example.org` is that domain alone, `*.example.org` every domain below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainPattern(Glob);

impl DomainPattern {
    /// `None` for what can match no domain.
    pub fn new(written: &str) -> Option<Self> {
        let possible = !written.is_empty()
            && !written.starts_with('.')
            && written.chars().all(|c| {
                c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '*' | '?' | '[' | ']' | ':')
            });
        possible.then(|| Self(Glob::new(written.strip_suffix('.').unwrap_or(written))))
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Case does not matter.
    pub fn matches(&self, domain: &str) -> bool {
        self.0.matches(domain.strip_suffix('.').unwrap_or(domain))
    }
}

/// What stands after the last `@`: a quoted local part may hold one too.
pub(super) fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, yes, no) in [
            (
                "boss@example.org",
                vec!["BOSS@Example.ORG"],
                vec!["xboss@example.org", "boss@example.orgx", ""],
            ),
            (
                "*@example.org",
                vec!["a@example.org", "@example.org"],
                vec!["a@sub.example.org", "a@example.com"],
            ),
            ("*", vec!["", "a", "a@b"], vec![]),
            ("a?c*e", vec!["abce", "aßcddde"], vec!["ace", "abcd"]),
            ("*a*b*", vec!["ab", "xaxbx", "aab"], vec!["ba", "a", ""]),
            ("", vec![""], vec!["a"]),
            ("größe*", vec!["GRÖßE", "größer"], vec!["grosse"]),
        ] {
            let glob = Glob::new(pattern);
            for text in yes {
                assert!(glob.matches(text), "{pattern} ~ {text}");
            }
            for text in no {
                assert!(!glob.matches(text), "{pattern} !~ {text}");
            }
        }
    }

    #[test]
    fn many_stars_against_a_long_text_end_soon() {
        let glob = Glob::new(&"*a".repeat(50));
        assert!(glob.matches(&"a".repeat(20_000)));
        assert!(!glob.matches(&("a".repeat(20_000) + "b")));
    }

    #[test]
    fn a_domain_and_those_below_it_are_two_patterns() {
        let exact = DomainPattern::new("example.org").unwrap();
        assert!(exact.matches("EXAMPLE.org.") && !exact.matches("a.example.org"));
        let below = DomainPattern::new("*.example.org").unwrap();
        assert!(
            below.matches("a.b.example.org")
                && !below.matches("example.org")
                && !below.matches("notexample.org")
        );
        for wrong in ["", "a@example.org", ".example.org", "exa mple.org"] {
            assert_eq!(DomainPattern::new(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_quoted_local_part_may_hold_an_at_sign() {
        assert_eq!(domain_of("\"a@b\"@example.org"), "example.org");
        assert_eq!(domain_of("postmaster"), "");
    }
}
