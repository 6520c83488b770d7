//! Holds every section to the promise that all of its faults are told at once, each with its line and key.
//!
//! In each file here a line with faults names their keys behind `#!`; what is missing stands at its section's line. What is
//! told must be that and nothing else.

use std::path::Path;

use super::Config;

const FILES: [(&str, &str); 13] = [
    (
        "a target without its address has the faults of its other keys",
        r#"
[[target]] #! target.url
name = "archive"
type = "jmap"
ulr = "https://archive.example.org/" #! target.ulr
mailbox = 5 #! target.mailbox
keywords = ["$seen", 7] #! target.keywords
client_key = "/k"
client_certificate = 1 #! target.client_certificate
silence_timeout = "10ms" #! target.silence_timeout
batch_messages = 0 #! target.batch_messages
"#,
    ),
    (
        "a target without name and type has the faults of its criteria and times",
        r#"
[[target]] #! target.name target.type
url = "gopher://archive.example.org/" #! target.url
user = "mailtee" #! target.user
token = "t" #! target.token
message_retry_min = "2h"
message_retry_max = "1h" #! target.message_retry_max
attempts_to_park = 0 #! target.attempts_to_park
[[target.criterion]] #! target.criterion.action
sender = "nobody" #! target.criterion.sender
sizemax = 3 #! target.criterion.sizemax
"#,
    ),
    (
        "half a client certificate, half of a proxy's login",
        r#"
[[target]] #! target.client_key target.proxy_password_file target.password_file
name = "archive"
type = "jmap"
url = "https://archive.example.org/"
client_certificate = "/c"
proxy = "ftp://proxy.example.org" #! target.proxy
proxy_user = "mailtee"
user = "mailtee"
"#,
    ),
    (
        "the other half is there and wrong",
        r#"
[[target]]
name = "archive"
type = "jmap"
url = "https://archive.example.org/"
client_certificate = 1 #! target.client_certificate
client_key = "/k"
proxy = "http://proxy.example.org"
proxy_user = "mailtee"
proxy_password_file = 5 #! target.proxy_password_file
user = "mailtee"
password_file = 5 #! target.password_file
"#,
    ),
    (
        "an SMTP front end without anything",
        r#"
[vault]
[[frontend]] #! frontend.name frontend.listen frontend.role frontend.upstream
protocol = "smtp"
lisen = "127.0.0.1:25" #! frontend.lisen
upstream_tls = "yes" #! frontend.upstream_tls
line_bytes_max = 1 #! frontend.line_bytes_max
idle_timeout = 5 #! frontend.idle_timeout
socket_mode = "0999" #! frontend.socket_mode
allowed_networks = ["10.0.0.0/8", "10.0.0.0/99"] #! frontend.allowed_networks
"#,
    ),
    (
        "an SMTP front end with half of each certificate",
        r#"
[vault]
[[frontend]] #! frontend.key frontend.upstream_key
name = "a b" #! frontend.name
protocol = "smtp"
role = "proxy"
listen = "127.0.0.1:25"
upstream = "localhost:25" #! frontend.upstream
certificate = "/c"
tls = "implicit"
upstream_certificate = "/c"
upstream_idle_timeout = "1s" #! frontend.upstream_idle_timeout
recipients_max = 0 #! frontend.recipients_max
"#,
    ),
    (
        "a front end of no protocol",
        r#"
[vault]
[[frontend]] #! frontend.protocol frontend.role frontend.upstream
name = "front"
listen = "127.0.0.1" #! frontend.listen
upstraem = "localhost:25" #! frontend.upstraem
capture_timeout = "1ms" #! frontend.capture_timeout
"#,
    ),
    (
        "a journal endpoint with a next hop",
        r#"
[vault]
[[frontend]] #! frontend.name frontend.listen
protocol = "journal"
role = "proxy" #! frontend.role
upstream = "localhost:25" #! frontend.upstream
on_capture_failure = "pass" #! frontend.on_capture_failure
sessions_max = 0 #! frontend.sessions_max
"#,
    ),
    (
        "a milter with keys of a next hop",
        r#"
[vault]
[[frontend]] #! frontend.name frontend.listen
protocol = "milter"
upstream = "localhost:25" #! frontend.upstream
on_capture_failure = "bounce" #! frontend.on_capture_failure
idle_timeout = "1ms" #! frontend.idle_timeout
recipients_max = 0 #! frontend.recipients_max
"#,
    ),
    (
        "front ends before mailbox servers, found out and told",
        r#"
[vault]
[[frontend]] #! frontend.name frontend.listen frontend.upstream
protocol = "auto"
upstraem = "localhost:143" #! frontend.upstraem
known_messages_max = 0 #! frontend.known_messages_max
idle_timeout = "1ms" #! frontend.idle_timeout
[[frontend]] #! frontend.name frontend.listen frontend.upstream frontend.certificate
protocol = "pop3"
tls = "starttls"
tell_upstream_client = "id" #! frontend.tell_upstream_client
upstream_map = 5 #! frontend.upstream_map
capture_timeout = "1ms" #! frontend.capture_timeout
"#,
    ),
    (
        "the vault, which wants a target beside its certificate",
        r#" #! target
[vault] #! vault.key
listen = "unix:/run/vault" #! vault.listen
certificate = "/c"
names = ["archive"] #! vault.names
objects_max = -1 #! vault.objects_max
idle = "1s" #! vault.idle
"#,
    ),
    (
        "journal and dedup map",
        r#"
[vault]
[journal]
segment_bytes = "16777215 TiB" #! journal.segment_bytes
capacity_bytes = "1 MiB" #! journal.capacity_bytes
large_bytes_min = "a lot" #! journal.large_bytes_min
abandon_targets = [1, "archive", 2] #! journal.abandon_targets journal.abandon_targets
free_bytes = 1 #! journal.free_bytes
[dedup]
cached_entries_max = "many" #! dedup.cached_entries_max
cache_bytes = -1 #! dedup.cache_bytes
"#,
    ),
    (
        "admin page, log and top",
        r#"shutdown_timeout = 30 #! shutdown_timeout
own_domains = ["example.org", 7] #! own_domains
shoe_size = 47 #! shoe_size
[vault]
[admin]
listen = "localhost" #! admin.listen
allowed_hosts = "status.example.org" #! admin.allowed_hosts
host = "" #! admin.host
[log]
level = "info,,=" #! log.level
format = "xml" #! log.format
"#,
    ),
];

#[test]
fn all_faults_of_a_section_are_told_at_once() {
    for (what, text) in FILES {
        let lines = text.lines().zip(1..);
        let marked = lines.filter_map(|(line, number)| {
            let (_, keys) = line.split_once("#! ")?;
            Some(keys.split(' ').map(move |key| (number, key.to_owned())))
        });
        let mut expected: Vec<(usize, String)> = marked.flatten().collect();
        expected.sort();
        assert!(expected.len() > 1, "{what}");
        let error = Config::parse(Path::new("mailtee.toml"), text, &|_| None).unwrap_err();
        let faults = error.faults().iter();
        let mut told: Vec<_> = faults.map(|it| (it.line, it.key.clone())).collect();
        told.sort();
        assert_eq!(told, expected, "{what}:\n{error}");
    }
}
