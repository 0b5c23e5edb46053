//! Versions of Debian's packages and their order (Debian policy, 5.6.12): `EPOCH:UPSTREAM-REVISION`.

use std::cmp::Ordering;
use std::fmt;

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no version of a Debian package")]
pub struct InvalidVersion(String);

/// A version. Versions that differ in zeros alone are equal: `1.0` and `1.00`.
#[derive(Debug, Clone)]
pub struct Version {
    text: String,
    epoch: u32,
    /// The bytes of the upstream version in the text.
    upstream: (usize, usize),
}

impl Version {
    /// Reads a version.
    ///
    /// # Errors
    ///
    /// If it has other characters than a version may have, or an epoch that is no number.
    pub fn parse(text: &str) -> Result<Self, InvalidVersion> {
        let invalid = || InvalidVersion(text.to_owned());
        let (epoch, start) = match text.split_once(':') {
            Some((epoch, _)) if !epoch.is_empty() && epoch.bytes().all(|byte| byte.is_ascii_digit()) => {
                (epoch.parse().map_err(|_| invalid())?, epoch.len() + 1)
            }
            Some(_) => return Err(invalid()),
            None => (0, 0),
        };
        let end = text[start..].rfind('-').map_or(text.len(), |at| start + at);
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".+-~:".contains(&byte);
        let revision = &text[(end + 1).min(text.len())..];
        let is_sound = start < end
            && text[start..].bytes().all(is_allowed)
            && !revision.contains(':')
            && (end == text.len() || !revision.is_empty());
        if !is_sound {
            return Err(invalid());
        }
        Ok(Self { text: text.to_owned(), epoch, upstream: (start, end) })
    }

    /// Returns the version as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn upstream(&self) -> &[u8] {
        &self.text.as_bytes()[self.upstream.0..self.upstream.1]
    }

    fn revision(&self) -> &[u8] {
        &self.text.as_bytes()[(self.upstream.1 + 1).min(self.text.len())..]
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let parts = || compare(self.upstream(), other.upstream());
        self.epoch.cmp(&other.epoch).then_with(parts).then_with(|| compare(self.revision(), other.revision()))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

/// Compares parts of versions: text and numbers in turn. In text a tilde comes before everything, even the end, and letters come before
/// all other characters.
fn compare(one: &[u8], other: &[u8]) -> Ordering {
    let (mut one, mut other) = (one, other);
    loop {
        let texts = (split(&mut one, |byte| !byte.is_ascii_digit()), split(&mut other, |byte| !byte.is_ascii_digit()));
        let numbers = (split(&mut one, |byte| byte.is_ascii_digit()), split(&mut other, |byte| byte.is_ascii_digit()));
        let order = compare_texts(texts.0, texts.1).then_with(|| compare_numbers(numbers.0, numbers.1));
        if order != Ordering::Equal || (one.is_empty() && other.is_empty()) {
            return order;
        }
    }
}

/// Takes the bytes from the start that are of a kind.
fn split<'b>(bytes: &mut &'b [u8], is_of_kind: impl Fn(u8) -> bool) -> &'b [u8] {
    let end = bytes.iter().position(|byte| !is_of_kind(*byte)).unwrap_or(bytes.len());
    let (taken, rest) = bytes.split_at(end);
    *bytes = rest;
    taken
}

fn compare_texts(one: &[u8], other: &[u8]) -> Ordering {
    let weight = |byte: Option<&u8>| match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(*byte),
        Some(byte) => i32::from(*byte) + 256,
    };
    let weights = (0..one.len().max(other.len())).map(|at| weight(one.get(at)).cmp(&weight(other.get(at))));
    weights.fold(Ordering::Equal, Ordering::then)
}

fn compare_numbers(one: &[u8], other: &[u8]) -> Ordering {
    let plain = |digits: &'_ [u8]| digits.iter().position(|digit| *digit != b'0').unwrap_or(digits.len());
    let (one, other) = (&one[plain(one)..], &other[plain(other)..]);
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn versions_stand_in_debian_s_order() {
        let ordered = [
            "0~",
            "0",
            "1.0~~",
            "1.0~~a",
            "1.0~",
            "1.0-0~deb12u1",
            "1.0",
            "1.0-1",
            "1.0a",
            "1.0+dfsg",
            "1.0.1",
            "1.9",
            "1.10",
            "1.10-1~bpo",
            "1.10-1",
            "1.10-1+b1",
            "1:0.1",
            "2:0",
        ];
        for pair in ordered.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
        for (one, other) in [("1.0", "1.00"), ("1", "1-0"), ("0:1", "1"), ("1-00", "1-0")] {
            assert_eq!(version(one), version(other));
        }
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in ["", ":1", "a:1", "1:", "1_0", "1 0", "1-", "-1", "1:-1", "99999999999:1"] {
            assert!(Version::parse(text).is_err(), "{text}");
        }
        assert_eq!(version("1:2-3-4").upstream(), b"2-3");
        assert_eq!(version("1:2:3-4").upstream(), b"2:3");
    }
}
