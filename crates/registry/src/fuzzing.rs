//! Doors to parsers of what registries and configuration files say, for the fuzz targets alone.

use std::time::{Duration, Instant};

use kiln_plan::reference::Repository;

use super::challenge::Challenge;
use super::client::read_token;
use super::{Credential, RegistryError, credentials};

/// Returns the realm of a `WWW-Authenticate` header, the service and the scope; an empty realm for `Basic`.
pub fn challenge(header: &str) -> Option<(String, Option<String>, Option<String>)> {
    Some(match Challenge::parse(std::iter::once(header))? {
        Challenge::Basic => (String::new(), None, None),
        Challenge::Bearer { realm, service, scope } => (realm.into(), service, scope),
    })
}

/// Returns the `Authorization` header of a token service's answer, and how long it is good.
pub fn token(answer: &[u8]) -> Option<(Vec<u8>, Duration)> {
    let token = read_token(answer)?;
    Some((token.value.as_bytes().to_vec(), token.until.saturating_duration_since(Instant::now())))
}

/// Returns the credential that the text of a `config.json` has for a repository; helpers are not asked.
pub fn credential(text: &str, repository: &Repository) -> Result<Option<Credential>, RegistryError> {
    credentials::in_text(text, repository)
}
