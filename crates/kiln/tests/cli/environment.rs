//! One hermetic place for each test: project, home, store and `PATH`, and what the program did there.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kiln_wheel::testing::WheelBuilder;

use crate::bases;

/// A directory of its own for one test, removed with the value.
pub(crate) struct TestEnvironment {
    directory: tempfile::TempDir,
    /// Paths, digests and durations in snapshots are replaced as long as this lives.
    _filters: insta::internals::SettingsBindDropGuard,
}

impl TestEnvironment {
    /// An empty project, with nothing but uv's stand-in on `PATH`.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["project", "project/wheels", "home", "bin"] {
            fs_err::create_dir_all(directory.path().join(name)).unwrap();
        }
        let root = fs_err::canonicalize(directory.path()).unwrap();
        let mut settings = insta::Settings::clone_current();
        settings.set_prepend_module_to_snapshot(false);
        for (pattern, replacement) in [
            (root.to_str().unwrap().replace('.', r"\.").as_str(), "<root>"),
            (r"sha256:[0-9a-f]{64}", "sha256:<digest>"),
            (r"\b[0-9a-f]{64}\b", "<digest>"),
            (r#"(inputs = )"[0-9a-f]{32}""#, r#"$1"<hash>""#),
            (r#"(size"?[:=] |size = )\d+"#, "$1<n>"),
            (r"temporary/\.kiln-[A-Za-z0-9]{10}\.tmp", "temporary/.tmp<n>"),
            (r"(?m)^(  |removed  )[0-9a-f]{12}\b", "$1<digest>"),
            (r"127\.0\.0\.1:\d{2,}", "127.0.0.1:<port>"),
            (r"\d+ s ago", "<n> s ago"),
            (r"(attempt \d of \d) in \d+\.\d s", "$1 in <s> s"),
            (r":[0-9a-f]{16}, latest", ":<tag>, latest"),
            (r"(\d+\.)?\d+ k?B in (\d+) layers", "<size> in $2 layers"),
        ] {
            settings.add_filter(pattern, replacement);
        }
        let environment = Self { directory, _filters: settings.bind_to_scope() };
        std::os::unix::fs::symlink(fake_uv(), environment.root().join("bin/uv")).unwrap();
        environment
    }

    /// A project with a base for both platforms in `base/`, and this stack file.
    pub(crate) fn with_stack(text: &str) -> Self {
        let environment = Self::new();
        bases::debian(&environment.path("base"));
        environment.stack(text);
        environment
    }

    /// The directory that holds everything.
    pub(crate) fn root(&self) -> PathBuf {
        fs_err::canonicalize(self.directory.path()).unwrap()
    }

    /// A path in the project.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root().join("project").join(relative)
    }

    /// Writes `kiln.toml`.
    pub(crate) fn stack(&self, text: &str) {
        self.write("kiln.toml", text);
    }

    /// Writes a file of the project.
    pub(crate) fn write(&self, relative: &str, content: impl AsRef<[u8]>) {
        let path = self.path(relative);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
    }

    /// Reads a file of the project.
    pub(crate) fn read(&self, relative: &str) -> String {
        fs_err::read_to_string(self.path(relative)).unwrap()
    }

    /// Puts a wheel into the find-links directory `wheels/`.
    pub(crate) fn wheel(&self, wheel: &WheelBuilder) {
        self.write(&format!("wheels/{}", wheel.file_name()), wheel.finish());
    }

    /// Names a file or directory to uv's stand-in, which gets no variables from kiln.
    pub(crate) fn tell_uv(&self, setting: &str, path: &Path) {
        fs_err::write(self.root().join("bin/uv").with_added_extension(setting), path.to_str().unwrap()).unwrap();
    }

    /// Puts a shell script onto `PATH`, in the place of what has that name there.
    pub(crate) fn script(&self, name: &str, text: &str) {
        let (written, program) = (self.root().join("script"), self.root().join("bin").join(name));
        let _ = fs_err::remove_file(&program);
        fs_err::write(&written, format!("#!/bin/sh\n{text}")).unwrap();
        fs_err::set_permissions(&written, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        // By another process: one that was just written by this one may be busy when another thread has forked.
        assert!(Command::new("cp").args([&written, &program]).status().unwrap().success());
    }

    /// The bytes of each download that is under way or was broken off.
    pub(crate) fn partial_downloads(&self) -> Vec<u64> {
        let Ok(entries) = fs_err::read_dir(self.root().join("store/partial")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().metadata().map_or(0, |found| found.len())).collect()
    }

    /// The program, to be run in the project.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_kiln"));
        command.current_dir(self.path(""));
        command
    }

    /// `sh -c` in the project, for what only a shell can say. The program is `$KILN` there.
    pub(crate) fn shell(&self, script: &str) -> Outcome {
        let mut command = self.program("/bin/sh");
        command.current_dir(self.path("")).env("KILN", env!("CARGO_BIN_EXE_kiln")).args(["-c", script]);
        Outcome::of(command)
    }

    fn program(&self, program: &str) -> Command {
        let root = self.root();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", root.join("home"))
            .env("KILN_STORE", root.join("store"))
            .env("PATH", root.join("bin"))
            .stdin(Stdio::null());
        command
    }

    /// Runs the program with arguments that are separated by spaces.
    pub(crate) fn kiln(&self, arguments: &str) -> Outcome {
        let mut command = self.command();
        command.args(arguments.split_whitespace());
        Outcome::of(command)
    }

    /// Runs the program, which must succeed; what it printed.
    #[track_caller]
    pub(crate) fn succeed(&self, arguments: &str) -> String {
        let outcome = self.kiln(arguments);
        assert_eq!(outcome.status, Some(0), "kiln {arguments}\n{outcome}");
        outcome.stdout
    }

    /// Builds everything, and the digests that were printed, by image.
    #[track_caller]
    pub(crate) fn digests(&self, arguments: &str) -> Vec<(String, String)> {
        let stdout = self.succeed(&format!("build --json {arguments}"));
        let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        let text = |image: &serde_json::Value, key: &str| image[key].as_str().unwrap().to_owned();
        let images = document["images"].as_array().unwrap();
        images.iter().map(|image| (text(image, "name"), text(image, "digest"))).collect()
    }
}

