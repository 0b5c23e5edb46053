//! `wheels`: wheels become one layer, or several where they are large.

use std::sync::Arc;

use kiln_oci::layer::{Body, Directories, Layer, LayerFile};
use kiln_oci::time::packaged;
use kiln_oci::{SPLICE_VERSION, Source, splice, whole};
use kiln_plan::event::Work;
use kiln_plan::stack::Compression;
use kiln_wheel::install::{Content, MAPPING_VERSION, Scheme};
use serde::Serialize;

use crate::below::Around;
use crate::context::Context;
use crate::error::Result;
use crate::installed;
use crate::node::Node;
use crate::product::{Conflicts, Wheel};
use crate::shelf::Shelved;
use crate::step::{Cost, Kind, Level, Read, Step, Subject};
use crate::workshop::Workshop;

/// Wheels that share their layers.
#[derive(Serialize)]
pub(crate) struct Wheels {
    /// By name.
    wheels: Vec<Node<Wheel>>,
    /// Paths that some of them leave out; a layer of one wheel is covered where it must be.
    conflicts: Option<Node<Conflicts>>,
    scheme: Scheme,
    /// Directories and links around the environment that are not as they are made: none on most bases, so that a wheel has the
    /// same layer there.
    #[serde(skip_serializing_if = "Around::is_empty")]
    around: Around,
    compression: Compression,
    /// Compressed bytes that one layer has at most.
    max_layer_size: Option<u64>,
    mapping: u32,
    compressor: u32,
    #[serde(skip)]
    subject: Subject,
    #[serde(skip)]
    bytes: u64,
}

/// The form of the layers of an image.
#[derive(Debug, Clone)]
pub(crate) struct LayerForm {
    pub(crate) scheme: Scheme,
    pub(crate) around: Around,
    pub(crate) compression: Compression,
    pub(crate) max_layer_size: Option<u64>,
}

impl Wheels {
    pub(crate) fn new(
        subject: Subject,
        wheels: Vec<Node<Wheel>>,
        bytes: u64,
        conflicts: Option<Node<Conflicts>>,
        form: &LayerForm,
    ) -> Self {
        let compressor = match form.compression {
            Compression::Gzip => SPLICE_VERSION,
            Compression::Zstd => whole::WHOLE_VERSION,
        };
        Self {
            wheels,
            conflicts,
            scheme: form.scheme.clone(),
            around: form.around.clone(),
            compression: form.compression,
            max_layer_size: form.max_layer_size,
            mapping: MAPPING_VERSION,
            compressor,
            subject,
            bytes,
        }
    }
}

impl Step for Wheels {
    type Product = Vec<Layer>;
    const KIND: Kind = Kind { name: "wheels", version: 3 };

    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn reads(&self) -> Vec<Read> {
        let wheels = self.wheels.iter().map(|node| node.at(Level::Here));
        wheels.chain(self.conflicts.map(|node| node.at(Level::Known))).collect()
    }

    fn cost(&self) -> Cost {
        Cost::Cpu(self.bytes)
    }

    fn perform(&self, context: &Context<'_>) -> Result<Vec<Layer>> {
        let workshop = context.workshop;
        let wheels: Vec<&Wheel> = self.wheels.iter().map(|node| context.get(*node)).collect();
        // A large wheel of this machine is checked while it is spliced, since both hash nearly the same bytes.
        if let ([wheel], Compression::Gzip, None) = (wheels.as_slice(), self.compression, self.max_layer_size)
            && let Some(shelved) = workshop.take_unverified(wheel)?
        {
            return self.splice_unverified(context, wheel, shelved);
        }
        let sources = wheels.iter().map(|wheel| {
            let file = match self.compression {
                Compression::Gzip => workshop.open_spliced(wheel)?,
                // Nothing hashes it on the way.
                Compression::Zstd => workshop.open_wheel(wheel)?,
            };
            Ok(self.source(workshop, wheel, file))
        });
        let sources: Vec<Source> = sources.collect::<Result<_>>()?;
        self.layers(context, &wheels, &sources)
    }
}

