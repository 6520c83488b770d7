//! What a domain says of its mail servers, asked of a real DNS server and of HTTPS servers at the ports they are at.

use std::process::Command;

use mailtee::net::{install_provider, self_signed};
use serde_json::Value;

use crate::{
    domain_rig::{Pages, World, authorities, imap_in_plain_text},
    kit::{Peer, TestDir, free_port},
};

const CONFIG: &str = r#"<?xml version="1.0"?><clientConfig version="1.1"><emailProvider id="x">
<incomingServer type="imap"><hostname>imap.example.test</hostname><port>PORT</port><socketType>STARTTLS</socketType><username>%EMAILLOCALPART%</username></incomingServer>
<incomingServer type="pop3"><hostname>pop.example.test</hostname><port>110</port><socketType>plain</socketType></incomingServer>
</emailProvider></clientConfig>"#;

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
    let (text, _) = world.text(&world.ca(), &asked);
    let server = format!("imap.mailtee.test:{port}: imap, STARTTLS");
    assert!(text.contains(&server), "{text}");
    let fault = "FAULT         its certificate does not verify";
    assert!(text.contains(fault), "{text}");
    let asked = ["ada@mailtee.test", "--config"];
    let (text, code) = world.text(&world.ca(), &asked);
    assert_eq!((text.as_str(), code), ("", Some(3)));

    // With both authorities it is well, and what is printed is a configuration.
    let both = authorities(&world, &dovecot);
    let (block, code) = world.text(&both, &asked);
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

/// What is amiss with each server that was looked at, by its address.
fn faults(text: &str) -> Vec<(String, String)> {
    let servers = text.lines().skip(1).map(|line| {
        let server: Value = serde_json::from_str(line).expect("JSON");
        let word = |key: &str| server[key].as_str().unwrap_or_default().to_owned();
        (word("address"), word("fault"))
    });
    servers.collect()
}

#[test]
fn of_a_services_servers_the_first_that_is_as_it_was_named_is_taken() {
    let dovecot = Peer::set("dovecot").start();
    let (imap, imaps) = (dovecot.address("IMAP").port(), dovecot.env("IMAPS_PORT"));
    let records = [
        "--srv-host=_imaps._tcp.mailtee.test,gone.mailtee.test,993,0".to_owned(),
        format!("--srv-host=_imaps._tcp.mailtee.test,imap.mailtee.test,{imap},5"),
        format!("--srv-host=_imaps._tcp.mailtee.test,imap.mailtee.test,{imaps},10"),
        "--host-record=imap.mailtee.test,127.0.0.1".to_owned(),
    ];
    let world = World::start(&["mailtee.test"], &records, Pages::new());
    let ca = authorities(&world, &dovecot);
    let asked = ["ada@mailtee.test", "--format", "json"];
    let (text, code) = world.text(&ca, &asked);
    assert_eq!(code, Some(0), "{text}");
    let at = |port: &str| format!("imap.mailtee.test:{port}");
    let expected = [
        ("gone.mailtee.test:993", "named as imap, found unreachable"),
        (
            &at(&imap.to_string()),
            "named with TLS implicit, found starttls",
        ),
        (&at(imaps), ""),
    ]
    .map(|(address, fault)| (address.to_owned(), fault.to_owned()));
    assert_eq!(faults(&text), expected);
    let (block, code) = world.text(&ca, &["ada@mailtee.test", "--config"]);
    assert_eq!(code, Some(0), "{block}");
    assert!(block.contains(&format!("upstream = \"{}\"", at(imaps))));
    assert!(block.contains("upstream_tls = \"implicit\""), "{block}");
    assert_eq!(block.matches("[[frontend]]").count(), 1, "{block}");
}

#[test]
fn where_tls_is_not_as_named_plain_text_beside_it_is_no_front_end() {
    let dovecot = Peer::set("dovecot").start();
    let imap = dovecot.address("IMAP").port();
    let records = [
        format!("--srv-host=_imaps._tcp.mailtee.test,imap.mailtee.test,{imap}"),
        "--host-record=imap.mailtee.test,127.0.0.1".to_owned(),
    ];
    let world = World::start(&["mailtee.test"], &records, Pages::new());
    imap_in_plain_text(world.ip);
    let ca = authorities(&world, &dovecot);
    let (text, _) = world.text(&ca, &["mailtee.test"]);
    assert!(text.contains("mailtee.test:143: imap\n"), "{text}");
    assert!(text.contains("named with TLS implicit, found starttls"));
    let (block, code) = world.text(&ca, &["mailtee.test", "--config"]);
    assert_eq!((block.as_str(), code), ("", Some(3)));
}

#[test]
fn a_name_is_asked_as_a_domain_and_as_a_host() {
    let jmap = "https://example.test/.well-known/jmap";
    let pages = Pages::from([(jmap.to_owned(), "login: Bearer".to_owned())]);
    let world = World::start(&["example.test"], &[], pages);
    let asked = ["example.test", "--format", "json"];
    let (text, code) = world.text(&world.ca(), &asked);
    assert_eq!(code, Some(0), "{text}");
    let domain = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    let expected = ["jmap example.test:443 implicit jmap-well-known"];
    assert_eq!(candidates(&domain), expected, "{text}");
    // Named and guessed, looked at once.
    let expected = [("example.test:443".to_owned(), String::new())];
    assert_eq!(faults(&text), expected, "{text}");
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
