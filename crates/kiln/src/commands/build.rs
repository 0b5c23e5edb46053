//! `kiln build`

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use kiln_engine::{BuildError, Built, Commands, Delivered, Delivery, Output, Pushed, Upgrade, UserTerminal};
use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::event::{Cancel, Reporter};
use kiln_plan::size;
use serde_json::json;

use super::{Outcome, count, json_text, print_beside, read_stack, require_one_stdout, with_reported_project};
use crate::arguments::{Global, StackOptions};
use crate::render::Failure;
use crate::shell::{self, FailureShell};
use crate::steps::StepList;

/// Build images: lock what is missing, fetch wheels, splice layers, compose
#[derive(Debug, Args)]
pub(crate) struct Build {
    /// Images to build [default: all]
    images: Vec<String>,
    /// Destination of the images: `oci:DIR` (an OCI layout), `oci-archive:FILE` or `docker-archive:FILE` (`-` is stdout); several
    /// times for several places
    #[arg(short, long, value_name = "OUTPUT")]
    output: Vec<Output>,
    /// Load the images into the Docker daemon
    #[arg(long)]
    load: bool,
    /// Push the images to their registry, and share results with those who use the same cache
    #[arg(long)]
    push: bool,
    /// Fail rather than change `kiln.lock`
    #[arg(long)]
    locked: bool,
    /// After a failure, make and deliver what does not depend on it
    #[arg(long)]
    keep_going: bool,
    /// Perform a command again though its result is known: `IMAGE` means all commands of an image, `IMAGE:2` its second; several
    /// times for several commands
    #[arg(long, value_name = "STEP")]
    no_cache: Vec<String>,
    /// Perform every command twice, also where its result is known, and fail if it does not change the same both times
    #[arg(long)]
    twice: bool,
    /// Open a shell where a command fails: with its files, environment, user and working directory; the build goes on to fail
    /// when the shell ends
    #[arg(long)]
    shell_on_failure: bool,
    /// The stack as it stands and every variant, one after the other: into the store, with `--push` or `--load` to where
    /// their tags say; `--output` takes one `--variant`
    #[arg(long, conflicts_with = "variant")]
    all_variants: bool,
    #[command(flatten)]
    stack: StackOptions,
}

