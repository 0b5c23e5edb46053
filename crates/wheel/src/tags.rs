//! Which wheels an interpreter on a platform can use, and which of them is best.
//!
//! Tags: PEP 425. `manylinux_X_Y`: PEP 600, with the older names as aliases. `musllinux_X_Y`: PEP 656. The order of
//! preference is that of the `packaging` library, which pip and uv follow: the closest ABI first, then the newest
//! platform.

use std::collections::HashMap;

use kiln_plan::base::{Libc, LibcFamily};
use kiln_plan::platform::{Cpu, Platform};

use crate::name::WheelName;

/// Older names of manylinux platforms, by glibc's minor version (PEP 600).
const ALIASES: [(u32, &str); 3] = [(17, "manylinux2014"), (12, "manylinux2010"), (5, "manylinux1")];

/// The tags that one interpreter on one platform accepts.
#[derive(Debug, Clone)]
pub struct Tags {
    interpreters: HashMap<(String, String), usize>,
    platforms: HashMap<String, usize>,
}

/// How well a wheel fits; smaller is better.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fit {
    tag: (usize, usize),
    build: std::cmp::Reverse<Option<(u64, String)>>,
}

impl Tags {
    /// The tags of CPython `3.{minor}` on a platform with a C library; without one only wheels for any platform fit.
    pub fn new(minor: u32, platform: Platform, libc: Option<&Libc>) -> Self {
        let mut interpreters = Vec::new();
        let current = format!("cp3{minor}");
        for abi in [current.as_str(), "abi3", "none"] {
            interpreters.push((current.clone(), abi.to_owned()));
        }
        interpreters.extend((2..minor).rev().map(|older| (format!("cp3{older}"), "abi3".to_owned())));
        let pure = std::iter::once(format!("py3{minor}"))
            .chain(std::iter::once("py3".to_owned()))
            .chain((0..minor).rev().map(|older| format!("py3{older}")));
        interpreters.extend(pure.map(|python| (python, "none".to_owned())));
        let ranked = |list: Vec<_>| list.into_iter().enumerate().map(|(at, tag)| (tag, at)).collect();
        let mut platforms = libc.map_or_else(Vec::new, |libc| platform_tags(platform.cpu, libc));
        platforms.push("any".to_owned());
        Self {
            interpreters: ranked(interpreters),
            platforms: platforms.into_iter().enumerate().map(|(at, tag)| (tag, at)).collect(),
        }
    }

    /// How well a wheel fits; nothing where it does not.
    pub fn fit(&self, wheel: &WheelName) -> Option<Fit> {
        let mut best: Option<(usize, usize)> = None;
        for python in &wheel.python {
            for abi in &wheel.abi {
                let Some(interpreter) = self.interpreters.get(&(python.clone(), abi.clone())) else { continue };
                for platform in &wheel.platform {
                    if let Some(platform) = self.platforms.get(platform) {
                        let tag = (*interpreter, *platform);
                        best = Some(best.map_or(tag, |best| best.min(tag)));
                    }
                }
            }
        }
        best.map(|tag| Fit { tag, build: std::cmp::Reverse(wheel.build.clone()) })
    }
}

fn platform_tags(cpu: Cpu, libc: &Libc) -> Vec<String> {
    let machine = cpu.machine();
    let mut parts = libc.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0).min(200));
    let mut tags = Vec::new();
    match libc.family {
        LibcFamily::Glibc if major == 2 => {
            let oldest = match cpu {
                Cpu::Amd64 => 5,
                Cpu::Arm64 => 17,
            };
            for version in (oldest..=minor).rev() {
                tags.push(format!("manylinux_2_{version}_{machine}"));
                if let Some((_, alias)) = ALIASES.iter().find(|(aliased, _)| *aliased == version) {
                    tags.push(format!("{alias}_{machine}"));
                }
            }
        }
        LibcFamily::Musl if major == 1 => {
            tags.extend((0..=minor).rev().map(|version| format!("musllinux_1_{version}_{machine}")));
        }
        _ => {}
    }
    tags.push(format!("linux_{machine}"));
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian() -> Tags {
        let libc = Libc { family: LibcFamily::Glibc, version: "2.36".into() };
        Tags::new(11, "linux/amd64".parse().unwrap(), Some(&libc))
    }

    fn best<'a>(tags: &Tags, files: &[&'a str]) -> Option<&'a str> {
        files
            .iter()
            .filter_map(|file| Some((tags.fit(&file.parse().unwrap())?, *file)))
            .min_by(|a, b| a.0.cmp(&b.0))
            .map(|(_, file)| file)
    }

    #[test]
    fn the_closest_abi_and_the_newest_platform_win() {
        let files = [
            "a-1-py3-none-any.whl",
            "a-1-cp39-abi3-manylinux_2_28_x86_64.whl",
            "a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
            "a-1-cp311-cp311-manylinux_2_28_x86_64.whl",
            "a-1-cp312-cp312-manylinux_2_28_x86_64.whl",
        ];
        assert_eq!(best(&debian(), &files), Some(files[3]));
        assert_eq!(best(&debian(), &files[..2]), Some(files[1]));
    }

    #[test]
    fn wheels_for_a_newer_c_library_or_another_machine_do_not_fit() {
        for file in [
            "a-1-cp311-cp311-manylinux_2_39_x86_64.whl",
            "a-1-cp311-cp311-manylinux_2_28_aarch64.whl",
            "a-1-cp311-cp311-musllinux_1_2_x86_64.whl",
            "a-1-cp311-cp311-macosx_11_0_arm64.whl",
            "a-1-cp313-abi3-manylinux_2_28_x86_64.whl",
        ] {
            assert_eq!(best(&debian(), &[file]), None, "{file}");
        }
    }

    #[test]
    fn old_manylinux_names_are_aliases() {
        for file in ["a-1-py3-none-manylinux1_x86_64.whl", "a-1-py3-none-manylinux2014_x86_64.whl"] {
            assert!(best(&debian(), &[file]).is_some(), "{file}");
        }
    }

    #[test]
    fn musl_bases_take_musllinux_wheels() {
        let libc = Libc { family: LibcFamily::Musl, version: "1.2".into() };
        let tags = Tags::new(12, "linux/arm64".parse().unwrap(), Some(&libc));
        let files = ["a-1-cp312-cp312-musllinux_1_1_aarch64.whl", "a-1-cp312-cp312-musllinux_1_2_aarch64.whl"];
        assert_eq!(best(&tags, &files), Some(files[1]));
    }

    #[test]
    fn a_higher_build_number_wins() {
        let files = ["a-1-py3-none-any.whl", "a-1-2-py3-none-any.whl", "a-1-10-py3-none-any.whl"];
        assert_eq!(best(&debian(), &files), Some(files[2]));
    }
}
