//! What the client says between messages.

use super::{transaction::Sender, *};
use crate::{
    message::Recipient,
    wire::smtp::{
        command::{Command, Verb, decimal},
        xforward,
    },
};

impl Relay {
    /// Takes bytes from the client and returns how many. What is left over is to be offered again, with what follows
    /// it, once [`Relay::takes_client`]; an empty offer lets a line go on that waited for a barrier.
    pub fn receive_client(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while self.takes_client() {
            if self.line_waits {
                let line = std::mem::take(&mut self.line);
                self.line_waits = !self.whole_line(&line, at < bytes.len());
                self.line = line;
                if !self.line_waits {
                    self.line.clear();
                }
                continue;
            }
            let rest = &bytes[at..];
            if rest.is_empty() && !self.chunk_is_due() {
                break;
            }
            at += match self.input {
                Input::Data(_) => self.data(rest),
                Input::Chunk(_) => self.chunk(rest),
                Input::Overlong => self.overlong(rest),
                Input::Commands | Input::Dialogue => match memchr::memchr(b'\n', rest) {
                    None => self.partial_line(rest),
                    Some(end) if self.line.len() + end > self.rules.line_bytes_max => {
                        self.too_long();
                        continue;
                    }
                    Some(end) if self.line.is_empty() => {
                        let behind = rest.len() > end + 1;
                        if self.whole_line(&rest[..end], behind) {
                            end + 1
                        } else {
                            // A barrier: the line stays unread.
                            0
                        }
                    }
                    Some(end) => {
                        self.line.extend_from_slice(&rest[..end]);
                        self.line_waits = true;
                        end + 1
                    }
                },
            };
        }
        at
    }

    /// Does a whole line wait that no new byte will announce?
    pub fn has_waiting_line(&self) -> bool {
        self.line_waits
    }

    fn partial_line(&mut self, rest: &[u8]) -> usize {
        if self.line.len() + rest.len() > self.rules.line_bytes_max {
            self.too_long();
        } else {
            self.line.extend_from_slice(rest);
        }
        rest.len()
    }

    fn too_long(&mut self) {
        self.line.clear();
        if let Input::Dialogue = self.input {
            // The next hop waits for this very line, so there is no going on without it.
            return self.refuse_and_close(Failure::LineTooLong);
        }
        self.input = Input::Overlong;
    }

    fn overlong(&mut self, rest: &[u8]) -> usize {
        match memchr::memchr(b'\n', rest) {
            None => rest.len(),
            Some(end) => {
                self.input = Input::Commands;
                self.refuse(Failure::LineTooLong);
                end + 1
            }
        }
    }

    /// `line` has no LF any more. False: it has to wait for a barrier that now stands. `behind`: more bytes follow.
    fn whole_line(&mut self, line: &[u8], behind: bool) -> bool {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Input::Dialogue = self.input {
            if let Some(auth) = &mut self.auth {
                auth.answer(line);
            }
            self.input = Input::Commands;
            self.pass(line, Awaited::Auth);
            self.barrier = Barrier::Replies;
            return true;
        }
        // A laxer next hop might take it for a line end, and hear a command that we did not.
        if memchr::memchr(b'\r', line).is_some() {
            self.refuse(Failure::BareCrInCommand);
            return true;
        }
        let command = Command::parse(line);
        if self.upstream_gone {
            self.alone(&command);
            return true;
        }
        self.command(line, &command, behind)
    }

    /// What is said after the next hop was dropped in the middle of a message: enough for the client to leave, or to
    /// come again on a new connection.
    fn alone(&mut self, command: &Command<'_>) {
        match command.verb {
            Verb::Quit => {
                self.to_client.extend_from_slice(b"221 2.0.0 Bye\r\n");
                self.close();
            }
            Verb::Noop | Verb::Rset => self.to_client.extend_from_slice(b"250 2.0.0 Ok\r\n"),
            Verb::Bdat => match command.chunk() {
                // Not 503: a client that pipelines its chunks would take our trouble for a lasting refusal.
                Some((size, last)) => {
                    self.discard_chunk(size, last, Failure::UpstreamLostInMessage);
                }
                None => self.refuse_and_close(Failure::ChunkMalformed),
            },
            _ => {
                let reply = Failure::UpstreamLost.with_id(None);
                self.to_client.extend_from_slice(reply.as_bytes());
                self.close();
            }
        }
    }

