//! Patience with servers: they are far away, limit rates, break off, and are restarted. Downloads from indexes and
//! everything with registries wait and give up alike.

use std::time::{Duration, SystemTime};

use kiln_plan::event::{Cancel, Cancelled, Event, Reporter};
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// How long it takes at most to connect.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How this program calls itself.
pub const USER_AGENT: &str = concat!("kiln/", env!("CARGO_PKG_VERSION"));
/// How often a wait looks whether the user wants to stop.
const GLANCE: Duration = Duration::from_millis(50);

/// Bounds of attempts, and of the pauses between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Attempts that may fail one after the other without a byte of progress.
    pub attempts: u32,
    /// The first pause; each is twice the one before, and some jitter.
    pub first_pause: Duration,
    /// No pause is longer, whatever a server asks for.
    pub longest_pause: Duration,
    /// Pauses that servers ask for take no longer together, between two moments of progress.
    pub longest_asked: Duration,
    /// A server that says nothing for so long, and takes nothing, is taken for dead.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 6,
            first_pause: Duration::from_millis(300),
            longest_pause: Duration::from_secs(60),
            longest_asked: Duration::from_secs(120),
            silence: Duration::from_secs(60),
        }
    }
}

impl Patience {
    /// Returns the pause after so many failures one after the other, where no server asks for one.
    fn backoff(&self, failures: u32) -> Duration {
        let backoff = self.first_pause * 2u32.pow(failures.clamp(1, 11) - 1);
        // Jitter, so that many clients do not come back at the same moment; no output depends on it.
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
        (backoff + backoff.mul_f64(f64::from(nanos % 1000) / 2000.0)).min(self.longest_pause)
    }
}

/// The attempts at one request or transfer. Registries and package indexes are asked again by the same rules.
pub struct Attempts<'a> {
    patience: Patience,
    reporter: &'a dyn Reporter,
    cancel: &'a Cancel,
    /// Attempts that may fail at the moment.
    bound: u32,
    /// Attempts in all.
    made: u32,
    /// Attempts that failed one after the other without progress.
    failures: u32,
    /// Pauses that the server asked for since there was progress.
    asked: Duration,
}

/// A failed attempt, for whoever is told that another one follows.
#[derive(Debug, Clone, Copy)]
pub struct Failed<'a> {
    /// The purpose of the request.
    pub subject: &'a str,
    /// The server.
    pub host: &'a str,
    /// A clause that follows the server's name.
    pub cause: &'a str,
    /// The pause that the server asks for.
    pub asked: Option<Duration>,
}

impl<'a> Attempts<'a> {
    /// No attempts yet.
    pub fn new(patience: Patience, reporter: &'a dyn Reporter, cancel: &'a Cancel) -> Self {
        let bound = patience.attempts;
        Self { patience, reporter, cancel, bound, made: 0, failures: 0, asked: Duration::ZERO }
    }

    /// Returns the number of attempts in all, once one has failed.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// Counts failures anew: the attempt that fails next got further than all before it.
    pub fn progress(&mut self) {
        (self.failures, self.asked) = (0, Duration::ZERO);
    }

    /// Bounds the attempts more tightly, or as the patience says again if `None`.
    pub fn at_most(&mut self, attempts: Option<u32>) {
        self.bound = attempts.map_or(self.patience.attempts, |attempts| attempts.min(self.patience.attempts));
    }

    /// Notes that an attempt failed, and waits before the next one: as long as the server asked for, else longer each time.
    /// Returns false, without a wait, if no other attempt is to be made.
    pub async fn again(&mut self, failed: Failed<'_>) -> Result<bool, Cancelled> {
        self.made += 1;
        self.failures += 1;
        if self.failures >= self.bound {
            return Ok(false);
        }
        let pause = match failed.asked {
            None => self.patience.backoff(self.failures),
            Some(asked) => {
                let pause = asked.clamp(self.patience.first_pause, self.patience.longest_pause);
                self.asked += pause;
                if self.asked > self.patience.longest_asked {
                    return Ok(false);
                }
                pause
            }
        };
        self.reporter.event(Event::Retry {
            subject: failed.subject.to_owned(),
            host: failed.host.to_owned(),
            attempt: self.failures + 1,
            of: self.bound,
            cause: failed.cause.to_owned(),
            pause,
        });
        unless_cancelled(self.cancel, tokio::time::sleep(pause)).await?;
        Ok(true)
    }
}

/// Waits for something, but no longer than the user wants to.
pub async fn unless_cancelled<T>(cancel: &Cancel, waited: impl Future<Output = T>) -> Result<T, Cancelled> {
    let cancelled = async {
        while cancel.check().is_ok() {
            tokio::time::sleep(GLANCE).await;
        }
    };
    tokio::select! {
        done = waited => Ok(done),
        () = cancelled => Err(Cancelled),
    }
}

/// Returns the time that a server asks to wait: seconds, or the time until a date (RFC 9110, section 10.2.3). A date that
/// has passed is no wait.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Whether the same request may be answered otherwise a little later.
pub fn is_passing(status: StatusCode) -> bool {
    let waiting = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY];
    waiting.contains(&status) || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED)
}

/// Why a request failed: the innermost cause, without its address, which may hold a token.
pub fn innermost(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut source: &dyn std::error::Error = &error;
    while let Some(inner) = source.source() {
        source = inner;
    }
    source.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(value: &str) -> Option<Duration> {
        retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]))
    }

    #[test]
    fn a_server_asks_to_wait_in_seconds_or_until_a_date() {
        assert_eq!(asked(" 7 "), Some(Duration::from_secs(7)));
        let until = |seconds| httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(seconds));
        let wait = asked(&until(90)).unwrap();
        assert!((80..=90).contains(&wait.as_secs()), "{wait:?}");
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(asked("Sunday, 06-Nov-94 08:49:37 GMT"), Some(Duration::ZERO));
    }

    #[test]
    fn a_wait_that_is_neither_is_ignored() {
        for value in ["", "soon", "-1", "1.5", "99999999999999999999999", "Sun, 06 Nov 1994"] {
            assert_eq!(asked(value), None, "{value}");
        }
    }
}
