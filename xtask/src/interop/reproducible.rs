//! The same lock gives the same images, whoever builds, where, when and with how many threads.
//!
//! Two builds in two fresh stores: as root in the suite's directory, and as another user, who exists only meanwhile, in
//! a directory elsewhere; with another umask, time zone, language and number of threads, and with project files that
//! were written in another order with other modes. The upper image of that stack also has everything that an image
//! says besides packages, so what came of that is looked at here as well.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::report::{Checks, same};
use super::stack::{self, Image};
use super::tree::{Kind, Tree};
use super::{Result, Suite, packages, programs, running, transports, unpacked};

/// The user of the second build.
const OTHER_USER: &str = "kiln-interop";

/// Who builds, and how.
struct Builder {
    /// Where the stack lies.
    project: PathBuf,
    /// Its fresh store.
    store: PathBuf,
    /// kiln.
    kiln: PathBuf,
    umask: &'static str,
    time_zone: &'static str,
    language: &'static str,
    jobs: &'static str,
    /// Nothing for who runs the suite.
    user: Option<&'static str>,
}

/// Removes the other user again, and what is theirs.
struct OtherUser {
    directory: tempfile::TempDir,
}

impl OtherUser {
    fn create() -> Result<Self> {
        // One may have been left behind where a run of the suite was killed.
        let _ = programs::output(Command::new("userdel").arg(OTHER_USER));
        programs::output(Command::new("useradd").args(["--system", "--no-create-home", "--user-group", OTHER_USER]))?;
        // The suite's own directory may lie in root's home, where nobody else may go.
        let directory = tempfile::Builder::new().prefix("kiln-interop-").tempdir_in("/var/tmp")?;
        Ok(Self { directory })
    }
}

impl Drop for OtherUser {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and the next run tries again.
        let _ = programs::output(Command::new("userdel").arg(OTHER_USER));
    }
}

/// Makes the checks.
pub(crate) fn check(suite: &Suite, checks: &mut Checks) {
    let first = builder(suite);
    let made = checks.check("kiln builds in a fresh store", || {
        write_first(suite, &first)?;
        first.build(&["--output", "oci:layout"])
    });
    let Some(made) = made else { return };
    checks.check("another user gets the same images in a fresh store elsewhere", || {
        let other = OtherUser::create()?;
        let second = write_second(suite, &first, &other)?;
        let again = second.build(&["--locked", "--offline"])?;
        made.iter().try_for_each(|image| {
            let built_twice = !image.unchanged && !stack::image(&again, &image.name)?.unchanged;
            same(&format!("whether `{}` was built both times", image.name), built_twice, true)?;
            let (found, expected) = (described(stack::image(&again, &image.name)?), described(image));
            same(&format!("the image `{}`", image.name), found, expected)
        })
    });
    let layout = first.project.join("layout");
    let rootfs = checks.check("umoci unpacks the image with user and files", || {
        unpacked::unpack(&layout, "upper", &suite.work.join("upper"))
    });
    let Some(rootfs) = rootfs else { return };
    checks.check("the user is there, with a home", || user(&rootfs));
    checks.check("copied files have their owners and modes", || copied(&rootfs));
    checks.check("the time zone is set", || time_zone(&rootfs));
    checks.check("the config says what the stack says", || config(&layout));
    checks.check("umoci understands the config", || runtime_config(&suite.work.join("upper")));
}

fn builder(suite: &Suite) -> Builder {
    let directory = suite.work.join("reproducible");
    Builder {
        project: directory.join("project"),
        store: directory.join("store"),
        kiln: suite.kiln.clone(),
        umask: "022",
        time_zone: "UTC",
        language: "C",
        jobs: "4",
        user: None,
    }
}

impl Builder {
    fn build(&self, arguments: &[&str]) -> Result<Vec<Image>> {
        let mut command = match self.user {
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", user, "--regid", user, "--clear-groups"]).arg("sh");
                command
            }
            None => Command::new("sh"),
        };
        command.arg("-c").arg(format!("umask {}; exec \"$@\"", self.umask)).arg("sh").arg(&self.kiln);
        command.arg("--store").arg(&self.store).args(["--json", "--jobs", self.jobs, "build"]).args(arguments);
        command.env("TZ", self.time_zone).env("LC_ALL", self.language).env("HOME", &self.project);
        stack::images(command.current_dir(&self.project))
    }
}

