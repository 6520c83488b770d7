//! The kinds of value that a key can hold, and how people write them: `"30s"`, `"10 MiB"`.

use std::{net::SocketAddr, ops::Range, path::PathBuf, time::Duration};

use toml::{Spanned, de::DeValue};

use crate::net::{Address, Network, Networks};

/// Notes a fault: where, and what was expected.
pub(super) type Complain<'c> = dyn FnMut(Range<usize>, String) + 'c;

pub(super) trait Setting: Sized {
    fn expected() -> String;
    /// `None` for a value of another kind.
    fn from_value(value: &DeValue<'_>) -> Option<Self>;

    fn read(value: &Spanned<DeValue<'_>>, complain: &mut Complain<'_>) -> Option<Self> {
        let made = Self::from_value(value.get_ref());
        if made.is_none() {
            complain(value.span(), Self::expected());
        }
        made
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn expected() -> String {
        format!("a list, each item {}", T::expected())
    }

    fn from_value(value: &DeValue<'_>) -> Option<Self> {
        let items = value.as_array()?;
        items
            .iter()
            .map(|item| T::from_value(item.get_ref()))
            .collect()
    }

    /// Each bad item is a fault of its own.
    fn read(value: &Spanned<DeValue<'_>>, complain: &mut Complain<'_>) -> Option<Self> {
        let Some(items) = value.get_ref().as_array() else {
            complain(value.span(), Self::expected());
            return None;
        };
        let made: Vec<Option<T>> = items.iter().map(|item| T::read(item, complain)).collect();
        made.into_iter().collect()
    }
}

impl Setting for String {
    fn expected() -> String {
        "a text that is not empty".to_owned()
    }
    fn from_value(value: &DeValue<'_>) -> Option<Self> {
        value
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    }
}

impl Setting for PathBuf {
    fn expected() -> String {
        "a path".to_owned()
    }
    fn from_value(value: &DeValue<'_>) -> Option<Self> {
        String::from_value(value).map(PathBuf::from)
    }
}

impl Setting for bool {
    fn expected() -> String {
        "true | false".to_owned()
    }
    fn from_value(value: &DeValue<'_>) -> Option<Self> {
        value.as_bool()
    }
}

impl Setting for SocketAddr {
    fn expected() -> String {
        "an address and port: \"127.0.0.1:9725\" or \"[::1]:9725\"".to_owned()
    }
    fn from_value(value: &DeValue<'_>) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

impl Setting for Address {
    fn expected() -> String {
        "host:port, [ipv6]:port or unix:/path".to_owned()
    }
    fn from_value(value: &DeValue<'_>) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

impl Setting for Network {
    fn expected() -> String {
        "a network: \"192.0.2.0/24\", \"2001:db8::/32\" or one address".to_owned()
    }
    fn from_value(value: &DeValue<'_>) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

impl Setting for Networks {
    fn expected() -> String {
        Vec::<Network>::expected()
    }
    fn from_value(value: &DeValue<'_>) -> Option<Self> {
        Vec::<Network>::from_value(value).map(Networks::from_iter)
    }
    fn read(value: &Spanned<DeValue<'_>>, complain: &mut Complain<'_>) -> Option<Self> {
        Vec::<Network>::read(value, complain).map(Networks::from_iter)
    }
}

/// Permissions of a file, as chmod(1) writes them: `"0660"`.
pub(super) struct Mode(pub(super) u32);

impl Setting for Mode {
    fn expected() -> String {
        "permissions in octal: \"0660\"".to_owned()
    }
    fn from_value(value: &DeValue<'_>) -> Option<Self> {
        let mode = u32::from_str_radix(value.as_str()?, 8).ok()?;
        (mode <= 0o777).then_some(Self(mode))
    }
}

macro_rules! whole_number {
    ($($kind:ty),*) => {$(
        impl Setting for $kind {
            fn expected() -> String {
                format!("a whole number from 0 to {}", <$kind>::MAX)
            }
            fn from_value(value: &DeValue<'_>) -> Option<Self> {
                let number = value.as_integer()?;
                <$kind>::from_str_radix(number.as_str(), number.radix()).ok()
            }
        }
    )*};
}
whole_number!(u16, u32, u64, usize);

impl Setting for Duration {
    fn expected() -> String {
        "a time such as \"500ms\", \"30s\", \"5m\", \"2h\" or \"1d\"".to_owned()
    }
    fn from_value(value: &DeValue<'_>) -> Option<Self> {
        let (number, unit) = number_and_unit(value.as_str()?)?;
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        number.checked_mul(milliseconds).map(Duration::from_millis)
    }
}

/// A number of bytes: `"10 MiB"`, `"64kB"`, `1024`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bytes(pub(super) u64);

impl Bytes {
    pub(super) const fn kib(number: u64) -> Self {
        Self(number << 10)
    }
    pub(super) const fn mib(number: u64) -> Self {
        Self(number << 20)
    }
    pub(super) const fn gib(number: u64) -> Self {
        Self(number << 30)
    }
}

impl Setting for Bytes {
    fn expected() -> String {
        "a size such as \"64 KiB\", \"10 MiB\", \"2 GiB\" or 1048576".to_owned()
    }
    fn from_value(value: &DeValue<'_>) -> Option<Self> {
        if let Some(number) = u64::from_value(value) {
            return Some(Self(number));
        }
        let (number, unit) = number_and_unit(value.as_str()?)?;
        let bytes = match unit {
            "" | "B" => 1,
            "kB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return None,
        };
        number.checked_mul(bytes).map(Self)
    }
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number = text[..digits].parse().ok()?;
    Some((number, text[digits..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Setting>(text: &str) -> Option<T> {
        T::from_value(DeValue::parse(text).expect("a TOML value").get_ref())
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(read("'500ms'"), Some(Duration::from_millis(500)));
        assert_eq!(read("'2 h'"), Some(Duration::from_secs(7200)));
        for wrong in [
            "'30'",
            "30",
            "'-1s'",
            "'s'",
            "'1.5s'",
            "'999999999999999999d'",
        ] {
            assert_eq!(read::<Duration>(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_know_binary_and_decimal_units() {
        assert_eq!(read("'10 MiB'"), Some(Bytes::mib(10)));
        assert_eq!(read("'64kB'"), Some(Bytes(64_000)));
        assert_eq!(read("0x400"), Some(Bytes::kib(1)));
        for wrong in ["'10 Mb'", "-1", "'99999999 TiB'", "true"] {
            assert_eq!(read::<Bytes>(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_bad_item_of_a_list_is_a_fault() {
        let value = DeValue::parse("[1, 'x', 2, 70000]").expect("a TOML value");
        let mut faults = Vec::new();
        let made = Vec::<u16>::read(&value, &mut |at, _| faults.push(at));
        assert_eq!((made, faults), (None, vec![4..7, 12..17]));
    }
}
