//! Repositories of git, through git itself: bare, without hooks, filters or the user's settings, of which only what leads to
//! credentials is used.

use std::ffi::OsStr;
use std::path::Path;

use kiln_plan::event::Work;
use kiln_programs::{Call, LOCATIONS, NETWORK, Names, PATH, ProgramError, Stdout};

use crate::error::{BuildError, Result};
use crate::workshop::Workshop;

/// The variables that git needs: for the network, for keys and for the agent that has them.
const GIT: Names = &[PATH, LOCATIONS, NETWORK, &["SSH_AUTH_SOCK", "GIT_SSL_CAINFO", "XDG_CONFIG_HOME"]];
/// Ways to repositories that git may take: none that runs a program of the address's choice (git(1), `GIT_ALLOW_PROTOCOL`).
const PROTOCOLS: &str = "https:ssh:file";
/// Bytes of files that are read together, and of what git says before and behind each.
const TOGETHER: u64 = 64 << 20;
const HEADER: u64 = 128;
/// Bytes of a list of files.
const LIST: usize = 256 << 20;

/// Signs in what git says: a server knows no such name, or does not know its caller.
const NO_REF: [&str; 3] = ["remote ref", "not our ref", "unadvertised object"];
const NO_ACCESS: [&str; 6] = [
    "Authentication failed",
    "could not read Username",
    "could not read Password",
    "Permission denied",
    "Repository not found",
    "access rights",
];
const CREDENTIALS: &str = "credentials come from git's credential helper, `~/.netrc` or the ssh agent";
const OFFLINE: &str = "run once without `--offline`";

/// A commit of a repository, in a bare repository of its own.
pub(crate) struct Commit<'w> {
    workshop: &'w Workshop<'w>,
    work: Work<'w>,
    directory: kiln_store::TemporaryDirectory,
    /// The user's credential helpers.
    helpers: Vec<String>,
    pub(crate) url: String,
    /// The name that it was asked for under.
    rev: String,
    /// Its name, 40 or 64 hexadecimal digits.
    pub(crate) id: String,
}

/// A file of a commit.
pub(crate) struct Entry {
    /// Path in the repository.
    pub(crate) path: String,
    /// The name of its content.
    id: String,
    /// Bytes.
    pub(crate) size: u64,
}

impl<'w> Commit<'w> {
    /// Returns an empty repository of a name at an address.
    fn new(workshop: &'w Workshop<'w>, url: &str, rev: &str) -> Result<Self> {
        let work = workshop.work("fetch", format!("{url} at {rev}"), None);
        let directory = workshop.store.temporary_directory()?;
        let mut commit = Self {
            workshop,
            work,
            directory,
            helpers: Vec::new(),
            url: url.to_owned(),
            rev: rev.to_owned(),
            id: String::new(),
        };
        if workshop.surroundings.offline {
            return Err(commit.failed("it is not in the store, and the network may not be used", OFFLINE.into()));
        }
        commit.helpers = helpers(workshop, &commit.work);
        commit.git(&["init", "--quiet", "--bare", "."], Stdout::Discarded)?;
        Ok(commit)
    }

    /// Fetches what a name of a repository leads to: a branch, a tag or a commit.
    pub(crate) fn fetch(workshop: &'w Workshop<'w>, url: &str, rev: &str) -> Result<Self> {
        let mut commit = Self::new(workshop, url, rev)?;
        let shallow = ["fetch", "--quiet", "--depth", "1", "--no-tags", "--", url, rev];
        match commit.git(&shallow, Stdout::Discarded) {
            Ok(_) => commit.id = commit.resolve("FETCH_HEAD")?,
            // A server need not give a commit by its name (git-config(1), `uploadpack.allowReachableSHA1InWant`).
            Err(error) if is_commit(rev) && !matches!(error, BuildError::Interrupted) => {
                let all = ["fetch", "--quiet", "--tags", "--", url, "+refs/*:refs/kiln/*"];
                commit.git(&all, Stdout::Discarded)?;
                commit.id = commit.resolve(rev)?;
            }
            Err(error) => return Err(error),
        }
        Ok(commit)
    }

    fn resolve(&self, name: &str) -> Result<String> {
        let name = format!("{name}^{{commit}}");
        let said =
            self.ask(&["rev-parse", "--verify", "--quiet", "--end-of-options", &name], Stdout::Captured(1 << 10))?;
        let id = said.map(|said| String::from_utf8_lossy(&said).trim().to_owned()).filter(|id| is_commit(id));
        id.ok_or_else(|| self.failed("it has no such commit", self.names()))
    }

