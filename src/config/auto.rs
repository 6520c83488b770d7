//! `[[frontend]]` with protocol `auto`: read as each protocol that the server may turn out to speak.
//!
//! Which keys are valid depends on what will be found, so every reading is made and kept, or its faults are. A key of
//! another protocol than the one found is left aside, for nobody could know which it would be. A key of none of them is a
//! fault of the file, and so is a value that every reading refuses which knows the key. What is wrong for one protocol alone
//! is told once the server speaks that one.

use std::collections::BTreeSet;

use super::{
    fault::Fault,
    frontend::{Frontend, Upstream, UpstreamTls, read_as},
    section::Section,
};
use crate::{
    message::Protocol,
    net::{Address, SocketFile, proxy_protocol::Version},
    wire::smtp::Role,
};

/// What a server may turn out to speak.
const PROTOCOLS: [Protocol; 4] = [
    Protocol::Smtp,
    Protocol::Lmtp,
    Protocol::Imap,
    Protocol::Pop3,
];

/// Clients are strangers until the file says otherwise: nobody is trusted by mistake.
const ROLE: Role = Role::Proxy;

/// A front end whose server is to be identified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoFrontend {
    pub name: String,
    pub listen: Address,
    pub socket_file: SocketFile,
    pub upstream: Upstream,
    /// What the file wants of TLS to the server; none: what is found.
    pub upstream_tls: Option<UpstreamTls>,
    /// The server waits for a PROXY header before anything else.
    pub proxy_header: Option<Version>,
    readings: Vec<(Protocol, Result<Frontend, Vec<Fault>>)>,
}

impl AutoFrontend {
    /// The front end for a server that speaks `protocol`, or what of the file does not fit that protocol; none: there is no
    /// front end for it.
    pub fn read_as(
        &self,
        protocol: Protocol,
        tls: UpstreamTls,
    ) -> Option<Result<Frontend, &[Fault]>> {
        let (_, reading) = self.readings.iter().find(|(of, _)| *of == protocol)?;
        Some(match reading {
            Err(faults) => Err(faults),
            Ok(frontend) => {
                let mut frontend = frontend.clone();
                if let Some(upstream) = frontend.upstream_mut() {
                    upstream.tls = tls;
                }
                Ok(frontend)
            }
        })
    }

    /// The front ends that it may become.
    pub fn readings(&self) -> impl Iterator<Item = &Frontend> {
        let readings = self.readings.iter();
        readings.filter_map(|(_, reading)| reading.as_ref().ok())
    }
}

/// One protocol's view of the section.
struct Reading {
    protocol: Protocol,
    frontend: Option<Frontend>,
    faults: Vec<Fault>,
    keys: BTreeSet<String>,
}

pub(super) fn read_auto(section: Section<'_>) -> Option<AutoFrontend> {
    let mut readings = PROTOCOLS.map(|protocol| {
        let again = section.clone();
        let read = || read_as(again, protocol, Some(ROLE));
        let (frontend, mut faults, keys) = section.document.apart(read);
        // Those are looked for below, among the keys of all.
        faults.retain(|fault| keys.contains(&fault.key));
        Reading {
            protocol,
            frontend,
            faults,
            keys,
        }
    });
    let mut known = BTreeSet::from([section.path_of("protocol")]);
    readings.iter().for_each(|it| known.extend(it.keys.clone()));
    section.document.knows(&known);
    let prefix = section.path_of("");
    let words: Vec<&str> = known
        .iter()
        .filter_map(|key| key.strip_prefix(&prefix))
        .collect();
    section.finish_with(&words);

    let mut common = known.iter().flat_map(|key| refused_by_all(&readings, key));
    let mut common: Vec<Fault> = common.by_ref().collect();
    if common.is_empty() && readings.iter().all(|it| !it.faults.is_empty()) {
        common = readings.iter().flat_map(|it| it.faults.clone()).collect();
        common.dedup();
    }
    if !common.is_empty() {
        common
            .into_iter()
            .for_each(|fault| section.document.note_again(fault));
        return None;
    }
    let any = readings.iter_mut().find_map(|it| it.frontend.clone())?;
    let upstream = any.upstream()?.clone();
    Some(AutoFrontend {
        name: any.name().to_owned(),
        listen: any.listen().clone(),
        socket_file: any.socket_file().clone(),
        upstream_tls: section.has("upstream_tls").then_some(upstream.tls),
        upstream,
        proxy_header: match section.text("tell_upstream_client") {
            Some("proxy-v1") => Some(Version::V1),
            Some("proxy-v2") => Some(Version::V2),
            _ => None,
        },
        readings: readings
            .into_iter()
            .map(|it| {
                let frontend = it.frontend.filter(|_| it.faults.is_empty());
                (it.protocol, frontend.ok_or(it.faults))
            })
            .collect(),
    })
}

