use std::io::Cursor;

use tar::{Builder, Header};

use super::*;

/// The time of files.
const TIME: u64 = 400_000_000;

fn header(kind: EntryType, size: usize, time: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(42);
    header.set_mtime(time);
    header.set_username("host").unwrap();
    header
}

/// A raw archive of files; a path that ends with a slash is a folder, content that starts with `->` or `=>` is a
/// symbolic or a hard link.
fn raw(time: u64, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, content) in files {
        let path = format!("./{path}");
        let target = |content: &[u8]| String::from_utf8(content[2..].to_vec()).unwrap();
        if path.ends_with('/') {
            let mut header = header(EntryType::Directory, 0, time);
            builder.append_data(&mut header, path, io::empty()).unwrap();
        } else if content.starts_with(b"->") {
            let mut header = header(EntryType::Symlink, 0, time);
            builder.append_link(&mut header, path, target(content)).unwrap();
        } else if content.starts_with(b"=>") {
            let mut header = header(EntryType::Link, 0, time);
            builder.append_link(&mut header, path, target(content)).unwrap();
        } else {
            let mut header = header(EntryType::Regular, content.len(), time);
            builder.append_data(&mut header, path, *content).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

fn normal(raw: Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    let normalised = normalise(&mut [Cursor::new(raw)], &mut out, TIME).unwrap();
    assert_eq!(normalised.size, out.len() as u64);
    out
}

/// Paths with their contents, links written as in [`raw`].
fn listing(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(bytes);
    let mut found = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let is_file = matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Link);
        let expected = if is_file { TIME } else { OLDEST };
        assert_eq!(entry.header().mtime().unwrap(), expected);
        assert_eq!(entry.header().username().unwrap(), Some(""));
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut content = match entry.header().entry_type() {
            EntryType::Symlink => b"->".to_vec(),
            EntryType::Link => b"=>".to_vec(),
            _ => Vec::new(),
        };
        content.extend_from_slice(&entry.link_name_bytes().unwrap_or_default());
        entry.read_to_end(&mut content).unwrap();
        found.push((path, content));
    }
    found
}

fn content(bytes: &[u8], path: &str) -> String {
    let (_, content) = listing(bytes).into_iter().find(|(found, _)| found == path).unwrap();
    String::from_utf8(content).unwrap()
}

#[test]
fn order_times_and_owners_names_do_not_show() {
    let files: [(&str, &[u8]); 4] = [("usr/", b""), ("usr/a", b"a"), ("usr/a-b", b"ab"), ("bin", b"->usr/bin")];
    let one = normal(raw(1_700_000_000, &files));
    let mut backwards = files;
    backwards.reverse();
    assert_eq!(one, normal(raw(1_800_000_000, &backwards)));
    let paths: Vec<_> = listing(&one).into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["bin", "usr/", "usr/a", "usr/a-b"]);
}

#[test]
fn what_differs_between_machines_is_dropped_or_emptied() {
    let one = normal(raw(
        1,
        &[
            ("dev/", b""),
            ("dev/null", b""),
            ("etc/hostname", b"host"),
            ("etc/machine-id", b"0123"),
            ("etc/passwd", b"root"),
            ("etc/passwd-", b"root"),
            ("etc/resolv.conf", b"->../run/resolv.conf"),
            ("run/", b""),
            ("run/lock/", b""),
            ("run/file", b"x"),
            ("var/cache/apt/archives/partial/", b""),
            ("var/cache/apt/pkgcache.bin", b"x"),
            ("var/cache/debconf/config.dat", b"x"),
            ("var/cache/debconf/config.dat-old", b"x"),
            ("var/lib/apt/extended_states", b"x"),
            ("var/lib/apt/lists/", b""),
            ("var/lib/apt/lists/lock", b""),
            ("var/lib/dpkg/status", b"x"),
            ("var/lib/dpkg/status-old", b"x"),
            ("var/log/apt/", b""),
            ("var/log/apt/term.log", b"x"),
            ("var/log/wtmp", b"x"),
        ],
    ));
    let found: Vec<_> = listing(&one).into_iter().map(|(path, content)| (path, content.len())).collect();
    let found: Vec<_> = found.iter().map(|(path, size)| (path.as_str(), *size)).collect();
    assert_eq!(
        found,
        [
            ("dev/", 0),
            ("etc/machine-id", 0),
            ("etc/passwd", 4),
            ("run/", 0),
            ("run/lock/", 0),
            ("var/cache/apt/archives/partial/", 0),
            ("var/cache/debconf/config.dat", 1),
            ("var/lib/apt/extended_states", 1),
            ("var/lib/apt/lists/", 0),
            ("var/lib/dpkg/status", 1),
            ("var/log/apt/", 0),
            ("var/log/wtmp", 0),
        ]
    );
}

#[test]
fn the_first_of_hard_links_in_order_is_the_file() {
    let one = normal(raw(1, &[("usr/z", b"data"), ("usr/a", b"=>usr/z"), ("usr/m", b"=>./usr/a")]));
    let expected = [("usr/a", "data"), ("usr/m", "=>usr/a"), ("usr/z", "=>usr/a")];
    for (path, expected) in expected {
        assert_eq!(content(&one, path), expected);
    }
}

#[test]
fn a_hard_link_outlives_a_dropped_target() {
    let one = normal(raw(1, &[("var/log/x", b"data"), ("srv/x", b"=>var/log/x")]));
    assert_eq!(listing(&one), [("srv/x".to_owned(), b"data".to_vec())]);
}

