//! `mailtee identify`: what speaks there, or which servers a domain has, and how mailtee sits in front of them.

mod domain;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::Args;

use super::{
    Format, Verdict,
    output::{self, printable},
};
use crate::{
    identify::{self, Capabilities, Certificate, Identity, Kind, TlsMode},
    net::{self, Address},
};

/// Where mail servers listen, for a host that is named without a port.
const USUAL_PORTS: &[u16] = &[25, 110, 143, 443, 465, 587, 993, 995, 4190];

#[derive(Debug, Args)]
#[command(
    about = "Find out which protocol a server speaks, how it is secured and what it offers; or which servers a domain has",
    after_help = "Nobody logs in and no secret is sent. A server answers within 12 seconds, mostly within one. A domain is asked for \
                  autoconfiguration, SRV records, JMAP and MX, then its best servers themselves; an address goes to its own \
                  domain alone, over HTTPS.\n\n\
                  Examples:\n  mailtee identify imap.example.org:143\n  mailtee identify mail.example.org\n  \
                  mailtee identify ada@example.org\n  mailtee identify example.org --resolver 192.0.2.53 --config\n  \
                  mailtee identify 127.0.0.1:10143 --config | tee -a mailtee.toml\n  \
                  mailtee identify mail.example.org:993 --ca-file ca.pem --format json"
)]
pub(super) struct Identify {
    /// A server; or a name that may be a host's, whose usual ports are tried, or a domain's; or a mail address.
    #[arg(value_name = "HOST:PORT | HOST | DOMAIN | USER@DOMAIN")]
    server: String,
    /// Print the [[frontend]] that sits in front of it, for mailtee.toml.
    #[arg(long, conflicts_with = "format")]
    config: bool,
    /// Trust these authorities (PEM) instead of the system's.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The name that the certificate must be for, where it is not the server's own.
    #[arg(long, value_name = "NAME")]
    tls_name: Option<String>,
    /// The DNS server to ask, in place of the system's.
    #[arg(long, value_name = "IP[:PORT]", value_parser = domain::resolver)]
    resolver: Option<SocketAddr>,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

impl Identify {
    pub(super) fn run(self) -> anyhow::Result<Verdict> {
        net::install_provider();
        let runtime = super::small_runtime()?;
        let verdict = self.ask(&runtime);
        // The system may still be looking for a name whose time is over; nobody waits for that.
        runtime.shutdown_background();
        verdict
    }

    fn ask(&self, runtime: &tokio::runtime::Runtime) -> anyhow::Result<Verdict> {
        if let Ok(address) = self.server.parse() {
            return self.servers(runtime, &[address]);
        }
        let is_name = |text: &str| {
            let fits = |c: char| c.is_alphanumeric() || "-._".contains(c);
            !text.is_empty() && text.chars().all(fits)
        };
        if let Some((user, domain)) = self.server.rsplit_once('@')
            && !user.is_empty()
            && is_name(domain)
        {
            return runtime.block_on(self.domain(domain, Some(&self.server), false));
        }
        let bare = self.server.trim_matches(['[', ']']);
        anyhow::ensure!(
            is_name(bare) || bare.parse::<IpAddr>().is_ok(),
            "{:?} is no HOST:PORT, no host, no domain and no address",
            self.server
        );
        match domain::may_be_domain(bare) {
            true => runtime.block_on(self.domain(bare, None, true)),
            false => self.servers(runtime, &usual(bare)),
        }
    }

    fn servers(
        &self,
        runtime: &tokio::runtime::Runtime,
        addresses: &[Address],
    ) -> anyhow::Result<Verdict> {
        let found = runtime.block_on(async {
            let finder = self.resolver.map(|_| self.finder()).transpose()?;
            self.look(addresses, finder.as_ref()).await
        })?;
        let is_well = found.iter().any(|it| it.kind.is_protocol());
        if self.config {
            return self.print_config(&found);
        }
        for (index, identity) in found.iter().enumerate() {
            match self.format {
                Format::Json => output::line(&serde_json::to_string(identity)?)?,
                Format::Text => {
                    let gap = if index > 0 { "\n" } else { "" };
                    output::line(&format!("{gap}{}", report(identity)))?;
                }
            }
        }
        Ok(if is_well {
            Verdict::Well
        } else {
            Verdict::Amiss
        })
    }

