//! What a server was found to be, held against what the file says and against what is remembered of it.
//!
//! TLS only ever grows by itself: where the file leaves it open, what was seen once is required from then on, until the
//! operator writes something else.

use serde::{Deserialize, Serialize};

use crate::{
    config::{AutoFrontend, Fault, Frontend, UpstreamTls},
    identify::{self, Identity, Kind, TlsMode, identify},
    message::Protocol,
};

/// What a server speaks, and how TLS comes into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spoken {
    pub(super) protocol: Protocol,
    pub(super) tls: TlsMode,
}

/// What follows for a front end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fits(Spoken),
    /// Nothing is known of the server just now: it is down or silent, or breaks off.
    Unclear(String),
    /// What it is is known, and no front end of this section can stand before it as it is.
    Refused {
        /// None: nothing that there are front ends for.
        protocol: Option<Protocol>,
        why: String,
    },
}

/// Looks at the server of a front end.
pub(super) async fn look(frontend: &AutoFrontend, known: Option<Spoken>) -> (Verdict, Vec<String>) {
    let upstream = &frontend.upstream;
    let options = identify::Options {
        ca_file: upstream.files.ca_file.clone(),
        tls_name: Some(upstream.tls_name.clone()).filter(|name| !name.is_empty()),
        identity: upstream.files.identity.clone(),
        proxy_header: frontend.proxy_header,
    };
    match identify(&upstream.address, &options).await {
        Ok(found) => (judge(frontend, &found, known), found.evidence),
        Err(error) => (Verdict::Unclear(error.to_string()), Vec::new()),
    }
}

/// `known`: as what it was seen before.
fn judge(frontend: &AutoFrontend, found: &Identity, known: Option<Spoken>) -> Verdict {
    let evidence = || found.evidence.join("; ");
    let protocol = match found.kind {
        Kind::Smtp => Protocol::Smtp,
        Kind::Lmtp => Protocol::Lmtp,
        Kind::Imap => Protocol::Imap,
        Kind::Pop3 => Protocol::Pop3,
        kind if kind.is_protocol() => {
            return Verdict::Refused {
                protocol: None,
                why: format!(
                    "it speaks {}, and there is no front end for that",
                    kind.name()
                ),
            };
        }
        kind => return Verdict::Unclear(format!("{}: {}", kind.name(), evidence())),
    };
    if !found.is_settled {
        let name = protocol.name();
        return Verdict::Unclear(format!(
            "it begins like {name} and goes no further: {}",
            evidence()
        ));
    }
    let spoken = Spoken {
        protocol,
        tls: found.promised_tls(),
    };
    let fits = check_tls(frontend, found, spoken.tls, known.map(|known| known.tls))
        .and_then(|()| as_found(frontend, spoken).map(drop));
    match fits {
        Ok(()) => Verdict::Fits(spoken),
        Err(why) => Verdict::Refused {
            protocol: Some(protocol),
            why: format!("it speaks {}: {why}", told(spoken)),
        },
    }
}

fn check_tls(
    frontend: &AutoFrontend,
    found: &Identity,
    tls: TlsMode,
    known: Option<TlsMode>,
) -> Result<(), String> {
    let wanted = match frontend.upstream_tls {
        None => None,
        Some(UpstreamTls::None) => Some(TlsMode::None),
        Some(UpstreamTls::StartTls) => Some(TlsMode::StartTls),
        Some(UpstreamTls::Implicit) => Some(TlsMode::Implicit),
    };
    match (wanted, tls, known) {
        (None, TlsMode::None, Some(had @ (TlsMode::StartTls | TlsMode::Implicit))) => {
            return Err(format!(
                "it had {}, and there is no going back to plain text but by `upstream_tls = \"none\"`",
                had.told()
            ));
        }
        // STARTTLS is an offer; whoever begins with TLS leaves no choice.
        (Some(TlsMode::None), TlsMode::None | TlsMode::StartTls, _) => {}
        (Some(wanted), tls, _) if wanted != tls => {
            return Err(format!("`upstream_tls` is \"{}\"", wanted.name()));
        }
        _ => {}
    }
    if required_tls(frontend, tls) == UpstreamTls::None {
        return Ok(());
    }
    if frontend.upstream.tls_name.is_empty() {
        return Err("`upstream_tls_name` is missing: the name in its certificate".to_owned());
    }
    match &found.certificate {
        None => Err("the TLS handshake comes to nothing".to_owned()),
        Some(certificate) => match &certificate.why_not {
            None => Ok(()),
            Some(why) => Err(format!(
                "its certificate does not verify: {why} (`upstream_ca_file` names whom to trust)"
            )),
        },
    }
}

