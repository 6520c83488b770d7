//! `[[frontend]]`: where mail comes in. Certificates stand here as files; the daemon opens them.
//!
//! A milter has keys of its own: whatever has to do with a next hop or with SMTP is a fault there. So has a front end
//! before a mailbox server (`mailbox`). What protocol "auto" takes is every reading at once (`auto`).

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use super::{
    auto::{AutoFrontend, read_auto},
    mailbox::{MailboxFrontend, read_mailbox},
    section::Section,
    setting::{Bytes, Mode},
};
use crate::{
    frontends::{Limits, MilterLimits, MilterOptions, OnCaptureFailure, TellClient},
    message::Protocol,
    net::{Address, ClientTlsFiles, IdentityFiles, Networks, SocketFile, proxy_protocol::Version},
    wire::smtp::Role,
};

/// A front end, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frontend {
    Smtp(Box<SmtpFrontend>),
    Milter(MilterOptions),
    Mailbox(Box<MailboxFrontend>),
    /// What it is, its server tells.
    Auto(Box<AutoFrontend>),
}

impl Frontend {
    pub fn name(&self) -> &str {
        match self {
            Self::Smtp(smtp) => &smtp.name,
            Self::Milter(milter) => &milter.name,
            Self::Mailbox(mailbox) => &mailbox.name,
            Self::Auto(auto) => &auto.name,
        }
    }

    pub fn listen(&self) -> &Address {
        match self {
            Self::Smtp(smtp) => &smtp.listen,
            Self::Milter(milter) => &milter.listen,
            Self::Mailbox(mailbox) => &mailbox.listen,
            Self::Auto(auto) => &auto.listen,
        }
    }

    /// Who may connect, where that is a unix socket.
    pub fn socket_file(&self) -> &SocketFile {
        match self {
            Self::Smtp(smtp) => &smtp.socket_file,
            Self::Milter(milter) => &milter.socket_file,
            Self::Mailbox(mailbox) => &mailbox.socket_file,
            Self::Auto(auto) => &auto.socket_file,
        }
    }

    /// The next hop, where there is one.
    pub fn upstream(&self) -> Option<&Upstream> {
        match self {
            Self::Smtp(smtp) => smtp.upstream.as_ref(),
            Self::Milter(_) => None,
            Self::Mailbox(mailbox) => Some(&mailbox.upstream),
            Self::Auto(auto) => Some(&auto.upstream),
        }
    }

    pub(super) fn upstream_mut(&mut self) -> Option<&mut Upstream> {
        match self {
            Self::Smtp(smtp) => smtp.upstream.as_mut(),
            Self::Milter(_) => None,
            Self::Mailbox(mailbox) => Some(&mut mailbox.upstream),
            Self::Auto(auto) => Some(&mut auto.upstream),
        }
    }
}

/// SMTP, LMTP, or a journal endpoint, which speaks SMTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmtpFrontend {
    pub name: String,
    pub protocol: Protocol,
    pub role: Role,
    pub listen: Address,
    pub socket_file: SocketFile,
    /// None for the journal endpoint.
    pub upstream: Option<Upstream>,
    pub hostname: String,
    pub on_capture_failure: OnCaptureFailure,
    pub capture_rejected: bool,
    pub trusted: Networks,
    /// Everybody where it is none.
    pub allowed: Option<Networks>,
    /// Who sends a PROXY header.
    pub proxy_protocol_from: Option<Networks>,
    pub tell_client: TellClient,
    pub identity: Option<IdentityFiles>,
    /// TLS before the greeting; otherwise STARTTLS.
    pub tls_implicit: bool,
    pub limits: Limits,
}

/// The next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub address: Address,
    pub tls: UpstreamTls,
    /// The name that its certificate must be for.
    pub tls_name: String,
    pub files: ClientTlsFiles,
}

/// TLS to the next hop: required and verified, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamTls {
    None,
    StartTls,
    Implicit,
}

