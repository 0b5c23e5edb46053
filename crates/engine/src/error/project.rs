//! Mistakes in a project: its stack file, its files, and what a command asks of it.

use kiln_plan::digest::Digest;
use kiln_plan::platform::Platform;

/// A mistake in a project.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// A path of the stack file names nothing.
    #[error("`{path}` does not exist in {directory}")]
    Absent {
        /// Relative to the stack file.
        path: String,
        /// The directory of the stack file.
        directory: String,
    },
    /// A path of the stack file leaves the project.
    #[error("`{0}` leads out of the project by a symbolic link")]
    Outside(String),
    /// A file of requirements lies outside the repository.
    #[error(
        "`{0}` lies outside the repository: files of requirements lie below the nearest directory with a `.git`, or below the stack file's"
    )]
    OutsideRepository(String),
    /// A file that cannot be copied.
    #[error("`{path}` {problem}")]
    NotCopied {
        /// Its path.
        path: String,
        /// A clause.
        problem: &'static str,
    },
    /// No image has this name.
    #[error("the stack has no image `{name}`; it has {}", quoted(known))]
    NoImage {
        /// The name.
        name: String,
        /// Names of the stack's images.
        known: Vec<String>,
    },
    /// An output takes one platform.
    #[error(
        "`{output}` takes one platform, and `{image}` is built for {}: choose with `--platform`",
        joined(platforms)
    )]
    OnePlatform {
        /// `--load`, `docker-archive:FILE`.
        output: String,
        /// The image.
        image: String,
        /// Its platforms.
        platforms: Vec<Platform>,
    },
    /// An output takes one image.
    #[error("`{output}` takes one image: name one of {}", images.join(", "))]
    OneImage {
        /// `docker-archive:FILE`.
        output: String,
        /// The images that it would get.
        images: Vec<String>,
    },
    /// A base cannot be bootstrapped without the network.
    #[error("`{0}` must be bootstrapped, and `--offline` forbids it")]
    Offline(String),
    /// The GPUs of this machine are asked for, and there are none.
    #[error(
        "`gpus = [\"native\"]`, and this machine has no NVIDIA GPU that its driver tells of: name the GPUs instead"
    )]
    NoGpu,
    /// An image has more layers than runtimes take.
    #[error(
        "the image `{image}` would have {layers} layers, and {most} is the most that Docker takes: use a base with \
         fewer layers, or a larger `max-layer-size`"
    )]
    TooManyLayers {
        /// The image.
        image: String,
        /// Its layers.
        layers: usize,
        /// The most that it may have.
        most: usize,
    },
    /// The directory of a base's packages is not known.
    #[error("where {0} of the base keeps packages is not known: declare its `site-packages` in `base-facts`")]
    NoSitePackages(String),
    /// An image has layers that cannot be written out.
    #[error("`{0}` has layers that its registry may not distribute")]
    NotDistributable(String),
    /// A layout lacks a layer.
    #[error("{layout} does not have {digest}")]
    Incomplete {
        /// The layout.
        layout: String,
        /// The layer.
        digest: Digest,
    },
    /// An address is not that of a file.
    #[error("`{0}` is not the address of a file")]
    NotAFile(String),
    /// The version of Python cannot be used.
    #[error("{0}")]
    Python(String),
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn joined(platforms: &[Platform]) -> String {
    platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}
