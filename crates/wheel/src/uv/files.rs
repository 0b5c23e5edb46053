//! The files that uv reads: kiln's settings, a project that stands for the image, versions to stay with, and wheels of
//! metadata alone.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use kiln_plan::stack::Prerelease;
use pep508_rs::PackageName;

use super::{PROJECT, Question, requires};

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(items: &[String]) -> String {
    items.iter().map(|item| quote(item)).collect::<Vec<_>>().join(", ")
}

/// Lines of a file.
pub(super) fn lines(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The settings: where packages come from, and what holds for all of them.
pub(super) fn configuration(question: &Question<'_>, recipes: &Path) -> String {
    let index = question.index;
    let mut links = index.find_links.clone();
    let mut constraints = question.constraints.clone();
    if !question.recipes.is_empty() {
        links.push(recipes.display().to_string());
        constraints.extend(question.recipes.iter().map(|(name, version, _)| format!("{name}=={version}")));
    }
    let mut text = format!(
        "no-build = true\nno-index = {}\nfind-links = [{}]\nconstraint-dependencies = [{}]\n",
        question.no_index,
        list(&links),
        list(&constraints),
    );
    for (key, items) in [("override-dependencies", &question.overrides), ("exclude-dependencies", &question.exclude)] {
        if !items.is_empty() {
            let _ = writeln!(text, "{key} = [{}]", list(items));
        }
    }
    match &question.prerelease {
        Prerelease::Necessary => {}
        Prerelease::All => text.push_str("prerelease = \"allow\"\n"),
        Prerelease::Of(names) => {
            let allowed = names.iter().map(|name| format!("{name} = \"allow\"")).collect::<Vec<_>>().join(", ");
            let _ = writeln!(text, "prerelease-package = {{ {allowed} }}");
        }
    }
    if let Some(time) = &question.exclude_newer {
        let _ = writeln!(text, "exclude-newer = {}", quote(time));
    }
    if !question.recipes.is_empty() {
        text.push_str("dependency-metadata = [\n");
        for (name, version, requires) in &question.recipes {
            let (name, version) = (quote(name), quote(version));
            let extras: BTreeSet<String> = requires.iter().flat_map(|text| extras_in(text)).collect();
            let extras = match extras.is_empty() {
                true => String::new(),
                false => format!(", provides-extra = [{}]", list(&extras.into_iter().collect::<Vec<_>>())),
            };
            let requires = list(requires);
            let _ = writeln!(text, "  {{ name = {name}, version = {version}, requires-dist = [{requires}]{extras} }},");
        }
        text.push_str("]\n");
    }
    for (at, url) in index.extra.iter().enumerate() {
        let _ = write!(text, "\n[[index]]\nname = \"extra-{at}\"\nurl = {}\n", quote(url));
    }
    if let Some(url) = &index.default {
        let _ = write!(text, "\n[[index]]\nname = \"default\"\nurl = {}\ndefault = true\n", quote(url));
    }
    text
}

/// Returns the extras that the marker of a requirement names.
fn extras_in(requirement: &str) -> impl Iterator<Item = String> {
    let marker = requirement.split_once(';').map_or("", |(_, marker)| marker);
    let named = marker.split("extra").skip(1).filter_map(|rest| {
        let rest = rest.trim_start().strip_prefix("==")?.trim_start();
        let quote = rest.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
        rest[1..].split_once(quote).map(|(extra, _)| extra.to_owned())
    });
    named.collect::<Vec<_>>().into_iter()
}

/// The project: the stack's requirements, and the packages that have an index of their own. It is the root of its
/// workspace, so that uv looks for none above.
pub(super) fn project(question: &Question<'_>, bound: &BTreeSet<&PackageName>) -> String {
    let mut requirements = question.requirements.clone();
    let stated = |name: &PackageName| question.requirements.iter().any(|text| requires(text, name));
    requirements.extend(bound.iter().filter(|name| !stated(name)).map(ToString::to_string));
    let mut text = format!(
        "[project]\nname = \"{PROJECT}\"\nversion = \"0\"\nrequires-python = \">={}\"\ndependencies = [{}]\n\n\
         [tool.uv.workspace]\nmembers = []\n",
        question.target.full_version(),
        list(&requirements),
    );
    let mut indexes = String::new();
    let mut sources = String::new();
    for (at, (package, url)) in question.index.packages.iter().enumerate() {
        let _ =
            write!(indexes, "\n[[tool.uv.index]]\nname = \"package-{at}\"\nurl = {}\nexplicit = true\n", quote(url));
        if url.starts_with('/') || url.ends_with(".html") {
            // A directory of wheels, or the page of one.
            indexes.push_str("format = \"flat\"\n");
        }
        let _ = writeln!(sources, "{package} = {{ index = \"package-{at}\" }}");
    }
    if !sources.is_empty() {
        let _ = write!(text, "\n[tool.uv.sources]\n{sources}");
    }
    text + &indexes
}

/// The answer to an earlier question, which uv stays with where it fits.
pub(super) fn preferences(versions: &[(String, String)]) -> String {
    let mut text = String::from("lock-version = \"1.0\"\ncreated-by = \"kiln\"\n");
    for (name, version) in versions {
        let _ = write!(text, "\n[[packages]]\nname = {}\nversion = {}\n", quote(name), quote(version));
    }
    text
}

/// A wheel that holds its metadata and nothing else. uv reads it from its beginning to its end, for which an entry whose
/// size follows its data must be deflated.
pub(super) fn metadata_wheel(name: &str, version: &str, requires: &[String]) -> std::io::Result<(String, Vec<u8>)> {
    let stem = format!("{}-{version}", name.replace('-', "_"));
    let mut metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
    for extra in requires.iter().flat_map(|text| extras_in(text)).collect::<BTreeSet<_>>() {
        let _ = writeln!(metadata, "Provides-Extra: {extra}");
    }
    for requirement in requires {
        let _ = writeln!(metadata, "Requires-Dist: {requirement}");
    }
    let wheel = "Wheel-Version: 1.0\nGenerator: kiln\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    let files = [("METADATA", metadata.as_bytes()), ("WHEEL", wheel.as_bytes()), ("RECORD", b"")];
    let mut bytes = Vec::new();
    let mut archive = rawzip::ZipArchiveWriter::new(&mut bytes);
    for (file, content) in files {
        let path = format!("{stem}.dist-info/{file}");
        let file = archive.new_file(&path).compression_method(rawzip::CompressionMethod::DEFLATE);
        let (mut entry, config) = file.start().map_err(std::io::Error::other)?;
        let mut writer = config.wrap(flate2::write::DeflateEncoder::new(&mut entry, flate2::Compression::default()));
        std::io::Write::write_all(&mut writer, content)?;
        let (encoder, descriptor) = writer.finish().map_err(std::io::Error::other)?;
        encoder.finish()?;
        entry.finish(descriptor).map_err(std::io::Error::other)?;
    }
    archive.finish().map_err(std::io::Error::other)?;
    Ok((format!("{stem}-py3-none-any.whl"), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::Wheel;

    #[test]
    fn a_wheel_of_metadata_alone_is_a_wheel_that_can_be_read_from_its_beginning() {
        let (file, bytes) = metadata_wheel("torch-scatter", "2.1.2", &["torch>=2".into()]).unwrap();
        // APPNOTE.TXT, section 4.3.7: flag 3 says that the size follows the data, method 8 is deflate.
        let (flags, method) = (bytes[6], bytes[8]);
        assert!(flags & 8 == 0 || method == 8, "flags {flags}, method {method}");
        let wheel = Wheel::open(file.parse().unwrap(), bytes.as_slice(), bytes.len() as u64).unwrap();
        let metadata = wheel.metadata().unwrap();
        assert_eq!((metadata.version.as_str(), metadata.requires), ("2.1.2", vec!["torch>=2".to_owned()]));
    }
}
