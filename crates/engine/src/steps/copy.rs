//! `copy`: files of the project as a layer that depends on their names, modes and contents and on nothing else. Every byte
//! is digested again as it goes into the layer: one that is not as the snapshot found it fails the step.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_oci::layer::{Body, Directories, Layer, LayerFile, MediaType};
use kiln_oci::whole::{LayerWriter, WHOLE_VERSION};
use kiln_plan::stack::{Compression, Copy as Wanted};
use kiln_store::open_regular;
use serde::Serialize;

use crate::context::Context;
use crate::error::{BuildError, Result};
use crate::snapshot::{Copied, Source, SourceKind, Stat, changed, content, vanished};
use crate::step::{Cost, Kind, Step, Subject};

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

/// Files of the project.
#[derive(Serialize)]
pub(crate) struct Copy {
    content: String,
    /// The place in the image, without a leading slash.
    to: String,
    owner: (u32, u32),
    mode: Option<u32>,
    compression: Compression,
    writer: u32,
    /// The path in the project, for messages.
    #[serde(skip)]
    from: String,
    #[serde(skip)]
    copied: Arc<Copied>,
    #[serde(skip)]
    subject: Subject,
}

impl Copy {
    pub(crate) fn new(copy: &Wanted, copied: Arc<Copied>, owner: (u32, u32), compression: Compression) -> Self {
        Self {
            content: copied.content.clone(),
            to: copied.place(copy),
            owner,
            mode: copy.mode,
            compression,
            writer: WHOLE_VERSION,
            from: copy.from.clone(),
            copied,
            subject: Subject::Copy { from: copy.from.clone(), to: copy.to.clone() },
        }
    }

    /// Returns the line of the image's history.
    pub(crate) fn history(&self) -> String {
        format!("kiln: {}", self.subject)
    }

    /// Bytes of content.
    pub(crate) fn bytes(&self) -> u64 {
        self.copied.bytes
    }

    /// Returns the members of the layer without their content.
    pub(crate) fn files(&self) -> Vec<LayerFile> {
        self.members().into_iter().map(|(file, _)| file).collect()
    }

    /// Returns the members of the layer, each with the file that its content comes from.
    fn members(&self) -> Vec<(LayerFile, Option<&Source>)> {
        let mut members = Vec::with_capacity(self.copied.files.len() + 1);
        let mut directories = Directories::default();
        let mut above = Vec::new();
        // Of the directories above only the target of a directory is the copy's own.
        if !self.copied.is_single() {
            let foreign = |path: &str| path.is_empty() || path != self.to || STANDARD.contains(&path);
            directories.above(&format!("{}/", self.to), foreign, &mut above);
        }
        members.extend(above.into_iter().map(|mut directory| {
            directory.owner = self.owner;
            (directory, None)
        }));
        for file in &self.copied.files {
            let path = [self.to.as_str(), file.path.as_str()].into_iter().filter(|part| !part.is_empty());
            let path = path.collect::<Vec<_>>().join("/");
            let (mode, body, from) = match &file.kind {
                SourceKind::Directory => (self.directory_mode(), Body::Directory, None),
                SourceKind::Symlink(to) => (0o777, Body::Symlink(to.clone()), None),
                SourceKind::File { executable, .. } => {
                    let mode = self.mode.unwrap_or(if *executable { 0o755 } else { 0o644 });
                    (mode, Body::File(file.size), Some(file))
                }
            };
            members.push((LayerFile { path, mode, owner: self.owner, body }, from));
        }
        members
    }

    /// Directories can be entered by whoever can read files.
    fn directory_mode(&self) -> u32 {
        self.mode.map_or(0o755, |mode| mode | (mode & 0o444) >> 2)
    }
}

impl Step for Copy {
    type Product = Vec<Layer>;
    const KIND: Kind = Kind { name: "copy", version: 2 };

    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn cost(&self) -> Cost {
        Cost::Cpu(self.copied.bytes)
    }

    fn perform(&self, context: &Context<'_>) -> Result<Vec<Layer>> {
        let workshop = context.workshop;
        let work = context.work("copy", self.subject.to_string(), Some(self.copied.bytes));
        let media_type = match self.compression {
            Compression::Gzip => MediaType::Gzip,
            Compression::Zstd => MediaType::Zstd,
        };
        let mut out = LayerWriter::new(workshop.store, media_type, workshop.surroundings.jobs)?;
        let mut copied = self.copied.files.clone();
        let mut digests = copied.iter_mut().filter_map(|file| match &mut file.kind {
            SourceKind::File { digest, .. } => Some(digest),
            SourceKind::Directory | SourceKind::Symlink(_) => None,
        });
        for (member, source) in self.members() {
            let Some(source) = source else {
                out.small(&member)?;
                continue;
            };
            let mut file = Watched::open(source)?;
            out.file(&member, &mut file).map_err(|error| file.explain(error.into()))?;
            let found = file.end()?;
            digests.next().into_iter().for_each(|digest| *digest = Some(found.clone()));
            work.advance(source.size)?;
        }
        // Where the snapshot knew the whole alone, the whole is what must be right.
        match content(&copied) == self.content {
            true => Ok(vec![out.end()?]),
            false => Err(changed(Path::new(&self.from))),
        }
    }
}

