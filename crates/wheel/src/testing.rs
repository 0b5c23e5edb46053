//! Wheels made in memory, for tests of this crate and of those above it.
//!
//! Written by hand rather than with a zip library, because tests need archives that no library would write.

pub mod index;

use std::collections::BTreeMap;

use libdeflater::{CompressionLvl, Compressor};

/// Builds a zip archive.
#[derive(Debug, Clone, Default)]
pub struct ZipBuilder {
    entries: Vec<ZipEntry>,
    method: Option<u16>,
    flags: u16,
}

#[derive(Debug, Clone)]
struct ZipEntry {
    path: String,
    method: u16,
    mode: u32,
    content: Vec<u8>,
    /// What is stored, if something else than what this compresses.
    stream: Option<Vec<u8>>,
}

impl ZipBuilder {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a deflated file.
    #[must_use]
    pub fn deflated(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.file(path, 0o644, true, content)
    }

    /// Adds a stored file.
    #[must_use]
    pub fn stored(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.file(path, 0o644, false, content)
    }

    /// Adds a file with a mode.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, deflate: bool, content: impl AsRef<[u8]>) -> Self {
        let method = if deflate { 8 } else { 0 };
        let (path, content) = (path.to_owned(), content.as_ref().to_vec());
        self.entries.push(ZipEntry { path, method, mode, content, stream: None });
        self
    }

    /// Adds a file that is compressed to this deflate stream.
    #[must_use]
    pub fn compressed(mut self, path: &str, stream: impl Into<Vec<u8>>, content: impl AsRef<[u8]>) -> Self {
        self = self.deflated(path, content);
        if let Some(entry) = self.entries.last_mut() {
            entry.stream = Some(stream.into());
        }
        self
    }

    /// Says another compression method in every header.
    #[must_use]
    pub fn with_method(mut self, method: u16) -> Self {
        self.method = Some(method);
        self
    }

    /// Sets flags in every header.
    #[must_use]
    pub fn with_flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    /// The archive.
    pub fn finish(&self) -> Vec<u8> {
        let (mut out, mut directory) = (Vec::new(), Vec::new());
        for entry in &self.entries {
            let stored = match &entry.stream {
                Some(stream) => stream.clone(),
                None if entry.method == 8 => deflate(&entry.content),
                None => entry.content.clone(),
            };
            let offset = out.len() as u32;
            let mut common = Vec::new();
            for field in [20, self.flags, self.method.unwrap_or(entry.method), 0, 33] {
                common.extend_from_slice(&field.to_le_bytes());
            }
            for field in [crc32fast::hash(&entry.content), stored.len() as u32, entry.content.len() as u32] {
                common.extend_from_slice(&field.to_le_bytes());
            }
            common.extend_from_slice(&(entry.path.len() as u16).to_le_bytes());
            common.extend_from_slice(&[0, 0]);
            out.extend_from_slice(b"PK\x03\x04");
            out.extend_from_slice(&common);
            out.extend_from_slice(entry.path.as_bytes());
            out.extend_from_slice(&stored);
            directory.extend_from_slice(b"PK\x01\x02\x14\x03");
            directory.extend_from_slice(&common);
            directory.extend_from_slice(&[0; 6]);
            directory.extend_from_slice(&((0o100_000 | entry.mode) << 16).to_le_bytes());
            directory.extend_from_slice(&offset.to_le_bytes());
            directory.extend_from_slice(entry.path.as_bytes());
        }
        let (offset, count) = (out.len() as u32, self.entries.len() as u16);
        out.extend_from_slice(&directory);
        out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&(directory.len() as u32).to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        out
    }
}

fn deflate(content: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut out = vec![0; compressor.deflate_compress_bound(content.len())];
    let length = compressor.deflate_compress(content, &mut out).unwrap_or(0);
    out.truncate(length);
    out
}

/// Builds a wheel: files, and metadata that agrees with them.
#[derive(Debug, Clone)]
pub struct WheelBuilder {
    name: String,
    version: String,
    tag: String,
    requires: Vec<String>,
    files: BTreeMap<String, (Vec<u8>, bool, bool)>,
    record: Option<String>,
}

impl WheelBuilder {
    /// A wheel of this distribution name (with `_`) and version.
    pub fn new(name: &str, version: &str) -> Self {
        let (name, version) = (name.to_owned(), version.to_owned());
        let (tag, requires, files, record) = ("py3-none-any".into(), Vec::new(), BTreeMap::new(), None);
        Self { name, version, tag, requires, files, record }
    }

    /// Sets the tags of the file name.
    #[must_use]
    pub fn tag(mut self, tag: &str) -> Self {
        self.tag = tag.to_owned();
        self
    }

    /// Sets `RECORD`, which need not be true.
    #[must_use]
    pub fn record(mut self, text: &str) -> Self {
        self.record = Some(text.to_owned());
        self
    }

    /// Adds a requirement.
    #[must_use]
    pub fn requires(mut self, requirement: &str) -> Self {
        self.requires.push(requirement.to_owned());
        self
    }

    /// Adds a deflated file.
    #[must_use]
    pub fn file(mut self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.files.insert(path.to_owned(), (content.as_ref().to_vec(), false, true));
        self
    }

    /// Adds a file that is stored or deflated, with or without execute bits.
    #[must_use]
    pub fn file_with(mut self, path: &str, executable: bool, deflate: bool, content: impl AsRef<[u8]>) -> Self {
        self.files.insert(path.to_owned(), (content.as_ref().to_vec(), executable, deflate));
        self
    }

    /// The file name.
    pub fn file_name(&self) -> String {
        format!("{}-{}-{}.whl", self.name, self.version, self.tag)
    }

    /// `{name}-{version}.dist-info`.
    pub fn dist_info(&self) -> String {
        format!("{}-{}.dist-info", self.name, self.version)
    }

    /// The wheel.
    pub fn finish(&self) -> Vec<u8> {
        let dist_info = self.dist_info();
        let mut metadata = format!("Metadata-Version: 2.1\nName: {}\nVersion: {}\n", self.name, self.version);
        for requirement in &self.requires {
            metadata.push_str(&format!("Requires-Dist: {requirement}\n"));
        }
        let wheel = format!("Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {}\n", self.tag);
        let mut zip = ZipBuilder::new();
        let mut record = String::new();
        let metadata_files = [("METADATA", metadata), ("WHEEL", wheel)]
            .map(|(name, text)| (format!("{dist_info}/{name}"), (text.into_bytes(), false, true)));
        for (path, (content, executable, deflate)) in self.files.clone().into_iter().chain(metadata_files) {
            let mode = if executable { 0o755 } else { 0o644 };
            record.push_str(&crate::record::line(&path, &content));
            zip = zip.file(&path, mode, deflate, content);
        }
        record.push_str(&format!("{dist_info}/RECORD,,\n"));
        let record = self.record.clone().unwrap_or(record);
        zip.deflated(&format!("{dist_info}/RECORD"), record).finish()
    }
}
