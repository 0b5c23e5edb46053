//! The stack that most checks are about, and what kiln says of the images that it built.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::{Result, Suite, awkward_wheel, packages, programs};

/// What was built for most of the checks.
pub(crate) struct Built {
    /// The directory of the stack.
    pub(crate) project: PathBuf,
    /// The layout with all images.
    pub(crate) layout: PathBuf,
    /// The archive of `awkward`.
    pub(crate) archive: PathBuf,
    /// What kiln says of them.
    pub(crate) images: Vec<Image>,
}

impl Built {
    /// One of the images.
    pub(crate) fn image(&self, name: &str) -> Result<&Image> {
        image(&self.images, name)
    }
}

/// An image for this machine's platform, as `kiln --json build` tells of it.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// Its name in the stack.
    pub(crate) name: String,
    /// Whether kiln found everything in its store.
    pub(crate) unchanged: bool,
    /// The digest of its manifest.
    pub(crate) manifest: String,
    /// The digest of its config.
    pub(crate) config: String,
    /// Its layers, the lowest first.
    pub(crate) layers: Vec<Layer>,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Layer {
    /// How it is compressed.
    pub(crate) media_type: String,
    /// The digest of the blob.
    pub(crate) digest: String,
    /// The digest of the tar.
    pub(crate) diff_id: String,
}

#[derive(Deserialize)]
struct Document {
    images: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    unchanged: bool,
    platforms: Vec<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    manifest: String,
    config: String,
    layers: Vec<Layer>,
}

/// The wheels of a lock.
#[derive(Deserialize)]
pub(crate) struct Lock {
    /// The wheels of all images.
    #[serde(rename = "wheel")]
    pub(crate) wheels: Vec<Wheel>,
}

/// A wheel of a lock.
#[derive(Deserialize)]
pub(crate) struct Wheel {
    /// File name.
    pub(crate) file: String,
    /// Its digest, with the algorithm.
    pub(crate) sha256: String,
}

/// Writes the stack and builds it into a layout, and one of its images into an archive.
pub(crate) fn build(suite: &Suite) -> Result<Built> {
    let project = suite.work.join("stack");
    let text = format!(
        "[stack]\nname = \"interop\"\n\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"3.11\"\n\n\
         [index]\nfind-links = [\"wheels\"]\n\n[groups]\nawkward = [{}]\n\n\
         [images.base]\nfrom = {{ debian = \"bookworm\", include = [\"python3\"] }}\n\n\
         [images.awkward]\nfrom = \"base\"\npackages = [\"@awkward\"]\n\n\
         [images.zstd]\nfrom = \"base\"\npackages = [\"@awkward\"]\ncompression = \"zstd\"\n\n\
         [images.torch]\nfrom = \"awkward\"\npackages = [{}]\n",
        packages::awkward(),
        packages::torch(),
    );
    write(&project, &text)?;
    awkward_wheel::write(&project.join("wheels"))?;
    let (layout, archive) = (suite.work.join("layout"), suite.work.join("awkward.tar"));
    let images = suite.build(&project, &["--output", &format!("oci:{}", layout.display())])?;
    suite.build(&project, &["--locked", "awkward", "--output", &format!("docker-archive:{}", archive.display())])?;
    Ok(Built { project, layout, archive, images })
}

/// Makes the directory of a stack, with one for wheels in it.
pub(crate) fn write(project: &Path, text: &str) -> Result<()> {
    fs_err::create_dir_all(project.join("wheels"))?;
    Ok(fs_err::write(project.join("kiln.toml"), text)?)
}

/// Runs a build; the images that it tells of.
pub(crate) fn images(build: &mut Command) -> Result<Vec<Image>> {
    let document: Document = programs::json(build)?;
    let mut images = Vec::new();
    for Named { name, unchanged, platforms } in document.images {
        let [Platform { manifest, config, layers }] = <[Platform; 1]>::try_from(platforms)
            .map_err(|platforms| format!("`{name}` was built for {} platforms rather than one", platforms.len()))?;
        images.push(Image { name, unchanged, manifest, config, layers });
    }
    Ok(images)
}

/// The image of this name.
pub(crate) fn image<'a>(images: &'a [Image], name: &str) -> Result<&'a Image> {
    let found = images.iter().find(|image| image.name == name);
    found.ok_or_else(|| format!("kiln told nothing of the image `{name}`").into())
}

/// The lock of a project.
pub(crate) fn lock(project: &Path) -> Result<Lock> {
    Ok(toml::from_str(&fs_err::read_to_string(project.join("kiln.lock"))?)?)
}

/// Puts the wheels of a project's lock into a directory, from the store that has them.
pub(crate) fn export_wheels(project: &Path, store: &Path, directory: &Path) -> Result<Vec<String>> {
    fs_err::create_dir_all(directory)?;
    let mut files = Vec::new();
    for Wheel { file, sha256 } in lock(project)?.wheels {
        let blob = store.join("blobs").join(sha256.replace(':', "/"));
        let path = directory.join(&file);
        if !path.exists() && fs_err::hard_link(&blob, &path).is_err() {
            fs_err::copy(&blob, &path)?;
        }
        files.push(file);
    }
    Ok(files)
}
