//! Proving an image without running it: its GPU code against the GPUs that it is for, and what its programs and
//! libraries need against what is there.

mod compilers;
mod drivers;
mod excuses;
mod hosts;
mod pattern;

use std::collections::BTreeMap;
use std::path::Path;

use kiln_fatbin::{Coverage, Depth, Extent, Listing, Verdict, list_file, list_tree_with};
use kiln_link::{Finding, Object, Settings, Severity, Tree};
use kiln_oci::image::{Config, Image, from_json};
use kiln_oci::layout::Layout;
use kiln_plan::gpu::{Capability, DriverVersion, GpuNames};
use kiln_plan::platform::Platform;
use serde::Serialize;

use crate::built::Built;
use crate::contents::{Contents, FileCode, stacked};
use crate::error::{BuildError, Result};
use crate::workshop::Workshop;

pub use compilers::CompilerFinding;
pub use drivers::DriverFinding;
pub(crate) use excuses::may_lack;
pub use hosts::HostFinding;
use pattern::matches;

/// The measures by which things are judged.
#[derive(Debug, Clone, Default)]
pub struct Judge {
    /// Capabilities of the GPUs.
    pub gpus: Vec<Capability>,
    /// The names that they were asked for under.
    pub names: GpuNames,
    /// True if the kernels of all code are looked at, rather than of code that is partly for a GPU.
    pub kernels: bool,
    /// The driver that code has to run on.
    pub driver: Option<DriverVersion>,
    /// Patterns of paths that may lack what they need: `vllm/_flashmla*`.
    pub except: Vec<String>,
}

impl Judge {
    /// Tells if a file is one that may lack what it needs.
    fn excepts(&self, path: &str) -> bool {
        self.except.iter().any(|pattern| matches(pattern, path))
    }

    /// The depth to which a file is looked at, by what its headers say.
    fn depth(&self, listing: &Listing) -> Depth {
        let partly = || self.gpus.iter().any(|gpu| listing.is_partly_for(*gpu));
        if self.kernels || partly() { Depth::Kernels } else { Depth::Headers }
    }
}

/// The facts found out about an image, a wheel, a directory or a file.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// The subject.
    pub subject: String,
    /// For which platform, where it is an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The GPUs that it is judged for, with the names that they were asked for under.
    pub gpus: Vec<JudgedGpu>,
    /// Files with GPU code.
    pub code: Vec<VerifiedCode>,
    /// Findings about libraries that others need.
    pub links: Vec<LinkFinding>,
    /// Bundled compilers that cannot compile for one of the GPUs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub compilers: Vec<CompilerFinding>,
    /// The oldest Linux driver that runs the GPUs and takes all of the code, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<DriverVersion>,
    /// The last branch of the driver that runs all of the GPUs, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_driver: Option<DriverVersion>,
    /// GPUs that the driver is not for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drivers: Vec<DriverFinding>,
    /// GPUs whose machines have another processor than the libraries are for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostFinding>,
    /// Patterns of files that may lack code which are like no file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unmatched: Vec<String>,
    /// The driver that it was to run on.
    #[serde(skip)]
    pub asked_driver: Option<DriverVersion>,
}

/// A GPU that something is judged for.
#[derive(Debug, Clone, Serialize)]
pub struct JudgedGpu {
    /// Its capability.
    pub capability: Capability,
    /// The names that it was asked for under.
    pub names: Vec<String>,
    /// Capability and names: `H100 (9.0)`.
    #[serde(skip)]
    pub label: String,
}

/// A file with GPU code.
#[derive(Debug, Clone, Serialize)]
pub struct VerifiedCode {
    /// Its path, without a leading slash.
    pub path: String,
    /// The verdict for each GPU.
    pub verdicts: Vec<Verdict>,
    /// The reasons for which nothing can be said, or not all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The reasons for which it may lack code for a GPU, by capability.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub excuses: BTreeMap<String, String>,
    /// Loose cubins that it stands for, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<usize>,
    /// True if it, or code in it, is not as it can be read: `problems` say what is wrong.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub damaged: bool,
    /// True if it asks for a newer driver than the one that it is to run on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub driver_too_old: bool,
}

/// A finding and how bad it is.
#[derive(Debug, Clone, Serialize)]
pub struct LinkFinding {
    /// Its severity.
    pub severity: Severity,
    /// The finding.
    #[serde(flatten)]
    pub finding: Finding,
}

