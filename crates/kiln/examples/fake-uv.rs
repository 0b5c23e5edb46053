//! Stands in for uv in the tests of the command line, which must pass without network, Python and uv.
//!
//! It understands the one way in which kiln asks uv (`uv pip compile ... pyproject.toml`) and resolves over directories
//! of wheels: the find-links directories and `file:` indexes of the question. An `http:` index must answer, and its
//! wheels lie in the directory that `FAKE_UV_SERVED` names. Metadata comes from `FILE.whl.metadata` where it lies
//! beside the wheel (PEP 658), so that a wheel may be broken and still be chosen. `FAKE_UV_WAIT` names a file:
//! `FILE.seen` is written, and while the file is there nothing is answered.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use kiln_plan::base::{Libc, LibcFamily};
use kiln_plan::digest::Digest;
use kiln_plan::platform::Platform;
use kiln_wheel::archive::FileReader;
use kiln_wheel::install::Wheel;
use kiln_wheel::metadata::Metadata;
use kiln_wheel::name::WheelName;
use kiln_wheel::tags::Tags;
use pep440_rs::Version;
use pep508_rs::{MarkerEnvironment, PackageName, Requirement, VerbatimUrl, VersionOrUrl};
use url::Url;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--version") {
        println!("uv 0.0.0 (not the real one)");
        return ExitCode::SUCCESS;
    }
    if let Some(file) = std::env::var_os("FAKE_UV_WAIT").map(PathBuf::from) {
        let _ = fs_err::write(file.with_added_extension("seen"), "");
        while file.exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    match compile(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compile(arguments: &[String]) -> Result<()> {
    if arguments.first().map(String::as_str) != Some("pip") || arguments.get(1).map(String::as_str) != Some("compile") {
        return Err("only `uv pip compile` is known here".into());
    }
    let value = |name: &str| -> Result<&String> {
        let at =
            arguments.iter().position(|argument| argument == name).ok_or_else(|| format!("`{name}` is missing"))?;
        Ok(arguments.get(at + 1).ok_or("a value is missing")?)
    };
    let (minor, platform, libc) = target(value("--python-version")?, value("--python-platform")?)?;
    let inputs = arguments.iter().position(|argument| argument == "pyproject.toml").ok_or("no `pyproject.toml`")?;
    let files = arguments[inputs + 1..].iter().take_while(|argument| !argument.starts_with("--"));
    let project: toml::Table = fs_err::read_to_string("pyproject.toml")?.parse()?;
    let uv = &project["tool"]["uv"];
    let question = Question {
        tags: Tags::new(minor, platform, libc.as_ref()),
        environment: kiln_wheel::pylock::environment(value("--python-version")?, "3", platform)?,
        offline: arguments.iter().any(|argument| argument == "--offline"),
        links: texts(&uv["find-links"]).iter().map(|link| local(link)).collect(),
        indexes: indexes(uv),
        constraints: requirements(texts(&uv["constraint-dependencies"]))?,
        preferences: preferences(Path::new(value("--output-file")?))?,
    };
    let mut wanted: Vec<Demand> = Vec::new();
    for requirement in requirements(texts(&project["project"]["dependencies"]))? {
        wanted.push(Demand { by: "kiln-image".into(), requirement });
    }
    for file in files {
        let text = fs_err::read_to_string(file)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        for requirement in requirements(lines.map(str::to_owned).collect())? {
            wanted.push(Demand { by: "you".into(), requirement });
        }
    }
    let chosen = question.solve(wanted, BTreeMap::new())?;
    fs_err::write(value("--output-file")?, lock(&chosen))?;
    Ok(())
}

/// `x86_64-manylinux_2_36` or `aarch64-unknown-linux-musl`.
fn target(python: &str, platform: &str) -> Result<(u32, Platform, Option<Libc>)> {
    let minor = python.strip_prefix("3.").ok_or("not Python 3")?.parse()?;
    let (machine, rest) = platform.split_once('-').ok_or("an unknown platform")?;
    let libc = match rest.strip_prefix("manylinux_2_") {
        Some(glibc) => Libc { family: LibcFamily::Glibc, version: format!("2.{glibc}") },
        None => Libc { family: LibcFamily::Musl, version: "1.2".into() },
    };
    Ok((minor, format!("linux/{machine}").parse()?, Some(libc)))
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

fn indexes(uv: &toml::Value) -> Vec<Index> {
    let list = uv.get("index").and_then(toml::Value::as_array).into_iter().flatten();
    let sources = uv.get("sources").and_then(toml::Value::as_table);
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
}

struct Question {
    tags: Tags,
    environment: MarkerEnvironment,
    offline: bool,
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
        if demands.is_empty() {
            return Ok(chosen);
        }
        let demand = demands.remove(0);
        if let Some(taken) = chosen.get_mut(&demand.requirement.name) {
            if !demand.allows(&taken.version) {
                return Err(unsatisfiable(&[taken.demands[0].clone(), demand]));
            }
            taken.demands.push(demand);
            return self.solve(demands, chosen);
        }
        let mut problem = None;
        for (version, wheels) in self.candidates(&demand)? {
            let by = format!("{}=={version}", demand.requirement.name);
            let more = requirements(metadata(&wheels[0])?.requires)?;
            let more = more.into_iter().map(|requirement| Demand { by: by.clone(), requirement });
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

    /// The versions that a demand and the constraints leave, the best first; an explanation where there is none.
    fn candidates(&self, demand: &Demand) -> Result<Vec<(Version, Vec<Found>)>> {
        let name = &demand.requirement.name;
        let mut versions: BTreeMap<Version, Vec<Found>> = BTreeMap::new();
        for found in self.wheels(name)? {
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

    fn wheels(&self, name: &PackageName) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for directory in &self.links {
            found.extend(wheels_in(directory, name, &|path| format!("file://{}", path.display()))?);
        }
        for index in &self.indexes {
            if index.explicit.as_ref().is_some_and(|names| !names.contains(name)) {
                continue;
            }
            let more = match index.url.strip_prefix("file:") {
                Some(path) => {
                    let directory = local(path.trim_start_matches("//")).join(name.to_string());
                    wheels_in(&directory, name, &|path| format!("file://{}", path.display()))?
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
        let directory = std::env::var_os("FAKE_UV_SERVED").ok_or("`FAKE_UV_SERVED` is not set")?;
        url.set_path("files/");
        wheels_in(Path::new(&directory), name, &|path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            format!("{url}{}", file.replace('+', "%2B"))
        })
    }
}

fn wheels_in(directory: &Path, name: &PackageName, address: &dyn Fn(&Path) -> String) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let Ok(entries) = fs_err::read_dir(directory) else {
        return Ok(found);
    };
    for entry in entries {
        let path = entry?.path();
        let wheel = path.file_name().unwrap_or_default().to_string_lossy().parse::<WheelName>();
        if let Ok(wheel) = wheel
            && wheel.name == *name
        {
            found.push(Found { name: wheel, address: address(&path), path });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn metadata(found: &Found) -> Result<Metadata> {
    let beside = found.path.with_added_extension("metadata");
    if let Ok(bytes) = fs_err::read(beside) {
        return Ok(Metadata::parse(&bytes));
    }
    let file = fs_err::File::open(&found.path)?;
    let size = file.metadata()?.len();
    let wheel = Wheel::open(found.name.clone(), FileReader::from(file.into_file()), size);
    let read = wheel.and_then(|wheel| wheel.metadata());
    Ok(read.map_err(|error| format!("Failed to read metadata from: {}\n  cause: {error}", found.path.display()))?)
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
    for (name, package) in chosen {
        text.push_str(&format!("\n[[packages]]\nname = \"{name}\"\nversion = \"{}\"\nwheels = [\n", package.version));
        for wheel in &package.wheels {
            let bytes = fs_err::read(&wheel.path).unwrap_or_default();
            let hash = Digest::of(&bytes).hex();
            text.push_str(&format!(
                "    {{ url = {:?}, size = {}, hashes = {{ sha256 = \"{hash}\" }} }},\n",
                wheel.address,
                bytes.len()
            ));
        }
        text.push_str("]\n");
    }
    text
}
