//! Commands of images beside BuildKit's `RUN`: random ones, over one base, with the same files, modes, owners and links; and the same
//! image whoever builds it, on overlays and on copies (`ways`). What crun and Docker make of such images: `alike`.

mod alike;
pub(super) mod ways;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::{Map, json};

use super::registries::docker::Docker;
use super::report::{Checks, none};
use super::seen::{self, Seen};
use super::{Result, Suite, docker26, programs, transports};
use crate::random::Random;

/// Images in a short and in a long run, and the seed that they follow from.
const IMAGES: [u64; 2] = [24, 300];
const SEED: u64 = 24;
/// Images of one call of BuildKit.
const AT_ONCE: usize = 25;
pub(super) const BASE: &str = "commands/base:1";
/// Programs of busybox that the base has.
const APPLETS: [&str; 15] =
    ["sh", "mkdir", "rm", "rmdir", "mv", "ln", "chmod", "chown", "cp", "touch", "mkfifo", "cat", "id", "pwd", "su"];
const ACCOUNTS: &str = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n";
/// Paths that a container runtime puts files on while a command runs.
const OF_RUNTIMES: [&str; 6] = ["etc/hosts", "etc/hostname", "etc/resolv.conf", "dev", "proc", "sys"];

/// The commands of one image.
struct Case {
    commands: Vec<String>,
}

impl Case {
    fn new(number: u64) -> Self {
        let mut random = Random::of_case(SEED, "commands", number);
        let commands = random.within(1, 3);
        Self { commands: (0..commands).map(|_| command(&mut random)).collect() }
    }
}

/// Returns some shell commands in one line. Each may fail: it is the same one that fails in both.
pub(super) fn command(random: &mut Random) -> String {
    let parts = random.within(4, 12);
    let parts: Vec<String> = (0..parts).map(|_| format!("{} 2>/dev/null || true", part(random))).collect();
    parts.join("; ")
}

fn part(random: &mut Random) -> String {
    let paths =
        ["/d", "/d/a", "/d/b", "/d/b/c", "/d/b/n", "/e", "/e/x", "/e/y", "/new", "/new/in", "/new/in/er", "/l", "/l/a"];
    let (one, other) = (random.one_of(&paths).copied().unwrap_or("/d"), random.one_of(&paths).copied().unwrap_or("/e"));
    let mode =
        random.one_of(&["0644", "0755", "0700", "4755", "2775", "1777", "0000", "0555"]).copied().unwrap_or("0644");
    let owner = random.one_of(&["1000:1000", "0:7", "5", "0:0"]).copied().unwrap_or("0:0");
    let number = random.below(1000);
    match random.below(16) {
        0 | 1 => format!("mkdir -p {one}"),
        2 => format!("rm -rf {one}"),
        3 => format!("rm -rf {one} && mkdir -p {one} && echo {number} > {one}/again"),
        4 => format!("mv {one} {other}"),
        5 => format!("ln -s {one} {other}"),
        6 => format!("ln {one} {other}"),
        7 => format!("chmod {mode} {one}"),
        8 | 9 => format!("chown {owner} {one}"),
        10 => format!("cp -a {one} {other}"),
        11 | 12 => format!("echo {number} >> {one}"),
        13 => format!("touch {one}"),
        // At a path that nothing writes to: that would wait for a reader.
        14 => "mkfifo /pipe".into(),
        _ => format!("rmdir {one}"),
    }
}

/// Makes the checks.
pub(super) fn check(suite: &Suite, checks: &mut Checks) {
    let directory = suite.work.join("commands");
    let count = IMAGES[usize::from(suite.long)];
    let cases: Vec<Case> = (0..count).map(Case::new).collect();
    let built = checks.check("kiln runs the commands of all images", || build(suite, &directory, &cases));
    if built.is_some() {
        if let Some(docker) = checks.check("a Docker daemon of Debian 13 runs", || docker26::start(&directory)) {
            let name = format!("{count} images with commands are BuildKit's: seed {SEED}");
            checks.check(&name, || compare(&docker, &directory, &cases));
            checks.check("images with commands are alike under crun and Docker", || {
                alike::check(suite, &docker, &directory)
            });
        }
        let name = format!("{count} images are the same over copies, with a range of ids, and with one id");
        checks.check(&name, || compare_ways(suite, &cases));
    }
    checks.check("one image in six ways: root, a range of ids, one id; overlay, copies", || one_digest(suite));
    checks.check("a command becomes another user, and is refused with one id", || another_user(suite));
    suite.remove("commands");
}

