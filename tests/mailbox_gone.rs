//! A client that vanishes without a word, behind a network that drops what is said to it: the session ends all the same.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    kit::{MailServer, Mailtee, mailbox::Kind, wait_until},
    mailbox_imap::before,
    mailbox_stuck::errors,
};

/// Keepalive: 60 s of silence, then three questions 20 s apart; and a little.
const NOTICED: Duration = Duration::from_secs(150);

const CLIENT: &str = r#"
import socket, sys
host, port, user, password = sys.argv[1:5]
stream = socket.create_connection((host, int(port)), timeout=60).makefile("rwb")
stream.write(f"a LOGIN {user} {password}\r\nb SELECT INBOX\r\nc IDLE\r\n".encode())
stream.flush()
while not stream.readline().startswith(b"+"):
    pass
print("idles", flush=True)
sys.stdin.read()
"#;

/// A network namespace with one client in it, and a cable to it.
struct Elsewhere {
    name: String,
    here: String,
    there: String,
    client: Option<Child>,
}

fn ip(arguments: &str) -> bool {
    let arguments = arguments.split(' ');
    let status = Command::new("ip").args(arguments).status();
    status.expect("ip, of the package iproute2").success()
}

impl Elsewhere {
    /// A name and a network of its own, so that tests can run beside each other.
    fn new() -> Self {
        let pid = std::process::id();
        let [_, _, high, low] = pid.to_be_bytes();
        let this = Self {
            name: format!("mailtee-{pid}"),
            here: format!("10.{}.{low}.1", 100 + high % 100),
            there: format!("10.{}.{low}.2", 100 + high % 100),
            client: None,
        };
        let (name, here, there) = (&this.name, &this.here, &this.there);
        for step in [
            format!("netns add {name}"),
            format!("link add mt{pid} type veth peer name tee0 netns {name}"),
            format!("addr add {here}/30 dev mt{pid}"),
            format!("link set mt{pid} up"),
            format!("-n {name} addr add {there}/30 dev tee0"),
            format!("-n {name} link set tee0 up"),
        ] {
            assert!(ip(&step), "ip {step}");
        }
        this
    }

    fn idles(&mut self, mailtee: &Mailtee, (user, password): &(String, String)) {
        let port = mailtee.frontend.port().to_string();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.name, "python3", "-c", CLIENT])
            .args([&self.here, &port, user, password])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let child = self.client.insert(child.expect("a client"));
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line, "idles\n");
    }

    /// Has it acknowledged all that mailtee has said to it?
    fn has_heard_all(&self) -> bool {
        let filter = ["-Htn", "state", "established", "dst", &self.there];
        let told = Command::new("ss").args(filter).output();
        let told = told.expect("ss, of the package iproute2").stdout;
        let told = String::from_utf8_lossy(&told);
        let mut columns = told.split_whitespace();
        columns.nth(1) == Some("0")
    }

    /// What is sent there comes to nothing from here on.
    fn vanish(&self) {
        assert!(ip(&format!("-n {} link set tee0 down", self.name)));
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        if let Some(mut client) = self.client.take() {
            let _ = client.kill();
            let _ = client.wait();
        }
        ip(&format!("netns del {}", self.name));
    }
}

#[test]
fn a_client_that_vanishes_is_noticed_in_two_minutes() {
    // it says nothing meanwhile: what is in flight is sent again and again first, for a quarter of an hour
    let setting = Kind::Dovecot.with_users(1);
    let setting = setting.env("EXTRA_CONF", "imap_idle_notify_interval = 1 hour");
    let server = MailServer::over(Kind::Dovecot, setting);
    let mut elsewhere = Elsewhere::new();
    let mut mailtee = before("imap", server.imap()).prepare();
    let text = fs::read_to_string(mailtee.config()).expect("the configuration");
    let listen = format!("listen = \"{}\"", mailtee.frontend);
    let everywhere = format!("listen = \"0.0.0.0:{}\"", mailtee.frontend.port());
    fs::write(mailtee.config(), text.replace(&listen, &everywhere)).expect("written");
    mailtee.start();
    elsewhere.idles(&mailtee, &server.user(1));
    wait_until(NOTICED, "nothing is in flight", || {
        elsewhere.has_heard_all().then_some(())
    });
    elsewhere.vanish();
    let front = [("frontend", "front")];
    assert_eq!(mailtee.metrics().value("sessions", &front), 1.0);
    let since = Instant::now();
    wait_until(NOTICED, "the session has ended", || {
        (mailtee.metrics().value("sessions", &front) == 0.0).then_some(())
    });
    assert_eq!(errors(&mailtee, "client_lost"), 1.0);
    eprintln!("noticed after {:?}", since.elapsed());
}
