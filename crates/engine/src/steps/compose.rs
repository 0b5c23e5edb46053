//! `compose`: config, history and manifest of an image, onto what it stands on. It takes no time and is never recorded.

use std::collections::BTreeMap;

use kiln_oci::image::{CONFIG, Config, Descriptor, History, Image, Manifest, from_json, to_json};
use kiln_oci::layer::Layer;
use kiln_plan::gpu::DriverVersion;
use kiln_plan::platform::Platform;
use kiln_plan::stack::{self, User};
use serde::Serialize;

use crate::context::Context;
use crate::error::{ProjectError, Result};
use crate::node::Node;
use crate::product::{Conflicts, OldestDriver, Verdict, Wheel};
use crate::step::{Cost, Keep, Kind, Level, Read, Step, Subject};
use crate::time::rfc3339;

/// Layers that an image has at most, base included: Docker refuses more than 125.
pub(crate) const MAX_LAYERS: usize = 100;

/// The label that names the oldest Linux driver that an image runs on.
const DRIVER: &str = "kiln.driver.oldest";

/// Layers of one step, and their line in the history.
#[derive(Serialize)]
pub(crate) struct Made {
    pub(crate) layers: Node<Vec<Layer>>,
    pub(crate) history: String,
    /// Its wheels whose GPU code may be cut.
    pub(crate) pruned: Vec<Node<Wheel>>,
}

/// The stack's settings for running an image.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Settings {
    /// The image has a virtual environment.
    pub(crate) venv: bool,
    pub(crate) timezone: Option<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) user: Option<String>,
    pub(crate) workdir: Option<String>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) command: Option<Vec<String>>,
    pub(crate) labels: BTreeMap<String, String>,
}

impl Settings {
    pub(crate) fn of(image: &stack::Image, venv: bool) -> Self {
        let user = image.user.as_ref().map(|user| match user {
            User::Existing(name) | User::Create { name, .. } => name.clone(),
        });
        Self {
            venv,
            timezone: image.timezone.clone(),
            env: image.env.clone(),
            user,
            workdir: image.workdir.clone(),
            entrypoint: image.entrypoint.clone(),
            command: image.command.clone(),
            labels: image.labels.clone(),
        }
    }

    fn apply(&self, config: &mut Config) {
        if self.venv {
            const BIN: &str = "/opt/venv/bin";
            let path = config.env("PATH").unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
            if !path.split(':').any(|part| part == BIN) {
                let path = format!("{BIN}:{path}");
                config.set_env("PATH", &path);
            }
            config.set_env("VIRTUAL_ENV", "/opt/venv");
        }
        if let Some(zone) = &self.timezone {
            config.set_env("TZ", zone);
        }
        for (name, value) in &self.env {
            config.set_env(name, value);
        }
        let run = &mut config.config;
        run.user = self.user.clone().unwrap_or_else(|| std::mem::take(&mut run.user));
        run.working_dir = self.workdir.clone().unwrap_or_else(|| std::mem::take(&mut run.working_dir));
        if let Some(entrypoint) = &self.entrypoint {
            run.entrypoint.clone_from(entrypoint);
            run.cmd.clear();
        }
        if let Some(command) = &self.command {
            run.cmd.clone_from(command);
        }
        run.labels.extend(self.labels.clone());
    }
}

/// An image on one platform.
#[derive(Serialize)]
pub(crate) struct Compose {
    pub(crate) platform: Platform,
    /// The image or base below; `None` for `scratch`.
    pub(crate) below: Option<Node<Image>>,
    /// Its own layers, the lowest first.
    pub(crate) made: Vec<Made>,
    pub(crate) settings: Settings,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// Checks that fail where layers contradict one another.
    pub(crate) conflicts: Vec<Node<Conflicts>>,
    pub(crate) agreement: Option<Node<Verdict>>,
    /// The drivers that its layers need, where its GPU code is looked at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) drivers: Vec<Node<OldestDriver>>,
    #[serde(skip)]
    pub(crate) subject: Subject,
}

impl Step for Compose {
    type Product = Image;
    const KIND: Kind = Kind { name: "compose", version: 1 };

    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn reads(&self) -> Vec<Read> {
        let layers = self.made.iter().map(|made| made.layers.at(Level::Reachable));
        let pruned = self.made.iter().flat_map(|made| &made.pruned).map(|node| node.at(Level::Known));
        let checks = self.conflicts.iter().map(|node| node.at(Level::Known));
        let checks = checks.chain(self.agreement.map(|node| node.at(Level::Known)));
        let checks = checks.chain(self.drivers.iter().map(|node| node.at(Level::Known)));
        self.below.map(|node| node.at(Level::Known)).into_iter().chain(layers).chain(pruned).chain(checks).collect()
    }

    fn cost(&self) -> Cost {
        Cost::Inline
    }

    fn keep(&self) -> Keep {
        Keep::Never
    }

    fn perform(&self, context: &Context<'_>) -> Result<Image> {
        let store = context.workshop.store;
        let below = self.below.map(|node| context.get(node));
        let mut config = match below {
            Some(image) => from_json(&store.read(&image.config)?, "a config")?,
            None => Config::scratch(self.platform),
        };
        config.say_platform(self.platform);
        let mut layers = below.map_or_else(Vec::new, |image| image.layers.clone());
        config.complete_history();
        config.created = Some(rfc3339(self.created));
        for made in &self.made {
            for layer in context.get(made.layers) {
                config.rootfs.diff_ids.push(layer.diff_id);
                config.history.push(History {
                    created: config.created.clone(),
                    created_by: Some(self.history(context, made)),
                    ..History::default()
                });
                layers.push(layer.clone());
            }
        }
        if layers.len() > MAX_LAYERS {
            return Err(ProjectError::TooManyLayers {
                image: self.subject.to_string(),
                layers: layers.len(),
                most: MAX_LAYERS,
            }
            .into());
        }
        self.label(context, &mut config);
        self.settings.apply(&mut config);
        let config_bytes = to_json(&config)?;
        let manifest_bytes = to_json(&Manifest::new(Descriptor::of(CONFIG, &config_bytes), &layers))?;
        Ok(Image {
            platform: self.platform,
            config: store.add(&config_bytes)?,
            manifest: store.add(&manifest_bytes)?,
            manifest_size: manifest_bytes.len() as u64,
            layers,
        })
    }
}

impl Compose {
    /// Says which driver the image needs, with what is below it: what the stack says itself stays.
    fn label(&self, context: &Context<'_>, config: &mut Config) {
        let labels = &mut config.config.labels;
        let below: Option<DriverVersion> = labels.get(DRIVER).and_then(|text| text.parse().ok());
        let own = self.drivers.iter().filter_map(|node| context.get(*node).0.clone());
        if let Some(oldest) = own.chain(below).max() {
            labels.insert(DRIVER.to_owned(), oldest.to_string());
        }
    }

    /// Returns the line of the history: with the GPU code that stayed, where some was cut.
    fn history(&self, context: &Context<'_>, made: &Made) -> String {
        let mut kept: Vec<&str> = made.pruned.iter().filter_map(|node| context.get(*node).kept.as_deref()).collect();
        kept.sort_unstable();
        kept.dedup();
        match kept.is_empty() {
            true => made.history.clone(),
            false => format!("{}; GPU code cut to {}", made.history, kept.join("; ")),
        }
    }
}
