//! Releases of CUDA, and what their compilers can produce.

use std::fmt;
use std::str::FromStr;

use super::table::Toolkit;
use super::{Architecture, Capability, DriverVersion, Form, GpuError, GpuTable, serde_as_string};

/// A release of the CUDA toolkit. Written `12.8`; updates of a release compile for the same architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CudaRelease {
    /// The number before the dot: binaries of one major run with any driver for that major.
    pub major: u8,
    /// The number after the dot.
    pub minor: u8,
}

serde_as_string!(CudaRelease);

/// The first major release for which wheels of today's frameworks were published.
const OLDEST_MAJOR: u8 = 9;

impl CudaRelease {
    /// The releases of the table, oldest first.
    pub fn known() -> impl DoubleEndedIterator<Item = Self> + Clone {
        GpuTable::get().toolkits().iter().map(|toolkit| toolkit.release)
    }

    /// Whether its nvcc can compile for an architecture.
    ///
    /// Virtual and real architectures come in pairs, so that `compute_90a` asks the same question as `sm_90a`. A
    /// release newer than the table is taken to know what the newest known release knows: it is better to let its
    /// nvcc decide than to refuse a toolkit until kiln is updated.
    pub fn can_compile(self, architecture: &Architecture) -> bool {
        let real = architecture.with_form(Form::Real);
        self.toolkit().is_some_and(|toolkit| toolkit.architectures.contains(&real))
    }

    /// Like [`Self::can_compile`], with an error that says which releases can.
    ///
    /// # Errors
    /// [`GpuError::CannotCompile`].
    pub fn require(self, architecture: &Architecture) -> Result<(), GpuError> {
        if self.can_compile(architecture) {
            return Ok(());
        }
        Err(GpuError::CannotCompile {
            release: self,
            architecture: *architecture,
            able: Self::known().filter(|release| release.can_compile(architecture)).collect(),
            instead: self.name_of_same_hardware(architecture),
        })
    }

    /// The oldest Linux driver that runs programs of this release (minor version compatibility), where known.
    /// PTX of the release may need [`Self::toolkit_driver`].
    pub fn minimum_driver(self) -> Option<&'static str> {
        let toolkit = self.toolkit().filter(|toolkit| toolkit.release.major == self.major)?;
        Some(toolkit.minimum_driver.as_str())
    }

    /// The Linux driver that came with the first version of this release, where known: the oldest that compiles PTX
    /// written by this release.
    pub fn toolkit_driver(self) -> Option<&'static str> {
        self.toolkit().filter(|toolkit| toolkit.release == self).and_then(|toolkit| toolkit.toolkit_driver.as_deref())
    }

    /// Reads `13.0` without asking the table, which needs this to be read itself.
    pub(super) fn numbers(text: &str) -> Option<Self> {
        let number = |part: &str| -> Option<u8> {
            let plain = part.bytes().all(|byte| byte.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
            plain.then(|| part.parse().ok()).flatten()
        };
        let (major, minor) = text.split_once('.')?;
        Some(Self { major: number(major)?, minor: number(minor)? })
    }

    fn toolkit(self) -> Option<&'static Toolkit> {
        let toolkits = GpuTable::get().toolkits();
        // At most one major ahead, so that `130.0` is still seen as a slip.
        let plausible = |newest: Self| newest < self && self.major <= newest.major.saturating_add(1);
        let newest = toolkits.last().filter(|newest| plausible(newest.release));
        // Older ones than the table's compile for no more than its first; those between never were.
        let older = toolkits.first().filter(|first| self < first.release && self.major >= OLDEST_MAJOR);
        toolkits.iter().find(|toolkit| toolkit.release == self).or(older).or(newest)
    }

    fn name_of_same_hardware(self, architecture: &Architecture) -> Option<Architecture> {
        let capability = GpuTable::get().other_name(architecture.capability)?;
        let other = Architecture { capability, ..*architecture };
        self.can_compile(&other).then_some(other)
    }
}

/// A version of the PTX language. Written `8.7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PtxVersion {
    /// The number before the dot.
    pub major: u16,
    /// The number after the dot.
    pub minor: u16,
}

serde_as_string!(PtxVersion);

impl PtxVersion {
    /// The release that brought it (PTX ISA, "Release Notes"): drivers from its own on compile it. Nothing for versions
    /// that are not known.
    pub fn release(self) -> Option<CudaRelease> {
        let minor = u8::try_from(self.minor).ok()?;
        // CUDA 12.6 had no PTX version of its own, and 12.7 was never published.
        let (major, minor) = match self.major {
            7 => (11, minor),
            8 => (12, if minor < 6 { minor } else { (minor + 1).max(8) }),
            9 => (13, minor),
            _ => return None,
        };
        Some(CudaRelease { major, minor })
    }

