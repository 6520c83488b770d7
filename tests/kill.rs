//! kill -9 at random instants: what got 250 is in the vault once, what did not is there at most once, nothing else is.
//!
//! The clients are the kit's, which know each message, and Postfix's smtp-source, whose messages the next hop knows. Rounds and
//! seed: `kit::rounds`.

use crate::kit::{
    Ledger, Mailtee, Passed, Rounds,
    passed::SmtpSource,
    rounds::{JOURNAL, to_come_to_rest},
};

/// A target that is gone is soon asked again.
const IMPATIENT: &str = "target_retry_min = \"50ms\"\ntarget_retry_max = \"200ms\"\n\
                         message_retry_min = \"50ms\"\nmessage_retry_max = \"200ms\"\n";

#[test]
fn a_killed_daemon_loses_nothing_and_doubles_nothing() {
    let mut rounds = Rounds::all();
    let (sink, passed) = Passed::next_hop(|whole| whole);
    let mut mailtee = Mailtee::filter(sink.address()).append(JOURNAL).start();
    let ledger = Ledger::default();
    ledger.under_load(mailtee.frontend, || {
        rounds.kill(&mut mailtee, || ledger.acknowledged(), 80);
    });
    mailtee.wait_until_forwarded(to_come_to_rest());
    ledger.check_passed(&passed);
    ledger.check(&mailtee.vault());
    let metrics = mailtee.metrics();
    assert_eq!(metrics.value("quarantined_records", &[]), 0.0);
    let lag = metrics.value("sync_lag_seconds", &[("target", "vault")]);
    assert_eq!(lag, 0.0);
}

#[test]
fn a_killed_vault_loses_nothing_and_doubles_nothing() {
    let mut rounds = Rounds::all();
    let (sink, _) = Passed::next_hop(|whole| whole);
    let mut vault = Mailtee::vault_alone();
    let mailtee = Mailtee::filter(sink.address())
        .without_vault()
        .append(JOURNAL)
        .append(&(vault.as_target("archive") + IMPATIENT))
        .start();
    let ledger = Ledger::default();
    ledger.under_load(mailtee.frontend, || {
        rounds.kill(&mut vault, || ledger.acknowledged(), 80);
    });
    mailtee.wait_until_forwarded(to_come_to_rest());
    let parked = mailtee.metrics();
    let parked = parked.value("parked_messages", &[("target", "archive")]);
    assert_eq!(parked, 0.0, "a killed vault is no reason to park");
    ledger.check(&vault.vault());
}

#[test]
fn what_smtp_source_sends_through_a_killed_daemon_is_there_once() {
    let mut rounds = Rounds::all();
    let (sink, passed) = Passed::next_hop(|whole| whole);
    let mut mailtee = Mailtee::filter(sink.address()).append(JOURNAL).start();
    let source = SmtpSource::before(mailtee.frontend);
    source.send_while_killed(&mut mailtee, &mut rounds, &passed);
    mailtee.wait_until_forwarded(to_come_to_rest());
    passed.check(&mailtee.vault(), &rounds);
}
