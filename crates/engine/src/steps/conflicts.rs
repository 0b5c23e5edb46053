//! `conflicts`: paths that several wheels of an image install. The last wheel wins, as where they are installed one after
//! another; different content is warned of. A file in one wheel where another has a directory is an error, also
//! between the wheels of an image and those of the images below it: that is a step of its own, on which no layer depends,
//! and there the upper image wins.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::context::Context;
use crate::error::{BuildError, Result};
use crate::forms::{Form, contradiction};
use crate::installed::{Listed, read_list};
use crate::node::Node;
use crate::product::{Conflicts as Product, Paths};
use crate::step::{Cost, Kind, Level, Read, Step, Subject};

/// The wheels of an image.
#[derive(Serialize)]
pub(crate) struct Conflicts {
    /// Of the wheels of the image, in the order of their layers.
    own: Vec<Node<Paths>>,
    /// Of the wheels of the images below. With them, the two are compared with one another, and neither with itself.
    below: Vec<Node<Paths>>,
    /// The places of the wheels that share a layer.
    shared: Vec<usize>,
    /// File names of the wheels, own and below.
    #[serde(skip)]
    files: Vec<String>,
    #[serde(skip)]
    subject: Subject,
}

impl Conflicts {
    /// `own` and `below` are wheels with their file names.
    pub(crate) fn new(
        subject: Subject,
        own: &[(String, Node<Paths>)],
        below: &[(String, Node<Paths>)],
        shared: Vec<usize>,
    ) -> Self {
        let nodes = |wheels: &[(String, Node<Paths>)]| wheels.iter().map(|(_, node)| *node).collect();
        let files = own.iter().chain(below).map(|(file, _)| file.clone()).collect();
        Self { own: nodes(own), below: nodes(below), shared, files, subject }
    }
}

impl Step for Conflicts {
    type Product = Product;
    const KIND: Kind = Kind { name: "conflicts", version: 2 };

    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn reads(&self) -> Vec<Read> {
        self.own.iter().chain(&self.below).map(|node| node.at(Level::Here)).collect()
    }

    fn cost(&self) -> Cost {
        Cost::Cpu(0)
    }

    fn warnings(&self, product: &Product) -> Vec<String> {
        let file = |place: usize| self.files.get(place).map_or("?", String::as_str);
        let mut pairs: BTreeMap<(usize, usize), Vec<&str>> = BTreeMap::new();
        for (path, lost, wins) in &product.differing {
            pairs.entry((*lost, *wins)).or_default().push(path);
        }
        let warn = |((lost, wins), paths): ((usize, usize), Vec<&str>)| {
            let more = match paths.len() {
                1 => String::new(),
                2 => " and another file".to_owned(),
                number => format!(" and {} more files", number - 1),
            };
            format!(
                "`{}` and `{}` both bring `{}`{more} with different content, and the latter's is in the image: what the \
                 former needs of its own may be gone. `overlaps = {{ winner = \"NAME\" }}` chooses the other, \
                 `resolution = {{ exclude = [\"NAME\"] }}` leaves one out",
                file(lost),
                file(wins),
                paths[0],
            )
        };
        pairs.into_iter().map(warn).collect()
    }

    fn perform(&self, context: &Context<'_>) -> Result<Product> {
        let mut lists: Vec<Vec<Listed>> = Vec::new();
        for node in self.own.iter().chain(&self.below) {
            context.cancel().check()?;
            let digest = context.get(*node).list;
            let list = read_list(&context.workshop.store.read(&digest)?);
            lists.push(list.ok_or_else(|| BuildError::Lost(vec![digest]))?);
        }
        self.require_one_form(&lists)?;
        Ok(self.compare(&lists))
    }
}

impl Conflicts {
    /// Refuses a path that is a file in one wheel and a directory in another.
    fn require_one_form(&self, lists: &[Vec<Listed>]) -> Result<()> {
        let mut files: HashMap<(&str, bool), usize> = HashMap::new();
        for (at, list) in lists.iter().enumerate() {
            files.extend(list.iter().map(|file| ((file.0.as_str(), at < self.own.len()), at)));
        }
        for (at, list) in lists.iter().enumerate() {
            let mut last = "";
            for (path, ..) in list {
                let Some((directory, _)) = path.rsplit_once('/') else { continue };
                if std::mem::replace(&mut last, directory) == directory {
                    continue;
                }
                let above = directory.match_indices('/').map(|(end, _)| &directory[..end]).chain([directory]);
                for directory in above {
                    let found = [true, false].into_iter().filter_map(|own| files.get(&(directory, own)));
                    if let Some(other) = found.copied().find(|other| self.are_compared(*other, at)) {
                        return Err(self.contradiction(directory, other, at));
                    }
                }
            }
        }
        Ok(())
    }

    fn are_compared(&self, one: usize, other: usize) -> bool {
        let is_own = |at: usize| at < self.own.len();
        one != other && (self.below.is_empty() || is_own(one) != is_own(other))
    }

    fn contradiction(&self, path: &str, file: usize, directory: usize) -> BuildError {
        let (one, other) = (&self.files[file], &self.files[directory]);
        contradiction(path, (Form::File, one), (Form::Directory, other))
    }

    fn compare(&self, lists: &[Vec<Listed>]) -> Product {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        let mut several: BTreeMap<&str, Vec<(usize, &Listed)>> = BTreeMap::new();
        for (at, list) in lists.iter().enumerate() {
            for file in list {
                if seen.insert(&file.0, at).is_some_and(|first| first != at) {
                    several.entry(&file.0).or_default();
                }
            }
        }
        if several.is_empty() {
            return Product::default();
        }
        for (at, list) in lists.iter().enumerate() {
            for file in list {
                if let Some(by) = several.get_mut(file.0.as_str()) {
                    by.push((at, file));
                }
            }
        }
        let mut product = Product::default();
        for (path, by) in several {
            // The wheels of the image come first: whatever is below them loses.
            let (own, below) = by.split_at(by.partition_point(|(at, _)| *at < self.own.len()));
            let Some(((winner, file), others)) = own.split_last() else { continue };
            let losers = if self.below.is_empty() { others } else { below };
            let differs = losers.iter().filter(|(_, other)| other != file);
            product.differing.extend(differs.map(|(loser, _)| (path.to_owned(), *loser, *winner)));
            if !self.below.is_empty() {
                continue;
            }
            // Layers of their own lie below the shared one: a file that is lost there is covered.
            let places = losers.iter().filter_map(|(at, _)| self.shared.iter().position(|shared| shared == at));
            let places: Vec<usize> = places.collect();
            if !places.is_empty() {
                product.left_out.insert(path.to_owned(), places);
            }
        }
        product
    }
}
