//! Our milter in one of Postfix's lists: its place, its settings, its failure policy, its socket. Pure but for `reach`.

use std::time::Duration;

use super::{
    advice::{Advices, Level, Reach},
    entrance::{Entrance, FrontEnds, MilterFrontEnd},
    installed::Postfix,
    value::{Endpoint, Milter, time},
};
use crate::{frontends::OnCaptureFailure, net::Address};

/// Our milter as it is asked at this entrance.
pub(super) fn look(
    entrance: &Entrance<'_>,
    front_end: &MilterFrontEnd,
    postfix: &Postfix,
    reach: Reach<'_>,
    advices: &mut Advices,
) {
    let ours = |milter: &Milter<'_>| entrance.is_at(milter, &front_end.listen, postfix);
    let Some(place) = entrance.milters.iter().rposition(ours) else {
        return;
    };
    if entrance.no_milters {
        return;
    }
    let (milter, behind) = (&entrance.milters[place], &entrance.milters[place + 1..]);
    let mut warn = |text| advices.say(entrance.name, Level::Warning, text);
    if !behind.is_empty() {
        let names: Vec<&str> = behind.iter().map(|milter| milter.written).collect();
        warn(format!(
            "{} stands behind ours in {}: what it signs or changes is not in the copy; put ours last",
            names.join(", "),
            entrance.list_name
        ));
    }
    // A setting of the milter's own, or what Postfix takes instead, with its name.
    let setting = |own: &'static str, general: &'static str| match milter.setting(own) {
        Some(value) => (own, value),
        None => (general, postfix.setting(entrance.asker, general)),
    };
    let (name, protocol) = setting("protocol", "milter_protocol");
    let version = protocol.split([' ', ',', '\t']).next().unwrap_or_default();
    if version.parse::<u32>().is_ok_and(|version| version < 6) {
        warn(format!(
            "{name}={protocol}: below 6 the copy lacks exact white space in headers and who was refused; set protocol=6"
        ));
    }
    let (name, value) = setting("content_timeout", "milter_content_timeout");
    let capture = front_end.capture_timeout;
    if time(value).is_some_and(|timeout| timeout < capture) {
        warn(format!(
            "{name}={value} is shorter than capture_timeout ({} s) of front end {}: where the disk stalls in the middle \
             of a large message, Postfix gives it up before mailtee does; set content_timeout={}s or more",
            capture.as_secs(),
            front_end.name,
            (capture * 2).max(Duration::from_secs(300)).as_secs()
        ));
    }
    let (name, action) = setting("default_action", "milter_default_action");
    if let Some((level, text)) = policy(name, action, front_end) {
        advices.say(entrance.name, level, text);
    }
    if let Some(Endpoint::Unix(written)) = milter.endpoint()
        && let Some((level, text)) = reach(&entrance.socket_path(&written, postfix))
    {
        advices.say(entrance.name, level, text);
    }
}

/// What Postfix does while we cannot be asked, against what the front end promises.
fn policy(name: &str, action: &str, front_end: &MilterFrontEnd) -> Option<(Level, String)> {
    let (promise, fitting) = match front_end.on_capture_failure {
        OnCaptureFailure::Tempfail => ("tempfail", "tempfail"),
        OnCaptureFailure::Pass => ("pass", "accept"),
    };
    if action == fitting {
        return None;
    }
    let what = match action {
        "accept" => "mail passes without a copy",
        "quarantine" => "mail is put on hold without a copy",
        "reject" => "mail is refused for good",
        "tempfail" => "clients are told to try later",
        "shutdown" => "clients are told to try later, and disconnected",
        _ => "it is not known what happens",
    };
    // Nothing passes without a copy; it is only less polite.
    let (level, contradicts) = match (promise, action) {
        ("tempfail", "shutdown") => (Level::Note, "goes further than"),
        _ => (Level::Warning, "contradicts"),
    };
    Some((
        level,
        format!(
            "{name}={action}: {what} while mailtee cannot be asked, which {contradicts} on_capture_failure = \"{promise}\" of \
             front end {}; set default_action={fitting}",
            front_end.name
        ),
    ))
}

