//! `fetch`: a locked wheel comes into the store, from this machine or from an index.

use std::path::PathBuf;

use kiln_plan::digest::Digest;
use kiln_plan::lock::LockedWheel;
use serde::Serialize;
use url::Url;

use crate::context::Context;
use crate::error::{FetchError, Result};
use crate::fetch::Wanted;
use crate::product::Wheel;
use crate::step::{Cost, Keep, Kind, Step, Subject};
use crate::workshop::Workshop;

/// A locked wheel.
#[derive(Serialize)]
pub(crate) struct Fetch {
    sha256: Digest,
    #[serde(skip)]
    subject: Subject,
    #[serde(skip)]
    wheel: LockedWheel,
    /// Paths on this machine where it may lie.
    #[serde(skip)]
    paths: Vec<PathBuf>,
    /// Its address, with the credentials that the stack gives.
    #[serde(skip)]
    url: Option<Url>,
}

impl Fetch {
    pub(crate) fn new(subject: Subject, wheel: LockedWheel, paths: Vec<PathBuf>, url: Option<Url>) -> Self {
        Self { sha256: wheel.sha256, subject, wheel, paths, url }
    }

    /// Returns the file on this machine that may be the wheel: its digest is checked when it is read.
    fn local(&self) -> Option<&PathBuf> {
        self.paths.iter().find(|path| {
            fs_err::metadata(path).is_ok_and(|found| {
                found.is_file() && (self.url.is_none() || self.wheel.size.is_none_or(|size| size == found.len()))
            })
        })
    }

    /// Returns true if the wheel is on this machine.
    pub(crate) fn is_at_hand(&self, workshop: &Workshop<'_>) -> bool {
        workshop.holds(&self.sha256) || self.local().is_some()
    }

    fn wanted(&self, offline: bool) -> Result<Wanted> {
        let file = self.wheel.file.clone();
        if offline {
            return Err(FetchError::Offline(file).into());
        }
        let Some(url) = self.url.clone() else { return Err(FetchError::Nowhere(file).into()) };
        Ok(Wanted { file, url, digest: self.sha256, size: self.wheel.size })
    }
}

impl Step for Fetch {
    type Product = Wheel;
    const KIND: Kind = Kind { name: "fetch", version: 1 };

    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn declared(&self) -> Option<Wheel> {
        let LockedWheel { file, sha256, size, .. } = self.wheel.clone();
        Some(Wheel { file, digest: sha256, size, kept: None })
    }

    fn cost(&self) -> Cost {
        Cost::Network(self.wheel.size.unwrap_or(0))
    }

    fn downloads(&self) -> Option<u64> {
        self.url.as_ref().and(self.wheel.size)
    }

    fn keep(&self) -> Keep {
        Keep::Never
    }

    fn perform(&self, context: &Context<'_>) -> Result<Wheel> {
        let workshop = context.workshop;
        if !workshop.holds(&self.sha256) {
            match self.local() {
                Some(path) => workshop.link_wheel(path, &self.wheel)?,
                None => workshop.download(&self.wanted(workshop.surroundings.offline)?)?,
            }
        }
        let LockedWheel { file, sha256, size, .. } = self.wheel.clone();
        Ok(Wheel { file, digest: sha256, size, kept: None })
    }
}
