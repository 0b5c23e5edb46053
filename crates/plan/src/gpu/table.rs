//! The table of GPUs, capabilities and CUDA releases, read once from the embedded data file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::name::{is_part, is_slip, key, model_key};
use super::{Architecture, Capability, CudaRelease, DriverVersion};

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
    /// True if it is part of a module with a processor of aarch64 (Grace).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub aarch64: bool,
}

impl Gpu {
    /// Tells if its machine has a processor of aarch64: with Grace, and in systems on a chip.
    pub fn has_aarch64(&self) -> bool {
        self.aarch64 || self.class == Class::Jetson
    }

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
    zstandard: Vec<(u8, DriverVersion)>,
}

/// The driver that code of a major version of CUDA needs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Needed {
    cuda: u8,
    driver: DriverVersion,
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
    first_driver: Option<DriverVersion>,
    last_driver: Option<DriverVersion>,
    last_cuda: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DataFile {
    capability: Vec<CapabilityEntry>,
    family: Vec<BTreeSet<Capability>>,
    zstandard: Vec<Needed>,
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
    #[serde(default)]
    aarch64: bool,
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
                aarch64: model.aarch64,
            }));
        }
        let names =
            |gpu: &Gpu| std::iter::once(&gpu.name).chain(&gpu.aliases).map(|name| key(name)).collect::<Vec<_>>();
        let zstandard = data.zstandard.into_iter().map(|needed| (needed.cuda, needed.driver)).collect();
        let by_key = gpus.iter().enumerate().flat_map(|(at, gpu)| names(gpu).into_iter().map(move |key| (key, at)));
        Self { by_key: by_key.collect(), gpus, capabilities, families: data.family, toolkits: data.cuda, zstandard }
    }

    /// Every GPU, by class and, within a class, from the oldest capability to the newest.
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    /// Returns the GPU of a name or alias, as people and `nvidia-smi` write them: differences of case and separators, and
    /// what boards are called besides their GPU, do not matter.
    pub fn find(&self, name: &str) -> Option<&Gpu> {
        let known = |key: String| self.by_key.get(&key).and_then(|at| self.gpus.get(*at));
        known(key(name)).or_else(|| known(model_key(name)))
    }

    /// Returns the names of the known GPUs that an unknown name may have meant, in the order of the table: those of which
    /// it is a part (`RTX 6000` for `Quadro RTX 6000` and `RTX 6000 Ada`), else those that it is a slip of. Empty where
    /// nothing is near, or too much, or where a slip may mean GPUs of several capabilities.
    pub fn nearest_names(&self, name: &str) -> Vec<&str> {
        let near = |meant: fn(&str, &str) -> bool| -> Vec<&Gpu> {
            let names = |gpu: &Gpu| std::iter::once(&gpu.name).chain(&gpu.aliases).any(|known| meant(name, known));
            self.gpus.iter().filter(|gpu| names(gpu)).collect()
        };
        let mut meant = near(is_part);
        if meant.is_empty() {
            meant = near(is_slip);
            let capabilities: BTreeSet<Capability> = meant.iter().map(|gpu| gpu.capability).collect();
            if capabilities.len() > 1 {
                return Vec::new();
            }
        }
        if meant.len() > MOST_SUGGESTIONS { Vec::new() } else { meant.iter().map(|gpu| gpu.name.as_str()).collect() }
    }

    /// Returns the GPUs that a filter means: a part of their names, a generation, a capability or an architecture.
    pub fn filter<'t>(&'t self, filter: &str) -> Vec<&'t Gpu> {
        let lower = filter.trim().to_lowercase();
        let architecture = lower.replacen("sm", "", 1).replacen("compute", "", 1).replace('_', "");
        let fits = |gpu: &&Gpu| {
            let names = || std::iter::once(&gpu.name).chain(&gpu.aliases);
            names().any(|name| name.to_lowercase().contains(&lower))
                || gpu.generation.to_lowercase().split(' ').next() == lower.split(' ').next()
                || gpu.capability.to_string() == lower
                || gpu.capability.number().to_string() == architecture
        };
        let found: Vec<&Gpu> = self.gpus.iter().filter(fits).collect();
        if found.is_empty() { self.find(filter).into_iter().collect() } else { found }
    }

    /// Returns the capabilities of a generation, and its name: `Ampere`, `Ada`, `Ada Lovelace`. Those of systems on a
    /// chip are `Ampere+Tegra`, as in PyTorch's lists (`torch/utils/cpp_extension.py`).
    pub fn generation(&self, name: &str) -> Option<(&str, Vec<Capability>)> {
        let lower = name.trim().to_lowercase();
        let (word, apart) = lower.strip_suffix("+tegra").map_or((lower.as_str(), false), |word| (word, true));
        let named = |entry: &&CapabilityEntry| {
            let generation = entry.generation.to_lowercase();
            (generation == word || generation.split(' ').next() == Some(word)) && entry.apart == apart
        };
        let has_gpu = |entry: &&CapabilityEntry| self.gpus.iter().any(|gpu| gpu.capability == entry.number);
        let members: Vec<&CapabilityEntry> = self.capabilities.values().filter(named).filter(has_gpu).collect();
        let name = members.first()?.generation.as_str();
        Some((name, members.iter().map(|entry| entry.number).collect()))
    }

    /// Returns the first branch of the Linux driver that runs GPUs of a capability; nothing where that is not known.
    pub fn first_driver(&self, capability: Capability) -> Option<&DriverVersion> {
        self.capabilities.get(&capability)?.first_driver.as_ref()
    }

    /// Returns the last branch of the Linux driver that runs GPUs of a capability; nothing where current ones do.
    pub fn last_driver(&self, capability: Capability) -> Option<&DriverVersion> {
        self.capabilities.get(&capability)?.last_driver.as_ref()
    }

    /// Returns the last CUDA release that compiles for a capability, where it is older than those of the table.
    pub fn last_cuda(&self, capability: Capability) -> Option<&str> {
        self.capabilities.get(&capability)?.last_cuda.as_deref()
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

    /// The oldest driver that inflates Zstandard, by the major version of CUDA from which on it does.
    pub(super) fn zstandard_drivers(&self) -> &[(u8, DriverVersion)] {
        &self.zstandard
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
        for name in ["RTX 4000", "RTX 5000", "RTX 6000", "RTX6000-8Q", "", "NVIDIA", "GeForce", "RTX"] {
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
    fn names_are_known_as_nvidia_smi_prints_them() {
        let printed = [
            ("NVIDIA B300 SXM6 AC", "10.3"),
            ("NVIDIA GH200 120GB", "9.0"),
            ("NVIDIA GH200 480GB", "9.0"),
            ("NVIDIA GB200", "10.0"),
            ("NVIDIA H20-3e", "9.0"),
            ("NVIDIA H100 NVL", "9.0"),
            ("NVIDIA H800 PCIe", "9.0"),
            ("NVIDIA A800-SXM4-40GB", "8.0"),
            ("NVIDIA A100-SXM-64GB", "8.0"),
            ("NVIDIA A100-PCIE-40GB", "8.0"),
            ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "8.0"),
            ("NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", "9.0"),
            ("Tesla V100-SXM3-32GB", "7.0"),
            ("Tesla V100-DGXS-32GB", "7.0"),
            ("NVIDIA GeForce RTX 3050 6GB Laptop GPU", "8.6"),
            ("NVIDIA GeForce RTX 2070 Super with Max-Q Design", "7.5"),
            ("Quadro P3000 with Max-Q Design", "6.1"),
            ("NVIDIA RTX A2000 12GB", "8.6"),
            ("NVIDIA RTX A5000-24Q", "8.6"),
            ("NVIDIA A100D-80C", "8.0"),
            ("GRID V100DX-32Q", "7.0"),
            ("NVIDIA GeForce RTX 5090 D v2", "12.0"),
            ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "12.0"),
            ("NVIDIA RTX 2000 Ada Generation Embedded GPU", "8.9"),
            ("NVIDIA TITAN X (Pascal)", "6.1"),
            ("NVIDIA GeForce GTX TITAN X", "5.2"),
            ("Tesla K80", "3.7"),
            ("Tesla K40m", "3.5"),
            ("NVIDIA GeForce GTX 1080 Ti", "6.1"),
            ("Tesla P100-PCIE-16GB", "6.0"),
            ("NVIDIA Jetson AGX Orin Developer Kit", "8.7"),
            ("Jetson Nano", "5.3"),
            ("Orin (nvgpu)", "8.7"),
            ("NVIDIA Thor", "11.0"),
        ];
        for (name, number) in printed {
            assert_eq!(capability(name), number, "{name}");
        }
        for name in ["RTX6000-24Q", "Titan X", "GeForce GT 730", "PCIe", "80GB", "MIG 1g.10gb"] {
            assert_eq!(GpuTable::get().find(name), None, "{name}");
        }
    }

    #[test]
    fn no_proposal_for_a_slip_has_another_number() {
        let digits = |name: &str| name.chars().filter(char::is_ascii_digit).collect::<String>();
        let table = GpuTable::get();
        for gpu in table.gpus() {
            // The last digit of every name becomes another.
            let Some((at, digit)) = gpu.name.char_indices().rfind(|(_, c)| c.is_ascii_digit()) else { continue };
            let other = if digit == '9' { '1' } else { '9' };
            let mut name = gpu.name.clone();
            name.replace_range(at..=at, &other.to_string());
            if table.find(&name).is_none() {
                let near = table.nearest_names(&name);
                assert!(near.iter().all(|near| digits(near).contains(&digits(&name))), "{name}: {near:?}");
            }
        }
    }

    #[test]
    fn a_filter_means_names_generations_capabilities_and_architectures() {
        let names =
            |filter| -> Vec<&str> { GpuTable::get().filter(filter).iter().map(|gpu| gpu.name.as_str()).collect() };
        for (filter, name) in [
            ("blackwell", "B200"),
            ("blackwell", "GeForce RTX 5090"),
            ("Hopper", "H100"),
            ("ampere", "A100"),
            ("ada", "L4"),
            ("8.9", "L40S"),
            ("sm_120", "GeForce RTX 5090"),
            ("sm90", "H100"),
            ("NVIDIA H100 80GB HBM3", "H100"),
        ] {
            assert!(names(filter).contains(&name), "{filter}");
        }
        assert!(names("8.9").iter().all(|name| capability(name) == "8.9"));
    }

    #[test]
    fn a_generation_names_the_capabilities_of_its_gpus() {
        let of = |name| {
            let capabilities = GpuTable::get().generation(name)?.1;
            Some(capabilities.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(of("Ampere").as_deref(), Some("8.0 8.6"));
        assert_eq!(of("Ampere+Tegra").as_deref(), Some("8.7"));
        assert_eq!(of("ada").as_deref(), Some("8.9"));
        assert_eq!(of("blackwell").as_deref(), Some("10.0 10.3 12.0 12.1"));
        assert_eq!(of("Fermi"), None);
    }

    #[test]
    fn a_slip_finds_the_name_that_was_meant() {
        let nearest = |name| GpuTable::get().nearest_names(name);
        assert_eq!(nearest("H10O"), ["H100"]);
        assert_eq!(nearest("RXT 4090"), ["GeForce RTX 4090"]);
        assert_eq!(nearest("RTX 490"), [""; 0]);
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

    fn table_has_last(capability: Capability) -> bool {
        GpuTable::get().last_cuda(capability).is_some()
    }

    #[test]
    fn every_gpu_has_a_generation_and_can_be_compiled_for() {
        for gpu in GpuTable::get().gpus() {
            assert!(!gpu.generation.is_empty(), "{}", gpu.name);
            assert!(gpu.capability.is_compilable() || table_has_last(gpu.capability), "{}", gpu.name);
        }
    }

    #[test]
    fn every_capability_and_architecture_of_the_file_is_in_its_other_tables() {
        let table = GpuTable::get();
        for (capability, _) in table.capabilities() {
            assert!(capability.is_compilable() || table_has_last(capability), "{capability}");
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
        assert_eq!(nearest(1, 0), "3.0");
    }
}
