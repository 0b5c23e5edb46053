//! Capabilities, architectures, and which code runs on which GPU.

use std::fmt;
use std::str::FromStr;

use super::{GpuError, GpuTable, serde_as_string};

/// What a GPU has: its compute capability (CUDA Programming Guide, "Compute Capabilities"). Written `8.9`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability {
    /// The number before the dot.
    pub major: u8,
    /// The number after the dot, 0 to 9: architecture names have one digit for it.
    pub minor: u8,
}

impl Capability {
    /// Capability `major.minor`.
    pub const fn new(major: u8, minor: u8) -> Self {
        Self { major, minor }
    }

    /// The two numbers as architecture names join them: 89 for 8.9, 100 for 10.0. Fat binaries store this number.
    pub fn number(self) -> u32 {
        u32::from(self.major) * 10 + u32::from(self.minor)
    }

    /// The capability of the number in an architecture name or in a fat binary: 8.9 of 89, 10.0 of 100.
    /// `None` above 2559, which no name can have.
    pub fn from_number(number: u32) -> Option<Self> {
        let major = u8::try_from(number / 10).ok()?;
        let minor = u8::try_from(number % 10).ok()?;
        Some(Self { major, minor })
    }

    /// The plain real architecture of this capability: `sm_89` of 8.9.
    pub const fn architecture(self) -> Architecture {
        Architecture { capability: self, suffix: Suffix::None, form: Form::Real }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Capability {
    type Err = GpuError;

    /// Reads `8.9`.
    ///
    /// # Errors
    /// [`GpuError::MalformedCapability`], also for a minor number of more than one digit. Whether any GPU has the
    /// capability is not asked here: a base or a fat binary may know a newer one than this kiln.
    fn from_str(text: &str) -> Result<Self, GpuError> {
        let parse = || {
            let (major, minor) = text.split_once('.')?;
            (minor.len() == 1 && !major.starts_with('0')).then_some(())?;
            Some(Self { major: digits(major)?, minor: digits(minor)? })
        };
        parse().ok_or_else(|| GpuError::MalformedCapability(text.to_owned()))
    }
}

/// Digits alone: `u8::from_str` would take a sign as well.
fn digits(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The letter after an architecture's number, which trades compatibility for features.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Suffix {
    /// No letter: runs on later minors of the same major, and as PTX on everything later.
    #[default]
    #[serde(rename = "")]
    None,
    /// `a`: runs on exactly this capability (CUDA 12.0 and later).
    #[serde(rename = "a")]
    ArchitectureSpecific,
    /// `f`: runs on later members of the same family (CUDA 12.9 and later).
    #[serde(rename = "f")]
    Family,
}

impl Suffix {
    /// The letter, or nothing.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::ArchitectureSpecific => "a",
            Self::Family => "f",
        }
    }

    /// Splits the letter off the end of an architecture's number.
    pub(super) fn split(text: &str) -> (&str, Self) {
        if let Some(number) = text.strip_suffix('a') {
            (number, Self::ArchitectureSpecific)
        } else if let Some(number) = text.strip_suffix('f') {
            (number, Self::Family)
        } else {
            (text, Self::None)
        }
    }
}

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Machine code, or the portable code that a driver compiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Machine code in a cubin: `sm_90`.
    Real,
    /// PTX: `compute_90`.
    Virtual,
}

/// What code is compiled for. Written `sm_90a` (machine code) or `compute_90` (PTX).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Architecture {
    /// The capability in its name.
    pub capability: Capability,
    /// The letter after the number.
    pub suffix: Suffix,
    /// Machine code or PTX.
    pub form: Form,
}

serde_as_string!(Capability);
serde_as_string!(Architecture);

impl Architecture {
    /// The same architecture in another form: `compute_90a` of `sm_90a`.
    #[must_use]
    pub const fn with_form(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// The same architecture with another letter: `sm_90a` of `sm_90`.
    #[must_use]
    pub const fn with_suffix(self, suffix: Suffix) -> Self {
        Self { suffix, ..self }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = match self.form {
            Form::Real => "sm_",
            Form::Virtual => "compute_",
        };
        write!(f, "{prefix}{}{}", self.capability.number(), self.suffix)
    }
}

impl FromStr for Architecture {
    type Err = GpuError;

