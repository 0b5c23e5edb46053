//! The same image in every way in which a command can run: as root, as a user with a range of ids and as a user with one id, over an
//! overlay and over copies.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::interop::{Result, stack};

/// The ordinary user (`nobody`).
const USER: u32 = 65_534;

/// Commands that make, give away, change, rename, replace and remove files of all kinds.
pub(super) const COMMANDS: [&str; 3] = [
    "mkdir -p /made/deep /made/dir; echo f > /made/file; echo g > /made/deep/g; ln -s file /made/link; ln -s nowhere /made/dangling
     ln /made/file /made/hard; mkfifo /made/pipe; chown 1000:1001 /made/file; chown -h 5:6 /made/dangling; chown 7 /made/pipe
     chown :8 /made/link; chown 9:9 /made/dir; cp /bin/busybox /made/tool; chown 11:11 /made/tool; chmod 4755 /made/tool
     cp /bin/busybox /made/lost; chmod 6755 /made/lost; chown 12 /made/lost; chmod 2775 /made/deep; chmod 0000 /made/deep/g
     mv /made/dangling /made/moved; mv /made/dir /made/renamed-dir; mkdir /made/shared; chown :50 /made/shared
     chmod 2775 /made/shared; mkdir /made/shared/in; touch /made/shared/in/x; ln -s x /made/shared/in/l",
    "rm /d/a; rm -rf /e; mkdir /e; echo new > /e/y; echo more >> /d/b/c; mv /made/hard /made/renamed; mv /d/b /d/moved
     chown 13:14 /d/moved/c; rm -rf /sys2; touch /made/file; rm /made/pipe; chown -R 20:21 /made/deep; chmod 700 /tmp
     ln /made/file /made/again; rm -f /bin/pwd; mkdir /bin/pwd; touch /made/shared/in/y; touch -d @1 /e/y
     cp -a /made/deep /copied; cp -p /made/file /copied-file; cp -a /made/shared /shared; rm -rf /shared/in; touch /shared/z",
    "chown -h 33:1 /made/moved; chown :44 /made/file; mv /d/moved/c /c; rm -rf /d; mkdir -p /d/b; chown 1:1 /d/b
     echo > /d/b/.x; mv /made/tool /made/tool2; rm -rf /e; mkdir /e; mv /e /e3; rm /made/again; rm -rf /made/renamed-dir
     echo file > /made/renamed-dir; chmod 0755 /made/file",
];

/// The ids that a build has.
#[derive(Clone, Copy)]
pub(in crate::interop) enum As {
    Root,
    Range,
    One,
}

/// A way to build.
#[derive(Clone, Copy)]
pub(in crate::interop) struct Way {
    pub(in crate::interop) name: &'static str,
    pub(in crate::interop) ids: As,
    /// The store lies on an overlay, on which no other can be mounted.
    pub(in crate::interop) copies: bool,
}

pub(in crate::interop) const WAYS: [Way; 6] = [
    Way { name: "root", ids: As::Root, copies: false },
    Way { name: "root-copies", ids: As::Root, copies: true },
    Way { name: "range", ids: As::Range, copies: false },
    Way { name: "range-copies", ids: As::Range, copies: true },
    Way { name: "one", ids: As::One, copies: false },
    Way { name: "one-copies", ids: As::One, copies: true },
];

/// Builds all images of a project, which `write` writes, in a mount namespace of its own: there the user has a range or has none.
pub(in crate::interop) fn build(
    way: Way,
    kiln: &Path,
    write: impl Fn(&Path) -> Result<()>,
) -> Result<Vec<stack::Image>> {
    // A user may not enter the directory in which this suite works.
    let place = tempfile::Builder::new().prefix("interop-way-").tempdir()?;
    let at = |name: &str| -> PathBuf { place.path().join(name) };
    fs_err::set_permissions(place.path(), PermissionsExt::from_mode(0o755))?;
    fs_err::copy(kiln, at("kiln"))?;
    for directory in ["project", "store", "lower", "upper", "work"] {
        fs_err::create_dir(at(directory))?;
    }
    write(&at("project"))?;
    fs_err::write(
        at("ranges"),
        if matches!(way.ids, As::Range) { format!("{USER}:300000:65536\n") } else { String::new() },
    )?;
    let mut script = "set -e; cd \"$1\"; mount --make-rprivate /\n".to_owned();
    if way.copies {
        script += "mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work store\n";
    }
    script += "mount --bind ranges /etc/subuid; mount --bind ranges /etc/subgid\n";
    if !matches!(way.ids, As::Root) {
        script += &format!(
            "chown -R {USER}:{USER} project store\nset -- \"$1\" setpriv --reuid {USER} --regid {USER} --clear-groups\n"
        );
    }
    script += "place=$1; shift; cd project; HOME=$place/project exec \"$@\" \"$place/kiln\" --store \"$place/store\" --json build\n";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", &script, "sh"]).arg(place.path());
    stack::images(&mut unshare)
}
