//! `agreement`: files that are copied or generated, against the wheels of the same image and of those below it. Paths that
//! a wheel could have in another form are compared; the rest of the wheels' files does not matter.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use kiln_oci::layer::LayerFile;
use kiln_wheel::install::Scheme;
use serde::Serialize;

use crate::context::Context;
use crate::error::{BuildError, Result};
use crate::forms::{Form, contradiction};
use crate::installed::read_list;
use crate::node::Node;
use crate::product::{Paths, Verdict};
use crate::step::{Cost, Kind, Level, Read, Step, Subject};

/// A layer of an image, with what it is called.
pub(crate) enum Content {
    /// Files that are copied or generated.
    Files(String, Vec<LayerFile>),
    /// Wheels, each with its file name and the list of its files.
    Wheels(Scheme, Vec<(String, Node<Paths>)>),
}

/// The wheels of a layer that are looked into.
#[derive(Serialize)]
struct Wheels {
    /// The place of the layer.
    at: usize,
    wheels: Vec<Node<Paths>>,
    /// The paths that these wheels could have.
    touching: Vec<String>,
    #[serde(skip)]
    files: Vec<String>,
}

/// The layers of an image and of the images below it, lowest first.
#[derive(Serialize)]
pub(crate) struct Agreement {
    wheels: Vec<Wheels>,
    /// Forms of copied and generated paths, each with the place of its layer.
    paths: BTreeMap<String, BTreeSet<(usize, Form)>>,
    #[serde(skip)]
    names: Vec<String>,
    #[serde(skip)]
    subject: Subject,
}

impl Agreement {
    /// Compares what is known without looking into wheels. `None` where no wheel needs to be looked into.
    pub(crate) fn new(subject: Subject, layers: &[Arc<Content>]) -> Result<Option<Self>> {
        let mut paths: BTreeMap<String, BTreeSet<(usize, Form)>> = BTreeMap::new();
        let mut names = Vec::new();
        for (at, layer) in layers.iter().enumerate() {
            let Content::Files(name, files) = &**layer else {
                names.push(String::new());
                continue;
            };
            names.push(name.clone());
            for file in files {
                for (slash, _) in file.path.match_indices('/') {
                    paths.entry(file.path[..slash].to_owned()).or_default().insert((at, Form::Above));
                }
                paths.entry(file.path.clone()).or_default().insert((at, Form::of(file)));
            }
        }
        for (path, forms) in &paths {
            require_one_form(path, forms, &names)?;
        }
        let mut all = Vec::new();
        for (at, layer) in layers.iter().enumerate() {
            if let Content::Wheels(scheme, wheels) = &**layer {
                let touching = paths.iter().filter(|(path, forms)| touches(path, forms, scheme));
                let touching: Vec<String> = touching.map(|(path, _)| path.clone()).collect();
                if !touching.is_empty() {
                    let (files, wheels) = wheels.iter().cloned().unzip();
                    all.push(Wheels { at, wheels, touching, files });
                }
            }
        }
        // Paths that no wheel could have decide nothing.
        let touched: HashSet<&String> = all.iter().flat_map(|wheels| &wheels.touching).collect();
        let kept: BTreeSet<String> = touched.into_iter().cloned().collect();
        paths.retain(|path, _| kept.contains(path));
        Ok((!all.is_empty()).then_some(Self { wheels: all, paths, names, subject }))
    }
}

impl Step for Agreement {
    type Product = Verdict;
    const KIND: Kind = Kind { name: "agreement", version: 1 };

    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn reads(&self) -> Vec<Read> {
        self.wheels.iter().flat_map(|wheels| &wheels.wheels).map(|node| node.at(Level::Here)).collect()
    }

    fn cost(&self) -> Cost {
        Cost::Cpu(0)
    }

    fn perform(&self, context: &Context<'_>) -> Result<Verdict> {
        for wheels in &self.wheels {
            for (node, file) in wheels.wheels.iter().zip(&wheels.files) {
                context.cancel().check()?;
                let digest = context.get(*node).list;
                let list = read_list(&context.workshop.store.read(&digest)?);
                let list = list.ok_or_else(|| BuildError::Lost(vec![digest]))?;
                let files: HashSet<&str> = list.iter().map(|file| file.0.as_str()).collect();
                let directories: HashSet<&str> =
                    files.iter().flat_map(|path| path.match_indices('/').map(|(end, _)| &path[..end])).collect();
                self.require_agreement_with(wheels, file, &files, &directories)?;
            }
        }
        Ok(Verdict::default())
    }
}

impl Agreement {
    fn require_agreement_with(
        &self,
        wheels: &Wheels,
        file: &str,
        files: &HashSet<&str>,
        directories: &HashSet<&str>,
    ) -> Result<()> {
        for path in &wheels.touching {
            let of_wheel = match (files.contains(path.as_str()), directories.contains(path.as_str())) {
                (true, _) => Form::File,
                (_, true) => Form::Directory,
                _ => continue,
            };
            for (other, form) in &self.paths[path] {
                let pair = if *other < wheels.at { (*form, of_wheel) } else { (of_wheel, *form) };
                if Form::contradicts(pair.0, pair.1) {
                    return Err(contradiction(path, (of_wheel, file), (*form, &self.names[*other])));
                }
            }
        }
        Ok(())
    }
}

/// Returns true for a path that a wheel could have in another form.
fn touches(path: &str, forms: &BTreeSet<(usize, Form)>, scheme: &Scheme) -> bool {
    let below = |directory: &str, path: &str| {
        path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    below(&scheme.data, path) || (below(path, &scheme.data) && forms.iter().any(|(_, form)| !form.is_directory()))
}

fn require_one_form(path: &str, forms: &BTreeSet<(usize, Form)>, names: &[String]) -> Result<()> {
    let forms: Vec<&(usize, Form)> = forms.iter().collect();
    for (upper, pair) in forms.iter().enumerate() {
        for lower in &forms[..upper] {
            if lower.0 != pair.0 && Form::contradicts(lower.1, pair.1) {
                return Err(contradiction(path, (lower.1, &names[lower.0]), (pair.1, &names[pair.0])));
            }
        }
    }
    Ok(())
}
