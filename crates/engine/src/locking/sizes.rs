//! Sizes that an index does not tell: asked for once, and recorded.

use kiln_plan::lock::Lock;
use kiln_registry::redirect::{self, Handover};
use url::Url;

use crate::error::Result;
use crate::fetch::Fetcher;
use crate::project::Project;

/// Questions that are under way at once.
const AT_ONCE: usize = 16;

impl Project<'_> {
    /// Asks the servers for sizes that the lock does not have. A server that does not tell is no error.
    pub(super) fn fill_in_sizes(&self, lock: &mut Lock) -> Result<()> {
        for wheel in &mut lock.wheels {
            if wheel.size.is_none() && self.workshop.store.has_blob(&wheel.sha256) {
                wheel.size = self.workshop.store.size(&wheel.sha256).ok();
            }
        }
        let unknown: Vec<(usize, Url)> = lock
            .wheels
            .iter()
            .enumerate()
            .filter(|(_, wheel)| wheel.size.is_none())
            .filter_map(|(at, wheel)| Some((at, wheel.url.as_ref()?.parse().ok()?)))
            .collect();
        if unknown.is_empty() || self.workshop.surroundings.offline {
            return Ok(());
        }
        let _work = self.workshop.work("resolve", format!("sizes of {} wheels", unknown.len()), None);
        let surroundings = &self.workshop.surroundings;
        let fetcher = Fetcher::new(surroundings.netrc.clone(), &surroundings.registry.proxies)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            for batch in unknown.chunks(AT_ONCE) {
                self.workshop.cancel.check()?;
                let mut asked = tokio::task::JoinSet::new();
                for (at, url) in batch {
                    let (at, url, fetcher) = (*at, self.with_credentials(url), fetcher.clone());
                    asked.spawn(async move { (at, fetcher.size(&url).await) });
                }
                while let Some(answer) = asked.join_next().await {
                    if let Ok((at, size)) = answer {
                        lock.wheels[at].size = size;
                    }
                }
            }
            Ok(())
        })
    }

    /// Returns the address with the credentials that the stack gives for an index of the same scheme, host and port: the
    /// lock never holds them.
    pub fn with_credentials(&self, url: &Url) -> Url {
        let index = &self.stack.index;
        let known = index.default.iter().chain(&index.extra).chain(index.packages.values()).chain(&index.find_links);
        with_credentials_of(known.map(String::as_str), url)
    }
}

/// Returns the address with the credentials of the index that shares its origin and, where several do, most of its path.
fn with_credentials_of<'a>(indexes: impl Iterator<Item = &'a str>, url: &Url) -> Url {
    let mut url = url.clone();
    let candidates = indexes.filter_map(|address| {
        let index: Url = address.parse().ok()?;
        let given = !index.username().is_empty() || index.password().is_some();
        let same = redirect::handover(&index, &url, false) == Handover::Everything;
        (given && same).then(|| (common_segments(&index, &url), index))
    });
    // Of several that share as much, the first.
    let best = candidates.reduce(|best, other| if other.0 > best.0 { other } else { best });
    if let Some((_, index)) = best {
        // Neither can fail for an address with a host, which this one has.
        let _ = (url.set_username(index.username()), url.set_password(index.password()));
    }
    url
}

fn common_segments(index: &Url, url: &Url) -> usize {
    let segments = |url: &Url| url.path_segments().into_iter().flatten().map(str::to_owned).collect::<Vec<_>>();
    segments(index).iter().zip(segments(url)).take_while(|(one, other)| *one == other).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(indexes: &[&str], url: &str) -> String {
        with_credentials_of(indexes.iter().copied(), &url.parse().unwrap()).to_string()
    }

    #[test]
    fn credentials_go_to_the_scheme_host_and_port_that_they_were_given_for() {
        for (index, url, goes) in [
            ("https://u:p@a.example/simple", "https://a.example/files/x.whl", true),
            ("https://u:p@a.example/simple", "https://a.example:443/files/x.whl", true),
            ("https://u:p@a.example:443/simple", "https://A.example/files/x.whl", true),
            ("https://token@a.example/simple", "https://a.example/files/x.whl", true),
            ("https://:p@a.example/simple", "https://a.example/files/x.whl", true),
            ("https://u:p@a.example/simple", "https://a.example:8443/files/x.whl", false),
            ("https://u:p@a.example:8443/simple", "https://a.example/files/x.whl", false),
            ("https://u:p@a.example/simple", "http://a.example/files/x.whl", false),
            ("http://u:p@a.example/simple", "https://a.example/files/x.whl", false),
            ("https://u:p@a.example:80/simple", "http://a.example:80/files/x.whl", false),
            ("https://u:p@a.example/simple", "https://b.example/files/x.whl", false),
            ("https://u:p@a.example/simple", "https://a.example.b.example/files/x.whl", false),
            ("https://u:p@a.example/simple", "https://sub.a.example/files/x.whl", false),
            ("https://a.example/simple", "https://a.example/files/x.whl", false),
            ("file:///u:p@a.example/simple", "https://a.example/files/x.whl", false),
            ("wheels", "https://a.example/files/x.whl", false),
        ] {
            let result = given(&[index], url);
            assert_eq!(result.contains('@'), goes, "{index} for {url}: {result}");
        }
    }

    #[test]
    fn of_several_indexes_of_one_origin_the_nearest_counts() {
        let indexes = ["https://one:1@a.example/one/simple", "https://two:2@a.example/two/simple"];
        assert_eq!(given(&indexes, "https://a.example/two/files/x.whl"), "https://two:2@a.example/two/files/x.whl");
        assert_eq!(given(&indexes, "https://a.example/one/files/x.whl"), "https://one:1@a.example/one/files/x.whl");
        assert_eq!(given(&indexes, "https://a.example/files/x.whl"), "https://one:1@a.example/files/x.whl");
    }
}
