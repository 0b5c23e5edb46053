//! `remove`: Python distributions of a base are hidden, by the files that their `RECORD`s list (PEP 376).

use std::collections::BTreeSet;

use kiln_oci::SPLICE_VERSION;
use kiln_oci::layer::{Layer, LayerFile};
use kiln_plan::base::Distribution;
use kiln_wheel::record;
use serde::Serialize;

use crate::below::Around;
use crate::context::Context;
use crate::error::{BuildError, Result};
use crate::node::Node;
use crate::product::TextFile;
use crate::step::{Cost, Kind, Level, Read, Step, Subject};

/// Rows of a `RECORD` that are read.
const MOST_ROWS: usize = 1_000_000;

/// Distributions that are hidden.
#[derive(Serialize)]
pub(crate) struct Remove {
    /// Each with its directory, without a leading slash, its modules, and its `RECORD`.
    distributions: Vec<(String, Vec<String>, Node<TextFile>)>,
    /// Modules and directories that belong to others: in them, files are hidden one by one.
    shared: BTreeSet<String>,
    /// Prefix of the interpreter, without a leading slash.
    prefix: String,
    #[serde(skip_serializing_if = "Around::is_empty")]
    around: Around,
    compressor: u32,
    #[serde(skip)]
    names: Vec<String>,
}

impl Remove {
    /// `records` are those of the distributions; `stay` are the others of the base.
    pub(crate) fn new(
        distributions: &[&Distribution],
        records: Vec<Node<TextFile>>,
        stay: &[&Distribution],
        (prefix, around): (&str, Around),
    ) -> Self {
        let shared = stay.iter().flat_map(|held| held.modules.iter().map(|module| first(module).to_owned())).collect();
        let each = distributions.iter().zip(records);
        Self {
            distributions: each
                .map(|(held, record)| (held.location.trim_matches('/').to_owned(), held.modules.clone(), record))
                .collect(),
            shared,
            prefix: prefix.to_owned(),
            around,
            compressor: SPLICE_VERSION,
            names: distributions.iter().map(|held| format!("{} {}", held.name, held.version)).collect(),
        }
    }

    /// Returns the line of the image's history.
    pub(crate) fn history(&self) -> String {
        format!("kiln: without the base's {}", self.names.join(", "))
    }

    /// Returns true for a file that an installer writes for a package: below the site directory, or in one of the directories for
    /// scripts and data of the same prefix, where no interpreter is.
    fn is_of_environment(&self, location: &str, path: &str) -> bool {
        let inner = |directory: &str| path.strip_prefix(directory).and_then(|rest| rest.strip_prefix('/'));
        if inner(location).is_some() {
            return true;
        }
        let Some(inner) = inner(&self.prefix) else { return false };
        let is_interpreter = inner.strip_prefix("bin/").is_some_and(|name| name.starts_with("python"));
        ["bin/", "share/", "include/", "etc/", "man/"].iter().any(|start| inner.starts_with(start)) && !is_interpreter
    }

    /// Returns the paths that are hidden, without a leading slash: whole directories where nobody else has files in them.
    fn hidden(&self, location: &str, modules: &[String], text: &str) -> BTreeSet<String> {
        let mut hidden = BTreeSet::new();
        let rows = record::parse(text.as_bytes(), MOST_ROWS).unwrap_or_default();
        // Files have a digest, but for the list itself and bytecode; what has none may be a directory of anybody.
        let is_file =
            |row: &&record::Row| !row.hash.is_empty() || [".pyc", "/RECORD"].iter().any(|end| row.path.ends_with(end));
        for row in rows.iter().filter(is_file) {
            let Some(path) = below(location, &row.path).filter(|path| self.is_of_environment(location, path)) else {
                continue;
            };
            let inner = path.strip_prefix(location).and_then(|path| path.strip_prefix('/'));
            let top = inner.filter(|inner| inner.contains('/')).map(first);
            let is_own = |top: &&str| {
                let is_module = modules.iter().any(|module| module == top);
                !self.shared.contains(*top) && (is_module || top.ends_with(".dist-info") || top.ends_with(".libs"))
            };
            hidden.insert(top.filter(is_own).map_or_else(|| path.clone(), |top| format!("{location}/{top}")));
        }
        hidden
    }
}

/// Returns the first part of a path.
fn first(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

/// Returns the path that a row of a `RECORD` names; `None` where that leads out of the file system, or nowhere.
fn below(location: &str, row: &str) -> Option<String> {
    if row.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = location.split('/').collect();
    for part in row.split('/') {
        match part {
            ".." => drop(parts.pop()?),
            "" | "." => {}
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

impl Step for Remove {
    type Product = Vec<Layer>;
    const KIND: Kind = Kind { name: "remove", version: 1 };

    fn subject(&self) -> Subject {
        Subject::Removed(self.names.clone())
    }

    fn reads(&self) -> Vec<Read> {
        self.distributions.iter().map(|(.., record)| record.at(Level::Known)).collect()
    }

    fn cost(&self) -> Cost {
        Cost::Cpu(0)
    }

    fn perform(&self, context: &Context<'_>) -> Result<Vec<Layer>> {
        let mut files = Vec::new();
        for ((location, modules, record), name) in self.distributions.iter().zip(&self.names) {
            let hidden = self.hidden(location, modules, &context.get(*record).text);
            if hidden.is_empty() {
                return Err(BuildError::Mistake {
                    message: format!("the RECORD of the base's {name} lists no file: it cannot be removed"),
                    hint: "take a base without it".into(),
                });
            }
            files.extend(hidden.into_iter().map(LayerFile::whiteout));
        }
        let files = self.around.fit(&self.subject().to_string(), files)?;
        context.workshop.small_layer(&self.subject().to_string(), files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_record_lead_to_files_of_the_image() {
        let site = "usr/lib/python3.11/site-packages";
        assert_eq!(below(site, "six.py").as_deref(), Some("usr/lib/python3.11/site-packages/six.py"));
        assert_eq!(below(site, "../../../bin/x").as_deref(), Some("usr/bin/x"));
        assert_eq!(below(site, "/etc/x.conf"), None);
        assert_eq!(below(site, "../../../../../../etc/passwd"), None);
    }

    #[test]
    fn nothing_but_files_of_an_environment_is_hidden() {
        let mut remove = Remove::new(&[], Vec::new(), &[], ("usr/local", Around::default()));
        remove.shared.insert("other".into());
        let site = "usr/local/lib/python3.11/site-packages";
        let hidden =
            |text: &str| remove.hidden(site, &["mine".to_owned()], text).into_iter().collect::<Vec<_>>().join(" ");
        for row in [
            "/usr/bin,,",
            "../../../../bin,,",
            "../../../bin,,",
            ".,,",
            "other,,",
            "other/,,",
            "/etc/passwd,sha256=x,1",
            "../../../../../etc/passwd,sha256=x,1",
            "../../../../lib/x86_64-linux-gnu/libc.so.6,sha256=x,1",
            "../../../bin/python3.11,sha256=x,1",
        ] {
            assert_eq!(hidden(&format!("{row}\n")), "", "{row}");
        }
        assert_eq!(hidden("mine/__init__.py,sha256=x,1\nmine/a.py,sha256=x,1\n"), format!("{site}/mine"));
        assert_eq!(hidden("../../../bin/tool,sha256=x,1\n"), "usr/local/bin/tool");
        assert_eq!(hidden("other/a.py,sha256=x,1\n"), format!("{site}/other/a.py"));
    }
}
