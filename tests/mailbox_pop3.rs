//! POP3 clients that nobody here wrote, each doing its whole work directly and through the proxy: what they report, what is
//! left in the account and what they hold is the same both ways, and each message that passed is in the vault, once.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use crate::{
    kit::{ImapClient, Mail, MailServer, Mailtee, TestDir, daemon, mailbox::Kind, wait_until},
    mailbox_imap::before,
    mailbox_rig::{Tls, Way, has_plain_header},
};

/// So many messages are in each account before the work begins.
const SEEDED: u64 = 40;

/// mailtee before a server, and two accounts in it that begin alike; both legs are secured alike.
struct Rig {
    kind: Kind,
    server: MailServer,
    mailtee: Mailtee,
    tls: Tls,
}

fn quoted(path: PathBuf) -> String {
    format!("{path:?}")
}

impl Rig {
    fn before(kind: Kind, tls: Tls) -> Self {
        let server = MailServer::start(kind, 2);
        let file = |name: &str| quoted(server.peer.dir().join("tls").join(name));
        let secured = |setting: daemon::Setting, mode: &str, upstream_mode: &str| {
            setting
                .option("tls", format!("\"{mode}\""))
                .option("certificate", file("fullchain.pem"))
                .option("key", file("key.pem"))
                .option("upstream_tls", format!("\"{upstream_mode}\""))
                .option("upstream_tls_name", "\"localhost\"")
                .option("upstream_ca_file", file("ca.pem"))
        };
        let mailtee = match tls {
            Tls::None => before("pop3", server.pop3()),
            Tls::Start => secured(before("pop3", server.pop3()), "starttls", "starttls"),
            Tls::Implicit => {
                let upstream = server.peer.address("POP3S");
                secured(before("pop3", upstream), "implicit", "implicit")
            }
        };
        Self {
            kind,
            mailtee: mailtee.start(),
            server,
            tls,
        }
    }

    fn way(&self, name: &'static str, number: u32, address: SocketAddr) -> Way {
        let ca = self.server.peer.dir().join("tls/ca.pem");
        Way::new(name, address, self.server.user(number), self.tls, ca)
    }

    /// The same mail in the same order; gives it as the server keeps it.
    fn seed(&self, number: u32) -> Vec<Vec<u8>> {
        let user = self.server.user(number);
        let mut client = ImapClient::logged_in(self.server.imap(), &user);
        for serial in 0..SEEDED {
            let mail = match serial {
                7 => Mail::sized(serial, 600_000),
                _ => Mail::varied(47, serial),
            };
            // Courier shows those to a client without UTF8 wrapped, each time in other words
            let mail = match self.kind {
                Kind::Courier if !has_plain_header(&mail.bytes) => Mail::plain(serial),
                _ => mail,
            };
            let answer = client.append("INBOX", "", &mail.bytes).expect("it answers");
            assert!(answer.is_ok(), "{}: {}", mail.kind, answer.tagged);
        }
        drop(client);
        self.inbox(number)
    }

    /// The second account becomes the first, file by file.
    fn copy_files(&self) {
        let maildir = |number| {
            let home = Path::new(self.server.peer.var("MAIL")).join(self.server.user(number).0);
            home.join("Maildir")
        };
        fs::remove_dir_all(maildir(2)).expect("an account");
        let copied = Command::new("cp")
            .arg("-a")
            .args([maildir(1), maildir(2)])
            .status();
        assert!(copied.expect("cp").success());
    }

    fn inbox(&self, number: u32) -> Vec<Vec<u8>> {
        let account = self.server.account(&self.server.user(number));
        let inbox = account["INBOX"].iter();
        inbox.map(|message| message.bytes.clone()).collect()
    }

