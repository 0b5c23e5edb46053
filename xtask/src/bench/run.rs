//! `cargo xtask bench run`: what commands of images cost.
//!
//! - An empty command over the tree of a base, beside crun on the same tree.
//! - The layer of a command that copies 1 GB of torch's files: kiln's export and push beside Docker's and buildah's. The command itself
//!   is not measured.
//! - The layers of torch's image as trees, beside `uv pip install` of the same wheels.
//!
//! kiln and its peers take turns.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::assemble::{Bench, DOCKER, TORCH};
use super::measure::{Figure, Sample, has, timed};
use super::push::{ADDRESS, BUILDAH, Registry};
use crate::interop::complain as say;

/// Empty commands in one sample: one alone takes less than the clock of GNU time tells.
const AT_ONCE: u32 = 50;
/// Bytes of torch's files that a command copies.
const COPIED: u64 = 1_000_000_000;
/// Larger files are left out of them: there would be three.
const LARGEST: u64 = 200_000_000;
const COPY: &str = "cp -a /site /made";

/// The rows to measure, and the number of their runs.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Runs of each row; Docker and buildah run once
    #[arg(short = 'n', long, default_value_t = 3)]
    runs: usize,
    /// The directory to work in; needs 40 GB [default: below the target directory]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Leave Docker and buildah out
    #[arg(long)]
    without_daemons: bool,
    /// Measure this program, and `examples/sandboxed` beside it, rather than building both
    #[arg(long, value_name = "FILE")]
    kiln: Option<PathBuf>,
    /// Measure this alone
    #[arg(long)]
    only: Option<Part>,
    /// Also write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Empty,
    Export,
    Unpack,
}

/// One thing that is measured, for kiln and its peers.
#[derive(Debug, Serialize)]
struct Row {
    title: &'static str,
    figures: Vec<Figure>,
}

