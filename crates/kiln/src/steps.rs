//! The steps of a build, for `--json`: each with its outcome, in an order that does not depend on time.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kiln_plan::event::{Event, Origin, Reporter, StepName};
use serde_json::json;

use crate::arguments::Global;
use crate::progress::Terminal;

/// Passes events on to the terminal, and keeps those of single steps.
pub(crate) struct StepList {
    terminal: Terminal,
    is_kept: bool,
    steps: Mutex<BTreeMap<StepName, Outcome>>,
}

/// The outcome of a step. A step that is performed after its product was known, since bytes are gone, counts as performed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Settled(Origin),
    Performed { bytes: u64, time: Duration },
}

impl StepList {
    pub(crate) fn new(global: &Global) -> Self {
        Self { terminal: Terminal::new(global), is_kept: global.json, steps: Mutex::default() }
    }

    /// Does something while nothing is shown.
    pub(crate) fn hidden<T>(&self, act: impl FnOnce() -> T) -> T {
        self.terminal.hidden(act)
    }

    /// Returns the list as JSON.
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.iter().map(|(step, outcome)| outcome.json(step)).collect()
    }
}

impl Outcome {
    fn json(self, step: &StepName) -> serde_json::Value {
        let (outcome, bytes, time) = match self {
            Self::Settled(Origin::Declared) => ("declared", None, None),
            Self::Settled(Origin::Local) => ("local", None, None),
            Self::Settled(Origin::Remote) => ("remote", None, None),
            Self::Performed { bytes, time } => ("performed", Some(bytes), Some(time)),
        };
        // To the millisecond: more digits say nothing.
        let seconds = time.map(|time| time.as_millis() as f64 / 1000.0);
        json!({
            "subject": step.subject,
            "kind": step.kind,
            "key": step.key,
            "outcome": outcome,
            "bytes": bytes,
            "seconds": seconds,
        })
    }
}

impl Reporter for StepList {
    fn event(&self, event: Event) {
        let (step, outcome) = match event {
            Event::Settled { step, origin } => (step, Outcome::Settled(origin)),
            Event::Performed { step, bytes, time } => (step, Outcome::Performed { bytes, time }),
            other => return self.terminal.event(other),
        };
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = steps.entry(step).or_insert(outcome);
        *kept = outcome.max(*kept);
    }

    fn follows_steps(&self) -> bool {
        self.is_kept
    }
}
