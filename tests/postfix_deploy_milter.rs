//! `deploy/postfix`, milter mode: ours is the last of the lists that are there, again and again, and comes out of them alone;
//! then on a running Postfix.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    kit::{
        Archive, Mail, Mailtee, Peer, Sink, SmtpClient, TestDir, archive::Copy, daemon::Setting,
        free_port, wait_until,
    },
    postfix_deploy::{
        contents, has_received, postconf, postfix_command, refuses, sample, script, send, succeeds,
        wait_until_received, wake_pickup,
    },
};

const OURS: &str = "{ inet:127.0.0.1:8892, default_action=tempfail, protocol=6, connect_timeout=10s, \
                    command_timeout=30s, content_timeout=300s }";

/// The sample with an administrator's own lines at the end of main.cf.
fn sample_with(lines: &str) -> TestDir {
    let dir = sample();
    let path = dir.join("main.cf");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text + lines).unwrap();
    dir
}

fn list(dir: &TestDir, name: &str) -> String {
    postconf(dir.path(), &["-xh", name]).trim().to_owned()
}

#[test]
fn milters_that_are_there_stay_before_ours() {
    let dir = sample_with(
        "smtpd_milters = inet:localhost:8891,\n    { unix:/spamass/spamass.sock, default_action=accept }\n\
         non_smtpd_milters = inet:localhost:8891\n",
    );
    let before = contents(dir.path());
    succeeds(script(dir.path(), &["milter"]));
    let theirs = "inet:localhost:8891, { unix:/spamass/spamass.sock, default_action=accept }";
    assert_eq!(list(&dir, "smtpd_milters"), format!("{theirs}, {OURS}"));
    let non_smtpd = format!("inet:localhost:8891, {OURS}");
    assert_eq!(list(&dir, "non_smtpd_milters"), non_smtpd);
    succeeds(script(dir.path(), &["--undo"]));
    assert_eq!(contents(dir.path()), before);
}

#[test]
fn a_list_that_is_defined_by_the_other_gets_ours_once() {
    for (one, other) in [
        ("smtpd_milters", "non_smtpd_milters"),
        ("non_smtpd_milters", "smtpd_milters"),
    ] {
        let dir = sample_with(&format!("{one} = inet:localhost:8891\n{other} = ${one}\n"));
        let before = contents(dir.path());
        succeeds(script(dir.path(), &["milter"]));
        let both = format!("inet:localhost:8891, {OURS}");
        assert_eq!(list(&dir, one), both);
        assert_eq!(list(&dir, other), both);
        succeeds(script(dir.path(), &["--undo"]));
        assert_eq!(contents(dir.path()), before);
    }
}

