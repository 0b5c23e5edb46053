//! Projects and locks of other tools, beside the tools that wrote them: uv, pip and Poetry decide, and kiln must choose the
//! same versions. And what only the real resolver can show: tiers that must agree, overrides, variants.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kiln_plan::digest::Digest;

mod refusals;

use super::report::Checks;
use super::requirements::uv;
use super::{Result, Suite, programs};

/// The releases of the tools.
const PIP: &str = "pip==25.3";
const POETRY: &str = "poetry==2.2.1";

/// A project with everything that is chosen from.
const PROJECT: &str = r#"
[project]
name = "demo"
version = "1"
requires-python = ">=3.11"
dependencies = ["rich<14", "httpx[http2]>=0.27 ; python_version >= '3.11'", "colorama ; sys_platform == 'win32'"]

[project.optional-dependencies]
yaml = ["pyyaml"]
all = ["demo[yaml]", "attrs<25"]

[dependency-groups]
dev = ["iniconfig", { include-group = "lint" }]
lint = ["pluggy"]
serve = ["uvicorn==0.30.0"]

[tool.uv]
constraint-dependencies = ["h11<0.15"]
override-dependencies = ["idna==3.7"]
"#;

/// Versions by package.
type Versions = BTreeMap<String, String>;

/// A choice of what is installed: for the stack, and for the tool's command line.
const CHOICES: [(&str, &[&str]); 5] = [
    ("", &[]),
    (", extras = [\"yaml\"]", &["--extra", "yaml"]),
    (", extras = [\"all\"]", &["--extra", "all"]),
    (", groups = [\"serve\"]", &["--group", "serve"]),
    (", groups = [\"dev\"], extras = [\"yaml\"]", &["--group", "dev", "--extra", "yaml"]),
];

/// Makes the checks.
pub(crate) fn check(suite: &Suite, checks: &mut Checks) {
    let project = suite.work.join("projects");
    checks.check("a project has uv's versions, whatever is chosen of it", || beside_uv_compile(suite, &project));
    checks.check("a lock of uv has uv's versions, whatever is chosen of it", || beside_uv_export(suite, &project));
    checks.check("a lock of uv that does not fit its project is refused", || stale(suite, &project));
    checks.check("a lock of pip has pip's versions", || beside_pip(suite, &project));
    checks.check("a lock of Poetry has Poetry's versions", || beside_poetry(suite, &project));
    checks.check("tiers agree where one requires an older version", || tiers(suite, &project));
    checks.check("packages that no resolver accepts together go with an override", || overrides(suite, &project));
    checks.check("requirements come from a repository of git", || from_git(suite, &project));
    refusals::check(suite, checks, &project);
    suite.remove("projects");
}

/// Locks a stack with this table of an image, and returns what is locked for an image.
fn lock(suite: &Suite, project: &Path, images: &str, image: &str) -> Result<Versions> {
    fs_err::create_dir_all(project)?;
    let _ = fs_err::remove_file(project.join("kiln.lock"));
    let facts = "base-facts = { libc = { family = \"glibc\", version = \"2.36\" }, \
                 interpreters = [{ path = \"/usr/bin/python3.11\", version = \"3.11.9\" }] }";
    let text = format!(
        "[stack]\nname = \"projects\"\n\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"3.11\"\n\n[images.a]\n\
         from = \"scratch\"\n{facts}\n{images}\n"
    );
    fs_err::write(project.join("kiln.toml"), text)?;
    programs::output(suite.kiln(project).arg("lock"))?;
    let lock: toml::Table = fs_err::read_to_string(project.join("kiln.lock"))?.parse()?;
    let images = lock.get("image").and_then(toml::Value::as_array).ok_or("the lock has no image")?;
    let is = |one: &&toml::Value| one.get("name").and_then(toml::Value::as_str) == Some(image);
    let image = images.iter().find(is).ok_or("the image is not in the lock")?;
    Ok(versions(image.get("packages"), |_| true))
}

fn versions(packages: Option<&toml::Value>, is_wanted: impl Fn(&toml::Value) -> bool) -> Versions {
    let packages = packages.and_then(toml::Value::as_array).into_iter().flatten().filter(|package| is_wanted(package));
    let text = |package: &toml::Value, key: &str| Some(package.get(key)?.as_str()?.to_owned());
    packages.filter_map(|package| Some((text(package, "name")?, text(package, "version")?))).collect()
}

