//! In what an environment made by kiln may differ from one that uv made of the same wheels: a table, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use super::Result;
use super::report::same;
use super::tree::{self, Kind, Tree};

/// A difference that is meant.
struct Intended {
    /// What differs.
    what: &'static str,
    /// Whether a path is meant.
    applies: fn(&Facts, &str) -> bool,
    /// What holds of it all the same.
    rule: Rule,
}

/// What holds of a path although it differs.
enum Rule {
    /// uv writes it and kiln does not.
    UvAlone,
    /// Both have it, and their content agrees in what counts.
    Agree(Agreement),
    /// The same, and whether it may be executed does not count.
    AgreeInAnyMode(Agreement),
}

/// Compares what kiln's and uv's file hold.
type Agreement = fn(&Facts, &str, &str) -> Result<()>;

const INTENDED: [Intended; 13] = [
    // It names the installer.
    Intended {
        what: "INSTALLER",
        applies: |_, path| in_dist_info(path, "INSTALLER"),
        rule: Rule::Agree(|_, ours, theirs| same("who installed", &*format!("{ours}{theirs}"), "kiln\nuv")),
    },
    // It lists the other files of this table, and kiln sorts it; uv gives it the mode that it has in the wheel.
    Intended {
        what: "RECORD",
        applies: |_, path| in_dist_info(path, "RECORD"),
        rule: Rule::AgreeInAnyMode(records_agree),
    },
    // The archive has an entry for them. pip makes none either.
    Intended {
        what: "directories without files",
        applies: |facts, path| facts.empty.contains(path),
        rule: Rule::UvAlone,
    },
    // A layer would depend on who asked for the package.
    Intended { what: "REQUESTED", applies: |_, path| in_dist_info(path, "REQUESTED"), rule: Rule::UvAlone },
    // It says from where on this machine the wheel came.
    Intended { what: "direct_url.json", applies: |_, path| in_dist_info(path, "direct_url.json"), rule: Rule::UvAlone },
    // It says when uv put the wheel into its cache.
    Intended { what: "uv_cache.json", applies: |_, path| in_dist_info(path, "uv_cache.json"), rule: Rule::UvAlone },
    // uv adds its version.
    Intended { what: "pyvenv.cfg", applies: |_, path| path == "pyvenv.cfg", rule: Rule::Agree(configurations_agree) },
    // uv's text has lines for Windows; what is imported and called by which interpreter is the same.
    Intended {
        what: "console and GUI scripts",
        applies: |facts, path| facts.scripts.by_path.contains_key(path),
        rule: Rule::Agree(|_, ours, theirs| same("what is called", Scripts::call(ours)?, Scripts::call(theirs)?)),
    },
    // kiln's own are shorter: they know their place.
    Intended {
        what: "activation scripts",
        applies: |_, path| matches!(path, "bin/activate" | "bin/activate.csh" | "bin/activate.fish"),
        rule: Rule::Agree(|_, ours, theirs| {
            let names = ["VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "PATH", "deactivate"];
            let sets =
                |text: &str| names.iter().filter(|name| text.contains(**name)).copied().collect::<Vec<_>>().join(" ");
            same("what an activation script sets", sets(ours), sets(theirs))
        }),
    },
    // For other shells.
    Intended {
        what: "activation scripts that kiln does not write",
        applies: |_, path| {
            path.starts_with("bin/activate.")
                || matches!(path, "bin/activate_this.py" | "bin/deactivate.bat" | "bin/pydoc.bat")
        },
        rule: Rule::UvAlone,
    },
    // It keeps old versions of distutils, which nobody runs in an image, from installing elsewhere.
    Intended {
        what: "_virtualenv",
        applies: |_, path| path.ends_with("site-packages/_virtualenv.py") || path.ends_with("/_virtualenv.pth"),
        rule: Rule::UvAlone,
    },
    // They keep version control and backups of a working directory out of the environment, and processes apart.
    Intended {
        what: "marks on the directory",
        applies: |_, path| matches!(path, ".gitignore" | "CACHEDIR.TAG" | ".lock"),
        rule: Rule::UvAlone,
    },
    // Python writes it where modules are imported, as uv does to learn of an interpreter; it holds times.
    Intended {
        what: "__pycache__",
        applies: |_, path| path.split('/').any(|part| part == "__pycache__"),
        rule: Rule::UvAlone,
    },
];

/// What the table above looks up.
struct Facts {
    scripts: Scripts,
    /// Directories without a file anywhere below.
    empty: BTreeSet<String>,
}

impl Facts {
    fn read(environment: &Tree) -> Result<Self> {
        let mut empty = BTreeSet::new();
        let mut files = Vec::new();
        for (path, node) in &environment.nodes {
            if node.kind == Kind::Directory {
                empty.insert(path.clone());
            } else {
                files.push(path);
            }
        }
        for path in files {
            for (slash, _) in path.match_indices('/') {
                empty.remove(&path[..slash]);
            }
        }
        Ok(Self { scripts: Scripts::read(environment)?, empty })
    }
}

/// The scripts that installers write for entry points: path in the environment to `module:attribute`.
pub(crate) struct Scripts {
    by_path: BTreeMap<String, String>,
}

impl Scripts {
    /// Those of all distributions in an environment.
    pub(crate) fn read(environment: &Tree) -> Result<Self> {
        let mut by_path = BTreeMap::new();
        for path in environment.nodes.keys().filter(|path| in_dist_info(path, "entry_points.txt")) {
            let mut section = String::new();
            for line in environment.text(path)?.lines().map(str::trim) {
                if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                    section = name.trim().to_owned();
                } else if matches!(section.as_str(), "console_scripts" | "gui_scripts")
                    && let Some((name, reference)) = line.split_once('=')
                {
                    let reference = reference.split('[').next().unwrap_or_default();
                    let reference = reference.replace(' ', "");
                    by_path.insert(format!("bin/{}", name.trim()), reference);
                }
            }
        }
        Ok(Self { by_path })
    }

    /// Scripts that an environment lacks, or whose entry point is another than is called.
    pub(crate) fn missing(&self, environment: &Tree) -> Vec<String> {
        let wrong = |(path, reference): (&String, &String)| {
            let called = environment.text(path).and_then(|text| Self::call(&text));
            let expected = format!("/opt/venv/bin/python {reference}");
            match called {
                Ok(called) if called == expected => None,
                Ok(called) => Some(format!("{path}: `{called}` rather than `{expected}`")),
                Err(error) => Some(format!("{path}: {error}")),
            }
        };
        self.by_path.iter().filter_map(wrong).collect()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_path.len()
    }

    /// `INTERPRETER MODULE:ATTRIBUTE`, as the text of a script has it.
    fn call(text: &str) -> Result<String> {
        let interpreter =
            text.lines().next().and_then(|line| line.strip_prefix("#!")).ok_or("it has no interpreter")?;
        let import = text.lines().find_map(|line| line.strip_prefix("from ")?.split_once(" import "));
        let called = text.lines().find_map(|line| line.trim().strip_prefix("sys.exit(")?.strip_suffix("())"));
        let ((module, name), called) = import.zip(called).ok_or("it imports or calls nothing")?;
        same("what is imported", name, called.split('.').next().unwrap_or_default())?;
        Ok(format!("{interpreter} {module}:{called}"))
    }
}

