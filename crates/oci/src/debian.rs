//! A base that is bootstrapped from Debian's archive rather than pulled: `{ debian = SUITE, include = [...] }`.
//!
//! mmdebstrap does the work: apt resolves, verifies and fetches, dpkg unpacks and configures in a chroot, as root or,
//! through user namespaces, as anybody. Its archive is then written anew by [`normalise`], so that the same package
//! versions give the same bytes on every machine, and the packages are told with their digests, so that a lock can
//! record them.

mod normalise;
mod packages;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_plan::event::Work;
use kiln_plan::platform::Platform;
use kiln_plan::secret::Secrets;
use kiln_programs::{Call, ChildEnvironment, Ended, LOCATIONS, NETWORK, Names, PATH, ProgramError, Stdout};

pub use normalise::{Normalised, normalise};
pub(crate) use normalise::{is_backup, shadow};
pub use packages::Package;

use crate::facts::TarError;
use crate::time::CREATED;

/// The variables that mmdebstrap needs: places of programs, of the home and of temporary files, and the way to the
/// network. Its messages are in English, whatever the user's language is.
const NEEDED: Names = &[PATH, LOCATIONS, NETWORK, &["ftp_proxy"]];

/// The time that mmdebstrap has to unmount and remove its chroot once the user wants to stop.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many of mmdebstrap's last lines an error quotes.
const QUOTED_LINES: usize = 12;

/// The largest package list that is read: Debian describes a package in about a kilobyte.
const MAX_LIST: u64 = 256 * 1024 * 1024;

/// Lists what is installed, and what the archive's signed lists say about it, before mmdebstrap removes those lists. It
/// runs outside the chroot, so that a foreign architecture needs no emulator here.
const LIST_PACKAGES: &str = r#"
query() { dpkg-query --admindir="$1/var/lib/dpkg" --show --showformat="$2"; }
query "$1" '${Package}\t${Architecture}\t${Version}\n' > "$1/kiln-installed" &&
query "$1" '${binary:Package}=${Version}\n' |
    APT_CONFIG="${MMDEBSTRAP_APT_CONFIG:-$APT_CONFIG}" xargs apt-cache show > "$1/kiln-available"
"#;

/// What to bootstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    /// Suite or code name: `bookworm`.
    pub suite: String,
    /// Packages beyond the essential ones and apt, as apt names them: `python3`, `git=1:2.39.5-0+deb12u2`.
    pub include: Vec<String>,
    /// The mirror as mmdebstrap takes it: an address, such as one of a snapshot, or a whole line of sources.list(5).
    /// Without one, mmdebstrap's own choice for the suite, updates and security fixes included.
    pub mirror: Option<String>,
    /// What the base runs on.
    pub platform: Platform,
}

/// A bootstrapped system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrapped {
    /// The archive as mmdebstrap wrote it, in the work folder: to be normalised, then removed by the caller.
    pub raw: PathBuf,
    /// Everything installed, by name and architecture.
    pub packages: Vec<Package>,
}

