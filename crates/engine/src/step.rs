//! Steps: values that describe one piece of work with everything that decides its result. A step does nothing until the
//! driver performs it.
//!
//! The struct of a step as it is serialised *is* its fields, so that none is forgotten in the key. What only helps to
//! perform it, or is text for people, is marked `#[serde(skip)]`.

use std::fmt;

use kiln_oci::layer::Layer;
use kiln_plan::digest::Digest;
use kiln_plan::platform::Platform;
use kiln_plan::step::StepKey;
use serde::{Deserialize, Serialize};

use crate::context::Context;
pub(crate) use crate::error::Commanded;
use crate::error::Result;
pub(crate) use crate::node::{Level, Read};
use crate::product::{Product, ProductKind};

/// A kind of step. Raising its version forgets the records of this kind and no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Kind {
    /// Its name: `wheels`, `prune`.
    pub(crate) name: &'static str,
    /// Its version.
    pub(crate) version: u32,
}

/// The subject of a step. Text for people is made from it; it is compared as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// A package.
    Package {
        /// Normalised name.
        name: String,
        /// Version.
        version: String,
    },
    /// The packages of one layer: names and versions.
    Packages(Vec<(String, String)>),
    /// A wheel, by its file name.
    Wheel(String),
    /// A wheel whose GPU code is cut, by its file name.
    Pruned(String),
    /// A directory or file of the project.
    Copy {
        /// Its path in the project.
        from: String,
        /// Its place in the image.
        to: String,
    },
    /// Several copies in one layer, in words.
    Copies(Vec<String>),
    /// Files that the stack file holds: their places.
    Files(Vec<String>),
    /// A tree that images copy from, in words.
    Tree(String),
    /// A file of a base, by its path.
    FileBelow(String),
    /// The program that an image runs.
    Program(String),
    /// The virtual environment.
    Environment,
    /// Distributions of the base that are hidden, with versions.
    Removed(Vec<String>),
    /// Users and the time zone of an image.
    Users(String),
    /// Packages of the base's distribution, in words.
    System(String),
    /// A command that runs in an image.
    Run(String),
    /// A base on a platform.
    Base(String, Platform),
    /// An image on a platform.
    Image(String, Platform),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Package { name, version } => write!(f, "{name} {version}"),
            Self::Packages(packages) => write!(f, "{} small packages", packages.len()),
            Self::Wheel(file) => f.write_str(file),
            Self::Pruned(file) => write!(f, "pruning {file}"),
            Self::Copy { from, to } => write!(f, "copy {from} to {to}"),
            Self::Copies(copies) => f.write_str(&copies.join(", ")),
            Self::Files(places) => match places.as_slice() {
                [first, second, _, ..] => write!(f, "files {first}, {second} and {} more", places.len() - 2),
                few => write!(f, "files {}", few.join(", ")),
            },
            Self::Tree(tree) => write!(f, "the files of {tree}"),
            Self::FileBelow(path) => write!(f, "file {path} of what is below"),
            Self::Program(name) => write!(f, "program {name}"),
            Self::System(packages) => write!(f, "system {packages}"),
            Self::Run(command) => write!(f, "run {command}"),
            Self::Environment => f.write_str("virtual environment"),
            Self::Removed(names) => write!(f, "the base without {}", names.join(", ")),
            Self::Users(text) => f.write_str(text),
            Self::Base(name, _) => f.write_str(name),
            Self::Image(name, _) => f.write_str(name),
        }
    }
}

/// What performing a step takes. It decides when, and is not in the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cost {
    /// So little that it is done while keys are found.
    Inline,
    /// Bytes that are downloaded.
    Network(u64),
    /// Bytes that processors go through.
    Cpu(u64),
    /// A program of its own, with the memory that it is expected to take, in bytes.
    Sandbox(u64),
}

/// Who keeps the record of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Keep {
    /// Nobody.
    Never,
    /// This store.
    Here,
    /// This store, and the cache.
    Shared,
}

/// Whether a step gives the same bytes each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It does: anybody can derive the product again.
    SameBytes,
    /// It may not: the record is all that can be known.
    Recorded,
}

