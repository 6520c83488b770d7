//! AUTH through a front end of role `proxy`, with clients and servers that nobody here wrote: swaks and smtplib before
//! it, Exim's own authenticators and Postfix with Dovecot behind. The dialogue passes, the name reaches the sighting,
//! the secret reaches nothing of ours.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use memchr::memmem;

use crate::kit::{Archive, Mailtee, Peer, Sink, SmtpClient, TestDir};

const USER: &str = "user0001@mailtee.test";
const PASSWORD: &str = "pass0001";
const WRONG: &str = "wrong-pass0002";

/// Every dialogue that smtplib knows, each followed by one message; the first one, after a wrong password.
const SMTPLIB: &str = r"
import smtplib, ssl, sys
address, trusted, user, password, wrong = sys.argv[1:]
host, port = address.rsplit(':', 1)
ways = [('PLAIN', True), ('PLAIN', False), ('LOGIN', True), ('LOGIN', False), ('CRAM-MD5', False)]
for mechanism, initial in ways:
    with smtplib.SMTP(host, int(port)) as smtp:
        smtp.starttls(context=ssl.create_default_context(cafile=trusted))
        smtp.ehlo()
        assert mechanism in smtp.esmtp_features['auth'].split(), smtp.esmtp_features
        how = {'PLAIN': smtp.auth_plain, 'LOGIN': smtp.auth_login, 'CRAM-MD5': smtp.auth_cram_md5}[mechanism]
        if (mechanism, initial) == ways[0]:
            smtp.user, smtp.password = 'somebody@mailtee.test', wrong
            try:
                smtp.auth(mechanism, how, initial_response_ok=initial)
                sys.exit('a wrong password was taken')
            except smtplib.SMTPAuthenticationError as refused:
                print(refused.smtp_code, refused.smtp_error.decode())
        smtp.user, smtp.password = user, password
        assert smtp.auth(mechanism, how, initial_response_ok=initial)[0] == 235
        text = f'Subject: smtplib {mechanism} {initial}\r\n\r\nbody\r\n'
        assert not smtp.sendmail(user, ['to@example.org'], text)
";

/// A server that takes mail after AUTH alone, and what else has to run for it.
struct Submission {
    server: Peer,
    /// Where it asks for AUTH.
    port: &'static str,
    log: &'static str,
    /// How its log names an authenticated client.
    logs_user: &'static str,
    _beside: Option<Peer>,
}

fn exim(sink: &Sink) -> Submission {
    Submission {
        server: Peer::set("exim")
            .env("NEXT_HOP", sink.address())
            .env("AUTH", format!("{USER}:{PASSWORD}"))
            .start(),
        port: "SMTP",
        log: "log/exim-mainlog",
        logs_user: "plain:user0001@mailtee.test",
        _beside: None,
    }
}

fn postfix(sink: &Sink, main: &str) -> Submission {
    let dovecot = Peer::set("dovecot").start();
    Submission {
        server: Peer::set("postfix")
            .env("NEXT_HOP", sink.address())
            .env("SASL_DOVECOT", dovecot.var("AUTH"))
            .env("EXTRA_MAIN", main)
            .start(),
        port: "SUBMISSION",
        log: "log/maillog",
        logs_user: "sasl_username=user0001@mailtee.test",
        _beside: Some(dovecot),
    }
}

