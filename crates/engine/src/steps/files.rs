//! `files`: files, directories and links that the stack file itself holds, as one layer above the copies.

use std::collections::BTreeMap;

use kiln_oci::SPLICE_VERSION;
use kiln_oci::layer::{Body, Layer, LayerFile};
use kiln_plan::base::Attributes;
use kiln_plan::stack::{File, FileContent};
use serde::Serialize;

use crate::accounts::Accounts;
use crate::below::{Below, Manner};
use crate::context::Context;
use crate::error::Result;
use crate::members::Member;
use crate::node::Node;
use crate::product::TextFile;
use crate::step::{Cost, Kind, Level, Read, Step, Subject};

/// The files of a stack file.
#[derive(Serialize)]
pub(crate) struct Files {
    members: Vec<Member>,
    /// Members that are added to files below: the place of each, and the file as it is.
    longer: Vec<(usize, Node<TextFile>)>,
    compressor: u32,
    #[serde(skip)]
    files: Vec<LayerFile>,
    #[serde(skip)]
    subject: Subject,
}

/// A file that is laid.
pub(crate) struct Wanted {
    pub(crate) file: LayerFile,
    /// A directory that is there gets its owner, and its mode.
    pub(crate) gives: (bool, bool),
    /// Its text is added to a file.
    pub(crate) appends: bool,
    /// That file, where it is below.
    pub(crate) longer: Option<Node<TextFile>>,
}

impl Wanted {
    /// Returns what the stack file says; `longer` is the file below that it makes longer.
    pub(crate) fn of(file: &File, accounts: &Accounts, longer: Option<Node<TextFile>>) -> Result<Self> {
        let path = file.to.trim_matches('/');
        let owner = accounts.owner(&file.owner, file.owner_span.clone().unwrap_or_else(|| file.to_span.clone()))?;
        let made = match &file.content {
            FileContent::Text(text) | FileContent::Append(text) => LayerFile::bytes(path, text.as_bytes()),
            FileContent::Link(to) => LayerFile::symlink(path, to),
            FileContent::Directory => LayerFile::directory(path),
        };
        let mode = file.mode.unwrap_or(made.mode);
        let appends = matches!(file.content, FileContent::Append(_));
        let gives = (file.owner.user.is_some(), file.mode.is_some());
        Ok(Self { file: LayerFile { owner, mode, ..made }, gives, appends, longer })
    }
}

impl Files {
    /// Fits files to what is below them, and puts them there, one after the other; `None` where there are none.
    pub(crate) fn new(wanted: Vec<Wanted>, below: &mut Below) -> Result<Option<Self>> {
        let places: Vec<String> = wanted.iter().map(|wanted| format!("/{}", wanted.file.path)).collect();
        let (mut files, mut longer): (Vec<LayerFile>, BTreeMap<String, Node<TextFile>>) = Default::default();
        for Wanted { file, gives, appends, longer: node } in wanted {
            let kind = if matches!(file.body, Body::Directory) { "directory" } else { "file" };
            let origin = format!("{kind} /{}", file.path);
            let parents = Attributes { owner: file.owner, ..Attributes::default() };
            let (gives_owner, gives_mode) = gives;
            let manner = Manner { parents, gives_owner, gives_mode, target: String::new() };
            for (file, own) in below.lay(&origin, &manner, vec![(file, ())])?.files {
                longer.extend(own.and(node).map(|node| (file.path.clone(), node)));
                match files.iter_mut().find(|other| other.path == file.path) {
                    Some(other) if own.is_some() && appends => other.body = joined(&other.body, &file.body),
                    Some(other) if own.is_some() => *other = file,
                    Some(_) => {}
                    None => files.push(file),
                }
            }
        }
        if files.is_empty() {
            return Ok(None);
        }
        LayerFile::date(&mut files);
        let place = |(path, node)| Some((files.iter().position(|file| file.path == path)?, node));
        let longer = longer.into_iter().filter_map(place).collect();
        let members = files.iter().map(Member::of).collect();
        Ok(Some(Self { members, longer, compressor: SPLICE_VERSION, files, subject: Subject::Files(places) }))
    }

    /// Returns the members of the layer.
    pub(crate) fn files(&self) -> Vec<LayerFile> {
        self.files.clone()
    }
}

impl Step for Files {
    type Product = Vec<Layer>;
    const KIND: Kind = Kind { name: "files", version: 1 };

    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn reads(&self) -> Vec<Read> {
        self.longer.iter().map(|(_, node)| node.at(Level::Known)).collect()
    }

    fn cost(&self) -> Cost {
        Cost::Cpu(0)
    }

    fn perform(&self, context: &Context<'_>) -> Result<Vec<Layer>> {
        let mut files = self.files.clone();
        for (at, node) in &self.longer {
            let TextFile { mode, owner, text } = context.get(*node);
            let file = &mut files[*at];
            (file.mode, file.owner) = (*mode, *owner);
            file.body = joined(&Body::Bytes(text.as_bytes().to_vec()), &file.body);
        }
        if !self.longer.is_empty() {
            LayerFile::date(&mut files);
        }
        context.workshop.small_layer(&self.subject.to_string(), files)
    }
}

/// Returns a file of two texts, the second of which begins a line.
fn joined(first: &Body, second: &Body) -> Body {
    let (Body::Bytes(first), Body::Bytes(second)) = (first, second) else { return second.clone() };
    let newline: &[u8] = if first.is_empty() || first.ends_with(b"\n") { b"" } else { b"\n" };
    Body::Bytes([first, newline, second].concat())
}
