//! kill -9 at random instants behind a Postfix that shows its mail to the milter: what Postfix answered with 250 is in the
//! vault once, nothing is there twice. As in `kill.rs`, whose clients and rounds these are.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    kill::{
        JOURNAL, Ledger, Passed, SESSIONS, SmtpSource, rounds, seed, spin, to_come_to_rest,
        under_load,
    },
    kit::{Mailtee, Peer, Sink, mail::Random, wait_until},
    postfix_deploy_milter::milter,
    postfix_filter::{before_last_hop, wait_until_delivered},
};

/// Client → Postfix, with the milter → sink.
fn chain(sink: &Sink) -> (Mailtee, Peer) {
    let mailtee = milter().append(JOURNAL).start();
    let postfix = Peer::set("postfix")
        .argument("milter")
        .env("FILTER", mailtee.frontend)
        .env("NEXT_HOP", sink.address())
        .start();
    (mailtee, postfix)
}

#[test]
fn what_postfix_acknowledged_while_its_milter_was_killed_is_there_once() {
    let mut random = Random(seed());
    let (sink, passed) = Passed::next_hop(before_last_hop);
    let (mut mailtee, postfix) = chain(&sink);
    let ledger = Ledger::default();
    under_load(&ledger, postfix.address("SMTP"), |ledger| {
        for round in 0..rounds() {
            ledger.random_instant(&mut random, 80);
            mailtee.kill();
            if round % 8 == 7 {
                // and once more while it recovers
                mailtee.spawn();
                spin(random.below(120_000));
                mailtee.kill();
            }
            mailtee.start();
        }
    });
    wait_until_delivered(&postfix);
    mailtee.wait_until_forwarded(to_come_to_rest());
    ledger.check(&mailtee.vault());
    ledger.check_passed(&passed);
    assert_eq!(mailtee.metrics().value("quarantined_records", &[]), 0.0);
}

/// What went on had its 250: each is in the vault once. What else is there was synced, and Postfix had not heard of it
/// yet: one a session and kill.
#[test]
fn what_smtp_source_sends_through_a_killed_milter_is_there_once() {
    let rounds = usize::try_from(rounds()).unwrap();
    let mut random = Random(seed());
    let (sink, taken) = Passed::next_hop(before_last_hop);
    let (mut mailtee, postfix) = chain(&sink);
    let mut source = SmtpSource::before(postfix.address("SMTP"));
    for _ in 0..rounds {
        source.start();
        let goal = taken.count() + 1 + usize::try_from(random.below(80)).unwrap();
        wait_until(Duration::from_secs(60), "smtp-source sends", || {
            (taken.count() >= goal).then_some(())
        });
        spin(random.below(3_000));
        mailtee.kill();
        mailtee.start();
    }
    source.stop();
    wait_until_delivered(&postfix);
    mailtee.wait_until_forwarded(to_come_to_rest());
    let passed = taken.distinct();
    let mut seen = BTreeSet::new();
    for (id, blob) in mailtee.vault().emails() {
        assert!(seen.insert(blob), "{id} is there twice");
    }
    let missing = passed.difference(&seen).count();
    assert_eq!(
        missing,
        0,
        "passed and not in the vault, of {}",
        passed.len()
    );
    let unanswered = seen.difference(&passed).count();
    assert!(
        unanswered <= SESSIONS * (rounds + 1),
        "{unanswered} never passed"
    );
}
