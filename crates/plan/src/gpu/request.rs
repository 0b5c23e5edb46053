//! What an entry of `gpus = [...]` in a stack file, or of `--gpus`, asks for.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{Architecture, Capability, Form, GpuError, GpuTable, Suffix, serde_as_string};

/// One entry of `gpus`.
///
/// A name asks for the least that runs on that GPU, its plain real architecture. Everything that makes code bigger
/// (PTX) or less portable (`a`, `f`) has to be said, as a capability.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GpuRequest {
    /// `H100`, `H100+PTX`.
    Named {
        /// The name under which the table lists the GPU.
        name: String,
        /// Its capability.
        capability: Capability,
        /// True if PTX is wanted in addition to machine code.
        ptx: bool,
    },
    /// `Ampere`, `Ampere+PTX`: the capabilities of a generation's GPUs, those of systems on a chip (`Ampere+Tegra`) apart.
    Generation {
        /// The name of the generation, as it is written in the table, and `+Tegra`.
        name: String,
        /// Its capabilities, ascending.
        capabilities: Vec<Capability>,
        /// Whether PTX is wanted in addition to machine code.
        ptx: bool,
    },
    /// `8.9`, `9.0a`, `8.0+PTX`, `90`: what PyTorch's `TORCH_CUDA_ARCH_LIST` holds as well.
    Capability {
        /// The capability.
        capability: Capability,
        /// The letter after it.
        suffix: Suffix,
        /// Whether PTX is wanted in addition to machine code.
        ptx: bool,
    },
    /// `sm_90` or `compute_90`: exactly this.
    Architecture(Architecture),
    /// `native`: the GPUs of the machine that locks.
    Native,
}

serde_as_string!(GpuRequest);

/// The end of a request for PTX too.
const PTX: &str = "+PTX";

impl GpuRequest {
    /// Reads one entry: a name, a generation, a capability, or an architecture as nvcc, CMake and PyTorch write them.
    ///
    /// # Errors
    /// [`GpuError::UnknownName`] with the nearest name; [`GpuError::UnknownCapability`] with the nearest one that a
    /// GPU has; [`GpuError::UnknownArchitecture`] for a letter that the capability does not come with;
    /// [`GpuError::MalformedRequest`] for what looks like a capability or an architecture and is none.
    pub fn parse(text: &str) -> Result<Self, GpuError> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("native") {
            return Ok(Self::Native);
        }
        let table = GpuTable::get();
        let (plain, ptx) = Self::without_ptx(text);
        if let Some(gpu) = table.find(plain) {
            return Ok(Self::Named { name: gpu.name.clone(), capability: gpu.capability, ptx });
        }
        let lower = plain.to_ascii_lowercase();
        let rest = lower.as_str();
        if let Some((name, capabilities)) = table.generation(rest) {
            let tegra = if rest.ends_with("+tegra") { "+Tegra" } else { "" };
            return Ok(Self::Generation { name: format!("{name}{tegra}"), capabilities, ptx });
        }
        if let Some(architecture) = architecture(rest).filter(|_| !ptx) {
            return exists(architecture).map(Self::Architecture);
        }
        let (number, suffix) = Suffix::split(rest);
        let Some(capability) = number.parse().ok().or_else(|| capability_number(number)) else {
            return Err(unreadable(text));
        };
        exists(capability.architecture().with_suffix(suffix))?;
        Ok(Self::Capability { capability, suffix, ptx })
    }

    /// Splits the demand for PTX off a request.
    pub fn without_ptx(text: &str) -> (&str, bool) {
        let at = text.len().checked_sub(PTX.len()).filter(|at| text.is_char_boundary(*at));
        match at.map(|at| text.split_at(at)) {
            Some((plain, end)) if end.eq_ignore_ascii_case(PTX) => (plain.trim_end(), true),
            _ => (text, false),
        }
    }

    /// Reads a list of entries, separated by commas, semicolons (CMake and PyTorch) or blanks: each with its text. Blanks
    /// that are part of a name stay so.
    ///
    /// # Errors
    /// Those of [`Self::parse`], for the first entry that is none.
    pub fn parse_list(text: &str) -> Result<Vec<(String, Self)>, GpuError> {
        let mut found = Vec::new();
        for part in text.split([',', ';']).map(str::trim).filter(|part| !part.is_empty()) {
            let read = |text: &str| Self::parse(text).map(|request| (text.to_owned(), request));
            match read(part) {
                Ok(request) => found.push(request),
                Err(error) => {
                    let words: Result<Vec<_>, _> = part.split_whitespace().map(read).collect();
                    found.extend(words.map_err(|_| error)?);
                }
            }
        }
        if found.is_empty() { Err(GpuError::MalformedRequest(text.trim().to_owned())) } else { Ok(found) }
    }

    /// The capabilities of the GPUs that are asked for; none for `native`, which only the machine that locks can answer.
    pub fn capabilities(&self) -> Vec<Capability> {
        match self {
            Self::Named { capability, .. } | Self::Capability { capability, .. } => vec![*capability],
            Self::Generation { capabilities, .. } => capabilities.clone(),
            Self::Architecture(architecture) => vec![architecture.capability],
            Self::Native => Vec::new(),
        }
    }

    /// Whether PTX is asked for.
    pub fn asks_for_ptx(&self) -> bool {
        let architectures = self.architectures().unwrap_or_default();
        architectures.iter().any(|architecture| architecture.form == Form::Virtual)
    }

    /// The architectures asked for, in order, or `None` for `native`, which only the machine that locks can answer.
    pub fn architectures(&self) -> Option<Vec<Architecture>> {
        match self {
            Self::Named { capability, ptx, .. } => {
                let real = capability.architecture();
                Some([Some(real), ptx.then(|| real.with_form(Form::Virtual))].into_iter().flatten().collect())
            }
            Self::Generation { capabilities, ptx, .. } => {
                let mut all: Vec<_> = capabilities.iter().map(|capability| capability.architecture()).collect();
                let latest = all.last().map(|real| real.with_form(Form::Virtual));
                all.extend(latest.filter(|_| *ptx));
                Some(all)
            }
            Self::Capability { capability, suffix, ptx } => {
                let real = capability.architecture().with_suffix(*suffix);
                let mut all = vec![real];
                all.extend(ptx.then(|| real.with_form(Form::Virtual)));
                Some(all)
            }
            Self::Architecture(architecture) => Some(vec![*architecture]),
            Self::Native => None,
        }
    }
}

