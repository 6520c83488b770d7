//! `deploy/postfix`, milter mode: ours is the last of the lists that are there, again and again, and comes out of them alone.

use std::fs;

use crate::{
    kit::TestDir,
    postfix_deploy::{contents, postconf, refuses, sample, script, succeeds},
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
    let dir =
        sample_with("smtpd_milters = inet:localhost:8891\nnon_smtpd_milters = $smtpd_milters\n");
    let before = contents(dir.path());
    succeeds(script(dir.path(), &["milter"]));
    let both = format!("inet:localhost:8891, {OURS}");
    assert_eq!(list(&dir, "smtpd_milters"), both);
    assert_eq!(list(&dir, "non_smtpd_milters"), both);
    succeeds(script(dir.path(), &["--undo"]));
    assert_eq!(contents(dir.path()), before);
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
    // A longer port is another one.
    let near = sample_with("smtpd_milters = inet:127.0.0.1:88921\n");
    succeeds(script(near.path(), &["milter"]));
}
