//! Wheels that are damaged, lie, or attack.

use crate::environment::{Outcome, TestEnvironment};
use crate::wheels::{noise, pure, stack};
use insta::assert_snapshot;
use kiln_wheel::testing::{WheelBuilder, ZipBuilder};

const FILE: &str = "wheels/broken-1.0-py3-none-any.whl";

/// A project with the wheel `broken`, whose metadata is known beside it, so that only a build looks into it.
fn project(bytes: &[u8]) -> TestEnvironment {
    let environment = TestEnvironment::with_stack(&stack("packages = [\"broken\"]"));
    environment.write(FILE, bytes);
    environment.write(&format!("{FILE}.metadata"), "Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n");
    environment
}

/// What a build says to such a wheel: it must fail as a step, twice, and leave nothing behind that is trusted.
#[track_caller]
fn refused(bytes: &[u8]) -> Outcome {
    let environment = project(bytes);
    environment.succeed("lock");
    let first = environment.kiln("build");
    assert_eq!(first.status, Some(1), "{first}");
    let again = environment.kiln("build");
    assert_eq!(again.status, Some(1), "{again}");
    first
}

fn wheel() -> WheelBuilder {
    pure("broken", "1.0").file("broken/data.bin", noise(100_000, "data"))
}

/// The place of a file's content, by the name in its local header.
fn content_of(bytes: &[u8], path: &str) -> usize {
    let name = bytes.windows(path.len()).position(|window| window == path.as_bytes()).unwrap();
    name + path.len()
}

