//! Platforms that images are built for, in OCI's words.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A processor architecture, by the name that OCI (and Go) give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cpu {
    /// x86-64.
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

impl Cpu {
    /// The name in OCI manifests and in the stack file.
    pub fn oci(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The name in wheel tags, in uv's platforms and in `uname -m`.
    pub fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// The name that Debian gives it.
    pub fn debian(self) -> &'static str {
        self.oci()
    }
}

/// What an image runs on: always Linux, and a processor architecture. Written `linux/amd64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// The processor architecture.
    pub cpu: Cpu,
}

impl Platform {
    /// The platforms that a stack file can name.
    pub const ALL: [Self; 2] = [Self { cpu: Cpu::Amd64 }, Self { cpu: Cpu::Arm64 }];

    /// The platform of the machine that this program was compiled for, where it is one that kiln builds for.
    pub fn host() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self { cpu: Cpu::Amd64 }),
            "aarch64" => Some(Self { cpu: Cpu::Arm64 }),
            _ => None,
        }
    }
}

/// A string that names no platform kiln can build for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform that kiln builds for; valid are `linux/amd64` and `linux/arm64`")]
pub struct UnknownPlatform(pub String);

impl FromStr for Platform {
    type Err = UnknownPlatform;

    fn from_str(text: &str) -> Result<Self, UnknownPlatform> {
        match text {
            "linux/amd64" | "linux/x86_64" => Ok(Self { cpu: Cpu::Amd64 }),
            "linux/arm64" | "linux/arm64/v8" | "linux/aarch64" => Ok(Self { cpu: Cpu::Arm64 }),
            _ => Err(UnknownPlatform(text.to_owned())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.cpu.oci())
    }
}

impl Serialize for Platform {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
