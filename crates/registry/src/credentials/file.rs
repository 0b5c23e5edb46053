//! Reading a credential file, as Docker, podman and skopeo do.
//!
//! Order and matching are those of skopeo (containers/image, `pkg/docker/config`), so that the same user is sent: the
//! exact name of the repository or of a namespace above it, then the host's name within keys that are URLs. `username`
//! and `password`, which skopeo does not know, count as in Docker, where `auth` is empty.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use kiln_oci::json::{Shape, tidy};
use kiln_plan::reference::Repository;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Credential, DOCKER_HUB_KEY};

/// The names of Docker's registry in configuration files.
const DOCKER_HUB: [&str; 4] = ["docker.io", DOCKER_HUB_KEY, "index.docker.io", "registry-1.docker.io"];
/// Base64 as Go decodes it (encoding/base64, `StdEncoding`): padded, and whatever stands in the bits that are left over.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

const ENTRY: Shape = Shape::Object(&[
    ("auth", Shape::Text),
    ("username", Shape::Text),
    ("password", Shape::Text),
    ("identitytoken", Shape::Text),
]);
const FILE: Shape = Shape::Object(&[
    ("auths", Shape::Map(&ENTRY)),
    ("credsStore", Shape::Text),
    ("credHelpers", Shape::Map(&Shape::Text)),
]);
const LEGACY: Shape = Shape::Map(&ENTRY);
const ANSWER: Shape = Shape::Object(&[("Username", Shape::Text), ("Secret", Shape::Text)]);

/// The part of a file that is about credentials.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ConfigFile {
    pub(super) auths: Map<String, Value>,
    creds_store: String,
    cred_helpers: std::collections::BTreeMap<String, String>,
    #[serde(skip)]
    legacy: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    #[serde(rename = "identitytoken")]
    identity_token: String,
}

/// The answer of a helper to "get".
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct HelperAnswer {
    pub(super) username: String,
    pub(super) secret: String,
}

impl HelperAnswer {
    pub(super) fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
        let mut value = serde_json::from_slice(bytes)?;
        tidy(&mut value, &ANSWER);
        serde_json::from_value(value)
    }
}

impl ConfigFile {
    /// Reads a document; one of `.dockercfg` holds nothing but what is `auths` elsewhere.
    pub(super) fn of(document: Map<String, Value>, legacy: bool) -> serde_json::Result<Self> {
        let mut value = Value::Object(document);
        if legacy {
            tidy(&mut value, &LEGACY);
            let auths = Map::deserialize(value)?;
            return Ok(Self { auths, legacy, ..Self::default() });
        }
        tidy(&mut value, &FILE);
        serde_json::from_value(value)
    }

    /// Returns the same without helpers, which are programs.
    #[cfg(feature = "fuzzing")]
    pub(super) fn without_helpers(self) -> Self {
        Self { auths: self.auths, legacy: self.legacy, ..Self::default() }
    }

    /// Returns the helper for a registry, and the registry's name there. An empty name is none.
    pub(super) fn helper_of(&self, registry: &str) -> Option<(&str, &str)> {
        let its = |key: &str| key == registry || (registry == DOCKER_HUB[0] && DOCKER_HUB.contains(&key));
        let mut helpers = self.cred_helpers.iter().filter(|(key, helper)| its(key) && !helper.is_empty());
        helpers.next().map(|(key, helper)| (key.as_str(), helper.as_str()))
    }

    /// Returns the helper for all other registries.
    pub(super) fn store(&self) -> Option<&str> {
        Some(self.creds_store.as_str()).filter(|store| !store.is_empty())
    }

    /// Returns all helpers.
    pub(super) fn helpers(&self) -> impl Iterator<Item = &str> {
        let of_registries = self.cred_helpers.values().map(String::as_str).filter(|helper| !helper.is_empty());
        self.store().into_iter().chain(of_registries)
    }

