//! What the store takes up, and how it is brought below a bound.
//!
//! Kept whatever the bound is: images that say `persist`, and images of stacks whose lock is still there (unless all
//! are to go). The rest goes in the order in which it was last used, wheels and layers alike, and it is said why.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kiln_plan::digest::Digest;

use crate::cache_directory::{self, CACHES};
use crate::metadata::now;
use crate::removal::remove_tree;
use crate::tree::{self, TREES, tree_size};
use crate::{Lock, Result, Store, Wait};

/// Bytes that the store takes up.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Wheels, manifests, configs, and layers that are stored whole.
    pub blobs: u64,
    /// How many.
    pub blob_count: u64,
    /// Recipes of spliced layers.
    pub recipes: u64,
    /// How many.
    pub recipe_count: u64,
    /// Bytes of the layers that recipes stand for: what is saved.
    pub spliced: u64,
    /// Layers that are unpacked.
    pub trees: u64,
    /// The number of these layers.
    pub tree_count: u64,
    /// Content that commands left for the next time.
    pub caches: u64,
    /// The number of directories with such content.
    pub cache_count: u64,
    /// Interrupted downloads, programs, the database.
    pub other: u64,
}

/// Something that garbage collection removed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// What.
    pub digest: Digest,
    /// Bytes that were freed.
    pub size: u64,
    /// Why: a clause.
    pub reason: String,
}

/// An image that garbage collection left.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Kept {
    /// Name and platform.
    pub image: String,
    /// Why: a clause.
    pub reason: String,
}

/// What garbage collection did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct GcReport {
    /// What it removed, in that order.
    pub removed: Vec<Removed>,
    /// The images it left, and why.
    pub kept: Vec<Kept>,
    /// Bytes before.
    pub before: u64,
    /// Bytes after.
    pub after: u64,
}

struct Item {
    digest: Digest,
    kind: String,
    size: u64,
    used: i64,
}

