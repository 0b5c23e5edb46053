//! The age of a `poetry.lock`: it holds a hash of what its project asked for when it was written (`content-hash`, Poetry's
//! `Locker`).

use std::fmt::Write as _;

use kiln_plan::digest::Digest;
use toml::{Table, Value};

/// Keys of `[tool.poetry]` since Poetry 1, which are hashed though they are absent where nothing else is there.
const LEGACY: [&str; 4] = ["dependencies", "source", "extras", "dev-dependencies"];
const PROJECT: [&str; 3] = ["requires-python", "dependencies", "optional-dependencies"];

/// Returns false for a lock that its project has outgrown; true where the lock has no hash, or the project cannot be hashed.
pub(super) fn is_fresh(content_hash: Option<&str>, project: &str) -> bool {
    let (Some(hash), Ok(project)) = (content_hash, project.parse::<Table>()) else { return true };
    // Poetry 2.3 hashes dependency groups, too.
    let hashes: Vec<Option<String>> = [true, false].map(|with_groups| hash_of(&project, with_groups)).into();
    hashes.iter().any(Option::is_none) || hashes.into_iter().flatten().any(|known| known == hash)
}

fn hash_of(document: &Table, with_groups: bool) -> Option<String> {
    let table = |table: Option<&Value>| table.and_then(Value::as_table).cloned().unwrap_or_default();
    let written = table(document.get("project"));
    let groups = table(document.get("dependency-groups").filter(|_| with_groups));
    let tool = table(document.get("tool").and_then(|tool| tool.get("poetry")));
    let project: Table =
        PROJECT.iter().filter_map(|key| Some(((*key).to_owned(), written.get(*key)?.clone()))).collect();
    let has_more = !project.is_empty() || !groups.is_empty();
    let mut poetry = String::from("{");
    let mut keys: Vec<&str> = LEGACY.into_iter().chain(["group"]).collect();
    keys.sort_unstable();
    for key in keys {
        let value = match tool.get(key) {
            Some(value) => json(value)?,
            None if LEGACY.contains(&key) && !has_more => "null".to_owned(),
            None => continue,
        };
        let comma = if poetry.len() > 1 { ", " } else { "" };
        let _ = write!(poetry, "{comma}\"{key}\": {value}");
    }
    poetry.push('}');
    let text = match has_more {
        false => poetry,
        true => {
            let parts = [("dependency-groups", groups), ("project", project)];
            let parts = parts.into_iter().filter(|(_, table)| !table.is_empty());
            let parts = parts.map(|(key, table)| Some(format!("\"{key}\": {}", json(&Value::Table(table))?)));
            let mut parts: Vec<String> = parts.collect::<Option<_>>()?;
            parts.push(format!("\"tool\": {{\"poetry\": {poetry}}}"));
            format!("{{{}}}", parts.join(", "))
        }
    };
    Some(Digest::of(text.as_bytes()).hex())
}

/// Writes a value as Python's `json.dumps(value, sort_keys=True)` does; `None` for dates, which have no JSON.
fn json(value: &Value) -> Option<String> {
    Some(match value {
        Value::String(text) => quoted(text),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Boolean(value) => value.to_string(),
        Value::Array(values) => format!("[{}]", values.iter().map(json).collect::<Option<Vec<_>>>()?.join(", ")),
        Value::Table(table) => {
            let mut entries: Vec<_> = table.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            let entries = entries.into_iter().map(|(key, value)| Some(format!("{}: {}", quoted(key), json(value)?)));
            format!("{{{}}}", entries.collect::<Option<Vec<_>>>()?.join(", "))
        }
        Value::Datetime(_) => return None,
    })
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for unit in text.encode_utf16() {
        match char::from_u32(u32::from(unit)) {
            Some('"') => out.push_str("\\\""),
            Some('\\') => out.push_str("\\\\"),
            Some('\n') => out.push_str("\\n"),
            Some('\r') => out.push_str("\\r"),
            Some('\t') => out.push_str("\\t"),
            Some('\u{8}') => out.push_str("\\b"),
            Some('\u{c}') => out.push_str("\\f"),
            Some(c @ ' '..='\u{7f}') => out.push(c),
            _ => drop(write!(out, "\\u{unit:04x}")),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes that Poetry 2.4.1 gives.
    #[test]
    fn a_lock_is_fresh_while_its_project_asks_for_the_same() {
        for (project, hash) in [
            (
                "[tool.poetry]\n[tool.poetry.dependencies]\npython = \"^3.11\"\nsix = \"1.16.0\"\n",
                "c7ab80991bd71ed15c91627c9808106de04b6b7ca3b14224d3cb2353322fbe3d",
            ),
            (
                "[project]\nname = \"x\"\nrequires-python = \">=3.11\"\ndependencies = [\"six==1.16.0\", \"é\\\"\"]\n\
                 [dependency-groups]\ndev = [\"idna\"]\n",
                "31ce938a0f87905d44f252c8ed62bdd7588926eea3e3ddb48582189bfdd87ba0",
            ),
        ] {
            assert!(is_fresh(Some(hash), project), "{project}");
            assert!(!is_fresh(Some(hash), &project.replace("six", "seven")), "{project}");
        }
        assert!(is_fresh(None, "[project]\n"));
        assert!(is_fresh(Some("x"), "[tool.poetry.dependencies]\nx = 1979-05-27\n"));
    }
}
