//! The snapshot: every copied file, looked at once for a command, before the graph is built.
//!
//! A folder that did not change must cost no more than looking at it. So the digest of the whole is recorded with what
//! `lstat` told of every file, and where anything differs, each file's digest is taken from the last snapshot if that file did
//! not change, and read now otherwise. Like git, a state is only trusted when it is not so young that a later change could
//! hide behind the same time stamp.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_oci::bytecode;
use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::stack::{self, Copy, Elsewhere};
use kiln_plan::step::StepKey;
use kiln_plan::whiteout;
use kiln_store::open_regular;
use serde::{Deserialize, Serialize};

use crate::error::{BuildError, Result};
use crate::project::Project;
use crate::sources::{Tree, digest};

mod filter;
mod secrets;
mod walk;

use walk::Walked;

/// Files changed less than this long ago, in nanoseconds, may change again within one tick of the file system's clock.
const TOO_YOUNG: i128 = 50_000_000;
/// Raised when the same files would be recorded in another way.
const VERSION: u32 = 3;

/// A file, directory or link that is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Path below the copied directory, or empty for the copied file itself.
    pub(crate) path: String,
    /// Path in the file system; of another place, the path there.
    pub(crate) from: PathBuf,
    pub(crate) kind: SourceKind,
    /// Bytes of a file.
    pub(crate) size: u64,
    /// Owner and extended attributes, where the place has some.
    pub(crate) own: Option<Own>,
}

/// Owner, group and extended attributes of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) owner: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Source {
    /// Notes the digest that a file's content was found to have.
    pub(crate) fn found(&mut self, content: String) {
        if let SourceKind::File { digest, .. } = &mut self.kind {
            *digest = Some(content);
        }
    }

    /// Returns true if a later change cannot hide behind the time stamp that was seen.
    fn is_old(&self, began: i128) -> bool {
        match &self.kind {
            SourceKind::File { at: FileAt::Project(seen), .. } => seen.changed() < began - TOO_YOUNG,
            SourceKind::File { .. } | SourceKind::Directory { .. } | SourceKind::Symlink(_) => true,
        }
    }
}

/// The kind of a [`Source`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SourceKind {
    /// Permission bits of all but links.
    Directory {
        mode: u32,
    },
    File {
        mode: u32,
        at: FileAt,
        /// BLAKE3 of the content; `None` where the digest of the whole was known.
        digest: Option<String>,
    },
    Symlink(String),
}

/// The place of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileAt {
    /// The project, as `lstat` told of it.
    Project(Stat),
    /// A tree of the copy, by its number, with the time in seconds since 1970.
    Tree(usize, u64),
}

impl FileAt {
    /// Returns the time of the last change, in seconds since 1970.
    fn modified(&self) -> u64 {
        match self {
            Self::Project(seen) => seen.modified(),
            Self::Tree(_, time) => *time,
        }
    }
}

/// A state of a file, as far as it tells of its content: size, inode, times of change in seconds and nanoseconds, mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stat([u64; 7]);

impl Stat {
    pub(crate) fn of(found: &std::fs::Metadata) -> Self {
        Self([
            found.size(),
            found.ino(),
            found.mtime() as u64,
            found.mtime_nsec() as u64,
            found.ctime() as u64,
            found.ctime_nsec() as u64,
            u64::from(found.mode()),
        ])
    }

    /// Returns seconds since 1970.
    pub(crate) fn modified(&self) -> u64 {
        self.0[2]
    }

    fn changed(&self) -> i128 {
        i128::from(self.0[4]) * 1_000_000_000 + i128::from(self.0[5])
    }
}

/// The files of one copy.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) files: Vec<Source>,
    /// BLAKE3 of all names, kinds and contents.
    pub(crate) content: String,
    /// Bytes of content.
    pub(crate) bytes: u64,
    /// Paths for which a rule decided.
    pub(crate) decided: Vec<Decided>,
    /// Trees from outside of the project that have the files.
    pub(crate) trees: Vec<Tree>,
}

/// A path of the project for which a rule of an ignore file decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decided {
    /// The path.
    pub path: PathBuf,
    /// True where it is copied, although an earlier rule leaves it out.
    pub is_kept: bool,
    /// The rule: its line, its file and its text.
    pub rule: String,
}

