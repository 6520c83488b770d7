//! kill -9 between clients that read mail and remove it, by POP3 and by IMAP, and the Dovecot that keeps it: what is gone from
//! there is in the vault once, byte for byte; what is not gone can still be read.
//!
//! Two clients say all at once, two wait for each answer. Rounds and seed: `kit::rounds`.

use std::{collections::BTreeSet, io, net::SocketAddr};

use crate::{
    kit::{
        ImapClient, Ledger, MailServer, Mailtee, Rounds, free_port,
        imap::Shown,
        ledger::{SESSIONS, mail},
        mailbox::Kind,
        rounds::{JOURNAL, to_come_to_rest},
        vault::blob_id,
    },
    mailbox_imap::before,
};

/// How a client reads and removes all that is in its mailbox.
#[derive(Clone, Copy, Debug)]
struct Habit {
    is_pop3: bool,
    /// All in one packet, which waits for nothing.
    is_hasty: bool,
}

impl Habit {
    fn of(number: usize) -> Self {
        Self {
            is_pop3: number.is_multiple_of(2),
            is_hasty: number % 4 < 2,
        }
    }

    /// Once: an error is a session that was cut off.
    fn session(self, front: SocketAddr, user: &(String, String)) -> io::Result<()> {
        let (mut client, greeting) = ImapClient::connect(front)?;
        if self.is_pop3 {
            taken(greeting.as_bytes())?;
            self.pop3(&mut client, user)
        } else {
            client.command(&format!("LOGIN {} {}", user.0, user.1))?;
            self.imap(&mut client)
        }
    }

    fn pop3(self, client: &mut ImapClient, (user, password): &(String, String)) -> io::Result<()> {
        for login in [format!("USER {user}"), format!("PASS {password}")] {
            asked(client, &login)?;
        }
        let stat = asked(client, "STAT")?;
        let count: u32 = number(&stat);
        let commands = (1..=count).map(|number| format!("RETR {number}\r\nDELE {number}\r\n"));
        if self.is_hasty {
            let all = commands.collect::<String>() + "QUIT\r\n";
            client.send(all.as_bytes())?;
            for _ in 0..count {
                taken(&client.line()?)?;
                read_to_dot(client)?;
                taken(&client.line()?)?;
            }
            return taken(&client.line()?).map(drop);
        }
        for number in 1..=count {
            asked(client, &format!("RETR {number}"))?;
            read_to_dot(client)?;
            asked(client, &format!("DELE {number}"))?;
        }
        asked(client, "QUIT").map(drop)
    }

    fn imap(self, client: &mut ImapClient) -> io::Result<()> {
        let selected = client.command("SELECT INBOX")?.text();
        let exists = selected.lines().find(|line| line.ends_with(" EXISTS"));
        if exists.is_none_or(|exists| exists == "* 0 EXISTS") {
            return Ok(());
        }
        if self.is_hasty {
            client.send(
                b"a FETCH 1:* BODY.PEEK[]\r\nb STORE 1:* +FLAGS.SILENT (\\Deleted)\r\nc EXPUNGE\r\n",
            )?;
            for tag in ["a", "b", "c"] {
                taken(client.finish(tag)?.tagged.as_bytes())?;
            }
            return Ok(());
        }
        for command in [
            "UID FETCH 1:* (UID FLAGS BODY.PEEK[])",
            "UID STORE 1:* +FLAGS (\\Deleted)",
            "CLOSE",
        ] {
            taken(client.command(command)?.tagged.as_bytes())?;
        }
        Ok(())
    }
}

/// A server or a proxy that stops may say no.
fn taken(reply: &[u8]) -> io::Result<String> {
    let reply = String::from_utf8_lossy(reply).into_owned();
    match reply.trim_start_matches('+').starts_with("OK") {
        true => Ok(reply),
        false => Err(io::Error::other(reply)),
    }
}

fn asked(client: &mut ImapClient, command: &str) -> io::Result<String> {
    client.send(format!("{command}\r\n").as_bytes())?;
    taken(&client.line()?)
}

fn number(stat: &str) -> u32 {
    let count = stat.split(' ').nth(1).and_then(|count| count.parse().ok());
    count.unwrap_or_else(|| panic!("{stat}"))
}