/// Where modules and `.dist-info` directories lie.
const SITE_PACKAGES: &str = "lib/python3.11/site-packages/";

/// Whether a path is this file of some distribution's `.dist-info`. Distributions inside of others do not count.
fn in_dist_info(path: &str, file: &str) -> bool {
    let split = path.strip_prefix(SITE_PACKAGES).and_then(|path| path.split_once('/'));
    split.is_some_and(|(directory, found)| directory.ends_with(".dist-info") && found == file)
}

/// What two environments differ in besides what is meant.
pub(crate) fn unintended(ours: &Tree, theirs: &Tree) -> Result<Vec<String>> {
    let facts = Facts::read(theirs)?;
    let mut wrong = Vec::new();
    let mut plain = Vec::new();
    let paths: BTreeSet<&String> = ours.nodes.keys().chain(theirs.nodes.keys()).collect();
    for path in paths {
        let intended = INTENDED.iter().find(|intended| (intended.applies)(&facts, path));
        let rule = intended.map(|intended| &intended.rule);
        match (ours.nodes.get(path), theirs.nodes.get(path), rule) {
            (Some(_), None, _) => wrong.push(format!("{path}: only kiln has it")),
            (None, Some(_), Some(Rule::UvAlone)) | (None, None, _) => {}
            (None, Some(_), _) => wrong.push(format!("{path}: only uv has it")),
            (Some(our), Some(their), rule) => {
                let any_mode = matches!(rule, Some(Rule::AgreeInAnyMode(_)));
                if our.describe() != their.describe() {
                    wrong.push(format!("{path}: {} of kiln's, {} of uv's", our.describe(), their.describe()));
                } else if our.is_executable() != their.is_executable() && !any_mode {
                    wrong.push(format!("{path}: mode {:o} of kiln's, {:o} of uv's", our.mode, their.mode));
                } else if let Some(Rule::Agree(agree) | Rule::AgreeInAnyMode(agree)) = rule {
                    let agreement = agree(&facts, &ours.text(path)?, &theirs.text(path)?);
                    let what = intended.map_or("", |intended| intended.what);
                    wrong.extend(agreement.err().map(|why| format!("{path} ({what}): {why}")));
                } else if matches!(our.kind, Kind::File(_)) {
                    plain.push(path.clone());
                }
            }
        }
    }
    let different = tree::different_files(ours, theirs, &plain)?;
    wrong.extend(different.into_iter().map(|path| format!("{path}: other content")));
    Ok(wrong)
}

