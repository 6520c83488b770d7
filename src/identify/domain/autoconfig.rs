//! Thunderbird's `config-v1.1.xml` (draft-ietf-mailmaint-autoconfig), read with distrust: no entity but XML's own five and
//! characters by number, bounded depth, counts and texts, unknown elements passed over.

use quick_xml::{
    Reader,
    escape::resolve_predefined_entity,
    events::{BytesStart, Event},
};
use reqwest::Url;

use super::{Candidate, Source};
use crate::identify::identity::{Kind, TlsMode, printable};

const DEPTH_MAX: usize = 32;
const SERVERS_MAX: usize = 32;
const TEXT_BYTES_MAX: usize = 500;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadConfig {
    #[error("it is not well-formed XML")]
    Malformed,
    #[error("it is nested too deeply")]
    TooDeep,
    #[error("it is no clientConfig")]
    Other,
}

/// One server as it is described.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Server {
    kind: Option<Kind>,
    host: String,
    port: u16,
    /// None: it has no TLS, or none that is known. Who logs in there tells his password to all on the way.
    tls: Option<TlsMode>,
    user: Option<String>,
    url: Option<String>,
}

impl Server {
    fn new(element: &BytesStart<'_>) -> Self {
        let kind = element.try_get_attribute("type").ok().flatten();
        let kind = kind.map(|it| it.value.to_ascii_lowercase());
        let known = [Kind::Imap, Kind::Pop3, Kind::Smtp, Kind::Jmap];
        Self {
            kind: known
                .into_iter()
                .find(|it| kind.as_deref() == Some(it.name())),
            ..Self::default()
        }
    }

    /// None where it would take a password in plain text.
    pub(super) fn into_candidate(self, source: Source, order: usize) -> Option<Candidate> {
        Some(Candidate {
            kind: self.kind?,
            host: self.host,
            port: self.port,
            tls: self.tls?,
            source,
            user: self.user,
            url: self.url,
            order: u32::try_from(order).unwrap_or(u32::MAX),
        })
    }

    fn take(&mut self, name: &str, value: &str) {
        match name {
            "hostname" => self.host = value.to_ascii_lowercase(),
            "port" => self.port = value.parse().unwrap_or(0),
            "socketType" => {
                self.tls = match value.to_ascii_uppercase().as_str() {
                    "SSL" | "TLS" => Some(TlsMode::Implicit),
                    "STARTTLS" => Some(TlsMode::StartTls),
                    _ => None,
                }
            }
            "username" => self.user = Some(printable(value.as_bytes())),
            "url" => self.url = Some(value.to_owned()),
            _ => {}
        }
    }

    /// One of a kind that we know, at a place that can be gone to.
    fn whole(mut self) -> Option<Self> {
        if self.kind? == Kind::Jmap {
            let url = Url::parse(self.url.as_deref()?).ok()?;
            self.tls = (url.scheme() == "https").then_some(TlsMode::Implicit);
            self.host = url.host_str()?.to_owned();
            self.port = url.port_or_known_default()?;
            self.url = Some(url.into());
        }
        (super::is_host(&self.host) && self.port != 0).then_some(self)
    }
}