    /// Seeds both accounts, does the work both ways, and holds what came of it against each other and against the vault.
    #[track_caller]
    fn same<T: PartialEq + std::fmt::Debug>(&self, work: impl Fn(&Way) -> T) {
        let seeded = self.seed(1);
        match self.kind {
            // it numbers messages by their files' names, which tell the time
            Kind::Courier => self.copy_files(),
            Kind::Dovecot | Kind::Cyrus => assert!(self.seed(2) == seeded),
        }
        let direct = match self.tls {
            Tls::None | Tls::Start => self.server.pop3(),
            Tls::Implicit => self.server.peer.address("POP3S"),
        };
        let direct = work(&self.way("directly", 1, direct));
        let through = work(&self.way("through", 2, self.mailtee.frontend));
        assert!(direct == through, "{direct:#?}\n{through:#?}");
        // Courier removes what was deleted once it has said goodbye
        wait_until(Duration::from_secs(20), "the accounts are the same", || {
            (self.inbox(1) == self.inbox(2)).then_some(())
        });
        self.assert_copied(&seeded);
    }

    /// In whose INBOX each copy was seen.
    fn accounts(&self) -> Vec<String> {
        let sightings = self.mailtee.vault().sightings();
        let accounts = sightings.iter().map(|sighting| {
            let placement = &sighting["sighting"]["origin"]["placement"];
            assert_eq!(placement["folder"], "INBOX", "{sighting}");
            placement["account"].as_str().expect("a name").to_owned()
        });
        accounts.collect()
    }

    /// Each of these is in the vault once, and nothing else is; the watcher has not lost track.
    #[track_caller]
    fn assert_copied(&self, messages: &[Vec<u8>]) {
        self.mailtee.wait_until_forwarded(Duration::from_secs(60));
        let stored = self.mailtee.vault().all();
        let copies: BTreeSet<_> = stored.iter().map(|stored| &stored.bytes).collect();
        assert_eq!(copies.len(), stored.len(), "something is there twice");
        let messages: BTreeSet<_> = messages.iter().collect();
        let text = |bytes: &Vec<u8>| bytes[..bytes.len().min(300)].escape_ascii().to_string();
        let missing: Vec<_> = messages.difference(&copies).map(|m| text(m)).collect();
        let strange: Vec<_> = copies.difference(&messages).map(|m| text(m)).collect();
        assert!(
            missing.is_empty() && strange.is_empty(),
            "missing: {missing:#?}\nstrange: {strange:#?}"
        );
        let metrics = self.mailtee.metrics();
        let lost = metrics.0.lines().filter(|line| {
            line.starts_with("mailtee_watcher_lost_total{") && !line.ends_with(" 0")
        });
        assert_eq!(lost.collect::<Vec<_>>(), Vec::<&str>::new());
    }
}

fn poplib(way: &Way) -> String {
    let ca = way.ca.display().to_string();
    let mut arguments = vec![way.user.0.as_str(), &way.user.1];
    match way.tls {
        Tls::None => {}
        Tls::Start => arguments.extend(["stls", &ca]),
        Tls::Implicit => arguments.extend(["implicit", &ca]),
    }
    way.script("pop3_work.py", &arguments)
}

#[test]
fn poplib_before_dovecot() {
    Rig::before(Kind::Dovecot, Tls::None).same(poplib);
}

#[test]
fn poplib_before_cyrus() {
    Rig::before(Kind::Cyrus, Tls::None).same(poplib);
}

#[test]
fn poplib_before_courier() {
    Rig::before(Kind::Courier, Tls::None).same(poplib);
}

#[test]
fn poplib_with_stls_on_both_legs() {
    Rig::before(Kind::Dovecot, Tls::Start).same(poplib);
}

#[test]
fn poplib_with_tls_from_the_first_byte_on_both_legs() {
    Rig::before(Kind::Dovecot, Tls::Implicit).same(poplib);
}

/// curl says one command a run: it lists, reads each message, looks at the head of one, deletes one.
fn curl(way: &Way) -> Vec<String> {
    let login = format!("{}:{}", way.user.0, way.user.1);
    let mut said = Vec::new();
    let mut say = |path: String, more: &[&str]| {
        let url = format!("pop3://{}/{path}", way.address);
        let arguments = [&["-sS", "-m", "60", "-u", &login, &url], more].concat();
        said.push(way.run("curl", &arguments));
    };
    say(String::new(), &[]);
    for number in 1..=SEEDED {
        say(number.to_string(), &[]);
    }
    say(String::new(), &["-X", "TOP 3 1"]);
    say("3".to_owned(), &["-l"]);
    say("2".to_owned(), &["-l", "-X", "DELE"]);
    say(String::new(), &[]);
    said
}

