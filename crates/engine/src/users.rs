//! Users, groups and the time zone of an image: a layer of a few files, so that per-user images rebuild nothing above.

use kiln_oci::SPLICE_VERSION;
use kiln_oci::layer::{Body, LayerFile};
use kiln_plan::base::BaseFacts;
use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::stack::{Copy, Image, User};
use kiln_plan::step::StepKey;

use crate::error::{BuildError, Result};
use crate::steps::{Step, Task};

/// Whose copied files are: user and group ids.
pub(crate) fn owner(copy: &Copy, facts: &BaseFacts, created: &[&User]) -> Result<(u32, u32)> {
    let unknown = |what: &str, name: &str, known: Vec<String>| -> BuildError {
        let span = copy.owner_span.clone().unwrap_or_else(|| copy.from_span.clone());
        let message = format!("there is no {what} `{name}` in the base");
        let hint = if known.is_empty() { "use a number".to_owned() } else { format!("known are {}", known.join(", ")) };
        Diagnostics::from(Diagnostic::at(span, message).hint(hint)).into()
    };
    let first = |lines: &[String]| lines.iter().filter_map(|line| line.split(':').next().map(str::to_owned)).collect();
    let made = |wanted: &str| {
        created.iter().find_map(|user| match user {
            User::Create { name, uid, gid, .. } if name == wanted => Some((*uid, *gid)),
            _ => None,
        })
    };
    let (uid, primary) = match copy.owner.user.as_deref() {
        None | Some("") => (0, 0),
        Some(user) => match user.parse::<u32>() {
            Ok(uid) => (uid, 0),
            Err(_) => {
                made(user).or_else(|| facts.user(user)).ok_or_else(|| unknown("user", user, first(&facts.passwd)))?
            }
        },
    };
    let gid = match copy.owner.group.as_deref() {
        None => primary,
        Some(group) => match group.parse::<u32>() {
            Ok(gid) => gid,
            Err(_) => made(group)
                .map(|(_, gid)| gid)
                .or_else(|| facts.group_id(group))
                .ok_or_else(|| unknown("group", group, first(&facts.group)))?,
        },
    };
    Ok((uid, gid))
}

/// The layer with users and time zone, where the image has either.
pub(crate) fn step(image: &Image, facts: &BaseFacts, above: &[&User]) -> Result<Option<Step>> {
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
    if files.is_empty() {
        return Ok(None);
    }
    let mut key = StepKey::of("user", 1).number("compressor", u64::from(SPLICE_VERSION));
    for file in &files {
        key =
            key.text("path", &file.path).number("uid", u64::from(file.owner.0)).number("gid", u64::from(file.owner.1));
        key = match &file.body {
            Body::Bytes(bytes) => key.bytes("content", bytes),
            Body::Symlink(to) => key.text("link", to),
            Body::Directory | Body::File(_) | Body::Entry(..) => key.text("directory", ""),
        };
    }
    let name = said.join(", ");
    let history = format!("kiln: {name}");
    Ok(Some(Step { name, key: key.finish(), task: Task::Files(files), bytes: 0, history, settled: true }))
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
                return Err(BuildError::Project(format!(
                    "the base of `{}` has a user `{name}` already, with the ids {uid}:{gid}: take those, or another name",
                    image.name
                )));
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