impl Verification {
    pub(crate) fn new(subject: &str, code: &[FileCode], judge: &Judge) -> Self {
        let judged = |gpu: &Capability| JudgedGpu {
            capability: *gpu,
            names: judge.names.of(*gpu).to_vec(),
            label: judge.names.label(*gpu),
        };
        let known = code.iter().filter_map(|file| Some((file.path.clone(), file.listing.as_ref().ok()?.compiler?)));
        let compilers = compilers::check(&known.collect::<Vec<_>>(), judge);
        let unmatched = judge.except.iter().filter(|pattern| !code.iter().any(|file| matches(pattern, &file.path)));
        let mut unmatched: Vec<String> = unmatched.cloned().collect();
        let summed = excuses::sum_loose(code);
        unmatched.retain(|pattern| !summed.iter().any(|file| matches(pattern, &file.path)));
        let hosts = hosts::check(&summed, judge);
        let mut code: Vec<VerifiedCode> = summed.iter().filter_map(|file| VerifiedCode::of(file, judge)).collect();
        excuses::excuse(&mut code, judge);
        let drivers = drivers::judge(&mut code, judge);
        Self {
            subject: subject.to_owned(),
            platform: None,
            gpus: judge.gpus.iter().map(judged).collect(),
            code,
            links: Vec::new(),
            compilers,
            driver: drivers.oldest.filter(|_| !drivers.unknown),
            last_driver: drivers.newest,
            drivers: drivers.findings,
            hosts,
            unmatched,
            asked_driver: judge.driver.clone(),
        }
    }

    /// Returns a GPU as it was asked for: `H100 (9.0)`.
    pub fn label(&self, gpu: Capability) -> String {
        let judged = self.gpus.iter().find(|judged| judged.capability == gpu);
        judged.map_or_else(|| gpu.to_string(), |judged| judged.label.clone())
    }

    fn linked(mut self, tree: &Tree, settings: &Settings, judge: &Judge) -> Self {
        let excepted = |finding: &Finding| judge.excepts(&finding.object);
        let severity = |finding: &Finding| if excepted(finding) { Severity::Note } else { finding.severity() };
        let findings = tree.check(settings).into_iter();
        self.links = findings.map(|finding| LinkFinding { severity: severity(&finding), finding }).collect();
        let objects = tree.objects();
        self.unmatched.retain(|pattern| !objects.iter().any(|(path, _)| matches(pattern, path)));
        self.links.sort_by_key(|link| std::cmp::Reverse(link.severity));
        self
    }

    /// Files that cannot run on one of the GPUs or on the driver, or of which that cannot be said.
    pub fn missing(&self) -> impl Iterator<Item = &VerifiedCode> {
        self.code.iter().filter(|file| file.is_missing() || file.driver_too_old || file.damaged)
    }

    /// Tells if everything can run as it is.
    pub fn is_sound(&self) -> bool {
        self.missing().next().is_none()
            && self.drivers.is_empty()
            && self.hosts.is_empty()
            && self.links.iter().all(|link| link.severity < Severity::Error)
    }
}

impl VerifiedCode {
    fn of(file: &excuses::Summed<'_>, judge: &Judge) -> Option<Self> {
        let path = file.path.clone();
        let (mut verdicts, mut problems) = (Vec::new(), Vec::new());
        match &*file.listing {
            Ok(listing) => {
                verdicts.extend(judge.gpus.iter().filter_map(|gpu| listing.verdict(*gpu, file.cuda)));
                problems.extend(self::problems(listing));
                if verdicts.is_empty() && problems.is_empty() && (!judge.gpus.is_empty() || !listing.has_code()) {
                    return None;
                }
            }
            Err(error) => problems.push(error.clone()),
        }
        let sound = |listing: &Listing| !listing.damaged && listing.malformed.is_empty();
        let damaged = !file.listing.as_ref().as_ref().is_ok_and(sound) && !judge.excepts(&path);
        let (excuses, files, driver_too_old) = (BTreeMap::new(), file.files, false);
        Some(Self { path, verdicts, problems, excuses, files, damaged, driver_too_old })
    }

    /// Tells if it has code, and none or too little for one of the GPUs, without an excuse.
    pub fn is_missing(&self) -> bool {
        self.verdicts.iter().any(|verdict| !is_served(verdict) && !self.excuses.contains_key(&verdict.gpu.to_string()))
    }
}

impl Verification {
    /// Says of what kiln has cut itself that no release of it will help.
    fn of_cut(mut self, cut: bool) -> Self {
        let verdicts = self.code.iter_mut().flat_map(|file| &mut file.verdicts);
        for verdict in verdicts.filter(|verdict| cut && !is_served(verdict)) {
            verdict.advice = Some("it was cut to other GPUs: cut the original for this one too".into());
        }
        self
    }

    /// Tells why a file cannot run on the driver that it was to run on, of its verdict for a GPU.
    pub fn too_old(&self, file: &VerifiedCode, verdict: &Verdict) -> Option<&DriverVersion> {
        let driver = self.asked_driver.as_ref()?;
        (file.driver_too_old && drivers::is_too_old(driver, verdict)).then_some(driver)
    }
}

/// The words of an image's history before the code that was left of a wheel.
pub(crate) const CUT: &str = "GPU code cut to";

