//! `copy`: files of the project as a layer that depends on their names, modes and contents and on nothing else. Every byte
//! is digested again as it goes into the layer: one that is not as the snapshot found it fails the step.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_oci::layer::{Body, Layer, LayerFile};
use kiln_oci::whole::{LayerWriter, WHOLE_VERSION};
use kiln_oci::{bytecode as pyc, time};
use kiln_plan::base::Attributes;
use kiln_plan::stack::{Compression, Copy as Wanted, Elsewhere};
use kiln_store::open_regular;
use serde::Serialize;

use crate::below::{Below, Manner};
use crate::context::Context;
use crate::error::{BuildError, Result};
use crate::snapshot::{Copied, FileAt, Own, Source, SourceKind, Stat, changed, content, vanished};
use crate::sources::Opened;
use crate::step::{Cost, Kind, Read, Step, Subject};
use crate::workshop::Workshop;

/// Files of the project, as one layer.
#[derive(Serialize)]
pub(crate) struct Copy {
    parts: Vec<Part>,
    /// Lines on what is below otherwise than on nothing at all.
    below: Vec<String>,
    compression: Compression,
    writer: u32,
    /// The members of the layer, each with the part and the place of the file that its content comes from.
    #[serde(skip)]
    members: Vec<(LayerFile, Option<(usize, usize)>)>,
    /// The steps that found out what is copied from outside of the project.
    #[serde(skip)]
    after: Vec<Read>,
    #[serde(skip)]
    subject: Subject,
}

/// One copy of the stack file. Where a layer holds several, the later one wins.
#[derive(Serialize)]
struct Part {
    content: String,
    /// The place in the image, without a leading slash.
    to: String,
    owner: (u32, u32),
    mode: Option<u32>,
    /// Directories that are there get this owner.
    gives_owner: bool,
    /// Directories that are there get this mode.
    gives_mode: bool,
    /// The paths in the project, for messages.
    #[serde(skip)]
    from: String,
    #[serde(skip)]
    copied: Arc<Copied>,
}

impl Copy {
    /// Fits copies, each with its files and their owner, to what is below them, and puts them there.
    pub(crate) fn new(
        copies: Vec<(&Wanted, Arc<Copied>, (u32, u32))>,
        after: Vec<Read>,
        compression: Compression,
        below: &mut Below,
    ) -> Result<Self> {
        let of = |(copy, ..): &(&Wanted, _, _)| Subject::Copy { from: copy.shown(), to: copy.to.clone() };
        let subject = match copies.as_slice() {
            [one] => of(one),
            several => Subject::Copies(several.iter().map(|copy| of(copy).to_string()).collect()),
        };
        let mut copy = Self {
            parts: Vec::new(),
            below: Vec::new(),
            compression,
            writer: WHOLE_VERSION,
            members: Vec::new(),
            after,
            subject,
        };
        for (wanted, copied, owner) in copies {
            copy.add(wanted, copied, owner, below)?;
        }
        Ok(copy)
    }

    fn add(&mut self, wanted: &Wanted, copied: Arc<Copied>, owner: (u32, u32), below: &mut Below) -> Result<()> {
        let to = copied.place(wanted, |path| below.is_directory(path));
        let origin = Subject::Copy { from: wanted.shown(), to: wanted.to.clone() }.to_string();
        let gives = wanted.owner.user.is_some();
        // Directories of an image bring their owners and modes, over directories that are there, too.
        let is_of_image = matches!(wanted.elsewhere, Some(Elsewhere::Image(_) | Elsewhere::Reference(_)));
        let (gives_owner, gives_mode) = (gives || is_of_image, wanted.mode.is_some() || is_of_image);
        let parents = Attributes { owner, ..Attributes::default() };
        let manner = Manner { parents, gives_owner, gives_mode, target: to.clone() };
        let given = gives.then_some(owner);
        let laid = below.lay(&origin, &manner, members(&copied, &to, (owner, given), wanted.mode))?;
        let part = self.parts.len();
        let files = laid.files.into_iter().map(|(file, at)| (file, at.flatten().map(|at| (part, at))));
        self.below.extend(laid.notes);
        match part {
            0 => self.members = files.collect(),
            _ => files.for_each(|(file, from)| {
                match self.members.iter_mut().find(|(other, _)| other.path == file.path) {
                    Some(other) => *other = (file, from),
                    None => self.members.push((file, from)),
                }
            }),
        }
        let (content, mode, from) = (copied.content.clone(), wanted.mode, wanted.shown());
        self.parts.push(Part { content, to, owner, mode, gives_owner, gives_mode, from, copied });
        Ok(())
    }

    /// Returns the line of the image's history.
    pub(crate) fn history(&self) -> String {
        format!("kiln: {}", self.subject)
    }

    /// Bytes of content.
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.copied.bytes).sum()
    }

    /// Returns the members of the layer without their content.
    pub(crate) fn files(&self) -> Vec<LayerFile> {
        self.members.iter().map(|(file, _)| file.clone()).collect()
    }
}

