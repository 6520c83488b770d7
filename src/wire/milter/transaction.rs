//! One connection and one message as a milter is told of them: from events and macros to client and envelope.

use super::{
    frame::{Garbage, strings},
    macros::Macros,
};
use crate::message::{Client, Envelope, Recipient, TlsFacts, WireText};

/// All of an envelope that is kept; 50,000 recipients of 250 bytes fit.
pub(super) const ENVELOPE_BYTES_MAX: usize = 16 << 20;

/// A message whose end was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    pub envelope: Envelope,
    pub client: Client,
    /// More recipients than the limit, or an envelope beyond all measure: it is incomplete.
    pub too_many_recipients: bool,
}

/// The SMTP connection that the MTA has now.
#[derive(Debug, Default)]
pub(super) struct Connection {
    name: Option<WireText>,
    address: Option<WireText>,
    port: Option<u16>,
    helo: Option<WireText>,
    /// What stays true from one message to the next.
    pub(super) macros: Macros,
}

impl Connection {
    /// CONNECT: host name, family, and for a network address port and address.
    pub(super) fn begin(&mut self, payload: &[u8]) -> Option<()> {
        let macros = std::mem::take(&mut self.macros);
        *self = Self {
            macros,
            ..Self::default()
        };
        let end = payload.iter().position(|&byte| byte == 0)?;
        let (name, rest) = (&payload[..end], &payload[end + 1..]);
        // An MTA that could not find the name says "unknown" or the address in brackets.
        let is_name = !name.is_empty() && !name.starts_with(b"[") && name != b"unknown";
        self.name = is_name.then(|| WireText::from(name));
        let (&family, rest) = rest.split_first()?;
        if matches!(family, b'4' | b'6') {
            let (port, rest) = rest.split_first_chunk()?;
            self.port = Some(u16::from_be_bytes(*port)).filter(|&port| port != 0);
            self.address = strings(rest)
                .next()
                .map(|address| plain_address(address).into());
        }
        Some(())
    }

    pub(super) fn helo(&mut self, payload: &[u8]) {
        let name = strings(payload).next();
        self.helo = name.filter(|name| !name.is_empty()).map(WireText::from);
    }

    fn client(&self, macros: &Macros) -> Client {
        let of = |macro_value: &Option<WireText>| macro_value.clone();
        let address = || {
            let address = macros.client_addr.as_ref()?.as_bytes();
            (address != b"unknown").then(|| WireText::from(plain_address(address)))
        };
        let name = || of(&macros.client_name).filter(|name| name.as_bytes() != b"unknown");
        let port = || macros.client_port.as_ref()?.to_text().parse().ok();
        Client {
            address: self.address.clone().or_else(address),
            port: self.port.or_else(port),
            name: self.name.clone().or_else(name),
            helo: self.helo.clone(),
            protocol: of(&macros.protocol),
            source: None,
            queue_id: of(&macros.queue_id),
            login: of(&macros.login),
            tls: macros.tls_version.as_ref().map(|version| TlsFacts {
                version: version.to_string(),
                cipher: of(&macros.cipher).unwrap_or_default().to_string(),
            }),
        }
    }
}

/// Without the tag and the brackets that some MTAs write around an IPv6 address.
fn plain_address(address: &[u8]) -> &[u8] {
    let address = match address.split_at_checked(5) {
        Some((tag, rest)) if tag.eq_ignore_ascii_case(b"IPv6:") => rest,
        _ => address,
    };
    let inside = address.strip_prefix(b"[");
    inside
        .and_then(|it| it.strip_suffix(b"]"))
        .unwrap_or(address)
}

/// From MAIL to the end of the body.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    envelope: Envelope,
    pub(super) macros: Macros,
    envelope_bytes: usize,
    too_many_recipients: bool,
    /// Some of the content has been handed on.
    pub(super) has_content: bool,
    /// The empty line behind the headers has been.
    pub(super) has_body: bool,
}

impl Transaction {
    pub(super) fn begin(payload: &[u8], macros: Macros) -> Result<Self, Garbage> {
        let (address, parameters) = arguments(payload);
        let sender = match (address, &macros.mail_addr) {
            (Some(address), _) => address,
            (None, Some(address)) => address.clone(),
            (None, None) => return Err(Garbage::Malformed(super::command::MAIL)),
        };
        let envelope = Envelope {
            sender,
            sender_parameters: parameters,
            recipients: Vec::new(),
        };
        Ok(Self {
            envelope_bytes: payload.len(),
            envelope,
            macros,
            ..Self::default()
        })
    }

    pub(super) fn recipient(&mut self, payload: &[u8], max: usize) -> Result<(), Garbage> {
        let (address, parameters) = arguments(payload);
        let address = address.ok_or(Garbage::Malformed(super::command::RCPT))?;
        let refused = self.refusal();
        self.macros.forget_recipient();
        self.envelope_bytes += payload.len() + refused.as_ref().map_or(0, |it| it.as_bytes().len());
        if self.envelope.recipients.len() >= max || self.envelope_bytes > ENVELOPE_BYTES_MAX {
            self.too_many_recipients = true;
            return Ok(());
        }
        self.envelope.recipients.push(Recipient {
            address,
            parameters,
            refused,
            ..Recipient::default()
        });
        Ok(())
    }

