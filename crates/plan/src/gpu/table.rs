//! The table of GPUs, capabilities and CUDA releases, read once from the embedded data file.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::{Architecture, Capability, CudaRelease};

/// What a GPU is sold for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Servers: H100, L4, B200.
    DataCentre,
    /// Workstations: Quadro, RTX A and Ada, RTX PRO, DGX Spark.
    Workstation,
    /// GeForce and Titan.
    Consumer,
    /// Systems on a chip: Jetson.
    Jetson,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DataCentre => "data centre",
            Self::Workstation => "workstation",
            Self::Consumer => "consumer",
            Self::Jetson => "Jetson",
        })
    }
}

/// One model of GPU.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Gpu {
    /// The usual name, without `NVIDIA`: `H100`, `GeForce RTX 4090`.
    pub name: String,
    /// Other names of the same GPU; differences of case, spaces and dashes are not listed.
    pub aliases: Vec<String>,
    /// Its compute capability.
    pub capability: Capability,
    /// The name of its generation: `Hopper`.
    pub generation: String,
    /// What it is sold for.
    pub class: Class,
}

impl Gpu {
    /// The plain real architecture for it: H100 is `sm_90`, never `sm_90a`, and no PTX.
    pub fn architecture(&self) -> Architecture {
        self.capability.architecture()
    }
}

/// Every GPU, capability and CUDA release that kiln knows.
#[derive(Debug)]
pub struct GpuTable {
    gpus: Vec<Gpu>,
    by_key: BTreeMap<String, usize>,
    capabilities: BTreeMap<Capability, CapabilityEntry>,
    families: Vec<BTreeSet<Capability>>,
    toolkits: Vec<Toolkit>,
}

/// What the data file says of a CUDA release.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Toolkit {
    #[serde(deserialize_with = "release")]
    pub(super) release: CudaRelease,
    pub(super) minimum_driver: String,
    pub(super) toolkit_driver: Option<String>,
    pub(super) architectures: BTreeSet<Architecture>,
}

/// The table's own releases: `CudaRelease::from_str` would ask the table that is being read, and wait forever.
fn release<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<CudaRelease, D::Error> {
    let text = String::deserialize(deserializer)?;
    CudaRelease::numbers(&text).ok_or_else(|| serde::de::Error::custom(format!("`{text}` is not a CUDA release")))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct CapabilityEntry {
    number: Capability,
    generation: String,
    #[serde(default)]
    apart: bool,
    renamed_to: Option<Capability>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DataFile {
    capability: Vec<CapabilityEntry>,
    family: Vec<BTreeSet<Capability>>,
    cuda: Vec<Toolkit>,
    models: Vec<Models>,
}

/// GPUs of one class and capability.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Models {
    class: Class,
    capability: Capability,
    gpus: Vec<Model>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
}

static TABLE: LazyLock<GpuTable> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the file is part of the program, and every test here parses it")]
    let data = toml::from_str(include_str!("../../data/gpus.toml")).expect("data/gpus.toml is well formed");
    GpuTable::new(data)
});

