//! Places that a project takes packages from: `[tool.uv.sources]` and the indexes that it names.

use std::ops::Range;

use kiln_plan::diagnostic::{Diagnostic, Place};
use pep508_rs::MarkerTree;
use toml::de::{DeTable, DeValue};

use super::{Reader, get, named};
use crate::requirements::requirement::{Refused, bring_it, read_marker};
use crate::requirements::{Bound, FileRequirement, Placed, index_url};

impl<'t> Reader<'t> {
    /// Adds a requirement from where `[tool.uv.sources]` has it.
    pub(super) fn requirement(&mut self, text: &str, span: Range<usize>, extras: &[String], groups: &[String]) {
        let place = self.place(span.clone());
        let mut value = match FileRequirement::read(text, self.surroundings) {
            Ok(value) => value,
            Err(Refused { message, label, hint }) => {
                return self.wrong.push(Diagnostic::at(place, message).label(label).hint(hint));
            }
        };
        let source = self.at(&["tool", "uv", "sources"]).and_then(|sources| named(sources, value.name.as_ref()));
        let sources = match source.map(|source| (source, source.get_ref())) {
            Some((_, DeValue::Array(list))) => list.iter().collect(),
            Some((source, _)) => vec![source],
            None => Vec::new(),
        };
        for source in sources {
            let Some(table) = source.get_ref().as_table() else { continue };
            let text = |key: &str| get(table, key).and_then(|value| value.get_ref().as_str());
            let names = |text: Option<&str>, chosen: &[String]| {
                text.is_none_or(|text| chosen.iter().any(|name| crate::name_of(name) == crate::name_of(text)))
            };
            if !names(text("extra"), extras) || !names(text("group"), groups) {
                continue;
            }
            let marker = match text("marker").map(read_marker).transpose() {
                Ok(marker) => marker,
                Err(refused) => {
                    self.refuse(source.span(), refused.message, refused.hint);
                    continue;
                }
            };
            if let Err(refused) = self.take_from(&mut value, table, marker, &place, source.span()) {
                self.refuse(source.span(), refused.message, refused.hint);
            }
        }
        self.found.requirements.push(Placed { value, place });
    }

    /// Takes a requirement from a source: where its marker holds, if it has one.
    fn take_from(
        &mut self,
        value: &mut FileRequirement,
        table: &DeTable<'_>,
        marker: Option<MarkerTree>,
        place: &Place,
        span: Range<usize>,
    ) -> Result<(), Refused> {
        let text = |key: &str| get(table, key).and_then(|value| value.get_ref().as_str());
        if let Some(name) = text("index") {
            let Some(url) = self.index(name) else {
                return Err(Refused::new(
                    format!("there is no index `{name}`"),
                    "declare it: `[[tool.uv.index]]` with `name` and `url`",
                ));
            };
            let index = Placed { value: index_url(&url, self.surroundings.directory)?, place: self.place(span) };
            self.found.bound.push(Bound { name: value.name.clone(), index, marker });
            return Ok(());
        }
        let location = text("url").or_else(|| text("path").filter(|path| path.ends_with(".whl")));
        let Some(location) = location else {
            if self.surroundings.provided.contains(&value.name) {
                return Ok(());
            }
            let message = format!("`{}` is built from source here, and kiln does not build sources yet", value.name);
            return Err(Refused::new(message, bring_it(&value.name)));
        };
        let located = FileRequirement::read(&format!("{} @ {location}", value.name), self.surroundings)?;
        let mut there = FileRequirement { source: located.source, hashes: located.hashes, ..value.clone() };
        if let Some(marker) = marker {
            let elsewhere = marker.negate();
            there.restrict(marker);
            value.restrict(elsewhere);
            self.found.requirements.push(Placed { value: there, place: place.clone() });
        } else {
            *value = there;
        }
        Ok(())
    }

    /// The URL of an index that `[[tool.uv.index]]` names.
    fn index(&self, name: &str) -> Option<String> {
        let all = self.at(&["tool", "uv", "index"])?.get_ref().as_array()?;
        let tables = all.iter().filter_map(|index| index.get_ref().as_table());
        let text = |table: &DeTable<'_>, key: &str| get(table, key)?.get_ref().as_str().map(str::to_owned);
        tables.filter(|table| text(table, "name").as_deref() == Some(name)).find_map(|table| text(table, "url"))
    }
}

impl FileRequirement {
    /// Lets it hold only where a marker does.
    fn restrict(&mut self, marker: MarkerTree) {
        let mut both = marker;
        if let Some((_, own)) = &self.marker {
            both.and(own.clone());
        }
        // One that always holds has no text.
        self.marker = both.try_to_string().map(|text| (text, both.clone()));
    }
}
