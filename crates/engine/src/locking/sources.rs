//! Places outside of the project. Requirements are fetched once, locked with the digests of their files, and read from the store;
//! copies are locked to a commit or to a digest, and fetched when they are built.

use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::digest::Digest;
use kiln_plan::lock::{Lock, LockedSource, SourceFile};
use kiln_plan::stack::{Copy, Elsewhere, Remote, RequirementsFile, Stack};
use url::Url;

use super::Upgrade;
use super::files::LARGEST_FILE;
use crate::error::{BuildError, FetchError, Result};
use crate::fetch::Fetcher;
use crate::git::{self, Commit, Entry};
use crate::project::Project;

/// Files of requirements and locks that one repository may have.
const MOST_FILES: usize = 2000;

impl Project<'_> {
    /// Locks the places outside of the project that requirements come from. What is locked stays, unless everything is chosen
    /// anew; its files are fetched again where the store lacks them.
    pub(super) fn lock_sources(&self, old: &Lock, upgrade: &Upgrade, frozen: bool) -> Result<Vec<LockedSource>> {
        let mut sources: Vec<LockedSource> = Vec::new();
        for file in self.stack.images.iter().flat_map(|image| &image.requirements_files) {
            let Some(remote) = &file.from else { continue };
            if sources.iter().any(|source| source.is_of(remote)) {
                continue;
            }
            let locked = old.source(remote);
            sources.push(match locked {
                Some(locked) if frozen || *upgrade != Upgrade::Everything => self.restored(locked, remote, file)?,
                None if frozen => {
                    return Err(BuildError::LockOutdated(format!("no files of {remote} are locked")));
                }
                _ => self.fetched(remote, remote_rev(remote), file)?,
            });
        }
        for image in &self.stack.images {
            for copy in image.copies() {
                self.lock_copy(copy, old, (upgrade, frozen), &mut sources)?;
            }
        }
        Ok(sources)
    }

    /// Locks the place of a copy, unless the stack file or another source pins it.
    fn lock_copy(
        &self,
        copy: &Copy,
        old: &Lock,
        (upgrade, frozen): (&Upgrade, bool),
        sources: &mut Vec<LockedSource>,
    ) -> Result<()> {
        let remote = match &copy.elsewhere {
            Some(Elsewhere::Url(download)) if download.sha256.is_some() => return Ok(()),
            Some(elsewhere) => elsewhere.remote(),
            None => return Ok(()),
        };
        let Some(remote) = remote.filter(|remote| !sources.iter().any(|source| source.is_of(remote))) else {
            return Ok(());
        };
        let locked = old.source(&remote);
        sources.push(match (locked, &copy.elsewhere) {
            (Some(locked), _) if frozen || *upgrade != Upgrade::Everything => locked.clone(),
            (None, _) if frozen => {
                return Err(BuildError::LockOutdated(format!("it has nothing of {remote}, which is copied")));
            }
            (_, Some(Elsewhere::Git(checkout))) => LockedSource {
                git: Some(checkout.url.clone()),
                rev: Some(checkout.rev.clone()),
                commit: Some(git::commit_of(&self.workshop, &checkout.url, &checkout.rev)?),
                ..LockedSource::default()
            },
            (_, Some(Elsewhere::Url(download))) => {
                let path = download.file_name();
                let sha256 = self.workshop.download_unknown(&path, &download.url).map_err(|error| match error {
                    BuildError::Fetch(error @ FetchError::Refused { .. }) => {
                        Diagnostics::from(Diagnostic::at(copy.span(), format!("{}: {error}", download.url))).into()
                    }
                    error => error,
                })?;
                let files = vec![SourceFile { path, sha256 }];
                LockedSource { url: Some(download.url.to_string()), files, ..LockedSource::default() }
            }
            _ => return Ok(()),
        });
        Ok(())
    }

    /// Returns a locked source whose files are in the store.
    fn restored(&self, locked: &LockedSource, remote: &Remote, file: &RequirementsFile) -> Result<LockedSource> {
        let store = self.workshop.store;
        if locked.files.iter().all(|file| store.has_blob(&file.sha256)) {
            return Ok(locked.clone());
        }
        let again = self.fetched(remote, locked.commit.as_deref().unwrap_or_default(), file)?;
        match again.files == locked.files {
            true => Ok(locked.clone()),
            false => Err(BuildError::Mistake {
                message: format!("{remote} has other content than is locked"),
                hint: "`kiln lock --upgrade` locks what is there now".into(),
            }),
        }
    }

    fn fetched(&self, remote: &Remote, rev: &str, file: &RequirementsFile) -> Result<LockedSource> {
        match remote {
            Remote::Git { url, rev: named } => {
                let commit = Commit::fetch(&self.workshop, url, rev)?;
                let all = commit.files()?;
                let is_wanted = |entry: &&Entry| {
                    (entry.path == file.path || is_of_requirements(&entry.path)) && entry.size <= LARGEST_FILE
                };
                let wanted: Vec<&Entry> = all.iter().filter(is_wanted).take(MOST_FILES).collect();
                let mut files = Vec::new();
                commit.contents(&wanted, &mut |entry, content| {
                    let sha256 = self.workshop.store.add(content)?;
                    files.push(SourceFile { path: entry.path.clone(), sha256 });
                    Ok(())
                })?;
                files.sort();
                let (git, rev) = (Some(url.clone()), Some(named.clone()));
                Ok(LockedSource { git, rev, commit: Some(commit.id.clone()), url: None, files })
            }
            Remote::Url(url) => {
                let sha256 = self.workshop.store.add(&self.text_at(url)?)?;
                let files = vec![SourceFile { path: file.path.clone(), sha256 }];
                Ok(LockedSource { url: Some(url.to_string()), files, ..LockedSource::default() })
            }
        }
    }

    fn text_at(&self, url: &Url) -> Result<Vec<u8>> {
        let surroundings = &self.workshop.surroundings;
        if surroundings.offline {
            return Err(BuildError::Mistake {
                message: format!("{url} is not locked, and the network may not be used"),
                hint: "run `kiln lock` with a network".into(),
            });
        }
        let work = self.workshop.work("fetch", url.to_string(), None);
        let fetcher = Fetcher::new(surroundings.netrc.clone(), &surroundings.registry.proxies)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(fetcher.text(url, LARGEST_FILE, &work, &*self.workshop.reporter))
    }

    /// Writes the files of a locked source into a directory, under their paths.
    pub(super) fn source_directory(&self, remote: &Remote, lock: &Lock) -> Result<kiln_store::TemporaryDirectory> {
        let locked = lock.source(remote);
        let files: &[SourceFile] = locked.map_or(&[], |locked| &locked.files);
        let directory = self.workshop.store.temporary_directory()?;
        for SourceFile { path, sha256 } in files {
            let is_plain = !path.split('/').any(|part| matches!(part, "" | "." | ".."));
            let Some(place) = Some(directory.path().join(path)).filter(|_| is_plain) else { continue };
            fs_err::create_dir_all(place.parent().unwrap_or(directory.path()))?;
            fs_err::write(place, self.workshop.store.read(sha256)?)?;
        }
        Ok(directory)
    }
}

fn remote_rev(remote: &Remote) -> &str {
    match remote {
        Remote::Git { rev, .. } => rev,
        Remote::Url(_) => "",
    }
}

/// Returns true for files that requirements and locks stand in, or that these include.
fn is_of_requirements(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let ends = |end: &str| name.ends_with(end);
    ends(".txt")
        || ends(".in")
        || ends(".lock")
        || name == "pyproject.toml"
        || name.starts_with("pylock.") && ends(".toml")
}

/// Returns the digests of the files of requirements of sources, which garbage collection leaves. Those of copies are in layers.
pub(super) fn digests<'l>(stack: &'l Stack, lock: &'l Lock) -> impl Iterator<Item = Digest> + use<'l> {
    let has_requirements = |source: &&LockedSource| {
        let mut files = stack.images.iter().flat_map(|image| &image.requirements_files);
        files.any(|file| file.from.as_ref().is_some_and(|remote| source.is_of(remote)))
    };
    lock.sources.iter().filter(has_requirements).flat_map(|source| &source.files).map(|file| file.sha256)
}