/// How uv records files below `lib64`, which is a link to `lib`.
const THROUGH_LINK: &str = "../../../lib64/python3.11/site-packages/";

/// A `RECORD` without what the table above says of the files that it lists. Its lines are taken as they are: that both
/// quote paths in the same way is part of what is compared.
fn rows<'a>(facts: &Facts, record: &'a str) -> BTreeSet<&'a str> {
    let row = |line: &'a str| {
        let path = line.split(',').next().unwrap_or_default();
        let in_environment = match path.strip_prefix("../../../") {
            Some(path) => path.to_owned(),
            None => format!("{SITE_PACKAGES}{path}"),
        };
        let listed = INTENDED.iter().find(|intended| (intended.applies)(facts, &in_environment));
        match listed.map(|intended| &intended.rule) {
            // uv records what it wrote through the link of the environment.
            None => Some(line.strip_prefix(THROUGH_LINK).unwrap_or(line)),
            Some(Rule::UvAlone) => None,
            Some(Rule::Agree(_) | Rule::AgreeInAnyMode(_)) => Some(path),
        }
    };
    record.lines().filter_map(row).collect()
}

fn records_agree(facts: &Facts, ours: &str, theirs: &str) -> Result<()> {
    let (ours, theirs) = (rows(facts, ours), rows(facts, theirs));
    match ours.symmetric_difference(&theirs).next() {
        None => Ok(()),
        Some(row) if ours.contains(row) => Err(format!("only kiln has `{row}`").into()),
        Some(row) => Err(format!("only uv has `{row}`").into()),
    }
}

fn configurations_agree(_: &Facts, ours: &str, theirs: &str) -> Result<()> {
    let settings = |text: &str| -> BTreeMap<String, String> {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect()
    };
    let (ours, theirs) = (settings(ours), settings(theirs));
    for key in ours.keys().chain(theirs.keys()).filter(|key| *key != "uv") {
        let value = |settings: &BTreeMap<String, String>| settings.get(key).cloned().unwrap_or_default();
        same(&format!("`{key}`"), value(&ours), value(&theirs))?;
    }
    Ok(())
}