/// A file that is read once more and must be as the snapshot found it.
struct Watched {
    path: PathBuf,
    file: fs_err::File,
    hasher: blake3::Hasher,
    /// `None` where the digest of the whole alone is known.
    expected: Option<String>,
    size: u64,
}

impl Watched {
    fn open(source: &Source) -> Result<Self> {
        let changed = || changed(&source.from);
        let SourceKind::File { seen, digest, .. } = &source.kind else { return Err(changed()) };
        let file = open_regular(&source.from).map_err(|error| vanished(&source.from, error))?;
        if Stat::of(&file.metadata()?) != *seen {
            return Err(changed());
        }
        Ok(Self {
            path: source.from.clone(),
            file,
            hasher: blake3::Hasher::new(),
            expected: digest.clone(),
            size: source.size,
        })
    }

    /// Returns the error about a file that became shorter or longer, which the writer cannot name.
    fn explain(&self, error: BuildError) -> BuildError {
        match error {
            BuildError::Interrupted => BuildError::Interrupted,
            _ if self.file.metadata().is_ok_and(|found| found.len() != self.size) => changed(&self.path),
            error => error,
        }
    }

    /// Returns the digest of the content.
    fn end(self) -> Result<String> {
        let found = self.hasher.finalize().to_hex().to_string();
        match self.expected.is_none_or(|expected| expected == found) {
            true => Ok(found),
            false => Err(changed(&self.path)),
        }
    }
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt;

    use kiln_plan::event::{Cancel, Silent};
    use kiln_plan::lock::Lock;
    use kiln_plan::stack::{Overrides, read};
    use kiln_store::Store;

    use crate::driver::{Alone, Driver};
    use crate::graph::Images;
    use crate::project::Project;
    use crate::step::Level;
    use crate::workshop::{Surroundings, Workshop};

    const STACK: &str = "[stack]\nname = \"demo\"\n\n[target]\nplatforms = [\"linux/amd64\"]\n\n[images.app]\n\
                         from = \"scratch\"\ncopy = [{ from = \"src\", to = \"/app\" }]\n";

    /// Changes a project between the snapshot and the copy; the error, and whether a build afterwards has the new content.
    fn after(change: fn(&std::path::Path)) -> String {
        let directory = tempfile::tempdir().unwrap();
        let src = directory.path().join("src");
        fs_err::create_dir(&src).unwrap();
        fs_err::write(src.join("a"), "first").unwrap();
        fs_err::write(src.join("b"), "second").unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let drive = |between: &dyn Fn()| {
            let workshop = Workshop::new(&store, std::sync::Arc::new(Silent), Cancel::default(), Surroundings::bare());
            let file = directory.path().join("kiln.toml");
            let stack = read(STACK, &Overrides::default()).unwrap();
            let project = Project { directory: directory.path().to_owned(), file, stack, workshop };
            let images = Images::new(&project, &project.chosen(&[]).unwrap(), &Lock::default())?;
            between();
            let driver = Driver::new(&images.graph, &project.workshop, &Alone);
            driver.get(images.images[0].image, Level::Known).map(|image| image.layers[0].digest)
        };
        let error = drive(&|| change(&src)).unwrap_err().to_string();
        // Nothing was recorded: the next build takes what is there now, or refuses it.
        let can_be_copied = fs_err::read_dir(&src).unwrap().all(|entry| !entry.unwrap().file_type().unwrap().is_fifo());
        assert_eq!(drive(&|| ()).is_ok(), can_be_copied);
        error.replace(&src.display().to_string(), "src")
    }

    #[test]
    fn a_file_that_changes_after_it_was_looked_at_fails_the_step_and_is_named() {
        let edit = |src: &std::path::Path| fs_err::write(src.join("b"), "other!").unwrap();
        assert_eq!(after(edit), "`src/b` changed while it was copied");
        let grow = |src: &std::path::Path| fs_err::write(src.join("b"), "second and more").unwrap();
        assert_eq!(after(grow), "`src/b` changed while it was copied");
        let remove = |src: &std::path::Path| fs_err::remove_file(src.join("a")).unwrap();
        assert_eq!(after(remove), "`src/a` changed while it was copied");
        let replace = |src: &std::path::Path| {
            // Same size, and the time of the old one.
            let time = fs_err::metadata(src.join("a")).unwrap().modified().unwrap();
            fs_err::write(src.join("a"), "tsrif").unwrap();
            fs_err::OpenOptions::new().write(true).open(src.join("a")).unwrap().file().set_modified(time).unwrap();
        };
        assert_eq!(after(replace), "`src/a` changed while it was copied");
        // No build waits for whoever writes into a pipe.
        let pipe = |src: &std::path::Path| {
            fs_err::remove_file(src.join("a")).unwrap();
            rustix::fs::mknodat(rustix::fs::CWD, src.join("a"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        };
        assert_eq!(after(pipe), "`src/a` changed while it was copied");
        let directory = |src: &std::path::Path| {
            fs_err::remove_file(src.join("a")).unwrap();
            fs_err::create_dir(src.join("a")).unwrap();
        };
        assert_eq!(after(directory), "`src/a` changed while it was copied");
    }
}
