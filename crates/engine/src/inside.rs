//! Files that belong to ids of a range: they are made, read and removed by kiln once more, as root of a user namespace.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use kiln_oci::tree::{Change, Changes, Form, Others, Owners, Upper, unpack as unpack_tree};
use kiln_oci::{OciError, time};
use kiln_sandbox::{Ended, Ids, Inode, Inside, Ran, Root};
use serde::{Deserialize, Serialize};

/// Names of what is done there.
const UNPACK: &str = "unpack";
const PACK: &str = "pack";
const COMPARE: &str = "compare";
const REMOVE: &str = "remove";

/// Does such work: this process is root of the namespace.
///
/// # Errors
///
/// If it fails; the words are all that the other process gets.
pub fn inside(arguments: &[OsString]) -> io::Result<()> {
    let words: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
    let (name, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let ready = &mut |_| Ok(());
    match (name.to_str(), arguments) {
        (Some(UNPACK), [tree]) => unpack(Ids::All, io::stdin().lock(), Path::new(tree), ready).map(drop).map_err(line),
        (Some(PACK), [description]) => {
            let described: Vec<Described> = serde_json::from_slice(description.as_bytes())?;
            let [done] = described.as_slice() else { return Err(io::ErrorKind::InvalidInput.into()) };
            let mut out = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
            done.with(|done| done.pack(Ids::All, &mut out, ready)).map_err(line)?;
            out.flush()
        }
        (Some(COMPARE), [description]) => {
            let described: Vec<Described> = serde_json::from_slice(description.as_bytes())?;
            let [done, again] = described.as_slice() else { return Err(io::ErrorKind::InvalidInput.into()) };
            let found = done.with(|done| again.with(|again| done.differences(again, Ids::All))).map_err(line)?;
            Ok(serde_json::to_writer(io::stdout().lock(), &found)?)
        }
        (Some(REMOVE), [path]) => kiln_store::remove_tree(Path::new(path)),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Lets the store remove such files.
pub fn remove_others() {
    kiln_store::remove_others_by(|path| match Ids::of_this_process() {
        ids @ Ids::Range(..) => Inside::start(ids, REMOVE, &[path.as_os_str()]).and_then(Inside::finish),
        Ids::All | Ids::One => Err(io::ErrorKind::PermissionDenied.into()),
    });
}

/// Unpacks a tar into an empty directory, and returns the owners that its files cannot have. `watch` gets bytes as they are read or
/// written.
pub(crate) fn unpack(
    ids: Ids,
    mut tar: impl Read,
    tree: &Path,
    watch: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<Others> {
    let owners = match ids {
        Ids::All => Owners::Given,
        Ids::One => Owners::Noted,
        Ids::Range(..) => {
            let mut there = Inside::start(ids, UNPACK, &[tree.as_os_str()])?;
            let sent = there.stdin().map_or(Ok(0), |mut stdin| copy(&mut tar, &mut stdin, watch));
            let done = there.finish();
            return match sent {
                // It says why it reads no more.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => done.and(Err(error)),
                sent => sent.and(done).map(|()| Others::new()),
            };
        }
    };
    unpack_tree(tar, tree, owners, watch).map_err(io::Error::other)
}

/// A command that ran.
pub(crate) struct Done<'d> {
    pub(crate) root: &'d Root,
    pub(crate) ran: &'d Ran,
    /// Commands before it.
    pub(crate) below: u8,
    /// Paths of files that it saw and that the image does not get.
    pub(crate) bound: Vec<PathBuf>,
}

/// As much of it as this process needs to know inside.
#[derive(Serialize, Deserialize)]
struct Described {
    root: Root,
    copied: bool,
    below: u8,
    bound: Vec<PathBuf>,
}

impl Described {
    fn with<T>(&self, act: impl FnOnce(&Done<'_>) -> T) -> T {
        let Self { root, copied, below, bound } = self;
        let ran = Ran { ended: Ended::Exited(0), owners: kiln_sandbox::Owners::Given, copied: *copied };
        act(&Done { root, ran: &ran, below: *below, bound: bound.clone() })
    }
}

impl Done<'_> {
    fn described(&self) -> Described {
        let (root, copied, below, bound) = (self.root.clone(), self.ran.copied, self.below, self.bound.clone());
        Described { root, copied, below, bound }
    }

    fn changes(&self, ids: Ids) -> Result<Changes, OciError> {
        let (owners, table): (_, BTreeMap<Inode, _>) = match (ids, &self.ran.owners) {
            (Ids::All | Ids::Range(..), _) => (Owners::Given, BTreeMap::new()),
            (Ids::One, kiln_sandbox::Owners::Noted { table, .. }) => (Owners::Noted, table.iter().copied().collect()),
            (Ids::One, _) => (Owners::Noted, BTreeMap::new()),
        };
        let other = |path: &Path| table.get(&Inode::of(path).ok()?).copied();
        let form = if self.ran.copied { Form::Layer } else { Form::Overlay };
        let upper = Upper { path: &self.root.upper(), lower: &self.root.layers, form, owners, others: &other };
        let mut changes = Changes::of(&upper)?;
        self.bound.iter().for_each(|path| changes.leave_out_below(path.as_os_str().as_bytes()));
        Ok(changes)
    }

    /// Writes the layer of the command as a tar: what it left in its directory. Returns `None`, and writes nothing, if it changed
    /// nothing; else if all owners are known.
    pub(crate) fn pack(
        &self,
        ids: Ids,
        out: &mut impl Write,
        watch: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> Result<Option<bool>, OciError> {
        if let Ids::Range(..) = ids {
            let mut there = start(ids, PACK, &[self.described()])?;
            let written = there.stdout().map_or(Ok(0), |mut stdout| copy(&mut stdout, out, watch));
            there.finish()?;
            return Ok((written? > 0).then_some(true));
        }
        let changes = self.changes(ids)?;
        write(&changes, self.below, out, watch)?;
        let are_known = self.ran.owners != kiln_sandbox::Owners::Lost && !self.moved(&changes);
        Ok((!changes.is_empty()).then_some(are_known))
    }

    /// Returns true if a link of the layers is gone that root could have given another owner, and a new one may be the same.
    fn moved(&self, changes: &Changes) -> bool {
        let is_gone = |path: &[u8], change: &Change| {
            *change == Change::Whiteout
                && std::str::from_utf8(path).is_ok_and(|path| self.root.owners_below.contains_key(path))
        };
        !self.root.owners_below.is_empty() && changes.paths().any(|(path, change)| is_gone(path, change))
    }

    /// Compares what the command left with what it left when it ran again: a line for each path that differs.
    pub(crate) fn differences(&self, again: &Self, ids: Ids) -> Result<Vec<String>, OciError> {
        if let Ids::Range(..) = ids {
            let mut there = start(ids, COMPARE, &[self.described(), again.described()])?;
            let mut text = Vec::new();
            let read = there.stdout().map_or(Ok(0), |mut stdout| stdout.read_to_end(&mut text));
            there.finish()?;
            read?;
            return Ok(serde_json::from_slice(&text).map_err(io::Error::from)?);
        }
        self.changes(ids)?.differences(&again.changes(ids)?)
    }
}

fn start(ids: Ids, work: &str, described: &[Described]) -> io::Result<Inside> {
    let description = serde_json::to_string(described)?;
    Inside::start(ids, work, &[OsStr::new(&description)])
}

fn write(
    changes: &Changes,
    below: u8,
    out: &mut impl Write,
    watch: &mut dyn FnMut(u64) -> io::Result<()>,
) -> Result<(), OciError> {
    match changes.is_empty() {
        true => Ok(()),
        false => changes.write(time::ran(below, &changes.digest()?), out, watch),
    }
}

/// Copies all bytes, and returns how many they were.
fn copy(from: &mut impl Read, to: &mut impl Write, watch: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<u64> {
    let (mut buffer, mut copied) = (vec![0; 256 << 10], 0);
    loop {
        let read = match from.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            return Ok(copied);
        }
        to.write_all(&buffer[..read])?;
        watch(read as u64)?;
        copied += read as u64;
    }
}

/// Returns an error in one line, with its causes.
fn line(error: impl std::error::Error) -> io::Error {
    let causes = std::iter::successors(error.source(), |error| error.source());
    io::Error::other(causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_sandbox_notes_owners_where_layers_look_for_them() {
        assert_eq!(kiln_sandbox::OWNER, kiln_oci::tree::OWNER);
    }
}