/// One piece of work.
pub(crate) trait Step: Serialize + Send + Sync + 'static {
    /// The kind of its product.
    type Product: ProductKind;
    /// Its kind.
    const KIND: Kind;

    /// Returns its subject.
    fn subject(&self) -> Subject;

    /// Returns the products that it reads.
    fn reads(&self) -> Vec<Read> {
        Vec::new()
    }

    /// Returns the product where it is known without any work.
    fn declared(&self) -> Option<Self::Product> {
        None
    }

    /// Returns what performing it takes.
    fn cost(&self) -> Cost;

    /// Returns who keeps its record.
    fn keep(&self) -> Keep {
        Keep::Shared
    }

    /// Tells if it gives the same bytes each time.
    fn repeatable(&self) -> Repeat {
        Repeat::SameBytes
    }

    /// Tells if a product that a record holds can be one of this step.
    fn accepts(&self, _product: &Self::Product) -> bool {
        true
    }

    /// Returns the bytes that an index sends for it, where it is a download.
    fn downloads(&self) -> Option<u64> {
        None
    }

    /// Returns the command that it runs in a sandbox.
    fn command(&self) -> Option<Commanded> {
        None
    }

    /// Returns what users are warned of, on every build that uses the product.
    fn warnings(&self, _product: &Self::Product) -> Vec<String> {
        Vec::new()
    }

    /// Returns what people may want to know of the product: its date, and what it was made from.
    fn notes(&self, _product: &Self::Product) -> Vec<String> {
        Vec::new()
    }

    /// Does the work.
    fn perform(&self, context: &Context<'_>) -> Result<Self::Product>;
}

/// A step of any kind: what the graph holds.
pub(crate) trait AnyStep: Send + Sync {
    fn kind(&self) -> Kind;
    fn subject(&self) -> Subject;
    fn cost(&self) -> Cost;
    fn keep(&self) -> Keep;
    fn repeatable(&self) -> Repeat;
    /// The fields as JSON.
    fn fields(&self) -> serde_json::Result<Vec<u8>>;
    fn is_product(&self, product: &Product) -> bool;
    /// Tells if a product that a cache recorded can be one of this step: commands alone may change nothing.
    fn is_remote_product(&self, product: &Product) -> bool {
        let is_empty = Vec::<Layer>::of(product).is_some_and(Vec::is_empty);
        self.is_product(product) && (!is_empty || self.command().is_some())
    }
    fn downloads(&self) -> Option<u64>;
    fn command(&self) -> Option<Commanded>;
    fn warnings(&self, product: &Product) -> Vec<String>;
    fn notes(&self, product: &Product) -> Vec<String>;
    fn perform(&self, context: &Context<'_>) -> Result<Product>;
}

impl<S: Step> AnyStep for S {
    fn kind(&self) -> Kind {
        S::KIND
    }

    fn subject(&self) -> Subject {
        Step::subject(self)
    }

    fn cost(&self) -> Cost {
        Step::cost(self)
    }

    fn keep(&self) -> Keep {
        Step::keep(self)
    }

    fn repeatable(&self) -> Repeat {
        Step::repeatable(self)
    }

    fn fields(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    fn is_product(&self, product: &Product) -> bool {
        S::Product::of(product).is_some_and(|product| self.accepts(product))
    }

    fn downloads(&self) -> Option<u64> {
        Step::downloads(self)
    }

    fn command(&self) -> Option<Commanded> {
        Step::command(self)
    }

    fn warnings(&self, product: &Product) -> Vec<String> {
        S::Product::of(product).map(|product| Step::warnings(self, product)).unwrap_or_default()
    }

    fn notes(&self, product: &Product) -> Vec<String> {
        S::Product::of(product).map(|product| Step::notes(self, product)).unwrap_or_default()
    }

    fn perform(&self, context: &Context<'_>) -> Result<Product> {
        Ok(Step::perform(self, context)?.wrap())
    }
}

/// Returns the key of a step: of its kind, its fields as JSON, and the digests of the products that it reads, in order.
pub(crate) fn key(kind: Kind, fields: &[u8], inputs: impl IntoIterator<Item = Digest>) -> StepKey {
    let inputs = inputs.into_iter().map(|digest| digest.hex());
    StepKey::of(kind.name, kind.version).bytes("fields", fields).list("reads", inputs).finish()
}
