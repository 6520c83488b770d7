//! `deploy/postfix`: the change, its dry run and its undoing, byte for byte on sample files and then on a running Postfix.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use crate::kit::{
    Archive, Mail, Mailtee, Peer, Sink, SmtpClient, TestDir, free_port,
    sink::{Answer, Moment},
    wait_until,
};

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/postfix")
        .join(name)
}

/// Runs `mailtee-postfix` on a configuration directory.
pub(crate) fn script(dir: &Path, arguments: &[&str]) -> Output {
    age(dir);
    Command::new(deploy("mailtee-postfix"))
        .args(arguments)
        .arg("-c")
        .arg(dir)
        .output()
        .expect("the script runs")
}

/// Postfix waits two seconds before it reads a main.cf that was just written, lest it is half written.
pub(crate) fn age(dir: &Path) {
    if let Ok(file) = fs::File::options().append(true).open(dir.join("main.cf")) {
        let minute_ago = std::time::SystemTime::now() - Duration::from_secs(60);
        file.set_modified(minute_ago).expect("our own file");
    }
}

#[track_caller]
pub(crate) fn succeeds(output: Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).expect("text")
}

/// Refused with these words, and nothing was changed.
#[track_caller]
pub(crate) fn refuses(dir: &Path, arguments: &[&str], words: &str) {
    let before = contents(dir);
    let output = script(dir, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{arguments:?} went through");
    assert!(error.contains(words), "{words:?} is not in {error}");
    assert_eq!(contents(dir), before, "{arguments:?} changed something");
}

pub(crate) fn postconf(dir: &Path, arguments: &[&str]) -> String {
    age(dir);
    let output = Command::new("postconf")
        .arg("-c")
        .arg(dir)
        .args(arguments)
        .output();
    succeeds(output.expect("postconf runs"))
}

/// Every file below a directory, with its owner and mode.
pub(crate) fn contents(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u32, u32)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let meta = fs::metadata(&path).expect("its facts");
            found.insert(
                path.clone(),
                (fs::read(&path).expect("a file"), meta.uid(), meta.mode()),
            );
        }
    }
    found
}

/// Postfix's own sample files, with an owner's touches: comments, continuation lines, odd spacing.
pub(crate) fn sample() -> TestDir {
    let dir = TestDir::new();
    let main =
        fs::read_to_string("/usr/share/postfix/main.cf.debian").expect("Postfix is installed");
    let main = format!(
        "{main}\ncompatibility_level = 3.6\n# ours\nmynetworks =\n  127.0.0.0/8\n  [::1]/128\nmyhostname=mx.example.org\n"
    );
    fs::write(dir.join("main.cf"), main).unwrap();
    fs::copy("/usr/share/postfix/master.cf.dist", dir.join("master.cf"))
        .expect("Postfix is installed");
    fs::set_permissions(dir.join("main.cf"), fs::Permissions::from_mode(0o640)).unwrap();
    dir
}

const MODES: [&str; 3] = ["content-filter", "proxy-filter", "milter"];

/// Those in which mail goes through mailtee and comes back in.
const FILTERS: [&str; 2] = ["content-filter", "proxy-filter"];

#[test]
fn undo_gives_every_file_back_to_the_byte() {
    for mode in MODES {
        let dir = sample();
        for file in ["main.cf", "master.cf"] {
            let path = dir.join(file);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.trim_end()).unwrap();
        }
        let before = contents(dir.path());
        succeeds(script(dir.path(), &[mode]));
        assert_ne!(contents(dir.path()), before);
        assert_eq!(
            postconf(dir.path(), &["-h", "myhostname"]),
            "mx.example.org\n"
        );
        let mode_kept = fs::metadata(dir.join("main.cf")).unwrap().mode() & 0o777;
        assert_eq!(mode_kept, 0o640, "{mode} keeps the file's permissions");
        succeeds(script(dir.path(), &["--undo"]));
        assert_eq!(contents(dir.path()), before, "{mode}");
    }
}

