use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt, symlink};
use std::path::Path;

use kiln_store::Store;
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;
use crate::compression::decompress;
use crate::error::OciError;
use crate::facts::entries::Entries;
use crate::layer::MediaType;
use crate::whole::LayerWriter;

/// One member: path, kind, link, content.
type Told<'a> = (&'a str, EntryType, &'a str, &'a [u8]);

fn tar(members: &[Told<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, kind, link, content) in members {
        let mut header = Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(match kind {
            _ if kind.is_dir() => 0o755,
            // More than the usual umask leaves.
            _ if kind.is_fifo() => 0o666,
            _ => 0o644,
        });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        let field = &mut header.as_old_mut().name;
        field[..path.len()].copy_from_slice(path.as_bytes());
        let field = &mut header.as_old_mut().linkname;
        field[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn unpacked(members: &[Told<'_>]) -> (tempfile::TempDir, Result<(), TreeError>) {
    let directory = tempfile::tempdir().unwrap();
    fs_err::create_dir(directory.path().join("tree")).unwrap();
    let done = unpack(tar(members).as_slice(), &directory.path().join("tree"), owners_here(), &mut |_| Ok(()));
    (directory, done.map(drop))
}

fn changes_of(upper: &Path, owners: Owners) -> Result<Changes, OciError> {
    Changes::of(&Upper { path: upper, lower: &[], form: Form::Overlay, owners, others: &|_| None })
}

/// Root can give files away, and others note it.
fn owners_here() -> Owners {
    if rustix::process::geteuid().is_root() { Owners::Given } else { Owners::Noted }
}

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Symlink;
const HARD: EntryType = EntryType::Link;

fn opaque(path: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::getxattr(path, OPAQUE, &mut value[..]).is_ok_and(|size| &value[..size] == b"y")
}

fn is_whiteout(path: &Path) -> bool {
    fs_err::symlink_metadata(path).is_ok_and(|found| found.file_type().is_char_device() && found.rdev() == 0)
}

#[test]
fn a_layer_becomes_a_tree_with_its_modes_times_and_links() {
    let (directory, done) = unpacked(&[
        ("usr/", DIR, "", b""),
        ("usr/bin/tool", FILE, "", b"content"),
        ("usr/bin/other", HARD, "usr/bin/tool", b""),
        ("bin", LINK, "usr/bin", b""),
        ("pipe", EntryType::Fifo, "", b""),
        ("./deep/er/", DIR, "", b""),
        ("zeros", FILE, "", &[0; 300_000]),
    ]);
    done.unwrap();
    let tree = directory.path().join("tree");
    let tool = fs_err::metadata(tree.join("usr/bin/tool")).unwrap();
    assert_eq!((tool.mode() & 0o7777, tool.mtime(), tool.nlink()), (0o644, 1_000_000_000, 2));
    assert_eq!(fs_err::read(tree.join("bin/other")).unwrap(), b"content");
    assert_eq!(fs_err::symlink_metadata(tree.join("bin")).unwrap().mtime(), 1_000_000_000);
    let pipe = fs_err::symlink_metadata(tree.join("pipe")).unwrap();
    assert!(pipe.file_type().is_fifo() && pipe.mode() & 0o7777 == 0o666);
    for name in ["usr", "deep/er"] {
        assert_eq!(fs_err::metadata(tree.join(name)).unwrap().mtime(), 1_000_000_000, "{name}");
    }
    let zeros = fs_err::metadata(tree.join("zeros")).unwrap();
    assert_eq!(zeros.len(), 300_000);
    assert!(zeros.blocks() * 512 < 200_000, "{}", zeros.blocks());
}

#[test]
fn what_a_layer_hides_is_a_device_and_a_directory_that_is_there_all_the_same_is_opaque() {
    let (directory, done) = unpacked(&[
        ("etc/.wh.gone", FILE, "", b""),
        ("srv/.wh.anew", FILE, "", b""),
        ("srv/anew/", DIR, "", b""),
        ("srv/.wh.file", FILE, "", b""),
        ("srv/file", FILE, "", b"new"),
        ("opt/.wh..wh..opq", FILE, "", b""),
        ("opt/a", FILE, "", b""),
        ("opt/.wh..wh.plnk", FILE, "", b""),
    ]);
    done.unwrap();
    let tree = directory.path().join("tree");
    assert!(is_whiteout(&tree.join("etc/gone")));
    assert!(opaque(&tree.join("srv/anew")) && opaque(&tree.join("opt")) && !opaque(&tree.join("srv")));
    assert_eq!(fs_err::read(tree.join("srv/file")).unwrap(), b"new");
    assert_eq!(fs_err::read_dir(tree.join("opt")).unwrap().count(), 1);
}

#[test]
fn a_hostile_layer_stays_within_its_tree() {
    let outside = tempfile::tempdir().unwrap();
    let place = outside.path().display().to_string();
    let up = "../".repeat(30);
    let below = format!("out/{}", "x");
    let members: Vec<Vec<Told<'_>>> = vec![
        vec![("../escaped", FILE, "", b"x")],
        vec![("a/../../escaped", FILE, "", b"x")],
        vec![("out", LINK, &place, b""), (&below, FILE, "", b"x")],
        vec![("out", LINK, &up, b""), ("out/tmp/escaped", FILE, "", b"x")],
        vec![("out", LINK, &place, b""), ("out/", DIR, "", b""), (&below, FILE, "", b"x")],
        vec![("out", LINK, &place, b""), ("out/.wh..wh..opq", FILE, "", b"")],
        vec![("out", LINK, &place, b""), ("hard", HARD, "out/secret", b"")],
        vec![("hard", HARD, "/etc/passwd", b"")],
        vec![("hard", HARD, "../../../../../etc/passwd", b"")],
        vec![("file", FILE, "", b"x"), ("file/below", FILE, "", b"x")],
        vec![("a/.wh.b/c", FILE, "", b"x")],
        vec![("loop", LINK, "loop", b""), ("loop/x", FILE, "", b"x")],
    ];
    fs_err::write(outside.path().join("secret"), "of the host").unwrap();
    for members in members {
        let (directory, _) = unpacked(&members);
        let left: Vec<_> = fs_err::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["secret"], "{members:?}");
        assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 1, "{members:?}");
        assert!(!directory.path().join("tree/hard").exists(), "{members:?}");
        assert_eq!(fs_err::metadata(outside.path().join("secret")).unwrap().nlink(), 1);
    }
}

#[test]
fn later_members_of_a_path_replace_earlier_ones() {
    let (directory, done) = unpacked(&[
        ("a", FILE, "", b"file"),
        ("a/", DIR, "", b""),
        ("a/b", FILE, "", b"b"),
        ("c/", DIR, "", b""),
        ("c/d/e", FILE, "", b"e"),
        ("c", LINK, "a", b""),
        ("c/f", FILE, "", b"f"),
    ]);
    done.unwrap();
    let tree = directory.path().join("tree");
    assert_eq!(fs_err::read(tree.join("a/b")).unwrap(), b"b");
    assert_eq!(fs_err::read(tree.join("a/f")).unwrap(), b"f");
    assert!(fs_err::symlink_metadata(tree.join("c")).unwrap().is_symlink());
}

/// Returns the members of the layer of an upper directory.
fn layer(upper: &Upper<'_>) -> Vec<(String, EntryType, String, u32)> {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let changes = Changes::of(upper).unwrap();
    let mut out = LayerWriter::new(&store, MediaType::Gzip, 2).unwrap();
    changes.write(crate::time::ran(0, &changes.digest().unwrap()), &mut out, &mut |_| Ok(())).unwrap();
    let layer = out.finish().unwrap();
    let bytes = store.read(&layer.digest).unwrap();
    let mut entries = Entries::new(decompress(io::Cursor::new(bytes)).unwrap());
    let mut found = Vec::new();
    while let Some(member) = entries.next_member().unwrap() {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        found.push((text(&member.path), member.kind, text(&member.link), member.mode));
    }
    found
}

#[test]
fn changes_become_a_layer_in_the_order_of_their_paths() {
    let directory = tempfile::tempdir().unwrap();
    let upper = directory.path();
    let mode = |path: &str, mode: u32| {
        fs_err::set_permissions(upper.join(path), PermissionsExt::from_mode(mode)).unwrap();
    };
    for name in ["a", "etc", "var/log/apt", "var/cache/ldconfig", "run"] {
        fs_err::create_dir_all(upper.join(name)).unwrap();
    }
    for (path, text) in [
        ("a/x", "content"),
        ("etc/machine-id", "0123"),
        ("etc/shadow", "root:*:20000:0:99999:7:::\n"),
        ("etc/passwd-", "old"),
        ("var/log/apt/term.log", "log"),
        ("var/cache/ldconfig/aux-cache", "cache"),
        ("run/lock", "1"),
    ] {
        fs_err::write(upper.join(path), text).unwrap();
        mode(path, 0o640);
    }
    fs_err::hard_link(upper.join("a/x"), upper.join("a-b")).unwrap();
    symlink("x", upper.join("a/link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        upper.join("gone"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::empty(),
        0,
    )
    .unwrap();
    rustix::fs::setxattr(upper.join("a"), OPAQUE, b"y", rustix::fs::XattrFlags::empty()).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap();
    let lower = tempfile::tempdir().unwrap();
    for name in ["a", "gone"] {
        fs_err::create_dir(lower.path().join(name)).unwrap();
    }
    let lower = [lower.path().to_owned()];
    let form = Form::Overlay;
    let found = layer(&Upper { path: upper, lower: &lower, form, owners: owners_here(), others: &|_| None });
    let names: Vec<&str> = found.iter().map(|(path, ..)| path.as_str()).collect();
    assert_eq!(
        names,
        [
            "a/",
            "a/.wh..wh..opq",
            "a-b",
            "a/link",
            "a/x",
            "etc/",
            "etc/machine-id",
            "etc/shadow",
            ".wh.gone",
            "run/",
            "var/",
            "var/cache/",
            "var/cache/ldconfig/",
            "var/log/",
            "var/log/apt/"
        ]
    );
    let of = |name: &str| found.iter().find(|(path, ..)| path == name).unwrap();
    assert_eq!(of("a/x"), &("a/x".to_owned(), HARD, "a-b".to_owned(), 0o640));
    assert_eq!(of("a-b").1, FILE);
    assert_eq!(of("a/link"), &("a/link".to_owned(), LINK, "x".to_owned(), 0o777));
}

#[test]
fn only_what_is_there_is_hidden() {
    let directory = tempfile::tempdir().unwrap();
    let (lower, upper) = (directory.path().join("lower"), directory.path().join("upper"));
    for path in ["lower/anew", "lower/gone", "upper/anew", "upper/first", "upper/of-a-file"] {
        fs_err::create_dir_all(directory.path().join(path)).unwrap();
    }
    fs_err::write(lower.join("of-a-file"), "").unwrap();
    for name in ["anew", "first", "of-a-file"] {
        rustix::fs::setxattr(upper.join(name), OPAQUE, b"y", rustix::fs::XattrFlags::empty()).unwrap();
    }
    for name in ["gone", "never"] {
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, upper.join(name), kind, rustix::fs::Mode::empty(), 0).unwrap();
    }
    let copied = directory.path().join("copied");
    for path in ["anew", "first", "of-a-file"] {
        fs_err::create_dir_all(copied.join(path)).unwrap();
    }
    for path in ["anew/.wh..wh..opq", "first/.wh..wh..opq", ".wh.gone", ".wh.never"] {
        fs_err::write(copied.join(path), "").unwrap();
    }
    for (path, form) in [(upper, Form::Overlay), (copied, Form::Layer)] {
        let lower = [lower.clone()];
        let found = layer(&Upper { path: &path, lower: &lower, form, owners: owners_here(), others: &|_| None });
        let names: Vec<&str> = found.iter().map(|(path, ..)| path.as_str()).collect();
        assert_eq!(names, ["anew/", "anew/.wh..wh..opq", "first/", ".wh.gone", "of-a-file/"], "{form:?}");
    }
}

#[test]
fn two_runs_at_different_times_give_the_same_layer() {
    let make = |time: i64| {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        fs_err::create_dir(place.join("__pycache__")).unwrap();
        fs_err::write(place.join("a.py"), "pass\n").unwrap();
        let stamp = rustix::fs::Timespec { tv_sec: time, tv_nsec: 0 };
        let stamps = rustix::fs::Timestamps { last_access: stamp, last_modification: stamp };
        let flags = rustix::fs::AtFlags::empty();
        rustix::fs::utimensat(rustix::fs::CWD, place.join("a.py"), &stamps, flags).unwrap();
        let time = (time as u32).to_le_bytes();
        let head = [&[0xa7, 0x0d, b'\r', b'\n', 0, 0, 0, 0], &time[..], &[5, 0, 0, 0], b"code"].concat();
        fs_err::write(place.join("__pycache__/a.cpython-311.pyc"), head).unwrap();
        let changes = changes_of(place, owners_here()).unwrap();
        changes.digest().unwrap()
    };
    assert_eq!(make(1_700_000_000), make(1_800_000_000));
}

#[test]
fn files_that_their_owner_may_not_read_are_read_and_keep_their_modes() {
    let directory = tempfile::tempdir().unwrap();
    let upper = directory.path();
    fs_err::create_dir(upper.join("closed")).unwrap();
    fs_err::write(upper.join("closed/file"), "content").unwrap();
    fs_err::hard_link(upper.join("closed/file"), upper.join("closed/other")).unwrap();
    for path in ["closed/file", "closed"] {
        fs_err::set_permissions(upper.join(path), PermissionsExt::from_mode(0o000)).unwrap();
    }
    let changes = changes_of(upper, Owners::Noted).unwrap();
    assert_eq!(changes.paths().count(), 3);
    changes.digest().unwrap();
    let file = fs_err::metadata(upper.join("closed/file")).unwrap();
    assert_eq!(file.mode() & 0o7777, 0o400);
    assert!(changes.entries.values().all(|entry| entry.mode == 0));
}

#[test]
fn a_name_that_no_layer_can_hold_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    fs_err::write(directory.path().join(".wh.x"), "").unwrap();
    let error = changes_of(directory.path(), Owners::Noted).err().unwrap();
    assert!(error.to_string().contains(".wh.x"), "{error}");
}

