//! Real Postfix in front of mailtee and behind it, in both modes: a thousand messages with one exact copy each, mailtee
//! down, refusals, and every known way to smuggle a message.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::kit::{
    Archive, Mail, Mailtee, Peer, Sink, SmtpClient, TestDir,
    client::{Reply, stuffed},
    free_port,
    sink::{Answer, Moment},
    wait_until,
};

/// Where the clients sit: an address that is not the one from which Postfix itself connects.
pub(crate) const CLIENT: [u8; 4] = [127, 0, 0, 2];
pub(crate) const MESSAGES: u64 = 1_000;
const SENDERS: u64 = 8;

/// Client → Postfix → mailtee → the same Postfix → sink.
struct Chain {
    // Fields end in this order: whoever sends before whoever receives.
    postfix: Peer,
    mailtee: Mailtee,
    sink: Sink,
}

impl Chain {
    fn start(mode: &str, extra_main: &str) -> Self {
        let sink = Sink::start();
        let reinject = free_port();
        let mailtee = Mailtee::filter(format!("127.0.0.1:{reinject}")).start();
        let postfix = Peer::set("postfix")
            .argument(mode)
            .env("NEXT_HOP", sink.address())
            .env("FILTER", mailtee.frontend)
            .env("REINJECT_PORT", reinject)
            .env("EXTRA_MAIN", extra_main)
            .start();
        Self {
            postfix,
            mailtee,
            sink,
        }
    }

    fn front(&self) -> SocketAddr {
        self.postfix.address("SMTP")
    }

    fn log(&self) -> String {
        self.postfix.file("log/maillog")
    }

    /// The queue is empty: all that Postfix took has gone on.
    fn wait_until_delivered(&self) {
        wait_until_delivered(&self.postfix);
        self.mailtee.wait_until_forwarded(Duration::from_secs(60));
    }
}

/// The queue of this Postfix is empty.
pub(crate) fn wait_until_delivered(postfix: &Peer) {
    let limit = Duration::from_secs(120);
    wait_until(limit, "Postfix has delivered everything", || {
        let output = std::process::Command::new("postqueue")
            .args(["-c", postfix.var("MAIL_CONFIG"), "-j"])
            .output()
            .expect("postqueue");
        (output.status.success() && output.stdout.is_empty()).then_some(())
    });
}

/// A transaction as `Mail` wants it, with the DSN parameters of RFC 3461 on every fifth message.
fn transact(client: &mut SmtpClient, mail: &Mail, serial: u64) -> Reply {
    let dsn = serial.is_multiple_of(5);
    let sender_dsn = if dsn {
        format!(" RET=HDRS ENVID=envelope{serial}")
    } else {
        String::new()
    };
    let mut commands = vec![format!(
        "MAIL FROM:<{}>{}{sender_dsn}",
        mail.sender,
        mail.parameters()
    )];
    for (index, recipient) in mail.recipients.iter().enumerate() {
        let dsn = match dsn && recipient.is_ascii() && !recipient.contains('"') {
            true => format!(" NOTIFY=FAILURE,DELAY ORCPT=rfc822;first{index}@example.org"),
            false => String::new(),
        };
        commands.push(format!("RCPT TO:<{recipient}>{dsn}"));
    }
    for command in commands {
        let reply = client.command(&command).expect("an answer");
        assert!(
            reply.is_success(),
            "{}: {command}: {}",
            mail.kind,
            reply.text()
        );
    }
    assert_eq!(client.command("DATA").expect("an answer").code, 354);
    client.send(&stuffed(&mail.bytes)).expect("it reads");
    client.reply().expect("an answer")
}

pub(crate) fn message(serial: u64) -> Mail {
    match serial {
        500 => Mail::sized(500, 5 << 20),
        _ => Mail::varied(2026, serial),
    }
}

/// Without the newest Received header, which the next server put there.
pub(crate) fn before_last_hop(bytes: &[u8]) -> &[u8] {
    assert!(
        bytes.starts_with(b"Received: "),
        "{}",
        bytes[..bytes.len().min(200)].escape_ascii()
    );
    let mut end = 0;
    loop {
        end += memchr::memchr(b'\n', &bytes[end..]).expect("a header has lines") + 1;
        if !matches!(bytes.get(end), Some(b' ' | b'\t')) {
            return &bytes[end..];
        }
    }
}

