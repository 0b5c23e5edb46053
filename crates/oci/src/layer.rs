//! Layers: what goes into one, and what is known of one that is made.

use kiln_plan::digest::Digest;
use kiln_plan::stack::Compression;
use kiln_plan::whiteout;
use kiln_wheel::archive::Entry;
use serde::{Deserialize, Serialize};
use tar::EntryType;

use crate::error::OciError;
use crate::header::Member;
use crate::{names, time};

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// How it is compressed.
    pub media_type: MediaType,
    /// The digest of the compressed layer.
    pub digest: Digest,
    /// The digest of the tar.
    pub diff_id: Digest,
    /// Bytes of the compressed layer.
    pub size: u64,
    /// Where it is to be had if registries may not distribute it; nothing for all others.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub urls: Vec<String>,
}

impl Layer {
    /// Returns true for a layer here whose size its manifest does not say.
    pub fn is_of_unknown_size(&self) -> bool {
        self.size == 0 && self.urls.is_empty() && self.digest != Digest::of(b"")
    }
}

/// Media types of layers (OCI image specification, "Media Types").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MediaType {
    /// A plain tar.
    #[serde(rename = "application/vnd.oci.image.layer.v1.tar")]
    Tar,
    /// A tar in gzip.
    #[serde(rename = "application/vnd.oci.image.layer.v1.tar+gzip")]
    Gzip,
    /// A tar in zstd.
    #[serde(rename = "application/vnd.oci.image.layer.v1.tar+zstd")]
    Zstd,
}

impl From<Compression> for MediaType {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::Gzip => Self::Gzip,
            Compression::Zstd => Self::Zstd,
        }
    }
}

/// One member of a layer that is to be made.
#[derive(Debug, Clone)]
pub struct LayerFile {
    /// Path without a leading slash, as text (see [`crate::names`]).
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Seconds since 1970 (see [`crate::time`]).
    pub time: u64,
    /// Extended attributes by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What it is.
    pub body: Body,
}

/// What a member of a layer is.
#[derive(Debug, Clone)]
pub enum Body {
    /// A directory.
    Directory,
    /// A symbolic link to this, as text (see [`crate::names`]).
    Symlink(String),
    /// The deletion of what layers below have at the path.
    Whiteout,
    /// A file of these bytes.
    Bytes(Vec<u8>),
    /// A file of so many bytes, whose content the caller has.
    File(u64),
    /// A file that an entry of a wheel holds: the wheel's place in the list of sources, and the entry.
    Entry(usize, Entry),
}

impl Body {
    /// Bytes of content.
    pub fn size(&self) -> u64 {
        match self {
            Self::Directory | Self::Symlink(_) | Self::Whiteout => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(size) => *size,
            Self::Entry(_, entry) => entry.size,
        }
    }
}

impl LayerFile {
    /// Returns a member of root with the oldest time.
    pub fn new(path: impl Into<String>, mode: u32, body: Body) -> Self {
        Self { path: path.into(), mode, owner: (0, 0), time: time::OLDEST, xattrs: Vec::new(), body }
    }

    /// Returns a directory, mode 0755, of root.
    pub fn directory(path: impl Into<String>) -> Self {
        Self::new(path, 0o755, Body::Directory)
    }

    /// Returns a symbolic link of root.
    pub fn symlink(path: impl Into<String>, to: impl Into<String>) -> Self {
        Self::new(path, 0o777, Body::Symlink(to.into()))
    }

    /// Returns the deletion of what is at a path.
    pub fn whiteout(path: impl Into<String>) -> Self {
        Self::new(path, 0o644, Body::Whiteout)
    }

    /// Returns a file, mode 0644, of root.
    pub fn bytes(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(path, 0o644, Body::Bytes(bytes.into()))
    }

    /// Gives files that kiln itself wrote the time of all their content together.
    pub fn date(files: &mut [Self]) {
        let content = files.iter().filter_map(|file| match &file.body {
            Body::Bytes(bytes) => Some(bytes.as_slice()),
            _ => None,
        });
        let time = time::packaged(&Digest::of(&content.collect::<Vec<_>>().concat()));
        files.iter_mut().filter(|file| matches!(file.body, Body::Bytes(_))).for_each(|file| file.time = time);
    }

    /// Appends the tar header. Every member of every layer that kiln makes of files passes here; an error if no layer can
    /// hold its path.
    pub(crate) fn write_header(&self, out: &mut Vec<u8>) -> Result<(), OciError> {
        check_path(&self.path)?;
        let mut path = names::bytes(&self.path);
        let (kind, link) = match &self.body {
            Body::Directory => {
                path.push(b'/');
                (EntryType::Directory, Vec::new())
            }
            Body::Symlink(to) => (EntryType::Symlink, names::bytes(to)),
            Body::Whiteout => {
                let name = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
                path.splice(name..name, whiteout::PREFIX.bytes());
                (EntryType::Regular, Vec::new())
            }
            Body::Bytes(_) | Body::File(_) | Body::Entry(..) => (EntryType::Regular, Vec::new()),
        };
        let (uid, gid) = (u64::from(self.owner.0), u64::from(self.owner.1));
        let record = |(name, value): &(Vec<u8>, Vec<u8>)| ([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone());
        let records: Vec<_> = self.xattrs.iter().map(record).collect();
        let (mode, time, file) = (self.mode, self.time, Member::file("", self.body.size()));
        Member { path: &path, kind, link: &link, mode, uid, gid, time, records: &records, ..file }.write(out);
        Ok(())
    }
}

/// Refuses paths that are read in another way than they are meant: whiteouts, and what leaves the root.
fn check_path(path: &str) -> Result<(), OciError> {
    let problem = if let Some(component) = whiteout::component(path) {
        whiteout::problem(component)
    } else if path.split('/').any(|name| matches!(name, "" | "." | "..")) {
        "it is not a plain path below the root".to_owned()
    } else if path.contains('\0') {
        "it holds a zero byte".to_owned()
    } else {
        return Ok(());
    };
    Err(OciError::Member { path: path.escape_debug().to_string(), problem })
}

/// Puts every directory that files need before the first that needs it, once.
#[derive(Debug, Default)]
pub struct Directories {
    seen: std::collections::HashSet<String>,
}

impl Directories {
    /// Appends the directories above a path that are not there yet; those that `exists` knows get no entry.
    pub fn above(&mut self, path: &str, exists: impl Fn(&str) -> bool, out: &mut Vec<LayerFile>) {
        for (slash, _) in path.match_indices('/') {
            let directory = &path[..slash];
            if !self.seen.contains(directory) && !exists(directory) {
                self.seen.insert(directory.to_owned());
                out.push(LayerFile::directory(directory));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_layer_holds_a_whiteout_or_a_path_that_leaves_the_root() {
        for path in [".wh.x", "a/.wh..wh..opq", ".wh.a/b", "../a", "a//b", "/a", "a/.", "", "a\0b"] {
            for file in [LayerFile::bytes(path, ""), LayerFile::directory(path), LayerFile::symlink(path, "b")] {
                let mut out = Vec::new();
                assert!(matches!(file.write_header(&mut out), Err(OciError::Member { .. })), "{path}");
                assert!(out.is_empty());
            }
        }
        assert!(LayerFile::bytes("a/b.wh.c", "").write_header(&mut Vec::new()).is_ok());
    }
}
