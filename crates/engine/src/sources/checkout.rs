//! The files of a commit, written by git itself with a configuration of kiln's: no hooks, no filters but those of Git LFS, nothing of the
//! user's but credentials. Repositories that it contains are fetched each by itself.

use std::path::{Path, PathBuf};

use kiln_oci::tree::{Listed, ListedKind};
use kiln_plan::digest::Digest;
use kiln_programs::Stdout;
use kiln_store::remove_tree;
use serde::Serialize;

use crate::error::{BuildError, Result};
use crate::git::Commit;
use crate::workshop::Workshop;

/// Repositories within repositories.
const DEEPEST: usize = 16;
/// Bytes of `.gitmodules` and of lists of paths.
const LIST: usize = 256 << 20;

/// A commit whose files are wanted.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Checkout {
    /// Its name, 40 or 64 hexadecimal digits.
    pub(crate) commit: String,
    /// The repositories that it contains are wanted, too.
    pub(crate) submodules: bool,
    /// Files that Git LFS keeps are wanted.
    pub(crate) lfs: bool,
    /// `.git` stays: the name under which the commit was asked for, which may be a tag.
    pub(crate) keep_git: Option<String>,
    pub(crate) patches: Vec<Patch>,
    #[serde(skip)]
    pub(crate) url: String,
}

/// A patch of the project.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Patch {
    pub(crate) sha256: Digest,
    /// Its path, relative to the stack file.
    #[serde(skip)]
    pub(crate) name: String,
    #[serde(skip)]
    pub(crate) content: Vec<u8>,
}

impl Checkout {
    /// Writes the files into an empty directory.
    pub(super) fn fill(&self, workshop: &Workshop<'_>, directory: &Path) -> Result<()> {
        let commit = Commit::fetch(workshop, &self.url, &self.commit)?;
        self.write(workshop, &commit, directory, 0)?;
        for patch in &self.patches {
            commit.apply(directory, &patch.content).map_err(|error| BuildError::Mistake {
                message: format!("`{}` does not apply to {} at {}: {error}", patch.name, self.url, self.commit),
                hint: "patches are applied in their order, as `git apply` does".into(),
            })?;
        }
        match &self.keep_git {
            Some(name) => commit.keep(directory, name),
            None => Ok(()),
        }
    }

    fn write(&self, workshop: &Workshop<'_>, commit: &Commit<'_>, directory: &Path, depth: usize) -> Result<()> {
        commit.check_out(directory, self.lfs)?;
        if !self.submodules {
            if let [(first, _), rest @ ..] = commit.contained()?.as_slice() {
                let (url, more) = (&self.url, if rest.is_empty() { "" } else { " and others" });
                let first = first.display();
                workshop.warn(format!(
                    "{url} contains the repository `{first}`{more}, which only `submodules = true` fetches"
                ));
            }
            return Ok(());
        }
        for (path, id) in commit.contained()? {
            let url = commit.url_of(&path)?;
            if depth == DEEPEST {
                let message = format!("{} contains repositories more than {DEEPEST} deep", self.url);
                return Err(BuildError::Mistake { message, hint: "leave `submodules` out".into() });
            }
            let inner = Commit::fetch(workshop, &url, &id)?;
            let place = directory.join(&path);
            // Links of the commit lead nowhere that another repository is written to.
            let parent = place.parent().unwrap_or(directory);
            if fs_err::canonicalize(parent)?
                != fs_err::canonicalize(directory)?.join(path.parent().unwrap_or(Path::new("")))
            {
                return Err(commit.problem(&format!("it contains a repository below the link `{}`", path.display())));
            }
            if fs_err::symlink_metadata(&place).is_ok_and(|found| !found.is_dir()) {
                return Err(commit.problem(&format!("it contains a repository at `{}`, which is none", path.display())));
            }
            fs_err::create_dir_all(&place)?;
            self.write(workshop, &inner, &place, depth + 1)?;
        }
        Ok(())
    }
}