    /// Reads `sm_90a` and `compute_90`.
    ///
    /// # Errors
    /// [`GpuError::MalformedArchitecture`]. As with [`Capability`], existence is not asked here.
    fn from_str(text: &str) -> Result<Self, GpuError> {
        let parse = || {
            let (form, rest) = if let Some(rest) = text.strip_prefix("sm_") {
                (Form::Real, rest)
            } else {
                (Form::Virtual, text.strip_prefix("compute_")?)
            };
            let (number, suffix) = Suffix::split(rest);
            let two_or_three_digits = matches!(number.len(), 2 | 3)
                && number.bytes().all(|byte| byte.is_ascii_digit())
                && !number.starts_with('0');
            let number = two_or_three_digits.then(|| number.parse().ok()).flatten()?;
            Some(Self { capability: Capability::from_number(number)?, suffix, form })
        };
        parse().ok_or_else(|| GpuError::MalformedArchitecture(text.to_owned()))
    }
}

/// Whether code compiled for `code` runs on a GPU of capability `gpu`, given a driver that is new enough.
///
/// - Machine code runs on the same major and the same or a later minor (CUDA Programming Guide, "Binary
///   Compatibility"), with suffix `a` on exactly its capability, with suffix `f` on its family from its minor on.
/// - PTX without a suffix runs on its own and every later capability; with a suffix it is as limited as machine code.
/// - Tegra systems on a chip (Jetson's 7.2, 8.7, 11.0 ...) are apart: there only machine code for exactly that
///   capability counts, or PTX; and machine code for them runs nowhere else.
pub fn runs_on(code: Architecture, gpu: Capability) -> bool {
    let own = code.capability;
    match (code.suffix, code.form) {
        (Suffix::None, Form::Virtual) => own <= gpu,
        (Suffix::ArchitectureSpecific, _) => own == gpu,
        (Suffix::Family, _) => own == gpu || (GpuTable::get().same_family(own, gpu) && own <= gpu),
        (Suffix::None, Form::Real) => own == gpu || (same_binary_line(own, gpu) && own.minor <= gpu.minor),
    }
}

/// Whether machine code is passed on from one capability to the other at all.
fn same_binary_line(code: Capability, gpu: Capability) -> bool {
    let table = GpuTable::get();
    code.major == gpu.major && !table.is_apart(code) && !table.is_apart(gpu)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runs(code: &str, gpu: &str) -> bool {
        runs_on(code.parse().unwrap(), gpu.parse().unwrap())
    }

    #[test]
    fn architectures_are_written_as_nvcc_writes_them() {
        for text in ["sm_75", "sm_90", "sm_90a", "sm_100f", "compute_90", "compute_120a", "sm_121"] {
            assert_eq!(text.parse::<Architecture>().unwrap().to_string(), text);
        }
        let parsed: Architecture = "sm_100f".parse().unwrap();
        assert_eq!(parsed.capability, Capability::new(10, 0));
        assert_eq!((parsed.suffix, parsed.form), (Suffix::Family, Form::Real));
    }

    #[test]
    fn what_is_almost_an_architecture_is_refused() {
        for text in ["", "sm_", "sm_9", "sm_090", "sm_90b", "sm90", "SM_90", "compute_9000", "sm_+90", "sm_90aa", "8.9"]
        {
            assert!(text.parse::<Architecture>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_almost_a_capability_is_refused() {
        for text in ["", "8", "8.", ".9", "8.10", "8.9a", "+8.9", "8.+9", "08.9", "300.0", "8.9.0", "sm_89"] {
            assert!(text.parse::<Capability>().is_err(), "{text}");
        }
    }

    #[test]
    fn architectures_sort_by_capability_as_a_number_and_not_as_text() {
        let mut sorted = ["sm_100", "compute_90", "sm_90a", "sm_90", "sm_89"].map(|text| text.parse().unwrap());
        sorted.sort_unstable();
        let sorted = sorted.map(|architecture: Architecture| architecture.to_string());
        assert_eq!(sorted, ["sm_89", "sm_90", "compute_90", "sm_90a", "sm_100"]);
    }

    #[test]
    fn capabilities_and_architectures_are_strings_in_files() {
        let architecture: Architecture = "sm_90a".parse().unwrap();
        assert_eq!(serde_json::to_string(&architecture).unwrap(), "\"sm_90a\"");
        assert_eq!(serde_json::from_str::<Capability>("\"12.1\"").unwrap(), Capability::new(12, 1));
        assert!(serde_json::from_str::<Capability>("12.1").is_err());
    }

    #[test]
    fn machine_code_runs_on_later_minors_of_its_major_only() {
        assert!(runs("sm_80", "8.0"));
        assert!(runs("sm_80", "8.6"));
        assert!(runs("sm_80", "8.9"));
        assert!(runs("sm_86", "8.9"));
        assert!(!runs("sm_89", "8.6"));
        assert!(!runs("sm_80", "9.0"));
        assert!(runs("sm_100", "10.3"));
        assert!(runs("sm_120", "12.1"));
        assert!(!runs("sm_100", "12.0"));
    }

    #[test]
    fn suffix_a_runs_on_exactly_its_capability_in_either_form() {
        assert!(runs("sm_90a", "9.0"));
        assert!(runs("compute_90a", "9.0"));
        assert!(!runs("sm_100a", "10.3"));
        assert!(!runs("compute_90a", "10.0"));
    }

    #[test]
    fn suffix_f_runs_on_its_family_from_its_minor_on() {
        for form in ["sm", "compute"] {
            assert!(runs(&format!("{form}_100f"), "10.0"));
            assert!(runs(&format!("{form}_100f"), "10.3"));
            assert!(runs(&format!("{form}_100f"), "10.7"));
            assert!(runs(&format!("{form}_120f"), "12.1"));
            assert!(!runs(&format!("{form}_103f"), "10.0"));
            assert!(!runs(&format!("{form}_121f"), "12.0"));
            assert!(!runs(&format!("{form}_100f"), "12.0"));
            assert!(!runs(&format!("{form}_100f"), "11.0"));
        }
    }

    #[test]
    fn plain_ptx_runs_on_everything_later() {
        assert!(runs("compute_70", "7.0"));
        assert!(runs("compute_70", "12.1"));
        assert!(runs("compute_90", "10.0"));
        assert!(!runs("compute_90", "8.9"));
    }

    #[test]
    fn jetson_takes_exact_machine_code_or_ptx_and_gives_none_away() {
        assert!(runs("sm_87", "8.7"));
        assert!(!runs("sm_80", "8.7"));
        assert!(!runs("sm_86", "8.7"));
        assert!(!runs("sm_87", "8.9"));
        assert!(!runs("sm_72", "7.5"));
        assert!(!runs("sm_70", "7.2"));
        assert!(runs("compute_80", "8.7"));
        assert!(runs("compute_87", "8.9"));
        assert!(runs("sm_110", "11.0"));
        assert!(runs("sm_110f", "11.0"));
        assert!(runs("compute_100", "11.0"));
    }

    #[test]
    fn sm_101_and_sm_110_are_not_taken_for_each_other() {
        assert!(!runs("sm_101", "11.0"));
        assert!(!runs("sm_101f", "11.0"));
        assert!(!runs("sm_100f", "10.1"));
        assert!(!runs("sm_101", "10.3"));
        assert!(!runs("sm_100", "10.1"));
    }

    #[test]
    fn capabilities_newer_than_the_table_follow_the_general_rule() {
        assert!(runs("sm_130", "13.2"));
        assert!(runs("sm_130f", "13.0"));
        assert!(!runs("sm_130f", "13.2"));
    }

    proptest! {
        #[test]
        fn code_never_runs_on_an_earlier_capability(code in 20u32..200, gpu in 20u32..200, letter in 0..3, ptx: bool) {
            let code = Architecture {
                capability: Capability::from_number(code).unwrap(),
                suffix: [Suffix::None, Suffix::ArchitectureSpecific, Suffix::Family][letter as usize],
                form: if ptx { Form::Virtual } else { Form::Real },
            };
            let gpu = Capability::from_number(gpu).unwrap();
            prop_assert!(!runs_on(code, gpu) || code.capability <= gpu);
            prop_assert!(runs_on(code, code.capability));
            prop_assert_eq!(code.to_string().parse::<Architecture>().unwrap(), code);
        }
    }
}
