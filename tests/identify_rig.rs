//! Every server that `mailtee identify` is shown: the real ones, and some that no package brings, by script.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Output},
    thread,
    time::Duration,
};

use crate::kit::{Mailtee, Peer, TestDir, free_port};

/// Where a server is, and how it is asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) address: String,
    options: Vec<String>,
}

impl Place {
    fn new(address: impl ToString) -> Self {
        Self {
            address: address.to_string(),
            options: Vec::new(),
        }
    }

    fn trusting(mut self, ca: impl AsRef<Path>) -> Self {
        let ca = ca.as_ref().display().to_string();
        self.options.retain(|it| !it.ends_with(".pem"));
        self.options.retain(|it| it != "--ca-file");
        self.options.extend(["--ca-file".to_owned(), ca]);
        self
    }

    fn named(mut self, name: &str) -> Self {
        self.options.extend(["--tls-name", name].map(str::to_owned));
        self
    }

    pub(crate) fn identify(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailtee"));
        command.arg("identify").arg(&self.address);
        command.args(&self.options).args(arguments);
        command.output().expect("mailtee")
    }
}

/// They live as long as this does.
pub(crate) struct Servers {
    pub(crate) places: BTreeMap<String, Place>,
    _mailtee: Mailtee,
    _peers: Vec<Peer>,
    _dir: TestDir,
    _silent: TcpListener,
}

impl Servers {
    pub(crate) fn start() -> Self {
        let own = own_address();
        let port = |number: u16| number.to_string();
        let dovecot = Peer::set("dovecot");
        let bare = Peer::set("dovecot").env("TLS", "0");
        let mut usual = Peer::set("dovecot").env("LISTEN_ADDR", own);
        for (name, number) in [
            ("IMAP_PORT", 143),
            ("IMAPS_PORT", 993),
            ("POP3_PORT", 110),
            ("POP3S_PORT", 995),
            ("LMTP_PORT", 24),
            ("SIEVE_PORT", 4190),
        ] {
            usual = usual.env(name, port(number));
        }
        let auth = free_port();
        let dovecot = dovecot.env("AUTH_PORT", auth);
        let postfix = Peer::set("postfix")
            .env("SASL_DOVECOT", format!("inet:127.0.0.1:{auth}"))
            .env("SMTPS_PORT", free_port());
        let screened = Peer::set("postfix")
            .env("LISTEN_ADDR", own)
            .env("POSTSCREEN", "1")
            .env("SMTP_PORT", port(25))
            .env("SMTPS_PORT", port(465));
        let settings = vec![
            ("dovecot", dovecot),
            ("dovecot without TLS", bare),
            ("dovecot at its ports", usual),
            ("postfix", postfix),
            ("postscreen", Peer::set("postfix").env("POSTSCREEN", "1")),
            ("postscreen at its port", screened),
            (
                "postfix behind PROXY",
                Peer::set("postfix").env("PROXY_PROTOCOL", "1"),
            ),
            ("exim", Peer::set("exim").env("TLS", "1")),
            ("opensmtpd", Peer::set("opensmtpd")),
            ("sendmail", Peer::set("sendmail").env("TLS", "1")),
            ("cyrus", Peer::set("cyrus")),
            ("courier", Peer::set("courier").env("TLS", "1")),
            ("nginx", Peer::set("nginx-mail")),
            ("perdition", Peer::set("perdition")),
            ("opendkim", Peer::set("opendkim")),
            ("smtp-sink", Peer::set("sink").env("LMTP", "1")),
        ];
        let started: Vec<(&str, Peer)> = thread::scope(|scope| {
            let starting: Vec<_> = settings
                .into_iter()
                .map(|(name, setting)| (name, scope.spawn(|| setting.start())))
                .collect();
            let started = starting.into_iter();
            started
                .map(|(name, peer)| (name, peer.join().expect("it starts")))
                .collect()
        });

        let mut places = BTreeMap::new();
        for (name, peer) in &started {
            for listener in LISTENERS {
                let Some(address) = peer.told(listener) else {
                    continue;
                };
                let mut place = Place::new(address);
                if let Some(ca) = peer.told("CA").filter(|ca| Path::new(ca).exists()) {
                    place = place.trusting(ca);
                }
                if address.starts_with(&own.to_string()) {
                    place = place.named("mail.mailtee.test");
                }
                places.insert(format!("{name} {listener}"), place);
            }
        }
        let imaps = places["dovecot IMAPS"].clone();
        let haproxy = Peer::set("haproxy");
        let front = free_port();
        let behind = places["dovecot IMAP"].address.clone();
        let haproxy = haproxy
            .env("FORWARD", format!("{front}={behind}"))
            .env("TLS_PORTS", front)
            .start();
        let place = Place::new(format!("127.0.0.1:{front}")).trusting(haproxy.var("CA"));
        places.insert("haproxy IMAPS".to_owned(), place);
        let strangers = imaps.clone().trusting(haproxy.var("CA"));
        places.insert("dovecot IMAPS by strangers' word".to_owned(), strangers);
        let misnamed = imaps.named("mail.example.org");
        places.insert("dovecot IMAPS by another name".to_owned(), misnamed);

        let (mailtee, ours) = ourselves(&places);
        places.extend(ours);
        let (scripted, silent) = scripted(own);
        for (name, address) in scripted {
            places.insert(name.to_owned(), Place::new(address));
        }
        let dir = TestDir::new();
        let place = expired(&dir);
        places.insert("expired IMAPS".to_owned(), place);
        let mut peers: Vec<Peer> = started.into_iter().map(|(_, peer)| peer).collect();
        peers.push(haproxy);
        Self {
            places,
            _mailtee: mailtee,
            _peers: peers,
            _dir: dir,
            _silent: silent,
        }
    }
}

