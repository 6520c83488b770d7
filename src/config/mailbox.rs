//! `[[frontend]]` with protocol `imap` or `pop3`: before a mailbox server.

use std::path::PathBuf;

use super::{
    frontend::{
        Upstream, complain_of_haste, complain_of_none, complain_of_self, read_identity,
        read_socket_file, read_tls_implicit, read_upstream,
    },
    section::Section,
};
use crate::{
    frontends::{MailboxLimits, TellMailbox},
    message::Protocol,
    net::{Address, IdentityFiles, Networks, SocketFile, proxy_protocol::Version},
};

/// A front end before a mailbox server, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailboxFrontend {
    pub name: String,
    /// `Imap` or `Pop3`.
    pub protocol: Protocol,
    pub listen: Address,
    pub socket_file: SocketFile,
    pub upstream: Upstream,
    /// Which users have another server.
    pub upstream_map: Option<PathBuf>,
    /// Everybody where it is none.
    pub allowed: Option<Networks>,
    /// Who sends a PROXY header.
    pub proxy_protocol_from: Option<Networks>,
    pub tell_client: TellMailbox,
    pub identity: Option<IdentityFiles>,
    /// TLS before the greeting; otherwise STARTTLS.
    pub tls_implicit: bool,
    /// Passwords may cross the client's leg in clear where the server's has TLS.
    pub auth_allow_cleartext: bool,
    pub limits: MailboxLimits,
}

pub(super) fn read_mailbox(
    mut section: Section<'_>,
    protocol: Protocol,
) -> Option<MailboxFrontend> {
    let name = super::read_name(&mut section);
    let listen: Option<Address> = section.required("listen");
    let upstream = read_upstream(&mut section, false);
    complain_of_self(&mut section, listen.as_ref(), upstream.as_ref());
    let identity = read_identity(&mut section);
    let tls_implicit = read_tls_implicit(&mut section, identity.as_ref());
    let socket_file = read_socket_file(&mut section);
    let upstream_map = section.path("upstream_map");
    let allowed = section.optional("allowed_networks");
    let proxy_protocol_from = section.optional("proxy_protocol_from");
    let tell_client = read_tell_client(&mut section, protocol);
    let auth_allow_cleartext = section.or("auth_allow_cleartext", false);
    let limits = read_limits(&mut section);
    // All was asked for: what is missing hides no other fault.
    section.finish();
    Some(MailboxFrontend {
        name: name?,
        protocol,
        listen: listen?,
        socket_file,
        upstream: upstream?,
        upstream_map,
        allowed,
        proxy_protocol_from,
        tell_client,
        identity,
        tls_implicit,
        auth_allow_cleartext,
        limits,
    })
}

fn read_tell_client(section: &mut Section<'_>, protocol: Protocol) -> TellMailbox {
    let mut words = vec![
        ("no", TellMailbox::No),
        ("proxy-v1", TellMailbox::Proxy(Version::V1)),
        ("proxy-v2", TellMailbox::Proxy(Version::V2)),
    ];
    words.push(match protocol {
        Protocol::Pop3 => ("xclient", TellMailbox::Xclient),
        _ => ("id", TellMailbox::Id),
    });
    let told = section.choice("tell_upstream_client", &words);
    told.unwrap_or(TellMailbox::No)
}

fn read_limits(section: &mut Section<'_>) -> MailboxLimits {
    let default = MailboxLimits::default();
    let limits = MailboxLimits {
        sessions: section.or("sessions_max", default.sessions),
        sessions_per_address: section.or("sessions_per_address_max", default.sessions_per_address),
        handshake: section.or("handshake_timeout", default.handshake),
        idle: section.or("idle_timeout", default.idle),
        upstream_connect: section.or("upstream_connect_timeout", default.upstream_connect),
        capture: section.or("capture_timeout", default.capture),
        known_messages: section.or("known_messages_max", default.known_messages),
    };
    for (key, count) in [
        ("sessions_max", limits.sessions),
        ("sessions_per_address_max", limits.sessions_per_address),
        ("known_messages_max", limits.known_messages),
    ] {
        complain_of_none(section, key, count);
    }
    for (key, time) in [
        ("idle_timeout", limits.idle),
        ("upstream_connect_timeout", limits.upstream_connect),
        ("capture_timeout", limits.capture),
    ] {
        complain_of_haste(section, key, time);
    }
    limits
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, Frontend};

    #[test]
    fn cleartext_logins_are_allowed_by_those_alone_who_say_so() {
        let parse = |protocol: &str, more: &str| {
            let start = "[vault]\n[[frontend]]\nname = 'f'\nlisten = '127.0.0.1:10143'\nupstream = 'a:143'\n";
            let text = format!("{start}protocol = '{protocol}'\n{more}");
            let config = Config::parse(Path::new("m.toml"), &text, &|_| None);
            config.map(|mut config| config.frontends.remove(0))
        };
        let key = "auth_allow_cleartext = true\n";
        for protocol in ["imap", "pop3"] {
            for (more, expected) in [("", false), (key, true)] {
                match parse(protocol, more) {
                    Ok(Frontend::Mailbox(it)) => assert_eq!(it.auth_allow_cleartext, expected),
                    other => panic!("{other:?}"),
                }
            }
        }
        for (protocol, more) in [("smtp", "role = 'proxy'\n"), ("lmtp", "role = 'filter'\n")] {
            parse(protocol, more).unwrap_or_else(|error| panic!("{error}"));
            let refused = parse(protocol, &format!("{more}{key}")).unwrap_err();
            let refused = refused.to_string();
            assert!(
                refused.contains("frontend.auth_allow_cleartext"),
                "{refused}"
            );
        }
    }

    #[test]
    fn what_is_missing_hides_no_other_fault() {
        let text = "[vault]\n[[frontend]]\nname = 'f'\nprotocol = 'imap'\nlisten = '127.0.0.1:10143'\nupstraem = 'a:143'\n";
        let refused = Config::parse(Path::new("m.toml"), text, &|_| None).unwrap_err();
        let refused = refused.to_string();
        for key in ["frontend.upstream", "frontend.upstraem"] {
            assert!(refused.contains(key), "{refused}");
        }
    }
}
