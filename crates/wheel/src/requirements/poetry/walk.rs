//! Packages that a project needs of a lock that does not tell the groups of its packages: what Poetry 1.5 to 1.8 write
//! (`lock-version` 2.0).
//!
//! The project's `pyproject.toml` says where to begin, and each package what it needs in turn, with markers and extras.

use std::collections::{BTreeMap, BTreeSet};

use pep440_rs::Version;
use pep508_rs::{ExtraName, MarkerEnvironment};
use toml::{Table, Value};

use super::{Package, allows, read_marker};
use crate::pylock::{Choice, listed};
use crate::requirements::requirement::Refused;

/// A need: a package, the versions that fit, and extras.
struct Need {
    name: String,
    versions: String,
    extras: Vec<String>,
}

/// Finds the places in a lock of what a project needs.
pub(super) fn needed(
    packages: &[Package],
    project: Option<&str>,
    environment: &MarkerEnvironment,
    choice: Choice<'_>,
    dev: bool,
) -> Result<BTreeSet<usize>, String> {
    let project: Table = project
        .and_then(|text| text.parse().ok())
        .ok_or("this lock does not tell the groups of its packages, and there is no `pyproject.toml` beside it")?;
    let poetry = project.get("tool").and_then(|tool| tool.get("poetry")).and_then(Value::as_table);
    let poetry = poetry.ok_or("the `pyproject.toml` beside this lock has no `[tool.poetry]`")?;
    let walk = Walk { packages, environment };
    let mut waiting = walk.roots(poetry, choice, dev)?;
    let mut found: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    while let Some(need) = waiting.pop() {
        let Some(at) = walk.find(&need) else {
            return Err(format!("this lock has no {} {}, which is needed", need.name, need.versions));
        };
        let is_new = !found.contains_key(&at);
        let extras = found.entry(at).or_default();
        let before = extras.len();
        extras.extend(need.extras);
        if is_new || extras.len() > before {
            let extras: Vec<String> = extras.iter().cloned().collect();
            waiting.extend(walk.needs(packages[at].dependencies.iter(), &extras).map_err(|refused| refused.message)?);
        }
    }
    Ok(found.into_keys().collect())
}

struct Walk<'l> {
    packages: &'l [Package],
    environment: &'l MarkerEnvironment,
}

impl Walk<'_> {
    /// What a project asks for.
    fn roots(&self, poetry: &Table, choice: Choice<'_>, dev: bool) -> Result<Vec<Need>, String> {
        let table = |value: Option<&Value>| value.and_then(Value::as_table).cloned().unwrap_or_default();
        let groups = table(poetry.get("group"));
        let of_group = |name: &str| table(groups.get(name).and_then(|group| group.get("dependencies")));
        let mut tables = Vec::new();
        match choice.groups {
            None => tables.push(table(poetry.get("dependencies"))),
            Some(names) => {
                for name in names {
                    match name.as_str() {
                        super::MAIN => tables.push(table(poetry.get("dependencies"))),
                        name if groups.contains_key(name) => tables.push(of_group(name)),
                        name => {
                            let all = listed(groups.keys().map(String::as_str).chain([super::MAIN]));
                            return Err(format!("the project has no group `{name}`; there is {all}"));
                        }
                    }
                }
            }
        }
        if dev {
            tables.extend([table(poetry.get("dev-dependencies")), of_group("dev")]);
        }
        let extras = table(poetry.get("extras"));
        let mut chosen = Vec::new();
        for extra in choice.extras {
            let members = extras.get(extra).and_then(Value::as_array);
            let members = members.ok_or_else(|| {
                let all = listed(extras.keys().map(String::as_str));
                format!("the project has no extra `{extra}`; there is {all}")
            })?;
            chosen.extend(members.iter().filter_map(|name| crate::name_of(name.as_str()?)));
        }
        let mut needs = Vec::new();
        for (name, value) in tables.iter().flatten().filter(|(name, _)| *name != "python") {
            let is_chosen = crate::name_of(name).is_some_and(|name| chosen.contains(&name));
            let one = BTreeMap::from([(name.clone(), value.clone())]);
            let optional = value.get("optional").and_then(Value::as_bool) == Some(true);
            if !optional || is_chosen {
                needs.extend(self.needs(one.iter(), &[]).map_err(|refused| refused.message)?);
            }
        }
        Ok(needs)
    }

    /// The dependencies that apply, for some extras.
    fn needs<'v>(
        &self,
        dependencies: impl Iterator<Item = (&'v String, &'v Value)>,
        extras: &[String],
    ) -> Result<Vec<Need>, Refused> {
        let extras: Vec<ExtraName> = extras.iter().filter_map(|extra| extra.parse().ok()).collect();
        let mut needs = Vec::new();
        for (name, value) in dependencies {
            let several = match value {
                Value::Array(list) => list.iter().collect(),
                one => vec![one],
            };
            for one in several {
                let text = |key: &str| one.get(key).and_then(Value::as_str);
                let python = &self.environment.python_full_version().version;
                let holds = match text("markers") {
                    Some(marker) => read_marker(marker)?.evaluate(self.environment, &extras),
                    None => true,
                };
                if !holds || text("python").is_some_and(|constraint| !allows(constraint, python)) {
                    continue;
                }
                let names = one.get("extras").and_then(Value::as_array).into_iter().flatten();
                needs.push(Need {
                    name: crate::name_of(name).map_or_else(|| name.clone(), |name| name.to_string()),
                    versions: one.as_str().or_else(|| text("version")).unwrap_or("*").to_owned(),
                    extras: names.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
                });
            }
        }
        Ok(needs)
    }

    /// The package of a need: a lock may have several versions, for several environments.
    fn find(&self, need: &Need) -> Option<usize> {
        let named =
            |package: &&Package| crate::name_of(package.name.get_ref()).is_some_and(|name| name.as_ref() == need.name);
        let all: Vec<usize> =
            self.packages.iter().enumerate().filter(|(_, one)| named(one)).map(|(at, _)| at).collect();
        let fits = |at: &usize| {
            self.packages[*at].version.parse::<Version>().is_ok_and(|version| allows(&need.versions, &version))
        };
        all.iter().copied().find(fits).or(if all.len() == 1 { all.first().copied() } else { None })
    }
}