/// The TLS that the front end will insist on.
pub(super) fn required_tls(frontend: &AutoFrontend, found: TlsMode) -> UpstreamTls {
    if let Some(tls) = frontend.upstream_tls {
        return tls;
    }
    match found {
        TlsMode::None => UpstreamTls::None,
        TlsMode::Implicit => UpstreamTls::Implicit,
        // Nobody stands between the ends of a unix socket, and nobody said whose certificate it would be.
        TlsMode::StartTls if frontend.upstream.tls_name.is_empty() => UpstreamTls::None,
        TlsMode::StartTls => UpstreamTls::StartTls,
    }
}

/// The front end for a server that is this, or what of the file does not fit.
pub(super) fn as_found(frontend: &AutoFrontend, spoken: Spoken) -> Result<Frontend, String> {
    match frontend.read_as(spoken.protocol, required_tls(frontend, spoken.tls)) {
        None => Err("there is no front end for that".to_owned()),
        Some(Ok(frontend)) => Ok(frontend),
        Some(Err(faults)) => {
            let text = |it: &Fault| {
                let (line, key) = (it.line, &it.key);
                format!(
                    "line {line}: {key}: found {}, expected {}",
                    it.found, it.expected
                )
            };
            Err(faults.iter().map(text).collect::<Vec<_>>().join("; "))
        }
    }
}

