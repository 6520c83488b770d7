//! What does not fit between a Postfix and the front ends of a configuration, each with what to do about it: here, which
//! mail passes us by; in `milter`, how ours is asked. Pure but for `reach`, which looks at a socket and is an argument.

use super::{
    entrance::{Entrance, FrontEnds, MilterFrontEnd, SocketPath, Way, entrances},
    installed::Postfix,
    milter,
};

/// One line of advice, about one or more entrances.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Advice {
    pub(super) about: Vec<String>,
    pub(super) level: Level,
    pub(super) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Well,
    /// Harmless, and worth knowing.
    Note,
    Warning,
}

/// What keeps Postfix from a socket.
pub(super) type Reach<'a> = &'a dyn Fn(&SocketPath) -> Option<(Level, String)>;

#[derive(Default)]
pub(super) struct Advices(Vec<Advice>);

impl Advices {
    /// Entrances for which the same is to be said share a line.
    pub(super) fn say(&mut self, about: &str, level: Level, text: String) {
        let same = |advice: &&mut Advice| advice.level == level && advice.text == text;
        if let Some(advice) = self.0.iter_mut().find(same) {
            if advice.about.iter().all(|name| name != about) {
                advice.about.push(about.to_owned());
            }
        } else {
            let about = vec![about.to_owned()];
            self.0.push(Advice { about, level, text });
        }
    }
}

pub(super) fn advise(postfix: &Postfix, ours: &FrontEnds, reach: Reach<'_>) -> Vec<Advice> {
    let mut advices = Advices::default();
    let entrances = entrances(postfix, ours);
    let mut ways = Vec::new();
    let mut misplaced = Vec::new();
    for entrance in &entrances {
        let asked = entrance.asked(postfix, ours);
        for (way, name) in &asked {
            let text = format!("{} is front end {name}", way.name());
            advices.say(entrance.name, Level::Well, text);
        }
        both_ways(entrance, &asked, &mut advices);
        for front_end in &ours.milters {
            milter::look(entrance, front_end, postfix, reach, &mut advices);
        }
        misplaced.push(milter::outside_chroot(
            entrance,
            postfix,
            ours,
            &mut advices,
        ));
        ways.push(asked);
    }
    if ways.iter().all(Vec::is_empty) && !misplaced.contains(&true) {
        let text = match entrances.iter().any(|entrance| entrance.no_milters) {
            true if !ours.milters.is_empty() => DEAF.to_owned(),
            _ => nobody_asks(ours),
        };
        advices.say("", Level::Warning, text);
        return advices.0;
    }
    let is_by_milter = ways.iter().flatten().any(|(way, _)| *way == Way::Milter);
    for ((entrance, asked), misplaced) in entrances.iter().zip(&ways).zip(misplaced) {
        if asked.is_empty() && !misplaced {
            let (level, text) = passed_by(entrance, ours.milters.first().filter(|_| is_by_milter));
            advices.say(entrance.name, level, text);
        }
        if entrance.is_smtpd()
            && !postfix
                .setting(entrance.asker, "smtpd_milter_maps")
                .is_empty()
        {
            let text = "smtpd_milter_maps chooses other milters for some clients: see that each of its lists ends with ours";
            advices.say(entrance.name, Level::Note, text.to_owned());
        }
    }
    advices.0
}

/// Whatever the lists of milters say.
const DEAF: &str = "nothing is copied: receive_override_options has no_milters, so that Postfix asks none: take it out";

fn nobody_asks(ours: &FrontEnds) -> String {
    let milters = ours.milters.iter().map(|it| (&it.name, &it.listen));
    let filters = ours.filters.iter().map(|it| (&it.name, &it.listen));
    let listens: Vec<String> = milters
        .chain(filters)
        .map(|(name, listen)| format!("{name} ({listen})"))
        .collect();
    if listens.is_empty() {
        return "no front end here is one that Postfix asks: add one with protocol \"milter\", or with role \"filter\""
            .to_owned();
    }
    format!(
        "nothing is copied: neither a milter nor content_filter nor smtpd_proxy_filter names {}: run mailtee-postfix, \
         or add it by hand",
        listens.join(" or ")
    )
}

