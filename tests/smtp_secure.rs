//! TLS and the PROXY protocol on both legs of a session: two front ends in a row, so that each leg has both its ends.

use std::{net::SocketAddr, time::Duration};

use mailtee::{
    frontends::{Options, TellClient, Tls, UpstreamTls},
    message::Protocol,
    net::{ClientTls, ClientTlsFiles, Networks, ServerTls, Stream, proxy_protocol, self_signed},
    wire::smtp::{Dialect, Role},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    kit::{SmtpClient, TestDir},
    smtp_rig::{Front, content, filter, loopback, upstream},
};

struct Certificate {
    server: ServerTls,
    client: ClientTls,
    _dir: TestDir,
}

fn certificate() -> Certificate {
    let dir = TestDir::new();
    let made = self_signed(&["localhost"], dir.path()).unwrap();
    let ca_file = Some(made.files.certificate.clone());
    Certificate {
        server: ServerTls::load(made.files, None, &[]).unwrap(),
        client: ClientTls::load(
            ClientTlsFiles {
                ca_file,
                identity: None,
            },
            &[],
        )
        .unwrap(),
        _dir: dir,
    }
}

fn tls(certificate: &Certificate, implicit: bool) -> Option<Tls> {
    Some(Tls {
        identity: certificate.server.clone(),
        implicit,
    })
}

/// A proxy with a certificate, in front of this next hop.
fn proxy(next_hop: SocketAddr) -> Options {
    let mut options = Options::new("front", Protocol::Smtp, Role::Proxy, loopback());
    options.upstream = Some(upstream(next_hop));
    options
}

fn second(certificate: &Certificate, implicit: bool) -> Front {
    Front::over_sink(Dialect::Smtp, |sink| {
        let mut options = filter(sink);
        options.tls = tls(certificate, implicit);
        options
    })
}

/// Says a line and hears one reply; with TLS, nobody else does.
async fn say(stream: &mut Stream, line: &str) -> String {
    stream.write_all(line.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut heard = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).await.unwrap();
        assert!(n > 0, "ended after {heard:?}");
        heard.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&heard).into_owned();
        let last = text.lines().last().unwrap_or_default();
        if text.ends_with('\n') && last.as_bytes().get(3) == Some(&b' ') {
            return text;
        }
    }
}

async fn connect(address: SocketAddr) -> Stream {
    let address: mailtee::net::Address = address.to_string().parse().unwrap();
    address
        .connect(Duration::from_secs(10))
        .await
        .unwrap()
        .into()
}

async fn message(stream: &mut Stream) {
    for (line, code) in [
        ("EHLO client.example\r\n", "250"),
        ("MAIL FROM:<a@b>\r\n", "250"),
        ("RCPT TO:<c@d>\r\n", "250"),
        ("DATA\r\n", "354"),
        ("secret\r\n.\r\n", "250"),
        ("QUIT\r\n", "221"),
    ] {
        let reply = say(stream, line).await;
        assert!(reply.starts_with(code), "{line}: {reply}");
    }
}

#[test]
fn starttls_on_both_legs() {
    let certificate = certificate();
    let behind = second(&certificate, false);
    let mut options = proxy(behind.address);
    options.tls = tls(&certificate, false);
    options.upstream.as_mut().unwrap().tls =
        UpstreamTls::StartTls(certificate.client.clone(), "localhost".into());
    let front = Front::start(options);
    front.runtime.block_on(async {
        let mut stream = connect(front.address).await;
        assert!(say(&mut stream, "").await.starts_with("220"));
        let offer = say(&mut stream, "EHLO client.example\r\n").await;
        assert!(offer.contains("STARTTLS"), "{offer}");
        assert!(say(&mut stream, "STARTTLS\r\n").await.starts_with("220"));
        let mut stream = stream
            .connect_tls(&certificate.client, "localhost")
            .await
            .unwrap();
        let offer = say(&mut stream, "EHLO client.example\r\n").await;
        assert!(!offer.contains("STARTTLS"), "{offer}");
        message(&mut stream).await;
    });
    for front in [&front, &behind] {
        let captures = front.captures(1);
        assert_eq!(content(&captures[0]), b"secret\r\n");
        let client = captures[0].sighting().client().unwrap();
        assert_eq!(client.tls.as_ref().unwrap().version, "TLSv1.3");
        assert_eq!(client.protocol, Some("ESMTPS".into()));
    }
}