/// Says the whole set to a server; gives the replies that the clients heard.
pub(crate) fn say_all(front: SocketAddr) -> BTreeSet<String> {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| {
                scope.spawn(|| {
                    let (mut client, greeting) =
                        SmtpClient::connect_from(CLIENT, front).expect("Postfix listens");
                    assert_eq!(greeting.code, 220);
                    assert_eq!(
                        client
                            .command("EHLO outside.example.org")
                            .expect("an answer")
                            .code,
                        250
                    );
                    let mut replies = Vec::new();
                    loop {
                        let serial = next.fetch_add(1, Ordering::Relaxed);
                        if serial >= MESSAGES {
                            return replies;
                        }
                        let mail = message(serial);
                        let reply = transact(&mut client, &mail, serial);
                        assert!(reply.is_success(), "{}: {}", mail.kind, reply.text());
                        replies.push(reply.text());
                    }
                })
            })
            .collect();
        senders
            .into_iter()
            .flat_map(|sender| sender.join().expect("a sender"))
            .collect()
    })
}

/// Sends the whole set through a chain, checks copies and sightings against what was sent and what arrived; gives the
/// replies that the clients heard, and the archive.
fn a_thousand_messages(chain: &Chain) -> (BTreeSet<String>, Archive) {
    let replies = say_all(chain.front());
    chain.wait_until_delivered();

    let archive = Archive::read(&chain.mailtee);
    let arrived = chain.sink.received();
    assert_eq!(archive.copies.len() as u64, MESSAGES, "one copy of each");
    let arrived_as_captured: BTreeSet<&[u8]> = arrived
        .iter()
        .map(|got| before_last_hop(&got.bytes))
        .collect();
    let captured: BTreeSet<&[u8]> = archive
        .copies
        .iter()
        .map(|copy| copy.bytes.as_slice())
        .collect();
    assert!(
        captured == arrived_as_captured,
        "the vault holds, byte for byte, what went on to the next hop"
    );

    let log = chain.log();
    for serial in 0..MESSAGES {
        let mail = message(serial);
        let copy = archive.one_with(&mail.bytes, mail.kind);
        let kind = format!("{} {serial}", mail.kind);
        let sent_to: BTreeSet<String> = mail.recipients.iter().cloned().collect();
        assert_eq!(copy.recipients(), sent_to, "{kind}");
        for envelope in copy.envelopes() {
            assert_eq!(envelope.sender.to_string(), mail.sender, "{kind}");
            let parameters = envelope.sender_parameters.to_string();
            let with_dsn = serial.is_multiple_of(5);
            assert_eq!(
                parameters.contains(&format!("ENVID=envelope{serial}")),
                with_dsn,
                "{kind}: {parameters}"
            );
            assert_eq!(
                parameters.contains("SMTPUTF8"),
                mail.needs_smtputf8(),
                "{kind}: {parameters}"
            );
            let asked = envelope
                .recipients
                .iter()
                .any(|r| r.parameters.to_string().contains("ORCPT=rfc822;first"));
            let may_ask = mail
                .recipients
                .iter()
                .any(|r| r.is_ascii() && !r.contains('"'));
            assert!(
                !with_dsn || !may_ask || asked || copy.sightings.len() > 1,
                "{kind}"
            );
        }
        for sighted in &copy.sightings {
            assert_eq!(sighted.client().address, Some("127.0.0.2".into()), "{kind}");
            assert_eq!(
                sighted.client().helo,
                Some("outside.example.org".into()),
                "{kind}"
            );
            assert!(sighted.sighting.fidelity.is_empty(), "{kind}");
        }
        for reply in copy.replies() {
            let queue_id = reply.rsplit(' ').next().expect("a word").trim();
            assert!(
                reply.contains("queued as") && log.contains(&format!("{queue_id}: ")),
                "{kind}: {reply}"
            );
        }
    }
    let reused = chain
        .mailtee
        .metrics()
        .value("upstream_connections_total", &[("kind", "reused")]);
    assert!(reused > 0.0, "no session left its connection to the next");
    // Whoever looked whether Postfix listens said nothing.
    let mut lost = chain.log();
    lost = lost.replace("lost connection after CONNECT", "");
    assert!(!lost.contains("lost connection"), "{lost}");
    (replies, archive)
}