fn read_to_dot(client: &mut ImapClient) -> io::Result<()> {
    while client.line()? != b"." {}
    Ok(())
}

/// One client: gets mail, reads and removes it, for as long as it is let.
fn client(
    ledger: &Ledger,
    server: SocketAddr,
    front: SocketAddr,
    user: &(String, String),
    habit: Habit,
) {
    let mut direct = ImapClient::logged_in(server, user);
    for round in 0.. {
        let count = [1, 3, 1, 2][round % 4];
        let serials: Vec<_> = (0..count).map(|_| ledger.next()).collect();
        for &serial in &serials {
            let answer = direct.append("INBOX", "", &mail(serial).bytes);
            assert!(answer.expect("the server is there").is_ok());
        }
        let session = || habit.session(front, user).ok();
        if ledger
            .try_until_over("a session comes to its end", session)
            .is_none()
        {
            return;
        }
        serials
            .into_iter()
            .for_each(|serial| ledger.acknowledge(serial));
    }
}

/// The blob id of each message that the server still has, as it shows them and as they are shown through mailtee.
fn held(server: &MailServer, front: SocketAddr) -> BTreeSet<String> {
    let mut held = BTreeSet::new();
    for number in 1..=SESSIONS as u32 {
        let user = server.user(number);
        let mut through = ImapClient::logged_in(front, &user);
        through.ok("EXAMINE INBOX");
        let shown = through.all().expect("it shows its messages");
        let account = server.account(&user);
        let bytes = |messages: &[Shown]| -> Vec<Vec<u8>> {
            messages
                .iter()
                .map(|message| message.bytes.clone())
                .collect()
        };
        assert!(
            bytes(&shown) == bytes(&account["INBOX"]),
            "of user {number}"
        );
        for message in account.into_values().flatten() {
            assert!(held.insert(blob_id(&message.bytes)), "twice in the mailbox");
        }
    }
    held
}

fn check(ledger: &Ledger, mailtee: &Mailtee, server: &MailServer, imap: SocketAddr) {
    mailtee.wait_until_forwarded(to_come_to_rest());
    let vault = mailtee.vault();
    let copied: BTreeSet<_> = vault.each_once().into_keys().collect();
    vault.check_blob_files();
    let sent = ledger.sent();
    let held = held(server, imap);
    assert!(copied.is_subset(&sent), "something was never sent");
    assert!(held.is_subset(&sent), "nothing is changed in the mailbox");
    let gone: BTreeSet<_> = sent.difference(&held).cloned().collect();
    let removed = ledger.promised();
    assert!(removed.is_subset(&gone), "what was removed is gone");
    let lost = gone.difference(&copied).count();
    eprintln!(
        "{} sent, {} gone, {} copied, {lost} lost",
        sent.len(),
        gone.len(),
        copied.len()
    );
    assert_eq!(lost, 0, "of {} that are gone", gone.len());
    let metrics = mailtee.metrics();
    assert_eq!(metrics.value("quarantined_records", &[]), 0.0);
    for frontend in ["front", "imap"] {
        let labels = [("frontend", frontend), ("outcome", "gap")];
        assert_eq!(metrics.value("captured_messages_total", &labels), 0.0);
    }
}

#[test]
fn what_was_removed_through_a_killed_daemon_is_in_the_vault_once() {
    let mut rounds = Rounds::all();
    let server = MailServer::start(Kind::Dovecot, SESSIONS as u32);
    let imap = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let second = format!(
        "[[frontend]]\nname = \"imap\"\nprotocol = \"imap\"\nlisten = \"{imap}\"\nupstream = \"{}\"\n",
        server.imap()
    );
    let setting = before("pop3", server.pop3()).append(&second);
    let mut mailtee = setting.append(JOURNAL).start();
    let (ledger, pop3) = (Ledger::default(), mailtee.frontend);
    let one = |number: usize| {
        let habit = Habit::of(number);
        let front = if habit.is_pop3 { pop3 } else { imap };
        let user = server.user(number as u32 + 1);
        client(&ledger, server.imap(), front, &user, habit);
    };
    ledger.under_load_of(one, || {
        rounds.kill(&mut mailtee, || ledger.acknowledged(), 12);
    });
    check(&ledger, &mailtee, &server, imap);
}