/// Writes a project: a base of busybox, and an image over it for each case.
fn write(project: &Path, cases: &[Vec<String>]) -> Result<()> {
    let images = cases.iter().enumerate();
    let images =
        images.map(|(number, commands)| format!("\n[images.c{number}]\nfrom = \"base\"\nrun = {}\n", json!(commands)));
    write_over_base(project, &images.collect::<String>())
}

/// Writes a project: a base of busybox, and images over it.
pub(super) fn write_over_base(project: &Path, images: &str) -> Result<()> {
    let tree = project.join("tree");
    for place in ["bin", "dev", "proc", "sys", "etc", "tmp", "d/b", "e"] {
        fs_err::create_dir_all(tree.join(place))?;
    }
    fs_err::set_permissions(tree.join("tmp"), PermissionsExt::from_mode(0o1777))?;
    let busybox = programs::find("busybox").ok_or("busybox is missing")?;
    fs_err::copy(busybox, tree.join("bin/busybox"))?;
    for applet in APPLETS {
        let place = tree.join("bin").join(applet);
        if fs_err::symlink_metadata(&place).is_err() {
            symlink("busybox", place)?;
        }
    }
    for (path, text) in [
        ("d/a", "a"),
        ("d/b/c", "c"),
        ("e/x", "x"),
        ("etc/hosts", ""),
        ("etc/hostname", ""),
        ("etc/resolv.conf", ""),
        ("etc/passwd", ACCOUNTS),
    ] {
        fs_err::write(tree.join(path), text)?;
    }
    if fs_err::symlink_metadata(tree.join("l")).is_err() {
        symlink("d", tree.join("l"))?;
    }
    let text = "[stack]\nname = \"commands\"\n\n[target]\nplatforms = [\"linux/amd64\"]\n\n[images.base]\nfrom = \"scratch\"\n\
                    copy = [{ from = \"tree\", to = \"/\" }]\nenv = { PATH = \"/bin\" }\ncommand = [\"/bin/sh\"]\n"
        .to_owned();
    Ok(fs_err::write(project.join("kiln.toml"), text + images)?)
}

fn build(suite: &Suite, directory: &Path, cases: &[Case]) -> Result<()> {
    let project = directory.join("root");
    write(&project, &cases.iter().map(|case| case.commands.clone()).collect::<Vec<_>>())?;
    programs::output(suite.kiln(&project).args(["build", "--output", "oci:layout"]))?;
    Ok(())
}

/// Gives the base of a layout to a daemon.
pub(super) fn load_base(docker: &Docker, directory: &Path, layout: &Path) -> Result<()> {
    let archive = directory.join("base.tar");
    let from = transports::in_layout(layout, "base");
    programs::output(transports::skopeo().args([
        "copy",
        "--quiet",
        &from,
        &format!("docker-archive:{}:{BASE}", archive.display()),
    ]))?;
    docker.text(&["load", "--quiet", "--input", &archive.display().to_string()])?;
    Ok(())
}

fn compare(docker: &Docker, directory: &Path, cases: &[Case]) -> Result<()> {
    let project = directory.join("root");
    load_base(docker, directory, &project.join("layout"))?;
    let numbered: Vec<(usize, &Case)> = cases.iter().enumerate().collect();
    numbered.chunks(AT_ONCE).try_for_each(|some| bake(docker, directory, some))?;
    let mut wrong = Vec::new();
    for number in 0..cases.len() {
        let ours = seen::image(&project.join("layout"), &format!("c{number}"))?;
        let theirs = seen::archive(&directory.join(format!("c{number}.tar")))?;
        wrong.extend(differences(&ours, &theirs).into_iter().map(|line| format!("c{number}: {line}")));
    }
    none("differences", &wrong)
}

/// Builds some images.
fn bake(docker: &Docker, directory: &Path, cases: &[(usize, &Case)]) -> Result<()> {
    let dockerfile = |case: &Case| {
        let lines: String = case.commands.iter().map(|line| run_line(line)).collect();
        format!("FROM {BASE}\n{lines}")
    };
    let files = cases.iter().map(|(number, case)| (format!("c{number}"), dockerfile(case)));
    bake_files(docker, directory, &files.collect::<Vec<_>>())
}

/// Returns the line of a Dockerfile that runs a line of a shell without a network.
pub(super) fn run_line(line: &str) -> String {
    format!("RUN --network=none {}\n", json!(["/bin/sh", "-e", "-c", line]))
}

