//! `kiln inspect`

mod gpu_code;

use std::path::Path;

use clap::Args;
use kiln_engine::{FileCode, Upgrade, Workshop};
use kiln_oci::image::{Config, Image, from_json};
use kiln_oci::layout::Layout;
use kiln_plan::event::Cancel;
use kiln_plan::gpu::Capability;
use kiln_plan::size;
use kiln_wheel::install::{Scheme, Wheel};
use serde_json::{Value, json};

use super::{Outcome, capabilities, count, print, print_json, table, with_project, with_workshop};
use crate::arguments::{Global, StackOptions};
use crate::render::Failure;

/// List what is in images, wheels, directories and libraries: layers, sizes, and the GPU code for each architecture
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// `oci:DIR`, wheels, images of the stack, libraries, `.fatbin` and `.cubin` files, directories
    #[arg(required = true)]
    what: Vec<String>,
    #[command(flatten)]
    stack: StackOptions,
}

impl Inspect {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let (mut text, mut values) = (String::new(), Vec::new());
        for what in &self.what {
            let (more, value) = self.one(what, global, cancel)?;
            text.push_str(&more);
            values.push(value);
        }
        match values.as_slice() {
            _ if !global.json => print(&text),
            [value] => print_json(value),
            values => print_json(&json!(values)),
        }
    }

    fn one(&self, what: &str, global: &Global, cancel: &Cancel) -> Result<(String, Value), Failure> {
        let path = Path::new(what);
        if !what.starts_with("oci:") && !is_path(what) {
            return self.image(what, global, cancel);
        }
        let gpus = capabilities(self.stack.gpus.as_deref().unwrap_or_default(), global, cancel)?;
        if let Some(layout) = what.strip_prefix("oci:") {
            with_workshop(global, cancel, |workshop| self::layout(workshop, Path::new(layout), &gpus))
        } else if what.ends_with(".whl") {
            with_workshop(global, cancel, |workshop| wheel(workshop, path, &gpus))
        } else {
            gpu_code::of_path(path, &gpus, global)
        }
    }

    fn image(&self, what: &str, global: &Global, cancel: &Cancel) -> Result<(String, Value), Failure> {
        // What an image is built for is the stack's to say; what it is looked at for may be something else.
        let gpus = self.stack.gpus.as_deref().map(|texts| capabilities(texts, global, cancel)).transpose()?;
        let stack = StackOptions { gpus: None, ..self.stack.clone() };
        with_project(global, &stack, cancel, |project| {
            let chain = project.chosen(&[what.to_owned()])?;
            let lock = project.lock(&Upgrade::Nothing, true)?;
            let mut shown = Shown::default();
            let Some(image) = chain.last() else { return Ok(shown.finish()) };
            let built = project.known_image(image, &lock)?.map_err(|(step, _)| not_built(what, &step))?;
            let gpus = gpus.unwrap_or_else(|| project.gpus(&lock));
            for image in &built.images {
                let config: Config = from_json(&project.workshop.store.read(&image.config)?, "a config")?;
                shown.add(what, image, &config);
                shown.code(project.workshop.gpu_code(image)?, &gpus);
            }
            Ok(shown.finish())
        })
    }
}

/// Whether something is a path rather than the name of an image.
pub(super) fn is_path(what: &str) -> bool {
    what.contains('/') || what.ends_with(".whl") || Path::new(what).exists()
}

/// Says of an image that it is not built.
pub(super) fn not_built(image: &str, step: &str) -> Failure {
    let message = format!("`{image}` is not built: `{step}` is neither in the store nor in the cache");
    Failure::usage(message).hint(format!("run `kiln build {image}`"))
}

fn layout(workshop: &Workshop<'_>, path: &Path, gpus: &[Capability]) -> Result<(String, Value), Failure> {
    let mut shown = Shown::default();
    let layout = Layout::open(path)?;
    workshop.add_layout(layout.clone());
    for (name, found) in layout.images()? {
        shown.add(name.as_deref().unwrap_or("(no name)"), &found.image, &found.config);
        shown.code(workshop.gpu_code(&found.image)?, gpus);
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

    /// The GPU code of the image that was added last, and how many of its layers were not looked into.
    fn code(&mut self, (files, elsewhere): (Vec<FileCode>, usize), gpus: &[Capability]) {
        let (text, value) = gpu_code::of_files(&files, gpus);
        self.text.push_str(if files.is_empty() { "" } else { &text });
        if elsewhere > 0 {
            let layers = count(elsewhere, "layer");
            self.text.push_str(&format!("{layers} of it on a registry: `kiln verify` looks into those too\n"));
        }
        if let Some(Value::Object(image)) = self.values.last_mut() {
            image.insert("gpu-code".into(), value);
        }
    }

    fn finish(self) -> (String, Value) {
        (self.text, json!({ "images": self.values }))
    }
}

fn wheel(workshop: &Workshop<'_>, path: &Path, gpus: &[Capability]) -> Result<(String, Value), Failure> {
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let unusable = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::from(kiln_engine::BuildError::Wheel { file: file.to_owned(), source: error })
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
    let code = workshop.wheel_contents(&file, fs_err::File::open(path)?)?.code;
    let (code_text, code_value) = gpu_code::of_files(&code, gpus);
    text.push_str(if code.is_empty() { "" } else { &code_text });
    let value = json!({
        "gpu-code": code_value,
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
