//! The file system of a command: the overlay of its layers, and what the kernel shows.
//!
//! Everything in the image is foreign: its `/dev` may be a link. So the overlay becomes the root first, and only then the rest
//! is mounted, when absolute links can lead nowhere but into the image. The host's files stay reachable by relative paths from
//! the old root until that is unmounted.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_change, move_mount, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use crate::bind::bind;
use crate::copies::Copies;
use crate::error::{Refusal, Stage};
use crate::given::Given;
use crate::spec::{COPIES, Overlay, Root, Spec, UPPER};

/// Devices that every program expects (hier(7)), bound from the host: nobody makes devices in a user namespace.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Links of `/dev`.
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];
/// Parts of `/proc` that show the machine (defaults of runc for `maskedPaths`).
const MASKED: [&str; 8] = ["acpi", "kcore", "keys", "latency_stats", "timer_list", "sched_debug", "scsi", "kallsyms"];
/// A file that lets apt download as root (apt.conf(5)): a user with one id cannot become the user that apt has for it. It is there for
/// all, since a command may see it.
pub const APT_CONFIG: &str = "/dev/apt.conf";
/// Its content.
pub const APT_AS_ROOT: &str = "APT::Sandbox::User \"root\";\n";
/// The directory of files in memory, beside the overlay.
const MEMORY: &str = "memory";
/// Names that resolve without a network.
const HOSTS: &str = "127.0.0.1 localhost kiln\n::1 localhost\n";

/// Mounts the overlay and everything below it, and makes it the root. Returns the copies that took its place, if any.
pub(crate) fn enter(spec: &Spec) -> Result<Option<Copies>, Refusal> {
    let (root, given) = (&spec.root, &spec.command.given);
    let mounts = |what: &'static str| Refusal::of(Stage::Mounts, what);
    // A mount made here must not appear on the host.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| mounts("private mounts")(error.into()))?;
    let place = root.place();
    let copies = lay(root, given, spec.overlay, &place).map_err(Refusal::of(Stage::Overlay, "overlayfs"))?;
    let old = pivot(&place.join("merged")).map_err(mounts("pivot_root"))?;
    proc(spec.processes).map_err(mounts("/proc"))?;
    dev().map_err(mounts("/dev"))?;
    let sys = mount("tmpfs", "/sys", "tmpfs", RESTRICTED | MountFlags::RDONLY, Some(c"mode=755"));
    sys.map_err(|error| mounts("/sys")(error.into()))?;
    given
        .mount(&place.join(MEMORY), (spec.command.user.0, spec.command.user.1))
        .map_err(|error: io::Error| Refusal { stage: Stage::Given, problem: error.to_string() })?;
    leave(old).map_err(mounts("the old root"))?;
    Ok(copies)
}

