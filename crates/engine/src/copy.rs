//! `copy`: files of the project as a layer that depends on their names, modes and contents and on nothing else.
//!
//! A folder that did not change must cost no more than looking at it. So the content's digest is remembered under what
//! `stat` says of every file; like git, a state is only trusted when nothing in it is so young that a later change could
//! hide behind the same time stamp.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use kiln_oci::layer::{Body, Directories, Layer, LayerFile, MediaType};
use kiln_oci::whole::LayerWriter;
use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::event::Work;
use kiln_plan::stack::{Compression, Copy};
use kiln_plan::step::{KeyBuilder, StepKey};
use kiln_plan::whiteout;

use crate::error::{BuildError, Result};
use crate::project::Project;

/// Files changed less than this long ago, in nanoseconds, may change again within one tick of the file system's clock.
const TOO_YOUNG: i128 = 50_000_000;

/// Top-level directories and the like that a base has: an entry for one could replace a symbolic link.
const STANDARD: [&str; 36] = [
    "bin",
    "boot",
    "dev",
    "etc",
    "home",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "media",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "sbin",
    "srv",
    "sys",
    "tmp",
    "usr",
    "usr/bin",
    "usr/include",
    "usr/lib",
    "usr/lib64",
    "usr/local",
    "usr/local/bin",
    "usr/local/lib",
    "usr/local/share",
    "usr/sbin",
    "usr/share",
    "var",
    "var/cache",
    "var/lib",
    "var/log",
    "var/run",
    "var/tmp",
];

/// What is to be copied, looked at and known by its content.
#[derive(Debug, Clone)]
pub struct CopySource {
    files: Vec<SourceFile>,
    /// Where it goes, without a leading slash.
    to: String,
    owner: (u32, u32),
    mode: Option<u32>,
    compression: Compression,
    content: String,
    /// Bytes of content.
    pub bytes: u64,
}