/// What peers listen with, as their `connect.env` names it.
const LISTENERS: &[&str] = &[
    "SMTP",
    "SMTPS",
    "SUBMISSION",
    "IMAP",
    "IMAPS",
    "IMAP_HAPROXY",
    "POP3",
    "POP3S",
    "LMTP",
    "LMTPS",
    "LMTP_SOCKET",
    "SIEVE",
    "SIEVES",
    "HTTP",
    "HTTPS",
    "MILTER",
    "SINK",
];

/// A loopback address that only this test uses: the servers' own ports are free there.
fn own_address() -> Ipv4Addr {
    let part = || rand::random_range(1..255);
    Ipv4Addr::new(127, part(), part(), part())
}

/// Our own front ends, vault and page, before the servers that run.
fn ourselves(places: &BTreeMap<String, Place>) -> (Mailtee, BTreeMap<String, Place>) {
    let (milter, imap) = (free_port(), free_port());
    let upstream = &places["dovecot IMAP"].address;
    let mailtee = Mailtee::filter(&places["postfix SMTP"].address)
        .append(&format!(
            "[[frontend]]\nname = \"milter\"\nprotocol = \"milter\"\nlisten = \"127.0.0.1:{milter}\"\n\
             [[frontend]]\nname = \"imap\"\nprotocol = \"imap\"\nlisten = \"127.0.0.1:{imap}\"\nupstream = \"{upstream}\""
        ))
        .start();
    let at = |port: u16| Place::new(SocketAddr::from(([127, 0, 0, 1], port)));
    let certificate = mailtee.data_dir().join("vault/tls/certificate.pem");
    let places = BTreeMap::from([
        ("mailtee SMTP".to_owned(), Place::new(mailtee.frontend)),
        ("mailtee IMAP".to_owned(), at(imap)),
        ("mailtee MILTER".to_owned(), at(milter)),
        (
            "mailtee vault".to_owned(),
            Place::new(mailtee.vault_address).trusting(certificate),
        ),
        ("mailtee page".to_owned(), Place::new(mailtee.admin)),
    ]);
    (mailtee, places)
}

/// Each connection gets a thread of its own, which plays the server's part.
pub(crate) fn serve(
    listener: TcpListener,
    part: impl Fn(TcpStream) -> std::io::Result<()> + Clone + Send + 'static,
) -> SocketAddr {
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let part = part.clone();
            // Whoever asks may hang up: that is no failure of the script.
            thread::spawn(move || part(stream).is_ok());
        }
    });
    address
}