    /// The Linux drivers that compile it: those of its release on (PTX ISA, "Release Notes"; CUDA release notes).
    pub fn driver(self) -> PtxDriver {
        let release = self.release();
        if self.major < 7 {
            return PtxDriver::Any;
        }
        let drivers = CudaRelease::known().filter_map(|known| Some((known, known.toolkit_driver()?.parse().ok()?)));
        let earlier = drivers.take_while(|(known, _)| release.is_none_or(|release| *known <= release)).last();
        match earlier {
            None => PtxDriver::Any,
            Some((known, driver)) if release == Some(known) => PtxDriver::From(driver),
            Some((_, driver)) => PtxDriver::After(driver),
        }
    }
}

/// The drivers that compile a version of the PTX language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PtxDriver {
    /// All that can be asked for.
    Any,
    /// This one and later ones.
    From(DriverVersion),
    /// Later ones than this, the newest that is known: the language is newer.
    After(DriverVersion),
}

impl fmt::Display for PtxVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for PtxVersion {
    type Err = GpuError;

    fn from_str(text: &str) -> Result<Self, GpuError> {
        let numbers = text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let (major, minor) = numbers.ok_or_else(|| GpuError::MalformedRelease(text.to_owned()))?;
        Ok(Self { major, minor })
    }
}

impl fmt::Display for CudaRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for CudaRelease {
    type Err = GpuError;

    /// Reads `13.0`. `none`, which a stack file may say as well, is not a release.
    ///
    /// # Errors
    /// [`GpuError::MalformedRelease`]; [`GpuError::UnknownRelease`] for one that cannot be meant.
    fn from_str(text: &str) -> Result<Self, GpuError> {
        let release = Self::numbers(text).ok_or_else(|| GpuError::MalformedRelease(text.to_owned()))?;
        if release.toolkit().is_none() { Err(GpuError::UnknownRelease(release)) } else { Ok(release) }
    }
}

/// Releases as a person would list them: `12.8, 12.9` or `12.9 to 13.5`. Neighbours are neighbours in the table, since
/// CUDA skipped 12.7.
pub(super) fn ranges(releases: &[CudaRelease]) -> String {
    let known: Vec<_> = CudaRelease::known().collect();
    let place = |release: CudaRelease| known.iter().position(|other| *other == release);
    let follows = |a: &CudaRelease, b: &CudaRelease| place(*a).map(|place| place + 1) == place(*b);
    let parts: Vec<String> = releases
        .chunk_by(follows)
        .flat_map(|run| match run {
            [first, .., last] if run.len() > 2 => vec![format!("{first} to {last}")],
            few => few.iter().map(ToString::to_string).collect(),
        })
        .collect();
    parts.join(", ")
}