/// A base that cannot be bootstrapped.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// A suite, package or mirror that mmdebstrap would take for something else.
    #[error("`{value}` is not a {what}")]
    Invalid {
        /// What it should be.
        what: &'static str,
        /// What was given.
        value: String,
    },
    /// The program is not there.
    #[error("`{}` is needed to bootstrap Debian and cannot be started", program.display())]
    Missing {
        /// The program.
        program: PathBuf,
        /// The reason.
        source: ProgramError,
    },
    /// The user wants to stop.
    #[error("interrupted")]
    Interrupted,
    /// The program failed.
    #[error("mmdebstrap could not bootstrap `{suite}` ({status})\n{}", quote(last_lines))]
    Failed {
        /// The suite.
        suite: String,
        /// Its end.
        status: Ended,
        /// The last lines that it wrote to standard error.
        last_lines: Vec<String>,
    },
    /// A file of the work folder; the error names it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A list of packages that is none.
    #[error("`{line}` in the list of installed packages makes no sense")]
    PackageList {
        /// The line.
        line: String,
    },
    /// A package whose content nobody vouches for.
    #[error("`{package}` {version} is installed and in no package list")]
    Unlisted {
        /// Its name.
        package: String,
        /// Its version.
        version: String,
    },
    /// The archive of mmdebstrap is no sound tar.
    #[error("the archive of mmdebstrap cannot be read")]
    Raw(#[source] TarError),
    /// The archive of mmdebstrap holds something that has no place in a layer.
    #[error("`{path}` in the archive of mmdebstrap {reason}")]
    Refused {
        /// The member.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The archive of mmdebstrap has more members than any system.
    #[error("the archive of mmdebstrap holds too many members")]
    TooMuch,
    /// A member that cannot be copied.
    #[error("`{path}` cannot be copied from the archive of mmdebstrap")]
    Member {
        /// The member.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The normalised archive cannot be finished.
    #[error("the normalised archive cannot be written")]
    Write(#[source] io::Error),
}

impl DebianError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing { .. } => Some("install it: `apt-get install mmdebstrap`"),
            Self::Failed { last_lines, .. } => {
                let says = |words: &[&str]| {
                    let lines = || last_lines.iter().map(|line| line.to_lowercase());
                    lines().any(|line| words.iter().any(|word| line.contains(word)))
                };
                if says(&["newuidmap", "newgidmap", "subuid", "subgid", "unshare", "chroot mode"]) {
                    Some(
                        "as an ordinary user mmdebstrap needs user namespaces: install `uidmap` and give the user a \
                         range in `/etc/subuid` and `/etc/subgid`, or run as root",
                    )
                } else if says(&["qemu", "binfmt", "exec format error"]) {
                    Some("another architecture needs an emulator: `apt-get install qemu-user-static`")
                } else if says(&["permission denied"]) {
                    Some("the folder for temporary files (`TMPDIR`) must be open to the user's subordinate ids")
                } else if says(&["no_pubkey", "not signed", "keyring"]) {
                    Some("apt must trust the archive: `apt-get install debian-archive-keyring`")
                } else {
                    None
                }
            }
            _ => None,
        }
    }
}

fn quote(lines: &[String]) -> String {
    let lines: Vec<String> = lines.iter().map(|line| format!("  {line}")).collect();
    lines.join("\n")
}

impl Bootstrap {
    /// Runs mmdebstrap, which takes from ten seconds upwards and needs the network, and lists what it installed.
    ///
    /// Its messages are lines of `work`. `work_dir` is made if it is not there, and gets the archive.
    pub fn bootstrap(
        &self,
        program: &Path,
        work_dir: &Path,
        environment: &ChildEnvironment,
        work: &Work<'_>,
    ) -> Result<Bootstrapped, DebianError> {
        fs_err::create_dir_all(work_dir)?;
        let work_dir = fs_err::canonicalize(work_dir)?;
        let raw = work_dir.join("raw.tar");
        let call = self.call(program, &work_dir)?.stdout(Stdout::File(fs_err::File::create(&raw)?));
        let ran = call.run(environment, work).map_err(|error| self.failed(error, program)).and_then(|_| {
            let installed = take_list(&work_dir.join("kiln-installed"))?;
            packages::join(&installed, &take_list(&work_dir.join("kiln-available"))?)
        });
        match ran {
            Ok(packages) => Ok(Bootstrapped { raw, packages }),
            Err(error) => {
                // The first error is the one to report; what is left over lies in a work folder.
                let _ = fs_err::remove_file(&raw);
                Err(error)
            }
        }
    }

    fn call(&self, program: &Path, work_dir: &Path) -> Result<Call<'static>, DebianError> {
        let packages = self.packages()?;
        let suite = checked("suite", &self.suite, |byte| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte))?;
        let mut call = Call::new(program, NEEDED)
            .variable("LC_ALL", "C")
            .variable("SOURCE_DATE_EPOCH", CREATED.to_string())
            .directory("/")
            .patience(PATIENCE)
            .secrets(Secrets::of(self.mirror.as_deref()))
            .arg("--variant=minbase")
            .arg("--format=tar")
            .arg(format!("--arch={}", self.platform.cpu.debian()))
            .arg(format!("--customize-hook={LIST_PACKAGES}"))
            // Through mmdebstrap, since the hook above may run as a user who cannot write to the work folder.
            .arg(copy_out(work_dir)?)
            .arg(r#"--customize-hook=rm "$1/kiln-installed" "$1/kiln-available""#);
        if !packages.is_empty() {
            call = call.arg(format!("--include={}", packages.join(",")));
        }
        if self.mirror.as_deref().is_some_and(is_snapshot) {
            call = call.arg(r#"--aptopt=Acquire::Check-Valid-Until "false""#);
        }
        call = call.arg("--").arg(suite).arg("-");
        if let Some(mirror) = &self.mirror {
            // `-` would be the standard input, and a file on this machine is nothing that a stack can mean.
            if !mirror.contains("://") || mirror.starts_with('-') {
                return Err(DebianError::Invalid { what: "mirror", value: mirror.clone() });
            }
            call = call.arg(mirror);
        }
        Ok(call)
    }

    /// The packages, sorted: their order in the stack file must not show.
    fn packages(&self) -> Result<Vec<&str>, DebianError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.:=~_".contains(&byte);
        let mut packages = Vec::new();
        for package in &self.include {
            packages.push(checked("package name", package, allowed)?);
        }
        packages.sort_unstable();
        packages.dedup();
        Ok(packages)
    }

    fn failed(&self, error: ProgramError, program: &Path) -> DebianError {
        match error {
            ProgramError::Interrupted => DebianError::Interrupted,
            ProgramError::Failed(failed) => DebianError::Failed {
                suite: self.suite.clone(),
                status: failed.ended,
                last_lines: failed.last_lines(QUOTED_LINES).into_iter().map(str::to_owned).collect(),
            },
            source => DebianError::Missing { program: program.to_owned(), source },
        }
    }
}

