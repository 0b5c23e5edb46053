//! `image-layers`: the layers of an image that others copy from, without its configuration: a label does not change a copy.

use kiln_oci::image::Image;
use kiln_oci::layer::Layer;
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::node::Node;
use crate::step::{Cost, Keep, Kind, Level, Read, Step, Subject};

/// The layers of an image.
#[derive(Serialize)]
pub(crate) struct ImageLayers {
    image: Node<Image>,
    #[serde(skip)]
    subject: Subject,
}

impl ImageLayers {
    pub(crate) fn new(image: Node<Image>, subject: Subject) -> Self {
        Self { image, subject }
    }
}

impl Step for ImageLayers {
    type Product = Vec<Layer>;
    const KIND: Kind = Kind { name: "image-layers", version: 1 };

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

    fn perform(&self, context: &Context<'_>) -> Result<Vec<Layer>> {
        Ok(context.get(self.image).layers.clone())
    }
}
