//! Records: which product a step gave. *Local* ones are of steps that this store performed; *remote* ones are what a cache
//! said, kept apart by cache and trust. Only local ones are shared and signed.

use kiln_plan::step::StepKey;
use kiln_store::Store;

use crate::error::Result;
use crate::product::Product;

/// Raised when records of an older kiln must not be read.
const VERSION: u32 = 1;

/// Returns the product that this store recorded.
pub(crate) fn local(store: &Store, key: &StepKey) -> Result<Option<Product>> {
    Ok(store.recall(key)?)
}

/// Records the product of a step that this process performed.
pub(crate) fn write_local(store: &Store, key: &StepKey, product: &Product) -> Result<()> {
    Ok(store.remember(key, product)?)
}

/// Returns the product that a cache recorded, as it was read under this policy.
pub(crate) fn remote(store: &Store, policy: &str, key: &StepKey) -> Result<Option<Product>> {
    Ok(store.recall(&remote_key(policy, key))?)
}

/// Keeps a record of a cache.
pub(crate) fn write_remote(store: &Store, policy: &str, key: &StepKey, product: &Product) -> Result<()> {
    Ok(store.remember(&remote_key(policy, key), product)?)
}

/// Another cache, or another trust, is another table: their records are not seen.
fn remote_key(policy: &str, key: &StepKey) -> StepKey {
    StepKey::of("remote record", VERSION).text("policy", policy).text("key", &key.hex()).finish()
}
