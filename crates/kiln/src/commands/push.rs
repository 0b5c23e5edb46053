//! `kiln push`

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use kiln_oci::layout::split_name;
use kiln_plan::event::Cancel;
use kiln_plan::reference::Reference;

use super::build::{pushed_json, pushed_line};
use super::{Outcome, print, print_json, with_workshop};
use crate::arguments::Global;

/// Push an image of an OCI layout to a registry; images of the stack are pushed by `kiln build --push`
///
/// All that the layout has of it is pushed, byte for byte: every platform, attestations and annotations.
#[derive(Debug, Args)]
pub(crate) struct Push {
    /// `oci:DIR`, or `oci:DIR:NAME` where the layout has several images
    image: LayoutImage,
    /// Such as `ghcr.io/acme/base:12`
    reference: Reference,
}

/// An image of a layout.
#[derive(Debug, Clone)]
struct LayoutImage {
    directory: PathBuf,
    name: Option<String>,
}

impl FromStr for LayoutImage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("oci:").filter(|rest| !rest.is_empty());
        let rest = rest.ok_or("write `oci:DIR` or `oci:DIR:NAME`")?;
        let (directory, name) = split_name(rest, |directory| Path::new(directory).is_dir());
        Ok(Self { directory: directory.into(), name: name.map(str::to_owned) })
    }
}

impl Push {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let LayoutImage { directory, name } = &self.image;
        let pushed = with_workshop(global, cancel, |workshop| {
            Ok(workshop.push_layout(directory, name.as_deref(), &self.reference)?)
        })?;
        if global.json { print_json(&pushed_json(&pushed)) } else { print(&pushed_line(&pushed)) }
    }
}