/// Reads `sm_90a`, `compute_90`, `SM90`, and CMake's `90-real` and `90-virtual`; lower case.
fn architecture(text: &str) -> Option<Architecture> {
    let (number, form) = if let Some(number) = text.strip_suffix("-real") {
        (number, Form::Real)
    } else if let Some(number) = text.strip_suffix("-virtual") {
        (number, Form::Virtual)
    } else if let Some(number) = text.strip_prefix("sm") {
        (number.strip_prefix('_').unwrap_or(number), Form::Real)
    } else {
        let number = text.strip_prefix("compute")?;
        (number.strip_prefix('_').unwrap_or(number), Form::Virtual)
    };
    format!("sm_{number}").parse::<Architecture>().ok().map(|architecture| architecture.with_form(form))
}

/// Reads `90` as 9.0, as in the names of architectures.
fn capability_number(text: &str) -> Option<Capability> {
    format!("sm_{text}").parse::<Architecture>().ok().map(|architecture| architecture.capability)
}

/// What begins like a capability or an architecture was meant as one, unless it is close to a name; the rest are names.
fn unreadable(text: &str) -> GpuError {
    let suggestions: Vec<_> = GpuTable::get().nearest_names(text).into_iter().map(str::to_owned).collect();
    let lower = text.to_ascii_lowercase();
    let number = lower.strip_prefix("sm").or_else(|| lower.strip_prefix("compute")).unwrap_or(&lower);
    let like_a_number = number.is_empty() || number.starts_with(|c: char| c.is_ascii_digit() || "._-+ ".contains(c));
    if like_a_number && suggestions.is_empty() {
        GpuError::MalformedRequest(text.to_owned())
    } else {
        GpuError::UnknownName { name: text.to_owned(), suggestions }
    }
}

/// Whether some CUDA release compiles an architecture.
fn exists(architecture: Architecture) -> Result<Architecture, GpuError> {
    let table = GpuTable::get();
    let capability = architecture.capability;
    if !table.has_capability(capability) {
        return Err(GpuError::UnknownCapability { capability, nearest: table.nearest_capability(capability) });
    }
    let existing = table.architectures_of(capability);
    if existing.contains(&architecture.with_form(Form::Real)) {
        return Ok(architecture);
    }
    let existing = existing.into_iter().map(|real| real.with_form(architecture.form)).collect();
    Err(GpuError::UnknownArchitecture { architecture, existing })
}

