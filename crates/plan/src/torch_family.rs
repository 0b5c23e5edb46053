//! Which releases of torchvision, torchaudio, torchtext, triton and xformers pair with which torch.
//!
//! A resolver cannot be trusted with this: torchaudio 2.11.0 states no requirement on torch at all, and is accepted
//! next to torch 2.7.1, where it crashes. The table in `data/torch-family.toml` names its sources. It only ever
//! objects to what it knows: an unknown torch, an unknown package or a missing entry is no mismatch.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use pep440_rs::{Version, VersionSpecifiers};
use serde::Deserialize;

/// A package that was built for another torch than the one next to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mismatch {
    /// The normalised name of the package.
    pub package: String,
    /// Its version, without the local part.
    pub version: String,
    /// The version of torch, without the local part.
    pub torch: String,
    /// The versions that do pair, as words: `0.21.0`, `0.0.31 or 0.0.31.post1`, `2.11.0 or later`. Empty where no
    /// release of the package pairs with this torch.
    pub expected: String,
    /// The same as a requirement of the newest that pairs, such as `torchaudio==2.7.1`.
    pub requirement: Option<String>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { package, version, torch, expected, .. } = self;
        write!(f, "{package} {version} does not pair with torch {torch}; ")?;
        if expected.is_empty() { write!(f, "no {package} does") } else { write!(f, "{package} {expected} does") }
    }
}

/// Checks the members of torch's family among these packages against the torch among them.
///
/// Each package is its normalised name (PEP 503) and its version (PEP 440), with or without a local part such as
/// `+cu130`: builds for different CUDA releases pair in the same way. Mismatches come in the order of the packages.
/// Nothing is reported without a torch, for a torch that is not in the table (newer than this kiln, a nightly), or for
/// a version that cannot be read.
pub fn check(packages: &[(&str, &str)]) -> Vec<Mismatch> {
    let written = packages.iter().find(|(name, _)| *name == "torch").map(|(_, version)| *version);
    let is_makers = written.is_some_and(|version| version.contains('+'));
    let torch = written.and_then(public);
    // Makers of images build torch from what becomes a release: `2.8.0a0+5228986c39`.
    let members = |torch: &Version| {
        TABLE.get(torch).or_else(|| TABLE.get(&torch.only_release()).filter(|_| is_makers && !torch.is_dev()))
    };
    let Some((torch, members)) = torch.and_then(|torch| members(&torch).map(|members| (torch, members))) else {
        return Vec::new();
    };
    let mismatch = |(name, version): &(&str, &str)| {
        let paired = members.get(*name)?;
        // Builds of what becomes a release are their maker's to pair.
        let version = public(version).filter(|version| !(is_makers && version.any_prerelease()))?;
        let wrong = !paired.iter().any(|versions| versions.0.contains(&version));
        wrong.then(|| Mismatch {
            package: (*name).to_owned(),
            version: version.to_string(),
            torch: torch.to_string(),
            expected: paired.iter().map(Paired::words).collect::<Vec<_>>().join(" or "),
            requirement: paired.last().map(|newest| format!("{name}{}", newest.0)),
        })
    };
    packages.iter().filter_map(mismatch).collect()
}

/// Returns the requirement of the newest release of each member of torch's family that pairs with a torch, by name; nothing for a
/// torch that is not in the table, or that its maker built.
pub fn pairs(torch: &str) -> Vec<(&'static str, String)> {
    let members = Some(torch).filter(|torch| !torch.contains('+')).and_then(public).and_then(|torch| TABLE.get(&torch));
    let newest = |(name, paired): (&'static String, &'static Vec<Paired>)| {
        paired.last().map(|newest| (name.as_str(), format!("{name}{}", newest.0)))
    };
    members.into_iter().flatten().filter_map(newest).collect()
}

/// A member of torch's family: name, version, and the version that pairs.
type Build<'p> = (&'p str, &'p str, String);

