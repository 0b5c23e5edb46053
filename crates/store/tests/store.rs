//! What a store promises: nothing is trusted that is not whole, nothing wanted is removed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use kiln_plan::digest::Digest;
use kiln_plan::step::StepKey;
use kiln_store::{Root, Store, StoreError};

struct Place {
    _directory: tempfile::TempDir,
    root: PathBuf,
}

fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    Place { root: directory.path().join("store"), _directory: directory }
}

fn read(store: &Store, digest: &Digest) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.open_content(digest).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn link(store: &Store, path: &Path, digest: &Digest) -> Result<(), StoreError> {
    store.link(path, digest, &|_| Ok(()))
}

/// A recipe of `<`, the middle of `source`, `>`.
fn recipe(store: &Store, source: Digest) -> (Digest, Vec<u8>) {
    let mut writer = store.recipe_writer(vec![source]).unwrap();
    writer.inline(b"<").unwrap();
    writer.range(0, 1, 3);
    writer.inline(b">").unwrap();
    let content = b"<bcd>".to_vec();
    let digest = Digest::of(&content);
    assert_eq!(writer.finish(&digest).unwrap(), 5);
    (digest, content)
}

#[test]
fn content_is_found_under_its_digest_by_whoever_opens_the_store_next() {
    let place = place();
    let digest = Store::open(&place.root).unwrap().add(b"content").unwrap();
    let store = Store::open(&place.root).unwrap();
    assert!(store.has(&digest));
    assert_eq!(read(&store, &digest), b"content");
}

#[test]
fn content_that_is_not_finished_leaves_nothing() {
    let place = place();
    let store = Store::open(&place.root).unwrap();
    let mut writer = store.writer().unwrap();
    writer.write_all(b"half").unwrap();
    drop(writer);
    assert!(!store.has(&Digest::of(b"half")));
    assert_eq!(fs_err::read_dir(place.root.join("temporary")).unwrap().count(), 0);
    let mut writer = store.writer().unwrap();
    writer.write_all(b"other").unwrap();
    assert!(matches!(writer.finish_as(&Digest::of(b"wanted")), Err(StoreError::WrongDigest { .. })));
    assert!(!store.has(&Digest::of(b"other")));
}

#[test]
fn a_linked_file_is_not_trusted_any_more_once_it_was_changed() {
    let place = place();
    let store = Store::open(&place.root).unwrap();
    let file = place.root.with_file_name("wheel");
    fs_err::write(&file, b"wheel").unwrap();
    let digest = Digest::of(b"wheel");
    link(&store, &file, &digest).unwrap();
    assert_eq!(read(&store, &digest), b"wheel");
    fs_err::write(&file, b"other wheel").unwrap();
    assert!(!store.has(&digest));
    assert!(matches!(store.open_blob(&digest), Err(StoreError::Missing(_))));
    // What has the right content again is taken again.
    fs_err::write(&file, b"wheel").unwrap();
    link(&store, &file, &digest).unwrap();
    assert!(store.has(&digest));
}

#[test]
fn the_digest_of_a_file_elsewhere_is_read_once_and_again_after_a_change() {
    let place = place();
    let store = Store::open(&place.root).unwrap();
    let file = place.root.with_file_name("a.whl");
    fs_err::write(&file, "first").unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    let read = std::cell::Cell::new(0);
    let digest = || {
        let count = |bytes| {
            read.set(read.get() + bytes);
            Ok(())
        };
        store.file_digest(&file, &count).unwrap()
    };
    // A file that was changed just now may change again without a trace, so that it is read again.
    assert_eq!(digest(), Digest::of(b"first"));
    std::thread::sleep(std::time::Duration::from_millis(120));
    assert_eq!(digest(), Digest::of(b"first"));
    let before = read.get();
    assert_eq!(digest(), Digest::of(b"first"));
    assert_eq!(read.get(), before);
    // Neither the size nor the time of the content tell of this change.
    fs_err::write(&file, "other").unwrap();
    fs_err::OpenOptions::new().write(true).open(&file).unwrap().set_modified(old).unwrap();
    assert_eq!(digest(), Digest::of(b"other"));
    assert!(store.file_digest(&place.root, &|_| Ok(())).is_err());
}

