//! Where finished images go: a layout, an archive, a Docker daemon.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::bytes::Blobs;
use kiln_oci::image::{Descriptor, Image};
use kiln_oci::layout::{CONTAINERD_NAME, Contents, REF_NAME, layer_blobs, write_layout};
use kiln_oci::{OciError, archive, docker_archive};
use kiln_plan::event::Work;
use kiln_plan::reference::Reference;
use kiln_plan::stack;
use kiln_programs::{Call, LOCATIONS, NETWORK, Names, PATH, ProgramError, Stdout};
use kiln_store::AtomicFile;

use crate::built::Built;
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
    /// `oci-archive:FILE`.
    LayoutArchive(PathBuf),
    /// `docker-archive:FILE`.
    DockerArchive(PathBuf),
    /// A Docker daemon.
    Docker,
}

impl Output {
    /// Returns true if the image goes to the standard output, which then holds nothing else.
    pub fn is_stdout(&self) -> bool {
        matches!(self, Self::DockerArchive(path) | Self::LayoutArchive(path) if kiln_store::is_stdout(path))
    }

    /// Returns true if it takes images for several platforms.
    pub fn takes_platforms(&self) -> bool {
        matches!(self, Self::Layout(_) | Self::LayoutArchive(_))
    }
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let file = |path: &str| if path == "-" { "/dev/stdout".into() } else { path.into() };
        match text.split_once(':').filter(|(_, path)| !path.is_empty()) {
            Some(("oci", path)) => Ok(Self::Layout(path.into())),
            Some(("oci-archive", path)) => Ok(Self::LayoutArchive(file(path))),
            Some(("docker-archive", path)) => Ok(Self::DockerArchive(file(path))),
            _ => Err("write `oci:DIRECTORY`, `oci-archive:FILE` or `docker-archive:FILE`".into()),
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
            Output::LayoutArchive(path) => self.write_archive(path, wanted),
            Output::DockerArchive(path) => {
                let (built, image) = one(wanted, &format!("docker-archive:{}", path.display()))?;
                self.write_docker_archive(path, built, image)
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
        let mut contents = self.contents(wanted)?;
        for (built, entry) in wanted.iter().zip(&mut contents.entries) {
            entry.annotations.insert(REF_NAME.to_owned(), built.name.clone());
        }
        let work = self.writing(&format!("oci:{}", path.display()), &contents);
        let blobs = self.blobs();
        check_bytes(&blobs, wanted)?;
        Ok(write_layout(path, &blobs, contents, &work)?)
    }

    fn write_archive(&self, path: &Path, wanted: &[&Built]) -> Result<()> {
        let contents = self.named_contents(wanted)?;
        let work = self.writing(&format!("oci-archive:{}", path.display()), &contents);
        let blobs = self.blobs();
        check_bytes(&blobs, wanted)?;
        into_file(path, |out| archive::write(out, &blobs, contents, &[], &work))
    }

    fn write_docker_archive(&self, path: &Path, built: &Built, image: &Image) -> Result<()> {
        let contents = self.named_contents(&[built])?;
        let work = self.writing(&format!("docker-archive:{}", path.display()), &contents);
        let blobs = self.blobs();
        check_bytes(&blobs, &[built])?;
        into_file(path, |out| docker_archive::write(out, &blobs, contents, (image, &built.references), &work))
    }

    fn writing(&self, place: &str, contents: &Contents) -> Work<'_> {
        self.work("write", place, Some(contents.blobs.iter().map(|(_, size)| size).sum()))
    }

    /// Returns images as a layout takes them, with an entry for each that has no name yet.
    fn contents(&self, wanted: &[&Built]) -> Result<Contents> {
        let mut contents = Contents::default();
        for built in wanted {
            contents.entries.push(built.entry());
            if let Some(copied) = &built.copied {
                contents.blobs.extend(copied.blobs.iter().map(|blob| (blob.digest, blob.size)));
                contents.documents.extend(copied.documents.iter().map(|document| document.bytes.clone()));
                continue;
            }
            for image in &built.images {
                contents.blobs.extend(layer_blobs(image));
                contents.documents.extend([self.store.read(&image.config)?, self.store.read(&image.manifest)?]);
            }
            contents.documents.push(built.index.clone());
        }
        Ok(contents)
    }

    /// Returns images as archives take them: with an entry for each name that a program will know them by.
    fn named_contents(&self, wanted: &[&Built]) -> Result<Contents> {
        let contents = self.contents(wanted)?;
        let named = wanted.iter().zip(&contents.entries).flat_map(|(built, entry)| named_entries(built, entry));
        Ok(Contents { entries: named.collect(), ..contents })
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
        let contents = self.named_contents(&[built])?;
        let mut written = Ok(());
        let call = Call::new(program, DOCKER).arg("load").stdout(Stdout::Lines).input_from(|out| {
            written = docker_archive::write(out, &blobs, contents, (image, &built.references), &work);
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

/// Returns an entry for each reference of an image, with the whole name that containerd knows it by.
fn named_entries(built: &Built, entry: &Descriptor) -> Vec<Descriptor> {
    let called = |names: Vec<(&str, String)>| {
        let mut entry = entry.clone();
        entry.annotations.extend(names.into_iter().map(|(key, name)| (key.to_owned(), name)));
        entry
    };
    let whole = built.references.iter().filter_map(|reference| reference.parse::<Reference>().ok());
    let entries: Vec<Descriptor> = whole
        .map(|reference| {
            let tagged = format!("{}:{}", built.name, reference.selector());
            called(vec![(CONTAINERD_NAME, reference.to_string()), (REF_NAME, tagged)])
        })
        .collect();
    if entries.is_empty() { vec![called(vec![(REF_NAME, built.name.clone())])] } else { entries }
}

/// Writes a file that takes its place when it is whole, or into a pipe.
fn into_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> std::result::Result<(), OciError>) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    write(&mut std::io::BufWriter::with_capacity(1 << 20, &mut file))?;
    Ok(file.commit()?)
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
