//! `modules`: the modules of an image's wheels against those of the base's distributions. A wheel whose module the base has
//! under another name (triton over pytorch-triton) would hide or overwrite it.

use std::collections::BTreeMap;

use kiln_wheel::modules::modules;
use serde::Serialize;

use crate::context::Context;
use crate::error::{BuildError, Result};
use crate::installed::read_list;
use crate::node::Node;
use crate::product::{Paths, Verdict};
use crate::python::{BasePython, module_is_there};
use crate::step::{Cost, Kind, Level, Read, Step, Subject};

/// The modules of some wheels and of a base.
#[derive(Serialize)]
pub(crate) struct Modules {
    wheels: Vec<Node<Paths>>,
    /// Normalised names of the wheels' packages.
    packages: Vec<String>,
    /// The directory that modules are below, without a leading slash.
    site: String,
    /// Names and versions of the base's distributions, by the one module that each brings alone.
    base: BTreeMap<String, (String, String)>,
    #[serde(skip)]
    files: Vec<String>,
    #[serde(skip)]
    subject: Subject,
}

impl Modules {
    /// `wheels` have the names of their packages and files. `None` where the base has no module.
    pub(crate) fn of(
        subject: Subject,
        wheels: Vec<(String, String, Node<Paths>)>,
        site: &str,
        base: &BasePython<'_>,
    ) -> Option<Self> {
        let owner = |(module, held): (&str, &kiln_plan::base::Distribution)| {
            (module.to_owned(), (held.name.clone(), held.version.clone()))
        };
        let base: BTreeMap<_, _> = base.modules().into_iter().map(owner).collect();
        let site = site.trim_matches('/').to_owned();
        let mut found = Self { wheels: Vec::new(), packages: Vec::new(), site, base, files: Vec::new(), subject };
        for (package, file, node) in wheels {
            found.packages.push(package);
            found.files.push(file);
            found.wheels.push(node);
        }
        (!found.base.is_empty() && !found.wheels.is_empty()).then_some(found)
    }
}

impl Step for Modules {
    type Product = Verdict;
    const KIND: Kind = Kind { name: "modules", version: 1 };

    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn reads(&self) -> Vec<Read> {
        self.wheels.iter().map(|node| node.at(Level::Here)).collect()
    }

    fn cost(&self) -> Cost {
        Cost::Cpu(0)
    }

    fn perform(&self, context: &Context<'_>) -> Result<Verdict> {
        for ((node, package), file) in self.wheels.iter().zip(&self.packages).zip(&self.files) {
            context.cancel().check()?;
            let digest = context.get(*node).list;
            let list = read_list(&context.workshop.store.read(&digest)?);
            let list = list.ok_or_else(|| BuildError::Lost(vec![digest]))?;
            let below = |path: &'_ str| path.strip_prefix(&self.site)?.strip_prefix('/').map(str::to_owned);
            let files: Vec<(String, u64)> =
                list.iter().filter_map(|(path, size, _)| Some((below(path)?, *size))).collect();
            for module in modules(files.iter().map(|(path, size)| (path.as_str(), *size))) {
                if let Some((module, owner)) = self.hidden_by(&module).filter(|(_, owner)| owner.0 != *package) {
                    return Err(module_is_there(file, package, module, (&owner.0, &owner.1)));
                }
            }
        }
        Ok(Verdict::default())
    }
}

impl Modules {
    /// Returns the module of the base that a module of a wheel hides: the same, or one in it.
    fn hidden_by(&self, module: &str) -> Option<(&String, &(String, String))> {
        let is_hidden =
            |other: &&String| other.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.base.iter().find(|(other, _)| is_hidden(other))
    }
}
