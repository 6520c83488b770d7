//! What a domain says of its mail servers, asked of a real DNS server and of HTTPS servers at the ports they are at.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::header::{HOST, REFERER},
    response::Response,
};
use mailtee::net::{
    Address, Http, IdentityFiles, ServeOptions, ServerTls, install_provider, self_signed, serve,
};
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::kit::{Peer, TestDir, free_port, wait_until};

const CONFIG: &str = r#"<?xml version="1.0"?><clientConfig version="1.1"><emailProvider id="x">
<incomingServer type="imap"><hostname>imap.example.test</hostname><port>PORT</port><socketType>STARTTLS</socketType><username>%EMAILLOCALPART%</username></incomingServer>
<incomingServer type="pop3"><hostname>pop.example.test</hostname><port>110</port><socketType>plain</socketType></incomingServer>
</emailProvider></clientConfig>"#;

/// The answers of all web servers, by `host/path`; anything else is 404.
type Pages = BTreeMap<String, String>;

/// A domain of its own: dnsmasq for its names, HTTP and HTTPS at one loopback address that only this test uses.
struct World {
    dns: Child,
    resolver: SocketAddr,
    dir: TestDir,
    _stop: tokio_util::sync::DropGuard,
    _runtime: tokio::runtime::Runtime,
}

impl World {
    /// `records` are dnsmasq's own words; each of `names` is at the web servers' address.
    fn start(names: &[&str], records: &[String], pages: Pages) -> Self {
        install_provider();
        let dir = TestDir::new();
        let ip = Ipv4Addr::new(
            127,
            rand::random_range(1..255),
            rand::random_range(1..255),
            rand::random_range(1..255),
        );
        let mut certified = vec!["localhost"];
        certified.extend(names);
        let identity = self_signed(&certified, dir.path()).expect("a certificate");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let stop = CancellationToken::new();
        let pages = Arc::new(pages);
        runtime.block_on(async {
            web(ip, 443, Some(identity.files), pages.clone(), &stop).await;
            web(ip, 80, None, pages, &stop).await;
        });
        let port = free_port();
        let mut command = Command::new("dnsmasq");
        command
            .args([
                "--keep-in-foreground",
                "--no-resolv",
                "--no-hosts",
                "--conf-file=/dev/null",
            ])
            .args([
                "--bind-interfaces",
                "--listen-address=127.0.0.1",
                "--user=root",
                "--pid-file=",
            ])
            .arg(format!("--port={port}"))
            .arg("--local=/#/")
            .args(
                names
                    .iter()
                    .map(|name| format!("--host-record={name},{ip}")),
            )
            .args(records)
            .stderr(Stdio::null());
        let dns = command.spawn().expect("dnsmasq");
        let resolver = SocketAddr::from(([127, 0, 0, 1], port));
        wait_until(Duration::from_secs(20), "dnsmasq answers", || {
            TcpStream::connect(resolver).ok()
        });
        Self {
            dns,
            resolver,
            dir,
            _stop: stop.drop_guard(),
            _runtime: runtime,
        }
    }

    fn identify(&self, ca: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailtee"));
        command
            .arg("identify")
            .args(["--resolver", &self.resolver.to_string()])
            .args(["--ca-file", ca])
            .args(arguments);
        command.output().expect("mailtee")
    }

    /// What it prints, and its exit code.
    fn text(&self, ca: &str, arguments: &[&str]) -> (String, Option<i32>) {
        let output = self.identify(ca, arguments);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        (text, output.status.code())
    }

    fn ca(&self) -> String {
        self.dir.join("certificate.pem").display().to_string()
    }

    /// The first line: what the domain says.
    #[track_caller]
    fn domain(&self, asked: &str) -> Value {
        let output = self.identify(&self.ca(), &[asked, "--format", "json"]);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let first = text.lines().next().unwrap_or_else(|| {
            panic!("{}", String::from_utf8_lossy(&output.stderr));
        });
        serde_json::from_str(first).expect("JSON")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.dns.kill();
        let _ = self.dns.wait();
    }
}

