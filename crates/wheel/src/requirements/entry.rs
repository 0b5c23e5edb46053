//! Places of packages in locks: `poetry.lock`, `uv.lock` and `pylock.toml` are lists of tables with `name` and `version`.

use std::sync::Arc;

use kiln_plan::diagnostic::{Place, SourceFile};
use toml::de::{DeTable, DeValue};

use super::without_secrets;

/// Returns the place of a package's name in a lock, of this version where one is given. `path` is the lock's in messages.
pub fn entry(text: &str, path: &str, package: &str, version: Option<&str>) -> Option<Place> {
    let table = DeTable::parse(text).ok()?;
    let lists = table.get_ref().iter().filter(|(key, _)| matches!(key.get_ref().as_ref(), "package" | "packages"));
    let packages = lists.filter_map(|(_, list)| list.get_ref().as_array()).flat_map(|list| list.iter());
    let value = |one: &DeTable<'_>, key: &str| {
        let found = one.iter().find(|(name, _)| name.get_ref() == key)?.1;
        Some((found.get_ref().as_str()?.to_owned(), found.span()))
    };
    let mut named = packages.filter_map(|one| match one.get_ref() {
        DeValue::Table(one) => {
            let (name, span) = value(one, "name")?;
            let is = crate::name_of(&name).is_some_and(|name| name.as_ref() == package);
            let other = value(one, "version").is_some_and(|(text, _)| version.is_some_and(|version| version != text));
            (is && !other).then_some(span)
        }
        _ => None,
    });
    let span = named.next()?;
    let file = Arc::new(SourceFile { path: path.to_owned(), text: without_secrets(text) });
    Some(Place { file, span })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_of_a_lock_is_found_in_its_version() {
        let text = "[[package]]\nname = \"A_b\"\nversion = \"1\"\n[[package]]\nname = \"a-b\"\nversion = \"2\"\n";
        let line = |version| {
            let place = entry(text, "uv.lock", "a-b", version)?;
            Some(text[..place.span.start].matches('\n').count() + 1)
        };
        assert_eq!((line(Some("2")), line(Some("1")), line(None), line(Some("3"))), (Some(5), Some(2), Some(2), None));
        assert!(entry(text, "uv.lock", "c", None).is_none());
        assert!(entry("x", "uv.lock", "c", None).is_none());
    }
}
