//! Products: small values that name content by digest. The content itself lies in the store, in the cache, or on a base's
//! registry.
//!
//! A key names the products that a step reads and never the steps behind them. So a record is a true sentence about
//! digests, whoever named the inputs; equal bytes end a rebuild; and a wheel that pruning leaves alone shares its layer with
//! a stack that prunes nothing.

use std::collections::BTreeMap;

use kiln_oci::image::Image;
use kiln_oci::layer::Layer;
use kiln_plan::base::BaseFacts;
use kiln_plan::digest::Digest;
use kiln_plan::gpu::DriverVersion;
use kiln_proxy::Material;
use serde::{Deserialize, Serialize};

/// Content that a product names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Blob {
    /// Its digest.
    pub(crate) digest: Digest,
    /// Its size in bytes, where known.
    pub(crate) size: Option<u64>,
}

/// A wheel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wheel {
    /// File name (PEP 427).
    pub(crate) file: String,
    /// Digest of the file.
    pub(crate) digest: Digest,
    /// Size in bytes, where known.
    pub(crate) size: Option<u64>,
    /// The GPU code that stayed, where some was cut: `sm_80, sm_90`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<String>,
}

/// The files that a wheel installs, as a list in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Paths {
    /// The list: JSON in zstd, `[path, bytes, CRC-32]` for each file.
    pub(crate) list: Digest,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Packages at the top that let other directories of `sys.path` have parts of them.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) namespaces: Vec<String>,
}

/// Paths that several wheels of one image install.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Conflicts {
    /// Paths that a wheel of the shared layer leaves out, each with the places of those wheels in the layer.
    pub(crate) left_out: BTreeMap<String, Vec<usize>>,
    /// Paths with different content: path, the place of the wheel whose file is lost, and of the one whose file stays.
    pub(crate) differing: Vec<(String, usize, usize)>,
}

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// Reasons why images must not be delivered; none where the check passed.
    pub(crate) failures: Vec<String>,
    /// Remarks for people.
    pub(crate) warnings: Vec<String>,
}

/// A file of text in an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TextFile {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) text: String,
}

/// The ground that commands run on: the layers of an image, and what its configuration says about running programs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Foundation {
    /// The lowest first.
    pub(crate) layers: Vec<Layer>,
    /// `NAME=VALUE`.
    pub(crate) env: Vec<String>,
    pub(crate) workdir: String,
}

/// The result of a command with a network, which may be another each time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dated {
    /// The layer of what it changed, if any.
    pub(crate) layers: Vec<Layer>,
    /// The time when it ran, in seconds since 1970.
    pub(crate) at: u64,
    /// Its inputs from the network.
    pub(crate) materials: Vec<Material>,
}

/// The Linux drivers that run some GPUs and take some code for them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct OldestDriver {
    /// The oldest, where it matters and is known.
    #[serde(default)]
    pub(crate) oldest: Option<DriverVersion>,
    /// The last branch, where the GPUs have one.
    #[serde(default)]
    pub(crate) last: Option<DriverVersion>,
    /// True if the code needs a newer driver than any that is known.
    #[serde(default)]
    pub(crate) unknown: bool,
}

/// The result of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Product {
    /// A wheel.
    Wheel(Wheel),
    /// Layers of an image, the lowest first.
    Layers(Vec<Layer>),
    /// The files that a wheel installs.
    Paths(Paths),
    /// Paths that several wheels install.
    Conflicts(Conflicts),
    /// The facts of a base.
    Facts(Box<BaseFacts>),
    /// An image on one platform.
    Image(Image),
    /// The result of a check.
    Verdict(Verdict),
    /// The driver that GPU code needs.
    Driver(OldestDriver),
    /// A file of text.
    Text(TextFile),
    /// The ground that commands run on.
    Foundation(Foundation),
    /// The result of a command with a network.
    Dated(Dated),
}

impl Product {
    /// Returns the content that is needed wherever the product is used: layers of an image belong to the products that
    /// they come from.
    pub(crate) fn blobs(&self) -> Vec<Blob> {
        let blob = |digest: &Digest, size: Option<u64>| Blob { digest: *digest, size };
        match self {
            Self::Wheel(wheel) => vec![blob(&wheel.digest, wheel.size)],
            // A layer that registries may not distribute is where its manifest says.
            Self::Layers(layers) | Self::Dated(Dated { layers, .. }) => {
                layers.iter().map(|layer| blob(&layer.digest, Some(layer.size))).collect()
            }
            Self::Paths(paths) => vec![blob(&paths.list, Some(paths.size))],
            Self::Image(image) => vec![blob(&image.manifest, Some(image.manifest_size)), blob(&image.config, None)],
            // The layers are an image's, wherever they are.
            Self::Foundation(_)
            | Self::Conflicts(_)
            | Self::Facts(_)
            | Self::Verdict(_)
            | Self::Driver(_)
            | Self::Text(_) => Vec::new(),
        }
    }

    /// Returns the digest that keys of other steps hold: of a wheel that of its bytes alone, of a dated result that of its layers, of
    /// everything else that of the product as JSON.
    pub(crate) fn digest(&self) -> Digest {
        match self {
            Self::Wheel(wheel) => wheel.digest,
            Self::Dated(dated) => Self::Layers(dated.layers.clone()).digest(),
            // No map of this has keys that JSON cannot hold.
            other => Digest::of(&serde_json::to_vec(other).unwrap_or_default()),
        }
    }
}

/// A kind of product.
pub(crate) trait ProductKind: Clone + Sized + Send + Sync + 'static {
    /// Wraps it.
    fn wrap(self) -> Product;
    /// Returns it, if the product is of this kind.
    fn of(product: &Product) -> Option<&Self>;
}

macro_rules! product_kinds {
    ($($variant:ident($kind:ty)),* $(,)?) => {$(
        impl ProductKind for $kind {
            fn wrap(self) -> Product {
                Product::$variant(self)
            }

            fn of(product: &Product) -> Option<&Self> {
                match product {
                    Product::$variant(value) => Some(value),
                    _ => None,
                }
            }
        }
    )*};
}

product_kinds!(
    Wheel(Wheel),
    Paths(Paths),
    Conflicts(Conflicts),
    Facts(Box<BaseFacts>),
    Image(Image),
    Verdict(Verdict),
    Driver(OldestDriver),
    Text(TextFile),
    Foundation(Foundation),
    Dated(Dated),
);

impl ProductKind for Vec<Layer> {
    fn wrap(self) -> Product {
        Product::Layers(self)
    }

    fn of(product: &Product) -> Option<&Self> {
        match product {
            Product::Layers(layers) | Product::Dated(Dated { layers, .. }) => Some(layers),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_is_known_by_its_bytes_alone() {
        let wheel = |file: &str| Wheel { file: file.into(), digest: Digest::of(b"wheel"), size: None, kept: None };
        assert_eq!(wheel("a-1-py3-none-any.whl").wrap().digest(), wheel("b-1-py3-none-any.whl").wrap().digest());
    }

    #[test]
    fn products_are_read_as_they_are_written() {
        let conflicts = Conflicts {
            left_out: BTreeMap::from([("opt/venv/a".to_owned(), vec![0, 2])]),
            differing: vec![("opt/venv/a".to_owned(), 0, 1)],
        };
        let product = conflicts.clone().wrap();
        let text = serde_json::to_string(&product).unwrap();
        let read: Product = serde_json::from_str(&text).unwrap();
        assert_eq!(read, product);
        assert_eq!(Conflicts::of(&read), Some(&conflicts));
        assert_eq!(Verdict::of(&read), None);
    }
}