/// Clients → STARTTLS → mailtee → that server, with these keys for the second leg.
fn passes(sink: &Sink, submission: &Submission, second_leg: &[(&str, String)]) {
    let dir = TestDir::new();
    let made = mailtee::net::self_signed(&["127.0.0.1"], dir.path()).unwrap();
    let mut setting = Mailtee::filter(submission.server.address(submission.port))
        .append("[log]\nlevel = \"info,mailtee=trace\"")
        .option("role", "\"proxy\"")
        .option("tls", "\"starttls\"")
        .option("certificate", format!("{:?}", made.files.certificate))
        .option("key", format!("{:?}", made.files.key));
    for (key, value) in second_leg {
        setting = setting.option(key, format!("{value:?}"));
    }
    let mailtee = setting.start();

    // it does ask for AUTH
    let mut stranger = SmtpClient::greeted(mailtee.frontend).unwrap();
    stranger.command("MAIL FROM:<a@example.org>").unwrap();
    let reply = stranger.command("RCPT TO:<to@example.org>").unwrap();
    assert_eq!(reply.code / 100, 5, "{}", reply.text());

    let mut sent = Vec::new();
    for mechanism in ["PLAIN", "LOGIN", "CRAM-MD5"] {
        let (ended, said) = swaks(&mailtee, mechanism, PASSWORD);
        assert!(ended && said.contains("235 "), "{mechanism}: {said}");
        sent.push(format!("swaks {mechanism}"));

        let (ended, said) = swaks(&mailtee, mechanism, WRONG);
        assert!(!ended && said.contains("535 "), "{mechanism}: {said}");
    }

    let output = Command::new("python3")
        .args(["-c", SMTPLIB, &mailtee.frontend.to_string()])
        .arg(&made.files.certificate)
        .args([USER, PASSWORD, WRONG])
        .output()
        .expect("Python is installed");
    let refused = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(refused.starts_with("535 "), "{refused}");
    for way in [
        "PLAIN True",
        "PLAIN False",
        "LOGIN True",
        "LOGIN False",
        "CRAM-MD5 False",
    ] {
        sent.push(format!("smtplib {way}"));
    }

    sink.wait_for(sent.len());
    mailtee.wait_until_forwarded(Duration::from_secs(30));
    let archive = Archive::read(&mailtee);
    assert_eq!(archive.copies.len(), sent.len());
    for subject in &sent {
        let line = format!("Subject: {subject}\r\n");
        let with = |bytes: &[u8]| memmem::find(bytes, line.as_bytes()).is_some();
        let mut found = archive.copies.iter().filter(|copy| with(&copy.bytes));
        let copy = found
            .next()
            .unwrap_or_else(|| panic!("no copy of {subject}"));
        assert!(found.next().is_none(), "{subject}: one copy");
        assert_eq!(copy.sightings.len(), 1, "{subject}");
        let client = copy.sightings[0].client();
        assert!(client.tls.is_some(), "{subject}");
        let login = client.login.as_ref().map(ToString::to_string);
        assert_eq!(login.as_deref(), Some(USER), "{subject}");
    }
    let log = submission.server.file(submission.log);
    assert!(log.contains(submission.logs_user), "{log}");
    keeps_no_secret(mailtee.dir());
}

/// Sends one message with swaks: did it end well, and the dialogue.
fn swaks(mailtee: &Mailtee, mechanism: &str, password: &str) -> (bool, String) {
    let output = Command::new("swaks")
        .args(["--server", &mailtee.frontend.to_string(), "--tls"])
        .args(["--from", USER, "--to", "to@example.org"])
        .args(["--auth", mechanism, "--auth-user", USER])
        .args(["--auth-password", password])
        .args(["--header", &format!("Subject: swaks {mechanism}")])
        .output()
        .expect("swaks is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), said)
}

/// Journal, vault, dedup map and a log of everything hold the name, and the secret in no form that crossed the wire.
fn keeps_no_secret(dir: &Path) {
    let mut secrets = Vec::new();
    for password in [PASSWORD, WRONG] {
        let plain =
            |identity: &str, user: &str| STANDARD.encode(format!("{identity}\0{user}\0{password}"));
        secrets.extend([
            password.to_owned(),
            STANDARD.encode(password),
            plain("", USER),
            plain(USER, USER),
            plain("", "somebody@mailtee.test"),
        ]);
    }
    hold_none_of(dir, &secrets, USER);
}

/// No file below `dir` has one of these in it, and more than one has the name.
#[track_caller]
pub(crate) fn hold_none_of(dir: &Path, secrets: &[String], name: &str) {
    let mut named = 0;
    for file in files(dir) {
        let bytes = fs::read(&file).expect("a file of ours");
        for secret in secrets {
            let found = memmem::find(&bytes, secret.as_bytes());
            assert!(found.is_none(), "{secret} in {}", file.display());
        }
        named += usize::from(memmem::find(&bytes, name.as_bytes()).is_some());
    }
    assert!(named > 1, "what is searched is what was written");
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory of ours");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .filter(|path| path.is_file())
        .collect()
}

#[test]
fn auth_passes_to_exim() {
    let sink = Sink::start();
    passes(&sink, &exim(&sink), &[]);
}

#[test]
fn auth_passes_to_postfix_with_dovecot() {
    let sink = Sink::start();
    passes(&sink, &postfix(&sink, ""), &[]);
}

/// As submission servers are: AUTH is offered under TLS alone, so both legs speak it.
#[test]
fn auth_passes_to_postfix_that_offers_it_under_tls_alone() {
    let sink = Sink::start();
    let submission = postfix(&sink, "smtpd_tls_auth_only = yes");
    let authority = submission.server.var("CA").to_owned();
    let second_leg = [
        ("upstream_tls", "starttls".to_owned()),
        ("upstream_ca_file", authority),
    ];
    let plain = SmtpClient::greeted(submission.server.address(submission.port));
    let offered = plain.unwrap().command("EHLO plain.mailtee.test").unwrap();
    assert!(!offered.offers("AUTH"), "{}", offered.text());
    passes(&sink, &submission, &second_leg);
}
