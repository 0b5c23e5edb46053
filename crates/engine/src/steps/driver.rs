//! `driver`: the Linux drivers that take the GPU code of some layers, which the image's labels say.

use kiln_oci::layer::Layer;
use kiln_plan::gpu::Capability;
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::node::Node;
use crate::product::OldestDriver;
use crate::step::{Cost, Keep, Kind, Level, Read, Step, Subject};
use crate::verify::{Judge, Verification};

/// The GPU code of some layers.
#[derive(Serialize)]
pub(crate) struct Driver {
    layers: Node<Vec<Layer>>,
    gpus: Vec<Capability>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    except: Vec<String>,
    #[serde(skip)]
    subject: Subject,
}

impl Driver {
    pub(crate) fn new(subject: Subject, layers: Node<Vec<Layer>>, gpus: Vec<Capability>, except: Vec<String>) -> Self {
        Self { layers, gpus, except, subject }
    }
}

impl Step for Driver {
    type Product = OldestDriver;
    const KIND: Kind = Kind { name: "driver", version: 2 };

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
        let mut code = Vec::new();
        for layer in context.get(self.layers) {
            code.extend(workshop.layer_contents(layer, &workshop.blobs())?.code);
        }
        let judge = Judge { gpus: self.gpus.clone(), except: self.except.clone(), ..Judge::default() };
        let found = Verification::new(&self.subject.to_string(), &code, &judge);
        let unknown = found.code.iter().flat_map(|file| &file.verdicts).any(|verdict| verdict.driver_after.is_some());
        Ok(OldestDriver { unknown: unknown && found.driver.is_none(), oldest: found.driver, last: found.last_driver })
    }
}
