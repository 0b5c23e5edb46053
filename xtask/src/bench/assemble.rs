//! `cargo xtask bench assemble`: from wheels that lie here to an image.
//!
//! The wheels are torch's, with its CUDA libraries, and the base is in the store already: what is measured is making
//! layers, not downloading. Every run begins with a store, a cache or a daemon that does not know the result, unless the
//! row says otherwise.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::interop::complain as say;

use super::measure::{Figure, Sample, has, run, timed};

/// What is measured and how often.
#[derive(Debug, Args)]
pub(crate) struct Assemble {
    /// Runs of each row; Docker and buildah run once
    #[arg(short = 'n', long, default_value_t = 3)]
    runs: usize,
    /// Where to work; needs 40 GB [default: below the target directory]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Leave Docker and buildah out
    #[arg(long)]
    without_daemons: bool,
    /// Also write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    cores: usize,
    torch: &'static str,
    figures: Vec<Figure>,
    store_beyond_wheels: f64,
}

/// Docker's client, for the daemon that [`Bench::with_docker`] starts.
pub(super) const DOCKER: &str = "DOCKER_BUILDKIT=1 DOCKER_HOST=unix://$PWD/peer/sock /usr/bin/docker";

pub(super) const TORCH: &str = "2.11.0";

const STACK: &str = r#"
[stack]
name = "bench"

[vars]
torch = "2.11.0"

[target]
platforms = ["linux/amd64"]
python = "3.11"
cuda = "13.0"

[index]
find-links = ["wheels"]

[images.base]
from = { debian = "bookworm", include = ["python3", "python3-pip", "python3-venv"] }

[images.torch]
from = "base"
packages = ["torch==${torch}"EXTRA]
COPY
"#;

/// Kiln's command lines, in the directory of the benchmark.
pub(super) struct Bench {
    pub(super) kiln: PathBuf,
    pub(super) at: PathBuf,
}

