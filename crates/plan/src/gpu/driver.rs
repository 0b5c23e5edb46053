//! Versions of NVIDIA's Linux driver.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use super::{GpuError, GpuTable, serde_as_string};

/// A version of the Linux driver: `550.54.14`, or a branch of it, `580`, which comes before all of its versions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DriverVersion(Vec<u16>);

serde_as_string!(DriverVersion);

impl DriverVersion {
    /// Returns the oldest driver that inflates code that a CUDA release of a major version compressed with Zstandard;
    /// that of CUDA 12 where the major version is not known.
    pub fn of_zstandard(cuda: Option<u8>) -> Option<Self> {
        let drivers = GpuTable::get().zstandard_drivers();
        let of = |major: u8| drivers.iter().rfind(|(from, _)| *from <= major).map(|(_, driver)| driver.clone());
        of(cuda.unwrap_or(12)).or_else(|| drivers.first().map(|(_, driver)| driver.clone()))
    }

    /// Returns the branch of a version: 580 of 580.65.06.
    #[must_use]
    pub fn branch(&self) -> Self {
        Self(self.0[..1].to_vec())
    }

    /// Tells if it is a branch, rather than one version of it.
    pub fn is_branch(&self) -> bool {
        self.0.len() == 1
    }

    /// Returns the oldest driver that runs programs of a major version of CUDA.
    pub fn of_cuda(major: u8) -> Option<Self> {
        let releases = super::CudaRelease::known().filter(|release| release.major == major);
        releases.filter_map(super::CudaRelease::minimum_driver).filter_map(|text| text.parse().ok()).min()
    }
}

impl Ord for DriverVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for DriverVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, number) in self.0.iter().enumerate() {
            // `550.54.05`: what follows the first number has two digits.
            let dot = if at > 0 { "." } else { "" };
            let width = if at > 0 { 2 } else { 1 };
            write!(f, "{dot}{number:0width$}")?;
        }
        Ok(())
    }
}

impl FromStr for DriverVersion {
    type Err = GpuError;

    /// Reads `550.54.14`.
    ///
    /// # Errors
    /// [`GpuError::MalformedDriver`].
    fn from_str(text: &str) -> Result<Self, GpuError> {
        let number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok()).flatten();
        let numbers: Option<Vec<u16>> = text.trim().split('.').map(number).collect();
        let numbers = numbers.filter(|numbers| numbers.len() <= 3 && numbers[0] >= 100);
        numbers.map(Self).ok_or_else(|| GpuError::MalformedDriver(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> DriverVersion {
        text.parse().unwrap()
    }

    #[test]
    fn versions_are_ordered_by_their_numbers_and_written_as_nvidia_writes_them() {
        let sorted = ["450.80.02", "535.104", "550.54.14", "570.26", "580", "580.65.06"];
        assert!(sorted.is_sorted_by_key(|text| version(text)));
        for text in sorted {
            assert_eq!(version(text).to_string(), text);
        }
        for text in ["", "12", "580.", "580.65.06.1", "r580", "-580"] {
            assert!(text.parse::<DriverVersion>().is_err(), "{text}");
        }
    }

    #[test]
    fn zstandard_needs_the_drivers_that_nvidia_names() {
        assert_eq!(DriverVersion::of_zstandard(Some(12)), Some(version("550.54.14")));
        assert_eq!(DriverVersion::of_zstandard(None), Some(version("550.54.14")));
        assert_eq!(DriverVersion::of_zstandard(Some(13)), Some(version("580")));
    }

    #[test]
    fn a_major_version_of_cuda_needs_the_driver_of_its_first_release() {
        assert_eq!(DriverVersion::of_cuda(12), Some(version("525.60.13")));
        assert_eq!(DriverVersion::of_cuda(13), Some(version("580")));
        assert_eq!(DriverVersion::of_cuda(7), None);
    }
}
