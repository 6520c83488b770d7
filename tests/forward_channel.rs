//! The channel against TLS servers and a proxy in this process: whom it trusts, what it shows, how it shares connections.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, http::Response};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use mailtee::{
    channel::{Channel, ChannelError, Options, SecretSource},
    net::install_provider,
};
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reqwest::Url;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::kit::TestDir;

/// A TLS server with an authority of its own; it answers every request with the protocol that was negotiated.
struct Server {
    url: Url,
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    dir: TestDir,
}

impl Server {
    async fn start(wants_client_certificate: bool) -> Self {
        install_provider();
        let dir = TestDir::new();
        let mut authority = CertificateParams::new(Vec::new()).expect("no names");
        authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(authority, key).expect("an authority");
        std::fs::write(dir.join("ca.pem"), authority.pem()).expect("written");

        let client_key = KeyPair::generate().expect("a key");
        let client = CertificateParams::new(["client.mailtee.test".to_owned()]).expect("a name");
        let client = client.signed_by(&client_key, &authority).expect("signed");
        std::fs::write(dir.join("client.pem"), client.pem()).expect("written");
        std::fs::write(dir.join("client.key"), client_key.serialize_pem()).expect("written");

        let key = KeyPair::generate().expect("a key");
        let own = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let own = own.signed_by(&key, &authority).expect("signed");
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
        let builder = ServerConfig::builder();
        let builder = match wants_client_certificate {
            false => builder.with_no_client_auth(),
            true => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.der().clone()).expect("an authority");
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let config = builder.with_single_cert(vec![own.der().clone()], key);
        let mut config = config.expect("key and certificate fit");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let connections = Arc::new(AtomicU64::new(0));
        let counted = connections.clone();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(acceptor.clone(), stream, counted.clone()));
            }
        });
        Self {
            url: format!("https://localhost:{}/", address.port())
                .parse()
                .expect("a URL"),
            address,
            connections,
            dir,
        }
    }

    fn trusted(&self) -> Options {
        Options {
            ca_file: Some(self.dir.join("ca.pem")),
            ..Options::default()
        }
    }

    fn client_certificate(&self) -> Option<(PathBuf, PathBuf)> {
        Some((self.dir.join("client.pem"), self.dir.join("client.key")))
    }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, connections: Arc<AtomicU64>) {
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    connections.fetch_add(1, Ordering::Relaxed);
    let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let service = service_fn(move |_| {
        let answer = Response::new(Body::from(protocol.clone().unwrap_or_default()));
        async { Ok::<_, Infallible>(answer) }
    });
    // A client that goes away is no failure of the server.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn get(options: &Options, url: &Url) -> Result<Vec<u8>, ChannelError> {
    let channel = Channel::open(options)?;
    let answer = channel.get(url.clone(), 1000).await?;
    assert_eq!(answer.status, 200);
    Ok(answer.body.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_nobody_named_is_not_trusted() {
    let server = Server::start(false).await;
    let refused = get(&Options::default(), &server.url).await.unwrap_err();
    assert!(
        matches!(refused, ChannelError::Unreachable { .. }),
        "{refused}"
    );
    assert_eq!(
        get(&server.trusted(), &server.url).await.expect("trusted"),
        b"h2"
    );
    // The right authority does not make up for the wrong name.
    let by_address = format!("https://{}/", server.address)
        .parse()
        .expect("a URL");
    let refused = get(&server.trusted(), &by_address).await.unwrap_err();
    assert!(
        matches!(refused, ChannelError::Unreachable { .. }),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_where_it_is_asked_for() {
    let server = Server::start(true).await;
    assert!(get(&server.trusted(), &server.url).await.is_err());
    let known = Options {
        client_certificate: server.client_certificate(),
        ..server.trusted()
    };
    assert_eq!(get(&known, &server.url).await.expect("known"), b"h2");
    let mixed_up = Options {
        client_certificate: Some((server.dir.join("ca.pem"), server.dir.join("client.key"))),
        ..server.trusted()
    };
    let refused = Channel::open(&mixed_up).err();
    assert!(matches!(refused, Some(ChannelError::Options { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_share_the_connection_of_the_first() {
    let server = Server::start(false).await;
    let channel = Channel::open(&server.trusted()).expect("a channel");
    channel.get(server.url.clone(), 1000).await.expect("warm");
    let requests = (0..64).map(|_| channel.get(server.url.clone(), 1000));
    for answer in futures_util::future::join_all(requests).await {
        assert_eq!(answer.expect("answered").body, "h2");
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_sent_and_no_answer_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let url: Url = format!("http://{address}/").parse().expect("a URL");
    let options = Options {
        silence_timeout: Duration::from_millis(100),
        ..Options::default()
    };
    // The kernel takes the connection, and nobody ever answers.
    let silent = get(&options, &url).await.unwrap_err();
    assert!(matches!(silent, ChannelError::Lost { .. }), "{silent}");
    drop(listener);
    let refused = get(&options, &url).await.unwrap_err();
    assert!(
        matches!(refused, ChannelError::Unreachable { .. }),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_asked_to_connect_and_sees_no_more() {
    let server = Server::start(false).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy = listener.local_addr().expect("bound");
    let target = server.address;
    let asked = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        let mut stream = BufReader::new(stream);
        let mut asked = String::new();
        while !asked.ends_with("\r\n\r\n") {
            stream.read_line(&mut asked).await.expect("a line");
        }
        let mut onward = TcpStream::connect(target).await.expect("the server");
        stream
            .write_all(b"HTTP/1.1 200 OK\r\n\r\n")
            .await
            .expect("written");
        // Ends when either side goes away, which is not this test's matter.
        let _ = copy_bidirectional(&mut stream, &mut onward).await;
        asked
    });
    std::fs::write(server.dir.join("password"), "open sesame\n").expect("written");
    let options = Options {
        proxy: Some(format!("http://{proxy}")),
        proxy_credentials: Some((
            "mailtee".into(),
            SecretSource::File(server.dir.join("password")),
        )),
        ..server.trusted()
    };
    assert_eq!(
        get(&options, &server.url).await.expect("through the proxy"),
        b"h2"
    );
    let asked = asked.await.expect("no panic").to_lowercase();
    let host = format!("localhost:{}", server.address.port());
    assert!(
        asked.starts_with(&format!("connect {host} http/1.1\r\n")),
        "{asked}"
    );
    assert!(
        asked.contains("\r\nproxy-authorization: basic bwfpbhrlztpvcgvuihnlc2ftzq==\r\n"),
        "{asked}"
    );
}
