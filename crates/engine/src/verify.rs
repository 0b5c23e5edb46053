//! Proving an image without running it: its GPU code against the GPUs that it is for, and what its programs and
//! libraries need against what is there.

use std::path::Path;

use kiln_fatbin::{Coverage, Listing, Verdict, list, list_tree};
use kiln_link::{Finding, Settings, Severity, Tree};
use kiln_oci::image::{Config, Image, from_json};
use kiln_oci::layout::Layout;
use kiln_plan::gpu::Capability;
use kiln_plan::platform::Platform;
use serde::Serialize;

use crate::built::Built;
use crate::contents::{Contents, FileCode, stacked};
use crate::error::{BuildError, Result};
use crate::workshop::Workshop;

/// What was found out about an image, a wheel, a directory or a file.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// What it is about.
    pub subject: String,
    /// For which platform, where it is an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Files with GPU code.
    pub code: Vec<VerifiedCode>,
    /// What was found about libraries that others need.
    pub links: Vec<LinkFinding>,
}

/// A file with GPU code.
#[derive(Debug, Clone, Serialize)]
pub struct VerifiedCode {
    /// Its path, without a leading slash.
    pub path: String,
    /// How it serves each GPU.
    pub verdicts: Vec<Verdict>,
    /// Why nothing can be said, or not all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// A finding and how bad it is.
#[derive(Debug, Clone, Serialize)]
pub struct LinkFinding {
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    #[serde(flatten)]
    pub finding: Finding,
}

impl Verification {
    fn new(subject: &str, code: &[FileCode], gpus: &[Capability]) -> Self {
        let code = code.iter().filter_map(|file| VerifiedCode::of(file, gpus)).collect();
        Self { subject: subject.to_owned(), platform: None, code, links: Vec::new() }
    }

    fn linked(mut self, tree: &Tree, settings: &Settings) -> Self {
        let findings = tree.check(settings).into_iter();
        self.links = findings.map(|finding| LinkFinding { severity: finding.severity(), finding }).collect();
        self.links.sort_by_key(|link| std::cmp::Reverse(link.severity));
        self
    }

    /// Files that cannot run on one of the GPUs, or of which that cannot be said.
    pub fn missing(&self) -> impl Iterator<Item = &VerifiedCode> {
        self.code.iter().filter(|file| file.is_missing())
    }

    /// Whether everything can run as it is.
    pub fn is_sound(&self) -> bool {
        self.missing().next().is_none() && self.links.iter().all(|link| link.severity < Severity::Error)
    }
}

impl VerifiedCode {
    fn of(file: &FileCode, gpus: &[Capability]) -> Option<Self> {
        let path = file.path.clone();
        match &file.listing {
            Ok(listing) => {
                let verdicts: Vec<Verdict> = gpus.iter().filter_map(|gpu| listing.verdict(*gpu)).collect();
                let problems = problems(listing);
                let says = !verdicts.is_empty() || !problems.is_empty() || gpus.is_empty();
                says.then_some(Self { path, verdicts, problems })
            }
            Err(error) => Some(Self { path, verdicts: Vec::new(), problems: vec![error.clone()] }),
        }
    }

    /// Whether it has code, and none for one of the GPUs.
    pub fn is_missing(&self) -> bool {
        self.verdicts.iter().any(|verdict| verdict.coverage == Coverage::Missing)
    }
}

fn problems(listing: &Listing) -> Vec<String> {
    let hip = listing.hip.then(|| "code for AMD's GPUs is not looked into".to_owned());
    listing.malformed.iter().cloned().chain(hip).collect()
}

impl Workshop<'_> {
    /// Verifies an image that is built.
    pub fn verify_built(&self, built: &Built, gpus: &[Capability]) -> Result<Vec<Verification>> {
        built.images.iter().map(|image| self.verify_image(&built.name, image, gpus)).collect()
    }

    /// Verifies an image on one platform.
    pub(crate) fn verify_image(&self, name: &str, image: &Image, gpus: &[Capability]) -> Result<Verification> {
        let config = from_json(&self.store.read(&image.config)?, "a config")?;
        Ok(verify_image(name, image, &config, self.image_contents(image, &self.blobs())?, gpus))
    }

    /// Verifies every image of a layout.
    pub fn verify_layout(&self, path: &Path, gpus: &[Capability]) -> Result<Vec<Verification>> {
        let layout = Layout::open(path)?;
        self.places.add_layout(layout.clone());
        let mut all = Vec::new();
        for (name, found) in layout.images()? {
            let name = name.unwrap_or_else(|| path.display().to_string());
            let contents = self.image_contents(&found.image, &self.blobs())?;
            all.push(verify_image(&name, &found.image, &found.config, contents, gpus));
        }
        Ok(all)
    }

    /// Verifies a wheel: its GPU code alone, since what it needs lies in other wheels.
    pub fn verify_wheel(&self, path: &Path, gpus: &[Capability]) -> Result<Verification> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let contents = self.wheel_contents(&name, fs_err::File::open(path)?)?;
        Ok(Verification::new(&name, &contents.code, gpus))
    }

    /// Verifies a directory: one with a C library as a root, any other as part of a system.
    pub fn verify_directory(&self, path: &Path, gpus: &[Capability]) -> Result<Verification> {
        let threads = self.surroundings.jobs;
        let code: Vec<FileCode> = list_tree(path, threads)?
            .into_iter()
            .map(|(file, listing)| FileCode {
                path: file.strip_prefix(path).unwrap_or(&file).display().to_string(),
                listing: listing.map_err(|error| error.to_string()),
            })
            .collect();
        let tree = Tree::of_directory(path, threads)?;
        Ok(Verification::new(&path.display().to_string(), &code, gpus).linked(&tree, &Settings::default()))
    }

    /// Verifies the GPU code of a file.
    pub fn verify_file(&self, path: &Path, gpus: &[Capability]) -> Result<Verification> {
        let shown = path.display().to_string();
        let unreadable = |error: Box<dyn std::error::Error + Send + Sync>| BuildError::Unreadable {
            what: format!("`{shown}`"),
            source: error,
        };
        let listing = list(&fs_err::File::open(path)?).map_err(|error| unreadable(error.into()))?;
        let code = listing.map(|listing| FileCode { path: shown.clone(), listing: Ok(listing) });
        Ok(Verification::new(&shown, code.as_slice(), gpus))
    }
}

fn verify_image(
    name: &str,
    image: &Image,
    config: &Config,
    contents: Vec<Contents>,
    gpus: &[Capability],
) -> Verification {
    let (tree, code) = stacked(contents);
    let library_path = config.config.env.iter().find_map(|setting| setting.strip_prefix("LD_LIBRARY_PATH="));
    let library_path = library_path.unwrap_or_default().split([':', ';']).map(str::to_owned).collect();
    let settings = Settings { library_path, ..Settings::default() };
    let platform = Some(image.platform);
    Verification { platform, ..Verification::new(name, &code, gpus) }.linked(&tree, &settings)
}
