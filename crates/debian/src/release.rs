//! The signed list of a suite's indexes (`InRelease`): what the archive vouches for.
//!
//! The text counts only where a signature over it is by a trusted key, made while the key was valid, over a hash that nobody can forge.

use std::collections::BTreeMap;
use std::time::SystemTime;

use kiln_plan::digest::Digest;
use pgp::composed::{CleartextSignedMessage, Deserializable, SignedPublicKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::types::{KeyDetails, VerifyingKey};

use crate::control::{ControlError, stanzas};

/// A list that cannot be trusted or read.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// It is no signed text.
    #[error("it is not signed: {0}")]
    Unsigned(String),
    /// No trusted key signed it.
    #[error("none of its signatures is by a trusted key ({})", issuers.join(", "))]
    Untrusted {
        /// Fingerprints or ids of the keys that signed it.
        issuers: Vec<String>,
    },
    /// The text.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A field that must be there.
    #[error("it has no field `{0}`")]
    Missing(&'static str),
    /// A field that cannot be read.
    #[error("its field `{name}` has `{value}`")]
    Invalid {
        /// The field.
        name: &'static str,
        /// Its value.
        value: String,
    },
}

/// Keys that sign archives.
#[derive(Debug, Clone, Default)]
pub struct Keyring(Vec<SignedPublicKey>);

/// The keys of Debian's archive for releases 11 to 13, as its package debian-archive-keyring has them.
const DEBIAN: &[u8] = include_bytes!("../keys/debian-archive.asc");

impl Keyring {
    /// Returns the keys of Debian's archive.
    ///
    /// # Errors
    ///
    /// Never with the file that kiln carries.
    pub fn debian() -> Result<Self, String> {
        Self::parse(DEBIAN)
    }

    /// Reads keys: packets, or their text form (RFC 9580, "Armor").
    ///
    /// # Errors
    ///
    /// If they are no keys.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let is_text = bytes.trim_ascii_start().starts_with(b"-----BEGIN");
        let read = |bytes| -> pgp::errors::Result<Vec<SignedPublicKey>> {
            if is_text {
                SignedPublicKey::from_armor_many(bytes)?.0.collect()
            } else {
                SignedPublicKey::from_bytes_many(bytes)?.collect()
            }
        };
        let keys = read(bytes).map_err(|error| error.to_string())?;
        if keys.is_empty() { Err("it holds no key".into()) } else { Ok(Self(keys)) }
    }

    /// Adds the keys of another.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Returns the fingerprints of the keys, in lower-case hexadecimal digits.
    pub fn fingerprints(&self) -> Vec<String> {
        self.0.iter().map(|key| key.fingerprint().to_string()).collect()
    }

    fn signed(&self, message: &CleartextSignedMessage, text: &str) -> bool {
        let by = |key: &SignedPublicKey, signature: &Signature| {
            if signs(&key.primary_key, &key_life(key), signature, text) {
                return true;
            }
            let mut subkeys = key.public_subkeys.iter().filter(|subkey| {
                let is_revoked = subkey.signatures.iter().any(|one| one.typ() == Some(SignatureType::SubkeyRevocation));
                !is_revoked
                    && subkey.signatures.iter().any(|one| one.key_flags().sign())
                    && subkey.verify_bindings(&key.primary_key).is_ok()
            });
            subkeys.any(|subkey| signs(&subkey.key, &life(&subkey.key, &subkey.signatures), signature, text))
        };
        let is_strong = |signature: &&Signature| {
            matches!(signature.hash_alg(), Some(HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512))
        };
        message.signatures().iter().filter(is_strong).any(|signature| self.0.iter().any(|key| by(key, signature)))
    }
}

/// The seconds since 1970 between which a key signs.
struct Life {
    from: u64,
    to: Option<u64>,
}

fn key_life(key: &SignedPublicKey) -> Life {
    let users = key.details.users.iter().flat_map(|user| &user.signatures);
    let all: Vec<Signature> = users.chain(&key.details.direct_signatures).cloned().collect();
    life(&key.primary_key, &all)
}

/// A key ends as its newest signature says.
fn life(key: &impl KeyDetails, signatures: &[Signature]) -> Life {
    let from = u64::from(key.created_at().as_secs());
    let newest = signatures.iter().max_by_key(|one| one.created().map_or(0, |time| time.as_secs()));
    let expires = newest.and_then(|one| one.key_expiration_time()).map(|after| u64::from(after.as_secs()));
    Life { from, to: expires.filter(|after| *after > 0).map(|after| from + after) }
}

