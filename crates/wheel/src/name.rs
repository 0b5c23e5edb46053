//! File names of wheels (PEP 427): `{name}-{version}(-{build})?-{python}-{abi}-{platform}.whl`.

use std::fmt;
use std::str::FromStr;

use pep440_rs::Version;
use pep508_rs::PackageName;

/// What the file name of a wheel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WheelName {
    /// Normalised name (PEP 503).
    pub name: PackageName,
    /// Version (PEP 440).
    pub version: Version,
    /// Build tag: its leading number, and the rest.
    pub build: Option<(u64, String)>,
    /// Python tags, such as `cp311` or `py2`, `py3`.
    pub python: Vec<String>,
    /// ABI tags, such as `cp311`, `abi3`, `none`.
    pub abi: Vec<String>,
    /// Platform tags, such as `manylinux_2_28_x86_64` or `any`.
    pub platform: Vec<String>,
}

/// A file name that no wheel has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the file name of a wheel (NAME-VERSION-PYTHON-ABI-PLATFORM.whl)")]
pub struct InvalidWheelName(pub String);

impl FromStr for WheelName {
    type Err = InvalidWheelName;

    fn from_str(file: &str) -> Result<Self, InvalidWheelName> {
        parse(file).ok_or_else(|| InvalidWheelName(file.to_owned()))
    }
}

fn parse(file: &str) -> Option<WheelName> {
    let stem = file.strip_suffix(".whl")?;
    if stem.contains(['/', '\\', '\0']) {
        return None;
    }
    let parts: Vec<&str> = stem.split('-').collect();
    let (build, tags) = match parts.len() {
        5 => (None, &parts[2..]),
        6 => (Some(build(parts[2])?), &parts[3..]),
        _ => return None,
    };
    // pip takes no file that has no such name.
    let is_tag = |tag: &str| !tag.is_empty();
    let is_word = |tag: &str| tag.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let is_python = |tag: &str| is_word(tag) && !tag.starts_with(|c: char| c.is_ascii_digit());
    let each = |at: usize, is: &dyn Fn(&str) -> bool| tags[at].split('.').all(is);
    if parts[0].contains("__") || !each(0, &is_python) || !(0..3).all(|at| each(at, &is_tag)) {
        return None;
    }
    let split = |tags: &str| tags.split('.').map(str::to_owned).collect::<Vec<_>>();
    Some(WheelName {
        name: crate::name_of(parts[0])?,
        version: parts[1].parse().ok()?,
        build,
        python: split(tags[0]),
        abi: split(tags[1]),
        platform: split(tags[2]),
    })
}

fn build(tag: &str) -> Option<(u64, String)> {
    let digits = tag.find(|c: char| !c.is_ascii_digit()).unwrap_or(tag.len());
    Some((tag[..digits].parse().ok()?, tag[digits..].to_owned()))
}

impl fmt::Display for WheelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_gives_name_version_build_and_tags() {
        let wheel: WheelName =
            "Torch_Scatter-2.1.2+pt211-1kiln90-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
                .parse()
                .unwrap();
        assert_eq!((wheel.name.to_string(), wheel.version.to_string()), ("torch-scatter".into(), "2.1.2+pt211".into()));
        assert_eq!(wheel.build, Some((1, "kiln90".to_owned())));
        assert_eq!(wheel.platform, ["manylinux_2_17_x86_64", "manylinux2014_x86_64"]);
    }

    #[test]
    fn other_file_names_are_refused() {
        for file in [
            "six-1.0.tar.gz",
            "six-1.0-py3-none.whl",
            "six-x-py3-none-any.whl",
            "../six-1-py3-none-any.whl",
            "six__x-1-py3-none-any.whl",
            "six-1.0_1-py3-none-any.whl",
            "six-1-py3.-none-any.whl",
            "six-1-py3-none-.whl",
            "six-1-3.11-none-any.whl",
            "six-1-py3!-none-any.whl",
            "-1-py3-none-any.whl",
        ] {
            assert!(file.parse::<WheelName>().is_err(), "{file}");
        }
    }
}
