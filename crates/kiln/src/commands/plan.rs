//! `kiln plan`

use clap::Args;
use kiln_build::{Task, Upgrade};
use kiln_plan::event::Cancel;
use kiln_plan::size;
use serde_json::json;

use super::{Outcome, count, print, print_json, table, with_project};
use crate::arguments::{Global, StackOptions};

/// Say what a build would do: which steps are in the store and which are to be done
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Images [default: all]
    images: Vec<String>,
    #[command(flatten)]
    stack: StackOptions,
}

impl Plan {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let (text, value) = with_project(global, &self.stack, cancel, |project| {
            let images = project.chosen(&self.images)?;
            let lock = project.lock(&Upgrade::Nothing, true)?;
            let mut rows = Vec::new();
            let mut steps_json = Vec::new();
            let (mut to_do, mut to_fetch) = (0, 0);
            for planned in project.all_steps(&images, &lock)? {
                let title = format!("{} ({})", planned.image.name, planned.platform);
                rows.push(vec![title]);
                for step in &planned.steps {
                    let cached = project.known_layers(step)?.is_some();
                    let fetch = if cached { 0 } else { project.bytes_to_fetch(step) };
                    to_do += usize::from(!cached);
                    to_fetch += fetch;
                    let state = match (cached, fetch) {
                        (true, _) => "in the store".to_owned(),
                        (false, 0) => "to do".to_owned(),
                        (false, fetch) => format!("to do, {} to fetch", size::format(fetch)),
                    };
                    let bytes = if step.bytes > 0 { size::format(step.bytes) } else { String::new() };
                    rows.push(vec![format!("  {}", step.name), bytes, needs(&step.task).to_owned(), state]);
                    steps_json.push(json!({
                        "image": planned.image.name,
                        "platform": planned.platform,
                        "step": step.name,
                        "key": step.key,
                        "bytes": step.bytes,
                        "cached": cached,
                        "fetch": fetch,
                    }));
                }
            }
            let sum = match to_do {
                0 => "nothing to do".to_owned(),
                steps => format!("{} to do, {} to fetch", count(steps, "step"), size::format(to_fetch)),
            };
            Ok((format!("{}\n{sum}\n", table(&rows)), json!({ "steps": steps_json })))
        })?;
        if global.json { print_json(&value) } else { print(&text) }
    }
}

/// What a step needs besides wheels and files: neither the base's bytes nor the platform's processor, in this release.
fn needs(task: &Task) -> &'static str {
    match task {
        Task::Wheels(_) => "wheels",
        Task::Files(_) => "base facts",
        Task::Copy(_) => "project files",
    }
}
