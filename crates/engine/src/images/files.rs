//! Users, copies, files and the program of an image: what is not Python.

use std::sync::Arc;

use kiln_oci::layer::{Body, LayerFile};
use kiln_plan::base::{BaseFacts, DEFAULT_PATH};
use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::stack::{self, CommandLine, FileContent};

use super::{Builder, Draft};
use crate::accounts::Noted;
use crate::error::{BuildError, Result};
use crate::node::Node;
use crate::product::Verdict;
use crate::settings::Settings;
use crate::step::Step;
use crate::steps::agreement::Content;
use crate::steps::compose::MAX_LAYERS;
use crate::steps::copy::Copy;
use crate::steps::file_below::FileBelow;
use crate::steps::files::{Files, Wanted};
use crate::steps::program::Program;
use crate::steps::users::Users;

/// Read by login shells, which forget the environment (`/etc/profile` of Debian, Alpine, Fedora).
const PROFILE: &str = "etc/profile.d";

impl Builder<'_> {
    /// Adds the layer of users and time zone.
    pub(super) fn users(&mut self, image: &stack::Image, facts: &BaseFacts, draft: &mut Draft) -> Result<()> {
        let ground = &mut draft.ground;
        if let Some(step) = Users::of(image, facts, &mut ground.accounts, &mut ground.below)? {
            let name = step.subject().to_string();
            ground.contents.push(Arc::new(Content::Files(name.clone(), step.files())));
            let node = self.graph.add(step)?;
            draft.layer(node, format!("kiln: {name}"), 0);
        }
        if let Some(user) = &image.user {
            draft.ground.accounts.require(user, image.user_span.clone())?;
            draft.ground.inherited.user = Some(user.clone());
        }
        Ok(())
    }

    /// Adds a layer for each copy; several share one where the image would have too many layers.
    pub(super) fn copies(&mut self, image: &stack::Image, draft: &mut Draft) -> Result<()> {
        let room = MAX_LAYERS.saturating_sub(draft.ground.layers + draft.layers.len() + 1 + image.run.len()).max(1);
        let together = image.copy.len().div_ceil(room).max(1);
        for copies in image.copy.chunks(together) {
            let (mut all, mut after) = (Vec::new(), Vec::new());
            for copy in copies {
                let (copied, found_by) = self.copied(copy, draft.platform)?;
                all.push((copy, copied, draft.ground.accounts.owner_of(copy)?));
                after.extend(found_by);
            }
            let ground = &mut draft.ground;
            let step = Copy::new(all, after, image.compression, &mut ground.below)?;
            let (history, bytes) = (step.history(), step.bytes());
            for file in step.files() {
                ground.accounts.note_file(&file.path, Noted::Copied(&step.subject().to_string()));
            }
            ground.contents.push(Arc::new(Content::Files(step.subject().to_string(), step.files())));
            let node = self.graph.add(step)?;
            draft.layer(node, history, bytes);
        }
        Ok(())
    }

    /// Adds the layer of files that the stack file holds, of the working directory, and of the `PATH` of login shells.
    pub(super) fn files(&mut self, image: &stack::Image, settings: &Settings, draft: &mut Draft) -> Result<()> {
        let mut wanted = Vec::new();
        for (at, file) in image.files.iter().enumerate() {
            let earlier = |other: &Wanted| format!("/{}", other.file.path) == file.to;
            let longer = match file.content {
                FileContent::Append(_) if !wanted.iter().any(earlier) => Some(self.file_below(&file.to, draft)?),
                _ => None,
            };
            let link = |other: &stack::File| other.to == file.to && matches!(other.content, FileContent::Link(_));
            if matches!(file.content, FileContent::Append(_)) && image.files[..at].iter().any(link) {
                let message = format!("`{}` is a link here: nothing can be appended to it", file.to);
                return Err(Diagnostics::from(Diagnostic::at(file.to_span.clone(), message)).into());
            }
            wanted.push(Wanted::of(file, &draft.ground.accounts, longer)?);
            let path = file.to.trim_matches('/');
            match &file.content {
                FileContent::Text(text) => draft.ground.accounts.note_file(path, Noted::Whole(text)),
                FileContent::Append(text) => draft.ground.accounts.note_file(path, Noted::Added(text)),
                FileContent::Link(_) | FileContent::Directory => {}
            }
        }
        let inherited = &mut draft.ground.inherited;
        inherited.path = settings.path(inherited.path.as_deref());
        inherited.workdir = image.workdir.clone().or(inherited.workdir.take());
        wanted.extend(working_directory(image, draft));
        wanted.extend(login_path(draft));
        if let Some(step) = Files::new(wanted, &mut draft.ground.below)? {
            let name = step.subject().to_string();
            draft.ground.contents.push(Arc::new(Content::Files(name.clone(), step.files())));
            let node = self.graph.add(step)?;
            draft.layer(node, format!("kiln: {name}"), 0);
        }
        Ok(())
    }

    /// Refuses an entry point that the stack's own layers bring without a right to execute it.
    fn require_executable(&self, image: &stack::Image, name: &str, draft: &Draft) -> Result<()> {
        let Some(path) = name.strip_prefix('/').and_then(|path| draft.ground.below.landing(path)) else {
            return Ok(());
        };
        let files = draft.ground.contents.iter().rev().filter_map(|content| match &**content {
            Content::Files(_, files) => files.iter().find(|file| file.path == path),
            Content::Wheels(..) => None,
        });
        let is_file = |file: &&LayerFile| !matches!(file.body, Body::Directory | Body::Symlink(_));
        match files.into_iter().next().filter(is_file).is_some_and(|file| file.mode & 0o111 == 0) {
            true => Err(at_entrypoint(
                image,
                BuildError::Mistake {
                    message: format!("the image runs `{name}`, which nobody may execute"),
                    hint: "`chmod +x` it in the project, or say `mode = \"0755\"` where it is copied".into(),
                },
            )),
            false => Ok(()),
        }
    }

    fn file_below(&mut self, path: &str, draft: &Draft) -> Result<Node<crate::product::TextFile>> {
        let path = path.trim_matches('/');
        let real = draft.ground.below.landing(path).ok_or_else(|| BuildError::Mistake {
            message: format!("nothing can be appended to `/{path}`: its directory is not there"),
            hint: "give the whole file with `text`".into(),
        })?;
        let layers = draft.layers.iter().map(|layer| layer.node).collect();
        self.graph.add(FileBelow::new(draft.ground.image, layers, real))
    }

    /// Looks for the program that an image runs, and adds the step that looks for it in wheels where they could bring it.
    pub(super) fn program(&mut self, image: &stack::Image, draft: &Draft) -> Result<Option<Node<Verdict>>> {
        let (Some(CommandLine::Words(words)), ground) = (&image.entrypoint, &draft.ground) else { return Ok(None) };
        if !image.run.is_empty() {
            // A command may make it.
            return Ok(None);
        }
        let Some(name) = words.first().filter(|name| !name.is_empty() && !name.contains('$')) else { return Ok(None) };
        let path = ground.inherited.path.as_deref().unwrap_or(DEFAULT_PATH);
        let workdir = ground.inherited.workdir.as_deref().unwrap_or("/");
        let wheels = ground.tiers.iter().flatten().map(|(_, paths)| *paths).collect();
        self.require_executable(image, name, draft)?;
        let step =
            Program::look(name, (path, workdir), &ground.below, wheels).map_err(|error| at_entrypoint(image, error))?;
        step.map(|step| self.graph.add(step)).transpose()
    }
}

