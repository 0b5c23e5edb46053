//! The environment that programs are given parts of: the user's variables, but none of kiln's own.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The beginning of the names of kiln's own variables.
const OWN: &str = "KILN_";

/// The variables that a program needs, as groups of names. Each caller has a constant of this type.
pub type Names = &'static [&'static [&'static str]];

/// The variable that programs find other programs by.
pub const PATH: &[&str] = &["PATH"];

/// Variables that say where files of the user are, and in which language messages are.
pub const LOCATIONS: &[&str] = &["HOME", "TMPDIR", "LANG", "LC_ALL"];

/// Variables that lead to the network: proxies in both spellings, and the certificates that are trusted.
pub const NETWORK: &[&str] = &[
    "ALL_PROXY",
    "all_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// Variables of the user, of which a [`Call`](crate::Call) passes on those that it names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChildEnvironment(Vec<(OsString, OsString)>);

impl ChildEnvironment {
    /// Takes over all variables but kiln's own.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let own = |name: &OsStr| name.to_string_lossy().to_ascii_uppercase().starts_with(OWN);
        Self(variables.into_iter().filter(|(name, _)| !own(name)).collect())
    }

    /// Returns the value of a variable.
    pub fn get(&self, name: &str) -> Option<&OsString> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Finds a program: a path as it is, a name on `PATH`.
    pub fn find(&self, program: impl AsRef<Path>) -> Option<PathBuf> {
        let program = program.as_ref();
        if program.components().count() > 1 {
            return is_executable(program).then(|| program.to_owned());
        }
        let path = self.get("PATH")?;
        std::env::split_paths(path).map(|directory| directory.join(program)).find(|path| is_executable(path))
    }

    /// Returns the variables of these names, or all.
    pub(crate) fn only(&self, names: Option<Names>) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        let wanted =
            move |name: &OsStr| names.is_none_or(|names| names.iter().copied().flatten().any(|wanted| name == *wanted));
        self.0.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str())).filter(move |(name, _)| wanted(name))
    }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_kiln_are_not_taken_over_and_only_named_ones_are_passed_on() {
        let given = ["PATH", "KILN_CACHE_KEY", "KILN_STORE", "kiln_cache_key", "KILN_", "KILNS", "AWS_PROFILE", "HOME"];
        let environment = ChildEnvironment::new(given.iter().map(|name| (name.into(), "x".into())));
        let kept: Vec<&OsString> = environment.0.iter().map(|(name, _)| name).collect();
        assert_eq!(kept, ["PATH", "KILNS", "AWS_PROFILE", "HOME"]);
        let passed: Vec<&OsStr> =
            environment.only(Some(&[PATH, &["HOME", "KILN_STORE"]])).map(|(name, _)| name).collect();
        assert_eq!(passed, ["PATH", "HOME"]);
    }

    #[test]
    fn a_name_is_found_on_path_and_a_path_is_taken_as_it_is() {
        let environment = ChildEnvironment::new([("PATH".into(), "/nonexistent:/bin:/usr/bin".into())]);
        assert_eq!(environment.find("sh"), Some("/bin/sh".into()));
        assert_eq!(environment.find("/bin/sh"), Some("/bin/sh".into()));
        assert_eq!(environment.find("/etc/hostname-of-nobody"), None);
        assert_eq!(ChildEnvironment::default().find("sh"), None);
    }
}
