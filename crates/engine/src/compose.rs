//! From layers to an image: config, history, manifest.

use kiln_oci::image::{CONFIG, Config, Descriptor, History, Image, Manifest, to_json};
use kiln_oci::layer::Layer;
use kiln_plan::platform::Platform;
use kiln_plan::stack::{self, Environment, User};

use crate::error::{BuildError, Result};
use crate::project::Project;
use crate::steps::{MAX_LAYERS, Step};

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

/// Seconds since 1970 as RFC 3339 in UTC.
pub(crate) fn timestamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (mut year, mut day) = (1970, days);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while day >= if leap(year) { 366 } else { 365 } {
        day -= if leap(year) { 366 } else { 365 };
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}T{:02}:{:02}:{:02}Z", day + 1, rest / 3600, rest / 60 % 60, rest % 60)
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
    }
}
