//! Forms of a path in layers, and pairs of them of which one removes the other where both are unpacked.

use kiln_oci::layer::{Body, LayerFile};
use serde::Serialize;

use crate::error::BuildError;

/// The form of a path in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Form {
    File,
    Link,
    /// A directory that has a member of its own.
    Directory,
    /// A directory that exists because something lies below it.
    Above,
}

impl Form {
    pub(crate) fn of(file: &LayerFile) -> Self {
        match file.body {
            Body::Directory => Self::Directory,
            Body::Symlink(_) => Self::Link,
            Body::Whiteout | Body::Bytes(_) | Body::File(_) | Body::Entry(..) => Self::File,
        }
    }

    pub(crate) fn is_directory(self) -> bool {
        matches!(self, Self::Directory | Self::Above)
    }

    /// Returns true if the upper layer takes away what the lower has, or the lower's link leads the upper's files
    /// elsewhere than its directory says. A link below a directory that has no member of its own is followed.
    pub(crate) fn contradicts(lower: Self, upper: Self) -> bool {
        match (lower, upper) {
            (Self::Link, Self::Above) => false,
            (lower, upper) => lower.is_directory() != upper.is_directory(),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Link => "a link",
            Self::Directory | Self::Above => "a directory",
        }
    }
}

/// Returns the error about a path that has two forms.
pub(crate) fn contradiction(path: &str, (form, name): (Form, &str), (other_form, other): (Form, &str)) -> BuildError {
    BuildError::Mistake {
        message: format!(
            "`/{path}` is {} in `{name}` and {} in `{other}`: in an image the one removes the other",
            form.word(),
            other_form.word()
        ),
        hint: "leave one of the two out, or give it another place".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_contradicts_a_directory_and_a_link_only_one_that_would_replace_it() {
        use Form::{Above, Directory, File, Link};
        for (lower, upper) in [(File, Above), (File, Directory), (Directory, File), (Above, Link), (Link, Directory)] {
            assert!(Form::contradicts(lower, upper), "{lower:?} {upper:?}");
        }
        for (lower, upper) in [(File, File), (File, Link), (Link, File), (Link, Above), (Above, Directory)] {
            assert!(!Form::contradicts(lower, upper), "{lower:?} {upper:?}");
        }
    }
}
