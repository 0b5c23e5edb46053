//! The library that counts and disturbs kiln's system calls (`interpose.c`), and the log that it writes.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Result;

/// Something that happens to a process at one of its changes of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// SIGKILL in the place of the call.
    Kill,
    /// Half of a write, then SIGKILL.
    Tear,
    /// The disk is full from this call on.
    Full,
    /// Half of a write, and the disk is full from then on.
    Short,
    /// The disk is full for this call alone.
    Once,
}

impl Mode {
    /// Whether the process ends.
    pub(crate) fn kills(self) -> bool {
        matches!(self, Self::Kill | Self::Tear)
    }

    /// Its name in `TORTURE_MODE`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Tear => "tear",
            Self::Full => "full",
            Self::Short => "short",
            Self::Once => "once",
        }
    }
}

/// A disturbance: mode and number of the call, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disturbance {
    pub(crate) mode: Mode,
    pub(crate) at: u64,
}

/// The compiled library.
#[derive(Debug)]
pub(crate) struct Interposer {
    library: PathBuf,
}

impl Interposer {
    /// Compiles the library with the system's C compiler.
    pub(crate) fn compile(directory: &Path) -> Result<Self> {
        let (source, library) = (directory.join("interpose.c"), directory.join("interpose.so"));
        fs_err::write(&source, include_str!("interpose.c"))?;
        let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        cc.args(["-O2", "-Wall", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        match cc.status()?.success() {
            true => Ok(Self { library }),
            false => Err("`interpose.c` cannot be compiled".into()),
        }
    }

    /// Makes a command log its changes of the file system, and disturbs it.
    pub(crate) fn attach(&self, command: &mut Command, program: &Path, log: &Path, disturbance: Option<Disturbance>) {
        command.env("LD_PRELOAD", &self.library).env("TORTURE_PROGRAM", program).env("TORTURE_LOG", log);
        if let Some(Disturbance { mode, at }) = disturbance {
            command.env("TORTURE_AT", at.to_string()).env("TORTURE_MODE", mode.name());
        }
    }
}

/// One change of the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) number: u64,
    pub(crate) function: String,
    /// The file that is changed; the old name of a file that is renamed.
    pub(crate) path: String,
    /// The new name of a file that is renamed or linked.
    pub(crate) to: Option<String>,
}

impl Call {
    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.split('\t');
        let number = parts.next()?.parse().ok()?;
        let (function, path) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        Some(Self { number, function, path, to: parts.next().map(str::to_owned) })
    }

    /// Whether it writes content: neither locks nor the database, which are there before anything is made.
    fn writes_content(&self) -> bool {
        let content = !self.path.contains("/locks/") && !self.path.contains("/metadata.db");
        content
            && matches!(self.function.as_str(), "write" | "pwrite" | "writev" | "copy_file_range" | "sendfile" | "send")
    }

    fn renames(&self) -> bool {
        self.function.starts_with("rename") || self.function.starts_with("link")
    }

    fn sends(&self) -> bool {
        self.function == "send"
    }

    fn removes(&self) -> bool {
        self.function.starts_with("unlink")
    }
}

/// All changes that one process made, in the order of their numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calls(pub(crate) Vec<Call>);

impl Calls {
    /// Reads a log; one that is not there is empty.
    pub(crate) fn read(log: &Path) -> Result<Self> {
        if !log.exists() {
            return Ok(Self::default());
        }
        let text = String::from_utf8_lossy(&fs_err::read(log)?).into_owned();
        let mut calls: Vec<Call> = text.lines().filter_map(Call::parse).collect();
        // Threads may write their lines in another order.
        calls.sort_by_key(|call| call.number);
        Ok(Self(calls))
    }

    /// How many there are.
    pub(crate) fn total(&self) -> u64 {
        self.0.len() as u64
    }

    /// The first that writes content; the first removal where none does, as in garbage collection.
    pub(crate) fn first_write(&self) -> Option<u64> {
        let write = self.0.iter().find(|call| call.writes_content());
        write.or_else(|| self.0.iter().find(|call| call.removes())).map(|call| call.number)
    }

    /// The last that gives a file its name. Where what is sent counts, the last that is sent, which moves a tag; the
    /// last removal where there is neither.
    pub(crate) fn last_rename(&self) -> Option<u64> {
        let last = |is: fn(&Call) -> bool| self.0.iter().rev().find(|call| is(call));
        let call = last(Call::sends).or_else(|| last(Call::renames)).or_else(|| last(Call::removes));
        call.map(|call| call.number)
    }

    /// The call of a number.
    pub(crate) fn get(&self, number: u64) -> Option<&Call> {
        self.0.iter().find(|call| call.number == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(text: &str) -> Calls {
        Calls(text.lines().filter_map(Call::parse).collect())
    }

    #[test]
    fn content_is_written_between_the_first_write_and_the_last_rename() {
        let calls = calls(
            "1\topenat\t/s/locks/store\n2\tpwrite\t/s/metadata.db-wal\n3\topenat\t/s/temporary/.tmp1\n\
             4\twrite\t/s/temporary/.tmp1\n5\trename\t/s/temporary/.tmp1\t/s/blobs/1\n6\tpwrite\t/s/metadata.db-wal",
        );
        assert_eq!((calls.total(), calls.first_write(), calls.last_rename()), (6, Some(4), Some(5)));
        assert_eq!(calls.get(5).and_then(|call| call.to.as_deref()), Some("/s/blobs/1"));
    }

    #[test]
    fn garbage_collection_has_removals_in_their_place() {
        let calls = calls("1\topenat\t/s/locks/gc\n2\tunlink\t/s/blobs/1\n3\tunlink\t/s/blobs/2\n4\tfsync\t/s/blobs");
        assert_eq!((calls.first_write(), calls.last_rename()), (Some(2), Some(3)));
    }

    #[test]
    fn a_program_is_counted_killed_and_finds_a_full_disk() {
        let directory = tempfile::tempdir().unwrap();
        let interposer = Interposer::compile(directory.path()).unwrap();
        let program = fs_err::canonicalize("/bin/cp").unwrap();
        let run = |to: &str, disturbance| {
            let mut command = Command::new(&program);
            command.arg(directory.path().join("interpose.c")).arg(directory.path().join(to)).env("LC_ALL", "C");
            let log = directory.path().join(format!("{to}.log"));
            interposer.attach(&mut command, &program, &log, disturbance);
            (command.output().unwrap(), Calls::read(&log).unwrap())
        };
        let (output, whole) = run("whole", None);
        assert!(output.status.success() && whole.total() >= 2, "{output:?} {whole:?}");
        let (output, killed) = run("killed", Some(Disturbance { mode: Mode::Kill, at: 2 }));
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "{output:?}");
        assert_eq!(killed.total(), 2);
        assert_eq!(fs_err::metadata(directory.path().join("killed")).unwrap().len(), 0);
        let (output, _) = run("full", Some(Disturbance { mode: Mode::Full, at: 2 }));
        assert!(String::from_utf8_lossy(&output.stderr).contains("No space left on device"), "{output:?}");
    }
}
