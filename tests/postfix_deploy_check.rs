//! `mailtee check --postfix` against a real Postfix: what fits is quiet, each thing that does not is said once.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::PathBuf,
};

use serde_json::Value;

use crate::{
    kit::{Mailtee, Peer, free_port},
    postfix_deploy::{age, postconf, script, succeeds},
    postfix_deploy_milter::milter,
};

/// A Postfix with mailtee as its milter, and a configuration with three front ends that it may ask.
struct Pair {
    postfix: Peer,
    dir: PathBuf,
    mailtee: Mailtee,
    filter: String,
    as_it_was: [(PathBuf, Vec<u8>); 2],
}

impl Pair {
    fn new() -> Self {
        let filter = format!("127.0.0.1:{}", free_port());
        let postfix = Peer::set("postfix").start();
        let spool = postfix.dir().join("spool");
        let mailtee = milter()
            .append(&format!(
                "[[frontend]]\nname = \"socket\"\nprotocol = \"milter\"\nlisten = \"unix:{}/mailtee/milter.sock\"\n\
                 [[frontend]]\nname = \"filter\"\nprotocol = \"smtp\"\nrole = \"filter\"\nlisten = \"{filter}\"\n\
                 upstream = \"127.0.0.1:{}\"",
                spool.display(),
                free_port(),
            ))
            .prepare();
        let dir = PathBuf::from(postfix.var("MAIL_CONFIG"));
        let address = mailtee.frontend.to_string();
        succeeds(script(&dir, &["milter", "--filter", &address]));
        let as_it_was = ["main.cf", "master.cf"].map(|file| {
            let path = dir.join(file);
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        });
        Self {
            postfix,
            dir,
            mailtee,
            filter,
            as_it_was,
        }
    }

    /// The exit status, and each line that is about Postfix.
    fn check(&self, more: &[&str]) -> (Option<i32>, Vec<Value>) {
        age(&self.dir);
        let dir = self.dir.to_string_lossy().into_owned();
        let mut arguments = vec![
            "check",
            "--offline",
            "--format",
            "json",
            "--postfix",
            "--config-dir",
            &dir,
        ];
        arguments.extend(more);
        let output = self.mailtee.command(&arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let about = |line: &Value| line["what"].as_str().unwrap().starts_with("postfix");
        (output.status.code(), lines.filter(about).collect())
    }

    /// With main.cf or master.cf changed so, one line of this kind (`why` or `note`) has these words, and no other has any.
    #[track_caller]
    fn says(&self, changes: &[&[&str]], kind: &str, words: &[&str]) {
        for change in changes {
            postconf(&self.dir, change);
        }
        let (status, lines) = self.check(&[]);
        let telling = |line: &&Value| line.get("why").is_some() || line.get("note").is_some();
        let told: Vec<&Value> = lines.iter().filter(telling).collect();
        let [line] = told[..] else {
            panic!("{changes:?}: {lines:#?}");
        };
        let text = format!("{}: {}", line["what"], line[kind]);
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text}");
        }
        assert_eq!(status, Some(i32::from(kind == "why")), "{text}");
        for (path, bytes) in &self.as_it_was {
            fs::write(path, bytes).unwrap();
        }
    }
}

