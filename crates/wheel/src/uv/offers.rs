//! Groups, extras and members that a `uv.lock` has: names to choose from, for an error about another one.

use std::collections::BTreeSet;

use toml::{Table, Value};

/// Names that can be chosen from a `uv.lock`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// Members of the workspace.
    pub members: BTreeSet<String>,
    /// Dependency groups of the chosen member.
    pub groups: BTreeSet<String>,
    /// Extras of the chosen member.
    pub extras: BTreeSet<String>,
}

/// Reads the names of a lock, for a member of its workspace or for its root. `None` for what is no lock.
pub fn offers(text: &str, member: Option<&str>) -> Option<Offers> {
    let lock: Table = text.parse().ok()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let packages: Vec<&Value> = lock.get("package")?.as_array()?.iter().collect();
    let place = |package: &Value| {
        let source = package.get("source")?.as_table()?;
        ["virtual", "editable"].iter().find_map(|kind| source.get(*kind)).and_then(text)
    };
    let name = |package: &Value| package.get("name").and_then(text);
    let members = packages.iter().filter(|package| place(package).is_some());
    let mut found = Offers { members: members.filter_map(|package| name(package)).collect(), ..Offers::default() };
    let manifest = lock.get("manifest");
    found.members.extend(list(manifest.and_then(|manifest| manifest.get("members"))));
    let is_chosen = |package: &&&Value| match member {
        Some(member) => name(package).is_some_and(|name| crate::name_of(&name) == crate::name_of(member)),
        None => place(package).as_deref() == Some("."),
    };
    let chosen = packages.iter().find(is_chosen);
    // Groups of the root can be chosen with a member, too.
    let root = packages.iter().find(|package| place(package).as_deref() == Some("."));
    for package in chosen.iter().chain(&root) {
        found.groups.extend(keys(package.get("dev-dependencies")));
        found.groups.extend(keys(package.get("metadata").and_then(|metadata| metadata.get("requires-dev"))));
    }
    found.groups.extend(keys(manifest.and_then(|manifest| manifest.get("dependency-groups"))));
    if let Some(package) = chosen {
        found.extras.extend(keys(package.get("optional-dependencies")));
        let metadata = package.get("metadata");
        found.extras.extend(list(metadata.and_then(|metadata| metadata.get("provides-extras"))));
    }
    Some(found)
}

fn list(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

fn keys(value: Option<&Value>) -> Vec<String> {
    value.and_then(Value::as_table).into_iter().flat_map(Table::keys).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = r#"
version = 1
[manifest]
members = ["b", "root"]
[[package]]
name = "b"
source = { editable = "b" }
[package.optional-dependencies]
slow = []
[package.metadata.requires-dev]
lint = []
[[package]]
name = "root"
source = { virtual = "." }
[package.dev-dependencies]
dev = []
[package.metadata]
provides-extras = ["fast"]
[[package]]
name = "six"
source = { registry = "https://example.org/simple" }
"#;

    #[test]
    fn a_lock_offers_members_and_the_groups_and_extras_of_the_chosen_one() {
        let names = |found: BTreeSet<String>| found.into_iter().collect::<Vec<_>>().join(" ");
        let all = |member| {
            let found = offers(LOCK, member).unwrap();
            [names(found.members), names(found.groups), names(found.extras)]
        };
        assert_eq!(all(None), ["b root", "dev", "fast"]);
        assert_eq!(all(Some("B")), ["b root", "dev lint", "slow"]);
        assert!(offers("version = 1", None).is_none());
    }
}
