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
    /// The image; what it stands on is explained too
    image: String,
    #[command(flatten)]
    stack: StackOptions,
}

impl Explain {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let explanations = with_project(global, &self.stack, cancel, |project| {
            let names = std::slice::from_ref(&self.image);
            project.chosen(names)?;
            let lock = project.lock(&Upgrade::Nothing, true)?;
            Ok(project.explain(names, &lock)?)
        })?;
        if global.json {
            return print_json(&json!({ "images": explanations }));
        }
        // The image that was asked for stands first, and below it what it stands on, the nearest first.
        let mut text = String::new();
        let several = explanations.iter().any(|one| one.platform != explanations[0].platform);
        let mut platforms = Vec::new();
        for one in &explanations {
            if !platforms.contains(&one.platform) {
                platforms.push(one.platform);
            }
        }
        if !explanations.iter().any(|one| one.image == self.image) {
            text = format!("{}: unknown until what it depends on is built\n", self.image);
        }
        for platform in platforms {
            let chain: Vec<&Explanation> = explanations.iter().rev().filter(|one| one.platform == platform).collect();
            text.push_str(&describe(&chain, several));
        }
        print(&text)
    }
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
