//! Content that is not what its digest says is found, whatever happened to files and database, and is made again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kiln_plan::digest::Digest;
use kiln_plan::step::StepKey;
use kiln_store::{Store, StoreError};

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn store(&self) -> Store {
        Store::open(&self.root()).unwrap()
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs/sha256").join(digest.hex())
    }

    /// A wheel of the user's, written long enough ago for its times to tell the next change.
    fn wheel(&self, content: &[u8]) -> PathBuf {
        let path = self.directory.path().join("wheel");
        fs_err::write(&path, content).unwrap();
        let file = fs_err::OpenOptions::new().write(true).open(&path).unwrap();
        file.file().set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        path
    }
}

fn link(store: &Store, path: &Path, content: &[u8]) -> Digest {
    let digest = Digest::of(content);
    store.link(path, &digest, &|_| Ok(())).unwrap();
    digest
}

#[test]
fn a_wheel_that_was_changed_behind_its_link_is_not_trusted_when_the_database_is_lost() {
    let place = Place::new();
    let path = place.wheel(b"wheel A");
    let digest = link(&place.store(), &path, b"wheel A");
    assert!(place.store().has_blob(&digest));
    for file in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        let _ = fs_err::remove_file(place.root().join(file));
    }
    fs_err::write(&path, b"wheel B").unwrap();
    assert!(!place.store().has_blob(&digest));
    assert_eq!(fs_err::read(&path).unwrap(), b"wheel B");
}

#[test]
fn a_wheel_that_was_changed_behind_its_link_with_its_time_set_back_is_not_trusted() {
    let place = Place::new();
    let path = place.wheel(b"wheel A");
    let store = place.store();
    let digest = link(&store, &path, b"wheel A");
    let modified = fs_err::metadata(&path).unwrap().modified().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let mut file = fs_err::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all(b"wheel B").unwrap();
    file.file().set_modified(modified).unwrap();
    assert!(!store.has_blob(&digest));
}

#[test]
fn intact_content_is_found_again_when_the_database_is_lost() {
    let place = Place::new();
    let digest = place.store().add(b"manifest").unwrap();
    fs_err::write(place.root().join("metadata.db"), b"no database at all, but some kilobytes of text".repeat(100))
        .unwrap();
    assert_eq!(place.store().read(&digest).unwrap(), b"manifest");
}

#[test]
fn a_directory_or_a_pipe_in_place_of_a_file_is_replaced() {
    for put in [directory, pipe] {
        for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
            let place = Place::new();
            let digest = place.store().add(b"content").unwrap();
            let path = place.root().join(name);
            let _ = fs_err::remove_file(&path);
            put(&path);
            let store = place.store();
            assert_eq!(store.read(&digest).unwrap(), b"content", "{name}");
            let key = StepKey::of("example", 1).finish();
            store.remember(&key, &"result").unwrap();
            drop(store);
            assert_eq!(place.store().recall::<String>(&key).unwrap().as_deref(), Some("result"), "{name}");
        }
        let place = Place::new();
        let digest = place.store().add(b"content").unwrap();
        fs_err::remove_file(place.blob(&digest)).unwrap();
        put(&place.blob(&digest));
        put(&place.root().join("partial").join(format!("{}.part", digest.hex())));
        let store = place.store();
        assert!(!store.has(&digest));
        assert_eq!(store.partial(&digest).unwrap().unwrap().size(), 0);
        assert_eq!(store.add(b"content").unwrap(), digest);
        assert_eq!(store.read(&digest).unwrap(), b"content");
    }
}

fn directory(path: &Path) {
    fs_err::create_dir_all(path.join("with")).unwrap();
    fs_err::write(path.join("with/content"), "of its own").unwrap();
}

