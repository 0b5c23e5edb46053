//! What the store remembers besides files: results of steps, what they use, and when they were last used.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_plan::digest::Digest;
use kiln_plan::step::StepKey;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Result, Store};

/// Raised when the tables change; an older database is then rebuilt from nothing, since all of it can be made again.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE item (
    digest TEXT NOT NULL, kind TEXT NOT NULL, size INTEGER NOT NULL, used INTEGER NOT NULL,
    PRIMARY KEY (digest, kind)
) WITHOUT ROWID;
CREATE TABLE source (recipe TEXT NOT NULL, source TEXT NOT NULL, PRIMARY KEY (recipe, source)) WITHOUT ROWID;
CREATE TABLE link (digest TEXT PRIMARY KEY, size INTEGER NOT NULL, modified INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE result (key TEXT PRIMARY KEY, value TEXT NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE root (
    stack TEXT NOT NULL, image TEXT NOT NULL, persist INTEGER NOT NULL, used INTEGER NOT NULL, digests TEXT NOT NULL,
    PRIMARY KEY (stack, image)
) WITHOUT ROWID;
";

pub(crate) fn open(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(60))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // With WAL this cannot corrupt; at worst the last results are forgotten after a power cut.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // Moving the log into the database waits for the disk; it happens when the log is long, not at the end of every run.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version != SCHEMA_VERSION {
        create(&connection)?;
    }
    Ok(connection)
}

fn create(connection: &Connection) -> Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version != SCHEMA_VERSION {
        for table in ["item", "source", "link", "result", "root"] {
            connection.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))?;
        }
        connection.execute_batch(SCHEMA)?;
        connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    }
    connection.execute_batch("COMMIT")?;
    Ok(())
}

/// Seconds since 1970; only for deciding what was used least recently.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// An image that was built, and everything it needs to be built again without work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The absolute path of the stack's lock: while that file is there, the root counts as wanted.
    pub stack: String,
    /// Name and platform of the image.
    pub image: String,
    /// Whether the stack says that garbage collection leaves it.
    pub persist: bool,
    /// What it consists of: manifests, configs, layers, wheels.
    pub digests: BTreeSet<Digest>,
}

impl Store {
    /// What a step resulted in, if that is remembered.
    pub fn recall<T: DeserializeOwned>(&self, key: &StepKey) -> Result<Option<T>> {
        let value: Option<String> = self
            .database()
            .prepare_cached("SELECT value FROM result WHERE key = ?1")?
            .query_row([key.hex()], |row| row.get(0))
            .optional()?;
        // A value of another shape is an older kiln's: forgotten rather than an error.
        Ok(value.and_then(|value| serde_json::from_str(&value).ok()))
    }

    /// Remembers what a step resulted in.
    pub fn remember<T: Serialize>(&self, key: &StepKey, value: &T) -> Result<()> {
        let value = serde_json::to_string(value)?;
        self.database().prepare_cached("INSERT OR REPLACE INTO result VALUES (?1, ?2, ?3)")?.execute(params![
            key.hex(),
            value,
            now()
        ])?;
        Ok(())
    }

    /// Remembers that an image was built or found unchanged.
    pub fn remember_root(&self, root: &Root) -> Result<()> {
        let digests: Vec<String> = root.digests.iter().map(Digest::hex).collect();
        self.database().prepare_cached("INSERT OR REPLACE INTO root VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
            root.stack,
            root.image,
            root.persist,
            now(),
            digests.join(" ")
        ])?;
        Ok(())
    }

    pub(crate) fn remember_blob(&self, digest: &Digest, size: u64) -> Result<()> {
        self.remember_item(digest, "blob", size)
    }

    pub(crate) fn remember_recipe(&self, digest: &Digest, size: u64, sources: &[Digest]) -> Result<()> {
        self.remember_item(digest, "recipe", size)?;
        let database = self.database();
        let mut statement = database.prepare_cached("INSERT OR IGNORE INTO source VALUES (?1, ?2)")?;
        for source in sources {
            statement.execute([digest.hex(), source.hex()])?;
        }
        Ok(())
    }

    fn remember_item(&self, digest: &Digest, kind: &str, size: u64) -> Result<()> {
        self.database().prepare_cached("INSERT OR REPLACE INTO item VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            digest.hex(),
            kind,
            size as i64,
            now()
        ])?;
        Ok(())
    }

    pub(crate) fn remember_link(&self, digest: &Digest, size: u64, modified: i64) -> Result<()> {
        self.database().prepare_cached("INSERT OR REPLACE INTO link VALUES (?1, ?2, ?3)")?.execute(params![
            digest.hex(),
            size as i64,
            modified
        ])?;
        Ok(())
    }

    /// Size and modification time (nanoseconds since 1970) that a linked file had when it was checked.
    pub(crate) fn linked(&self, digest: &Digest) -> Result<Option<(u64, i64)>> {
        let found = self
            .database()
            .prepare_cached("SELECT size, modified FROM link WHERE digest = ?1")?
            .query_row([digest.hex()], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?)))
            .optional()?;
        Ok(found)
    }
}
