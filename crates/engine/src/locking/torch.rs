//! torch and its family: members that pair, and builds for the CUDA release that an image is for.
//!
//! PyPI has one build of each torch; PyTorch's own index has one for each release of CUDA and one without. uv knows where.

use std::collections::BTreeMap;

use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::lock::{Lock, LockedImage};
use kiln_plan::stack::{Image, Target};
use kiln_plan::torch_family;
use kiln_wheel::pylock::LockedPackage;

use super::answer::{Failed, Given, Part};
use super::question::ImageQuestion;
use crate::error::Result;
use crate::project::Project;

/// Versions of packages, by name.
type Versions<'v> = BTreeMap<&'v str, &'v str>;

impl Project<'_> {
    /// As [`Project::resolve`] for one image. Where the resolver chose a torch for another release of CUDA than the image's, it
    /// is asked for PyTorch's own builds, unless the stack says where torch comes from; where it chose a member of torch's
    /// family that does not pair with the torch, which nothing in the packages forbids, for the one that does.
    pub(super) fn resolve_with_torch(
        &self,
        part: &Part<'_>,
        given: &Given<'_>,
    ) -> std::result::Result<Vec<LockedPackage>, Failed> {
        let target = &part.question.image.target;
        let backend = backend(target).filter(|_| self.torch_is_uvs_to_find());
        // A build of that index, which an image below has, is on no other.
        let is_below = |tag: &str| given.pins.iter().any(|(_, version)| version.ends_with(&format!("+{tag}")));
        if let Some(tag) = backend.as_deref().filter(|tag| is_below(tag)) {
            return self.resolve_paired(part, &Given { torch: Some(tag), ..*given });
        }
        if let Some(tag) = &backend
            && let Some(found) = self.resolve_as_locked(part, given, tag)?
        {
            return Ok(found);
        }
        let first = self.resolve_paired(part, given)?;
        let Some(tag) = backend else { return Ok(first) };
        let all: Versions<'_> =
            first.iter().filter_map(|package| Some((package.name.as_str(), package.version.as_deref()?))).collect();
        let Some(torch) = all.get("torch") else { return Ok(first) };
        let asked = target.cuda.map(|release| (u32::from(release.major), Some(u32::from(release.minor))));
        let brought = brought(torch, &all);
        if brought == asked || brought.is_none() && target.cpu_only {
            return Ok(first);
        }
        match self.resolve_paired(part, &Given { torch: Some(&tag), ..*given }) {
            Ok(found) => Ok(found),
            // What can be reached today decides nothing.
            Err(Failed::Other(error)) => Err(error.into()),
            // Another major release is an error, later.
            Err(_) if brought.map(|(major, _)| major) != asked.map(|(major, _)| major) => Ok(first),
            Err(_) => {
                let (major, minor) = brought.unwrap_or_default();
                let minor = minor.map(|minor| format!(".{minor}")).unwrap_or_default();
                self.workshop.warn(format!(
                    "torch {torch} of `{}` brings CUDA {major}{minor}, and PyTorch's own index has no build for `{tag}` that \
                     fits: `[index] packages = {{ torch = \"URL\" }}` names another",
                    part.question.image.name
                ));
                Ok(first)
            }
        }
    }

    /// Asks for PyTorch's own builds at once where one of them is locked, and returns the answer if it stays.
    fn resolve_as_locked(
        &self,
        part: &Part<'_>,
        given: &Given<'_>,
        tag: &str,
    ) -> std::result::Result<Option<Vec<LockedPackage>>, Failed> {
        let is_build = |version: &str| version.ends_with(&format!("+{tag}"));
        let locked = given.preferences.iter().find(|(name, version)| name == "torch" && is_build(version));
        let Some((_, locked)) = locked else { return Ok(None) };
        match self.resolve_paired(part, &Given { torch: Some(tag), ..*given }) {
            Ok(found) => {
                let stays = found.iter().any(|one| one.name == "torch" && one.version.as_ref() == Some(locked));
                Ok(stays.then_some(found))
            }
            Err(Failed::Conflict(_)) => Ok(None),
            Err(failed) => Err(failed),
        }
    }

    /// Returns true if the stack names no index that torch could come from.
    fn torch_is_uvs_to_find(&self) -> bool {
        let index = &self.stack.index;
        let names_torch = || index.packages.keys().any(|name| name.as_ref() == "torch");
        !self.workshop.surroundings.offline && index.default.is_none() && index.extra.is_empty() && !names_torch()
    }

    fn resolve_paired(&self, part: &Part<'_>, given: &Given<'_>) -> std::result::Result<Vec<LockedPackage>, Failed> {
        let parts = std::slice::from_ref(part);
        let expected = expected_pairs(part, given);
        let bounded = match expected.is_empty() {
            true => None,
            false => match self.resolve(parts, &Given { bounds: &expected, ..*given }) {
                Err(Failed::Conflict(_)) => None,
                answer => Some(answer?),
            },
        };
        let first = bounded.map_or_else(|| self.resolve(parts, given), Ok)?;
        let versions = first.iter().filter_map(|package| Some((package.name.as_str(), package.version.as_deref()?)));
        let above = given.pins.iter().map(|(name, version)| (name.as_str(), version.as_str()));
        let all: Vec<(&str, &str)> = above.chain(versions).collect();
        let pairs: Vec<String> =
            torch_family::check(&all).into_iter().filter_map(|mismatch| mismatch.requirement).collect();
        if pairs.is_empty() {
            return Ok(first);
        }
        match self.resolve(parts, &Given { bounds: &pairs, ..*given }) {
            // Somebody asks for what does not pair, which is said later.
            Err(Failed::Conflict(_)) => Ok(first),
            paired => paired,
        }
    }

    pub(super) fn check_family(&self, question: &ImageQuestion<'_>, locked: &LockedImage, new: &Lock) -> Result<()> {
        let image = question.image;
        let in_base = question.in_base.iter().map(|(name, version)| (name.as_str(), version.as_str()));
        let mut packages: Versions<'_> = in_base.collect();
        let is_bases = packages.contains_key("torch");
        for ancestor in self.stack.ancestors(image) {
            if let Some(above) = new.image(&ancestor.name, question.platform) {
                packages.extend(above.packages.iter().map(|p| (p.name.as_str(), p.version.as_str())));
            }
        }
        packages.extend(locked.packages.iter().map(|p| (p.name.as_str(), p.version.as_str())));
        let list: Vec<(&str, &str)> = packages.iter().map(|(name, version)| (*name, *version)).collect();
        let mut wrong = Diagnostics::default();
        let place = |package: &str| {
            let at = image.requirements.iter().find(|requirement| requirement.name.as_ref() == package);
            at.map_or_else(|| image.span.clone(), |requirement| requirement.span.clone())
        };
        let is_own = |package: &str| locked.packages.iter().any(|own| own.name == package);
        for mismatch in torch_family::check(&list) {
            if is_bases && is_own(&mismatch.package) {
                // Its maker may have built it for another release.
                self.workshop.warn(format!("{mismatch}, and the torch of `{}` is the base's", image.name));
            } else if !is_bases {
                wrong.push(Diagnostic::at(place(&mismatch.package), mismatch.to_string()).hint(
                    "the resolver accepts the pair, since nothing in the packages forbids it, and it crashes when it runs",
                ));
            }
        }
        if let Some((torch, package)) = torch_family::other_build(&list).filter(|(_, package)| is_own(package.0)) {
            let message = format!("{} {} is built for another torch than {torch}", package.0, package.1);
            let hint = format!("name the build: `{}=={}`", package.0, package.2);
            wrong.push(Diagnostic::at(place(package.0), message).hint(hint));
        }
        if let Some(diagnostic) = self.cuda_mismatch(image, &packages).filter(|_| !is_bases) {
            wrong.push(diagnostic);
        }
        Ok(wrong.or(())?)
    }

    /// `target.cuda` must have the major version of the CUDA that torch brings.
    fn cuda_mismatch(&self, image: &Image, packages: &BTreeMap<&str, &str>) -> Option<Diagnostic> {
        let version = packages.get("torch")?;
        let asked = image.target.cuda.map(|release| u32::from(release.major));
        let brought = brought(version, packages).map(|(major, _)| major);
        let torch = image.requirements.iter().find(|r| r.name.to_string() == "torch");
        let span = torch.map_or_else(|| image.span.clone(), |requirement| requirement.span.clone());
        let (message, hint) = match (asked, brought) {
            (Some(asked), Some(brought)) if asked != brought => (
                format!("torch {version} brings CUDA {brought}, and the stack is for CUDA {asked}"),
                format!(
                    "say `cuda = \"{brought}.x\"`, or take torch from an index for CUDA {asked} (`[index] packages`)"
                ),
            ),
            (Some(asked), None) => (
                format!("torch {version} brings no CUDA, and the stack is for CUDA {asked}"),
                "say `cuda = \"none\"`, or take torch from an index with CUDA builds (`[index] packages`)".to_owned(),
            ),
            (None, Some(brought)) if image.target.cpu_only => (
                format!("torch {version} brings CUDA {brought}, and the stack says `cuda = \"none\"`"),
                "take torch from an index with CPU builds: `[index] packages = { torch = \"URL\" }`".to_owned(),
            ),
            _ => return None,
        };
        let mut diagnostic = Diagnostic::at(span, message).hint(hint);
        if let Some(cuda) = &image.target.cuda_span {
            diagnostic = diagnostic.also(cuda.clone(), "said here");
        }
        Some(diagnostic)
    }
}

