//! `kiln du`, `kiln gc` and `kiln store`.

use crate::environment::TestEnvironment;
use crate::wheels::{greeting, native, stack};
use insta::assert_snapshot;

#[test]
fn du_says_what_the_store_takes_up() {
    let environment = TestEnvironment::with_stack(&stack("packages = [\"solver\"]"));
    environment.wheel(&native("solver", "3.0", "x86_64", 1_000_000));
    let empty: serde_json::Value = serde_json::from_str(&environment.succeed("du --json")).unwrap();
    assert_eq!(empty["usage"]["blob_count"], 0);
    environment.succeed("build");
    let full: serde_json::Value = serde_json::from_str(&environment.succeed("du --json")).unwrap();
    let number = |key: &str| full["usage"][key].as_u64().unwrap();
    let wheel = fs_err::metadata(environment.path("wheels/solver-3.0-cp311-cp311-manylinux_2_28_x86_64.whl")).unwrap();
    assert!(number("blobs") > wheel.len() && number("blobs") < wheel.len() + 20_000, "{full}");
    assert!(number("spliced") > wheel.len() && number("recipes") < 20_000, "a layer is not stored again: {full}");
    let text = environment.succeed("du");
    let words: Vec<&str> = text.lines().filter_map(|line| line.split("  ").next()).collect();
    assert_eq!(
        words[1..],
        ["wheels and other files", "recipes of layers", "unpacked layers", "caches of commands", "other"]
    );
}

#[test]
fn what_a_lock_that_is_there_needs_stays() {
    let environment = greeting();
    environment.succeed("build");
    let outcome = environment.kiln("gc");
    assert!(outcome.stdout.contains("/project/kiln.lock is there"), "{outcome}");
    let removed: Vec<&str> = outcome.stdout.lines().filter(|line| line.starts_with("removed")).collect();
    assert!(removed.iter().all(|line| line.contains("no image uses it")), "{outcome}");
    assert!(environment.succeed("build --locked").contains("(unchanged)"));
}

#[test]
fn what_a_lock_needs_stays_whole_whatever_kind_of_content_it_is() {
    let text = "prune = true\npackages = [\"ops\", \"solver\", \"words\"]\ntimezone = \"UTC\"\n\
                user = { name = \"me\", uid = 1000, gid = 1000 }\ncopy = [{ from = \"src\", to = \"/app\" }]";
    let text = stack(text).replace("python = \"3.11\"\n", "python = \"3.11\"\ngpus = [\"H100\"]\n");
    let environment = TestEnvironment::with_stack(&text);
    environment.write("src/main.py", "print()\n");
    environment.wheel(&crate::gpu_code::ops());
    environment.wheel(&native("solver", "3.0", "x86_64", 12_000_000));
    environment.wheel(&crate::wheels::pure("words", "1.0"));
    // Before anything is built, the documents of the base stay.
    environment.succeed("lock");
    let before = environment.succeed("du --json");
    environment.succeed("gc");
    assert_eq!(environment.succeed("du --json"), before);
    let digests = environment.digests("");
    environment.succeed("gc");
    // Nothing is left but the store, and nothing has to be made again.
    fs_err::remove_dir_all(environment.path("wheels")).unwrap();
    environment.write("wheels/none", "");
    assert_eq!(environment.digests("--offline --locked --output oci:out"), digests);
    assert!(environment.succeed("build --offline --locked").contains("(unchanged)"));
    // Without its lock it goes, all of it.
    fs_err::remove_file(environment.path("kiln.lock")).unwrap();
    assert!(environment.succeed("gc").ends_with(" freed, 0 B left\n"));
}

#[test]
fn without_its_lock_an_image_goes_with_reasons_unless_it_says_persist() {
    let environment = greeting();
    environment.stack(&stack("packages = [\"greeting\"]\n\n[images.other]\nfrom = \"app\"\ntimezone = \"UTC\""));
    let digests = environment.digests("");
    fs_err::remove_file(environment.path("kiln.lock")).unwrap();
    let outcome = environment.kiln("gc");
    assert_eq!(outcome.status, Some(0), "{outcome}");
    assert!(outcome.stdout.contains("last used by app"), "{outcome}");
    assert!(outcome.stdout.ends_with("freed, 0 B left\n"), "{outcome}");
    assert_eq!(environment.digests(""), digests, "what is gone is made again");

    environment.stack(&environment.read("kiln.toml").replace("packages = [", "persist = true\npackages = ["));
    environment.succeed("build");
    fs_err::remove_file(environment.path("kiln.lock")).unwrap();
    let outcome = environment.kiln("gc");
    assert!(outcome.stdout.contains("it says `persist = true`"), "{outcome}");
    assert!(!outcome.stdout.contains("last used by app"), "{outcome}");
    environment.succeed("lock");
    assert!(environment.succeed("build app --locked").contains("(unchanged)"));
}