#[derive(Debug, Clone)]
struct SourceFile {
    /// Path in the image below `to`, or empty for `to` itself.
    path: String,
    from: PathBuf,
    kind: SourceKind,
    size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum SourceKind {
    Directory,
    File { executable: bool },
    Symlink(String),
}

impl Project<'_> {
    /// Looks at what a copy takes.
    pub(crate) fn copy_source(&self, copy: &Copy, owner: (u32, u32), compression: Compression) -> Result<CopySource> {
        let root = self.path(&copy.from).map_err(|error| match error {
            BuildError::Project(message) => Diagnostics::from(Diagnostic::at(copy.from_span.clone(), message)).into(),
            error => error,
        })?;
        let ignored = self.ignored(copy, &root)?;
        let start = SystemTime::now();
        let mut walk = Walk { files: Vec::new(), state: blake3::Hasher::new(), youngest: 0, ignored };
        walk.state.update(root.as_os_str().as_encoded_bytes());
        let found = fs_err::symlink_metadata(&root)?;
        let to = copy.to.trim_matches('/').to_owned();
        let to = if found.is_dir() {
            walk.directory(&root, "")?;
            to
        } else {
            let name = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
            walk.one(&root, String::new(), &found)?;
            if copy.to.ends_with('/') { format!("{to}/{name}").trim_matches('/').to_owned() } else { to }
        };
        let key = StepKey::of("copy state", 1).bytes("state", walk.state.finalize().as_bytes()).finish();
        let content = match self.store.recall::<String>(&key)? {
            Some(content) => content,
            None => {
                let content = self.content(&walk.files)?;
                let now = start.duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as i128);
                if walk.youngest < now - TOO_YOUNG {
                    self.store.remember(&key, &content)?;
                }
                content
            }
        };
        if let Some((path, component)) = whiteout(&to, &walk.files) {
            let message = format!("`/{path}` cannot be in a layer: {}", whiteout::problem(component));
            let hint = "leave it out with `exclude`, or give it another name";
            return Err(Diagnostics::from(Diagnostic::at(copy.from_span.clone(), message).hint(hint)).into());
        }
        let bytes = walk.files.iter().map(|file| file.size).sum();
        Ok(CopySource { files: walk.files, to, owner, mode: copy.mode, compression, content, bytes })
    }

    fn ignored(&self, copy: &Copy, root: &Path) -> Result<Gitignore> {
        let mut builder = GitignoreBuilder::new(root);
        let bad = |error: ignore::Error| {
            let message = format!("a pattern of what `{}` leaves out makes no sense: {error}", copy.from);
            BuildError::from(Diagnostics::from(Diagnostic::at(copy.from_span.clone(), message)))
        };
        if let Some(file) = &copy.ignore_file
            && let Some(error) = builder.add(self.path(file)?)
        {
            return Err(bad(error));
        }
        for pattern in &copy.exclude {
            builder.add_line(None, pattern).map_err(bad)?;
        }
        builder.build().map_err(bad)
    }

    /// The hash of names, modes and contents.
    fn content(&self, files: &[SourceFile]) -> Result<String> {
        let mut all = blake3::Hasher::new();
        let mut buffer = vec![0; 128 << 10];
        let field = |all: &mut blake3::Hasher, bytes: &[u8]| {
            all.update(&(bytes.len() as u64).to_le_bytes());
            all.update(bytes);
        };
        for file in files {
            self.cancel.check()?;
            field(&mut all, file.path.as_bytes());
            match &file.kind {
                SourceKind::Directory => field(&mut all, b"directory"),
                SourceKind::Symlink(to) => field(&mut all, format!("link {to}").as_bytes()),
                SourceKind::File { executable } => {
                    field(&mut all, if *executable { b"executable" } else { b"file" });
                    let mut content = blake3::Hasher::new();
                    let mut opened = fs_err::File::open(&file.from)?;
                    loop {
                        let read = opened.read(&mut buffer)?;
                        if read == 0 {
                            break;
                        }
                        content.update(&buffer[..read]);
                    }
                    all.update(content.finalize().as_bytes());
                }
            }
        }
        Ok(all.finalize().to_hex().to_string())
    }

    /// Makes the layer.
    pub(crate) fn copy_layer(&self, source: &CopySource, work: &Work<'_>) -> Result<Layer> {
        let media_type = match source.compression {
            Compression::Gzip => MediaType::Gzip,
            Compression::Zstd => MediaType::Zstd,
        };
        let mut out = LayerWriter::new(self.store, media_type, self.surroundings.jobs)?;
        for file in source.members() {
            match &file.1 {
                Some(from) => {
                    let mut opened = fs_err::File::open(from)?;
                    out.file(&file.0, &mut opened)?;
                    work.advance(file.0.body.size())?;
                }
                None => out.small(&file.0)?,
            }
        }
        Ok(out.end()?)
    }
}

/// Returns the first path that a layer would take for a whiteout, and the name that makes it one.
fn whiteout<'f>(to: &'f str, files: &'f [SourceFile]) -> Option<(String, &'f str)> {
    let below = |file: &'f SourceFile| {
        let component = whiteout::component(&file.path)?;
        Some((format!("{to}/{}", file.path), component))
    };
    let own = whiteout::component(to).map(|component| (to.to_owned(), component));
    own.or_else(|| files.iter().find_map(below))
}

struct Walk {
    files: Vec<SourceFile>,
    state: blake3::Hasher,
    youngest: i128,
    ignored: Gitignore,
}

impl Walk {
    /// Everything below a directory, sorted by name.
    fn directory(&mut self, directory: &Path, path: &str) -> Result<()> {
        let mut names = Vec::new();
        for entry in fs_err::read_dir(directory)? {
            names.push(entry?.file_name());
        }
        names.sort_unstable();
        for name in names {
            let Some(text) = name.to_str() else {
                let shown = directory.join(&name);
                return Err(BuildError::Project(format!("the name of `{}` is not UTF-8", shown.display())));
            };
            let from = directory.join(text);
            let below = if path.is_empty() { text.to_owned() } else { format!("{path}/{text}") };
            let found = fs_err::symlink_metadata(&from)?;
            if self.ignored.matched(Path::new(&below), found.is_dir()).is_ignore() {
                continue;
            }
            self.one(&from, below.clone(), &found)?;
            if found.is_dir() {
                self.directory(&from, &below)?;
            }
        }
        Ok(())
    }

