//! XFORWARD and XCLIENT: what a trusted peer says of the client behind it (Postfix's XFORWARD_README, XCLIENT_README).

use crate::message::{Client, WireText};

/// The attributes that we announce, and send where a next hop announces them too.
pub const ATTRIBUTES: [&str; 7] = ["NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE"];
/// Those of XCLIENT.
pub const XCLIENT_ATTRIBUTES: [&str; 6] = ["NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN"];

/// Puts the attributes of one command into `client`. Several commands add up: values are limited in length, so peers
/// split them. An attribute that we do not know changes nothing.
pub fn apply(argument: &[u8], client: &mut Client) {
    for word in argument.split(u8::is_ascii_whitespace) {
        let Some(equals) = memchr::memchr(b'=', word) else {
            continue;
        };
        let (name, value) = (&word[..equals], decode(&word[equals + 1..]));
        let text = value.clone().map(WireText::from);
        match name.to_ascii_uppercase().as_slice() {
            b"NAME" => client.name = text,
            b"ADDR" => client.address = value.map(|v| WireText::from(without_family(&v))),
            b"PORT" => {
                client.port = value.and_then(|v| std::str::from_utf8(&v).ok()?.parse().ok());
            }
            b"PROTO" => client.protocol = text,
            b"HELO" => client.helo = text,
            b"IDENT" => client.queue_id = text,
            b"SOURCE" => client.source = text,
            b"LOGIN" => client.login = text,
            _ => {}
        }
    }
}

/// Does the command name the client's address?
pub fn names_address(argument: &[u8]) -> bool {
    argument
        .split(u8::is_ascii_whitespace)
        .any(|word| word.len() >= 5 && word[..5].eq_ignore_ascii_case(b"ADDR="))
}

/// One command line with those of `attributes` that `allowed` names, `[UNAVAILABLE]` where we know nothing.
pub fn command(
    verb: &str,
    attributes: &[&str],
    client: &Client,
    allowed: &[u8],
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(verb.as_bytes());
    for attribute in attributes {
        let announced = allowed
            .split(u8::is_ascii_whitespace)
            .any(|word| word.eq_ignore_ascii_case(attribute.as_bytes()));
        if !announced {
            continue;
        }
        let port = client.port.map(|p| WireText::from(p.to_string()));
        let value = match *attribute {
            "NAME" => client.name.as_ref(),
            "ADDR" => client.address.as_ref(),
            "PORT" => port.as_ref(),
            "PROTO" => client.protocol.as_ref(),
            "HELO" => client.helo.as_ref(),
            "IDENT" => client.queue_id.as_ref(),
            "SOURCE" => client.source.as_ref(),
            "LOGIN" => client.login.as_ref(),
            _ => None,
        };
        // Postfix answers 501 to PROTO=[UNAVAILABLE] in XCLIENT; left out, it is as unavailable.
        if *attribute == "PROTO" && value.is_none() {
            continue;
        }
        out.push(b' ');
        out.extend_from_slice(attribute.as_bytes());
        out.push(b'=');
        match value {
            Some(value) if !value.is_empty() => {
                let ipv6 = *attribute == "ADDR" && value.as_bytes().contains(&b':');
                if ipv6 {
                    out.extend_from_slice(b"IPV6:");
                }
                encode(value.as_bytes(), out);
            }
            _ => out.extend_from_slice(b"[UNAVAILABLE]"),
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// A value out of its xtext (RFC 3461 section 4); a `+` that no two hexadecimal digits follow stands for itself, as
/// Postfix before 2.3 sent values plain. `None` where the peer does not know it.
fn decode(value: &[u8]) -> Option<Vec<u8>> {
    let unknown = [&b"[UNAVAILABLE]"[..], b"[TEMPUNAVAIL]"];
    if value.is_empty() || unknown.iter().any(|u| u.eq_ignore_ascii_case(value)) {
        return None;
    }
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, tail) {
            (b'+', [high, low, ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                out.push(nibble(*high) << 4 | nibble(*low));
                rest = &tail[2..];
            }
            _ => out.push(*byte),
        }
    }
    Some(out)
}

/// Everything but printable ASCII without `+` and `=` goes as `+HH`.
fn encode(value: &[u8], out: &mut Vec<u8>) {
    for byte in value {
        if byte.is_ascii_graphic() && !matches!(byte, b'+' | b'=') {
            out.push(*byte);
        } else {
            out.extend_from_slice(format!("+{byte:02X}").as_bytes());
        }
    }
}

fn nibble(digit: u8) -> u8 {
    char::from(digit).to_digit(16).unwrap_or_default() as u8
}

fn without_family(address: &[u8]) -> &[u8] {
    match address.get(..5) {
        Some(family) if family.eq_ignore_ascii_case(b"IPV6:") => &address[5..],
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_add_up_over_several_commands() {
        let mut client = Client::default();
        apply(
            b"NAME=spike.porcupine.org ADDR=IPv6:2001:db8::1 PROTO=ESMTP",
            &mut client,
        );
        apply(
            b"helo=a+2Bb+zz ident=4TbX1 SOURCE=REMOTE PORT=2525 X=y",
            &mut client,
        );
        let text = |t: &Option<WireText>| t.as_ref().map(|t| t.to_string());
        assert_eq!(text(&client.name).as_deref(), Some("spike.porcupine.org"));
        assert_eq!(text(&client.address).as_deref(), Some("2001:db8::1"));
        assert_eq!(text(&client.helo).as_deref(), Some("a+b+zz"));
        assert_eq!(text(&client.queue_id).as_deref(), Some("4TbX1"));
        assert_eq!(client.port, Some(2525));
        apply(b"NAME=[unavailable]", &mut client);
        assert_eq!(client.name, None);
    }

    #[test]
    fn what_we_send_is_what_we_read() {
        let client = Client {
            address: Some("2001:db8::1".into()),
            port: Some(25),
            name: Some("a+b =c".into()),
            protocol: Some("ESMTP".into()),
            ..Client::default()
        };
        let mut line = Vec::new();
        let allowed = b"NAME ADDR PORT PROTO HELO";
        command("XFORWARD", &ATTRIBUTES, &client, allowed, &mut line);
        assert_eq!(
            String::from_utf8(line.clone()).unwrap(),
            "XFORWARD NAME=a+2Bb+20+3Dc ADDR=IPV6:2001:db8::1 PORT=25 PROTO=ESMTP HELO=[UNAVAILABLE]\r\n"
        );
        let mut back = Client::default();
        apply(&line[9..], &mut back);
        assert_eq!(back, client);
    }
}
