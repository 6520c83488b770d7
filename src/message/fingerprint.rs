//! The identity of a message: K1 is its exact bytes, K2 is the message whatever route it took.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A digest of 32 bytes, written as 64 hexadecimal digits.
macro_rules! digest {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0u8; 64];
                for (byte, pair) in self.0.iter().zip(text.chunks_exact_mut(2)) {
                    pair[0] = HEX[usize::from(byte >> 4)];
                    pair[1] = HEX[usize::from(byte & 15)];
                }
                f.write_str(std::str::from_utf8(&text).expect("hexadecimal digits are ASCII"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = NotADigest;
            fn from_str(text: &str) -> Result<Self, NotADigest> {
                parse_hex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

const HEX: &[u8; 16] = b"0123456789abcdef";

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 hexadecimal digits")]
pub struct NotADigest;

fn parse_hex(text: &str) -> Result<[u8; 32], NotADigest> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return Err(NotADigest);
    }
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16).ok_or(NotADigest)?;
        let low = char::from(pair[1]).to_digit(16).ok_or(NotADigest)?;
        *byte = (high << 4 | low) as u8;
    }
    Ok(out)
}

digest! {
    /// SHA-256 of the exact bytes, bare line ends as they are; what `sha256sum` prints for the `.eml`.
    K1
}
digest! {
    /// BLAKE3 of the message without its delivery-trace headers, header fields unfolded, line ends normalised.
    K2
}
digest! {
    /// BLAKE3 of the exact bytes without the trace headers: where two sightings agree in it, each can be made from the
    /// other's copy by exchanging trace headers alone.
    Core
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint {
    pub k1: K1,
    pub k2: K2,
    pub core: Core,
}

/// Computes a [`Fingerprint`] in one pass over bytes in any chunking.
pub struct Fingerprinter {}