    /// Returns the entry for a repository and its key.
    pub(super) fn entry_of(&self, repository: &Repository) -> Option<(&String, &Value)> {
        let whole = repository.to_string();
        let mut names: Vec<&str> = vec![&whole];
        while let Some((shorter, _)) = names.last().and_then(|name| name.rsplit_once('/')) {
            names.push(shorter);
        }
        if self.legacy {
            names.retain(|name| *name == repository.registry);
        }
        let exact = names.into_iter().find_map(|name| self.auths.get_key_value(name));
        let host = plain_host(&repository.registry);
        exact.or_else(|| self.auths.iter().find(|(key, _)| host_of(key, self.legacy) == host))
    }
}

/// Returns the host that a key is about: of a URL, and of any key of an old file, without what follows its name.
pub(super) fn host_of(key: &str, legacy: bool) -> &str {
    let plain = key.strip_prefix("http://").unwrap_or(key);
    let plain = plain.strip_prefix("https://").unwrap_or(plain);
    let is_address = legacy || plain.len() < key.len();
    plain_host(if is_address { plain.split('/').next().unwrap_or(plain) } else { plain })
}

/// Returns one name for the names of Docker's registry.
pub(super) fn plain_host(host: &str) -> &str {
    if DOCKER_HUB.contains(&host) { DOCKER_HUB[0] } else { host }
}