fn pipe(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn every_damage_to_a_blob_makes_it_missing_and_it_can_be_stored_again() {
    for damaged in [&b""[..], b"conten", b"cOntent", b"content and more"] {
        let place = Place::new();
        let digest = place.store().add(b"content").unwrap();
        fs_err::write(place.blob(&digest), damaged).unwrap();
        let store = place.store();
        assert!(!store.has(&digest), "{damaged:?}");
        assert!(matches!(store.read(&digest), Err(StoreError::Missing(_))));
        assert_eq!(store.add(b"content").unwrap(), digest);
        assert_eq!(store.read(&digest).unwrap(), b"content");
    }
}

#[test]
fn damage_that_no_time_shows_is_found_by_reading_what_was_opened() {
    let place = Place::new();
    let store = place.store();
    let (digest, intact) = (store.add(b"content").unwrap(), store.add(b"intact").unwrap());
    store.open_blob(&digest).unwrap();
    store.open_blob(&intact).unwrap();
    fs_err::write(place.blob(&digest), b"cOntent").unwrap();
    assert_eq!(
        store.discard_damaged().unwrap(),
        [fs_err::canonicalize(place.root()).unwrap().join("blobs/sha256").join(digest.hex())]
    );
    assert!(!store.has(&digest) && store.has(&intact));
}

#[test]
fn a_recipe_with_one_bit_flipped_is_missing() {
    let place = Place::new();
    let store = place.store();
    let source = store.add(b"abcde").unwrap();
    let mut writer = store.recipe_writer(vec![source]).unwrap();
    writer.inline(b"<").unwrap();
    writer.range(0, 1, 3);
    let digest = Digest::of(b"<bcd");
    writer.finish(&digest).unwrap();
    let path = place.root().join("recipes/sha256").join(digest.hex());
    let whole = fs_err::read(&path).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs_err::write(&path, &bytes).unwrap();
        assert!(!store.has(&digest), "bit {bit}");
    }
}

#[test]
fn a_recorded_result_that_was_changed_is_forgotten() {
    let place = Place::new();
    let key = StepKey::of("example", 1).finish();
    place.store().remember(&key, &"diff id 1").unwrap();
    let database = rusqlite::Connection::open(place.root().join("metadata.db")).unwrap();
    assert_eq!(database.execute("UPDATE result SET value = '\"diff id 2\"'", []).unwrap(), 1);
    assert_eq!(place.store().recall::<String>(&key).unwrap(), None);
}

#[test]
fn a_download_is_written_by_one_process_and_goes_on_where_a_dead_one_stopped() {
    let place = Place::new();
    let (one, other) = (place.store(), place.store());
    let digest = Digest::of(b"complete");
    let mut first = one.partial(&digest).unwrap().unwrap();
    first.write_all(b"comp").unwrap();
    assert!(other.partial(&digest).unwrap().is_none());
    drop(first);
    let mut second = other.partial(&digest).unwrap().unwrap();
    assert_eq!(second.size(), 4);
    second.write_all(b"lete").unwrap();
    second.finish().unwrap();
    assert_eq!(one.read(&digest).unwrap(), b"complete");
    assert_eq!(fs_err::read_dir(place.root().join("partial")).unwrap().count(), 0);
}

#[test]
fn a_download_of_other_content_is_not_kept() {
    let place = Place::new();
    let store = place.store();
    let digest = Digest::of(b"complete");
    let mut partial = store.partial(&digest).unwrap().unwrap();
    partial.write_all(b"other").unwrap();
    assert!(matches!(partial.finish(), Err(StoreError::WrongDigest { .. })));
    assert_eq!(store.partial(&digest).unwrap().unwrap().size(), 0);
}

#[test]
fn the_next_process_collects_what_a_dead_one_was_writing_and_garbage_collection_all_the_rest() {
    let place = Place::new();
    drop(place.store());
    for path in ["temporary/.kiln-0123456789.tmp", "partial/ab.part", "locks/step-ab", "temporary/older"] {
        fs_err::write(place.root().join(path), "left").unwrap();
    }
    let left = |directory: &str| fs_err::read_dir(place.root().join(directory)).unwrap().count();
    drop(place.store());
    assert_eq!((left("temporary"), left("partial")), (1, 1));
    Store::collect_garbage(&place.root(), u64::MAX, false, &mut || Ok(())).unwrap();
    assert_eq!((left("temporary"), left("partial"), left("locks")), (0, 0, 2));
}

#[test]
fn garbage_collection_of_everything_removes_empty_files_too() {
    let place = Place::new();
    let digest = place.store().add(b"content").unwrap();
    fs_err::write(place.blob(&digest), "").unwrap();
    Store::collect_garbage(&place.root(), 0, true, &mut || Ok(())).unwrap();
    assert!(!place.blob(&digest).exists());
}
