//! The mail server's side: it offers, tells events, and reads what the milter answers.
//!
//! An event that the milter does not want is not told; whether an answer is due is the method's own answer.

use super::{
    VERSION, action, answer,
    command::*,
    frame::{FRAME_BYTES_MAX, Garbage, Piece, Splitter, number, put, strings},
    protocol,
};

/// What a mail server can do; [`Offer::default`] is all that version 6 knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    pub version: u32,
    pub actions: u32,
    pub protocol: u32,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            version: VERSION,
            actions: 0x1ff,
            protocol: 0x1f_ffff,
        }
    }
}

/// Stages, and the names wanted there with spaces between them.
pub type WantedMacros = Vec<(u32, Vec<u8>)>;

/// What a milter said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// What it chose of the offer, and the macros it wants: stage and names.
    Negotiated {
        chosen: Offer,
        macros: WantedMacros,
    },
    Continue,
    Accept,
    Reject,
    TempFail,
    Discard,
    Skip,
    /// Wait on.
    Progress,
    /// An SMTP reply of its own.
    Code(Vec<u8>),
    /// A change of the message, by its letter; another reply follows.
    Change(u8),
}

/// The mail server's side of one connection.
#[derive(Debug, Default)]
pub struct Mta {
    splitter: Splitter,
    offer: Offer,
    /// What the milter chose; nothing is kept away before that.
    chosen: Option<Offer>,
    /// For the milter.
    pub out: Vec<u8>,
}

impl Mta {
    pub fn new(offer: Offer) -> Self {
        let mut mta = Self {
            offer,
            ..Self::default()
        };
        let mut payload = Vec::new();
        for number in [offer.version, offer.actions, offer.protocol] {
            payload.extend_from_slice(&number.to_be_bytes());
        }
        put(&mut mta.out, NEGOTIATE, &payload);
        mta
    }

    /// Told even where the event itself is kept away.
    pub fn macros(&mut self, command: u8, values: &[(&str, &str)]) {
        let mut payload = vec![command];
        for (name, value) in values {
            payload.extend_from_slice(name.as_bytes());
            payload.push(0);
            payload.extend_from_slice(value.as_bytes());
            payload.push(0);
        }
        put(&mut self.out, MACROS, &payload);
    }

    /// An IPv4 or IPv6 client; true where an answer is due, as for each event below.
    pub fn connect(&mut self, name: &str, address: std::net::SocketAddr) -> bool {
        let mut payload = Vec::from(name);
        payload.push(0);
        payload.push(if address.is_ipv4() { b'4' } else { b'6' });
        payload.extend_from_slice(&address.port().to_be_bytes());
        payload.extend_from_slice(address.ip().to_string().as_bytes());
        payload.push(0);
        self.event(CONNECT, &payload)
    }

    pub fn helo(&mut self, name: &[u8]) -> bool {
        self.strings(HELO, &[name])
    }

    /// The address in its brackets, then each parameter.
    pub fn mail(&mut self, arguments: &[&[u8]]) -> bool {
        self.strings(MAIL, arguments)
    }

    pub fn rcpt(&mut self, arguments: &[&[u8]]) -> bool {
        self.strings(RCPT, arguments)
    }

    pub fn data(&mut self) -> bool {
        self.event(DATA, &[])
    }

    /// `value` as it stands behind the colon. Without [`protocol::LEADING_SPACE`] one space of it is eaten.
    pub fn header(&mut self, name: &[u8], value: &[u8]) -> bool {
        let value = match value.strip_prefix(b" ") {
            Some(rest) if !self.has(protocol::LEADING_SPACE) => rest,
            _ => value,
        };
        self.strings(HEADER, &[name, value])
    }

    pub fn end_of_headers(&mut self) -> bool {
        self.event(END_OF_HEADERS, &[])
    }

    /// At most a frame's worth.
    pub fn body(&mut self, piece: &[u8]) -> bool {
        debug_assert!(piece.len() < FRAME_BYTES_MAX, "a piece fits a frame");
        self.event(BODY, piece)
    }

    /// The last piece may come with the end, as libmilter allows.
    pub fn end_of_body(&mut self, last_piece: &[u8]) -> bool {
        put(&mut self.out, END_OF_BODY, last_piece);
        true
    }

    pub fn abort(&mut self) {
        put(&mut self.out, ABORT, &[]);
    }

    pub fn unknown(&mut self, line: &[u8]) -> bool {
        self.strings(UNKNOWN, &[line])
    }

    pub fn quit(&mut self) {
        put(&mut self.out, QUIT, &[]);
    }

    pub fn quit_for_new_connection(&mut self) {
        put(&mut self.out, QUIT_NEW_CONNECTION, &[]);
    }

    /// Takes bytes from the front of `input`, up to the next reply; none where it has taken all.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Reply>, Garbage> {
        // No reply begins with a letter that is streamed.
        let (command, payload) = match self.splitter.next(input)? {
            None => return Ok(None),
            Some(Piece::Whole { command, payload }) => (command, payload),
            Some(Piece::Starts(command) | Piece::Ends(command)) => {
                return Err(Garbage::OutOfOrder(command));
            }
            Some(Piece::Part(_)) => return Ok(None),
        };
        let reply = match command {
            NEGOTIATE => {
                let (chosen, macros) =
                    read_choice(payload, self.offer).ok_or(Garbage::Malformed(NEGOTIATE))?;
                self.chosen = Some(chosen);
                Reply::Negotiated { chosen, macros }
            }
            answer::CONTINUE => Reply::Continue,
            answer::ACCEPT => Reply::Accept,
            answer::REJECT => Reply::Reject,
            answer::TEMPFAIL => Reply::TempFail,
            answer::DISCARD => Reply::Discard,
            answer::SKIP => Reply::Skip,
            answer::PROGRESS => Reply::Progress,
            answer::REPLY_CODE => Reply::Code(strings(payload).next().unwrap_or(b"").to_vec()),
            change => Reply::Change(change),
        };
        Ok(Some(reply))
    }

    fn has(&self, bit: u32) -> bool {
        self.chosen.is_some_and(|it| it.protocol & bit != 0)
    }

    fn strings(&mut self, command: u8, strings: &[&[u8]]) -> bool {
        let mut payload = Vec::new();
        for string in strings {
            payload.extend_from_slice(string);
            payload.push(0);
        }
        self.event(command, &payload)
    }

    fn event(&mut self, command: u8, payload: &[u8]) -> bool {
        let (unwanted, silent) = protocol::bits(command);
        if self.has(unwanted) {
            return false;
        }
        put(&mut self.out, command, payload);
        !self.has(silent)
    }
}

/// None where it is cut short, or chooses what was not offered.
fn read_choice(mut payload: &[u8], offer: Offer) -> Option<(Offer, WantedMacros)> {
    let chosen = Offer {
        version: number(&mut payload)?,
        actions: number(&mut payload)?,
        protocol: number(&mut payload)?,
    };
    let is_part = chosen.version <= offer.version
        && chosen.actions & !offer.actions == 0
        && chosen.protocol & !offer.protocol == 0;
    let asks = chosen.actions & action::SET_MACROS != 0;
    if !is_part || (!asks && !payload.is_empty()) {
        return None;
    }
    let mut macros = Vec::new();
    while !payload.is_empty() {
        let stage = number(&mut payload)?;
        let end = payload.iter().position(|&byte| byte == 0)?;
        macros.push((stage, payload[..end].to_vec()));
        payload = &payload[end + 1..];
    }
    Some((chosen, macros))
}
