//! Events of single steps, for a reporter that follows them.

use std::time::Duration;

use kiln_plan::event::{self, Event, StepName};
use kiln_plan::step::StepKey;

use super::Driver;
use super::state::Origin;
use crate::node::NodeId;
use crate::product::Product;

impl Driver<'_> {
    /// Tells that the product of a step is known without performing it.
    pub(super) fn tell_settled(&self, id: NodeId, key: Option<StepKey>, origin: Origin) {
        let origin = match origin {
            _ if !self.is_followed => return,
            Origin::Declared => event::Origin::Declared,
            Origin::Local => event::Origin::Local,
            Origin::Remote => event::Origin::Remote,
            Origin::Performed => return,
        };
        self.workshop.reporter.event(Event::Settled { step: self.step_name(id, key), origin });
    }

    /// Tells that a step was performed.
    pub(super) fn tell_performed(&self, id: NodeId, key: StepKey, product: &Product, time: Duration) {
        if self.is_followed {
            let bytes = product.blobs().iter().filter_map(|blob| blob.size).sum();
            let step = self.step_name(id, Some(key));
            self.workshop.reporter.event(Event::Performed { step, bytes, time });
        }
    }

    fn step_name(&self, id: NodeId, key: Option<StepKey>) -> StepName {
        let step = &self.graph.entry(id).step;
        StepName { kind: step.kind().name, subject: step.subject().to_string(), key }
    }
}
