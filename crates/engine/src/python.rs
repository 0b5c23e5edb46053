//! The Python of a base, as an image uses it: the interpreter, where packages go, and which of the base's distributions count.

use std::collections::BTreeMap;

use kiln_plan::base::{BaseFacts, Distribution, Interpreter};
use kiln_plan::diagnostic::{Diagnostic, Diagnostics, closest};
use kiln_plan::stack::{Environment, Image, Named, Stack};
use kiln_wheel::install::Scheme;
use serde::Serialize;

use crate::bases;
use crate::error::{BuildError, ProjectError, Result};

mod unmet;

pub(crate) use unmet::Beside;

/// The Python of a base, as an image uses it.
pub(crate) struct BasePython<'f> {
    pub(crate) environment: Environment,
    pub(crate) interpreter: &'f Interpreter,
    /// The site directory of a virtual environment of the base, which an overlay shows, too.
    pub(crate) site: Option<&'f str>,
    /// Distributions in the directories that the interpreter looks into; several may have one name.
    all: Vec<&'f Distribution>,
    /// Distributions that the image sees: none in an environment of its own.
    pub(crate) seen: Vec<&'f Distribution>,
    /// Distributions that the image takes away.
    pub(crate) removed: Vec<&'f Distribution>,
    /// Distributions that the image's own may take the place of.
    pub(crate) replaced: Vec<&'f Distribution>,
    /// Packages that the base meets: the version of the one that it has, or `None` where it brings the module under another name.
    pub(crate) accepted: BTreeMap<String, Option<String>>,
}

/// Returns where the packages of an image go: where it or an image below it says. Otherwise they go into the `/opt/venv` of a base
/// that has one, beside the torch of a base that has one, and else into an environment of their own.
pub(crate) fn environment(image: &Image, facts: &BaseFacts) -> Environment {
    if let Some(environment) = image.python.environment {
        return environment;
    }
    // An image that kiln made in another stack: its environment goes on.
    let is_made = |found: &Interpreter| found.environment && found.path.starts_with("/opt/venv/");
    match facts.interpreters.iter().any(is_made) {
        true => Environment::Base,
        false if torch(image, facts).is_some() => Environment::Overlay,
        // It installs nothing, and what it takes away is the base's.
        false if !image.has_packages() => Environment::Base,
        false => Environment::Venv,
    }
}

/// Returns the torch of a base that an image could see.
pub(crate) fn torch<'f>(image: &Image, facts: &'f BaseFacts) -> Option<&'f Distribution> {
    let fits = |found: &&Interpreter| found.minor_version() == image.target.python() && !found.environment;
    let interpreter = facts.interpreters.iter().find(fits)?;
    let site = site_shown(facts, interpreter);
    facts.distributions.iter().find(|held| held.name == "torch" && is_seen(held, interpreter, site))
}

impl<'f> BasePython<'f> {
    /// Returns the Python of an image that has packages. Names of distributions that the base does not have are errors.
    pub(crate) fn of(stack: &Stack, image: &Image, facts: &'f BaseFacts, base: &str) -> Result<Self> {
        let environment = environment(image, facts);
        let interpreter = bases::interpreter(facts, image, base, environment)?;
        let site = (environment == Environment::Overlay).then(|| site_shown(facts, interpreter)).flatten();
        let mut found = Self {
            environment,
            interpreter,
            site,
            all: Vec::new(),
            seen: Vec::new(),
            removed: Vec::new(),
            replaced: Vec::new(),
            accepted: BTreeMap::new(),
        };
        if environment != Environment::Venv {
            found.all = facts.distributions.iter().filter(|held| is_seen(held, interpreter, site)).collect();
            found.seen = seen(&found.all, interpreter);
        }
        let mut wrong = Diagnostics::default();
        let mut chain: Vec<&Image> = std::iter::once(image).chain(stack.ancestors(image)).collect();
        chain.reverse();
        for image in chain {
            found.apply(image, base, &mut wrong);
        }
        let gone = |held: &&Distribution| found.removed.iter().chain(&found.replaced).any(|gone| gone == held);
        let stay: Vec<&Distribution> = found.seen.iter().copied().filter(|held| !gone(held)).collect();
        found.seen = stay;
        Ok(wrong.or(found)?)
    }