const RESTRICTED: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Mounts the overlay at `place/merged`. The lowest of all layers is one of empty directories, so that what is mounted later finds
/// its places and the layer of the changes does not hold them.
fn lay(root: &Root, given: &Given, overlay: Overlay, place: &Path) -> io::Result<Option<Copies>> {
    mount("tmpfs", place, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755"))?;
    for directory in ["merged", "skeleton", "links"] {
        fs_err::create_dir(place.join(directory))?;
    }
    let skeleton = place.join("skeleton");
    for directory in ["dev", "proc", "sys", "tmp", "etc"] {
        fs_err::create_dir(skeleton.join(directory))?;
    }
    let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    fs_err::set_permissions(skeleton.join("tmp"), open_to_all)?;
    fs_err::write(skeleton.join("etc/hosts"), HOSTS)?;
    given.make_places(&skeleton)?;
    given.write(&place.join(MEMORY))?;
    let mut layers: Vec<&Path> = vec![&skeleton];
    layers.extend(root.layers.iter().map(std::path::PathBuf::as_path));
    let merged = place.join("merged");
    // The mark of a former mount without synchronisation, over which a shell may be opened.
    let _ = fs_err::remove_dir_all(root.work().join("work/incompat"));
    let mounted = match overlay {
        // `lowerdir+` is new in Linux 6.7, fsopen in 5.2.
        Overlay::Any => by_fsopen(root, &layers, &merged).or_else(|_| by_mount(root, &layers, place)),
        Overlay::Mount => return by_mount(root, &layers, place).map(|()| None),
        Overlay::Copies => Err(Errno::OPNOTSUPP.into()),
    };
    match mounted {
        Err(error) if is_impossible(&error) => {}
        done => return done.map(|()| None),
    }
    let copies = Copies::new(&layers, &root.directory, COPIES, UPPER)?;
    bind(&root.copies(), &merged, MountFlags::NODEV)?;
    Ok(Some(copies))
}

/// Returns true for the errors of a machine or a file system on which no overlay can be mounted.
fn is_impossible(error: &io::Error) -> bool {
    let impossible = [Errno::NODEV, Errno::PERM, Errno::ACCESS, Errno::INVAL, Errno::OPNOTSUPP, Errno::NOSYS];
    Errno::from_io_error(error).is_some_and(|error| impossible.contains(&error))
}

fn by_fsopen(root: &Root, layers: &[&Path], at: &Path) -> io::Result<()> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // The first one is the uppermost.
    for layer in layers.iter().rev() {
        fsconfig_set_string(&context, "lowerdir+", *layer)?;
    }
    fsconfig_set_string(&context, "upperdir", root.upper())?;
    fsconfig_set_string(&context, "workdir", root.work())?;
    fsconfig_set_flag(&context, "userxattr")?;
    // What a command leaves is read at once, and gone after a crash anyway: nothing needs to reach the disk (Linux 5.10).
    fsconfig_set_flag(&context, "volatile")?;
    fsconfig_create(&context)?;
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)?;
    move_mount(&mounted, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

/// Mounts by options in text. Links with short names keep them below a page.
fn by_mount(root: &Root, layers: &[&Path], place: &Path) -> io::Result<()> {
    let links = place.join("links");
    let mut names = Vec::new();
    for (at, layer) in layers.iter().enumerate() {
        let name = format!("{at:x}");
        fs_err::os::unix::fs::symlink(layer, links.join(&name))?;
        names.insert(0, name);
    }
    fs_err::os::unix::fs::symlink(root.upper(), links.join("u"))?;
    fs_err::os::unix::fs::symlink(root.work(), links.join("w"))?;
    chdir(&links)?;
    let options = format!("lowerdir={},upperdir=u,workdir=w,userxattr,volatile", names.join(":"));
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    Ok(mount("overlay", place.join("merged"), "overlay", MountFlags::NODEV, Some(options.as_c_str()))?)
}

/// Makes a directory the root. Returns the old root, which is the working directory now.
fn pivot(root: &Path) -> io::Result<OwnedFd> {
    let old = open("/", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    chdir(root)?;
    // The old root is mounted over the new one (pivot_root(2), "pivot_root(".", ".")").
    pivot_root(".", ".")?;
    fchdir(&old)?;
    Ok(old)
}

fn leave(old: OwnedFd) -> io::Result<()> {
    fchdir(&old)?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(chdir("/")?)
}

fn proc(processes: u32) -> io::Result<()> {
    mount("proc", "/proc", "proc", RESTRICTED, None)?;
    // Where the limit is one of the namespace (Linux 6.14), it also holds for root.
    if is_limit_of_namespace() {
        let _ = fs_err::write("/proc/sys/kernel/pid_max", processes.to_string());
    }
    // By some of them root changes the machine; of all of them it could change the mode, which is the machine's, too.
    for entry in fs_err::read_dir("/proc")? {
        let entry = entry?;
        let is_process = entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
        if !is_process && !entry.file_type()?.is_symlink() {
            bind(&entry.path(), &entry.path(), RESTRICTED | MountFlags::RDONLY)?;
        }
    }
    for path in MASKED.map(|name| Path::new("/proc").join(name)) {
        if path.is_dir() {
            mount("tmpfs", &path, "tmpfs", RESTRICTED | MountFlags::RDONLY, None)?;
        } else if path.exists() {
            bind(Path::new("dev/null"), &path, MountFlags::RDONLY)?;
        }
    }
    Ok(())
}

/// Returns true if the namespace has a limit of its own for process ids: before Linux 6.14 the file is the machine's.
fn is_limit_of_namespace() -> bool {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6_u32, 14_u32)
}

fn dev() -> io::Result<()> {
    let dev = Path::new("/dev");
    mount("tmpfs", dev, "tmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, Some(c"mode=755"))?;
    for device in DEVICES {
        let from = Path::new("dev").join(device);
        if from.exists() {
            fs_err::write(dev.join(device), "")?;
            // Read-only: who may write to a device may yet change neither its mode nor its owner, which are the machine's.
            bind(&from, &dev.join(device), MountFlags::RDONLY)?;
        }
    }
    for (name, target) in LINKS {
        fs_err::os::unix::fs::symlink(target, dev.join(name))?;
    }
    for (name, kind, options) in [("shm", "tmpfs", c"mode=1777"), ("mqueue", "mqueue", c"")] {
        fs_err::create_dir(dev.join(name))?;
        mount(kind, dev.join(name), kind, RESTRICTED, Some(options))?;
    }
    fs_err::create_dir(dev.join("pts"))?;
    mount(
        "devpts",
        dev.join("pts"),
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        Some(c"newinstance,ptmxmode=0666"),
    )?;
    fs_err::os::unix::fs::symlink("pts/ptmx", dev.join("ptmx"))?;
    fs_err::write(APT_CONFIG, APT_AS_ROOT)
}