    fn command(&mut self, line: &[u8], command: &Command<'_>, behind: bool) -> bool {
        match command.verb {
            Verb::Ehlo | Verb::Lhlo | Verb::Helo => {
                let verb = match command.verb {
                    Verb::Ehlo => "ESMTP",
                    Verb::Lhlo => "LMTP",
                    _ => "SMTP",
                };
                let name = WireText::from(command.argument);
                if let Some(reply) = self.hello_known(line) {
                    self.hello(name, verb, &reply);
                    return true;
                }
                self.may_void_chunks();
                let said = Awaited::Hello {
                    name,
                    verb,
                    line: line.to_vec(),
                };
                self.pass(line, said);
                // Last in its group (RFC 2920 section 3.1); what may follow depends on what the next hop can do.
                self.barrier = Barrier::Replies;
            }
            Verb::Mail => return self.mail(line, command),
            Verb::Rcpt => {
                let path = command.path();
                let bytes = path.address.len() + path.parameters.len();
                if self.named >= self.rules.recipients_max
                    || self.named_bytes + bytes > RECIPIENT_BYTES_MAX
                {
                    self.refuse(Failure::TooManyRecipients);
                    return true;
                }
                self.named += 1;
                self.named_bytes += bytes;
                let recipient = Recipient {
                    address: path.address.into(),
                    parameters: path.parameters.into(),
                    ..Recipient::default()
                };
                self.pass(line, Awaited::Rcpt(recipient));
            }
            // They do not mix (RFC 3030 section 2), and a next hop that mixed them would have more than the copy.
            Verb::Data if self.content.chunks.is_some() => self.refuse(Failure::DataAfterChunks),
            Verb::Data => {
                self.pass(line, Awaited::Data);
                self.barrier = Barrier::Replies;
            }
            Verb::Bdat => return self.begin_chunk(line, command),
            Verb::Rset => {
                self.may_void_chunks();
                self.pass(line, Awaited::Rset);
            }
            Verb::StartTls => return self.starttls(behind),
            Verb::Auth => {
                self.auth = Some(AuthWatch::begin(command.argument));
                self.pass(line, Awaited::Auth);
                self.barrier = Barrier::Replies;
            }
            Verb::Xforward if !self.trusted => self.refuse(Failure::NotTrusted),
            Verb::Xforward if self.next_hop.xforward.is_some() => {
                self.pass(line, Awaited::Xforward(command.argument.to_vec()));
            }
            Verb::Xforward => {
                self.awaited
                    .push_back(Awaited::LocalXforward(command.argument.to_vec()));
                self.due_locals();
            }
            Verb::Xclient if !self.trusted => self.refuse(Failure::NotTrusted),
            Verb::Xclient if self.next_hop.xclient.is_some() => {
                self.pass(line, Awaited::Xclient(command.argument.to_vec()));
                self.barrier = Barrier::Replies;
            }
            Verb::Xclient => {
                if !self.awaited.is_empty() {
                    self.barrier = Barrier::Replies;
                    return false;
                }
                self.take_xclient(command.argument);
                self.kept = None;
                let greeting = format!("220 {} ESMTP\r\n", self.rules.hostname);
                self.to_client.extend_from_slice(greeting.as_bytes());
                // What the next hop knows of the client before is over for it too.
                self.to_upstream.extend_from_slice(b"RSET\r\n");
                self.awaited.push_back(Awaited::Ours);
            }
            // Whether the next hop hears it depends on what it has still to say.
            Verb::Quit if self.kept.is_some() && !self.awaited.is_empty() => {
                self.barrier = Barrier::Replies;
                return false;
            }
            Verb::Quit if self.may_leave() => {
                self.to_client.extend_from_slice(b"221 2.0.0 Bye\r\n");
                self.close();
            }
            Verb::Quit => {
                self.pass(line, Awaited::Quit);
                self.barrier = Barrier::Replies;
            }
            // The next hop would fetch content that never comes by here (RFC 4468).
            Verb::Burl => self.refuse(Failure::BurlUnavailable),
            Verb::Noop => self.pass(line, Awaited::Noop),
            Verb::Other => {
                self.pass(line, Awaited::Other);
                // It may open a dialogue, as X-EXPS does: then what follows is no command but its next line.
                self.barrier = Barrier::Replies;
            }
        }
        true
    }