    /// Returns the plain files of the commit.
    pub(crate) fn files(&self) -> Result<Vec<Entry>> {
        let list = self.git(&["ls-tree", "-r", "-z", "--long", "--full-tree", &self.id], Stdout::Captured(LIST))?;
        let entry = |line: &[u8]| {
            let line = std::str::from_utf8(line).ok()?;
            let (about, path) = line.split_once('\t')?;
            let mut fields = about.split_whitespace();
            let is_plain = fields.next()?.starts_with("100") && fields.next()? == "blob";
            let (id, size) = (fields.next()?.to_owned(), fields.next()?.parse().ok()?);
            is_plain.then(|| Entry { path: path.to_owned(), id, size })
        };
        Ok(list.split(|byte| *byte == 0).filter_map(entry).collect())
    }

    /// Hands over the contents of files in their order, read by one git for as many as fit into memory.
    pub(crate) fn contents(&self, entries: &[&Entry], take: &mut dyn FnMut(&Entry, &[u8]) -> Result<()>) -> Result<()> {
        let mut rest = entries;
        while !rest.is_empty() {
            let mut together = 0_u64;
            let fits = |entry: &&&Entry| {
                together = together.saturating_add(entry.size);
                together <= TOGETHER
            };
            let (batch, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            self.batch(batch, take)?;
            rest = later;
        }
        Ok(())
    }

    fn batch(&self, entries: &[&Entry], take: &mut dyn FnMut(&Entry, &[u8]) -> Result<()>) -> Result<()> {
        let size: u64 = entries.iter().map(|entry| entry.size.saturating_add(HEADER)).sum();
        let most = usize::try_from(size).unwrap_or(usize::MAX);
        let names: String = entries.iter().map(|entry| format!("{}\n", entry.id)).collect();
        let call = self.call(&["cat-file", "--batch"], Stdout::Captured(most))?.input(names.into_bytes());
        let said = self.run(call)?;
        let mut rest = said.as_slice();
        for entry in entries {
            // `NAME blob SIZE`, a line feed, the content, a line feed (git-cat-file(1), "BATCH OUTPUT").
            let header = format!("{} blob {}\n", entry.id, entry.size);
            let size = usize::try_from(entry.size).unwrap_or(usize::MAX);
            let content = rest.strip_prefix(header.as_bytes()).and_then(|rest| rest.split_at_checked(size));
            let Some((content, [b'\n', after @ ..])) = content else {
                return Err(self.problem(&format!("git gave something else for `{}`", entry.path)));
            };
            take(entry, content)?;
            rest = after;
        }
        Ok(())
    }

    /// Returns the directory of the bare repository.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn program(&self, name: &str) -> Option<std::path::PathBuf> {
        self.workshop.find_program(name)
    }

    pub(crate) fn git(&self, arguments: &[&str], stdout: Stdout) -> Result<Vec<u8>> {
        self.run(self.call(arguments, stdout)?)
    }

    /// Returns what git says, or `None` where it ends with an error.
    pub(crate) fn ask(&self, arguments: &[&str], stdout: Stdout) -> Result<Option<Vec<u8>>> {
        match self.git(arguments, stdout) {
            Ok(said) => Ok(Some(said)),
            Err(BuildError::Interrupted) => Err(BuildError::Interrupted),
            Err(_) => Ok(None),
        }
    }

