//! # mailtee: a tee for mail
//!
//! THE MAP. Stages in the order in which a message meets them:
//!
//! | stage | what it does | never |
//! |---|---|---|
//! | [`frontends`] | mail comes in: SMTP, LMTP, journal reports, a milter, IMAP, POP3 | name a target; parse MIME, but of journal reports |
//! | [`wire`] | the protocols as pure state machines and watchers, bytes in, steps out | touch a socket, a file or a clock |
//! | [`net`] | accept, TLS, PROXY protocol, HTTP: the I/O shell | know SMTP |
//! | [`identify`] | which protocol does that server speak, and how is it reached? | log in; send a secret |
//! | [`message`] | the vocabulary: envelope, sighting, fingerprint | do I/O |
//! | [`journal`] | the durable middle; nobody hears 250 before it has synced | know the network |
//! | [`criteria`] | does this capture go to that target? pure | do I/O |
//! | [`dedup`] | has that target a copy already? | be the only guard: targets are idempotent |
//! | [`forward`] | leases from the journal, retries, parks, settles | name a front end |
//! | [`channel`] | the HTTPS client: TLS, client certificates, proxies, credentials | know mail |
//! | [`targets`] | where copies go: JMAP | know the journal |
//! | [`vault`] | the built-in second mail store: a JMAP server, its storage, its page | confirm before it is synced |
//! | [`admin`] | metrics, health, status page and API | change a message |
//!
//! [`config`] turns `mailtee.toml` into each stage's options, [`metrics`] names every metric once, [`daemon`] builds the
//! stages and drains them in the data's order, [`cli`] is one file a verb (`cli/demo` is the shortest way to see it all).
//!
//! **Who may import whom.** Front ends and forward never name each other: they meet in the journal. `message`, `wire`,
//! `criteria`, the record format and the retry policy are pure: no tokio, sockets, files, clock or randomness. `targets`
//! know no journal, `journal` knows no network. `config` knows every stage's options. Only `daemon`, `cli` and `main` know
//! everything, and only they build a stage out of another's parts. `tests/tidy.rs` has the whole table and reads the `use`
//! lines.
//!
//! **Two runtimes.** Front ends run at the process's own priority; forwarding, the vault and the admin page on threads
//! that stand back (nice 10), because a client waits for the one and nobody for the other. The writers of the journal,
//! the dedup map and the vault's index are threads of their own.
//!
//! **Absent on purpose.** No stage but the journal writes to disk on the capture path. No message is held whole in memory
//! unless it is small. Nothing reads error text to decide. Nothing of ours answers 5xx for our own failure. There is no
//! clustering: nodes share nothing but targets. The e-mail engine is not here yet, nor are the S3 and HTTPS targets.

pub mod admin;
pub mod channel;
pub mod cli;
pub mod config;
pub mod criteria;
pub mod daemon;
pub mod dedup;
pub mod forward;
pub mod frontends;
pub mod identify;
pub mod journal;
pub mod message;
pub mod metrics;
pub mod net;
pub mod targets;
pub mod vault;
pub mod wire;
