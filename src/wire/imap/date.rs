//! IMAP's date-time (RFC 9051 section 9): `17-Jul-1996 02:44:25 -0700`, the day padded with a space or not.

use jiff::{civil, tz::Offset};

use crate::message::UnixMillis;

const MONTHS: [&[u8; 3]; 12] = [
    b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec",
];

/// None for what is no date, and for one before 1970.
pub(super) fn date_time(text: &[u8]) -> Option<UnixMillis> {
    let text = std::str::from_utf8(text).ok()?.trim_ascii();
    let mut words = text.split_ascii_whitespace();
    let mut date = words.next()?.split('-');
    let day = date.next()?.parse().ok()?;
    let month = date.next()?.as_bytes();
    let month = MONTHS.iter().position(|m| m.eq_ignore_ascii_case(month))?;
    let year = date.next()?.parse().ok()?;
    let mut time = words.next()?.split(':').map(|part| part.parse::<i8>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let zone = words.next()?;
    let (hours, minutes) = zone.get(1..)?.split_at_checked(2)?;
    let seconds = hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60;
    let offset = match zone.as_bytes()[0] {
        b'+' => seconds,
        b'-' => -seconds,
        _ => return None,
    };
    // A leap second is that of the minute's end.
    let local = civil::DateTime::new(year, month as i8 + 1, day, hour, minute, second.min(59), 0);
    let at = Offset::from_seconds(offset)
        .ok()?
        .to_timestamp(local.ok()?)
        .ok()?;
    u64::try_from(at.as_millisecond()).ok().map(UnixMillis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_with_their_zone() {
        let millis = |text: &str| date_time(text.as_bytes()).map(|d| d.0);
        assert_eq!(millis("17-Jul-1996 02:44:25 -0700"), Some(837_596_665_000));
        assert_eq!(millis(" 1-Jan-1970 01:00:01 +0100"), Some(1000));
        assert_eq!(millis("31-DEC-1969 23:59:59 +0000"), None);
        for nonsense in ["", "1-Foo-2020 00:00:00 +0000", "1-Jan-2020", "é-é-é é"] {
            assert_eq!(millis(nonsense), None);
        }
    }
}