/// Refuses what mmdebstrap could take for an option or for several values.
fn checked<'a>(what: &'static str, value: &'a str, allowed: impl Fn(u8) -> bool) -> Result<&'a str, DebianError> {
    let starts_well = value.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts_well && value.bytes().all(allowed) {
        return Ok(value);
    }
    Err(DebianError::Invalid { what, value: value.to_owned() })
}

/// mmdebstrap splits this hook into words as a shell does.
fn copy_out(work_dir: &Path) -> Result<String, DebianError> {
    let invalid = || DebianError::Invalid {
        what: "work folder that mmdebstrap can be told",
        value: work_dir.display().to_string(),
    };
    let folder = work_dir.to_str().filter(|folder| !folder.contains('\n')).ok_or_else(invalid)?;
    let folder = folder.replace('\'', r"'\''");
    Ok(format!("--customize-hook=copy-out /kiln-installed /kiln-available '{folder}'"))
}

/// Whether an address has a time such as `20250520T000000Z` in it, as those of snapshots do: the lists there are older
/// than they allow themselves to be, which is what was asked for.
fn is_snapshot(mirror: &str) -> bool {
    mirror.split(['/', ' ']).any(|part| {
        let shape = |(at, byte): (usize, u8)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        };
        part.len() == 16 && part.bytes().enumerate().all(shape)
    })
}