#[test]
fn a_file_of_another_digest_is_not_linked() {
    let place = place();
    let store = Store::open(&place.root).unwrap();
    let file = place.root.with_file_name("wheel");
    fs_err::write(&file, b"forged").unwrap();
    let digest = Digest::of(b"wheel");
    assert!(matches!(link(&store, &file, &digest), Err(StoreError::WrongDigest { .. })));
    assert!(!store.has(&digest));
}

#[test]
fn a_recipe_reads_back_what_it_stands_for_as_long_as_its_sources_are_there() {
    let place = place();
    let store = Store::open(&place.root).unwrap();
    let source = store.add(b"abcde").unwrap();
    let (digest, content) = recipe(&store, source);
    assert_eq!(read(&store, &digest), content);
    assert_eq!(store.size(&digest).unwrap(), 5);
    fs_err::remove_file(place.root.join("blobs/sha256").join(source.hex())).unwrap();
    assert!(!store.has(&digest));
}

#[test]
fn a_recipe_that_was_cut_or_changed_is_damaged_and_no_content() {
    let place = place();
    let store = Store::open(&place.root).unwrap();
    let source = store.add(b"abcde").unwrap();
    let (digest, _) = recipe(&store, source);
    let path = place.root.join("recipes/sha256").join(digest.hex());
    let whole = fs_err::read(&path).unwrap();
    for end in 0..whole.len() {
        fs_err::write(&path, &whole[..end]).unwrap();
        assert!(!store.has(&digest), "{end} of {} bytes", whole.len());
    }
}

#[test]
fn results_of_another_shape_are_forgotten_rather_than_an_error() {
    let place = place();
    let store = Store::open(&place.root).unwrap();
    let key = StepKey::of("example", 1).finish();
    store.remember(&key, &vec![1, 2]).unwrap();
    assert_eq!(store.recall::<Vec<u32>>(&key).unwrap(), Some(vec![1, 2]));
    assert_eq!(store.recall::<String>(&key).unwrap(), None);
}

#[test]
fn garbage_collection_keeps_what_says_persist_and_what_a_lock_wants() {
    let place = place();
    let lock = place.root.with_file_name("kiln.lock");
    fs_err::write(&lock, "").unwrap();
    let store = Store::open(&place.root).unwrap();
    let kept = [store.add(b"persistent").unwrap(), store.add(b"locked").unwrap()];
    let gone = [store.add(b"of a stack that is gone").unwrap(), store.add(b"of nobody").unwrap()];
    let root = |stack: &Path, image: &str, persist, digest| Root {
        stack: stack.display().to_string(),
        image: image.to_owned(),
        persist,
        digests: BTreeSet::from([digest]),
    };
    let nowhere = Path::new("/nowhere/kiln.lock");
    store.remember_root(&root(nowhere, "a", true, kept[0])).unwrap();
    store.remember_root(&root(&lock, "b", false, kept[1])).unwrap();
    store.remember_root(&root(nowhere, "c", false, gone[0])).unwrap();
    drop(store);
    let report = Store::collect_garbage(&place.root, 0, false, &mut || Ok(())).unwrap();
    let removed: BTreeSet<Digest> = report.removed.iter().map(|removed| removed.digest).collect();
    assert_eq!(removed, BTreeSet::from(gone));
    assert_eq!(report.kept.iter().map(|kept| kept.image.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let store = Store::open(&place.root).unwrap();
    assert!(kept.iter().all(|digest| store.has(digest)));
    drop(store);
    // All of them: the lock's image goes, the persistent one stays.
    Store::collect_garbage(&place.root, 0, true, &mut || Ok(())).unwrap();
    let store = Store::open(&place.root).unwrap();
    assert_eq!(kept.map(|digest| store.has(&digest)), [true, false]);
}

#[test]
fn garbage_collection_stops_at_the_bound() {
    let place = place();
    let store = Store::open(&place.root).unwrap();
    for content in [b"11111", b"22222", b"33333"] {
        store.add(content).unwrap();
    }
    drop(store);
    let report = Store::collect_garbage(&place.root, 10, false, &mut || Ok(())).unwrap();
    assert_eq!((report.before, report.after, report.removed.len()), (15, 10, 1));
}
