//! `paths`: the files that a wheel installs. Machines that share a cache share the lists, so that one without a single
//! wheel knows which paths several wheels install.

use kiln_wheel::install::{MAPPING_VERSION, Scheme};
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::installed::{self, write_list};
use crate::node::Node;
use crate::product::{Paths as Product, Wheel};
use crate::step::{Cost, Kind, Level, Read, Step, Subject};

/// The files that a wheel installs.
#[derive(Serialize)]
pub(crate) struct Paths {
    wheel: Node<Wheel>,
    scheme: Scheme,
    mapping: u32,
    #[serde(skip)]
    subject: Subject,
}

impl Paths {
    pub(crate) fn new(subject: Subject, wheel: Node<Wheel>, scheme: Scheme) -> Self {
        Self { wheel, scheme, mapping: MAPPING_VERSION, subject }
    }
}

impl Step for Paths {
    type Product = Product;
    const KIND: Kind = Kind { name: "paths", version: 2 };

    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn reads(&self) -> Vec<Read> {
        vec![self.wheel.at(Level::Here)]
    }

    fn cost(&self) -> Cost {
        Cost::Cpu(0)
    }

    fn perform(&self, context: &Context<'_>) -> Result<Product> {
        let (workshop, wheel) = (context.workshop, context.get(self.wheel));
        let (files, namespaces) = installed::told(&wheel.file, workshop.open_wheel(wheel)?, &self.scheme)?;
        let list = write_list(&files.into_iter().map(installed::listed).collect::<Vec<_>>())?;
        Ok(Product { list: workshop.store.add(&list)?, size: list.len() as u64, namespaces })
    }
}