/// Names under which GPUs were asked for, by capability.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpuNames(BTreeMap<Capability, Vec<String>>);

impl GpuNames {
    /// Adds a request by its text. Numbers are no names.
    pub fn add(&mut self, asked: &str, request: &GpuRequest) {
        if matches!(request, GpuRequest::Named { .. } | GpuRequest::Generation { .. }) {
            let (asked, _) = GpuRequest::without_ptx(asked);
            for capability in request.capabilities() {
                let names = self.0.entry(capability).or_default();
                if !names.iter().any(|name| name == asked) {
                    names.push(asked.to_owned());
                }
            }
        }
    }

    /// Returns a capability with the names that it was asked for under: `H100 (9.0)`, or `9.0`.
    pub fn label(&self, capability: Capability) -> String {
        match self.0.get(&capability) {
            Some(names) => format!("{} ({capability})", names.join(", ")),
            None => capability.to_string(),
        }
    }

    /// Returns the names that a capability was asked for under.
    pub fn of(&self, capability: Capability) -> &[String] {
        self.0.get(&capability).map_or(&[], Vec::as_slice)
    }
}

impl FromStr for GpuRequest {
    type Err = GpuError;

    fn from_str(text: &str) -> Result<Self, GpuError> {
        Self::parse(text)
    }
}

