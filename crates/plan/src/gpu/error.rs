//! What can be wrong with the name of a GPU, a capability, an architecture or a CUDA release.

use super::cuda::ranges;
use super::{Architecture, Capability, CudaRelease};

/// A request for GPUs that means nothing, or that a CUDA release cannot fulfil.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// No GPU is known under this name.
    #[error("`{name}` is not a GPU that kiln knows")]
    UnknownName {
        /// The name as it was written.
        name: String,
        /// The known names that may have been meant.
        suggestions: Vec<String>,
    },
    /// No GPU of NVIDIA has this capability.
    #[error("no NVIDIA GPU has the compute capability {capability}")]
    UnknownCapability {
        /// The capability that was asked for.
        capability: Capability,
        /// The capability of a GPU that comes nearest.
        nearest: Capability,
    },
    /// The capability exists, but not with this suffix.
    #[error("there is no architecture `{architecture}`")]
    UnknownArchitecture {
        /// The architecture that was asked for.
        architecture: Architecture,
        /// The architectures of the same capability and form that do exist.
        existing: Vec<Architecture>,
    },
    /// Neither a name nor a capability nor an architecture.
    #[error("`{0}` is neither the name of a GPU, nor a capability, nor an architecture")]
    MalformedRequest(String),
    /// Not a capability.
    #[error("`{0}` is not a compute capability")]
    MalformedCapability(String),
    /// Not an architecture.
    #[error("`{0}` is not a GPU architecture")]
    MalformedArchitecture(String),
    /// Not the number of a CUDA release.
    #[error("`{0}` is not a CUDA release")]
    MalformedRelease(String),
    /// Not a version of the driver.
    #[error("`{0}` is not a version of NVIDIA's driver")]
    MalformedDriver(String),
    /// A number between those of known releases that CUDA never had, or one older than kiln supports.
    #[error("there is no CUDA {0} that kiln could build for")]
    UnknownRelease(CudaRelease),
    /// The compiler of this CUDA release does not know this architecture.
    #[error("CUDA {release} cannot compile `{architecture}`")]
    CannotCompile {
        /// The CUDA release.
        release: CudaRelease,
        /// The architecture that was asked for.
        architecture: Architecture,
        /// The releases that can compile it, oldest first.
        able: Vec<CudaRelease>,
        /// What this release calls the same hardware, where it goes by another name: `sm_101` became `sm_110`.
        instead: Option<Architecture>,
    },
}

impl GpuError {
    /// What is valid, or what was probably meant: one line for the command line to show.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownName { suggestions, .. } => {
                let names: Vec<_> = suggestions.iter().map(|name| format!("`{name}`")).collect();
                (!names.is_empty()).then(|| format!("did you mean {}?", names.join(" or ")))
            }
            Self::UnknownCapability { nearest, .. } => Some(format!("the nearest is {nearest}")),
            Self::UnknownArchitecture { existing, .. } => {
                let names: Vec<_> = existing.iter().map(|architecture| format!("`{architecture}`")).collect();
                (!names.is_empty()).then(|| format!("valid: {}", names.join(", ")))
            }
            Self::MalformedRequest(_) => Some(
                "write names (`H100`), generations (`Ampere`), capabilities (`9.0`, `9.0a`, `8.0+PTX`), `sm_90` or \
                      `native`, with commas between"
                    .into(),
            ),
            Self::MalformedCapability(_) => Some("write it as `8.9`".into()),
            Self::MalformedArchitecture(_) => Some("write it as `sm_90`, `sm_90a` or `compute_90`".into()),
            Self::MalformedRelease(_) => Some("write it as `MAJOR.MINOR`: `13.0`".into()),
            Self::MalformedDriver(_) => Some("write it as `nvidia-smi` does: `550.54.14`".into()),
            Self::UnknownRelease(_) => {
                let known: Vec<_> = CudaRelease::known().collect();
                Some(format!("known: CUDA {}", ranges(&known)))
            }
            Self::CannotCompile { instead: Some(instead), release, .. } => {
                Some(format!("CUDA {release} calls it `{instead}`"))
            }
            Self::CannotCompile { able, architecture, .. } if able.is_empty() => {
                Some(format!("no CUDA release that kiln knows can compile `{architecture}`"))
            }
            Self::CannotCompile { able, architecture, .. } => {
                Some(format!("CUDA {} can compile `{architecture}`", ranges(able)))
            }
        }
    }
}
