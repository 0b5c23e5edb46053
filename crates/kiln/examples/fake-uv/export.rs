//! `uv export`: the part of a `uv.lock` that is asked for, as `pylock.toml`.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Arguments, Interpreter, Result};

/// Writes the packages of a `uv.lock` that come from an index.
pub(super) fn export(arguments: &Arguments) -> Result<()> {
    Interpreter::ask(Path::new(arguments.value("--python")?))?;
    let how = ["--frozen", "--locked"].iter().filter(|flag| arguments.has(flag)).count();
    if how != 1 || !["--no-build", "--offline"].iter().all(|flag| arguments.has(flag)) {
        return Err("it would resolve or build".into());
    }
    fs_err::metadata(arguments.value("--config-file")?)?;
    let project = Path::new(arguments.value("--project")?);
    let text = fs_err::read_to_string(project.join("pyproject.toml")).map_err(|_| "No `pyproject.toml` found")?;
    let own: toml::Table = text.parse()?;
    let table: toml::Table = fs_err::read_to_string(project.join("uv.lock"))?.parse()?;
    let packages: Vec<&toml::Value> =
        table.get("package").and_then(toml::Value::as_array).into_iter().flatten().collect();
    if let Some(member) = arguments.values.get("--package")
        && !packages.iter().any(|package| package["name"].as_str() == Some(member))
    {
        return Err(format!("The workspace does not have a member {member}: {}", project.display()).into());
    }
    let root =
        packages.iter().find(|package| package.get("source").is_some_and(|source| source.get("virtual").is_some()));
    if let Some(root) = root.filter(|_| arguments.has("--locked")) {
        let asked = |value: Option<&toml::Value>| value.and_then(toml::Value::as_array).map_or(0, Vec::len);
        let locked = root.get("metadata").and_then(|metadata| metadata.get("requires-dist"));
        if asked(locked) != asked(own["project"].get("dependencies")) {
            return Err("The lockfile at `uv.lock` needs to be updated, but `--locked` was provided.".into());
        }
    }
    let needed = root.map(|root| needed(root, &packages, arguments)).transpose()?;
    let mut out = String::from("lock-version = \"1.0\"\ncreated-by = \"uv\"\n");
    for package in packages {
        let wheels = package.get("wheels").and_then(toml::Value::as_array);
        let name = package["name"].as_str().unwrap_or_default();
        if needed.as_ref().is_some_and(|needed| !needed.contains(name)) {
            continue;
        }
        let source = match package.get("source").and_then(|source| source.get("git")) {
            Some(url) => format!("vcs = {{ type = \"git\", url = {url}, commit-id = \"0\" }}\n"),
            None => {
                package.get("sdist").map(|sdist| format!("sdist = {{ url = {} }}\n", sdist["url"])).unwrap_or_default()
            }
        };
        if wheels.is_none() && source.is_empty() {
            continue;
        }
        out.push_str(&format!("\n[[packages]]\nname = {}\n", package["name"]));
        // uv tells no version of a repository.
        if !source.starts_with("vcs") {
            out.push_str(&format!("version = {}\n", package["version"]));
        }
        out.push_str(&source);
        let wheel = |wheel: &toml::Value| {
            let hash = wheel["hash"].as_str().unwrap_or_default().trim_start_matches("sha256:").to_owned();
            format!("{{ url = {}, hashes = {{ sha256 = {hash:?} }} }}", wheel["url"])
        };
        if let Some(wheels) = wheels {
            out.push_str(&format!("wheels = [{}]\n", wheels.iter().map(wheel).collect::<Vec<_>>().join(", ")));
        }
    }
    Ok(fs_err::write(arguments.value("--output-file")?, out)?)
}

/// The names of what the root needs, with the groups and extras that are asked for.
fn needed(root: &toml::Value, packages: &[&toml::Value], arguments: &Arguments) -> Result<BTreeSet<String>> {
    let names = |value: Option<&toml::Value>| -> Vec<String> {
        let list = value.and_then(toml::Value::as_array).into_iter().flatten();
        list.filter_map(|package| Some(package.get("name")?.as_str()?.to_owned())).collect()
    };
    let mut waiting = names(root.get("dependencies"));
    let mut groups = arguments.all("--group");
    if !arguments.has("--no-default-groups") {
        groups.push("dev");
    }
    let extras = arguments.all("--extra");
    for (kind, table, chosen) in [("Group", "dev-dependencies", groups), ("Extra", "optional-dependencies", extras)] {
        for name in chosen {
            let list = root.get(table).and_then(|table| table.get(name));
            if list.is_none() && name != "dev" {
                return Err(format!("{kind} `{name}` is not defined in the project's table").into());
            }
            waiting.extend(names(list));
        }
    }
    let mut needed = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        if needed.insert(name.clone()) {
            let package = packages.iter().find(|package| package["name"].as_str() == Some(&name));
            waiting.extend(names(package.and_then(|package| package.get("dependencies"))));
        }
    }
    Ok(needed)
}