/// The servers of a document, in its order. `user` is the address, where one is known, to stand for the placeholders.
pub(super) fn read(text: &str, domain: &str, user: Option<&str>) -> Result<Vec<Server>, BadConfig> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut open: Vec<String> = Vec::new();
    let mut servers = Vec::new();
    let mut server: Option<Server> = None;
    let mut value = String::new();
    let mut is_config = false;
    loop {
        match reader.read_event().map_err(|_| BadConfig::Malformed)? {
            Event::Start(element) => {
                let name = element.local_name().as_ref().to_owned();
                if open.is_empty() {
                    is_config = name == "clientConfig";
                }
                if open.len() >= DEPTH_MAX {
                    return Err(BadConfig::TooDeep);
                }
                if is_server(&name) && server.is_none() {
                    server = Some(Server::new(&element));
                }
                open.push(name);
                value.clear();
            }
            Event::Text(text) => push(&mut value, &text.xml10_content()),
            Event::CData(text) => push(&mut value, &text.xml10_content()),
            Event::GeneralRef(reference) => {
                let by_number = reference
                    .resolve_char_ref()
                    .map_err(|_| BadConfig::Malformed)?;
                match by_number {
                    Some(c) => push(&mut value, c.encode_utf8(&mut [0; 4])),
                    // Entities of the document's own making are not made.
                    None => push(
                        &mut value,
                        resolve_predefined_entity(&reference).unwrap_or_default(),
                    ),
                }
            }
            Event::End(_) => {
                let Some(name) = open.pop() else {
                    return Err(BadConfig::Malformed);
                };
                if is_server(&name) {
                    let whole = server.take().and_then(Server::whole);
                    servers.extend(whole.filter(|_| servers.len() < SERVERS_MAX));
                } else if let Some(server) = &mut server
                    && open.last().is_some_and(|parent| is_server(parent))
                {
                    server.take(&name, &fill(value.trim(), domain, user));
                }
                value.clear();
            }
            Event::Eof if !open.is_empty() => return Err(BadConfig::Malformed),
            Event::Eof if !is_config => return Err(BadConfig::Other),
            Event::Eof => return Ok(servers),
            _ => {}
        }
    }
}

fn is_server(name: &str) -> bool {
    matches!(name, "incomingServer" | "outgoingServer")
}

fn push(value: &mut String, text: &str) {
    if value.len() + text.len() <= TEXT_BYTES_MAX {
        value.push_str(text);
    }
}

