//! Stands in for uv in the tests of the command line, which must pass without network, Python and uv.
//!
//! It understands the two ways in which kiln asks uv, `uv pip compile` with a configuration file, a project, and files of
//! requirements and constraints, and `uv export`; what it does not know it refuses. Like uv, it asks the program under
//! `--python` what it is for, builds nothing, and reads the page `NAME/index.html` of a `file:` index. It resolves over
//! directories of wheels. An `http:` index must answer, and its wheels lie in the directory that the file `PROGRAM.served`
//! names. Metadata comes from `FILE.whl.metadata` where it lies beside the wheel (PEP 658), so that a wheel may be broken
//! and still be chosen. `PROGRAM.wait` names a file: `FILE.seen` is written, and while the file is there nothing is
//! answered. Both lie beside the program because variables do not reach it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

mod export;
mod wheels;

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use kiln_plan::base::{Libc, LibcFamily};
use kiln_plan::digest::Digest;
use kiln_plan::platform::Platform;
use kiln_wheel::name::WheelName;
use kiln_wheel::tags::Tags;
use pep440_rs::Version;
use pep508_rs::{MarkerEnvironment, PackageName, Requirement, VerbatimUrl, VersionOrUrl};
use url::Url;

use wheels::{metadata, wheels_in, wheels_on};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--version") {
        println!("uv 0.0.0 (not the real one)");
        return ExitCode::SUCCESS;
    }
    if let Some(file) = beside("wait").map(PathBuf::from) {
        let _ = fs_err::write(file.with_added_extension("seen"), "");
        while file.exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let done = Arguments::read(&arguments).and_then(|arguments| match arguments.command.as_str() {
        "pip compile" => compile(&arguments),
        "export" => export::export(&arguments),
        other => Err(format!("unrecognized subcommand '{other}'").into()),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A setting of the tests: the content of a file beside this program.
fn beside(name: &str) -> Option<String> {
    let program = PathBuf::from(std::env::args_os().next()?);
    fs_err::read_to_string(program.with_added_extension(name)).ok()
}

/// Options that have a value, and those that have none.
const VALUED: [&str; 13] = [
    "--cache-dir",
    "--color",
    "--config-file",
    "--constraints",
    "--extra",
    "--format",
    "--group",
    "--only-binary",
    "--output-file",
    "--package",
    "--project",
    "--python",
    "--torch-backend",
];
const FLAGS: [&str; 13] = [
    "--frozen",
    "--locked",
    "--no-annotate",
    "--no-build",
    "--no-default-groups",
    "--no-deps",
    "--no-emit-project",
    "--no-emit-workspace",
    "--no-header",
    "--no-progress",
    "--no-python-downloads",
    "--offline",
    "--quiet",
];

/// The command line.
struct Arguments {
    command: String,
    values: BTreeMap<String, String>,
    /// Values of `--extra` and `--group`, which may be given several times.
    lists: Vec<(String, String)>,
    flags: Vec<String>,
    files: Vec<String>,
}

impl Arguments {
    fn read(all: &[String]) -> Result<Self> {
        let mut read = Self {
            command: String::new(),
            values: BTreeMap::new(),
            lists: Vec::new(),
            flags: Vec::new(),
            files: Vec::new(),
        };
        let mut rest = all.iter();
        while let Some(argument) = rest.next() {
            if VALUED.contains(&argument.as_str()) {
                let value = rest.next().ok_or("a value is required")?.clone();
                read.lists.push((argument.clone(), value.clone()));
                read.values.insert(argument.clone(), value);
            } else if FLAGS.contains(&argument.as_str()) {
                read.flags.push(argument.clone());
            } else if argument.starts_with('-') {
                return Err(format!("unexpected argument '{argument}' found").into());
            } else if read.command.is_empty() || read.command == "pip" {
                read.command = format!("{} {argument}", read.command).trim().to_owned();
            } else {
                read.files.push(argument.clone());
            }
        }
        Ok(read)
    }

    fn value(&self, name: &str) -> Result<&str> {
        Ok(self.values.get(name).ok_or_else(|| format!("`{name}` is missing"))?)
    }

    /// The values of an option that may be given several times.
    fn all(&self, name: &str) -> Vec<&str> {
        self.lists.iter().filter(|(option, _)| option == name).map(|(_, value)| value.as_str()).collect()
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|given| given == flag)
    }
}

/// Settings that uv knows, of those that kiln writes.
const SETTINGS: [&str; 11] = [
    "constraint-dependencies",
    "dependency-metadata",
    "exclude-dependencies",
    "exclude-newer",
    "find-links",
    "index",
    "no-build",
    "no-index",
    "override-dependencies",
    "prerelease",
    "prerelease-package",
];

fn compile(arguments: &Arguments) -> Result<()> {
    let interpreter = Interpreter::ask(Path::new(arguments.value("--python")?))?;
    let file = arguments.value("--config-file")?;
    let settings: toml::Table = fs_err::read_to_string(file)?.parse()?;
    if let Some(unknown) = settings.keys().find(|key| !SETTINGS.contains(&key.as_str())) {
        return Err(format!("Failed to parse: {file}\n  cause: unknown field `{unknown}`").into());
    }
    let flag = |name: &str| settings.get(name).and_then(toml::Value::as_bool).unwrap_or(false);
    if arguments.value("--only-binary")? != ":all:" || !flag("no-build") {
        return Err("it would build sources".into());
    }
    let list = |name: &str| settings.get(name).map(texts).unwrap_or_default();
    let project: toml::Table = fs_err::read_to_string("pyproject.toml")?.parse()?;
    let own = project.get("tool").and_then(|tool| tool.get("uv")).cloned();
    let mut indexes = own.as_ref().map(|own| indexes(own, own)).unwrap_or_default();
    if !flag("no-index") {
        indexes.extend(self::indexes(&toml::Value::Table(settings.clone()), &toml::Value::Table(settings.clone())));
    }
    let mut constraints = requirements(list("constraint-dependencies"))?;
    if let Some(file) = arguments.values.get("--constraints") {
        constraints.extend(lines(file)?);
    }
    let dependencies = requirements(texts(&project["project"]["dependencies"]))?;
    // An index of its own binds a package only where the project names it.
    let named: Vec<PackageName> = dependencies.iter().map(|dependency| dependency.name.clone()).collect();
    for index in &mut indexes {
        index.explicit.iter_mut().for_each(|packages| packages.retain(|package| named.contains(package)));
    }
    let question = Question {
        tags: interpreter.tags,
        environment: interpreter.environment,
        offline: arguments.has("--offline"),
        prereleases: settings.get("prerelease").and_then(toml::Value::as_str) == Some("allow"),
        prereleases_of: settings.get("prerelease-package").and_then(toml::Value::as_table).cloned().unwrap_or_default(),
        overrides: requirements(list("override-dependencies"))?,
        exclude: list("exclude-dependencies"),
        alone: arguments.has("--no-deps"),
        torch_backend: arguments.value("--torch-backend").ok().map(str::to_owned),
        links: list("find-links").iter().map(|link| local(link)).collect(),
        indexes,
        constraints,
        preferences: preferences(Path::new(arguments.value("--output-file")?))?,
    };
    let mut wanted: Vec<Demand> = Vec::new();
    wanted.extend(dependencies.into_iter().map(|requirement| Demand { by: "kiln-image".into(), requirement }));
    for file in arguments.files.iter().filter(|file| *file != "pyproject.toml") {
        wanted.extend(lines(file)?.into_iter().map(|requirement| Demand { by: "you".into(), requirement }));
    }
    let chosen = question.solve(wanted, BTreeMap::new())?;
    fs_err::write(arguments.value("--output-file")?, lock(&chosen))?;
    Ok(())
}

/// Requirements of a file, without their hashes, which do not bind when a lock is compiled.
fn lines(file: &str) -> Result<Vec<Requirement<VerbatimUrl>>> {
    let text = fs_err::read_to_string(file)?;
    let line = |line: &str| line.split(" --hash=").next().unwrap_or(line).to_owned();
    requirements(text.lines().map(line).collect())
}

/// What uv learns from the program under `--python`.
struct Interpreter {
    tags: Tags,
    environment: MarkerEnvironment,
}

impl Interpreter {
    fn ask(program: &Path) -> Result<Self> {
        let script = "from python.get_interpreter_info import main; main()";
        let output = Command::new(program).args(["-I", "-B", "-c", script]).output()?;
        let shown = program.display();
        if !output.status.success() {
            return Err(format!("Querying Python at `{shown}` failed with exit status {}", output.status).into());
        }
        let document: serde_json::Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("Querying Python at `{shown}` returned an invalid response: {error}"))?;
        for path in ["sys_executable", "sys_base_executable", "sys_prefix"] {
            if Path::new(document[path].as_str().ok_or(path)?).exists() {
                return Err(format!("`{path}` exists: sources could be built").into());
            }
        }
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let markers = &document["markers"];
        let (minor, full) = (text(&markers["python_version"]), text(&markers["python_full_version"]));
        let platform: Platform = format!("linux/{}", text(&document["arch"])).parse()?;
        let version = format!("{}.{}", document["os"]["major"], document["os"]["minor"]);
        let family = if document["os"]["name"] == "musllinux" { LibcFamily::Musl } else { LibcFamily::Glibc };
        let number = minor.strip_prefix("3.").ok_or("not Python 3")?.parse()?;
        Ok(Self {
            tags: Tags::new(number, platform, Some(&Libc { family, version })),
            environment: kiln_wheel::pylock::environment(&minor, &full, platform)?,
        })
    }
}

fn texts(value: &toml::Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

fn requirements(texts: Vec<String>) -> Result<Vec<Requirement<VerbatimUrl>>> {
    Ok(texts.iter().map(|text| text.parse()).collect::<std::result::Result<_, _>>()?)
}

fn local(address: &str) -> PathBuf {
    address.strip_prefix("file://").unwrap_or(address).into()
}

fn preferences(file: &Path) -> Result<BTreeMap<String, Version>> {
    let Ok(text) = fs_err::read_to_string(file) else {
        return Ok(BTreeMap::new());
    };
    let table: toml::Table = text.parse()?;
    let packages = table.get("packages").and_then(toml::Value::as_array).into_iter().flatten();
    let pair = |package: &toml::Value| {
        Some((package.get("name")?.as_str()?.to_owned(), package.get("version")?.as_str()?.parse().ok()?))
    };
    Ok(packages.filter_map(pair).collect())
}

/// An index, and the packages that alone may come from it.
struct Index {
    url: String,
    explicit: Option<Vec<PackageName>>,
}

fn indexes(uv: &toml::Value, sources: &toml::Value) -> Vec<Index> {
    let list = uv.get("index").and_then(toml::Value::as_array).into_iter().flatten();
    let sources = sources.get("sources").and_then(toml::Value::as_table);
    list.filter_map(|index| {
        let name = index["name"].as_str()?;
        let bound = |source: &toml::Value| source.get("index").and_then(toml::Value::as_str) == Some(name);
        let names = sources.into_iter().flatten().filter(|(_, source)| bound(source));
        let explicit = index.get("explicit").is_some().then(|| names.filter_map(|(n, _)| n.parse().ok()).collect());
        Some(Index { url: index["url"].as_str()?.to_owned(), explicit })
    })
    .collect()
}

/// A requirement, and who has it.
#[derive(Clone)]
struct Demand {
    by: String,
    requirement: Requirement<VerbatimUrl>,
}

impl std::fmt::Display for Demand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let specifiers = match &self.requirement.version_or_url {
            Some(VersionOrUrl::VersionSpecifier(specifiers)) => specifiers.to_string(),
            _ => String::new(),
        };
        let verb = if self.by == "you" { "require" } else { "depends on" };
        write!(f, "{} {verb} {}{specifiers}", self.by, self.requirement.name)
    }
}

