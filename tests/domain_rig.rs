//! A domain with its DNS server and its web servers, on loopback; names and pages are the test's.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
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

/// The answers of all web servers, by `host/path`; anything else is 404.
pub(crate) type Pages = BTreeMap<String, String>;

/// A domain of its own: dnsmasq for its names, HTTP and HTTPS at one loopback address that only this test uses.
pub(crate) struct World {
    pub(crate) ip: Ipv4Addr,
    dns: Child,
    resolver: SocketAddr,
    pub(crate) dir: TestDir,
    _stop: tokio_util::sync::DropGuard,
    _runtime: tokio::runtime::Runtime,
}

impl World {
    /// `records` are dnsmasq's own words; each of `names` is at the web servers' address.
    pub(crate) fn start(names: &[&str], records: &[String], pages: Pages) -> Self {
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
            ip,
            dns,
            resolver,
            dir,
            _stop: stop.drop_guard(),
            _runtime: runtime,
        }
    }

    pub(crate) fn identify(&self, ca: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailtee"));
        command
            .arg("identify")
            .args(["--resolver", &self.resolver.to_string()])
            .args(["--ca-file", ca])
            .args(arguments);
        command.output().expect("mailtee")
    }

    /// What it prints, and its exit code.
    pub(crate) fn text(&self, ca: &str, arguments: &[&str]) -> (String, Option<i32>) {
        let output = self.identify(ca, arguments);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        (text, output.status.code())
    }

    pub(crate) fn ca(&self) -> String {
        self.dir.join("certificate.pem").display().to_string()
    }

    /// The first line: what the domain says.
    #[track_caller]
    pub(crate) fn domain(&self, asked: &str) -> Value {
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

/// Both authorities' certificates in one file: the web servers' and the mail server's.
pub(crate) fn authorities(world: &World, dovecot: &Peer) -> String {
    let read = |path: &str| std::fs::read_to_string(path).expect("PEM");
    let both = world.dir.join("both.pem");
    std::fs::write(&both, read(&world.ca()) + &read(dovecot.var("CA"))).expect("a file");
    both.display().to_string()
}

/// A server that says so much of IMAP as to be known by it, and has no TLS.
pub(crate) fn imap_in_plain_text(ip: Ipv4Addr) {
    let listener = TcpListener::bind((ip, 143)).expect("a port below 1024");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            std::thread::spawn(move || -> std::io::Result<()> {
                stream.write_all(b"* OK here is IMAP\r\n")?;
                let lines = BufReader::new(stream.try_clone()?).lines();
                for line in lines {
                    let line = line?;
                    let tag = line.split(' ').next().unwrap_or_default();
                    write!(stream, "* CAPABILITY IMAP4rev1\r\n{tag} OK done\r\n")?;
                }
                Ok(())
            });
        }
    });
}
