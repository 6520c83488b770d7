//! What the server says it can do, less what a proxy must not let through: that which makes it blind (COMPRESS, security
//! layers), which ties the login to the TLS session of the other leg (channel binding, EXTERNAL), or which leads the client
//! elsewhere (referrals). All else stands as it stood. STARTTLS is ours to offer.

use super::lexis::is;

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

/// The whole line as the client shall have it; none: as it came. `starttls`: we offer it now.
pub(super) fn edit(line: &[u8], starttls: bool) -> Option<Vec<u8>> {
    let (start, end) = list(line)?;
    let words = || line[start..end].split(|b| *b == b' ');
    let is_tls = |word: &&[u8]| is(word, "STARTTLS");
    let offered = words().any(|word| is_tls(&word));
    if offered == starttls && !words().any(is_removed) {
        return None;
    }
    let mut out = line[..start].to_vec();
    let kept = words().filter(|word| !is_removed(word) && (starttls || !is_tls(word)));
    let added = (starttls && !offered).then_some(&b"STARTTLS"[..]);
    for (at, word) in kept.chain(added).enumerate() {
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
        let out = edit(line.as_bytes(), starttls).unwrap_or_else(|| line.as_bytes().to_vec());
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
    fn text_that_names_capabilities_is_text() {
        let line = "* OK [CAPABILITY IMAP4rev1] CAPABILITY COMPRESS=DEFLATE\r\n";
        assert_eq!(edited(line, false), line);
    }
}
