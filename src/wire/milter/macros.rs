//! The macros that we ask for, and what the MTA says they are.

use super::{frame::strings, stage};
use crate::message::WireText;

/// What we ask for at each stage. Our list replaces the administrator's, for us alone.
const WANTED: [(u32, &[u8]); 6] = [
    (
        stage::CONNECT,
        b"{client_addr} {client_name} {client_port}\0",
    ),
    (stage::HELO, b"r {tls_version} {cipher}\0"),
    (
        stage::MAIL,
        b"i r {auth_authen} {mail_addr} {tls_version} {cipher}\0",
    ),
    (stage::RCPT, b"{rcpt_addr} {rcpt_host} {rcpt_mailer}\0"),
    // Postfix has a queue id from here on.
    (stage::DATA, b"i\0"),
    (stage::END_OF_BODY, b"i {auth_authen}\0"),
];

/// The request, as it stands behind the three numbers of our answer to the offer.
pub(super) fn ask(out: &mut Vec<u8>) {
    for (stage, names) in WANTED {
        out.extend_from_slice(&stage.to_be_bytes());
        out.extend_from_slice(names);
    }
}

/// Values by name, the last one that was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Macros {
    pub(super) queue_id: Option<WireText>,
    /// Sendmail's word for `SMTP`, `ESMTP` …
    pub(super) protocol: Option<WireText>,
    pub(super) login: Option<WireText>,
    pub(super) tls_version: Option<WireText>,
    pub(super) cipher: Option<WireText>,
    pub(super) client_addr: Option<WireText>,
    pub(super) client_name: Option<WireText>,
    pub(super) client_port: Option<WireText>,
    pub(super) mail_addr: Option<WireText>,
    pub(super) rcpt_addr: Option<WireText>,
    pub(super) rcpt_host: Option<WireText>,
    pub(super) rcpt_mailer: Option<WireText>,
}

impl Macros {
    /// Takes name and value in turn. An empty value is none.
    pub(super) fn take(&mut self, payload: &[u8]) {
        let mut strings = strings(payload);
        while let (Some(name), Some(value)) = (strings.next(), strings.next()) {
            let name = name.strip_prefix(b"{").unwrap_or(name);
            let slot = match name.strip_suffix(b"}").unwrap_or(name) {
                b"i" => &mut self.queue_id,
                b"r" => &mut self.protocol,
                b"auth_authen" => &mut self.login,
                b"tls_version" => &mut self.tls_version,
                b"cipher" => &mut self.cipher,
                b"client_addr" => &mut self.client_addr,
                b"client_name" => &mut self.client_name,
                b"client_port" => &mut self.client_port,
                b"mail_addr" => &mut self.mail_addr,
                b"rcpt_addr" => &mut self.rcpt_addr,
                b"rcpt_host" => &mut self.rcpt_host,
                b"rcpt_mailer" => &mut self.rcpt_mailer,
                _ => continue,
            };
            *slot = (!value.is_empty()).then(|| WireText::from(value));
        }
    }

    /// What a recipient's macros said is no longer so for the next one.
    pub(super) fn forget_recipient(&mut self) {
        (self.rcpt_addr, self.rcpt_host, self.rcpt_mailer) = (None, None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_with_braces_or_without() {
        let mut macros = Macros::default();
        macros.take(b"i\x004Fxyz\0{auth_authen}\0jo\0{unheard_of}\0x\0{tls_version}\0\0");
        assert_eq!(macros.queue_id, Some("4Fxyz".into()));
        assert_eq!(macros.login, Some("jo".into()));
        assert_eq!(macros.tls_version, None);
        macros.take(b"{i}\x004G\0{auth_authen}\0\0name without a value\0");
        assert_eq!(macros.queue_id, Some("4G".into()));
        assert_eq!(macros.login, None);
    }
}
