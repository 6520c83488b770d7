//! `mailtee identify`: what speaks there, and how mailtee sits in front of it.

use std::path::PathBuf;

use clap::Args;
use futures_util::future::join_all;

use super::{
    Format, Verdict,
    output::{self, printable},
};
use crate::{
    identify::{self, Capabilities, Certificate, Identity, Kind, Options, TlsMode},
    net::{self, Address},
};

/// Where mail servers listen, for a host that is named without a port.
const USUAL_PORTS: &[u16] = &[25, 110, 143, 443, 465, 587, 993, 995, 4190];

#[derive(Debug, Args)]
#[command(
    about = "Find out which protocol a server speaks, how it is secured and what it offers",
    after_help = "Nobody logs in and no secret is sent. Within 12 seconds there is an answer, mostly within one.\n\n\
                  Examples:\n  mailtee identify imap.example.org:143\n  mailtee identify mail.example.org\n  \
                  mailtee identify 127.0.0.1:10143 --config | tee -a mailtee.toml\n  \
                  mailtee identify mail.example.org:993 --ca-file ca.pem --format json"
)]
pub(super) struct Identify {
    /// HOST:PORT, or a host whose usual ports are tried.
    #[arg(value_name = "SERVER")]
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
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

impl Identify {
    pub(super) fn run(self) -> anyhow::Result<Verdict> {
        let addresses = self.addresses()?;
        let options = Options {
            ca_file: self.ca_file.clone(),
            tls_name: self.tls_name.clone(),
        };
        net::install_provider();
        let looking = addresses.iter().map(|it| identify::identify(it, &options));
        let found = super::small_runtime()?.block_on(join_all(looking));
        let found = found.into_iter().collect::<Result<Vec<_>, _>>()?;
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

    fn addresses(&self) -> anyhow::Result<Vec<Address>> {
        if let Ok(address) = self.server.parse() {
            return Ok(vec![address]);
        }
        let bare = self.server.trim_matches(['[', ']']);
        let is_host = !bare.is_empty()
            && (bare.parse::<std::net::IpAddr>().is_ok()
                || bare
                    .bytes()
                    .all(|it| it.is_ascii_alphanumeric() || b"-._".contains(&it)));
        anyhow::ensure!(is_host, "{:?} is no HOST:PORT and no host", self.server);
        let with = |port: &u16| Address::Tcp {
            host: bare.to_owned(),
            port: *port,
        };
        Ok(USUAL_PORTS.iter().map(with).collect())
    }

    fn print_config(&self, found: &[Identity]) -> anyhow::Result<Verdict> {
        let blocks: Vec<_> = found.iter().filter_map(|it| self.block(it)).collect();
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

    /// The front end for a server, where there is one.
    fn block(&self, identity: &Identity) -> Option<String> {
        let (listen, role) = match identity.kind {
            Kind::Smtp => (10025, true),
            Kind::Lmtp => (10024, true),
            _ => return None,
        };
        let name = identity.kind.name();
        let mut block = format!(
            "[[frontend]]\nname = \"{name}\"\nprotocol = \"{name}\"\nlisten = \"127.0.0.1:{listen}\"\n"
        );
        if role {
            block.push_str("role = \"filter\"\n");
        }
        block.push_str(&format!("upstream = {}\n", quoted(&identity.address)));
        let Some(certificate) = &identity.certificate else {
            return Some(block);
        };
        block.push_str(&format!("upstream_tls = \"{}\"\n", identity.tls.name()));
        if let Some(name) = &self.tls_name {
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
        if let Some(why) = &certificate.why_not {
            let why = printable(why);
            block.push_str(&format!(
                "# its certificate does not verify, so mailtee will not connect: {why}\n"
            ));
        }
        Some(block)
    }
}

/// A string of TOML's basic kind is written as JSON writes its own.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What was found, for people.
fn report(identity: &Identity) -> String {
    let secured = match identity.tls {
        TlsMode::None => "",
        TlsMode::StartTls => ", STARTTLS",
        TlsMode::Implicit => ", implicit TLS",
    };
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
