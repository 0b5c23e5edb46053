//! A client of registries (OCI distribution specification 1.1, and what Docker's registry and its kin do beside it).
//!
//! Registries are far away, limit rates, break off and are restarted while somebody pushes. So everything is asked for
//! with patience, uploads and downloads go on where they stopped, whatever comes in is checked against its digest, and
//! no answer may be longer than it can sensibly be. A tag is moved last, when all that it points at is there.
//!
//! The functions here block; inside, a small runtime of its own keeps many requests under way.

mod certificates;
mod challenge;
mod client;
mod credentials;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod images;
pub mod patience;
mod proxies;
mod publish;
mod pull;
mod push;
pub mod redirect;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use client::{Options, Registries};
pub use credentials::{Credential, Credentials};
pub use error::{EncryptionFault, RegistryError};
pub use images::{RemoteImage, RemoteShelf};
pub use proxies::Proxies;
pub use publish::{Publication, Published};
pub use pull::{BlobReader, Document};
pub use push::{Moved, Open, Upload};
