//! `kiln plan`

use clap::Args;
use kiln_engine::{CopyPlan, ImagePlan, Needs, State, StepPlan, Upgrade};
use kiln_oci::names;
use kiln_plan::event::Cancel;
use kiln_plan::size;
use serde_json::json;

use super::{Outcome, count, print, print_json, table, with_project};
use crate::arguments::{Global, StackOptions};

/// Say what a build would do: for every step whether it is in the store, in the registry or to be done, and why
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Images [default: all]
    images: Vec<String>,
    /// List the files that copies take instead, and those that they leave out, with the rules that say so
    #[arg(long)]
    files: bool,
    #[command(flatten)]
    stack: StackOptions,
}

impl Plan {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        if self.files {
            return self.list_files(global, cancel);
        }
        let plans = with_project(global, &self.stack, cancel, |project| {
            project.chosen(&self.images)?;
            let lock = project.lock(&Upgrade::Nothing, true)?;
            Ok(project.plan(&self.images, &lock)?)
        })?;
        if global.json {
            return print_json(&json!({ "images": plans }));
        }
        let several = plans.iter().any(|plan| plan.platform != plans[0].platform);
        let mut rows = Vec::new();
        for plan in &plans {
            rows.push(vec![format!("{} ({})", plan.image, plan.platform)]);
            rows.extend(plan.base.iter().chain(&plan.steps).map(row));
            if let State::DependsOn(on) = &plan.result {
                rows.push(vec!["  image".into(), String::new(), String::new(), format!("depends on {}", some_of(on))]);
            }
        }
        let summaries: Vec<String> = plans.iter().map(|plan| summary(plan, several)).collect();
        print(&format!("{}\n{}\n", table(&rows), summaries.join(" · ")))
    }
}

impl Plan {
    fn list_files(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let plans = with_project(global, &self.stack, cancel, |project| Ok(project.plan_files(&self.images)?))?;
        if global.json {
            return print_json(&json!({ "copies": plans }));
        }
        if plans.is_empty() {
            return print("no files of the project are copied\n");
        }
        print(&plans.iter().map(files).collect::<Vec<_>>().join("\n"))
    }
}

/// Returns what a copy takes, a line for each path, and what it leaves out.
fn files(plan: &CopyPlan) -> String {
    let mut rows = Vec::new();
    for file in &plan.files {
        let size = if file.kind == "file" { size::format(file.size) } else { file.kind.to_owned() };
        let path = if file.path.is_empty() { "." } else { file.path.as_str() };
        let path = String::from_utf8_lossy(&names::bytes(path)).replace(char::is_control, "\u{fffd}");
        rows.push(vec![format!("  {path}"), file.mode.clone().unwrap_or_default(), format!("{size:>9}")]);
    }
    let decided = plan.decided.iter().map(|decided| {
        let verb = if decided.is_kept { "kept" } else { "left out" };
        format!("  {verb}: {} by {}\n", decided.path.display(), decided.rule)
    });
    format!("{}: copy {} to {}\n{}{}", plan.image, plan.from, plan.to, table(&rows), decided.collect::<String>())
}

fn row(step: &StepPlan) -> Vec<String> {
    let bytes = if step.bytes > 0 { size::format(step.bytes) } else { String::new() };
    vec![format!("  {}", step.name), format!("{bytes:>8}"), needs(step.needs).to_owned(), state(step)]
}

/// What a step needs besides what goes into it.
fn needs(needs: Needs) -> &'static str {
    match (needs.base_bytes, needs.cpu) {
        (false, false) => "",
        (true, false) => "needs base bytes",
        (false, true) => "needs the platform's CPU",
        (true, true) => "needs base bytes and the platform's CPU",
    }
}

fn state(step: &StepPlan) -> String {
    let because = match step.reasons.as_slice() {
        [] => String::new(),
        reasons => format!(": {}", reasons.join(", ")),
    };
    let fetch = if step.fetch > 0 { format!("; {} to fetch", size::format(step.fetch)) } else { String::new() };
    let dated = step.notes.first().map(|date| format!(", {date}")).unwrap_or_default();
    match &step.state {
        State::Here => format!("in the store{dated}"),
        State::Cached => format!("in the registry{dated}"),
        State::ToDo => format!("to do{because}{fetch}{}", time(step.seconds)),
        State::DependsOn(on) => {
            format!("depends on {}{because}{fetch}{}", some_of(on), time(step.seconds))
        }
    }
}

fn some_of(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(3).map(String::as_str).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => String::new(),
        Some(seconds) if seconds < 0.95 => ", under a second".into(),
        Some(seconds) if seconds < 100.0 => format!(", about {seconds:.0} s"),
        Some(seconds) => format!(", about {:.0} min", seconds / 60.0),
    }
}

/// `train: 2 packages changed, +38 MB, about 4 s`
fn summary(plan: &ImagePlan, several: bool) -> String {
    let title = if several { format!("{} ({})", plan.image, plan.platform) } else { plan.image.clone() };
    let all = || plan.base.iter().chain(&plan.steps);
    let changed = changed(plan);
    let said = if let (true, State::DependsOn(on)) = (all().all(|step| step.state.is_known()), &plan.result) {
        format!("depends on {}", some_of(on))
    } else if plan.result == State::ToDo {
        changed.unwrap_or_else(|| "to be put together and checked".into())
    } else if all().all(|step| step.state.is_known()) {
        match (changed, all().any(|step| step.state == State::Cached)) {
            (Some(changed), _) => changed,
            (None, true) => "cached in registry".into(),
            (None, false) => "unchanged".into(),
        }
    } else {
        let to_do = all().filter(|step| !step.state.is_known()).count();
        let what = changed.unwrap_or_else(|| format!("{} to do", count(to_do, "step")));
        let fetch = if plan.fetch > 0 { format!(", +{}", size::format(plan.fetch)) } else { String::new() };
        format!("{what}{fetch}{}", time(plan.seconds))
    };
    format!("{title}: {said}")
}

/// What changed, in a few words; nothing where nothing did or where it was never built.
fn changed(plan: &ImagePlan) -> Option<String> {
    let changes = plan.changes.as_ref().filter(|changes| !changes.is_empty())?;
    let packages = changes.iter().filter(|change| change.what == "packages").count();
    let mut parts = Vec::new();
    if packages > 0 {
        parts.push(count(packages, "package"));
    }
    for kind in ["base", "copy"] {
        parts.extend(changes.iter().any(|change| change.what == kind).then(|| kind.to_owned()));
    }
    let settings = changes.iter().filter(|change| change.name.is_empty()).count();
    if settings > 0 {
        parts.push(count(settings, "setting"));
    }
    Some(format!("{} changed", parts.join(", ")))
}