#[test]
fn curl_before_dovecot() {
    Rig::before(Kind::Dovecot, Tls::None).same(curl);
}

#[test]
fn curl_before_cyrus() {
    Rig::before(Kind::Cyrus, Tls::None).same(curl);
}

#[test]
fn curl_before_courier() {
    Rig::before(Kind::Courier, Tls::None).same(curl);
}

/// What is in a Maildir.
fn messages(maildir: &Path) -> BTreeSet<Vec<u8>> {
    let files = ["cur", "new"].into_iter().flat_map(|part| {
        let folder = fs::read_dir(maildir.join(part)).expect("a Maildir");
        folder.map(|entry| entry.expect("an entry").path())
    });
    files
        .map(|path| fs::read(path).expect("a message"))
        .collect()
}

/// It takes everything and leaves it there; finds nothing new; then takes all again and deletes it.
fn getmail(way: &Way) -> Vec<BTreeSet<Vec<u8>>> {
    let dir = way.dir.path().display().to_string();
    let store = way.dir.join("mail");
    for part in ["cur", "new", "tmp"] {
        fs::create_dir_all(store.join(part)).expect("a Maildir");
    }
    let retriever = match way.tls {
        Tls::Implicit => "SimplePOP3SSLRetriever",
        Tls::None | Tls::Start => "SimplePOP3Retriever",
    };
    let rc = |name: &str, delete: bool| {
        let text = format!(
            "[retriever]\ntype = {retriever}\nserver = {}\nport = {}\nusername = {}\npassword = {}\ntimeout = 10\n\n\
             [destination]\ntype = Maildir\npath = {dir}/mail/\n\n[options]\nread_all = {delete}\ndelete = {delete}\n\
             delivered_to = false\nreceived = false\nverbose = 0\n",
            way.host(),
            way.port(),
            way.user.0,
            way.user.1
        );
        way.write(name, &text).display().to_string()
    };
    let (keep, take) = (rc("keep", false), rc("take", true));
    // it refuses to deliver as root
    way.run("chown", &["-R", "65534:65534", &dir]);
    let run = |rc: &str| {
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        // it may wait in vain for a delivery that was done too soon
        let getmail = format!("getmail -q --getmaildir {dir} --rcfile {rc}");
        let again = format!("{getmail} || {getmail} || {getmail}");
        way.run("setpriv", &[&nobody[..], &["sh", "-c", &again]].concat());
        messages(&store)
    };
    vec![run(&keep), run(&keep), run(&take)]
}

#[test]
fn getmail_before_dovecot() {
    let rig = Rig::before(Kind::Dovecot, Tls::None);
    rig.same(getmail);
    assert!(rig.inbox(2).is_empty(), "it took everything away");
}

#[test]
fn getmail_before_courier() {
    Rig::before(Kind::Courier, Tls::None).same(getmail);
}

/// It takes everything by TOP, with more lines than any message has, and deletes it.
fn fetchmail(way: &Way) -> String {
    let mbox = way.dir.join("mbox");
    let secured = match way.tls {
        Tls::None => "sslproto \"\"".to_owned(),
        Tls::Start => format!("sslproto TLS1.2+ sslcertck sslcertfile {:?}", way.ca),
        Tls::Implicit => format!("ssl sslcertck sslcertfile {:?}", way.ca),
    };
    // the name in the certificate
    let text = format!(
        "set no bouncemail\npoll localhost protocol POP3 port {}:\n user \"{}\" password \"{}\" is root here\n \
         nokeep norewrite {secured} mda \"cat >> {}\"\n",
        way.port(),
        way.user.0,
        way.user.1,
        mbox.display()
    );
    let rc = way.write("fetchmailrc", &text).display().to_string();
    let pid = way.dir.join("pid").display().to_string();
    let options = ["--invisible", "--nosyslog", "--pidfile", &pid, "-f", &rc];
    way.run("fetchmail", &options);
    let delivered = fs::read(mbox).expect("it delivered");
    // to mail without a header it writes one, which names the account
    String::from_utf8_lossy(&delivered).replace(&way.user.0, "USER")
}

#[test]
fn fetchmail_before_dovecot() {
    let rig = Rig::before(Kind::Dovecot, Tls::None);
    rig.same(fetchmail);
    assert!(rig.inbox(2).is_empty(), "it took everything away");
}