/// Returns the members of torch's family that go with a torch whose version is known before anything is chosen, without those
/// that are locked.
fn expected_pairs(part: &Part<'_>, given: &Given<'_>) -> Vec<String> {
    let pinned = given.pins.iter().find(|(name, _)| name == "torch").map(|(_, version)| version.clone());
    let written = part.question.image.requirements.iter().find(|one| one.name.as_ref() == "torch");
    let written = written.and_then(|one| one.text.split(';').next()?.split_once("==").map(|(_, version)| version));
    let listed = || part.listed.and_then(|listed| listed.exact_version("torch"));
    let torch = pinned.or_else(|| written.map(|version| version.trim().to_owned())).or_else(listed);
    let is_locked = |name: &str| given.preferences.iter().any(|(locked, _)| locked == name);
    let pairs = torch_family::pairs(torch.as_deref().unwrap_or_default());
    pairs.into_iter().filter(|(name, _)| !is_locked(name)).map(|(_, requirement)| requirement).collect()
}

/// Returns uv's name of the builds of torch that a target is for; `None` where it names no CUDA.
fn backend(target: &Target) -> Option<String> {
    match target.cuda {
        Some(release) => Some(format!("cu{}{}", release.major, release.minor)),
        None => target.cpu_only.then(|| "cpu".to_owned()),
    }
}

