//! Unpacking a layer into a tree: nothing outside the tree changes, and the layer of the tree unpacks to the same tree.
//!
//! The first byte says whether a tar follows, or bytes of which a layer with hostile paths and links is made.

#![no_main]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use kiln_fuzz::{Bytes, owners, tar};
use kiln_oci::OciError;
use kiln_oci::tree::{Changes, Form, Upper, unpack};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 256 << 20);

const NAMES: [&str; 11] = ["a", "b", "c", "d", ".", "..", "", "out", "up", ".wh.a", ".wh..wh.plnk"];
const TARGETS: [&str; 8] = ["a", "b/c", "../outside", "../../outside", "/", "..", "/proc/self/cwd", "loop"];
/// Bytes of a file may stand for more: holes are not written.
const LARGEST: u64 = 8 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let layer = match first % 2 {
        0 => bytes.to_vec(),
        _ => {
            let mut bytes = Bytes(bytes);
            let mut members = Vec::new();
            while !bytes.0.is_empty() && members.len() < 24 {
                members.push(bytes.member(&NAMES, &TARGETS));
            }
            tar(&members)
        }
    };
    let Ok(place) = tempfile::tempdir() else { return };
    let outside = place.path().join("outside");
    let made = std::fs::create_dir(&outside).and_then(|()| std::fs::write(outside.join("secret"), "of the host"));
    let trees = ["first", "second", "third"].map(|name| place.path().join(name));
    let made = made.and_then(|()| trees.iter().try_for_each(std::fs::create_dir));
    made.expect("the temporary directory can be written");
    let mut written = 0;
    let mut watch = |bytes: u64| {
        written += bytes;
        if written > LARGEST { Err(std::io::Error::other("it is large")) } else { Ok(()) }
    };
    let done = unpack(layer.as_slice(), &trees[0], owners(), &mut watch);
    require_nothing_outside(place.path());
    if done.is_err() {
        return;
    }
    // Names that no layer can hold, which are no whiteouts either, are refused.
    let Some(second) = repeat(&trees[0], &trees[1]) else { return };
    let third = repeat(&trees[1], &trees[2]).expect("the layer of a tree becomes a tree");
    assert_eq!(second, third, "the layer of a tree is another tree");
    assert_eq!(paths(&trees[1]), paths(&trees[2]));
});

/// Returns everything in a tree as changes over nothing.
fn changes_of(path: &Path) -> Result<Changes, OciError> {
    Changes::of(&Upper { path, lower: &[], form: Form::Overlay, owners: owners(), others: &|_| None })
}

/// Makes a layer of a tree, and a tree of the layer. Returns the digest of what is in the first one.
fn repeat(from: &Path, to: &Path) -> Option<String> {
    let changes = changes_of(from).ok()?;
    let mut layer = Vec::new();
    changes.write(1_000_000_000, &mut layer, &mut |_| Ok(())).expect("changes become a layer");
    unpack(layer.as_slice(), to, owners(), &mut |_| Ok(())).expect("a layer becomes a tree");
    let again = changes_of(to).expect("a tree can be read");
    let differences = changes.differences(&again).expect("trees can be compared");
    assert!(differences.is_empty(), "{differences:?}");
    Some(changes.digest().expect("content has a digest").to_string())
}

fn require_nothing_outside(place: &Path) {
    let names = |path: &Path| {
        let entries = std::fs::read_dir(path).expect("the directory is there");
        let mut names: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
        names.sort();
        names
    };
    assert_eq!(names(place), ["first", "outside", "second", "third"]);
    assert_eq!(names(&place.join("outside")), ["secret"]);
    let secret = place.join("outside/secret");
    assert_eq!(std::fs::read(&secret).expect("it is there"), b"of the host");
    assert_eq!(std::fs::metadata(&secret).expect("it is there").nlink(), 1);
}

/// Returns kinds, modes and sizes of all that a tree has.
fn paths(tree: &Path) -> BTreeMap<Vec<u8>, (u32, u64)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![tree.to_owned()];
    while let Some(directory) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.filter_map(Result::ok) {
            let Ok(state) = entry.path().symlink_metadata() else { continue };
            if state.is_dir() {
                waiting.push(entry.path());
            }
            let path = entry.path().strip_prefix(tree).expect("it is below").as_os_str().as_encoded_bytes().to_vec();
            let size = if state.is_dir() { 0 } else { state.size() };
            found.insert(path, (state.mode(), size));
        }
    }
    found
}