impl Run {
    pub(crate) fn run(&self) -> Result<(), String> {
        let name = "bench-assemble";
        let bench = match &self.kiln {
            Some(kiln) => {
                let kiln = fs_err::canonicalize(kiln).map_err(|error| error.to_string())?;
                let target = crate::interop::programs::target().map_err(|error| error.to_string())?;
                Bench::prepare_for(kiln, &target, self.directory.clone(), name)?
            }
            None => {
                build_example()?;
                Bench::prepare(self.directory.clone(), name)?
            }
        };
        let wanted = |part| self.only.is_none_or(|only| only == part);
        let mut rows = Vec::new();
        if wanted(Part::Empty) {
            rows.push(self.empty(&bench)?);
        }
        if wanted(Part::Unpack) {
            rows.push(self.unpack(&bench)?);
        }
        if wanted(Part::Export) {
            rows.push(self.export(&bench)?);
        }
        crate::interop::say(&table(&rows));
        if let Some(file) = &self.json {
            let json = serde_json::to_vec_pretty(&rows).map_err(|error| error.to_string())?;
            fs_err::write(file, json).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// An empty command over the base's tree.
    fn empty(&self, bench: &Bench) -> Result<Row, String> {
        let tree = bench.base_tree()?;
        bench.run("rm -rf bundle sandbox && mkdir bundle sandbox")?;
        bench.bundle(&tree)?;
        let sandboxed = example(&bench.kiln);
        let (mut kiln, mut crun) = (Vec::new(), Vec::new());
        for run in 1..=self.runs.max(1) {
            say(&format!("measuring: an empty command, run {run}"));
            let line = format!("'{}' '{}' sandbox /bin/true", sandboxed.display(), tree.display());
            kiln.push(repeated(bench, &line)?);
            crun.push(repeated(bench, "crun run --bundle bundle bench-$i")?);
        }
        let mut figures = vec![Figure::new("kiln (`sandboxed`)", kiln), Figure::new("crun run", crun)];
        if !self.without_daemons {
            bench.base_tar()?;
            if has("buildah") {
                bench.run("rm -rf peer && mkdir -p peer && printf 'FROM scratch\\nADD base.tar /\\n' > Base")?;
                bench.run(&format!("{BUILDAH} bud --isolation chroot -q -t localhost/base -f Base ."))?;
                bench.run(&format!("{BUILDAH} from -q --name bench localhost/base"))?;
                let line = format!("{BUILDAH} run --isolation chroot bench /bin/true");
                figures.push(Figure::new("buildah run (chroot)", vec![repeated(bench, &line)?]));
                bench.run("rm -rf peer Base")?;
            }
            let docker = bench.with_docker(|| {
                bench.run(&format!("{DOCKER} import base.tar base"))?;
                repeated(bench, &format!("{DOCKER} run --rm --network none base /bin/true"))
            })?;
            figures.push(Figure::new("docker run", vec![docker]));
        }
        Ok(Row { title: "an empty command", figures })
    }

    /// All layers of torch's image become trees, for a command that does nothing.
    fn unpack(&self, bench: &Bench) -> Result<Row, String> {
        bench.project(
            "unpack",
            &format!("\n[images.run]\nfrom = \"base\"\npackages = [\"torch=={TORCH}\"]\nrun = [\"true\"]\n"),
        )?;
        bench.run("rm -rf store && cp -a template store")?;
        bench.run(&bench.line("store", "unpack", "build", "run"))?;
        let (mut kiln, mut uv) = (Vec::new(), Vec::new());
        for run in 1..=self.runs.max(1) {
            say(&format!("measuring: torch's layers as trees, run {run}"));
            bench.run("rm -rf store/trees/sha256/* && sync")?;
            kiln.push(timed(&bench.at, &bench.line("store", "unpack", "build", "run --locked --no-cache run"))?);
            uv.push(bench.uv_alone()?);
        }
        bench.run("rm -rf store")?;
        let figures = vec![Figure::new("kiln", kiln), Figure::new("uv pip install, copies", uv)];
        Ok(Row { title: "torch's layers as trees", figures })
    }

    /// The layer of a command that copies 1 GB, made and pushed.
    fn export(&self, bench: &Bench) -> Result<Row, String> {
        bench.site()?;
        let (mut kiln, runs) = (Vec::new(), self.runs.max(1));
        let below = format!("name = \"bench\"\nregistry = \"{ADDRESS}/acme\"\n");
        bench.project(
            "export",
            &format!(
                "\n[images.below]\nfrom = \"base\"\ncopy = [{{ from = \"site\", to = \"/site\" }}]\n\n[images.app]\nfrom = \"below\"\n\
                 run = [\"{COPY}\"]\n"
            ),
        )?;
        bench.run(&format!(
            "rm -rf export/site && cp -al site export/site && sed -i 's|^name = \"bench\"|{}|' export/kiln.toml",
            below.trim().replace('\n', "\\n")
        ))?;
        bench.run("rm -rf store && cp -a template store")?;
        bench.run(&bench.line("store", "export", "build", ""))?;
        for run in 1..=runs {
            say(&format!("measuring: the layer of a command, kiln, run {run}"));
            let registry = Registry::start(bench, true)?;
            bench.run(&bench.line("store", "export", "build", "below --locked --push"))?;
            let exported = bench.kiln_export()?;
            let pushed = timed(&bench.at, &bench.line("store", "export", "build", "app --locked --push"))?;
            kiln.push(Sample { wall: exported + pushed.wall, ..pushed });
            drop(registry);
        }
        let mut figures = vec![Figure::new("kiln: export and push", kiln)];
        if !self.without_daemons {
            bench.base_tar()?;
            figures.push(Figure::new("docker build: export, and push", vec![bench.docker_export()?]));
            if has("buildah") {
                figures.push(Figure::new("buildah commit and push", vec![bench.buildah_export()?]));
            }
        }
        bench.run("rm -rf store registry")?;
        Ok(Row { title: "the layer of a command that made 1 GB", figures })
    }
}

/// Builds the program that runs one command in a sandbox.
fn build_example() -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = std::process::Command::new(cargo);
    build.args(["build", "--release", "--quiet", "--package", "kiln-sandbox", "--example", "sandboxed"]);
    build.current_dir(crate::sources::root());
    match build.status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err("the example `sandboxed` cannot be built".into()),
    }
}

fn example(kiln: &Path) -> PathBuf {
    kiln.with_file_name("examples").join("sandboxed")
}