pub(super) fn read_frontend(mut section: Section<'_>) -> Option<Frontend> {
    let protocols = [
        ("smtp", Protocol::Smtp),
        ("lmtp", Protocol::Lmtp),
        ("journal", Protocol::Journal),
        ("milter", Protocol::Milter),
        ("imap", Protocol::Imap),
        ("pop3", Protocol::Pop3),
    ];
    let words = protocols.map(|(word, protocol)| (word, Some(protocol)));
    let words: Vec<_> = words.into_iter().chain([("auto", None)]).collect();
    let protocol = section.choice("protocol", &words);
    if !section.has("protocol") {
        let words: Vec<_> = words
            .iter()
            .map(|(word, _)| format!("\"{word}\""))
            .collect();
        section.complain("protocol", &words.join(" | "));
    }
    match protocol {
        Some(None) => read_auto(section).map(|it| Frontend::Auto(Box::new(it))),
        Some(Some(protocol)) => read_as(section, protocol, None),
        None => {
            read_smtp(section, None, None);
            None
        }
    }
}

/// Reads the section as that of one protocol. `role`: what an absent one means, where it may be absent.
pub(super) fn read_as(
    section: Section<'_>,
    protocol: Protocol,
    role: Option<Role>,
) -> Option<Frontend> {
    match protocol {
        Protocol::Milter => read_milter(section).map(Frontend::Milter),
        Protocol::Imap | Protocol::Pop3 => {
            read_mailbox(section, protocol).map(|it| Frontend::Mailbox(Box::new(it)))
        }
        protocol => {
            let smtp = read_smtp(section, Some(protocol), role);
            smtp.map(|it| Frontend::Smtp(Box::new(it)))
        }
    }
}

fn read_milter(mut section: Section<'_>) -> Option<MilterOptions> {
    let name = super::read_name(&mut section);
    let listen = section.required("listen");
    let default = MilterLimits::default();
    let limits = MilterLimits {
        sessions: section.or("sessions_max", default.sessions),
        recipients: section.or("recipients_max", default.recipients),
        idle: section.or("idle_timeout", default.idle),
        capture: section.or("capture_timeout", default.capture),
        ..default
    };
    complain_of_none(&mut section, "sessions_max", limits.sessions);
    complain_of_none(&mut section, "recipients_max", limits.recipients);
    complain_of_haste(&mut section, "idle_timeout", limits.idle);
    complain_of_haste(&mut section, "capture_timeout", limits.capture);
    let options = MilterOptions {
        socket_file: read_socket_file(&mut section),
        on_capture_failure: read_policy(&mut section).unwrap_or(OnCaptureFailure::Tempfail),
        allowed: section.or("allowed_networks", Networks::loopback()),
        limits,
        name: name.clone().unwrap_or_default(),
        listen: listen.clone().unwrap_or_else(any_address),
    };
    section.finish();
    (name.is_some() && listen.is_some()).then_some(options)
}

fn read_smtp(
    mut section: Section<'_>,
    protocol: Option<Protocol>,
    role: Option<Role>,
) -> Option<SmtpFrontend> {
    let name = super::read_name(&mut section);
    let role = read_role(&mut section, protocol, role);
    let is_journal = protocol == Some(Protocol::Journal);
    let listen = section.required("listen");
    let upstream = read_upstream(&mut section, is_journal);
    complain_of_self(&mut section, listen.as_ref(), upstream.as_ref());
    let identity = read_identity(&mut section);
    if section.has("upstream_idle_timeout") && role != Role::Filter {
        section.complain(
            "upstream_idle_timeout",
            "role \"filter\": a stranger's connection serves nobody else",
        );
    }
    let tls_implicit = read_tls_implicit(&mut section, identity.as_ref());
    let on_capture_failure = read_policy(&mut section);
    if is_journal && on_capture_failure == Some(OnCaptureFailure::Pass) {
        section.complain(
            "on_capture_failure",
            "\"tempfail\": there is nothing to pass it to",
        );
    }
    let trusted = match role {
        Role::Proxy => Networks::default(),
        Role::Filter | Role::Journal => Networks::loopback(),
    };
    let frontend = SmtpFrontend {
        protocol: protocol.unwrap_or(Protocol::Smtp),
        role,
        socket_file: read_socket_file(&mut section),
        hostname: section.or("hostname", "mailtee".to_owned()),
        on_capture_failure: on_capture_failure.unwrap_or(OnCaptureFailure::Tempfail),
        capture_rejected: section.or("capture_rejected", false),
        trusted: section.or("trusted_networks", trusted),
        allowed: match section.optional("allowed_networks") {
            None if role == Role::Journal => Some(Networks::loopback()),
            allowed => allowed,
        },
        proxy_protocol_from: section.optional("proxy_protocol_from"),
        tell_client: read_tell_client(&mut section),
        tls_implicit,
        limits: read_limits(&mut section),
        name: name.clone().unwrap_or_default(),
        listen: listen.clone().unwrap_or_else(any_address),
        upstream: upstream.clone(),
        identity,
    };
    section.finish();
    let complete = name.is_some() && listen.is_some() && protocol.is_some();
    (complete && (is_journal || upstream.is_some())).then_some(frontend)
}

