//! Lists of trusted networks.

use super::Peer;
pub use crate::message::network::{BadNetwork, Network};

/// Whom to trust. A peer on a unix socket is always trusted: the file system's permissions let it in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

impl Networks {
    /// `127.0.0.0/8` and `::1`.
    pub fn loopback() -> Self {
        ["127.0.0.0/8", "::1"]
            .into_iter()
            .map(|text| {
                text.parse::<Network>()
                    .expect("constant networks are well formed")
            })
            .collect()
    }

    pub fn contains(&self, peer: &Peer) -> bool {
        match peer.ip() {
            None => true,
            Some(address) => self.0.iter().any(|network| network.contains(address)),
        }
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_in_an_empty_list_but_local_processes() {
        let nobody = Networks::default();
        assert!(nobody.contains(&Peer::Unix));
        assert!(!nobody.contains(&Peer::Tcp("127.0.0.1:1".parse().unwrap())));
    }
}
