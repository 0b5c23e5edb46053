//! Requirements files beside pip, and ways to make uv run foreign code while kiln locks.
//!
//! Every way brings a source that would leave a file behind if any part of it ran. The sources are tried without kiln
//! first, so that they are known to bite. uv is the real one; the second wall is tried alone as well, with a uv that is
//! told to build.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::report::Checks;
use super::{Result, Suite, programs};

/// Files that are compared, and the seed that they follow from.
const FILES: &str = "400";
const SEED: &str = "1";
/// The pip that requirements files are read by.
const PIP: &str = "pip==25.3";

/// A way to ask for a build.
struct Way {
    name: &'static str,
    /// The name of the file of requirements.
    file: &'static str,
    /// What the requirements file says; `SRC` is the source's directory, `SDIST` its archive.
    requirements: &'static str,
    /// The `[index]` table.
    index: &'static str,
    /// Variables.
    environment: &'static [(&'static str, &'static str)],
    /// What the message must have.
    says: &'static str,
}

const LOCAL: &str = "default = \"file:index\"";
const PLAIN: Way = Way {
    name: "",
    file: "requirements.txt",
    requirements: "",
    index: LOCAL,
    environment: &[],
    says: "requirements.txt:1",
};
const PROJECT: Way = Way { file: "pyproject.toml", says: "pyproject.toml:4", ..PLAIN };

const WAYS: [Way; 21] = [
    Way { name: "--no-binary NAME", requirements: "--no-binary evil\nevil\n", ..PLAIN },
    Way { name: "--no-binary :all:", requirements: "--no-binary=:all:\nevil\n", ..PLAIN },
    Way { name: "-e ./x", requirements: "-e ./src\n", ..PLAIN },
    Way { name: "./x", requirements: "./src\n", ..PLAIN },
    Way { name: "x @ file:///...dir", requirements: "evil @ file://SRC\n", ..PLAIN },
    Way { name: "an sdist by its path", requirements: "./evil-1.0.tar.gz\n", ..PLAIN },
    Way { name: "an sdist by its URL", requirements: "evil @ file://SDIST\n", ..PLAIN },
    Way {
        name: "an sdist by its URL on a server",
        requirements: "evil @ http://127.0.0.1:1/evil-1.0.tar.gz\n",
        ..PLAIN
    },
    Way { name: "a repository", requirements: "evil @ git+file://SRC\n", ..PLAIN },
    Way { name: "a file that is included", requirements: "-r deep/more.txt\n", says: "deep/more.txt:2", ..PLAIN },
    Way { name: "a package without wheels", requirements: "evil\n", says: "no wheel of evil", ..PLAIN },
    Way {
        name: "uv.toml of the user",
        requirements: "evil\n",
        environment: &[("XDG_CONFIG_HOME", "CONFIG")],
        says: "no wheel of evil",
        ..PLAIN
    },
    Way {
        name: "uv.toml of the machine",
        requirements: "evil\n",
        environment: &[("XDG_CONFIG_DIRS", "CONFIG")],
        says: "no wheel of evil",
        ..PLAIN
    },
    Way {
        name: "variables of uv",
        requirements: "evil\n",
        environment: &[
            ("UV_NO_BUILD", "0"),
            ("UV_NO_BINARY", "1"),
            ("UV_NO_BINARY_PACKAGE", "evil"),
            ("UV_CONFIG_FILE", "CONFIG/uv/uv.toml"),
            ("UV_PYTHON", "python3"),
            ("PIP_NO_BINARY", ":all:"),
        ],
        says: "no wheel of evil",
        ..PLAIN
    },
    Way {
        name: "a project that requires a source by its URL",
        requirements: "[project]\nname = 'p'\nversion = '1'\ndependencies = ['evil @ file://SRC']\n",
        ..PROJECT
    },
    Way {
        name: "a project with a source of uv",
        requirements: "[project]\nname = 'p'\nversion = '1'\ndependencies = ['evil']\n[tool.uv.sources]\nevil = { path = 'src' }\n",
        says: "`evil` is built from source here",
        ..PROJECT
    },
    Way {
        name: "a project whose requirements are made by its build backend",
        requirements: "[project]\nname = 'p'\nversion = '1'\ndynamic = ['dependencies']\n[build-system]\n\
                       requires = []\nbuild-backend = 'backend'\nbackend-path = ['src']\n",
        says: "only known once it is built",
        ..PROJECT
    },
    Way {
        name: "a project that lets uv build",
        requirements: "[project]\nname = 'p'\nversion = '1'\ndependencies = ['evil']\n[tool.uv]\nno-build = false\n\
                       no-binary-package = ['evil']\n",
        says: "no wheel of evil",
        ..PROJECT
    },
    Way {
        name: "a lock with a directory",
        file: "pylock.toml",
        requirements: "lock-version = '1.0'\ncreated-by = 't'\n[[packages]]\nname = 'evil'\ndirectory = { path = 'src' }\n",
        says: "the lock has no wheel of evil, only a directory",
        ..PLAIN
    },
    Way {
        name: "a lock of Poetry with a directory",
        file: "poetry.lock",
        requirements: "[[package]]\nname = 'evil'\nversion = '1.0'\ngroups = ['main']\nfiles = []\n[package.source]\n\
                       type = 'directory'\nurl = 'src'\n[metadata]\nlock-version = '2.1'\n",
        says: "`evil` is built from source",
        ..PLAIN
    },
    Way { name: "a wheel that requires a source", requirements: "needs\n", says: "URL dependencies must be", ..PLAIN },
];