#[test]
fn run_again_it_changes_nothing() {
    let dir = sample();
    succeeds(script(dir.path(), &["milter"]));
    let once = contents(dir.path());
    let again = script(dir.path(), &["milter"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("in place already"));
    assert_eq!(succeeds(again), "");
    assert_eq!(contents(dir.path()), once);
    // Something else is wanted, or something else has become of it: that is no matter of running it again.
    let first = "take it out with --undo first";
    for arguments in [
        &["milter", "--on-capture-failure", "pass"][..],
        &["milter", "--filter", "127.0.0.1:8893"],
        &["content-filter"],
    ] {
        refuses(dir.path(), arguments, first);
    }
    postconf(dir.path(), &["-e", "smtpd_milters=inet:localhost:8891"]);
    refuses(dir.path(), &["milter"], first);
}

#[test]
fn undo_takes_ours_out_of_lists_that_have_grown_since() {
    let dir = sample_with("non_smtpd_milters =\n");
    succeeds(script(dir.path(), &["milter"]));
    let grown = format!("smtpd_milters=inet:localhost:8891, {OURS}, inet:localhost:11332");
    postconf(dir.path(), &["-e", &grown]);
    succeeds(script(dir.path(), &["--undo"]));
    let theirs = "inet:localhost:8891, inet:localhost:11332";
    assert_eq!(list(&dir, "smtpd_milters"), theirs);
    assert_eq!(list(&dir, "non_smtpd_milters"), "");
    let left = fs::read_to_string(dir.join("main.cf")).unwrap();
    assert!(
        left.contains("\nnon_smtpd_milters ="),
        "it was there, empty"
    );
}

#[test]
fn the_failure_policy_becomes_the_default_action() {
    for (policy, action) in [("tempfail", "tempfail"), ("pass", "accept")] {
        let dir = sample_with("milter_default_action = reject\nmilter_protocol = 2\n");
        let arguments = ["milter", "--on-capture-failure", policy];
        succeeds(script(dir.path(), &arguments));
        for name in ["smtpd_milters", "non_smtpd_milters"] {
            let list = list(&dir, name);
            let settings = format!("default_action={action}, protocol=6,");
            assert!(list.contains(&settings), "{policy}: {list}");
        }
        let untouched = postconf(dir.path(), &["-h", "milter_default_action"]);
        assert_eq!(untouched, "reject\n");
    }
}

#[test]
fn a_service_with_milters_of_its_own_is_named_or_told() {
    let dir = sample();
    let submission =
        "submission/inet=submission inet n - y - - smtpd -o smtpd_milters=inet:localhost:8891";
    postconf(dir.path(), &["-M", submission]);
    let before = contents(dir.path());
    let told = script(dir.path(), &["milter", "--dry-run"]);
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(
        said.contains("comes in by submission/inet is not copied"),
        "{said}"
    );

    succeeds(script(
        dir.path(),
        &["milter", "--service", "submission/inet"],
    ));
    // Without white space: postconf writes none into master.cf.
    let own = postconf(dir.path(), &["-Ph", "submission/inet/smtpd_milters"]);
    let expected = format!("inet:localhost:8891,{}\n", OURS.replace(' ', ""));
    assert_eq!(own, expected);
    postconf(dir.path(), &["-e", "message_size_limit=20480000"]);
    succeeds(script(dir.path(), &["--undo"]));
    let own = postconf(dir.path(), &["-Ph", "submission/inet/smtpd_milters"]);
    assert_eq!(own, "inet:localhost:8891\n");
    let master = dir.join("master.cf");
    assert_eq!(fs::read(&master).unwrap(), before[&master].0);
}

#[test]
fn a_unix_socket_lies_where_postfix_can_reach_it() {
    let dir = sample();
    let outside = ["milter", "--filter", "unix:/run/mailtee/milter.sock"];
    refuses(
        dir.path(),
        &outside,
        "runs in the chroot /var/spool/postfix",
    );
    let below = [
        "milter",
        "--filter",
        "unix:/var/spool/postfix/mailtee/milter.sock",
    ];
    succeeds(script(dir.path(), &below));
    let smtpd = list(&dir, "smtpd_milters");
    assert!(smtpd.starts_with("{ unix:mailtee/milter.sock, "), "{smtpd}");

    let free = sample();
    postconf(free.path(), &["-F", "*/*/chroot=n"]);
    succeeds(script(free.path(), &outside));
    let smtpd = list(&free, "smtpd_milters");
    assert!(
        smtpd.starts_with("{ unix:/run/mailtee/milter.sock, "),
        "{smtpd}"
    );
}

#[test]
fn what_milter_mode_does_not_understand_it_refuses() {
    let by_hand = sample_with("smtpd_milters = inet:127.0.0.1:8892\n");
    refuses(by_hand.path(), &["milter"], "among the milters already");
    let by_name = sample_with("ours = inet:127.0.0.1:8892\nsmtpd_milters = $ours\n");
    refuses(by_name.path(), &["milter"], "among the milters already");
    let behind = sample_with("non_smtpd_milters = $smtpd_milters, inet:localhost:8891\n");
    refuses(behind.path(), &["milter"], "their order is yours");
    let dir = sample();
    refuses(
        dir.path(),
        &["milter", "--service", "smtp/inet"],
        "no smtpd_milters of its own",
    );
    refuses(
        dir.path(),
        &["milter", "--filter", "8892"],
        "--filter must be HOST:PORT",
    );
    refuses(
        dir.path(),
        &["milter", "--on-capture-failure", "accept"],
        "must be tempfail or pass",
    );
    refuses(
        dir.path(),
        &["proxy-filter", "--on-capture-failure", "pass"],
        "is for milter",
    );
    let deaf = sample_with("receive_override_options = no_milters\n");
    refuses(deaf.path(), &["milter"], "would ask no milter");
    // A longer port is another one.
    let near = sample_with("smtpd_milters = inet:127.0.0.1:88921\n");
    succeeds(script(near.path(), &["milter"]));
}

/// mailtee with a milter front end.
pub(crate) fn milter() -> Setting {
    Mailtee::filter("")
        .option("protocol", "\"milter\"")
        .without("role")
        .without("upstream")
}

/// By the `sendmail` command, as a local user's program does.
fn submit(dir: &Path, mail: &Mail) {
    let mut child = Command::new("/usr/sbin/sendmail")
        .arg("-C")
        .arg(dir)
        .args(["-f", &mail.sender, "--"])
        .args(&mail.recipients)
        .stdin(Stdio::piped())
        .spawn()
        .expect("Postfix is installed");
    let text = String::from_utf8(mail.bytes.clone())
        .unwrap()
        .replace("\r\n", "\n");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

/// Signed before it came to us: the signer's header is in the copy, and the message ends as it was sent.
#[track_caller]
pub(crate) fn assert_signed(copy: &Copy, mail: &Mail) {
    let text = String::from_utf8_lossy(&copy.bytes);
    assert!(text.contains("DKIM-Signature: "), "{}: {text}", mail.kind);
    // A mail server hides its own from its milters.
    assert!(!text.contains("Received: "), "{}: {text}", mail.kind);
}

#[test]
fn a_running_postfix_shows_mailtee_what_was_signed_and_lets_it_go() {
    let next_hop = Sink::start();
    let signer = Peer::set("opendkim").start();
    let postfix = Peer::set("postfix")
        .env("NEXT_HOP", next_hop.address())
        .env(
            "EXTRA_MAIN",
            format!(
                "smtpd_milters = inet:{0}\nnon_smtpd_milters = inet:{0}",
                signer.var("MILTER")
            ),
        )
        .start();
    let dir = PathBuf::from(postfix.var("MAIL_CONFIG"));
    let before = contents(&dir);
    let mut mailtee = milter().start();
    let address = mailtee.frontend.to_string();
    succeeds(script(&dir, &["milter", "--filter", &address]));
    postfix_command("postfix", &dir, &["reload"]);

    let front = postfix.address("SMTP");
    let captured = |mailtee: &Mailtee| {
        let outcome = [("frontend", "front"), ("outcome", "captured")];
        mailtee.metrics().value("captured_messages_total", &outcome)
    };
    let mut serial = 0;
    let by_smtp = wait_until(Duration::from_secs(20), "mail is shown to mailtee", || {
        // Server processes from before the reload end by and by.
        serial += 1;
        let mail = send(front, serial);
        (captured(&mailtee) > 0.0).then_some(mail)
    });
    let by_command = Mail::plain(1_000);
    submit(&dir, &by_command);
    for mail in [&by_smtp, &by_command] {
        wait_until_received(&next_hop, mail);
    }
    mailtee.wait_until_forwarded(Duration::from_secs(30));
    let archive = Archive::read(&mailtee);
    for mail in [&by_smtp, &by_command] {
        let copy = archive.one_with(&mail.bytes, mail.kind);
        assert_signed(copy, mail);
        assert!(copy.recipients().contains("recipient@mailtee.test"));
    }

    // mailtee is down: nothing passes, nothing bounces; it waits where it came in.
    mailtee.terminate();
    let mut client = SmtpClient::greeted(front).unwrap();
    let reply = client.mail(&Mail::plain(2_000)).unwrap();
    assert!(reply.text().starts_with("451"), "{}", reply.text());
    let waits = Mail::plain(2_001);
    submit(&dir, &waits);
    wait_until(Duration::from_secs(20), "Postfix looks for mailtee", || {
        let log = postfix.file("log/maillog");
        let in_vain = |line: &str| line.contains("/cleanup[") && line.contains("connect to Milter");
        log.lines().any(in_vain).then_some(())
    });
    assert!(!has_received(&next_hop, &waits));

    // Out: the files as they were, and mail passes without it.
    succeeds(script(&dir, &["--undo"]));
    assert_eq!(contents(&dir), before);
    postfix_command("postfix", &dir, &["reload"]);
    wait_until(Duration::from_secs(20), "mail passes again", || {
        serial += 1;
        let mut client = SmtpClient::greeted(front).ok()?;
        let reply = client.mail(&Mail::plain(serial)).ok()?;
        reply.is_success().then_some(())
    });
    wake_pickup(&dir);
    wait_until_received(&next_hop, &waits);
}

#[test]
fn a_postfix_in_its_chroot_reaches_mailtee_by_a_unix_socket() {
    let next_hop = Sink::start();
    let postfix = Peer::set("postfix")
        .env("NEXT_HOP", next_hop.address())
        .start();
    let dir = PathBuf::from(postfix.var("MAIL_CONFIG"));
    // As the README has it: new sockets belong to the folder's group.
    let folder = postfix.dir().join("spool/mailtee");
    let made = Command::new("install")
        .args(["-d", "-g", "postfix", "-m", "2750"])
        .arg(&folder)
        .status();
    assert!(made.unwrap().success());
    let socket = format!("unix:{}", folder.join("milter.sock").display());
    let mailtee = milter()
        .append(&format!(
            "[[frontend]]\nname = \"socket\"\nprotocol = \"milter\"\nlisten = \"{socket}\"\nsocket_mode = \"0660\""
        ))
        .start();
    for service in [&format!("{}/inet", postfix.var("SMTP")), "cleanup/unix"] {
        postconf(&dir, &["-F", &format!("{service}/chroot=y")]);
    }
    succeeds(script(&dir, &["milter", "--filter", &socket]));
    let at = dir.to_string_lossy();
    let check = mailtee.command(&["check", "--offline", "--postfix", "--config-dir", &at]);
    succeeds(check);
    postfix_command("postfix", &dir, &["reload"]);
    let captured = || {
        let outcome = [("frontend", "socket"), ("outcome", "captured")];
        mailtee.metrics().value("captured_messages_total", &outcome)
    };
    let mut serial = 0;
    wait_until(Duration::from_secs(20), "mail is shown to mailtee", || {
        serial += 1;
        send(postfix.address("SMTP"), serial);
        (captured() > 0.0).then_some(())
    });
    let by_command = Mail::plain(1_000);
    submit(&dir, &by_command);
    wait_until_received(&next_hop, &by_command);
    mailtee.wait_until_forwarded(Duration::from_secs(30));
    Archive::read(&mailtee).one_with(&by_command.bytes, "what sendmail(1) submitted");
}

#[test]
fn with_pass_postfix_does_not_wait_for_mailtee() {
    let next_hop = Sink::start();
    let postfix = Peer::set("postfix")
        .env("NEXT_HOP", next_hop.address())
        .start();
    let dir = PathBuf::from(postfix.var("MAIL_CONFIG"));
    let nobody = format!("127.0.0.1:{}", free_port());
    let pass = [
        "milter",
        "--on-capture-failure",
        "pass",
        "--filter",
        &nobody,
    ];
    succeeds(script(&dir, &pass));
    postfix_command("postfix", &dir, &["reload"]);
    let by_command = Mail::plain(1_000);
    submit(&dir, &by_command);
    let mut serial = 0;
    wait_until(
        Duration::from_secs(20),
        "mailtee is looked for in vain",
        || {
            serial += 1;
            // Each is taken, be it by a process from before the reload.
            let mail = send(postfix.address("SMTP"), serial);
            let log = postfix.file("log/maillog");
            let in_vain = |by: &str| {
                let told = |line: &str| line.contains(by) && line.contains("connect to Milter");
                log.lines().any(told)
            };
            (in_vain("/smtpd[") && in_vain("/cleanup["))
                .then(|| wait_until_received(&next_hop, &mail))
        },
    );
    wait_until_received(&next_hop, &by_command);
}
