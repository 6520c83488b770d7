//! SMTP implementations that nobody here wrote, as client and as next hop: Postfix, Exim, OpenSMTPD, Sendmail, swaks,
//! Python's smtplib and aiosmtpd. What passes has one copy, to the byte; what is refused has none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::kit::{Archive, Mail, Mailtee, Peer, Sink, SmtpClient, TestDir, free_port, wait_until};

const MESSAGES: u64 = 48;

fn varied() -> Vec<Mail> {
    (0..MESSAGES)
        .map(|serial| Mail::varied(7, serial))
        .collect()
}

/// Sends each on a connection of its own, as far as the server takes it; gives those that it took.
fn sent_to(server: SocketAddr, mails: Vec<Mail>) -> Vec<Mail> {
    let taken: Vec<_> = mails
        .into_iter()
        .filter(|mail| {
            let mut client = SmtpClient::greeted(server).expect("it greets");
            let reply = client.mail(mail).expect("it answers");
            assert!(
                reply.is_success() || reply.code / 100 == 5,
                "{}: {}",
                mail.kind,
                reply.text()
            );
            let taken = reply.is_success();
            assert_eq!(client.quit().expect("it answers").code, 221);
            taken
        })
        .collect();
    assert!(
        taken.len() as u64 > MESSAGES / 2,
        "it took {} of {MESSAGES}",
        taken.len()
    );
    taken
}

/// Client → mailtee → that server → sink: what it took has one copy, to the byte; what it refused has none.
fn as_next_hop(name: &'static str) {
    let sink = Sink::start();
    let server = Peer::set(name).env("NEXT_HOP", sink.address()).start();
    let mailtee = Mailtee::filter(server.address("SMTP")).start();
    let taken = sent_to(mailtee.frontend, varied());
    mailtee.wait_until_forwarded(Duration::from_secs(30));
    let archive = Archive::read(&mailtee);
    let captured: BTreeSet<_> = archive
        .copies
        .iter()
        .map(|copy| copy.bytes.as_slice())
        .collect();
    let sent: BTreeSet<_> = taken.iter().map(|mail| mail.bytes.as_slice()).collect();
    assert!(
        captured == sent,
        "the vault holds, byte for byte, what {name} took"
    );
    for mail in &taken {
        let copy = archive.one_with(&mail.bytes, mail.kind);
        let named: BTreeSet<_> = mail.recipients.iter().cloned().collect();
        assert_eq!(copy.recipients(), named, "{}", mail.kind);
        assert_eq!(copy.sightings.len(), 1);
        assert!(copy.replies()[0].starts_with("250"), "{:?}", copy.replies());
    }
    // It really is the server that we talked to.
    sink.wait_for(1);
}

/// Client → that server → mailtee → sink: what arrived is what the vault holds, to the byte.
fn as_client(name: &'static str) {
    let sink = Sink::start();
    let mailtee = Mailtee::filter(sink.address()).start();
    let server = Peer::set(name).env("NEXT_HOP", mailtee.frontend).start();
    let taken = sent_to(server.address("SMTP"), varied());
    wait_until(
        Duration::from_secs(90),
        "the server has sent everything on",
        || {
            let arrived = sink.received();
            let all = taken
                .iter()
                .all(|mail| arrived.iter().any(|got| contains(&got.bytes, &tail(mail))));
            all.then_some(())
        },
    );
    mailtee.wait_until_forwarded(Duration::from_secs(30));
    let archive = Archive::read(&mailtee);
    let captured: BTreeSet<_> = archive
        .copies
        .iter()
        .map(|copy| copy.bytes.as_slice())
        .collect();
    let arrived = sink.received();
    let received: BTreeSet<_> = arrived.iter().map(|got| got.bytes.as_slice()).collect();
    assert!(
        captured == received,
        "the vault holds, byte for byte, what came from {name}"
    );
    assert_eq!(captured.len(), archive.copies.len());

    // Each transaction is a sighting, and its envelope is the one that the sink heard.
    let mut heard = BTreeMap::<&[u8], BTreeSet<String>>::new();
    for got in &arrived {
        let address =
            |line: &String| line[line.find('<').unwrap() + 1..line.rfind('>').unwrap()].to_owned();
        heard
            .entry(&got.bytes)
            .or_default()
            .extend(got.recipients.iter().map(address));
    }
    for copy in &archive.copies {
        assert_eq!(copy.recipients(), heard[copy.bytes.as_slice()]);
        for sighted in &copy.sightings {
            assert_eq!(sighted.client().address, Some("127.0.0.1".into()));
            assert!(sighted.client().helo.is_some());
        }
    }
    let sightings: usize = archive.copies.iter().map(|copy| copy.sightings.len()).sum();
    assert_eq!(sightings, arrived.len());
}

