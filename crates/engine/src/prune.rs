//! Pruning wheels: libraries are inflated and cut; what of them was compressed and stays is taken over as it is, like
//! everything else.
//!
//! Inflated libraries go to a file without a name beside the result rather than into memory, since the largest have a
//! gigabyte. What they are cut to is never written: it is read out of them wherever it is needed, which is to be looked at
//! once more, to be compressed, to be hashed, and to be hashed again as part of a layer. Libraries are cut on all cores, one
//! each; then each is compressed on all cores, in the order of the wheel.

mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

pub use files::{FilePruner, PrunedFile};
use kiln_fatbin::{BEGINNING, Kind, Outcome, Rewrite, Selection, check, may_be_pruned, prune};
use kiln_inflate::{Blocks, Kept, Replacement};
use kiln_oci::{AtHand, InflatePool};
use kiln_plan::event::Work;
use kiln_plan::parallel;
use kiln_wheel::ReaderAt;
use kiln_wheel::archive::{Entry, FileReader};
use kiln_wheel::install::Wheel;
use kiln_wheel::name::WheelName;
use kiln_wheel::repack::Repack;

use crate::error::{BuildError, Result};
use crate::verify::may_lack;

/// What wheels are pruned with.
pub struct WheelPruner<'a> {
    /// What stays.
    pub selection: &'a Selection,
    /// Threads that inflate.
    pub pool: &'a InflatePool,
    /// Libraries that are cut, and pieces that are compressed, at once.
    pub threads: usize,
    /// Where a file without a name may be: as large as the wheel's libraries.
    pub temporary: &'a Path,
    /// Told of bytes.
    pub work: &'a Work<'a>,
    /// Patterns of files that may lack code for the GPUs; with them those that are known to. Nothing where no file may.
    pub except: Option<&'a [String]>,
}

/// A wheel whose libraries have been cut.
pub struct PrunedWheel {
    name: WheelName,
    wheel: Wheel<FileReader>,
    libraries: BTreeMap<String, Library>,
}

impl WheelPruner<'_> {
    /// Cuts the libraries of a wheel.
    pub fn cut(&self, file_name: &str, file: Arc<fs_err::File>) -> Result<PrunedWheel> {
        let unusable = |error: Box<dyn std::error::Error + Send + Sync>| BuildError::Prune {
            file: file_name.to_owned(),
            source: error,
        };
        let name: WheelName = file_name.parse().map_err(|error| unusable(Box::new(error)))?;
        let reader = FileReader::from(file.try_clone()?.into_file());
        let wheel =
            Wheel::open(name.clone(), reader, file.metadata()?.len()).map_err(|error| unusable(error.into()))?;
        let spool = Arc::new(fs_err::File::from_parts(tempfile::tempfile_in(self.temporary)?, file_name));
        let (mut entries, mut from) = (Vec::new(), 0);
        for entry in wheel.archive.entries() {
            let start = wheel.archive.beginning::<BEGINNING>(entry).map_err(|error| unusable(error.into()))?;
            if may_be_pruned(&start, entry.size) {
                entries.push((entry, Inflated { spool: Arc::clone(&spool), from, size: entry.size }));
                from += entry.size;
            }
        }
        entries.sort_by_key(|(entry, _)| std::cmp::Reverse(entry.size));
        let cut = parallel::each(&entries, self.threads, |(entry, old)| {
            Ok::<_, BuildError>((entry.path.clone(), self.cut_one(file_name, &file, entry, old.clone())?))
        })?;
        let mut cut = PrunedWheel { name, wheel, libraries: cut.into_iter().collect() };
        if cut.is_emptied() && self.may_lack_all(&cut) {
            let reason = || "it may lack code for the GPUs".to_owned();
            for library in cut.libraries.values_mut().filter(|library| library.outcome.is_some()) {
                library.outcome = Some(Outcome::Refused { reason: reason() });
            }
        } else if cut.is_emptied() {
            let gpus = self.selection.gpus.iter().map(ToString::to_string).collect();
            return Err(BuildError::NothingLeft { file: file_name.to_owned(), gpus });
        }
        Ok(cut)
    }

    /// Tells if all code of a wheel is such that its package does without it on the GPUs. It stays whole then.
    fn may_lack_all(&self, cut: &PrunedWheel) -> bool {
        let gpus = &self.selection.gpus;
        let mut code = cut.libraries.iter().filter(|(_, library)| library.outcome.is_some());
        let may = |except, path: &str| gpus.iter().all(|gpu| may_lack(path, *gpu, except));
        self.except.is_some_and(|except| code.all(|(path, _)| may(except, path)))
    }

    fn cut_one(&self, wheel: &str, file: &Arc<fs_err::File>, entry: &Entry, old: Inflated) -> Result<Library> {
        let advance = |bytes: u64| self.work.advance(bytes).map_err(io::Error::from);
        let blocks = self.pool.write(wheel, file, entry, &mut Filler { inflated: &old, filled: 0 }, &advance)?;
        let decision = prune(&old, self.selection)?;
        let outcome = Outcome::of(decision, |rewrite| check(&old, &rewrite.of(&old), self.selection))?;
        Ok(Library { old, blocks, outcome })
    }
}

/// A library as it was: part of a file.
#[derive(Debug, Clone)]
struct Inflated {
    spool: Arc<fs_err::File>,
    from: u64,
    size: u64,
}

impl ReaderAt for Inflated {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let most = self.size.saturating_sub(position).min(buffer.len() as u64) as usize;
        self.spool.file().read_at(&mut buffer[..most], self.from + position)
    }
}

impl kiln_fatbin::Source for Inflated {
    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        ReaderAt::read_at(self, buffer, position)
    }
}

/// Writes a library to its place.
struct Filler<'a> {
    inflated: &'a Inflated,
    filled: u64,
}

