//! Doing what a plan says: wheels are fetched and spliced as they come, the largest first, on all cores.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use kiln_fatbin::Selection;
use kiln_oci::layer::{Body, Directories, Layer, LayerFile};
use kiln_oci::{AtHand, InflatePool, Source, splice, whole};
use kiln_plan::digest::Digest;
use kiln_plan::event::Work;
use kiln_plan::lock::LockedWheel;
use kiln_plan::stack::Compression;
use kiln_wheel::install::Content;

use crate::error::{BuildError, Result};
use crate::fetch::{FetchError, Fetcher, Wanted};
use crate::history::Speed;
use crate::overlaps::path_hashes;
use crate::project::Project;
use crate::pruned::may_hold_code;
use crate::steps::{Step, Task, WheelTask, wheel_step};

/// Downloads that are under way at once.
const DOWNLOADS: usize = 8;

/// What the threads share: steps that can be done now, steps that wait for downloads, and the first error.
struct Board<'s> {
    state: Mutex<State<'s>>,
    changed: Condvar,
}

struct State<'s> {
    ready: VecDeque<&'s Step>,
    waiting: Vec<(&'s Step, BTreeSet<Digest>)>,
    failed: Option<BuildError>,
}

impl<'s> Board<'s> {
    fn lock(&self) -> std::sync::MutexGuard<'_, State<'s>> {
        // A thread that panicked takes the build down when it is joined; until then the state is still sound.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The next step that can be done; nothing when all are done or one has failed.
    fn next(&self) -> Option<&'s Step> {
        let mut state = self.lock();
        loop {
            if state.failed.is_some() {
                return None;
            }
            if let Some(step) = state.ready.pop_front() {
                return Some(step);
            }
            if state.waiting.is_empty() {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    fn arrived(&self, digest: &Digest) {
        let mut state = self.lock();
        for (_, missing) in &mut state.waiting {
            missing.remove(digest);
        }
        let (ready, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.waiting).into_iter().partition(|(_, missing)| missing.is_empty());
        state.waiting = waiting;
        state.ready.extend(ready.into_iter().map(|(step, _)| step));
        self.changed.notify_all();
    }

    fn fail(&self, error: BuildError) {
        let mut state = self.lock();
        // What the user stopped is told as that, whatever failed because of it.
        if state.failed.is_none() || matches!(error, BuildError::Interrupted) {
            state.failed = Some(error);
        }
        self.changed.notify_all();
    }

    fn failed(&self) -> bool {
        self.lock().failed.is_some()
    }
}

impl Project<'_> {
    /// Brings every wheel into the store that is not there, and does these steps. Steps that differ in name alone are
    /// done once.
    pub(crate) fn execute(&self, steps: &[&Step], also: &[LockedWheel]) -> Result<()> {
        let mut distinct: BTreeMap<_, &Step> = BTreeMap::new();
        for step in steps {
            distinct.entry(step.key).or_insert(step);
        }
        let mut steps: Vec<&Step> = distinct.into_values().collect();
        steps.sort_by_key(|step| (std::cmp::Reverse(step.bytes), step.key));
        self.fetch_pruned(&steps)?;
        let needed: Vec<Vec<&LockedWheel>> = steps.iter().map(|step| self.originals(step)).collect::<Result<_>>()?;
        let mut wanted: BTreeMap<Digest, &LockedWheel> = BTreeMap::new();
        for wheel in needed.iter().flatten().copied().chain(also) {
            if !self.store.has_blob(&wheel.sha256) {
                wanted.insert(wheel.sha256, wheel);
            }
        }
        if steps.is_empty() && wanted.is_empty() {
            return Ok(());
        }
        let (local, remote): (Vec<&LockedWheel>, Vec<&LockedWheel>) =
            wanted.values().copied().partition(|wheel| self.local_wheel(wheel).is_some());
        let remote = remote.into_iter().map(|wheel| self.wanted(wheel)).collect::<Result<Vec<_>>>()?;
        let downloads: BTreeSet<Digest> = remote.iter().map(|wanted| wanted.digest).collect();
        let mut state = State { ready: VecDeque::new(), waiting: Vec::new(), failed: None };
        for (step, needed) in steps.iter().zip(&needed) {
            let missing: BTreeSet<Digest> =
                needed.iter().map(|wheel| wheel.sha256).filter(|digest| downloads.contains(digest)).collect();
            if missing.is_empty() { state.ready.push_back(step) } else { state.waiting.push((step, missing)) }
        }
        let (began, work) = (Instant::now(), steps.iter().map(|step| step.bytes).sum());
        let nothing_to_fetch = remote.is_empty();
        let board = Board { state: Mutex::new(state), changed: Condvar::new() };
        let pool = InflatePool::new(self.surroundings.jobs, &self.cancel)?;
        std::thread::scope(|scope| {
            if !remote.is_empty() {
                scope.spawn(|| self.download(remote, &board));
            }
            for _ in 0..self.surroundings.jobs {
                scope.spawn(|| {
                    while let Some(step) = board.next() {
                        if let Err(error) = self.perform(step, &pool) {
                            board.fail(error);
                        }
                    }
                });
            }
        });
        // What was finished stays, also where something failed.
        self.store.sync()?;
        let failed = board.lock().failed.take();
        match failed {
            Some(error) => return Err(error),
            None => self.cancel.check()?,
        }
        if nothing_to_fetch {
            self.learn(Speed::Splice, work, began.elapsed().as_secs_f64())?;
        }
        for wheel in local {
            self.ensure(wheel)?;
        }
        Ok(self.store.sync()?)
    }

    fn download(&self, mut wanted: Vec<Wanted>, board: &Board<'_>) {
        wanted.sort_by_key(|wanted| (std::cmp::Reverse(wanted.size), wanted.digest));
        let (began, bytes) = (Instant::now(), wanted.iter().filter_map(|wanted| wanted.size).sum());
        let run = || -> Result<()> {
            let fetcher = Fetcher::new(self.surroundings.netrc.clone())?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let queue = Mutex::new(VecDeque::from(wanted));
            let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front();
            let worker = || async {
                while let Some(wanted) = next() {
                    if board.failed() {
                        return Ok(());
                    }
                    fetcher.fetch(self.store, &wanted, self.reporter, &self.cancel).await?;
                    board.arrived(&wanted.digest);
                }
                Ok::<(), BuildError>(())
            };
            runtime.block_on(async {
                let workers: [_; DOWNLOADS] = std::array::from_fn(|_| worker());
                futures_util::future::try_join_all(workers).await.map(|_| ())
            })?;
            self.learn(Speed::Fetch, bytes, began.elapsed().as_secs_f64())
        };
        if let Err(error) = run() {
            board.fail(error);
        }
    }

    fn wanted(&self, wheel: &LockedWheel) -> Result<Wanted> {
        let file = wheel.file.clone();
        if self.surroundings.offline {
            return Err(FetchError::Offline(file).into());
        }
        let url = wheel.url.as_ref().and_then(|url| url.parse().ok());
        let Some(url) = url else { return Err(FetchError::Nowhere(file).into()) };
        let url = self.with_credentials(&url);
        Ok(Wanted { file, url, digest: wheel.sha256, size: wheel.size })
    }

    /// Where a wheel lies on this machine, if it does: where the lock says, or in a find-links directory.
    fn local_wheel(&self, wheel: &LockedWheel) -> Option<std::path::PathBuf> {
        let said = wheel.path.iter().map(|path| self.directory.join(path));
        let index = &self.stack.index;
        let links = index.find_links.iter().filter(|link| !link.contains("://") || link.starts_with("file:"));
        let links = links.map(|link| self.directory.join(link.trim_start_matches("file://")).join(&wheel.file));
        let fits = |path: &std::path::PathBuf| {
            fs_err::metadata(path).is_ok_and(|found| {
                found.is_file() && (wheel.url.is_none() || wheel.size.is_none_or(|size| size == found.len()))
            })
        };
        said.chain(links).chain(self.indexed_file(wheel)).find(fits)
    }

    /// A wheel of a `file:` index lies where its page says, which the lock does not repeat.
    fn indexed_file(&self, wheel: &LockedWheel) -> Option<std::path::PathBuf> {
        let name: kiln_wheel::name::WheelName = wheel.file.parse().ok()?;
        let index = &self.stack.index;
        let addresses = index.packages.get(&name.name).into_iter().chain(&index.extra).chain(&index.default);
        addresses
            .filter_map(|address| address.strip_prefix("file:"))
            .map(|path| {
                self.directory.join(path.trim_start_matches("//")).join(name.name.to_string()).join(&wheel.file)
            })
            .find(|path| path.is_file())
    }

    /// Brings a wheel of this machine into the store.
    pub(crate) fn ensure(&self, wheel: &LockedWheel) -> Result<()> {
        if self.store.has_blob(&wheel.sha256) {
            return Ok(());
        }
        let Some(path) = self.local_wheel(wheel) else { return Err(FetchError::Nowhere(wheel.file.clone()).into()) };
        let work = self.work("verify", &wheel.file, wheel.size);
        let advance = |bytes: u64| work.advance(bytes).map_err(std::io::Error::from);
        self.store.link(&path, &wheel.sha256, &advance).map_err(|error| match error {
            error @ kiln_store::StoreError::WrongDigest { .. } => {
                BuildError::step(format!("`{}` is not the wheel that is locked", path.display()), error)
            }
            error => error.into(),
        })
    }

    /// Does one step, unless another process did while this one waited for its lock.
    fn perform(&self, step: &Step, pool: &InflatePool) -> Result<()> {
        let _lock = self.store.lock(&format!("step-{}", step.key))?;
        if self.known_layers(step)?.is_some() {
            return Ok(());
        }
        let layers = match &step.task {
            Task::Wheels(task) => match &task.prune {
                Some(selection) => self.pruned_layers(step, task, selection, pool)?,
                None => self.wheel_layers(step, task, Vec::new(), pool)?,
            },
            Task::Files(files) => {
                let work = self.work("splice", &step.name, None);
                vec![splice(self.store, pool, &[], files.clone(), &work)?]
            }
            Task::Copy(source) => {
                let work = self.work("copy", &step.name, Some(source.bytes));
                vec![self.copy_layer(source, &work)?]
            }
        };
        let key = if self.rests_on_cache(step)? { self.believed_key(step) } else { step.key };
        Ok(self.store.remember(&key, &layers)?)
    }

    /// The wheels that a step needs as they are locked: those whose pruned ones are not here.
    fn originals<'s>(&self, step: &'s Step) -> Result<Vec<&'s LockedWheel>> {
        let Task::Wheels(task) = &step.task else { return Ok(Vec::new()) };
        let mut originals = Vec::new();
        for wheel in &task.wheels {
            let pruned = task.prune.as_ref().filter(|_| may_hold_code(wheel));
            let known = pruned.map(|selection| self.known_pruned(wheel, selection)).transpose()?.flatten();
            if known.is_none_or(|known| known.sha256 == wheel.sha256) {
                originals.push(wheel);
            }
        }
        Ok(originals)
    }