    /// Notes the distributions that an image names. What it says counts more than what images below it say, apart from what these
    /// remove.
    fn apply(&mut self, image: &Image, base: &str, wrong: &mut Diagnostics) {
        for named in &image.python.accept {
            let name = named.name.to_string();
            let module = name.replace('-', "_");
            let brings = |held: &&Distribution| held.name != name && held.modules.contains(&module);
            let there = |held: &&Distribution| !self.removed.contains(held);
            let seen = || self.seen.iter().copied().filter(there);
            match seen().find(|held| held.name == name).or_else(|| seen().find(brings)) {
                Some(held) => {
                    let version = (held.name == name).then(|| held.version.clone());
                    self.replaced.retain(|held| held.name != name);
                    self.accepted.insert(name, version);
                }
                None => wrong.push(self.unknown(named, base, "accept")),
            }
        }
        for (key, list) in [("replace", &image.python.replace), ("remove", &image.python.remove)] {
            for named in list {
                // One that another hides would be seen in its place.
                let held: Vec<&Distribution> =
                    self.all.iter().copied().filter(|held| held.name == named.name.as_ref()).collect();
                if held.is_empty() {
                    wrong.push(self.unknown(named, base, key));
                }
                self.accepted.remove(named.name.as_ref());
                if key == "remove" { self.removed.extend(held) } else { self.replaced.extend(held) }
            }
        }
    }

    fn unknown(&self, named: &Named, base: &str, key: &str) -> Diagnostic {
        let name = &named.name;
        if self.environment == Environment::Venv {
            return Diagnostic::at(
                named.span.clone(),
                format!("`python.{key}` names packages of the base, which the image does not see"),
            )
            .hint("it does with `python.environment = \"overlay\"`");
        }
        if self.removed.iter().any(|held| held.name == name.as_ref()) {
            let message = format!("`{name}` of the base is removed in an image below");
            return Diagnostic::at(named.span.clone(), message).hint(format!("leave it out of `python.{key}`"));
        }
        let message = format!("the base `{base}` has no Python distribution `{name}` that the image sees");
        let hint = match closest(name.as_ref(), self.seen.iter().map(|held| held.name.as_str())) {
            Some(close) => format!("did you mean `{close}`?"),
            None => format!("leave it out of `python.{key}`"),
        };
        Diagnostic::at(named.span.clone(), message).hint(hint)
    }

    /// Returns where the packages of an image go; `python` is as in `3.11`.
    pub(crate) fn scheme(&self, python: &str) -> Result<Scheme> {
        let interpreter = self.interpreter;
        match (self.environment, &interpreter.site_packages) {
            (Environment::Venv | Environment::Overlay, _) => Ok(Scheme::venv(python)),
            (Environment::Base, Some(site)) => Ok(Scheme::base(&interpreter.path, site)),
            (Environment::Base, None) => Err(ProjectError::NoSitePackages(interpreter.path.clone()).into()),
        }
    }

    /// Returns the packages that the base meets, with their versions. A distribution whose version is none (PEP 440) meets nothing,
    /// as for pip.
    pub(crate) fn packages(&self) -> Vec<(String, String)> {
        let is_version = |held: &&&Distribution| held.version.parse::<pep440_rs::Version>().is_ok();
        self.seen.iter().filter(is_version).map(|held| (held.name.clone(), held.version.clone())).collect()
    }

