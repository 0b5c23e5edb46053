//! Small documents: pages of indexes, files of requirements.

use kiln_plan::event::{Reporter, Work};
use kiln_plan::size;
use kiln_registry::patience::{innermost, unless_cancelled};
use kiln_registry::redirect::{self, Reach, Rule, SendError};
use reqwest::Response;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use tracing::Instrument as _;
use url::Url;

use super::{Failure, Fetcher, Network, Wanted, host, shown};
use crate::error::{BuildError, FetchError};

/// Attempts at a small file.
const ATTEMPTS: u32 = 3;

/// A document as a server gave it.
#[derive(Debug)]
pub(crate) struct Document {
    /// Its content.
    pub(crate) bytes: Vec<u8>,
    /// Its media type, without parameters; empty where the server tells none.
    pub(crate) media_type: String,
}

impl Network {
    /// Downloads a small file of which nothing is known.
    pub(crate) fn document(
        &self,
        url: &Url,
        most: u64,
        work: &Work<'_>,
        reporter: &dyn Reporter,
    ) -> Result<Vec<u8>, BuildError> {
        self.runtime.block_on(self.fetcher.text(url, most, work, reporter))
    }
}

impl Fetcher {
    /// Downloads a small file of which nothing is known, trying again as long as the server may recover.
    pub(crate) async fn text(
        &self,
        url: &Url,
        most: u64,
        work: &Work<'_>,
        reporter: &dyn Reporter,
    ) -> Result<Vec<u8>, BuildError> {
        let file = url.path().rsplit('/').next().unwrap_or_default().to_owned();
        self.ask(url, file, Some(ATTEMPTS), work, reporter, async |wanted| self.small(wanted, most, work).await).await
    }

    async fn small(&self, wanted: &Wanted, most: u64, work: &Work<'_>) -> Result<Vec<u8>, Failure> {
        let mut response = unless_cancelled(work.cancel(), self.request(wanted, 0)).await??;
        match unless_cancelled(work.cancel(), body(&mut response, most)).await?? {
            Some(bytes) => Ok(bytes),
            None => {
                let (file, host) = (wanted.file.clone(), host(&wanted.url));
                let answer = format!("more than {}", size::format(most));
                Err(Failure::Final(FetchError::OtherSize { file, host, answer, expected: most }.into()))
            }
        }
    }

    /// Asks once for a document of some media types. The error is a clause about the server.
    pub(crate) async fn document(&self, url: &Url, media_types: &str, most: u64) -> Result<Document, String> {
        let request = self.authorized(self.client.get(url.clone()).header(ACCEPT, media_types), url);
        let span = tracing::debug_span!("request", method = "GET", url = shown(url));
        let unreachable = |error: reqwest::Error| format!("cannot be reached or broke off ({})", innermost(error));
        let request = request.build().map_err(unreachable)?;
        let mut response = match redirect::send(&self.client, request, Reach::Anywhere, false).instrument(span).await {
            Ok(response) => response,
            Err(SendError::Request(error)) => return Err(unreachable(error)),
            Err(SendError::Redirect { rule: Rule::Count, .. }) => return Err("redirects without an end".into()),
            Err(error) => return Err(error.to_string()),
        };
        if !response.status().is_success() {
            return Err(format!("answered {}", response.status()));
        }
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let bytes = body(&mut response, most).await.map_err(unreachable)?;
        let bytes = bytes.ok_or_else(|| format!("answered with more than {}", size::format(most)))?;
        Ok(Document { bytes, media_type })
    }
}

/// The body of an answer; `None` where it is larger than so many bytes.
async fn body(response: &mut Response, most: u64) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(more) = response.chunk().await? {
        bytes.extend_from_slice(&more);
        if bytes.len() as u64 > most {
            return Ok(None);
        }
    }
    Ok(Some(bytes))
}
