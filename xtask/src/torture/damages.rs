//! Files that lose bits, their end, all content, or themselves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::campaign::Report;
use super::interposer::{Disturbance, Mode};
use super::outcome::{Outcome, Problem, problem};
use super::place::{Place, Registry, Start};
use super::scenario::{is_archive, tags};
use super::world::{Variant, World};
use super::{Result, check};
use crate::random::Random;

/// A command whose result shows whether damage was noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Into the layout that is there already.
    Layout,
    /// Into a new layout.
    NewLayout,
    Archive,
    Push,
}

impl Use {
    fn command(self) -> &'static str {
        match self {
            Self::Layout => "build --json --output oci:out",
            Self::NewLayout => "build --json --output oci:shared",
            Self::Archive => "build ml --json --output docker-archive:ml.tar",
            Self::Push => "build --json --push",
        }
    }

    fn judge(self, place: &Place<'_>, outcome: &Outcome) -> Vec<Problem> {
        if !outcome.succeeded() {
            return Vec::new();
        }
        match self {
            Self::Layout => place.judge(outcome, Some("out")),
            Self::NewLayout => place.judge(outcome, Some("shared")),
            Self::Push => [place.judge(outcome, None), tags(place)].concat(),
            Self::Archive if is_archive(place, Variant::A) => Vec::new(),
            Self::Archive => vec![problem("status 0 with an archive with wrong bytes", "ml.tar")],
        }
    }
}

/// Damages one file and sees what becomes of it.
pub(crate) fn run(world: &World, name: &str, random: &mut Random) -> Result<Report> {
    // One case of eight is about a download that was interrupted.
    let partial = random.percent(12);
    let used = *random.one_of(&[Use::Layout, Use::NewLayout, Use::Archive, Use::Push]).unwrap_or(&Use::Layout);
    let registry = if used == Use::Push { Registry::Own } else { Registry::None };
    let start = match partial {
        true => Start { lock: Some(Variant::A), registry, ..Start::new(Variant::A) },
        false => Start { output: Some(Variant::A), registry, ..Start::built(Variant::A) },
    };
    let place = Place::new(world, name, &start)?;
    if partial {
        interrupt_download(&place, random)?;
    }
    let mut files = files(&place);
    if partial {
        files.retain(|kind, _| *kind == "partial download");
    }
    let kinds: Vec<&str> = files.keys().copied().collect();
    let Some(kind) = random.one_of(&kinds) else {
        return Ok(Report { what: "nothing to damage".into(), ..Report::default() });
    };
    let Some(file) = files.get(kind).and_then(|files| random.one_of(files)) else { return Ok(Report::default()) };
    // Damage to a layout shows where something is written into it.
    let used = if file.starts_with(place.project().join("out")) { Use::Layout } else { used };
    let how = damage(file, random)?;
    let relative = file.strip_prefix(&place.root).unwrap_or(file).display().to_string();
    let outcome = place.kiln(used.command())?;
    let mut problems = outcome.problems(used.command());
    problems.extend(used.judge(&place, &outcome));
    if !outcome.succeeded() {
        if !names(&outcome.stderr, file) {
            problems.push(problem("the damaged file is not named", outcome.brief()));
        } else if !["hint:", "help:"].iter().any(|advice| outcome.stderr.contains(advice)) {
            problems.push(problem("nothing is said about what to do", outcome.brief()));
        }
        repair(&place, file)?;
    } else if relative.starts_with("project/base") || relative.starts_with("project/wheels") {
        repair(&place, file)?;
    }
    let later = place.settle()?.into_iter();
    problems.extend(later.map(|found| problem(format!("later: {}", found.kind), found.details)));
    for found in &mut problems {
        found.kind = format!("{kind}: {}", found.kind);
    }
    Ok(Report { what: format!("{kind} {relative} {how}, {}", used.command()), problems, hit: None, done: true })
}

/// Kills a build in the middle of a download, so that a part of it stays.
pub(crate) fn interrupt_download(place: &Place<'_>, random: &mut Random) -> Result<()> {
    let name = if place.project().join("kiln.lock").exists() { "locked" } else { "cold" };
    let calls = place.world.calls.get(name).cloned().unwrap_or_default();
    let writes = calls.0.iter().filter(|call| call.function == "write" && call.path.contains("/partial/"));
    let numbers: Vec<u64> = writes.map(|call| call.number).collect();
    let Some(at) = random.one_of(&numbers) else { return Ok(()) };
    let disturbance = Disturbance { mode: Mode::Tear, at: *at };
    let command = "build --json --output oci:out";
    let mut command = place.disturb(command, &place.root.join("interrupted"), Some(disturbance));
    super::outcome::finish(super::outcome::start(&mut command, None)?)?;
    Ok(())
}