    /// Layers of wheels whose GPU code is cut. Where there was none to cut, they are those of the wheels as they are.
    fn pruned_layers(
        &self,
        step: &Step,
        task: &WheelTask,
        selection: &Selection,
        pool: &InflatePool,
    ) -> Result<Vec<Layer>> {
        let pruned = task.wheels.iter().map(|wheel| self.pruned(wheel, selection, pool));
        let (wheels, at_hand): (Vec<_>, Vec<_>) = pruned.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let plain = WheelTask { wheels, prune: None, ..task.clone() };
        let plain_step = wheel_step(step.name.clone(), "", plain.clone());
        if plain.wheels == task.wheels
            && let Some(layers) = self.known_layers(&plain_step)?
        {
            return Ok(layers);
        }
        self.wheel_layers(step, &plain, at_hand, pool)
    }

    /// Layers of wheels as they are. Some of what they hold may be at hand.
    fn wheel_layers(
        &self,
        step: &Step,
        task: &WheelTask,
        at_hand: Vec<AtHand>,
        pool: &InflatePool,
    ) -> Result<Vec<Layer>> {
        // A large wheel of this machine is checked while it is spliced, since both hash nearly the same bytes.
        if let ([wheel], Compression::Gzip, None) = (task.wheels.as_slice(), task.compression, task.max_layer_size)
            && !self.store.has_blob(&wheel.sha256)
            && let Some(path) = self.local_wheel(wheel)
            && let Some(linked) = self.store.link_unverified(&path, &wheel.sha256, &|_| Ok(()))?
        {
            let source = self.source(wheel, linked.open()?);
            let layers = self.splice_wheels(step, task, vec![source], pool)?;
            linked.accept()?;
            return Ok(layers);
        }
        for wheel in &task.wheels {
            self.ensure(wheel)?;
        }
        let at_hand = at_hand.into_iter().chain(std::iter::repeat_with(AtHand::default));
        let open = |(wheel, at_hand): (&LockedWheel, AtHand)| {
            let file = match task.compression {
                Compression::Gzip => self.store.open_blob(&wheel.sha256)?,
                // Nothing hashes it on the way.
                Compression::Zstd => self.store.open_hashed(&wheel.sha256)?,
            };
            Ok(Source { at_hand, ..self.source(wheel, file) })
        };
        let sources = task.wheels.iter().zip(at_hand).map(open).collect::<Result<_>>()?;
        self.splice_wheels(step, task, sources, pool)
    }

