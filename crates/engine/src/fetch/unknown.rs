//! Files of which nothing is known but their address: they get their digest here.

use std::io::Write as _;

use kiln_plan::digest::Digest;
use kiln_plan::event::{Reporter, Work};
use kiln_plan::size;
use kiln_registry::patience::unless_cancelled;
use kiln_store::Store;
use url::Url;

use super::{Failure, Fetcher, LARGEST, Network, Wanted, host};
use crate::error::{FetchError, Result};

impl Network {
    /// Downloads a file of an unknown digest into the store.
    pub(crate) fn fetch_unknown(
        &self,
        store: &Store,
        file: &str,
        url: &Url,
        work: &Work<'_>,
        reporter: &dyn Reporter,
    ) -> Result<Digest> {
        let whole = async |wanted: &Wanted| self.fetcher.whole(store, wanted, work).await;
        self.runtime.block_on(self.fetcher.ask(url, file.to_owned(), None, work, reporter, whole))
    }
}

impl Fetcher {
    /// Receives all of a file. Where nothing says that it came whole, it is not taken.
    async fn whole(&self, store: &Store, wanted: &Wanted, work: &Work<'_>) -> std::result::Result<Digest, Failure> {
        let mut response = unless_cancelled(work.cancel(), self.request(wanted, 0)).await??;
        let announced = response.content_length();
        let mut blob = store.writer().map_err(|error| Failure::Final(error.into()))?;
        let mut have = 0_u64;
        while let Some(bytes) = unless_cancelled(work.cancel(), response.chunk()).await?? {
            blob.write_all(&bytes)?;
            have += bytes.len() as u64;
            work.advance(bytes.len() as u64)?;
            if have > LARGEST {
                let (file, host) = (wanted.file.clone(), host(&wanted.url));
                let answer = format!("more than {}", size::format(LARGEST));
                return Err(Failure::Final(FetchError::OtherSize { file, host, answer, expected: LARGEST }.into()));
            }
        }
        if announced.is_some_and(|announced| have < announced) {
            return Err(Failure::Again(format!("ended the connection after {}", size::format(have)), None));
        }
        let (digest, _) = blob.finish().map_err(|error| Failure::Final(error.into()))?;
        Ok(digest)
    }
}
