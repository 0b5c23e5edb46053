//! Copies onto a base that is awkward for them: links to directories, directories of others, modes with all bits,
//! extended attributes, and what a second layer took away; and a Debian with everything that a stack can put onto it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::interop::base::{self, Body, Member};
use crate::interop::{Result, Suite, stack};

/// The images of the layout.
pub(super) const IMAGES: [&str; 6] = ["lower", "middle", "upper", "bare", "debian", "wheels"];

const STACK: &str = r#"[stack]
name = "runtimes"

[target]
platforms = ["linux/amd64"]
python = "3.11"

[images.lower]
from = { oci = "base" }
copy = [
    { from = "seed.txt", to = "/tmp/seed.txt" },
    { from = "seed.txt", to = "/root/below/" },
    { from = "app/", to = "/home/alice/.config/app", owner = "alice" },
    { from = "tool.sh", to = "/bin/" },
    { from = "tree/", to = "/" },
    { from = "seed.txt", to = "/srv/shared/seed.txt" },
    { from = "seed.txt", to = "/var/run/deep/seed.txt" },
    { from = "app/", to = "/current/app" },
    { from = "seed.txt", to = "/data/in/seed.txt", owner = "33:33", mode = "0600" },
    { from = "seed.txt", to = "/srv/gone/seed.txt" },
    { from = "seed.txt", to = "/late/through/seed.txt" },
    { from = "app/", to = "/opt" },
]

[images.middle]
from = "lower"
user = { name = "bob", uid = 1234, gid = 1235 }
timezone = "Asia/Seoul"
workdir = "/srv/shared/work"
copy = [
    { from = "app/", to = "/home/bob/app", owner = "bob" },
    { from = "seed.txt", to = "/home/alice/.config/app/more/seed.txt" },
    { from = "tree/", to = "/opt" },
]

[images.upper]
from = "middle"
compression = "zstd"
copy = [{ from = "tool.sh", to = "/lib/tool.sh" }, { from = "seed.txt", to = "/tmp/deep/er/seed.txt" }]

[images.bare]
from = "scratch"
copy = [{ from = "app/", to = "/" }, { from = "seed.txt", to = "/a/b/c/seed.txt", owner = "5:6" }]

[images.debian]
from = { debian = "bookworm", include = ["python3"] }

[images.wheels]
from = "debian"
packages = ["idna==3.11", "tabulate==0.9.0"]
users = [{ name = "carol", groups = ["staff"] }]
user = "carol"
timezone = "Asia/Seoul"
workdir = "/work"
copy = [
    { from = "tree/", to = "/" },
    { from = "seed.txt", to = "/tmp/seed.txt" },
    { from = "seed.txt", to = "/var/lock/seed.txt" },
    { from = "seed.txt", to = "/var/mail/", owner = "carol:mail" },
    { from = "app/", to = "/root/app" },
    { from = "app/", to = "/opt/venv/share/app", owner = "carol", mode = "0640" },
]
files = [
    { to = "/data/", mode = "1777" },
    { to = "/usr/bin/python", link = "python3" },
    { to = "/lib/version", text = "1", owner = "carol" },
    { to = "/etc/bash.bashrc", append = "export A=1\n" },
]
"#;

/// Builds the images; their layout.
pub(super) fn build(suite: &Suite) -> Result<PathBuf> {
    let project = suite.work.join("runtimes/project");
    stack::write(&project, STACK)?;
    base::write(&project.join("base"), &[first_layer(), second_layer()])?;
    for (path, mode) in [
        ("seed.txt", 0o644),
        ("tool.sh", 0o755),
        ("app/main.py", 0o644),
        ("app/private/key", 0o400),
        ("tree/lib/inner/a.so", 0o755),
        ("tree/bin/b", 0o755),
        ("tree/etc/c.conf", 0o640),
        ("tree/home/alice/d", 0o644),
        ("tree/var/run/e", 0o644),
    ] {
        write(&project.join(path), mode)?;
    }
    for (directory, mode) in
        [("app/private", 0o700), ("app/shared", 0o1777), ("tree/tmp", 0o755), ("tree/srv/shared", 0o755)]
    {
        fs_err::create_dir_all(project.join(directory))?;
        fs_err::set_permissions(project.join(directory), PermissionsExt::from_mode(mode))?;
    }
    fs_err::os::unix::fs::symlink("main.py", project.join("app/link"))?;
    let layout = project.join("layout");
    suite.build(&project, &["--output", &format!("oci:{}", layout.display())])?;
    Ok(layout)
}

fn write(path: &Path, mode: u32) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs_err::create_dir_all(directory)?;
    }
    fs_err::write(path, format!("{}\n", path.display()))?;
    Ok(fs_err::set_permissions(path, PermissionsExt::from_mode(mode))?)
}

fn first_layer() -> Vec<Member> {
    const ALICE: (u32, u32) = (1000, 1000);
    let mut members: Vec<Member> =
        ["usr", "usr/bin", "usr/lib", "usr/sbin", "home", "srv", "srv/gone", "var", "var/lib", "run", "opt", "etc"]
            .map(|path| Member::new(path, Body::Directory))
            .into();
    members.extend([
        Member::link("bin", "usr/bin"),
        Member::link("sbin", "usr/sbin"),
        Member::link("lib", "usr/lib"),
        Member::link("var/run", "/run"),
        Member::link("current", "srv/shared"),
        Member::directory("tmp", 0o1777, (0, 0)),
        Member::directory("root", 0o700, (0, 0)),
        Member::directory("home/alice", 0o750, ALICE),
        Member::directory("home/alice/.config", 0o700, ALICE),
        Member::directory("srv/shared", 0o2775, (0, 50)),
        Member::directory("srv/gone/deep", 0o700, (9, 9)),
        Member { attributes: vec![("user.note", "kept")], ..Member::directory("data", 0o711, (33, 33)) },
        Member { attributes: vec![("user.note", "too")], ..Member::directory("data/in", 0o700, (33, 33)) },
        Member::file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n"),
        Member::file("etc/group", "root:x:0:\nalice:x:1000:\nstaff:x:50:\n"),
        Member { mode: 0o640, owner: (0, 42), ..Member::file("etc/shadow", "root:*:19000:0:99999:7:::\n") },
        Member { mode: 0o4755, ..Member::file("usr/bin/su", "su") },
        Member::file("usr/lib/a.so", "a"),
    ]);
    members
}

fn second_layer() -> Vec<Member> {
    vec![
        Member::new("srv", Body::Directory),
        Member::file("srv/.wh.gone", ""),
        Member::directory("srv/late", 0o770, (5, 6)),
        Member::new("late", Body::Directory),
        Member::link("late/through", "../srv/late"),
        // Without an entry of its own for the directory above it.
        Member::file("var/lib/state/now", "now"),
    ]
}
