//! Signatures of records (Ed25519, RFC 8032): who may write a cache is not always whom its readers trust.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_plan::public_key::PublicKey;
use ring::rand::SecureRandom as _;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

/// What a secret key's text begins with, so that it is known for one wherever it turns up.
const PREFIX: &str = "kiln-secret-ed25519:";
/// What is signed begins with this, so that a signature means nothing elsewhere.
const CONTEXT: &[u8] = b"kiln cache record 1\n";

/// A secret key.
#[derive(Clone)]
pub struct Signer {
    seed: [u8; 32],
    public: PublicKey,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.public)
    }
}

/// A text that is not a secret key; it is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a secret key of `kiln cache keygen`")]
pub struct InvalidSecret;

impl Signer {
    /// A new key.
    pub fn generate() -> Result<Self, InvalidSecret> {
        let mut seed = [0; 32];
        ring::rand::SystemRandom::new().fill(&mut seed).map_err(|_| InvalidSecret)?;
        Self::from_seed(seed)
    }

    /// A key from its text.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(InvalidSecret)?;
        let seed = STANDARD.decode(encoded).map_err(|_| InvalidSecret)?;
        Self::from_seed(seed.try_into().map_err(|_| InvalidSecret)?)
    }

    fn from_seed(seed: [u8; 32]) -> Result<Self, InvalidSecret> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| InvalidSecret)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| InvalidSecret)?;
        Ok(Self { seed, public: PublicKey(public) })
    }

    /// Its text, to be kept secret.
    pub fn secret(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(self.seed))
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// A signature of some text, with the public key: `ed25519:KEY SIGNATURE`.
    pub(crate) fn sign(&self, text: &str) -> Result<String, InvalidSecret> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&self.seed).map_err(|_| InvalidSecret)?;
        let signature = pair.sign(&[CONTEXT, text.as_bytes()].concat());
        Ok(format!("{} {}", self.public, STANDARD.encode(signature)))
    }
}

/// Who signed a text, if the signature is right.
pub(crate) fn signed_by(text: &str, signature: &str) -> Option<PublicKey> {
    let (key, signature) = signature.split_once(' ')?;
    let key: PublicKey = key.parse().ok()?;
    let signature = STANDARD.decode(signature).ok()?;
    let message = [CONTEXT, text.as_bytes()].concat();
    UnparsedPublicKey::new(&ED25519, key.0).verify(&message, &signature).ok().map(|()| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_one_key_and_one_text() {
        let signer = Signer::generate().unwrap();
        let signature = signer.sign("this wheel gives that layer").unwrap();
        assert_eq!(signed_by("this wheel gives that layer", &signature), Some(signer.public()));
        assert_eq!(signed_by("this wheel gives another layer", &signature), None);
        let other = Signer::generate().unwrap().public();
        let forged = signature.replace(&signer.public().to_string(), &other.to_string());
        assert_eq!(signed_by("this wheel gives that layer", &forged), None);
        for nonsense in ["", " ", "ed25519:AAAA x", &format!("{other} %")] {
            assert_eq!(signed_by("", nonsense), None);
        }
    }

    #[test]
    fn a_key_reads_what_it_writes_and_does_not_show_itself() {
        let signer = Signer::generate().unwrap();
        let again = Signer::parse(&format!("{}\n", signer.secret())).unwrap();
        assert_eq!(again.public(), signer.public());
        assert!(!format!("{signer:?}").contains(&signer.secret()[PREFIX.len()..]));
        assert!(Signer::parse("kiln-secret-ed25519:AAAA").is_err());
        assert!(Signer::parse(&signer.public().to_string()).is_err());
    }

    /// RFC 8032, section 7.1, test 1: the key pair is the standard's.
    #[test]
    fn keys_are_those_of_the_standard() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let bytes = |hex: &str| -> [u8; 32] {
            let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
            std::array::from_fn(byte)
        };
        assert_eq!(Signer::from_seed(bytes(seed)).unwrap().public(), PublicKey(bytes(public)));
    }
}