/// Makes the checks.
pub(crate) fn check(suite: &Suite, checks: &mut Checks) {
    checks.check("requirements files are read as pip reads them", || beside_pip(suite));
    let Some(trap) = checks.check("a source runs where it is built", || Trap::set(suite)) else { return };
    for way in &WAYS {
        checks.check(&format!("nothing is built: {}", way.name), || trap.refuses(suite, way, None));
    }
    checks.check("a uv that is told to build finds no interpreter", || {
        let way = Way { requirements: "evil\n", says: "Failed to identify base Python interpreter", ..PLAIN };
        let uv = trap.building_uv()?;
        trap.refuses(suite, &way, Some(&uv))
    });
    checks.check("a lock of uv is exported without building", || trap.exports(suite));
    suite.remove("sources");
    suite.remove("pip");
}

fn beside_pip(suite: &Suite) -> Result<()> {
    let work = suite.work.join("pip");
    fs_err::create_dir_all(&work)?;
    let mut install = Command::new("python3");
    install.args(["-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--target"]).arg(work.join("pip"));
    programs::output(install.args([PIP, "packaging"]))?;
    let script = work.join("pip.py");
    fs_err::write(&script, include_str!("requirements/pip.py"))?;
    let run = Command::new("python3").arg(script).arg(&suite.kiln).arg(&work).args([SEED, FILES]).output()?;
    match run.status.success() {
        true => Ok(()),
        false => Err(format!("{}{}", text(&run.stdout), text(&run.stderr)).into()),
    }
}

/// The uv that kiln uses; kiln installs it where something is resolved.
pub(super) fn uv(suite: &Suite, project: &Path) -> Result<PathBuf> {
    fs_err::create_dir_all(project)?;
    if let Ok(found) = super::uv::program(suite) {
        return Ok(found);
    }
    fs_err::write(project.join("requirements.txt"), "six\n")?;
    stack(project, "requirements.txt", "")?;
    programs::output(suite.kiln(project).arg("lock"))?;
    super::uv::program(suite)
}

