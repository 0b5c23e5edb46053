//! Bootstrapping a Debian: mmdebstrap makes it, kiln normalises it, and it is kept as an image of one layer.

use kiln_oci::debian::{self, Bootstrap};
use kiln_oci::image::{CONFIG, Config, Descriptor, History, Image, Manifest, to_json};
use kiln_oci::layer::Layer;
use kiln_oci::{time, whole};
use kiln_plan::base::BaseFacts;
use kiln_plan::digest::Digest;
use kiln_plan::event::Work;
use kiln_plan::lock::LockedBase;
use kiln_plan::platform::Platform;

use crate::error::{BuildError, ProjectError, Result};
use crate::workshop::{Workshop, now};

/// Bootstraps a Debian and stores it. The lock's entry has no facts yet.
pub(crate) fn bootstrap(workshop: &Workshop<'_>, name: String, wanted: &Bootstrap) -> Result<(LockedBase, Image)> {
    let program = workshop.find_program("mmdebstrap").ok_or_else(|| BuildError::Program {
        program: "mmdebstrap".into(),
        purpose: format!("to bootstrap `{{ debian = \"{}\" }}`", wanted.suite),
        problem: "is not on PATH".into(),
        hint: "install it: `apt-get install mmdebstrap`; or use another base: `{ oci = \"PATH\" }`".into(),
    })?;
    if workshop.surroundings.offline {
        return Err(ProjectError::Offline(name).into());
    }
    let work = workshop.work("bootstrap", format!("{name} ({})", wanted.platform), None);
    let directory = workshop.store.temporary_directory()?;
    // mmdebstrap may run as a subordinate user, who must be able to pass.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs_err::set_permissions(directory.path(), mode)?;
    let done = wanted.bootstrap(&program, directory.path(), &workshop.surroundings.environment, &work);
    let done = done.map_err(|error| failed(&name, error))?;
    let packages: Vec<String> = done
        .packages
        .iter()
        .map(|package| {
            format!("{} {} {} {}", package.name, package.version, package.architecture, package.sha256.hex())
        })
        .collect();
    let time = time::packaged(&Digest::of(packages.join("\n").as_bytes()));
    let layer = normalised(workshop, &name, (&done.raw, time), directory.path(), &work)?;
    let image = image(workshop, &name, wanted.platform, layer)?;
    let locked = LockedBase {
        name,
        platform: wanted.platform,
        index: None,
        manifest: image.manifest,
        // Nobody has looked into it yet.
        layers: None,
        snapshot: Some(now()),
        packages,
        facts: BaseFacts::default(),
    };
    Ok((locked, image))
}

fn failed(name: &str, error: debian::DebianError) -> BuildError {
    if matches!(error, debian::DebianError::Interrupted) {
        return BuildError::Interrupted;
    }
    match error.hint() {
        Some(hint) => BuildError::Program {
            program: "mmdebstrap".into(),
            purpose: format!("to bootstrap {name}"),
            problem: format!("failed: {error}"),
            hint: hint.to_owned(),
        },
        None => BuildError::Bootstrap { base: name.to_owned(), source: error },
    }
}

fn normalised(
    workshop: &Workshop<'_>,
    name: &str,
    (raw, time): (&std::path::Path, u64),
    directory: &std::path::Path,
    work: &Work<'_>,
) -> Result<Layer> {
    let normal = directory.join("normal.tar");
    let out = std::io::BufWriter::with_capacity(1 << 20, fs_err::File::create(&normal)?);
    debian::normalise(fs_err::File::open(raw)?.into_file(), out, time).map_err(|error| failed(name, error))?;
    let tar = fs_err::File::open(&normal)?.into_file();
    Ok(whole::from_tar(workshop.store, tar, workshop.surroundings.jobs, work)?)
}

/// Stores the documents of an image of one layer.
fn image(workshop: &Workshop<'_>, name: &str, platform: Platform, layer: Layer) -> Result<Image> {
    let mut config = Config::scratch(platform);
    config.set_env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    config.config.cmd = vec!["/bin/sh".into()];
    config.rootfs.diff_ids.push(layer.diff_id);
    config.history.push(History { created_by: Some(format!("kiln: {name}")), ..History::default() });
    let config_bytes = to_json(&config)?;
    let manifest = Manifest::new(Descriptor::of(CONFIG, &config_bytes), std::slice::from_ref(&layer));
    let manifest_bytes = to_json(&manifest)?;
    Ok(Image {
        platform,
        config: workshop.store.add(&config_bytes)?,
        manifest: workshop.store.add(&manifest_bytes)?,
        manifest_size: manifest_bytes.len() as u64,
        layers: vec![layer],
    })
}

/// Returns the error about an archive that has other packages than were locked.
pub(crate) fn moved(locked: &LockedBase, found: &LockedBase) -> BuildError {
    let changed: Vec<&str> = found
        .packages
        .iter()
        .filter(|new| !locked.packages.contains(new))
        .map(|line| {
            let end = line.match_indices(' ').nth(1).map_or(line.len(), |(at, _)| at);
            &line[..end]
        })
        .collect();
    let shown = changed.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    let more = changed.len().saturating_sub(5);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let what = if changed.is_empty() {
        "the same packages gave another layer: another version of mmdebstrap or dpkg made it".to_owned()
    } else {
        format!("the archive now has {shown}{more}")
    };
    BuildError::Mistake {
        message: format!("`{}` cannot be bootstrapped as it was locked: {what}", locked.name),
        hint: "name a mirror of a snapshot (`mirror = ...`), or take the new packages with `kiln lock --upgrade`"
            .into(),
    }
}
