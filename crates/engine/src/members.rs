//! Members of small layers, as the keys of steps hold them.

use kiln_oci::layer::{Body, LayerFile};
use kiln_plan::digest::Digest;
use serde::Serialize;

/// A member of a layer.
#[derive(Serialize)]
pub(crate) struct Member {
    path: String,
    mode: u32,
    owner: (u32, u32),
    /// Content, or the target of a link.
    content: Option<String>,
}

impl Member {
    /// Returns what a key holds of a member.
    pub(crate) fn of(file: &LayerFile) -> Self {
        let content = match &file.body {
            Body::Bytes(bytes) => Some(match std::str::from_utf8(bytes) {
                Ok(text) => text.to_owned(),
                Err(_) => format!("{}", Digest::of(bytes)),
            }),
            Body::Symlink(to) => Some(to.clone()),
            Body::Directory | Body::Whiteout | Body::File(_) | Body::Entry(..) => None,
        };
        Self { path: file.path.clone(), mode: file.mode, owner: file.owner, content }
    }
}