/// Returns everything that is copied as members of a layer on nothing at all, each with the place of the file that its content
/// comes from. Paths that have an owner keep it, unless the copy gives another.
fn members(
    copied: &Copied,
    to: &str,
    (owner, given): ((u32, u32), Option<(u32, u32)>),
    mode: Option<u32>,
) -> Vec<(LayerFile, Option<usize>)> {
    let time = time::copied(&copied.content);
    let mut members = Vec::with_capacity(copied.files.len() + 1);
    if !copied.is_single() && !to.is_empty() {
        members.push((LayerFile { owner, mode: directory_mode(0o755, mode), ..LayerFile::directory(to) }, None));
    }
    for (at, file) in copied.files.iter().enumerate() {
        let path = [to, file.path.as_str()].into_iter().filter(|part| !part.is_empty());
        let path = path.collect::<Vec<_>>().join("/");
        let member = match &file.kind {
            SourceKind::Directory { mode: own } => {
                (LayerFile { mode: directory_mode(*own, mode), ..LayerFile::directory(path) }, None)
            }
            SourceKind::Symlink(to) => (LayerFile::symlink(path, to), None),
            SourceKind::File { mode: own, .. } => {
                (LayerFile { time, ..LayerFile::new(path, mode.unwrap_or(*own), Body::File(file.size)) }, Some(at))
            }
        };
        let (owner, xattrs) = match &file.own {
            Some(Own { owner: own, xattrs }) => (given.unwrap_or(*own), xattrs.clone()),
            None => (owner, Vec::new()),
        };
        members.push((LayerFile { owner, xattrs, ..member.0 }, member.1));
    }
    members
}

/// Returns the mode of a directory: its own, or one in which whoever can read files can enter it.
pub(crate) fn directory_mode(own: u32, mode: Option<u32>) -> u32 {
    mode.map_or(own, |mode| mode | (mode & 0o444) >> 2)
}

impl Step for Copy {
    type Product = Vec<Layer>;
    const KIND: Kind = Kind { name: "copy", version: 3 };

    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn reads(&self) -> Vec<Read> {
        self.after.clone()
    }

    fn cost(&self) -> Cost {
        Cost::Cpu(self.bytes())
    }

    fn perform(&self, context: &Context<'_>) -> Result<Vec<Layer>> {
        let workshop = context.workshop;
        let work = context.work("copy", self.subject.to_string().trim_start_matches("copy "), Some(self.bytes()));
        let mut out = LayerWriter::new(workshop.store, self.compression.into(), workshop.surroundings.jobs)?;
        let mut copied: Vec<Vec<Source>> = self.parts.iter().map(|part| part.copied.files.clone()).collect();
        let bytecode: Vec<_> = self.parts.iter().map(|part| part.copied.bytecode()).collect();
        let opened: Vec<_> = self.parts.iter().map(|part| Opened::new(&part.copied.trees)).collect();
        for (member, from) in &self.members {
            let found = from.and_then(|(part, at)| Some((part, at, self.parts.get(part)?.copied.files.get(at)?)));
            let Some((part, at, source)) = found else {
                out.small(member)?;
                continue;
            };
            let mut file = Watched::open(workshop, &opened[part], source)?;
            let written = match bytecode[part].get(source.path.as_str()) {
                Some(&of) => out.file(member, &mut Dated::new(&mut file, of, member.time)),
                None => out.file(member, &mut file),
            };
            written.map_err(|error| file.explain(error.into()))?;
            copied[part][at].found(file.end()?);
            work.advance(source.size)?;
        }
        for ((part, files), opened) in self.parts.iter().zip(&mut copied).zip(&opened) {
            part.require_content(workshop, opened, files)?;
        }
        Ok(vec![out.end()?])
    }
}

impl Part {
    /// Compares the whole, which is all that is known where the snapshot did not look at each file. A file that a later copy
    /// hides is read for it.
    fn require_content(&self, workshop: &Workshop<'_>, opened: &Opened<'_>, files: &mut [Source]) -> Result<()> {
        for file in files.iter_mut() {
            if matches!(file.kind, SourceKind::File { digest: None, .. }) {
                let mut hidden = Watched::open(workshop, opened, file)?;
                io::copy(&mut hidden, &mut io::sink())?;
                file.found(hidden.end()?);
            }
        }
        match content(files) == self.content {
            true => Ok(()),
            false => Err(changed(Path::new(&self.from))),
        }
    }
}

/// Bytecode that gets the new time of its source, if it is of the state in which the source is.
struct Dated<'f> {
    head: io::Cursor<Vec<u8>>,
    begun: bool,
    file: &'f mut Watched,
    source: (u32, u32),
    time: u64,
}

impl<'f> Dated<'f> {
    fn new(file: &'f mut Watched, source: (u32, u32), time: u64) -> Self {
        Self { head: io::Cursor::default(), begun: false, file, source, time }
    }
}

impl io::Read for Dated<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.begun {
            self.begun = true;
            let mut head = Vec::with_capacity(pyc::HEAD);
            self.file.by_ref().take(pyc::HEAD as u64).read_to_end(&mut head)?;
            if pyc::source(&head) == Some(self.source) {
                pyc::date(&mut head, self.time);
            }
            self.head = io::Cursor::new(head);
        }
        match self.head.read(buffer)? {
            0 => self.file.read(buffer),
            read => Ok(read),
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
    fn open(workshop: &Workshop<'_>, opened: &Opened<'_>, source: &Source) -> Result<Self> {
        let changed = || changed(&source.from);
        let SourceKind::File { at, digest, .. } = &source.kind else { return Err(changed()) };
        let file = match at {
            FileAt::Tree(tree, _) => opened.open(workshop, *tree, &source.from)?.ok_or_else(changed)?,
            FileAt::Project(seen) => {
                let file = open_regular(&source.from).map_err(|error| vanished(&source.from, error))?;
                if Stat::of(&file.metadata()?) != *seen {
                    return Err(changed());
                }
                file
            }
        };
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

impl io::Read for Watched {
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
    use crate::images::Images;
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