    /// Returns the modules of the base, with what holds each, and the packages that are empty. Those that the image's own take the
    /// place of are still there for an overlay.
    pub(crate) fn modules(&self) -> BTreeMap<String, BaseModule> {
        let mut modules: BTreeMap<String, BaseModule> = BTreeMap::new();
        let hidden = self.replaced.iter().filter(|_| self.environment == Environment::Overlay);
        let each = self.seen.iter().map(|held| (held, false)).chain(hidden.map(|held| (held, true)));
        for (held, replaced) in each {
            let full = held.modules.iter().map(|module| (module, false));
            for (module, empty) in full.chain(held.shared.iter().map(|module| (module, true))) {
                let found = modules.entry(module.clone()).or_insert_with(|| BaseModule {
                    name: held.name.clone(),
                    version: held.version.clone(),
                    several: false,
                    empty,
                    replaced,
                });
                found.several |= found.name != held.name;
                found.empty &= empty;
            }
        }
        modules
    }

    /// Returns the scripts of the distributions that the image sees, as entry points write them, by name.
    pub(crate) fn scripts(&self) -> BTreeMap<&'f str, &'f str> {
        let scripts = self.seen.iter().flat_map(|held| &held.scripts);
        scripts.filter_map(|script| script.split_once(" = ")).collect()
    }
}

/// Returns the site directory of the base's virtual environment whose interpreter `PATH` finds before the one below it.
fn site_shown<'f>(facts: &'f BaseFacts, interpreter: &Interpreter) -> Option<&'f str> {
    let first = facts.interpreters.iter().find(|found| found.minor_version() == interpreter.minor_version())?;
    first.site_packages.as_deref().filter(|_| first.environment && first.path != interpreter.path)
}

/// Returns the distributions that an interpreter finds: of two with one name, the one in the directory that comes first, as in
/// `sys.path`.
fn seen<'f>(all: &[&'f Distribution], interpreter: &Interpreter) -> Vec<&'f Distribution> {
    let mut found = all.to_vec();
    let place = |held: &Distribution| {
        (interpreter.site_packages.as_ref() != Some(&held.location), !held.location.starts_with("/usr/local/"))
    };
    found.sort_by(|one, other| one.name.cmp(&other.name).then_with(|| place(one).cmp(&place(other))));
    found.dedup_by(|later, first| later.name == first.name);
    found
}

/// Returns true for a distribution that an interpreter finds, or that is in a site directory which is shown to it. Debian's own
/// Python looks into three directories (Debian Python Policy, "Module Path").
fn is_seen(held: &Distribution, interpreter: &Interpreter, site: Option<&str>) -> bool {
    let location = held.location.as_str();
    if let Some(site) = site {
        return location == site;
    }
    if interpreter.site_packages.as_deref() == Some(location) {
        return true;
    }
    let Some((prefix, _)) = interpreter.path.rsplit_once("/bin/") else { return false };
    let version = interpreter.minor_version();
    let own = ["lib", "lib64"].iter().any(|lib| location == format!("{prefix}/{lib}/python{version}/site-packages"));
    let debian = prefix == "/usr"
        && (location == "/usr/lib/python3/dist-packages"
            || location == format!("/usr/local/lib/python{version}/dist-packages")
            || location == format!("/usr/lib/python{version}/dist-packages"));
    !interpreter.environment && (own || debian)
}

/// The distribution of a base that holds a module.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct BaseModule {
    name: String,
    version: String,
    /// Others hold it, too.
    several: bool,
    /// The module is a package whose `__init__` is empty.
    pub(crate) empty: bool,
    /// The image's own take the place of the distribution.
    replaced: bool,
}

impl BaseModule {
    /// Returns true if a wheel of this package must leave the module alone.
    pub(crate) fn is_of_another(&self, package: &str) -> bool {
        !self.several && !self.replaced && self.name != package
    }
}

/// A contradiction of a wheel's modules and the base's.
pub(crate) enum Clash {
    /// Both have the module.
    Same,
    /// A package of the wheel hides the base's module in it.
    Hides(String),
    /// A package of the base hides what the wheel has in it.
    Hidden,
}

