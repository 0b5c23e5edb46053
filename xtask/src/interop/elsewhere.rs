//! Copies from outside of the project beside the programs that they stand for: `COPY --from` of BuildKit, `git clone`, `tar` and `unzip`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::registries::docker::Docker;
use super::report::{Checks, none};
use super::seen::{self, Seen};
use super::tree::{Kind, Tree};
use super::{Result, Suite, commands, docker26, programs, unpacked};
use crate::random::Random;

/// Two-image stacks in a short and in a long run, and the seed that they follow from.
const STACKS: [u64; 2] = [20, 250];
/// Repositories in a short and in a long run.
const REPOSITORIES: [u64; 2] = [6, 60];
const SEED: u64 = 240;
/// Images of one call of BuildKit.
const AT_ONCE: usize = 25;
/// Places that copies go to: of the base, and others.
const PLACES: [&str; 10] = ["/t", "/t/", "/d", "/d/", "/e/deep/er", "/l", "/l/x", "/tmp", "/new/", "/l/"];

/// Makes the checks.
pub(super) fn check(suite: &Suite, checks: &mut Checks) {
    let directory = suite.work.join("elsewhere");
    let count = STACKS[usize::from(suite.long)];
    if let Some(docker) = checks.check("a Docker daemon of Debian 13 runs", || docker26::start(&directory)) {
        let name = format!("{count} images with files of other images are BuildKit's: seed {SEED}");
        checks.check(&name, || compare_stages(suite, &docker, &directory, count));
    }
    let count = REPOSITORIES[usize::from(suite.long)];
    let name = format!("{count} repositories of git are copied as git checks them out");
    checks.check(&name, || compare_repositories(suite, &directory.join("git"), count));
    checks.check("patches, Git LFS and `.git` of a copied repository are git's", || {
        git_options(suite, &directory.join("options"))
    });
    suite.remove("elsewhere");
}

/// A builder, and the copies out of it.
struct Stage {
    line: String,
    copies: Vec<(String, String)>,
}

fn compare_stages(suite: &Suite, docker: &Docker, directory: &Path, count: u64) -> Result<()> {
    let project = directory.join("root");
    let mut stages: Vec<Stage> = (0..count)
        .map(|number| Stage {
            line: commands::command(&mut Random::of_case(SEED, "builders", number)),
            copies: Vec::new(),
        })
        .collect();
    commands::write_over_base(&project, &text(&stages))?;
    programs::output(suite.kiln(&project).args(["build", "--output", "oci:layout"]))?;
    commands::load_base(docker, directory, &project.join("layout"))?;
    for (number, stage) in stages.iter_mut().enumerate() {
        let mut random = Random::of_case(SEED, "copies", number as u64);
        let built = seen::image(&project.join("layout"), &format!("b{number}"))?;
        stage.copies = copies(&built, &mut random);
    }
    commands::write_over_base(&project, &text(&stages))?;
    // A file may be where a copy has a directory: both programs refuse that.
    let done = programs::output(suite.kiln(&project).args(["build", "--keep-going", "--output", "oci:layout"]));
    if let Err(error) = done
        && !error.to_string().contains("in an image the one removes the other")
    {
        return Err(error);
    }
    let files: Vec<(String, String)> =
        stages.iter().enumerate().map(|(number, stage)| (format!("c{number}"), dockerfile(stage))).collect();
    let mut refused = Vec::new();
    files.chunks(AT_ONCE).try_for_each(|some| bake(docker, directory, some, &mut refused))?;
    let mut wrong = Vec::new();
    for (number, stage) in stages.iter().enumerate() {
        let name = format!("c{number}");
        let ours = match (seen::image(&project.join("layout"), &name), refused.contains(&name)) {
            (Ok(ours), false) => ours,
            (Err(_), false) => {
                wrong.push(format!("{name} {:?}: BuildKit makes it", stage.copies));
                continue;
            }
            // kiln does not compare with all files of a base, and then makes what BuildKit refuses.
            (_, true) => continue,
        };
        let theirs = seen::archive(&directory.join(format!("c{number}.tar")))?;
        let differ = commands::differences(&ours, &theirs);
        wrong.extend(differ.into_iter().map(|line| format!("c{number} {:?}: {line}", stage.copies)));
    }
    none("differences", &wrong)
}