impl Wheels {
    fn splice_unverified(&self, context: &Context<'_>, wheel: &Wheel, shelved: Shelved<'_>) -> Result<Vec<Layer>> {
        let source = self.source(context.workshop, wheel, shelved.open()?);
        let layers = self.layers(context, &[wheel], &[source])?;
        shelved.accept(context.workshop.store)?;
        Ok(layers)
    }

    fn source(&self, workshop: &Workshop<'_>, wheel: &Wheel, file: fs_err::File) -> Source {
        Source {
            name: wheel.file.clone(),
            digest: wheel.digest,
            file: Arc::new(file),
            unverified: !workshop.store.has_hashed(&wheel.digest),
            at_hand: workshop.take_at_hand(&wheel.digest),
        }
    }

    fn layers(&self, context: &Context<'_>, wheels: &[&Wheel], sources: &[Source]) -> Result<Vec<Layer>> {
        let left_out = self.conflicts.map(|node| &context.get(node).left_out);
        let mut members = Vec::new();
        for (place, (wheel, source)) in wheels.iter().zip(sources).enumerate() {
            let time = packaged(&wheel.digest);
            for file in installed::files(&wheel.file, source.file.try_clone()?, &self.scheme)? {
                if left_out.and_then(|paths| paths.get(&file.path)).is_some_and(|places| places.contains(&place)) {
                    continue;
                }
                let body = match file.content {
                    Content::Entry(entry) => Body::Entry(place, entry),
                    Content::Bytes(bytes) => Body::Bytes(bytes),
                };
                let mode = if file.executable { 0o755 } else { 0o644 };
                members.push(LayerFile { time, ..LayerFile::new(file.path, mode, body) });
            }
        }
        let parts = split(members, self.max_layer_size);
        let content = parts.iter().flatten().map(|file| file.body.size()).sum();
        let work = context.work("splice", self.subject.to_string(), Some(content));
        parts.into_iter().map(|part| self.layer(context.workshop, sources, part, &work)).collect()
    }

    fn layer(
        &self,
        workshop: &Workshop<'_>,
        sources: &[Source],
        part: Vec<LayerFile>,
        work: &Work<'_>,
    ) -> Result<Layer> {
        let mut files = Vec::with_capacity(part.len() + 64);
        let mut directories = Directories::default();
        for file in part {
            directories.above(&file.path, |directory| self.scheme.exists(directory), &mut files);
            files.push(file);
        }
        let files = match self.around.is_empty() {
            true => files,
            false => self.around.fit(&self.subject.to_string(), files)?,
        };
        let (store, crew) = (workshop.store, workshop.crew()?);
        Ok(match self.compression {
            Compression::Gzip => splice(store, crew, sources, files, work)?,
            Compression::Zstd => whole::recompress(store, crew, sources, &files, workshop.surroundings.jobs, work)?,
        })
    }
}

/// Cuts members into parts of at most so many compressed bytes, between files.
fn split(members: Vec<LayerFile>, limit: Option<u64>) -> Vec<Vec<LayerFile>> {
    let Some(limit) = limit else { return vec![members] };
    let mut parts = vec![Vec::new()];
    let mut size = 0;
    for member in members {
        let bytes = match &member.body {
            Body::Entry(_, entry) => entry.compressed,
            body => body.size(),
        };
        if size > 0 && size + bytes > limit {
            parts.push(Vec::new());
            size = 0;
        }
        size += bytes;
        if let Some(part) = parts.last_mut() {
            part.push(member);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_split_between_files_and_never_within_one() {
        let file = |size: usize| LayerFile::bytes(format!("{size}"), vec![0; size]);
        let sizes = |limit| {
            let parts = split(vec![file(3), file(4), file(20), file(1), file(1)], limit);
            parts.iter().map(|part| part.iter().map(|file| file.body.size()).collect()).collect::<Vec<Vec<_>>>()
        };
        assert_eq!(sizes(Some(8)), [vec![3, 4], vec![20], vec![1, 1]]);
        assert_eq!(sizes(None), [vec![3, 4, 20, 1, 1]]);
    }
}
