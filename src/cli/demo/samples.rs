//! The mail that the demo sends: what real mail is made of, and what trips mail software up.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;

/// One message and its envelope.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) title: &'static str,
    /// Empty for the null sender.
    pub(super) sender: &'static str,
    pub(super) recipients: Vec<&'static str>,
    pub(super) content: Bytes,
}

/// Size of the big one.
const BIG_BYTES: usize = 30 << 20;

/// The whole set, in the order of sending. `run` tells one run's messages from another's.
pub(super) fn samples(run: &str) -> Vec<Sample> {
    let writer = Writer { run };
    let mut all = writer.everyday();
    all.extend(writer.awkward());
    all.push(writer.sample("30 MB", writer.big()));
    all.extend(repeated(&all));
    all
}

/// What arrives twice: none of these may become a second copy, all must be recorded.
fn repeated(sent: &[Sample]) -> Vec<Sample> {
    let (first, second, third) = (&sent[0], &sent[1], &sent[2]);
    let received = "Received: from relay.example.net (relay.example.net [192.0.2.7])\r\n\
                    \tby mx.example.org with ESMTPS id 4Xy7Kz1b2Qz9;\r\n\
                    \tTue, 3 Nov 2026 09:15:12 +0000 (UTC)\r\n";
    let rerouted = [received.as_bytes(), &third.content].concat();
    vec![
        Sample {
            title: "a duplicate",
            ..first.clone()
        },
        Sample {
            title: "the same to other recipients",
            recipients: vec!["archive@example.org", "legal@example.org"],
            ..second.clone()
        },
        Sample {
            title: "the same by another route",
            content: rerouted.into(),
            ..third.clone()
        },
    ]
}

struct Writer<'a> {
    run: &'a str,
}