/// Returns a member of torch's family that is a build for another release of CUDA than the torch beside it, or for none: `+cu126`
/// beside `+cpu`. Builds from elsewhere have other words for their local part, and are not judged.
pub fn other_build<'p>(packages: &[(&'p str, &'p str)]) -> Option<(&'p str, Build<'p>)> {
    let build = |version: &'p str| {
        let (public, local) = version.split_once('+')?;
        let is_build = local == "cpu" || local.strip_prefix("cu").is_some_and(|release| release.parse::<u32>().is_ok());
        is_build.then_some((public, local))
    };
    let (_, torch) = packages.iter().find(|(name, _)| *name == "torch")?;
    let (_, wanted) = build(torch)?;
    packages.iter().filter(|(name, _)| matches!(*name, "torchvision" | "torchaudio" | "torchtext")).find_map(
        |(name, version)| {
            let (public, local) = build(version)?;
            (local != wanted).then(|| (*torch, (*name, *version, format!("{public}+{wanted}"))))
        },
    )
}

/// The version without its local part.
fn public(version: &str) -> Option<Version> {
    Version::from_str(version).ok().map(Version::without_local)
}

/// One entry of the table: a version, or a specifier that begins with an operator.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Paired(VersionSpecifiers);

impl TryFrom<String> for Paired {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let exact = text.starts_with(|c: char| c.is_ascii_digit());
        let specifiers = if exact { format!("=={text}") } else { text };
        specifiers.parse().map(Self).map_err(|error: pep440_rs::VersionSpecifiersParseError| error.to_string())
    }
}

impl Paired {
    fn words(&self) -> String {
        let specifiers = self.0.to_string();
        if let Some(version) = specifiers.strip_prefix("==") {
            version.to_owned()
        } else if let Some(version) = specifiers.strip_prefix(">=") {
            format!("{version} or later")
        } else {
            specifiers
        }
    }
}