#[test]
fn a_dry_run_prints_exactly_what_then_happens_and_touches_nothing() {
    for mode in MODES {
        let dir = sample();
        let before = contents(dir.path());
        let dry = succeeds(script(dir.path(), &[mode, "--dry-run"]));
        assert_eq!(contents(dir.path()), before, "{mode} --dry-run");
        let done = succeeds(script(dir.path(), &[mode]));
        assert_eq!(dry, done);

        // The printed difference, applied by patch(1) to the old files, gives the new ones.
        let patched = sample();
        let from_here = dry.replace(&format!("{}/", dir.path().display()), "");
        fs::write(patched.join("change.diff"), from_here.replace(" (new)", "")).unwrap();
        let status = Command::new("git")
            .args(["apply", "-p0", "change.diff"])
            .current_dir(patched.path())
            .env("GIT_CEILING_DIRECTORIES", "/tmp")
            .status()
            .unwrap();
        assert!(status.success());
        for file in ["main.cf", "master.cf"] {
            assert_eq!(
                fs::read(patched.join(file)).unwrap(),
                fs::read(dir.join(file)).unwrap(),
                "{mode} {file}"
            );
        }

        let undo = succeeds(script(dir.path(), &["--undo", "--dry-run"]));
        let taken_out = match mode {
            "milter" => "-smtpd_milters = { inet:127.0.0.1:8892,",
            _ => "-127.0.0.1:10026 inet",
        };
        assert!(undo.contains(taken_out), "{undo}");
        assert!(
            dir.join("mailtee-postfix.saved").exists(),
            "a dry undo undoes nothing"
        );
    }
}

#[test]
fn undo_leaves_what_the_administrator_changed_since() {
    for mode in MODES {
        let dir = sample();
        let services = postconf(dir.path(), &["-M"]);
        let options = postconf(dir.path(), &["-P"]);
        succeeds(script(dir.path(), &[mode]));
        postconf(dir.path(), &["-e", "message_size_limit=20480000"]);
        postconf(dir.path(), &["-P", "smtp/inet/smtpd_helo_required=yes"]);
        succeeds(script(dir.path(), &["--undo"]));
        assert_eq!(
            postconf(dir.path(), &["-h", "message_size_limit"]),
            "20480000\n"
        );
        assert_eq!(postconf(dir.path(), &["-h", "content_filter"]), "\n");
        assert_eq!(
            postconf(dir.path(), &["-h", "receive_override_options"]),
            "\n"
        );
        assert_eq!(postconf(dir.path(), &["-h", "smtpd_milters"]), "\n");
        let with_theirs = format!("smtp/inet/smtpd_helo_required = yes\n{options}");
        assert_eq!(postconf(dir.path(), &["-P"]), with_theirs, "{mode}");
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let bare: Vec<_> = words(&postconf(dir.path(), &["-M"]));
        let expected = words(&services.replacen("smtpd", "smtpd -o smtpd_helo_required=yes", 1));
        assert_eq!(bare, expected, "{mode}");
        assert!(!dir.join("mailtee-postfix.saved").exists());
    }
}

#[test]
fn the_fragments_and_the_script_say_the_same() {
    for mode in MODES {
        let by_script = sample();
        postconf(by_script.path(), &["-F", "smtp/inet/chroot=n"]);
        succeeds(script(by_script.path(), &[mode]));

        let by_hand = sample();
        let append = |file: &str, text: &str| {
            let path = by_hand.join(file);
            fs::write(
                &path,
                format!("{}\n{text}", fs::read_to_string(&path).unwrap()),
            )
            .unwrap();
        };
        let fragment = |file: &str| fs::read_to_string(deploy(mode).join(file)).unwrap_or_default();
        if mode == "proxy-filter" {
            // The fragment brings the whole line that an administrator has already.
            postconf(by_hand.path(), &["-MX", "smtp/inet"]);
        } else {
            postconf(by_hand.path(), &["-F", "smtp/inet/chroot=n"]);
        }
        append("main.cf", &fragment("main.cf"));
        append("master.cf", &fragment("master.cf"));

        let settings = |dir: &TestDir| {
            let here = dir.path().display().to_string();
            postconf(dir.path(), &["-n"]).replace(&here, "DIR")
        };
        assert_eq!(settings(&by_hand), settings(&by_script), "{mode}");
        for listing in ["-M", "-P"] {
            let sorted = |dir: &TestDir| {
                let text = postconf(dir.path(), &[listing]);
                let mut lines: Vec<_> = text
                    .replace("\n    ", " ")
                    .lines()
                    .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                    .collect();
                lines.sort();
                lines
            };
            assert_eq!(sorted(&by_hand), sorted(&by_script), "{mode} {listing}");
        }
    }
}