impl GpuTable {
    /// The table.
    pub fn get() -> &'static Self {
        &TABLE
    }

    fn new(data: DataFile) -> Self {
        let capabilities: BTreeMap<_, _> = data.capability.into_iter().map(|entry| (entry.number, entry)).collect();
        let mut gpus = Vec::new();
        for models in data.models {
            let generation = capabilities.get(&models.capability).map(|entry| entry.generation.clone());
            gpus.extend(models.gpus.into_iter().map(|model| Gpu {
                name: model.name,
                aliases: model.aliases,
                capability: models.capability,
                generation: generation.clone().unwrap_or_default(),
                class: models.class,
            }));
        }
        let names =
            |gpu: &Gpu| std::iter::once(&gpu.name).chain(&gpu.aliases).map(|name| key(name)).collect::<Vec<_>>();
        let by_key = gpus.iter().enumerate().flat_map(|(at, gpu)| names(gpu).into_iter().map(move |key| (key, at)));
        Self { by_key: by_key.collect(), gpus, capabilities, families: data.family, toolkits: data.cuda }
    }

    /// Every GPU, by class and, within a class, from the oldest capability to the newest.
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    /// The GPU of a name or alias. Case, spaces, `-` and `_` do not matter; `NVIDIA`, `GeForce` or `Tesla` in front
    /// and `Generation`, `Laptop` or `Laptop GPU` at the end may be there or not.
    pub fn find(&self, name: &str) -> Option<&Gpu> {
        self.by_key.get(&key(name)).and_then(|at| self.gpus.get(*at))
    }

    /// The names of the known GPUs that an unknown name may have meant, in the order of the table: those of which it is
    /// a part (`RTX 6000` for `Quadro RTX 6000` and `RTX 6000 Ada`), else the one that it is a slip away from.
    /// Empty where nothing is near, or too much.
    pub fn nearest_names(&self, name: &str) -> Vec<&str> {
        // No name is so long, and comparing takes as long as both lengths multiplied.
        if name.len() > 64 {
            return Vec::new();
        }
        let wanted = key(name);
        let is_part = |known: &str| wanted.len() >= 4 && (known.ends_with(&wanted) || known.starts_with(&wanted));
        let parts: BTreeSet<usize> =
            self.by_key.iter().filter(|(known, _)| is_part(known)).map(|(_, at)| *at).collect();
        let meant = if parts.is_empty() { self.one_slip_away(&wanted).into_iter().collect() } else { parts };
        if meant.len() > MOST_SUGGESTIONS {
            return Vec::new();
        }
        meant.iter().filter_map(|at| self.gpus.get(*at)).map(|gpu| gpu.name.as_str()).collect()
    }

    fn one_slip_away(&self, wanted: &str) -> Option<usize> {
        // Few slips: more would propose L4 for every word of two letters, and GTX 1650 Ti for GTX 1080 Ti.
        let limit = match wanted.chars().count() {
            0..3 => 0,
            3..12 => 1,
            _ => 2,
        };
        let slips = self
            .by_key
            .iter()
            .map(|(known, at)| (strsim::damerau_levenshtein(wanted, known), Reverse(similarity(wanted, known)), *at));
        slips.filter(|(slips, _, _)| *slips <= limit).min().map(|(_, _, at)| at)
    }

    /// Every capability of the table, with the name of its generation, oldest first. Some have no GPU of their own:
    /// those before Volta, and those whose GPUs are not published.
    pub fn capabilities(&self) -> impl Iterator<Item = (Capability, &str)> {
        self.capabilities.values().map(|entry| (entry.number, entry.generation.as_str()))
    }

    /// Whether a capability is in the table.
    pub fn has_capability(&self, capability: Capability) -> bool {
        self.capabilities.contains_key(&capability)
    }

    /// The capability of a listed GPU that comes nearest: one of the same major if there is any.
    pub fn nearest_capability(&self, capability: Capability) -> Capability {
        let distance = |known: Capability| {
            (known.major.abs_diff(capability.major), known.number().abs_diff(capability.number()), known)
        };
        self.gpus.iter().map(|gpu| gpu.capability).min_by_key(|known| distance(*known)).unwrap_or(capability)
    }

    /// Whether machine code is shared with no other capability: Tegra systems on a chip.
    pub fn is_apart(&self, capability: Capability) -> bool {
        self.capabilities.get(&capability).is_some_and(|entry| entry.apart)
    }

    /// Whether two capabilities belong to one family in the sense of the suffix `f`.
    pub fn same_family(&self, one: Capability, other: Capability) -> bool {
        self.families.iter().any(|family| family.contains(&one) && family.contains(&other))
    }

    /// Under which other number the same hardware goes in other CUDA releases.
    pub fn other_name(&self, capability: Capability) -> Option<Capability> {
        let later = self.capabilities.get(&capability).and_then(|entry| entry.renamed_to);
        let earlier = || self.capabilities.values().find(|entry| entry.renamed_to == Some(capability));
        later.or_else(|| earlier().map(|entry| entry.number))
    }

    pub(super) fn toolkits(&self) -> &[Toolkit] {
        &self.toolkits
    }

    /// The architectures of a capability that some CUDA release compiles, plain first.
    pub(super) fn architectures_of(&self, capability: Capability) -> BTreeSet<Architecture> {
        let all = self.toolkits.iter().flat_map(|toolkit| &toolkit.architectures);
        all.filter(|architecture| architecture.capability == capability).copied().collect()
    }
}

/// A part of more names than these says nothing about which was meant.
const MOST_SUGGESTIONS: usize = 4;

/// A name without what people write in different ways.
fn key(name: &str) -> String {
    let separator = |c: &char| !c.is_whitespace() && !matches!(c, '-' | '_');
    let lower: String = name.chars().filter(separator).flat_map(char::to_lowercase).collect();
    let mut rest = lower.as_str();
    for prefix in ["nvidia", "geforce", "tesla"] {
        rest = rest.strip_prefix(prefix).unwrap_or(rest);
    }
    for suffix in ["laptopgpu", "laptop", "generation"] {
        rest = rest.strip_suffix(suffix).unwrap_or(rest);
    }
    rest.to_owned()
}

