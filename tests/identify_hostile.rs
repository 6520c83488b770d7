//! `mailtee identify` before servers that mean harm: it ends, it reads no further than it tells, it tells nothing that a
//! terminal would obey, and whatever is offered it, it neither logs in nor hands over a thing.

use std::{
    io::Write,
    net::{Ipv4Addr, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use mailtee::{
    identify::{self, Options},
    net::{Address, install_provider},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    domain_rig::{Pages, World},
    identify_rig::{loopback, serve},
    kit::TestDir,
};

/// What is promised of one server.
const WITHIN: Duration = Duration::from_secs(12);

/// Sessions of the law, and how many run at once.
const SESSIONS: u64 = 600;
const AT_ONCE: usize = 24;

/// What servers' words are made of here.
const PIECES: &[&str] = &[
    "220 ",
    "220-",
    "250 ",
    "250-",
    "421 ",
    "454 ",
    "500 ",
    "* OK ",
    "* BYE ",
    "* PREAUTH ",
    "* NO ",
    "a OK ",
    "a NO ",
    "z OK ",
    "+ ",
    "+OK ",
    "-ERR ",
    "OK ",
    "NO ",
    "BYE ",
    "200 ",
    "101 ",
    "\"IMPLEMENTATION\" ",
    "\"SASL\" \"PLAIN LOGIN\"",
    "\"STARTTLS\"",
    "STARTTLS",
    "STLS",
    "SASL PLAIN",
    "AUTH PLAIN LOGIN",
    "SIZE 99999999999999999999",
    "SIZE -1",
    "* CAPABILITY IMAP4rev1 STARTTLS ID AUTH=PLAIN",
    "[CAPABILITY ID STARTTLS] ",
    "* ID (",
    "NIL",
    "* NAMESPACE ",
    "<1@x>",
    "{0}",
    "{3}",
    "{+}",
    "{3+}",
    "{65537}",
    "{18446744073709551615}",
    "{99999999999999999999}",
    "{-1}",
    "{é}",
    ".",
    "..",
    "HTTP/1.1 200 OK",
    "HTTP/1.1 401 no",
    "HTTP/1.1 302 x",
    "Location: /",
    "Location: //evil.example/",
    "Content-Length: 3",
    "Content-Length: 18446744073709551615",
    "Transfer-Encoding: chunked",
    "ffffffffffffffff",
    "0",
    "WWW-Authenticate: Basic",
    "{\"apiUrl\":\"x\",\"capabilities\":{}}",
    "\0",
    "\u{1b}[2J",
    "\u{1b}]0;x\u{7}",
    "\u{9b}31m",
    "\u{202e}",
    "\u{2066}",
    "\r",
    "ß",
    "é",
    " ",
    "\t",
    "x",
    "\u{ffff}",
];

const LINE_ENDS: &[&str] = &["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", ""];

/// Everything that may be said to a server, by how it begins.
const SAYS: &[&str] = &[
    "EHLO [127.0.0.1]",
    "LHLO [127.0.0.1]",
    "HELO [127.0.0.1]",
    "STARTTLS",
    "QUIT",
    "a CAPABILITY",
    "a ID (\"name\" \"mailtee\")",
    "a NAMESPACE",
    "a STARTTLS",
    "z LOGOUT",
    "CAPA",
    "STLS",
    "CAPABILITIES",
    "LOGOUT",
    "Host: 127.0.0.1:",
    "User-Agent: mailtee/",
    "Accept: */*",
    "Connection: close",
];

/// One server's words: each is said when something was heard, or nothing was for a while.
#[derive(Clone, Debug)]
struct Script {
    words: Vec<Vec<u8>>,
    piece: usize,
}

impl Script {
    fn of(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut words = Vec::new();
        for _ in 0..random.random_range(1..10) {
            let mut word = Vec::new();
            for _ in 0..random.random_range(0..6) {
                for _ in 0..random.random_range(1..4) {
                    word.extend(PIECES[random.random_range(0..PIECES.len())].as_bytes());
                }
                word.extend(LINE_ENDS[random.random_range(0..LINE_ENDS.len())].as_bytes());
            }
            match random.random_range(0..20) {
                0 => word = word.repeat(2000),
                1 => word.extend((0..200).map(|_| random.random_range(0..=255u8))),
                _ => {}
            }
            words.push(word);
        }
        let piece = [1, 7, 100_000][random.random_range(0..3)];
        Self { words, piece }
    }

    /// Plays it to one connection, and gives what was heard there.
    async fn play(&self, mut stream: TcpStream) -> Vec<u8> {
        let mut heard = Vec::new();
        let mut buffer = [0; 4096];
        for word in &self.words {
            // Byte by byte only as long as that is quick.
            let piece = if word.len() > 500 {
                word.len()
            } else {
                self.piece
            };
            for piece in word.chunks(piece) {
                if stream.write_all(piece).await.is_err() {
                    return heard;
                }
            }
            let reading = stream.read(&mut buffer);
            if let Ok(Ok(count)) = timeout(Duration::from_millis(30), reading).await {
                heard.extend_from_slice(&buffer[..count]);
            }
        }
        heard
    }
}

/// No line of it is more than a question.
fn is_harmless(heard: &[u8]) -> bool {
    // A TLS handshake, or a milter's offer: what is said in the clear has ended.
    let binary = heard
        .windows(2)
        .position(|it| it == [0x16, 0x03] || it == [0, 0]);
    let text = String::from_utf8_lossy(&heard[..binary.unwrap_or(heard.len())]);
    let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
    lines.all(|line| {
        // Where the server has led us on to; a long one may not have been read to its end.
        let path = line
            .strip_prefix("GET /")
            .map(|it| it.strip_suffix(" HTTP/1.1").unwrap_or(it));
        if path.is_some_and(|it| it.bytes().all(|b| b.is_ascii_graphic())) {
            return true;
        }
        SAYS.iter().any(|says| {
            let rest = line.strip_prefix(says);
            let is_number = |it: &str| it.chars().all(|c| c.is_ascii_digit() || c == '.');
            rest.is_some_and(|it| it.len() < 12 && is_number(it))
        })
    })
}

/// Every text in it, with the way there.
fn texts(value: &Value, at: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::String(text) => found.push((at.to_owned(), text.clone())),
        Value::Array(all) => all.iter().for_each(|it| texts(it, at, found)),
        Value::Object(all) => all
            .iter()
            .for_each(|(key, it)| texts(it, &format!("{at}/{key}"), found)),
        _ => {}
    }
}

/// What is wrong with this session.
async fn fault(seed: u64) -> Option<String> {
    let script = Script::of(seed);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let player = script.clone();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (player, told) = (player.clone(), told.clone());
            tokio::spawn(async move { told.send(player.play(stream).await).is_ok() });
        }
    });
    let host = "127.0.0.1".to_owned();
    let address = Address::Tcp { host, port };
    let begun = Instant::now();
    let found = identify::identify(&address, &Options::default()).await;
    let took = begun.elapsed();
    serving.abort();
    // The players end with their connections, and with them the channel.
    let _ = serving.await;
    let mut all = Vec::new();
    while let Some(one) = heard.recv().await {
        all.push(one);
    }
    let found = found.expect("options that stand");
    let json = serde_json::to_value(&found).expect("JSON");
    let mut said = Vec::new();
    texts(&json, "", &mut said);
    let turns = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let unfit = said.iter().find(|(_, text)| {
        text.chars().count() > 220 || text.chars().any(|c| c.is_control() || turns(c))
    });
    let harm = all.iter().find(|it| !is_harmless(it));
    match () {
        () if took >= WITHIN => Some(format!("it took {took:?}")),
        () if unfit.is_some() => Some(format!("it tells {unfit:?}")),
        () if said.len() > 1200 => Some(format!("it tells {} texts", said.len())),
        () if harm.is_some() => {
            let harm = harm.map(|it| String::from_utf8_lossy(it));
            Some(format!("it says {harm:?}"))
        }
        () => return None,
    }
    .map(|why| format!("seed {seed}: {why}\n{script:?}\n{json:#}"))
}

