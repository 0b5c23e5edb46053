//! `remove`: Python distributions of a base are hidden, by the files that their lists name.

use std::collections::BTreeSet;

use kiln_oci::SPLICE_VERSION;
use kiln_oci::facts::FactsReader;
use kiln_oci::image::Image;
use kiln_oci::layer::{Layer, LayerFile};
use kiln_plan::base::Distribution;
use serde::Serialize;

use super::facts::read_layers;
use crate::below::Around;
use crate::context::Context;
use crate::error::{BuildError, Result};
use crate::node::Node;
use crate::step::{Cost, Kind, Level, Read, Step, Subject};
use crate::uninstall::{Removal, with_directories};

/// Distributions that are hidden.
#[derive(Serialize)]
pub(crate) struct Remove {
    /// The image that has them.
    image: Node<Image>,
    distributions: Vec<Removal>,
    #[serde(skip_serializing_if = "Around::is_empty")]
    around: Around,
    compressor: u32,
    #[serde(skip)]
    names: Vec<String>,
}

impl Remove {
    /// `distributions` come with their names for people.
    pub(crate) fn new(image: Node<Image>, distributions: Vec<(String, Removal)>, around: Around) -> Self {
        let (names, distributions) = distributions.into_iter().unzip();
        Self { image, distributions, around, compressor: SPLICE_VERSION, names }
    }

    /// Returns the name of a distribution for people.
    pub(crate) fn name(held: &Distribution) -> String {
        format!("{} {}", held.name, held.version)
    }

    /// Returns the line of the image's history.
    pub(crate) fn history(&self) -> String {
        format!("kiln: without the base's {}", self.names.join(", "))
    }
}

impl Step for Remove {
    type Product = Vec<Layer>;
    const KIND: Kind = Kind { name: "remove", version: 2 };

    fn subject(&self) -> Subject {
        Subject::Removed(self.names.clone())
    }

    fn reads(&self) -> Vec<Read> {
        vec![self.image.at(Level::Known)]
    }

    fn cost(&self) -> Cost {
        Cost::Network(0)
    }

    fn perform(&self, context: &Context<'_>) -> Result<Vec<Layer>> {
        let directories = self.distributions.iter().flat_map(Removal::directories).collect::<BTreeSet<_>>();
        let texts = self.distributions.iter().flat_map(Removal::texts).collect();
        let mut reader = FactsReader::of_files(directories.into_iter().collect(), texts);
        let subject = self.subject().to_string();
        read_layers(context, &context.get(self.image).layers, "what is below", &mut reader)?;
        let files = reader.finish_files();
        let mut gone = BTreeSet::new();
        for (removal, name) in self.distributions.iter().zip(&self.names) {
            let listed = removal.files(&files).filter(|files| !files.is_empty());
            gone.extend(listed.ok_or_else(|| BuildError::Mistake {
                message: format!("the base has no list of the files of {name}: it cannot be removed"),
                hint: "take a base without it, or one where pip installed it: of what distutils or a package of the system \
                       installed, pip removes nothing either"
                    .into(),
            })?);
        }
        let gone = with_directories(&self.distributions, &files, gone);
        let files = self.around.fit(&subject, gone.into_iter().map(LayerFile::whiteout).collect())?;
        context.workshop.small_layer(&subject, files)
    }
}