    fn print_config(&self, found: &[Identity]) -> anyhow::Result<Verdict> {
        let blocks = block_texts(found.iter().filter_map(|it| self.block(it)));
        anyhow::ensure!(
            !blocks.is_empty(),
            "{}",
            found
                .iter()
                .map(|it| format!("{}: {}: no front end for that", it.address, it.kind.name()))
                .collect::<Vec<_>>()
                .join("\n")
        );
        output::line(&blocks.join("\n"))?;
        Ok(Verdict::Well)
    }

    /// The front end for a server, where there is one, and the port at which it listens.
    fn block(&self, identity: &Identity) -> Option<(u16, String)> {
        let submission = |port| identity.address.ends_with(port);
        let (listen, name, role) = match identity.kind {
            // Where users hand mail in, strangers to us talk.
            Kind::Smtp if submission(":587") || submission(":465") => {
                (10587, "submission", Some("proxy"))
            }
            Kind::Smtp => (10025, "smtp", Some("filter")),
            Kind::Lmtp => (10024, "lmtp", Some("filter")),
            Kind::Imap => (10143, "imap", None),
            Kind::Pop3 => (10110, "pop3", None),
            _ => return None,
        };
        let protocol = identity.kind.name();
        let mut block = format!(
            "[[frontend]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\nlisten = \"127.0.0.1:{listen}\"\n"
        );
        if let Some(role) = role {
            block.push_str(&format!("role = \"{role}\"\n"));
        }
        block.push_str(&format!("upstream = {}\n", quoted(&identity.address)));
        let tls = identity.promised_tls();
        if tls == TlsMode::None {
            if !identity.is_settled {
                let lines = block.lines().map(|line| format!("# {line}\n"));
                block = lines.collect();
                block.push_str("# it broke off before it had said whether it has TLS: ask again\n");
            }
            return Some((listen, block));
        }
        block.push_str(&format!("upstream_tls = \"{}\"\n", tls.name()));
        // A path has no name of its own: the one it was held against.
        let is_path = matches!(identity.address.parse(), Ok(Address::Unix(_)));
        let name = self.tls_name.as_deref();
        if let Some(name) = name.or(is_path.then_some(identify::NAMELESS)) {
            block.push_str(&format!("upstream_tls_name = {}\n", quoted(name)));
        }
        if let Some(file) = &self.ca_file {
            // The configuration's relative paths start elsewhere.
            let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            block.push_str(&format!(
                "upstream_ca_file = {}\n",
                quoted(&file.to_string_lossy())
            ));
        }
        let why = match &identity.certificate {
            // No way back to plain text: the front end wants what the server promised.
            None => Some("it offers TLS and fails at it".to_owned()),
            Some(certificate) => certificate
                .why_not
                .as_ref()
                .map(|why| format!("its certificate does not verify: {}", printable(why))),
        };
        if let Some(why) = why {
            block.push_str(&format!("# mailtee will not connect: {why}\n"));
        }
        Some((listen, block))
    }
}

/// The first at each port: two could not listen there.
fn block_texts(blocks: impl Iterator<Item = (u16, String)>) -> Vec<String> {
    let mut ports = Vec::new();
    let mut texts = Vec::new();
    for (port, text) in blocks {
        if !ports.contains(&port) {
            ports.push(port);
            texts.push(text);
        }
    }
    texts
}

fn endpoint(host: &str, port: u16) -> Address {
    Address::Tcp {
        host: host.to_owned(),
        port,
    }
}

fn usual(host: &str) -> Vec<Address> {
    let ports = USUAL_PORTS.iter();
    ports.map(|port| endpoint(host, *port)).collect()
}

fn secured(tls: TlsMode) -> &'static str {
    match tls {
        TlsMode::None => "",
        TlsMode::StartTls => ", STARTTLS",
        TlsMode::Implicit => ", implicit TLS",
    }
}

