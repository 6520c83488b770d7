//! The daemon and its command line as an operator meets them: signals, reloads, the queue, the admin page, exit codes.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;

use crate::kit::{Mail, Mailtee, Sink, SmtpClient, Vault, free_port, wait_until};

const SOON: Duration = Duration::from_secs(20);

fn mailtee() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailtee"));
    command.stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A target where nobody listens: everything stays in the queue.
fn gone(name: &str) -> String {
    let port = free_port();
    format!("[[target]]\nname = \"{name}\"\ntype = \"jmap\"\nurl = \"https://127.0.0.1:{port}/\"\n")
}

fn send(mailtee: &Mailtee, serial: u64) -> Mail {
    let mail = Mail::plain(serial);
    let mut client = SmtpClient::greeted(mailtee.frontend).expect("a greeting");
    let reply = client.mail(&mail).expect("a reply");
    assert!(reply.is_success(), "{}", reply.text());
    mail
}

/// The ids that `mailtee queue list` names.
fn listed(mailtee: &Mailtee, more: &[&str]) -> Vec<String> {
    let arguments = [&["queue", "list", "--format", "json"], more].concat();
    let output = mailtee.command(&arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
        .lines()
        .map(|line| {
            let capture: serde_json::Value = serde_json::from_str(line).expect("JSON lines");
            capture["id"].as_str().expect("an id").to_owned()
        })
        .collect()
}

fn reloads(mailtee: &Mailtee, result: &str) -> f64 {
    let metrics = mailtee.metrics();
    metrics.value("config_reloads_total", &[("result", result)])
}

#[test]
fn the_demo_ends_well_by_itself() {
    let output = mailtee()
        .args(["demo", "--exit"])
        .output()
        .expect("it runs");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert!(out.contains("byte for byte"), "{out}");
}

#[test]
fn a_bad_file_leaves_the_old_configuration_running_and_a_good_one_brings_a_target() {
    let sink = Sink::start();
    let mailtee = Mailtee::filter(sink.address()).start();
    let good = fs::read_to_string(mailtee.config()).expect("the configuration");

    fs::write(mailtee.config(), "listen = 1\n[admin\n").expect("written");
    mailtee.signal(Signal::HUP);
    wait_until(SOON, "the bad file is refused", || {
        (reloads(&mailtee, "refused") == 1.0).then_some(())
    });
    send(&mailtee, 1);
    mailtee.wait_until_forwarded(SOON);

    // The embedded vault is the target only where no other is named: now it goes, and two come.
    let more = [gone("one"), gone("two")].concat();
    fs::write(mailtee.config(), good.clone() + &more).expect("written");
    mailtee.signal(Signal::HUP);
    wait_until(SOON, "the good file is applied", || {
        (reloads(&mailtee, "applied") == 1.0).then_some(())
    });
    send(&mailtee, 2);
    let metrics = mailtee.metrics();
    for target in ["one", "two"] {
        let waiting = metrics.value("waiting_messages", &[("target", target)]);
        assert_eq!(
            waiting, 1.0,
            "{target} sees what came after it was named, and that alone"
        );
    }

    // Both have a backlog: a file that no longer names them would leave it without a copy.
    fs::write(mailtee.config(), good).expect("written");
    mailtee.signal(Signal::HUP);
    wait_until(SOON, "targets with a backlog stay", || {
        (reloads(&mailtee, "refused") == 2.0).then_some(())
    });
    let waiting = [("target", "one")];
    assert_eq!(mailtee.metrics().value("waiting_messages", &waiting), 1.0);
}

#[test]
fn a_start_without_a_target_with_a_backlog_is_refused_until_the_file_allows_it() {
    let sink = Sink::start();
    let mut mailtee = Mailtee::filter(sink.address())
        .without_vault()
        .append(&gone("old"))
        .start();
    send(&mailtee, 1);
    send(&mailtee, 2);
    mailtee.kill();
    let before = fs::read_to_string(mailtee.config()).expect("the configuration");
    let renamed = before.replace("name = \"old\"", "name = \"new\"");
    fs::write(mailtee.config(), &renamed).expect("written");

    let refused = mailtee.command(&["run"]);
    let error = text(&refused.stderr);
    assert!(!refused.status.success(), "{error}");
    assert!(error.contains("target old: 2 captures"), "{error}");
    // A command without a daemon opens the journal as well.
    let retried = mailtee.command(&["queue", "retry", "--parked", "--target", "new"]);
    let error = text(&retried.stderr);
    assert!(error.contains("target old: 2 captures"), "{error}");

    let allowed = renamed + "[journal]\nabandon_targets = [\"old\"]\n";
    fs::write(mailtee.config(), allowed).expect("written");
    mailtee.start();
    let waiting = [("target", "new")];
    assert_eq!(mailtee.metrics().value("waiting_messages", &waiting), 0.0);
}

#[test]
fn a_reload_waits_for_no_target_that_does_not_answer() {
    // It takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("bound").port();
    let url = format!("url = \"http://127.0.0.1:{port}/\"\n");
    let stalled = format!("[[target]]\nname = \"stalled\"\ntype = \"jmap\"\n{url}");
    let sink = Sink::start();
    let mailtee = Mailtee::filter(sink.address())
        .without_vault()
        .append(&stalled)
        .start();
    let before = fs::read_to_string(mailtee.config()).expect("the configuration");
    fs::write(mailtee.config(), before.clone() + &gone("idle")).expect("written");
    mailtee.signal(Signal::HUP);
    let applied = |times: f64| (reloads(&mailtee, "applied") == times).then_some(());
    wait_until(SOON, "a second target comes", || applied(1.0));
    send(&mailtee, 1);
    let (_connection, _) = silent.accept().expect("the message is on its way");

    let changed = before.clone() + "batch_messages = 7\n" + &gone("idle");
    fs::write(mailtee.config(), changed).expect("written");
    mailtee.signal(Signal::HUP);
    // Far below the time that a replaced worker is left for what it has in flight.
    let at_once = Duration::from_secs(5);
    wait_until(at_once, "the reload is applied", || applied(2.0));
}

#[test]
fn a_target_that_goes_leaves_no_series() {
    let sink = Sink::start();
    let mailtee = Mailtee::filter(sink.address())
        .without_vault()
        .append(&gone("stays"))
        .start();
    let before = fs::read_to_string(mailtee.config()).expect("the configuration");
    let applied = |times: f64| (reloads(&mailtee, "applied") == times).then_some(());
    fs::write(mailtee.config(), before.clone() + &gone("goes")).expect("written");
    mailtee.signal(Signal::HUP);
    wait_until(SOON, "it comes", || applied(1.0));
    let has_series = |name: &str| mailtee.metrics().0.contains(&format!("\"{name}\""));
    assert!(has_series("goes"));
    fs::write(mailtee.config(), before).expect("written");
    mailtee.signal(Signal::HUP);
    wait_until(SOON, "it goes", || applied(2.0));
    assert!(!has_series("goes"));
    assert!(has_series("stays"));
}

#[test]
fn a_new_token_is_taken_up_by_a_reload() {
    let vault = Mailtee::vault_alone();
    let target = vault.as_target("archive");
    let token_file = vault.data_dir().join("vault/tokens/target.token");
    let token = fs::read(&token_file).expect("the token");
    fs::write(&token_file, "not the token\n").expect("written");
    let sink = Sink::start();
    let mailtee = Mailtee::filter(sink.address())
        .without_vault()
        .append(&target)
        .start();
    let mail = send(&mailtee, 1);
    let requests = |result| {
        let labels = [("target", "archive"), ("result", result)];
        mailtee.metrics().value("target_requests_total", &labels)
    };
    wait_until(SOON, "the vault refuses the token", || {
        (requests("unauthorized") > 0.0).then_some(())
    });
    fs::write(&token_file, token).expect("written");
    mailtee.signal(Signal::HUP);
    mailtee.wait_until_forwarded(SOON);
    let stored = Vault::copies(&vault.vault());
    assert_eq!(stored.get(&mail.bytes), Some(&1));
}

#[test]
fn sigterm_lets_the_message_under_way_end() {
    let sink = Sink::start();
    let mut mailtee = Mailtee::filter(sink.address()).start();
    let mail = Mail::plain(7);
    let mut client = SmtpClient::greeted(mailtee.frontend).expect("a greeting");
    for line in [
        format!("MAIL FROM:<{}>", mail.sender),
        format!("RCPT TO:<{}>", mail.recipients[0]),
        "DATA".to_owned(),
    ] {
        assert!(client.command(&line).expect("a reply").code < 400);
    }
    let (first, second) = mail.bytes.split_at(mail.bytes.len() / 2);
    client.send(first).expect("sent");
    mailtee.signal(Signal::TERM);
    wait_until(SOON, "it drains", || {
        mailtee.log().contains("draining").then_some(())
    });
    client.send(second).expect("sent");
    client.send(b".\r\n").expect("sent");
    let reply = client.reply().expect("the message's reply");
    assert!(reply.is_success(), "{}", reply.text());
    drop(client);
    assert!(mailtee.terminate().success());
    mailtee.start();
    mailtee.wait_until_forwarded(SOON);
    assert_eq!(mailtee.vault().copies().get(&mail.bytes), Some(&1));
}

#[test]
fn the_queue_is_the_same_through_the_daemon_and_without_it() {
    let sink = Sink::start();
    let mut mailtee = Mailtee::filter(sink.address())
        .without_vault()
        .append(&gone("archive"))
        .start();
    let mails: Vec<Mail> = (1..=3).map(|serial| send(&mailtee, serial)).collect();
    let ids = listed(&mailtee, &[]);
    assert_eq!(ids.len(), 3);
    for (id, mail) in ids.iter().zip(&mails) {
        let exported = mailtee.command(&["queue", "export", id]);
        assert_eq!(exported.stdout, mail.bytes, "{}", text(&exported.stderr));
    }
    assert!(
        mailtee
            .command(&["queue", "hold", &ids[1]])
            .status
            .success()
    );
    assert_eq!(listed(&mailtee, &["--state", "held"]), ids[1..2]);
    let verified = mailtee.command(&["verify"]);
    let differences = text(&verified.stdout);
    assert_eq!(verified.status.code(), Some(1), "{differences}");
    for id in &ids {
        assert!(
            differences.contains(id),
            "it is not there yet: {differences}"
        );
    }

    mailtee.terminate();
    assert_eq!(listed(&mailtee, &[]), ids);
    assert_eq!(listed(&mailtee, &["--state", "held"]), ids[1..2]);
    let exported = mailtee.command(&["queue", "export", &ids[2]]);
    assert_eq!(exported.stdout, mails[2].bytes);
    assert!(
        mailtee
            .command(&["queue", "release", &ids[1]])
            .status
            .success()
    );
    assert!(listed(&mailtee, &["--state", "held"]).is_empty());
    let fsck = mailtee.command(&["queue", "fsck"]);
    assert!(fsck.status.success(), "{}", text(&fsck.stdout));
    let unknown = mailtee.command(&["queue", "show", &"0".repeat(32)]);
    assert_eq!(unknown.status.code(), Some(3));
}

#[test]
fn a_dropped_capture_never_comes_back_and_other_targets_keep_theirs() {
    let sink = Sink::start();
    let mut mailtee = Mailtee::filter(sink.address())
        .without_vault()
        .append(&gone("archive"))
        .append(&gone("other"))
        .start();
    send(&mailtee, 1);
    send(&mailtee, 2);
    let ids = listed(&mailtee, &[]);
    let drop = |mailtee: &Mailtee, id: &str, more: &[&str]| {
        let arguments = [&["queue", "drop", id, "--target", "archive"], more].concat();
        let output = mailtee.command(&arguments);
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let left = |mailtee: &Mailtee, target: &str| listed(mailtee, &["--target", target]);

    let (code, _, why) = drop(&mailtee, &ids[0], &["--yes"]);
    assert_eq!(code, Some(1), "{why}");
    assert!(why.contains("only what is parked or held"), "{why}");
    for id in &ids {
        assert!(mailtee.command(&["queue", "hold", id]).status.success());
    }
    let (code, told, _) = drop(&mailtee, &ids[0], &[]);
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.contains("would be dropped") && told.contains("<sender"),
        "{told}"
    );
    assert_eq!(left(&mailtee, "archive"), ids);

    let (code, told, _) = drop(&mailtee, &ids[0], &["--yes", "--format", "json"]);
    assert_eq!(code, Some(0), "{told}");
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(
        (&told["dropped"], &told["state"]),
        (&true.into(), &"held".into())
    );
    assert_eq!(left(&mailtee, "archive"), ids[1..]);
    assert_eq!(left(&mailtee, "other"), ids);
    let labels = [("target", "archive"), ("outcome", "dropped")];
    assert_eq!(
        mailtee.metrics().value("forwarded_messages_total", &labels),
        1.0
    );
    assert!(mailtee.log().contains("an operator dropped it"));

    mailtee.terminate();
    let (code, _, why) = drop(&mailtee, &ids[1], &["--yes"]);
    assert_eq!(code, Some(0), "without a daemon: {why}");
    mailtee.start();
    for id in &ids {
        assert!(mailtee.command(&["queue", "release", id]).status.success());
    }
    let waiting = |target| {
        mailtee
            .metrics()
            .value("waiting_messages", &[("target", target)])
    };
    assert_eq!((waiting("archive"), waiting("other")), (0.0, 2.0));
}

/// Sends mail of this many bytes until none is taken any more.
fn send_until_refused(mailtee: &Mailtee, serials: &mut std::ops::RangeFrom<u64>, bytes: usize) {
    loop {
        let mail = Mail::sized(serials.next().expect("endless"), bytes);
        let mut client = SmtpClient::greeted(mailtee.frontend).expect("a greeting");
        let reply = client.mail(&mail).expect("a reply");
        if !reply.is_success() {
            assert_eq!(reply.code / 100, 4, "{}", reply.text());
            return;
        }
    }
}

#[test]
fn a_full_journal_is_not_ready_and_says_why_until_its_target_is_back() {
    let mut vault = Mailtee::vault_alone();
    let sink = Sink::start();
    let journal = "[journal]\nsegment_bytes = \"128 KiB\"\ncapacity_bytes = \"300 KiB\"\n\
                   large_bytes_min = \"32 KiB\"\nfree_bytes_min = \"1 MiB\"\n";
    let impatient = "target_retry_min = \"50ms\"\ntarget_retry_max = \"200ms\"\n";
    let mailtee = Mailtee::filter(sink.address())
        .without_vault()
        .append(journal)
        .append(&(vault.as_target("archive") + impatient))
        .start();
    vault.kill();
    let mut serials = 1..;
    for bytes in [20_000, 600] {
        send_until_refused(&mailtee, &mut serials, bytes);
    }
    let ready = || crate::kit::http::get(mailtee.admin, "/readyz").expect("an answer");
    let (status, why) = ready();
    assert_eq!(status, 503, "{why}");
    assert!(why.contains("journal: full: "), "{why}");
    let (_, page) = crate::kit::http::get(mailtee.admin, "/").expect("a page");
    assert!(page.contains("the journal is full"), "{page}");
    let up = [("target", "archive")];
    wait_until(SOON, "the target is down", || {
        (mailtee.metrics().value("target_up", &up) == 0.0).then_some(())
    });
    vault.start();
    wait_until(SOON, "it is ready again", || {
        (ready().0 == 200).then_some(())
    });
    send(&mailtee, serials.next().expect("endless"));
    mailtee.wait_until_forwarded(SOON);
    let log = mailtee.log();
    let told = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!(
        (told("the target is down"), told("the target is back")),
        (1, 1)
    );
    let back = log.lines().find(|line| line.contains("the target is back"));
    let back = back.expect("told once");
    for fact in ["target_name=\"archive\"", "away_secs=", "waiting="] {
        assert!(back.contains(fact), "{back}");
    }
}

#[test]
fn connections_that_ask_for_nothing_keep_no_scrape_away() {
    let sink = Sink::start();
    let mailtee = Mailtee::filter(sink.address()).start();
    let mut held: Vec<_> = (0..300)
        .map(|serial| {
            let mut stream = TcpStream::connect(mailtee.admin).expect("connected");
            // Those beyond the bound may be closed already.
            let _ = stream.write_all(if serial % 2 == 0 { b"GET /metr" } else { b"" });
            stream
        })
        .collect();
    let last = held.last_mut().expect("many");
    last.set_read_timeout(Some(SOON)).expect("set");
    let told = last.read(&mut [0]);
    let left = !matches!(&told, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(left, "one too many is not kept");
    for _ in 0..3 {
        wait_until(SOON, "a scrape gets through", || {
            let answer = crate::kit::http::get(mailtee.admin, "/metrics");
            answer.filter(|(status, _)| *status == 200)
        });
    }
}

/// Status of a request as bytes.
fn status(address: SocketAddr, request: &str) -> u16 {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let status = answer.split_ascii_whitespace().nth(1);
    status.and_then(|code| code.parse().ok()).expect("a status")
}

#[test]
fn pages_answer_to_known_names_and_the_api_to_its_token() {
    let sink = Sink::start();
    let mailtee = Mailtee::filter(sink.address()).start();
    let token = fs::read_to_string(mailtee.data_dir().join("admin.token")).expect("a token");
    let bearer = format!("Authorization: Bearer {}\r\n", token.trim());
    for (path, host, header, expected) in [
        ("/", "localhost", "", 200),
        ("/", "127.0.0.1:9725", "", 200),
        ("/", "rebound.example:9725", "", 421),
        ("/metrics", "any.example", "", 200),
        ("/readyz", "any.example", "", 200),
        ("/api/queue", "localhost", "", 401),
        (
            "/api/queue",
            "localhost",
            "Authorization: Bearer x\r\n",
            401,
        ),
        ("/api/queue", "rebound.example", &bearer, 421),
        ("/api/queue", "localhost", &bearer, 200),
        ("/api/queue/zz", "localhost", &bearer, 400),
        (
            "/api/queue/00000000000000000000000000000000",
            "localhost",
            &bearer,
            404,
        ),
        ("/api/queue?after=zz", "localhost", &bearer, 400),
    ] {
        let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n{header}\r\n");
        let found = status(mailtee.admin, &request);
        assert_eq!(found, expected, "{path} as {host}, {header:?}");
    }
}

#[test]
fn check_tells_every_fault_at_once_and_tries_what_is_named() {
    let sink = Sink::start();
    let mailtee = Mailtee::filter(sink.address())
        .option("idle_timeout", "30")
        .option("rol", "\"filter\"")
        .prepare();
    let faulty = mailtee.command(&["check"]);
    let faults = text(&faulty.stderr);
    assert_eq!(faulty.status.code(), Some(2), "{faults}");
    assert!(
        faults.contains("frontend.idle_timeout: found 30"),
        "{faults}"
    );
    assert!(faults.contains("`role`?"), "{faults}");

    let taken = Mailtee::filter(format!("127.0.0.1:{}", free_port())).prepare();
    let _holder = TcpListener::bind(taken.frontend).expect("a free port");
    let checked = taken.command(&["check", "--format", "json"]);
    let findings = text(&checked.stdout);
    assert_eq!(checked.status.code(), Some(1), "{findings}");
    let bad: Vec<&str> = findings
        .lines()
        .filter(|line| line.contains("\"ok\":false"))
        .collect();
    assert_eq!(
        bad.len(),
        2,
        "the address is in use, the next hop is not there: {findings}"
    );

    let good = Mailtee::filter(sink.address()).prepare();
    let checked = good.command(&["check"]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stdout));
}

#[test]
fn a_second_daemon_on_the_same_data_is_refused() {
    let sink = Sink::start();
    let mailtee = Mailtee::filter(sink.address()).start();
    let second = mailtee.command(&["run"]);
    let error = text(&second.stderr);
    assert_eq!(second.status.code(), Some(3), "{error}");
    assert!(error.contains("another process has it open"), "{error}");
}

#[test]
fn a_reader_that_goes_away_ends_a_listing_quietly() {
    let mut child = mailtee()
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_dedup_map_that_somebody_deleted_is_taken_for_lost() {
    let sink = Sink::start();
    let mut mailtee = Mailtee::filter(sink.address()).start();
    let sign = mailtee.data_dir().join("dedup.lost");
    mailtee.terminate();
    mailtee.start();
    assert!(!sign.exists(), "a restart loses nothing");
    mailtee.terminate();
    fs::remove_dir_all(mailtee.data_dir().join("dedup")).expect("a map");
    mailtee.start();
    assert!(sign.exists());
    assert!(mailtee.log().contains("an earlier dedup map was lost"));
}

#[test]
fn the_search_index_of_a_vault_alone_stands_back() {
    let vault = Mailtee::vault_alone();
    let tasks = format!("/proc/{}/task", vault.pid());
    let nice = wait_until(SOON, "the thread is there and has its priority", || {
        fs::read_dir(&tasks).ok()?.find_map(|task| {
            let path = task.ok()?.path();
            let name = fs::read_to_string(path.join("comm")).ok()?;
            let stat = fs::read_to_string(path.join("stat")).ok()?;
            // proc(5): the name ends with the last parenthesis, nice is the 17th field behind it.
            let (_, fields) = stat.rsplit_once(')')?;
            let nice: i32 = fields.split_ascii_whitespace().nth(16)?.parse().ok()?;
            (name.trim() == "vault-index" && nice > 0).then_some(nice)
        })
    });
    assert!(nice >= 10, "nice {nice}");
}
