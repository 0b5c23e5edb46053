//! `venv`: the virtual environment itself, a few links and `pyvenv.cfg` (PEP 405).

use kiln_oci::SPLICE_VERSION;
use kiln_oci::layer::{Layer, LayerFile};
use kiln_plan::base::Interpreter;
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::step::{Cost, Kind, Step, Subject};

/// The virtual environment of an image.
#[derive(Serialize)]
pub(crate) struct Venv {
    /// `3.11`.
    python: String,
    interpreter: String,
    version: String,
    compressor: u32,
}

impl Venv {
    pub(crate) fn new(python: &str, interpreter: &Interpreter) -> Self {
        Self {
            python: python.to_owned(),
            interpreter: interpreter.path.clone(),
            version: interpreter.version.clone(),
            compressor: SPLICE_VERSION,
        }
    }

    /// Returns the members of the layer.
    pub(crate) fn files(&self) -> Vec<LayerFile> {
        let Self { python, interpreter, version, .. } = self;
        let home = interpreter.rsplit_once('/').map_or("/", |(home, _)| home);
        let config = format!(
            "home = {home}\nimplementation = CPython\nversion_info = {version}\ninclude-system-site-packages = false\n"
        );
        let site = format!("opt/venv/lib/python{python}");
        let directories = ["opt/venv", "opt/venv/bin", "opt/venv/lib", &site, &format!("{site}/site-packages")]
            .map(|path| LayerFile::directory(path.to_owned()));
        let links = [
            ("opt/venv/bin/python".to_owned(), interpreter.clone()),
            ("opt/venv/bin/python3".to_owned(), "python".to_owned()),
            (format!("opt/venv/bin/python{python}"), "python".to_owned()),
            ("opt/venv/lib64".to_owned(), "lib".to_owned()),
        ];
        let mut files: Vec<LayerFile> = directories.into();
        files.extend(links.into_iter().map(|(path, to)| LayerFile::symlink(path, to)));
        files.push(LayerFile::bytes("opt/venv/pyvenv.cfg", config));
        files
    }

    /// Returns the line of the image's history.
    pub(crate) fn history(&self) -> String {
        format!("kiln: virtual environment for {}", self.interpreter)
    }
}

impl Step for Venv {
    type Product = Vec<Layer>;
    const KIND: Kind = Kind { name: "venv", version: 1 };

    fn subject(&self) -> Subject {
        Subject::Environment
    }

    fn cost(&self) -> Cost {
        Cost::Cpu(0)
    }

    fn perform(&self, context: &Context<'_>) -> Result<Vec<Layer>> {
        context.workshop.small_layer(&self.subject().to_string(), self.files())
    }
}