impl Copied {
    /// Returns the place in the image, without a leading slash: a file that is copied into a directory keeps its name.
    pub(crate) fn place(&self, copy: &Copy, is_directory: impl Fn(&str) -> bool) -> String {
        let to = copy.to.trim_matches('/');
        let named = || match &copy.elsewhere {
            Some(Elsewhere::Url(download)) if !download.unpack => Some(download.file_name()),
            _ => Path::new(&copy.from.first()?.path).file_name()?.to_str().map(str::to_owned),
        };
        match named().filter(|_| self.is_single() && (copy.to.ends_with('/') || is_directory(to))) {
            Some(name) => format!("{to}/{name}").trim_matches('/').to_owned(),
            None => to.to_owned(),
        }
    }

    /// Returns time and size, each modulo 2^32, of the sources of all files that are named as bytecode, by their paths.
    pub(crate) fn bytecode(&self) -> HashMap<&str, (u32, u32)> {
        let named = |file: &Source| bytecode::source_path(&file.path);
        let wanted: HashSet<String> = self.files.iter().filter_map(named).collect();
        let sources = self.files.iter().filter(|file| wanted.contains(&file.path));
        let sources: HashMap<&str, (u32, u32)> = sources
            .filter_map(|file| match &file.kind {
                SourceKind::File { at, .. } => Some((file.path.as_str(), (at.modified() as u32, file.size as u32))),
                _ => None,
            })
            .collect();
        let found = |file: &'_ Source| sources.get(named(file)?.as_str()).copied();
        self.files.iter().filter_map(|file| Some((file.path.as_str(), found(file)?))).collect()
    }

    /// Returns true if a file was copied, and no directory.
    pub(crate) fn is_single(&self) -> bool {
        matches!(self.files.as_slice(), [only] if only.path.is_empty())
    }
}

/// What one copy takes: two with the same take the same files.
type Taken = (Vec<String>, Vec<String>, Option<String>, bool);

fn taken(copy: &Copy) -> Taken {
    let from = copy.from.iter().map(|source| source.path.clone()).collect();
    let exclude = copy.exclude.iter().map(|pattern| pattern.text.clone()).collect();
    (from, exclude, copy.ignore_file.clone(), copy.keeps_names)
}

/// All copied files of a command.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    copies: HashMap<Taken, Arc<Copied>>,
}

impl Snapshot {
    /// Looks at everything that images copy.
    pub(crate) fn of(project: &Project<'_>, images: &[&stack::Image]) -> Result<Self> {
        let mut snapshot = Self::default();
        let mut seen = HashMap::new();
        let platforms = &project.stack.platforms;
        let all = images.iter().flat_map(|image| platforms.iter().map(|platform| project.stack.on(image, *platform)));
        for copy in all.flat_map(|image| image.copies()).filter(|copy| copy.elsewhere.is_none()) {
            if let Entry::Vacant(place) = snapshot.copies.entry(taken(copy)) {
                place.insert(Arc::new(look(project, copy, &mut seen)?));
            }
        }
        Ok(snapshot)
    }

    /// Returns the files of a copy of an image that was looked at.
    pub(crate) fn copied(&self, copy: &Copy) -> Result<Arc<Copied>> {
        let found = self.copies.get(&taken(copy)).cloned();
        found.ok_or_else(|| BuildError::Unreachable(copy.shown()))
    }
}

/// What `lstat` told of a path in this command.
pub(crate) type Seen = HashMap<PathBuf, std::fs::Metadata>;

fn look(project: &Project<'_>, copy: &Copy, seen: &mut Seen) -> Result<Copied> {
    let store = project.workshop.store;
    let (from, exclude, ignore_file, keeps_names) = taken(copy);
    let key = StepKey::of("snapshot", VERSION)
        .bytes("root", project.directory.as_os_str().as_encoded_bytes())
        .list("from", &from)
        .list("exclude", &exclude)
        .option("ignore file", ignore_file.as_deref())
        .number("keeps names", u64::from(keeps_names))
        .finish();
    let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as i128);
    let Walked { mut files, decided, warnings } = walk::walk(project, copy, seen)?;
    warnings.into_iter().for_each(|warning| project.workshop.warn(warning));
    let (whole, state) =
        (StepKey::of("snapshot of a whole", VERSION).text("files", &key.hex()).finish(), state(&files));
    let known: Option<(String, String)> = store.recall(&whole)?;
    let content = match known.filter(|(known, _)| *known == state) {
        Some((_, content)) => content,
        None => {
            digest_files(project, &key, &mut files, began)?;
            let content = content(&files);
            if files.iter().all(|file| file.is_old(began)) {
                store.remember(&whole, &(&state, &content))?;
            }
            content
        }
    };
    let bytes = files.iter().map(|file| file.size).sum();
    let copied = Copied { content, files, bytes, decided, trees: Vec::new() };
    require_no_whiteout(copy, &copied)?;
    Ok(copied)
}

