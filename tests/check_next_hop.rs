//! `mailtee check` at the next hops of front ends: what is right there, and each thing that can be wrong, said clearly.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
};

use serde_json::Value;

use crate::{
    identify_rig::{loopback, serve},
    kit::{Mailtee, Peer, free_port},
};

/// A front end before a next hop, and what `check` has to say of it: a part of the fault, or that it is well.
struct Case {
    name: &'static str,
    protocol: &'static str,
    upstream: String,
    tls: &'static str,
    ca: String,
    /// More keys of the front end.
    options: &'static str,
    expected: Result<(), &'static str>,
}

/// None stands for no TLS.
fn case(
    name: &'static str,
    (protocol, upstream): (&'static str, impl ToString),
    tls: Option<(&'static str, &str)>,
    options: &'static str,
    expected: Result<(), &'static str>,
) -> Case {
    let (tls, ca) = tls.unwrap_or_default();
    Case {
        name,
        protocol,
        upstream: upstream.to_string(),
        tls,
        ca: ca.to_owned(),
        options,
        expected,
    }
}

impl Case {
    fn frontend(&self) -> String {
        let role = match self.protocol {
            "smtp" | "lmtp" if !self.options.contains("role") => "role = \"filter\"\n",
            _ => "",
        };
        let mut text = format!(
            "[[frontend]]\nname = {:?}\nprotocol = {:?}\nlisten = \"127.0.0.1:{}\"\nupstream = {:?}\n{role}{}\n",
            self.name,
            self.protocol,
            free_port(),
            self.upstream,
            self.options,
        );
        if !self.tls.is_empty() {
            text += &format!("upstream_tls = {:?}\n", self.tls);
            text += &format!("upstream_ca_file = {:?}\n", self.ca);
        }
        if !self.tls.is_empty() && !self.options.contains("upstream_tls_name") {
            text += "upstream_tls_name = \"localhost\"\n";
        }
        text
    }
}

/// A server that says this, then to each line what stands beside a word of it; `TAG` is the line's own first word.
fn says(greeting: &'static str, answers: &'static [(&'static str, &'static str)]) -> SocketAddr {
    serve(loopback(), move |mut stream: TcpStream| {
        stream.write_all(greeting.as_bytes())?;
        for line in BufReader::new(stream.try_clone()?).lines() {
            let line = line?;
            let tag = line.split(' ').next().unwrap_or_default();
            let answer = answers.iter().find(|(word, _)| line.contains(word));
            let answer = answer.map_or("", |(_, answer)| answer);
            stream.write_all(answer.replace("TAG", tag).as_bytes())?;
        }
        Ok(())
    })
}

#[test]
fn a_next_hop_is_held_against_its_front_end() {
    let dovecot = Peer::set("dovecot").start();
    let bare = Peer::set("dovecot").env("TLS", "0").start();
    let smtps = free_port();
    let postfix = Peer::set("postfix").env("SMTPS_PORT", smtps).start();
    let xclient = Peer::set("postfix").env("XCLIENT", "1").start();
    let proxied = Peer::set("postfix").env("PROXY_PROTOCOL", "1").start();
    let opensmtpd = Peer::set("opensmtpd").start();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (ca, other_ca) = (dovecot.var("CA"), bare.var("CA"));
    assert!(Path::new(other_ca).exists());
    let at = |peer: &Peer, listener: &str| peer.var(listener).to_owned();
    let imap = || ("imap", at(&dovecot, "IMAP"));
    let pop3 = || ("pop3", at(&dovecot, "POP3"));
    let lmtp = || ("lmtp", at(&dovecot, "LMTP"));
    let smtp = || ("smtp", at(&postfix, "SMTP"));
    let starttls = Some(("starttls", ca));
    let implicit = Some(("implicit", ca));
    let by_postfix = |tls| Some((tls, postfix.var("CA")));
    let well = Ok(());
    let dead = free_port();

    let cases = [
        // What is right.
        case("imap", imap(), None, "", well),
        case("imap-starttls", imap(), starttls, "", well),
        case("imaps", ("imap", at(&dovecot, "IMAPS")), implicit, "", well),
        case(
            "imap-id",
            imap(),
            starttls,
            "tell_upstream_client = \"id\"",
            well,
        ),
        case("pop3", pop3(), None, "", well),
        case("pop3-stls", pop3(), starttls, "", well),
        case("pop3s", ("pop3", at(&dovecot, "POP3S")), implicit, "", well),
        case("lmtp", lmtp(), None, "", well),
        case("lmtp-starttls", lmtp(), starttls, "", well),
        case("lmtps", ("lmtp", at(&dovecot, "LMTPS")), implicit, "", well),
        case(
            "lmtp-socket",
            ("lmtp", at(&dovecot, "LMTP_SOCKET")),
            starttls,
            "",
            well,
        ),
        case("smtp", smtp(), None, "", well),
        case("smtp-starttls", smtp(), by_postfix("starttls"), "", well),
        case(
            "smtps",
            ("smtp", at(&postfix, "SMTPS")),
            by_postfix("implicit"),
            "",
            well,
        ),
        case(
            "smtp-xclient",
            ("smtp", at(&xclient, "SMTP")),
            None,
            "role = \"proxy\"\ntell_upstream_client = \"xclient\"",
            well,
        ),
        case(
            "smtp-proxy",
            ("smtp", at(&proxied, "SMTP")),
            None,
            "role = \"proxy\"\ntell_upstream_client = \"proxy-v1\"",
            well,
        ),
        case(
            "imap-proxy",
            ("imap", at(&dovecot, "IMAP_HAPROXY")),
            None,
            "tell_upstream_client = \"proxy-v2\"",
            well,
        ),
        // Another protocol.
        case(
            "imap-is-pop3",
            ("imap", pop3().1),
            None,
            "",
            Err("no greeting of this protocol: +OK"),
        ),
        case(
            "pop3-is-imap",
            ("pop3", imap().1),
            starttls,
            "",
            Err("no greeting of this protocol: * OK"),
        ),
        case(
            "imap-is-smtp",
            ("imap", smtp().1),
            None,
            "",
            Err("no greeting of this protocol: 220"),
        ),
        case(
            "smtp-is-imap",
            ("smtp", imap().1),
            None,
            "",
            Err("no greeting of this protocol: * OK"),
        ),
        case(
            "smtp-is-lmtp",
            ("smtp", lmtp().1),
            None,
            "",
            Err("it refuses EHLO: 500"),
        ),
        case(
            "lmtp-is-smtp",
            ("lmtp", smtp().1),
            None,
            "",
            Err("it refuses LHLO: 500"),
        ),
        case(
            "lmtp-is-smtp-starttls",
            ("lmtp", smtp().1),
            by_postfix("starttls"),
            "",
            Err("it refuses LHLO: 500"),
        ),
        // No TLS where there is to be TLS.
        case(
            "imap-no-tls",
            ("imap", at(&bare, "IMAP")),
            starttls,
            "",
            Err("the server offers no STARTTLS"),
        ),
        case(
            "pop3-no-tls",
            ("pop3", at(&bare, "POP3")),
            starttls,
            "",
            Err("the server offers no STARTTLS"),
        ),
        case(
            "smtp-no-tls",
            ("smtp", at(&opensmtpd, "SMTP")),
            starttls,
            "",
            Err("the server offers no STARTTLS"),
        ),
        case(
            "imaps-no-tls",
            imap(),
            implicit,
            "",
            Err("tls: handshake with localhost"),
        ),
        case(
            "imap-refused",
            (
                "imap",
                says(
                    "* OK [CAPABILITY IMAP4rev1 STARTTLS] hi\r\n",
                    &[("STARTTLS", "TAG NO not \x1b[2Jtoday\r\n")],
                ),
            ),
            starttls,
            "",
            Err("the server refused STARTTLS: mailtee NO not"),
        ),
        case(
            "pop3-refused",
            (
                "pop3",
                says(
                    "+OK hi\r\n",
                    &[
                        ("CAPA", "+OK\r\nSTLS\r\n.\r\n"),
                        ("STLS", "-ERR not today\r\n"),
                    ],
                ),
            ),
            starttls,
            "",
            Err("the server refused STARTTLS: -ERR not today"),
        ),
        case(
            "smtp-refused",
            (
                "smtp",
                says(
                    "220 hi\r\n",
                    &[
                        ("EHLO", "250-hi\r\n250 STARTTLS\r\n"),
                        ("STARTTLS", "454 4.7.0 not \x1b[2Jtoday\r\n"),
                    ],
                ),
            ),
            starttls,
            "",
            Err("the server refused STARTTLS: 454 4.7.0"),
        ),
        case(
            "smtp-injected",
            (
                "smtp",
                says(
                    "220 hi\r\n",
                    &[
                        ("EHLO", "250-hi\r\n250 STARTTLS\r\n"),
                        ("STARTTLS", "220 go\r\n250 and more\r\n"),
                    ],
                ),
            ),
            starttls,
            "",
            Err("bytes came between the server's answer to STARTTLS and TLS"),
        ),
        case(
            "imap-preauth",
            ("imap", says("* PREAUTH come in\r\n", &[])),
            starttls,
            "",
            Err("the server offers no STARTTLS"),
        ),
        // A certificate that does not verify.
        case(
            "imap-strangers",
            imap(),
            Some(("starttls", other_ca)),
            "",
            Err("invalid peer certificate"),
        ),
        case(
            "pop3s-strangers",
            ("pop3", at(&dovecot, "POP3S")),
            Some(("implicit", other_ca)),
            "",
            Err("invalid peer certificate"),
        ),
        case(
            "smtp-strangers",
            smtp(),
            Some(("starttls", other_ca)),
            "",
            Err("invalid peer certificate"),
        ),
        case(
            "lmtp-misnamed",
            lmtp(),
            starttls,
            "upstream_tls_name = \"mail.example.org\"",
            Err("mail.example.org"),
        ),
        // Nobody there, or nobody who lets us in.
        case(
            "imap-dead",
            ("imap", format!("127.0.0.1:{dead}")),
            starttls,
            "",
            Err("Connection refused"),
        ),
        case(
            "smtp-dead",
            ("smtp", format!("127.0.0.1:{dead}")),
            None,
            "",
            Err("Connection refused"),
        ),
        case(
            "imap-bye",
            ("imap", says("* BYE too \x1b[2J many\r\n", &[])),
            None,
            "",
            Err("it turns us away: * BYE too"),
        ),
        case(
            "pop3-err",
            ("pop3", says("-ERR too many\r\n", &[])),
            None,
            "",
            Err("it turns us away: -ERR too many"),
        ),
        case(
            "smtp-away",
            ("smtp", says("554 5.7.1 not you\r\n", &[])),
            None,
            "",
            Err("it turns us away: 554 5.7.1 not you"),
        ),
        case(
            "smtp-closes",
            ("smtp", serve(loopback(), |_| Ok(()))),
            None,
            "",
            Err("it closed the connection"),
        ),
        case(
            "imap-behind-proxy",
            ("imap", at(&dovecot, "IMAP_HAPROXY")),
            None,
            "",
            Err("it closed the connection"),
        ),
        case(
            "smtp-no-xclient",
            smtp(),
            None,
            "role = \"proxy\"\ntell_upstream_client = \"xclient\"",
            Err("it offers us no XCLIENT"),
        ),
        case(
            "imap-silent",
            ("imap", silent.local_addr().expect("an address")),
            None,
            "",
            Err("no answer in time"),
        ),
        case(
            "smtp-flood",
            ("smtp", flood()),
            None,
            "",
            Err("no greeting of this protocol: 220-x"),
        ),
    ];

    let frontends: String = cases.iter().map(Case::frontend).collect();
    let mailtee = Mailtee::filter(smtp().1).append(&frontends).prepare();
    let checked = mailtee.command(&["check", "--format", "json"]);
    let text = String::from_utf8(checked.stdout).expect("UTF-8");
    assert_eq!(
        checked.status.code(),
        Some(1),
        "{text}{:?}",
        String::from_utf8(checked.stderr)
    );
    let findings: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let mut faults = Vec::new();
    for case in &cases {
        let what = format!("front end {}: next hop ", case.name);
        let found = findings.iter().find(|it| {
            let found = it["what"].as_str();
            found.is_some_and(|it| it.starts_with(&what))
        });
        let found = found.unwrap_or_else(|| panic!("nothing of {}: {text}", case.name));
        let why = found["why"].as_str().unwrap_or_default();
        let is_right = match case.expected {
            Ok(()) => found["ok"] == true,
            Err(part) => found["ok"] == false && why.contains(part) && why.len() < 400,
        };
        if !is_right || why.chars().any(char::is_control) {
            faults.push(format!(
                "{}: {:?} was to be said: {found}",
                case.name, case.expected
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_client_s_leg_in_clear_before_a_server_with_tls_is_noted() {
    let frontend = |name: &str, listen: &str, more: &str| {
        format!(
            "[[frontend]]\nname = {name:?}\nprotocol = \"imap\"\nlisten = {listen:?}\n\
             upstream = \"localhost:1143\"\n{more}\n"
        )
    };
    let starttls = "upstream_tls = \"starttls\"";
    let secured = format!("{starttls}\ncertificate = \"/c.pem\"\nkey = \"/c.key\"");
    let frontends = [
        frontend("clear", "127.0.0.1:2143", starttls),
        frontend("secured", "127.0.0.1:3143", &secured),
        frontend("plain", "127.0.0.1:4143", ""),
        frontend("local", "unix:/run/imap", starttls),
        frontend(
            "allowed",
            "127.0.0.1:5143",
            &format!("{starttls}\nauth_allow_cleartext = true"),
        ),
    ];
    let mailtee = Mailtee::filter("127.0.0.1:10026")
        .append(&frontends.concat())
        .prepare();
    let checked = mailtee.command(&["check", "--offline", "--format", "json"]);
    let text = String::from_utf8(checked.stdout).expect("UTF-8");
    assert!(checked.status.success(), "{text}");
    let noted: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .filter(|finding: &Value| finding.get("note").is_some())
        .collect();
    assert_eq!(noted.len(), 1, "{text}");
    assert_eq!(noted[0]["what"], "front end clear: its clients");
    assert_eq!(
        noted[0]["note"],
        "passwords are refused to other hosts, for their leg has no TLS: set `certificate`, or `auth_allow_cleartext`"
    );
}

/// A greeting that never ends.
fn flood() -> SocketAddr {
    serve(loopback(), |mut stream| {
        loop {
            stream.write_all(b"220-x\r\n")?;
        }
    })
}