impl Assemble {
    pub(crate) fn run(&self) -> Result<(), String> {
        let bench = Bench::prepare(self.directory.clone(), "bench-assemble")?;
        let mut figures = vec![self.figure("kiln, cold", || bench.cold("", "stack.toml"))?];
        figures.push(self.figure("kiln, cold, layout written", || bench.cold("--output oci:out", "stack.toml"))?);
        let beyond = bench.store_beyond_wheels()?;
        figures.push(self.figure("kiln, nothing changed", || bench.warm("stack.toml"))?);
        bench.warm("copy.toml")?;
        figures.push(self.figure("kiln, nothing changed, 10,000 files copied", || bench.warm("copy.toml"))?);
        figures.push(self.figure("kiln, one small package added", || bench.one_more())?);
        figures.push(self.figure("uv pip install + tar | pigz -1", || bench.uv_and_tar("pigz -1"))?);
        figures.push(self.figure("uv pip install + tar | zstd -1 -T0", || bench.uv_and_tar("zstd -q -1 -T0"))?);
        if !self.without_daemons {
            figures.extend(bench.buildah()?);
            figures.extend(bench.docker()?);
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let report = Report { cores, torch: TORCH, figures, store_beyond_wheels: beyond };
        let text = table(&report);
        crate::interop::say(&text);
        if let Some(file) = &self.json {
            let json = serde_json::to_vec_pretty(&report).map_err(|error| error.to_string())?;
            fs_err::write(file, json).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn figure(&self, name: &str, mut sample: impl FnMut() -> Result<Sample, String>) -> Result<Figure, String> {
        say(&format!("measuring: {name}"));
        let samples = (0..self.runs.max(1)).map(|_| sample()).collect::<Result<_, _>>()?;
        Ok(Figure::new(name, samples))
    }
}

impl Bench {
    /// Wheels, a store that has the base and nothing else, and a folder of 10,000 files.
    pub(super) fn prepare(directory: Option<PathBuf>, name: &str) -> Result<Self, String> {
        let (target, kiln) = crate::interop::build_kiln().map_err(|error| error.to_string())?;
        Self::prepare_for(kiln, &target, directory, name)
    }

    /// The same for a program that is built already.
    pub(super) fn prepare_for(
        kiln: PathBuf,
        target: &Path,
        directory: Option<PathBuf>,
        name: &str,
    ) -> Result<Self, String> {
        let at = directory.unwrap_or_else(|| target.join(name));
        let text = |error: std::io::Error| error.to_string();
        fs_err::create_dir_all(at.join("wheels")).map_err(text)?;
        let at = fs_err::canonicalize(at).map_err(text)?;
        for (file, extra, copy) in [
            ("stack.toml", "", ""),
            ("copy.toml", "", "copy = [{ from = \"files\", to = \"/files\" }]"),
            ("more.toml", ", \"tqdm==4.67.1\"", ""),
        ] {
            let directory = at.join(file.trim_end_matches(".toml"));
            fs_err::create_dir_all(&directory).map_err(text)?;
            let links = directory.join("wheels");
            if links.symlink_metadata().is_err() {
                std::os::unix::fs::symlink("../wheels", &links).map_err(text)?;
            }
            let stack = STACK.replace("EXTRA", extra).replace("COPY", copy);
            fs_err::write(directory.join("kiln.toml"), stack).map_err(text)?;
            // A lock of an earlier run would spare kiln the resolver, which the peers need as well.
            let _ = fs_err::remove_file(directory.join("kiln.lock"));
        }
        many_files(&at.join("copy/files")).map_err(text)?;
        let bench = Self { kiln, at };
        if !bench.at.join("wheels/done").exists() {
            bench.run(&format!(
                "python3 -m pip download -q --only-binary :all: --python-version 3.11 --platform manylinux_2_28_x86_64 \
                 --platform manylinux_2_27_x86_64 --platform manylinux_2_24_x86_64 --platform manylinux2014_x86_64 \
                 --platform manylinux2010_x86_64 --platform manylinux1_x86_64 \
                 --platform manylinux_2_25_x86_64 --platform manylinux_2_18_x86_64 -d wheels torch=={TORCH} tqdm==4.67.1 \
                 && touch wheels/done"
            ))?;
        }
        let _ = fs_err::remove_dir_all(bench.at.join("template"));
        for stack in ["stack", "copy", "more"] {
            bench.run(&bench.line("template", stack, "lock", ""))?;
        }
        bench.run(&bench.line("template", "stack", "build", "base"))?;
        Ok(bench)
    }

    pub(super) fn run(&self, line: &str) -> Result<(), String> {
        run(&self.at, line)
    }

    pub(super) fn line(&self, store: &str, stack: &str, command: &str, rest: &str) -> String {
        format!("'{}' -q --store {store} -f {stack}/kiln.toml {command} {rest}", self.kiln.display())
    }

    fn cold(&self, options: &str, stack: &str) -> Result<Sample, String> {
        self.run("rm -rf store out && cp -a template store && sync")?;
        let stack = stack.trim_end_matches(".toml");
        timed(&self.at, &self.line("store", stack, "build", &format!("torch --locked {options}")))
    }

    /// In the store that the last cold run left.
    fn warm(&self, stack: &str) -> Result<Sample, String> {
        let stack = stack.trim_end_matches(".toml");
        timed(&self.at, &self.line("store", stack, "build", "torch --locked"))
    }

    /// One small package more than the store knows, each time anew.
    fn one_more(&self) -> Result<Sample, String> {
        self.run("rm -rf store-more && cp -al store store-more && rm store-more/metadata.db* && cp store/metadata.db* store-more/")?;
        timed(&self.at, &self.line("store-more", "more", "build", "torch --locked"))
    }

    /// Bytes of the store besides wheels and base, as a part of the wheels' bytes.
    fn store_beyond_wheels(&self) -> Result<f64, String> {
        let size = |directory: &str| -> Result<f64, String> {
            let mut sum = 0;
            let mut waiting = vec![self.at.join(directory)];
            while let Some(next) = waiting.pop() {
                for entry in fs_err::read_dir(next).map_err(|error| error.to_string())? {
                    let entry = entry.map_err(|error| error.to_string())?;
                    let found = entry.metadata().map_err(|error| error.to_string())?;
                    if found.is_dir() { waiting.push(entry.path()) } else { sum += found.len() }
                }
            }
            Ok(sum as f64)
        };
        let wheels = size("wheels")?;
        let small: f64 = ["tqdm"].iter().map(|name| file_size(&self.at.join("wheels"), name)).sum();
        Ok((size("store")? - size("template")? - (wheels - small)) / wheels)
    }

    fn uv_and_tar(&self, compress: &str) -> Result<Sample, String> {
        let uv = self.uv()?;
        self.run("rm -rf peer && mkdir peer && sync")?;
        let line = format!(
            "'{uv}' venv -q --python 3.11 --cache-dir peer/cache peer/root/opt/venv && \
             '{uv}' pip install -q --cache-dir peer/cache --link-mode copy --no-index --find-links wheels \
             --python peer/root/opt/venv torch=={TORCH} && tar -C peer/root -cf - . | {compress} > peer/layer"
        );
        let sample = timed(&self.at, &line);
        self.run("rm -rf peer")?;
        sample
    }

    /// The uv that kiln uses.
    pub(super) fn uv(&self) -> Result<String, String> {
        if has("uv") {
            return Ok("uv".into());
        }
        let tools = fs_err::read_dir(self.at.join("template/tools")).map_err(|error| error.to_string())?;
        let found = tools.filter_map(Result::ok).map(|entry| entry.path().join("bin/uv")).find(|path| path.is_file());
        found.map(|path| path.display().to_string()).ok_or_else(|| "there is no uv".into())
    }

    /// The base as a tar, for the peers.
    pub(super) fn base_tar(&self) -> Result<(), String> {
        self.run(&self.line("template", "stack", "build", "base --output oci:base-layout"))?;
        self.run("gzip -dc \"$(ls -S base-layout/blobs/sha256/* | head -1)\" > base.tar")
    }

    pub(super) fn containerfile(&self, from: &str) -> Result<(), String> {
        let text = format!(
            "FROM {from}\nCOPY wheels /wheels\nRUN python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir \
             --no-index --find-links /wheels torch=={TORCH} && rm -rf /wheels\n"
        );
        fs_err::write(self.at.join("Dockerfile"), text).map_err(|error| error.to_string())?;
        fs_err::write(self.at.join(".dockerignore"), "*\n!wheels\n").map_err(|error| error.to_string())
    }

    fn buildah(&self) -> Result<Option<Figure>, String> {
        if !has("buildah") {
            say("buildah is not installed: left out");
            return Ok(None);
        }
        say("measuring: buildah");
        self.base_tar()?;
        let buildah = "buildah --root $PWD/peer/storage --runroot $PWD/peer/run --storage-driver overlay";
        self.run("rm -rf peer && mkdir -p peer && printf 'FROM scratch\\nADD base.tar /\\n' > Base && sync")?;
        self.run(&format!("{buildah} bud --isolation chroot -q -t localhost/base -f Base ."))?;
        self.containerfile("localhost/base")?;
        let runtime = if has("runc") { "--runtime /usr/bin/runc" } else { "" };
        let line = format!("{buildah} {runtime} bud --isolation chroot -q -t localhost/torch -f Dockerfile .");
        let sample = timed(&self.at, &line)?;
        self.run("rm -rf peer Base")?;
        Ok(Some(Figure::new("buildah bud", vec![sample])))
    }

    fn docker(&self) -> Result<Option<Figure>, String> {
        if !Path::new("/usr/sbin/dockerd").exists() && !has("dockerd") {
            say("dockerd is not installed: left out");
            return Ok(None);
        }
        say("measuring: docker build (BuildKit)");
        self.base_tar()?;
        self.containerfile("base")?;
        let sample = self.with_docker(|| {
            self.run(&format!("{DOCKER} import base.tar base"))?;
            timed(&self.at, &format!("{DOCKER} build -q --network none -t torch ."))
        })?;
        Ok(Some(Figure::new("docker build (BuildKit)", vec![sample])))
    }

    /// Does something while a Docker daemon of its own runs, with nothing in it.
    pub(super) fn with_docker<T>(&self, measure: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        self.run(
            "rm -rf peer && mkdir peer && (dockerd --data-root $PWD/peer/data --exec-root $PWD/peer/exec -p $PWD/peer/pid \
             -H unix://$PWD/peer/sock --iptables=false --ip6tables=false --bridge=none > peer/log 2>&1 &) ; \
             for i in $(seq 60); do test -S peer/sock && break; sleep 0.5; done; sleep 2",
        )?;
        let measured = measure();
        self.run("kill $(cat peer/pid) && sleep 5; rm -rf peer")?;
        measured
    }
}

fn file_size(directory: &Path, prefix: &str) -> f64 {
    let entries = fs_err::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let fits = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    fits.filter_map(|entry| entry.metadata().ok()).map(|found| found.len() as f64).sum()
}

fn many_files(directory: &Path) -> std::io::Result<()> {
    for folder in 0..100 {
        let below = directory.join(format!("folder-{folder}"));
        if below.exists() {
            continue;
        }
        fs_err::create_dir_all(&below)?;
        for file in 0..100 {
            fs_err::write(below.join(format!("file-{file}.py")), format!("value = {}\n", folder * 100 + file))?;
        }
    }
    Ok(())
}

/// The table: each row beside kiln's cold run and cold run with a layout.
fn table(report: &Report) -> String {
    let median = |name: &str| report.figures.iter().find(|figure| figure.name == name).map(|figure| figure.median);
    let (cold, written) = (median("kiln, cold"), median("kiln, cold, layout written"));
    let ratio = |by: Option<f64>, figure: &Figure| match by {
        Some(by) if by > 0.0 && !figure.name.starts_with("kiln") => format!("{:.1}", figure.median / by),
        _ => String::new(),
    };
    let mut text = format!(
        "torch {} and its dependencies, Python 3.11, {} cores; medians\n\n\
         | what | seconds | processor seconds | peak MB | times kiln cold | times kiln with layout |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |\n",
        report.torch, report.cores
    );
    for figure in &report.figures {
        text.push_str(&format!(
            "| {} | {:.2} | {:.2} | {} | {} | {} |\n",
            figure.name,
            figure.median,
            figure.cpu,
            figure.peak / 1_000_000,
            ratio(cold, figure),
            ratio(written, figure)
        ));
    }
    text.push_str(&format!(
        "\nThe store holds {:.2}% more than wheels and base.\n",
        100.0 * report.store_beyond_wheels
    ));
    text
}