fn write_first(suite: &Suite, first: &Builder) -> Result<()> {
    let text = format!(
        "[stack]\nname = \"reproducible\"\n\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"3.11\"\n\n\
         [index]\nfind-links = [\"wheels\"]\n\n\
         [images.lower]\nfrom = {{ oci = \"base\" }}\npackages = [{}]\n\n\
         [images.upper]\nfrom = \"lower\"\npackages = [\"{}\"]\ntimezone = \"Asia/Seoul\"\nworkdir = \"/app\"\n\
         user = {{ name = \"alice\", uid = 1234, gid = 1235 }}\nentrypoint = [\"python\", \"-m\", \"train\"]\n\
         env = {{ OMP_NUM_THREADS = \"1\" }}\nlabels = {{ \"org.example.a\" = \"b\" }}\n\
         copy = [\n    {{ from = \"app/\", to = \"/app\", exclude = [\"**/*.pyc\"], owner = \"alice\" }},\n    \
         {{ from = \"tool.sh\", to = \"/usr/local/bin/\", owner = \"7:8\", mode = \"0755\" }},\n]\n",
        packages::awkward(),
        packages::FIRST_MORE,
    );
    stack::write(&first.project, &text)?;
    for file in ["app/train.py", "app/below/deep/data.txt", "app/start", "app/left-out.pyc", "tool.sh"] {
        write_file(&first.project, file, if file == "app/start" { 0o755 } else { 0o644 })?;
    }
    let stack = suite.work.join("stack");
    stack::export_wheels(&stack, &suite.store, &first.project.join("wheels"))?;
    let base = format!("oci:{}", first.project.join("base").display());
    suite.build(&stack, &["--locked", "base", "--output", &base])?;
    // uv is in the suite's store already.
    programs::output(suite.kiln(&first.project).arg("lock"))?;
    Ok(())
}

fn write_second(suite: &Suite, first: &Builder, other: &OtherUser) -> Result<Builder> {
    let directory = other.directory.path();
    let project = directory.join("quite/another/place");
    let second = Builder {
        kiln: directory.join("kiln"),
        store: directory.join("store"),
        umask: "077",
        time_zone: "Pacific/Chatham",
        language: "C.UTF-8",
        jobs: "1",
        user: Some(OTHER_USER),
        project,
    };
    stack::write(&second.project, "")?;
    for file in ["kiln.toml", "kiln.lock"] {
        fs_err::copy(first.project.join(file), second.project.join(file))?;
    }
    for file in ["tool.sh", "app/left-out.pyc", "app/start", "app/train.py", "app/below/deep/data.txt"] {
        write_file(&second.project, file, if file == "app/start" { 0o700 } else { 0o600 })?;
    }
    fs_err::copy(&suite.kiln, &second.kiln)?;
    let (wheels, base) = (second.project.join("wheels"), first.project.join("base"));
    stack::export_wheels(&first.project, &first.store, &wheels)?;
    programs::output(Command::new("cp").arg("--recursive").arg(base).arg(&second.project))?;
    let owner = format!("{OTHER_USER}:{OTHER_USER}");
    // Not the wheels: they may be links into the store of somebody else.
    programs::output(Command::new("chown").arg(&owner).arg(directory))?;
    for path in ["app", "base", "tool.sh", "kiln.toml", "kiln.lock", "."] {
        let recursive = (path != ".").then_some("--recursive");
        programs::output(Command::new("chown").args(recursive).arg(&owner).arg(second.project.join(path)))?;
    }
    Ok(second)
}

fn write_file(project: &Path, path: &str, mode: u32) -> Result<()> {
    let file = project.join(path);
    if let Some(directory) = file.parent() {
        fs_err::create_dir_all(directory)?;
    }
    fs_err::write(&file, format!("#!/bin/sh\necho {path}\n"))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    Ok(fs_err::set_permissions(file, mode)?)
}

