//! How fast this machine was at what it does, so that a plan can say how long something will take.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::workshop::Workshop;
use kiln_plan::step::StepKey;

/// What is measured below this many bytes says more about waiting than about speed.
const LEAST: u64 = 1 << 20;
/// How much the newest measurement counts.
const NEWEST: f64 = 0.4;

/// What takes time in proportion to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speed {
    /// Downloads from indexes.
    Fetch,
    /// Making layers.
    Splice,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Rate {
    bytes_per_second: f64,
}

impl Workshop<'_> {
    /// Remembers that so many bytes took so many seconds.
    pub(crate) fn learn(&self, what: Speed, bytes: u64, seconds: f64) -> Result<()> {
        if bytes < LEAST || seconds <= 0.0 {
            return Ok(());
        }
        let now = bytes as f64 / seconds;
        let known: Option<Rate> = self.store.recall(&key(what))?;
        let bytes_per_second = known.map_or(now, |rate| rate.bytes_per_second * (1.0 - NEWEST) + now * NEWEST);
        Ok(self.store.remember(&key(what), &Rate { bytes_per_second })?)
    }

    /// How many seconds so many bytes will take; nothing if it was never measured.
    pub(crate) fn forecast(&self, what: Speed, bytes: u64) -> Result<Option<f64>> {
        if bytes == 0 {
            return Ok(Some(0.0));
        }
        Ok(self.store.recall::<Rate>(&key(what))?.and_then(|rate| rate.seconds(bytes)))
    }
}

impl Rate {
    /// Returns how many seconds so many bytes take; nothing for a rate that nothing ever had.
    fn seconds(self, bytes: u64) -> Option<f64> {
        let seconds = bytes as f64 / self.bytes_per_second;
        (seconds.is_finite() && seconds >= 0.0).then_some(seconds)
    }
}

/// Returns how many seconds so many bytes take at a recorded rate.
#[cfg(feature = "fuzzing")]
pub fn seconds(record: &[u8], bytes: u64) -> Option<f64> {
    serde_json::from_slice::<Rate>(record).ok()?.seconds(bytes)
}

fn key(what: Speed) -> StepKey {
    let name = match what {
        Speed::Fetch => "fetch",
        Speed::Splice => "splice",
    };
    StepKey::of("speed", 1).text("what", name).finish()
}