    fn source(&self, wheel: &LockedWheel, file: fs_err::File) -> Source {
        Source {
            name: wheel.file.clone(),
            digest: wheel.sha256,
            file: Arc::new(file),
            unverified: !self.store.has_hashed(&wheel.sha256),
            at_hand: AtHand::default(),
        }
    }

    fn splice_wheels(
        &self,
        step: &Step,
        task: &WheelTask,
        sources: Vec<Source>,
        pool: &InflatePool,
    ) -> Result<Vec<Layer>> {
        let (mut members, mut installed) = (Vec::new(), Vec::new());
        for (place, (wheel, source)) in task.wheels.iter().zip(&sources).enumerate() {
            let files = self.installed_from(wheel, source.file.try_clone()?, &task.scheme)?;
            installed.push(path_hashes(&files));
            for file in files {
                if task.superseded.get(&file.path).is_some_and(|winner| *winner != place) {
                    continue;
                }
                let body = match file.content {
                    Content::Entry(entry) => Body::Entry(place, entry),
                    Content::Bytes(bytes) => Body::Bytes(bytes),
                };
                let mode = if file.executable { 0o755 } else { 0o644 };
                members.push(LayerFile { path: file.path, mode, owner: (0, 0), body });
            }
        }
        let parts = split(members, task.max_layer_size);
        let content = parts.iter().flatten().map(|file| file.body.size()).sum();
        let work = self.work("splice", &step.name, Some(content));
        let layers = parts.into_iter().map(|part| self.wheel_layer(task, &sources, part, pool, &work));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        // Only now: splicing found that the wheels are what their digests say.
        for (wheel, hashes) in task.wheels.iter().zip(&installed) {
            self.remember_paths(wheel, &task.scheme, hashes)?;
        }
        Ok(layers)
    }

