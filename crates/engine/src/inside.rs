//! Files that belong to ids of a range: they are made, read and removed by kiln once more, as root of a user namespace.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use kiln_oci::tree::{Changes, Form, Owners, Upper, unpack as unpack_tree};
use kiln_oci::{OciError, time};
use kiln_sandbox::{Ended, Ids, Inode, Inside, Ran, Root};

/// Names of what is done there.
const UNPACK: &str = "unpack";
const PACK: &str = "pack";
/// An argument: the layers were copied.
const COPIED: &str = "copied";
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
        (Some(UNPACK), [tree]) => unpack(Ids::All, io::stdin().lock(), Path::new(tree), ready).map_err(line),
        (Some(PACK), [below, copied, bound, directory, paths @ ..]) => {
            let number = |text: &OsStr| text.to_str().and_then(|text| text.parse::<u32>().ok());
            let invalid = io::ErrorKind::InvalidInput;
            let below = number(below).and_then(|below| u8::try_from(below).ok()).ok_or(invalid)?;
            let bound = number(bound).ok_or(invalid)? as usize;
            let (bound, layers) = paths.split_at_checked(bound).ok_or(invalid)?;
            let mut out = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
            let root = Root { layers: layers.iter().map(PathBuf::from).collect(), directory: directory.into() };
            let (ended, owners) = (Ended::Exited(0), kiln_sandbox::Owners::Given);
            let ran = Ran { ended, owners, copied: *copied == COPIED };
            let bound = bound.iter().map(PathBuf::from).collect();
            let done = Done { root: &root, ran: &ran, below, bound };
            done.pack(Ids::All, &mut out, ready).map_err(line)?;
            out.flush()
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

/// Unpacks a tar into an empty directory. `watch` gets bytes as they are read or written.
pub(crate) fn unpack(
    ids: Ids,
    mut tar: impl Read,
    tree: &Path,
    watch: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<()> {
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
                sent => sent.and(done),
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

impl Done<'_> {
    /// Writes the layer of the command as a tar: what it left in its directory. Returns false, and writes nothing, if it changed
    /// nothing.
    pub(crate) fn pack(
        &self,
        ids: Ids,
        out: &mut impl Write,
        watch: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> Result<bool, OciError> {
        let Self { root, ran, below, bound } = self;
        let (owners, table): (_, BTreeMap<Inode, _>) = match (ids, &ran.owners) {
            (Ids::Range(..), _) => {
                let (below, count) = (below.to_string(), bound.len().to_string());
                let copied = if ran.copied { COPIED } else { "" };
                let mut arguments =
                    vec![OsStr::new(&below), OsStr::new(copied), OsStr::new(&count), root.directory.as_os_str()];
                arguments.extend(bound.iter().chain(&root.layers).map(|path| path.as_os_str()));
                let mut there = Inside::start(ids, PACK, &arguments)?;
                let written = there.stdout().map_or(Ok(0), |mut stdout| copy(&mut stdout, out, watch));
                there.finish()?;
                return Ok(written? > 0);
            }
            (Ids::All, _) => (Owners::Given, BTreeMap::new()),
            (Ids::One, kiln_sandbox::Owners::Noted { table, .. }) => (Owners::Noted, table.iter().copied().collect()),
            (Ids::One, _) => (Owners::Noted, BTreeMap::new()),
        };
        let other = |path: &Path| table.get(&Inode::of(path).ok()?).copied();
        let form = if ran.copied { Form::Layer } else { Form::Overlay };
        let upper = Upper { path: &root.upper(), lower: &root.layers, form, owners, others: &other };
        let mut changes = Changes::of(&upper)?;
        bound.iter().for_each(|path| changes.leave_out_below(path.as_os_str().as_bytes()));
        write(&changes, *below, out, watch)?;
        Ok(!changes.is_empty())
    }
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