/// Placeholders; without an address only the domain's.
fn fill(value: &str, domain: &str, user: Option<&str>) -> String {
    let value = value.replace("%EMAILDOMAIN%", domain);
    match user.and_then(|it| Some((it, it.rsplit_once('@')?.0))) {
        None => value,
        Some((address, local)) => value
            .replace("%EMAILADDRESS%", address)
            .replace("%EMAILLOCALPART%", local),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: &str = r#"<?xml version="1.0"?>
<clientConfig version="1.1"><emailProvider id="example.org">
  <domain>example.org</domain><displayName>A &amp; B</displayName>
  <incomingServer type="imap"><hostname>imap.%EMAILDOMAIN%</hostname><port>993</port>
    <socketType>SSL</socketType><username>%EMAILLOCALPART%</username>
    <authentication>password-cleartext</authentication><future><port>1</port></future></incomingServer>
  <incomingServer type="pop3"><hostname>pop.example.org</hostname><port>110</port><socketType>plain</socketType></incomingServer>
  <incomingServer type="exchange"><hostname>x</hostname><port>443</port></incomingServer>
  <incomingServer type="jmap"><url>https://jmap.example.org/session</url></incomingServer>
  <outgoingServer type="smtp"><hostname>smtp.example.org</hostname><port>587</port><socketType>STARTTLS</socketType></outgoingServer>
</emailProvider></clientConfig>"#;

    #[test]
    fn servers_are_read_in_their_order() {
        let servers = read(USUAL, "example.org", Some("ada@example.org")).unwrap();
        let kinds: Vec<Kind> = servers.iter().filter_map(|it| it.kind).collect();
        assert_eq!(kinds, [Kind::Imap, Kind::Pop3, Kind::Jmap, Kind::Smtp]);
        assert_eq!(servers[0].host, "imap.example.org");
        assert_eq!(
            (servers[0].port, servers[0].tls),
            (993, Some(TlsMode::Implicit))
        );
        assert_eq!(servers[0].user.as_deref(), Some("ada"));
        assert_eq!(servers[1].tls, None);
        assert_eq!(servers[2].host, "jmap.example.org");
        assert_eq!(servers[2].tls, Some(TlsMode::Implicit));
        assert_eq!(servers[3].tls, Some(TlsMode::StartTls));
    }

    #[test]
    fn hostile_documents_come_to_an_end() {
        let bomb = r#"<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><clientConfig><incomingServer type="imap"><hostname>&b;</hostname><port>143</port></incomingServer></clientConfig>"#;
        assert_eq!(read(bomb, "example.org", None), Ok(vec![]));
        assert_eq!(
            read(&"<a>".repeat(100_000), "x", None),
            Err(BadConfig::TooDeep)
        );
        assert_eq!(
            read("<html><body>404</body></html>", "x", None),
            Err(BadConfig::Other)
        );
        assert_eq!(
            read("<clientConfig><a>", "x", None),
            Err(BadConfig::Malformed)
        );
        assert_eq!(read("", "x", None), Err(BadConfig::Other));
        let one = r#"<incomingServer type="imap"><hostname>h</hostname><port>1</port><socketType>SSL</socketType></incomingServer>"#;
        let many = format!("<clientConfig>{}</clientConfig>", one.repeat(10_000));
        assert_eq!(read(&many, "x", None).unwrap().len(), SERVERS_MAX);
        let long = format!(
            "<clientConfig>{}</clientConfig>",
            one.replace(">h<", &format!(">{}<", "h".repeat(9999)))
        );
        assert_eq!(read(&long, "x", None), Ok(vec![]));
    }

    #[test]
    fn a_spoiled_document_is_read_or_not_and_nothing_breaks() {
        for (at, _) in USUAL.char_indices() {
            let _ = read(&USUAL[..at], "example.org", None);
            for text in [
                "<",
                ">",
                "</",
                "&",
                ";",
                "\"",
                "%",
                "\0",
                "ß",
                "<![CDATA[",
                "]]>",
                "<!--",
                "&#27;",
            ] {
                let (before, after) = USUAL.split_at(at);
                let spoiled = [
                    format!("{before}{text}{after}"),
                    format!("{before}{text}{}", &after[1..]),
                ];
                for spoiled in spoiled {
                    let servers = read(&spoiled, "example.org", Some("ada@example.org"));
                    let servers = servers.unwrap_or_default().into_iter();
                    for server in servers {
                        assert!(super::super::is_host(&server.host) && server.port != 0);
                        let mut texts = server.user.iter().chain(&server.url);
                        assert!(texts.all(|it| !it.contains(char::is_control)), "{spoiled}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_server_without_tls_becomes_a_candidate() {
        let kept = |text: &str| {
            let servers = read(text, "example.org", None).unwrap().into_iter();
            let kept = servers.filter_map(|it| it.into_candidate(Source::Ispdb, 0));
            kept.map(|it| it.kind).collect::<Vec<_>>()
        };
        assert_eq!(kept(USUAL), [Kind::Imap, Kind::Jmap, Kind::Smtp]);
        let silent = USUAL.replace("<socketType>SSL</socketType>", "");
        assert_eq!(kept(&silent), [Kind::Jmap, Kind::Smtp]);
        let odd = USUAL.replace("STARTTLS", "maybe");
        assert_eq!(kept(&odd), [Kind::Imap, Kind::Jmap]);
        let http = USUAL.replace("https:", "http:");
        assert_eq!(kept(&http), [Kind::Imap, Kind::Smtp]);
    }

    #[test]
    fn what_stands_in_a_document_moves_no_cursor() {
        let text = USUAL
            .replace("%EMAILLOCALPART%", "ada&#x9b;2J&#27;]0;")
            .replace("org/session", "org/a&#x9b;\tb");
        let servers = read(&text, "example.org", None).unwrap();
        let user = servers[0].user.as_deref();
        assert_eq!(user, Some("ada\u{fffd}2J\u{fffd}]0;"));
        let url = servers[2].url.as_deref();
        assert_eq!(url, Some("https://jmap.example.org/a%C2%9Bb"));
    }

    #[test]
    fn a_name_with_more_than_a_name_in_it_is_no_host() {
        let text = USUAL.replace("smtp.example.org", "x\"\nlisten = 1 #");
        let servers = read(&text, "example.org", None).unwrap();
        assert!(servers.iter().all(|it| it.kind != Some(Kind::Smtp)));
    }
}
