//! `program`: the program that an image runs must be in it. What the stack's own layers and the facts of the base tell is looked
//! at first; where wheels could bring it, their lists are read.

use kiln_plan::diagnostic::closest;
use serde::Serialize;

use crate::below::{Below, Presence};
use crate::context::Context;
use crate::error::{BuildError, Result};
use crate::installed::read_list;
use crate::node::Node;
use crate::product::{Paths, Verdict};
use crate::step::{Cost, Keep, Kind, Level, Read, Step, Subject};

/// A program that wheels may bring.
#[derive(Serialize)]
pub(crate) struct Program {
    /// As the stack file has it.
    name: String,
    /// The paths at which it may be, without a leading slash.
    places: Vec<String>,
    wheels: Vec<Node<Paths>>,
    /// Names of other programs in the same directories, for messages.
    #[serde(skip)]
    others: Vec<String>,
}

impl Program {
    /// Looks for a program; `Ok(None)` where it is there, or where it cannot be known.
    ///
    /// # Errors
    /// There is none, and no wheel can bring it.
    pub(crate) fn look(
        name: &str,
        (path, workdir): (&str, &str),
        below: &Below,
        wheels: Vec<Node<Paths>>,
    ) -> Result<Option<Self>> {
        let places: Vec<String> = match name.contains('/') {
            true if name.starts_with('/') => vec![name.to_owned()],
            true => vec![format!("{workdir}/{name}")],
            false => path
                .split(':')
                .filter(|directory| directory.starts_with('/'))
                .map(|directory| format!("{directory}/{name}"))
                .collect(),
        };
        let places: Vec<String> = places.iter().map(|place| plain(place)).collect();
        for place in &places {
            match below.holds(place) {
                Presence::File | Presence::Unknown => return Ok(None),
                Presence::Directory if name.contains('/') => {
                    return Err(BuildError::Mistake {
                        message: format!("the image runs `{name}`, which is a directory"),
                        hint: "name the program in it".into(),
                    });
                }
                Presence::Directory | Presence::Nothing => {}
            }
        }
        let others = places.iter().filter_map(|place| place.rsplit_once('/').or(Some(("", place))));
        let others = others.flat_map(|(directory, _)| below.files_in(directory)).collect();
        let program = Self { name: name.to_owned(), places, wheels, others };
        match program.wheels.is_empty() {
            true => Err(program.missing(&[])),
            false => Ok(Some(program)),
        }
    }

    fn missing(&self, brought: &[String]) -> BuildError {
        let names = self.others.iter().chain(brought).map(String::as_str);
        let is_path = self.name.contains('/');
        let last = self.name.rsplit('/').next().unwrap_or(&self.name);
        let hint = match closest(last, names.filter(|other| *other != last)) {
            Some(close) if is_path => {
                let directory = self.name.rsplit_once('/').map_or("", |(directory, _)| directory);
                format!("did you mean `{directory}/{close}`?")
            }
            Some(close) => format!("did you mean `{close}`?"),
            None if is_path => "`copy` or `files` put it there; `packages` bring programs into `/opt/venv/bin`".into(),
            None => "name it with its path, or put its directory into `PATH` with `env`".into(),
        };
        let place = if is_path { "in the image" } else { "in a directory of `PATH`" };
        BuildError::Mistake { message: format!("the image runs `{}`, which is not {place}", self.name), hint }
    }
}

/// Returns a path without a leading slash, without empty names, `.` and `..`.
fn plain(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names.join("/")
}

impl Step for Program {
    type Product = Verdict;
    const KIND: Kind = Kind { name: "program", version: 1 };

    fn subject(&self) -> Subject {
        Subject::Program(self.name.clone())
    }

    fn reads(&self) -> Vec<Read> {
        self.wheels.iter().map(|node| node.at(Level::Here)).collect()
    }

    fn cost(&self) -> Cost {
        Cost::Cpu(0)
    }

    fn keep(&self) -> Keep {
        Keep::Here
    }

    fn perform(&self, context: &Context<'_>) -> Result<Verdict> {
        let mut brought = Vec::new();
        for node in &self.wheels {
            let digest = context.get(*node).list;
            let list = read_list(&context.workshop.store.read(&digest)?);
            for file in list.ok_or_else(|| BuildError::Lost(vec![digest]))? {
                if self.places.contains(&file.0) {
                    return Ok(Verdict::default());
                }
                if let Some((directory, name)) = file.0.rsplit_once('/')
                    && self
                        .places
                        .iter()
                        .any(|place| place.rsplit_once('/').is_some_and(|(other, _)| other == directory))
                {
                    brought.push(name.to_owned());
                }
            }
        }
        Err(self.missing(&brought))
    }
}
