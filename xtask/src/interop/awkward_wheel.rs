//! A wheel with what no real one of reasonable size was found to have.
//!
//! All its entries are stored, and the archive is written by hand, so that nothing in it is a library's choice.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::Result;

/// What requires it.
pub(crate) const REQUIREMENT: &str = "kiln-awkward==1.0";
/// The script whose first line has an argument for the interpreter.
pub(crate) const SCRIPT_WITH_ARGUMENT: &str = "kiln-awkward-isolated";
/// The script whose first line ends in a carriage return.
pub(crate) const SCRIPT_OF_WINDOWS: &str = "kiln-awkward-windows";
/// The console script whose function is an attribute of a class.
pub(crate) const DOTTED_SCRIPT: &str = "kiln-awkward-dotted";

const FILE_NAME: &str = "kiln_awkward-1.0-py3-none-any.whl";
const DIST_INFO: &str = "kiln_awkward-1.0.dist-info";
const DATA: &str = "kiln_awkward-1.0.data";
/// Local file header, central directory record and end record (PKWARE APPNOTE 6.3.10, section 4.3).
const SIGNATURES: [&[u8; 4]; 3] = [b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"];
/// Names are UTF-8 (section 4.4.4, bit 11).
const UTF8: u16 = 1 << 11;

/// A file of an archive.
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) content: Vec<u8>,
    /// Permission bits.
    pub(crate) mode: u32,
}

/// Writes the wheel into a directory.
pub(crate) fn write(directory: &Path) -> Result<()> {
    Ok(fs_err::write(directory.join(FILE_NAME), archive(&entries())?)?)
}

fn entries() -> Vec<Entry> {
    let pure = "def main():\n    print('pure')\n\n\nclass Dotted:\n    run = staticmethod(lambda: print('dotted'))\n";
    let scripts = "[console_scripts]\nkiln-awkward = kiln_awkward_pure:main [extra]\n\
                   kiln-awkward-dotted=kiln_awkward_pure:Dotted.run\n\n[gui_scripts]\nkiln-awkward-window = \
                   kiln_awkward_pure:main\n\n[kiln.awkward]\nnot-a-script = nowhere\n";
    let metadata = "Metadata-Version: 2.1\nName: kiln-awkward\nVersion: 1.0\nProvides-Extra: extra\n";
    let wheel = "Wheel-Version: 1.0\nGenerator: kiln\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    let deep = format!("kiln_awkward_deep/{}/leaf.txt", ["directory-with-a-long-name"; 12].join("/"));
    let long = format!("kiln_awkward_deep/{}.txt", "n".repeat(180));
    let plain = |path: String, content: &str| Entry { path, content: content.into(), mode: 0o644 };
    let mut entries = vec![
        plain(format!("{DATA}/purelib/kiln_awkward_pure/__init__.py"), pure),
        plain(format!("{DATA}/platlib/kiln_awkward_plat/__init__.py"), "PLAT = True\n"),
        plain(format!("{DATA}/headers/kiln_awkward.h"), "#define KILN_AWKWARD 1\n"),
        plain(format!("{DATA}/headers/below/more.h"), "#define KILN_AWKWARD_MORE 1\n"),
        plain(format!("{DATA}/data/share/kiln awkward/a, \"quoted\" näme.txt"), "with a comma\n"),
        plain(format!("{DATA}/data/lib64/python3.11/site-packages/kiln_awkward_lib64.py"), "LIB64 = True\n"),
        plain(format!("{DATA}/scripts/kiln-awkward-sh"), "#!/bin/sh\necho shell\n"),
        plain(format!("{DATA}/scripts/{SCRIPT_WITH_ARGUMENT}"), "#!python -I\nprint('isolated')\n"),
        plain(format!("{DATA}/scripts/{SCRIPT_OF_WINDOWS}"), "#!pythonw\r\nprint('windows')\r\n"),
        plain(deep, "deep\n"),
        plain(long, "long\n"),
        plain("kiln_awkward_deep/empty".into(), ""),
        plain("kiln_awkward_deep/one-block".into(), &"x".repeat(512)),
        plain("kiln_awkward_deep/above-a-batch".into(), &"0123456789abcdef".repeat(20_000)),
        plain(format!("{DIST_INFO}/METADATA"), metadata),
        plain(format!("{DIST_INFO}/WHEEL"), wheel),
        plain(format!("{DIST_INFO}/entry_points.txt"), scripts),
        plain(format!("{DIST_INFO}/licenses/LICENSE"), "none\n"),
    ];
    entries.push(Entry { mode: 0o755, ..plain("kiln_awkward_deep/tool.sh".into(), "#!/bin/sh\nexit 0\n") });
    entries.push(Entry { mode: 0o600, ..plain("kiln_awkward_deep/private.txt".into(), "private\n") });
    let mut record: String = entries.iter().map(record_line).collect();
    record.push_str(&format!("{DIST_INFO}/RECORD,,\n"));
    entries.push(plain(format!("{DIST_INFO}/RECORD"), &record));
    entries
}

/// The line of a `RECORD`.
pub(crate) fn record_line(entry: &Entry) -> String {
    let path = match entry.path.contains([',', '"']) {
        true => format!("\"{}\"", entry.path.replace('"', "\"\"")),
        false => entry.path.clone(),
    };
    format!("{path},sha256={},{}\n", base64(&Sha256::digest(&entry.content)), entry.content.len())
}

/// Unpadded URL-safe base64 (RFC 4648, section 5).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0, |word, byte| word << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        text.extend((0..=chunk.len()).map(|at| char::from(DIGITS[word >> (18 - 6 * at) & 63])));
    }
    text
}

/// An archive of stored files.
pub(crate) fn archive(entries: &[Entry]) -> Result<Vec<u8>> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let offset = u32::try_from(out.len())?;
        let size = u32::try_from(entry.content.len())?;
        let mut header = Vec::new();
        // Version needed, flags, method (stored), time, date (1 January 1980).
        for field in [20, UTF8, 0, 0, 33] {
            header.extend_from_slice(&field.to_le_bytes());
        }
        for field in [crc32fast::hash(&entry.content), size, size] {
            header.extend_from_slice(&field.to_le_bytes());
        }
        header.extend_from_slice(&u16::try_from(entry.path.len())?.to_le_bytes());
        header.extend_from_slice(&[0; 2]);
        out.extend_from_slice(SIGNATURES[0]);
        out.extend_from_slice(&header);
        out.extend_from_slice(entry.path.as_bytes());
        out.extend_from_slice(&entry.content);
        directory.extend_from_slice(SIGNATURES[1]);
        // Made by version 2.0 on Unix, whose mode stands in the upper half of the external attributes.
        directory.extend_from_slice(&[20, 3]);
        directory.extend_from_slice(&header);
        directory.extend_from_slice(&[0; 6]);
        directory.extend_from_slice(&((0o100_000 | entry.mode) << 16).to_le_bytes());
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(entry.path.as_bytes());
    }
    let count = u16::try_from(entries.len())?.to_le_bytes();
    let (offset, size) = (u32::try_from(out.len())?, u32::try_from(directory.len())?);
    out.extend_from_slice(&directory);
    out.extend_from_slice(SIGNATURES[2]);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&[count, count].concat());
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    Ok(out)
}
