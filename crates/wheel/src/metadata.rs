//! The few fields of `METADATA` and `entry_points.txt` that kiln reads (core metadata specification).

use std::collections::BTreeMap;

/// What a wheel says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Name as written.
    pub name: String,
    /// Version as written.
    pub version: String,
    /// Requirements (PEP 508).
    pub requires: Vec<String>,
}

impl Metadata {
    /// Reads the headers; the description after the first empty line is not looked at.
    pub fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut metadata = Self::default();
        for line in unfolded(&text) {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim().to_owned();
            match key.to_ascii_lowercase().as_str() {
                "name" if metadata.name.is_empty() => metadata.name = value,
                "version" if metadata.version.is_empty() => metadata.version = value,
                "requires-dist" => metadata.requires.push(value),
                _ => {}
            }
        }
        metadata
    }
}

/// Returns the headers, each with the lines that continue it (RFC 5322, section 2.2.3).
fn unfolded(text: &str) -> Vec<String> {
    let mut headers: Vec<String> = Vec::new();
    for line in text.lines().take_while(|line| !line.is_empty()) {
        match headers.last_mut() {
            Some(header) if line.starts_with([' ', '\t']) => header.push_str(line),
            _ => headers.push(line.to_owned()),
        }
    }
    headers
}

/// A console or GUI script that an installer writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPoint {
    /// File name of the script.
    pub name: String,
    /// Module to import.
    pub module: String,
    /// Dotted attribute to call.
    pub attribute: String,
}

impl EntryPoint {
    /// The script: imports, then calls, and exits with what the call returns.
    pub fn script(&self, interpreter: &str) -> String {
        let Self { module, attribute, .. } = self;
        let first = attribute.split('.').next().unwrap_or(attribute);
        format!(
            "#!{interpreter}\nimport sys\n\nfrom {module} import {first}\n\nif __name__ == \"__main__\":\n    \
             sys.exit({attribute}())\n"
        )
    }
}

/// Entry points that a wheel may have.
const MOST: usize = 10_000;

/// Reads the scripts of `entry_points.txt` (entry points specification). An error is a clause about the file.
pub fn entry_points(bytes: &[u8]) -> Result<Vec<EntryPoint>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let mut section = None;
    let mut found: BTreeMap<String, EntryPoint> = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = Some(name.trim());
            continue;
        }
        let section = section.ok_or_else(|| format!("has no section above `{line}`"))?;
        if matches!(section, "console_scripts" | "gui_scripts") {
            let point = entry_point(line).ok_or_else(|| format!("has no valid entry point in `{line}`"))?;
            if let Some(twice) = found.insert(point.name.clone(), point) {
                return Err(format!("has two scripts named `{}`", twice.name));
            }
            if found.len() > MOST {
                return Err(format!("has more than {MOST} entry points"));
            }
        }
    }
    Ok(found.into_values().collect())
}

fn entry_point(line: &str) -> Option<EntryPoint> {
    let (name, reference) = line.split_once('=')?;
    let name = name.trim();
    let reference = reference.split('[').next()?.trim();
    let (module, attribute) = reference.split_once(':')?;
    let (module, attribute) = (module.trim(), attribute.trim());
    let dotted = |path: &str| {
        let identifier = |part: &str| {
            !part.is_empty()
                && part.chars().all(|c| c == '_' || c.is_alphanumeric())
                && !part.starts_with(|c: char| c.is_ascii_digit())
        };
        path.split('.').all(identifier)
    };
    let file = !name.is_empty() && !matches!(name, "." | "..") && !name.contains(['/', '\\', '\0']);
    (file && dotted(module) && dotted(attribute)).then(|| EntryPoint {
        name: name.to_owned(),
        module: module.to_owned(),
        attribute: attribute.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_headers_before_the_description_count() {
        let text = b"Metadata-Version: 2.1\nName: A.b\nVersion: 1\nRequires-Dist: c>=1\n\nVersion: 9\n";
        let expected = Metadata { name: "A.b".into(), version: "1".into(), requires: vec!["c>=1".into()] };
        assert_eq!(Metadata::parse(text), expected);
        assert_eq!(Metadata::parse(b"Name:\r\n A.b\r\nVersion: 1\r\nRequires-Dist:\r\n c>=1\r\n"), expected);
    }

    #[test]
    fn scripts_are_found_in_both_sections_and_extras_are_dropped() {
        let text = b"[other]\nx = y\n[console_scripts]\nb = m.n:C.run [extra]\n[gui_scripts]\na=m:f\n";
        let found = entry_points(text).unwrap();
        assert_eq!(found.iter().map(|point| point.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(found[1].attribute, "C.run");
        assert!(found[1].script("/opt/venv/bin/python").contains("from m.n import C\n"));
    }

    #[test]
    fn sections_and_scripts_are_plain() {
        assert!(entry_points(b"x = m:f\n").is_err());
        assert!(entry_points(b"[console_scripts]\nx = m:f\nx = m:g\n").is_err());
    }

    #[test]
    fn an_entry_point_cannot_write_elsewhere_or_run_something_else() {
        for line in ["../x = m:f", "x = m", "x = m:f; import os", "x = :f", "= m:f", "x = 1m:f"] {
            assert!(entry_points(format!("[console_scripts]\n{line}\n").as_bytes()).is_err(), "{line}");
        }
    }
}
