//! Files of which nothing is known but their address: they get their digest here.

use std::io::Write as _;

use kiln_plan::digest::Digest;
use kiln_plan::event::{Reporter, Work};
use kiln_plan::size;
use kiln_registry::patience::{Attempts, Failed, unless_cancelled};
use kiln_store::Store;
use url::Url;

use super::{Failure, Fetcher, LARGEST, Network, Wanted, host, shown};
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
        self.runtime.block_on(self.fetcher.unknown(store, file, url, work, reporter))
    }
}

impl Fetcher {
    async fn unknown(
        &self,
        store: &Store,
        file: &str,
        url: &Url,
        work: &Work<'_>,
        reporter: &dyn Reporter,
    ) -> Result<Digest> {
        let wanted = Wanted { file: file.to_owned(), url: url.clone(), digest: Digest::of(b""), size: None };
        let mut attempts = Attempts::new(self.patience, reporter, work.cancel());
        let (subject, host) = (format!("downloading {file}"), host(url));
        loop {
            let (cause, asked) = match self.whole(store, &wanted, work).await {
                Ok(digest) => return Ok(digest),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(cause, asked)) => (cause, asked),
            };
            if !attempts.again(Failed { subject: &subject, host: &host, cause: &cause, asked }).await? {
                let (url, attempts) = (shown(url), attempts.made());
                return Err(FetchError::Network { file: wanted.file, url, problem: cause, attempts, kept: 0 }.into());
            }
        }
    }

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