/// Returns the working directory, the user's, where it is not there.
fn working_directory(image: &stack::Image, draft: &Draft) -> Option<Wanted> {
    let path = image.workdir.as_ref()?.trim_matches('/');
    if path.is_empty() || draft.ground.below.is_directory(path) {
        return None;
    }
    let inherited = draft.ground.inherited.user.as_deref();
    let owner = inherited.and_then(|user| draft.ground.accounts.ids(user)).unwrap_or((0, 0));
    let file = LayerFile { owner, ..LayerFile::directory(path) };
    Some(Wanted { file, gives: (false, false), appends: false, longer: None })
}

/// Returns the file that gives login shells the `PATH` of the image, where it has users that kiln made.
fn login_path(draft: &mut Draft) -> Option<Wanted> {
    let ground = &mut draft.ground;
    let path = ground.inherited.path.clone()?;
    let is_needed = ground.accounts.has_made_users() && ground.below.is_directory(PROFILE);
    if !is_needed || ground.inherited.login_path.as_ref() == Some(&path) {
        return None;
    }
    let text = format!(
        "# The PATH of the image, which login shells forget.\nPATH='{}'\nexport PATH\n",
        path.replace('\'', "'\\''")
    );
    ground.inherited.login_path = Some(path);
    Some(Wanted {
        file: LayerFile::bytes(format!("{PROFILE}/kiln.sh"), text),
        gives: (false, false),
        appends: false,
        longer: None,
    })
}

/// Points at the entry point that an error is about.
fn at_entrypoint(image: &stack::Image, error: BuildError) -> BuildError {
    match (error, &image.entrypoint_span) {
        (BuildError::Mistake { message, hint }, Some(span)) => {
            Diagnostics::from(Diagnostic::at(span.clone(), message).hint(hint)).into()
        }
        (error, _) => error,
    }
}
