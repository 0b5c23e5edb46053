//! kiln where sandboxes are forbidden: in a container of Docker's with its default profile, as root and as a user, and on a machine
//! without user namespaces. Wheels become images there; commands that must run fail before anything starts, and say what to do; what they
//! say helps.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::Deserialize;

use super::registries::docker::Docker;
use super::report::{Checks, same};
use super::{Result, Suite, awkward_wheel, programs, stack};

const IMAGE: &str = "confined:1";
/// An ordinary user.
const USER: u32 = 1000;
/// Places in the container.
const PLACES: [(&str, &str); 2] = [("project", "/project"), ("kiln", "/kiln")];

/// `kiln doctor --json`.
#[derive(Deserialize)]
struct Doctor {
    sections: Vec<Section>,
}

#[derive(Deserialize)]
struct Section {
    findings: Vec<Finding>,
}

#[derive(Deserialize)]
struct Finding {
    subject: String,
    state: String,
    remedy: Option<String>,
}

/// Makes the checks.
pub(super) fn check(suite: &Suite, checks: &mut Checks) {
    let place = suite.work.join("confined");
    let ready = checks.check("a project with wheels and one with commands are locked", || prepare(suite, &place));
    let docker = ready.and_then(|()| checks.check("a Docker daemon runs", || start(&place)));
    for (name, user) in [("root", 0), ("a user", USER)].into_iter().filter(|_| docker.is_some()) {
        let Some(docker) = &docker else { break };
        let confined = Confined { docker, place: &place, user };
        checks
            .check(&format!("as {name} in a container: the doctor names the options that help"), || confined.remedy());
        checks.check(&format!("as {name} in a container: wheels become an image"), || confined.wheels());
        checks
            .check(&format!("as {name} in a container: a command fails before anything starts"), || confined.refused());
        checks.check(&format!("as {name} in a container: a known command needs no sandbox"), || confined.known());
    }
    if ready.is_some() {
        checks.check(
            "without user namespaces: wheels become an image, and commands fail with the setting's name",
            || without_namespaces(suite, &place),
        );
    }
    drop(docker);
    suite.remove("confined");
}

/// Writes the project, locks it, and makes the base's layout and archive.
fn prepare(suite: &Suite, place: &Path) -> Result<()> {
    let bases = place.join("bases");
    let debian = "[stack]\nname = \"bases\"\n\n[target]\nplatforms = [\"linux/amd64\"]\n\n[images.base]\n\
                  from = { debian = \"bookworm\", include = [\"python3\"] }\n";
    stack::write(&bases, debian)?;
    let project = place.join("project");
    let outputs = ["--output", "oci:../project/base", "--output", "docker-archive:../base.tar"];
    suite.build(&bases, &outputs)?;
    stack::write(
        &project,
        "[stack]\nname = \"confined\"\n\n[target]\npython = \"3.11\"\nplatforms = [\"linux/amd64\"]\n\n[index]\nfind-links = [\"wheels\"]\n\n\
         [images.wheels]\nfrom = { oci = \"base\" }\npackages = [\"kiln-awkward\"]\n\n\
         [images.commands]\nfrom = { oci = \"base\" }\nrun = [\"echo made > /made\"]\n",
    )?;
    awkward_wheel::write(&project.join("wheels"))?;
    programs::output(suite.kiln(&project).arg("lock"))?;
    fs_err::copy(&suite.kiln, place.join("kiln"))?;
    Ok(())
}

fn start(place: &Path) -> Result<Docker> {
    let docker = Docker::start(&place.join("docker"))?;
    let archive = place.join("base.tar");
    let loaded = docker.text(&["load", "--input", &archive.display().to_string()])?;
    let name = loaded.rsplit(": ").next().unwrap_or_default();
    docker.text(&["tag", name, IMAGE])?;
    Ok(docker)
}

/// kiln in a container.
struct Confined<'a> {
    docker: &'a Docker,
    place: &'a Path,
    user: u32,
}

