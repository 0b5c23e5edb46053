//! `system`: apt of the base installs packages of its distribution, in the sandbox, from files that kiln brings.

use kiln_oci::layer::Layer;
use kiln_oci::whole::WHOLE_VERSION;
use kiln_plan::digest::Digest;
use kiln_plan::lock::{LockedDeb, LockedSystem};
use kiln_plan::platform::Platform;
use kiln_plan::stack::{self, Compression};
use serde::Serialize;

use crate::context::Context;
use crate::debian::{Asked, Wishes};
use crate::error::Result;
use crate::node::Node;
use crate::product::Foundation;
use crate::sandboxed;
use crate::secrets::Searched;
use crate::step::{Commanded, Cost, Keep, Kind, Level, Read, Step, Subject};

/// A note on an SSH server, whose keys must differ from machine to machine.
const HOST_KEYS: &str = "without its host keys: `ssh-keygen -A` makes them when a container starts";

/// The installation of packages.
#[derive(Serialize)]
pub(crate) struct System {
    wishes: Wishes,
    /// The packages that are there to install.
    packages: Vec<Digest>,
    platform: Platform,
    foundation: Node<Foundation>,
    /// Commands below, which are older.
    below: u8,
    compression: Compression,
    writer: u32,
    #[serde(skip)]
    locked: LockedSystem,
}

impl System {
    pub(crate) fn new(
        wanted: &stack::System,
        locked: &LockedSystem,
        foundation: Node<Foundation>,
        (below, compression): (usize, Compression),
    ) -> Self {
        Self {
            wishes: Wishes::of(wanted, &locked.packages),
            packages: locked.packages.iter().map(|package| package.sha256).collect(),
            platform: locked.platform,
            foundation,
            below: u8::try_from(below).unwrap_or(u8::MAX),
            compression,
            writer: WHOLE_VERSION,
            locked: locked.clone(),
        }
    }

    /// Returns the line of the image's history.
    pub(crate) fn history(&self) -> String {
        format!("kiln: system {}", self.wishes)
    }

    /// Returns the bytes of its packages.
    pub(crate) fn bytes(&self) -> u64 {
        self.locked.packages.iter().map(|package: &LockedDeb| package.size).sum()
    }
}

impl Step for System {
    type Product = Vec<Layer>;
    const KIND: Kind = Kind { name: "system", version: 1 };

    fn subject(&self) -> Subject {
        Subject::System(self.wishes.to_string())
    }

    fn reads(&self) -> Vec<Read> {
        vec![self.foundation.at(Level::Known)]
    }

    fn cost(&self) -> Cost {
        Cost::Sandbox(0)
    }

    fn command(&self) -> Option<Commanded> {
        let shown = format!("system {}", self.wishes);
        Some(Commanded {
            shown,
            place: format!("image `{}`", self.locked.image),
            another: None,
            timeout: None,
            has_shell: false,
            has_network: false,
        })
    }

    fn keep(&self) -> Keep {
        Keep::Shared
    }

    fn notes(&self, _: &Vec<Layer>) -> Vec<String> {
        let has_keys = self.locked.packages.iter().any(|package| package.name == "openssh-server");
        has_keys.then(|| HOST_KEYS.to_owned()).into_iter().collect()
    }

    fn perform(&self, context: &Context<'_>) -> Result<Vec<Layer>> {
        let workshop = context.workshop;
        let below: Vec<&Layer> = context.get(self.foundation).layers.iter().collect();
        let asked = Asked {
            workshop,
            name: format!("{} ({})", self.locked.image, self.platform),
            layers: workshop.trees(&below)?,
            platform: self.platform,
            below: self.below,
        };
        asked.install(&self.wishes, &self.locked.packages, &self.locked.archives, |done| {
            let work = context.work("export", self.wishes.to_string(), None);
            let (shown, place) = (format!("system {}", self.wishes), format!("image `{}`", self.locked.image));
            sandboxed::pack(workshop, done, self.compression, (&shown, &place), &Searched::default(), &work)
        })
    }
}