/// The example beside this test, which `cargo test` builds.
fn fake_uv() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let found = test.parent().and_then(Path::parent).unwrap().join("examples/fake-uv");
    assert!(found.is_file(), "{} is missing: `cargo build -p kiln --example fake-uv`", found.display());
    found
}

/// What a command did. It is shown as a terminal would, with a line where stderr begins and the status at the end.
pub(crate) struct Outcome {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// Nothing where a signal ended it.
    pub(crate) status: Option<i32>,
}

impl Outcome {
    pub(crate) fn of(mut command: Command) -> Self {
        command.output().unwrap().into()
    }
}

impl From<std::process::Output> for Outcome {
    fn from(output: std::process::Output) -> Self {
        Self {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: lines_without_durations(&String::from_utf8_lossy(&output.stderr)),
            status: output.status.code(),
        }
    }
}

/// Starts a command whose output is read when it has ended.
pub(crate) fn spawn(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until something is true, which must be soon.
#[track_caller]
pub(crate) fn wait_until(condition: impl Fn() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < Duration::from_secs(30), "it never came true");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until something is true while a process runs, and kills it. That the signal ended it proves that it still ran.
#[track_caller]
pub(crate) fn kill_once(child: &mut Child, condition: impl Fn() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert_eq!(child.try_wait().unwrap(), None, "it ended before it could be killed");
        assert!(since.elapsed() < Duration::from_secs(30), "it never came true");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "it ended before it was killed: {status}");
}

/// Without `splice solver: 0.5 s, 9.1 MB, 18 MB/s`, which is only said where something took long.
fn lines_without_durations(text: &str) -> String {
    let took = |line: &str| {
        let after = line.rsplit_once(": ").map_or("", |(_, after)| after);
        after.split_once(" s").is_some_and(|(number, _)| number.parse::<f64>().is_ok())
    };
    text.split_inclusive('\n').filter(|line| !took(line.trim_end())).collect()
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stdout)?;
        if !self.stderr.is_empty() {
            write!(f, "------- stderr -------\n{}", self.stderr)?;
        }
        match self.status {
            Some(0) => Ok(()),
            Some(status) => writeln!(f, "[exit status: {status}]"),
            None => writeln!(f, "[ended by a signal]"),
        }
    }
}

/// Arguments with spaces in them.
pub(crate) fn run(environment: &TestEnvironment, arguments: &[impl AsRef<OsStr>]) -> Outcome {
    let mut command = environment.command();
    command.args(arguments);
    Outcome::of(command)
}