/// Versions of a `pylock.toml`, without those for Windows, which the project alone has.
fn of_pylock(file: &Path) -> Result<Versions> {
    let table: toml::Table = fs_err::read_to_string(file)?.parse()?;
    let windows = |package: &toml::Value| {
        package.get("marker").and_then(toml::Value::as_str).is_some_and(|marker| marker.contains("win32"))
    };
    Ok(versions(table.get("packages"), |package| !windows(package)))
}

fn same(what: &str, kiln: &Versions, other: &Versions) -> Result<()> {
    let differs = |name: &&String| kiln.get(*name) != other.get(*name);
    let names: Vec<&String> = kiln.keys().chain(other.keys()).filter(differs).collect();
    match names.is_empty() && !other.is_empty() {
        true => Ok(()),
        false => Err(format!("{what}: {names:?} differ of {} and {} packages", kiln.len(), other.len()).into()),
    }
}

/// Every choice of a file, beside what a command of uv writes for it.
fn each_choice(suite: &Suite, project: &Path, file: &str, command: impl Fn(&mut Command, &[&str])) -> Result<()> {
    fs_err::create_dir_all(project)?;
    fs_err::write(project.join("pyproject.toml"), PROJECT)?;
    let uv = uv(suite, &project.join("first"))?;
    for (choice, arguments) in CHOICES {
        let mut run = Command::new(&uv);
        run.current_dir(project);
        command(&mut run, arguments);
        programs::output(run.args(["--quiet", "--format", "pylock.toml", "--output-file", "pylock.other.toml"]))?;
        let other = of_pylock(&project.join("pylock.other.toml"))?;
        let kiln = lock(suite, project, &format!("requirements = {{ file = \"{file}\"{choice} }}"), "a")?;
        same(&format!("`{file}`{choice}"), &kiln, &other)?;
        fs_err::remove_file(project.join("pylock.other.toml"))?;
    }
    Ok(())
}

fn beside_uv_compile(suite: &Suite, project: &Path) -> Result<()> {
    each_choice(suite, &project.join("compile"), "pyproject.toml", |run, arguments| {
        run.args(["pip", "compile", "pyproject.toml", "--only-binary", ":all:", "--python-version", "3.11.9"]);
        run.args(["--python-platform", "x86_64-manylinux_2_36"]).args(arguments);
    })
}

fn uv_project(suite: &Suite, project: &Path) -> Result<PathBuf> {
    fs_err::create_dir_all(project)?;
    fs_err::write(project.join("pyproject.toml"), PROJECT)?;
    let uv = uv(suite, &project.join("first"))?;
    programs::output(Command::new(&uv).current_dir(project).args(["lock", "--quiet"]))?;
    Ok(uv)
}

fn beside_uv_export(suite: &Suite, project: &Path) -> Result<()> {
    let project = project.join("export");
    uv_project(suite, &project)?;
    each_choice(suite, &project, "uv.lock", |run, arguments| {
        run.args(["export", "--frozen", "--no-default-groups", "--no-emit-project"]).args(arguments);
    })
}

fn stale(suite: &Suite, project: &Path) -> Result<()> {
    let project = project.join("stale");
    uv_project(suite, &project)?;
    for (from, to) in
        [("rich<14", "rich<13"), (">=3.11\"", ">=3.10\""), ("pyyaml", "pyyaml<6"), ("idna==3.7", "idna==3.8")]
    {
        fs_err::write(project.join("pyproject.toml"), PROJECT.replacen(from, to, 1))?;
        match lock(suite, &project, "requirements = \"uv.lock\"", "a") {
            Err(error) if error.to_string().contains("does not fit its `pyproject.toml`") => {}
            other => return Err(format!("with `{to}`: {other:?}").into()),
        }
    }
    fs_err::write(project.join("pyproject.toml"), PROJECT)?;
    lock(suite, &project, "requirements = \"uv.lock\"", "a").map(|_| ())
}