pub(crate) fn loopback() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

/// Says `greeting`, then to each line what stands beside the word that it holds; `unknown` to any other line.
fn play(
    mut stream: TcpStream,
    greeting: &str,
    answers: &[(&str, &str)],
    unknown: &str,
) -> std::io::Result<()> {
    stream.write_all(greeting.as_bytes())?;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?;
        let answer = answers.iter().find(|(word, _)| line.contains(word));
        let answer = answer.map_or(unknown, |(_, answer)| *answer);
        stream.write_all(answer.as_bytes())?;
        if answer.is_empty() {
            return Ok(());
        }
    }
    Ok(())
}

/// A server that plays by a table.
fn table(
    greeting: &'static str,
    answers: &'static [(&'static str, &'static str)],
    unknown: &'static str,
) -> SocketAddr {
    serve(loopback(), move |stream| {
        play(stream, greeting, answers, unknown)
    })
}

/// The same bytes again and again, for as long as somebody takes them, or so often.
fn flood(first: &'static [u8], again: Vec<u8>, times: usize) -> SocketAddr {
    serve(loopback(), move |mut stream| {
        stream.write_all(first)?;
        for _ in 0..times {
            stream.write_all(&again)?;
        }
        Ok(())
    })
}

fn late(listener: TcpListener, seconds: u64, greeting: &'static str) -> SocketAddr {
    serve(listener, move |stream| {
        thread::sleep(Duration::from_secs(seconds));
        let answers = [
            ("CAPABILITY", "* CAPABILITY IMAP4rev1\r\na OK done\r\n"),
            ("LOGOUT", ""),
            ("EHLO", "250-late.example\r\n250 SIZE 1000\r\n"),
            ("QUIT", ""),
        ];
        play(stream, greeting, &answers, "a BAD what?\r\n")
    })
}

/// One byte now and then.
fn dripping() -> SocketAddr {
    serve(loopback(), |mut stream| {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let answers = ["220 slow\r\n", "250 slow.example\r\n", "221 bye\r\n"];
        for answer in answers {
            for byte in answer.bytes() {
                thread::sleep(Duration::from_millis(150));
                stream.write_all(&[byte])?;
            }
            if lines.next().is_none() {
                break;
            }
        }
        Ok(())
    })
}

const MEGABYTE: usize = 1 << 20;