#[test]
fn a_hard_link_to_nothing_and_a_path_out_of_the_root_are_refused() {
    let error = normalise(&mut [Cursor::new(raw(1, &[("a", b"=>b")]))], io::sink(), TIME).unwrap_err();
    assert_eq!(error.to_string(), "`a` is a hard link to nothing");
    assert_eq!(clean(b"usr/../../etc"), None);
    assert_eq!(clean(b".//usr/./bin/"), Some(b"usr/bin".to_vec()));
}

#[test]
fn a_truncated_archive_is_an_error() {
    let mut bytes = raw(1, &[("a", &[7; 2000])]);
    bytes.truncate(1500);
    let error = normalise(&mut [Cursor::new(bytes)], io::sink(), TIME).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "the archive ends at byte 1500, inside `a`");
}

#[test]
fn bytecode_agrees_with_the_new_time_of_its_source() {
    let bytecode = |flags: u8, time: u32| {
        let mut bytes = 3495_u16.to_le_bytes().to_vec();
        bytes.extend_from_slice(&[b'\r', b'\n', flags, 0, 0, 0]);
        bytes.extend_from_slice(&time.to_le_bytes());
        bytes.extend_from_slice(b"\x04\0\0\0code");
        bytes
    };
    let checked = bytecode(1, 7);
    let stale = bytecode(0, 8);
    let members: &[(&str, &[u8])] = &[
        ("a.py", b"4444"),
        ("a.pyc", &bytecode(0, 7)),
        ("b.py", b"4444"),
        ("b.pyc", &checked),
        ("c.pyc", b"short"),
        ("d.py", b"4444"),
        ("d.pyc", &stale),
        ("e.pyc", &bytecode(0, 7)),
    ];
    let found = listing(&normal(raw(7, members)));
    let content = |name: &str| found.iter().find(|(path, _)| path == name).unwrap().1.clone();
    assert_eq!(content("a.pyc"), bytecode(0, TIME as u32));
    assert_eq!(content("b.pyc"), checked);
    assert_eq!(content("c.pyc"), b"short");
    assert_eq!((content("d.pyc"), content("e.pyc")), (stale, bytecode(0, 7)), "no source of that time");
}

#[test]
fn extended_attributes_stay_and_times_in_pax_records_go() {
    let mut builder = Builder::new(Vec::new());
    builder
        .append_pax_extensions([
            ("atime", b"1700000000.5".as_slice()),
            ("SCHILY.xattr.security.selinux", b"label"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
        ])
        .unwrap();
    builder.append_data(&mut header(EntryType::Regular, 1, 1), "usr/bin/ping", b"x".as_slice()).unwrap();
    let one = normal(builder.into_inner().unwrap());
    let mut entries = Entries::new(one.as_slice());
    let member = entries.next_member().unwrap().unwrap();
    assert_eq!(member.records, [(b"SCHILY.xattr.security.capability".to_vec(), b"\x01\0\0\x02".to_vec())]);
}

#[test]
fn the_day_of_a_password_is_not_todays() {
    assert_eq!(shadow("root:*:19700:0:99999:7:::\na:!:0:\nb:!::\n"), "root:*:3652:0:99999:7:::\na:!:0:\nb:!::\n");
}

#[test]
fn later_parts_lie_over_earlier_ones_and_delete_their_files() {
    let below: &[(&str, &[u8])] = &[
        ("usr/", b""),
        ("usr/a", b"old"),
        ("usr/b", b"kept"),
        ("etc/d/", b""),
        ("etc/d/x", b"x"),
        ("etc/e/", b""),
        ("etc/e/x", b"x"),
        ("etc/f", b"file"),
        ("etc/g/x", b"x"),
        ("etc/g-x", b"kept"),
    ];
    let above: &[(&str, &[u8])] = &[
        ("usr/a", b"new"),
        ("etc/d/y", b"y"),
        ("etc/d/.wh..wh..opq", b""),
        ("etc/.wh.e", b""),
        ("etc/.wh.f", b""),
        ("etc/g", b"->h"),
        ("z", b"=>usr/a"),
    ];
    let mut out = Vec::new();
    let parts = &mut [Cursor::new(raw(1, below)), Cursor::new(raw(2, above))];
    normalise(parts, &mut out, TIME).unwrap();
    let found = listing(&out);
    let found: Vec<(&str, &str)> =
        found.iter().map(|(path, content)| (path.as_str(), std::str::from_utf8(content).unwrap())).collect();
    assert_eq!(
        found,
        [
            ("etc/d/", ""),
            ("etc/d/y", "y"),
            ("etc/g", "->h"),
            ("etc/g-x", "kept"),
            ("usr/", ""),
            ("usr/a", "new"),
            ("usr/b", "kept"),
            ("z", "=>usr/a"),
        ]
    );
    assert!(normalise(&mut [Cursor::new(raw(1, above))], io::sink(), TIME).is_err(), "there is nothing to delete from");
}

/// Other bytes for the same packages are another base under a lock that did not change.
#[test]
fn the_bytes_of_a_normalised_archive_are_pinned() {
    let files: [(&str, &[u8]); 7] = [
        ("etc/", b""),
        ("etc/hostname", b"host\n"),
        ("etc/machine-id", b"0123456789abcdef\n"),
        ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/shadow", b"root:*:20000:0:99999:7:::\n"),
        ("usr/bin/tool", b"#!/bin/sh\n"),
        ("usr/bin/other", b"->tool"),
    ];
    let digest = kiln_plan::digest::Digest::of(&normal(raw(1_700_000_000, &files)));
    assert_eq!(digest.to_string(), "sha256:d32e18790ff736adfa59d9643f8669f27f9453ca0fc66a65e50b8adb717a9a10");
}