/// The time of one of many equal runs. `$i` is the number of each.
fn repeated(bench: &Bench, line: &str) -> Result<Sample, String> {
    // crun refuses machines on which groups of version 2 have controllers beside those of version 1: it does not see the former.
    let line = format!("umount /sys/fs/cgroup/unified 2>/dev/null || true; for i in $(seq {AT_ONCE}); do {line}; done");
    fs_err::write(bench.at.join("repeated.sh"), line).map_err(|error| error.to_string())?;
    let sample = timed(&bench.at, "unshare --mount bash -e repeated.sh")?;
    let times = f64::from(AT_ONCE);
    Ok(Sample { wall: sample.wall / times, cpu: sample.cpu / times, peak: sample.peak })
}

impl Bench {
    /// Writes a stack of the base and further images.
    fn project(&self, name: &str, images: &str) -> Result<(), String> {
        let text = fs_err::read_to_string(self.at.join("stack/kiln.toml")).map_err(|error| error.to_string())?;
        let (head, _) = text.split_once("[images.torch]").ok_or("the stack has no image `torch`")?;
        let directory = self.at.join(name);
        fs_err::create_dir_all(&directory).map_err(|error| error.to_string())?;
        fs_err::write(directory.join("kiln.toml"), head.to_owned() + images).map_err(|error| error.to_string())?;
        self.run(&format!("ln -sfn ../wheels {name}/wheels && rm -f {name}/kiln.lock"))?;
        self.run(&self.line("template", name, "lock", ""))
    }

    /// Returns the tree of the base, which has one layer.
    fn base_tree(&self) -> Result<PathBuf, String> {
        self.project("tree", "\n[images.run]\nfrom = \"base\"\nrun = [\"true\"]\n")?;
        self.run("rm -rf tree-store && cp -a template tree-store")?;
        self.run(&self.line("tree-store", "tree", "build", "run"))?;
        let trees = self.at.join("tree-store/trees/sha256");
        let mut entries = fs_err::read_dir(&trees).map_err(|error| error.to_string())?;
        let tree = entries.next().ok_or("no tree was made")?.map_err(|error| error.to_string())?;
        match entries.next() {
            None => Ok(tree.path().join("tree")),
            Some(_) => Err("the base has several layers".into()),
        }
    }

    /// Writes a bundle for crun over a tree: its own default, with another command, and without a terminal.
    fn bundle(&self, tree: &Path) -> Result<(), String> {
        self.run("cd bundle && crun spec")?;
        let file = self.at.join("bundle/config.json");
        let text = fs_err::read_to_string(&file).map_err(|error| error.to_string())?;
        let mut config: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = vec!["/bin/true"].into();
        config["root"]["path"] = tree.display().to_string().into();
        config["root"]["readonly"] = true.into();
        fs_err::write(&file, config.to_string()).map_err(|error| error.to_string())
    }

    fn uv_alone(&self) -> Result<Sample, String> {
        let uv = self.uv()?;
        self.run("rm -rf peer && mkdir peer && sync")?;
        let line = format!(
            "'{uv}' venv -q --python 3.11 --cache-dir peer/cache peer/root/opt/venv && \
             '{uv}' pip install -q --cache-dir peer/cache --link-mode copy --no-index --find-links wheels \
             --python peer/root/opt/venv torch=={TORCH}"
        );
        let sample = timed(&self.at, &line);
        self.run("rm -rf peer")?;
        sample
    }

    /// Installs torch, and keeps files of its environment, in the order of their paths, until they are 1 GB.
    fn site(&self) -> Result<(), String> {
        if self.at.join("site/done").exists() {
            return Ok(());
        }
        let uv = self.uv()?;
        self.run("rm -rf site peer && mkdir site peer")?;
        self.run(&format!(
            "'{uv}' pip install -q --cache-dir peer/cache --no-index --find-links wheels --python-version 3.11 --target peer/all \
             torch=={TORCH}"
        ))?;
        self.run(&format!(
            "cd peer/all && find . -type f -size -{LARGEST}c -printf '%s %p\\n' | LC_ALL=C sort -k2 | \
             awk '{{ if (sum + $1 <= {COPIED}) {{ sum += $1; $1 = \"\"; print substr($0, 2) }} }}' | \
             tar -cf - -T - | tar -C ../../site -xf -"
        ))?;
        self.run("rm -rf peer && touch site/done")
    }