#[test]
fn each_thing_that_does_not_fit_is_said_once() {
    let pair = Pair::new();
    let ours = format!("inet:{}", pair.mailtee.frontend);
    let (status, lines) = pair.check(&[]);
    assert_eq!(status, Some(0), "{lines:#?}");
    let smtp = pair.postfix.var("SMTP");
    let what = format!("postfix {smtp}/inet, pickup/unix: milter is front end front");
    assert_eq!(lines, [serde_json::json!({"what": what, "ok": true})]);

    let set = |name: &str, list: &str| format!("{name}={list}");
    let both = |list: &str| [set("smtpd_milters", list), set("non_smtpd_milters", list)];
    let says = |settings: &[String], kind, words: &[&str]| {
        let changes: Vec<[&str; 2]> = settings.iter().map(|s| ["-e", s.as_str()]).collect();
        let changes: Vec<&[&str]> = changes.iter().map(|c| &c[..]).collect();
        pair.says(&changes, kind, words);
    };
    says(
        &both(""),
        "why",
        &["nothing is copied", "front (127.0.0.1:"],
    );
    let accept = both(&format!("{{ {ours}, default_action=accept }}"));
    says(
        &accept,
        "why",
        &["default_action=accept", "passes without a copy"],
    );
    let mut general = both(&ours).to_vec();
    general.push("milter_default_action=reject".to_owned());
    says(
        &general,
        "why",
        &["milter_default_action=reject", "refused for good"],
    );
    let behind = [set(
        "smtpd_milters",
        &format!("{ours}, inet:127.0.0.1:8891"),
    )];
    says(
        &behind,
        "why",
        &["inet:127.0.0.1:8891 stands behind ours in smtpd_milters"],
    );
    let local = [set("non_smtpd_milters", "")];
    says(&local, "why", &["pickup/unix", "sendmail(1) is not copied"]);
    let old = both(&format!("{{ {ours}, protocol=4 }}"));
    says(&old, "why", &["protocol=4", "set protocol=6"]);
    let hasty = both(&format!("{{ {ours}, content_timeout=10s }}"));
    says(
        &hasty,
        "why",
        &["content_timeout=10s is shorter than capture_timeout (60 s)"],
    );
    let twice = [format!(
        "content_filter=mailtee:[127.0.0.1]:{}",
        pair.filter.rsplit_once(':').unwrap().1
    )];
    says(&twice, "note", &["one copy with two sightings"]);

    let submission = "submission/inet=submission inet n - n - - smtpd -o smtpd_milters=";
    pair.says(
        &[&["-M", submission]],
        "why",
        &["submission/inet", "end of smtpd_milters"],
    );
}

#[test]
fn a_socket_out_of_reach_is_said_with_the_reason() {
    let pair = Pair::new();
    let queue = pair.postfix.dir().join("spool");
    let path = queue.join("mailtee/milter.sock");
    let both = |endpoint: &str| {
        ["smtpd_milters", "non_smtpd_milters"].map(|name| format!("{name}={endpoint}"))
    };
    let says = |endpoint: &str, more: &[&str], words: &[&str]| {
        let [smtpd, non_smtpd] = both(endpoint);
        let mut changes: Vec<&[&str]> = vec![];
        let (smtpd, non_smtpd) = (["-e", &smtpd], ["-e", &non_smtpd]);
        changes.extend([&smtpd[..], &non_smtpd[..]]);
        changes.extend((!more.is_empty()).then_some(more));
        pair.says(&changes, "why", words);
    };
    says(
        "unix:mailtee/milter.sock",
        &[],
        &["spool/mailtee is not there: make it"],
    );
    fs::create_dir(path.parent().unwrap()).unwrap();
    let mode = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(path.parent().unwrap(), 0o750);
    let _listener = UnixListener::bind(&path).unwrap();
    mode(&path, 0o660);
    says(
        "unix:mailtee/milter.sock",
        &[],
        &["user postfix cannot enter"],
    );
    mode(path.parent().unwrap(), 0o755);
    says(
        "unix:mailtee/milter.sock",
        &[],
        &["user postfix may not write to"],
    );
    mode(&path, 0o666);
    // The chroot's own path, and the path outside that means nothing in it.
    let absolute = format!("unix:{}", path.display());
    let chroot = ["-F", "cleanup/unix/chroot=y"];
    says(
        &absolute,
        &chroot,
        &[
            "cleanup/unix is in the chroot",
            "unix:mailtee/milter.sock in non_smtpd",
        ],
    );
    for setting in both("unix:mailtee/milter.sock") {
        postconf(&pair.dir, &["-e", &setting]);
    }
    postconf(&pair.dir, &chroot);
    let (status, lines) = pair.check(&[]);
    assert_eq!(status, Some(0), "{lines:#?}");
}

#[test]
fn a_postconf_that_says_nothing_is_a_finding() {
    let pair = Pair::new();
    let (status, lines) = pair.check(&["--postconf", "/nonexistent/postconf"]);
    assert_eq!(status, Some(1));
    let why = lines[0]["why"].as_str().unwrap();
    assert!(why.starts_with("/nonexistent/postconf: "), "{why}");
    fs::remove_file(pair.dir.join("main.cf")).unwrap();
    let (status, lines) = pair.check(&[]);
    assert_eq!(status, Some(1));
    let why = lines[0]["why"].as_str().unwrap();
    assert!(why.contains("main.cf"), "{why}");
    fs::write(&pair.as_it_was[0].0, &pair.as_it_was[0].1).unwrap();
}