impl Clash {
    /// Returns the error about a wheel of a package and a module of the base.
    pub(crate) fn error(&self, wheel: &str, package: &str, module: &str, held: &BaseModule) -> BuildError {
        let (owner, version) = (&held.name, &held.version);
        let dotted = module.replace('/', ".");
        let exclude = format!("`resolution = {{ exclude = [\"{package}\"] }}`");
        let merges = "`python.environment = \"base\"` installs into the base's directory, where Python finds both";
        let (message, hint) = match self {
            Self::Same => (
                format!("`{wheel}` brings the module `{dotted}`, which the base already holds as {owner} {version}"),
                format!(
                    "{} takes the base's in its place; `python = {{ replace = [\"{owner}\"] }}` lets the image's take the place \
                     of the base's",
                    match package.replace('-', "_") == module {
                        true => format!("`python = {{ accept = [\"{package}\"] }}`"),
                        false => exclude,
                    }
                ),
            ),
            Self::Hides(package) => (
                format!(
                    "`{wheel}` brings the package `{}`, which hides the module `{dotted}` of the base's {owner} {version}",
                    package.replace('/', ".")
                ),
                format!("{merges}; or {exclude} leaves it out"),
            ),
            Self::Hidden => (
                format!(
                    "`{wheel}` brings modules into the package `{dotted}`, which the base holds as {owner} {version} in another \
                     directory: Python would find the base's alone"
                ),
                format!("{merges}; or {exclude} leaves it out"),
            ),
        };
        BuildError::Mistake { message, hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(location: &str) -> Distribution {
        Distribution { location: location.into(), name: "six".into(), version: "1".into(), ..Distribution::default() }
    }

    fn interpreter(path: &str, site: &str, environment: bool) -> Interpreter {
        let site_packages = Some(site.into());
        Interpreter { path: path.into(), version: "3.11.2".into(), site_packages, environment, names: Vec::new() }
    }

    #[test]
    fn of_two_distributions_with_one_name_the_first_of_the_path_counts() {
        let version = |version: &str, location: &str| Distribution { version: version.into(), ..held(location) };
        let distributions =
            [version("1", "/usr/lib/python3/dist-packages"), version("2", "/usr/local/lib/python3.11/dist-packages")];
        let all: Vec<&Distribution> = distributions.iter().collect();
        let debian = interpreter("/usr/bin/python3.11", "/usr/local/lib/python3.11/dist-packages", false);
        let versions: Vec<&str> = seen(&all, &debian).iter().map(|held| held.version.as_str()).collect();
        assert_eq!(versions, ["2"]);
    }

    #[test]
    fn an_interpreter_sees_the_directories_of_its_own_prefix() {
        let debian = interpreter("/usr/bin/python3.11", "/usr/local/lib/python3.11/dist-packages", false);
        for (location, seen) in [
            ("/usr/lib/python3/dist-packages", true),
            ("/usr/local/lib/python3.11/dist-packages", true),
            ("/usr/local/lib/python3.12/dist-packages", false),
            ("/opt/conda/lib/python3.11/site-packages", false),
            ("/venv/lib/python3.11/site-packages", false),
        ] {
            assert_eq!(is_seen(&held(location), &debian, None), seen, "{location}");
        }
        assert!(is_seen(
            &held("/venv/lib/python3.11/site-packages"),
            &debian,
            Some("/venv/lib/python3.11/site-packages")
        ));
        let conda = interpreter("/opt/conda/bin/python3.11", "/opt/conda/lib/python3.11/site-packages", false);
        assert!(is_seen(&held("/opt/conda/lib/python3.11/site-packages"), &conda, None));
        assert!(!is_seen(&held("/usr/lib/python3/dist-packages"), &conda, None));
        let venv = interpreter("/venv/bin/python3.11", "/venv/lib/python3.11/site-packages", true);
        assert!(!is_seen(&held("/usr/lib/python3/dist-packages"), &venv, None));
    }
}
