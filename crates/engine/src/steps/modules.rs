//! `modules`: the modules of an image's wheels against those of the base's distributions. In one directory, a wheel whose
//! module the base has under another name (triton over pytorch-triton) would overwrite it. In an environment that sees the base's,
//! Python takes a package from the first directory that has it with an `__init__`, and finds nothing of the other's; namespace
//! packages are merged (PEP 420).

use std::collections::{BTreeMap, BTreeSet};

use kiln_plan::stack::Environment;
use kiln_wheel::modules::{directories, modules, shared};
use serde::Serialize;

use crate::context::Context;
use crate::error::{BuildError, Result};
use crate::installed::read_list;
use crate::node::Node;
use crate::product::{Paths, Verdict};
use crate::python::{BaseModule, BasePython, Clash};
use crate::step::{Cost, Kind, Level, Read, Step, Subject};

/// Directories that many wheels bring by mistake, and that nobody imports: their tests and examples.
const STRAY: [&str; 8] = ["benchmarks", "doc", "docs", "example", "examples", "scripts", "test", "tests"];

/// A wheel whose modules are compared.
#[derive(Serialize)]
pub(crate) struct Brought {
    pub(crate) paths: Node<Paths>,
    /// Normalised name of its package.
    pub(crate) package: String,
    #[serde(skip)]
    pub(crate) file: String,
}

/// The modules of some wheels and of a base.
#[derive(Serialize)]
pub(crate) struct Modules {
    wheels: Vec<Brought>,
    /// The directory that modules are below, without a leading slash.
    site: String,
    /// The wheels lie in a directory that comes before the base's.
    overlay: bool,
    /// Modules of the base's distributions.
    base: BTreeMap<String, BaseModule>,
    #[serde(skip)]
    subject: Subject,
}

impl Modules {
    /// `None` where the base has no module.
    pub(crate) fn of(subject: Subject, wheels: Vec<Brought>, site: &str, base: &BasePython<'_>) -> Option<Self> {
        let overlay = base.environment == Environment::Overlay;
        let (site, base) = (site.trim_matches('/').to_owned(), base.modules());
        (!base.is_empty() && !wheels.is_empty()).then_some(Self { wheels, site, overlay, base, subject })
    }
}

impl Step for Modules {
    type Product = Verdict;
    const KIND: Kind = Kind { name: "modules", version: 2 };

    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn reads(&self) -> Vec<Read> {
        self.wheels.iter().map(|wheel| wheel.paths.at(Level::Here)).collect()
    }

    fn cost(&self) -> Cost {
        Cost::Cpu(0)
    }

    fn perform(&self, context: &Context<'_>) -> Result<Verdict> {
        for Brought { paths, package, file } in &self.wheels {
            context.cancel().check()?;
            let Paths { list, namespaces, .. } = context.get(*paths);
            let all = read_list(&context.workshop.store.read(list)?).ok_or_else(|| BuildError::Lost(vec![*list]))?;
            let below = |path: &'_ str| path.strip_prefix(&self.site)?.strip_prefix('/').map(str::to_owned);
            let files: Vec<(String, u64)> =
                all.iter().filter_map(|(path, size, _)| Some((below(path)?, *size))).collect();
            let clash = match self.overlay {
                true => self.across_directories(package, &files, namespaces),
                false => self.in_one_directory(package, &files, namespaces),
            };
            if let Some((clash, module, owner)) = clash {
                return Err(clash.error(file, package, module, owner));
            }
        }
        Ok(Verdict::default())
    }
}

/// A clash, with the module of the base and what holds it.
type Found<'m> = (Clash, &'m str, &'m BaseModule);

impl Modules {
    /// Returns a module of the base that a wheel would overwrite.
    fn in_one_directory(&self, package: &str, files: &[(String, u64)], namespaces: &[String]) -> Option<Found<'_>> {
        let own = modules(plain(files, namespaces));
        let mut own = own.iter().filter_map(|module| self.base.get_key_value(module));
        let (module, owner) =
            own.find(|(module, owner)| owner.is_of_another(package) && !owner.empty && !is_stray(module))?;
        Some((Clash::Same, module, owner))
    }

    /// Returns a module of the base that a wheel would hide, or that would hide what the wheel brings.
    fn across_directories(&self, package: &str, files: &[(String, u64)], namespaces: &[String]) -> Option<Found<'_>> {
        let (full, empty) = (modules(plain(files, namespaces)), shared(plain(files, namespaces)));
        let is_full = |module: &str| full.iter().any(|own| own == module);
        for own in full.iter().chain(&empty).filter(|own| !is_stray(own)) {
            let is_hidden = |(other, held): &(&String, &BaseModule)| {
                let rest = other.strip_prefix(own.as_str());
                let hides = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                hides && held.is_of_another(package) && (!held.empty || is_full(other))
            };
            if let Some((module, owner)) = self.base.iter().find(is_hidden) {
                return Some((if module == own { Clash::Same } else { Clash::Hides(own.clone()) }, module, owner));
            }
        }
        let regular: BTreeSet<&str> = full.iter().chain(&empty).map(String::as_str).collect();
        let is_in_own = |directory: &str| ends(directory).any(|end| regular.contains(&directory[..end]));
        let loose = directories(plain(files, namespaces).map(|(path, _)| path));
        let loose = loose.iter().filter(|directory| !is_in_own(directory) && !is_stray(directory));
        let hidden = loose.filter_map(|directory| self.base.get_key_value(directory));
        hidden.map(|(module, owner)| (Clash::Hidden, module.as_str(), owner)).next()
    }
}

/// Returns the files of a wheel without the `__init__` of namespaces.
fn plain<'f>(files: &'f [(String, u64)], namespaces: &'f [String]) -> impl Iterator<Item = (&'f str, u64)> {
    let is_namespace =
        |path: &str| path.strip_suffix("/__init__.py").is_some_and(|it| namespaces.iter().any(|one| one == it));
    files.iter().map(|(path, size)| (path.as_str(), *size)).filter(move |(path, _)| !is_namespace(path))
}

/// Returns the ends of the parts of a path.
fn ends(path: &str) -> impl Iterator<Item = usize> {
    path.match_indices('/').map(|(end, _)| end).chain([path.len()])
}

fn is_stray(module: &str) -> bool {
    STRAY.contains(&module.split('/').next().unwrap_or(module))
}