impl Capability {
    /// Whether any known CUDA release compiles for this capability.
    pub fn is_compilable(self) -> bool {
        CudaRelease::known().any(|release| release.can_compile(&self.architecture()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(text: &str) -> CudaRelease {
        text.parse().unwrap()
    }

    fn compiles(cuda: &str, architecture: &str) -> bool {
        release(cuda).can_compile(&architecture.parse().unwrap())
    }

    #[test]
    fn releases_are_in_order_and_cuda_12_7_was_never_one() {
        let known: Vec<_> = CudaRelease::known().collect();
        assert!(known.is_sorted());
        assert_eq!("12.7".parse::<CudaRelease>(), Err(GpuError::UnknownRelease(CudaRelease { major: 12, minor: 7 })));
        assert!(known.contains(&release("11.8")) && known.contains(&release("13.2")));
    }

    #[test]
    fn ptx_is_compiled_by_drivers_of_the_release_that_brought_it_and_later_ones() {
        let release = |major, minor| PtxVersion { major, minor }.release().map(|release| release.to_string());
        let of = [(7, 8, "11.8"), (8, 0, "12.0"), (8, 5, "12.5"), (8, 7, "12.8"), (8, 8, "12.9"), (9, 0, "13.0")];
        for (major, minor, expected) in of {
            assert_eq!(release(major, minor).as_deref(), Some(expected));
        }
        assert_eq!(release(12, 0), None);
        let driver = |major, minor| PtxVersion { major, minor }.driver();
        let version = |text: &str| text.parse::<DriverVersion>().unwrap();
        assert_eq!([driver(6, 5), driver(7, 5)], [PtxDriver::Any, PtxDriver::Any]);
        assert_eq!(driver(8, 7), PtxDriver::From(version("570.26")));
        // Newer than the table, or of a release whose driver is not known.
        for (major, minor) in [(9, 4), (9, 99), (10, 0)] {
            assert!(matches!(driver(major, minor), PtxDriver::After(after) if after >= version("610.43.02")));
        }
    }

    #[test]
    fn hopper_compiles_since_11_8_but_its_own_features_since_12_0() {
        assert!(compiles("11.8", "sm_90"));
        assert!(!compiles("11.8", "sm_90a"));
        assert!(compiles("12.0", "sm_90a"));
        assert!(compiles("12.0", "compute_90a"));
    }

    #[test]
    fn blackwell_came_in_steps() {
        for architecture in ["sm_100", "sm_100a", "sm_101a", "sm_120", "sm_120a"] {
            assert!(!compiles("12.6", architecture), "{architecture}");
            assert!(compiles("12.8", architecture), "{architecture}");
        }
        for architecture in ["sm_103", "sm_103a", "sm_121", "sm_100f", "sm_101f", "sm_120f"] {
            assert!(!compiles("12.8", architecture), "{architecture}");
            assert!(compiles("12.9", architecture), "{architecture}");
        }
    }

    #[test]
    fn rubin_compiles_since_13_4() {
        assert!(!compiles("13.3", "sm_107"));
        assert!(compiles("13.4", "sm_107f"));
    }

    #[test]
    fn cuda_13_dropped_everything_before_turing() {
        for architecture in ["sm_50", "sm_60", "sm_70", "sm_72"] {
            assert!(compiles("12.9", architecture), "{architecture}");
            assert!(!compiles("13.0", architecture), "{architecture}");
        }
        assert!(compiles("13.0", "sm_75"));
        assert!(!compiles("12.9", "sm_88"));
        assert!(compiles("13.0", "sm_88"));
    }

    #[test]
    fn sm_101_was_renamed_to_sm_110_in_cuda_13() {
        assert!(compiles("12.9", "sm_101f") && !compiles("12.9", "sm_110f"));
        assert!(!compiles("13.0", "sm_101f") && compiles("13.0", "sm_110f"));
        let error = release("13.0").require(&"sm_101a".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "CUDA 13.0 cannot compile `sm_101a`");
        assert_eq!(error.hint().unwrap(), "CUDA 13.0 calls it `sm_110a`");
        let error = release("12.8").require(&"sm_110".parse().unwrap()).unwrap_err();
        assert_eq!(error.hint().unwrap(), "CUDA 12.8 calls it `sm_101`");
    }

    #[test]
    fn the_error_says_which_releases_can() {
        let hint = |cuda: &str, architecture: &str| {
            release(cuda).require(&architecture.parse().unwrap()).unwrap_err().hint().unwrap()
        };
        let newest = CudaRelease::known().next_back().unwrap();
        assert_eq!(hint("12.8", "sm_103"), format!("CUDA 12.9 to {newest} can compile `sm_103`"));
        assert_eq!(hint("13.0", "sm_70"), "CUDA 11.8 to 12.9 can compile `sm_70`");
        assert_eq!(hint("13.0", "sm_37"), "CUDA 11.8 can compile `sm_37`");
        assert_eq!(hint("12.6", "sm_101"), "CUDA 12.8, 12.9 can compile `sm_101`");
        assert_eq!(hint("13.0", "sm_99"), "no CUDA release that kiln knows can compile `sm_99`");
        assert_eq!(release("13.0").require(&"compute_90".parse().unwrap()), Ok(()));
    }

    #[test]
    fn only_major_and_minor_make_a_release() {
        for text in ["", "13", "13.0.1", "v13.0", "13.", ".0", "13.00", "none", "+13.0", "cu130"] {
            assert_eq!(text.parse::<CudaRelease>(), Err(GpuError::MalformedRelease(text.into())));
        }
        for old in ["11.7", "11.1", "10.2", "9.0"] {
            assert_eq!(release(old).to_string(), old);
        }
        assert!(matches!("1.17".parse::<CudaRelease>(), Err(GpuError::UnknownRelease(_))));
    }

    #[test]
    fn a_release_newer_than_the_table_compiles_what_the_newest_known_one_does() {
        let newest = CudaRelease::known().next_back().unwrap();
        let newer = release(&format!("{}.0", newest.major + 1));
        assert!(newer.can_compile(&"sm_120a".parse().unwrap()));
        assert_eq!(newest.can_compile(&"sm_70".parse().unwrap()), newer.can_compile(&"sm_70".parse().unwrap()));
        assert_eq!((newer.minimum_driver(), newer.toolkit_driver()), (None, None));
        assert!(matches!("130.0".parse::<CudaRelease>(), Err(GpuError::UnknownRelease(_))));
    }

    #[test]
    fn drivers_of_a_major_run_all_its_minors_but_not_their_ptx() {
        assert_eq!(release("12.9").minimum_driver(), Some("525.60.13"));
        assert_eq!(release("12.9").toolkit_driver(), Some("575.51.03"));
        assert_eq!(release("13.0").toolkit_driver(), Some("580.65.06"));
    }

    #[test]
    fn releases_are_strings_in_files() {
        assert_eq!(serde_json::to_string(&release("13.0")).unwrap(), "\"13.0\"");
        assert_eq!(serde_json::from_str::<CudaRelease>("\"12.8\"").unwrap(), release("12.8"));
    }
}
