//! `kiln explain`

use std::collections::BTreeMap;

use clap::Args;
use kiln_engine::{Change, Explanation, Upgrade};
use kiln_plan::event::Cancel;
use serde_json::json;

use super::{Outcome, print, print_json, with_project};
use crate::arguments::{Global, StackOptions};

/// Say why an image would be built again, or was: which input changed, its old and new value, and the line that says so
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Images; what they stand on is explained too
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    #[command(flatten)]
    stack: StackOptions,
}

impl Explain {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let explanations = with_project(global, &self.stack, cancel, |project| {
            project.chosen(&self.images)?;
            let lock = project.lock(&Upgrade::Nothing, true)?;
            let explain = |name| project.explain(std::slice::from_ref(name), &lock);
            Ok(self.images.iter().map(explain).collect::<Result<Vec<_>, _>>()?)
        })?;
        if global.json {
            let all: Vec<Explanation> = explanations.into_iter().flatten().collect();
            return print_json(&json!({ "images": all }));
        }
        print(&explanations.iter().map(|one| of_platforms(one)).collect::<String>())
    }
}

/// Explains an image on its platforms: it stands first, and below it what it stands on, the nearest first.
fn of_platforms(explanations: &[Explanation]) -> String {
    let several = explanations.iter().any(|one| one.platform != explanations[0].platform);
    let mut platforms = Vec::new();
    for one in explanations {
        if !platforms.contains(&one.platform) {
            platforms.push(one.platform);
        }
    }
    let chain =
        |platform| -> Vec<&Explanation> { explanations.iter().rev().filter(|one| one.platform == platform).collect() };
    platforms.into_iter().map(|platform| describe(&chain(platform), several)).collect()
}

fn describe(chain: &[&Explanation], several: bool) -> String {
    let Some((image, above)) = chain.split_first() else { return String::new() };
    let title = |one: &Explanation| match several {
        true => format!("{} ({})", one.image, one.platform),
        false => one.image.clone(),
    };
    let unchanged = |one: &&&Explanation| one.changes.as_ref().is_some_and(Vec::is_empty);
    let mut text = explain(&title(image), image);
    if above.is_empty() {
        return text;
    }
    if above.iter().filter(unchanged).count() == above.len() {
        text.push_str("everything above unchanged\n");
        return text;
    }
    for one in above {
        text.push_str(&explain(&title(one), one));
    }
    text
}

fn explain(title: &str, one: &Explanation) -> String {
    let mut text = changes(title, one);
    for taken in &one.taken {
        text.push_str(&format!("  {}\n", taken.command));
        taken.notes.iter().for_each(|note| text.push_str(&format!("    {note}\n")));
    }
    text
}

fn changes(title: &str, one: &Explanation) -> String {
    if let Some(unknown) = &one.unknown {
        let known = one.changes.as_deref().unwrap_or_default();
        let more = if known.is_empty() { "" } else { "; besides:" };
        return format!("{title}: {unknown}; `kiln build` finds out what changed{more}\n{}", listed(known));
    }
    match &one.changes {
        None => format!("{title}: never built here, and nobody is known to have pushed it\n"),
        Some(changes) if !changes.is_empty() => format!("{title}:\n{}", listed(changes)),
        Some(_) => match one.before.as_deref() {
            None | Some([]) => format!("{title}: nothing changed since it was built\n"),
            Some(before) => format!("{title}: nothing changed since it was built; before that\n{}", listed(before)),
        },
    }
}

/// A line for each kind of change.
fn listed(changes: &[Change]) -> String {
    let mut kinds: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for change in changes {
        kinds.entry(&change.what).or_default().push(change.to_string());
    }
    kinds.iter().map(|(kind, changes)| format!("  {kind}: {}\n", changes.join(", "))).collect()
}