#[test]
fn content_filter_each_of_a_thousand_messages_has_one_exact_copy() {
    let chain = Chain::start("content_filter", "");
    let (_, archive) = a_thousand_messages(&chain);
    let log = chain.log();
    assert!(!log.contains("status=bounced"), "{log}");
    for copy in &archive.copies {
        for (sighted, reply) in copy.sightings.iter().zip(copy.replies()) {
            // Postfix's own words for the transaction with mailtee: the next hop's reply, and the id it has for us.
            let queue_id = sighted
                .client()
                .queue_id
                .as_ref()
                .expect("XFORWARD IDENT")
                .to_string();
            let said = reply.trim_end().replace("\r\n", " ");
            let delivered = log.lines().any(|line| {
                line.contains(&format!("{queue_id}: to="))
                    && line.contains(&format!("status=sent ({said})"))
            });
            assert!(delivered, "{queue_id} with {said}");
        }
    }
}

#[test]
fn proxy_filter_each_of_a_thousand_messages_has_one_exact_copy() {
    let chain = Chain::start("proxy_filter", "");
    let (heard, archive) = a_thousand_messages(&chain);
    let recorded: BTreeSet<String> = archive
        .copies
        .iter()
        .flat_map(|copy| copy.replies())
        .collect();
    let words = |replies: BTreeSet<String>| -> BTreeSet<String> {
        replies
            .iter()
            .map(|reply| reply.trim_end().to_owned())
            .collect()
    };
    assert_eq!(
        words(heard),
        words(recorded),
        "clients heard the next hop's own replies"
    );
}

#[test]
fn proxy_filter_over_a_unix_socket() {
    let (sink, reinject, dir) = (Sink::start(), free_port(), TestDir::new());
    let socket = dir.join("in.sock");
    let mailtee = Mailtee::filter(format!("127.0.0.1:{reinject}"))
        .append(&format!(
            "[[frontend]]\nname = \"unix\"\nprotocol = \"smtp\"\nrole = \"filter\"\n\
             listen = \"unix:{}\"\nupstream = \"127.0.0.1:{reinject}\"\n",
            socket.display()
        ))
        .start();
    let postfix = Peer::set("postfix")
        .argument("proxy_filter")
        .env("NEXT_HOP", sink.address())
        .env("FILTER", format!("unix:{}", socket.display()))
        .env("REINJECT_PORT", reinject)
        .start();
    let mail = Mail::plain(1);
    let mut client = SmtpClient::greeted(postfix.address("SMTP")).unwrap();
    assert!(client.mail(&mail).unwrap().is_success());
    sink.wait_for(1);
    mailtee.wait_until_forwarded(Duration::from_secs(30));
    let archive = Archive::read(&mailtee);
    let copy = archive.one_with(&mail.bytes, "what passed");
    assert_eq!(copy.sightings[0].sighting.frontend, "unix");
    // Our own peer has no address; XFORWARD brought the client's.
    assert_eq!(copy.sightings[0].client().address, Some("127.0.0.1".into()));
}

#[test]
fn content_filter_while_mailtee_is_down_mail_waits_and_nothing_bounces() {
    let mut chain = Chain::start("content_filter", "");
    chain.mailtee.kill();
    let mails: Vec<_> = (0..20).map(Mail::plain).collect();
    let mut client = SmtpClient::greeted(chain.front()).unwrap();
    for mail in &mails {
        assert!(
            client.mail(mail).unwrap().is_success(),
            "Postfix itself takes mail"
        );
    }
    wait_until(Duration::from_secs(30), "Postfix has deferred them", || {
        (chain.log().matches("status=deferred").count() >= mails.len()).then_some(())
    });
    assert_eq!(chain.sink.count(), 0, "nothing passes uncopied");
    chain.mailtee.start();
    chain.sink.wait_for(mails.len());
    chain.wait_until_delivered();
    assert!(!chain.log().contains("status=bounced"));
    let archive = Archive::read(&chain.mailtee);
    assert_eq!(archive.copies.len(), mails.len());
    for mail in &mails {
        archive.one_with(&mail.bytes, mail.kind);
    }
}

