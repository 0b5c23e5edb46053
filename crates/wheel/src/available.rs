//! Wheels that an index has of a package, in words, where none of those that are asked for fits.

use std::collections::{BTreeMap, BTreeSet};

use pep440_rs::{Version, VersionSpecifiers};
use serde::Deserialize;

use crate::name::WheelName;
use crate::tags::Tags;

/// Names that are listed.
const MOST: usize = 12;

/// The page of a package in the JSON form of the simple API (PEP 691).
#[derive(Deserialize)]
struct Page {
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    filename: String,
}

/// Returns the wheels that the page of a package names: in JSON (PEP 691), or the texts of links in HTML (PEP 503).
pub fn wheels(page: &[u8]) -> Vec<WheelName> {
    if let Ok(page) = serde_json::from_slice::<Page>(page) {
        return page.files.iter().filter_map(|file| file.filename.parse().ok()).collect();
    }
    let text = String::from_utf8_lossy(page);
    text.split("</a>").filter_map(|link| link.rsplit_once('>')?.1.trim().parse().ok()).collect()
}

/// Says what an answer of an index is that was to be the page of a package and names no file, as a noun phrase; `None` for a page
/// that names some.
pub fn oddity(page: &[u8], media_type: &str) -> Option<String> {
    let is_json = media_type.ends_with("json");
    if !is_json && !media_type.ends_with("html") {
        let said = if media_type.is_empty() { "no media type" } else { media_type };
        return Some(format!("{said}, and not with the page of a package"));
    }
    let text = String::from_utf8_lossy(page);
    if text.trim().is_empty() {
        return Some("an empty page".into());
    }
    if !is_json {
        let names_file = ["whl", ".tar.gz", ".zip"].iter().any(|end| text.contains(&format!("{end}</a>")));
        let lower = text.to_ascii_lowercase();
        let is_form = lower.contains("<form") || lower.contains("password");
        return (wheels(page).is_empty() && !names_file).then(|| match is_form {
            true => "a page with a form, such as a login, that names no file".into(),
            false => "an HTML page that names no file".into(),
        });
    }
    let value: serde_json::Value = match serde_json::from_slice(page) {
        Ok(value) => value,
        Err(_) => return Some("JSON that cannot be read".into()),
    };
    let version = value.pointer("/meta/api-version").and_then(serde_json::Value::as_str).unwrap_or("1.0");
    match value.get("files").and_then(serde_json::Value::as_array) {
        _ if !version.starts_with("1.") => {
            Some(format!("a page of version {version} of the simple API, and 1.x alone is known (PEP 629)"))
        }
        Some(files) if files.is_empty() => Some("a page that names no file".into()),
        Some(_) => None,
        None => Some("JSON that is not the page of a package".into()),
    }
}

/// Says which wheels there are of versions, such as `>=1.10,<=1.19`, of which none fits, and which other versions have one
/// that does. Returns `None` where there is no wheel at all.
pub fn describe(wheels: &[WheelName], versions: &str, tags: &Tags) -> Option<String> {
    if wheels.is_empty() {
        return None;
    }
    let asked: VersionSpecifiers = versions.parse().unwrap_or_else(|_| VersionSpecifiers::empty());
    let (of_asked, others): (Vec<&WheelName>, Vec<&WheelName>) =
        wheels.iter().partition(|wheel| asked.contains(&wheel.version));
    let has = match of_asked.is_empty() {
        true => "its wheels are of other versions, and these have their source alone".to_owned(),
        false => format!("its wheels of these versions are for {} alone", systems(&of_asked, tags)),
    };
    let fitting: BTreeSet<&Version> =
        others.iter().filter(|wheel| tags.fit(wheel).is_some()).map(|wheel| &wheel.version).collect();
    let releases: Vec<&&Version> = fitting.iter().filter(|version| !version.any_prerelease()).collect();
    Some(match (releases.first(), releases.last()) {
        (Some(first), Some(last)) if first == last => format!("{has}; {first} has one that fits"),
        (Some(first), Some(last)) => format!("{has}; {first} to {last} have some that fit"),
        _ => format!("{has}; no version has one that fits"),
    })
}

/// The Pythons that wheels are for, or, where this one is among them, the platforms.
fn systems(wheels: &[&WheelName], tags: &Tags) -> String {
    let anywhere = |wheel: &WheelName| tags.fit(&WheelName { platform: vec!["any".into()], ..wheel.clone() }).is_some();
    let of_python: Vec<&&WheelName> = wheels.iter().filter(|wheel| anywhere(wheel)).collect();
    let mut names: BTreeMap<(u32, u32, &str), &str> = BTreeMap::new();
    match of_python.is_empty() {
        false => {
            names.extend(
                of_python.iter().flat_map(|wheel| &wheel.platform).map(|name| ((0, 0, name.as_str()), &**name)),
            );
        }
        true => names.extend(wheels.iter().flat_map(|wheel| &wheel.python).map(|name| (order(name), &**name))),
    }
    let more = names.len().saturating_sub(MOST);
    let listed: Vec<&str> = names.into_values().take(MOST).collect();
    if more > 0 { format!("{} and {more} more", listed.join(", ")) } else { listed.join(", ") }
}