/// A stack with a requirements file, on a base that is only described.
fn stack(project: &Path, requirements: &str, index: &str) -> Result<()> {
    let text = format!(
        "[stack]\nname = \"sources\"\n\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"3.11\"\n\n[index]\n{index}\n\n\
         [images.a]\nfrom = \"scratch\"\nrequirements = \"{requirements}\"\n\
         base-facts = {{ libc = {{ family = \"glibc\", version = \"2.36\" }}, \
         interpreters = [{{ path = \"/usr/bin/python3.11\", version = \"3.11.2\" }}] }}\n"
    );
    let _ = fs_err::remove_file(project.join("kiln.lock"));
    Ok(fs_err::write(project.join("kiln.toml"), text)?)
}

/// A source whose code leaves a file behind, in every shape.
struct Trap {
    /// The project with everything.
    project: PathBuf,
    /// The file that is left behind.
    mark: PathBuf,
    uv: PathBuf,
}

impl Trap {
    fn set(suite: &Suite) -> Result<Self> {
        let project = suite.work.join("sources");
        let trap = Self { mark: project.join("RAN"), uv: uv(suite, &project)?, project };
        let backend = format!("open({:?}, 'w').close()\nraise SystemExit('it ran')\n", trap.mark);
        for directory in ["src", "evil-1.0"] {
            let file = |name: &str| trap.project.join(directory).join(name);
            fs_err::create_dir_all(trap.project.join(directory))?;
            fs_err::write(
                file("pyproject.toml"),
                "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n\n\
                 [project]\nname = \"evil\"\nversion = \"1.0\"\ndynamic = [\"dependencies\"]\n",
            )?;
            fs_err::write(file("backend.py"), &backend)?;
            fs_err::write(file("setup.py"), &backend)?;
            fs_err::write(file("PKG-INFO"), "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")?;
        }
        let mut tar = Command::new("tar");
        programs::output(tar.current_dir(&trap.project).args(["czf", "evil-1.0.tar.gz", "evil-1.0"]))?;
        let mut git = Command::new("sh");
        git.args([
            "-c",
            "command -v git && git init -q && git add . && git -c user.name=a -c user.email=a commit -qm a",
        ]);
        // Without git there is no repository to be refused, which it is by its URL anyhow.
        let _ = git.current_dir(trap.project.join("src")).output()?;
        trap.index()?;
        fs_err::create_dir_all(trap.project.join("deep"))?;
        fs_err::write(trap.project.join("deep/more.txt"), "# sources\n-e ../src\n")?;
        let settings = "no-build = false\nno-binary = true\nno-binary-package = [\"evil\"]\n";
        for file in ["config/uv/uv.toml", "uv.toml"] {
            fs_err::create_dir_all(trap.project.join("config/uv"))?;
            fs_err::write(trap.project.join(file), settings)?;
        }
        trap.bites()?;
        Ok(trap)
    }

    /// An index with the source alone, and a wheel that requires the source by its URL.
    fn index(&self) -> Result<()> {
        let page = |name: &str, file: &str| -> Result<()> {
            let directory = self.project.join("index").join(name);
            fs_err::create_dir_all(&directory)?;
            fs_err::write(directory.join("index.html"), format!("<a href=\"{file}\">{file}</a>"))?;
            Ok(())
        };
        page("evil", "evil-1.0.tar.gz")?;
        fs_err::copy(self.project.join("evil-1.0.tar.gz"), self.project.join("index/evil/evil-1.0.tar.gz"))?;
        page("needs", "needs-1.0-py3-none-any.whl")?;
        let url = format!("file://{}", self.project.join("evil-1.0.tar.gz").display());
        let info = self.project.join("index/needs/needs-1.0.dist-info");
        fs_err::create_dir_all(&info)?;
        let metadata = format!("Metadata-Version: 2.1\nName: needs\nVersion: 1.0\nRequires-Dist: evil @ {url}\n");
        fs_err::write(info.join("METADATA"), metadata)?;
        fs_err::write(info.join("WHEEL"), "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")?;
        fs_err::write(info.join("RECORD"), "")?;
        let mut zip = Command::new("python3");
        zip.current_dir(self.project.join("index/needs"));
        programs::output(zip.args(["-m", "zipfile", "-c", "needs-1.0-py3-none-any.whl", "needs-1.0.dist-info"]))?;
        Ok(())
    }

