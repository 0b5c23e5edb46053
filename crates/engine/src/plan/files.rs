//! The files that copies take, and what they leave out, each with the rule that says so.

use kiln_plan::platform::Platform;
use kiln_plan::stack;
use serde::Serialize;

use crate::error::Result;
use crate::project::Project;
use crate::snapshot::{Decided, Snapshot, SourceKind};
use crate::steps::copy::directory_mode;

/// The files of one copy of an image.
#[derive(Debug, Clone, Serialize)]
pub struct CopyPlan {
    /// The image.
    pub image: String,
    /// Its sources, as the stack file has them.
    pub from: String,
    /// Its place in the image.
    pub to: String,
    /// All that is copied, directories before what is in them.
    pub files: Vec<CopiedFile>,
    /// Paths for which a rule decided, relative to the project.
    pub decided: Vec<Decided>,
}

/// A file, directory or link that is copied.
#[derive(Debug, Clone, Serialize)]
pub struct CopiedFile {
    /// Path below the copy's place; empty for a file that takes the place itself.
    pub path: String,
    /// `file`, `directory` or `link`.
    pub kind: &'static str,
    /// Permission bits in octal; none for links.
    pub mode: Option<String>,
    /// Bytes of a file.
    pub size: u64,
}

impl Project<'_> {
    /// Lists what images copy from the project. Nothing is done.
    pub fn plan_files(&self, names: &[String]) -> Result<Vec<CopyPlan>> {
        let images = self.chosen(names)?;
        let snapshot = Snapshot::of(self, &images)?;
        let platform = self.stack.platforms.first().copied();
        let mut plans = Vec::new();
        for image in images {
            let image = platform.map_or(image, |platform: Platform| self.stack.on(image, platform));
            for copy in image.copy.iter().filter(|copy| copy.elsewhere.is_none()) {
                plans.push(self.copy_plan(&snapshot, image, copy)?);
            }
        }
        Ok(plans)
    }

    fn copy_plan(&self, snapshot: &Snapshot, image: &stack::Image, copy: &stack::Copy) -> Result<CopyPlan> {
        let copied = snapshot.copied(copy)?;
        let files = copied.files.iter().map(|file| {
            let (kind, mode) = match &file.kind {
                SourceKind::Directory { mode } => ("directory", Some(directory_mode(*mode, copy.mode))),
                SourceKind::File { mode, .. } => ("file", Some(copy.mode.unwrap_or(*mode))),
                SourceKind::Symlink(_) => ("link", None),
            };
            let mode = mode.map(|mode| format!("{mode:04o}"));
            CopiedFile { path: file.path.clone(), kind, mode, size: file.size }
        });
        let decided = copied.decided.iter().map(|decided| {
            let path = decided.path.strip_prefix(&self.directory).unwrap_or(&decided.path).to_owned();
            Decided { path, ..decided.clone() }
        });
        let (from, to) = (copy.shown(), copy.to.clone());
        Ok(CopyPlan { image: image.name.clone(), from, to, files: files.collect(), decided: decided.collect() })
    }
}