/// Whether the list names our socket as it is outside of the chroot in which it is looked for.
pub(super) fn outside_chroot(
    entrance: &Entrance<'_>,
    postfix: &Postfix,
    ours: &FrontEnds,
    advices: &mut Advices,
) -> bool {
    let mut found = false;
    for front_end in &ours.milters {
        let Address::Unix(at) = &front_end.listen else {
            continue;
        };
        let literally = |milter: &Milter<'_>| milter.endpoint() == Some(Endpoint::Unix(at.clone()));
        if entrance.no_milters
            || entrance
                .milters
                .iter()
                .any(|m| entrance.is_at(m, &front_end.listen, postfix))
            || !entrance.milters.iter().any(literally)
        {
            continue;
        }
        found = true;
        let queue = postfix.main("queue_directory");
        let text = format!(
            "{} is in the chroot {queue}, where unix:{} is another path: let mailtee listen on \
             unix:{queue}/mailtee/milter.sock, and name it unix:mailtee/milter.sock in {}",
            entrance.asker.name,
            at.display(),
            entrance.list_name
        );
        advices.say(entrance.name, Level::Warning, text);
    }
    found
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::{
        super::advice::{
            advise,
            tests::{OURS, both, by_milter, installed, said, says},
        },
        *,
    };

    #[test]
    fn the_policy_is_the_milter_s_own_or_postfix_s_default() {
        let tempfail = by_milter("127.0.0.1:8892");
        let mut pass = by_milter("127.0.0.1:8892");
        pass.milters[0].on_capture_failure = OnCaptureFailure::Pass;
        let with = |action: &str| {
            both(&format!(
                "{{ inet:127.0.0.1:8892, default_action={action} }}"
            ))
        };
        let accept = [
            "passes without a copy",
            "contradicts",
            "set default_action=tempfail",
        ];
        says(&with("accept"), "", &tempfail, Level::Warning, &accept);
        says(
            &with("reject"),
            "",
            &tempfail,
            Level::Warning,
            &["refused for good"],
        );
        says(
            &with("quarantine"),
            "",
            &tempfail,
            Level::Warning,
            &["on hold"],
        );
        says(
            &with("shutdown"),
            "",
            &tempfail,
            Level::Note,
            &["goes further than"],
        );
        for action in ["tempfail", "shutdown", "reject", "quarantine"] {
            says(
                &with(action),
                "",
                &pass,
                Level::Warning,
                &["set default_action=accept"],
            );
        }
        assert_eq!(said(&installed(&with("accept"), ""), &pass), []);
        let general = format!(
            "{}milter_default_action = accept\n",
            both("inet:127.0.0.1:8892")
        );
        says(
            &general,
            "",
            &tempfail,
            Level::Warning,
            &["milter_default_action=accept"],
        );
        // A service may say it too.
        let own = "submission/inet/milter_default_action = accept\n";
        let main = both("inet:127.0.0.1:8892");
        says(
            &main,
            own,
            &tempfail,
            Level::Warning,
            &["submission/inet: milter_default_action"],
        );
    }

    #[test]
    fn who_stands_behind_ours_is_named() {
        let ours = by_milter("127.0.0.1:8892");
        let list =
            format!("inet:a:1, {OURS}, {{ inet:localhost:8891, default_action=accept }}, unix:r");
        let words = ["inet:localhost:8891, unix:r stands behind ours in smtpd_milters"];
        let main = format!("smtpd_milters = {list}\nnon_smtpd_milters = inet:a:1, {OURS}\n");
        says(&main, "", &ours, Level::Warning, &words);
    }

    #[test]
    fn an_old_protocol_and_a_hasty_timeout_are_faults() {
        let ours = by_milter("127.0.0.1:8892");
        let old = format!("{}milter_protocol = 2\n", both("inet:127.0.0.1:8892"));
        says(
            &old,
            "",
            &ours,
            Level::Warning,
            &["milter_protocol=2", "set protocol=6"],
        );
        let hasty = both("{ inet:127.0.0.1:8892, content_timeout=59s }");
        let words = [
            "content_timeout=59s",
            "capture_timeout (60 s)",
            "set content_timeout=300s",
        ];
        says(&hasty, "", &ours, Level::Warning, &words);
        let enough = both("{ inet:127.0.0.1:8892, content_timeout=1m }");
        assert_eq!(said(&installed(&enough, ""), &ours), []);
    }

    #[test]
    fn a_unix_socket_is_looked_for_where_the_process_looks() {
        let ours = by_milter("unix:/var/spool/postfix/mailtee/m");
        let looked = RefCell::new(Vec::new());
        let look = |postfix: &Postfix, ours: &FrontEnds| {
            let advices = advise(postfix, ours, &|socket| {
                looked
                    .borrow_mut()
                    .push((socket.base.clone(), socket.path.clone()));
                Some((Level::Warning, "out of reach".to_owned()))
            });
            advices
                .into_iter()
                .filter(|a| a.level == Level::Warning)
                .map(|a| a.text)
                .collect::<Vec<_>>()
        };
        for written in ["unix:mailtee/m", "unix:/mailtee/m", "local:./mailtee//m"] {
            assert_eq!(
                look(&installed(&both(written), ""), &ours),
                ["out of reach"],
                "{written}"
            );
        }
        let expected = (
            "/var/spool/postfix".into(),
            "/var/spool/postfix/mailtee/m".into(),
        );
        assert!(looked.borrow().iter().all(|found| *found == expected));
        assert_eq!(looked.borrow().len(), 9);

        let outside = by_milter("unix:/run/mailtee/m");
        let said = look(&installed(&both("unix:/run/mailtee/m"), ""), &outside);
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(
            said[0].contains("smtp/inet is in the chroot /var/spool/postfix"),
            "{said:?}"
        );
        assert!(
            said[2].contains("cleanup/unix is in the chroot"),
            "{said:?}"
        );
    }
}