    /// uv by itself, with a Python, runs the source.
    fn bites(&self) -> Result<()> {
        let mut uv = Command::new(&self.uv);
        uv.current_dir(&self.project).args(["pip", "compile", "--no-config", "--no-index", "--find-links", ".", "-"]);
        let mut child = uv.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            std::io::Write::write_all(&mut stdin, b"evil\n")?;
        }
        child.wait()?;
        if !self.mark.exists() {
            return Err("the source does not run even where it is built".into());
        }
        Ok(fs_err::remove_file(&self.mark)?)
    }

    fn text(&self, text: &str) -> String {
        let path = |name: &str| self.project.join(name).display().to_string();
        text.replace("SRC", &path("src")).replace("SDIST", &path("evil-1.0.tar.gz")).replace("CONFIG", &path("config"))
    }

    /// kiln refuses, says why, and nothing ran.
    fn refuses(&self, suite: &Suite, way: &Way, uv: Option<&Path>) -> Result<()> {
        fs_err::write(self.project.join(way.file), self.text(way.requirements))?;
        stack(&self.project, way.file, way.index)?;
        let mut command = self.lock(suite, uv);
        command.envs(way.environment.iter().map(|(name, value)| (*name, self.text(value))));
        let output = command.output()?;
        self.did_not_run(&output)?;
        let message = text(&output.stderr);
        if output.status.code().is_none_or(|code| code == 0 || code > 3) || !message.contains(way.says) {
            return Err(format!("`{}` is not in what it says: {}\n{message}", way.says, output.status).into());
        }
        Ok(())
    }

    fn exports(&self, suite: &Suite) -> Result<()> {
        fs_err::copy(self.project.join("src/pyproject.toml"), self.project.join("pyproject.toml"))?;
        fs_err::copy(self.project.join("src/backend.py"), self.project.join("backend.py"))?;
        let lock = "version = 1\nrequires-python = \">=3.11\"\n\n[[package]]\nname = \"evil\"\nversion = \"1.0\"\n\
                    source = { editable = \".\" }\n";
        fs_err::write(self.project.join("uv.lock"), lock)?;
        stack(&self.project, "uv.lock", LOCAL)?;
        let output = self.lock(suite, None).output()?;
        self.did_not_run(&output)?;
        match output.status.success() {
            true => Ok(()),
            false => Err(text(&output.stderr).into()),
        }
    }

    fn lock(&self, suite: &Suite, uv: Option<&Path>) -> Command {
        let mut command = suite.kiln(&self.project);
        let uv = uv.unwrap_or(&self.uv).parent().unwrap_or(Path::new("/"));
        let path = std::env::var("PATH").unwrap_or_default();
        command.arg("lock").env("PATH", format!("{}:{path}", uv.display()));
        command
    }

    fn did_not_run(&self, output: &Output) -> Result<()> {
        match self.mark.exists() {
            true => Err(format!("foreign code ran: {}", text(&output.stderr)).into()),
            false => Ok(()),
        }
    }

    /// uv that builds, against what kiln says to it.
    fn building_uv(&self) -> Result<PathBuf> {
        let path = self.project.join("bin/uv");
        fs_err::create_dir_all(self.project.join("bin"))?;
        let script = format!(
            "#!/bin/sh\nPATH=/bin:/usr/bin\nsed -i 's/no-build = true/no-build = false/' kiln-uv.toml\n\
             for argument; do shift; case $argument in --only-binary|:all:) ;; *) set -- \"$@\" \"$argument\";; esac; done\n\
             exec {} \"$@\"\n",
            self.uv.display()
        );
        fs_err::write(&path, script)?;
        fs_err::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(path)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
