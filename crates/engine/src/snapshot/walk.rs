//! The walk over the files of a copy.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};
use kiln_oci::names;
use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::stack::{self, Copy};

use super::filter::{Filter, Place};
use super::{Decided, FileAt, Seen, Source, SourceKind, Stat, secrets, vanished};
use crate::error::{BuildError, ProjectError, Result};
use crate::project::Project;

/// The files that a copy takes.
pub(super) struct Walked {
    pub(super) files: Vec<Source>,
    pub(super) decided: Vec<Decided>,
    pub(super) warnings: Vec<String>,
}

/// Looks at everything that a copy takes.
pub(super) fn walk(project: &Project<'_>, copy: &Copy, seen: &mut Seen) -> Result<Walked> {
    let filter = Filter::new(project, copy)?;
    let mut walk = Walk {
        project,
        files: Vec::new(),
        decided: Vec::new(),
        pending: Vec::new(),
        suspects: Vec::new(),
        layouts: Vec::new(),
        filter,
        seen,
    };
    for source in &copy.from {
        match source.is_pattern() {
            true => walk.pattern(copy, source)?,
            false => walk.named(copy, source)?,
        }
    }
    let mut warnings = walk.filter.unmatched(copy);
    warnings.extend(secrets::warning(&copy.shown(), &walk.suspects));
    warnings.extend(walk.layouts.iter().map(|path| {
        format!(
            "`{}` is copied with the image layout `{path}`: leave it out with `exclude` or an ignore file",
            copy.shown()
        )
    }));
    let files = if copy.keeps_names { without_doubles(walk.files) } else { walk.files };
    Ok(Walked { files, decided: walk.decided, warnings })
}

/// Leaves the last of several files that go to one place, and one of several directories.
fn without_doubles(files: Vec<Source>) -> Vec<Source> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut left: Vec<Source> = Vec::with_capacity(files.len());
    for file in files {
        match places.get(&file.path) {
            Some(at)
                if matches!(file.kind, SourceKind::Directory { .. })
                    == matches!(left[*at].kind, SourceKind::Directory { .. }) =>
            {
                left[*at] = file;
            }
            _ => {
                places.insert(file.path.clone(), left.len());
                left.push(file);
            }
        }
    }
    left
}

struct Walk<'w, 'p> {
    project: &'w Project<'p>,
    files: Vec<Source>,
    decided: Vec<Decided>,
    /// Directories that stay out unless something in them comes in: Docker's rules can say so.
    pending: Vec<Source>,
    /// Paths that look like secrets.
    suspects: Vec<String>,
    /// Paths of image layouts.
    layouts: Vec<String>,
    filter: Filter,
    seen: &'w mut Seen,
}

impl Walk<'_, '_> {
    /// Takes what is named: what a link leads to, if it is one.
    fn named(&mut self, copy: &Copy, source: &stack::Source) -> Result<()> {
        let root = self.project.path(&source.path).map_err(|error| at_source(source, error))?;
        let name = match copy.keeps_names && !source.path.ends_with('/') {
            true => {
                Path::new(&source.path).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
            }
            false => String::new(),
        };
        let found = fs_err::metadata(&root).map_err(|error| vanished(&root, error))?;
        if source.path.ends_with('/') && !found.is_dir() {
            let message = format!("`{}` is no directory", source.path);
            return Err(Diagnostics::from(Diagnostic::at(source.span.clone(), message)).into());
        }
        if let Some(rule) = self.filter.excludes_source(&source.path, found.is_dir()) {
            let message = format!("`{}` is left out by {rule}", source.path);
            let hint = "name another `ignore-file`, or change the rule";
            return Err(Diagnostics::from(Diagnostic::at(source.span.clone(), message).hint(hint)).into());
        }
        if let Some(rule) = self.filter.excludes_name(name.as_bytes(), found.is_dir()) {
            self.decided.push(Decided { path: root, is_kept: false, rule });
            return Ok(());
        }
        let real = fs_err::canonicalize(&root)?;
        let home = fs_err::canonicalize(&self.project.directory)?;
        let real = real.strip_prefix(&home).unwrap_or(&real).to_string_lossy().into_owned();
        if let Some(rule) = self.filter.excludes_source(&real, found.is_dir()) {
            let message = format!("`{}` is `{real}`, which is left out by {rule}", source.path);
            return Err(Diagnostics::from(Diagnostic::at(source.span.clone(), message)).into());
        }
        let place = self.filter.at(&real, found.is_dir(), &name)?;
        match found.is_dir() {
            true => {
                if !name.is_empty() {
                    self.one(&root, name.clone(), &found)?;
                }
                self.directory(&root, &name, &place)
            }
            false if copy.keeps_names => self.one(&root, name, &found),
            false => self.one(&root, String::new(), &found),
        }
    }

