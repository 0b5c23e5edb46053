//! `kiln inspect`

mod gpu_code;

use std::path::Path;

use clap::Args;
use kiln_build::Upgrade;
use kiln_oci::image::{Config, Image, from_json};
use kiln_oci::layout::Layout;
use kiln_plan::event::Cancel;
use kiln_plan::size;
use kiln_wheel::install::{Scheme, Wheel};
use serde_json::{Value, json};

use super::{Outcome, print, print_json, table, with_project};
use crate::arguments::{Global, StackOptions};
use crate::render::Failure;

/// List what is in an OCI layout (`oci:DIR`), a wheel, or an image of the stack, and the GPU code of a library or of
/// everything in a directory
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// `oci:DIR`, a `.whl` file, the name of an image of the stack, or a library, `.fatbin`, `.cubin` or directory
    what: String,
    #[command(flatten)]
    stack: StackOptions,
}

impl Inspect {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let (text, value) = if let Some(path) = self.what.strip_prefix("oci:") {
            layout(Path::new(path))?
        } else if self.what.ends_with(".whl") {
            wheel(Path::new(&self.what))?
        } else if Path::new(&self.what).exists() {
            gpu_code::inspect(Path::new(&self.what), self.stack.gpus.as_deref().unwrap_or_default(), global)?
        } else {
            self.image(global, cancel)?
        };
        if global.json { print_json(&value) } else { print(&text) }
    }

    fn image(&self, global: &Global, cancel: &Cancel) -> Result<(String, Value), Failure> {
        let name = std::slice::from_ref(&self.what);
        with_project(global, &self.stack, cancel, |project| {
            let chain = project.chosen(name)?;
            let lock = project.lock(&Upgrade::Nothing, true)?;
            let mut shown = Shown::default();
            let Some(image) = chain.last() else { return Ok(shown.finish()) };
            if let Some((step, _)) = project.unknown_step(image, &lock)? {
                let message =
                    format!("`{}` is not built: `{step}` is neither in the store nor in the cache", self.what);
                return Err(Failure::usage(message).hint(format!("run `kiln build {}`", self.what)));
            }
            for image in &project.known_image(image, &lock)?.images {
                let config: Config = from_json(&project.store.read(&image.config)?, "a config")?;
                shown.add(&self.what, image, &config);
            }
            Ok(shown.finish())
        })
    }
}

fn layout(path: &Path) -> Result<(String, Value), Failure> {
    let mut shown = Shown::default();
    for (name, found) in Layout::open(path)?.images()? {
        shown.add(name.as_deref().unwrap_or("(no name)"), &found.image, &found.config);
    }
    Ok(shown.finish())
}

#[derive(Default)]
struct Shown {
    text: String,
    values: Vec<Value>,
}

impl Shown {
    fn add(&mut self, name: &str, image: &Image, config: &Config) {
        let total: u64 = image.layers.iter().map(|layer| layer.size).sum();
        let run = &config.config;
        self.text.push_str(&format!("{name} ({})  {}  {}\n", image.platform, image.manifest, size::format(total)));
        let settings = [
            ("user", run.user.clone()),
            ("workdir", run.working_dir.clone()),
            ("entrypoint", run.entrypoint.join(" ")),
            ("command", run.cmd.join(" ")),
            ("env", run.env.join(" ")),
        ];
        for (key, value) in settings.into_iter().filter(|(_, value)| !value.is_empty()) {
            self.text.push_str(&format!("  {key}: {value}\n"));
        }
        let mut by = config.history.iter().filter(|entry| !entry.empty_layer);
        let rows: Vec<Vec<String>> = image
            .layers
            .iter()
            .map(|layer| {
                let by = by.next().and_then(|entry| entry.created_by.clone()).unwrap_or_default();
                let by = if by.chars().count() > 90 { by.chars().take(89).chain(['…']).collect() } else { by };
                vec![format!("  {}", layer.digest.short()), format!("{:>9}", size::format(layer.size)), by]
            })
            .collect();
        self.text.push_str(&table(&rows));
        self.values.push(json!({
            "name": name,
            "platform": image.platform,
            "manifest": image.manifest,
            "size": total,
            "layers": image.layers,
            "config": run,
            "history": config.history,
        }));
    }

    fn finish(self) -> (String, Value) {
        (self.text, json!({ "images": self.values }))
    }
}

fn wheel(path: &Path) -> Result<(String, Value), Failure> {
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let unusable = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::from(kiln_build::BuildError::step(format!("the wheel `{file}` cannot be used"), error))
    };
    let name: kiln_wheel::name::WheelName = file.parse().map_err(|error| unusable(Box::from(format!("{error}"))))?;
    let opened = fs_err::File::open(path)?;
    let size_on_disk = opened.metadata()?.len();
    let reader = kiln_wheel::archive::FileReader::from(opened.into_file());
    let wheel = Wheel::open(name, reader, size_on_disk).map_err(|error| unusable(error.into()))?;
    let metadata = wheel.metadata().map_err(|error| unusable(error.into()))?;
    let files = wheel.install(&Scheme::venv("3")).map_err(|error| unusable(error.into()))?;
    let mut entries: Vec<_> = wheel.archive.entries().iter().collect();
    let unpacked: u64 = entries.iter().map(|entry| entry.size).sum();
    entries.sort_by_key(|entry| (std::cmp::Reverse(entry.size), &entry.path));
    let mut text = format!(
        "{} {}  {} in {} files, {} unpacked\n",
        metadata.name,
        metadata.version,
        size::format(size_on_disk),
        files.len(),
        size::format(unpacked)
    );
    for requirement in &metadata.requires {
        text.push_str(&format!("  requires {requirement}\n"));
    }
    let largest = entries.iter().take(10);
    let rows: Vec<Vec<String>> =
        largest.map(|entry| vec![format!("  {:>9}", size::format(entry.size)), entry.path.clone()]).collect();
    text.push_str(&table(&rows));
    let value = json!({
        "name": metadata.name,
        "version": metadata.version,
        "requires": metadata.requires,
        "size": size_on_disk,
        "unpacked": unpacked,
        "files": entries.iter().map(|entry| json!({
            "path": entry.path, "size": entry.size, "compressed": entry.compressed,
        })).collect::<Vec<_>>(),
    });
    Ok((text, value))
}
