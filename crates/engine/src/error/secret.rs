//! Secrets that cannot be read, or that a command left.

use super::Fault;

/// A secret that cannot be read, or that a command left.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Its source has none.
    #[error("the secret `{name}` cannot be read: {problem}")]
    Unusable {
        /// Its name.
        name: String,
        /// The reason.
        problem: String,
    },
    /// Files of a layer hold one.
    #[error("`{command}` of {place} left a secret in {}", files.join(", "))]
    Left {
        /// The command.
        command: String,
        /// The image and the line of the stack file.
        place: String,
        /// Paths of files whose name, content or target holds one.
        files: Vec<String>,
    },
    /// There is no agent.
    #[error("`{command}` of {place} has `ssh = true`, and {problem}")]
    NoAgent {
        /// The command.
        command: String,
        /// The image and the line of the stack file.
        place: String,
        /// The reason: a clause.
        problem: String,
    },
}

impl SecretError {
    pub(crate) fn unusable(name: &str, problem: String) -> Self {
        Self::Unusable { name: name.to_owned(), problem }
    }

    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::Unusable { .. } | Self::NoAgent { .. } => Fault::Surroundings,
            Self::Left { .. } => Fault::Step,
        }
    }

    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Unusable { .. } => "`[secrets]` in the stack file names its source".into(),
            Self::Left { .. } => {
                "the layer was not made: let the command remove these files, or keep the secret out of them (git: a \
                                  credential helper that reads `/run/secrets/NAME` in place of a token in the address)"
                    .into()
            }
            Self::NoAgent { .. } => "start one: `eval $(ssh-agent); ssh-add`".into(),
        }
    }
}