impl Store {
    /// Returns the bytes that the store takes up.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        for entry in fs_err::read_dir(self.root().join("blobs/sha256"))? {
            usage.blobs += entry?.metadata()?.len();
            usage.blob_count += 1;
        }
        for entry in fs_err::read_dir(self.root().join("recipes/sha256"))? {
            let entry = entry?;
            usage.recipes += entry.metadata()?.len();
            usage.recipe_count += 1;
            if let Ok(digest) = Digest::from_hex(&entry.file_name().to_string_lossy())
                && let Ok(recipe) = self.recipe(&digest)
            {
                usage.spliced += recipe.size;
            }
        }
        for entry in fs_err::read_dir(self.root().join(TREES))? {
            usage.trees += tree_size(&entry?.path().join("tree"))?;
            usage.tree_count += 1;
        }
        for entry in fs_err::read_dir(self.root().join(CACHES))? {
            usage.caches += tree_size(&entry?.path())?;
            usage.cache_count += 1;
        }
        for directory in ["partial", "tools", "temporary"] {
            usage.other += tree_size(&self.root().join(directory))?;
        }
        usage.other += fs_err::metadata(self.root().join("metadata.db"))?.len();
        Ok(usage)
    }

    /// Brings a store to at most `keep` bytes of content where what must be kept allows. Waits until no other process
    /// uses the store, and calls `wait` meanwhile. With `all`, stacks whose lock is still there lose their content too.
    pub fn collect_garbage(root: &Path, keep: u64, all: bool, wait: Wait<'_>) -> Result<GcReport> {
        let store = Self::open_waiting(root, wait)?;
        let root = store.root.clone();
        drop(store);
        let alone = Lock::exclusive(&root.join("locks/store"), wait)?;
        let store = Self::with_lock(root, alone, wait)?;
        store.remove_left_behind()?;
        let (kept, protected, used_by) = store.wanted(all)?;
        let mut items = store.items(&used_by)?;
        let before: u64 = items.iter().map(|item| item.size).sum();
        items.sort_by_key(|item| (item.used, item.digest));
        let mut report = GcReport { removed: Vec::new(), kept, before, after: before };
        let mut gone = BTreeSet::new();
        for item in items {
            // An empty file takes no bytes, and is never content.
            if report.after <= keep && item.size > 0 {
                continue;
            }
            if protected.contains(&item.digest) {
                continue;
            }
            store.remove(&item)?;
            report.after -= item.size;
            gone.insert(item.digest);
            let reason = match used_by.get(&item.digest) {
                Some((image, used)) => format!("last used by {image} {}", ago(*used)),
                None if item.kind == tree::KIND => {
                    format!("an unpacked layer, which can be made again; last used {}", ago(item.used))
                }
                None if item.kind == cache_directory::KIND => {
                    format!("a cache of commands; last used {}", ago(item.used))
                }
                None => format!("no image uses it; last used {}", ago(item.used)),
            };
            report.removed.push(Removed { digest: item.digest, size: item.size, reason });
        }
        store.forget(&gone)?;
        Ok(report)
    }

    /// Images that are kept, the digests of all they need, and for every digest which image used it last.
    #[expect(clippy::type_complexity, reason = "three views of one table, used in one place")]
    fn wanted(&self, all: bool) -> Result<(Vec<Kept>, BTreeSet<Digest>, BTreeMap<Digest, (String, i64)>)> {
        let (mut kept, mut protected, mut used_by) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        let database = self.database();
        let mut statement = database.prepare("SELECT stack, image, persist, used, digests FROM root ORDER BY used")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (stack, image): (String, String) = (row.get(0)?, row.get(1)?);
            let (persist, used): (bool, i64) = (row.get(2)?, row.get(3)?);
            let digests: String = row.get(4)?;
            let digests: Vec<Digest> = digests.split(' ').filter_map(|hex| Digest::from_hex(hex).ok()).collect();
            for digest in &digests {
                used_by.insert(*digest, (image.clone(), used));
            }
            let reason = if persist {
                "it says `persist = true`".to_owned()
            } else if !all && Path::new(&stack).exists() {
                format!("{stack} is there")
            } else {
                continue;
            };
            protected.extend(digests);
            kept.push(Kept { image, reason });
        }
        Ok((kept, protected, used_by))
    }

    /// Everything that the database knows, and files that it does not know.
    fn items(&self, used_by: &BTreeMap<Digest, (String, i64)>) -> Result<Vec<Item>> {
        let mut known = BTreeMap::new();
        let database = self.database();
        let mut statement = database.prepare("SELECT digest, kind, used FROM item")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (hex, kind): (String, String) = (row.get(0)?, row.get(1)?);
            known.insert((hex, kind), row.get::<_, i64>(2)?);
        }
        let mut items = Vec::new();
        for (directory, kind) in [("blobs/sha256", "blob"), ("recipes/sha256", "recipe")] {
            for entry in fs_err::read_dir(self.root().join(directory))? {
                let entry = entry?;
                let Ok(digest) = Digest::from_hex(&entry.file_name().to_string_lossy()) else { continue };
                let own = known.get(&(digest.hex(), kind.to_owned())).copied().unwrap_or(0);
                let used = used_by.get(&digest).map_or(own, |(_, used)| own.max(*used));
                items.push(Item { digest, kind: kind.to_owned(), size: entry.metadata()?.len(), used });
            }
        }
        for (directory, content, kind) in [(TREES, "tree", tree::KIND), (CACHES, "content", cache_directory::KIND)] {
            for entry in fs_err::read_dir(self.root().join(directory))? {
                let entry = entry?;
                let Ok(digest) = Digest::from_hex(&entry.file_name().to_string_lossy()) else { continue };
                let used = known.get(&(digest.hex(), kind.to_owned())).copied().unwrap_or(0);
                let size = tree_size(&entry.path().join(content))?;
                items.push(Item { digest, kind: kind.into(), size, used });
            }
        }
        Ok(items)
    }

    fn remove(&self, item: &Item) -> Result<()> {
        match item.kind.as_str() {
            "blob" => fs_err::remove_file(self.blob_path(&item.digest))?,
            tree::KIND => remove_tree(&self.tree_path(&item.digest))?,
            cache_directory::KIND => remove_tree(&self.cache_path(&item.digest))?,
            _ => fs_err::remove_file(self.recipe_path(&item.digest))?,
        }
        self.database()
            .execute("DELETE FROM item WHERE digest = ?1 AND kind = ?2", [&item.digest.hex(), &item.kind])?;
        Ok(())
    }

    /// Forgets roots that need content which is gone.
    fn forget(&self, gone: &BTreeSet<Digest>) -> Result<()> {
        let database = self.database();
        for digest in gone {
            database.execute("DELETE FROM verified WHERE digest = ?1", [digest.hex()])?;
            database.execute("DELETE FROM root WHERE instr(digests, ?1) > 0", [digest.hex()])?;
        }
        Ok(())
    }

    /// Removes what dead processes left: files being written, interrupted downloads, locks of steps. No process uses the
    /// store now.
    fn remove_left_behind(&self) -> Result<()> {
        crate::temporary::collect(&self.temporary(), true)?;
        crate::temporary::collect(&self.root().join("partial"), true)?;
        for entry in fs_err::read_dir(self.root().join("locks"))? {
            let entry = entry?;
            if !matches!(entry.file_name().to_str(), Some("store" | "opening")) {
                fs_err::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

fn ago(used: i64) -> String {
    let seconds = (now() - used).max(0);
    match seconds {
        _ if used == 0 => "at an unknown time".into(),
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}