/// Builds images with BuildKit, and names those that it refuses.
fn bake(docker: &Docker, directory: &Path, files: &[(String, String)], refused: &mut Vec<String>) -> Result<()> {
    match (commands::bake_files(docker, directory, files), files) {
        (Err(error), _) if !error.to_string().contains("cannot copy to non-directory") => Err(error),
        (Err(_), [(name, _)]) => {
            refused.push(name.clone());
            Ok(())
        }
        (Err(_), files) => {
            let (one, other) = files.split_at(files.len() / 2);
            bake(docker, directory, one, refused)?;
            bake(docker, directory, other, refused)
        }
        (Ok(()), _) => Ok(()),
    }
}

fn text(stages: &[Stage]) -> String {
    let mut text = String::new();
    for (number, stage) in stages.iter().enumerate() {
        text += &format!("\n[images.b{number}]\nfrom = \"base\"\nrun = {}\n", json!([stage.line]));
        let copies = stage.copies.iter().map(|(path, to)| {
            format!("{{ from = {{ image = \"b{number}\", path = {} }}, to = {} }}", json!(path), json!(to))
        });
        let copies: Vec<String> = copies.collect();
        text += &format!("\n[images.c{number}]\nfrom = \"base\"\ncopy = [{}]\n", copies.join(", "));
    }
    text
}

fn dockerfile(stage: &Stage) -> String {
    let base = commands::BASE;
    let copies = stage.copies.iter().map(|(path, to)| format!("COPY --from=b {path} {to}\n"));
    format!("FROM {base} AS b\n{}FROM {base}\n{}", commands::run_line(&stage.line), copies.collect::<String>())
}

/// Returns copies of paths that are there, to places where they fit: neither program puts a file over a directory.
fn copies(built: &Seen, random: &mut Random) -> Vec<(String, String)> {
    let paths: Vec<(String, bool)> = built
        .iter()
        .filter_map(|(path, (node, _))| {
            let path = String::from_utf8(path.clone()).ok()?;
            let is_of_case = ["d", "e", "new"].iter().any(|top| path == *top || path.starts_with(&format!("{top}/")));
            let is_plain = matches!(node.kind, Kind::File(_) | Kind::Directory);
            (is_of_case && is_plain).then(|| (format!("/{path}"), matches!(node.kind, Kind::Directory)))
        })
        .collect();
    let mut all: Vec<(String, String)> = Vec::new();
    for _ in 0..random.within(1, 3) {
        let Some((path, is_directory)) = random.one_of(&paths) else { break };
        let to = random.one_of(&PLACES).copied().unwrap_or("/t");
        // A file at `/t` stands in the way of a directory there.
        let to = if *is_directory { to.to_owned() } else { format!("{}/", to.trim_end_matches('/')) };
        // Places may be links to one another: a file of one copy must not be where a directory of another goes.
        let last = |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        let clashes = |(from, other): &(String, String)| {
            other.trim_end_matches('/') == to.trim_end_matches('/')
                || last(from) == last(&to)
                || last(path) == last(other)
        };
        if !all.iter().any(clashes) {
            all.push((path.clone(), to));
        }
    }
    all
}

