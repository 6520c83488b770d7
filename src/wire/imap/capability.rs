//! What the server says it can do, less what a proxy must not let through: that which makes it blind (COMPRESS, security
//! layers), which ties the login to the TLS session of the other leg (channel binding, EXTERNAL), or which leads the client
//! elsewhere (referrals). All else stands as it stood. STARTTLS is ours to offer, and LOGINDISABLED to say where a secret
//! would cross the client's leg in clear.

use super::lexis::is;
use crate::wire::sasl;

const REMOVED: &[&str] = &["UNAUTHENTICATE", "LOGIN-REFERRALS", "MAILBOX-REFERRALS"];

/// Mechanisms that may lay encryption of their own over the session (RFC 4422 section 3.7).
const LAYERED: &[&str] = &["GSSAPI", "GSS-SPNEGO", "NTLM", "DIGEST-MD5", "KERBEROS_V4"];

pub(super) fn may_be_layered(mechanism: &[u8]) -> bool {
    LAYERED.iter().any(|name| is(mechanism, name))
}

fn is_removed(word: &[u8]) -> bool {
    let upper = word.to_ascii_uppercase();
    if let Some(mechanism) = upper.strip_prefix(b"AUTH=") {
        return mechanism.ends_with(b"-PLUS")
            || mechanism == b"EXTERNAL"
            || may_be_layered(mechanism);
    }
    upper.starts_with(b"COMPRESS=") || REMOVED.iter().any(|name| is(word, name))
}

fn is_clear_login(word: &[u8]) -> bool {
    let mechanism = word.split_at_checked(5);
    mechanism.is_some_and(|(auth, name)| is(auth, "AUTH=") && sasl::shows_secret(name))
}

/// What the client is offered now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    pub(super) starttls: bool,
    /// LOGIN, and mechanisms that hand over the secret itself.
    pub(super) clear_logins: bool,
}

/// The whole line as the client shall have it; none: as it came.
pub(super) fn edit(line: &[u8], offer: Offer) -> Option<Vec<u8>> {
    let (start, end) = list(line)?;
    let words = || line[start..end].split(|b| *b == b' ');
    let stays = |word: &&[u8]| {
        !is_removed(word)
            && (offer.starttls || !is(word, "STARTTLS"))
            && (offer.clear_logins || !is_clear_login(word))
    };
    let missing = |name: &str| !words().any(|word| is(word, name));
    let starttls = offer.starttls && missing("STARTTLS");
    let disabled = !offer.clear_logins && missing("LOGINDISABLED");
    if !starttls && !disabled && words().all(|word| stays(&word)) {
        return None;
    }
    let mut out = line[..start].to_vec();
    let added = [
        starttls.then_some(&b"STARTTLS"[..]),
        disabled.then_some(b"LOGINDISABLED"),
    ];
    let added = added.into_iter().flatten();
    for (at, word) in words().filter(stays).chain(added).enumerate() {
        if at > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word);
    }
    out.extend_from_slice(&line[end..]);
    Some(out)
}

/// Where the words behind CAPABILITY begin and end.
fn list(line: &[u8]) -> Option<(usize, usize)> {
    const WORD: &[u8] = b"CAPABILITY ";
    let mut at = 0;
    // `* CAPABILITY …`, or `[CAPABILITY …]` behind the first words.
    let start = loop {
        let found = line.get(at..at + WORD.len())?;
        if found.eq_ignore_ascii_case(WORD) && at > 0 && matches!(line[at - 1], b' ' | b'[') {
            break at + WORD.len();
        }
        at += 1;
    };
    let ends: &[u8] = match line[at - 1] {
        b'[' => b"]\r\n",
        _ => b"\r\n",
    };
    let end = line[start..].iter().position(|b| ends.contains(b))?;
    Some((start, start + end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(line: &str, starttls: bool) -> String {
        offered(
            line,
            Offer {
                starttls,
                clear_logins: true,
            },
        )
    }

    fn offered(line: &str, offer: Offer) -> String {
        let out = edit(line.as_bytes(), offer).unwrap_or_else(|| line.as_bytes().to_vec());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_what_blinds_is_removed_and_all_else_keeps_its_order() {
        let line = "* CAPABILITY IMAP4rev1 COMPRESS=DEFLATE IDLE AUTH=PLAIN AUTH=SCRAM-SHA-1-PLUS AUTH=gssapi \
                    UNAUTHENTICATE X-FOO LOGIN-REFERRALS NOTIFY\r\n";
        assert_eq!(
            edited(line, false),
            "* CAPABILITY IMAP4rev1 IDLE AUTH=PLAIN X-FOO NOTIFY\r\n"
        );
    }

    #[test]
    fn starttls_is_offered_by_us_alone() {
        let with = "* OK [CAPABILITY IMAP4rev1 STARTTLS IDLE] hi\r\n";
        let without = "* OK [CAPABILITY IMAP4rev1 IDLE] hi\r\n";
        assert_eq!(edited(with, true), with);
        assert_eq!(edited(with, false), without);
        assert_eq!(edited(without, false), without);
        assert_eq!(
            edited(without, true),
            "* OK [CAPABILITY IMAP4rev1 IDLE STARTTLS] hi\r\n"
        );
    }

    #[test]
    fn logins_that_show_their_secret_are_withheld_and_others_stay() {
        let withheld = |line, starttls| {
            offered(
                line,
                Offer {
                    starttls,
                    clear_logins: false,
                },
            )
        };
        let line = "* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN auth=login AUTH=CRAM-MD5 AUTH=XOAUTH2 AUTH=OAUTHBEARER \
                    AUTH=SCRAM-SHA-256 AUTH=PLAINER\r\n";
        let rest = "* CAPABILITY IMAP4rev1 SASL-IR AUTH=CRAM-MD5 AUTH=SCRAM-SHA-256";
        assert_eq!(withheld(line, false), format!("{rest} LOGINDISABLED\r\n"));
        assert_eq!(
            withheld(line, true),
            format!("{rest} STARTTLS LOGINDISABLED\r\n")
        );
        let already = "a OK [CAPABILITY IMAP4rev1 logindisabled IDLE] hi\r\n";
        assert_eq!(withheld(already, false), already, "once");
    }

    #[test]
    fn text_that_names_capabilities_is_text() {
        let line = "* OK [CAPABILITY IMAP4rev1] CAPABILITY COMPRESS=DEFLATE\r\n";
        assert_eq!(edited(line, false), line);
    }
}