/// Tells if a wheel is called like one that kiln cut: `torch-2.11.0-1kiln90-...`.
fn is_cut(wheel: &str) -> bool {
    let build = wheel.split('-').nth(2).unwrap_or_default();
    build.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with("kiln")
}

/// Tells if a file has enough code for a GPU.
pub(crate) fn is_served(verdict: &Verdict) -> bool {
    verdict.coverage != Coverage::Missing && verdict.extent != Extent::Thin
}

fn problems(listing: &Listing) -> Vec<String> {
    let damage = listing.damaged.then(|| {
        "it is damaged: the loader does not find all of it where it lies; was it stripped after it was pruned? Strip it before"
            .to_owned()
    });
    let hip = listing.hip.then(|| "code for AMD's GPUs is not looked into".to_owned());
    listing.malformed.iter().chain(&listing.unseen).cloned().chain(hip).chain(damage).collect()
}

impl Workshop<'_> {
    /// Verifies an image that is built.
    pub fn verify_built(&self, built: &Built, judge: &Judge) -> Result<Vec<Verification>> {
        built.images.iter().map(|image| self.verify_image(&built.name, image, judge)).collect()
    }

    /// Verifies an image on one platform.
    pub(crate) fn verify_image(&self, name: &str, image: &Image, judge: &Judge) -> Result<Verification> {
        let config = from_json(&self.store.read(&image.config)?, "a config")?;
        Ok(verify_image(name, image, &config, self.image_contents(image, &self.blobs())?, judge))
    }

    /// Verifies every image of a layout.
    pub fn verify_layout(&self, path: &Path, judge: &Judge) -> Result<Vec<Verification>> {
        let layout = Layout::open(path)?;
        self.places.add_layout(layout.clone());
        let mut all = Vec::new();
        for (name, found) in layout.images()? {
            let name = name.unwrap_or_else(|| path.display().to_string());
            let contents = self.image_contents(&found.image, &self.blobs())?;
            all.push(verify_image(&name, &found.image, &found.config, contents, judge));
        }
        Ok(all)
    }

    /// Verifies a wheel: its GPU code alone, since what it needs lies in other wheels.
    pub fn verify_wheel(&self, path: &Path, judge: &Judge) -> Result<Verification> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let contents = self.wheel_contents(&name, fs_err::File::open(path)?)?;
        Ok(Verification::new(&name, &contents.code, judge).of_cut(is_cut(&name)))
    }

    /// Verifies a directory: one with a C library as a root, any other as part of a system.
    pub fn verify_directory(&self, path: &Path, judge: &Judge) -> Result<Verification> {
        let threads = self.surroundings.jobs;
        let tree = Tree::of_directory(path, threads)?;
        let code: Vec<FileCode> = list_tree_with(path, threads, &|listing| judge.depth(listing))?
            .into_iter()
            .map(|(file, listing)| {
                let path = file.strip_prefix(path).unwrap_or(&file).display().to_string();
                let cuda = tree.object(&path).and_then(Object::cuda);
                FileCode { path, listing: listing.map_err(|error| error.to_string()), cuda }
            })
            .collect();
        Ok(Verification::new(&path.display().to_string(), &code, judge).linked(&tree, &Settings::default(), judge))
    }

    /// Verifies the GPU code of a file.
    pub fn verify_file(&self, path: &Path, judge: &Judge) -> Result<Verification> {
        let shown = path.display().to_string();
        let unreadable = |error: kiln_fatbin::FatbinError| BuildError::Unreadable {
            what: format!("`{shown}`"),
            source: error.into(),
        };
        let listing = match list_file(path, Depth::Headers).map_err(unreadable)? {
            Some(listing) if judge.depth(&listing) == Depth::Kernels => {
                list_file(path, Depth::Kernels).map_err(unreadable)?
            }
            listing => listing,
        };
        let cuda = Object::read(&fs_err::File::open(path)?).ok().flatten().and_then(|object| object.cuda());
        let code = listing.map(|listing| FileCode { path: shown.clone(), listing: Ok(listing), cuda });
        Ok(Verification::new(&shown, code.as_slice(), judge))
    }
}

fn verify_image(name: &str, image: &Image, config: &Config, contents: Vec<Contents>, judge: &Judge) -> Verification {
    let (tree, code) = stacked(contents);
    let library_path = config.config.env.iter().find_map(|setting| setting.strip_prefix("LD_LIBRARY_PATH="));
    let library_path = library_path.unwrap_or_default().split([':', ';']).map(str::to_owned).collect();
    let settings = Settings { library_path, ..Settings::default() };
    let platform = Some(image.platform);
    let cut = config.history.iter().filter_map(|entry| entry.created_by.as_deref()).any(|line| line.contains(CUT));
    let verification = Verification { platform, ..Verification::new(name, &code, judge) };
    verification.of_cut(cut).linked(&tree, &settings, judge)
}