    /// A recipient of mailer "error" is one that the MTA has refused: the host is its status code, the address its text.
    fn refusal(&self) -> Option<WireText> {
        let mailer = self.macros.rcpt_mailer.as_ref()?;
        if mailer.as_bytes() != b"error" {
            return None;
        }
        let words = [&self.macros.rcpt_host, &self.macros.rcpt_addr];
        let words: Vec<_> = words
            .into_iter()
            .flatten()
            .map(WireText::as_bytes)
            .collect();
        Some(words.join(&b' ').into())
    }

    pub(super) fn end(self, connection: &Connection) -> Ended {
        Ended {
            client: connection.client(&self.macros),
            envelope: self.envelope,
            too_many_recipients: self.too_many_recipients,
        }
    }
}

/// The address without its angle brackets, and the parameters behind it, with a space between them.
fn arguments(payload: &[u8]) -> (Option<WireText>, WireText) {
    let mut strings = strings(payload);
    let address = strings.next().map(|address| {
        let inside = address.strip_prefix(b"<");
        let inside = inside.and_then(|it| it.strip_suffix(b">"));
        WireText::from(inside.unwrap_or(address))
    });
    let parameters: Vec<_> = strings.collect();
    (address, parameters.join(&b' ').into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected(payload: &[u8]) -> Client {
        let mut connection = Connection::default();
        connection.begin(payload).expect("well formed");
        connection.client(&Macros::default())
    }

    #[test]
    fn a_client_is_named_as_the_mta_verified_it() {
        let client = connected(b"mx.example\x004\x1f\x90192.0.2.1\0");
        assert_eq!(client.name, Some("mx.example".into()));
        assert_eq!(client.address, Some("192.0.2.1".into()));
        assert_eq!(client.port, Some(8080));
        for name in ["unknown", "[192.0.2.1]"] {
            let client = connected(format!("{name}\x004\0\0192.0.2.1\0").as_bytes());
            assert_eq!((client.name, client.port), (None, None), "{name}");
        }
        for address in ["IPv6:2001:db8::1", "[2001:db8::1]", "2001:db8::1"] {
            let client = connected(format!("a\x006\0\x19{address}\0").as_bytes());
            assert_eq!(client.address, Some("2001:db8::1".into()), "{address}");
        }
        let client = connected(b"localhost\0U");
        assert_eq!((client.address, client.port), (None, None));
        let cut = [b"a".as_slice(), b"a\0", b"a\x004\0"];
        assert!(
            cut.iter()
                .all(|it| Connection::default().begin(it).is_none())
        );
    }

    #[test]
    fn macros_fill_in_what_the_connection_did_not_tell() {
        let mut connection = Connection::default();
        connection.begin(b"unknown\0U").unwrap();
        let mut macros = Macros::default();
        macros.take(b"{client_addr}\0IPv6:::1\0{client_port}\x0025\0{client_name}\0a.example\0");
        let client = connection.client(&macros);
        assert_eq!(client.address, Some("::1".into()));
        assert_eq!(
            (client.port, client.name),
            (Some(25), Some("a.example".into()))
        );
    }

    #[test]
    fn an_envelope_keeps_parameters_and_refusals() {
        let begun = Transaction::begin(b"<>\0SIZE=10\0BODY=8BITMIME\0", Macros::default());
        let mut transaction = begun.unwrap();
        transaction.recipient(b"<a@b>\0NOTIFY=NEVER\0", 10).unwrap();
        let refused = b"{rcpt_mailer}\0error\0{rcpt_host}\x005.1.1\0{rcpt_addr}\0no such user\0";
        transaction.macros.take(refused);
        transaction.recipient(b"<no@b>\0", 10).unwrap();
        transaction.recipient(b"last@b\0", 10).unwrap();
        assert!(transaction.recipient(b"", 10).is_err());
        let ended = transaction.end(&Connection::default());
        let envelope = ended.envelope;
        assert!(envelope.sender.is_empty() && !ended.too_many_recipients);
        assert_eq!(envelope.sender_parameters, "SIZE=10 BODY=8BITMIME".into());
        let [first, second, third] = envelope.recipients.as_slice() else {
            panic!("three recipients: {:?}", envelope.recipients);
        };
        assert_eq!(first.parameters, "NOTIFY=NEVER".into());
        assert_eq!(second.refused, Some("5.1.1 no such user".into()));
        assert_eq!((&third.address, &third.refused), (&"last@b".into(), &None));
    }

    #[test]
    fn an_envelope_has_bounds() {
        let mut transaction = Transaction::begin(b"<a@b>\0", Macros::default()).unwrap();
        for _ in 0..3 {
            transaction.recipient(b"<c@d>\0", 2).unwrap();
        }
        let ended = transaction.end(&Connection::default());
        assert_eq!(ended.envelope.recipients.len(), 2);
        assert!(ended.too_many_recipients);
    }
}
