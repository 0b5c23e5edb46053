//! The rules of what a copy leaves out: `exclude`, an ignore file, `.dockerignore` beside the stack file.
//!
//! Each counts from where it lies: `exclude` from what is copied, a file from its directory. Below a `.gitignore` each
//! directory may have another one, as for git.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_ignore::{Directory, Rules};
use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::stack::Copy;

use crate::error::{BuildError, Result};
use crate::project::Project;

/// The ignore file that counts where the stack file names none.
const DEFAULT: &str = ".dockerignore";
/// The file that git reads in each directory.
const GIT: &str = ".gitignore";

/// The rules of one copy.
pub(super) struct Filter {
    /// The directory of the project.
    root: PathBuf,
    exclude: Option<Arc<Named>>,
    file: Option<Arc<Named>>,
    /// `.gitignore` of inner directories counts.
    is_nested: bool,
    /// For each pattern of `exclude`, whether it matched something.
    matched: Vec<bool>,
}

/// Rules with their name.
struct Named {
    rules: Rules,
    /// As messages name them.
    name: String,
    /// Path of the directory that they count from, in the project; empty for its own.
    directory: String,
}

/// A directory of the walk.
#[derive(Clone, Default)]
pub(super) struct Place {
    /// Rules that count here, the outermost first, each with its state and with the path of this directory for it.
    scopes: Vec<Scope>,
}

#[derive(Clone)]
struct Scope {
    named: Arc<Named>,
    state: Directory,
    path: Vec<u8>,
    is_exclude: bool,
}

/// The answer for one path.
pub(super) struct Verdict {
    /// The rule that leaves it out.
    pub(super) rule: Option<String>,
    /// The rule that keeps it in although another would leave it out.
    pub(super) kept_by: Option<String>,
    /// The place inside a directory in which something may be copied.
    pub(super) inside: Option<Place>,
}

impl Filter {
    pub(super) fn new(project: &Project<'_>, copy: &Copy) -> Result<Self> {
        let patterns: Vec<&str> = copy.exclude.iter().map(|pattern| pattern.text.as_str()).collect();
        let exclude = (!patterns.is_empty()).then(|| {
            let rules = Rules::git(patterns.join("\n").as_bytes());
            Arc::new(Named { rules, name: "`exclude`".into(), directory: String::new() })
        });
        let default = project.directory.join(DEFAULT);
        let path = match &copy.ignore_file {
            Some(path) => Some((path.as_str(), project.path(path)?)),
            None => default.is_file().then_some((DEFAULT, default)),
        };
        let file = path.map(|(path, file)| read(copy, path, &file)).transpose()?.map(Arc::new);
        let is_nested =
            copy.ignore_file.as_ref().is_some_and(|path| Path::new(path).file_name().is_some_and(|name| name == GIT));
        let root = project.directory.clone();
        Ok(Self { root, exclude, file, is_nested, matched: vec![false; patterns.len()] })
    }

    /// Returns true if the rules are those of git.
    pub(super) fn is_git_s(&self) -> bool {
        self.is_nested
    }

    /// Returns the rule that leaves out a path of the project that the stack file names. The innermost `.gitignore` decides first.
    pub(super) fn excludes_source(&self, path: &str, is_directory: bool) -> Option<String> {
        let file = self.file.as_ref()?;
        let path = file.relative(path)?;
        let inner = path.match_indices('/').map(|(slash, _)| slash).rev();
        for slash in inner.filter(|_| self.is_nested) {
            let named = self.inner(&self.root.join(&file.directory).join(&path[..slash])).ok().flatten();
            let Some(named) = named else { continue };
            if let Some(decided) = named.rules.decide(&path.as_bytes()[slash + 1..], is_directory) {
                return decided.excluded.then(|| named.describe(decided.line));
            }
        }
        let decided = file.rules.decide(path.as_bytes(), is_directory).filter(|decided| decided.excluded)?;
        let may_be_inside = is_directory && file.state(&path).is_some();
        (!may_be_inside && !path.is_empty()).then(|| file.describe(decided.line))
    }

    /// Returns the rule of `exclude` that leaves out something that is copied under its name.
    pub(super) fn excludes_name(&mut self, name: &[u8], is_directory: bool) -> Option<String> {
        let exclude = Arc::clone(self.exclude.as_ref().filter(|_| !name.is_empty())?);
        self.note_matches(&exclude.rules, name, is_directory);
        let decided = exclude.rules.decide(name, is_directory).filter(|decided| decided.excluded)?;
        Some(exclude.describe(decided.line))
    }

    /// Returns the place of a directory that the stack file names, and that is copied under this name, if any.
    pub(super) fn at(&self, path: &str, is_directory: bool, name: &str) -> Result<Place> {
        let mut scopes = Vec::new();
        if let Some(file) = self.file.as_ref().filter(|_| is_directory)
            && let Some(path) = file.relative(path)
        {
            let state = file.state(&path).unwrap_or_default();
            scopes.push(Scope { named: Arc::clone(file), state, path: path.clone().into_bytes(), is_exclude: false });
            for (slash, _) in path.match_indices('/') {
                if let Some(named) = self.inner(&self.root.join(&file.directory).join(&path[..slash]))? {
                    let (state, path) = (named.rules.root(), path.as_bytes()[slash + 1..].to_vec());
                    scopes.push(Scope { named, state, path, is_exclude: false });
                }
            }
        }
        if let Some(exclude) = &self.exclude {
            let (named, state) = (Arc::clone(exclude), exclude.rules.root());
            scopes.push(Scope { named, state, path: name.as_bytes().to_vec(), is_exclude: true });
        }
        Ok(Place { scopes })
    }