/// A virtual environment with a tool; its directory of programs.
fn tool(project: &Path, requirement: &str) -> Result<PathBuf> {
    let environment = project.join("tool");
    programs::output(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    let programs = environment.join("bin");
    programs::output(Command::new(programs.join("python")).args(["-m", "pip", "install", "--quiet", requirement]))?;
    Ok(programs)
}

fn beside_pip(suite: &Suite, project: &Path) -> Result<()> {
    let project = project.join("pip");
    fs_err::create_dir_all(&project)?;
    let tool = tool(&project, PIP)?;
    let mut pip = Command::new(tool.join("python"));
    pip.current_dir(&project).args([
        "-m",
        "pip",
        "lock",
        "--quiet",
        "--output",
        "pylock.toml",
        "rich<14",
        "httpx[http2]",
    ]);
    programs::output(&mut pip)?;
    let kiln = lock(suite, &project, "requirements = \"pylock.toml\"", "a")?;
    same("`pylock.toml`", &kiln, &of_pylock(&project.join("pylock.toml"))?)
}

fn beside_poetry(suite: &Suite, project: &Path) -> Result<()> {
    let project = project.join("poetry");
    fs_err::create_dir_all(&project)?;
    let tool = tool(&project, POETRY)?;
    // Poetry asks PyPI in another way than installers do, so that it gets an index of its own.
    let index = Served::start(&project, &["rich<14", "pyyaml", "iniconfig>=2,<3", "colorama"])?;
    let text = format!(
        "[project]\nname = \"demo\"\nversion = \"1\"\nrequires-python = \">=3.11,<4\"\n\
                dependencies = [\"rich (<14)\", \"colorama ; sys_platform == 'win32'\"]\n\n[project.optional-dependencies]\n\
                yaml = [\"pyyaml\"]\n\n[tool.poetry]\npackage-mode = false\n\n\
                [tool.poetry.group.dev.dependencies]\niniconfig = \"^2\"\n\n\
                [[tool.poetry.source]]\nname = \"local\"\nurl = \"{}\"\npriority = \"primary\"\n",
        index.url()
    );
    fs_err::write(project.join("pyproject.toml"), text)?;
    programs::output(Command::new(tool.join("poetry")).current_dir(&project).args(["lock", "--no-interaction"]))?;
    for (choice, expected, absent) in [
        ("", "pygments", "iniconfig"),
        (", extras = [\"yaml\"]", "pyyaml", "iniconfig"),
        (", dev = true", "iniconfig", "pyyaml"),
    ] {
        let kiln = lock(suite, &project, &format!("requirements = {{ file = \"poetry.lock\"{choice} }}"), "a")?;
        let table: toml::Table = fs_err::read_to_string(project.join("poetry.lock"))?.parse()?;
        let all = versions(table.get("package"), |_| true);
        let wrong: Vec<&String> = kiln.keys().filter(|name| kiln.get(*name) != all.get(*name)).collect();
        if !wrong.is_empty()
            || !kiln.contains_key(expected)
            || kiln.contains_key(absent)
            || kiln.contains_key("colorama")
        {
            return Err(format!("`poetry.lock`{choice}: {wrong:?} of {kiln:?}").into());
        }
    }
    Ok(())
}

/// An index of some packages and what they need, on loopback.
struct Served {
    server: Child,
    port: u16,
}

impl Served {
    fn start(project: &Path, requirements: &[&str]) -> Result<Self> {
        let (wheels, pages) = (project.join("served/files"), project.join("served/simple"));
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--dest"]).arg(&wheels);
        programs::output(pip.args(requirements))?;
        for entry in fs_err::read_dir(&wheels)? {
            let file = entry?.file_name().to_string_lossy().into_owned();
            let name = file.split('-').next().unwrap_or_default().replace('_', "-").to_lowercase();
            let digest = Digest::of(&fs_err::read(wheels.join(&file))?).hex();
            fs_err::create_dir_all(pages.join(&name))?;
            let page = format!("<a href=\"../../files/{file}#sha256={digest}\">{file}</a>\n");
            fs_err::write(pages.join(name).join("index.html"), page)?;
        }
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut server = Command::new("python3");
        server.args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"]).arg(project.join("served"));
        let server = server.arg(port.to_string()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let served = Self { server, port };
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(served);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("the index does not answer".into())
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/simple", self.port)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Requirements at a branch, a tag and a commit of a repository: what is locked stays until everything is chosen anew, and
/// nothing of the repository or of the user's settings runs.
fn from_git(suite: &Suite, project: &Path) -> Result<()> {
    let (project, repository) = (project.join("git"), project.join("repository"));
    fs_err::create_dir_all(repository.join("deploy"))?;
    let git = |arguments: &[&str]| -> Result<String> {
        let mut git = Command::new("git");
        git.args(["-C"]).arg(&repository).args(["-c", "user.name=x", "-c", "user.email=x@example.org"]);
        programs::text(git.args(arguments))
    };
    git(&["init", "--quiet", "--initial-branch", "main"])?;
    let commit = |six: &str| -> Result<String> {
        fs_err::write(repository.join("deploy/base.txt"), format!("six=={six}\n"))?;
        fs_err::write(repository.join("deploy/requirements.txt"), "-r base.txt\nidna==3.10\n")?;
        fs_err::write(repository.join("deploy/empty.txt"), "")?;
        fs_err::write(repository.join("deploy/other.in"), format!("{0} blob 3\n{six}\n\n", "0".repeat(40)))?;
        git(&["add", "--all"])?;
        git(&["commit", "--quiet", "--message", six])?;
        Ok(git(&["rev-parse", "HEAD"])?.trim().to_owned())
    };
    let first = commit("1.16.0")?;
    git(&["tag", "v1"])?;
    commit("1.17.0")?;
    let traps = project.join("traps");
    fs_err::create_dir_all(&traps)?;
    let ran = traps.join("ran");
    let settings = format!(
        "[core]\n\tfsmonitor = touch {0}\n\tsshCommand = touch {0}\n\thooksPath = {1}\n[filter \"x\"]\n\tsmudge = touch {0}\n",
        ran.display(),
        traps.display()
    );
    fs_err::write(traps.join(".gitconfig"), settings)?;
    let url = format!("file://{}", repository.display());
    let table = |rev: &str| {
        format!(
            "requirements = {{ file = \"deploy/requirements.txt\", from = {{ git = \"{url}\", rev = \"{rev}\" }} }}"
        )
    };
    for (rev, six) in [("main", "1.17.0"), ("v1", "1.16.0"), (first.as_str(), "1.16.0")] {
        let versions = lock(suite, &project, &table(rev), "a")?;
        if versions.get("six").map(String::as_str) != Some(six) || !versions.contains_key("idna") {
            return Err(format!("at {rev}: {versions:?}").into());
        }
    }
    lock(suite, &project, &table("main"), "a")?;
    commit("1.15.0")?;
    programs::output(suite.kiln(&project).env("HOME", &traps).args(["lock", "--check"]))?;
    programs::output(suite.kiln(&project).env("HOME", &traps).args(["lock", "--upgrade"]))?;
    let text = fs_err::read_to_string(project.join("kiln.lock"))?;
    match (text.contains("name = \"six\", version = \"1.15.0\""), ran.exists()) {
        (true, false) => Ok(()),
        (upgraded, ran) => Err(format!("chosen anew: {upgraded}; something ran: {ran}").into()),
    }
}

/// The chain of a platform team: torch brings the newest fsspec into the base, and datasets needs one before 2024.6.
fn tiers(suite: &Suite, project: &Path) -> Result<()> {
    let images = "packages = [\"torch==2.6.0\"]\n\n[images.b]\nfrom = \"a\"\npackages = [\"transformers==4.45.0\"]\n\n\
                  [images.c]\nfrom = \"b\"\npackages = [\"datasets==2.20.0\"]";
    let base = lock(suite, &project.join("tiers"), images, "a")?;
    match (base.get("torch").map(String::as_str), base.get("fsspec").map(String::as_str)) {
        (Some("2.6.0"), Some(fsspec)) if fsspec < "2024.6" => Ok(()),
        other => Err(format!("the base has {other:?}").into()),
    }
}

fn overrides(suite: &Suite, project: &Path) -> Result<()> {
    let images = "packages = [\"torch==2.3.0\", \"tensorflow==2.13.0\"]";
    let refused = lock(suite, &project.join("overrides"), images, "a");
    if !refused.is_err_and(|error| error.to_string().contains("typing-extensions")) {
        return Err("they go together without an override".into());
    }
    let with = format!("{images}\n\n[resolution]\noverrides = [\"typing-extensions>=4.8\"]");
    let versions = lock(suite, &project.join("overrides"), &with, "a")?;
    match versions.get("torch").is_some_and(|torch| torch == "2.3.0") && versions.contains_key("tensorflow") {
        true => Ok(()),
        false => Err(format!("{versions:?}").into()),
    }
}
