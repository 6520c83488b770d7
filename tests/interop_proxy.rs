//! The client's address through other people's implementations: HAProxy's PROXY header in front, Postfix told by PROXY
//! header and XCLIENT behind.

use std::time::Duration;

use crate::kit::{Archive, Mail, Mailtee, Peer, Sink, SmtpClient, free_port};

/// An address that is not the one from which the servers themselves connect.
const CLIENT: [u8; 4] = [127, 0, 0, 3];

fn send_from_there(to: std::net::SocketAddr) -> Mail {
    let mail = Mail::plain(1);
    let (mut client, greeting) = SmtpClient::connect_from(CLIENT, to).unwrap();
    assert_eq!(greeting.code, 220, "{}", greeting.text());
    assert_eq!(
        client.command("EHLO outside.example.org").unwrap().code,
        250
    );
    let reply = client.mail(&mail).unwrap();
    assert!(reply.is_success(), "{}", reply.text());
    mail
}

/// Client → HAProxy → mailtee: the sighting names the client, not HAProxy.
fn haproxy_in_front(version: &str) {
    let sink = Sink::start();
    let mailtee = Mailtee::filter(sink.address())
        .option("role", "\"proxy\"")
        .option("proxy_protocol_from", "[\"127.0.0.1\"]")
        .start();
    let port = free_port();
    let _haproxy = Peer::set("haproxy")
        .env("FORWARD", format!("{port}={}", mailtee.frontend))
        .env("PROXY", version)
        .start();
    let mail = send_from_there(([127, 0, 0, 1], port).into());
    mailtee.wait_until_forwarded(Duration::from_secs(30));
    let archive = Archive::read(&mailtee);
    let copy = archive.one_with(&mail.bytes, "what passed");
    let client = copy.sightings[0].client();
    assert_eq!(client.address, Some("127.0.0.3".into()));
    assert!(client.port.is_some());
}

/// Client → mailtee → Postfix that expects a header: Postfix logs the client, not us.
fn postfix_behind(version: &str) {
    let sink = Sink::start();
    let postfix = Peer::set("postfix")
        .env("NEXT_HOP", sink.address())
        .env("PROXY_PROTOCOL", 1)
        .start();
    let mailtee = Mailtee::filter(postfix.address("SMTP"))
        .option("role", "\"proxy\"")
        .option("tell_upstream_client", format!("\"{version}\""))
        .start();
    send_from_there(mailtee.frontend);
    sink.wait_for(1);
    let log = postfix.file("log/maillog");
    assert!(log.contains("client=unknown[127.0.0.3]"), "{log}");
}

#[test]
fn haproxy_names_the_client_by_version_1() {
    haproxy_in_front("v1");
}

#[test]
fn haproxy_names_the_client_by_version_2() {
    haproxy_in_front("v2");
}

#[test]
fn postfix_is_told_the_client_by_version_1() {
    postfix_behind("proxy-v1");
}

#[test]
fn postfix_is_told_the_client_by_version_2() {
    postfix_behind("proxy-v2");
}

#[test]
fn postfix_is_told_the_client_by_xclient() {
    let sink = Sink::start();
    let postfix = Peer::set("postfix")
        .env("NEXT_HOP", sink.address())
        .env("XCLIENT", 1)
        .start();
    let mailtee = Mailtee::filter(postfix.address("SMTP"))
        .option("role", "\"proxy\"")
        .option("tell_upstream_client", "\"xclient\"")
        .start();
    send_from_there(mailtee.frontend);
    sink.wait_for(1);
    let log = postfix.file("log/maillog");
    assert!(log.contains("[127.0.0.3]"), "{log}");
}