/// Jaro-Winkler similarity as an integer, so that it can be ordered: it prefers names with the same beginning.
fn similarity(one: &str, other: &str) -> u32 {
    (strsim::jaro_winkler(one, other) * 1000.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capability(name: &str) -> String {
        GpuTable::get().find(name).unwrap_or_else(|| panic!("{name}")).capability.to_string()
    }

    #[test]
    fn names_mean_the_capabilities_that_nvidia_publishes() {
        let expected = [
            ("V100", "7.0"),
            ("T4", "7.5"),
            ("A100", "8.0"),
            ("A10G", "8.6"),
            ("RTX 3090", "8.6"),
            ("Orin", "8.7"),
            ("L4", "8.9"),
            ("L40S", "8.9"),
            ("RTX 4090", "8.9"),
            ("RTX 6000 Ada", "8.9"),
            ("H100", "9.0"),
            ("H200", "9.0"),
            ("GH200", "9.0"),
            ("B200", "10.0"),
            ("GB200", "10.0"),
            ("B300", "10.3"),
            ("GB300", "10.3"),
            ("Rubin", "10.7"),
            ("Thor", "11.0"),
            ("RTX 5090", "12.0"),
            ("RTX PRO 6000 Blackwell", "12.0"),
            ("DGX Spark", "12.1"),
            ("GB10", "12.1"),
        ];
        for (name, number) in expected {
            assert_eq!(capability(name), number, "{name}");
        }
    }

    #[test]
    fn the_way_of_writing_a_name_does_not_matter() {
        for name in ["RTX 4090", "rtx4090", "rtx-4090", "NVIDIA GeForce RTX 4090", "GeForce RTX 4090 Laptop GPU"] {
            assert_eq!(GpuTable::get().find(name).unwrap().name, "GeForce RTX 4090");
        }
        for name in ["Tesla T4", "NVIDIA T4", "t4", "nvidia_tesla_t4", "Tesla V100-SXM2-16GB", "NVIDIA H100 80GB HBM3"]
        {
            assert!(GpuTable::get().find(name).is_some(), "{name}");
        }
        assert_eq!(capability("NVIDIA RTX 6000 Ada Generation"), "8.9");
    }

    #[test]
    fn names_that_several_generations_share_mean_none_of_them() {
        for name in ["RTX 4000", "RTX 5000", "RTX 6000", "", "NVIDIA", "GeForce", "RTX"] {
            assert_eq!(GpuTable::get().find(name), None, "{name}");
        }
        assert_eq!(capability("Quadro RTX 6000"), "7.5");
        assert_eq!(capability("RTX A6000"), "8.6");
    }

    #[test]
    fn no_two_gpus_share_a_name() {
        let table = GpuTable::get();
        let mut owners = BTreeMap::new();
        for gpu in table.gpus() {
            for name in std::iter::once(&gpu.name).chain(&gpu.aliases) {
                let other = owners.insert(key(name), &gpu.name);
                assert_eq!(other, None, "`{name}` of {} is listed twice", gpu.name);
                assert!(!key(name).is_empty());
            }
        }
    }

    #[test]
    fn a_slip_finds_the_name_that_was_meant() {
        let nearest = |name| GpuTable::get().nearest_names(name);
        assert_eq!(nearest("H10O"), ["H100"]);
        assert_eq!(nearest("RTX 490"), ["GeForce RTX 4090"]);
        assert_eq!(nearest("GTX 1080 Ti"), [""; 0]);
        assert_eq!(nearest("MI300X"), [""; 0]);
        assert_eq!(nearest("X1"), [""; 0]);
        assert_eq!(nearest(""), [""; 0]);
    }

    #[test]
    fn a_part_of_a_name_finds_all_that_it_may_mean_unless_that_is_too_much() {
        let nearest = |name| GpuTable::get().nearest_names(name);
        assert_eq!(nearest("4090"), ["GeForce RTX 4090"]);
        assert_eq!(nearest("RTX 6000"), ["Quadro RTX 6000", "RTX 6000 Ada", "RTX PRO 6000 Blackwell"]);
        assert_eq!(nearest("Blackwell"), [""; 0]);
    }

    #[test]
    fn every_gpu_has_a_generation_and_can_be_compiled_for() {
        for gpu in GpuTable::get().gpus() {
            assert!(!gpu.generation.is_empty(), "{}", gpu.name);
            assert!(gpu.capability.is_compilable(), "{}", gpu.name);
        }
    }

    #[test]
    fn every_capability_and_architecture_of_the_file_is_in_its_other_tables() {
        let table = GpuTable::get();
        for (capability, _) in table.capabilities() {
            assert!(capability.is_compilable(), "{capability}");
        }
        for architecture in table.toolkits.iter().flat_map(|toolkit| &toolkit.architectures) {
            assert_eq!(architecture.form, super::super::Form::Real);
            assert!(table.has_capability(architecture.capability), "{architecture}");
        }
        for capability in table.families.iter().flatten() {
            assert!(table.has_capability(*capability), "{capability}");
            assert!(table.families.iter().filter(|family| family.contains(capability)).count() == 1);
        }
    }

    #[test]
    fn every_architecture_with_suffix_f_belongs_to_a_family() {
        let table = GpuTable::get();
        for architecture in table.toolkits.iter().flat_map(|toolkit| &toolkit.architectures) {
            let capability = architecture.capability;
            let family = table.same_family(capability, capability);
            assert!(family || architecture.suffix != super::super::Suffix::Family, "{architecture}");
        }
    }

    #[test]
    fn the_nearest_capability_has_a_gpu_and_the_same_major_if_possible() {
        let nearest = |major, minor| GpuTable::get().nearest_capability(Capability::new(major, minor)).to_string();
        assert_eq!(nearest(8, 4), "8.6");
        assert_eq!(nearest(9, 1), "9.0");
        assert_eq!(nearest(10, 9), "10.7");
        assert_eq!(nearest(13, 0), "12.1");
        assert_eq!(nearest(1, 0), "7.0");
    }
}