fn described(image: &Image) -> String {
    let layers: Vec<&str> = image.layers.iter().map(|layer| layer.digest.as_str()).collect();
    format!("{} with the config {} and the layers {}", image.manifest, image.config, layers.join(" "))
}

fn user(rootfs: &Path) -> Result<()> {
    same("the id", programs::text(running::chroot(rootfs, "id").arg("alice"))?.as_str(), ID)?;
    let home = Tree::read(&rootfs.join("home"))?;
    let home = home.nodes.get("alice").ok_or("there is no home")?;
    same("the owner of the home", format!("{:?} {:?}", home.kind, home.owner), "Directory (1234, 1235)".into())
}

const ID: &str = "uid=1234(alice) gid=1235(alice) groups=1235(alice)";

fn copied(rootfs: &Path) -> Result<()> {
    let app = Tree::read(&rootfs.join("app"))?;
    let described: Vec<String> =
        app.nodes.iter().map(|(path, node)| format!("{path} {:?} {:o}", node.owner, node.mode)).collect();
    let expected = [
        "below (1234, 1235) 755",
        "below/deep (1234, 1235) 755",
        "below/deep/data.txt (1234, 1235) 644",
        "start (1234, 1235) 755",
        "train.py (1234, 1235) 644",
    ];
    same("what lies in /app", described.join("\n"), expected.join("\n"))?;
    let local = Tree::read(&rootfs.join("usr/local/bin"))?;
    let tool = local.nodes.get("tool.sh").ok_or("there is no /usr/local/bin/tool.sh")?;
    same("the owner and mode of the tool", format!("{:?} {:o}", tool.owner, tool.mode), "(7, 8) 755".into())?;
    let printed = programs::text(&mut running::chroot(rootfs, "/usr/local/bin/tool.sh"))?;
    same("what the tool prints", printed.as_str(), "tool.sh")
}

fn time_zone(rootfs: &Path) -> Result<()> {
    let etc = Tree::read(&rootfs.join("etc"))?;
    let link = etc.nodes.get("localtime").map(|node| &node.kind);
    same("/etc/localtime", link == Some(&Kind::Link("/usr/share/zoneinfo/Asia/Seoul".into())), true)?;
    same("/etc/timezone", etc.text("timezone")?.as_str(), "Asia/Seoul\n")?;
    let code = "import time; print(time.strftime('%z', time.localtime(0)))";
    same("the offset", running::python(rootfs, code)?.as_str(), "+0900")
}

/// The parts of an image's config that the stack sets.
fn config(layout: &Path) -> Result<()> {
    let mut inspect = transports::skopeo();
    let found: Value =
        programs::json(inspect.args(["inspect", "--config"]).arg(transports::in_layout(layout, "upper")))?;
    let config = &found["config"];
    same("the user", &config["User"], &Value::from("1234:1235"))?;
    same("the working directory", &config["WorkingDir"], &Value::from("/app"))?;
    same("the entry point", &config["Entrypoint"], &Value::from(vec!["python", "-m", "train"]))?;
    same("the command", &config["Cmd"], &Value::Null)?;
    same("the label", &config["Labels"]["org.example.a"], &Value::from("b"))?;
    let variables = config["Env"].to_string();
    for variable in ["TZ=Asia/Seoul", "OMP_NUM_THREADS=1", "VIRTUAL_ENV=/opt/venv", "PATH=/opt/venv/bin:/usr/local"] {
        same(&format!("whether `{variable}` is in {variables}"), variables.contains(variable), true)?;
    }
    Ok(())
}

/// What a runtime would be told to run, by a bundle of umoci's.
fn runtime_config(bundle: &Path) -> Result<()> {
    let found: Value = serde_json::from_slice(&fs_err::read(bundle.join("config.json"))?)?;
    let process = &found["process"];
    same("the user", format!("{} {}", process["user"]["uid"], process["user"]["gid"]), "1234 1235".into())?;
    same("the directory", &process["cwd"], &Value::from("/app"))?;
    same("the arguments", &process["args"], &Value::from(vec!["python", "-m", "train"]))
}
