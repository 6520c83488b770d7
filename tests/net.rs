//! The I/O shell with real sockets, without any mail protocol: limits, unix sockets, PROXY headers, TLS and its reloads,
//! and that a panic ends its own session only.

use std::{
    fmt, fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use mailtee::net::{
    Address, ClientAuthority, ClientTls, ClientTlsFiles, Connection, IdentityFiles, Networks, Peer,
    SelfSigned, ServeOptions, ServerTls, Service, Socket, SocketFile, Stream, TlsError,
    proxy_protocol, self_signed, serve,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::kit::TestDir;

const SOON: Duration = Duration::from_secs(20);

/// Answers each line with who the client is and the line; `panic` panics.
#[derive(Default)]
struct Echo {
    failures: Mutex<Vec<String>>,
}

impl Service for Echo {
    async fn serve(self: Arc<Self>, connection: Connection) {
        let Connection {
            mut stream,
            peer,
            local,
            refused,
            proxied,
        } = connection;
        if let Some(refusal) = refused {
            let _ = stream
                .write_all(format!("421 {}\n", refusal.reason()).as_bytes())
                .await;
            let _ = stream.shutdown().await;
            return;
        }
        let tls = stream.tls();
        let verified = stream.client_is_verified();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream
            .read_line(&mut line)
            .await
            .is_ok_and(|bytes| bytes > 0)
        {
            assert!(line != "panic\n", "as told");
            let local = local.map_or("unix".to_owned(), |address| address.ip().to_string());
            let ip = peer.ip().map_or("unix".to_owned(), |ip| ip.to_string());
            let version = tls.as_ref().map_or("plain", |tls| &tls.version);
            let answer = format!("{ip} {local} {version} {proxied} {verified} {line}");
            if stream.write_all(answer.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                return;
            }
            line.clear();
        }
    }

    fn failed(&self, _: &Peer, reason: &'static str, cause: &dyn fmt::Display) {
        self.failures
            .lock()
            .unwrap()
            .push(format!("{reason}: {cause}"));
    }
}

/// A listener that serves until it is dropped.
struct Served {
    at: Address,
    echo: Arc<Echo>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Served {
    async fn on(at: &str, tls: Option<ServerTls>, change: impl FnOnce(&mut ServeOptions)) -> Self {
        let at: Address = at.parse().unwrap();
        let listener = at.listen(None).await.unwrap();
        let at = match listener.local() {
            Some(address) => address.to_string().parse().unwrap(),
            None => at,
        };
        let mut options = ServeOptions {
            sessions_max: 100,
            sessions_per_address_max: 100,
            proxy_protocol: None,
            handshake_timeout: SOON,
        };
        change(&mut options);
        let (echo, stop, tasks) = (
            Arc::new(Echo::default()),
            CancellationToken::new(),
            TaskTracker::new(),
        );
        tokio::spawn(serve(
            listener,
            options,
            tls,
            echo.clone(),
            stop.clone(),
            tasks.clone(),
        ));
        Self {
            at,
            echo,
            stop,
            tasks,
        }
    }

    async fn connect(&self) -> Socket {
        self.at.connect(SOON).await.unwrap()
    }

    /// The first failure, once there is one.
    async fn failure(&self) -> String {
        until(|| self.echo.failures.lock().unwrap().first().cloned()).await
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn until<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    tokio::time::timeout(SOON, async {
        loop {
            if let Some(found) = condition() {
                return found;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("what was waited for")
}

async fn ask(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), line: &str) -> String {
    stream.write_all(line.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    answer(stream).await
}

/// A line, or what came before the end; reads no byte beyond it.
async fn answer(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut out = Vec::new();
    while let Ok(byte) = tokio::time::timeout(SOON, stream.read_u8())
        .await
        .expect("an answer")
    {
        out.push(byte);
        if byte == b'\n' {
            break;
        }
    }
    String::from_utf8(out).unwrap()
}

/// A certificate for localhost and 127.0.0.1, and a client that trusts it alone.
fn identity(dir: &Path) -> (SelfSigned, ClientTlsFiles) {
    let made = self_signed(&["localhost", "127.0.0.1"], dir).unwrap();
    let trusts = ClientTlsFiles {
        ca_file: Some(made.files.certificate.clone()),
        identity: None,
    };
    (made, trusts)
}

/// A certificate for a client, of no name that matters.
fn client_identity(dir: &Path) -> IdentityFiles {
    let made = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
    let files = IdentityFiles {
        certificate: dir.join("client.pem"),
        key: dir.join("client-key.pem"),
    };
    fs::write(&files.certificate, made.cert.pem()).unwrap();
    fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    files
}

#[tokio::test]
async fn tcp_and_unix_sockets_carry_the_same_session() {
    let dir = TestDir::new();
    let path = dir.join("in.sock");
    let tcp = Served::on("127.0.0.1:0", None, |_| ()).await;
    assert_eq!(
        ask(&mut tcp.connect().await, "hi\n").await,
        "127.0.0.1 127.0.0.1 plain false false hi\n"
    );
    let unix = Served::on(&format!("unix:{}", path.display()), None, |_| ()).await;
    assert_eq!(
        ask(&mut unix.connect().await, "hi\n").await,
        "unix unix plain false false hi\n"
    );
}

#[tokio::test]
async fn an_accepted_connection_inherits_keepalive_from_its_listener() {
    let listener = "127.0.0.1:0"
        .parse::<Address>()
        .unwrap()
        .listen(None)
        .await
        .unwrap();
    let at = listener.local().unwrap();
    let connecting = tokio::net::TcpStream::connect(at).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let accepted = accepted.local().unwrap().to_string();
    let output = std::process::Command::new("ss")
        .args(["-tnoH", "src", &accepted])
        .output()
        .unwrap();
    let timers = String::from_utf8(output.stdout).unwrap();
    assert!(timers.contains("timer:(keepalive,"), "{timers}");
    drop(connecting);
}

#[tokio::test]
async fn a_unix_socket_left_by_a_crash_is_taken_over_and_a_live_one_is_not() {
    let dir = TestDir::new();
    let path = dir.join("in.sock");
    let at: Address = format!("unix:{}", path.display()).parse().unwrap();
    let left_behind = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(left_behind);
    assert!(path.exists());

    let owned = SocketFile {
        mode: Some(0o660),
        ..SocketFile::default()
    };
    let listener = at.listen(Some(&owned)).await.unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(at.listen(None).await.is_err(), "somebody listens there");
    drop(listener);
    assert!(!path.exists(), "the name goes with its listener");

    fs::write(&path, "not a socket").unwrap();
    assert!(at.listen(None).await.is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), "not a socket");
}

#[tokio::test]
async fn the_session_too_many_is_told_so_and_the_next_gets_its_place() {
    let served = Served::on("127.0.0.1:0", None, |options| {
        options.sessions_per_address_max = 1
    })
    .await;
    let mut first = served.connect().await;
    ask(&mut first, "hi\n").await;
    assert_eq!(
        answer(&mut served.connect().await).await,
        "421 too_many_from_address\n"
    );
    drop(first);
    loop {
        // The place comes back when the first session has noticed its end.
        let mut next = served.connect().await;
        if ask(&mut next, "hi\n").await.starts_with("127.0.0.1") {
            break;
        }
    }
    let full = Served::on("127.0.0.1:0", None, |options| options.sessions_max = 0).await;
    assert_eq!(
        answer(&mut full.connect().await).await,
        "421 too_many_sessions\n"
    );
}

#[tokio::test]
async fn a_panic_ends_its_own_session_only() {
    let served = Served::on("127.0.0.1:0", None, |_| ()).await;
    let mut other = served.connect().await;
    ask(&mut other, "hi\n").await;
    assert_eq!(ask(&mut served.connect().await, "panic\n").await, "");
    assert_eq!(served.failure().await, "internal: panic: as told");
    assert!(ask(&mut other, "still\n").await.ends_with("still\n"));
}

#[tokio::test]
async fn stopping_accepts_nobody_more_and_interrupts_nobody() {
    let served = Served::on("127.0.0.1:0", None, |_| ()).await;
    let mut running = served.connect().await;
    ask(&mut running, "hi\n").await;
    served.stop.cancel();
    served.tasks.close();
    tokio::time::timeout(SOON, async {
        while served.at.connect(SOON).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the listener closes");
    assert!(ask(&mut running, "still\n").await.ends_with("still\n"));
    drop(running);
    tokio::time::timeout(SOON, served.tasks.wait())
        .await
        .expect("all sessions end");
}

#[tokio::test]
async fn a_proxy_header_names_the_client_and_its_eager_bytes_are_kept() {
    let behind = |options: &mut ServeOptions| {
        options.proxy_protocol = Some(proxy_protocol::Incoming {
            from: Networks::loopback(),
            timeout: SOON,
        });
    };
    let served = Served::on("127.0.0.1:0", None, behind).await;
    let client = Peer::Tcp("192.0.2.7:4711".parse().unwrap());
    let came_to = Some("198.51.100.1:25".parse().unwrap());
    for version in [proxy_protocol::Version::V1, proxy_protocol::Version::V2] {
        let mut bytes = proxy_protocol::header(version, &client, came_to);
        bytes.extend_from_slice(b"eager\n");
        let mut socket = served.connect().await;
        socket.write_all(&bytes).await.unwrap();
        assert_eq!(
            answer(&mut socket).await,
            "192.0.2.7 198.51.100.1 plain true false eager\n"
        );
    }
    assert_eq!(ask(&mut served.connect().await, "no header\n").await, "");
    assert!(served.failure().await.starts_with("proxy_protocol: "));
}

#[tokio::test]
async fn a_peer_that_is_not_trusted_cannot_name_another_client() {
    let served = Served::on("127.0.0.1:0", None, |options| {
        options.proxy_protocol = Some(proxy_protocol::Incoming {
            from: ["192.0.2.0/24".parse().unwrap()].into_iter().collect(),
            timeout: SOON,
        });
    })
    .await;
    let header = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n";
    assert_eq!(
        ask(&mut served.connect().await, header).await,
        format!("127.0.0.1 127.0.0.1 plain false false {header}")
    );
}

#[tokio::test]
async fn tls_is_verified_and_told() {
    let dir = TestDir::new();
    let (made, trusts) = identity(dir.path());
    let served = Served::on(
        "127.0.0.1:0",
        Some(ServerTls::load(made.files, None, &[]).unwrap()),
        |_| (),
    )
    .await;
    let client = ClientTls::load(trusts, &[]).unwrap();
    for name in ["localhost", "127.0.0.1"] {
        let mut stream = client.connect(served.connect().await, name).await.unwrap();
        let facts = stream.tls().unwrap();
        assert_eq!(facts.version, "TLSv1.3");
        assert!(facts.cipher.starts_with("TLS_"), "{}", facts.cipher);
        assert_eq!(
            ask(&mut stream, "hi\n").await,
            "127.0.0.1 127.0.0.1 TLSv1.3 false false hi\n"
        );
    }
    let wrong_name = client
        .connect(served.connect().await, "mx.example.org")
        .await
        .unwrap_err();
    assert!(
        wrong_name.to_string().contains("mx.example.org"),
        "{wrong_name}"
    );
    let platform = ClientTls::load(ClientTlsFiles::default(), &[]).unwrap();
    let unknown_issuer = platform
        .connect(served.connect().await, "localhost")
        .await
        .unwrap_err();
    assert!(
        unknown_issuer.to_string().contains("UnknownIssuer"),
        "{unknown_issuer}"
    );
    assert!(served.failure().await.starts_with("tls_handshake: "));
}

#[tokio::test]
async fn a_proxy_header_may_stand_before_tls() {
    let dir = TestDir::new();
    let (made, trusts) = identity(dir.path());
    let tls = ServerTls::load(made.files, None, &[]).unwrap();
    let served = Served::on("127.0.0.1:0", Some(tls), |options| {
        options.proxy_protocol = Some(proxy_protocol::Incoming {
            from: Networks::loopback(),
            timeout: SOON,
        });
    })
    .await;
    let client = ClientTls::load(trusts, &[]).unwrap();
    let mut socket = served.connect().await;
    let source = Peer::Tcp("[2001:db8::7]:4711".parse().unwrap());
    let header = proxy_protocol::header(
        proxy_protocol::Version::V2,
        &source,
        Some("[2001:db8::1]:465".parse().unwrap()),
    );
    socket.write_all(&header).await.unwrap();
    let mut stream = client.connect(socket, "localhost").await.unwrap();
    assert_eq!(
        ask(&mut stream, "hi\n").await,
        "2001:db8::7 2001:db8::1 TLSv1.3 true false hi\n"
    );
}

#[tokio::test]
async fn a_new_certificate_is_served_without_a_restart() {
    let (dir, second) = (TestDir::new(), TestDir::new());
    let (made, trusts_first) = identity(dir.path());
    let (other, trusts_second) = identity(second.path());
    assert_ne!(made.fingerprint, other.fingerprint);
    let tls = ServerTls::load(made.files.clone(), None, &[]).unwrap();
    let served = Served::on("127.0.0.1:0", Some(tls.clone()), |_| ()).await;
    let first = ClientTls::load(trusts_first, &[]).unwrap();
    let second = ClientTls::load(trusts_second, &[]).unwrap();
    let mut running = first
        .connect(served.connect().await, "localhost")
        .await
        .unwrap();

    // A certificate whose key is another's changes nothing.
    fs::copy(&other.files.certificate, &made.files.certificate).unwrap();
    let error = tls.reload().unwrap_err();
    assert!(matches!(error, TlsError::File { .. }), "{error}");
    assert!(
        first
            .connect(served.connect().await, "localhost")
            .await
            .is_ok()
    );

    fs::copy(&other.files.key, &made.files.key).unwrap();
    tls.reload().unwrap();
    assert!(
        first
            .connect(served.connect().await, "localhost")
            .await
            .is_err()
    );
    assert!(
        second
            .connect(served.connect().await, "localhost")
            .await
            .is_ok()
    );
    assert!(
        ask(&mut running, "still\n").await.ends_with("still\n"),
        "a running session stays"
    );
}

#[tokio::test]
async fn a_client_certificate_is_asked_for_and_its_reload_taken() {
    let (server_dir, client_dir, stranger_dir) = (TestDir::new(), TestDir::new(), TestDir::new());
    let (server, trusts) = identity(server_dir.path());
    let ours = client_identity(client_dir.path());
    let stranger = client_identity(stranger_dir.path());
    let authority = ClientAuthority {
        ca_file: ours.certificate.clone(),
        required: true,
    };
    let tls = ServerTls::load(server.files, Some(authority), &[]).unwrap();
    let served = Served::on("127.0.0.1:0", Some(tls), |_| ()).await;

    let speaks = async |tls: &ClientTls| {
        // With TLS 1.3 the server's refusal comes after the client's handshake is done.
        match tls.connect(served.connect().await, "localhost").await {
            Ok(mut stream) => {
                stream.write_all(b"hi\n").await.is_ok()
                    && answer(&mut stream).await.ends_with("true hi\n")
            }
            Err(_) => false,
        }
    };
    assert!(
        !speaks(&ClientTls::load(trusts.clone(), &[]).unwrap()).await,
        "without a certificate"
    );

    let client = ClientTls::load(
        ClientTlsFiles {
            identity: Some(stranger.clone()),
            ..trusts
        },
        &[],
    )
    .unwrap();
    assert!(!speaks(&client).await, "with a stranger's certificate");

    fs::copy(&ours.certificate, &stranger.certificate).unwrap();
    fs::copy(&ours.key, &stranger.key).unwrap();
    client.reload().unwrap();
    assert!(speaks(&client).await, "with ours, after a reload");
}

#[tokio::test]
async fn starttls_turns_a_plain_stream_into_a_secured_one_on_both_sides() {
    let dir = TestDir::new();
    let (made, trusts) = identity(dir.path());
    let server = ServerTls::load(made.files, None, &["h2", "http/1.1"]).unwrap();
    let client = ClientTls::load(trusts, &["http/1.1"]).unwrap();
    let listener = "127.0.0.1:0"
        .parse::<Address>()
        .unwrap()
        .listen(None)
        .await
        .unwrap();
    let at: Address = listener.local().unwrap().to_string().parse().unwrap();
    let (near, (far, _)) = tokio::try_join!(at.connect(SOON), listener.accept()).unwrap();
    let (near, far) = tokio::join!(
        Stream::from(near).connect_tls(&client, "localhost"),
        Stream::from(far).accept_tls(&server)
    );
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    assert_eq!(far.alpn(), Some(b"http/1.1".as_slice()));

    // Two records, one read of one byte: the rest waits decrypted, and `readable` knows of it.
    near.write_all(b"abc").await.unwrap();
    near.flush().await.unwrap();
    assert_eq!(far.read_u8().await.unwrap(), b'a');
    tokio::time::timeout(SOON, far.readable())
        .await
        .expect("two bytes wait")
        .unwrap();
    let again = far.accept_tls(&server).await;
    assert!(matches!(again, Err(TlsError::Twice)));
}

#[test]
fn a_made_certificate_stays_the_same_and_its_key_is_ours_alone() {
    let dir = TestDir::new();
    let (made, _) = identity(&dir.join("new/deep"));
    assert!(made.made_now);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(&made.files.key), mode(&made.files.certificate)),
        (0o600, 0o644)
    );
    let (again, _) = identity(&dir.join("new/deep"));
    assert!(!again.made_now);
    assert_eq!(again.fingerprint, made.fingerprint);
    let openssl = std::process::Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(&made.files.certificate)
        .output()
        .unwrap();
    let printed = String::from_utf8(openssl.stdout).unwrap();
    assert!(
        printed.trim_end().ends_with(&made.fingerprint),
        "{printed} {}",
        made.fingerprint
    );
}

#[tokio::test]
async fn a_next_hop_that_cannot_be_reached_is_told_in_time() {
    let refused = format!("127.0.0.1:{}", crate::kit::free_port())
        .parse::<Address>()
        .unwrap();
    let error = refused.connect(SOON).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    // A listener whose queue is full answers nothing.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from((IpAddr::from([127, 0, 0, 1]), 0)).into())
        .unwrap();
    full.listen(0).unwrap();
    let at: Address = full
        .local_addr()
        .unwrap()
        .as_socket()
        .unwrap()
        .to_string()
        .parse()
        .unwrap();
    let mut held = Vec::new();
    let error = loop {
        match at.connect(Duration::from_millis(200)).await {
            Ok(socket) => held.push(socket),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}
