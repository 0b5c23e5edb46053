//! Images with layers of commands, unpacked and run by crun and by Docker: each tells what it sees from inside, and both must see the
//! same. Owners, modes, links, extended attributes, capabilities of files, whiteouts and opaque directories are among it.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::super::registries::docker::Docker;
use super::super::report::none;
use super::super::{Result, Suite, programs, transports};
use super::Case;

/// Images of random commands in a short and in a long run.
const IMAGES: [usize; 2] = [5, 60];
/// `cap_net_bind_service+ep` (`struct vfs_cap_data` of capability.h, version 2), and how a process shows that it has it.
const CAPABILITY: &str = "0100000200040000000000000000000000000000";
const HAS_IT: &str = "CapEff:\t0000000000000400";
/// A program that busybox takes for itself, with a capability of its own.
const CAPABLE: &str = "/bin/busybox-capable";

/// Tells of everything in the image; what runtimes mount or make is left out.
const LIST: &str = r#"busybox find / -xdev | busybox sort | while read -r path; do
case "$path" in /proc*|/sys*|/dev*|/run*|/.dockerenv|/etc/hosts|/etc/hostname|/etc/resolv.conf|/etc/mtab) continue;; esac
if [ -L "$path" ]; then echo "$path link $(busybox readlink "$path") $(busybox stat -c %u:%g "$path")"
elif [ -f "$path" ]; then echo "$path file $(busybox stat -c '%a %u:%g' "$path") $(busybox md5sum < "$path") $(attribute "$path" user.note) $(attribute "$path" security.capability)"
else echo "$path $(busybox stat -c '%F %a %u:%g' "$path") $(attribute "$path" user.note)"; fi; done
if [ /bin/busybox-capable -ef /o/capable ]; then echo one file of two names; fi"#;

/// Commands for what random ones do not do.
fn special() -> Vec<String> {
    vec![
        format!(
            "cp /bin/busybox {CAPABLE}; attribute {CAPABLE} security.capability {CAPABILITY}; mkdir -p /o/p/deep; echo 1 > /o/p/q; \
             echo 2 > /o/r; chown 7:8 /o/r; chmod 4755 /o/r; ln /o/r /o/s; ln -s r /o/t; chown -h 5:6 /o/t; \
             attribute /o/p/q user.note 6b696c6e; attribute /o user.note 01"
        ),
        "rm -r /o/p; mkdir /o/p; echo new > /o/p/only; chmod 2711 /o/p; rm /e/x; mv /o/s /o/moved; rm -r /d; echo d > /d".into(),
        format!("chown 9 /o/moved; attribute {CAPABLE} user.note 02; ln {CAPABLE} /o/capable; mkfifo /o/pipe; chmod 0600 /o/pipe"),
    ]
}

/// Builds the images, and compares what they show in both.
pub(super) fn check(suite: &Suite, docker: &Docker, directory: &Path) -> Result<()> {
    let project = directory.join("alike");
    let mut commands: Vec<Vec<String>> =
        (0..IMAGES[usize::from(suite.long)]).map(|number| Case::new(number as u64).commands).collect();
    commands.push(special());
    super::write(&project, &commands)?;
    let source = project.join("attribute.c");
    fs_err::write(&source, include_str!("attribute.c"))?;
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    programs::output(Command::new(cc).args(["-static", "-o"]).arg(project.join("tree/bin/attribute")).arg(&source))?;
    programs::output(suite.kiln(&project).args(["build", "--output", "oci:layout"]))?;
    let mut wrong = Vec::new();
    for number in 0..commands.len() {
        let name = format!("c{number}");
        let images = Images { docker, layout: &project.join("layout"), place: &project, name: &name };
        wrong.extend(images.compare(number + 1 == commands.len())?.into_iter().map(|line| format!("{name}: {line}")));
    }
    none("differences", &wrong)
}

/// One image, for both runtimes.
struct Images<'a> {
    docker: &'a Docker,
    layout: &'a Path,
    place: &'a Path,
    name: &'a str,
}

