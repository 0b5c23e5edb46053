//! `foundation`: the layers of an image, and what its configuration says about running programs. Commands read this in place of the
//! image, so that a label does not run them again.

use kiln_oci::image::{Config, Image, from_json};
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::node::Node;
use crate::product::Foundation as Product;
use crate::step::{Cost, Keep, Kind, Level, Read, Step, Subject};

/// The ground that commands run on.
#[derive(Serialize)]
pub(crate) struct Foundation {
    image: Node<Image>,
    #[serde(skip)]
    subject: Subject,
}

impl Foundation {
    pub(crate) fn new(image: Node<Image>, subject: Subject) -> Self {
        Self { image, subject }
    }
}

impl Step for Foundation {
    type Product = Product;
    const KIND: Kind = Kind { name: "foundation", version: 1 };

    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn reads(&self) -> Vec<Read> {
        vec![self.image.at(Level::Known)]
    }

    fn cost(&self) -> Cost {
        Cost::Inline
    }

    fn keep(&self) -> Keep {
        Keep::Never
    }

    fn perform(&self, context: &Context<'_>) -> Result<Product> {
        let image = context.get(self.image);
        let config: Config = from_json(&context.workshop.store.read(&image.config)?, "a config")?;
        // The place of a layer that registries may not distribute is no part of it.
        let mut layers = image.layers.clone();
        layers.iter_mut().for_each(|layer| layer.urls.clear());
        Ok(Product { layers, env: config.config.env, workdir: config.config.working_dir })
    }
}
