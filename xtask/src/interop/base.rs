//! Bases that the suite writes itself, member by member: a layout with one image.

use std::path::Path;

use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::{Result, transports};

/// A member of a layer.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) path: String,
    pub(crate) body: Body,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    /// Extended attributes, each a name and a value.
    pub(crate) attributes: Vec<(&'static str, &'static str)>,
}

/// The kind of a member, with what is in it.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Directory,
    File(String),
    /// A symbolic link, and where it leads.
    Link(String),
}

impl Member {
    /// A directory of root's, or a file or link.
    pub(crate) fn new(path: &str, body: Body) -> Self {
        let mode = match body {
            Body::Directory => 0o755,
            Body::File(_) => 0o644,
            Body::Link(_) => 0o777,
        };
        Self { path: path.into(), body, mode, owner: (0, 0), attributes: Vec::new() }
    }

    pub(crate) fn directory(path: &str, mode: u32, owner: (u32, u32)) -> Self {
        Self { mode, owner, ..Self::new(path, Body::Directory) }
    }

    pub(crate) fn file(path: &str, text: &str) -> Self {
        Self::new(path, Body::File(text.into()))
    }

    pub(crate) fn link(path: &str, target: &str) -> Self {
        Self::new(path, Body::Link(target.into()))
    }
}

/// Writes an image with some layers, called `base`, for this machine's platform.
pub(crate) fn write(directory: &Path, layers: &[Vec<Member>]) -> Result<()> {
    let blobs = directory.join("blobs/sha256");
    fs_err::create_dir_all(&blobs)?;
    let put = |bytes: &[u8]| -> Result<String> {
        let digest = transports::digest(bytes);
        fs_err::write(blobs.join(digest.trim_start_matches("sha256:")), bytes)?;
        Ok(digest)
    };
    let describe = |kind: &str, bytes: &[u8]| -> Result<serde_json::Value> {
        let kind = format!("application/vnd.oci.image.{kind}");
        Ok(json!({ "mediaType": kind, "digest": put(bytes)?, "size": bytes.len() }))
    };
    let tars: Vec<Vec<u8>> = layers.iter().map(|layer| tar(layer)).collect::<Result<_>>()?;
    let diff_ids: Vec<String> = tars.iter().map(|tar| transports::digest(tar)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "config": { "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] },
    });
    let layers = tars.iter().map(|tar| describe("layer.v1.tar", tar)).collect::<Result<Vec<_>>>()?;
    let config = describe("config.v1+json", &serde_json::to_vec(&config)?)?;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers });
    let mut entry = describe("manifest.v1+json", &serde_json::to_vec(&manifest)?)?;
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "base" });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    fs_err::write(directory.join("index.json"), serde_json::to_vec(&index)?)?;
    Ok(fs_err::write(directory.join("oci-layout"), "{\"imageLayoutVersion\": \"1.0.0\"}")?)
}

fn tar(members: &[Member]) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for Member { path, body, mode, owner, attributes } in members {
        let attributes: Vec<(String, &[u8])> =
            attributes.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.as_bytes())).collect();
        tar.append_pax_extensions(attributes.iter().map(|(name, value)| (name.as_str(), *value)))?;
        let mut header = Header::new_ustar();
        header.set_mode(*mode);
        header.set_uid(owner.0.into());
        header.set_gid(owner.1.into());
        header.set_mtime(0);
        header.set_size(0);
        match body {
            Body::Directory => {
                header.set_entry_type(EntryType::Directory);
                tar.append_data(&mut header, format!("{path}/"), std::io::empty())?;
            }
            Body::File(text) => {
                header.set_size(text.len() as u64);
                tar.append_data(&mut header, path, text.as_bytes())?;
            }
            Body::Link(target) => {
                header.set_entry_type(EntryType::Symlink);
                tar.append_link(&mut header, path, target)?;
            }
        }
    }
    Ok(tar.into_inner()?)
}