/// What no server changes: the end of the body (some trim blank lines, and 8-bit text may be encoded).
fn tail(mail: &Mail) -> Vec<u8> {
    let subject = mail
        .bytes
        .split(|byte| *byte == b'\n')
        .find(|line| line.starts_with(b"Subject:"));
    subject
        .unwrap_or(mail.bytes.trim_ascii_end())
        .trim_ascii_end()
        .to_vec()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}

#[test]
fn exim_as_next_hop() {
    as_next_hop("exim");
}

#[test]
fn exim_as_client() {
    as_client("exim");
}

#[test]
fn opensmtpd_as_next_hop() {
    as_next_hop("opensmtpd");
}

#[test]
fn opensmtpd_as_client() {
    as_client("opensmtpd");
}

#[test]
fn sendmail_as_next_hop() {
    as_next_hop("sendmail");
}

#[test]
fn sendmail_as_client() {
    as_client("sendmail");
}

#[test]
fn postfix_as_next_hop() {
    as_next_hop("postfix");
}

#[test]
fn postfix_as_client() {
    as_client("postfix");
}

#[test]
fn swaks_sends_through() {
    let sink = Sink::start();
    let mailtee = Mailtee::filter(sink.address()).start();
    for (serial, options) in [
        ["--pipeline", "--silent"].as_slice(),
        &["--attach-body", "ein Gruß", "--silent"],
        &[
            "--to",
            "a@example.org,b@example.org",
            "--add-header",
            "X-Extra: 1",
        ],
    ]
    .iter()
    .enumerate()
    {
        let output = Command::new("swaks")
            .args([
                "--server",
                &mailtee.frontend.to_string(),
                "--from",
                "swaks@mailtee.test",
            ])
            .args([
                "--to",
                "to@example.org",
                "--header",
                &format!("Subject: swaks {serial}"),
            ])
            .args(*options)
            .output()
            .expect("swaks is installed");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    every_arrival_has_its_copy(&sink, &mailtee, 3);
}

#[test]
fn swaks_sends_through_starttls_and_implicit_tls() {
    let dir = TestDir::new();
    let made = mailtee::net::self_signed(&["127.0.0.1"], dir.path()).unwrap();
    for (kind, option) in [("starttls", "--tls"), ("implicit", "--tls-on-connect")] {
        let sink = Sink::start();
        let mailtee = Mailtee::filter(sink.address())
            .option("role", "\"proxy\"")
            .option("tls", format!("{kind:?}"))
            .option("certificate", format!("{:?}", made.files.certificate))
            .option("key", format!("{:?}", made.files.key))
            .start();
        let output = Command::new("swaks")
            .args([
                "--server",
                &mailtee.frontend.to_string(),
                "--from",
                "swaks@mailtee.test",
            ])
            .args(["--to", "to@example.org", option])
            .output()
            .expect("swaks is installed");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        let archive = every_arrival_has_its_copy(&sink, &mailtee, 1);
        let tls = archive.copies[0].sightings[0].client().tls.clone();
        assert!(
            tls.is_some_and(|tls| tls.version.starts_with("TLSv1.")),
            "{kind}"
        );
    }
}

/// Sends each file named on the command line with smtplib, all in one session.
const SMTPLIB: &str = r"
import json, smtplib, sys
host, port = sys.argv[1].rsplit(':', 1)
with smtplib.SMTP(host, int(port)) as smtp:
    smtp.ehlo('python.mailtee.test')
    for name in sys.argv[2:]:
        mail = json.load(open(name + '.json'))
        options = ['BODY=8BITMIME', 'SMTPUTF8'] if mail['utf8'] else []
        refused = smtp.sendmail(mail['sender'], mail['recipients'], open(name, 'rb').read(), options)
        assert not refused, refused
    code, _ = smtp.rset()
    assert code == 250
    code, _ = smtp.verify('someone')
    assert code in (250, 252), code
";

#[test]
fn smtplib_sends_through() {
    let sink = Sink::start();
    let mailtee = Mailtee::filter(sink.address()).start();
    let dir = TestDir::new();
    let mails = varied();
    let mut names = Vec::new();
    for (serial, mail) in mails.iter().enumerate() {
        let name = dir.join(format!("{serial}.eml"));
        fs::write(&name, &mail.bytes).unwrap();
        let envelope = serde_json::json!({
            "sender": mail.sender, "recipients": mail.recipients, "utf8": !mail.bytes.is_ascii() || mail.needs_smtputf8(),
        });
        fs::write(dir.join(format!("{serial}.eml.json")), envelope.to_string()).unwrap();
        names.push(name);
    }
    let output = Command::new(python())
        .args(["-c", SMTPLIB, &mailtee.frontend.to_string()])
        .args(&names)
        .output()
        .expect("Python is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let archive = every_arrival_has_its_copy(&sink, &mailtee, mails.len());
    for mail in &mails {
        archive.one_with(&mail.bytes, mail.kind);
    }
}

/// A server that writes each message into a directory, its envelope beside it.
const AIOSMTPD: &str = r"
import asyncio, json, os, sys
from aiosmtpd.smtp import SMTP
class Keep:
    count = 0
    async def handle_DATA(self, server, session, envelope):
        name = os.path.join(sys.argv[2], str(Keep.count)); Keep.count += 1
        with open(name + '.json', 'w') as out:
            json.dump([envelope.mail_from, envelope.rcpt_tos], out)
        with open(name + '.new', 'wb') as out:
            out.write(envelope.original_content)
        os.rename(name + '.new', name + '.eml')
        return '250 2.0.0 kept as ' + str(Keep.count)
async def main():
    loop = asyncio.get_running_loop()
    make = lambda: SMTP(Keep(), enable_SMTPUTF8=True, ident='aiosmtpd')
    server = await loop.create_server(make, '127.0.0.1', int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
";

#[test]
fn aiosmtpd_as_next_hop() {
    let dir = TestDir::new();
    let port = free_port();
    let child = Command::new(python())
        .args(["-c", AIOSMTPD, &port.to_string()])
        .arg(dir.path())
        .stdin(Stdio::null())
        .spawn()
        .expect("Python is installed");
    let _ended = Ended(child);
    let server = SocketAddr::from(([127, 0, 0, 1], port));
    wait_until(Duration::from_secs(20), "aiosmtpd listens", || {
        SmtpClient::greeted(server).ok().map(drop)
    });

    let mailtee = Mailtee::filter(server).start();
    let taken = sent_to(mailtee.frontend, varied());
    mailtee.wait_until_forwarded(Duration::from_secs(30));
    let archive = Archive::read(&mailtee);
    let captured: BTreeSet<_> = archive
        .copies
        .iter()
        .map(|copy| copy.bytes.clone())
        .collect();
    let kept: BTreeSet<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "eml"))
        .map(|path| fs::read(path).unwrap())
        .collect();
    let sent: BTreeSet<_> = taken.iter().map(|mail| mail.bytes.clone()).collect();
    assert!(kept == sent, "aiosmtpd got what was sent");
    assert!(captured == sent, "and so did the vault");
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The interpreter that has aiosmtpd and dkimpy: `tests/run` makes it.
pub(crate) fn python() -> PathBuf {
    let venv = std::env::var_os("MAILTEE_VENV")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
            target
                .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"))
                .join("venv")
        });
    let python = venv.join("bin/python");
    assert!(
        python.exists(),
        "{} is missing: tests/run makes it",
        python.display()
    );
    python
}

fn every_arrival_has_its_copy(sink: &Sink, mailtee: &Mailtee, count: usize) -> Archive {
    let arrived = sink.wait_for(count);
    mailtee.wait_until_forwarded(Duration::from_secs(30));
    let archive = Archive::read(mailtee);
    let captured: BTreeSet<_> = archive
        .copies
        .iter()
        .map(|copy| copy.bytes.as_slice())
        .collect();
    let received: BTreeSet<_> = arrived.iter().map(|got| got.bytes.as_slice()).collect();
    assert!(captured == received);
    assert_eq!(archive.copies.len(), count);
    archive
}
