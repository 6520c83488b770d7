//! kill -9 between clients that save mail and the Dovecot that keeps it: what got OK is in the mailbox and in the vault
//! once, byte for byte; what got none is in the vault at most once, and only if the mailbox has it.
//!
//! The clients say APPEND in every way there is. Rounds and seed: `kit::rounds`.

use std::{collections::BTreeSet, io, net::SocketAddr, time::Duration};

use crate::{
    kit::{
        ImapClient, Ledger, MailServer, Mailtee, Rounds,
        ledger::{SESSIONS, mail},
        mailbox::Kind,
        rounds::{JOURNAL, to_come_to_rest},
        vault::blob_id,
        wait_until,
    },
    mailbox_imap::before,
};

/// Messages of a folder that are asked for at once.
const PAGE: u32 = 200;

/// APPEND of several messages in pieces: each but the last ends in a literal's marker.
fn pieces(messages: &[Vec<u8>], waits: bool) -> Vec<Vec<u8>> {
    let plus = if waits { "" } else { "+" };
    let marker = |message: &Vec<u8>| format!("{{{}{plus}}}\r\n", message.len()).into_bytes();
    let mut pieces = vec![b"APPEND INBOX (\\Seen) ".to_vec()];
    for (at, message) in messages.iter().enumerate() {
        let last = pieces.last_mut().expect("there is one");
        last.extend(marker(message));
        let date = b" \"01-Jun-2026 10:00:00 +0000\" ";
        let follows: &[u8] = match at + 1 == messages.len() {
            true => b"\r\n",
            false => date,
        };
        pieces.push([message, follows].concat());
    }
    pieces
}

/// Some messages, saved in one of the ways; gives those that got OK.
fn save(client: &mut ImapClient, serials: &[u64], way: u64) -> io::Result<Vec<u64>> {
    let messages: Vec<_> = serials.iter().map(|&serial| mail(serial).bytes).collect();
    let answers = match way % 3 {
        // each literal waits for the server's leave
        0 => {
            let pieces = pieces(&messages, true);
            let pieces: Vec<_> = pieces.iter().map(Vec::as_slice).collect();
            vec![client.in_pieces(&pieces)?]
        }
        // none does, and all is said at once
        1 => {
            let tag = client.begin(&pieces(&messages, false).concat())?;
            vec![client.finish(&tag)?]
        }
        // a command each, one behind the other
        _ => {
            let begun = messages.chunks(1).map(|one| pieces(one, false).concat());
            let tags: Vec<_> = begun
                .map(|said| client.begin(&said))
                .collect::<io::Result<_>>()?;
            let answers = tags.iter().map(|tag| client.finish(tag));
            answers.collect::<io::Result<Vec<_>>>()?
        }
    };
    // one for each message, or one for all of them
    let saved = serials.chunks(serials.len() / answers.len());
    let saved = saved.zip(&answers).filter(|(_, answer)| {
        // a server that stops may say no
        let said = &answer.tagged;
        assert!(answer.is_ok() || said.starts_with("NO"), "{said}");
        answer.is_ok()
    });
    Ok(saved.flat_map(|(serials, _)| serials).copied().collect())
}

/// One client: saves for as long as it is let, comes again whenever the session has ended.
fn client(ledger: &Ledger, front: SocketAddr, user: &(String, String)) {
    let mut way = 0;
    while !ledger.is_over() {
        let come = || {
            let (mut client, greeting) = ImapClient::connect(front).ok()?;
            if !greeting.starts_with("* OK") {
                return None;
            }
            let login = format!("LOGIN {} {}", user.0, user.1);
            client.command(&login).ok()?.is_ok().then_some(client)
        };
        let session = ledger.try_until_over("a session can be had", come);
        let Some(mut session) = session else {
            return;
        };
        while !ledger.is_over() {
            way += 1;
            let count = [1, 3, 2, 1][way % 4];
            let serials: Vec<_> = (0..count).map(|_| ledger.next()).collect();
            match save(&mut session, &serials, way as u64) {
                Ok(saved) => saved
                    .into_iter()
                    .for_each(|serial| ledger.acknowledge(serial)),
                Err(_) => break,
            }
        }
    }
}

