//! `compose`: config, history and manifest of an image, onto what it stands on. It takes no time and is never recorded.

use std::collections::BTreeMap;

use kiln_oci::image::{CONFIG, Config, Descriptor, History, Image, Manifest, from_json, to_json};
use kiln_oci::layer::Layer;
use kiln_plan::gpu::DriverVersion;
use kiln_plan::platform::Platform;
use serde::Serialize;

use crate::context::Context;
use crate::error::{ProjectError, Result};
use crate::node::Node;
use crate::product::{Conflicts, OldestDriver, Verdict, Wheel};
use crate::settings::Settings;
use crate::step::{Cost, Keep, Kind, Level, Read, Step, Subject};
use crate::time::rfc3339;
use crate::verify::CUT;

/// Layers that an image has at most, base included (`maxLayerDepth` of Docker's layer store).
pub(crate) const MAX_LAYERS: usize = 125;

/// The labels that name the oldest Linux driver that an image runs on, and the last branch, where its GPUs have one.
const DRIVER: &str = "kiln.driver.oldest";
const LAST_DRIVER: &str = "kiln.driver.last";

/// Layers of one step, and their line in the history.
#[derive(Serialize)]
pub(crate) struct Made {
    pub(crate) layers: Node<Vec<Layer>>,
    pub(crate) history: String,
    /// Its wheels whose GPU code may be cut.
    pub(crate) pruned: Vec<Node<Wheel>>,
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
    /// Checks that fail where wheels bring modules that the base has under other names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) modules: Vec<Node<Verdict>>,
    pub(crate) agreement: Option<Node<Verdict>>,
    /// The check that the program that it runs is there.
    pub(crate) program: Option<Node<Verdict>>,
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
        let checks = checks.chain(self.agreement.iter().chain(&self.program).map(|node| node.at(Level::Known)));
        let checks = checks.chain(self.modules.iter().map(|node| node.at(Level::Known)));
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
        config.created = Some(rfc3339(self.created));
        config.complete_history();
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
        if let Some(triggers) = config.clear_triggers() {
            context.workshop.warn(format!(
                "`{}` stands on a base with {triggers} ONBUILD instructions, which only a Dockerfile's build runs: they are left out",
                self.subject
            ));
        }
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
        let below = |label, labels: &BTreeMap<String, String>| -> Option<DriverVersion> {
            labels.get(label).and_then(|text| text.parse().ok())
        };
        let drivers: Vec<_> = self.drivers.iter().map(|node| context.get(*node)).collect();
        let oldest = drivers.iter().filter_map(|own| own.oldest.clone()).chain(below(DRIVER, labels)).max();
        let last = drivers.iter().filter_map(|own| own.last.clone()).chain(below(LAST_DRIVER, labels)).min();
        if drivers.iter().any(|own| own.unknown) {
            labels.remove(DRIVER);
        } else if let Some(oldest) = oldest {
            labels.insert(DRIVER.to_owned(), oldest.to_string());
        }
        labels.extend(last.map(|last| (LAST_DRIVER.to_owned(), last.to_string())));
    }

    /// Returns the line of the history: with the GPU code that stayed, where some was cut.
    fn history(&self, context: &Context<'_>, made: &Made) -> String {
        let mut kept: Vec<&str> = made.pruned.iter().filter_map(|node| context.get(*node).kept.as_deref()).collect();
        kept.sort_unstable();
        kept.dedup();
        match kept.is_empty() {
            true => made.history.clone(),
            false => format!("{}; {CUT} {}", made.history, kept.join("; ")),
        }
    }
}