    fn one(&mut self, from: &Path, path: String, found: &std::fs::Metadata) -> Result<()> {
        let kind = if found.is_dir() {
            SourceKind::Directory
        } else if found.is_symlink() {
            let to = fs_err::read_link(from)?;
            let to = to.to_str().map(str::to_owned);
            let Some(to) = to else {
                return Err(BuildError::Project(format!("the link `{}` is not UTF-8", from.display())));
            };
            SourceKind::Symlink(to)
        } else if found.is_file() {
            SourceKind::File { executable: found.permissions().mode() & 0o111 != 0 }
        } else {
            return Err(BuildError::Project(format!("`{}` is neither file, directory nor link", from.display())));
        };
        self.state.update(&(path.len() as u64).to_le_bytes());
        self.state.update(path.as_bytes());
        let size = if found.is_file() { found.size() } else { 0 };
        // A directory's own times change when something is ignored in it; its files say all that matters.
        let stat = if found.is_dir() { [0; 6] } else { stat(found) };
        for number in stat.into_iter().chain([u64::from(found.mode())]) {
            self.state.update(&number.to_le_bytes());
        }
        if !found.is_dir() {
            let changed = i128::from(found.ctime()) * 1_000_000_000 + i128::from(found.ctime_nsec());
            self.youngest = self.youngest.max(changed);
        }
        self.files.push(SourceFile { path, from: from.to_owned(), kind, size });
        Ok(())
    }
}

fn stat(found: &std::fs::Metadata) -> [u64; 6] {
    [
        found.size(),
        found.ino(),
        found.mtime() as u64,
        found.mtime_nsec() as u64,
        found.ctime() as u64,
        found.ctime_nsec() as u64,
    ]
}

impl CopySource {
    /// The key of the step.
    pub(crate) fn key(&self, key: KeyBuilder) -> StepKey {
        let compression = match self.compression {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        };
        key.text("content", &self.content)
            .text("to", &self.to)
            .number("uid", u64::from(self.owner.0))
            .number("gid", u64::from(self.owner.1))
            .option("mode", self.mode.map(|mode| mode.to_string()).as_deref())
            .text("compression", compression)
            .finish()
    }

    /// The members of the layer, each with the file that its content comes from.
    fn members(&self) -> Vec<(LayerFile, Option<PathBuf>)> {
        let mut members = Vec::with_capacity(self.files.len() + 1);
        let mut directories = Directories::default();
        let mut above = Vec::new();
        let single = matches!(self.files.as_slice(), [only] if only.path.is_empty());
        // Of the directories above only the target of a directory is the copy's own.
        if !single {
            let foreign = |path: &str| path.is_empty() || path != self.to || STANDARD.contains(&path);
            directories.above(&format!("{}/", self.to), foreign, &mut above);
        }
        members.extend(above.into_iter().map(|mut directory| {
            directory.owner = self.owner;
            (directory, None)
        }));
        for file in &self.files {
            let path = [self.to.as_str(), file.path.as_str()].into_iter().filter(|part| !part.is_empty());
            let path = path.collect::<Vec<_>>().join("/");
            let (mode, body, from) = match &file.kind {
                SourceKind::Directory => (self.directory_mode(), Body::Directory, None),
                SourceKind::Symlink(to) => (0o777, Body::Symlink(to.clone()), None),
                SourceKind::File { executable } => {
                    let mode = self.mode.unwrap_or(if *executable { 0o755 } else { 0o644 });
                    (mode, Body::File(file.size), Some(file.from.clone()))
                }
            };
            members.push((LayerFile { path, mode, owner: self.owner, body }, from));
        }
        members
    }

    /// Returns the members of the layer without their content.
    pub(crate) fn layer_files(&self) -> Vec<LayerFile> {
        self.members().into_iter().map(|(file, _)| file).collect()
    }

    /// Directories can be entered by whoever can read files.
    fn directory_mode(&self) -> u32 {
        self.mode.map_or(0o755, |mode| mode | (mode & 0o444) >> 2)
    }
}
