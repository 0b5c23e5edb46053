//! `facts`: the interpreters, users and packages of a base. Its layers are read once and kept nowhere.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use kiln_oci::OciError;
use kiln_oci::compression::LayerTar;
use kiln_oci::facts::FactsReader;
use kiln_oci::image::{Config, Image, from_json};
use kiln_oci::layer::Layer;
use kiln_plan::base::BaseFacts;
use serde::Serialize;

use crate::context::Context;
use crate::error::{BuildError, Result};
use crate::node::Node;
use crate::step::{Cost, Kind, Level, Read as Reads, Step, Subject};

/// The facts of a base.
#[derive(Serialize)]
pub(crate) struct Facts {
    base: Node<Image>,
    #[serde(skip)]
    subject: Subject,
}

impl Facts {
    pub(crate) fn new(subject: Subject, base: Node<Image>) -> Self {
        Self { base, subject }
    }
}

impl Step for Facts {
    type Product = Box<BaseFacts>;
    const KIND: Kind = Kind { name: "facts", version: 6 };

    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn reads(&self) -> Vec<Reads> {
        vec![self.base.at(Level::Known)]
    }

    fn cost(&self) -> Cost {
        Cost::Network(0)
    }

    fn accepts(&self, product: &Box<BaseFacts>) -> bool {
        product.is_plausible()
    }

    fn perform(&self, context: &Context<'_>) -> Result<Box<BaseFacts>> {
        let (workshop, image) = (context.workshop, context.get(self.base));
        let name = self.subject.to_string();
        if image.layers.iter().any(|layer| !layer.urls.is_empty()) {
            return Err(BuildError::Mistake {
                message: format!("`{name}` has layers that its registry may not distribute"),
                hint: "declare what is inside: `base-facts = { interpreters = [...], libc = ... }`".into(),
            });
        }
        let config: Config = from_json(&workshop.store.read(&image.config)?, "a config")?;
        let mut reader = FactsReader::new().with_path(config.env("PATH"));
        read_layers(context, &image.layers, &format!("`{name}`"), &mut reader).map_err(|error| match error {
            BuildError::Oci(source @ OciError::NoBytes { .. }) => BuildError::NoFacts { base: name, source },
            error => error,
        })?;
        Ok(Box::new(reader.finish()))
    }
}

/// Reads the layers of `what`, a noun phrase.
pub(super) fn read_layers(context: &Context<'_>, layers: &[Layer], what: &str, reader: &mut FactsReader) -> Result<()> {
    let workshop = context.workshop;
    let work = context.work("inspect", what.trim_matches('`'), Some(layers.iter().map(|layer| layer.size).sum()));
    for layer in layers {
        let blob = workshop.open_anywhere(&layer.digest, layer.size)?;
        let blob = Shared(Arc::new(Mutex::new(Opened(blob, None))));
        if let Err(error) = read_layer(reader, layer, &blob) {
            // The reason that the bytes ended comes before the archive's complaint about it.
            return Err(match blob.failure() {
                Some(failure) => workshop.read_error(failure),
                None => BuildError::Unreadable { what: format!("the layers of {what}"), source: error },
            });
        }
        work.advance(layer.size)?;
    }
    Ok(())
}

fn read_layer(
    reader: &mut FactsReader,
    layer: &Layer,
    blob: &Shared,
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut tar = LayerTar::open(layer, blob.clone())?;
    reader.layer(&mut tar)?;
    tar.verify()?;
    // Its digest is known at its end, which the archive's may not be.
    std::io::copy(&mut blob.clone(), &mut std::io::sink())?;
    Ok(())
}

/// A blob that is read by one reader and then by another.
#[derive(Clone)]
struct Shared(Arc<Mutex<Opened>>);

/// A reader, and the error that it ended with.
struct Opened(Box<dyn Read + Send>, Option<std::io::Error>);

impl Shared {
    fn failure(&self) -> Option<std::io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.take()
    }
}

impl Read for Shared {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.0.read(buffer).map_err(|error| {
            let told = std::io::Error::new(error.kind(), error.to_string());
            shared.1 = Some(error);
            told
        })
    }
}