    fn wheel_layer(
        &self,
        task: &WheelTask,
        sources: &[Source],
        part: Vec<LayerFile>,
        pool: &InflatePool,
        work: &Work<'_>,
    ) -> Result<Layer> {
        let mut files = Vec::with_capacity(part.len() + 64);
        let mut directories = Directories::default();
        for file in part {
            directories.above(&file.path, |directory| task.scheme.exists(directory), &mut files);
            files.push(file);
        }
        Ok(match task.compression {
            Compression::Gzip => splice(self.store, pool, sources, files, work)?,
            Compression::Zstd => whole::recompress(self.store, pool, sources, &files, self.surroundings.jobs, work)?,
        })
    }
}

/// Cuts members into parts of at most so many compressed bytes, between files.
fn split(members: Vec<LayerFile>, limit: Option<u64>) -> Vec<Vec<LayerFile>> {
    let Some(limit) = limit else { return vec![members] };
    let mut parts = vec![Vec::new()];
    let mut size = 0;
    for member in members {
        let bytes = match &member.body {
            Body::Entry(_, entry) => entry.compressed,
            body => body.size(),
        };
        if size > 0 && size + bytes > limit {
            parts.push(Vec::new());
            size = 0;
        }
        size += bytes;
        if let Some(part) = parts.last_mut() {
            part.push(member);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_split_between_files_and_never_within_one() {
        let file = |size: usize| LayerFile::bytes(format!("{size}"), vec![0; size]);
        let sizes = |limit| {
            let parts = split(vec![file(3), file(4), file(20), file(1), file(1)], limit);
            parts.iter().map(|part| part.iter().map(|file| file.body.size()).collect()).collect::<Vec<Vec<_>>>()
        };
        assert_eq!(sizes(Some(8)), [vec![3, 4], vec![20], vec![1, 1]]);
        assert_eq!(sizes(None), [vec![3, 4, 20, 1, 1]]);
    }
}