    fn mail(&mut self, line: &[u8], command: &Command<'_>) -> bool {
        let path = command.path();
        let limit = self.rules.message_bytes_max;
        let declared = path.parameter(b"SIZE").and_then(decimal);
        if limit > 0 && declared.is_some_and(|size| size > limit) {
            self.refuse(Failure::MessageTooLarge);
            return true;
        }
        if !self.tell_client() {
            return false;
        }
        if self.in_transaction() {
            // A second MAIL is the next hop's to refuse (RFC 5321 section 4.1.4), and what is said in either differs.
            self.barrier = Barrier::Replies;
        } else {
            self.named = 0;
            self.named_bytes = 0;
        }
        self.may_void_chunks();
        let body = path.parameter(b"BODY");
        let sender = Sender {
            address: path.address.into(),
            parameters: path.parameters.into(),
            binary: body.is_some_and(|body| body.eq_ignore_ascii_case(b"BINARYMIME")),
        };
        self.pass(line, Awaited::Mail(Box::new(sender)));
        true
    }

    /// Is a transaction open once the commands passed on so far are done?
    fn in_transaction(&self) -> bool {
        let latest = self.awaited.iter().rev().find_map(|awaited| match awaited {
            Awaited::Mail(_) => Some(true),
            Awaited::Hello { .. } | Awaited::Rset | Awaited::Content(_) | Awaited::LastChunk(_) => {
                Some(false)
            }
            _ => None,
        });
        latest.unwrap_or(self.transaction.open)
    }

    /// The command may end a transaction whose chunks have begun: what comes next depends on its reply.
    fn may_void_chunks(&mut self) {
        if self.content.chunks.is_some() {
            self.chunks_void_if_done = true;
            self.barrier = Barrier::Replies;
        }
    }

    /// Before MAIL, XFORWARD with what we know of the client, where that is asked for and can be taken. False: wait for
    /// its reply.
    fn tell_client(&mut self) -> bool {
        // What a trusted peer says of its client has been passed on already.
        let wanted = self.rules.tell_client == TellClient::Xforward
            && !self.told_client
            && self.forwarded.is_none();
        let Some(allowed) = self.next_hop.xforward.as_ref().filter(|_| wanted) else {
            return true;
        };
        self.told_client = true;
        let client = Client {
            source: Some("REMOTE".into()),
            ..self.client.clone()
        };
        xforward::command(
            "XFORWARD",
            &xforward::ATTRIBUTES,
            &client,
            allowed,
            &mut self.to_upstream,
        );
        self.awaited.push_back(Awaited::Ours);
        self.barrier = Barrier::Replies;
        false
    }

    fn starttls(&mut self, behind: bool) -> bool {
        if !self.rules.starttls || self.client.tls.is_some() {
            self.refuse(Failure::StarttlsUnavailable);
            return true;
        }
        if !self.awaited.is_empty() {
            self.barrier = Barrier::Replies;
            return false;
        }
        if behind {
            // Sent in clear by whoever, to be read as if it had come through TLS (CVE-2011-0411).
            self.refuse_and_close(Failure::StarttlsInjection);
            return true;
        }
        let in_message = self.transaction.open || self.content.chunks.is_some();
        if in_message || self.client.login.is_some() {
            self.refuse(Failure::StarttlsTooLate);
            return true;
        }
        self.to_client
            .extend_from_slice(b"220 2.0.0 Ready to start TLS\r\n");
        self.suspended = true;
        self.steps.push_back(Step::SecureClient);
        true
    }

    /// The command goes on as it came; its line end is CRLF whatever it was, so that both ends count the same lines.
    pub(super) fn pass(&mut self, line: &[u8], awaited: Awaited) {
        self.keep_past(&awaited);
        self.to_upstream.extend_from_slice(line);
        self.to_upstream.extend_from_slice(b"\r\n");
        self.awaited.push_back(awaited);
    }

    pub(super) fn take_xclient(&mut self, argument: &[u8]) {
        xforward::apply(argument, &mut self.client);
        if xforward::names_address(argument) {
            // The session is that client's now, and so are its rights.
            self.trusted = false;
        }
        self.forwarded = None;
        self.transaction = Transaction::default();
        self.next_hop = NextHop::default();
    }
}