async fn web(
    ip: Ipv4Addr,
    port: u16,
    identity: Option<IdentityFiles>,
    pages: Arc<Pages>,
    stop: &CancellationToken,
) {
    let address = Address::Tcp {
        host: ip.to_string(),
        port,
    };
    let listener = address.listen(None).await.expect("a port below 1024");
    let tls = identity.map(|it| ServerTls::load(it, None, &["http/1.1"]).expect("TLS"));
    let scheme = if tls.is_some() { "https" } else { "http" };
    let router = Router::new().fallback(async move |request: Request| {
        let host = request.headers().get(HOST).and_then(|it| it.to_str().ok());
        let query = request.uri().query();
        let query = query.map(|it| format!("?{it}")).unwrap_or_default();
        let page = format!(
            "{scheme}://{}{}{query}",
            host.unwrap_or_default(),
            request.uri().path()
        );
        let answer = Response::builder();
        // Who was sent on here may not say from where: the address stands there.
        let known = pages
            .get(&page)
            .filter(|_| !request.headers().contains_key(REFERER));
        match known {
            None => answer.status(404).body(Body::empty()),
            Some(text) => match text.split_once(": ") {
                Some(("to", place)) => answer
                    .status(302)
                    .header("location", place)
                    .body(Body::empty()),
                Some(("login", scheme)) => answer
                    .status(401)
                    .header("www-authenticate", scheme)
                    .body(Body::empty()),
                _ => answer.body(Body::from(text.clone())),
            },
        }
        .expect("an answer")
    });
    let patience = Duration::from_secs(20);
    let http = Http {
        name: "test",
        router,
        idle: patience,
        stalled: patience,
        answers_refused: false,
        stop: stop.clone(),
    };
    let options = ServeOptions {
        sessions_max: 99,
        sessions_per_address_max: 99,
        proxy_protocol: None,
        handshake_timeout: patience,
    };
    tokio::spawn(serve(
        listener,
        options,
        tls,
        Arc::new(http),
        stop.clone(),
        TaskTracker::new(),
    ));
}

/// `protocol host:port tls source`, in the order of the report.
fn candidates(domain: &Value) -> Vec<String> {
    let all = domain["candidates"].as_array().expect("a list");
    let word = |it: &Value, key: &str| it[key].as_str().unwrap_or_default().to_owned();
    all.iter()
        .map(|it| {
            format!(
                "{} {}:{} {} {}",
                word(it, "protocol"),
                word(it, "host"),
                it["port"],
                word(it, "tls"),
                word(it, "source")
            )
        })
        .collect()
}

fn found<'a>(domain: &'a Value, place: &str) -> &'a str {
    let all = domain["asked"].as_array().expect("a list");
    let asked = all.iter().find(|it| it["place"] == place);
    let asked = asked.unwrap_or_else(|| panic!("{place} was not asked: {domain:#}"));
    asked["found"].as_str().expect("text")
}

#[test]
fn every_place_is_asked_and_the_domains_own_word_goes_first() {
    let dovecot = Peer::set("dovecot").start();
    let imap = dovecot.address("IMAP");
    let config = CONFIG.replace("example.test", "mailtee.test");
    let config = config.replace("PORT", &imap.port().to_string());
    let mut pages = Pages::new();
    let own =
        "https://autoconfig.mailtee.test/mail/config-v1.1.xml?emailaddress=ada%40mailtee.test";
    pages.insert(own.to_owned(), config.clone());
    let other = config.replace("imap.mailtee", "other.mailtee");
    pages.insert(
        "https://v1.ispdb.net/mailtee.test".to_owned(),
        other.clone(),
    );
    pages.insert(
        "https://autoconfig.hoster.test/mail/config-v1.1.xml".to_owned(),
        config.replace("imap.mailtee", "hoster.mailtee"),
    );
    pages.insert(
        "https://mailtee.test/.well-known/jmap".to_owned(),
        "login: Bearer".to_owned(),
    );
    let names = [
        "mailtee.test",
        "autoconfig.mailtee.test",
        "v1.ispdb.net",
        "autoconfig.hoster.test",
    ];
    let records = [
        "--mx-host=mailtee.test,mx1.hoster.test,10",
        "--mx-host=mailtee.test,mx0.hoster.test,5",
        "--srv-host=_imaps._tcp.mailtee.test,imap.mailtee.test,993,0,1",
        "--srv-host=_submissions._tcp.mailtee.test,second.mailtee.test,465,20,1",
        "--srv-host=_submissions._tcp.mailtee.test,first.mailtee.test,465,10,1",
        "--srv-host=_pop3s._tcp.mailtee.test",
        "--srv-host=_jmap._tcp.mailtee.test,jmap.mailtee.test,443",
        "--host-record=imap.mailtee.test,127.0.0.1",
    ]
    .map(str::to_owned);
    let world = World::start(&names, &records, pages);

    let domain = world.domain("ada@mailtee.test");
    let port = imap.port();
    let expected = [
        format!("imap imap.mailtee.test:{port} starttls autoconfig"),
        format!("imap other.mailtee.test:{port} starttls ispdb"),
        format!("imap hoster.mailtee.test:{port} starttls mx-autoconfig"),
        "imap imap.mailtee.test:993 implicit srv".to_owned(),
        "jmap jmap.mailtee.test:443 implicit srv".to_owned(),
        "jmap mailtee.test:443 implicit jmap-well-known".to_owned(),
        "smtp first.mailtee.test:465 implicit srv".to_owned(),
        "smtp second.mailtee.test:465 implicit srv".to_owned(),
        "smtp mx0.hoster.test:25 starttls mx".to_owned(),
        "smtp mx1.hoster.test:25 starttls mx".to_owned(),
    ];
    assert_eq!(candidates(&domain), expected, "{domain:#}");
    assert_eq!(domain["candidates"][0]["user"], "ada");
    assert!(found(&domain, own).contains("1 that would take a password in plain text"));
    assert_eq!(
        found(&domain, "SRV _pop3s._tcp.mailtee.test"),
        "expressly not offered"
    );
    assert_eq!(found(&domain, "SRV _imap._tcp.mailtee.test"), "nothing");

    // The server that is named is asked itself. This one's certificate is of another authority: no front end for it.
    let asked = ["ada@mailtee.test"];
    let (text, code) = world.text(&world.ca(), &asked);
    assert_eq!(code, Some(1), "{text}");
    let server = format!("imap.mailtee.test:{port}: imap, STARTTLS");
    assert!(text.contains(&server), "{text}");
    let fault = "FAULT         its certificate does not verify";
    assert!(text.contains(fault), "{text}");
    let asked = ["ada@mailtee.test", "--config"];
    let (text, code) = world.text(&world.ca(), &asked);
    assert_eq!((text.as_str(), code), ("", Some(3)));

    // With both authorities it is well, and what is printed is a configuration.
    let read = |path: &str| std::fs::read_to_string(path).expect("PEM");
    let both = world.dir.join("both.pem");
    let pem = read(&world.ca()) + &read(dovecot.var("CA"));
    std::fs::write(&both, pem).expect("a file");
    let (block, code) = world.text(&both.display().to_string(), &asked);
    assert_eq!(code, Some(0), "{block}");
    assert!(block.contains(&format!("upstream = \"imap.mailtee.test:{port}\"")));
    assert!(block.contains("upstream_tls = \"starttls\""), "{block}");
    let data = world.dir.join("data").display().to_string();
    let file = world.dir.join("mailtee.toml");
    let whole = format!(
        "data_dir = {data:?}\n[vault]\nlisten = \"127.0.0.1:{}\"\n{block}",
        free_port()
    );
    std::fs::write(&file, whole).expect("a file");
    let options = ["check", "--offline", "--config"];
    let mut check = Command::new(env!("CARGO_BIN_EXE_mailtee"));
    let checked = check.args(options).arg(&file).output().expect("mailtee");
    assert_eq!(checked.status.code(), Some(0), "{block}{checked:?}");
}

