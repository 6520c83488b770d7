//! Five thousand IMAP sessions in IDLE through one front end, each with a session of its own at a real Dovecot, whose
//! processes hold many of them (`client_limit`): one each would want more inotify instances than a user has.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    kit::{ImapClient, Mail, MailServer, mailbox::Kind, wait_until},
    mailbox_imap::{archive, before},
};

const SESSIONS: u32 = 5000;
/// So many come at once.
const WAVE: usize = 100;
/// Every so many-th user gets mail.
const LUCKY: usize = 100;
/// What the daemon may hold for a session in IDLE, in KiB, in a build that is not optimized: 14 were measured.
const SESSION_KIB: u64 = 32;

const CROWD: &str = "service imap {\n  service_count = 0\n  client_limit = 500\n  process_limit = 16\n  \
                     process_min_avail = 4\n}\n";

/// A session in IDLE, and the tag of its command.
struct Idle {
    client: ImapClient,
    tag: String,
    user: (String, String),
}

impl Idle {
    /// Says all of it without waiting; the answers are heard by `idles`.
    fn begin(front: std::net::SocketAddr, user: (String, String)) -> (Self, [String; 2]) {
        let (mut client, greeting) = ImapClient::connect(front).expect("it greets");
        assert!(greeting.starts_with("* OK"), "{greeting}");
        let login = format!("LOGIN {} {}\r\n", user.0, user.1);
        let mut begin = |line: &str| client.begin(line.as_bytes()).expect("it listens");
        let before = [begin(&login), begin("SELECT INBOX\r\n")];
        let tag = begin("IDLE\r\n");
        (Self { client, tag, user }, before)
    }

    fn idles(&mut self, before: [String; 2]) {
        for tag in before {
            let answer = self.client.finish(&tag).expect("an answer");
            assert!(answer.is_ok(), "{}", answer.tagged);
        }
        let leave = self.client.line().expect("a continuation");
        assert!(leave.starts_with(b"+"), "{}", leave.escape_ascii());
    }

    fn hears_of_mail(&mut self) {
        while !self.client.line().expect("news").ends_with(b" EXISTS") {}
    }

    fn done(&mut self) {
        self.client.send(b"DONE\r\n").expect("it listens");
        let answer = self.client.finish(&self.tag).expect("an answer");
        assert!(answer.is_ok(), "{}", answer.tagged);
    }
}

/// The kit's clients take a descriptor each.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("as many as there may be");
}

#[test]
fn five_thousand_sessions_in_idle_and_the_one_too_many() {
    raise_descriptors();
    let setting = Kind::Dovecot.with_users(SESSIONS + 1);
    let setting = setting.env("MAX_SESSIONS", SESSIONS + 1000);
    let server = MailServer::over(Kind::Dovecot, setting.env("EXTRA_CONF", CROWD));
    let mailtee = before("imap", server.imap())
        .option("sessions_max", SESSIONS)
        .option("sessions_per_address_max", SESSIONS)
        .start();
    let empty = mailtee.memory("VmRSS");

    let users: Vec<_> = (1..=SESSIONS).map(|number| server.user(number)).collect();
    let mut sessions = Vec::with_capacity(users.len());
    for wave in users.chunks(WAVE) {
        let begun = wave.iter().cloned();
        let begun: Vec<_> = begun
            .map(|user| Idle::begin(mailtee.frontend, user))
            .collect();
        for (mut session, before) in begun {
            session.idles(before);
            sessions.push(session);
        }
    }
    let front = [("frontend", "front")];
    let open = mailtee.metrics().value("sessions", &front);
    assert_eq!(open, f64::from(SESSIONS));
    let grown = mailtee.memory("VmRSS").saturating_sub(empty);
    eprintln!("{} KiB a session", grown as f64 / f64::from(SESSIONS));
    assert!(grown < SESSION_KIB * u64::from(SESSIONS), "{grown} KiB");

    let (mut refused, bye) = ImapClient::connect(mailtee.frontend).expect("a last word");
    assert!(
        bye.starts_with("* BYE [UNAVAILABLE] mailtee: too many"),
        "{bye}"
    );
    assert!(refused.rest().expect("the end").is_empty());
    let reason = [("frontend", "front"), ("reason", "too_many_sessions")];
    assert_eq!(
        mailtee.metrics().value("session_errors_total", &reason),
        1.0
    );

    let mail = |number: usize| Mail::plain(number as u64).bytes;
    for (number, session) in sessions.iter().enumerate().step_by(LUCKY) {
        let mut direct = ImapClient::logged_in(server.imap(), &session.user);
        let answer = direct
            .append("INBOX", "", &mail(number))
            .expect("an answer");
        assert!(answer.is_ok(), "{}", answer.tagged);
    }
    for (number, session) in sessions.iter_mut().enumerate().step_by(LUCKY) {
        session.hears_of_mail();
        session.done();
        let shown = session.client.all().expect("it shows them");
        assert!(shown.len() == 1 && shown[0].bytes == mail(number));
        session.tag = session.client.begin(b"IDLE\r\n").expect("it listens");
        session.client.line().expect("a continuation");
    }
    let kind = [("frontend", "front"), ("kind", "arrival")];
    let arrivals = mailtee.metrics().value("mailbox_signals_total", &kind);
    assert!(arrivals >= (sessions.len() / LUCKY) as f64, "{arrivals}");

    // nobody else was the worse for it
    sessions.iter_mut().for_each(Idle::done);
    drop(sessions);
    wait_until(Duration::from_secs(60), "all have ended", || {
        (mailtee.metrics().value("sessions", &front) == 0.0).then_some(())
    });
    ImapClient::logged_in(mailtee.frontend, &server.user(SESSIONS + 1)).ok("SELECT INBOX");
    let archive = archive(&mailtee);
    assert_eq!(archive.copies.len(), users.len().div_ceil(LUCKY));
    for number in (0..users.len()).step_by(LUCKY) {
        archive.one_with(&mail(number), "what arrived");
    }
}
