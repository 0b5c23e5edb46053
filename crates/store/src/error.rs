//! What can go wrong in a store.

use kiln_plan::digest::Digest;

/// A store error. Those of the file system name the path.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing a file.
    #[error("the store cannot read or write its files")]
    Io(#[from] std::io::Error),
    /// The database.
    #[error("the store's database `metadata.db` failed")]
    Database(#[from] rusqlite::Error),
    /// A result that is not what this program writes.
    #[error("the store's database holds a result that cannot be read")]
    Result(#[from] serde_json::Error),
    /// Content that is not there.
    #[error("{0} is not in the store")]
    Missing(Digest),
    /// A recipe that is not what this program writes.
    #[error("the recipe of {0} is damaged")]
    DamagedRecipe(Digest),
    /// Content that is not what its digest says.
    #[error("{expected} was expected, and the content has {found}")]
    WrongDigest {
        /// What was asked for.
        expected: Digest,
        /// What was found.
        found: Digest,
    },
}

impl StoreError {
    /// Whether the database file is damaged.
    pub fn is_damaged_database(&self) -> bool {
        let Self::Database(rusqlite::Error::SqliteFailure(error, _)) = self else { return false };
        matches!(error.code, rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
    }

    /// Whether the database cannot be opened, read or written, for a reason that it does not tell.
    pub(crate) fn is_database_failure(&self) -> bool {
        let Self::Database(rusqlite::Error::SqliteFailure(error, _)) = self else { return false };
        matches!(
            error.code,
            rusqlite::ErrorCode::CannotOpen | rusqlite::ErrorCode::SystemIoFailure | rusqlite::ErrorCode::ReadOnly
        )
    }

    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io(error) => error.kind() == std::io::ErrorKind::StorageFull,
            Self::Database(rusqlite::Error::SqliteFailure(error, _)) => error.code == rusqlite::ErrorCode::DiskFull,
            _ => false,
        }
    }
}
