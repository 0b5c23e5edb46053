//! GPUs, and the architectures that code is compiled for.
//!
//! Three things are kept apart, because most mistakes with GPU images come from mixing them up:
//! - a [`Capability`] such as `8.9` is what a GPU *has*;
//! - an [`Architecture`] such as `sm_90a` or `compute_90` is what code was *compiled for*;
//! - a [`GpuRequest`] such as `"H100"` or `"8.0+PTX"` is what a person *asks for*.
//!
//! [`runs_on`] relates the first two; [`GpuRequest::architectures`] turns the third into the second; [`CudaRelease`]
//! knows what a compiler can produce. All facts come from one data file, `data/gpus.toml`, which names its sources:
//! supporting a new GPU or CUDA release means adding lines there, not code.

mod architecture;
mod cuda;
mod driver;
mod error;
mod name;
mod request;
mod table;

pub use architecture::{Architecture, Capability, Form, Suffix, runs_on};
pub use cuda::{CudaRelease, PtxDriver, PtxVersion};
pub use driver::DriverVersion;
pub use error::GpuError;
pub use request::{GpuNames, GpuRequest};
pub use table::{Class, Gpu, GpuTable};

/// (De)serialises a type as the string that its `Display` writes and its `FromStr` reads.
macro_rules! serde_as_string {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
use serde_as_string;