/// The blob id of each message in the accounts of all clients; one that is there twice was saved twice.
fn held(server: &MailServer) -> BTreeSet<String> {
    let mut held = BTreeSet::new();
    for number in 1..=SESSIONS as u32 {
        let mut client = ImapClient::logged_in(server.imap(), &server.user(number));
        let selected = client.ok("EXAMINE INBOX").text();
        let next = selected
            .split_once("[UIDNEXT ")
            .and_then(|(_, rest)| rest.split_once(']'))
            .and_then(|(next, _)| next.parse::<u32>().ok())
            .expect("a UIDNEXT");
        for first in (1..next).step_by(PAGE as usize) {
            let page = format!("{first}:{}", first + PAGE - 1);
            for shown in client.these(&page).expect("it shows them") {
                assert!(held.insert(blob_id(&shown.bytes)), "twice in the mailbox");
            }
        }
    }
    held
}

/// The laws, over all that was ever sent.
fn check(ledger: &Ledger, mailtee: &Mailtee, server: &MailServer) {
    mailtee.wait_until_forwarded(to_come_to_rest());
    let vault = mailtee.vault();
    ledger.check(&vault);
    let held = held(server);
    let promised = ledger.promised();
    let lost = promised.difference(&held).count();
    assert_eq!(lost, 0, "of {} that got OK", promised.len());
    for (blob, id) in vault.each_once() {
        assert!(held.contains(&blob), "{id} is in no mailbox");
    }
    let metrics = mailtee.metrics();
    assert_eq!(metrics.value("quarantined_records", &[]), 0.0);
    let gaps = metrics.value("captured_messages_total", &[("outcome", "gap")]);
    assert_eq!(gaps, 0.0);
    eprintln!("{} got OK, {} are held", promised.len(), held.len());
}

/// Clients that save, mailtee, the mail server.
fn chain() -> (Ledger, Mailtee, MailServer) {
    let server = MailServer::start(Kind::Dovecot, SESSIONS as u32);
    let mailtee = before("imap", server.imap()).append(JOURNAL).start();
    (Ledger::default(), mailtee, server)
}

/// Each client has a mailbox of its own.
fn clients<'l>(
    ledger: &'l Ledger,
    mailtee: &Mailtee,
    server: &MailServer,
) -> impl Fn(usize) + Sync + use<'l> {
    let front = mailtee.frontend;
    let users: Vec<_> = (1..=SESSIONS as u32).map(|n| server.user(n)).collect();
    move |number| client(ledger, front, &users[number])
}

#[test]
fn what_got_ok_through_a_killed_daemon_is_in_the_vault_once() {
    let mut rounds = Rounds::all();
    let (ledger, mut mailtee, server) = chain();
    let one = clients(&ledger, &mailtee, &server);
    ledger.under_load_of(one, || {
        rounds.kill(&mut mailtee, || ledger.acknowledged(), 40);
    });
    check(&ledger, &mailtee, &server);
}

/// The mail server is stopped and started again under its sessions: fewer rounds, each takes it a second.
#[test]
fn what_got_ok_of_a_server_that_restarts_is_in_the_vault_once() {
    let mut rounds = Rounds::some();
    let (ledger, mailtee, mut server) = chain();
    let one = clients(&ledger, &mailtee, &server);
    ledger.under_load_of(one, || {
        rounds.each(
            || ledger.acknowledged(),
            80,
            |_, _| {
                server.peer.stop();
                server.peer.start_again();
            },
        );
    });
    let front = [("frontend", "front")];
    wait_until(Duration::from_secs(30), "every session has ended", || {
        (mailtee.metrics().value("sessions", &front) == 0.0).then_some(())
    });
    check(&ledger, &mailtee, &server);
}
