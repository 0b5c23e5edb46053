//! Debian bases from packages alone: no program of the machine makes them.
//!
//! The archive's signed lists say which packages there are. kiln chooses those of the smallest system, unpacks them, and has their
//! scripts run in the sandbox; what is asked for besides is chosen and installed by the apt of that system, from an archive of files
//! that holds nothing else. The lock names every package with its digest, so that a locked base needs no list.

mod apt;
mod choice;
mod debs;
mod packages;
mod script;
mod suites;

use std::io::{BufWriter, Seek as _, SeekFrom};
use std::path::PathBuf;

use kiln_debian::closure;
use kiln_debian::index::Package;
use kiln_debian::release::Keyring;
use kiln_oci::debian::normalise;
use kiln_oci::image::{CONFIG, Config, Descriptor, History, Image, Manifest, to_json};
use kiln_oci::layer::{Layer, MediaType};
use kiln_oci::time;
use kiln_oci::whole::LayerWriter;
use kiln_plan::base::BaseFacts;
use kiln_plan::digest::Digest;
use kiln_plan::lock::{LockedBase, LockedDeb, LockedSuite};
use kiln_plan::platform::Platform;
use kiln_plan::stack::Mirror;
use kiln_sandbox::Ids;
use kiln_store::{TemporaryDirectory, remove_tree};

use apt::Apt;
pub(crate) use choice::{Asked, inputs, no_base};
pub(crate) use debs::bring_files;
pub(crate) use script::Wishes;
use suites::Suite;

use crate::error::{DebianError, ProjectError, Result};
use crate::workshop::{Workshop, now};

/// The keys that apt trusts for the archives of Debian.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A Debian that a stack names.
#[derive(Debug, Clone)]
pub(crate) struct Debian {
    /// Its name in the lock.
    pub(crate) name: String,
    /// Suite or code name: `bookworm`.
    pub(crate) suite: String,
    /// Packages besides the smallest system, as apt takes them: `python3`, `git=1:2.39.5-0+deb12u2`.
    pub(crate) include: Vec<String>,
    /// The archive; nothing for those that the machine's apt knows.
    pub(crate) mirror: Option<Mirror>,
    /// The directory that the file of keys is relative to.
    pub(crate) directory: PathBuf,
    pub(crate) platform: Platform,
}

impl Debian {
    fn keys(&self) -> Result<Keyring> {
        match self.mirror.as_ref().and_then(|mirror| mirror.key.as_deref()) {
            Some(path) => suites::keys(&self.directory, path, &self.name),
            None => Keyring::debian()
                .map_err(|problem| DebianError::Keys { path: "the keys of Debian".to_owned(), problem }.of(&self.name)),
        }
    }

    fn wishes(&self) -> Wishes {
        Wishes { install: self.include.clone(), ..Wishes::default() }
    }
}

/// Chooses the packages of a Debian, and makes it. The lock's entry has no facts yet.
pub(crate) fn lock(workshop: &Workshop<'_>, wanted: &Debian, before: &[LockedSuite]) -> Result<(LockedBase, Image)> {
    if workshop.surroundings.offline {
        return Err(ProjectError::Offline(wanted.name.clone()).into());
    }
    let work = workshop.work("resolve", format!("{} ({})", wanted.name, wanted.platform), None);
    let suites = suites::read(workshop, wanted, before)?;
    let architecture = wanted.platform.cpu.debian();
    let index = suites::index(&suites, architecture, &wanted.name)?;
    let chosen = closure::system(&index, &[]).map_err(|error| DebianError::from(error).of(&wanted.name))?;
    let locked = |package: &Package<'_>, base| {
        let uri = suites.get(package.archive).map_or("", |suite| &suite.uri);
        packages::locked(package, uri, base)
    };
    let mut packages: Vec<LockedDeb> = chosen.values().map(|package| locked(package, true)).collect();
    let archives: Vec<LockedSuite> = suites.iter().map(Suite::locked).collect();
    let elsewhere = suites::addresses(wanted, &workshop.surroundings.apt);
    drop(work);
    packages::fetch(workshop, &wanted.name, &packages, &archives, &elsewhere)?;
    let base = Base::unpack(workshop, wanted, &packages)?;
    if !wanted.include.is_empty() {
        let work = workshop.work("resolve", format!("{} ({})", wanted.name, wanted.platform), None);
        let shown: Vec<_> = suites.iter().map(Suite::shown).collect();
        for (suite, path) in base.apt(workshop, wanted).choose(&shown, architecture, &wanted.wishes(), &work)? {
            let missing = || DebianError::Chosen { line: path.clone() }.of(&wanted.name);
            packages.push(locked(index.at(suite, &path).ok_or_else(missing)?, false));
        }
        packages::fetch(workshop, &wanted.name, &packages, &archives, &elsewhere)?;
    }
    let image = base.complete(workshop, wanted, &packages, &archives)?;
    let locked = LockedBase {
        name: wanted.name.clone(),
        platform: wanted.platform,
        index: None,
        manifest: image.manifest,
        // Nobody has looked into it yet.
        layers: None,
        snapshot: Some(now()),
        archives,
        packages,
        facts: BaseFacts::default(),
    };
    Ok((locked, image))
}

/// Makes a Debian that is locked.
pub(crate) fn make(workshop: &Workshop<'_>, wanted: &Debian, locked: &LockedBase) -> Result<Image> {
    if locked.packages.is_empty() {
        return Err(DebianError::FormerLock.of(&wanted.name));
    }
    let elsewhere = suites::addresses(wanted, &workshop.surroundings.apt);
    packages::fetch(workshop, &wanted.name, &locked.packages, &locked.archives, &elsewhere)?;
    let base = Base::unpack(workshop, wanted, &locked.packages)?;
    let image = base.complete(workshop, wanted, &locked.packages, &locked.archives)?;
    match image.manifest == locked.manifest {
        true => Ok(image),
        false => Err(DebianError::OtherLayer.of(&wanted.name)),
    }
}

