//! kill -9 at random instants behind a Postfix that shows its mail to the milter: what Postfix answered with 250 is in the
//! vault once, nothing is there twice. As in `kill`.

use crate::{
    kit::{
        Ledger, Mailtee, Passed, Peer, Rounds, Sink,
        passed::SmtpSource,
        rounds::{JOURNAL, to_come_to_rest},
    },
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
    let mut rounds = Rounds::all();
    let (sink, passed) = Passed::next_hop(before_last_hop);
    let (mut mailtee, postfix) = chain(&sink);
    let ledger = Ledger::default();
    ledger.under_load(postfix.address("SMTP"), || {
        rounds.kill(&mut mailtee, || ledger.acknowledged(), 80);
    });
    wait_until_delivered(&postfix);
    mailtee.wait_until_forwarded(to_come_to_rest());
    ledger.check(&mailtee.vault());
    ledger.check_passed(&passed);
    assert_eq!(mailtee.metrics().value("quarantined_records", &[]), 0.0);
}

#[test]
fn what_smtp_source_sends_through_a_killed_milter_is_there_once() {
    let mut rounds = Rounds::all();
    let (sink, passed) = Passed::next_hop(before_last_hop);
    let (mut mailtee, postfix) = chain(&sink);
    let source = SmtpSource::before(postfix.address("SMTP"));
    source.send_while_killed(&mut mailtee, &mut rounds, &passed);
    wait_until_delivered(&postfix);
    mailtee.wait_until_forwarded(to_come_to_rest());
    passed.check(&mailtee.vault(), &rounds);
}