fn signs(key: &impl VerifyingKey, life: &Life, signature: &Signature, text: &str) -> bool {
    let Some(made) = signature.created().map(|time| u64::from(time.as_secs())) else { return false };
    life.from <= made && life.to.is_none_or(|to| made <= to) && signature.verify(key, text.as_bytes()).is_ok()
}

/// A suite of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Its name by its place in the order of releases, such as `stable`.
    pub suite: String,
    /// Its own name, such as `bookworm`.
    pub codename: String,
    /// The time at which it was made.
    pub date: SystemTime,
    /// The time after which it is stale. Suites that do not change any more have none.
    pub valid_until: Option<SystemTime>,
    /// Indexes are also found by their digest (`by-hash/SHA256/`), where a later one does not replace them.
    pub by_hash: bool,
    /// Digests and sizes of indexes, by path below the suite.
    pub files: BTreeMap<String, (Digest, u64)>,
    /// The fields by which apt knows the suite and prefers one to another, as lines.
    pub described: String,
}

/// Such fields (apt_preferences(5)).
const DESCRIBING: [&str; 8] =
    ["Origin", "Label", "Suite", "Version", "Codename", "Components", "NotAutomatic", "ButAutomaticUpgrades"];

impl Release {
    /// Reads a signed list.
    ///
    /// # Errors
    ///
    /// If no trusted key signed it, or it is no list.
    pub fn verify(in_release: &str, trusted: &Keyring) -> Result<Self, ReleaseError> {
        let (message, _) = CleartextSignedMessage::from_string(in_release)
            .map_err(|error| ReleaseError::Unsigned(error.to_string()))?;
        let text = message.signed_text();
        if !trusted.signed(&message, &text) {
            let issuers = message.signatures().iter().map(issuer).collect();
            return Err(ReleaseError::Untrusted { issuers });
        }
        Self::parse(&text)
    }

    /// Reads the text of a list.
    ///
    /// # Errors
    ///
    /// If a field is missing, or cannot be read.
    pub fn parse(text: &str) -> Result<Self, ReleaseError> {
        let stanza = stanzas(text).next().transpose()?.unwrap_or_default();
        let word = |name: &'static str| stanza.get(name).ok_or(ReleaseError::Missing(name));
        let time = |name: &'static str, value: &str| {
            time(value).ok_or_else(|| ReleaseError::Invalid { name, value: value.to_owned() })
        };
        let files = word("SHA256")?.lines().filter(|line| !line.trim().is_empty()).map(|line| {
            file(line).ok_or_else(|| ReleaseError::Invalid { name: "SHA256", value: line.trim().to_owned() })
        });
        Ok(Self {
            suite: stanza.get("Suite").unwrap_or_default().to_owned(),
            codename: word("Codename")?.to_owned(),
            date: time("Date", word("Date")?)?,
            valid_until: stanza.get("Valid-Until").map(|value| time("Valid-Until", value)).transpose()?,
            by_hash: stanza.get("Acquire-By-Hash") == Some("yes"),
            files: files.collect::<Result<_, _>>()?,
            described: DESCRIBING.iter().filter_map(|name| Some(format!("{name}: {}\n", stanza.get(name)?))).collect(),
        })
    }
}

fn issuer(signature: &Signature) -> String {
    let fingerprint = signature.issuer_fingerprint().first().map(ToString::to_string);
    let id = || signature.issuer_key_id().first().map(ToString::to_string);
    fingerprint.or_else(id).unwrap_or_else(|| "an unnamed key".to_owned())
}

/// Reads ` DIGEST SIZE PATH`.
fn file(line: &str) -> Option<(String, (Digest, u64))> {
    let mut words = line.split_whitespace();
    let (digest, size, path) = (words.next()?, words.next()?, words.next()?);
    let digest = Digest::from_hex(digest).ok()?;
    words.next().is_none().then_some((path.to_owned(), (digest, size.parse().ok()?)))
}