/// `imap with STARTTLS`
pub(super) fn told(spoken: Spoken) -> String {
    format!("{} with {}", spoken.protocol.name(), spoken.tls.told())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::Config,
        identify::{Capabilities, Certificate},
    };

    fn front_end(keys: &str) -> AutoFrontend {
        let start =
            "[vault]\n[[frontend]]\nname = 'f'\nprotocol = 'auto'\nlisten = '127.0.0.1:10143'\n";
        let keys = match keys.contains("upstream =") {
            true => keys.to_owned(),
            false => format!("upstream = 'mail.example.org:143'\n{keys}"),
        };
        let source = format!("{start}{keys}");
        let config = Config::parse(Path::new("m.toml"), &source, &|_| None);
        match config.unwrap().frontends.into_iter().next() {
            Some(Frontend::Auto(auto)) => *auto,
            other => panic!("{other:?}"),
        }
    }

    fn found(kind: Kind, tls: TlsMode) -> Identity {
        let mut found = Identity::unreachable("mail.example.org:143".to_owned(), "seen");
        found.kind = kind;
        found.tls = tls;
        found.is_settled = true;
        found.certificate = (tls != TlsMode::None).then(|| Certificate {
            verifies: true,
            ..Certificate::default()
        });
        found
    }

    const fn imap(tls: TlsMode) -> Spoken {
        Spoken {
            protocol: Protocol::Imap,
            tls,
        }
    }

    #[track_caller]
    fn refused(verdict: Verdict, word: &str) {
        match verdict {
            Verdict::Refused { why, .. } => assert!(why.contains(word), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_protocol_is_taken_as_it_is_found() {
        let front = front_end("");
        for (kind, protocol) in [
            (Kind::Smtp, Protocol::Smtp),
            (Kind::Lmtp, Protocol::Lmtp),
            (Kind::Imap, Protocol::Imap),
            (Kind::Pop3, Protocol::Pop3),
        ] {
            for tls in [TlsMode::None, TlsMode::StartTls, TlsMode::Implicit] {
                let spoken = Spoken { protocol, tls };
                let verdict = judge(&front, &found(kind, tls), None);
                assert_eq!(verdict, Verdict::Fits(spoken));
                let upstream = as_found(&front, spoken).unwrap().upstream().cloned();
                assert_eq!(upstream.unwrap().tls, required_tls(&front, tls));
            }
        }
        refused(
            judge(&front, &found(Kind::ManageSieve, TlsMode::None), None),
            "managesieve",
        );
        for kind in [
            Kind::Silent,
            Kind::Refused,
            Kind::Unreachable,
            Kind::Unknown,
        ] {
            let verdict = judge(&front, &found(kind, TlsMode::None), None);
            assert!(matches!(verdict, Verdict::Unclear(_)), "{verdict:?}");
        }
    }

    #[test]
    fn what_broke_off_tells_nothing_of_tls() {
        let mut cut = found(Kind::Imap, TlsMode::None);
        cut.is_settled = false;
        let verdict = judge(&front_end(""), &cut, None);
        assert!(matches!(verdict, Verdict::Unclear(_)), "{verdict:?}");
    }

    #[test]
    fn tls_that_was_seen_stays_required_until_the_file_says_otherwise() {
        let plain = found(Kind::Imap, TlsMode::None);
        for had in [TlsMode::StartTls, TlsMode::Implicit] {
            refused(
                judge(&front_end(""), &plain, Some(imap(had))),
                "no going back",
            );
            // The same under another protocol's name.
            let other = found(Kind::Pop3, TlsMode::None);
            refused(
                judge(&front_end(""), &other, Some(imap(had))),
                "no going back",
            );
            let lifted = judge(
                &front_end("upstream_tls = 'none'\n"),
                &plain,
                Some(imap(had)),
            );
            assert_eq!(lifted, Verdict::Fits(imap(TlsMode::None)));
            let other = match had {
                TlsMode::StartTls => TlsMode::Implicit,
                _ => TlsMode::StartTls,
            };
            let moved = judge(&front_end(""), &found(Kind::Imap, other), Some(imap(had)));
            assert_eq!(
                moved,
                Verdict::Fits(imap(other)),
                "it is no less than it was"
            );
        }
        let offered_and_refused = Identity {
            plain: Some(Capabilities {
                all: vec!["starttls".to_owned()],
                ..Capabilities::default()
            }),
            ..plain
        };
        refused(
            judge(&front_end(""), &offered_and_refused, None),
            "comes to nothing",
        );
    }

    #[test]
    fn what_the_file_says_of_tls_is_held_to() {
        for (said, fitting) in [
            ("none", [true, true, false]),
            ("starttls", [false, true, false]),
            ("implicit", [false, false, true]),
        ] {
            let front = front_end(&format!("upstream_tls = '{said}'\n"));
            let modes = [TlsMode::None, TlsMode::StartTls, TlsMode::Implicit];
            for (tls, fits) in modes.into_iter().zip(fitting) {
                let verdict = judge(&front, &found(Kind::Imap, tls), None);
                assert_eq!(verdict == Verdict::Fits(imap(tls)), fits, "{said}, {tls:?}");
                let tls = required_tls(&front, tls);
                assert_eq!(Some(tls), front.upstream_tls, "whatever is found");
            }
        }
    }

    #[test]
    fn a_certificate_that_does_not_verify_is_no_tls_unless_none_is_wanted() {
        let mut bad = found(Kind::Imap, TlsMode::StartTls);
        bad.certificate.as_mut().unwrap().why_not = Some("it is for another".to_owned());
        refused(judge(&front_end(""), &bad, None), "it is for another");
        let unwanted = judge(&front_end("upstream_tls = 'none'\n"), &bad, None);
        assert_eq!(unwanted, Verdict::Fits(imap(TlsMode::StartTls)));
    }

    #[test]
    fn a_unix_socket_needs_no_tls_but_where_a_name_is_given() {
        let upstream = "upstream = 'unix:/run/dovecot/lmtp'\n";
        let offers = found(Kind::Lmtp, TlsMode::StartTls);
        let front = front_end(upstream);
        assert!(matches!(judge(&front, &offers, None), Verdict::Fits(_)));
        assert_eq!(required_tls(&front, TlsMode::StartTls), UpstreamTls::None);
        let named = front_end(&format!("{upstream}upstream_tls_name = 'a.example'\n"));
        assert_eq!(
            required_tls(&named, TlsMode::StartTls),
            UpstreamTls::StartTls
        );
        let implicit = found(Kind::Lmtp, TlsMode::Implicit);
        refused(judge(&front, &implicit, None), "upstream_tls_name");
    }

    #[test]
    fn what_does_not_fit_the_protocol_found_is_named_with_its_line() {
        let front = front_end("tell_upstream_client = 'id'\n");
        let pop3 = judge(&front, &found(Kind::Pop3, TlsMode::None), None);
        refused(pop3, "line 7: frontend.tell_upstream_client: found 'id'");
        let imap = judge(&front, &found(Kind::Imap, TlsMode::None), None);
        assert!(matches!(imap, Verdict::Fits(_)));
    }
}