#[test]
fn a_bound_keeps_what_was_used_last() {
    let environment = TestEnvironment::with_stack(&stack("packages = [\"solver\"]"));
    environment.wheel(&native("solver", "3.0", "x86_64", 1_000_000));
    environment.succeed("build");
    fs_err::remove_file(environment.path("kiln.lock")).unwrap();
    let kept = environment.succeed("gc --keep-storage 10MB");
    assert!(kept.starts_with("0 B freed"), "{kept}");
    let removed = environment.succeed("gc --keep-storage 500kB");
    assert!(removed.contains("last used by app"), "{removed}");
    assert_snapshot!(environment.kiln("gc --keep-storage plenty"), @r"
    ------- stderr -------
    error: invalid value 'plenty' for '--keep-storage <SIZE>': write a number with a unit: `20GB`, `512MiB`

    For more information, try '--help'.
    [exit status: 2]
    ");
}

#[test]
fn everything_goes_when_all_is_said_but_what_persists() {
    let environment = greeting();
    environment.succeed("build");
    let outcome = environment.succeed("gc --all");
    assert!(outcome.ends_with("freed, 0 B left\n"), "{outcome}");
    let json: serde_json::Value = serde_json::from_str(&environment.succeed("gc --json")).unwrap();
    assert_eq!(json["removed"], serde_json::json!([]));
}

#[test]
fn a_wheel_that_is_gone_from_the_store_and_its_place_is_named() {
    let environment = greeting();
    environment.succeed("build");
    environment.succeed("gc --all");
    fs_err::remove_file(environment.path("wheels/words-2.1-py3-none-any.whl")).unwrap();
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: `words-2.1-py3-none-any.whl` is not in the store, and the lock knows no place to get it from

    hint: put the wheel into a directory of `[index] find-links`, or run `kiln lock --upgrade`
    [exit status: 3]
    ");
}

#[test]
fn a_store_without_its_database_is_found_out_again() {
    let environment = greeting();
    let digests = environment.digests("");
    for file in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        let _ = fs_err::remove_file(environment.root().join("store").join(file));
    }
    assert_eq!(environment.digests("--output oci:out"), digests);
    let _ = fs_err::remove_file(environment.root().join("store/metadata.db-wal"));
    fs_err::write(environment.root().join("store/metadata.db"), "this is no database, and long enough to see that")
        .unwrap();
    assert_eq!(environment.digests("--output oci:again"), digests);
}

#[test]
fn what_is_missing_or_damaged_in_the_store_is_made_again() {
    let environment = greeting();
    let digests = environment.digests("");
    let damage = |directory: &str, with: &dyn Fn(&std::path::Path)| {
        for entry in fs_err::read_dir(environment.root().join("store").join(directory)).unwrap() {
            with(&entry.unwrap().path());
        }
        assert_eq!(environment.digests("--output oci:out"), digests);
        fs_err::remove_dir_all(environment.path("out")).unwrap();
    };
    damage("recipes/sha256", &|path| fs_err::remove_file(path).unwrap());
    damage("recipes/sha256", &|path| fs_err::write(path, "").unwrap());
    damage("recipes/sha256", &|path| fs_err::write(path, &fs_err::read(path).unwrap()[1..]).unwrap());
    damage("blobs/sha256", &|path| fs_err::remove_file(path).unwrap());
    // Not through the name in the store: a wheel there is the user's own file.
    damage("blobs/sha256", &|path| {
        fs_err::remove_file(path).unwrap();
        fs_err::write(path, "").unwrap();
    });
    damage("blobs/sha256", &|path| flip_a_bit(path));
    damage("recipes/sha256", &|path| flip_a_bit(path));
}

fn flip_a_bit(path: &std::path::Path) {
    let mut bytes = fs_err::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs_err::remove_file(path).unwrap();
    fs_err::write(path, bytes).unwrap();
}

#[test]
fn what_is_damaged_is_found_by_reading_everything_and_made_again() {
    let environment = greeting();
    environment.succeed("build");
    let sound = environment.succeed("store verify");
    assert!(sound.ends_with(" read, 0 damaged\n"), "{sound}");
    let digests = environment.digests("");
    let store = fs_err::canonicalize(environment.path("../store")).unwrap();
    for directory in ["blobs", "recipes"] {
        let mut files: Vec<_> = fs_err::read_dir(store.join(directory).join("sha256"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        let mut bytes = fs_err::read(&files[0]).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs_err::write(&files[0], bytes).unwrap();
        let outcome = environment.kiln("store verify");
        assert!(outcome.stdout.starts_with(&format!("damaged, removed: {}\n", files[0].display())), "{outcome}");
        assert!(outcome.stdout.ends_with(" 1 damaged\n") && !files[0].exists(), "{outcome}");
        assert_eq!(environment.digests(""), digests, "{directory}");
    }
}