/// The same message by a milter and by a filter.
fn both_ways(entrance: &Entrance<'_>, asked: &[(Way, &str)], advices: &mut Advices) {
    let is_both = asked.iter().any(|(way, _)| *way == Way::Milter)
        && asked.iter().any(|(way, _)| *way != Way::Milter);
    if is_both {
        let text = "the same mail comes by the milter and by the filter: one copy with two sightings; one of them is enough";
        advices.say(entrance.name, Level::Note, text.to_owned());
    }
}

/// An entrance at which nobody asks us, while others do: by this milter, or by filters alone.
fn passed_by(entrance: &Entrance<'_>, milter: Option<&MilterFrontEnd>) -> (Level, String) {
    let what = match entrance.is_smtpd() {
        true => "mail that comes in here is not copied",
        false => "mail that is submitted by sendmail(1) is not copied",
    };
    // Where another filter gives mail back, it was seen before.
    let level = match entrance.is_loopback {
        true => Level::Note,
        false => Level::Warning,
    };
    match milter {
        Some(_) if entrance.no_milters => (
            level,
            format!("{what}: take no_milters out of receive_override_options"),
        ),
        Some(front_end) => (
            level,
            format!(
                "{what}: put {}, which is front end {}, at the end of {}",
                front_end.written(),
                front_end.name,
                entrance.list_name
            ),
        ),
        // What the proxy filter cannot see, its users know.
        None if !entrance.is_smtpd() => (
            Level::Note,
            format!("{what}: smtpd_proxy_filter never sees it; content_filter or a milter would"),
        ),
        None => (
            level,
            format!("{what}: neither content_filter nor smtpd_proxy_filter leads to us"),
        ),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::{
        super::{entrance::FilterFrontEnd, installed::tests::postfix},
        *,
    };
    use crate::frontends::OnCaptureFailure;

    pub(in super::super) const OURS: &str =
        "{ inet:127.0.0.1:8892, default_action=tempfail, protocol=6 }";

    /// A Debian Postfix: everything in a chroot, a re-injection on 10026; `main` as in main.cf, `own` as `postconf -P`.
    pub(in super::super) fn installed(main: &str, own: &str) -> Postfix {
        let defaults = "cleanup_service_name = cleanup\nqueue_directory = /var/spool/postfix\nmilter_content_timeout = 300s\n\
                        milter_default_action = tempfail\nmilter_protocol = 6\n";
        let fields: String = [
            "smtp/inet=smtpd",
            "submission/inet=smtpd",
            "127.0.0.1:10026/inet=smtpd",
        ]
        .into_iter()
        .chain([
            "pickup/unix=pickup",
            "cleanup/unix=cleanup",
            "smtp/unix=smtp",
        ])
        .filter_map(|service| service.split_once('='))
        .map(|(name, command)| format!("{name}/chroot = y\n{name}/command = {command}\n"))
        .collect();
        postfix(&format!("{defaults}{main}"), &fields, own)
    }

    pub(in super::super) fn by_milter(listen: &str) -> FrontEnds {
        FrontEnds {
            milters: vec![MilterFrontEnd {
                name: "m".to_owned(),
                listen: listen.parse().unwrap(),
                on_capture_failure: OnCaptureFailure::Tempfail,
                capture_timeout: Duration::from_secs(60),
            }],
            next_hops: vec!["127.0.0.1:10026".parse().unwrap()],
            ..FrontEnds::default()
        }
    }

    fn by_filter() -> FrontEnds {
        FrontEnds {
            filters: vec![FilterFrontEnd {
                name: "f".to_owned(),
                listen: "127.0.0.1:10025".parse().unwrap(),
            }],
            ..by_milter("127.0.0.1:8892")
        }
    }

    /// `smtp/inet, pickup/unix: text` for each that is no plain success.
    pub(in super::super) fn said(postfix: &Postfix, ours: &FrontEnds) -> Vec<(Level, String)> {
        advise(postfix, ours, &|_| None)
            .into_iter()
            .filter(|advice| advice.level != Level::Well)
            .map(|advice| {
                (
                    advice.level,
                    format!("{}: {}", advice.about.join(", "), advice.text),
                )
            })
            .collect()
    }

    /// One line, of this level, with these words.
    #[track_caller]
    pub(in super::super) fn says(
        main: &str,
        own: &str,
        ours: &FrontEnds,
        level: Level,
        words: &[&str],
    ) {
        let said = said(&installed(main, own), ours);
        let [(found, text)] = &said[..] else {
            panic!("{said:#?}");
        };
        assert_eq!(*found, level, "{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text}");
        }
    }

    pub(in super::super) fn both(list: &str) -> String {
        format!("smtpd_milters = {list}\nnon_smtpd_milters = {list}\n")
    }

    #[test]
    fn a_postfix_that_fits_gets_no_advice_and_says_what_fits() {
        let advices = advise(
            &installed(&both(OURS), ""),
            &by_milter("127.0.0.1:8892"),
            &|_| None,
        );
        let expected = Advice {
            about: ["smtp/inet", "submission/inet", "pickup/unix"]
                .map(str::to_owned)
                .to_vec(),
            level: Level::Well,
            text: "milter is front end m".to_owned(),
        };
        assert_eq!(advices, [expected]);
        let filtered = "content_filter = mailtee:[127.0.0.1]:10025\n";
        assert_eq!(said(&installed(filtered, ""), &by_filter()), []);
    }

    #[test]
    fn where_nobody_asks_us_nothing_is_copied() {
        let ours = by_milter("127.0.0.1:8892");
        let nothing = ["nothing is copied", "m (127.0.0.1:8892)", "mailtee-postfix"];
        says("", "", &ours, Level::Warning, &nothing);
        says(
            &both("inet:localhost:8891"),
            "",
            &ours,
            Level::Warning,
            &nothing,
        );
        let deaf = format!("{}receive_override_options = no_milters\n", both(OURS));
        says(
            &deaf,
            "",
            &ours,
            Level::Warning,
            &["nothing is copied", "take it out"],
        );
        let none = FrontEnds::default();
        says("", "", &none, Level::Warning, &["no front end here"]);
    }

    #[test]
    fn an_entrance_that_passes_us_by_is_named() {
        let ours = by_milter("127.0.0.1:8892");
        let smtpd = format!("smtpd_milters = {OURS}\n");
        let local = [
            "pickup/unix: ",
            "sendmail(1) is not copied",
            "end of non_smtpd_milters",
        ];
        says(&smtpd, "", &ours, Level::Warning, &local);
        let non_smtpd = format!("non_smtpd_milters = {OURS}\n");
        let smtp = ["smtp/inet, submission/inet: ", "end of smtpd_milters"];
        says(&non_smtpd, "", &ours, Level::Warning, &smtp);
        let own = "submission/inet/smtpd_milters = inet:localhost:8891\n";
        says(
            &both(OURS),
            own,
            &ours,
            Level::Warning,
            &["submission/inet: mail"],
        );
        let own = "submission/inet/receive_override_options = no_milters\n";
        says(
            &both(OURS),
            own,
            &ours,
            Level::Warning,
            &["take no_milters out"],
        );
        // What comes back from a filter of others was seen before.
        let mut strange = by_milter("127.0.0.1:8892");
        strange.next_hops.clear();
        let own = "127.0.0.1:10026/inet/smtpd_milters = \n";
        says(
            &both(OURS),
            own,
            &strange,
            Level::Note,
            &["127.0.0.1:10026/inet: mail"],
        );

        let own = "smtp/inet/smtpd_proxy_filter = 127.0.0.1:10025\nsubmission/inet/smtpd_proxy_filter = 127.0.0.1:10025\n";
        says(
            "",
            own,
            &by_filter(),
            Level::Note,
            &["pickup/unix: ", "never sees it"],
        );
    }

    #[test]
    fn two_ways_for_the_same_mail_are_a_note() {
        let main = format!("{}content_filter = mailtee:[127.0.0.1]:10025\n", both(OURS));
        says(
            &main,
            "",
            &by_filter(),
            Level::Note,
            &["one copy with two sightings"],
        );
        let own = "smtp/inet/smtpd_milter_maps = cidr:/etc/postfix/no-milters\n";
        says(
            &both(OURS),
            own,
            &by_milter("127.0.0.1:8892"),
            Level::Note,
            &["smtp/inet: smtpd_milter_maps"],
        );
    }
}