impl Images<'_> {
    fn compare(&self, is_special: bool) -> Result<Vec<String>> {
        let bundle = self.place.join("bundle");
        let reference = format!("{}:{}", self.layout.display(), self.name);
        programs::output(Command::new("umoci").args(["unpack", "--image", &reference]).arg(&bundle))?;
        let image = format!("alike/{}:1", self.name);
        let archive = self.place.join("image.tar");
        let to = format!("docker-archive:{}:{image}", archive.display());
        programs::output(transports::skopeo().args(["copy", "--quiet", &format!("oci:{reference}"), &to]))?;
        self.docker.text(&["load", "--quiet", "--input", &archive.display().to_string()])?;
        let list = ["/bin/busybox", "sh", "-c", LIST];
        let ours = self.crun(&bundle, 0, &list)?;
        let theirs = self.docker.run(&image, &list)?;
        let mut wrong = differences(&ours, &theirs);
        if is_special {
            wrong.extend(require_all(&ours));
            let status = [CAPABLE, "grep", "CapEff", "/proc/self/status"];
            let mut in_docker = vec!["run", "--rm", "--network", "none", "--user", "1000:1000", &image];
            in_docker.extend(status);
            for (runtime, said) in
                [("crun", self.crun(&bundle, 1000, &status)?), ("Docker", self.docker.text(&in_docker)?)]
            {
                if said.trim() != HAS_IT {
                    wrong.push(format!("under {runtime} a program does not have its capability: {said}"));
                }
            }
        }
        programs::output(Command::new("rm").arg("-rf").args([&bundle, &archive]))?;
        self.docker.text(&["image", "rm", &image])?;
        Ok(wrong)
    }

    /// Runs a program in the unpacked image as a user; what it prints.
    fn crun(&self, bundle: &Path, user: u32, words: &[&str]) -> Result<String> {
        let file = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs_err::read(&file)?)?;
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = json!(words);
        config["process"]["noNewPrivileges"] = false.into();
        // Those of Docker's containers, as far as files are concerned: its root opens all of them.
        let capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_NET_BIND_SERVICE"];
        let none: [&str; 0] = [];
        let of_user = if user == 0 { json!(capabilities) } else { json!(none) };
        config["process"]["capabilities"] =
            json!({ "bounding": capabilities, "effective": of_user, "permitted": of_user });
        config["process"]["user"] = json!({ "uid": user, "gid": user });
        fs_err::write(&file, config.to_string())?;
        let id = format!("kiln-alike-{}-{}", std::process::id(), self.name);
        // Out of its sight where groups of version 2 have controllers beside those of version 1, which it refuses.
        let alone = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
        let mut crun = Command::new("unshare");
        crun.args(["--mount", "sh", "-c", alone, "sh", "crun", "--cgroup-manager=disabled", "run", "--bundle"]);
        programs::text(crun.arg(bundle).arg(id))
    }
}

/// Returns the lines that one has and the other not.
fn differences(ours: &str, theirs: &str) -> Vec<String> {
    let only = |one: &str, other: &str, who: &str| {
        let others: std::collections::BTreeSet<&str> = other.lines().collect();
        one.lines()
            .filter(|line| !others.contains(line))
            .map(|line| format!("under {who} alone: {line}"))
            .collect::<Vec<_>>()
    };
    [only(ours, theirs, "crun"), only(theirs, ours, "Docker")].concat()
}

/// Returns what the special image does not show, though its commands made it.
fn require_all(listed: &str) -> Vec<String> {
    let capable = format!("{CAPABLE} file ");
    let expected: [(&str, &[&str]); 9] = [
        (&capable, &[CAPABILITY, " 02 "]),
        ("one file of two names", &[]),
        ("/d file ", &[" 0:0 "]),
        ("/o directory ", &[" 01"]),
        ("/o/moved file ", &["9:8"]),
        ("/o/p directory 2711 ", &[]),
        ("/o/p/only file ", &[]),
        ("/o/pipe fifo 600 ", &[]),
        ("/o/t link r 5:6", &[]),
    ];
    let lacks = |(start, parts): &(&str, &[&str])| {
        !listed.lines().any(|line| line.starts_with(start) && parts.iter().all(|part| line.contains(part)))
    };
    let missing =
        expected.iter().filter(|line| lacks(line)).map(|(start, parts)| format!("no line `{start}` {parts:?}"));
    let gone = ["/o/p/q ", "/o/p/deep ", "/e/x ", "/o/s ", "/d/"];
    let there = gone.iter().filter(|start| listed.lines().any(|line| line.starts_with(**start)));
    missing.chain(there.map(|start| format!("`{start}` was removed and is there"))).collect()
}