    /// Enters a directory, where another `.gitignore` may lie.
    pub(super) fn enter(&self, directory: &Path, place: &Place) -> Result<Place> {
        let mut place = place.clone();
        let is_outermost = |scope: &Scope| !scope.is_exclude && scope.path.is_empty();
        if !place.scopes.iter().any(is_outermost)
            && let Some(named) = self.inner(directory)?
        {
            let state = named.rules.root();
            place.scopes.push(Scope { named, state, path: Vec::new(), is_exclude: false });
        }
        Ok(place)
    }

    /// Reads the `.gitignore` of an inner directory, where it counts.
    fn inner(&self, directory: &Path) -> Result<Option<Arc<Named>>> {
        let file = directory.join(GIT);
        if !self.is_nested || !file.is_file() {
            return Ok(None);
        }
        let shown = file.strip_prefix(&self.root).unwrap_or(&file);
        let name = format!("`{}`", shown.display());
        Ok(Some(Arc::new(Named { rules: Rules::git(&fs_err::read(&file)?), name, directory: String::new() })))
    }

    /// Decides for a name in a directory.
    pub(super) fn look(&mut self, place: &Place, name: &[u8], is_directory: bool) -> Verdict {
        let (mut rule, mut kept_by) = (None, None);
        let mut inside = Some(Vec::with_capacity(place.scopes.len()));
        let mut git_decided = false;
        for scope in place.scopes.iter().rev() {
            let path = match scope.path.is_empty() {
                true => name.to_owned(),
                false => [&scope.path, name].join(&b'/'),
            };
            if scope.is_exclude {
                self.note_matches(&scope.named.rules, &path, is_directory);
            }
            let found = scope.named.rules.look(&scope.state, &path, is_directory);
            let overruled = !scope.is_exclude && git_decided;
            let excluded = found.decided.filter(|decided| decided.excluded && !overruled);
            if let Some(decided) = found.decided.filter(|decided| !decided.excluded && !overruled) {
                kept_by = kept_by.or_else(|| Some(scope.named.describe(decided.line)));
            }
            if let Some(decided) = excluded {
                rule = rule.or_else(|| Some(scope.named.describe(decided.line)));
            }
            git_decided |= self.is_nested && !scope.is_exclude && found.decided.is_some();
            let state = match (found.inside, overruled) {
                (Some(state), _) => Some(state),
                (None, true) => Some(scope.named.rules.root()),
                (None, false) => None,
            };
            match (state, &mut inside) {
                (Some(state), Some(inside)) => inside.push(Scope { state, path, ..scope.clone() }),
                _ => inside = None,
            }
        }
        let inside = inside.filter(|_| is_directory).map(|mut scopes| {
            scopes.reverse();
            Place { scopes }
        });
        Verdict { rule, kept_by, inside }
    }

    fn note_matches(&mut self, rules: &Rules, path: &[u8], is_directory: bool) {
        if self.matched.iter().all(|matched| *matched) {
            return;
        }
        let mut unmatched = rules.unmatched();
        unmatched.see(path, is_directory);
        let left: Vec<usize> = unmatched.lines().map(|line| line.number).collect();
        for (at, matched) in self.matched.iter_mut().enumerate() {
            *matched |= !left.contains(&(at + 1));
        }
    }

    /// Returns warnings about patterns of `exclude` that match nothing.
    pub(super) fn unmatched(&self, copy: &Copy) -> Vec<String> {
        let patterns = copy.exclude.iter().zip(&self.matched).filter(|(_, matched)| !**matched);
        patterns
            .filter(|(pattern, _)| !pattern.text.trim().is_empty() && !pattern.text.starts_with('#'))
            .map(|(pattern, _)| {
                format!("`exclude` of `{}`: the pattern `{}` matches nothing", copy.shown(), pattern.text)
            })
            .collect()
    }
}

impl Named {
    /// Returns a path of the project as these rules see it; `None` where it is outside their directory.
    fn relative(&self, path: &str) -> Option<String> {
        let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        let path = parts.join("/");
        match self.directory.as_str() {
            "" => Some(path),
            directory if path == directory => Some(String::new()),
            directory => path.strip_prefix(directory)?.strip_prefix('/').map(str::to_owned),
        }
    }

    /// Returns the state of a walk inside a directory; `None` where nothing in it is copied.
    fn state(&self, path: &str) -> Option<Directory> {
        let mut state = self.rules.root();
        let ends = path.match_indices('/').map(|(slash, _)| slash).chain([path.len()]).filter(|end| *end > 0);
        for end in ends {
            state = self.rules.look(&state, &path.as_bytes()[..end], true).inside?;
        }
        Some(state)
    }

    fn describe(&self, line: usize) -> String {
        let text = self
            .rules
            .lines()
            .find(|other| other.number == line)
            .map(|line| String::from_utf8_lossy(line.text).into_owned());
        format!("line {line} of {}, `{}`", self.name, text.unwrap_or_default())
    }
}

fn read(copy: &Copy, path: &str, file: &Path) -> Result<Named> {
    let text = fs_err::read(file)?;
    let file_name = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let rules = match file_name.ends_with("dockerignore") {
        true => Rules::docker(&text).map_err(|error| {
            let message = format!("`{path}` cannot be used: {error}");
            BuildError::from(Diagnostics::from(Diagnostic::at(copy.span(), message)))
        })?,
        false => Rules::git(&text),
    };
    let directory: PathBuf = Path::new(path).parent().map(Path::to_owned).unwrap_or_default();
    let directory = directory.to_string_lossy().trim_start_matches("./").trim_matches('/').to_owned();
    Ok(Named { rules, name: format!("`{path}`"), directory: if directory == "." { String::new() } else { directory } })
}