impl Demand {
    fn allows(&self, version: &Version) -> bool {
        allows(&self.requirement, version)
    }
}

fn allows(requirement: &Requirement<VerbatimUrl>, version: &Version) -> bool {
    match &requirement.version_or_url {
        Some(VersionOrUrl::VersionSpecifier(specifiers)) => specifiers.contains(version),
        _ => true,
    }
}

fn url(requirement: &Requirement<VerbatimUrl>) -> Option<&Url> {
    match &requirement.version_or_url {
        Some(VersionOrUrl::Url(url)) => Some(url.raw()),
        _ => None,
    }
}

/// A package that was chosen: its wheels, and whose demands it meets.
#[derive(Clone)]
struct Chosen {
    version: Version,
    wheels: Vec<Found>,
    demands: Vec<Demand>,
}

/// A wheel, and the address that is written for it.
#[derive(Clone)]
struct Found {
    name: WheelName,
    path: PathBuf,
    address: String,
    /// Whether a requirement names it by its URL.
    direct: bool,
}

struct Question {
    tags: Tags,
    environment: MarkerEnvironment,
    offline: bool,
    prereleases: bool,
    prereleases_of: toml::Table,
    overrides: Vec<Requirement<VerbatimUrl>>,
    exclude: Vec<String>,
    alone: bool,
    torch_backend: Option<String>,
    links: Vec<PathBuf>,
    indexes: Vec<Index>,
    constraints: Vec<Requirement<VerbatimUrl>>,
    preferences: BTreeMap<String, Version>,
}

