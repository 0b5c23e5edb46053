//! `file-below`: one file of text of what is below an image, to which the stack file adds lines. Layers are read from the top
//! until one tells of it.

use std::io::Read as _;

use kiln_oci::compression::LayerTar;
use kiln_oci::facts::Entries;
use kiln_oci::image::Image;
use kiln_oci::layer::Layer;
use kiln_plan::base::Attributes;
use serde::Serialize;

use crate::context::Context;
use crate::error::{BuildError, Result};
use crate::node::Node;
use crate::product::TextFile;
use crate::step::{Cost, Keep, Kind, Level, Read, Step, Subject};

/// Bytes that a file may have to which lines are added.
const LARGEST: u64 = 4 << 20;

/// Hard links that are followed one after the other.
const HOPS: usize = 8;

/// A file of what is below.
#[derive(Serialize)]
pub(crate) struct FileBelow {
    /// The image or base below.
    image: Option<Node<Image>>,
    /// Layers above that, the lowest first.
    layers: Vec<Node<Vec<Layer>>>,
    /// Path without links and without a leading slash.
    path: String,
}

impl FileBelow {
    pub(crate) fn new(image: Option<Node<Image>>, layers: Vec<Node<Vec<Layer>>>, path: String) -> Self {
        Self { image, layers, path }
    }

    fn no_file(&self, problem: &str) -> BuildError {
        BuildError::Mistake {
            message: format!("nothing can be appended to `/{}`: {problem}", self.path),
            hint: "give the whole file with `text`".into(),
        }
    }
}

/// The answer of one layer about a file.
enum Told {
    Nothing,
    /// It hides the file.
    Hidden,
    File(TextFile),
    /// It is another name of this file.
    Same(String),
}

impl Step for FileBelow {
    type Product = TextFile;
    const KIND: Kind = Kind { name: "file-below", version: 1 };

    fn subject(&self) -> Subject {
        Subject::FileBelow(format!("/{}", self.path))
    }

    fn reads(&self) -> Vec<Read> {
        let image = self.image.map(|node| node.at(Level::Known));
        image.into_iter().chain(self.layers.iter().map(|node| node.at(Level::Reachable))).collect()
    }

    fn cost(&self) -> Cost {
        Cost::Network(0)
    }

    fn keep(&self) -> Keep {
        Keep::Here
    }

    fn perform(&self, context: &Context<'_>) -> Result<TextFile> {
        let below = self.image.map(|node| &context.get(node).layers);
        let above = self.layers.iter().flat_map(|node| context.get(*node));
        let layers: Vec<&Layer> = below.into_iter().flatten().chain(above).collect();
        let (mut path, mut hops) = (self.path.clone(), 0);
        let mut at = layers.len();
        while at > 0 {
            match self.in_layer(context, layers[at - 1], &path)? {
                Told::Nothing => at -= 1,
                Told::Hidden => break,
                Told::File(file) => return Ok(file),
                Told::Same(other) if hops < HOPS => (path, hops) = (other, hops + 1),
                Told::Same(_) => break,
            }
        }
        Err(self.no_file("there is no such file"))
    }
}

impl FileBelow {
    fn in_layer(&self, context: &Context<'_>, layer: &Layer, wanted: &str) -> Result<Told> {
        let unreadable = |error: Box<dyn std::error::Error + Send + Sync>| BuildError::Unreadable {
            what: format!("the layer {}", layer.digest.short()),
            source: error,
        };
        let work = context.work("inspect", layer.digest.short(), Some(layer.size));
        let blob = context.workshop.open_anywhere(&layer.digest, layer.size)?;
        let mut tar = LayerTar::open(layer, blob).map_err(|error| unreadable(error.into()))?;
        let mut entries = Entries::new(&mut tar);
        let mut told = Told::Nothing;
        while let Some(member) = entries.next_member().map_err(|error| unreadable(error.into()))? {
            work.advance(0)?;
            let path = String::from_utf8_lossy(&member.path);
            let path = path.trim_start_matches("./").trim_matches('/');
            if path == wanted {
                if member.kind.is_hard_link() {
                    let link = String::from_utf8_lossy(&member.link);
                    told = Told::Same(link.trim_start_matches("./").trim_matches('/').to_owned());
                    continue;
                }
                if !member.kind.is_file() {
                    return Err(self.no_file("it is no plain file; name the file that it leads to"));
                }
                let mut bytes = Vec::new();
                (&mut entries).take(LARGEST + 1).read_to_end(&mut bytes)?;
                if bytes.len() as u64 > LARGEST {
                    return Err(self.no_file("it is too large"));
                }
                let text = String::from_utf8(bytes).map_err(|_| self.no_file("it is no text"))?;
                let Attributes { mode, owner, .. } = member.attributes();
                told = Told::File(TextFile { mode, owner, text });
            } else if matches!(told, Told::Nothing) && hides(path, wanted) {
                told = Told::Hidden;
            }
        }
        tar.verify().map_err(|error| unreadable(error.into()))?;
        Ok(told)
    }
}

/// Returns true for a whiteout that hides a path of the layers below (OCI image specification, "Whiteouts").
fn hides(whiteout: &str, path: &str) -> bool {
    let (directory, name) = whiteout.rsplit_once('/').unwrap_or(("", whiteout));
    let Some(hidden) = name.strip_prefix(".wh.") else { return false };
    let is_at_or_below = |above: &str| {
        above.is_empty() || path == above || path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
    };
    match hidden {
        ".wh..opq" => is_at_or_below(directory),
        hidden if directory.is_empty() => is_at_or_below(hidden),
        hidden => is_at_or_below(&format!("{directory}/{hidden}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whiteout_hides_a_file_and_what_is_below_a_directory() {
        for whiteout in ["etc/.wh.bash.bashrc", ".wh.etc", "etc/.wh..wh..opq", ".wh..wh..opq"] {
            assert!(hides(whiteout, "etc/bash.bashrc"), "{whiteout}");
        }
        for other in ["etc/.wh.bash", "etc/bash.bashrc", ".wh.et", "usr/.wh..wh..opq"] {
            assert!(!hides(other, "etc/bash.bashrc"), "{other}");
        }
    }
}