#[test]
fn whatever_a_server_says_it_is_a_finding_and_nothing_is_handed_over() {
    install_provider();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let base: u64 = rand::random();
    let faults: Vec<String> = runtime.block_on(async {
        let permits = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|session| {
                let permits = permits.clone();
                tokio::spawn(async move {
                    let _permit = permits.acquire().await.expect("never closed");
                    fault(base.wrapping_add(session)).await
                })
            })
            .collect();
        let mut faults = Vec::new();
        for session in sessions {
            faults.extend(session.await.expect("no panic"));
        }
        faults
    });
    let first = faults.first();
    assert!(
        faults.is_empty(),
        "{} of {SESSIONS}: {}",
        faults.len(),
        first.expect("one")
    );
}

#[test]
fn the_law_would_see_a_login() {
    assert!(is_harmless(b"EHLO [127.0.0.1]\r\nQUIT\r\n"));
    assert!(is_harmless(b"a STARTTLS\r\n\x16\x03\x01whatever"));
    for said in [
        "AUTH PLAIN AGEAYg==\r\n",
        "a LOGIN a b\r\n",
        "USER a\r\n",
        "MAIL FROM:<>\r\n",
        "EHLO [127.0.0.1] x\r\n",
    ] {
        assert!(!is_harmless(said.as_bytes()), "{said}");
    }
}

