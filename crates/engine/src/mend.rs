//! Damaged content mends itself: it is removed from the store, and what needed it is done again.
//!
//! A blob that changed on the disk shows in many ways: a layer of another digest, a wheel whose deflate stream ends early, a
//! manifest that is no JSON. So not the error is interpreted: after one that damage may have caused, everything that the
//! command opened is read again and compared with its digest.

use crate::error::{BuildError, Result};
use crate::workshop::Workshop;

/// Attempts, since each may bring other damage to light.
const ATTEMPTS: usize = 5;

impl Workshop<'_> {
    /// Does something, and again each time that damaged content was found and removed.
    pub fn mending<T>(&self, act: impl Fn() -> Result<T>) -> Result<T> {
        let mut attempt = 1;
        loop {
            let before = self.store.discarded();
            match act() {
                Err(error) if attempt < ATTEMPTS && error.may_come_from_damage() && self.mends(&error, before)? => {}
                done => return done,
            }
            attempt += 1;
        }
    }

    /// Removes what is damaged; whether there was anything.
    fn mends(&self, error: &BuildError, before: usize) -> Result<bool> {
        if error.is_damaged_database() {
            self.warn("the store's database is damaged: it is made again");
            self.store.reset_database()?;
            return Ok(true);
        }
        for path in self.store.discard_damaged()? {
            self.warn(format!("`{}` is damaged: it is made again", path.display()));
        }
        Ok(self.store.discarded() > before)
    }
}