/// Reads `Sat, 06 Sep 2025 10:19:12 UTC`, which is a date of HTTP but for the zone and days of one digit.
fn time(text: &str) -> Option<SystemTime> {
    let (date, zone) = text.trim().rsplit_once(' ')?;
    let (weekday, date) = date.split_once(", ")?;
    let (day, rest) = date.split_once(' ')?;
    let is_universal = matches!(zone, "UTC" | "GMT" | "+0000" | "Z");
    is_universal.then(|| httpdate::parse_http_date(&format!("{weekday}, {day:0>2} {rest} GMT")).ok())?
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use pgp::ser::Serialize as _;

    use super::*;
    use crate::testing::Signer;

    const LIST: &str = "Origin: Debian\nSuite: oldstable\nCodename: bookworm\nDate: Sat, 06 Sep 2025 10:19:12 UTC\n\
                        Acquire-By-Hash: yes\nMD5Sum:\n 0 1 main\nSHA256:\n \
                        e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855        0 main/binary-amd64/Packages\n";

    /// Returns a key, and the ring that trusts it.
    fn key(made: u32) -> (Signer, Keyring) {
        let key = Signer::new(made);
        let ring = Keyring(vec![key.0.to_public_key()]);
        (key, ring)
    }

    fn signed(key: &Signer, hash: HashAlgorithm, made: u32) -> String {
        key.sign_by(LIST, made, hash)
    }

    #[test]
    fn a_list_counts_if_a_trusted_key_signed_it() {
        let ((own, ring), (_, other)) = (key(1_000), key(1_000));
        let text = signed(&own, HashAlgorithm::Sha256, 2_000);
        assert_eq!(Release::verify(&text, &ring).unwrap(), Release::parse(LIST).unwrap());
        let mut both = other.clone();
        both.extend(ring.clone());
        assert!(Release::verify(&text, &both).is_ok());
        let error = |text: &str, ring: &Keyring| Release::verify(text, ring).unwrap_err().to_string();
        assert!(error(&text, &other).starts_with("none of its signatures is by a trusted key ("));
        assert!(error(&text.replace("bookworm", "bookw0rm"), &ring).starts_with("none of its signatures"));
        assert!(error(&format!("Codename: other\n\n{text}"), &ring).starts_with("it is not signed"));
        assert!(error(LIST, &ring).starts_with("it is not signed"));
    }

    #[test]
    fn a_signature_that_is_older_than_its_key_counts_for_nothing() {
        let (own, ring) = key(1_000);
        for (hash, made, counts) in [(HashAlgorithm::Sha512, 1_000, true), (HashAlgorithm::Sha512, 999, false)] {
            assert_eq!(Release::verify(&signed(&own, hash, made), &ring).is_ok(), counts, "{hash:?} {made}");
        }
    }

    #[test]
    fn keys_are_read_as_packets_and_as_text() {
        let (own, ring) = key(1_000);
        let packets = own.0.to_public_key().to_bytes().unwrap();
        for bytes in [packets, own.public().into_bytes()] {
            assert_eq!(Keyring::parse(&bytes).unwrap().fingerprints(), ring.fingerprints());
        }
        for bytes in [&b""[..], b"no key", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n"] {
            assert!(Keyring::parse(bytes).is_err());
        }
    }

    #[test]
    fn the_keys_of_debian_are_those_of_its_releases() {
        // Automatic, security and stable keys of bullseye, bookworm and trixie.
        assert_eq!(Keyring::debian().unwrap().fingerprints().len(), 9);
    }

    #[test]
    fn a_list_tells_its_time_and_its_files() {
        let release = Release::parse(LIST).unwrap();
        assert_eq!(
            (release.suite.as_str(), release.codename.as_str(), release.by_hash),
            ("oldstable", "bookworm", true)
        );
        assert_eq!(release.date.duration_since(UNIX_EPOCH).unwrap().as_secs(), 1_757_153_952);
        assert_eq!(release.files["main/binary-amd64/Packages"], (Digest::of(b""), 0));
        assert_eq!(release.valid_until, None);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let seconds = |text| time(text).map(|time| time.duration_since(UNIX_EPOCH).unwrap().as_secs());
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 UTC"), Some(0));
        assert_eq!(seconds("Thu, 29 Feb 2024 23:59:59 UTC"), Some(1_709_251_199));
        assert_eq!(seconds("Fri, 1 Mar 2024 00:00:00 GMT"), Some(1_709_251_200));
        for text in
            ["", "now", "Sat, 06 Sep 2025 10:19:12 CEST", "Sat, 06 Foo 2025 10:19:12 UTC", "Sat, 06 Sep 2025 UTC"]
        {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn what_lacks_a_field_is_no_list() {
        let error = |text: &str| Release::parse(text).unwrap_err().to_string();
        assert_eq!(error(""), "it has no field `SHA256`");
        assert_eq!(error(&LIST.replace("Codename", "Name")), "it has no field `Codename`");
        assert_eq!(error(&LIST.replace(" UTC", "")), "its field `Date` has `Sat, 06 Sep 2025 10:19:12`");
        assert_eq!(
            error(&LIST.replace("e3b0", "")),
            format!("its field `SHA256` has `{}`", &LIST.replace("e3b0", "").lines().last().unwrap().trim())
        );
    }
}