/// So much may lie in the sockets of both sides, unread.
const IN_SOCKETS: usize = 24 << 20;

#[test]
fn what_never_ends_is_read_no_further_than_it_is_told() {
    let endless: &[(&[u8], &[u8])] = &[
        (b"", b"x"),
        (b"", b"\0"),
        (b"", b"\r\n"),
        (b"220 ", b"x"),
        (b"", b"220-x\r\n"),
        (b"220 x\r\n", b"250-x\r\n"),
        (b"* OK ", b"[CAPABILITY "),
        (b"* OK x\r\n", b"* CAPABILITY X Y Z\r\n"),
        (b"* OK x\r\n* ID (\"name\" {99999999}\r\n", b"x"),
        (b"+OK x\r\n+OK\r\n", b"X-CAPABILITY\r\n"),
        (b"\"SASL\" {65000}\r\n", b"x"),
        (b"200 x\r\n101 x\r\n", b"X\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
    ];
    for (first, again) in endless {
        let taken = Arc::new(AtomicUsize::new(0));
        let counted = taken.clone();
        let (first, block) = (first.to_vec(), again.repeat(4096));
        let address = serve(loopback(), move |mut stream| {
            stream.write_all(&first)?;
            loop {
                stream.write_all(&block)?;
                counted.fetch_add(block.len(), Ordering::Relaxed);
            }
        });
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailtee"));
        let asked = ["identify", &address.to_string(), "--format", "json"];
        let output = command.args(asked).output().expect("mailtee");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let found: Value = serde_json::from_str(&text).expect("JSON");
        let seconds = found["seconds"].as_f64().expect("a number");
        assert!(seconds < WITHIN.as_secs_f64(), "{again:?}: {text}");
        assert!(text.len() < 200 << 10, "{again:?}: {} bytes", text.len());
        // One connection, in which the server was never waited for.
        let taken = taken.load(Ordering::Relaxed);
        assert!(taken < IN_SOCKETS, "{again:?}: {taken} bytes were taken");
    }
}

#[test]
fn a_name_that_no_resolver_answers_for_holds_nobody_up() {
    let part = || rand::random_range(1..250);
    let (a, b, c) = (part(), part(), part());
    // Each would be waited for, one after the other, twice: half a minute.
    let deaf: Vec<UdpSocket> = (0..3)
        .map(|n| UdpSocket::bind((Ipv4Addr::new(127, a, b, c + n), 53)).expect("a port below 1024"))
        .collect();
    let dir = TestDir::new();
    let lines = deaf.iter().map(|it| {
        let ip = it.local_addr().expect("an address").ip();
        format!("nameserver {ip}\n")
    });
    let file = dir.join("resolv.conf");
    std::fs::write(&file, lines.collect::<String>()).expect("a file");
    let begun = Instant::now();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg("mount --bind \"$1\" /etc/resolv.conf && exec \"$2\" identify mail.mailtee.test:143 --format json")
        .arg("sh")
        .arg(&file)
        .arg(env!("CARGO_BIN_EXE_mailtee"))
        .output()
        .expect("unshare");
    let took = begun.elapsed();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\"protocol\":\"unreachable\""), "{output:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn of_a_huge_answer_of_the_dns_a_few_records_are_taken() {
    let records: Vec<String> = (0..300)
        .map(|n| format!("--srv-host=_imaps._tcp.example.test,host-{n}.example.test,993,{n}"))
        .chain((0..300).map(|n| format!("--mx-host=example.test,mx-{n}.example.test,{n}")))
        .collect();
    let world = World::start(&[], &records, Pages::new());
    let domain = world.domain("ada@example.test");
    let candidates = domain["candidates"].as_array().expect("a list");
    let of = |source: &str| {
        let of = candidates.iter().filter(|it| it["source"] == source);
        of.count()
    };
    assert_eq!((of("srv"), of("mx")), (20, 20), "{domain:#}");
}