/// Gives a path of a commit the mode that it has in git, whatever the umask is, and no time.
pub(super) fn normalise(listed: &mut Listed) {
    listed.owner = (0, 0);
    listed.time = 0;
    listed.xattrs.clear();
    listed.mode = match &listed.kind {
        ListedKind::Directory(_) => 0o755,
        ListedKind::File(..) if listed.mode & 0o100 == 0 => 0o644,
        ListedKind::File(..) => 0o755,
        _ => listed.mode,
    };
}

impl Commit<'_> {
    /// Writes the files of the commit into an empty directory.
    fn check_out(&self, directory: &Path, lfs: bool) -> Result<()> {
        let mut arguments = Vec::new();
        if lfs && self.has_large_files()? {
            if self.program("git-lfs").is_none() {
                return Err(BuildError::Program {
                    program: "git-lfs".into(),
                    purpose: "to fetch the files that Git LFS keeps".into(),
                    problem: "is not on PATH".into(),
                    hint: "install git-lfs, or say `lfs = false` to copy the pointers".into(),
                });
            }
            arguments.extend(
                ["-c", "filter.lfs.smudge=git-lfs smudge -- %f", "-c", "filter.lfs.required=true"].map(str::to_owned),
            );
            arguments.extend(["-c".into(), "filter.lfs.process=git-lfs filter-process".into()]);
            arguments.extend(["-c".into(), format!("remote.origin.url={}", self.url)]);
        }
        arguments.extend(["checkout", "--quiet", "--force", "--detach", &self.id].map(str::to_owned));
        self.run(self.call(&arguments, Stdout::Discarded)?.variable("GIT_WORK_TREE", directory))?;
        Ok(())
    }

    /// Returns true if a `.gitattributes` of the commit hands files to Git LFS.
    fn has_large_files(&self) -> Result<bool> {
        let arguments = ["grep", "--quiet", "-e", "filter=lfs", &self.id, "--", ":(glob)**/.gitattributes"];
        // Status 1: there is none.
        Ok(self.ask(&arguments, Stdout::Discarded)?.is_some())
    }

    /// Returns the repositories that the commit contains: path and commit.
    fn contained(&self) -> Result<Vec<(PathBuf, String)>> {
        let list = self.git(&["ls-tree", "-r", "-z", "--full-tree", &self.id], Stdout::Captured(LIST))?;
        let entry = |line: &[u8]| {
            let line = std::str::from_utf8(line).ok()?;
            let (about, path) = line.split_once('\t')?;
            let mut fields = about.split_whitespace();
            let is_repository = fields.next()? == "160000" && fields.next()? == "commit";
            is_repository.then(|| Some((PathBuf::from(path), fields.next()?.to_owned())))?
        };
        Ok(list.split(|byte| *byte == 0).filter_map(entry).collect())
    }

    /// Returns the address of a repository that the commit contains (gitmodules(5)).
    fn url_of(&self, path: &Path) -> Result<String> {
        let blob = format!("{}:.gitmodules", self.id);
        let all = self.ask(&["config", "--blob", &blob, "--null", "--list"], Stdout::Captured(LIST))?;
        let all = String::from_utf8_lossy(&all.unwrap_or_default()).into_owned();
        let entries: Vec<(&str, &str)> = all.split('\0').filter_map(|entry| entry.split_once('\n')).collect();
        let name = entries.iter().find_map(|(key, value)| {
            let name = key.strip_prefix("submodule.")?.strip_suffix(".path")?;
            (Path::new(value.trim_end_matches('/')) == path).then_some(name)
        });
        let url = name.and_then(|name| {
            let wanted = format!("submodule.{name}.url");
            entries.iter().find(|(key, _)| *key == wanted).map(|(_, url)| *url)
        });
        let url = url.ok_or_else(|| self.problem(&format!("`.gitmodules` has no address for `{}`", path.display())))?;
        if url.starts_with('-') {
            return Err(self.problem(&format!("`.gitmodules` has the address `{url}`")));
        }
        Ok(relative_to(&self.url, url))
    }

    /// Applies a patch to files. The error is what git said.
    fn apply(&self, directory: &Path, patch: &[u8]) -> std::result::Result<(), String> {
        let call = self.call(&["apply", "--whitespace=nowarn", "-"], Stdout::Discarded);
        let call = call.map_err(|error| error.to_string())?;
        let call = call.variable("GIT_WORK_TREE", directory).directory(directory).input(patch.to_vec());
        self.said(call).map(drop)
    }

    /// Puts a `.git` beside the files: one commit, detached, with the tag that it was asked for under. The same commit gives the same
    /// bytes with one version of git.
    fn keep(&self, directory: &Path, name: &str) -> Result<()> {
        let tag = format!("refs/tags/{name}");
        // A name that is no tag is no error.
        self.ask(
            &["fetch", "--quiet", "--depth", "1", "--no-tags", "--", &self.url, &format!("+{tag}:{tag}")],
            Stdout::Discarded,
        )?;
        let packed = [
            "-c",
            "pack.threads=1",
            "-c",
            "repack.writeBitmaps=false",
            "repack",
            "--quiet",
            "-a",
            "-d",
            "-F",
            "--window=0",
        ];
        self.git(&packed, Stdout::Discarded)?;
        let place = directory.join(".git");
        fs_err::create_dir_all(place.join("objects/pack"))?;
        fs_err::create_dir_all(place.join("refs/tags"))?;
        for entry in fs_err::read_dir(self.path().join("objects/pack"))? {
            let entry = entry?;
            let extension = entry.path().extension().map(|end| end.to_string_lossy().into_owned());
            if matches!(extension.as_deref(), Some("pack" | "idx")) {
                fs_err::copy(entry.path(), place.join("objects/pack").join(entry.file_name()))?;
            }
        }
        fs_err::write(place.join("HEAD"), format!("{}\n", self.id))?;
        fs_err::write(place.join("shallow"), format!("{}\n", self.id))?;
        let config = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n";
        fs_err::write(place.join("config"), config)?;
        if let Some(found) = self.ask(&["rev-parse", "--verify", "--quiet", &tag], Stdout::Captured(1 << 10))? {
            fs_err::write(place.join("packed-refs"), format!("{} {tag}\n", String::from_utf8_lossy(&found).trim()))?;
        }
        // An index without the times of files, which differ from machine to machine.
        let call = self.call(&["read-tree", &self.id], Stdout::Discarded)?.variable("GIT_DIR", &place);
        self.run(call)?;
        for left in ["hooks", "logs", "branches", "description", "info"] {
            match fs_err::symlink_metadata(place.join(left)) {
                Ok(_) => remove_tree(&place.join(left))?,
                Err(_) => continue,
            }
        }
        Ok(())
    }
}

/// Returns an address relative to another, where it is one (gitmodules(5), "submodule.<name>.url").
fn relative_to(base: &str, url: &str) -> String {
    if !url.starts_with("./") && !url.starts_with("../") {
        return url.to_owned();
    }
    let (mut base, mut rest) = (base.trim_end_matches('/'), url);
    loop {
        if let Some(after) = rest.strip_prefix("../") {
            rest = after;
            base = base.rsplit_once(['/', ':']).map_or(base, |(above, _)| above);
        } else if let Some(after) = rest.strip_prefix("./") {
            rest = after;
        } else {
            return format!("{base}/{rest}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_gitmodules_may_be_relative_to_that_of_the_repository() {
        let base = "https://example.org/acme/engine.git";
        assert_eq!(relative_to(base, "../other.git"), "https://example.org/acme/other.git");
        assert_eq!(relative_to(base, "./../../x/y"), "https://example.org/x/y");
        assert_eq!(relative_to("git@example.org:acme/engine", "../other"), "git@example.org:acme/other");
        assert_eq!(relative_to(base, "https://example.com/a"), "https://example.com/a");
    }
}