/// The place of a Python tag in a list: `cp39` before `cp310`.
fn order(tag: &str) -> (u32, u32, &str) {
    let digits = tag.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let (major, minor) = digits.split_at_checked(1).unwrap_or_default();
    (major.parse().unwrap_or(0), minor.parse().unwrap_or(0), tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 6] = [
        "numpy-1.19.5-cp39-cp39-manylinux2010_x86_64.whl",
        "numpy-1.19.5-cp310-cp310-manylinux2010_x86_64.whl",
        "numpy-1.19.5-cp36-cp36m-win32.whl",
        "numpy-1.23.2-cp311-cp311-manylinux_2_17_x86_64.whl",
        "numpy-2.0-cp311-cp311-manylinux_2_17_x86_64.whl",
        "numpy-3.0rc1-cp311-cp311-manylinux_2_17_x86_64.whl",
    ];

    fn said(files: &[&str], versions: &str) -> Option<String> {
        let libc = kiln_plan::base::Libc { family: kiln_plan::base::LibcFamily::Glibc, version: "2.36".into() };
        let tags = Tags::new(11, "linux/amd64".parse().unwrap(), Some(&libc));
        let wheels: Vec<WheelName> = files.iter().map(|file| file.parse().unwrap()).collect();
        describe(&wheels, versions, &tags)
    }

    #[test]
    fn wheels_for_other_pythons_are_listed_with_the_versions_that_fit() {
        insta::assert_snapshot!(
            said(&FILES, ">=1.10.4,<=1.19.5").unwrap(),
            @"its wheels of these versions are for cp36, cp39, cp310 alone; 1.23.2 to 2.0 have some that fit"
        );
        insta::assert_snapshot!(
            said(&FILES, "==1.10").unwrap(),
            @"its wheels are of other versions, and these have their source alone; 1.23.2 to 2.0 have some that fit"
        );
        insta::assert_snapshot!(
            said(&["a-1-py3-none-win32.whl", "a-1-cp39-cp39-any.whl"], "==1").unwrap(),
            @"its wheels of these versions are for win32 alone; no version has one that fits"
        );
        assert_eq!(said(&[], "==1"), None);
    }

    #[test]
    fn an_answer_that_is_no_page_of_a_package_is_described() {
        const JSON: &str = "application/vnd.pypi.simple.v1+json";
        let all = [
            ("text/html", " "),
            ("text/html", "<html></html>"),
            ("text/html", "<form><input type=password></form>"),
            ("text/plain", "hello"),
            ("", "hello"),
            (JSON, "{broken"),
            (JSON, r#"{"meta": {"api-version": "9.0"}, "files": []}"#),
            (JSON, r#"{"files": []}"#),
            (JSON, "[]"),
        ];
        let said: Vec<String> = all.iter().map(|(kind, page)| oddity(page.as_bytes(), kind).unwrap()).collect();
        insta::assert_snapshot!(said.join("\n"), @r"
        an empty page
        an HTML page that names no file
        a page with a form, such as a login, that names no file
        text/plain, and not with the page of a package
        no media type, and not with the page of a package
        JSON that cannot be read
        a page of version 9.0 of the simple API, and 1.x alone is known (PEP 629)
        a page that names no file
        JSON that is not the page of a package
        ");
        assert_eq!(oddity(b"<a href='a'>a-1-py3-none-any.whl</a>", "text/html"), None);
        assert_eq!(oddity(b"<a href='a'>a-1.tar.gz</a>", "application/vnd.pypi.simple.v1+html"), None);
        assert_eq!(oddity(br#"{"meta": {"api-version": "1.4"}, "files": [{}]}"#, JSON), None);
    }

    #[test]
    fn a_page_is_json_or_html() {
        let json = br#"{"files": [{"filename": "a-1.tar.gz"}, {"filename": "a-1-py3-none-any.whl"}]}"#;
        let html = b"<html><a href=\"x#sha256=0\">a-1.tar.gz</a><br>\n<a href='y'> a-1-py3-none-any.whl </a></html>";
        for page in [&json[..], html] {
            let found: Vec<String> = wheels(page).iter().map(ToString::to_string).collect();
            assert_eq!(found, ["a 1"]);
        }
        assert!(wheels(b"\xff{").is_empty());
    }
}