#[test]
fn tls_from_the_first_byte_on_both_legs() {
    let certificate = certificate();
    let behind = second(&certificate, true);
    let mut options = proxy(behind.address);
    options.tls = tls(&certificate, true);
    options.upstream.as_mut().unwrap().tls =
        UpstreamTls::Implicit(certificate.client.clone(), "localhost".into());
    let front = Front::start(options);
    front.runtime.block_on(async {
        let stream = connect(front.address).await;
        let mut stream = stream
            .connect_tls(&certificate.client, "localhost")
            .await
            .unwrap();
        assert!(say(&mut stream, "").await.starts_with("220"));
        message(&mut stream).await;
    });
    assert_eq!(content(&front.captures(1)[0]), b"secret\r\n");
    assert_eq!(content(&behind.captures(1)[0]), b"secret\r\n");
}

#[test]
fn a_next_hop_with_another_certificate_is_none() {
    let (theirs, trusted) = (certificate(), certificate());
    for implicit in [true, false] {
        let behind = second(&theirs, implicit);
        let mut options = proxy(behind.address);
        let (tls, name) = (trusted.client.clone(), "localhost".to_owned());
        options.upstream.as_mut().unwrap().tls = if implicit {
            UpstreamTls::Implicit(tls, name)
        } else {
            UpstreamTls::StartTls(tls, name)
        };
        let front = Front::start(options);
        let (_, reply) = SmtpClient::connect(front.address).unwrap();
        assert!(reply.text().starts_with("421 4.3.2"), "{}", reply.text());
        assert_eq!(front.errors("upstream_refused"), 1);
    }
}

#[test]
fn commands_injected_behind_starttls_are_refused() {
    let certificate = certificate();
    let front = Front::over_sink(Dialect::Smtp, |sink| {
        let mut options = proxy(sink);
        options.tls = tls(&certificate, false);
        options
    });
    let mut client = SmtpClient::greeted(front.address).unwrap();
    client
        .send(b"STARTTLS\r\nMAIL FROM:<evil@example.org>\r\n")
        .unwrap();
    assert!(client.reply().unwrap().text().starts_with("554 5.5.0"));
    assert!(client.reply().is_err(), "the session is closed");
    assert_eq!(front.errors("starttls_injection"), 1);
}

#[test]
fn a_failed_handshake_is_counted() {
    let certificate = certificate();
    let front = Front::over_sink(Dialect::Smtp, |sink| {
        let mut options = proxy(sink);
        options.tls = tls(&certificate, false);
        options
    });
    let mut client = SmtpClient::greeted(front.address).unwrap();
    assert_eq!(client.command("STARTTLS").unwrap().code, 220);
    client.send(b"this is no TLS\r\n").unwrap();
    front.wait("it is counted", |f| f.errors("tls_handshake") == 1);
    front.wait("the session ends", |f| f.sessions() == 0);
}

#[test]
fn the_next_hop_learns_the_client_from_a_proxy_header() {
    for version in [proxy_protocol::Version::V1, proxy_protocol::Version::V2] {
        let behind = Front::over_sink(Dialect::Smtp, |sink| {
            let mut options = filter(sink);
            options.proxy_protocol = Some(proxy_protocol::Incoming {
                from: Networks::loopback(),
                timeout: Duration::from_secs(10),
            });
            options
        });
        let mut options = proxy(behind.address);
        options.tell_client = TellClient::Proxy(version);
        let front = Front::start(options);
        let port = front.runtime.block_on(async {
            let mut stream = connect(front.address).await;
            assert!(say(&mut stream, "").await.starts_with("220"));
            message(&mut stream).await;
            stream.local().unwrap().port()
        });
        let captures = behind.captures(1);
        let client = captures[0].sighting().client().unwrap();
        assert_eq!(client.port, Some(port));
    }
}