impl Confined<'_> {
    /// Runs kiln in a container with further options of `docker run`.
    fn kiln(&self, store: &str, options: &[String], arguments: &[&str]) -> Result<Output> {
        let store = self.place.join(format!("{store}-{}", self.user));
        fs_err::create_dir_all(&store)?;
        std::os::unix::fs::chown(&store, Some(self.user), Some(self.user))?;
        let mut command = self.docker.command();
        command.args(["run", "--rm", "--network", "none", "--user", &format!("{0}:{0}", self.user)]).args(options);
        for (from, to) in PLACES {
            command.arg("--volume").arg(format!("{}:{to}:ro", self.place.join(from).display()));
        }
        command.arg("--volume").arg(format!("{}:/store", store.display()));
        command.args(["--env", "KILN_STORE=/store", "--workdir", "/project", IMAGE, "/kiln"]).args(arguments);
        Ok(command.output()?)
    }

    /// Reads what the doctor says, follows it, and runs a command.
    fn remedy(&self) -> Result<()> {
        let said = self.kiln("store", &[], &["--json", "doctor"])?;
        same("the doctor's status", said.status.code().unwrap_or(-1), 1)?;
        let doctor: Doctor = serde_json::from_slice(&said.stdout)?;
        let missing = doctor.sections[0].findings.iter().find(|finding| finding.state == "missing");
        let missing = missing.ok_or("the doctor misses nothing")?;
        same("what is missing", missing.subject.as_str(), "user and other namespaces")?;
        let remedy = missing.remedy.as_deref().unwrap_or_default();
        let command = remedy.split('`').nth(1).and_then(|command| command.strip_prefix("docker run "));
        let command = command.ok_or_else(|| format!("no options of `docker run`: {remedy}"))?;
        let options: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        let said = self.kiln("known", &options, &["doctor"])?;
        same("the doctor's status with its options", said.status.code().unwrap_or(-1), 0)?;
        built(&self.kiln("known", &options, &["build", "--locked", "commands"])?).map(drop)
    }

    fn wheels(&self) -> Result<()> {
        built(&self.kiln("store", &[], &["build", "--locked", "wheels"])?).map(drop)
    }

    fn refused(&self) -> Result<()> {
        let said = self.kiln("fresh", &[], &["build", "--locked", "commands"])?;
        let stderr = String::from_utf8_lossy(&said.stderr).into_owned();
        same("the status", said.status.code().unwrap_or(-1), 3)?;
        for part in ["needs a sandbox, which cannot be made here", "--security-opt seccomp=unconfined"] {
            if !stderr.contains(part) {
                return Err(format!("`{part}` is not said: {stderr}").into());
            }
        }
        same("steps that were performed", trees_and_recipes(&self.place.join(format!("fresh-{}", self.user)))?, 0)
    }

    fn known(&self) -> Result<()> {
        let said = built(&self.kiln("known", &[], &["build", "--locked", "commands"])?)?;
        match said.contains("(unchanged)") {
            true => Ok(()),
            false => Err(format!("it was built again: {said}").into()),
        }
    }
}

/// Returns what a build printed, which must have succeeded.
fn built(said: &Output) -> Result<String> {
    match said.status.success() {
        true => Ok(String::from_utf8_lossy(&said.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&said.stderr).into_owned().into()),
    }
}

/// Counts what steps leave in a store.
fn trees_and_recipes(store: &Path) -> Result<usize> {
    let count = |name: &str| -> Result<usize> {
        let directory = store.join(name);
        Ok(if directory.exists() { fs_err::read_dir(directory)?.count() } else { 0 })
    };
    Ok(count("trees/sha256")? + count("recipes/sha256")?)
}

/// Runs kiln in a user namespace that allows no further one, as root and as a user.
fn without_namespaces(suite: &Suite, place: &Path) -> Result<()> {
    for user in [0, USER] {
        // The user may not enter the directory in which this suite works.
        let open = tempfile::Builder::new().prefix("interop-confined-").tempdir()?;
        std::os::unix::fs::chown(open.path(), Some(user), Some(user))?;
        let project = open.path().join("project");
        programs::output(Command::new("cp").arg("-r").arg(place.join("project")).arg(&project))?;
        let kiln = open.path().join("kiln");
        fs_err::copy(&suite.kiln, &kiln)?;
        programs::output(Command::new("chmod").arg("-R").arg("a+rX").arg(open.path()))?;
        let run = |image: &str| -> Result<Output> {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "sh", "-c"]);
            command.arg("echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"").arg("sh");
            command.arg(&kiln).arg("--store").arg(store(&open)).args(["build", "--locked", image]);
            Ok(command.current_dir(&project).uid(user).gid(user).output()?)
        };
        built(&run("wheels")?)?;
        let said = run("commands")?;
        let stderr = String::from_utf8_lossy(&said.stderr);
        if said.status.code() != Some(3) || !stderr.contains("sysctl -w user.max_user_namespaces=15000") {
            return Err(format!("as {user}: {:?}, {stderr}", said.status).into());
        }
    }
    Ok(())
}

fn store(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("store")
}
