//! From layers to an image: config, history, manifest.

use std::time::{Duration, SystemTime};

use kiln_oci::image::{CONFIG, Config, Descriptor, History, Image, Manifest, to_json};
use kiln_oci::layer::Layer;
use kiln_plan::platform::Platform;
use kiln_plan::stack::{self, Environment, User};

use crate::error::{BuildError, Result};
use crate::project::Project;
use crate::steps::{MAX_LAYERS, Step};

/// The last second of the year 9999, counted from 1970.
const LAST_SECOND: u64 = 253_402_300_799;

/// What the config's history of an image is written from: each layer and how it came to be.
pub(crate) type Made = Vec<(Layer, String)>;

/// Pairs the layers of steps with their history.
pub(crate) fn made(steps: &[Step], layers: Vec<Vec<Layer>>) -> Made {
    let pairs = steps.iter().zip(layers);
    pairs.flat_map(|(step, layers)| layers.into_iter().map(|layer| (layer, step.history.clone()))).collect()
}

impl Project<'_> {
    /// Composes an image onto what it stands on.
    pub(crate) fn compose(
        &self,
        image: &stack::Image,
        platform: Platform,
        below: Option<&Image>,
        mut config: Config,
        made: Made,
        has_packages: bool,
    ) -> Result<(Image, Config)> {
        let mut layers = below.map_or_else(Vec::new, |below| below.layers.clone());
        config.complete_history();
        config.created = Some(timestamp(self.surroundings.created));
        for (layer, by) in made {
            config.rootfs.diff_ids.push(layer.diff_id);
            config.history.push(History {
                created: config.created.clone(),
                created_by: Some(by),
                ..History::default()
            });
            layers.push(layer);
        }
        if layers.len() > MAX_LAYERS {
            return Err(BuildError::Project(format!(
                "the image `{}` would have {} layers, and {MAX_LAYERS} is the most that runtimes take: use fewer `copy` \
                 entries, or a larger `max-layer-size`",
                image.name,
                layers.len()
            )));
        }
        settings(image, &mut config, has_packages);
        let config_bytes = to_json(&config)?;
        let manifest_bytes = to_json(&Manifest::new(Descriptor::of(CONFIG, &config_bytes), &layers))?;
        let composed = Image {
            platform,
            config: self.store.add(&config_bytes)?,
            manifest: self.store.add(&manifest_bytes)?,
            manifest_size: manifest_bytes.len() as u64,
            layers,
        };
        Ok((composed, config))
    }
}

/// What the stack says about running the image, onto what is inherited.
fn settings(image: &stack::Image, config: &mut Config, has_packages: bool) {
    if has_packages && image.environment == Environment::Venv {
        const BIN: &str = "/opt/venv/bin";
        let path = config.env("PATH").unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        if !path.split(':').any(|part| part == BIN) {
            let path = format!("{BIN}:{path}");
            config.set_env("PATH", &path);
        }
        config.set_env("VIRTUAL_ENV", "/opt/venv");
    }
    if let Some(zone) = &image.timezone {
        config.set_env("TZ", zone);
    }
    for (name, value) in &image.env {
        config.set_env(name, value);
    }
    let run = &mut config.config;
    match &image.user {
        Some(User::Existing(name)) => run.user.clone_from(name),
        Some(User::Create { name, .. }) => run.user.clone_from(name),
        None => {}
    }
    if let Some(workdir) = &image.workdir {
        run.working_dir.clone_from(workdir);
    }
    if let Some(entrypoint) = &image.entrypoint {
        run.entrypoint.clone_from(entrypoint);
        run.cmd.clear();
    }
    if let Some(command) = &image.command {
        run.cmd.clone_from(command);
    }
    run.labels.extend(image.labels.clone());
}

/// Seconds since 1970 as RFC 3339 in UTC. The format ends with the year 9999, and so do later times.
pub(crate) fn timestamp(seconds: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND));
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(kiln_oci::FILE_TIME), "1980-01-01T00:00:00Z");
        assert_eq!(timestamp(1_709_210_096), "2024-02-29T12:34:56Z");
        assert_eq!(timestamp(1_735_689_599), "2024-12-31T23:59:59Z");
        assert_eq!(timestamp(LAST_SECOND), "9999-12-31T23:59:59Z");
        assert_eq!(timestamp(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
