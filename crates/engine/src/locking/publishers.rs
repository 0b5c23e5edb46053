//! Publishers of wheels, by the word of their index (PEP 740), and what changed since the last lock.
//!
//! Only wheels that are newly chosen are asked about, and an index that says nothing, or cannot be reached, is no error: the
//! lock is right without it. Signatures are not verified.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kiln_plan::digest::Digest;
use kiln_plan::lock::{Lock, LockedWheel};
use kiln_plan::platform::Platform;
use kiln_registry::patience::unless_cancelled;
use kiln_registry::redirect::{self, Handover};
use kiln_wheel::name::WheelName;
use kiln_wheel::provenance::{self, Entry};
use kiln_wheel::uv::{self, Target};
use pep508_rs::PackageName;
use url::Url;

use super::answer::Searched;
use crate::error::Result;
use crate::fetch::Fetcher;
use crate::project::Project;

/// Wheels that are asked about at once, and the time that all of them may take together.
const AT_ONCE: usize = 8;
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes that the page of a package and the document of a file may have.
pub(super) const LARGEST_PAGE: u64 = 32 << 20;
const LARGEST_DOCUMENT: u64 = 4 << 20;
/// Media types of the two.
const PAGE: &str = "application/vnd.pypi.simple.v1+json";
const DOCUMENT: &str = "application/vnd.pypi.integrity.v1+json, application/json;q=0.9";

/// The word of an index about a wheel.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    /// It names the publisher.
    By(String),
    /// It names none.
    Nobody,
}

/// Returns the indexes that a package may be from, in the order in which they are asked.
pub(super) fn candidates(searched: &Searched, package: &str) -> Vec<Option<String>> {
    let index = &searched.index;
    let bound = kiln_wheel::name_of(package).and_then(|name: PackageName| index.packages.get(&name).cloned());
    match bound {
        Some(bound) => vec![Some(bound)],
        None if searched.no_index => Vec::new(),
        None => index.extra.iter().cloned().map(Some).chain([index.default.clone()]).collect(),
    }
}

impl Project<'_> {
    /// Writes publishers into the lock, and warns of packages that have another one than before, or none any more.
    pub(super) fn fill_in_publishers(&self, old: &Lock, new: &mut Lock) -> Result<()> {
        let known = old.wheels_by_digest();
        for wheel in &mut new.wheels {
            if let Some(known) = known.get(&wheel.sha256) {
                wheel.publisher.clone_from(&known.publisher);
                wheel.indexes.clear();
            }
        }
        let asked: Vec<(usize, Vec<Url>)> = match self.workshop.surroundings.offline {
            true => Vec::new(),
            false => self.pages(&new.wheels)?,
        };
        let told = if asked.is_empty() { BTreeMap::new() } else { self.ask_publishers(&new.wheels, asked)? };
        new.wheels.iter_mut().for_each(|wheel| wheel.indexes.clear());
        for (at, told) in &told {
            if let Told::By(publisher) = told {
                new.wheels[*at].publisher = Some(publisher.clone());
            }
        }
        let told = told.into_iter().map(|(at, told)| (new.wheels[at].sha256, told)).collect();
        changes(old, new, &told).into_iter().for_each(|change| self.workshop.warn(change));
        Ok(())
    }

    /// The pages that may know each wheel.
    fn pages(&self, wheels: &[LockedWheel]) -> Result<Vec<(usize, Vec<Url>)>> {
        let is_new = |wheel: &&LockedWheel| wheel.url.is_some() && !wheel.indexes.is_empty();
        let unnamed = wheels.iter().filter(is_new).any(|wheel| wheel.indexes.contains(&None));
        let default = if unnamed { self.default_index()? } else { None };
        let page = |index: &str, file: &str| -> Option<Url> {
            let name = file.parse::<WheelName>().ok()?.name;
            let url: Url = format!("{}/{name}/", index.trim_end_matches('/')).parse().ok()?;
            matches!(url.scheme(), "http" | "https").then_some(url)
        };
        let all = wheels.iter().enumerate().filter(|(_, wheel)| is_new(wheel)).map(|(at, wheel)| {
            let named = wheel.indexes.iter().filter_map(|index| index.as_ref().or(default.as_ref()));
            (at, named.filter_map(|index| page(index, &wheel.file)).collect::<Vec<_>>())
        });
        Ok(all.filter(|(_, pages)| !pages.is_empty()).collect())
    }

    /// The index that uv asks by itself, which kiln does not know.
    pub(super) fn default_index(&self) -> Result<Option<String>> {
        let program = self.workshop.uv()?;
        let directory = self.workshop.store.temporary_directory()?;
        let work = self.workshop.work("resolve", "uv's own index".to_owned(), None);
        let target = Target { python: "3.12", platform: Platform::ALL[0], libc: None };
        // Another uv may not say it.
        Ok(uv::default_index(self.uv_programs(&program), &target, directory.path(), &work).ok().flatten())
    }

    /// Asks about wheels, some at once; those that nothing is told of are left out.
    fn ask_publishers(&self, wheels: &[LockedWheel], asked: Vec<(usize, Vec<Url>)>) -> Result<BTreeMap<usize, Told>> {
        let _work = self.workshop.work("resolve", format!("publishers of {} wheels", asked.len()), None);
        let surroundings = &self.workshop.surroundings;
        let fetcher = Fetcher::new(surroundings.netrc.clone(), &surroundings.registry.proxies)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut told = BTreeMap::new();
        runtime.block_on(async {
            let end = tokio::time::Instant::now() + PATIENCE;
            for batch in asked.chunks(AT_ONCE) {
                self.workshop.cancel.check()?;
                let mut questions = tokio::task::JoinSet::new();
                for (at, pages) in batch {
                    let (at, fetcher, wheel) = (*at, fetcher.clone(), &wheels[*at]);
                    let pages: Vec<Url> = pages.iter().map(|page| self.with_credentials(page)).collect();
                    let (file, sha256) = (wheel.file.clone(), wheel.sha256);
                    questions.spawn(async move { (at, ask(&fetcher, &pages, &file, &sha256).await) });
                }
                loop {
                    let answer = tokio::time::timeout_at(end, questions.join_next());
                    match unless_cancelled(&self.workshop.cancel, answer).await? {
                        Ok(Some(Ok((at, Some(answer))))) => drop(told.insert(at, answer)),
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        // The time is over.
                        Err(_) => return Ok(told),
                    }
                }
            }
            Ok(told)
        })
    }
}

