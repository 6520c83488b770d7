//! The integration tests, all in one binary: real servers, the built `mailtee`, loopback only.
//!
//! Each module is one topic; `kit` starts and ends what they need. A missing peer is a failure, never a skip: see
//! `tests/run`, which installs them.

// What they are made of.

#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the kit offers more than one topic takes"
)]
mod kit;

/// The kit itself: each peer starts and ends, the sink records what the client sent.
mod kit_self;

/// A front end over a real journal in this process.
mod smtp_rig;

/// A journal, a dedup map and a worker in this process.
mod forward_rig;

/// An HTTP server before the vault that does what networks and servers do, by script.
mod forward_faulty;

/// A vault in this process, for the tests of the vault.
#[allow(unreachable_pub, reason = "the kit offers more than one topic takes")]
mod vault_kit;

/// Two ways to a mailbox server, directly and through mailtee, and what clients need to go them.
mod mailbox_rig;

/// What an IMAP client says and hears, written down.
mod mailbox_dialogue;

/// A domain with its DNS server and its web servers.
mod domain_rig;

/// Every server that `mailtee identify` is shown.
mod identify_rig;

// The tree itself.

/// The map of lib.rs, held: imports, purity, length, names.
mod tidy;

/// Tables in the README against the code they describe.
mod readme;

/// Dashboard and alert rules name only what is exported; every alert has its case.
mod grafana;

// Mail comes in.

/// Sockets as front ends and next hops use them: limits, unix sockets, PROXY protocol, TLS, reloads, panics.
mod net;

/// SMTP and LMTP transcripts, both legs, in any chunking.
mod smtp_cases;

/// What holds for every SMTP session: relayed is sent, copied is sent, nothing is smuggled.
mod smtp_laws;

/// What holds for every POP3 session: relayed is sent, copied is sent, in any chunking.
mod pop3_laws;

/// SMTP and LMTP sessions over sockets: captures, failures, limits, shutting down.
mod smtp_sessions;

/// An envelope of as many recipients as a session takes.
mod smtp_envelope;

/// A connection to the next hop that outlives its session.
mod smtp_reuse;

/// TLS and PROXY headers on both legs of an SMTP session.
mod smtp_secure;

/// Milter sessions over sockets: captures, failures, limits, offers of all ages.
mod milter_sessions;

/// What holds for every milter connection: the copy is the message, in any chunking and of any offer.
mod milter_laws;

/// The milter of the built daemon: a disk that stalls, strangers at the port, a large message, a reload.
mod milter_daemon;

/// POP3 clients before real Dovecot, Cyrus and Courier, directly and through the proxy: the same, and all of it copied.
mod mailbox_pop3;

/// Journal reports: each case in `tests/cases/journal/`, any chunking, bounded memory.
mod journal_report;

/// Real Postfix in front of and behind mailtee: a thousand messages in each mode, failures, smuggling.
mod postfix_filter;

/// `deploy/postfix`: the change, its dry run and its undoing, on files and on a running Postfix.
mod postfix_deploy;

/// `deploy/postfix` as a milter: the last of the lists, again and again, and out of them alone.
mod postfix_deploy_milter;

/// `mailtee check --postfix` against a real Postfix, each warning provoked.
mod postfix_deploy_check;

/// `deploy/sendmail`: the fragment in a sendmail.cf that m4 builds, and in a running Sendmail.
mod sendmail_deploy;

/// Front ends with protocol "auto": what they open as, and what they do while their server is away.
mod auto_frontend;

/// The same, when their server becomes another or loses its TLS.
mod auto_changes;

/// Every server there is, before `mailtee identify`: named right, each within 12 s, most within 1 s.
mod identify_servers;

/// Servers that mean harm to `mailtee identify`: it ends, tells nothing that a terminal obeys, hands nothing over.
mod identify_hostile;

/// `mailtee check` at next hops that are right, and at such as are wrong in each way.
mod check_next_hop;

/// What a domain says of its mail servers, by a real DNS server and at all the places of autoconfiguration.
mod identify_domain;

/// The milter in real Postfix and real Sendmail: each case in `tests/cases/milter/`, at both.
mod milter_cases;

/// A thousand messages by the milter against what Postfix delivered, and what the two differ in.
mod milter_mail;

/// A message that the milter, the filter and a journal report show is one copy with three sightings.
mod milter_once;

/// What opendkim signed before the milter, verified on the copies by dkimpy.
mod milter_signed;