/// Finds the digest of every file: from the last snapshot, or by reading it. `began` is the time, in nanoseconds since 1970,
/// at which the files were looked at.
fn digest_files(project: &Project<'_>, key: &StepKey, files: &mut [Source], began: i128) -> Result<()> {
    let store = project.workshop.store;
    let last: BTreeMap<String, (Stat, String)> = store.recall(key)?.unwrap_or_default();
    let mut now = BTreeMap::new();
    for file in files.iter_mut() {
        let old = file.is_old(began);
        let SourceKind::File { at: FileAt::Project(seen), digest, .. } = &mut file.kind else { continue };
        let found = match last.get(&file.path).filter(|(stat, _)| stat == seen) {
            Some((_, known)) => known.clone(),
            None => read_digest(project, &file.from)?,
        };
        if old {
            now.insert(file.path.clone(), (*seen, found.clone()));
        }
        *digest = Some(found);
    }
    if now != last {
        store.remember(key, &now)?;
    }
    Ok(())
}

fn read_digest(project: &Project<'_>, path: &Path) -> Result<String> {
    digest(&project.workshop, open_regular(path).map_err(|error| vanished(path, error))?)
}

/// Returns the hash of what `lstat` told of everything.
fn state(files: &[Source]) -> String {
    let mut all = blake3::Hasher::new();
    for file in files {
        all.update(&(file.path.len() as u64).to_le_bytes());
        all.update(file.path.as_bytes());
        match &file.kind {
            // A directory's own times change when something is ignored in it; its files say all that matters.
            SourceKind::Directory { mode } => all.update(format!("directory {mode:o}").as_bytes()),
            SourceKind::Symlink(to) => all.update(format!("link {} {to}", to.len()).as_bytes()),
            SourceKind::File { at: FileAt::Tree(..), .. } => all.update(b"elsewhere"),
            SourceKind::File { at: FileAt::Project(seen), .. } => {
                for number in seen.0 {
                    all.update(&number.to_le_bytes());
                }
                all.update(b"file")
            }
        };
    }
    all.finalize().to_hex().to_string()
}

/// Returns the hash of names, kinds and contents.
pub(crate) fn content(files: &[Source]) -> String {
    let mut all = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        all.update(&(bytes.len() as u64).to_le_bytes());
        all.update(bytes);
    };
    for file in files {
        field(file.path.as_bytes());
        match &file.kind {
            SourceKind::Directory { mode } => field(format!("directory {mode:o}").as_bytes()),
            SourceKind::Symlink(to) => field(format!("link {to}").as_bytes()),
            SourceKind::File { mode, digest, .. } => {
                field(format!("file {mode:o}").as_bytes());
                field(digest.as_deref().unwrap_or_default().as_bytes());
            }
        }
        if let Some(Own { owner, xattrs }) = &file.own {
            field(format!("owner {owner:?} attributes {xattrs:?}").as_bytes());
        }
    }
    all.finalize().to_hex().to_string()
}

/// Refuses names that a layer would take for whiteouts.
pub(crate) fn require_no_whiteout(copy: &Copy, copied: &Copied) -> Result<()> {
    let to = copied.place(copy, |_| false);
    let own = whiteout::component(&to).map(|component| (to.clone(), component.to_owned()));
    let below = |file: &Source| {
        let component = whiteout::component(&file.path)?;
        Some((format!("{to}/{}", file.path), component.to_owned()))
    };
    let Some((path, component)) = own.or_else(|| copied.files.iter().find_map(below)) else { return Ok(()) };
    let message = format!("`/{path}` cannot be in a layer: {}", whiteout::problem(&component));
    let hint = "leave it out with `exclude`, or give it another name";
    Err(Diagnostics::from(Diagnostic::at(copy.span(), message).hint(hint)).into())
}

/// Returns the error about a file that is not as it was a moment ago.
pub(crate) fn changed(path: &Path) -> BuildError {
    BuildError::Changed(path.to_owned())
}

/// Returns the error about a path that cannot be opened. The walk saw it, so one that is gone, or that is another kind of
/// file now, changed meanwhile.
pub(crate) fn vanished(path: &Path, error: io::Error) -> BuildError {
    use io::ErrorKind::{InvalidInput, IsADirectory, NotADirectory, NotFound};
    match error.kind() {
        NotFound | NotADirectory | IsADirectory | InvalidInput => changed(path),
        _ => error.into(),
    }
}