#[test]
fn fetchmail_with_stls_on_both_legs() {
    Rig::before(Kind::Dovecot, Tls::Start).same(fetchmail);
}

#[test]
fn fetchmail_before_cyrus() {
    Rig::before(Kind::Cyrus, Tls::None).same(fetchmail);
}

#[test]
fn fetchmail_before_courier() {
    Rig::before(Kind::Courier, Tls::None).same(fetchmail);
}

/// Logs in step by step, then says everything at once, in `step` bytes a write; gives all that the server says behind the
/// login.
fn all_at_once(address: SocketAddr, user: &(String, String), said: &[u8], step: usize) -> Vec<u8> {
    let (mut client, _) = ImapClient::connect(address).expect("it greets");
    for line in [
        format!("USER {}\r\n", user.0),
        format!("PASS {}\r\n", user.1),
    ] {
        client.send(line.as_bytes()).expect("it listens");
        let reply = client.line().expect("a reply");
        assert!(reply.starts_with(b"+OK"), "{}", reply.escape_ascii());
    }
    for piece in said.chunks(step) {
        client.send(piece).expect("it listens");
    }
    client.rest().expect("all to the end")
}

/// One account, unchanged in between: then even the unique ids must be the same.
fn pipelined_before(kind: Kind) {
    let rig = Rig::before(kind, Tls::None);
    let seeded = rig.seed(1);
    let user = rig.server.user(1);
    let mut said = String::from("UIDL\r\nSTAT\r\nLIST\r\nLAST\r\n");
    for number in (1..=SEEDED).rev() {
        said += &format!("RETR {number}\r\nNOOP\r\nUIDL {number}\r\nTOP {number} 1\r\n");
    }
    said += "RETR 1000\r\nretr 1\r\nXNONE\r\nRETR 2\r\nCAPA\r\nRSET\r\nQUIT\r\n";
    let direct = all_at_once(rig.server.pop3(), &user, said.as_bytes(), usize::MAX);
    assert!(direct.len() > seeded.concat().len());
    for step in [usize::MAX, 7, 100] {
        let through = all_at_once(rig.mailtee.frontend, &user, said.as_bytes(), step);
        let differ = direct
            .iter()
            .zip(&through)
            .position(|(one, other)| one != other);
        assert!(
            direct == through,
            "at {differ:?} of {} and {}, {step} bytes a write",
            direct.len(),
            through.len()
        );
    }
    rig.assert_copied(&seeded);
    assert_eq!(rig.accounts(), vec![user.0; seeded.len()]);
}

#[test]
fn pipelined_before_dovecot() {
    pipelined_before(Kind::Dovecot);
}

#[test]
fn pipelined_before_cyrus() {
    pipelined_before(Kind::Cyrus);
}

#[test]
fn pipelined_before_courier() {
    pipelined_before(Kind::Courier);
}

#[test]
fn nothing_said_in_clear_is_heard_within_tls() {
    let rig = Rig::before(Kind::Dovecot, Tls::Start);
    let way = rig.way("through", 1, rig.mailtee.frontend);
    let ca = way.ca.display().to_string();
    way.script("pop3_injection.py", &[&ca]);
}

/// A server whose answer to STLS somebody has added to: there is no session with it.
#[test]
fn nothing_that_a_server_says_in_clear_is_taken_as_secured() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let upstream = listener.local_addr().expect("its address");
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("mailtee comes");
        let mut heard = BufReader::new(stream.try_clone().expect("a second handle"));
        let mut said = stream;
        said.write_all(b"+OK ready\r\n").expect("it listens");
        let (mut capa, mut stls) = (String::new(), String::new());
        heard.read_line(&mut capa).expect("CAPA");
        said.write_all(b"+OK\r\nSTLS\r\n.\r\n").expect("it listens");
        heard.read_line(&mut stls).expect("STLS");
        said.write_all(b"+OK\r\n+OK injected\r\n")
            .expect("it listens");
        let mut rest = Vec::new();
        // a reset is an end too
        let _ = heard.read_to_end(&mut rest);
        (capa, stls, rest)
    });
    let ca = TestDir::new();
    let certificate = ca.join("certificate.pem");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(&certificate, made.cert.pem()).expect("a file");
    let mailtee = before("pop3", upstream)
        .option("upstream_tls", "\"starttls\"")
        .option("upstream_tls_name", "\"localhost\"")
        .option("upstream_ca_file", quoted(certificate))
        .start();
    let (mut client, greeting) = ImapClient::connect(mailtee.frontend).expect("it greets");
    assert!(greeting.starts_with("-ERR [SYS/TEMP]"), "{greeting}");
    assert!(client.rest().expect("the end").is_empty());
    let (capa, stls, rest) = server.join().expect("the server");
    assert_eq!([capa.as_str(), &stls], ["CAPA\r\n", "STLS\r\n"]);
    assert!(rest.is_empty(), "{}", rest.escape_ascii());
}