impl io::Write for Filler<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The pool gives as many bytes as the entry has: others' places are safe.
        let written = self.inflated.spool.file().write_at(bytes, self.inflated.from + self.filled)?;
        self.filled += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A library of a wheel, and what became of it; nothing where it has no GPU code. Reads as what it is cut to, if it is.
struct Library {
    old: Inflated,
    blocks: Blocks,
    outcome: Option<Outcome>,
}

impl Library {
    /// True if it is code for one architecture, which none of the GPUs runs.
    fn is_left_out(&self) -> bool {
        matches!(self.outcome, Some(Outcome::Loose { needed: false, .. }))
    }

    fn rewrite(&self) -> Option<&Rewrite> {
        match &self.outcome {
            Some(Outcome::Pruned(rewrite)) => Some(rewrite),
            _ => None,
        }
    }
}

impl ReaderAt for Library {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        match self.rewrite() {
            Some(rewrite) => kiln_fatbin::Source::read_at(&rewrite.of(&self.old), buffer, position),
            None => ReaderAt::read_at(&self.old, buffer, position),
        }
    }
}

impl PrunedWheel {
    /// True if anything was cut or is left out.
    pub fn is_changed(&self) -> bool {
        self.libraries.values().any(|library| library.rewrite().is_some() || library.is_left_out())
    }

    /// Tells if there is GPU code, and none for a GPU is left in any library.
    fn is_emptied(&self) -> bool {
        let mut outcomes = self.libraries.values().filter_map(|library| library.outcome.as_ref()).peekable();
        outcomes.peek().is_some() && outcomes.all(Outcome::is_emptied)
    }

    /// The libraries with GPU code.
    pub fn into_files(self) -> Vec<PrunedFile> {
        let files = self.libraries.into_iter();
        files.filter_map(|(path, library)| Some(PrunedFile { path: path.into(), outcome: library.outcome? })).collect()
    }

    /// The content of the new wheel's libraries.
    pub(crate) fn at_hand(self) -> AtHand {
        let libraries = self.libraries.into_iter().filter(|(_, library)| !library.is_left_out());
        AtHand(libraries.map(|(path, library)| (path, Arc::new(library) as Arc<_>)).collect())
    }

    /// Returns the GPU code that stayed in the libraries that were cut.
    pub fn kept(&self) -> KeptCode {
        let mut kept = KeptCode::default();
        for rewrite in self.libraries.values().filter_map(Library::rewrite) {
            for code in rewrite.code.iter().filter(|code| code.loads) {
                let Some(architecture) = code.architecture else { continue };
                match code.kind {
                    Kind::Ptx => drop(kept.ptx.insert(architecture.capability.number())),
                    Kind::Cubin => drop(kept.cubins.insert(architecture.capability.number())),
                    _ => {}
                }
            }
        }
        for outcome in self.libraries.values().filter_map(|library| library.outcome.as_ref()) {
            if let Outcome::Loose { architecture, needed: true } = outcome {
                kept.cubins.insert(architecture.capability.number());
            }
        }
        kept
    }

    /// The file name of the new wheel.
    pub fn file_name(&self, old: &str) -> String {
        self.name.retagged(old, &self.kept().tag())
    }

    /// Writes the new wheel.
    pub fn write(&self, pruner: &WheelPruner<'_>, out: impl io::Write) -> Result<()> {
        let replaced = self.libraries.iter().filter_map(|(path, library)| {
            let rewrite = library.rewrite()?;
            let kept = rewrite.copies().map(|(from, to, bytes)| Kept { from, to, bytes }).collect();
            let replacement = Replacement { content: library, size: rewrite.after, kept, blocks: &library.blocks };
            Some((path.clone(), replacement))
        });
        let kept = self.kept();
        let note = ("Kiln-Pruned", &*kept.to_string());
        let advance = |bytes: u64| pruner.work.advance(bytes).map_err(io::Error::from);
        let (replaced, tag) = (replaced.collect(), kept.tag());
        let left_out = self.libraries.iter().filter(|(_, library)| library.is_left_out());
        let left_out = left_out.map(|(path, _)| path.clone()).collect();
        let repack = Repack {
            replaced: &replaced,
            left_out: &left_out,
            tag: &tag,
            note,
            threads: pruner.threads,
            advance: &advance,
        };
        let failed = |error| BuildError::Prune { file: self.name.to_string(), source: Box::new(error) };
        repack.write(&self.wheel, out).map_err(failed)
    }
}

/// The GPU code that stayed. It names what the wheel holds, so that two selections with the same result give one wheel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeptCode {
    /// Numbers of architectures with machine code.
    cubins: BTreeSet<u32>,
    /// Numbers of architectures with PTX.
    ptx: BTreeSet<u32>,
}

impl KeptCode {
    /// Returns what follows the number of a build tag: `kiln90`, `kiln80_90_ptx90`.
    fn tag(&self) -> String {
        let join = |numbers: &BTreeSet<u32>| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join("_");
        match (self.cubins.is_empty(), self.ptx.is_empty()) {
            (false, true) => format!("kiln{}", join(&self.cubins)),
            (false, false) => format!("kiln{}_ptx{}", join(&self.cubins), join(&self.ptx)),
            (true, false) => format!("kiln_ptx{}", join(&self.ptx)),
            (true, true) => "kiln_none".into(),
        }
    }
}

impl std::fmt::Display for KeptCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cubins = self.cubins.iter().map(|number| format!("sm_{number}"));
        let all: Vec<String> = cubins.chain(self.ptx.iter().map(|number| format!("compute_{number}"))).collect();
        f.write_str(if all.is_empty() { "none" } else { "" })?;
        f.write_str(&all.join(", "))
    }
}
