//! The environment that uv runs in: made from nothing, with the few variables that it needs to reach an index.

use std::ffi::OsStr;

use kiln_programs::{ChildEnvironment, LOCATIONS, NETWORK, Names};

/// The variables that uv needs: places of files, ways to an index, its certificates and credentials. None of them changes
/// which packages are chosen. `PATH` is not among them: uv runs no program but the interpreter, which it is given.
pub(super) const NEEDED: Names = &[LOCATIONS, NETWORK, &["XDG_CACHE_HOME", "NETRC", "SSL_CLIENT_CERT"]];

/// Variables by which other tools are told of an index.
const INDEXES: [&str; 3] = ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"];

/// The directory of the user's uv cache. It is a place and no setting: the answer is the same with any other.
pub(super) fn cache_directory(all: &ChildEnvironment) -> Option<&OsStr> {
    all.get("UV_CACHE_DIR").map(|value| value.as_os_str()).filter(|value| !value.is_empty())
}

/// An index that a variable of pip or uv names, which kiln does not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexVariable {
    /// The variable.
    pub name: &'static str,
    /// The index, without its credentials.
    pub url: String,
    /// True if credentials were removed.
    pub has_credentials: bool,
}

/// The index that the environment names for other tools.
pub fn index_variable(all: &ChildEnvironment) -> Option<IndexVariable> {
    INDEXES.iter().find_map(|name| {
        let value = all.get(name)?.to_str().filter(|value| !value.is_empty())?;
        let url = without_credentials(value);
        Some(IndexVariable { name, has_credentials: url != value, url })
    })
}

/// Credentials end at the last `@`, since a password may hold any character; nothing of them is parsed.
fn without_credentials(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        (None, Some((_, rest))) => rest.to_owned(),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> ChildEnvironment {
        ChildEnvironment::new(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    #[test]
    fn an_index_of_another_tool_is_shown_without_its_credentials() {
        for (value, url) in [
            ("https://example.org/simple", "https://example.org/simple"),
            ("https://user:pass@example.org/simple", "https://example.org/simple"),
            ("https://user:pa/ss#w@rd@example.org/simple", "https://example.org/simple"),
            ("https://token@example.org/simple", "https://example.org/simple"),
        ] {
            let found = index_variable(&variables(&[("PIP_INDEX_URL", value)])).unwrap();
            assert_eq!((found.url.as_str(), found.has_credentials), (url, url != value));
        }
        assert_eq!(index_variable(&variables(&[("UV_INDEX_URL", "")])), None);
    }
}
