//! What is said about an object and a library.

use std::collections::HashSet;
use std::fmt;

use serde::Serialize;

use crate::hint::Hint;
use crate::known;
use crate::object::Object;
use crate::tree::file_name;

/// What an object is used as, as far as that can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It is run.
    Program,
    /// It is a Python extension module, by its name.
    Extension,
    /// Something else in the tree is linked with it.
    Library,
    /// Nothing is linked with it: it is loaded by name, if at all. Such files are often for surroundings of their own,
    /// such as a network library's transports, and lack what those bring.
    Plugin,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It works where the surroundings are as expected.
    Note,
    /// It fails where it is used, and it may not be.
    Warning,
    /// It fails.
    Error,
}

/// What became of a library that an object needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Outcome {
    /// It is nowhere in the tree.
    Missing,
    /// It is there and lacks versions.
    VersionMissing {
        /// Where it is.
        provider: String,
        /// What it lacks, the highest last.
        versions: Vec<String>,
        /// The highest that it provides of the same line.
        #[serde(skip_serializing_if = "Option::is_none")]
        most: Option<String>,
    },
    /// The loader that a program asks for is not in the tree: it cannot even begin.
    InterpreterMissing,
    /// It is in the tree, and not where the loader looks: something has to have loaded it before.
    Elsewhere {
        /// Where it is.
        path: String,
    },
    /// The driver brings it, on the host that the image runs on.
    Driver,
}

/// An object, a library that it needs, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Path of the object.
    pub object: String,
    /// What the object is used as.
    pub role: Role,
    /// The library, by the name that it is needed under.
    pub library: String,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What would bring it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<Hint>,
}

impl Role {
    /// The role of an object, given the names of all libraries that something needs.
    pub(crate) fn of(path: &str, object: &Object, linked: &HashSet<&str>) -> Self {
        let file = file_name(path);
        // PEP 3149, and what CPython takes beside it.
        if [".cpython-", ".abi3.", ".pypy"].iter().any(|tag| file.contains(tag)) {
            return Self::Extension;
        }
        if !object.is_library {
            return Self::Program;
        }
        let is_linked = linked.contains(object.soname.as_deref().unwrap_or(file)) || linked.contains(file);
        if is_linked { Self::Library } else { Self::Plugin }
    }
}

impl Finding {
    /// How bad it is. What is elsewhere has been loaded before by whoever loads a library; nobody does so for a
    /// program.
    pub fn severity(&self) -> Severity {
        match (&self.outcome, self.role) {
            (Outcome::Driver, _) => Severity::Note,
            (Outcome::Elsewhere { .. }, Role::Program) => Severity::Warning,
            (Outcome::Elsewhere { .. }, _) => Severity::Note,
            (_, Role::Plugin) => Severity::Warning,
            _ if known::is_optional(&self.object) => Severity::Warning,
            _ => Severity::Error,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, library, .. } = self;
        match &self.outcome {
            Outcome::Missing => write!(f, "{object} needs {library}, which is not there"),
            Outcome::VersionMissing { provider, versions, most } => {
                write!(f, "{object} needs {} of {library}, and {provider} ", versions.join(", "))?;
                match most {
                    Some(most) => write!(f, "provides up to {most}"),
                    None => write!(f, "provides no such version"),
                }
            }
            Outcome::InterpreterMissing => write!(f, "{object} is started by {library}, which is not there"),
            Outcome::Elsewhere { path } => {
                write!(f, "{object} needs {library}, which is at {path}, where the loader does not look by itself")
            }
            Outcome::Driver => write!(f, "{object} needs {library}, which the driver of the host brings"),
        }?;
        self.hint.iter().try_for_each(|hint| write!(f, "; {hint}"))
    }
}
