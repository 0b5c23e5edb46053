//! Layers over one another: whiteouts, opaque directories, replaced files and directories. A model, a map of paths, gets the members
//! of each layer; and each layer is unpacked into a tree, over which overlayfs's rules put the next. Both must show the same.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use kiln_fuzz::{Bytes, Kind, Member, owners, tar};
use kiln_oci::tree::unpack;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 256 << 20);

const NAMES: [&str; 4] = ["a", "b", "c", "a-b"];

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Directory(u32),
    File(u32, Vec<u8>),
    Symlink(String),
    Pipe(u32),
}

type Paths = BTreeMap<String, Node>;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let Ok(place) = tempfile::tempdir() else { return };
    let (mut model, mut shown) = (Paths::new(), Paths::new());
    for layer in 0..bytes.next() % 4 + 1 {
        let members: Vec<Member> = (0..bytes.next() % 12).map(|_| bytes.member(&NAMES, &["nowhere"])).collect();
        let tree = place.path().join(layer.to_string());
        std::fs::create_dir(&tree).expect("the temporary directory can be written");
        let unpacked = unpack(tar(&members).as_slice(), &tree, owners(), &mut |_| Ok(())).map(drop);
        match (Layer::of(&members), unpacked) {
            (Some(layer), Ok(())) => layer.over(&mut model),
            (None, Err(_)) => return,
            (Some(_), Err(error)) => panic!("{error} ({:?}), {members:?}", std::error::Error::source(&error)),
            (None, Ok(())) => panic!("a layer that contradicts itself was unpacked: {members:?}"),
        }
        lay(&tree, "", &mut shown);
        assert_eq!(model, shown, "{members:?}");
    }
});

/// Returns the paths above one, the highest first.
fn above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

fn remove(paths: &mut Paths, path: &str) {
    let below = format!("{path}/");
    paths.retain(|known, _| known != path && !known.starts_with(&below));
}

fn remove_below(paths: &mut Paths, path: &str) {
    let below = format!("{path}/");
    paths.retain(|known, _| !known.starts_with(&below));
}

/// One layer.
#[derive(Default)]
struct Layer {
    own: Paths,
    /// Directories that hide what is below them in lower layers.
    opaque: BTreeSet<String>,
    /// Paths that are removed.
    removed: BTreeSet<String>,
}

impl Layer {
    /// Reads the members one after the other; `None` if one lies below a file.
    fn of(members: &[Member]) -> Option<Self> {
        let mut layer = Self::default();
        let (mut hidden, mut opaque) = (BTreeSet::new(), BTreeSet::new());
        for Member { path, kind, mode } in members {
            let node = match kind {
                Kind::Whiteout => {
                    hidden.insert(path.clone());
                    continue;
                }
                Kind::Opaque => {
                    opaque.insert(path.clone());
                    continue;
                }
                Kind::Directory => Node::Directory(*mode),
                Kind::File(content) => Node::File(*mode, content.clone()),
                Kind::Symlink(target) => Node::Symlink(target.clone()),
                Kind::Pipe => Node::Pipe(*mode),
                Kind::HardLink(_) => Node::Directory(0),
            };
            layer.make_above(path)?;
            match kind {
                Kind::Directory if matches!(layer.own.get(path), Some(Node::Directory(_))) => {}
                _ => remove(&mut layer.own, path),
            }
            let node = match kind {
                Kind::HardLink(target) => match layer.own.get(target)? {
                    Node::Directory(_) => return None,
                    node => node.clone(),
                },
                _ => node,
            };
            layer.own.insert(path.clone(), node);
        }
        for path in hidden {
            if layer.removed.iter().any(|removed| above(&path).any(|above| above == removed))
                || layer.make_above(&path).is_none()
            {
                continue;
            }
            match layer.own.get(&path) {
                Some(Node::Directory(_)) => drop(layer.opaque.insert(path)),
                Some(_) => {}
                None => drop(layer.removed.insert(path)),
            }
        }
        for path in opaque {
            let is_removed = layer.removed.contains(&path) || above(&path).any(|above| layer.removed.contains(above));
            layer.make_above(&format!("{path}/"))?;
            if is_removed {
                return None;
            }
            layer.opaque.insert(path);
        }
        Some(layer)
    }

    /// Makes the directories above a path; `None` if one of them is something else.
    fn make_above(&mut self, path: &str) -> Option<()> {
        for above in above(path) {
            match self.own.get(above) {
                Some(Node::Directory(_)) => {}
                Some(_) => return None,
                None => drop(self.own.insert(above.to_owned(), Node::Directory(0o755))),
            }
        }
        Some(())
    }

    fn over(self, paths: &mut Paths) {
        self.removed.iter().for_each(|path| remove(paths, path));
        for (path, node) in self.own {
            let both = matches!((&node, paths.get(&path)), (Node::Directory(_), Some(Node::Directory(_))));
            if !both {
                remove(paths, &path);
            } else if self.opaque.contains(&path) {
                remove_below(paths, &path);
            }
            paths.insert(path, node);
        }
    }
}

/// Lays a tree over what is shown, by the rules of overlayfs.
fn lay(tree: &Path, directory: &str, shown: &mut Paths) {
    let mut entries: Vec<_> =
        std::fs::read_dir(tree.join(directory)).expect("a directory").map(|entry| entry.expect("an entry")).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().into_string().expect("text");
        let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
        let state = entry.path().symlink_metadata().expect("it is there");
        let (kind, mode) = (state.file_type(), state.mode() & 0o7777);
        if kind.is_char_device() && state.rdev() == 0 {
            remove(shown, &path);
        } else if kind.is_dir() {
            if !matches!(shown.get(&path), Some(Node::Directory(_))) {
                remove(shown, &path);
            } else if is_opaque(&entry.path()) {
                remove_below(shown, &path);
            }
            shown.insert(path.clone(), Node::Directory(mode));
            lay(tree, &path, shown);
        } else {
            remove(shown, &path);
            let node = match kind {
                kind if kind.is_symlink() => {
                    Node::Symlink(std::fs::read_link(entry.path()).expect("a link").display().to_string())
                }
                kind if kind.is_fifo() => Node::Pipe(mode),
                _ => Node::File(mode, std::fs::read(entry.path()).expect("a file")),
            };
            shown.insert(path, node);
        }
    }
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::getxattr(path, "user.overlay.opaque", &mut value[..]).is_ok_and(|size| &value[..size] == b"y")
}
