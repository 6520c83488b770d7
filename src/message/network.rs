//! Networks in CIDR form: whom to trust, where a message came from.

use std::{fmt, net::IpAddr, str::FromStr};

/// `127.0.0.0/8`, `::1`, `2001:db8::/32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadNetwork {
    #[error("{0:?} is not a network: expected an IP address or address/prefix, as 10.0.0.0/8")]
    Syntax(String),
    #[error("{found:?} has bits set beyond its prefix: did you mean {meant}?")]
    HostBits { found: String, meant: Network },
}

impl Network {
    /// An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => same_prefix(
                u128::from(ours.to_bits()),
                u128::from(theirs.to_bits()),
                32 - self.prefix,
            ),
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                same_prefix(ours.to_bits(), theirs.to_bits(), 128 - self.prefix)
            }
            _ => false,
        }
    }

    fn masked(&self) -> Self {
        let address = match self.address {
            IpAddr::V4(a) => IpAddr::V4(
                (a.to_bits()
                    & u32::MAX
                        .checked_shl(32 - u32::from(self.prefix))
                        .unwrap_or(0))
                .into(),
            ),
            IpAddr::V6(a) => IpAddr::V6(
                (a.to_bits()
                    & u128::MAX
                        .checked_shl(128 - u32::from(self.prefix))
                        .unwrap_or(0))
                .into(),
            ),
        };
        Self { address, ..*self }
    }
}

/// Do two addresses agree in all but their last `free` bits?
fn same_prefix(a: u128, b: u128, free: u8) -> bool {
    (a ^ b).checked_shr(u32::from(free)).unwrap_or(0) == 0
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let bad = || BadNetwork::Syntax(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(prefix) => prefix.parse().ok().filter(|p| *p <= bits).ok_or_else(bad)?,
        };
        let network = Self { address, prefix };
        let masked = network.masked();
        if masked != network {
            return Err(BadNetwork::HostBits {
                found: text.to_owned(),
                meant: masked,
            });
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_ends_where_its_prefix_says() {
        for (inside, outside, text) in [
            ("127.255.255.255", "128.0.0.0", "127.0.0.0/8"),
            ("10.1.2.3", "10.1.2.4", "10.1.2.3"),
            ("0.0.0.0", "::", "0.0.0.0/0"),
            ("::1", "::2", "::1"),
            ("2001:db8:ffff::", "2001:db9::", "2001:db8::/32"),
            ("ffff::", "1.2.3.4", "::/0"),
        ] {
            assert!(
                network(text).contains(inside.parse().unwrap()),
                "{inside} in {text}"
            );
            assert!(
                !network(text).contains(outside.parse().unwrap()),
                "{outside} in {text}"
            );
        }
    }

    #[test]
    fn an_ipv4_client_of_a_dual_stack_socket_is_an_ipv4_client() {
        assert!(network("127.0.0.0/8").contains("::ffff:127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_prefix_with_host_bits_says_what_was_meant() {
        let error = "127.0.0.1/8".parse::<Network>().unwrap_err();
        assert!(error.to_string().contains("127.0.0.0/8"), "{error}");
        for text in [
            "",
            "localhost",
            "10.0.0.0/33",
            "::1/129",
            "10.0.0.0/",
            "10/8",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