impl Writer<'_> {
    fn sample(&self, title: &'static str, content: Vec<u8>) -> Sample {
        Sample {
            title,
            sender: "ada@example.org",
            recipients: vec!["grace@example.net"],
            content: content.into(),
        }
    }

    /// The header block, up to the blank line.
    fn header(&self, topic: &str, more: &str) -> Vec<u8> {
        let run = self.run;
        let subject = topic.replace('-', " ");
        format!(
            "From: Ada Lovelace <ada@example.org>\r\nTo: Grace Hopper <grace@example.net>\r\n\
             Subject: {subject}\r\nDate: Tue, 3 Nov 2026 09:15:00 +0000\r\n\
             Message-ID: <{topic}.{run}@example.org>\r\nMIME-Version: 1.0\r\n{more}\r\n"
        )
        .into_bytes()
    }

    fn text(&self, topic: &str, body: &[u8]) -> Vec<u8> {
        let header =
            "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n";
        [&self.header(topic, header), body].concat()
    }

    fn everyday(&self) -> Vec<Sample> {
        let mut all = Vec::new();
        for (number, topic) in [
            "meeting-on-thursday",
            "minutes-of-the-meeting",
            "invoice-2026-117",
            "lunch",
            "re-lunch",
            "the-analytical-engine",
            "change-window-tonight",
            "welcome",
        ]
        .iter()
        .enumerate()
        {
            let body = format!("Hello Grace,\r\n\r\nthis is note {number}.\r\n\r\nAda\r\n")
                .repeat(1 + number * 12);
            all.push(self.sample("plain", self.text(topic, body.as_bytes())));
        }
        for (topic, kilobytes) in [("one-attachment", 40), ("a-larger-attachment", 900)] {
            let content = self.with_attachment(topic, kilobytes << 10);
            all.push(self.sample("attachment", content));
        }
        all
    }

    fn awkward(&self) -> Vec<Sample> {
        let utf8 = self.text(
            "gruesse-aus-muenchen",
            "Grüße aus München, 東京 и Москва\r\n".as_bytes(),
        );
        let mut latin1 = self.header(
            "latin-1",
            "Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n",
        );
        latin1.extend_from_slice(b"na\xefve caf\xe9, 100 \xb5s\r\n");
        let dots = self.text("dot-lines", b".\r\n..\r\n.hidden\r\n...\r\nend\r\n.\r\n");
        let long_line = [b"x".repeat(100_000), b"\r\n".to_vec()].concat();
        let longest = self.text("one-line-of-100-kB", &long_line);
        let long_header = format!("X-Long: {}\r\n", "folded\r\n\tagain ".repeat(500));
        let mut folded = self.header("a-long-header", &long_header);
        folded.extend_from_slice(b"body\r\n");
        let mut all = vec![
            self.sample("8-bit", utf8.clone()),
            self.sample("8-bit", latin1),
            self.sample("dot lines", dots),
            self.sample("long line", longest),
            self.sample("long header", folded),
            self.sample("no body", self.header("no-body", "")),
        ];
        all.push(Sample {
            sender: "jürgen@bücher.example",
            recipients: vec!["用户@例子.example", "grace@example.net"],
            ..self.sample(
                "SMTPUTF8",
                self.text("smtputf8", "Viele Grüße\r\n".as_bytes()),
            )
        });
        all.push(Sample {
            sender: "",
            recipients: vec!["ada@example.org"],
            ..self.sample("null sender", self.bounce())
        });
        let body = b"many of you\r\n";
        all.push(Sample {
            recipients: vec![
                "a@example.net",
                "b@example.net",
                "c@example.net",
                "d@example.net",
            ],
            ..self.sample("many recipients", self.text("to-the-list", body))
        });
        all
    }

    fn bounce(&self) -> Vec<u8> {
        let boundary =
            "Content-Type: multipart/report; report-type=delivery-status; boundary=\"b\"\r\n";
        let mut bounce = self.header("undelivered-mail-returned-to-sender", boundary);
        bounce.extend_from_slice(
            b"--b\r\nContent-Type: text/plain\r\n\r\nI'm sorry.\r\n\
              --b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example.net\r\n\r\n\
              Final-Recipient: rfc822; nobody@example.net\r\nAction: failed\r\nStatus: 5.1.1\r\n--b--\r\n",
        );
        bounce
    }

    fn with_attachment(&self, topic: &str, bytes: usize) -> Vec<u8> {
        let mut content = self.header(
            topic,
            "Content-Type: multipart/mixed; boundary=\"part\"\r\n",
        );
        content.extend_from_slice(
            b"--part\r\nContent-Type: text/plain\r\n\r\nPlease find it attached.\r\n\
              --part\r\nContent-Type: application/pdf; name=\"report.pdf\"\r\n\
              Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=\"report.pdf\"\r\n\r\n",
        );
        push_base64(&mut content, bytes);
        content.extend_from_slice(b"--part--\r\n");
        content
    }

    fn big(&self) -> Vec<u8> {
        self.with_attachment("thirty-megabytes", BIG_BYTES / 78 * 57)
    }
}

/// `bytes` bytes that do not compress, as base64 in lines of 76.
fn push_base64(out: &mut Vec<u8>, bytes: usize) {
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut line = [0; 57];
    for _ in 0..bytes.div_ceil(line.len()) {
        noise.fill(&mut line);
        out.extend_from_slice(STANDARD.encode(line).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_has_what_the_demo_promises() {
        let all = samples("test");
        let biggest = all.iter().map(|s| s.content.len()).max().expect("some");
        assert!(
            (BIG_BYTES - 100_000..BIG_BYTES + 100_000).contains(&biggest),
            "{biggest}"
        );
        assert!(all.iter().any(|s| s.sender.is_empty()));
        assert!(all.iter().any(|s| !s.sender.is_ascii()));
        assert!(all.iter().any(|s| std::str::from_utf8(&s.content).is_err()));
        for sample in &all {
            let bare = memchr::memchr_iter(b'\n', &sample.content)
                .any(|at| at == 0 || sample.content[at - 1] != b'\r');
            assert!(!bare, "{} has a bare LF", sample.title);
        }
    }

    #[test]
    fn three_are_not_new() {
        let all = samples("test");
        let distinct: std::collections::BTreeSet<&Bytes> = all.iter().map(|s| &s.content).collect();
        // The rerouted one differs in its bytes alone.
        assert_eq!(distinct.len(), all.len() - 2);
    }
}