    pub(crate) fn call<A: AsRef<OsStr>>(&self, arguments: &[A], stdout: Stdout) -> Result<Call<'static>> {
        let program = self.program("git").ok_or_else(|| BuildError::Program {
            program: "git".into(),
            purpose: "to fetch repositories".into(),
            problem: "is not on PATH".into(),
            hint: "install git".into(),
        })?;
        let mut call = Call::new(program, GIT)
            .directory(self.directory.path())
            .variable("GIT_CONFIG_NOSYSTEM", "1")
            .variable("GIT_CONFIG_GLOBAL", "/dev/null")
            .variable("GIT_TERMINAL_PROMPT", "0")
            .variable("GIT_ALLOW_PROTOCOL", PROTOCOLS)
            .variable("GIT_DIR", self.directory.path())
            .stdout(stdout)
            .args(["-c", "core.hooksPath=/dev/null", "-c", "safe.bareRepository=all", "-c", "gc.auto=0"]);
        for helper in &self.helpers {
            call = call.arg("-c").arg(format!("credential.helper={helper}"));
        }
        Ok(call.args(arguments))
    }

    pub(crate) fn run(&self, call: Call<'_>) -> Result<Vec<u8>> {
        match call.run(&self.workshop.surroundings.environment, &self.work) {
            Ok(said) => Ok(said),
            Err(ProgramError::Interrupted) => Err(BuildError::Interrupted),
            Err(error) => {
                let told = told(&error);
                let is_about = |signs: &[&str]| signs.iter().any(|sign| told.contains(sign));
                let hint = match () {
                    () if is_about(&NO_REF) => self.names(),
                    () if is_about(&NO_ACCESS) => CREDENTIALS.into(),
                    () if !is_common(&self.url) => "kiln fetches by https, ssh and from files alone".into(),
                    () => format!("`git ls-remote {}` must work on this machine", self.url),
                };
                Err(self.failed(&told, hint))
            }
        }
    }

    /// Runs a call whose error is what git said.
    pub(crate) fn said(&self, call: Call<'_>) -> std::result::Result<Vec<u8>, String> {
        call.run(&self.workshop.surroundings.environment, &self.work).map_err(|error| told(&error))
    }

    /// The error of a repository that is not as it should be.
    pub(crate) fn problem(&self, problem: &str) -> BuildError {
        self.failed(problem, "mend the repository, or name another `rev` of it".into())
    }

    fn failed(&self, problem: &str, hint: String) -> BuildError {
        BuildError::Mistake { message: format!("`{}` of {} cannot be fetched: {problem}", self.rev, self.url), hint }
    }

    fn names(&self) -> String {
        format!("`rev` is a branch, a tag or a commit: `git ls-remote {}` lists them", self.url)
    }
}

/// Returns the commit that a name of a repository leads to, as git chooses among tags and branches (gitrevisions(7)).
pub(crate) fn commit_of(workshop: &Workshop<'_>, url: &str, rev: &str) -> Result<String> {
    if is_commit(rev) {
        return Ok(rev.to_ascii_lowercase());
    }
    let repository = Commit::new(workshop, url, rev)?;
    let said =
        repository.git(&["ls-remote", "--quiet", "--", url, rev, &format!("{rev}^{{}}")], Stdout::Captured(LIST))?;
    let said = String::from_utf8_lossy(&said).into_owned();
    let names: Vec<(&str, &str)> = said.lines().filter_map(|line| line.split_once('\t')).collect();
    let named = |wanted: String| names.iter().find(|(_, name)| *name == wanted).map(|(id, _)| *id);
    let found = [
        rev.to_owned(),
        format!("refs/{rev}"),
        // A tag with a message leads to a commit.
        format!("refs/tags/{rev}^{{}}"),
        format!("refs/tags/{rev}"),
        format!("refs/heads/{rev}"),
    ];
    match found.into_iter().find_map(named) {
        Some(id) => Ok(id.to_owned()),
        // The start of a commit's name, which servers do not resolve.
        None => Ok(Commit::fetch(workshop, url, rev)?.id),
    }
}

/// Returns true for an address whose program is git's own or ssh: other helpers (`ext::`) run what the address says.
fn is_common(url: &str) -> bool {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    scheme.map_or(!url.contains("::"), |scheme| matches!(scheme, "https" | "http" | "ssh" | "file"))
}

/// Returns the last lines of what git said, or how it ended.
fn told(error: &ProgramError) -> String {
    let ProgramError::Failed(failed) = error else { return error.to_string() };
    let lines = failed.last_lines(20);
    let is_fatal = |line: &&str| line.starts_with("fatal: ") || line.starts_with("error: ");
    let mut told: Vec<&str> = lines.iter().copied().filter(is_fatal).take(2).collect();
    if told.is_empty() {
        told = failed.last_lines(2);
    }
    let said = told.iter().map(|line| line.trim_start_matches("fatal: ")).collect::<Vec<_>>().join("; ");
    if said.is_empty() { failed.ended.to_string() } else { said }
}

/// Returns the user's credential helpers (gitcredentials(7)).
fn helpers(workshop: &Workshop<'_>, work: &Work<'_>) -> Vec<String> {
    let Some(program) = workshop.find_program("git") else { return Vec::new() };
    let call = Call::new(program, GIT).directory(Path::new("/")).args(["config", "--get-all", "credential.helper"]);
    let said = call.run(&workshop.surroundings.environment, work).unwrap_or_default();
    String::from_utf8_lossy(&said).lines().map(str::to_owned).collect()
}

/// Returns true for the full name of a commit (gitglossary(7), "object name").
pub(crate) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
