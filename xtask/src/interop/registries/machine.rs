//! A machine with kiln: a project, a store and a home of its own, and what kiln tells there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::interop::report::same;
use crate::interop::stack::Layer;
use crate::interop::{Result, programs};

/// Variables by which the surroundings could change where credentials come from.
const SURROUNDINGS: [&str; 4] = ["DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"];

/// A machine with a project.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    kiln: PathBuf,
    /// Where its projects, its store and its home are.
    root: PathBuf,
    /// The project that it works on.
    pub(crate) project: PathBuf,
}

/// What `kiln --json build --push` tells.
#[derive(Debug, Deserialize)]
pub(crate) struct Told {
    pub(crate) images: Vec<Image>,
    #[serde(default)]
    pub(crate) pushed: Vec<Pushed>,
    #[serde(default)]
    pub(crate) network: Moved,
}

/// An image that was built.
#[derive(Debug, Deserialize)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) digest: String,
    pub(crate) platforms: Vec<Platform>,
}

/// An image for one platform.
#[derive(Debug, Deserialize)]
pub(crate) struct Platform {
    pub(crate) manifest: String,
    pub(crate) config: String,
    pub(crate) layers: Vec<Layer>,
}

/// An image that was pushed.
#[derive(Debug, Deserialize)]
pub(crate) struct Pushed {
    pub(crate) name: String,
    pub(crate) repository: String,
    pub(crate) digest: String,
    pub(crate) tags: Vec<String>,
    /// Bytes.
    pub(crate) sent: u64,
    pub(crate) mounted: u64,
}

/// Bytes that went over the network.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Moved {
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// What became of a run of kiln.
#[derive(Debug)]
pub(crate) struct Outcome {
    status: Option<i32>,
    stderr: String,
}

impl Machine {
    /// A machine that has nothing, below a directory.
    pub(crate) fn new(kiln: &Path, root: PathBuf) -> Result<Self> {
        fs_err::create_dir_all(root.join("home"))?;
        let project = root.join("project");
        Ok(Self { kiln: kiln.to_owned(), root, project })
    }

    /// This machine, at work on another project.
    pub(crate) fn project(&self, name: &str, text: &str) -> Result<Self> {
        let project = self.root.join(name);
        fs_err::create_dir_all(&project)?;
        fs_err::write(project.join("kiln.toml"), text)?;
        Ok(Self { project, ..self.clone() })
    }

    /// Gives the project wheels.
    pub(crate) fn with_wheels(self, wheels: &Path) -> Result<Self> {
        let directory = self.project.join("wheels");
        fs_err::create_dir_all(&directory)?;
        for entry in fs_err::read_dir(wheels)? {
            let entry = entry?;
            let wheel = directory.join(entry.file_name());
            if fs_err::hard_link(entry.path(), &wheel).is_err() {
                fs_err::copy(entry.path(), wheel)?;
            }
        }
        Ok(self)
    }

    /// Gives the project a file.
    pub(crate) fn with_file(self, path: &str, content: &[u8]) -> Result<Self> {
        let file = self.project.join(path);
        if let Some(directory) = file.parent() {
            fs_err::create_dir_all(directory)?;
        }
        fs_err::write(file, content)?;
        Ok(self)
    }

    /// Where kiln keeps credentials.
    pub(crate) fn credentials(&self) -> PathBuf {
        self.root.join("home/.docker/config.json")
    }

    /// kiln, in the directory of the project.
    pub(crate) fn kiln(&self) -> Command {
        let mut command = Command::new(&self.kiln);
        command.arg("--store").arg(self.root.join("store")).current_dir(&self.project);
        for name in SURROUNDINGS {
            command.env_remove(name);
        }
        command.env("HOME", self.root.join("home"));
        command
    }

    /// What `kiln --json ...` tells.
    pub(crate) fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        programs::json(self.kiln().arg("--json").args(arguments))
    }

    /// Builds and pushes.
    pub(crate) fn push(&self, arguments: &[&str]) -> Result<Told> {
        self.json(&[&["build", "--push"], arguments].concat())
    }

    /// Bytes that its store holds of layers and wheels.
    pub(crate) fn stored(&self) -> Result<u64> {
        #[derive(Deserialize)]
        struct Document {
            usage: Usage,
        }
        #[derive(Deserialize)]
        struct Usage {
            blobs: u64,
            recipes: u64,
        }
        let Usage { blobs, recipes } = self.json::<Document>(&["du"])?.usage;
        Ok(blobs + recipes)
    }

    /// The lock of the project.
    pub(crate) fn lock(&self) -> Result<String> {
        Ok(fs_err::read_to_string(self.project.join("kiln.lock"))?)
    }
}

impl Told {
    /// What was built under a name.
    pub(crate) fn image(&self, name: &str) -> Result<&Image> {
        let found = self.images.iter().find(|image| image.name == name);
        found.ok_or_else(|| format!("kiln told nothing of the image `{name}`").into())
    }

    /// What was pushed under a name.
    pub(crate) fn pushed(&self, name: &str) -> Result<&Pushed> {
        let found = self.pushed.iter().find(|pushed| pushed.name == name);
        found.ok_or_else(|| format!("kiln did not say that it pushed `{name}`").into())
    }

    /// Names and digests of all images.
    pub(crate) fn digests(&self) -> String {
        let lines: Vec<String> = self.images.iter().map(|image| format!("{} {}", image.name, image.digest)).collect();
        lines.join("\n")
    }
}

impl Pushed {
    /// How others name it.
    pub(crate) fn reference(&self) -> String {
        format!("{}:latest", self.repository)
    }
}

impl Outcome {
    /// Runs a program to its end, with something on its standard input.
    pub(crate) fn of(command: &mut Command, input: &str) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // Whoever fails early reads nothing.
            let _ = std::io::Write::write_all(&mut stdin, input.as_bytes());
        }
        let output = child.wait_with_output()?;
        Ok(Self { status: output.status.code(), stderr: String::from_utf8_lossy(&output.stderr).into_owned() })
    }

    /// Whether it failed because of its surroundings, with a single message, in which all of this is said.
    pub(crate) fn failed_with(&self, parts: &[&str]) -> Result<()> {
        let said = format!("`{}`", self.stderr.trim());
        same(&format!("the exit status of what said {said}"), self.status.unwrap_or(-1), 3)?;
        let messages = self.stderr.lines().filter(|line| line.starts_with("error:") || line.starts_with("warning:"));
        same(&format!("the number of messages in {said}"), messages.count(), 1)?;
        parts
            .iter()
            .try_for_each(|part| same(&format!("whether `{part}` is in {said}"), self.stderr.contains(part), true))
    }

    /// Whether it went well.
    pub(crate) fn succeeded(&self) -> Result<()> {
        same(&format!("the exit status of what said `{}`", self.stderr.trim()), self.status.unwrap_or(-1), 0)
    }
}

/// The lines of a lock, as the suite reads them.
#[derive(Debug, Deserialize)]
pub(crate) struct LockedBases {
    /// The bases.
    #[serde(rename = "base")]
    pub(crate) bases: Vec<LockedBase>,
}

/// A base of a lock.
#[derive(Debug, Deserialize)]
pub(crate) struct LockedBase {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) index: Option<String>,
    pub(crate) manifest: String,
    pub(crate) facts: toml::Table,
}