/// Every file that can be damaged, by kind.
fn files(place: &Place<'_>) -> BTreeMap<&'static str, Vec<PathBuf>> {
    let mut files: BTreeMap<&'static str, Vec<PathBuf>> = BTreeMap::new();
    let mut add = |kind: &'static str, directory: PathBuf, name: String| {
        files.entry(kind).or_default().push(directory.join(name));
    };
    let (store, project) = (place.store(), place.project());
    for name in check::names(&store.join("blobs/sha256")) {
        add(blob_kind(&store.join("blobs/sha256").join(&name)), store.join("blobs/sha256"), name);
    }
    for (kind, directory) in [
        ("recipe", store.join("recipes/sha256")),
        ("partial download", store.join("partial")),
        ("lock file", store.join("locks")),
        ("tool", store.join("tools")),
        ("blob of a layout", project.join("out/blobs/sha256")),
        ("blob of a base", project.join("base/blobs/sha256")),
        ("local wheel", project.join("wheels")),
    ] {
        for name in check::names(&directory) {
            add(kind, directory.clone(), name);
        }
    }
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        if store.join(name).exists() {
            add("database", store.clone(), name.into());
        }
    }
    for name in ["index.json", "oci-layout"] {
        if project.join("out").join(name).exists() {
            add("index of a layout", project.join("out"), name.into());
        }
    }
    files
}

fn blob_kind(path: &Path) -> &'static str {
    let bytes = fs_err::read(path).unwrap_or_default();
    match bytes.as_slice() {
        [b'P', b'K', ..] => "blob (wheel)",
        [b'{', ..] => match String::from_utf8_lossy(&bytes) {
            text if text.contains("\"layers\"") => "blob (manifest)",
            text if text.contains("\"rootfs\"") => "blob (config)",
            _ => "blob (other JSON)",
        },
        [0x1f, 0x8b, ..] | [0x28, 0xb5, ..] => "blob (layer)",
        _ => "blob (other)",
    }
}

/// Damages a file; how, in words. In half of the cases its time stays, as a disk that loses bits leaves it.
fn damage(path: &Path, random: &mut Random) -> Result<String> {
    let found = fs_err::metadata(path)?;
    let (length, modified, keep_time) = (found.len(), found.modified()?, random.percent(50));
    let how = match random.below(4) {
        0 if length > 0 => {
            let (at, bit) = (random.below(length), random.below(8));
            let mut bytes = fs_err::read(path)?;
            if let Some(byte) = bytes.get_mut(at as usize) {
                *byte ^= 1 << bit;
            }
            fs_err::write(path, bytes)?;
            format!("with bit {bit} of byte {at} flipped")
        }
        1 if length > 0 => {
            let to = random.below(length);
            fs_err::OpenOptions::new().write(true).open(path)?.file().set_len(to)?;
            format!("cut to {to} of {length} bytes")
        }
        2 if length > 0 => {
            fs_err::write(path, "")?;
            "cut to nothing".to_owned()
        }
        0..=2 => {
            fs_err::write(path, "garbage")?;
            "with garbage in it".to_owned()
        }
        _ => {
            fs_err::remove_file(path)?;
            return Ok("lost".into());
        }
    };
    if keep_time {
        fs_err::OpenOptions::new().write(true).open(path)?.file().set_modified(modified)?;
    }
    Ok(how)
}

/// Whether a message names a file: its name or enough of its digest, or the layout that it belongs to.
fn names(message: &str, file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let digest = name.trim_end_matches(".part");
    // `metadata.db-wal` and `metadata.db-shm` are parts of the database.
    let database = name.starts_with("metadata.db") && message.contains("metadata.db");
    message.contains(name.as_ref()) || database || (digest.len() == 64 && message.contains(&digest[..12]))
}

/// Does what an error about a damaged file advises: the file goes, or comes back from where it was made.
fn repair(place: &Place<'_>, file: &Path) -> Result<()> {
    for (directory, origin) in [("project/base", "base"), ("project/wheels", "wheels")] {
        if let Ok(relative) = file.strip_prefix(place.root.join(directory)) {
            fs_err::copy(place.world.root.join(origin).join(relative), file)?;
            return Ok(());
        }
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let gone: Vec<PathBuf> = if name.starts_with("metadata.db") {
        ["metadata.db", "metadata.db-wal", "metadata.db-shm"].map(|name| place.store().join(name)).into()
    } else if file.starts_with(place.project().join("out")) && !name.chars().all(|c| c.is_ascii_hexdigit()) {
        vec![place.project().join("out")]
    } else {
        vec![file.to_owned()]
    };
    for path in gone {
        if path.is_dir() {
            fs_err::remove_dir_all(path)?;
        } else if path.exists() {
            fs_err::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_damage_changes_or_removes_the_file() {
        let directory = tempfile::tempdir().unwrap();
        for case in 0..200 {
            let path = directory.path().join("file");
            fs_err::write(&path, "content").unwrap();
            let how = damage(&path, &mut Random::of_case(1, "test", case)).unwrap();
            assert_ne!(fs_err::read(&path).ok().as_deref(), Some(b"content".as_slice()), "{how}");
        }
    }

    #[test]
    fn a_message_names_a_file_by_its_name_or_digest() {
        let hex = "0123456789abcdef".repeat(4);
        assert!(names(&format!("error: sha256:{hex} is damaged"), Path::new(&format!("/s/blobs/sha256/{hex}"))));
        assert!(names("error: /s/metadata.db is damaged", Path::new("/s/metadata.db-wal")));
        assert!(!names("error: it failed", Path::new("/s/metadata.db")));
    }
}
