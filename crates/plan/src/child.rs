//! The environment of the programs that kiln runs: everything that the user has set, but nothing of kiln's own.
//!
//! `KILN_CACHE_KEY` is the secret key that signs what a machine shares, and no program needs to know how kiln is set. So
//! such variables cannot get into this environment, and a child's command is made from it alone.

use std::ffi::{OsStr, OsString};
use std::process::Command;

/// The beginning of the names of kiln's own variables.
const OWN: &str = "KILN_";

/// Variables for a child process.
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

    /// Returns the variables of these names alone.
    #[must_use]
    pub fn only(&self, names: &[&str]) -> Self {
        Self(self.0.iter().filter(|(key, _)| names.iter().any(|name| key == name)).cloned().collect())
    }

    /// Returns the command of a program, with these variables and no others.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.0.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl std::ops::Deref for ChildEnvironment {
    type Target = [(OsString, OsString)];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(names: &[&str]) -> ChildEnvironment {
        ChildEnvironment::new(names.iter().map(|name| (name.into(), "x".into())))
    }

    #[test]
    fn a_child_gets_everything_but_kilns_own_variables() {
        let given = ["PATH", "KILN_CACHE_KEY", "KILN_STORE", "kiln_cache_key", "KILN_", "KILNS", "AWS_PROFILE", "HOME"];
        let kept = ["PATH", "KILNS", "AWS_PROFILE", "HOME"];
        assert_eq!(environment(&given), environment(&kept));
        let command = environment(&given).command("true");
        let passed: Vec<_> = command.get_envs().filter(|(_, value)| value.is_some()).map(|(name, _)| name).collect();
        assert_eq!(passed.len(), kept.len());
        assert_eq!(environment(&given).only(&["HOME", "KILN_STORE"]), environment(&["HOME"]));
    }
}
