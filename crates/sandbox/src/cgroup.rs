//! Limits of memory and processes by control groups: of version 2 where this process may make groups below its own, else of
//! version 1 as root. Where neither can be had, there are no such limits ([`Limits::version`] says which).

use std::io;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

/// The groups of one sandbox; removed with the value.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    groups: Vec<PathBuf>,
    version: Option<u8>,
}

/// A name that no other sandbox of this machine has.
fn name() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("kiln-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Limits {
    /// Makes groups with limits: bytes of memory, and processes at once.
    pub(crate) fn new(memory: u64, processes: u32) -> Self {
        let own = fs_err::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::second(&own, memory, processes).or_else(|| Self::first(&own, memory, processes)).unwrap_or_default()
    }

    /// `0::/path` of `/proc/self/cgroup` (cgroups(7)).
    fn second(own: &str, memory: u64, processes: u32) -> Option<Self> {
        let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let parent = Path::new("/sys/fs/cgroup").join(path);
        let controllers = fs_err::read_to_string(parent.join("cgroup.subtree_control")).ok()?;
        if !controllers.split_whitespace().any(|name| name == "memory") {
            return None;
        }
        let limits = Self { groups: vec![make(&parent)?], version: Some(2) };
        let group = limits.groups.first()?;
        fs_err::write(group.join("memory.max"), memory.to_string()).ok()?;
        // A machine without swap has no such file.
        let _ = fs_err::write(group.join("memory.swap.max"), "0");
        let _ = fs_err::write(group.join("memory.oom.group"), "1");
        let _ = fs_err::write(group.join("pids.max"), processes.to_string());
        Some(limits)
    }

    /// `N:memory:/path` of `/proc/self/cgroup`.
    fn first(own: &str, memory: u64, processes: u32) -> Option<Self> {
        let mut limits = Self { groups: Vec::new(), version: Some(1) };
        for (controller, file, value) in
            [("memory", "memory.limit_in_bytes", memory), ("pids", "pids.max", u64::from(processes))]
        {
            let line = own.lines().find_map(|line| {
                let (names, path) = line.split_once(':')?.1.split_once(':')?;
                names.split(',').any(|name| name == controller).then(|| path.trim_start_matches('/'))
            });
            let group = make(&Path::new("/sys/fs/cgroup").join(controller).join(line?));
            let Some(group) = group else { continue };
            limits.groups.push(group.clone());
            fs_err::write(group.join(file), value.to_string()).ok()?;
        }
        (!limits.groups.is_empty()).then_some(limits)
    }

    /// Puts a process, and all that it will start, under the limits.
    pub(crate) fn add(&self, process: Pid) -> io::Result<()> {
        let id = process.as_raw_nonzero().to_string();
        self.groups.iter().try_for_each(|group| fs_err::write(group.join("cgroup.procs"), &id))
    }

    /// Returns the most memory that the processes had at once, in bytes, where it is known and one of them was killed for it.
    pub(crate) fn out_of_memory(&self) -> Option<u64> {
        let group = self.groups.first()?;
        let (events, peak) = match self.version? {
            2 => ("memory.events", "memory.peak"),
            _ => ("memory.oom_control", "memory.max_usage_in_bytes"),
        };
        let events = fs_err::read_to_string(group.join(events)).ok()?;
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok())?;
        let peak = fs_err::read_to_string(group.join(peak)).ok().and_then(|text| text.trim().parse().ok());
        (kills > 0).then(|| peak.unwrap_or(0))
    }

    /// Returns the version of control groups that limits memory.
    pub(crate) fn version(&self) -> Option<u8> {
        self.version
    }
}

/// The age of groups from which on one without its kiln is removed: before, it may be about to be used in another namespace of
/// processes, where its kiln has another number.
const OLD: std::time::Duration = std::time::Duration::from_secs(60);

/// Removes the groups that killed kilns left.
fn collect(parent: &Path) {
    let entries = fs_err::read_dir(parent).into_iter().flatten().filter_map(Result::ok);
    for entry in entries {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix("kiln-")?.split('-').next());
        let Some(process) = process else { continue };
        let age = entry.metadata().and_then(|found| found.modified()).ok().and_then(|made| made.elapsed().ok());
        if !Path::new("/proc").join(process).exists() && age.is_some_and(|age| age > OLD) {
            // One that has processes stays.
            let _ = fs_err::remove_dir(entry.path());
        }
    }
}

fn make(parent: &Path) -> Option<PathBuf> {
    collect(parent);
    let group = parent.join(name());
    fs_err::create_dir(&group).is_ok().then_some(group)
}

impl Drop for Limits {
    fn drop(&mut self) {
        for group in &self.groups {
            // The last process may be going yet.
            for _ in 0..50 {
                match fs_err::remove_dir(group) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                    _ => break,
                }
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
    }
}