impl fmt::Display for GpuRequest {
    /// Writes what [`GpuRequest::parse`] reads back as the same request.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named { name, ptx, .. } => write!(f, "{name}{}", if *ptx { "+PTX" } else { "" }),
            Self::Generation { name, ptx, .. } => write!(f, "{name}{}", if *ptx { "+PTX" } else { "" }),
            Self::Capability { capability, suffix, ptx } => {
                write!(f, "{capability}{suffix}{}", if *ptx { "+PTX" } else { "" })
            }
            Self::Architecture(architecture) => architecture.fmt(f),
            Self::Native => f.write_str("native"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> Vec<String> {
        let architectures = GpuRequest::parse(text).unwrap().architectures().unwrap();
        architectures.iter().map(ToString::to_string).collect()
    }

    fn hint(text: &str) -> String {
        GpuRequest::parse(text).unwrap_err().hint().unwrap_or_default()
    }

    #[test]
    fn ptx_may_be_wanted_of_a_name_a_generation_and_a_capability() {
        assert_eq!(resolved("H100+PTX"), ["sm_90", "compute_90"]);
        assert_eq!(resolved("rtx 4090 +ptx"), ["sm_89", "compute_89"]);
        assert_eq!(resolved("8.0+PTX"), ["sm_80", "compute_80"]);
        assert_eq!(GpuRequest::parse("h100+ptx").unwrap().to_string(), "H100+PTX");
        assert!(GpuRequest::parse("sm_90+PTX").is_err());
        let mut names = GpuNames::default();
        names.add("H100+PTX", &GpuRequest::parse("H100+PTX").unwrap());
        assert_eq!(names.label("9.0".parse().unwrap()), "H100 (9.0)");
    }

    #[test]
    fn a_name_means_its_plain_architecture_without_ptx() {
        assert_eq!(resolved("H100"), ["sm_90"]);
        assert_eq!(resolved("B200"), ["sm_100"]);
        assert_eq!(resolved("rtx4090"), ["sm_89"]);
        for gpu in GpuTable::get().gpus() {
            assert_eq!(resolved(&gpu.name), [gpu.architecture().to_string()]);
        }
    }

    #[test]
    fn letters_and_ptx_are_said_explicitly() {
        assert_eq!(resolved("8.9"), ["sm_89"]);
        assert_eq!(resolved("9.0a"), ["sm_90a"]);
        assert_eq!(resolved("10.0f"), ["sm_100f"]);
        assert_eq!(resolved("8.0+PTX"), ["sm_80", "compute_80"]);
        assert_eq!(resolved("9.0a+ptx"), ["sm_90a", "compute_90a"]);
        assert_eq!(resolved("sm_90"), ["sm_90"]);
        assert_eq!(resolved("compute_90"), ["compute_90"]);
    }

    #[test]
    fn native_is_left_to_the_machine_that_locks() {
        assert_eq!(GpuRequest::parse("native").unwrap(), GpuRequest::Native);
        assert_eq!(GpuRequest::Native.architectures(), None);
    }

    #[test]
    fn an_unknown_name_suggests_the_nearest() {
        let error = GpuRequest::parse("H10O").unwrap_err();
        assert_eq!(error.to_string(), "`H10O` is not a GPU that kiln knows");
        assert_eq!(error.hint().unwrap(), "did you mean `H100`?");
        let error = GpuRequest::parse("MI300X").unwrap_err();
        assert_eq!(error, GpuError::UnknownName { name: "MI300X".into(), suggestions: Vec::new() });
        assert_eq!(hint("4090"), "did you mean `GeForce RTX 4090`?");
    }

    #[test]
    fn a_capability_that_no_gpu_has_is_refused_with_the_nearest() {
        let error = GpuRequest::parse("8.4").unwrap_err();
        assert_eq!(error.to_string(), "no NVIDIA GPU has the compute capability 8.4");
        assert_eq!(error.hint().unwrap(), "the nearest is 8.6");
        assert!(matches!(GpuRequest::parse("sm_91"), Err(GpuError::UnknownCapability { .. })));
    }

    #[test]
    fn a_letter_that_a_capability_does_not_come_with_is_refused() {
        let error = GpuRequest::parse("9.0f").unwrap_err();
        assert_eq!(error.to_string(), "there is no architecture `sm_90f`");
        assert_eq!(error.hint().unwrap(), "valid: `sm_90`, `sm_90a`");
        assert_eq!(hint("compute_89a"), "valid: `compute_89`");
    }

    #[test]
    fn what_is_no_name_and_no_number_is_malformed() {
        for text in ["", " ", "8", "9.0b", "8.0+", "8.0+PTX+PTX", "sm_90+PTX", "sm_9", "sm-90", "90-both", "+PTX"] {
            assert_eq!(GpuRequest::parse(text), Err(GpuError::MalformedRequest(text.trim().into())), "{text}");
        }
    }

    #[test]
    fn architectures_are_read_as_cmake_and_people_write_them() {
        for (text, expected) in [
            ("sm80", "sm_80"),
            ("SM_90", "sm_90"),
            ("SM90a", "sm_90a"),
            ("compute80", "compute_80"),
            ("86-real", "sm_86"),
            ("90a-real", "sm_90a"),
            ("90-virtual", "compute_90"),
            ("90", "sm_90"),
            ("100f", "sm_100f"),
            ("6.1", "sm_61"),
        ] {
            assert_eq!(resolved(text), [expected], "{text}");
        }
    }

    #[test]
    fn a_generation_asks_for_all_of_its_capabilities() {
        assert_eq!(resolved("Ampere"), ["sm_80", "sm_86"]);
        assert_eq!(resolved("ampere+ptx"), ["sm_80", "sm_86", "compute_86"]);
        assert_eq!(resolved("Ada"), ["sm_89"]);
        assert_eq!(resolved("Ampere+Tegra"), ["sm_87"]);
        assert!(resolved("Blackwell").contains(&"sm_100".to_owned()));
    }

    #[test]
    fn lists_are_separated_by_commas_semicolons_and_blanks() {
        let list = |text| {
            let requests = GpuRequest::parse_list(text)?;
            Ok::<_, GpuError>(requests.iter().map(|(asked, _)| asked.as_str()).collect::<Vec<_>>().join("|"))
        };
        assert_eq!(list("8.0;8.6"), Ok("8.0|8.6".into()));
        assert_eq!(list("8.0 8.6+PTX"), Ok("8.0|8.6+PTX".into()));
        assert_eq!(list("80;86-real"), Ok("80|86-real".into()));
        assert_eq!(list("RTX 4090, H100;Ampere"), Ok("RTX 4090|H100|Ampere".into()));
        assert_eq!(list("H100 L4"), Ok("H100|L4".into()));
        assert!(list("8.0;").is_ok() && list(";").is_err());
        assert_eq!(
            list("RTX 4090 and L4"),
            Err(GpuError::UnknownName { name: "RTX 4090 and L4".into(), suggestions: vec![] })
        );
    }

    #[test]
    fn requests_are_written_as_they_are_read() {
        for text in [
            "H100",
            "GeForce RTX 4090",
            "8.9",
            "9.0a",
            "8.0+PTX",
            "sm_90a",
            "compute_90",
            "native",
            "Ampere",
            "Ada Lovelace+PTX",
            "Ampere+Tegra",
        ] {
            let request = GpuRequest::parse(text).unwrap();
            assert_eq!(request.to_string(), text);
            let json = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<GpuRequest>(&json).unwrap(), request);
        }
        assert_eq!(GpuRequest::parse(" nvidia h100 ").unwrap().to_string(), "H100");
    }
}
