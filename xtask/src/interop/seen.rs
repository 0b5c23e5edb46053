//! Images as kiln sees them: the layers of a layout, put over one another by kiln's own rules.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use kiln_oci::compression::LayerTar;
use kiln_oci::layout::Layout;
use kiln_picture::{Node as Stands, Picture};
use kiln_plan::platform::Platform;
use sha2::{Digest, Sha256};
use tar::{Archive, Entry, EntryType};

use super::Result;
use super::tree::{Kind, Node};

/// Everything in an image by its path, with the digest of each file's content. The root, whose path is empty, is there if
/// a layer tells of it.
pub(crate) type Seen = BTreeMap<Vec<u8>, (Node, String)>;

/// A directory of which no layer says anything.
const UNSTATED: Node = Node { kind: Kind::Directory, mode: 0o755, owner: (0, 0), time: 0 };

/// A picture, and the owners of links by their paths: a picture keeps none.
#[derive(Default)]
struct Reading {
    picture: Picture<Node, (Node, String)>,
    owners: BTreeMap<Vec<u8>, (u32, u32)>,
}

/// Reads an image of a layout.
pub(crate) fn image(layout: &Path, name: &str) -> Result<Seen> {
    let layout = Layout::open(layout)?;
    let platform = Platform::host().ok_or("kiln builds for no such machine")?;
    let image = layout.image_for(Some(name), platform)?.image;
    let mut reading = Reading::default();
    for layer in &image.layers {
        reading.picture.next_layer();
        let blob = fs_err::File::open(layout.blob_path(&layer.digest))?.into_parts().0;
        let mut archive = Archive::new(LayerTar::open(layer, blob)?);
        for entry in archive.entries()? {
            reading.put(entry?)?;
        }
        archive.into_inner().verify()?;
    }
    Ok(reading.seen())
}

/// Reads the archive of a whole image.
pub(crate) fn archive(path: &Path) -> Result<Seen> {
    let mut reading = Reading::default();
    let mut archive = Archive::new(fs_err::File::open(path)?);
    for entry in archive.entries()? {
        reading.put(entry?)?;
    }
    Ok(reading.seen())
}

impl Reading {
    fn put<R: Read>(&mut self, mut entry: Entry<'_, R>) -> Result<()> {
        let path = entry.path_bytes().into_owned();
        let path = path.strip_suffix(b"/").unwrap_or(&path);
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            let parent = &path[..path.len() - name.len()];
            match hidden {
                b".wh..opq" => self.picture.opaque(parent),
                hidden => self.picture.whiteout(&[parent, hidden].concat()),
            }
            return Ok(());
        }
        let header = entry.header();
        let owner = (u32::try_from(header.uid()?)?, u32::try_from(header.gid()?)?);
        let node = |kind| Node { kind, mode: header.mode().unwrap_or(0) & 0o7777, owner, time: 0 };
        match header.entry_type() {
            EntryType::Directory => self.picture.put_directory(path, node(Kind::Directory)),
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or("a link leads nowhere")?;
                self.owners.extend(self.picture.landing(path).map(|landing| (landing, owner)));
                self.picture.put_symlink(path, &target);
            }
            EntryType::Link => {
                let first = entry.link_name_bytes().ok_or("a link leads nowhere")?;
                self.picture.put_hard_link(path, &first);
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let node = node(Kind::File(entry.size()));
                let digest = digest(&mut entry)?;
                self.picture.put_file(path, (node, digest));
            }
            _ => self.picture.put_file(path, (node(Kind::Other), String::new())),
        }
        Ok(())
    }

    fn seen(self) -> Seen {
        let mut seen = Seen::new();
        let mut note = |path: &[u8], node| {
            let found = match self.picture.node(node) {
                Stands::Directory(stated) => (stated.cloned().unwrap_or(UNSTATED), String::new()),
                Stands::File(file) => file.clone(),
                Stands::Symlink(target) => {
                    let kind = Kind::Link(String::from_utf8_lossy(target).into_owned());
                    let owner = self.owners.get(path).copied().unwrap_or_default();
                    (Node { kind, mode: 0o777, owner, time: 0 }, String::new())
                }
            };
            seen.insert(path.to_owned(), found);
        };
        if let Stands::Directory(Some(_)) = self.picture.node(kiln_picture::ROOT) {
            note(b"", kiln_picture::ROOT);
        }
        self.picture.visit(kiln_picture::ROOT, note);
        seen
    }
}

/// Returns the SHA-256 of content.
pub(crate) fn digest(content: &mut impl Read) -> Result<String> {
    let (mut sum, mut buffer) = (Sha256::new(), vec![0; 128 << 10]);
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => sum.update(&buffer[..read]),
        }
    }
}
