//! The lag alert from end to end: the shipped rules in a real Prometheus, a real Alertmanager, the target stopped, the alert
//! at a webhook; the target back, the alert resolved. The target is Cyrus over JMAP.

use std::{fs, time::Duration};

use crate::kit::{Mail, Mailtee, Peer, Sink, SmtpClient, TestDir, alert::Webhook, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// The shipped rules, with times that a test can wait for. Only numbers change.
fn impatient_rules(dir: &TestDir) -> std::path::PathBuf {
    let shipped =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana/prometheus-rules.yml");
    let rules = fs::read_to_string(shipped).unwrap();
    let impatient = rules
        .replace(
            "(mailtee_sync_lag_seconds) > 300",
            "(mailtee_sync_lag_seconds) > 3",
        )
        .replace("for: 2m", "for: 1s")
        .replace("for: 5m", "for: 1s");
    assert_ne!(impatient, rules);
    let path = dir.join("rules.yml");
    fs::write(&path, impatient).unwrap();
    path
}

#[test]
fn a_stopped_target_raises_the_lag_alert_and_its_return_resolves_it() {
    let dir = TestDir::new();
    let mut cyrus = Peer::set("cyrus").env("USERS", 1).start();
    let sink = Sink::start();
    let password = dir.join("password");
    fs::write(&password, cyrus.var("JMAP_PASS")).unwrap();
    let target = format!(
        "[[target]]\nname = \"archive\"\ntype = \"jmap\"\nurl = \"{}\"\nca_file = \"{}\"\nuser = \"{}\"\npassword_file = \"{}\"\n\
         failures_to_pause = 1\ntarget_retry_min = \"200ms\"\ntarget_retry_max = \"1s\"\n\
         message_retry_min = \"100ms\"\nmessage_retry_max = \"500ms\"\n",
        cyrus.var("JMAPS"),
        cyrus.var("CA"),
        cyrus.var("JMAP_USER"),
        password.display(),
    );
    let mailtee = Mailtee::filter(sink.address())
        .without_vault()
        .append(&target)
        .start();
    let webhook = Webhook::start();
    let _prometheus = Peer::set("prometheus")
        .env("TARGETS", mailtee.admin)
        .env("RULES", impatient_rules(&dir).display())
        .env("WEBHOOK", webhook.url())
        .start();
    let archive = [("target", "archive")];

    let mut client = SmtpClient::greeted(mailtee.frontend).unwrap();
    assert!(client.mail(&Mail::plain(1)).unwrap().is_success());
    mailtee.wait_until_forwarded(SOON);
    assert_eq!(mailtee.metrics().value("sync_lag_seconds", &archive), 0.0);
    assert_eq!(mailtee.metrics().value("target_up", &archive), 1.0);

    cyrus.stop();
    for serial in 2..12 {
        let reply = client.mail(&Mail::plain(serial)).unwrap();
        assert!(
            reply.is_success(),
            "mail flows all the same: {}",
            reply.text()
        );
    }
    let fired = wait_until(SOON, "the lag alert reaches the webhook", || {
        webhook.heard("MailteeSyncLag", "firing")
    });
    assert_eq!(fired.labels["target"], "archive");
    assert!(
        fired.annotations["runbook"]
            .as_str()
            .is_some_and(|text| text.contains("nothing is lost"))
    );
    wait_until(SOON, "the target's own alert reaches it too", || {
        webhook.heard("MailteeTargetDown", "firing")
    });
    let metrics = mailtee.metrics();
    assert!(metrics.value("sync_lag_seconds", &archive) > 3.0);
    assert_eq!(metrics.value("waiting_messages", &archive), 10.0);
    assert_eq!(metrics.value("target_up", &archive), 0.0);

    cyrus.start_again();
    mailtee.wait_until_forwarded(SOON);
    for alert in ["MailteeSyncLag", "MailteeTargetDown"] {
        wait_until(SOON, &format!("{alert} is resolved"), || {
            webhook.heard(alert, "resolved")
        });
    }
    let metrics = mailtee.metrics();
    assert_eq!(metrics.value("sync_lag_seconds", &archive), 0.0);
    let stored = [("target", "archive"), ("outcome", "stored")];
    assert_eq!(
        metrics.value("forwarded_messages_total", &stored),
        11.0,
        "each once"
    );
    for alert in webhook.alerts() {
        assert!(
            ["MailteeSyncLag", "MailteeTargetDown"].contains(&alert.name.as_str()),
            "nothing else fired: {alert:?}"
        );
    }
}
