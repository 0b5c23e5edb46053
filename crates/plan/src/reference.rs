//! References to images on registries: `ghcr.io/acme/arr/train:latest`, `python@sha256:...`.
//!
//! The grammar is that of the OCI distribution specification 1.1 ("Pulling manifests"), and short names mean what they
//! mean to Docker: a first component that cannot be a host name belongs to the path, and the registry is Docker Hub.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The registry that short names belong to.
const DOCKER_HUB: &str = "docker.io";
/// Characters that a repository's path may have in all (OCI distribution specification: with the host name, 255).
const LONGEST: usize = 255;

/// A repository on a registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    /// Host name and, where there is one, port: `ghcr.io`, `localhost:5000`.
    pub registry: String,
    /// Its path there: `acme/arr/train`.
    pub path: String,
}

/// An image on a registry, by tag, by digest, or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Where it is.
    pub repository: Repository,
    /// What it is called there.
    pub tag: Option<String>,
    /// What it is, whatever it is called.
    pub digest: Option<Digest>,
}

/// A string that is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a reference to an image: {problem}")]
pub struct InvalidReference {
    /// The string.
    pub text: String,
    /// A clause.
    pub problem: String,
}

impl Repository {
    /// This tag of it.
    pub fn tag(&self, tag: &str) -> Reference {
        Reference { repository: self.clone(), tag: Some(tag.to_owned()), digest: None }
    }

    /// This content of it.
    pub fn digest(&self, digest: Digest) -> Reference {
        Reference { repository: self.clone(), tag: None, digest: Some(digest) }
    }
}

impl Reference {
    /// What is asked for in the registry's API: the digest where there is one, else the tag, else `latest`.
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Repository {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |problem: &str| InvalidReference { text: text.to_owned(), problem: problem.to_owned() };
        let (registry, path) = match text.split_once('/') {
            Some((first, rest)) if is_host(first) => (first, rest.to_owned()),
            Some(_) => (DOCKER_HUB, text.to_owned()),
            None => (DOCKER_HUB, format!("library/{text}")),
        };
        // What Docker calls its registry in places where others want the host's name.
        let registry = if registry == "index.docker.io" { DOCKER_HUB } else { registry };
        let path = match path.split_once('/') {
            None if registry == DOCKER_HUB => format!("library/{path}"),
            _ => path,
        };
        if !is_registry(registry) {
            return Err(invalid("its registry is not a host name with an optional port"));
        }
        if registry.len() + path.len() > LONGEST {
            return Err(invalid("it is longer than 255 characters"));
        }
        if !path.split('/').all(is_component) {
            return Err(invalid(
                "a repository consists of lower-case letters and digits, with `.`, `_`, `__` or `-` between them and `/` \
                 between its parts",
            ));
        }
        Ok(Self { registry: registry.to_owned(), path })
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |problem: &str| InvalidReference { text: text.to_owned(), problem: problem.to_owned() };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                (name, Some(digest.parse().map_err(|_| invalid("after `@` a SHA-256 digest is expected"))?))
            }
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(invalid(&format!("`{tag}` cannot be a tag")));
        }
        let repository = name.parse().map_err(|error: InvalidReference| invalid(&error.problem))?;
        Ok(Self { repository, tag: tag.map(str::to_owned), digest })
    }
}

/// Returns true for the first part of a name that is a registry's to Docker.
fn is_host(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost"
}

/// Returns true if the name of a repository says its registry, rather than leave that to Docker Hub.
pub(crate) fn says_registry(name: &str) -> bool {
    name.split_once('/').is_some_and(|(first, _)| is_host(first))
}

/// Whether a text can be a tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
pub fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128 && text.starts_with(word) && text.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

/// Whether a text can be a registry: a host name or an address, with an optional port.
pub fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let valid_host = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
                && !host.starts_with(['.', '-'])
                && !host.ends_with(['.', '-'])
        }
    };
    valid_host && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !text.starts_with(word) || !text.ends_with(word) {
        return false;
    }
    let separators = text.split(word).filter(|separator| !separator.is_empty());
    separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.chars().all(|c| c == '-'))
}

impl Serialize for Repository {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Repository {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_mean_what_they_mean_to_docker() {
        for (short, long) in [
            ("python", "docker.io/library/python"),
            ("python:3.11-slim", "docker.io/library/python:3.11-slim"),
            ("docker.io/python:3.11", "docker.io/library/python:3.11"),
            ("nvidia/cuda:13.0.1-base", "docker.io/nvidia/cuda:13.0.1-base"),
            ("index.docker.io/a/b", "docker.io/a/b"),
            ("localhost/a", "localhost/a"),
            ("localhost:5000/a/b/c:1_2.3-4", "localhost:5000/a/b/c:1_2.3-4"),
            ("[::1]:5000/a", "[::1]:5000/a"),
            ("ghcr.io/acme/arr__x/a-b--c", "ghcr.io/acme/arr__x/a-b--c"),
        ] {
            let reference: Reference = short.parse().unwrap();
            assert_eq!(reference.to_string(), long);
            assert_eq!(long.parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn a_digest_is_asked_for_before_a_tag() {
        let digest = Digest::of(b"");
        let both: Reference = format!("ghcr.io/a/b:1@{digest}").parse().unwrap();
        assert_eq!(both.selector(), digest.to_string());
        assert_eq!("ghcr.io/a/b:1".parse::<Reference>().unwrap().selector(), "1");
        assert_eq!("ghcr.io/a/b".parse::<Reference>().unwrap().selector(), "latest");
    }

    #[test]
    fn what_no_registry_accepts_is_refused() {
        let long = format!("ghcr.io/{}", "a".repeat(250));
        for text in [
            "",
            "UPPER/case",
            "a b",
            "a/",
            "/a",
            "a//b",
            "a/.b",
            "a/b-",
            "a/b___c",
            "a:",
            "a:-x",
            "a@sha256:00",
            "a@b",
            "host:0/a",
            "host:99999/a",
            "ghcr.io/",
            "https://ghcr.io/a",
            "-x.y/a",
            &long,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_read_is_written_so_that_it_is_read_again(text in "[a-zA-Z0-9.:/@_\\[\\]-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                proptest::prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
            }
        }
    }
}
