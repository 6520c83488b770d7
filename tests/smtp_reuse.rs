//! One connection to the next hop for the sessions of our own mail server, one after another; and when it is not kept.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::Duration,
};

use mailtee::wire::smtp::Role;

use crate::{
    kit::{
        Mail, Peer, Sink, SmtpClient,
        sink::{Answer, Moment},
    },
    smtp_rig::{Front, filter},
};

/// A whole session: a message, QUIT.
fn session(front: &Front, mail: &Mail) {
    let mut client = SmtpClient::greeted(front.address).unwrap();
    assert!(client.mail(mail).unwrap().is_success());
    assert_eq!(client.command("QUIT").unwrap().code, 221);
}

fn connections(front: &Front, kind: &str) -> u64 {
    let connections = &front.metrics.upstream_connections_total;
    connections.with_label_values(&["front", kind]).get()
}

/// A session has ended for its client before it leaves its connection.
fn wait_left(front: &Front) {
    front.wait("the session is over", |f| {
        f.metrics.sessions.with_label_values(&["front"]).get() == 0
    });
}

/// A willing next hop that notes the verbs that it hears.
fn noting() -> (Sink, Arc<Mutex<Vec<String>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let notes = heard.clone();
    let sink = Sink::scripted(move |moment| {
        if let Moment::Command(line) = moment {
            let verb = line.split(' ').next().unwrap_or_default();
            notes.lock().unwrap().push(verb.to_owned());
        }
        Answer::Default
    });
    (sink, heard)
}

fn patient(next_hop: SocketAddr) -> mailtee::frontends::Options {
    let mut options = filter(next_hop);
    options.limits.upstream_idle = Duration::from_secs(600);
    options
}

#[test]
fn sessions_follow_each_other_on_one_connection() {
    let (next_hop, heard) = noting();
    let front = Front::start(patient(next_hop.address()));
    let mails: Vec<Mail> = (0..3).map(Mail::plain).collect();
    for mail in &mails {
        session(&front, mail);
        wait_left(&front);
    }
    assert_eq!(connections(&front, "new"), 1);
    assert_eq!(connections(&front, "reused"), 2);
    let received = next_hop.wait_for(3);
    for (mail, received) in mails.iter().zip(&received) {
        assert!(received.bytes == mail.bytes);
    }
    assert_eq!(front.captures(3).len(), 3);
    let verbs = heard.lock().unwrap().join(" ");
    assert_eq!(verbs, format!("EHLO{}", " MAIL RCPT DATA".repeat(3)));
    // The stop takes leave of it.
    front.stop.cancel();
    front.wait("it hears QUIT", |_| {
        heard.lock().unwrap().last().is_some_and(|v| v == "QUIT")
    });
}

#[test]
fn a_connection_that_nobody_comes_for_hears_quit() {
    let (next_hop, heard) = noting();
    let mut options = filter(next_hop.address());
    options.limits.upstream_idle = Duration::from_millis(50);
    let front = Front::start(options);
    session(&front, &Mail::plain(1));
    front.wait("it hears QUIT", |_| {
        heard.lock().unwrap().last().is_some_and(|v| v == "QUIT")
    });
    session(&front, &Mail::plain(2));
    assert_eq!(connections(&front, "new"), 2);
}

#[test]
fn the_end_waits_for_a_goodbye_that_is_on_its_way() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let notes = heard.clone();
    let next_hop = Sink::scripted(move |moment| {
        if let Moment::Command("QUIT") = moment {
            notes.lock().unwrap().push("asked");
            // A next hop in no hurry.
            std::thread::sleep(Duration::from_millis(500));
            notes.lock().unwrap().push("answered");
        }
        Answer::Default
    });
    let mut options = filter(next_hop.address());
    options.limits.upstream_idle = Duration::from_millis(50);
    let front = Front::start(options);
    session(&front, &Mail::plain(1));
    front.wait("it hears QUIT", |_| heard.lock().unwrap().len() == 1);
    front.stop.cancel();
    front.tasks.close();
    front.runtime.block_on(front.tasks.wait());
    assert_eq!(*heard.lock().unwrap(), ["asked", "answered"]);
}

#[test]
fn a_next_hop_that_was_restarted_is_connected_anew() {
    let next_hop = Sink::start();
    let address = next_hop.address();
    let front = Front::start(patient(address));
    session(&front, &Mail::plain(1));
    wait_left(&front);
    drop(next_hop);
    front.wait("the port is free", |_| TcpListener::bind(address).is_ok());
    let next_hop = Sink::start_at(address);
    session(&front, &Mail::plain(2));
    assert_eq!(next_hop.wait_for(1)[0].bytes, Mail::plain(2).bytes);
    assert_eq!(connections(&front, "stale"), 1);
    assert_eq!(connections(&front, "new"), 2);
}

#[test]
fn a_next_hop_that_refused_something_is_connected_anew() {
    let next_hop = Sink::scripted(|moment| match moment {
        Moment::EndOfData(_) => Answer::Say("451 4.3.0 later\r\n".into()),
        _ => Answer::Default,
    });
    let front = Front::start(patient(next_hop.address()));
    for serial in 0..2 {
        let mut client = SmtpClient::greeted(front.address).unwrap();
        assert_eq!(client.mail(&Mail::plain(serial)).unwrap().code, 451);
        assert_eq!(client.command("QUIT").unwrap().code, 221);
        wait_left(&front);
    }
    assert_eq!(connections(&front, "new"), 2);
    assert_eq!(connections(&front, "reused"), 0);
}

/// OpenSMTPD takes a hundred messages of one session; the limit is meant for each of ours, not for all together.
#[test]
fn no_session_hears_that_others_before_it_sent_too_much() {
    let sink = Sink::start();
    let server = Peer::set("opensmtpd")
        .env("NEXT_HOP", sink.address())
        .start();
    let front = Front::start(patient(server.address("SMTP")));
    for serial in 0..110 {
        session(&front, &Mail::plain(serial));
        wait_left(&front);
    }
    assert!(connections(&front, "reused") > 100);
}

#[test]
fn strangers_have_a_connection_each_and_zero_keeps_none() {
    for (role, idle) in [(Role::Proxy, 600), (Role::Filter, 0)] {
        let next_hop = Sink::start();
        let mut options = filter(next_hop.address());
        options.role = role;
        options.limits.upstream_idle = Duration::from_secs(idle);
        let front = Front::start(options);
        for serial in 0..2 {
            session(&front, &Mail::plain(serial));
            wait_left(&front);
        }
        assert_eq!(connections(&front, "new"), 2, "{role:?}");
        assert_eq!(connections(&front, "reused"), 0, "{role:?}");
    }
}