#[test]
fn whoever_reads_is_named_however_it_logs_in() {
    let rig = Rig::before(Kind::Dovecot, Tls::None);
    rig.seed(1);
    let way = rig.way("through", 1, rig.mailtee.frontend);
    let login = format!("{}:{}", way.user.0, way.user.1);
    let mechanisms: [&[&str]; 4] = [
        &["AUTH=PLAIN"],
        &["AUTH=PLAIN", "--sasl-ir"],
        &["AUTH=LOGIN"],
        &["AUTH=CRAM-MD5"],
    ];
    for (number, mechanism) in (1..).zip(mechanisms) {
        let url = format!("pop3://{}/{number}", way.address);
        let options = ["-sS", "-m", "60", "-u", &login, &url, "--login-options"];
        way.run("curl", &[&options[..], mechanism].concat());
    }
    rig.mailtee.wait_until_forwarded(Duration::from_secs(60));
    assert_eq!(rig.accounts(), vec![way.user.0.clone(); 4]);
}

/// Dovecot believes us who the client is, and would believe a client that says so through us.
#[test]
fn the_client_is_named_by_us_and_not_by_itself() {
    let server = MailServer::start(Kind::Dovecot, 1);
    let mailtee = before("pop3", server.pop3())
        .option("tell_upstream_client", "\"xclient\"")
        .start();
    let (_, greeting) = ImapClient::connect(server.pop3()).expect("it greets");
    assert!(greeting.contains("[XCLIENT]"), "it trusts us: {greeting}");

    let from: SocketAddr = ([127, 0, 0, 9], 0).into();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&from.into()).expect("an address of ours");
    socket
        .connect(&mailtee.frontend.into())
        .expect("mailtee listens");
    let mut client = TcpStream::from(socket);
    let (name, password) = server.user(1);
    // What Dovecot takes for it, and for a login, before one: by another name, and by the eight bytes of a verb; and what
    // it answers with a list where a login would be answered, so that nobody would know any more what comes.
    let claims = [
        "AUTH  PLAIN",
        "AUTH \rPLAIN",
        "USER\tvictim",
        "XCLIENT ADDR=127.0.0.8",
        "XOIP 127.0.0.8",
        "XCLIENTADDR=127.0.0.8",
        "\rXCLIENTADDR=127.0.0.7",
        "X\rCLIENTADDR=127.0.0.6",
        "\r\r\r\rXOIP127.0.0.5",
        "\r\r\r\rSTLSx",
        "\r\r\r\rUSERname",
    ];
    let said = format!(
        "{}\r\nUSER {name}\r\nPASS {password}\r\nQUIT\r\n",
        claims.join("\r\n")
    );
    client.write_all(said.as_bytes()).expect("it listens");
    let mut heard = String::new();
    client.read_to_string(&mut heard).expect("all to the end");
    let lines: Vec<_> = heard.lines().collect();
    assert!(!lines[0].contains("XCLIENT"), "{heard}");
    let replies: Vec<_> = lines.iter().map(|line| &line[..3]).collect();
    let expected = [&["+OK"][..], &["-ER"].repeat(claims.len()), &["+OK"; 3]].concat();
    assert_eq!(replies, expected, "{heard}");
    let log = wait_until(Duration::from_secs(10), "Dovecot logs the login", || {
        let log = server.peer.file("log/dovecot-info.log");
        log.contains("Login: ").then_some(log)
    });
    assert!(log.contains("rip=127.0.0.9"), "{log}");
}
