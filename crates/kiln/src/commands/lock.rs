//! `kiln lock`

use clap::Args;
use kiln_engine::Upgrade;
use kiln_plan::event::Cancel;
use serde_json::json;

use super::{Outcome, count, print, print_json, with_project};
use crate::arguments::{Global, StackOptions};

/// Resolve bases and packages, and write `kiln.lock`; what fits the stack stays as it is
#[derive(Debug, Args)]
pub(crate) struct LockCommand {
    /// Choose anew: everything, or only these packages
    #[arg(long, value_name = "PACKAGE", num_args = 0.., value_delimiter = ',')]
    upgrade: Option<Vec<String>>,
    /// Fail if the lock does not fit the stack, and write nothing
    #[arg(long, conflicts_with = "upgrade")]
    check: bool,
    #[command(flatten)]
    stack: StackOptions,
}

impl LockCommand {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let upgrade = match self.upgrade.as_deref() {
            None => Upgrade::Nothing,
            Some([]) => Upgrade::Everything,
            Some(names) => {
                let normal = |name: &String| kiln_wheel::name_of(name).map_or_else(|| name.clone(), |n| n.to_string());
                Upgrade::Packages(names.iter().map(normal).collect())
            }
        };
        let locked = |options: &StackOptions| {
            with_project(global, options, cancel, |project| {
                let lock = project.workshop.mending(|| project.lock(&upgrade, self.check))?;
                Ok((lock, project.lock_path(), project.stack.variants.clone()))
            })
        };
        let (mut lock, path, variants) = locked(&self.stack)?;
        if self.stack.variant.is_none() && self.stack.vars.is_empty() {
            for variant in variants {
                let (more, ..) = locked(&StackOptions { variant: Some(variant), ..self.stack.clone() })?;
                lock.images.extend(more.images.into_iter().filter(|image| !image.variant.is_empty()));
            }
        }
        let packages = |name: &str| {
            let named = lock.images.iter().filter(|image| image.name == name);
            named.map(|image| image.packages.len()).max().unwrap_or(0)
        };
        if global.json {
            let images: Vec<_> = lock
                .images
                .iter()
                .map(|image| {
                    let (name, platform, variant) = (&image.name, image.platform, &image.variant);
                    json!({ "name": name, "platform": platform, "variant": variant, "packages": image.packages })
                })
                .collect();
            return print_json(&json!({ "lock": path, "images": images }));
        }
        let mut names: Vec<&str> = lock.images.iter().map(|image| image.name.as_str()).collect();
        names.dedup();
        names.sort_unstable();
        names.dedup();
        let list: Vec<String> =
            names.iter().map(|name| format!("{name} ({})", count(packages(name), "package"))).collect();
        print(&format!("{}: {}\n", path.display(), list.join(", ")))
    }
}