#[test]
fn owners_and_attributes_that_a_user_cannot_set_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs_err::write(&file, "").unwrap();
    for (name, value) in [(OWNER, "1000:7"), ("user.kiln.xattr.security.capability", "cap"), ("user.own", "x")] {
        rustix::fs::setxattr(&file, name, value.as_bytes(), rustix::fs::XattrFlags::empty()).unwrap();
    }
    let store_directory = tempfile::tempdir().unwrap();
    let store = Store::open(store_directory.path()).unwrap();
    let changes = changes_of(directory.path(), Owners::Noted).unwrap();
    let mut out = LayerWriter::new(&store, MediaType::Gzip, 1).unwrap();
    changes.write(7, &mut out, &mut |_| Ok(())).unwrap();
    let bytes = store.read(&out.finish().unwrap().digest).unwrap();
    let mut entries = Entries::new(decompress(io::Cursor::new(bytes)).unwrap());
    let member = entries.next_member().unwrap().unwrap();
    assert_eq!((member.uid, member.gid), (1000, 7));
    let keys: Vec<_> = member.records.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect();
    assert_eq!(keys, ["SCHILY.xattr.security.capability", "SCHILY.xattr.user.own"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A tree of random files becomes a layer, and the layer the same tree.
    #[test]
    fn a_layer_of_changes_unpacks_to_the_same_changes(
        files in proptest::collection::btree_map("[a-c]{1,2}(/[a-c]{1,2}){0,3}", any::<Vec<u8>>(), 0..12)
    ) {
        let directory = tempfile::tempdir().unwrap();
        let upper = directory.path().join("upper");
        fs_err::create_dir(&upper).unwrap();
        for (path, content) in &files {
            let path = upper.join(path);
            // A path may lie below one that is a file.
            if fs_err::create_dir_all(path.parent().unwrap()).is_ok() {
                let _ = fs_err::write(path, content);
            }
        }
        let store = Store::open(&directory.path().join("store")).unwrap();
        let owners = owners_here();
        let changes = changes_of(&upper, owners).unwrap();
        let mut out = LayerWriter::new(&store, MediaType::Gzip, 1).unwrap();
        changes.write(1_000, &mut out, &mut |_| Ok(())).unwrap();
        let bytes = store.read(&out.finish().unwrap().digest).unwrap();
        let tree = directory.path().join("tree");
        fs_err::create_dir(&tree).unwrap();
        unpack(decompress(io::Cursor::new(bytes)).unwrap(), &tree, owners, &mut |_| Ok(())).unwrap();
        prop_assert_eq!(changes_of(&tree, owners).unwrap().digest().unwrap(), changes.digest().unwrap());
    }
}

#[test]
fn held_capabilities_go_where_a_file_is_given_away_or_written_to() {
    let directory = tempfile::tempdir().unwrap();
    let (lower, upper) = (directory.path().join("lower"), directory.path().join("upper"));
    let set = |path: &Path, name: &str, value: &[u8]| {
        rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    for name in ["same", "given", "written"] {
        for tree in [&lower, &upper] {
            fs_err::create_dir_all(tree).unwrap();
            let place = tree.join(name);
            let content = if name == "written" && *tree == upper { "changed" } else { "program" };
            fs_err::write(&place, content).unwrap();
            set(&place, &format!("{HELD}security.capability"), b"capability");
            if name == "given" && *tree == upper {
                set(&place, OWNER, b"3:3");
            }
            let seconds = if name == "written" && *tree == upper { 2 } else { 1 };
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            fs_err::OpenOptions::new().write(true).open(&place).unwrap().file().set_modified(time).unwrap();
        }
    }
    let (lower, owners, form) = ([lower], Owners::Noted, Form::Overlay);
    let changes = Changes::of(&Upper { path: &upper, lower: &lower, form, owners, others: &|_| None }).unwrap();
    let keeps = |name: &str| !changes.entries[name.as_bytes()].records.is_empty();
    assert_eq!(["same", "given", "written"].map(keeps), [true, false, false]);
}
