//! Reading built images back: the layers of a layout or archive, untarred.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;

use kiln_oci::image::Config;
use kiln_oci::layout::Layout;
use kiln_plan::digest::Digest;

/// An image of a layout.
pub(crate) struct ReadBack {
    pub(crate) config: Config,
    /// Each with its members.
    pub(crate) layers: Vec<Vec<Member>>,
}

/// A member of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) path: String,
    pub(crate) mode: u32,
    pub(crate) owner: (u64, u64),
    pub(crate) modified: u64,
    kind: char,
    link: String,
    pub(crate) content: Vec<u8>,
}

impl ReadBack {
    /// The image of this name and platform (`amd64`), with every digest and diff id checked.
    pub(crate) fn of(layout: &Path, name: &str, cpu: &str) -> Self {
        let opened = Layout::open(layout).unwrap();
        let images = opened.images().unwrap();
        let (_, found) = images
            .into_iter()
            .find(|(found, image)| found.as_deref() == Some(name) && image.image.platform.cpu.oci() == cpu)
            .unwrap_or_else(|| panic!("{} has no image {name} for {cpu}", layout.display()));
        let mut layers = Vec::new();
        for layer in &found.image.layers {
            let blob = fs_err::read(opened.blob_path(&layer.digest)).unwrap();
            assert_eq!((Digest::of(&blob), blob.len() as u64), (layer.digest, layer.size));
            let tar = inflate(&blob);
            assert_eq!(Digest::of(&tar), layer.diff_id);
            layers.push(members(&tar));
        }
        Self { config: found.config, layers }
    }

    /// The members of the layers above the base's one.
    pub(crate) fn added(&self) -> impl Iterator<Item = &Member> {
        self.layers.iter().skip(1).flatten()
    }

    /// The file that somebody in the image sees at a path: that of the highest layer.
    #[track_caller]
    pub(crate) fn file(&self, path: &str) -> &Member {
        let layers = self.layers.iter().rev();
        let mut found = layers.filter_map(|layer| layer.iter().find(|member| member.path == path));
        found.next().unwrap_or_else(|| panic!("there is no {path}; there are\n{}", self.list()))
    }

    /// Its text.
    #[track_caller]
    pub(crate) fn text(&self, path: &str) -> String {
        String::from_utf8(self.file(path).content.clone()).unwrap()
    }

    /// What the layers above the base hold, one member a line as `tar -tv` shows them, a line between layers.
    pub(crate) fn list(&self) -> String {
        self.layers.iter().skip(1).map(|layer| list(layer)).collect::<Vec<_>>().join("--\n")
    }

    /// The config's history, one entry a line.
    pub(crate) fn history(&self) -> Vec<&str> {
        self.config.history.iter().filter_map(|entry| entry.created_by.as_deref()).collect()
    }
}

pub(crate) fn list(members: &[Member]) -> String {
    let mut text = String::new();
    for member in members {
        let (mode, (uid, gid), path) = (member.mode, member.owner, &member.path);
        let _ = write!(text, "{}{mode:04o} {uid}:{gid} {path}", member.kind);
        let _ = writeln!(text, "{}{}", if member.link.is_empty() { "" } else { " -> " }, member.link);
    }
    text
}

pub(crate) fn inflate(blob: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    match blob {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            kiln_oci::compression::decompress(std::io::Cursor::new(blob.to_vec())).unwrap().read_to_end(&mut tar)
        }
        // Not kiln's own reader: every member of the gzip stream must be readable by others.
        _ => flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut tar),
    }
    .unwrap();
    tar
}

pub(crate) fn members(tar: &[u8]) -> Vec<Member> {
    let mut members = Vec::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let header = entry.header();
        let kind = match header.entry_type() {
            tar::EntryType::Directory => 'd',
            tar::EntryType::Symlink => 'l',
            tar::EntryType::Regular => '-',
            other => panic!("a member of the type {other:?}"),
        };
        members.push(Member {
            path: entry.path().unwrap().to_str().unwrap().trim_end_matches('/').to_owned(),
            mode: header.mode().unwrap(),
            owner: (header.uid().unwrap(), header.gid().unwrap()),
            modified: header.mtime().unwrap(),
            kind,
            link: entry.link_name().unwrap().map(|to| to.display().to_string()).unwrap_or_default(),
            content,
        });
    }
    members
}

/// The members of a tar file by path.
pub(crate) fn archive(path: &Path) -> BTreeMap<String, Vec<u8>> {
    members(&fs_err::read(path).unwrap()).into_iter().map(|member| (member.path, member.content)).collect()
}
