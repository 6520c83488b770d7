//! Which way a message goes, seen from the operator's own domains.

/// A message from an own sender to nobody else's is internal, one that also goes to others is outbound; one from a
/// stranger to anybody of ours is inbound. The null sender is ours where no recipient is: a bounce that we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Inbound,
    Outbound,
    Internal,
}

impl Direction {
    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Inbound, Self::Outbound, Self::Internal]
            .into_iter()
            .find(|direction| direction.name() == name)
    }

    /// The word of the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Internal => "internal",
        }
    }

    /// `None` between strangers, or without recipients. `from_own` is `None` for the null sender.
    pub(super) fn of(
        from_own: Option<bool>,
        mut to_own: impl Iterator<Item = bool>,
    ) -> Option<Self> {
        let first = to_own.next()?;
        let (mut any, mut all) = (first, first);
        for own in to_own {
            any |= own;
            all &= own;
        }
        match (from_own.unwrap_or(!any), any, all) {
            (true, _, true) => Some(Self::Internal),
            (true, _, false) => Some(Self::Outbound),
            (false, true, _) => Some(Self::Inbound),
            (false, false, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case() {
        use Direction::*;
        for (from_own, to_own, expected) in [
            (Some(true), &[true, true][..], Some(Internal)),
            (Some(true), &[true, false], Some(Outbound)),
            (Some(true), &[false], Some(Outbound)),
            (Some(false), &[true, false], Some(Inbound)),
            (Some(false), &[false], None),
            (None, &[true], Some(Inbound)),
            (None, &[false], Some(Outbound)),
            (Some(true), &[], None),
        ] {
            assert_eq!(
                Direction::of(from_own, to_own.iter().copied()),
                expected,
                "{from_own:?} {to_own:?}"
            );
        }
    }
}
