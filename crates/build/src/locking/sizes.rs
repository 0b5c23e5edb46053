//! Sizes that an index does not tell: asked for once, and recorded.

use kiln_plan::lock::Lock;

use crate::error::Result;
use crate::fetch::Fetcher;
use crate::project::Project;

/// Questions that are under way at once.
const AT_ONCE: usize = 16;

impl Project<'_> {
    /// Asks the servers for sizes that the lock does not have. A server that does not tell is no error.
    pub(super) fn fill_in_sizes(&self, lock: &mut Lock) -> Result<()> {
        for wheel in &mut lock.wheels {
            if wheel.size.is_none() && self.store.has_blob(&wheel.sha256) {
                wheel.size = self.store.size(&wheel.sha256).ok();
            }
        }
        let unknown: Vec<(usize, url::Url)> = lock
            .wheels
            .iter()
            .enumerate()
            .filter(|(_, wheel)| wheel.size.is_none())
            .filter_map(|(at, wheel)| Some((at, wheel.url.as_ref()?.parse().ok()?)))
            .collect();
        if unknown.is_empty() || self.surroundings.offline {
            return Ok(());
        }
        let _work = self.work("resolve", format!("sizes of {} wheels", unknown.len()), None);
        let fetcher = Fetcher::new(self.surroundings.netrc.clone())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            for batch in unknown.chunks(AT_ONCE) {
                self.cancel.check()?;
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

    /// The address with the credentials that the stack gives for its host: the lock never holds them.
    pub fn with_credentials(&self, url: &url::Url) -> url::Url {
        let index = &self.stack.index;
        let known = index.default.iter().chain(&index.extra).chain(index.packages.values()).chain(&index.find_links);
        let mut url = url.clone();
        for address in known {
            if let Ok(found) = address.parse::<url::Url>()
                && !found.username().is_empty()
                && found.host_str() == url.host_str()
            {
                let _ = (url.set_username(found.username()), url.set_password(found.password()));
            }
        }
        url
    }
}