#[test]
fn what_it_does_not_understand_it_refuses() {
    let with = |arguments: &[&str]| {
        let dir = sample();
        postconf(dir.path(), arguments);
        dir
    };
    for mode in FILTERS {
        let other = with(&["-e", "content_filter=scan:[127.0.0.1]:10025"]);
        refuses(
            other.path(),
            &[mode],
            "content_filter is scan:[127.0.0.1]:10025 already",
        );
        let per_service = with(&["-P", "smtp/inet/content_filter=scan:[127.0.0.1]:10025"]);
        refuses(per_service.path(), &[mode], "per service");
        let overrides = with(&["-e", "receive_override_options=no_milters"]);
        refuses(overrides.path(), &[mode], "receive_override_options");
        let taken = with(&[
            "-M",
            "127.0.0.1:10026/inet=127.0.0.1:10026 inet n - n - - smtpd",
        ]);
        refuses(
            taken.path(),
            &[mode],
            "a service 127.0.0.1:10026/inet already",
        );

        let dir = sample();
        refuses(
            dir.path(),
            &[mode, "--reinject", "192.0.2.1:10026"],
            "only 127.0.0.0/8",
        );
        refuses(
            dir.path(),
            &[mode, "--reinject", "127.0.0.1:10025"],
            "the same address",
        );
        refuses(
            dir.path(),
            &[mode, "--filter", "127.0.0.1"],
            "--filter must be HOST:PORT",
        );
        refuses(dir.path(), &[mode, "--nonsense"], "unknown argument");
        refuses(dir.path(), &["--undo"], "no change of ours");
        succeeds(script(dir.path(), &[mode]));
        for again in MODES {
            refuses(dir.path(), &[again], "take it out with --undo first");
        }

        let broken = sample();
        fs::write(broken.join("master.cf"), "smtp inet n - n\n").unwrap();
        refuses(broken.path(), &[mode], "");

        let linked = sample();
        let elsewhere = TestDir::new();
        fs::rename(linked.join("main.cf"), elsewhere.join("main.cf")).unwrap();
        std::os::unix::fs::symlink(elsewhere.join("main.cf"), linked.join("main.cf")).unwrap();
        refuses(linked.path(), &[mode], "symbolic link");
    }
    let milters = with(&["-e", "smtpd_milters=inet:127.0.0.1:8891"]);
    refuses(milters.path(), &["proxy-filter"], "smtpd_milters is set");
    succeeds(script(milters.path(), &["proxy-filter", "--keep-milters"]));
    let nothing_to_filter = with(&["-MX", "smtp/inet"]);
    refuses(
        nothing_to_filter.path(),
        &["proxy-filter"],
        "name the service with --service",
    );
    let chrooted = sample();
    let unix = ["proxy-filter", "--filter", "unix:/run/mailtee/in"];
    refuses(chrooted.path(), &unix, "runs in a chroot");
    let wrong_service = sample();
    refuses(
        wrong_service.path(),
        &["proxy-filter", "--service", "pickup/unix"],
        "is pickup, not smtpd",
    );
}

#[test]
fn behind_postscreen_its_smtpd_is_filtered() {
    let dir = sample();
    postconf(
        dir.path(),
        &["-M", "smtp/inet=smtp inet n - n - 1 postscreen"],
    );
    postconf(dir.path(), &["-M", "smtpd/pass=smtpd pass - - n - - smtpd"]);
    succeeds(script(
        dir.path(),
        &["proxy-filter", "--filter", "unix:/run/mailtee/in"],
    ));
    let options = postconf(dir.path(), &["-P", "smtpd/pass/smtpd_proxy_filter"]);
    assert_eq!(
        options,
        "smtpd/pass/smtpd_proxy_filter = unix:/run/mailtee/in\n"
    );
}

#[test]
fn a_running_postfix_takes_the_filter_in_waits_for_it_and_lets_it_go() {
    let next_hop = Sink::start();
    let postfix = Peer::set("postfix")
        .env("NEXT_HOP", next_hop.address())
        .start();
    let dir = PathBuf::from(postfix.var("MAIL_CONFIG"));
    // The peer's own file knows a transport of this name.
    postconf(&dir, &["-MX", "mailtee/unix"]);
    let before = contents(&dir);
    let filter = Sink::scripted(|moment| match moment {
        Moment::Command(line) if line.starts_with("EHLO") => Answer::Say(
            "250-filter\r\n250-PIPELINING\r\n250 XFORWARD NAME ADDR PROTO HELO IDENT\r\n"
                .to_owned(),
        ),
        Moment::Command(line) if line.starts_with("XFORWARD") => {
            Answer::Say("250 ok\r\n".to_owned())
        }
        _ => Answer::Default,
    });
    let filter_address = filter.address();
    let reinject = format!("127.0.0.1:{}", free_port());
    let arguments = [
        "content-filter",
        "--filter",
        &filter_address.to_string(),
        "--reinject",
        &reinject,
    ];
    succeeds(script(&dir, &arguments));
    postfix_command("postfix", &dir, &["reload"]);
    let reinject = reinject.parse().unwrap();
    wait_until(Duration::from_secs(20), "the way back in is open", || {
        SmtpClient::greeted(reinject).ok().map(|_| ())
    });

    // In: the filter gets it, with who sent it.
    let front = postfix.address("SMTP");
    let mut serial = 0;
    wait_until(Duration::from_secs(20), "mail goes to the filter", || {
        // Server processes from before the reload end by and by.
        serial += 1;
        send(front, serial);
        (filter.count() > 0).then_some(())
    });
    let session = filter.received()[0].session.join("\n");
    assert!(
        session.contains("ADDR=127.0.0.1") && session.contains("IDENT="),
        "{session}"
    );

    // Back in: it goes on to the next hop, and not to the filter again.
    let back = send(reinject, 1_000);
    wait_until_received(&next_hop, &back);
    assert!(!has_received(&filter, &back));

    // The filter is down: mail waits, nobody gets a bounce.
    drop(filter);
    let waits = send(front, 1_001);
    wait_until(Duration::from_secs(20), "the message is deferred", || {
        let log = postfix.file("log/maillog");
        log.contains("status=deferred").then_some(())
    });
    assert!(!postfix.file("log/maillog").contains("status=bounced"));

    // Out: the files as they were, and what waited goes to the next hop by itself.
    succeeds(script(&dir, &["--undo"]));
    assert_eq!(contents(&dir), before);
    assert!(!has_received(&next_hop, &waits));
    postfix_command("postfix", &dir, &["reload"]);
    postfix_command("postsuper", &dir, &["-r", "ALL"]);
    // pickup(8) would look by itself within a minute.
    wake_pickup(&dir);
    wait_until_received(&next_hop, &waits);
}

