//! Modules of wheels that are on this machine already, against those of the base: what a build would refuse is told when it is
//! locked.

use kiln_plan::lock::LockedWheel;

use super::Decision;
use super::question::ImageQuestion;
use crate::driver::{Alone, Driver};
use crate::error::Result;
use crate::graph::Graph;
use crate::project::Project;
use crate::python::BasePython;
use crate::step::{Level, Subject};
use crate::steps::modules::{Brought, Modules};
use crate::steps::paths::Paths;

impl Project<'_> {
    /// Refuses wheels whose modules the base has. Those that would have to be downloaded are looked at when they are built.
    pub(super) fn check_modules(
        &self,
        question: &ImageQuestion<'_>,
        base: &BasePython<'_>,
        decision: &Decision,
    ) -> Result<()> {
        let scheme = base.scheme(question.image.target.python())?;
        let mut graph = Graph::default();
        let mut brought = Vec::new();
        for (package, wheel) in decision.image.packages.iter().zip(wheels(decision)) {
            let Some(wheel) = wheel else { continue };
            let subject = Subject::Package { name: package.name.clone(), version: package.version.clone() };
            let (file, fetch) = (wheel.file.clone(), self.fetch(subject, wheel.clone()));
            if fetch.is_at_hand(&self.workshop) {
                let fetch = graph.add(fetch)?;
                let paths = graph.add(Paths::new(Subject::Wheel(file.clone()), fetch, scheme.clone()))?;
                brought.push(Brought { paths, package: package.name.clone(), file });
            }
        }
        let subject = Subject::Image(question.image.name.clone(), question.platform);
        let Some(modules) = Modules::of(subject, brought, &scheme.site_packages, base) else { return Ok(()) };
        let modules = graph.add(modules)?;
        Driver::new(&graph, &self.workshop, &Alone).get(modules, Level::Known).map(|_| ())
    }
}

/// Returns the wheels of the packages, in their order.
fn wheels(decision: &Decision) -> impl Iterator<Item = Option<&LockedWheel>> {
    decision.image.packages.iter().map(|package| decision.wheels.iter().find(|wheel| wheel.sha256 == package.wheel))
}
