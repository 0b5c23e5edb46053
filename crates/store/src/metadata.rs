//! What the store remembers besides files: results of steps, what they use, and when they were last used.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_plan::digest::Digest;
use kiln_plan::step::StepKey;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::temporary::TemporaryFile;
use crate::verified::{self, Identity};
use crate::{Result, Store};

/// Raised when the tables change; an older database is then rebuilt from nothing, since all of it can be made again.
const SCHEMA_VERSION: i64 = 2;

/// Seconds for which it is not recorded again that an unchanged image was used.
const RECENT: i64 = 3600;

const SCHEMA: &str = "
CREATE TABLE item (
    digest TEXT NOT NULL, kind TEXT NOT NULL, size INTEGER NOT NULL, used INTEGER NOT NULL,
    PRIMARY KEY (digest, kind)
) WITHOUT ROWID;
CREATE TABLE verified (
    device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL, modified INTEGER NOT NULL,
    changed INTEGER NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (device, inode)
) WITHOUT ROWID;
CREATE TABLE result (
    key TEXT PRIMARY KEY, value TEXT NOT NULL, sum TEXT NOT NULL, used INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE root (
    stack TEXT NOT NULL, image TEXT NOT NULL, persist INTEGER NOT NULL, used INTEGER NOT NULL, digests TEXT NOT NULL,
    PRIMARY KEY (stack, image)
) WITHOUT ROWID;
";

/// Opens the database, and begins a new one where the file is damaged: everything in it can be found out again.
pub(crate) fn open(path: &Path) -> Result<Connection> {
    for file in files(path) {
        // SQLite would open a database beside such a log for reading alone.
        if fs_err::metadata(&file).is_ok_and(|found| !found.is_file()) {
            verified::remove(&file)?;
        }
    }
    match connect(path) {
        Err(error) if error.is_damaged_database() => {
            remove(path)?;
            connect(path)
        }
        // SQLite does not say why it cannot write: a file beside it does, with a path.
        Err(error) if error.is_database_failure() => {
            let probe = TemporaryFile::create(&path.with_file_name("temporary"))?;
            probe.file().file().write_all_at(&[0; 4096], 0)?;
            probe.file().sync_all()?;
            drop(probe);
            connect(path)
        }
        opened => opened,
    }
}

fn connect(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(60))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // With WAL this cannot corrupt. `Store::sync` waits for the log, once for all that was recorded before.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // Moving the log into the database waits for the disk; it happens when the log is long, not at the end of every run.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version != SCHEMA_VERSION {
        create(&connection)?;
    }
    Ok(connection)
}

/// Removes a database with its log. Other processes that have it open keep what they have, and lose it when they end.
pub(crate) fn remove(path: &Path) -> Result<()> {
    for file in files(path) {
        match verified::remove(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(())
}

/// Returns the paths of a database, its log and its shared index.
fn files(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        file.into()
    })
}

fn create(connection: &Connection) -> Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version != SCHEMA_VERSION {
        for table in ["item", "source", "link", "verified", "result", "root"] {
            connection.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))?;
        }
        connection.execute_batch(SCHEMA)?;
        connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    }
    connection.execute_batch("COMMIT")?;
    Ok(())
}

/// Returns the checksum that tells a result from a damaged one: SQLite has none of its own.
fn sum(key: &StepKey, value: &str) -> String {
    Digest::of(format!("{} {value}", key.hex()).as_bytes()).hex()
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
    /// Returns the recorded result of a step.
    pub fn recall<T: DeserializeOwned>(&self, key: &StepKey) -> Result<Option<T>> {
        let found: Option<(String, String)> = self
            .database()
            .prepare_cached("SELECT value, sum FROM result WHERE key = ?1")?
            .query_row([key.hex()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        // A damaged value, or one of another shape (an older kiln's), is none.
        let value = found.filter(|(value, found)| sum(key, value) == *found).map(|(value, _)| value);
        Ok(value.and_then(|value| serde_json::from_str(&value).ok()))
    }

    /// Records the result of a step.
    pub fn remember<T: Serialize>(&self, key: &StepKey, value: &T) -> Result<()> {
        let value = serde_json::to_string(value)?;
        let sum = sum(key, &value);
        let database = self.database();
        let mut statement = database.prepare_cached("INSERT OR REPLACE INTO result VALUES (?1, ?2, ?3, ?4)")?;
        statement.execute(params![key.hex(), value, sum, now()])?;
        Ok(())
    }

    /// Records that an image was built or found unchanged. An unchanged one is recorded once an hour, so that a build that
    /// has nothing to do writes nothing.
    pub fn remember_root(&self, root: &Root) -> Result<()> {
        let digests = root.digests.iter().map(Digest::hex).collect::<Vec<_>>().join(" ");
        let database = self.database();
        let known: Option<(bool, i64, String)> = database
            .prepare_cached("SELECT persist, used, digests FROM root WHERE stack = ?1 AND image = ?2")?
            .query_row(params![root.stack, root.image], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let recent = |used: i64| (now() - RECENT..=now()).contains(&used);
        if known.is_some_and(|(persist, used, known)| persist == root.persist && known == digests && recent(used)) {
            return Ok(());
        }
        let mut statement = database.prepare_cached("INSERT OR REPLACE INTO root VALUES (?1, ?2, ?3, ?4, ?5)")?;
        statement.execute(params![root.stack, root.image, root.persist, now(), digests])?;
        Ok(())
    }

    /// Records that something of the store was made or used. `kind` is `blob` or `recipe`.
    pub(crate) fn remember_item(&self, digest: &Digest, kind: &str, size: u64) -> Result<()> {
        self.database().prepare_cached("INSERT OR REPLACE INTO item VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            digest.hex(),
            kind,
            size as i64,
            now()
        ])?;
        Ok(())
    }

    /// Records that a file was read and has this digest.
    pub(crate) fn remember_verified(&self, file: &Identity, digest: &Digest) -> Result<()> {
        let database = self.database();
        let mut statement =
            database.prepare_cached("INSERT OR REPLACE INTO verified VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        let (device, inode, size) = (file.device as i64, file.inode as i64, file.size as i64);
        statement.execute(params![device, inode, size, file.modified, file.changed, digest.hex()])?;
        Ok(())
    }

    /// Returns the digest that a file had when it was read, if it has not changed since.
    pub(crate) fn verified(&self, file: &Identity) -> Result<Option<Digest>> {
        let database = self.database();
        let mut statement = database.prepare_cached(
            "SELECT digest FROM verified \
             WHERE device = ?1 AND inode = ?2 AND size = ?3 AND modified = ?4 AND changed = ?5",
        )?;
        let (device, inode, size) = (file.device as i64, file.inode as i64, file.size as i64);
        let found: Option<String> = statement
            .query_row(params![device, inode, size, file.modified, file.changed], |row| row.get(0))
            .optional()?;
        Ok(found.and_then(|hex| Digest::from_hex(&hex).ok()))
    }
}
