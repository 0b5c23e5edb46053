use super::*;
use crate::testing::ZipBuilder;

fn open(bytes: &[u8]) -> Result<Archive<&[u8]>, ArchiveError> {
    Archive::open(bytes, bytes.len() as u64)
}

fn refusal(bytes: &[u8]) -> String {
    open(bytes).unwrap_err().to_string()
}

fn two_files() -> ZipBuilder {
    ZipBuilder::new().deflated("a/one.py", b"print(1)\n".repeat(20)).stored("a/two.bin", [1, 2, 3])
}

#[test]
fn an_archive_gives_back_what_was_put_in() {
    let bytes = two_files().finish();
    let archive = open(&bytes).unwrap();
    let entry = archive.entry("a/one.py").unwrap();
    assert_eq!(archive.read(entry, 1000).unwrap(), b"print(1)\n".repeat(20));
    let entry = archive.entry("a/two.bin").unwrap();
    assert_eq!((entry.method, archive.read(entry, 3).unwrap()), (Method::Stored, vec![1, 2, 3]));
}

#[test]
fn paths_that_leave_the_directory_are_refused() {
    for path in ["../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a\\b", "a/./b"] {
        let message = refusal(&ZipBuilder::new().stored(path, []).finish());
        assert!(message.contains("path"), "{path}: {message}");
    }
}

#[test]
fn a_path_cannot_be_there_twice_nor_be_file_and_directory() {
    let twice = ZipBuilder::new().stored("a", *b"1").stored("a", *b"2").finish();
    assert_eq!(refusal(&twice), "its entry `a` is there twice, with different content");
    let same = ZipBuilder::new().stored("a", *b"1").stored("a", *b"1").finish();
    assert_eq!(Archive::open(same.as_slice(), same.len() as u64).unwrap().entries().len(), 1);
    let both = ZipBuilder::new().stored("a", []).stored("a/b", []).finish();
    assert_eq!(refusal(&both), "its entry `a` is a file, and other entries lie below it");
}

#[test]
fn a_local_header_must_agree_with_the_directory() {
    // Offsets in the first local header: method, CRC, both sizes, first byte of the name.
    for offset in [8, 14, 18, 22, 30] {
        let mut bytes = two_files().finish();
        bytes[offset] ^= 1;
        let message = refusal(&bytes);
        assert!(message.contains("`a/one.py` has a local header with another"), "{offset}: {message}");
    }
}

#[test]
fn entries_that_share_bytes_are_refused() {
    let mut bytes = two_files().finish();
    let directory = bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    let second = directory + 46 + "a/one.py".len();
    bytes[second + 42..second + 46].copy_from_slice(&1u32.to_le_bytes());
    assert!(refusal(&bytes).contains("overlaps another entry"));
}

#[test]
fn every_truncation_is_refused() {
    let bytes = two_files().finish();
    for end in 0..bytes.len() {
        assert!(open(&bytes[..end]).is_err(), "{end} of {} bytes", bytes.len());
    }
}

#[test]
fn content_is_checked_when_it_is_read() {
    let mut bytes = two_files().finish();
    let at = bytes.windows(3).position(|window| window == [1, 2, 3]).unwrap();
    bytes[at] = 9;
    let archive = open(&bytes).unwrap();
    let error = archive.read(archive.entry("a/two.bin").unwrap(), 100).unwrap_err();
    assert_eq!(error.to_string(), "its entry `a/two.bin` does not have the content that its CRC-32 says");
    let error = archive.read(archive.entry("a/one.py").unwrap(), 10).unwrap_err();
    assert!(error.to_string().contains("larger than the 10 bytes"));
}

#[test]
fn other_compression_and_encryption_are_refused() {
    assert!(refusal(&two_files().with_method(12).finish()).contains("compressed with method"));
    assert!(refusal(&two_files().with_flags(1).finish()).contains("is encrypted"));
}
