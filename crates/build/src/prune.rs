//! Pruning wheels: libraries are inflated, cut and compressed again; everything else stays as it is stored.
//!
//! Inflated libraries go to files without a name beside the result rather than into memory, since the largest have a
//! gigabyte. Libraries are cut on all cores, one each; then each is compressed on all cores, in the order of the wheel.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use kiln_fatbin::{Outcome, Pruned, Selection, prune_into};
use kiln_oci::InflatePool;
use kiln_plan::event::Work;
use kiln_plan::parallel;
use kiln_wheel::archive::{Entry, FileReader};
use kiln_wheel::install::Wheel;
use kiln_wheel::name::WheelName;
use kiln_wheel::repack::Repack;

use crate::error::{BuildError, Result};

/// Libraries below this many bytes hold no code that would free a page.
const LEAST: u64 = 16 << 10;
const ELF: &[u8] = b"\x7fELF";

/// What wheels are pruned with.
pub struct WheelPruner<'a> {
    /// What stays.
    pub selection: &'a Selection,
    /// Threads that inflate.
    pub pool: &'a InflatePool,
    /// Libraries that are cut, and pieces that are compressed, at once.
    pub threads: usize,
    /// Where files without a name may be: as large as the wheel's libraries.
    pub temporary: &'a Path,
    /// Told of bytes.
    pub work: &'a Work<'a>,
}

/// A wheel whose libraries have been cut.
pub struct PrunedWheel {
    /// The libraries with GPU code.
    pub files: Vec<Pruned>,
    name: WheelName,
    wheel: Wheel<FileReader>,
    replaced: BTreeMap<String, fs_err::File>,
}

impl WheelPruner<'_> {
    /// Cuts the libraries of a wheel.
    pub fn cut(&self, file_name: &str, file: Arc<fs_err::File>) -> Result<PrunedWheel> {
        let unusable = |error: Box<dyn std::error::Error + Send + Sync>| {
            BuildError::step(format!("the wheel `{file_name}` cannot be pruned"), error)
        };
        let name: WheelName = file_name.parse().map_err(|error| unusable(Box::new(error)))?;
        let reader = FileReader::from(file.try_clone()?.into_file());
        let wheel =
            Wheel::open(name.clone(), reader, file.metadata()?.len()).map_err(|error| unusable(error.into()))?;
        let mut libraries = Vec::new();
        for entry in wheel.archive.entries().iter().filter(|entry| entry.size >= LEAST) {
            if wheel.archive.beginning::<4>(entry).map_err(|error| unusable(error.into()))? == ELF {
                libraries.push(entry);
            }
        }
        libraries.sort_by_key(|entry| std::cmp::Reverse(entry.size));
        let cut = parallel::each(&libraries, self.threads, |entry| self.cut_one(file_name, &file, entry))?;
        let (mut files, mut replaced) = (Vec::new(), BTreeMap::new());
        for (path, outcome, new) in cut.into_iter().flatten() {
            if let Some(new) = new {
                replaced.insert(path.clone(), new);
            }
            files.push(Pruned { path: path.into(), outcome });
        }
        files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(PrunedWheel { files, name, wheel, replaced })
    }

    fn cut_one(&self, wheel: &str, file: &Arc<fs_err::File>, entry: &Entry) -> Result<Option<CutLibrary>> {
        let advance = |bytes: u64| self.work.advance(bytes).map_err(io::Error::from);
        let unnamed = || -> io::Result<fs_err::File> {
            Ok(fs_err::File::from_parts(tempfile::tempfile_in(self.temporary)?, &entry.path))
        };
        let mut library = unnamed()?;
        self.pool.write(wheel, file, entry, &mut library, &advance)?;
        let mut new = None;
        let outcome = prune_into(&library, self.selection, &|_| self.work.advance(0).map_err(io::Error::from), || {
            let file = unnamed()?;
            new = Some(file.try_clone()?);
            Ok(file)
        })?;
        Ok(outcome.map(|outcome| {
            let new = new.filter(|_| matches!(outcome, Outcome::Pruned(_)));
            (entry.path.clone(), outcome, new)
        }))
    }
}

/// A library's path, what became of it, and its new content.
type CutLibrary = (String, Outcome, Option<fs_err::File>);

impl PrunedWheel {
    /// Whether anything was cut.
    pub fn is_changed(&self) -> bool {
        !self.replaced.is_empty()
    }

    /// The file name of the new wheel.
    pub fn file_name(&self, old: &str, selection: &Selection) -> String {
        self.name.retagged(old, &tag(selection))
    }

    /// Writes the new wheel.
    pub fn write(&self, pruner: &WheelPruner<'_>, out: impl io::Write) -> Result<()> {
        let note = ("Kiln-Pruned", &*description(pruner.selection));
        let advance = |bytes: u64| pruner.work.advance(bytes).map_err(io::Error::from);
        let tag = tag(pruner.selection);
        let repack = Repack { replaced: &self.replaced, tag: &tag, note, threads: pruner.threads, advance: &advance };
        let failed = |error| BuildError::step(format!("the pruned `{}` cannot be written", self.name), Box::new(error));
        repack.write(&self.wheel, out).map_err(failed)
    }
}

/// What follows the number of a build tag: `kiln90`, `kiln80_90`.
fn tag(selection: &Selection) -> String {
    let numbers: Vec<String> = selection.gpus.iter().map(|gpu| gpu.number().to_string()).collect();
    let mut tag = format!("kiln{}", numbers.join("_"));
    if selection.keep_ptx {
        tag.push_str("_ptx");
    }
    if selection.drop_relocatable {
        tag.push_str("_norel");
    }
    tag
}

/// What was kept, for people.
fn description(selection: &Selection) -> String {
    let gpus: Vec<String> = selection.gpus.iter().map(|gpu| format!("sm_{}", gpu.number())).collect();
    let mut text = gpus.join(", ");
    if selection.keep_ptx {
        text.push_str("; all PTX kept");
    }
    if selection.drop_relocatable {
        text.push_str("; relocatable code dropped");
    }
    text
}