/// The smallest system, unpacked and not configured.
struct Base {
    directory: TemporaryDirectory,
    /// The scripts that packages have before they are unpacked, by their names in the database.
    preinst: Vec<String>,
}

impl Base {
    fn unpack(workshop: &Workshop<'_>, wanted: &Debian, packages: &[LockedDeb]) -> Result<Self> {
        let base: Vec<&LockedDeb> = packages.iter().filter(|package| package.base).collect();
        let bytes = base.iter().map(|package| package.size).sum();
        let work = workshop.work("unpack", format!("{} ({})", wanted.name, wanted.platform), Some(bytes));
        let directory = workshop.store.temporary_directory()?;
        let path = directory.path().join("unpacked.tar");
        let out = BufWriter::with_capacity(1 << 20, fs_err::File::create(&path)?);
        let preinst = packages::unpack(workshop, wanted, &base, out, &work)?;
        let done = Self { directory, preinst };
        fs_err::create_dir_all(done.tree())?;
        workshop.unpack_tree(Ids::of_this_process(), fs_err::File::open(path)?, &done.tree(), &work)?;
        Ok(done)
    }

    fn tree(&self) -> PathBuf {
        self.directory.path().join("trees/base")
    }

    fn tar(&self) -> Result<fs_err::File> {
        Ok(fs_err::File::open(self.directory.path().join("unpacked.tar"))?)
    }

    fn apt<'a>(&self, workshop: &'a Workshop<'a>, wanted: &'a Debian) -> Apt<'a> {
        Apt { workshop, name: &wanted.name, layers: vec![self.tree()], below: 0 }
    }

    /// Configures it, installs the other packages, and returns the image.
    fn complete(
        self,
        workshop: &Workshop<'_>,
        wanted: &Debian,
        packages: &[LockedDeb],
        archives: &[LockedSuite],
    ) -> Result<Image> {
        let work = workshop.work("bootstrap", format!("{} ({})", wanted.name, wanted.platform), None);
        let (base, included): (Vec<_>, Vec<_>) = packages.iter().partition(|package| package.base);
        let script = script::configure(&base, &self.preinst, &wanted.wishes());
        let changed = self.directory.path().join("changed.tar");
        self.apt(workshop, wanted).install(script, &included, &work, |done| {
            let mut out = BufWriter::with_capacity(1 << 20, fs_err::File::create(&changed)?);
            let mut watch = |bytes| work.advance(bytes).map_err(std::io::Error::from);
            done.pack(Ids::of_this_process(), &mut out, &mut watch)?;
            Ok(())
        })?;
        let lines: Vec<String> = packages
            .iter()
            .map(|one| format!("{} {} {} {}", one.name, one.version, one.architecture, one.sha256.hex()))
            .collect();
        let time = time::packaged(&Digest::of(lines.join("\n").as_bytes()));
        let more = self.more(wanted, archives)?;
        let layer = self.layer(workshop, wanted, [self.tar()?, fs_err::File::open(&changed)?, more], time)?;
        image(workshop, wanted, layer)
    }

    /// Returns a tar with the sources of apt, which are those that the packages came from, and the name of the architecture.
    fn more(&self, wanted: &Debian, archives: &[LockedSuite]) -> Result<fs_err::File> {
        let keys = match wanted.mirror.as_ref().and_then(|mirror| mirror.key.as_ref()) {
            None => format!("[signed-by={KEYRING}] "),
            Some(_) => String::new(),
        };
        let line = |archive: &LockedSuite| format!("deb {keys}{} {} main\n", archive.uri, archive.suite);
        let sources: String = archives.iter().map(line).collect();
        let architecture = format!("{}\n", wanted.platform.cpu.debian());
        let path = self.directory.path().join("more.tar");
        let mut tar = tar::Builder::new(fs_err::File::options().read(true).write(true).create_new(true).open(path)?);
        for (path, text) in [("etc/apt/sources.list", sources), ("var/lib/dpkg/arch", architecture)] {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, path, text.as_bytes())?;
        }
        let mut file = tar.into_inner()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }

    fn layer(&self, workshop: &Workshop<'_>, wanted: &Debian, parts: [fs_err::File; 3], time: u64) -> Result<Layer> {
        let mut out = LayerWriter::new(workshop.store, MediaType::Gzip, workshop.surroundings.jobs)?;
        let mut parts = parts.map(fs_err::File::into_file);
        normalise(&mut parts, &mut out, time).map_err(|error| DebianError::from(error).of(&wanted.name))?;
        Ok(out.finish()?)
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        // Its files may belong to ids of the user's range.
        let _ = remove_tree(&self.tree());
    }
}

/// Stores the documents of an image of one layer.
fn image(workshop: &Workshop<'_>, wanted: &Debian, layer: Layer) -> Result<Image> {
    let mut config = Config::scratch(wanted.platform);
    config.set_env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    config.config.cmd = vec!["/bin/sh".into()];
    config.rootfs.diff_ids.push(layer.diff_id);
    config.history.push(History { created_by: Some(format!("kiln: {}", wanted.name)), ..History::default() });
    let config_bytes = to_json(&config)?;
    let manifest = Manifest::new(Descriptor::of(CONFIG, &config_bytes), std::slice::from_ref(&layer));
    let manifest_bytes = to_json(&manifest)?;
    Ok(Image {
        platform: wanted.platform,
        config: workshop.store.add(&config_bytes)?,
        manifest: workshop.store.add(&manifest_bytes)?,
        manifest_size: manifest_bytes.len() as u64,
        layers: vec![layer],
    })
}
