//! The environment that uv runs in: made from nothing, with the few variables that it needs to reach an index.

use std::ffi::{OsStr, OsString};

/// Variables that are passed on. None of them changes which packages are chosen. `PATH` is not among them: uv runs no
/// program but the interpreter, which it is given.
const PASSED: [&str; 17] = [
    "HOME",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "LANG",
    "LC_ALL",
    "NETRC",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSL_CLIENT_CERT",
    "ALL_PROXY",
    "all_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// Variables by which other tools are told of an index.
const INDEXES: [&str; 3] = ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"];

/// The variables that uv gets.
pub(super) fn passed(all: &[(OsString, OsString)]) -> impl Iterator<Item = (&OsStr, &OsStr)> {
    let wanted = |name: &OsStr| PASSED.iter().any(|passed| name == *passed);
    all.iter().filter(move |(name, _)| wanted(name)).map(|(name, value)| (name.as_os_str(), value.as_os_str()))
}

/// The directory of the user's uv cache. It is a place and no setting: the answer is the same with any other.
pub(super) fn cache_directory(all: &[(OsString, OsString)]) -> Option<&OsStr> {
    all.iter().find(|(name, value)| name == "UV_CACHE_DIR" && !value.is_empty()).map(|(_, value)| value.as_os_str())
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
pub fn index_variable(all: &[(OsString, OsString)]) -> Option<IndexVariable> {
    INDEXES.iter().find_map(|name| {
        let (_, value) = all.iter().find(|(known, value)| known == name && !value.is_empty())?;
        let value = value.to_str()?;
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

    fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn settings_of_other_tools_and_secrets_are_not_passed_on() {
        let all = variables(&[
            ("PATH", "/bin"),
            ("HOME", "/root"),
            ("UV_NO_SOURCES", "1"),
            ("UV_INDEX_URL", "https://example.org"),
            ("PIP_INDEX_URL", "https://example.org"),
            ("VIRTUAL_ENV", "/venv"),
            ("KILN_CACHE_KEY", "secret"),
            ("PYTHONPATH", "/x"),
            ("https_proxy", "http://127.0.0.1:1"),
            ("SSL_CERT_FILE", "/ca.pem"),
        ]);
        let passed: Vec<_> = passed(&all).map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(passed, ["HOME", "https_proxy", "SSL_CERT_FILE"]);
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