/// Reads a list that the hook wrote, and removes it.
fn take_list(path: &Path) -> Result<String, DebianError> {
    let mut list = String::new();
    fs_err::File::open(path)?.take(MAX_LIST).read_to_string(&mut list)?;
    fs_err::remove_file(path)?;
    Ok(list)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use kiln_plan::event::{Cancel, Event, Reporter};

    use super::*;

    fn bookworm() -> Bootstrap {
        Bootstrap {
            suite: "bookworm".to_owned(),
            include: vec!["python3".to_owned(), "git".to_owned(), "python3".to_owned()],
            mirror: None,
            platform: "linux/arm64".parse().unwrap(),
        }
    }

    fn arguments(bootstrap: &Bootstrap) -> Vec<String> {
        let call = bootstrap.call(Path::new("mmdebstrap"), Path::new("/it's here")).unwrap();
        call.arguments().iter().map(|argument| argument.to_str().unwrap().to_owned()).collect()
    }

    /// A stand-in for mmdebstrap. A shell writes it: what a process of many threads has just written, it cannot always
    /// execute (`ETXTBSY`), since a child that another thread starts holds the file open for a moment.
    fn program(folder: &Path, script: &str) -> PathBuf {
        let path = folder.join("mmdebstrap");
        let script = format!("#!/bin/sh\n{script}");
        let written = Command::new("sh")
            .args(["-c", r#"printf %s "$1" > "$0" && chmod +x "$0""#])
            .args([path.as_os_str(), script.as_ref()])
            .status();
        assert!(written.unwrap().success());
        path
    }

    fn environment() -> ChildEnvironment {
        let path = std::env::var_os("PATH").unwrap();
        ChildEnvironment::new([
            ("PATH".into(), path),
            ("http_proxy".into(), "proxy".into()),
            ("SECRET".into(), "x".into()),
        ])
    }

    /// Keeps the lines of a program.
    #[derive(Default)]
    struct Said {
        lines: std::sync::Mutex<Vec<String>>,
        cancel: Cancel,
    }

    impl Reporter for Said {
        fn event(&self, event: Event) {
            if let Event::Output { line, .. } = event {
                self.lines.lock().unwrap().push(line);
            }
        }
    }

    fn refusal(program: &Path, folder: &Path) -> DebianError {
        let said = Said::default();
        let work = Work::start(&said, &said.cancel, "bootstrap", "bookworm", None);
        bookworm().bootstrap(program, folder, &environment(), &work).unwrap_err()
    }

    #[test]
    fn the_order_of_packages_does_not_show() {
        let arguments = arguments(&bookworm());
        assert!(arguments.contains(&"--include=git,python3".to_owned()));
        assert!(arguments.contains(&"--arch=arm64".to_owned()));
        assert!(arguments.iter().any(|argument| argument.ends_with(r"'/it'\''s here'")));
        assert_eq!(arguments[arguments.len() - 3..], ["--", "bookworm", "-"]);
    }

    #[test]
    fn only_a_snapshot_may_be_out_of_date() {
        let valid_until = |mirror: &str| {
            let mirror = Some(mirror.to_owned());
            arguments(&Bootstrap { mirror, ..bookworm() }).iter().any(|argument| argument.contains("Valid-Until"))
        };
        assert!(valid_until("http://mirror/archive/debian/20250520T000000Z"));
        assert!(valid_until("deb http://mirror/archive/debian/20250520T000000Z/ bookworm main"));
        assert!(!valid_until("http://mirror/debian"));
    }

    #[test]
    fn what_mmdebstrap_would_misunderstand_is_refused() {
        let refused = |change: fn(&mut Bootstrap)| {
            let mut bootstrap = bookworm();
            change(&mut bootstrap);
            bootstrap.call(Path::new("mmdebstrap"), Path::new("/")).err().unwrap().to_string()
        };
        assert_eq!(refused(|b| b.suite = "--help".into()), "`--help` is not a suite");
        assert_eq!(refused(|b| b.include = vec!["a,b".into()]), "`a,b` is not a package name");
        assert_eq!(refused(|b| b.include = vec!["./a.deb".into()]), "`./a.deb` is not a package name");
        assert_eq!(refused(|b| b.mirror = Some("-".into())), "`-` is not a mirror");
    }

    #[test]
    fn the_surroundings_stay_outside_and_the_messages_come_through() {
        let folder = tempfile::tempdir().unwrap();
        let work_dir = folder.path().join("work");
        let program = program(
            folder.path(),
            &format!(
                "echo \"I: $SOURCE_DATE_EPOCH $LC_ALL $http_proxy [$SECRET]\" >&2; echo raw\n\
                 printf 'a\\tall\\t1\\n' > '{0}/kiln-installed'\n\
                 printf 'Package: a\\nArchitecture: all\\nVersion: 1\\nSHA256: {1}\\n' > '{0}/kiln-available'\n",
                work_dir.display(),
                "1".repeat(64),
            ),
        );
        let said = Said::default();
        let work = Work::start(&said, &said.cancel, "bootstrap", "bookworm", None);
        let done = bookworm().bootstrap(&program, &work_dir, &environment(), &work).unwrap();
        assert_eq!(*said.lines.lock().unwrap(), ["I: 315532800 C proxy []"]);
        assert_eq!(done.packages[0].name, "a");
        assert_eq!(fs_err::read_to_string(&done.raw).unwrap(), "raw\n");
        assert_eq!(fs_err::read_dir(&work_dir).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_quotes_the_last_lines_and_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let program = program(
            folder.path(),
            "i=0; while [ $i -lt 20 ]; do i=$((i+1)); echo \"line $i\" >&2; done\n\
             echo 'E: unable to pick chroot mode automatically' >&2; exit 25\n",
        );
        let error = refusal(&program, folder.path());
        let message = error.to_string();
        assert!(message.starts_with("mmdebstrap could not bootstrap `bookworm` (exit status 25)\n  line 10\n"));
        assert!(message.ends_with("\n  E: unable to pick chroot mode automatically"));
        assert!(error.hint().unwrap().contains("uidmap"));
        assert!(!folder.path().join("raw.tar").exists());
    }

    #[test]
    fn a_missing_program_is_named_with_the_way_to_get_it() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("nowhere");
        let error = refusal(&program, folder.path());
        assert!(error.to_string().ends_with("nowhere` is needed to bootstrap Debian and cannot be started"));
        assert_eq!(error.hint(), Some("install it: `apt-get install mmdebstrap`"));
    }
}
