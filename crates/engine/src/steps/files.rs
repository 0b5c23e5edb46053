//! `files`: a layer of a few files that kiln writes itself.

use kiln_oci::SPLICE_VERSION;
use kiln_oci::layer::{Body, Layer, LayerFile};
use kiln_plan::base::BaseFacts;
use kiln_plan::stack::{Image, User};
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::step::{Cost, Kind, Step, Subject};
use crate::users;

/// Files that kiln writes.
#[derive(Serialize)]
pub(crate) struct Files {
    /// Path, owner, and content, link or nothing.
    fields: Vec<(String, (u32, u32), Option<String>)>,
    compressor: u32,
    #[serde(skip)]
    files: Vec<LayerFile>,
    #[serde(skip)]
    subject: Subject,
}

impl Files {
    /// The users and the time zone of an image; `None` where it has neither.
    pub(crate) fn users(image: &Image, facts: &BaseFacts, above: &[&User]) -> Result<Option<Self>> {
        let Some((text, files)) = users::files(image, facts, above)? else { return Ok(None) };
        let fields = files.iter().map(|file| {
            let content = match &file.body {
                Body::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
                Body::Symlink(to) => Some(to.clone()),
                Body::Directory | Body::File(_) | Body::Entry(..) => None,
            };
            (file.path.clone(), file.owner, content)
        });
        Ok(Some(Self { fields: fields.collect(), compressor: SPLICE_VERSION, files, subject: Subject::Users(text) }))
    }

    pub(crate) fn files(&self) -> Vec<LayerFile> {
        self.files.clone()
    }
}

impl Step for Files {
    type Product = Vec<Layer>;
    const KIND: Kind = Kind { name: "files", version: 1 };

    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn cost(&self) -> Cost {
        Cost::Cpu(0)
    }

    fn perform(&self, context: &Context<'_>) -> Result<Vec<Layer>> {
        context.workshop.small_layer(&self.subject.to_string(), self.files.clone())
    }
}