pub(super) fn complain_of_self(
    section: &mut Section<'_>,
    listen: Option<&Address>,
    upstream: Option<&Upstream>,
) {
    if let (Some(listen), Some(upstream)) = (listen, upstream)
        && is_same(listen, &upstream.address)
    {
        section.complain(
            "upstream",
            "the next hop's address: this is where the front end listens itself",
        );
    }
}

pub(super) fn read_tls_implicit(
    section: &mut Section<'_>,
    identity: Option<&IdentityFiles>,
) -> bool {
    let words = [("starttls", false), ("implicit", true)];
    let is_implicit = section.choice("tls", &words);
    let is_half = section.has("certificate") || section.has("key");
    if section.has("tls") && identity.is_none() && !is_half {
        section.complain("certificate", "our certificate for `tls`, PEM");
    }
    is_implicit.unwrap_or(false)
}

fn read_policy(section: &mut Section<'_>) -> Option<OnCaptureFailure> {
    let policies = [
        ("tempfail", OnCaptureFailure::Tempfail),
        ("pass", OnCaptureFailure::Pass),
    ];
    section.choice("on_capture_failure", &policies)
}

pub(super) fn read_socket_file(section: &mut Section<'_>) -> SocketFile {
    SocketFile {
        mode: section.optional("socket_mode").map(|Mode(mode)| mode),
        owner: section.optional("socket_owner"),
        group: section.optional("socket_group"),
    }
}

pub(super) fn complain_of_none(section: &mut Section<'_>, key: &str, count: usize) {
    if count == 0 {
        section.complain(key, "at least 1");
    }
}

pub(super) fn complain_of_haste(section: &mut Section<'_>, key: &str, time: Duration) {
    if time < Duration::from_secs(1) {
        section.complain(key, "at least \"1s\"");
    }
}

/// Whether who connects to `to` reaches who listens at `at`, as far as the file tells: mail would go round for ever.
fn is_same(at: &Address, to: &Address) -> bool {
    let (
        Address::Tcp {
            host: at_host,
            port,
        },
        Address::Tcp {
            host: to_host,
            port: to_port,
        },
    ) = (at, to)
    else {
        return at == to;
    };
    let ip = |host: &str| match host {
        "localhost" => Some(IpAddr::from(Ipv4Addr::LOCALHOST)),
        host => host.parse().ok(),
    };
    port == to_port
        && match (ip(at_host), ip(to_host)) {
            (Some(at), Some(to)) => {
                let every = at.is_unspecified() && at.is_ipv4() == to.is_ipv4();
                at == to || (every && to.is_loopback())
            }
            _ => at_host == to_host,
        }
}

/// Stands in where the address is missing, so that the rest is read and its faults are found.
pub(super) fn any_address() -> Address {
    Address::Tcp {
        host: String::new(),
        port: 0,
    }
}

fn read_role(section: &mut Section<'_>, protocol: Option<Protocol>, absent: Option<Role>) -> Role {
    let roles = [
        ("filter", Role::Filter),
        ("proxy", Role::Proxy),
        ("journal", Role::Journal),
    ];
    let role = section.choice("role", &roles);
    match (protocol, role) {
        (Some(Protocol::Journal), None | Some(Role::Journal)) => Role::Journal,
        (Some(Protocol::Journal), Some(_)) => {
            section.complain("role", "\"journal\", or no role, for this protocol");
            Role::Journal
        }
        (_, Some(Role::Journal)) => {
            section.complain(
                "role",
                "\"filter\" | \"proxy\"; \"journal\" is a protocol too",
            );
            Role::Filter
        }
        (_, Some(role)) => role,
        (_, None) => {
            if let (false, Some(role)) = (section.has("role"), absent) {
                return role;
            }
            if !section.has("role") {
                section.complain(
                    "role",
                    "\"filter\" (our own mail server) | \"proxy\" (strangers)",
                );
            }
            Role::Filter
        }
    }
}