#[test]
fn a_running_postfix_takes_mailtee_in_before_its_queue_and_lets_it_go() {
    let next_hop = Sink::start();
    let postfix = Peer::set("postfix")
        .env("NEXT_HOP", next_hop.address())
        .start();
    let dir = PathBuf::from(postfix.var("MAIL_CONFIG"));
    postconf(&dir, &["-MX", "mailtee/unix"]);
    let before = contents(&dir);
    let reinject = format!("127.0.0.1:{}", free_port());
    let mailtee = Mailtee::filter(&reinject).start();
    let front = postfix.address("SMTP");
    succeeds(script(
        &dir,
        &[
            "proxy-filter",
            "--service",
            &format!("{front}/inet"),
            "--filter",
            &mailtee.frontend.to_string(),
            "--reinject",
            &reinject,
        ],
    ));
    postfix_command("postfix", &dir, &["reload"]);
    let captured = || {
        let outcome = [("frontend", "front"), ("outcome", "captured")];
        mailtee.metrics().value("captured_messages_total", &outcome)
    };
    let mut serial = 0;
    let mail = wait_until(Duration::from_secs(20), "mail passes mailtee", || {
        // Server processes from before the reload end by and by.
        serial += 1;
        let mail = send(front, serial);
        (captured() > 0.0).then_some(mail)
    });
    wait_until_received(&next_hop, &mail);
    mailtee.wait_until_forwarded(Duration::from_secs(30));
    Archive::read(&mailtee).one_with(&mail.bytes, "what passed");

    succeeds(script(&dir, &["--undo"]));
    assert_eq!(contents(&dir), before);
    postfix_command("postfix", &dir, &["reload"]);
    wait_until(
        Duration::from_secs(20),
        "mail passes without mailtee",
        || {
            serial += 1;
            let before = captured();
            let mail = send(front, serial);
            wait_until_received(&next_hop, &mail);
            (captured() == before).then_some(())
        },
    );
}

pub(crate) fn send(to: SocketAddr, serial: u64) -> Mail {
    let mail = Mail::plain(serial);
    let mut client = SmtpClient::greeted(to).unwrap();
    assert!(client.mail(&mail).unwrap().is_success());
    mail
}

/// Postfix puts its own headers before the message and changes nothing behind them.
pub(crate) fn has_received(sink: &Sink, mail: &Mail) -> bool {
    let received = sink.received();
    received.iter().any(|got| got.bytes.ends_with(&mail.bytes))
}

pub(crate) fn wait_until_received(sink: &Sink, mail: &Mail) {
    wait_until(Duration::from_secs(30), "the message arrives", || {
        has_received(sink, mail).then_some(())
    });
}

/// Has Postfix look now for what was submitted by command.
#[track_caller]
pub(crate) fn wake_pickup(dir: &Path) {
    // One that is just starting over, after a reload, hangs up on the first call.
    wait_until(Duration::from_secs(20), "pickup is told to look", || {
        let told = Command::new("postkick")
            .arg("-c")
            .arg(dir)
            .args(["public", "pickup", "W"])
            .status();
        told.expect("it is installed").success().then_some(())
    });
}

pub(crate) fn postfix_command(program: &str, dir: &Path, arguments: &[&str]) {
    let output = Command::new(program)
        .arg("-c")
        .arg(dir)
        .args(arguments)
        .output();
    succeeds(output.expect("it is installed"));
}