/// Asks the first index that has a wheel.
async fn ask(fetcher: &Fetcher, pages: &[Url], file: &str, sha256: &Digest) -> Option<Told> {
    for url in pages {
        let page = fetcher.document(url, PAGE, LARGEST_PAGE).await.ok()?.bytes;
        let mut document = match provenance::entry(&page, file, sha256)? {
            Entry::Absent => continue,
            Entry::Document(None) => return Some(Told::Nobody),
            Entry::Document(Some(document)) => url.join(&document).ok()?,
        };
        let downgrade = url.scheme() == "https" && document.scheme() != "https";
        if downgrade || !matches!(document.scheme(), "http" | "https") {
            return None;
        }
        if redirect::handover(url, &document, false) == Handover::Everything {
            // Neither can fail for an address with a host, which this one has.
            let _ = (document.set_username(url.username()), document.set_password(url.password()));
        }
        let document = fetcher.document(&document, DOCUMENT, LARGEST_DOCUMENT).await.ok()?.bytes;
        return provenance::publisher(&document).map(Told::By);
    }
    None
}

/// Warnings about packages whose publisher is another one than those of all their wheels before, or that have none any more.
fn changes(old: &Lock, new: &Lock, told: &BTreeMap<Digest, Told>) -> BTreeSet<String> {
    let mut before: BTreeMap<&str, Vec<(&str, Option<&str>)>> = BTreeMap::new();
    let known = old.wheels_by_digest();
    for package in old.images.iter().flat_map(|image| &image.packages) {
        let publisher = known.get(&package.wheel).and_then(|wheel| wheel.publisher.as_deref());
        before.entry(&package.name).or_default().push((&package.version, publisher));
    }
    let mut warnings = BTreeSet::new();
    for package in new.images.iter().flat_map(|image| &image.packages) {
        let (Some(told), Some(before)) = (told.get(&package.wheel), before.get(package.name.as_str())) else {
            continue;
        };
        let [(version, Some(publisher)), ..] = before[..] else { continue };
        // Where not all of them had one, another without says nothing.
        if before.iter().any(|(_, before)| before.is_none()) {
            continue;
        }
        let (name, now) = (&package.name, &package.version);
        match told {
            Told::By(by) if before.iter().all(|(_, before)| *before != Some(by)) => warnings.insert(format!(
                "{name} {now} is published by {by}, and {version} was by {publisher}: does the project say why?"
            )),
            Told::Nobody => warnings.insert(format!(
                "{name} {now} is published by nobody whom the index names, and {version} was by {publisher}: somebody may \
                 have uploaded it by hand"
            )),
            Told::By(_) => continue,
        };
    }
    warnings
}
