//! Where finished images go: a layout, an archive, a Docker daemon.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::bytes::Blobs;
use kiln_oci::OciError;
use kiln_oci::docker_archive;
use kiln_oci::image::{Descriptor, INDEX, Image};
use kiln_oci::layout::{REF_NAME, write_layout};
use kiln_plan::stack;
use kiln_programs::{Call, LOCATIONS, NETWORK, Names, PATH, ProgramError, Stdout};
use kiln_store::AtomicFile;

use crate::built::{Built, manifest_descriptor};
use crate::error::{BuildError, ProjectError, Result};
use crate::project::Project;
use crate::workshop::Workshop;

/// The variables that `docker load` needs: of Docker and of podman under its name, where the daemon is and how it is
/// reached (docs.docker.com, "Docker CLI environment variables"; podman(1)).
const DOCKER: Names = &[
    PATH,
    LOCATIONS,
    NETWORK,
    &["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_API_VERSION"],
    &["DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"],
    &["CONTAINER_HOST", "CONTAINER_CONNECTION", "CONTAINER_SSHKEY", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF"],
    &["SSH_AUTH_SOCK", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "DBUS_SESSION_BUS_ADDRESS"],
];

/// Where a finished image goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// `oci:DIR`.
    Layout(PathBuf),
    /// `docker-archive:FILE`.
    DockerArchive(PathBuf),
    /// A Docker daemon.
    Docker,
}

impl Output {
    /// Returns true if the image goes to the standard output, which then holds nothing else.
    pub fn is_stdout(&self) -> bool {
        matches!(self, Self::DockerArchive(path) if kiln_store::is_stdout(path))
    }
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            Some(("oci", path)) if !path.is_empty() => Ok(Self::Layout(path.into())),
            Some(("docker-archive", "-")) => Ok(Self::DockerArchive("/dev/stdout".into())),
            Some(("docker-archive", path)) if !path.is_empty() => Ok(Self::DockerArchive(path.into())),
            _ => Err("write `oci:DIRECTORY` or `docker-archive:FILE`".into()),
        }
    }
}

impl Project<'_> {
    /// How programs are to call an image: registry and stack before its name, and a tag each.
    pub(crate) fn references(&self, image: &stack::Image) -> Vec<String> {
        let repository = match &image.repository {
            Some(repository) => repository.to_string(),
            None => format!("{}/{}", self.stack.name, image.name),
        };
        image.tags.iter().map(|tag| format!("{repository}:{tag}")).collect()
    }
}

impl Workshop<'_> {
    /// Writes images out.
    pub fn output(&self, output: &Output, wanted: &[&Built]) -> Result<()> {
        match output {
            Output::Layout(path) => self.write_to_layout(path, wanted),
            Output::DockerArchive(path) => {
                let (built, image) = one(wanted, &format!("docker-archive:{}", path.display()))?;
                self.archive(path, built, image)
            }
            Output::Docker => {
                for built in wanted {
                    let (built, image) = one(&[built], "--load")?;
                    self.load(built, image)?;
                }
                Ok(())
            }
        }
    }

    fn write_to_layout(&self, path: &Path, wanted: &[&Built]) -> Result<()> {
        let images: Vec<Image> = wanted.iter().flat_map(|built| built.images.iter().cloned()).collect();
        let mut documents = Vec::new();
        let mut entries = Vec::new();
        for built in wanted {
            for image in &built.images {
                documents.push(self.store.read(&image.config)?);
                documents.push(self.store.read(&image.manifest)?);
            }
            let mut entry = match built.images.as_slice() {
                [only] => manifest_descriptor(only),
                _ => Descriptor::of(INDEX, &built.index),
            };
            entry.annotations = BTreeMap::from([(REF_NAME.to_owned(), built.name.clone())]);
            documents.push(built.index.clone());
            entries.push(entry);
        }
        let bytes = images.iter().flat_map(|image| &image.layers).map(|layer| layer.size).sum();
        let work = self.work("write", format!("oci:{}", path.display()), Some(bytes));
        let blobs = self.blobs();
        check_bytes(&blobs, wanted)?;
        Ok(write_layout(path, &blobs, &images, &documents, entries, &work)?)
    }

    fn archive(&self, path: &Path, built: &Built, image: &Image) -> Result<()> {
        let blobs = self.blobs();
        check_bytes(&blobs, &[built])?;
        let mut file = AtomicFile::create(path)?;
        let out = std::io::BufWriter::with_capacity(1 << 20, &mut file);
        let bytes = image.layers.iter().map(|layer| layer.size).sum();
        let work = self.work("write", format!("docker-archive:{}", path.display()), Some(bytes));
        docker_archive::write(out, &blobs, image, &built.references, &work)?;
        Ok(file.commit()?)
    }

    fn load(&self, built: &Built, image: &Image) -> Result<()> {
        let problem = |problem: String| BuildError::Program {
            program: "docker".into(),
            purpose: "for `--load`".into(),
            problem,
            hint: "is the daemon running, and may you use it? `docker info` says".into(),
        };
        let program = self.find_program("docker").ok_or_else(|| problem("is not on PATH".into()))?;
        let blobs = self.blobs();
        check_bytes(&blobs, &[built])?;
        let bytes = image.layers.iter().map(|layer| layer.size).sum();
        let work = self.work("load", &built.name, Some(bytes));
        let mut written = Ok(());
        let call = Call::new(program, DOCKER).arg("load").stdout(Stdout::Lines).input_from(|out| {
            written = docker_archive::write(out, &blobs, image, &built.references, &work);
            match &written {
                Ok(()) => Ok(()),
                // docker says why it reads no more.
                Err(OciError::Io(error)) if error.kind() == ErrorKind::BrokenPipe => Err(ErrorKind::BrokenPipe.into()),
                Err(_) => Err(ErrorKind::Other.into()),
            }
        });
        match call.run(&self.surroundings.environment, &work) {
            Ok(_) => Ok(written?),
            Err(ProgramError::Interrupted) => Err(BuildError::Interrupted),
            Err(ProgramError::Failed(failed)) => {
                let text = failed.text();
                let reason = if text.trim().is_empty() { failed.ended.to_string() } else { text };
                Err(problem(format!("`docker load` failed: {}", reason.trim())))
            }
            Err(error) => {
                // An image that cannot be read is the first reason.
                written?;
                Err(problem(format!("`docker load` failed: {error}")))
            }
        }
    }
}

fn check_bytes(blobs: &Blobs<'_>, wanted: &[&Built]) -> Result<()> {
    for built in wanted {
        for image in &built.images {
            blobs.check(image, &format!("`{}`", built.name))?;
        }
    }
    Ok(())
}

/// The one image for one platform that some outputs take.
fn one<'a>(wanted: &[&'a Built], output: &str) -> Result<(&'a Built, &'a Image)> {
    match wanted {
        [built] => match built.images.as_slice() {
            [image] => Ok((built, image)),
            images => {
                let (output, image) = (output.to_owned(), built.name.clone());
                let platforms = images.iter().map(|image| image.platform).collect();
                Err(ProjectError::OnePlatform { output, image, platforms }.into())
            }
        },
        _ => {
            let images = wanted.iter().map(|built| built.name.clone()).collect();
            Err(ProjectError::OneImage { output: output.to_owned(), images }.into())
        }
    }
}