/// Returns the credential of an entry. Docker and skopeo take `auth` without a colon for none. The error is a clause.
pub(super) fn credential(entry: &Value) -> Result<Option<Credential>, &'static str> {
    let entry: Entry = Entry::deserialize(entry).map_err(|_| "is not a credential")?;
    let identity = Some(entry.identity_token).filter(|token| !token.is_empty());
    if entry.auth.is_empty() {
        let password = || Credential::password(&entry.username, &entry.password);
        return Ok(match (identity, entry.username.as_str()) {
            (None, "") => None,
            (Some(token), "") => Some(Credential::identity(&token)),
            (identity, _) => Some(Credential { identity, ..password() }),
        });
    }
    // Go's decoder leaves line breaks out, wherever they stand.
    let auth: String = entry.auth.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let decoded = BASE64.decode(auth).map_err(|_| "is not base64")?;
    let Some(colon) = decoded.iter().position(|byte| *byte == b':') else { return Ok(None) };
    let (user, mut password) = (&decoded[..colon], &decoded[colon + 1..]);
    // Docker pads what it writes with zero bytes in some versions.
    while let [0, rest @ ..] | [rest @ .., 0] = password {
        password = rest;
    }
    let basic = BASE64.encode([user, b":", password].concat());
    Ok(Some(Credential { user: String::from_utf8_lossy(user).into_owned(), basic, identity }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The user of `127.0.0.1:5000/acme/app` by a file.
    fn user(document: Value) -> Option<String> {
        let Value::Object(document) = document else { panic!("{document} is no file") };
        let config = ConfigFile::of(document, false).unwrap();
        let (_, entry) = config.entry_of(&"127.0.0.1:5000/acme/app".parse().unwrap())?;
        credential(entry).unwrap().map(|found| found.user)
    }

    fn of_entry(entry: Value) -> Option<String> {
        user(json!({ "auths": { "127.0.0.1:5000": entry } }))
    }

    #[test]
    fn null_and_empty_members_are_absent() {
        for document in [json!({}), json!({ "auths": null }), json!({ "auths": { "127.0.0.1:5000": null } })] {
            assert_eq!(user(document), None);
        }
        let config = ConfigFile::of(
            serde_json::from_str(r#"{"credsStore": "", "credHelpers": {"a": null, "b": ""}}"#).unwrap(),
            false,
        );
        let config = config.unwrap();
        assert_eq!((config.store(), config.helper_of("a"), config.helper_of("b")), (None, None, None));
        let bob = Some("bob".to_owned());
        assert_eq!(of_entry(json!({ "auth": "Ym9iOnNlY3JldA==", "identitytoken": null, "email": null })), bob);
    }

    #[test]
    fn an_entry_is_read_as_go_reads_it() {
        for (entry, expected) in [
            (json!({ "auth": "Ym9iOnNlY3JldA==", "username": "eve", "password": "x" }), Some("bob")),
            (json!({ "auth": "Ym9iOnNl\nY3Jl\r\ndA==\n" }), Some("bob")),
            (json!({ "AUTH": "Ym9iOnNlY3JldA==" }), Some("bob")),
            (json!({ "auth": "Ym9iOnNlY3JldB==" }), Some("bob")),
            (json!({ "auth": "", "username": "bob", "password": "secret" }), Some("bob")),
            (json!({ "auth": "Ym9i" }), None),
            (json!({ "auth": "Og==" }), Some("")),
            (json!({}), None),
        ] {
            assert_eq!(of_entry(entry.clone()).as_deref(), expected, "{entry}");
        }
        for wrong in
            [json!({ "auth": "Ym9iOnNlY3JldA" }), json!({ "auth": " Ym9iOnNlY3JldA==" }), json!({ "auth": "%" })]
        {
            assert_eq!(credential(&wrong), Err("is not base64"), "{wrong}");
        }
    }

    #[test]
    fn a_password_keeps_its_colons_and_loses_padding() {
        let found = credential(&json!({ "auth": BASE64.encode("bob:a:b\0\0") })).unwrap().unwrap();
        assert_eq!(found, Credential::password("bob", "a:b"));
        let latin = credential(&json!({ "auth": BASE64.encode(b"bob:\xe9") })).unwrap().unwrap();
        assert_eq!(latin.basic(), Some(BASE64.encode(b"bob:\xe9").as_str()));
    }

    #[test]
    fn keys_are_matched_as_skopeo_matches_them() {
        let bob = json!({ "auth": "Ym9iOnNlY3JldA==" });
        for (key, found) in [
            ("127.0.0.1:5000", true),
            ("127.0.0.1:5000/acme", true),
            ("127.0.0.1:5000/acme/app", true),
            ("http://127.0.0.1:5000", true),
            ("https://127.0.0.1:5000/v1/", true),
            ("https://127.0.0.1:5000/any/thing", true),
            ("127.0.0.1:5000/", false),
            ("127.0.0.1:5000/acme/", false),
            ("127.0.0.1:5000/acme/app/more", false),
            ("127.0.0.1:5000/other", false),
            ("127.0.0.1", false),
        ] {
            assert_eq!(user(json!({ "auths": { key: bob } })).is_some(), found, "{key}");
        }
        let nearer = json!({ "auths": { "127.0.0.1:5000": bob, "127.0.0.1:5000/acme": {} } });
        assert_eq!(user(nearer), None, "an empty entry that is nearer hides one that is farther");
    }

    #[test]
    fn the_names_of_dockers_registry_are_one() {
        for key in DOCKER_HUB {
            let document = json!({ "auths": { key: { "auth": "Ym9iOnNlY3JldA==" } }, "credHelpers": { key: "x" } });
            let config = ConfigFile::of(document.as_object().unwrap().clone(), false).unwrap();
            assert!(config.entry_of(&"docker.io/library/debian".parse().unwrap()).is_some(), "{key}");
            assert_eq!(config.helper_of("docker.io"), Some((key, "x")));
            assert_eq!(config.helper_of("index.example"), None);
        }
    }

    #[test]
    fn an_old_file_is_nothing_but_entries() {
        let document = json!({ "https://127.0.0.1:5000/v1/": { "auth": "Ym9iOnNlY3JldA==" }, "other": null });
        let config = ConfigFile::of(document.as_object().unwrap().clone(), true).unwrap();
        assert!(config.entry_of(&"127.0.0.1:5000/acme/app".parse().unwrap()).is_some());
    }
}