/// IMAP through mailtee before a real Dovecot: what is saved, what is read, what fails, how it ends.
mod mailbox_imap;

/// IMAP sessions that are stuck, silent, closed on one side, cut off by a stop: what each holds, hears and leaves.
mod mailbox_stuck;

/// A command that removes, while the journal's disk stalls: it is held till the copies are safe, and nobody is stuck by it.
mod mailbox_settle;

/// A client that vanishes without a word: its session ends in two minutes.
mod mailbox_gone;

/// The server behind a mailbox front end: gone and back, another for some users, told who the client is.
mod mailbox_upstream;

/// TLS on both legs of an IMAP session: each kind, what does not verify, what was injected, what a reload brings.
mod mailbox_secure;

/// The server's leg has TLS, the client's has none: no password crosses it, but where the operator or the host allows it.
mod mailbox_cleartext;

/// Every SASL mechanism through the proxy, in IMAP and POP3: the name is kept, the secret is not.
mod mailbox_sasl;

/// Five thousand IMAP sessions in IDLE before a real Dovecot, and the one too many.
mod mailbox_load;

/// IMAP clients before real Dovecot, Cyrus and Courier, directly and through the proxy: the same, and all of it copied.
mod mailbox_clients;

/// mbsync and offlineimap: both sides of a synchronized account stay what they are without the proxy.
mod mailbox_sync;

/// mutt in a terminal, as somebody sits before it.
mod mailbox_mutt;

/// Every capability that Dovecot, Cyrus and Courier announce, used directly and through the proxy.
mod mailbox_extensions;

/// SMTP implementations that nobody here wrote, as client and as next hop.
mod interop_smtp;

/// False ends and odd command lines before real servers: no more comes out behind than was captured.
mod smuggling;

/// The milter, driven by Debian's miltertest.
mod milter_scripts;

/// AUTH by clients and servers that nobody here wrote: the name is kept, the secret is not.
mod interop_auth;

/// The client by PROXY header and XCLIENT: HAProxy in front, Postfix behind.
mod interop_proxy;

/// mailin-embedded, samotop and jmap-client as peers.
mod interop_crates;

/// The watcher of an IMAP session: each case in `tests/cases/imap/`, in any chunking.
mod imap_cases;

/// What holds for every IMAP session: relayed is said, copied is what passed, and no bytes break the watcher.
mod imap_laws;

/// Inputs on which a fuzzer once failed: each still holds.
mod fuzz_kept;

// It is kept, and goes on.

/// The journal on a disk that runs full: what it answers, what it keeps, how it comes back.
mod journal;

/// The dedup map on a disk that fills.
mod dedup;

/// One message on its way through Postfix, opendkim and Dovecot: each version is made from each other's copy, or kept.
mod lossless;

/// The channel: whom it trusts, what it shows, how it shares connections.
mod forward_channel;

/// Forwarding into the vault through everything that can go wrong on the way.
mod forward_faults;

/// Batches that wait to fill, and a backlog that does not.
mod forward_pace;

/// Which messages are read before they go, or do not.
mod forward_reading;

/// A message at which the target fails, and what becomes of those beside it.
mod forward_poison;

/// A lost dedup map: the target is asked first.
mod forward_lost_map;

/// Real Cyrus as the second mail store.
mod cyrus;

/// The vault as a JMAP server.
mod vault_jmap;

/// The vault's page, and hostile mail on it.
mod vault_page;

/// What the vault gives back as files.
mod vault_export;

/// `mailtee vault fsck`: a clean vault, and each kind of damage to one.
mod vault_fsck;

/// The vault on a disk that is full.
mod vault_disk;

/// The systemd unit and the Dockerfile, as far as they can be checked without either running.
mod deploy;

// The whole.

/// The daemon and its command line: signals, reloads, the queue, the admin page, exit codes.
mod daemon;

/// kill -9 of the daemon and of the vault at random instants: nothing acknowledged is lost, nothing is doubled.
mod kill;

/// kill -9 between IMAP clients that save and their Dovecot, and a Dovecot that restarts: what got OK is there once.
mod mailbox_kill;

/// kill -9 between POP3 and IMAP clients that read and remove: what is gone from their Dovecot is in the vault once.
mod mailbox_kill_readers;

/// kill -9 behind a Postfix that has mailtee as its milter.
mod milter_kill;

/// The lag alert, followed through a real Prometheus and Alertmanager.
mod alerts;