    /// Takes what a pattern matches, under its name.
    fn pattern(&mut self, copy: &Copy, source: &stack::Source) -> Result<()> {
        let bad = |message: String| BuildError::from(Diagnostics::from(Diagnostic::at(source.span.clone(), message)));
        let pattern = source.path.trim_end_matches('/');
        let glob =
            GlobBuilder::new(pattern.trim_start_matches("./")).literal_separator(true).backslash_escape(true).build();
        let matcher =
            glob.map_err(|error| bad(format!("`{}` is no pattern: {}", source.path, error.kind())))?.compile_matcher();
        let mut matches = Vec::new();
        let start = pattern.split('/').take_while(|part| !part.contains(['*', '?', '['])).collect::<Vec<_>>().join("/");
        if self.project.directory.join(&start).is_dir() {
            let root = if start.is_empty() { self.project.directory.clone() } else { self.project.path(&start)? };
            self.find(&root, start.trim_start_matches("./"), &matcher, pattern.contains("**"), &mut matches)?;
        }
        let mut any = false;
        for path in matches {
            let place = self.project.directory.join(&path);
            let is_directory = place.is_dir();
            if self.is_of_kiln(&place)
                || self.excludes_real(&place, is_directory)?
                || self.filter.excludes_source(&path, is_directory).is_some()
                || (source.path.ends_with('/') && !is_directory)
            {
                continue;
            }
            any = true;
            let slash = if source.path.ends_with('/') { "/" } else { "" };
            self.named(copy, &stack::Source { path: format!("{path}{slash}"), span: source.span.clone() })?;
        }
        match any {
            true => Ok(()),
            false => Err(bad(format!("the pattern `{}` matches nothing that is copied", source.path))),
        }
    }

    /// Returns true if rules leave out what a path leads to.
    fn excludes_real(&self, path: &Path, is_directory: bool) -> Result<bool> {
        let (Ok(real), home) = (fs_err::canonicalize(path), fs_err::canonicalize(&self.project.directory)?) else {
            return Ok(false);
        };
        let real = real.strip_prefix(&home).map(|real| real.to_string_lossy().into_owned());
        Ok(real.is_ok_and(|real| self.filter.excludes_source(&real, is_directory).is_some()))
    }

    /// Finds the paths below a directory that match, sorted; what is in a directory that matches goes with it.
    fn find(
        &self,
        directory: &Path,
        path: &str,
        matcher: &GlobMatcher,
        deep: bool,
        out: &mut Vec<String>,
    ) -> Result<()> {
        let depth = matcher.glob().glob().split('/').count();
        for name in sorted_names(directory)? {
            let Some(text) = name.to_str() else { continue };
            let below = if path.is_empty() { text.to_owned() } else { format!("{path}/{text}") };
            if matcher.is_match(&below) {
                out.push(below);
            } else if (deep || below.split('/').count() < depth)
                && fs_err::symlink_metadata(directory.join(&name))?.is_dir()
            {
                self.find(&directory.join(&name), &below, matcher, deep, out)?;
            }
        }
        Ok(())
    }

    fn stat(&mut self, path: &Path) -> Result<std::fs::Metadata> {
        if let Some(found) = self.seen.get(path) {
            return Ok(found.clone());
        }
        let found = fs_err::symlink_metadata(path).map_err(|error| vanished(path, error))?;
        self.seen.insert(path.to_owned(), found.clone());
        Ok(found)
    }

