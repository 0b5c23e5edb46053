//! `venv`: the virtual environment itself, a few links, scripts that activate it, and `pyvenv.cfg` (PEP 405).

use kiln_oci::SPLICE_VERSION;
use kiln_oci::layer::{Layer, LayerFile};
use kiln_plan::stack::Environment;
use kiln_wheel::metadata::entry_points;
use serde::Serialize;

use crate::below::{Below, Manner};
use crate::context::Context;
use crate::error::Result;
use crate::python::BasePython;
use crate::step::{Cost, Kind, Step, Subject};

/// Read by login shells, which forget the environment.
const LOGIN: &str = "# Programs of the virtual environment, which login shells forget.\n\
                     case \":$PATH:\" in\n*:/opt/venv/bin:*) ;;\n*) PATH=/opt/venv/bin:$PATH ;;\nesac\nexport PATH\n";

/// Scripts that entry points of images source, and people in their shells.
const ACTIVATION: [(&str, &str); 3] = [
    ("activate", include_str!("venv/activate.sh")),
    ("activate.csh", include_str!("venv/activate.csh")),
    ("activate.fish", include_str!("venv/activate.fish")),
];

/// The virtual environment of an image.
#[derive(Serialize)]
pub(crate) struct Venv {
    /// `3.11`.
    python: String,
    interpreter: String,
    version: String,
    /// The base's packages that it sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    overlay: Option<Overlay>,
    /// Lines on what is below otherwise than on nothing at all.
    below: Vec<String>,
    /// Login shells find its programs.
    login: bool,
    compressor: u32,
    #[serde(skip)]
    files: Vec<LayerFile>,
}

/// The base's packages in an environment.
#[derive(Serialize)]
struct Overlay {
    /// The site directory of a virtual environment of the base, whose interpreter is another.
    site: Option<String>,
    /// Scripts of the base's distributions, as entry points write them: the base's own run without what the image adds.
    scripts: Vec<String>,
}

impl Venv {
    /// Fits an environment to what is below it, and puts it there.
    pub(crate) fn new(python: &str, base: &BasePython<'_>, below: &mut Below) -> Result<Self> {
        let interpreter = base.interpreter;
        let overlay = (base.environment == Environment::Overlay).then(|| Overlay {
            site: base.site.map(str::to_owned),
            scripts: base.scripts().iter().map(|(name, point)| format!("{name} = {point}")).collect(),
        });
        let mut files = files(python, base);
        files.extend(overlay.iter().flat_map(|overlay| overlay.files(python)));
        let login = below.is_directory("etc/profile.d");
        files.extend(login.then(|| LayerFile::bytes("etc/profile.d/kiln.sh", LOGIN)));
        LayerFile::date(&mut files);
        let files = files.into_iter().map(|file| (file, ())).collect();
        let laid = below.lay("virtual environment", &Manner::default(), files)?;
        Ok(Self {
            python: python.to_owned(),
            interpreter: interpreter.path.clone(),
            version: interpreter.version.clone(),
            overlay,
            below: laid.notes,
            login,
            compressor: SPLICE_VERSION,
            files: laid.files.into_iter().map(|(file, _)| file).collect(),
        })
    }

    /// Returns the members of the layer.
    pub(crate) fn files(&self) -> Vec<LayerFile> {
        self.files.clone()
    }

    /// Returns the line of the image's history.
    pub(crate) fn history(&self) -> String {
        format!("kiln: virtual environment for {}", self.interpreter)
    }
}

impl Overlay {
    /// Returns what an environment has besides, to see the base's packages.
    fn files(&self, python: &str) -> Vec<LayerFile> {
        let script = |written: &String| {
            let point = entry_points(format!("[console_scripts]\n{written}\n").as_bytes()).ok()?.pop()?;
            let is_own = |name: &str| name.starts_with("python") || name.starts_with("activate") || name.contains('/');
            let file = LayerFile::bytes(format!("opt/venv/bin/{}", point.name), point.script("/opt/venv/bin/python"));
            (!is_own(&point.name)).then_some(LayerFile { mode: 0o755, ..file })
        };
        let mut files: Vec<LayerFile> = self.scripts.iter().filter_map(script).collect();
        // `site` reads this file once, at the start of the interpreter (Python's documentation of the module `site`).
        files.extend(self.site.as_ref().map(|site| {
            let line = format!("import site; site.addsitedir({})\n", quoted(site));
            LayerFile::bytes(format!("opt/venv/lib/python{python}/site-packages/kiln_base.pth"), line)
        }));
        files
    }
}

/// Returns a Python string.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn files(python: &str, base: &BasePython<'_>) -> Vec<LayerFile> {
    let (interpreter, version) = (&base.interpreter.path, &base.interpreter.version);
    // A virtual environment of the base sees the system's packages or not; what the overlay shows is the former's.
    let sees_system = base.environment == Environment::Overlay && base.site.is_none();
    let home = interpreter.rsplit_once('/').map_or("/", |(home, _)| home);
    let config = format!(
        "home = {home}\nimplementation = CPython\nversion_info = {version}\ninclude-system-site-packages = {sees_system}\n"
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
    files.extend(ACTIVATION.map(|(name, text)| LayerFile::bytes(format!("opt/venv/bin/{name}"), text)));
    files.push(LayerFile::bytes("opt/venv/pyvenv.cfg", config));
    files
}

impl Step for Venv {
    type Product = Vec<Layer>;
    const KIND: Kind = Kind { name: "venv", version: 3 };

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
