//! Limits of resources (getrlimit(2)): those of whoever runs the program would make a command succeed here and fail there.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Limits that have a usual value, and that programs adapt to: open files and bytes of a stack.
const USUAL: [(Resource, u64); 2] = [(Resource::Nofile, 1024), (Resource::Stack, 8 << 20)];
/// Limits that are raised as far as they may be.
const RAISED: [Resource; 5] = [Resource::Cpu, Resource::Fsize, Resource::Data, Resource::As, Resource::Rss];

/// Sets the limits of this process and its children.
pub(crate) fn set() -> io::Result<()> {
    // A core file of a command would be a part of the image.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    for (resource, usual) in USUAL {
        let maximum = getrlimit(resource).maximum;
        let current = maximum.map_or(usual, |maximum| maximum.min(usual));
        setrlimit(resource, Rlimit { current: Some(current), maximum })?;
    }
    for resource in RAISED {
        let maximum = getrlimit(resource).maximum;
        setrlimit(resource, Rlimit { current: maximum, maximum })?;
    }
    Ok(())
}
