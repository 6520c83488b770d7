//! Which header fields are the marks of a message's way, not part of what its author sent.
//!
//! A field is on the list when an MTA, a filter or a mailbox adds it on its own account after submission, so that two
//! sightings of one message may differ in it. What an author's client or a mailing list writes is never on it: such a
//! field is the message. A wrong entry costs little either way: too few, and one message is kept as two; too many, and
//! two copies count as one message whose bytes are still both kept (see [`super::difference`]).

use std::sync::LazyLock;

/// Field names and why each is a trace; a name that ends in `*` stands for every name with that beginning. Compared
/// without regard to case. Names of one reason stand together.
pub const TRACE_HEADERS: &[(&str, &str)] = &[
    // hops and final delivery
    ("Received", "each hop adds one (RFC 5321 4.4)"),
    ("X-Received", "Gmail's internal hops"),
    (
        "Return-Path",
        "final delivery writes the sender (RFC 5321 4.4)",
    ),
    (
        "Delivered-To",
        "Postfix, qmail, Dovecot: loop detection (RFC 9228)",
    ),
    ("X-Delivered-To", "Fastmail's final recipient"),
    ("X-Resolved-To", "Fastmail, Cyrus: recipient after aliases"),
    ("X-Original-To", "Postfix: recipient before aliases"),
    ("X-Original-Recipient", "recipient before rewriting"),
    (
        "Original-Recipient",
        "the DSN original recipient (RFC 3798 2.3)",
    ),
    ("X-Orig-To", "older name of X-Original-To"),
    ("Envelope-To", "Exim: recipient at delivery"),
    ("X-Envelope-To", "recipient, written by filters"),
    ("X-Envelope-From", "sender, written by filters"),
    ("X-Envelope-Sender", "sender, written by filters"),
    ("X-RCPT-To", "recipient, written by filters"),
    ("X-Mail-From", "Fastmail: sender at delivery"),
    ("X-Apparently-To", "Yahoo: recipient at delivery"),
    ("Apparently-To", "Sendmail, where no recipient field was"),
    ("Delivery-Date", "Exim: time of delivery"),
    ("X-Forwarded-To", "Gmail's forwarding"),
    ("X-Forwarded-For", "Gmail's forwarding"),
    ("X-Mailbox-Line", "Postfix: an mbox From line made a field"),
    (
        "X-Authentication-Warning",
        "Sendmail's view of the submitter",
    ),
    (
        "X-Authenticated-Sender",
        "a submission server's view of the submitter",
    ),
    (
        "X-Authenticated-User",
        "a submission server's view of the submitter",
    ),
    ("X-Auth-ID", "a submission server's view of the submitter"),
    // authentication: signatures are added by MTAs, results by receivers
    ("DKIM-Signature", "each signing hop adds one (RFC 6376)"),
    ("X-Google-DKIM-Signature", "Gmail's own signature"),
    ("DomainKey-Signature", "the forerunner of DKIM (RFC 4870)"),
    ("DKIM-Filter", "OpenDKIM names itself"),
    ("X-DKIM", "older OpenDKIM names itself"),
    ("DMARC-Filter", "OpenDMARC names itself"),
    (
        "Authentication-Results",
        "each receiver's verdict (RFC 8601)",
    ),
    (
        "Authentication-Results-Original",
        "Exchange keeps an earlier verdict",
    ),
    ("X-Authentication-Results", "a verdict, renamed"),
    ("ARC-*", "the Authenticated Received Chain (RFC 8617)"),
    ("Received-SPF", "the SPF verdict (RFC 7208 9.1)"),
    ("X-SPF-*", "an SPF verdict"),
    ("X-DMARC-*", "a DMARC verdict"),
    // spam and virus filters
    ("X-Spam-*", "SpamAssassin, rspamd and others"),
    ("X-Spam", "rspamd, DSPAM"),
    ("X-Spamd-*", "rspamd's verdict"),
    ("X-Rspamd-*", "rspamd's host, queue id and action"),
    ("X-Virus-*", "ClamAV, amavis"),
    ("X-Amavis-*", "amavis"),
    ("X-Quarantine-ID", "amavis"),
    ("X-Bogosity", "bogofilter"),
    ("X-DSPAM-*", "DSPAM"),
    ("X-CRM114-*", "CRM114"),
    ("X-MailScanner*", "MailScanner"),
    ("X-Scanned-By", "MIMEDefang"),
    ("X-Greylist*", "greylisting: how long it waited"),
    ("X-Policyd-*", "policy servers"),
    ("X-Antivirus*", "Avast and others"),
    ("X-Barracuda-*", "Barracuda"),
    ("X-ASG-*", "Barracuda"),
    ("X-IronPort-*", "Cisco"),
    ("X-Proofpoint-*", "Proofpoint"),
    ("X-Mimecast-*", "Mimecast"),
    ("X-Sophos-*", "Sophos"),
    ("X-TM-AS-*", "Trend Micro"),
    ("X-KLMS-*", "Kaspersky"),
    // Exchange and Microsoft 365 in transport
    (
        "X-MS-Exchange-Organization-*",
        "Exchange: inside one organization",
    ),
    ("X-MS-Exchange-CrossTenant-*", "Exchange: between tenants"),
    ("X-MS-Exchange-Transport-*", "Exchange: transport"),
    ("X-MS-Exchange-ForwardingLoop", "Exchange: forwarding"),
    ("X-MS-Exchange-AntiSpam-*", "Exchange: filter"),
    ("X-Microsoft-Antispam*", "Exchange: filter"),
    ("X-Forefront-Antispam-*", "Exchange: filter"),
    ("X-MS-Office365-Filtering-*", "Exchange: filter"),
    ("X-MS-PublicTrafficType", "Exchange: transport"),
    ("X-MS-TrafficTypeDiagnostic", "Exchange: transport"),
    ("X-EOPAttributedMessage", "Exchange: transport"),
    ("X-EOPTenantAttributedMessage", "Exchange: transport"),
    ("X-IncomingTopHeaderMarker", "Outlook.com: transport"),
    ("X-IncomingHeaderCount", "Outlook.com: transport"),
    // Gmail and other large receivers
    ("X-Google-Smtp-Source", "Gmail: transport"),
    ("X-Gmail-*", "Gmail: labels and fetch notes"),
    ("X-GM-*", "Gmail: transport, export of a mailbox"),
    ("X-Yandex-*", "Yandex: transport and filter"),
    ("X-Cyrus-Session-Id", "Cyrus: delivery"),
    // sorting and mailbox state
    ("X-Sieve", "which Sieve engine filed it"),
    ("X-Sieve-*", "Pigeonhole: redirection"),
    ("Status", "mbox: read, old"),
    ("X-Status", "mbox: answered, flagged, deleted"),
    ("X-UID", "mbox: IMAP UID"),
    ("X-UIDL", "mbox: POP3 unique id"),
    ("X-IMAP", "mbox: folder data of UW IMAP"),
    ("X-IMAPbase", "mbox: UIDVALIDITY of Dovecot and UW IMAP"),
    ("X-Keywords", "mbox: keywords"),
    ("Content-Length", "mbox: length of the body"),
    ("Lines", "mbox: lines of the body"),
    ("X-Mozilla-*", "Thunderbird's mbox state"),
    ("X-Account-Key", "Thunderbird: which account fetched it"),
    ("X-Evolution*", "Evolution's mbox state"),
    ("X-TUID", "mbsync's marker"),
    ("X-OfflineIMAP*", "OfflineIMAP's marker"),
    ("X-getmail-*", "getmail: where it came from"),
];

