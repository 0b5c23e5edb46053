//! Python wheels: what is inside, which of them fit, and where an installer would put their files.
//!
//! Nothing from a wheel runs here. What an installer would write is data that layers are made from; what is written is
//! another wheel.

pub mod archive;
pub mod available;
pub mod install;
pub mod metadata;
pub mod modules;
pub mod name;
pub mod provenance;
pub mod pylock;
pub mod record;
pub mod repack;
pub mod requirements;
pub mod tags;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod uv;

/// Doors to private parsers, for the fuzz targets alone.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    /// Returns the error that uv's standard error becomes.
    pub fn refusal(stderr: &str) -> crate::uv::UvError {
        crate::uv::explain(stderr)
    }
}

pub use rawzip::ReaderAt;

/// A package name in its normalised form; nothing where the text is none.
pub fn name_of(text: &str) -> Option<pep508_rs::PackageName> {
    // The library takes an empty name for one.
    pep508_rs::PackageName::new(text.to_owned()).ok().filter(|_| !text.is_empty())
}