/// The faults of a key, where no reading that knows it is content.
fn refused_by_all(readings: &[Reading], key: &str) -> Vec<Fault> {
    let knowing = readings.iter().filter(|it| it.keys.contains(key));
    let faults = knowing.map(|it| {
        let mut faults = it.faults.iter().filter(|fault| fault.key == key);
        (it.protocol, faults.next(), faults)
    });
    let mut found: Vec<(Vec<Protocol>, Fault)> = Vec::new();
    for (protocol, first, rest) in faults {
        let Some(first) = first else {
            return Vec::new();
        };
        for fault in [first].into_iter().chain(rest) {
            match found.iter_mut().find(|(_, seen)| seen == fault) {
                Some((protocols, _)) => protocols.push(protocol),
                None => found.push((vec![protocol], fault.clone())),
            }
        }
    }
    merged(found)
}

/// One fault a place; where protocols expect different things, each with what it expects.
fn merged(found: Vec<(Vec<Protocol>, Fault)>) -> Vec<Fault> {
    let is_same_place = |a: &Fault, b: &Fault| (a.line, &a.found) == (b.line, &b.found);
    let mut faults: Vec<Fault> = Vec::new();
    for (_, fault) in &found {
        if faults.iter().any(|seen| is_same_place(seen, fault)) {
            continue;
        }
        let here: Vec<_> = found
            .iter()
            .filter(|(_, it)| is_same_place(it, fault))
            .collect();
        let expected = match here.as_slice() {
            [(_, one)] => one.expected.clone(),
            several => {
                let texts = several.iter().map(|(protocols, it)| {
                    let names: Vec<_> = protocols.iter().map(|it| it.name()).collect();
                    format!("{}: {}", names.join(", "), it.expected)
                });
                texts.collect::<Vec<_>>().join("; ")
            }
        };
        faults.push(Fault {
            expected,
            ..fault.clone()
        });
    }
    faults
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::{Config, ConfigError},
        net::Networks,
    };

    fn parse(keys: &str) -> Result<AutoFrontend, ConfigError> {
        let start =
            "[vault]\n[[frontend]]\nname = 'f'\nprotocol = 'auto'\nlisten = '127.0.0.1:10143'\n";
        let source = format!("{start}{keys}");
        let config = Config::parse(Path::new("m.toml"), &source, &|_| None)?;
        match config.frontends.into_iter().next() {
            Some(Frontend::Auto(auto)) => Ok(*auto),
            other => panic!("{other:?}"),
        }
    }

    fn faults(keys: &str) -> Vec<String> {
        match parse(keys) {
            Ok(_) => Vec::new(),
            Err(error) => error.to_string().lines().map(str::to_owned).collect(),
        }
    }

    const UPSTREAM: &str = "upstream = 'mail.example.org:143'\n";

    #[test]
    fn an_upstream_is_enough_and_strangers_are_trusted_with_nothing() {
        let auto = parse(UPSTREAM).unwrap();
        assert_eq!((auto.upstream_tls, auto.proxy_header), (None, None));
        assert_eq!(auto.readings().count(), 4);
        for protocol in PROTOCOLS {
            let found = auto
                .read_as(protocol, UpstreamTls::Implicit)
                .unwrap()
                .unwrap();
            assert_eq!(found.upstream().unwrap().tls, UpstreamTls::Implicit);
            match found {
                Frontend::Smtp(smtp) => {
                    assert_eq!((smtp.protocol, smtp.role), (protocol, Role::Proxy));
                    assert_eq!(smtp.trusted, Networks::default());
                }
                Frontend::Mailbox(mailbox) => assert_eq!(mailbox.protocol, protocol),
                other => panic!("{other:?}"),
            }
        }
        assert!(auto.read_as(Protocol::Milter, UpstreamTls::None).is_none());
    }

    #[test]
    fn a_key_of_one_protocol_is_no_fault_of_the_others() {
        let keys = "role = 'filter'\nhostname = 'h'\nupstream_map = '/m'\nknown_messages_max = 7\nauth_allow_cleartext = true\nupstream_tls = 'starttls'\n";
        let auto = parse(&format!("{UPSTREAM}{keys}")).unwrap();
        assert_eq!(auto.upstream_tls, Some(UpstreamTls::StartTls));
        assert_eq!(auto.readings().count(), 4);
        let Some(Ok(Frontend::Smtp(smtp))) = auto.read_as(Protocol::Smtp, UpstreamTls::None) else {
            panic!("{auto:?}");
        };
        assert_eq!((smtp.role, smtp.hostname.as_str()), (Role::Filter, "h"));
        let found = auto.read_as(Protocol::Pop3, UpstreamTls::StartTls);
        let Some(Ok(Frontend::Mailbox(mailbox))) = found else {
            panic!("{found:?}");
        };
        assert!(mailbox.auth_allow_cleartext);
    }

    #[test]
    fn what_no_protocol_knows_is_a_fault_of_the_file() {
        assert_eq!(
            faults(&format!(
                "{UPSTREAM}knwon_messages_max = 7\nshoe_size = 47\n"
            ))[0],
            "m.toml:7: frontend.knwon_messages_max: found a key that does not exist, expected `known_messages_max`?"
        );
        assert_eq!(faults("").len(), 1, "{:?}", faults(""));
        assert!(faults("")[0].contains("frontend.upstream: found nothing"));
    }

    #[test]
    fn a_value_that_none_takes_who_knows_the_key_is_told_once() {
        let keys = "recipients_max = 0\nidle_timeout = 5\nrole = 'journal'\nknown_messages_max = 'x'\nupstream_idle_timeout = '2s'\n";
        let found = faults(&format!("{UPSTREAM}{keys}"));
        let lines: Vec<_> = found
            .iter()
            .map(|it| it.split(' ').next().unwrap())
            .collect();
        let expected = ["m.toml:7:", "m.toml:8:", "m.toml:9:", "m.toml:10:"];
        assert_eq!(lines, expected, "{found:#?}");
        let found = faults(&format!("{UPSTREAM}upstream_idle_timeout = '2s'\n"));
        assert!(found[0].contains("role \"filter\""), "{found:?}");
        assert_eq!(
            faults(&format!(
                "{UPSTREAM}upstream_idle_timeout = '2s'\nrole = 'filter'\n"
            ))
            .len(),
            0
        );
        let found = faults(&format!("{UPSTREAM}tell_upstream_client = 'x'\n"));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(
            found[0].contains("smtp, lmtp: \"no\" | \"xforward\""),
            "{found:?}"
        );
        assert!(found[0].contains("; imap: "), "{found:?}");
        let itself = faults("upstream = '127.0.0.1:10143'\n");
        assert_eq!(itself.len(), 1, "{itself:?}");
    }

    #[test]
    fn what_fits_some_protocols_waits_for_the_server() {
        let auto = parse(&format!("{UPSTREAM}tell_upstream_client = 'id'\n")).unwrap();
        assert!(
            auto.read_as(Protocol::Imap, UpstreamTls::None)
                .unwrap()
                .is_ok()
        );
        let refused = auto.read_as(Protocol::Pop3, UpstreamTls::None).unwrap();
        let refused = refused.unwrap_err();
        assert_eq!(
            (refused[0].line, refused[0].key.as_str()),
            (7, "frontend.tell_upstream_client")
        );
        let auto = parse(&format!("{UPSTREAM}tell_upstream_client = 'proxy-v2'\n")).unwrap();
        assert_eq!(auto.proxy_header, Some(Version::V2));
    }

    #[test]
    fn a_section_that_fits_no_protocol_has_the_faults_of_each() {
        let keys = "tell_upstream_client = 'id'\nupstream_map = 5\n";
        let found = faults(&format!("{UPSTREAM}{keys}"));
        assert!(
            found.iter().any(|it| it.contains("upstream_map")),
            "{found:#?}"
        );
    }
}
