//! `users`: users, groups and the time zone of an image, as a layer of a few files, so that per-user images rebuild nothing
//! above.

use kiln_oci::SPLICE_VERSION;
use kiln_oci::layer::{Body, Layer, LayerFile};
use kiln_plan::base::BaseFacts;
use kiln_plan::stack::{Image, User};
use serde::Serialize;

use crate::context::Context;
use crate::error::{ProjectError, Result};
use crate::step::{Cost, Kind, Step, Subject};

/// The users and the time zone of an image.
#[derive(Serialize)]
pub(crate) struct Users {
    /// Path, owner, and content, link or nothing.
    fields: Vec<(String, (u32, u32), Option<String>)>,
    compressor: u32,
    #[serde(skip)]
    files: Vec<LayerFile>,
    #[serde(skip)]
    subject: Subject,
}

impl Users {
    /// The users and the time zone of an image, above which other images create users; `None` where it has neither.
    pub(crate) fn of(image: &Image, facts: &BaseFacts, above: &[&User]) -> Result<Option<Self>> {
        let Some((text, files)) = files(image, facts, above)? else { return Ok(None) };
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

    /// Returns the members of the layer.
    pub(crate) fn files(&self) -> Vec<LayerFile> {
        self.files.clone()
    }
}

impl Step for Users {
    type Product = Vec<Layer>;
    const KIND: Kind = Kind { name: "users", version: 1 };

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

/// Returns the files of users and time zone, with a text for people, where the image has either.
fn files(image: &Image, facts: &BaseFacts, above: &[&User]) -> Result<Option<(String, Vec<LayerFile>)>> {
    let mut files = Vec::new();
    let mut said = Vec::new();
    if let Some(User::Create { name, uid, gid, home, .. }) = &image.user {
        let everybody: Vec<&User> = above.iter().copied().chain(image.user.as_ref()).collect();
        files.push(LayerFile::bytes("etc/passwd", passwd(image, facts, &everybody)?));
        files.push(LayerFile::bytes("etc/group", group(facts, &everybody)));
        files.push(LayerFile {
            path: home.trim_matches('/').to_owned(),
            mode: 0o755,
            owner: (*uid, *gid),
            body: Body::Directory,
        });
        said.push(format!("user {name} ({uid}:{gid})"));
    }
    if let Some(zone) = &image.timezone {
        files.push(LayerFile::symlink("etc/localtime", format!("/usr/share/zoneinfo/{zone}")));
        files.push(LayerFile::bytes("etc/timezone", format!("{zone}\n")));
        said.push(format!("time zone {zone}"));
    }
    Ok((!files.is_empty()).then(|| (said.join(", "), files)))
}

fn passwd(image: &Image, facts: &BaseFacts, users: &[&User]) -> Result<String> {
    let mut lines = facts.passwd.clone();
    if lines.is_empty() {
        lines.push("root:x:0:0:root:/root:/bin/sh".into());
    }
    for user in users {
        let User::Create { name, uid, gid, home, shell } = user else { continue };
        match facts.user(name) {
            Some(ids) if ids == (*uid, *gid) => continue,
            Some((uid, gid)) => {
                let (image, name) = (image.name.clone(), name.clone());
                return Err(ProjectError::UserTaken { image, name, uid, gid }.into());
            }
            None => {}
        }
        lines.retain(|line| line.split(':').next() != Some(name));
        lines.push(format!("{name}:x:{uid}:{gid}:{name}:{home}:{shell}"));
    }
    Ok(lines.join("\n") + "\n")
}

fn group(facts: &BaseFacts, users: &[&User]) -> String {
    let mut lines = facts.group.clone();
    if lines.is_empty() {
        lines.push("root:x:0:".into());
    }
    for user in users {
        let User::Create { name, gid, .. } = user else { continue };
        let has = |line: &String| line.split(':').nth(2) == Some(gid.to_string().as_str());
        if !lines.iter().any(has) && facts.group_id(name).is_none() {
            lines.push(format!("{name}:x:{gid}:"));
        }
    }
    lines.join("\n") + "\n"
}