/// Runs git without the configuration of this machine.
fn git(directory: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
    command
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .args(["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "protocol.file.allow=always"])
        .args(arguments);
    Ok(String::from_utf8_lossy(&programs::output(&mut command)?).into_owned())
}

/// Makes a repository with a commit, a tag and a branch.
fn repository(directory: &Path, random: &mut Random, contained: &[PathBuf]) -> Result<()> {
    fs_err::create_dir_all(directory)?;
    git(directory, &["init", "--quiet", "--initial-branch=main"])?;
    for number in 0..random.within(3, 12) {
        let names = ["a", "b/c", "b/d e", "b/.hidden", "\u{e4}", "x/y/z", "run.sh", "dos.bat", "x/deep/er/file"];
        let name = format!("{}{number}", random.one_of(&names).copied().unwrap_or("a"));
        let place = directory.join(&name);
        fs_err::create_dir_all(place.parent().ok_or("a file without a directory")?)?;
        match random.below(5) {
            0 => std::os::unix::fs::symlink(
                random.one_of(&["a0", "../up", "/etc/passwd"]).copied().unwrap_or("a0"),
                &place,
            )?,
            kind => {
                fs_err::write(&place, format!("line {}\nline\n", random.below(1 << 30)))?;
                if kind == 1 {
                    use std::os::unix::fs::PermissionsExt as _;
                    fs_err::set_permissions(&place, std::fs::Permissions::from_mode(0o755))?;
                }
            }
        }
    }
    if random.below(2) == 0 {
        fs_err::write(directory.join(".gitattributes"), "dos* text eol=crlf\na* ident\n")?;
        fs_err::write(directory.join("a-ident"), "$Id$\n")?;
    }
    for (at, inner) in contained.iter().enumerate() {
        let relative = format!("../{}", inner.file_name().unwrap_or_default().to_string_lossy());
        let url = if at == 0 { relative } else { format!("file://{}", inner.display()) };
        git(directory, &["remote", "remove", "origin"]).ok();
        git(directory, &["remote", "add", "origin", &format!("file://{}", directory.display())])?;
        git(directory, &["submodule", "--quiet", "add", &url, &format!("modules/m{at}")])?;
    }
    git(directory, &["add", "--all"])?;
    git(directory, &["commit", "--quiet", "--message", "one"])?;
    git(directory, &["tag", "--annotate", "--message", "a tag", "v1"])?;
    git(directory, &["branch", "stable"])?;
    Ok(())
}

fn compare_repositories(suite: &Suite, directory: &Path, count: u64) -> Result<()> {
    let mut text = "[stack]\nname = \"git\"\n\n[target]\nplatforms = [\"linux/amd64\"]\n".to_owned();
    for number in 0..count {
        let mut random = Random::of_case(SEED, "repositories", number);
        let inner: Vec<PathBuf> =
            (0..random.below(3)).map(|at| directory.join(format!("r{number}-inner{at}"))).collect();
        for place in &inner {
            repository(place, &mut random, &[])?;
        }
        let place = directory.join(format!("r{number}"));
        repository(&place, &mut random, &inner)?;
        let rev = random.one_of(&["v1", "stable", "main", "refs/tags/v1", "HEAD"]).copied().unwrap_or("v1");
        let rev =
            if random.below(4) == 0 { git(&place, &["rev-parse", "HEAD"])?.trim().to_owned() } else { rev.to_owned() };
        text += &format!(
            "\n[images.r{number}]\nfrom = \"scratch\"\ncopy = [{{ from = {{ git = \"file://{}\", rev = \"{rev}\", \
             submodules = true }}, to = \"/src\" }}]\n",
            place.display()
        );
    }
    let project = directory.join("project");
    fs_err::create_dir_all(&project)?;
    fs_err::write(project.join("kiln.toml"), text)?;
    programs::output(suite.kiln(&project).args(["build", "--output", "oci:layout"]))?;
    let mut wrong = Vec::new();
    for number in 0..count {
        let (from, clone) = (directory.join(format!("r{number}")), directory.join(format!("clone{number}")));
        let (from, to) = (format!("file://{}", from.display()), clone.display().to_string());
        git(directory, &["clone", "--quiet", "--recurse-submodules", &from, &to])?;
        let ours = seen::image(&project.join("layout"), &format!("r{number}"))?;
        let ours: BTreeMap<String, String> = ours
            .iter()
            .filter_map(|(path, (node, digest))| {
                let path = String::from_utf8_lossy(path).strip_prefix("src/")?.to_owned();
                Some((path, format!("{} {:o} {digest}", node.describe(), node.mode)))
            })
            .collect();
        let theirs = checked_out(&clone)?;
        for path in ours.keys().chain(theirs.keys().filter(|path| !ours.contains_key(*path))) {
            let (one, other) = (ours.get(path), theirs.get(path));
            if one != other {
                wrong.push(format!("r{number}: {path} is {one:?}, git: {other:?}"));
            }
        }
    }
    none("differences", &wrong)
}

/// Returns everything that git checked out, with the modes that git knows.
fn checked_out(clone: &Path) -> Result<BTreeMap<String, String>> {
    let tree = Tree::read(clone)?;
    let is_git = |path: &str| path.split('/').any(|name| name == ".git");
    let mut all = BTreeMap::new();
    for (path, node) in tree.nodes {
        if is_git(&path) {
            continue;
        }
        let place = clone.join(&path);
        let (mode, digest) = match &node.kind {
            Kind::File(_) => {
                let mode = if node.mode & 0o100 == 0 { 0o644 } else { 0o755 };
                (mode, seen::digest(&mut fs_err::File::open(&place)?)?)
            }
            Kind::Directory => (0o755, String::new()),
            _ => (0o777, String::new()),
        };
        all.insert(path, format!("{} {mode:o} {digest}", node.describe()));
    }
    Ok(all)
}

/// A repository with a file of Git LFS, a patch of the project, and a `.git` that stays.
fn git_options(suite: &Suite, directory: &Path) -> Result<()> {
    let place = directory.join("repository");
    fs_err::create_dir_all(&place)?;
    git(&place, &["init", "--quiet", "--initial-branch=main"])?;
    git(&place, &["lfs", "install", "--local"])?;
    fs_err::write(place.join(".gitattributes"), "*.bin filter=lfs diff=lfs merge=lfs -text\n")?;
    let large = "large ".repeat(1000);
    fs_err::write(place.join("model.bin"), &large)?;
    fs_err::write(place.join("code.py"), "print('old')\n")?;
    git(&place, &["add", "--all"])?;
    git(&place, &["commit", "--quiet", "--message", "one"])?;
    git(&place, &["tag", "v2.0"])?;
    let project = directory.join("project");
    fs_err::create_dir_all(&project)?;
    let patch = "--- a/code.py\n+++ b/code.py\n@@ -1 +1 @@\n-print('old')\n+print('new')\n";
    fs_err::write(project.join("fix.patch"), patch)?;
    let from = format!("git = \"file://{}\", rev = \"v2.0\"", place.display());
    let text = format!(
        "[stack]\nname = \"git\"\n\n[target]\nplatforms = [\"linux/amd64\"]\n\n[images.app]\nfrom = \"scratch\"\n\
         copy = [{{ from = {{ {from}, patches = [\"fix.patch\"] }}, to = \"/patched\" }}, \
         {{ from = {{ {from}, lfs = false }}, to = \"/pointers\" }}, \
         {{ from = {{ {from}, keep-git = true }}, to = \"/kept\" }}]\n"
    );
    fs_err::write(project.join("kiln.toml"), text)?;
    programs::output(suite.kiln(&project).args(["build", "--output", "oci:layout"]))?;
    let tree = unpacked::unpack(&project.join("layout"), "app", &directory.join("app"))?;
    let read = |path: &str| fs_err::read_to_string(tree.join(path));
    if read("patched/code.py")? != "print('new')\n" {
        return Err("the patch is not applied".into());
    }
    if read("patched/model.bin")? != large || !read("pointers/model.bin")?.starts_with("version https://git-lfs") {
        return Err("files of Git LFS are not as asked for".into());
    }
    let kept = tree.join("kept");
    let described = git(&kept, &["-c", "safe.directory=*", "describe", "--tags", "--always"])?;
    let status = git(&kept, &["-c", "safe.directory=*", "status", "--porcelain", "--", "code.py"])?;
    match (described.trim(), status.trim()) {
        ("v2.0", "") => Ok(()),
        other => Err(format!("`.git` says {other:?}").into()),
    }
}