    /// Takes everything below a directory, sorted by name.
    fn directory(&mut self, directory: &Path, path: &str, place: &Place) -> Result<()> {
        let place = self.filter.enter(directory, place)?;
        for name in sorted_names(directory)? {
            let from = directory.join(&name);
            let found = self.stat(&from)?;
            if found.is_file() && self.is_of_kiln(&from) {
                self.decided.push(Decided { path: from, is_kept: false, rule: "kiln, whose file it is".into() });
                continue;
            }
            if name == ".git" && self.filter.is_git_s() {
                self.decided.push(Decided { path: from, is_kept: false, rule: "git, whose directory it is".into() });
                continue;
            }
            if name == "oci-layout" && found.is_file() && !path.is_empty() {
                self.layouts.push(path.to_owned());
            }
            let verdict = self.filter.look(&place, name.as_bytes(), found.is_dir());
            if let Some(rule) = verdict.rule.clone().or(verdict.kept_by) {
                let is_kept = verdict.rule.is_none();
                self.decided.push(Decided { path: from.clone(), is_kept, rule });
            }
            if verdict.rule.is_some() && verdict.inside.is_none() {
                continue;
            }
            let Some(text) = names::text(name.as_bytes()) else {
                return Err(not_copied(&from, "has a name that kiln cannot hold"));
            };
            let below = if path.is_empty() { text } else { format!("{path}/{text}") };
            let waiting = self.pending.len();
            match verdict.rule {
                Some(_) => {
                    let source = source(&from, below.clone(), &found)?;
                    self.pending.push(source);
                }
                None => self.one(&from, below.clone(), &found)?,
            }
            if let Some(inside) = verdict.inside.filter(|_| found.is_dir()) {
                self.directory(&from, &below, &inside)?;
            }
            self.pending.truncate(waiting);
        }
        Ok(())
    }

    fn is_of_kiln(&self, path: &Path) -> bool {
        path == self.project.file || path == self.project.lock_path()
    }

    fn one(&mut self, from: &Path, path: String, found: &std::fs::Metadata) -> Result<()> {
        let source = source(from, path, found)?;
        if secrets::is_suspect(&source.path) && !found.is_dir() {
            self.suspects.push(source.path.clone());
        }
        let held = std::mem::take(&mut self.pending);
        if !held.is_empty() {
            // They come in, for what is in them.
            self.decided
                .retain(|decided| decided.is_kept || !held.iter().any(|directory| directory.from == decided.path));
        }
        self.files.extend(held);
        self.files.push(source);
        Ok(())
    }
}

fn sorted_names(directory: &Path) -> Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in fs_err::read_dir(directory).map_err(|error| vanished(directory, error))? {
        names.push(entry?.file_name());
    }
    names.sort_unstable();
    Ok(names)
}

fn source(from: &Path, path: String, found: &std::fs::Metadata) -> Result<Source> {
    let kind = if found.is_dir() {
        SourceKind::Directory { mode: mode(found) }
    } else if found.is_symlink() {
        let to = fs_err::read_link(from).map_err(|error| vanished(from, error))?;
        let Some(to) = names::text(to.as_os_str().as_bytes()) else {
            return Err(not_copied(from, "is a link to a path that kiln cannot hold"));
        };
        SourceKind::Symlink(to)
    } else if found.is_file() {
        SourceKind::File { mode: mode(found), at: FileAt::Project(Stat::of(found)), digest: None }
    } else {
        return Err(not_copied(from, "is neither file, directory nor link"));
    };
    let size = if found.is_file() { found.size() } else { 0 };
    Ok(Source { path, from: from.to_owned(), kind, size, own: None })
}

/// Returns the permission bits that a file or directory gets. A mode that a umask may have made is that of no umask in
/// particular: 0644, and 0755 for directories and what its owner may execute, or the same checkout would be another image under
/// another umask. A mode that no umask makes is kept: one that takes writing from the owner, or that sets the user, the group or
/// the sticky bit.
fn mode(found: &std::fs::Metadata) -> u32 {
    let mode = found.permissions().mode() & 0o7777;
    match mode & 0o7200 {
        0o200 if found.is_dir() || mode & 0o100 != 0 => 0o755,
        0o200 => 0o644,
        _ => mode,
    }
}

/// Points at the source that an error is about.
fn at_source(source: &stack::Source, error: BuildError) -> BuildError {
    match error {
        BuildError::Project(error) => Diagnostics::from(Diagnostic::at(source.span.clone(), error.to_string())).into(),
        error => error,
    }
}

fn not_copied(path: &Path, problem: &'static str) -> BuildError {
    ProjectError::NotCopied { path: path.display().to_string(), problem }.into()
}