pub(super) fn read_upstream(section: &mut Section<'_>, is_journal: bool) -> Option<Upstream> {
    let address: Option<Address> = if is_journal {
        let given: Option<Address> = section.optional("upstream");
        if given.is_some() {
            section.complain(
                "upstream",
                "no `upstream`: a journal endpoint has no next hop",
            );
        }
        None
    } else {
        section.required("upstream")
    };
    let modes = [
        ("none", UpstreamTls::None),
        ("starttls", UpstreamTls::StartTls),
        ("implicit", UpstreamTls::Implicit),
    ];
    let tls = section.choice("upstream_tls", &modes);
    let tls = tls.unwrap_or(UpstreamTls::None);
    let tls_name: Option<String> = section.optional("upstream_tls_name");
    let ca_file = section.path("upstream_ca_file");
    let certificate = section.path("upstream_certificate");
    let key = section.path("upstream_key");
    if certificate.is_some() != key.is_some() {
        let missing = if key.is_none() {
            "upstream_key"
        } else {
            "upstream_certificate"
        };
        section.complain(missing, "certificate and key, both or neither");
    }
    let address = address?;
    let tls_name = tls_name
        .or_else(|| address.host().map(str::to_owned))
        .unwrap_or_default();
    if tls != UpstreamTls::None && tls_name.is_empty() {
        section.complain(
            "upstream_tls_name",
            "the name in the next hop's certificate",
        );
    }
    Some(Upstream {
        address,
        tls,
        tls_name,
        files: ClientTlsFiles {
            ca_file,
            identity: certificate
                .zip(key)
                .map(|(certificate, key)| IdentityFiles { certificate, key }),
        },
    })
}

fn read_tell_client(section: &mut Section<'_>) -> TellClient {
    let words = [
        ("no", TellClient::No),
        ("xforward", TellClient::Xforward),
        ("xclient", TellClient::Xclient),
        ("proxy-v1", TellClient::Proxy(Version::V1)),
        ("proxy-v2", TellClient::Proxy(Version::V2)),
    ];
    section
        .choice("tell_upstream_client", &words)
        .unwrap_or(TellClient::No)
}

fn read_limits(section: &mut Section<'_>) -> Limits {
    let default = Limits::default();
    let limits = Limits {
        sessions: section.or("sessions_max", default.sessions),
        sessions_per_address: section.or("sessions_per_address_max", default.sessions_per_address),
        line_bytes: section
            .or("line_bytes_max", Bytes(default.line_bytes as u64))
            .0 as usize,
        recipients: section.or("recipients_max", default.recipients),
        message_bytes: section
            .or("message_bytes_max", Bytes(default.message_bytes))
            .0,
        handshake: section.or("handshake_timeout", default.handshake),
        idle: section.or("idle_timeout", default.idle),
        total: section.or("total_timeout", default.total),
        upstream_connect: section.or("upstream_connect_timeout", default.upstream_connect),
        upstream_idle: section.or("upstream_idle_timeout", default.upstream_idle),
        upstream_reply: section.or("upstream_reply_timeout", default.upstream_reply),
        upstream_fate: section.or("upstream_fate_timeout", default.upstream_fate),
        capture: section.or("capture_timeout", default.capture),
    };
    for (key, at_least_one) in [
        ("sessions_max", limits.sessions),
        ("sessions_per_address_max", limits.sessions_per_address),
        ("recipients_max", limits.recipients),
    ] {
        complain_of_none(section, key, at_least_one);
    }
    // RFC 5321 section 4.5.3.1.4: a server takes lines of 512 octets, and extensions add to that.
    if !(512..=16 << 20).contains(&limits.line_bytes) {
        section.complain("line_bytes_max", "a size from 512 to 16 MiB");
    }
    for (key, time) in [
        ("idle_timeout", limits.idle),
        ("total_timeout", limits.total),
        ("upstream_reply_timeout", limits.upstream_reply),
        ("upstream_fate_timeout", limits.upstream_fate),
        ("capture_timeout", limits.capture),
    ] {
        complain_of_haste(section, key, time);
    }
    limits
}

/// `certificate` and `key`, both or neither.
pub(super) fn read_identity(section: &mut Section<'_>) -> Option<IdentityFiles> {
    match (section.path("certificate"), section.path("key")) {
        (Some(certificate), Some(key)) => Some(IdentityFiles { certificate, key }),
        (Some(_), None) => {
            section.complain("key", "the private key of `certificate`, PEM");
            None
        }
        (None, Some(_)) => {
            section.complain("certificate", "the certificate of `key`, PEM");
            None
        }
        (None, None) => None,
    }
}