/// Those that no package brings, and one that only listens.
fn scripted(own: Ipv4Addr) -> (Vec<(&'static str, SocketAddr)>, TcpListener) {
    let silent = loopback();
    let refused = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let at_25 = TcpListener::bind((own_neighbour(own), 25)).expect("a port below 1024");
    let noise: Vec<u8> = (0..4096).map(|_| rand::random_range(128..255)).collect();
    let places = vec![
        ("silent", silent.local_addr().expect("an address")),
        ("refused", refused),
        ("closes at once", serve(loopback(), |_| Ok(()))),
        (
            "closes at once at port 25",
            serve(
                TcpListener::bind((own_neighbour(own_neighbour(own)), 25)).expect("a port"),
                |_| Ok(()),
            ),
        ),
        ("late IMAP", late(loopback(), 8, "* OK at last\r\n")),
        (
            "late SMTP",
            late(loopback(), 8, "220 late.example ESMTP\r\n"),
        ),
        (
            "late SMTP at port 25",
            late(at_25, 8, "220 late.example ESMTP\r\n"),
        ),
        ("slow SMTP", dripping()),
        ("garbage", flood(b"", noise, 1)),
        (
            "10 MB without a line end",
            flood(b"", vec![b'x'; MEGABYTE], 10),
        ),
        (
            "10 MB of one SMTP line",
            flood(b"220 ", vec![b'x'; MEGABYTE], 10),
        ),
        (
            "10 MB of one IMAP line",
            flood(b"* OK ", vec![b'x'; MEGABYTE], 10),
        ),
        (
            "endless SMTP greeting",
            flood(b"", b"220-wait\r\n".repeat(1000), 100_000),
        ),
        ("endless NUL", flood(b"", vec![0; MEGABYTE], 100_000)),
        (
            "NNTP",
            table(
                "200 news.example ready\r\n",
                &[
                    ("CAPABILITIES", "101 list\r\nVERSION 2\r\nREADER\r\n.\r\n"),
                    ("QUIT", ""),
                ],
                "500 what?\r\n",
            ),
        ),
        (
            "FTP",
            table(
                "220 ftp.example FTP ready\r\n",
                &[("QUIT", "")],
                "530 Please login\r\n",
            ),
        ),
        ("SSH", table("SSH-2.0-OpenSSH_9.2p1\r\n", &[], "")),
        (
            "IMAP that knows us",
            table(
                "* PREAUTH welcome\r\n",
                &[
                    ("CAPABILITY", "* CAPABILITY IMAP4rev1 ID\r\na OK done\r\n"),
                    (
                        "ID",
                        "* ID (\"name\" {5}\r\nTests \"version\" {3}\r\n1.0)\r\na OK done\r\n",
                    ),
                    (
                        "NAMESPACE",
                        "* NAMESPACE ((\"\" \"/\")) NIL NIL\r\na OK done\r\n",
                    ),
                    ("LOGOUT", ""),
                ],
                "a BAD what?\r\n",
            ),
        ),
        (
            "IMAP that breaks TLS",
            table(
                "* OK [CAPABILITY IMAP4rev1 STARTTLS] hi\r\n",
                &[
                    (
                        "CAPABILITY",
                        "* CAPABILITY IMAP4rev1 STARTTLS\r\na OK done\r\n",
                    ),
                    ("STARTTLS", "a OK begin\r\nno TLS at all\r\n"),
                ],
                "",
            ),
        ),
        (
            "SMTP that refuses TLS",
            table(
                "220 mx.example ESMTP\r\n",
                &[
                    ("EHLO", "250-mx.example\r\n250 STARTTLS\r\n"),
                    (
                        "STARTTLS",
                        "454 4.7.0 TLS not available due to local problem\r\n",
                    ),
                    ("QUIT", ""),
                ],
                "500 what?\r\n",
            ),
        ),
        (
            "SMTP that turns us away",
            table("554 5.7.1 not you\r\n", &[("QUIT", "")], "503 no\r\n"),
        ),
        (
            "HTTP with a login everywhere",
            serve(loopback(), |mut stream| {
                let mut request = [0; 4096];
                if stream.read(&mut request)? > 0 && request.starts_with(b"GET ") {
                    stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")?;
                }
                Ok(())
            }),
        ),
    ];
    (places, silent)
}

/// Another one, for a second server at the same port.
fn own_neighbour(own: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, d] = own.octets();
    Ipv4Addr::new(a, b, c % 254 + 1, d)
}

/// IMAP under TLS with a certificate whose time is over.
fn expired(dir: &TestDir) -> Place {
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = ["127.0.0.1".to_owned()];
    let mut parameters = rcgen::CertificateParams::new(names).expect("names");
    parameters.not_before = rcgen::date_time_ymd(2019, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let certificate = parameters.self_signed(&key).expect("a certificate");
    let files = mailtee::net::IdentityFiles {
        certificate: dir.join("expired.pem"),
        key: dir.join("key.pem"),
    };
    std::fs::write(&files.certificate, certificate.pem()).expect("a file");
    std::fs::write(&files.key, key.serialize_pem()).expect("a file");
    mailtee::net::install_provider();
    let tls = mailtee::net::ServerTls::load(files.clone(), None, &[]).expect("TLS");
    let listener = loopback();
    listener.set_nonblocking(true).expect("an option");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            while let Ok((socket, _)) = listener.accept().await {
                let tls = tls.clone();
                tokio::spawn(async move {
                    use tokio::io::AsyncWriteExt;
                    if let Ok(mut stream) = tls.accept(socket.into()).await {
                        let greeting = stream.write_all(b"* OK old\r\n* BYE and gone\r\n").await;
                        greeting.and(stream.flush().await).is_ok()
                    } else {
                        false
                    }
                });
            }
        });
    });
    Place::new(address).trusting(files.certificate)
}
