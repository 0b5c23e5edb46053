//! Times as documents hold them (RFC 3339).

use std::time::{Duration, SystemTime};

/// The last second that RFC 3339 can write, since 1970.
const LAST_SECOND: u64 = 253_402_300_799;

/// Returns seconds since 1970 as RFC 3339 in UTC.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Returns the seconds since 1970 of a time that [`rfc3339`] wrote.
pub(crate) fn seconds(time: &str) -> Option<u64> {
    let time = humantime::parse_rfc3339(time).ok()?;
    Some(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(kiln_oci::time::CREATED), "1980-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_709_210_096), "2024-02-29T12:34:56Z");
        assert_eq!(rfc3339(1_735_689_599), "2024-12-31T23:59:59Z");
        assert_eq!(rfc3339(LAST_SECOND), "9999-12-31T23:59:59Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        for time in [0, 86_399, 315_532_800, 951_782_400, 1_709_210_096, 1_735_689_599, 4_102_444_800] {
            assert_eq!(seconds(&rfc3339(time)), Some(time));
        }
        for text in ["", "yesterday", "1969-12-31T23:59:59Z", "2024-13-01T00:00:00Z", "ÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿ"]
        {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
