//! A lock as it is written, checked by the rules of its specification ("`pylock.toml`", PEP 751).

use pep440_rs::{Version, VersionSpecifiers};
use serde::Deserialize;

use super::{PylockError, file_name};
use crate::name::WheelName;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct File {
    lock_version: Option<String>,
    pub(super) environments: Option<Vec<String>>,
    pub(super) requires_python: Option<String>,
    #[serde(default)]
    pub(super) extras: Vec<String>,
    #[serde(default)]
    pub(super) dependency_groups: Vec<String>,
    #[serde(default)]
    pub(super) default_groups: Vec<String>,
    packages: Option<Vec<Package>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: Option<String>,
    pub(super) marker: Option<String>,
    pub(super) requires_python: Option<String>,
    #[serde(default)]
    pub(super) wheels: Vec<Wheel>,
    sdist: Option<toml::Table>,
    pub(super) archive: Option<Wheel>,
    pub(super) vcs: Option<toml::Table>,
    pub(super) directory: Option<toml::Table>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Wheel {
    name: Option<String>,
    url: Option<String>,
    path: Option<String>,
    pub(super) size: Option<u64>,
    #[serde(default)]
    pub(super) hashes: std::collections::BTreeMap<String, String>,
}

impl File {
    /// Reads a lock, and checks what holds for every environment.
    pub(super) fn read(text: &str) -> Result<Self, PylockError> {
        let file: Self = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start).min(text.len());
            let line = 1 + text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
            PylockError::whole(format!("at its line {line}: {}", error.message().replace('\n', ", ")))
        })?;
        let version = file.lock_version.as_deref();
        let version = version.ok_or_else(|| wrong("it has no `lock-version`, so that it is no `pylock.toml`"))?;
        if !version
            .parse::<Version>()
            .is_ok_and(|version| version.epoch() == 0 && version.release().first() == Some(&1))
        {
            return Err(wrong(format!("its `lock-version` is {version}, and this kiln reads 1.x")));
        }
        let packages = file.packages.as_ref();
        for package in packages.ok_or_else(|| wrong("it has no `packages`, which every `pylock.toml` has"))? {
            package
                .check()
                .map_err(|problem| PylockError::of(&package.name, format!("`{}` {problem}", package.name)))?;
        }
        Ok(file)
    }

    pub(super) fn packages(&self) -> &[Package] {
        self.packages.as_deref().unwrap_or_default()
    }
}

fn wrong(problem: impl Into<String>) -> PylockError {
    PylockError::whole(problem)
}

impl Package {
    /// Checks the parts of a package against one another. The error is a clause about the package.
    fn check(&self) -> Result<(), String> {
        let version = self.version.as_ref().map(|text| text.parse::<Version>().map_err(|_| text)).transpose();
        let version = version.map_err(|text| format!("has the unreadable version `{text}`"))?;
        if let Some(text) = self.requires_python.as_ref().filter(|text| text.parse::<VersionSpecifiers>().is_err()) {
            return Err(format!("has the unreadable `requires-python` `{text}`"));
        }
        let direct = [self.vcs.is_some(), self.directory.is_some(), self.archive.is_some()];
        let direct = direct.into_iter().filter(|is| *is).count();
        let is_listed = self.sdist.is_some() || !self.wheels.is_empty();
        if direct + usize::from(is_listed) != 1 {
            let has = if is_listed || direct > 0 { "more than one place" } else { "no place" };
            return Err(format!(
                "has {has} that it comes from: it is `wheels` and `sdist`, or one of `archive`, `directory` and `vcs`"
            ));
        }
        let name = crate::name_of(&self.name).ok_or("is not a package name")?;
        for wheel in self.wheels.iter().chain(&self.archive) {
            if wheel.location().is_empty() {
                return Err("has a file without `url` and `path`".into());
            }
            let file = wheel.file();
            if self.archive.is_none() && !file.ends_with(".whl") {
                return Err(format!("has `{file}` among its wheels, which is none"));
            }
            // A file whose name says nothing is never chosen.
            let Ok(said) = file.parse::<WheelName>() else { continue };
            if said.name != name || version.as_ref().is_some_and(|version| *version != said.version) {
                let version = version.map(|version| format!(", and its version is {version}")).unwrap_or_default();
                return Err(format!("has `{file}`, a wheel of {said}{version}"));
            }
        }
        Ok(())
    }
}

impl Wheel {
    /// The URL, else the path; empty where there is neither.
    pub(super) fn location(&self) -> &str {
        self.url.as_deref().or(self.path.as_deref()).unwrap_or_default()
    }

    /// The file name: the one that is said, else the end of the path, else of the URL.
    pub(super) fn file(&self) -> String {
        let said = self.name.clone().filter(|name| !name.is_empty());
        let path =
            self.path.as_deref().and_then(|path| path.rsplit(['/', '\\']).next()).filter(|name| !name.is_empty());
        said.or(path.map(str::to_owned)).unwrap_or_else(|| file_name(self.location()))
    }
}