    /// Performs the command again; the seconds that its layer took.
    fn kiln_export(&self) -> Result<f64, String> {
        let line = self.line("store", "export", "build", "app --locked --no-cache app 2> said");
        self.run(&format!("sync && {}", line.replacen(" -q ", " ", 1)))?;
        let said = fs_err::read_to_string(self.at.join("said")).map_err(|error| error.to_string())?;
        // `export cp -a /site /made: 5.2 s, 1.00 GB, 190 MB/s`
        let seconds = said
            .lines()
            .find_map(|line| line.strip_prefix("export ")?.split(": ").nth(1)?.split(' ').next()?.parse().ok());
        seconds.ok_or_else(|| format!("no line tells of the export: {said}"))
    }

    fn docker_export(&self) -> Result<Sample, String> {
        say("measuring: the layer of a command, Docker");
        self.run("rm -rf context && mkdir context && cp -al site context/site")?;
        let write =
            |name: &str, text: String| fs_err::write(self.at.join(name), text).map_err(|error| error.to_string());
        write("Below", "FROM base\nCOPY site /site\n".into())?;
        write("Above", format!("FROM {ADDRESS}/acme/docker:below\nRUN {COPY}\n"))?;
        let sample = self.with_docker(|| {
            let registry = Registry::start(self, true)?;
            self.run(&format!("{DOCKER} import base.tar base"))?;
            self.run(&format!("{DOCKER} build -q -t {ADDRESS}/acme/docker:below -f Below context"))?;
            self.run(&format!("{DOCKER} push -q {ADDRESS}/acme/docker:below && sync && mkdir -p empty"))?;
            let build =
                format!("{DOCKER} build --progress plain --network none -t {ADDRESS}/acme/docker:app -f Above empty");
            self.run(&format!("{build} > said 2>&1"))?;
            let said = fs_err::read_to_string(self.at.join("said")).map_err(|error| error.to_string())?;
            // `#5 exporting layers 6.1s done`
            let seconds = |line: &str| line.split("exporting layers ").nth(1)?.split('s').next()?.parse::<f64>().ok();
            let exported = said.lines().filter(|line| line.ends_with("done")).find_map(seconds);
            let exported = exported.ok_or_else(|| format!("BuildKit does not tell of the export: {said}"))?;
            let pushed = timed(&self.at, &format!("{DOCKER} push -q {ADDRESS}/acme/docker:app"))?;
            drop(registry);
            Ok(Sample { wall: exported + pushed.wall, ..pushed })
        });
        self.run("rm -rf context empty Below Above")?;
        sample
    }

    fn buildah_export(&self) -> Result<Sample, String> {
        say("measuring: the layer of a command, buildah");
        self.run("rm -rf peer && mkdir -p peer && printf 'FROM scratch\\nADD base.tar /\\nCOPY site /site\\n' > Base")?;
        self.run(&format!("{BUILDAH} bud --isolation chroot -q -t localhost/below -f Base ."))?;
        let registry = Registry::start(self, true)?;
        let push = |image: &str| {
            format!("{BUILDAH} push -q --tls-verify=false localhost/{image} docker://{ADDRESS}/acme/buildah:{image}")
        };
        self.run(&push("below"))?;
        self.run(&format!("{BUILDAH} from -q --name bench localhost/below"))?;
        self.run(&format!("{BUILDAH} run --isolation chroot bench {COPY} && sync"))?;
        let sample = timed(&self.at, &format!("{BUILDAH} commit -q bench localhost/app && {}", push("app")));
        drop(registry);
        self.run("rm -rf peer Base")?;
        sample
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = "| what | who | seconds | processor seconds | peak MB | times kiln |\n\
                    | --- | --- | ---: | ---: | ---: | ---: |\n"
        .to_owned();
    for row in rows {
        let kiln = row.figures.first().map_or(0.0, |figure| figure.median);
        for (at, figure) in row.figures.iter().enumerate() {
            let times = if at > 0 && kiln > 0.0 { format!("{:.2}", figure.median / kiln) } else { String::new() };
            text.push_str(&format!(
                "| {} | {} | {:.3} | {:.3} | {} | {times} |\n",
                row.title,
                figure.name,
                figure.median,
                figure.cpu,
                figure.peak / 1_000_000,
            ));
        }
    }
    text
}
