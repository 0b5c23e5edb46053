//! `kiln inspect`

mod gpu_code;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use kiln_engine::{FileCode, Upgrade, Workshop};
use kiln_oci::image::{Config, Image, from_json};
use kiln_oci::layout::Layout;
use kiln_plan::event::Cancel;
use kiln_plan::size;
use kiln_wheel::install::{Scheme, Wheel};
use serde_json::{Value, json};

use super::{Asked, Outcome, count, print, print_json, require_file, table, with_project, with_workshop};
use crate::arguments::{Global, StackOptions};
use crate::render::Failure;

/// List what is in images, wheels, directories and libraries: layers, sizes, and the GPU code for each architecture
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// `oci:DIR`, wheels, images of the stack, libraries, `.fatbin` and `.cubin` files, directories
    #[arg(required = true)]
    what: Vec<OsString>,
    #[command(flatten)]
    stack: StackOptions,
}

impl Inspect {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let asked = Asked::read(self.stack.gpus.as_deref().unwrap_or_default(), global, cancel)?;
        let (mut text, mut values, mut sound) = (String::new(), Vec::new(), true);
        for what in &self.what {
            let found = self.one(what, &asked, global, cancel)?;
            text.push_str(&found.text);
            values.push(found.value);
            sound &= found.sound;
        }
        let printed = match values.as_slice() {
            _ if !global.json => print(&text),
            [value] => print_json(value),
            values => print_json(&json!(values)),
        }?;
        Ok(if sound { printed } else { ExitCode::FAILURE })
    }

    fn one(&self, what: &OsStr, asked: &Asked, global: &Global, cancel: &Cancel) -> Result<Inspected, Failure> {
        let path = Path::new(what);
        match named(what) {
            Named::Image(name) => self.image(name, asked, global, cancel),
            Named::Layout(layout) => with_workshop(global, cancel, |workshop| self::layout(workshop, layout, asked)),
            Named::Path => {
                require_file(path)?;
                if is_wheel(path) {
                    with_workshop(global, cancel, |workshop| wheel(workshop, path, asked))
                } else {
                    gpu_code::of_path(path, asked, global)
                }
            }
        }
    }

    fn image(&self, what: &str, asked: &Asked, global: &Global, cancel: &Cancel) -> Result<Inspected, Failure> {
        // What an image is built for is the stack's to say; what it is looked at for may be something else.
        let stack = StackOptions { gpus: None, ..self.stack.clone() };
        with_project(global, &stack, cancel, |project| {
            let chain = project.chosen(&[what.to_owned()])?;
            let lock = project.lock(&Upgrade::Nothing, true)?;
            let mut shown = Shown::default();
            let Some(image) = chain.last() else { return Ok(shown.finish()) };
            let built = project.known_image(image, &lock)?.map_err(|(step, _)| not_built(what, &step))?;
            let asked = match self.stack.gpus {
                Some(_) => asked.clone(),
                None => Asked {
                    gpus: project.gpus(image, &lock),
                    names: image.target.gpu_names.clone(),
                    ..Asked::default()
                },
            };
            for image in &built.images {
                let config: Config = from_json(&project.workshop.store.read(&image.config)?, "a config")?;
                shown.add(what, image, &config);
                shown.code(project.workshop.gpu_code(image)?, &asked);
            }
            Ok(shown.finish())
        })
    }
}

/// The things that an argument names.
pub(super) enum Named<'a> {
    Image(&'a str),
    Layout(&'a Path),
    Path,
}

/// Tells a path, which may have any bytes, from the name of an image and a layout.
pub(super) fn named(what: &OsStr) -> Named<'_> {
    let Some(text) = what.to_str() else { return Named::Path };
    match text.strip_prefix("oci:") {
        Some(layout) => Named::Layout(Path::new(layout)),
        None if text.contains('/') || text.ends_with(".whl") || Path::new(text).exists() => Named::Path,
        None => Named::Image(text),
    }
}

/// Tells if a path is called like a wheel.
pub(super) fn is_wheel(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "whl")
}

/// Something that was inspected, as text and as JSON.
struct Inspected {
    text: String,
    value: Value,
    /// False if some of it makes no sense.
    sound: bool,
}

/// Says of an image that it is not built.
pub(super) fn not_built(image: &str, step: &str) -> Failure {
    let message = format!("`{image}` is not built: `{step}` is neither in the store nor in the cache");
    Failure::usage(message).hint(format!("run `kiln build {image}`"))
}

fn layout(workshop: &Workshop<'_>, path: &Path, asked: &Asked) -> Result<Inspected, Failure> {
    let mut shown = Shown::default();
    let layout = Layout::open(path)?;
    workshop.add_layout(layout.clone());
    for (name, found) in layout.images()? {
        shown.add(name.as_deref().unwrap_or("(no name)"), &found.image, &found.config);
        shown.code(workshop.gpu_code(&found.image)?, asked);
    }
    Ok(shown.finish())
}

#[derive(Default)]
struct Shown {
    text: String,
    values: Vec<Value>,
    damaged: bool,
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
    fn code(&mut self, (files, elsewhere): (Vec<FileCode>, usize), asked: &Asked) {
        let Inspected { text, value, sound } = gpu_code::of_files(&files, asked);
        self.damaged |= !sound;
        self.text.push_str(if files.is_empty() { "" } else { &text });
        if elsewhere > 0 {
            let layers = count(elsewhere, "layer");
            self.text.push_str(&format!("{layers} of it on a registry: `kiln verify` looks into those too\n"));
        }
        if let Some(Value::Object(image)) = self.values.last_mut() {
            image.insert("gpu-code".into(), value);
        }
    }

    fn finish(self) -> Inspected {
        Inspected { text: self.text, value: json!({ "images": self.values }), sound: !self.damaged }
    }
}

fn wheel(workshop: &Workshop<'_>, path: &Path, asked: &Asked) -> Result<Inspected, Failure> {
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
    let Inspected { text: code_text, value: code_value, sound } = gpu_code::of_files(&code, asked);
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
    Ok(Inspected { text, value, sound })
}