impl Question {
    /// Depth first: the first demand that is not met yet, with each version that fits, the preferred one first.
    fn solve(
        &self,
        mut demands: Vec<Demand>,
        mut chosen: BTreeMap<PackageName, Chosen>,
    ) -> Result<BTreeMap<PackageName, Chosen>> {
        demands.retain(|demand| demand.requirement.marker.evaluate(&self.environment, &[]));
        demands.retain(|demand| !self.exclude.contains(&demand.requirement.name.to_string()));
        for demand in &mut demands {
            if let Some(over) = self.overrides.iter().find(|over| over.name == demand.requirement.name) {
                demand.requirement = over.clone();
            }
        }
        if demands.is_empty() {
            return Ok(chosen);
        }
        let demand = demands.remove(0);
        if let Some(taken) = chosen.get_mut(&demand.requirement.name) {
            if let (Some(one), Some(other)) = (url(&taken.demands[0].requirement), url(&demand.requirement))
                && one != other
            {
                let name = &demand.requirement.name;
                return Err(
                    format!("Requirements contain conflicting URLs for package `{name}`:\n- {one}\n- {other}").into()
                );
            }
            if !demand.allows(&taken.version) {
                return Err(unsatisfiable(&[taken.demands[0].clone(), demand]));
            }
            let more = self.needs(&taken.wheels[0], &taken.version, &demand, true)?;
            taken.demands.push(demand);
            return self.solve(demands.into_iter().chain(more).collect(), chosen);
        }
        let mut problem = None;
        for (version, wheels) in self.candidates(&demand)? {
            let more = self.needs(&wheels[0], &version, &demand, false)?;
            let mut chosen = chosen.clone();
            let name = demand.requirement.name.clone();
            chosen.insert(name, Chosen { version, wheels, demands: vec![demand.clone()] });
            match self.solve(demands.iter().cloned().chain(more).collect(), chosen) {
                Ok(solution) => return Ok(solution),
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        Err(problem.unwrap_or_else(|| "nothing to choose from".into()))
    }

    /// The demands of a wheel, those of the demanded extras among them or alone.
    fn needs(&self, wheel: &Found, version: &Version, demand: &Demand, extras_alone: bool) -> Result<Vec<Demand>> {
        let extras = &demand.requirement.extras;
        if self.alone || extras_alone && extras.is_empty() {
            return Ok(Vec::new());
        }
        let by = format!("{}=={version}", demand.requirement.name);
        let mut needs = Vec::new();
        for mut requirement in requirements(metadata(wheel)?.requires)? {
            let is_always = requirement.marker.evaluate(&self.environment, &[]);
            if requirement.marker.evaluate(&self.environment, extras) && !(is_always && extras_alone) {
                requirement.marker = pep508_rs::MarkerTree::TRUE;
                needs.push(Demand { by: by.clone(), requirement });
            }
        }
        Ok(needs)
    }

    /// The versions that a demand and the constraints leave, the best first; an explanation where there is none.
    fn candidates(&self, demand: &Demand) -> Result<Vec<(Version, Vec<Found>)>> {
        let name = &demand.requirement.name;
        let mut versions: BTreeMap<Version, Vec<Found>> = BTreeMap::new();
        let direct = self.constraints.iter().filter(|constraint| constraint.name == *name);
        let direct = std::iter::once(&demand.requirement)
            .chain(direct)
            .find_map(|requirement| url(requirement).map(|url| self.direct(url)));
        let wheels = match direct {
            Some(found) => vec![found?],
            None => self.wheels(name)?,
        };
        for found in wheels {
            versions.entry(found.name.version.clone()).or_default().push(found);
        }
        if versions.is_empty() {
            return Err(no_solution(&format!("Because {name} was not found in the package registry and {demand}")));
        }
        let all: Vec<String> = versions.keys().map(|version| format!("{name}=={version}")).collect();
        versions.retain(|version, _| demand.allows(version));
        if versions.is_empty() {
            let only = all.join(" or ");
            return Err(no_solution(&format!("Because only {only} is available and {demand}")));
        }
        for constraint in self.constraints.iter().filter(|constraint| constraint.name == *name) {
            versions.retain(|version, _| allows(constraint, version));
            if versions.is_empty() {
                let constraint = Demand { by: "you".into(), requirement: constraint.clone() };
                return Err(unsatisfiable(&[constraint, demand.clone()]));
            }
        }
        let explicit = |version: &Version| match &demand.requirement.version_or_url {
            Some(VersionOrUrl::VersionSpecifier(specifiers)) => {
                specifiers.iter().any(|specifier| specifier.version().any_prerelease()) && version.any_prerelease()
            }
            _ => false,
        };
        let allowed = self.prereleases || self.prereleases_of.contains_key(&name.to_string());
        if !allowed && versions.keys().any(|version| !version.any_prerelease()) {
            versions.retain(|version, _| !version.any_prerelease() || explicit(version));
        }
        let first = versions.keys().next_back().cloned();
        versions.retain(|_, wheels| wheels.iter().any(|wheel| self.tags.fit(&wheel.name).is_some()));
        if let Some(version) = first.filter(|_| versions.is_empty()) {
            let why = format!("Because {name}=={version} has no usable wheels and {demand}");
            return Err(no_solution(&why));
        }
        let preferred = self.preferences.get(&name.to_string());
        let mut list: Vec<_> = versions.into_iter().rev().collect();
        list.sort_by_key(|(version, _)| Some(version) != preferred);
        Ok(list)
    }

    /// The wheel at a URL.
    fn direct(&self, url: &Url) -> Result<Found> {
        let file = kiln_wheel::pylock::file_name(url.as_str());
        let Ok(name) = file.parse() else {
            return Err(format!("Failed to build `{url}`\n  cause: Building source distributions is disabled").into());
        };
        let path = match url.to_file_path() {
            Ok(path) => path,
            Err(()) => Path::new(&beside("served").ok_or("`served` is not set")?).join(&file),
        };
        Ok(Found { name, address: url.to_string(), path, direct: true })
    }

    fn wheels(&self, name: &PackageName) -> Result<Vec<Found>> {
        if let Some(backend) = self.torch_backend.as_ref().filter(|_| name.as_ref().starts_with("torch")) {
            let Some(index) = beside("torch") else { return Ok(Vec::new()) };
            let directory = Path::new(index.trim()).join(backend);
            return wheels_in(&directory, name, &|path| format!("file://{}", path.display()));
        }
        let mut found = Vec::new();
        for link in &self.links {
            found.extend(match link.is_file() {
                true => wheels_on(link, name)?,
                false => wheels_in(link, name, &|path| format!("file://{}", path.display()))?,
            });
        }
        for index in &self.indexes {
            if index.explicit.as_ref().is_some_and(|names| !names.contains(name)) {
                continue;
            }
            let more = match index.url.strip_prefix("file:") {
                Some(path) if path.ends_with(".html") => wheels_on(&local(path.trim_start_matches("//")), name)?,
                Some(path) => {
                    let directory = local(path.trim_start_matches("//")).join(name.to_string());
                    let page = fs_err::read_to_string(directory.join("index.html")).unwrap_or_default();
                    let mut found = wheels_in(&directory, name, &|path| format!("file://{}", path.display()))?;
                    found.retain(|found| {
                        found
                            .path
                            .file_name()
                            .is_some_and(|file| page.contains(&format!("href=\"{}\"", file.to_string_lossy())))
                    });
                    found
                }
                None => self.served(index, name)?,
            };
            if index.explicit.is_some() && !more.is_empty() {
                return Ok(more);
            }
            found.extend(more);
        }
        Ok(found)
    }

    /// The wheels of a server, which must be there, as uv finds out; what it has is known from its directory.
    fn served(&self, index: &Index, name: &PackageName) -> Result<Vec<Found>> {
        let mut shown: Url = index.url.parse()?;
        if shown.password().is_some() {
            // As uv does.
            let _ = shown.set_password(Some("****"));
        }
        let page = format!("{}/{name}/", shown.as_str().trim_end_matches('/'));
        if self.offline {
            return Err(format!("Failed to fetch: `{page}`\n  cause: Network connectivity is disabled").into());
        }
        let mut url: Url = index.url.parse()?;
        let address = format!("{}:{}", url.host_str().unwrap_or(""), url.port().unwrap_or(80));
        if TcpStream::connect(address).is_err() {
            let cause = format!("error sending request for url ({page})\n  cause: client error (Connect)");
            return Err(format!("Failed to fetch: `{page}`\n  cause: {cause}").into());
        }
        let directory = beside("served").ok_or("`served` is not set")?;
        url.set_path("files/");
        wheels_in(Path::new(&directory), name, &|path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            format!("{url}{}", file.replace('+', "%2B"))
        })
    }
}

fn unsatisfiable(demands: &[Demand]) -> Box<dyn std::error::Error> {
    let clauses: Vec<String> = demands.iter().map(ToString::to_string).collect();
    no_solution(&format!("Because {}", clauses.join(" and ")))
}

fn no_solution(why: &str) -> Box<dyn std::error::Error> {
    let end = "we can conclude that your requirements are unsatisfiable.";
    format!("No solution found when resolving dependencies\n  cause: {why}, {end}").into()
}

fn lock(chosen: &BTreeMap<PackageName, Chosen>) -> String {
    let mut text = String::from("lock-version = \"1.0\"\ncreated-by = \"uv\"\n");
    if chosen.is_empty() {
        text.push_str("packages = []\n");
    }
    for (name, package) in chosen {
        text.push_str(&format!("\n[[packages]]\nname = \"{name}\"\nversion = \"{}\"\n", package.version));
        let wheel = |wheel: &Found| {
            let bytes = fs_err::read(&wheel.path).unwrap_or_default();
            let hash = Digest::of(&bytes).hex();
            let place = match wheel.address.strip_prefix("file://") {
                Some(path) if wheel.direct => format!("path = {path:?}"),
                _ => format!("url = {:?}", wheel.address),
            };
            format!("{{ {place}, size = {}, hashes = {{ sha256 = \"{hash}\" }} }}", bytes.len())
        };
        match package.wheels.as_slice() {
            [direct] if direct.direct => text.push_str(&format!("archive = {}\n", wheel(direct))),
            wheels => {
                let wheels: Vec<String> = wheels.iter().map(wheel).collect();
                text.push_str(&format!("wheels = [\n    {},\n]\n", wheels.join(",\n    ")));
            }
        }
    }
    text
}
