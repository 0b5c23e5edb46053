//! `driver`: the oldest Linux driver that takes the GPU code of some layers, which the image's label says.

use kiln_oci::layer::Layer;
use kiln_plan::gpu::{Capability, DriverVersion};
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::node::Node;
use crate::product::OldestDriver;
use crate::step::{Cost, Keep, Kind, Level, Read, Step, Subject};

/// The GPU code of some layers.
#[derive(Serialize)]
pub(crate) struct Driver {
    layers: Node<Vec<Layer>>,
    gpus: Vec<Capability>,
    #[serde(skip)]
    subject: Subject,
}

impl Driver {
    pub(crate) fn new(subject: Subject, layers: Node<Vec<Layer>>, gpus: Vec<Capability>) -> Self {
        Self { layers, gpus, subject }
    }
}

impl Step for Driver {
    type Product = OldestDriver;
    const KIND: Kind = Kind { name: "driver", version: 1 };

    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn reads(&self) -> Vec<Read> {
        vec![self.layers.at(Level::Here)]
    }

    fn cost(&self) -> Cost {
        Cost::Cpu(0)
    }

    fn keep(&self) -> Keep {
        Keep::Shared
    }

    fn perform(&self, context: &Context<'_>) -> Result<OldestDriver> {
        let workshop = context.workshop;
        let mut oldest: Option<DriverVersion> = None;
        for layer in context.get(self.layers) {
            for file in workshop.layer_contents(layer, &workshop.blobs())?.code {
                let Ok(listing) = &file.listing else { continue };
                let verdicts = self.gpus.iter().filter_map(|gpu| listing.verdict(*gpu, file.cuda));
                oldest = verdicts.filter_map(|verdict| verdict.driver).chain(oldest).max();
            }
        }
        Ok(OldestDriver(oldest))
    }
}