#[test]
fn nothing_leads_from_https_to_http_and_plain_http_is_told_no_address() {
    let config = CONFIG.replace("PORT", "143");
    let mut pages = Pages::new();
    let own =
        "https://autoconfig.example.test/mail/config-v1.1.xml?emailaddress=ada%40example.test";
    pages.insert(
        own.to_owned(),
        "to: http://autoconfig.example.test/elsewhere".to_owned(),
    );
    pages.insert(
        "http://autoconfig.example.test/elsewhere".to_owned(),
        config.replace("imap.example", "evil.example"),
    );
    let plain = "http://autoconfig.example.test/mail/config-v1.1.xml";
    pages.insert(plain.to_owned(), config);
    let ispdb = "https://v1.ispdb.net/example.test";
    pages.insert(ispdb.to_owned(), "x".repeat(300 << 10));
    let names = ["autoconfig.example.test", "v1.ispdb.net"];
    let world = World::start(&names, &[], pages);
    let domain = world.domain("ada@example.test");
    let expected = ["imap imap.example.test:143 starttls autoconfig-http"];
    assert_eq!(candidates(&domain), expected, "{domain:#}");
    assert_eq!(found(&domain, own), "302 Found");
    assert_eq!(found(&domain, ispdb), "more than 256 KiB");
}

#[test]
fn where_another_host_has_the_document_it_does_not_hear_the_address() {
    let own =
        "https://autoconfig.example.test/mail/config-v1.1.xml?emailaddress=ada%40example.test";
    let other = "https://pages.hoster.test/example.xml";
    let mut pages = Pages::new();
    pages.insert(own.to_owned(), format!("to: {other}"));
    pages.insert(other.to_owned(), CONFIG.replace("PORT", "143"));
    let names = ["autoconfig.example.test", "pages.hoster.test"];
    let world = World::start(&names, &[], pages);
    let domain = world.domain("ada@example.test");
    let expected = ["imap imap.example.test:143 starttls autoconfig"];
    assert_eq!(candidates(&domain), expected, "{domain:#}");
}

#[test]
fn an_untrusted_certificate_is_no_source() {
    let config = CONFIG.replace("PORT", "143");
    let own = "https://autoconfig.example.test/mail/config-v1.1.xml";
    let pages = Pages::from([(own.to_owned(), config)]);
    let world = World::start(&["autoconfig.example.test"], &[], pages);
    let other = TestDir::new();
    install_provider();
    self_signed(&["elsewhere.test"], other.path()).expect("a certificate");
    let ca = other.join("certificate.pem").display().to_string();
    let output = world.identify(&ca, &["ada@example.test", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let domain: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    assert_eq!(candidates(&domain), [""; 0]);
    let own = format!("{own}?emailaddress=ada%40example.test");
    assert!(found(&domain, &own).contains("certificate"), "{domain:#}");
}

#[test]
fn an_address_without_a_domain_is_refused() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailtee"));
    let output = command.args(["identify", "ada@localhost"]).output();
    assert_eq!(output.expect("mailtee").status.code(), Some(3));
}
