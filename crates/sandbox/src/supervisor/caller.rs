//! The process that waits for an answer, through its directory of `/proc`: that stays one process's, whatever becomes of its id.

use std::cell::OnceCell;
use std::io::Read as _;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, pread};

/// The longest path, with its zero byte.
const PATH_MAX: usize = 4096;
const PAGE: usize = 4096;

pub(super) struct Caller {
    directory: OwnedFd,
    /// Its `status`, read when it is needed: most calls ask for an owner, and need none of it.
    status: OnceCell<String>,
}

impl Caller {
    /// Opens a thread of a file system `proc`.
    pub(super) fn open(proc: &OwnedFd, thread: u32) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(proc, thread.to_string(), flags, Mode::empty())?;
        Ok(Self { directory, status: OnceCell::new() })
    }

    fn file(&self, name: &str) -> Result<String, Errno> {
        let opened = openat(&self.directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = String::new();
        let mut opened = fs_err::File::from_parts(opened.into(), name);
        opened.read_to_string(&mut text).map_err(|_| Errno::SRCH)?;
        Ok(text)
    }

    fn field(&self, name: &str) -> Option<&str> {
        let status = self.status.get_or_init(|| self.file("status").unwrap_or_default());
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    /// Returns true if the thread has a capability in effect.
    pub(super) fn may(&self, capability: u32) -> bool {
        let set = self.field("CapEff").and_then(|text| u64::from_str_radix(text, 16).ok());
        set.is_some_and(|set| set & (1 << capability) != 0)
    }

    /// Returns the ids of the process and the thread in their own namespace.
    pub(super) fn ids(&self) -> Option<(&str, &str)> {
        let last = |name| self.field(name)?.split_whitespace().next_back();
        Some((last("NStgid")?, last("NSpid")?))
    }

    /// Reads memory.
    pub(super) fn memory(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let memory = openat(&self.directory, "mem", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        match pread(memory, &mut *into, address) {
            Ok(read) if read == into.len() => Ok(()),
            _ => Err(Errno::FAULT),
        }
    }

    /// Opens memory to write to. What is written later is this process's, or goes nowhere.
    pub(super) fn writable_memory(&self) -> Result<OwnedFd, Errno> {
        openat(&self.directory, "mem", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
    }

    /// Reads a path: bytes until a zero, which may be the last of the memory that is there.
    pub(super) fn path(&self, address: u64) -> Result<Vec<u8>, Errno> {
        let memory = openat(&self.directory, "mem", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut path = Vec::new();
        while path.len() < PATH_MAX {
            let at = address.checked_add(path.len() as u64).ok_or(Errno::FAULT)?;
            let to_page = PAGE - (at % PAGE as u64) as usize;
            let mut part = [0; PAGE];
            let part = &mut part[..to_page.min(PATH_MAX - path.len())];
            let read = pread(&memory, &mut *part, at).map_err(|_| Errno::FAULT)?;
            if let Some(end) = part[..read].iter().position(|byte| *byte == 0) {
                path.extend_from_slice(&part[..end]);
                return Ok(path);
            }
            if read < part.len() {
                return Err(Errno::FAULT);
            }
            path.extend_from_slice(part);
        }
        Err(Errno::NAMETOOLONG)
    }

    fn link(&self, name: &str) -> Result<OwnedFd, Errno> {
        openat(&self.directory, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    }

    pub(super) fn root(&self) -> Result<OwnedFd, Errno> {
        self.link("root")
    }

    /// Opens a descriptor's file, or the working directory for `AT_FDCWD`.
    pub(super) fn descriptor(&self, number: i32) -> Result<OwnedFd, Errno> {
        match number {
            libc::AT_FDCWD => self.link("cwd"),
            number => self.link(&format!("fd/{number}")).map_err(|_| Errno::BADF),
        }
    }

    /// Opens a descriptor's file, unless it was opened as a path alone.
    pub(super) fn open_file(&self, number: i32) -> Result<OwnedFd, Errno> {
        let file = self.descriptor(number)?;
        let info = self.file(&format!("fdinfo/{number}")).map_err(|_| Errno::BADF)?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0);
        if flags & OFlags::PATH.bits() == 0 { Ok(file) } else { Err(Errno::BADF) }
    }
}
