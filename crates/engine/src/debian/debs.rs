//! Packages that are no archive's: files of the project, and files at addresses.

use std::io::BufReader;
use std::path::Path;

use kiln_debian::deb::Deb;
use kiln_debian::index::Index;
use kiln_plan::digest::Digest;
use kiln_plan::lock::{LockedDeb, LockedSystem};
use kiln_plan::stack::DebSource;

use super::packages;
use crate::error::{BuildError, DebianError, Result};
use crate::fetch::Wanted;
use crate::project::Project;
use crate::workshop::Workshop;

/// The end of the names that the files have for apt; a number stands before it.
const END: &str = ".deb";

/// The description of their suite: apt refuses an empty one.
pub(super) const DESCRIBED: &str = "Suite: suite\n";

/// Brings packages into the store, and returns the paragraphs that list them for apt, and the packages as they are locked. The path of
/// each is its number.
pub(super) fn listed(
    workshop: &Workshop<'_>,
    debs: &[DebSource],
    directory: &Path,
    name: &str,
) -> Result<(String, Vec<LockedDeb>)> {
    let mut list = String::new();
    let mut locked = Vec::new();
    for (at, deb) in debs.iter().enumerate() {
        let problem = |problem: String| DebianError::File { path: deb.place(), problem }.of(name);
        let sha256 = match deb {
            DebSource::File(path) => {
                add(workshop, &directory.join(path)).map_err(|error| problem(error.to_string()))?
            }
            DebSource::Url { url, sha256 } => {
                if !packages::is_here(workshop, sha256)? {
                    let file = url.path().rsplit('/').next().unwrap_or_default().to_owned();
                    workshop.download(&Wanted { file, url: url.clone(), digest: *sha256, size: None })?;
                }
                *sha256
            }
        };
        let blob = workshop.store.open_blob(&sha256)?;
        let size = blob.metadata()?.len();
        let read = Deb::read(BufReader::new(blob)).map_err(|error| problem(error.to_string()))?;
        let control = read.text("control").unwrap_or_default().trim();
        let file = format!("{at}{END}");
        let paragraph = packages::paragraph(control, &file, size, &sha256);
        let mut index = Index::default();
        index
            .add(&paragraph, 0, packages::field(control, "Architecture"))
            .map_err(|error| problem(error.to_string()))?;
        let package = index.at(0, &file).ok_or_else(|| problem("it names no package".into()))?;
        locked.push(LockedDeb { url: deb.place(), ..packages::locked(package, "", false) });
        list.push_str(&paragraph);
    }
    Ok((list, locked))
}

/// Returns the number of a package by its path; one that no package has for another path.
pub(super) fn number(path: &str) -> usize {
    path.strip_suffix(END).and_then(|number| number.parse().ok()).unwrap_or(usize::MAX)
}

/// Returns what a choice of packages depends on: the content of a file.
pub(super) fn identity(deb: &DebSource, directory: &Path) -> Result<String> {
    Ok(match deb {
        DebSource::File(path) => {
            let content = fs_err::read(directory.join(path)).map_err(|error| missing(path, &error))?;
            format!("{} {}", deb.place(), Digest::of(&content))
        }
        DebSource::Url { sha256, .. } => format!("{} {sha256}", deb.place()),
    })
}

/// Adds a file to the store.
fn add(workshop: &Workshop<'_>, path: &Path) -> Result<Digest> {
    let mut writer = workshop.store.writer()?;
    std::io::copy(&mut fs_err::File::open(path)?, &mut writer)?;
    Ok(writer.finish()?.0)
}

/// Brings the files of the project that are locked into the store.
pub(crate) fn bring_files(project: &Project<'_>, locked: &LockedSystem) -> Result<()> {
    for package in &locked.packages {
        let Some(path) = package.url.strip_prefix("./") else { continue };
        if project.workshop.store.has(&package.sha256) {
            continue;
        }
        if add(&project.workshop, &project.directory.join(path))? != package.sha256 {
            let message = format!("`{path}` is not the {} {} that is locked", package.name, package.version);
            return Err(BuildError::LockOutdated(message));
        }
    }
    Ok(())
}

fn missing(path: &str, error: &std::io::Error) -> BuildError {
    let (message, hint) = (format!("the package `{path}` cannot be read: {error}"), "`debs` names it".to_owned());
    BuildError::Mistake { message, hint }
}