static TABLE: LazyLock<BTreeMap<Version, BTreeMap<String, Vec<Paired>>>> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the file is part of the program, and every test here parses it")]
    let releases: BTreeMap<String, BTreeMap<String, Vec<Paired>>> =
        toml::from_str(include_str!("../data/torch-family.toml")).expect("data/torch-family.toml is well formed");
    releases.into_iter().filter_map(|(torch, members)| Some((public(&torch)?, members))).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(packages: &[(&str, &str)]) -> Vec<String> {
        check(packages).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn builds_for_another_release_of_cuda_do_not_pair() {
        let other = |vision: &'static str| other_build(&[("torch", "2.7.1+cpu"), ("torchvision", vision)]);
        assert_eq!(other("0.22.1+cu126").map(|(_, build)| build.2), Some("0.22.1+cpu".to_owned()));
        for fits in ["0.22.1+cpu", "0.22.1", "0.22.1a0+95f10a4e"] {
            assert_eq!(other(fits), None, "{fits}");
        }
    }

    #[test]
    fn a_build_of_what_becomes_a_release_pairs_as_the_release() {
        assert_eq!(
            complaints(&[("torch", "2.6.0a0+ecf3bae40a.nv25.1"), ("torchvision", "0.21.0")]),
            Vec::<String>::new()
        );
        assert_eq!(complaints(&[("torch", "2.6.0a0+ecf3bae40a.nv25.1"), ("torchvision", "0.22.0")]).len(), 1);
    }

    #[test]
    fn the_mismatch_names_the_version_that_pairs() {
        assert_eq!(
            complaints(&[("torch", "2.6.0"), ("torchvision", "0.20.0")]),
            ["torchvision 0.20.0 does not pair with torch 2.6.0; torchvision 0.21.0 does"]
        );
    }

    #[test]
    fn the_pair_that_resolvers_accept_and_that_crashes_is_reported() {
        assert_eq!(
            complaints(&[("torch", "2.7.1"), ("torchaudio", "2.11.0")]),
            ["torchaudio 2.11.0 does not pair with torch 2.7.1; torchaudio 2.7.1 does"]
        );
    }

    #[test]
    fn what_pairs_is_a_requirement_too() {
        let requirement =
            |torch, package, version| check(&[("torch", torch), (package, version)])[0].requirement.clone();
        assert_eq!(requirement("2.7.1", "torchaudio", "2.11.0").as_deref(), Some("torchaudio==2.7.1"));
        assert_eq!(requirement("2.7.1", "xformers", "0.0.30").as_deref(), Some("xformers==0.0.31.post1"));
        assert_eq!(requirement("2.4.0", "torchtext", "0.18.0"), None);
    }

    #[test]
    fn pairs_are_exact_to_the_patch() {
        for (torch, torchvision, torchaudio, triton) in [
            ("2.0.1", "0.15.2", "2.0.2", "2.0.0"),
            ("2.5.1", "0.20.1", "2.5.1", "3.1.0"),
            ("2.6.0", "0.21.0", "2.6.0", "3.2.0"),
            ("2.7.1", "0.22.1", "2.7.1", "3.3.1"),
            ("2.9.1", "0.24.1", "2.9.1", "3.5.1"),
            ("2.11.0", "0.26.0", "2.11.0", "3.6.0"),
        ] {
            let family =
                [("torch", torch), ("torchvision", torchvision), ("torchaudio", torchaudio), ("triton", triton)];
            assert_eq!(complaints(&family), [""; 0]);
        }
        assert_eq!(check(&[("torch", "2.7.1"), ("torchvision", "0.22.0"), ("triton", "3.3.0")]).len(), 2);
    }

    #[test]
    fn several_patch_levels_may_pair() {
        for xformers in ["0.0.31", "0.0.31.post1"] {
            assert_eq!(check(&[("torch", "2.7.1"), ("xformers", xformers)]), []);
        }
        let wrong = check(&[("torch", "2.7.1"), ("xformers", "0.0.30")]);
        assert_eq!(wrong[0].expected, "0.0.31 or 0.0.31.post1");
    }

    #[test]
    fn a_stable_abi_pairs_with_later_torches_but_not_with_earlier_ones() {
        assert_eq!(check(&[("torch", "2.13.0"), ("torchaudio", "2.11.0"), ("xformers", "0.0.35")]), []);
        assert_eq!(
            complaints(&[("torch", "2.12.0"), ("torchaudio", "2.10.0")]),
            ["torchaudio 2.10.0 does not pair with torch 2.12.0; torchaudio 2.11.0 or later does"]
        );
        assert_eq!(check(&[("torch", "2.14.0"), ("triton", "3.8.1")]), []);
        assert_eq!(check(&[("torch", "2.14.0"), ("triton", "3.9.0")]).len(), 1);
        assert_eq!(check(&[("torch", "2.14.1"), ("torchvision", "0.29.0")]).len(), 1);
    }

    #[test]
    fn torchtext_ended_before_torch_2_4() {
        assert_eq!(check(&[("torch", "2.3.0"), ("torchtext", "0.18.0")]), []);
        assert_eq!(
            complaints(&[("torch", "2.4.0"), ("torchtext", "0.18.0")]),
            ["torchtext 0.18.0 does not pair with torch 2.4.0; no torchtext does"]
        );
    }

    #[test]
    fn local_parts_and_missing_zeros_do_not_matter() {
        assert_eq!(check(&[("torch", "2.11.0+cu130"), ("torchvision", "0.26.0+cu130")]), []);
        assert_eq!(check(&[("torch", "2.11"), ("torchvision", "0.26")]), []);
        let wrong = check(&[("torchvision", "0.25.0+cu130"), ("torch", "2.11.0+cu130")]);
        assert_eq!((wrong[0].version.as_str(), wrong[0].torch.as_str()), ("0.25.0", "2.11.0"));
    }

    #[test]
    fn what_the_table_does_not_know_is_no_mismatch() {
        assert_eq!(check(&[("torch", "99.0.0"), ("torchvision", "0.1.0")]), []);
        assert_eq!(check(&[("torch", "2.12.0.dev20260301"), ("torchvision", "0.1.0")]), []);
        assert_eq!(check(&[("torch", "2.6.0a0+df5bbc09d1.nv24.12"), ("torchvision", "0.20.0a0")]), []);
        assert_eq!(check(&[("torchvision", "0.26.0")]), []);
        assert_eq!(check(&[("torch", "2.6.0"), ("numpy", "1.0")]), []);
        assert_eq!(check(&[("torch", "not a version"), ("torchvision", "0.26.0")]), []);
        assert_eq!(check(&[("torch", "1.12.0"), ("xformers", "0.0.13")]), []);
    }

    #[test]
    fn every_release_of_the_file_is_a_version_and_lists_torchvision() {
        let lines = include_str!("../data/torch-family.toml").lines().filter(|line| line.starts_with("[\""));
        assert_eq!(TABLE.len(), lines.count());
        assert!(TABLE.values().all(|members| members.contains_key("torchvision")));
    }
}