/// A string of TOML's basic kind is written as JSON writes its own.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What was found, for people.
fn report(identity: &Identity) -> String {
    let secured = secured(identity.tls);
    let said = match identity.kind {
        Kind::Unknown => "speaks, but unknown",
        kind => kind.name(),
    };
    let mut text = format!("{}: {said}{secured}", identity.address);
    let mut row = |label: &str, value: &str| {
        text.push_str(&format!("\n  {label:<12}  {}", printable(value)));
    };
    if let Some(greeting) = &identity.greeting {
        row("greeting", greeting);
    }
    if let Some(plain) = &identity.plain {
        row("in the clear", &offered(plain));
    }
    if let Some(secured) = &identity.secured {
        row("under TLS", &under_tls(secured, identity.plain.as_ref()));
    }
    for about in &identity.about {
        row("about", about);
    }
    if let Some(jmap) = &identity.jmap {
        let wants = jmap.authenticate.join(", ");
        row(
            "JMAP",
            &format!("{} (HTTP {}; {wants})", jmap.url, jmap.status),
        );
    }
    if let Some(certificate) = &identity.certificate {
        row("certificate", &held_out(certificate));
        row(
            "verifies",
            match &certificate.why_not {
                None => "yes",
                Some(why) => why,
            },
        );
    }
    for (index, evidence) in identity.evidence.iter().enumerate() {
        row(if index == 0 { "evidence" } else { "" }, evidence);
    }
    row("took", &format!("{:.2} s", identity.took.as_secs_f64()));
    text
}

fn offered(capabilities: &Capabilities) -> String {
    match capabilities.all.as_slice() {
        [] => "nothing".to_owned(),
        all => all.join(" | "),
    }
}

/// Only the difference, where the rest has been told.
fn under_tls(secured: &Capabilities, plain: Option<&Capabilities>) -> String {
    let Some(plain) = plain else {
        return offered(secured);
    };
    let beyond = |these: &Capabilities, those: &Capabilities| {
        let only = these.all.iter().filter(|it| !those.all.contains(it));
        only.cloned().collect::<Vec<_>>().join(" | ")
    };
    let (gone, come) = (beyond(plain, secured), beyond(secured, plain));
    match (gone.as_str(), come.as_str()) {
        ("", "") => "the same".to_owned(),
        (gone, "") => format!("the same, without {gone}"),
        ("", come) => format!("the same, and {come}"),
        (gone, come) => format!("the same, without {gone}, with {come}"),
    }
}

fn held_out(certificate: &Certificate) -> String {
    let until = certificate.not_after.map_or("?".to_owned(), |until| {
        until.strftime("%Y-%m-%d").to_string()
    });
    let version = certificate.tls.as_deref().unwrap_or("TLS");
    format!(
        "{} for {}, by {}, until {until}, over {version}",
        certificate.subject,
        certificate.names.join(" "),
        certificate.issuer,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_tls_was_promised_and_broke_the_front_end_still_wants_it() {
        let asked = Identify {
            server: String::new(),
            config: true,
            ca_file: None,
            tls_name: None,
            resolver: None,
            format: Format::Text,
        };
        let mut found = Identity::unreachable("mail.example.org:143".to_owned(), "");
        found.kind = Kind::Imap;
        let (_, cut) = asked.block(&found).unwrap();
        assert!(cut.contains("# it broke off"), "{cut}");
        assert!(cut.lines().all(|line| line.starts_with("# ")), "{cut}");
        found.is_settled = true;
        let (_, plain) = asked.block(&found).unwrap();
        assert!(
            !plain.contains("upstream_tls") && !plain.contains('#'),
            "{plain}"
        );
        found.plain = Some(Capabilities {
            all: vec!["IMAP4rev1".to_owned(), "STARTTLS".to_owned()],
            ..Capabilities::default()
        });
        let (_, promised) = asked.block(&found).unwrap();
        assert!(
            promised.contains("upstream_tls = \"starttls\""),
            "{promised}"
        );
        found.tls = TlsMode::StartTls;
        let (_, broken) = asked.block(&found).unwrap();
        assert!(broken.contains("upstream_tls = \"starttls\""), "{broken}");
        assert!(broken.contains("# mailtee will not connect"), "{broken}");
    }

    #[test]
    fn two_front_ends_do_not_listen_at_one_port() {
        let blocks = [
            (1, "a".to_owned()),
            (2, "b".to_owned()),
            (1, "c".to_owned()),
        ];
        assert_eq!(block_texts(blocks.into_iter()), ["a", "b"]);
    }
}
