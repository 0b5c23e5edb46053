//! A wheel from an index: its archive, and what an installer would write.
//!
//! An input that begins with `PK` is an archive as it is. Any other is a text of files, each behind a line `--- PATH`,
//! of which an archive is made: CRC-32 and deflate would keep mutations of an archive from ever reaching the metadata.

#![no_main]

use std::collections::HashSet;

use kiln_wheel::install::{Content, InstalledFile, Scheme, Wheel};
use kiln_wheel::testing::ZipBuilder;
use libfuzzer_sys::fuzz_target;

/// Metadata of 64 MiB is accepted, and more than that is needed to hold what it says.
#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 512 << 20);

const NAME: &str = "demo-1.0-py3-none-any.whl";
const READ: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let made = if bytes.starts_with(b"PK") { None } else { Some(archive(bytes)) };
    check(made.as_deref().unwrap_or(bytes));
});

fn archive(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    let mut zip = ZipBuilder::new();
    let mut missing = vec![
        ("demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n"),
        ("demo-1.0.dist-info/METADATA", "Name: demo\nVersion: 1.0\n"),
        ("demo-1.0.dist-info/RECORD", ""),
    ];
    for (at, file) in text.split("--- ").skip(1).enumerate() {
        let (path, content) = file.split_once('\n').unwrap_or((file, ""));
        if path.len() <= usize::from(u16::MAX) {
            missing.retain(|(other, _)| *other != path);
            zip = zip.file(path, if at % 3 == 0 { 0o755 } else { 0o644 }, at % 2 == 0, content);
        }
    }
    missing.into_iter().fold(zip, |zip, (path, content)| zip.stored(path, content)).finish()
}

fn check(bytes: &[u8]) {
    let Ok(name) = NAME.parse() else { return };
    let Ok(wheel) = Wheel::open(name, bytes, bytes.len() as u64) else {
        return;
    };
    for entry in wheel.archive.entries() {
        if let Ok(content) = wheel.archive.read(entry, READ) {
            assert_eq!(content.len() as u64, entry.size);
        }
    }
    let metadata = wheel.metadata().expect("it was read when the wheel was opened");
    assert_eq!(kiln_wheel::name_of(&metadata.name).map(|name| name.to_string()).as_deref(), Some("demo"));
    for (scheme, root) in [
        (Scheme::venv("3.11"), "opt/venv/"),
        (Scheme::base("/usr/local/bin/python3.11", "/usr/local/lib/python3.11/site-packages"), "usr/local/"),
    ] {
        if let Ok(files) = wheel.install(&scheme) {
            check_files(&files, root, bytes);
        }
    }
}

fn check_files(files: &[InstalledFile], root: &str, bytes: &[u8]) {
    let mut paths = HashSet::new();
    for file in files {
        let below = file.path.strip_prefix(root).unwrap_or_default();
        assert!(below.split('/').all(|part| !matches!(part, "" | "." | "..")), "{} is outside", file.path);
        assert!(below.split('/').all(|part| !part.starts_with(".wh.")), "{} deletes what lies below", file.path);
        let own = ["bin/python", "bin/python3", "bin/python3.11", "bin/activate", "pyvenv.cfg"];
        assert!(!own.contains(&below), "{} replaces the environment's own", file.path);
        let link = root == "opt/venv/" && (below == "lib64" || below.starts_with("lib64/"));
        assert!(!link, "{} replaces a link of the environment", file.path);
        assert!(paths.insert(file.path.as_str()), "{} is there twice", file.path);
        if let Content::Entry(entry) = &file.content {
            let end = entry.offset.checked_add(entry.compressed);
            assert!(end.is_some_and(|end| end <= bytes.len() as u64), "{} reaches beyond the file", entry.path);
        }
    }
    for path in &paths {
        for (slash, _) in path.match_indices('/') {
            assert!(!paths.contains(&path[..slash]), "{} lies below a file", path);
        }
    }
}
