//! Wheels that there are of a package of which none fits: the resolver tells only that none does.

use std::time::Duration;

use kiln_registry::patience::unless_cancelled;
use kiln_wheel::available;
use kiln_wheel::uv::{Blocker, Target};
use url::Url;

use super::answer::Searched;
use super::publishers::{LARGEST_PAGE, candidates};
use crate::error::{BuildError, Result};
use crate::fetch::{Fetcher, shown};
use crate::project::Project;

/// The time that all questions may take together: an error waits for the answers.
const PATIENCE: Duration = Duration::from_secs(10);
/// Media types of a package's page (PEP 691).
const PAGE: &str = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";

/// The phrase by which uv tells of a package whose page names no file that it takes.
const NO_VERSIONS: &str = "there are no versions of ";

impl Project<'_> {
    /// The error about an index whose answer is not the page of a package, where the resolver takes it for a package without
    /// versions. `None` where all indexes answer as they should.
    pub(super) fn odd_index(&self, explanation: &str, searched: &Searched) -> Result<Option<BuildError>> {
        let name = explanation.split_once(NO_VERSIONS).and_then(|(_, rest)| rest.split_whitespace().next());
        let Some(name) = name.filter(|_| !self.workshop.surroundings.offline) else { return Ok(None) };
        let name = name.trim_end_matches([',', '.']);
        let indexes = candidates(searched, name);
        let default = if indexes.contains(&None) { self.default_index()? } else { None };
        for index in indexes.iter().filter_map(|index| index.as_ref().or(default.as_ref())) {
            let Some(url) = self.page_of(index, name) else { continue };
            match self.odd_answer(&url)? {
                Some(answer) if answer.starts_with("answered 404") => {}
                Some(answer) => return Ok(Some(BuildError::OddIndex { address: shown(&url), answer })),
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Looks at an address itself that the resolver found odd: it takes the redirect that it does not follow for a page.
    pub(super) fn looked_at(&self, address: String, answer: String) -> Result<BuildError> {
        let page =
            address.parse().ok().filter(|url: &Url| url.path().ends_with('/') && answer.starts_with("answered with"));
        let seen = match page.filter(|_| !self.workshop.surroundings.offline) {
            Some(url) => self.odd_answer(&self.with_credentials(&url))?,
            None => None,
        };
        let seen = seen.filter(|seen| !seen.starts_with("cannot be reached"));
        Ok(BuildError::OddIndex { address, answer: seen.unwrap_or(answer) })
    }

    /// A clause about a server that does not answer with the page of a package; `None` where it does, or does not answer in time.
    fn odd_answer(&self, url: &Url) -> Result<Option<String>> {
        let surroundings = &self.workshop.surroundings;
        let fetcher = Fetcher::new(surroundings.netrc.clone(), &surroundings.registry.proxies)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let page = fetcher.document(url, PAGE, LARGEST_PAGE);
        let page = async { unless_cancelled(&self.workshop.cancel, tokio::time::timeout(PATIENCE, page)).await };
        Ok(match runtime.block_on(page)? {
            Ok(Ok(page)) => {
                available::oddity(&page.bytes, &page.media_type).map(|oddity| format!("answered with {oddity}"))
            }
            Ok(Err(problem)) => Some(problem),
            Err(_) => None,
        })
    }

    /// The address of a package's page, with the credentials that the stack gives; `None` for an index that is no server.
    fn page_of(&self, index: &str, name: &str) -> Option<Url> {
        let url: Url = format!("{}/{name}/", index.trim_end_matches('/')).parse().ok()?;
        matches!(url.scheme(), "http" | "https").then(|| self.with_credentials(&url))
    }

    /// Completes the reasons of blockers by the pages of their indexes: the resolver tells of one version, or none.
    pub(super) fn complete_reasons(
        &self,
        blockers: &mut [Blocker],
        searched: &Searched,
        target: &Target<'_>,
    ) -> Result<()> {
        let asked: Vec<Vec<Option<String>>> =
            blockers.iter().map(|blocker| candidates(searched, &blocker.name)).collect();
        if self.workshop.surroundings.offline {
            return Ok(());
        }
        let is_default = asked.iter().any(|indexes| indexes.contains(&None));
        let default = if is_default { self.default_index()? } else { None };
        let tags = target.tags();
        let surroundings = &self.workshop.surroundings;
        let fetcher = Fetcher::new(surroundings.netrc.clone(), &surroundings.registry.proxies)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut pages = tokio::task::JoinSet::new();
            for (at, (blocker, indexes)) in blockers.iter().zip(&asked).enumerate() {
                let page = |index: &Option<String>| self.page_of(index.as_ref().or(default.as_ref())?, &blocker.name);
                let (urls, fetcher) = (indexes.iter().filter_map(page).collect::<Vec<_>>(), fetcher.clone());
                pages.spawn(async move {
                    for url in urls {
                        if let Ok(page) = fetcher.document(&url, PAGE, LARGEST_PAGE).await {
                            return (at, Some(page.bytes));
                        }
                    }
                    (at, None)
                });
            }
            let end = tokio::time::Instant::now() + PATIENCE;
            loop {
                let answer = tokio::time::timeout_at(end, pages.join_next());
                match unless_cancelled(&self.workshop.cancel, answer).await? {
                    Ok(Some(Ok((at, Some(page))))) => {
                        let (blocker, wheels) = (&mut blockers[at], available::wheels(&page));
                        let has = available::describe(&wheels, &blocker.versions, &tags);
                        let has = has.or_else(|| blocker.reason.take());
                        blocker.reason = has.or_else(|| Some("it has no wheel at all, only its source".into()));
                    }
                    Ok(Some(_)) => {}
                    // All have answered, or the time is over.
                    Ok(None) | Err(_) => return Ok(()),
                }
            }
        })
    }
}
