//! `run` with a network: its result may be another each time. So it is dated, and has what the command took in.

use std::time::{Duration, UNIX_EPOCH};

use kiln_proxy::Material;
use serde::Serialize;

use super::run::Run;
use crate::context::Context;
use crate::error::Result;
use crate::product::Dated;
use crate::step::{Commanded, Cost, Keep, Kind, Read, Repeat, Step, Subject};
use crate::workshop::now;

/// A command with a network.
#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct NetworkRun {
    run: Run,
    /// The age in seconds at which the result is made again.
    #[serde(skip)]
    max_age: Option<u64>,
}

impl NetworkRun {
    pub(crate) fn new(run: Run, max_age: Option<u64>) -> Self {
        Self { run, max_age }
    }
}

impl Step for NetworkRun {
    type Product = Dated;
    const KIND: Kind = Kind { name: "network-run", version: 1 };

    fn subject(&self) -> Subject {
        self.run.subject()
    }

    fn reads(&self) -> Vec<Read> {
        self.run.reads()
    }

    fn cost(&self) -> Cost {
        self.run.cost()
    }

    fn command(&self) -> Option<Commanded> {
        self.run.command()
    }

    fn keep(&self) -> Keep {
        Keep::Shared
    }

    fn repeatable(&self) -> Repeat {
        Repeat::Recorded
    }

    fn accepts(&self, product: &Dated) -> bool {
        self.max_age.is_none_or(|most| now().saturating_sub(product.at) <= most)
    }

    fn notes(&self, product: &Dated) -> Vec<String> {
        let date = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(product.at));
        let mut notes = vec![format!("ran {date}")];
        notes.extend(product.materials.iter().map(ToString::to_string));
        notes
    }

    fn perform(&self, context: &Context<'_>) -> Result<Dated> {
        let at = now();
        let (layers, materials) = self.run.perform_with_materials(context)?;
        for material in &materials {
            if let Material::Refused { .. } | Material::Unreachable { .. } = material {
                context.workshop.warn(format!("`{}` did not reach {material}", self.run.shown));
            }
        }
        Ok(Dated { layers, at, materials })
    }
}