/// Returns the CUDA release of a torch, as far as it is known: from its local version, else from NVIDIA's packages beside it.
fn brought(torch: &str, packages: &Versions<'_>) -> Option<(u32, Option<u32>)> {
    if let Some((_, local)) = torch.split_once('+') {
        let digits = local.strip_prefix("cu")?;
        let (major, minor) = digits.split_at_checked(2)?;
        return Some((major.parse().ok()?, minor.get(..1).and_then(|minor| minor.parse().ok())));
    }
    let release = |version: &str| {
        let mut numbers = version.split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next().and_then(std::result::Result::ok)))
    };
    let runtimes = packages.iter().filter(|(name, _)| name.starts_with("nvidia-cuda-runtime"));
    if let Some(found) = runtimes.filter_map(|(_, version)| release(version)).next() {
        return Some(found);
    }
    let suffix = |name: &&str| name.strip_prefix("nvidia-")?.rsplit_once("-cu")?.1.parse().ok();
    let of_name = packages.keys().find_map(suffix).map(|major| (major, None));
    of_name.or_else(|| release(packages.get("cuda-toolkit")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torch_tells_its_release_of_cuda_or_the_packages_beside_it_do() {
        let brought_by =
            |torch: &str, beside: &[(&'static str, &'static str)]| brought(torch, &beside.iter().copied().collect());
        assert_eq!(brought_by("2.7.1+cu128", &[]), Some((12, Some(8))));
        assert_eq!(brought_by("2.7.1+cpu", &[]), None);
        assert_eq!(
            brought_by("2.7.1", &[("nvidia-cuda-runtime-cu12", "12.6.77"), ("nvidia-nccl-cu12", "2")]),
            Some((12, Some(6)))
        );
        assert_eq!(brought_by("2.11.0", &[("nvidia-cuda-runtime", "13.0.96")]), Some((13, Some(0))));
        assert_eq!(brought_by("1.13.1", &[("nvidia-cublas-cu11", "11.10")]), Some((11, None)));
        assert_eq!(brought_by("2.11.0", &[("cuda-toolkit", "13.0.2")]), Some((13, Some(0))));
        assert_eq!(brought_by("2.2.0", &[]), None);
    }
}