#[test]
fn proxy_filter_while_mailtee_is_down_clients_are_told_to_try_later() {
    let mut chain = Chain::start("proxy_filter", "");
    chain.mailtee.kill();
    let mail = Mail::plain(1);
    let reply = SmtpClient::greeted(chain.front())
        .unwrap()
        .mail(&mail)
        .unwrap();
    assert_eq!(reply.code / 100, 4, "{}", reply.text());
    assert_eq!(chain.sink.count(), 0);
    chain.mailtee.start();
    let reply = SmtpClient::greeted(chain.front())
        .unwrap()
        .mail(&mail)
        .unwrap();
    assert!(reply.is_success(), "{}", reply.text());
    chain.sink.wait_for(1);
    chain.wait_until_delivered();
    Archive::read(&chain.mailtee).one_with(&mail.bytes, mail.kind);
}

#[test]
fn proxy_filter_the_next_hops_refusal_reaches_the_client_and_nothing_is_copied() {
    let sink = Sink::scripted(|moment| match moment {
        Moment::EndOfData(got) if contains(&got.bytes, b"message 2") => {
            Answer::Say("554 5.7.1 not this one, says the next hop\r\n".to_owned())
        }
        Moment::Command(line) if line.contains("nobody@") => {
            Answer::Say("550 5.1.1 nobody here, says the next hop\r\n".to_owned())
        }
        _ => Answer::Default,
    });
    let mailtee = Mailtee::filter(sink.address()).start();
    let postfix = Peer::set("postfix")
        .argument("proxy_filter")
        .env("FILTER", mailtee.frontend)
        .start();
    let mut client = SmtpClient::greeted(postfix.address("SMTP")).unwrap();
    assert!(client.mail(&Mail::plain(1)).unwrap().is_success());
    let reply = client.mail(&Mail::plain(2)).unwrap();
    assert_eq!(
        (reply.code, reply.text()),
        (554, "554 5.7.1 not this one, says the next hop".to_owned())
    );
    let mut mail = Mail::plain(3);
    mail.recipients = vec!["nobody@example.org".to_owned()];
    let reply = client.mail(&mail).unwrap();
    assert_eq!(
        (reply.code, reply.text()),
        (550, "550 5.1.1 nobody here, says the next hop".to_owned())
    );
    mailtee.wait_until_forwarded(Duration::from_secs(30));
    let archive = Archive::read(&mailtee);
    assert_eq!(archive.copies.len(), 1);
    archive.one_with(&Mail::plain(1).bytes, "the one that was taken");
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}

fn nothing_is_smuggled(mode: &str) {
    // Postfix as it is by default since 3.9; the client sits in mynetworks and is no exception here.
    let chain = Chain::start(
        mode,
        "smtpd_forbid_bare_newline = normalize\nsmtpd_forbid_bare_newline_exclusions =\n",
    );
    // All that have no true one in them (VU#302671).
    let ends = crate::smuggling::ENDS.iter();
    let false_ends: Vec<_> = ends.filter(|end| !contains(end, b"\r\n.\r\n")).collect();
    assert!(false_ends.len() > 20, "the cases are gone");
    for (serial, end) in false_ends.iter().enumerate() {
        let mut client = SmtpClient::greeted(chain.front()).unwrap();
        for command in ["MAIL FROM:<outer@mailtee.test>", "RCPT TO:<to@example.org>"] {
            assert!(client.command(command).unwrap().is_success());
        }
        assert_eq!(client.command("DATA").unwrap().code, 354);
        let smuggled = [
            // A complete header: Postfix adds what a local client left out, on the way back in as well.
            Mail::plain(serial as u64).bytes.as_slice(),
            b"before",
            end,
            b"MAIL FROM:<smuggled@mailtee.test>\r\nRCPT TO:<to@example.org>\r\nDATA\r\nSubject: smuggled\r\n\r\nsmuggled\r\n.\r\n",
        ]
        .concat();
        client.send(&smuggled).unwrap();
        client.reply().unwrap();
    }
    chain.wait_until_delivered();
    let archive = Archive::read(&chain.mailtee);
    let arrived = chain.sink.received();
    assert!(
        arrived.iter().all(|got| !got.mail.contains("smuggled@")),
        "{arrived:?}"
    );
    assert_eq!(
        archive.copies.len(),
        arrived.len(),
        "each message that arrived has its copy"
    );
    for got in &arrived {
        let captured = before_last_hop(&got.bytes);
        archive.one_with(captured, "what arrived");
    }
    assert_eq!(arrived.len(), false_ends.len(), "each was one message");
}

#[test]
fn content_filter_smuggles_nothing() {
    nothing_is_smuggled("content_filter");
}

#[test]
fn proxy_filter_smuggles_nothing() {
    nothing_is_smuggled("proxy_filter");
}