#[test]
fn a_truncated_wheel_is_named() {
    let bytes = wheel().finish();
    assert_snapshot!(refused(&bytes[..bytes.len() / 2]), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used
      caused by: it is truncated or not a zip archive (Missing end of central directory)

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    assert_snapshot!(refused(b""), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used
      caused by: it is truncated or not a zip archive (Missing end of central directory)

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    assert_snapshot!(refused(b"<html>not found</html>"), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used
      caused by: it is truncated or not a zip archive (Missing end of central directory)

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
}

#[test]
fn a_flipped_bit_is_found_in_large_and_small_files() {
    let good = wheel().finish();
    let mut bytes = good.clone();
    let at = content_of(&bytes, "broken/data.bin") + 50_000;
    bytes[at] ^= 1;
    let large = refused(&bytes);
    assert!(large.stderr.contains("`broken/data.bin`"), "{large}");
    let mut bytes = good;
    let at = content_of(&bytes, "broken/__init__.py") + 4;
    bytes[at] ^= 0x20;
    let small = refused(&bytes);
    assert!(small.stderr.contains("`broken/__init__.py`"), "{small}");
    assert_snapshot!(small, @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used: its entry `broken/__init__.py` is not a valid deflate stream

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
}

#[test]
fn a_stored_file_with_other_content_than_its_checksum_is_found() {
    let mut bytes = pure("broken", "1.0").file_with("broken/data.bin", false, false, noise(100_000, "x")).finish();
    let at = content_of(&bytes, "broken/data.bin") + 50_000;
    bytes[at] ^= 1;
    assert_snapshot!(refused(&bytes), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used: its entry `broken/data.bin` does not have the content that its CRC-32 says

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
}

#[test]
fn a_wheel_that_lies_about_sizes_is_found() {
    let size = 100_000u32.to_le_bytes();
    let lie = |size_said: u32, times: usize| {
        let mut bytes = wheel().finish();
        for _ in 0..times {
            let at = bytes.windows(4).position(|window| window == size).unwrap();
            bytes[at..at + 4].copy_from_slice(&size_said.to_le_bytes());
        }
        bytes
    };
    // The local header alone, then both, smaller and larger than the truth, then a bomb's size.
    assert_snapshot!(refused(&lie(99_999, 1)), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used
      caused by: its entry `broken/data.bin` has a local header with another CRC or size than the directory says

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    assert_snapshot!(refused(&lie(99_999, 2)), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used: its entry `broken/data.bin` does not have the size that is declared

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    assert_snapshot!(refused(&lie(100_001, 2)), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used: its entry `broken/data.bin` does not have the size that is declared

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    let huge = refused(&lie(0xfff0_0000, 2));
    assert!(huge.stderr.contains("does not have the size that is declared"), "{huge}");
}

#[test]
fn paths_that_leave_the_directory_are_refused() {
    let with = |path: &str| wheel().file(path, "x").finish();
    assert_snapshot!(refused(&with("../../../../etc/cron.d/evil")), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used
      caused by: its entry `../../../../etc/cron.d/evil` has a path that leaves its directory or is not plain

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    assert_snapshot!(refused(&with("/etc/passwd")), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used
      caused by: its entry `/etc/passwd` has an absolute path

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    assert_snapshot!(refused(&with("broken/..\\evil")), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used
      caused by: its entry `broken/..\\evil` has a backslash in its path

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    assert_snapshot!(refused(&with("broken-1.0.data/scripts/../../../evil")), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used
      caused by: its entry `broken-1.0.data/scripts/../../../evil` has a path that leaves its directory or is not plain

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    assert_snapshot!(refused(&with("broken-1.0.data/elsewhere/evil")), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used
      caused by: its `broken-1.0.data/elsewhere/evil` is for a scheme that does not exist: purelib, platlib, scripts, data and headers do

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
}

#[test]
fn conflicting_headers_are_refused() {
    let mut bytes = wheel().finish();
    let at = content_of(&bytes, "broken/__init__.py") - 1;
    bytes[at] = b'x';
    assert_snapshot!(refused(&bytes), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used
      caused by: its entry `broken/__init__.py` has a local header with another name than the directory says

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    let twice = ZipBuilder::new()
        .deflated("broken-1.0.dist-info/METADATA", "Name: broken\n")
        .deflated("broken-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        .deflated("broken-1.0.dist-info/RECORD", "")
        .deflated("broken/a.py", "one")
        .deflated("broken/a.py", "two");
    assert_snapshot!(refused(&twice.finish()), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used
      caused by: its entry `broken/a.py` is there twice, with different content

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    assert_snapshot!(refused(&twice.clone().with_flags(1).finish()), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used
      caused by: its entry `broken-1.0.dist-info/METADATA` is encrypted

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    assert_snapshot!(refused(&twice.with_method(12).finish()), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used
      caused by: its entry `broken-1.0.dist-info/METADATA` is compressed with method 12 (BZIP2); wheels may be stored or deflated

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
}

#[test]
fn a_wheel_of_another_name_or_without_metadata_is_refused() {
    assert_snapshot!(refused(&pure("other", "1.0").finish()), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used
      caused by: it has no directory `broken-1.0.dist-info` as its file name demands

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    let zip = ZipBuilder::new().deflated("broken-1.0.dist-info/WHEEL", "Wheel-Version: 2.0\n");
    assert_snapshot!(refused(&zip.finish()), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used
      caused by: its `broken-1.0.dist-info/WHEEL` says Wheel-Version `2.0`; kiln knows version 1

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    let zip = ZipBuilder::new().deflated("broken-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n");
    assert_snapshot!(refused(&zip.finish()), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used
      caused by: its `broken-1.0.dist-info/METADATA` is missing

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    let zip = zip.deflated("broken-1.0.dist-info/METADATA", "Name: broken\nVersion: 1.0\n");
    assert_snapshot!(refused(&zip.finish()), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used
      caused by: its `broken-1.0.dist-info/RECORD` is missing

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
}

#[test]
fn a_wheel_that_would_write_a_file_where_another_has_a_directory_is_refused() {
    let environment = TestEnvironment::with_stack(&stack("packages = [\"broken\", \"other\"]"));
    environment.wheel(&pure("broken", "1.0").file("shared", "a file"));
    environment.wheel(&pure("other", "1.0").file("shared/inside.py", "below it"));
    assert_snapshot!(environment.kiln("build --output oci:out"), @r"
    ------- stderr -------
    error: `/opt/venv/lib/python3.11/site-packages/shared` is a file in `broken-1.0-py3-none-any.whl` and a directory in `other-1.0-py3-none-any.whl`: in an image the one removes the other

    hint: leave one of the two out, or give it another place
    [exit status: 2]
    ");
}

#[test]
fn a_wheel_that_was_replaced_after_locking_is_not_taken() {
    let environment = project(&wheel().finish());
    environment.succeed("lock");
    environment.write(FILE, wheel().file("broken/evil.py", "import os").finish());
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: the wheel `<root>/project/wheels/broken-1.0-py3-none-any.whl` is not the one that is locked: sha256:<digest> was expected, and it has sha256:<digest>

    hint: somebody replaced the file after it was locked: put the locked one back, or take the one that lies there, `kiln lock --upgrade broken`; where a lock of another tool names it, write that anew first
    [exit status: 1]
    ");
    environment.write(FILE, wheel().finish());
    environment.succeed("build");
    // The way out that the message tells.
    environment.write(FILE, wheel().file("broken/mended.py", "").finish());
    fs_err::remove_dir_all(environment.root().join("store")).unwrap();
    assert!(environment.kiln("build").stderr.contains("`kiln lock --upgrade broken`"));
    environment.succeed("lock --upgrade broken");
    environment.succeed("build --locked");
}

#[test]
fn a_wheel_that_is_changed_in_place_after_a_build_is_noticed() {
    let environment = project(&wheel().finish());
    let digests = environment.digests("");
    // The store may hold the same file by a hard link: whoever writes into it must not change what is trusted.
    let mut bytes = wheel().finish();
    let at = content_of(&bytes, "broken/data.bin") + 50_000;
    bytes[at] ^= 1;
    let mut file = fs_err::OpenOptions::new().write(true).open(environment.path(FILE)).unwrap();
    std::io::Write::write_all(&mut file, &bytes).unwrap();
    drop(file);
    let outcome = environment.kiln("build --output oci:out");
    assert_ne!(outcome.status, Some(0), "{outcome}");
    fs_err::remove_file(environment.path(FILE)).unwrap();
    environment.write(FILE, wheel().finish());
    assert_eq!(environment.digests("--output oci:out"), digests);
}

#[test]
fn a_damaged_finished_wheel_of_a_recipe_is_found_while_locking() {
    let bytes = wheel().finish();
    let environment = project(&bytes[..bytes.len() - 100]);
    environment.stack(&stack("packages = [\"broken\"]\n\n[wheels.broken]\nversion = \"1.0\"\ndependencies = []\n"));
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: the wheel `broken-1.0-py3-none-any.whl` cannot be used
      caused by: it is truncated or not a zip archive (Missing end of central directory)

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
}