impl Build {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let outputs: Vec<Output> = self.output.iter().cloned().chain(self.load.then_some(Output::Docker)).collect();
        require_one_stdout(&outputs)?;
        if self.shell_on_failure {
            shell::require_terminal()?;
        }
        if !self.all_variants {
            return self.build(&self.stack, &outputs, global, cancel);
        }
        if !self.output.is_empty() {
            return Err(BuildError::Mistake {
                message: "`--all-variants` takes no `--output`: the images of all variants have the same names".into(),
                hint: "build each into a place of its own, `--variant NAME --output oci:NAME`; `--push` and `--load` tell them \
                       apart by their tags"
                    .into(),
            }
            .into());
        }
        let variants = self.variants(global)?;
        for options in variants {
            self.build(&options, &outputs, global, cancel)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Returns the options of the stack as it stands and of each variant. Variants whose images have one tag would take it from
    /// one another.
    fn variants(&self, global: &Global) -> Result<Vec<StackOptions>, Failure> {
        let (text, stack) = read_stack(global, &self.stack)?;
        let mut all = vec![self.stack.clone()];
        all.extend(
            stack.variants.iter().map(|name| StackOptions { variant: Some(name.clone()), ..self.stack.clone() }),
        );
        let mut tags: BTreeMap<String, Option<String>> = BTreeMap::new();
        for options in all.iter().filter(|_| self.push || self.load) {
            let (_, stack) = read_stack(global, options)?;
            for image in stack.images.iter().filter(|image| image.publish) {
                let repository = image.repository.as_ref().map_or_else(|| image.name.clone(), ToString::to_string);
                for tag in &image.tags {
                    if tags.insert(format!("{repository}:{tag}"), options.variant.clone()).is_some() {
                        let message = format!("several variants of `{}` have the tag `{tag}`", image.name);
                        let hint = "write the variant into it: `tags = [\"1.0-${variant}\"]`";
                        let diagnostic = Diagnostic::at(image.span.clone(), message).hint(hint);
                        return Err(Failure::from(Diagnostics::from(diagnostic))
                            .in_stack(&global.file.display().to_string(), &text));
                    }
                }
            }
        }
        Ok(all)
    }

    fn build(&self, options: &StackOptions, outputs: &[Output], global: &Global, cancel: &Cancel) -> Outcome {
        let steps = Arc::new(StepList::new(global));
        let reporter: Arc<dyn Reporter> = steps.clone();
        let shell: Box<dyn UserTerminal> = Box::new(FailureShell::new(steps.clone()));
        with_reported_project(global, options, cancel, reporter, |project| {
            for image in project.chosen(&self.images)? {
                // Before anything is done: where it is to go must be known.
                let is_wanted = if self.images.is_empty() { image.publish } else { self.images.contains(&image.name) };
                if self.push && is_wanted {
                    project.repository(image)?;
                }
            }
            // Of a build that failed, this was delivered.
            let part = RefCell::new(Delivered::default());
            let delivered = project.workshop.mending(|| {
                let lock = project.lock(&Upgrade::Nothing, self.locked)?;
                let commands = Commands {
                    again: &self.no_cache,
                    twice: self.twice,
                    shell: self.shell_on_failure.then_some(&*shell),
                };
                let delivery = Delivery { outputs, push: self.push, keep_going: self.keep_going, commands };
                let mut delivered = project.deliver(&self.images, &lock, delivery)?;
                match delivered.failure.take() {
                    None => Ok(delivered),
                    Some(error) => {
                        part.replace(delivered);
                        Err(error)
                    }
                }
            });
            let (delivered, failure) = match delivered {
                Ok(delivered) => (delivered, None),
                Err(error) => (part.into_inner(), Some(error)),
            };
            let text = match global.json {
                true => {
                    let mut document = delivered_json(&delivered, project.workshop.moved());
                    document["steps"] = steps.json().into();
                    if self.all_variants {
                        document["variant"] = options.variant.clone().into();
                    }
                    if let Some(error) = &failure {
                        document["failure"] = error.to_string().into();
                    }
                    json_text(&document)
                }
                false => {
                    let heading = self.all_variants.then(|| match &options.variant {
                        Some(variant) => format!("{variant}:\n"),
                        None => "default:\n".to_owned(),
                    });
                    let built = heading.into_iter().chain(delivered.built.iter().map(line));
                    built.chain(delivered.pushed.iter().map(pushed_line)).collect()
                }
            };
            match failure {
                None => print_beside(outputs, &text),
                Some(error) => {
                    if !delivered.built.is_empty() {
                        print_beside(outputs, &text)?;
                    }
                    Err(error.into())
                }
            }
        })
    }
}

fn delivered_json(delivered: &Delivered, (sent, received): (u64, u64)) -> serde_json::Value {
    let images: Vec<_> = delivered.built.iter().map(image_json).collect();
    let mut document = json!({ "images": images });
    if !delivered.pushed.is_empty() {
        let pushed: Vec<_> = delivered.pushed.iter().map(pushed_json).collect();
        document["pushed"] = pushed.into();
        document["shared"] = json!(delivered.shared);
        document["network"] = json!({ "sent": sent, "received": received });
    }
    document
}

/// `pushed ghcr.io/acme/arr/train:0123456789abcdef, latest: 38 MB sent, 2.67 GB were there`
pub(crate) fn pushed_line(pushed: &Pushed) -> String {
    let mut moved: Vec<String> = Vec::new();
    for (bytes, how) in [(pushed.sent, "sent"), (pushed.mounted, "mounted"), (pushed.there, "were there")] {
        if bytes > 0 {
            moved.push(format!("{} {how}", size::format(bytes)));
        }
    }
    let moved = if moved.is_empty() { String::new() } else { format!(": {}", moved.join(", ")) };
    let called = match pushed.tags.as_slice() {
        [] if !pushed.kept.is_empty() => format!("@{}", pushed.index),
        [] => {
            let manifests = pushed.manifests.iter();
            let manifests: Vec<String> =
                manifests.map(|(platform, digest)| format!("@{digest} ({platform})")).collect();
            format!("{} without a tag, for `kiln index {}`", manifests.join(", "), pushed.name)
        }
        tags => format!(":{}", tags.join(", ")),
    };
    format!("pushed {}{called}{moved}\n", pushed.repository)
}

pub(crate) fn pushed_json(pushed: &Pushed) -> serde_json::Value {
    let manifests: Vec<_> =
        pushed.manifests.iter().map(|(platform, digest)| json!({ "platform": platform, "manifest": digest })).collect();
    json!({
        "name": pushed.name,
        "repository": pushed.repository,
        "digest": pushed.index,
        "tags": pushed.tags,
        "kept-tags": pushed.kept,
        "manifests": manifests,
        "sent": pushed.sent,
        "mounted": pushed.mounted,
        "there": pushed.there,
    })
}

/// `torch sha256:0123... 2.71 GB in 19 layers (unchanged)`
pub(super) fn line(built: &Built) -> String {
    let (layers, bytes, platforms) = built.extent();
    let platforms = match platforms {
        1 => String::new(),
        count => format!(" for {count} platforms"),
    };
    let unchanged = if built.unchanged { " (unchanged)" } else { "" };
    let size = size::format(bytes);
    format!("{} {} {size} in {}{platforms}{unchanged}\n", built.name, built.digest, count(layers, "layer"))
}

pub(super) fn image_json(built: &Built) -> serde_json::Value {
    let platforms: Vec<_> = built
        .images
        .iter()
        .map(|image| {
            json!({
                "platform": image.platform,
                "manifest": image.manifest,
                "config": image.config,
                "layers": image.layers,
            })
        })
        .collect();
    json!({ "name": built.name, "digest": built.digest, "unchanged": built.unchanged, "platforms": platforms })
}
