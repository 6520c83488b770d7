//! What stands in a server's certificate, for people: names, issuer, expiry.

use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, x509::X509Name,
};

use super::identity::{Certificate, printable};

/// Names that are kept; a certificate with more names is cut.
const NAMES_MAX: usize = 100;

/// Reads a certificate in DER. What does not parse stays empty: the verifier has said already why it refused.
pub(super) fn read(der: &[u8]) -> Certificate {
    let Ok((_, parsed)) = X509Certificate::from_der(der) else {
        return Certificate::default();
    };
    let validity = parsed.validity();
    Certificate {
        subject: told(parsed.subject()),
        names: names(&parsed),
        issuer: told(parsed.issuer()),
        not_before: day(validity.not_before.timestamp()),
        not_after: day(validity.not_after.timestamp()),
        ..Certificate::default()
    }
}

/// The common name where there is one, else the whole.
fn told(name: &X509Name<'_>) -> String {
    let mut common = name.iter_common_name();
    let common = common.next().and_then(|it| it.as_str().ok());
    match common {
        Some(common) => printable(common.as_bytes()),
        None => printable(name.to_string().as_bytes()),
    }
}

fn names(parsed: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(alternative)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let names = alternative.value.general_names.iter();
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(printable(name.as_bytes())),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes)
                .ok()
                .map(|it| std::net::Ipv4Addr::from(it).to_string()),
            _ => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|it| std::net::Ipv6Addr::from(it).to_string()),
        },
        _ => None,
    });
    names.take(NAMES_MAX).collect()
}

fn day(seconds: i64) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_second(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_issuer_and_expiry_are_read() {
        let names = ["mail.example.org".to_owned(), "192.0.2.1".to_owned()];
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(names.clone()).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2031, 2, 3);
        let made = parameters.self_signed(&key).unwrap();
        let read = read(made.der());
        assert_eq!(read.names, names);
        assert_eq!(read.not_after.unwrap().to_string(), "2031-02-03T00:00:00Z");
        assert_eq!(read.issuer, read.subject);
    }

    #[test]
    fn a_spoiled_certificate_is_read_or_not_and_nothing_breaks() {
        let names = ["mail.example.org".to_owned(), "192.0.2.1".to_owned()];
        let key = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::new(names).unwrap();
        let whole = made.self_signed(&key).unwrap().der().to_vec();
        for at in 0..whole.len() {
            read(&whole[..at]);
            for byte in [0, 1, 0x1b, 0x30, 0x7f, 0x80, 0x84, 0xff] {
                let mut spoiled = whole.clone();
                spoiled[at] = byte;
                let read = read(&spoiled);
                let mut texts = read.names.iter().chain([&read.subject, &read.issuer]);
                assert!(texts.all(|it| !it.contains(char::is_control)), "{read:?}");
            }
        }
    }

    #[test]
    fn no_certificate_is_an_empty_one() {
        assert_eq!(read(b"\x30\x82\xff\xff"), Certificate::default());
        assert_eq!(read(b""), Certificate::default());
    }
}