/// Builds Dockerfiles in one call of BuildKit, each into an archive of its name.
pub(super) fn bake_files(docker: &Docker, directory: &Path, files: &[(String, String)]) -> Result<()> {
    let context = directory.join("root/tree/d");
    let mut targets = Map::new();
    for (name, dockerfile) in files {
        let output = format!("type=tar,dest={}", directory.join(format!("{name}.tar")).display());
        targets
            .insert(name.clone(), json!({ "context": context, "dockerfile-inline": dockerfile, "output": [output] }));
    }
    let names: Vec<&String> = targets.keys().collect();
    let file = directory.join("bake.json");
    fs_err::write(&file, json!({ "group": { "default": { "targets": names } }, "target": targets }).to_string())?;
    docker.text(&["buildx", "bake", "--progress", "plain", "--file", &file.display().to_string()])?;
    Ok(())
}

pub(super) fn differences(ours: &Seen, theirs: &Seen) -> Vec<String> {
    let is_ours = |path: &&Vec<u8>| {
        let text = String::from_utf8_lossy(path);
        !path.is_empty() && !OF_RUNTIMES.iter().any(|of| text == *of || text.starts_with(&format!("{of}/")))
    };
    let paths = ours.keys().chain(theirs.keys().filter(|path| !ours.contains_key(*path)));
    let show = |node: Option<&(super::tree::Node, String)>| match node {
        Some((node, digest)) => format!("{} {:o} {:?} {digest:.8}", node.describe(), node.mode, node.owner),
        None => "nothing".into(),
    };
    let differ = |path: &&Vec<u8>| ours.get(*path) != theirs.get(*path);
    let line = |path: &Vec<u8>| {
        format!("/{} is {}, BuildKit: {}", path.escape_ascii(), show(ours.get(path)), show(theirs.get(path)))
    };
    paths.filter(is_ours).filter(differ).map(line).collect()
}

/// Builds all images in several ways, and compares their digests.
fn compare_ways(suite: &Suite, cases: &[Case]) -> Result<()> {
    let [root, copies, range, _, one, _] = ways::WAYS;
    let all: Vec<_> = cases.iter().map(|case| case.commands.clone()).collect();
    let mut wrong = Vec::new();
    for way in [copies, range, one] {
        let [ours, theirs] = [root, way].map(|way| ways::build(way, &suite.kiln, |project| write(project, &all)));
        let (ours, theirs) = (ours?, theirs?);
        let differ = ours.iter().zip(&theirs).filter(|(one, other)| one.manifest != other.manifest);
        wrong.extend(differ.map(|(one, _)| format!("{}: {}", way.name, one.name)));
    }
    none("images that differ", &wrong)
}

/// Builds one image in every way.
fn one_digest(suite: &Suite) -> Result<()> {
    let commands = ways::COMMANDS.map(str::to_owned).to_vec();
    let mut found = Vec::new();
    for way in ways::WAYS {
        let images = ways::build(way, &suite.kiln, |project| write(project, std::slice::from_ref(&commands)))?;
        let image = images.last().ok_or("no image")?;
        found.push((way.name, image.manifest.clone()));
    }
    let wrong = found.iter().filter(|(_, manifest)| *manifest != found[0].1);
    let wrong: Vec<_> = wrong.map(|(name, manifest)| format!("{name}: {manifest}, as root {}", found[0].1)).collect();
    none("images that differ", &wrong)
}

/// Runs a command that becomes another user. It passes over the error, and kiln does not.
fn another_user(suite: &Suite) -> Result<()> {
    let commands = vec!["mkdir -m 777 /free; su alice -c 'touch /free/x' || true".to_owned()];
    let [root, _, range, _, one, _] = ways::WAYS;
    let build = |way| ways::build(way, &suite.kiln, |project| write(project, std::slice::from_ref(&commands)));
    let manifests =
        |images: Vec<super::stack::Image>| images.into_iter().map(|image| image.manifest).collect::<Vec<_>>();
    if manifests(build(root)?) != manifests(build(range)?) {
        return Err("a user with a range of ids builds another image".into());
    }
    match build(one) {
        Err(error)
            if ["alice", "1000", "newuidmap", "/etc/subuid"].iter().all(|word| error.to_string().contains(word)) =>
        {
            Ok(())
        }
        Err(error) => Err(format!("the error does not say what to do: {error}").into()),
        Ok(_) => Err("it is built".into()),
    }
}