/// [`TRACE_HEADERS`] in lower case and in order: this is asked for every field of every message.
static SORTED: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
    let pattern = |(name, _): &(&str, &str)| {
        let lower = name.to_ascii_lowercase();
        match lower.strip_suffix('*') {
            Some(beginning) => Pattern {
                text: beginning.as_bytes().into(),
                open: true,
            },
            None => Pattern {
                text: lower.into_bytes().into(),
                open: false,
            },
        }
    };
    let mut sorted: Vec<Pattern> = TRACE_HEADERS.iter().map(pattern).collect();
    sorted.sort();
    sorted
});

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pattern {
    text: Box<[u8]>,
    /// Any name that begins so.
    open: bool,
}

/// No pattern is longer.
const PATTERN_BYTES_MAX: usize = 40;

/// Whether a field of this name is a trace.
pub fn is_trace(name: &[u8]) -> bool {
    let mut buffer = [0; PATTERN_BYTES_MAX + 1];
    let known = name.len().min(buffer.len());
    let lower = &mut buffer[..known];
    lower.copy_from_slice(&name[..known]);
    lower.make_ascii_lowercase();
    // What begins a name sorts before it, and nothing of another beginning sorts between the two.
    let after = SORTED.partition_point(|pattern| *pattern.text <= *lower);
    let Some(pattern) = after.checked_sub(1).map(|at| &SORTED[at]) else {
        return false;
    };
    match pattern.open {
        true => lower.starts_with(&pattern.text),
        false => *pattern.text == *lower,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_does_not_matter_and_a_star_needs_its_beginning() {
        for name in [
            "received",
            "RETURN-PATH",
            "arc-seal",
            "x-spam-status",
            "X-Spam",
        ] {
            assert!(is_trace(name.as_bytes()), "{name}");
        }
        for name in ["", "x-spa", "receive", "receivedx", "arc", "x-sieved"] {
            assert!(!is_trace(name.as_bytes()), "{name}");
        }
    }

    /// The look-up leans on it: no pattern begins with an open one.
    #[test]
    fn no_entry_is_within_another() {
        for open in SORTED.iter().filter(|pattern| pattern.open) {
            let within = |other: &&Pattern| other.text.starts_with(&open.text);
            let found: Vec<_> = SORTED.iter().filter(within).collect();
            assert_eq!(found, [open]);
        }
        assert!(SORTED.iter().all(|p| p.text.len() <= PATTERN_BYTES_MAX));
    }

    #[test]
    fn every_entry_is_found_and_its_neighbours_are_not() {
        for (name, _) in TRACE_HEADERS {
            let bare = name.trim_end_matches('*');
            assert!(is_trace(bare.as_bytes()), "{name}");
            assert!(is_trace(bare.to_uppercase().as_bytes()), "{name}");
            assert_eq!(
                is_trace(format!("{bare}zz").as_bytes()),
                name.ends_with('*'),
                "{name}"
            );
        }
        assert!(is_trace(format!("ARC-{}", "x".repeat(300)).as_bytes()));
        assert!(!is_trace(&[b'a'; 300]));
    }

    #[test]
    fn what_an_author_or_a_list_writes_is_no_trace() {
        for name in [
            "From",
            "To",
            "Cc",
            "Bcc",
            "Subject",
            "Date",
            "Message-ID",
            "In-Reply-To",
            "References",
            "Reply-To",
            "Sender",
            "Resent-From",
            "MIME-Version",
            "Content-Type",
            "X-Mailer",
            "User-Agent",
            "List-Id",
            "List-Unsubscribe",
            "Precedence",
            "Auto-Submitted",
            "X-Loop",
            "X-Priority",
            "Disposition-Notification-To",
            "Autocrypt",
            "X-MS-Has-Attach",
            "Thread-Index",
            "X-Originating-IP",
        ] {
            assert!(!is_trace(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn every_entry_has_a_reason_and_is_named_once() {
        let mut names: Vec<_> = TRACE_HEADERS
            .iter()
            .map(|(n, _)| n.to_lowercase())
            .collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), TRACE_HEADERS.len());
        assert!(TRACE_HEADERS.iter().all(|(_, why)| why.len() > 4));
    }
}
