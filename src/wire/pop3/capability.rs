//! A line of CAPA's answer (RFC 2449), less what cannot pass through us.

use crate::wire::sasl;

/// What the line becomes, perhaps nothing; none: it stays as it is. `clear_logins`: USER, and mechanisms that hand over the
/// secret itself, are for this client.
pub(super) fn edit(line: &[u8], clear_logins: bool) -> Option<Vec<u8>> {
    let text = line.trim_ascii_end();
    let mut words = text.split(|byte| *byte == b' ');
    let name = words.next()?;
    match name.to_ascii_uppercase().as_slice() {
        // Its own TLS would end at us, and its trust is in us.
        b"STLS" | b"XCLIENT" => Some(Vec::new()),
        b"USER" if !clear_logins => Some(Vec::new()),
        b"SASL" => {
            let all: Vec<_> = words.filter(|word| !word.is_empty()).collect();
            let stays = |name: &&&[u8]| passes(name) && (clear_logins || !sasl::shows_secret(name));
            let kept: Vec<_> = all.iter().filter(stays).copied().collect();
            match kept.len() {
                same if same == all.len() => None,
                0 => Some(Vec::new()),
                _ => Some([name, b" ", &*kept.join(&b' '), &line[text.len()..]].concat()),
            }
        }
        _ => None,
    }
}

/// Not those that bind to the TLS channel or to the client's certificate, for the server sees our channel and our
/// certificate; nor those that may add a layer of their own, behind which nothing can be read.
fn passes(mechanism: &[u8]) -> bool {
    let name = mechanism.to_ascii_uppercase();
    let blinds = ["GSSAPI", "GSS-SPNEGO", "NTLM", "DIGEST-MD5", "EXTERNAL"];
    !name.ends_with(b"-PLUS") && !blinds.iter().any(|blind| blind.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(line: &str) -> Option<String> {
        edit(line.as_bytes(), true).map(|line| String::from_utf8(line).unwrap())
    }

    #[test]
    fn what_blinds_goes_and_the_rest_stays() {
        for kept in [
            "TOP\r\n",
            "UTF8 USER\r\n",
            "SASL PLAIN LOGIN\r\n",
            "SASL\r\n",
            ".\r\n",
            "\r\n",
        ] {
            assert_eq!(edited(kept), None, "{kept}");
        }
        for gone in [
            "STLS\r\n",
            "stls\r\n",
            "XCLIENT ADDR PORT\r\n",
            "SASL GSSAPI NTLM\r\n",
        ] {
            assert_eq!(edited(gone).as_deref(), Some(""), "{gone}");
        }
        let mechanisms =
            "SASL PLAIN SCRAM-SHA-256-PLUS digest-md5 XOAUTH2 EXTERNAL SCRAM-SHA-256\r\n";
        let passing = "SASL PLAIN XOAUTH2 SCRAM-SHA-256\r\n";
        assert_eq!(edited(mechanisms).as_deref(), Some(passing));
        let odd = edited("sasl A\rB NTLM\n");
        assert_eq!(
            odd.as_deref(),
            Some("sasl A\rB\n"),
            "what stays is as it was"
        );
    }

    #[test]
    fn logins_that_show_their_secret_are_withheld_and_others_stay() {
        let withheld = |line: &str| {
            let line = edit(line.as_bytes(), false);
            line.map(|line| String::from_utf8(line).unwrap())
        };
        assert_eq!(withheld("USER\r\n").as_deref(), Some(""));
        assert_eq!(withheld("SASL PLAIN login\r\n").as_deref(), Some(""));
        let mechanisms = "SASL PLAIN LOGIN CRAM-MD5 XOAUTH2 OAUTHBEARER SCRAM-SHA-1\r\n";
        let rest = "SASL CRAM-MD5 SCRAM-SHA-1\r\n";
        assert_eq!(withheld(mechanisms).as_deref(), Some(rest));
        assert_eq!(withheld(rest), None);
        assert_eq!(withheld("UTF8 USER\r\n"), None);
    }
}
