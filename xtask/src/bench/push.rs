//! `cargo xtask bench push`: an image of torch to a registry on the loopback interface.
//!
//! Every first push goes to a registry that has just been started on an empty directory (CNCF distribution, as Debian
//! packages it), and the disk is synced before. kiln and skopeo push the same image, by turns; Docker and buildah push
//! what they built themselves from the same wheels. What is measured is the client from its start to its end.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::assemble::{Bench, DOCKER, TORCH};
use super::measure::{Figure, Sample, has, timed};
use crate::interop::complain as say;

/// The registry's address.
pub(super) const ADDRESS: &str = "127.0.0.1:5037";
pub(super) const BUILDAH: &str = "buildah --root $PWD/peer/storage --runroot $PWD/peer/run --storage-driver overlay";

/// What is measured and how often.
#[derive(Debug, Args)]
pub(crate) struct Push {
    /// Runs of each row; Docker and buildah push for the first time once
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

/// One thing that is measured, for kiln and its peers.
#[derive(Debug, Default, Serialize)]
struct Row {
    title: &'static str,
    figures: Vec<Figure>,
}

#[derive(Debug, Serialize)]
struct Report {
    cores: usize,
    torch: &'static str,
    rows: Vec<Row>,
    /// What the run with an empty store and a warm registry moved, in bytes: sent and received.
    moved: (u64, u64),
}

/// A registry that is stopped with the value.
pub(super) struct Registry(Child);

impl Registry {
    /// Starts one; what an earlier one kept in the directory stays, unless `fresh`.
    pub(super) fn start(bench: &Bench, fresh: bool) -> Result<Self, String> {
        let data = bench.at.join("registry");
        if fresh {
            bench.run("rm -rf registry && sync")?;
        }
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
             delete: {{enabled: true}}\nhttp: {{addr: \"{ADDRESS}\"}}\n",
            data.display()
        );
        let file = bench.at.join("registry.yml");
        fs_err::write(&file, config).map_err(|error| error.to_string())?;
        let mut serve = Command::new("docker-registry");
        serve.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Self(serve.spawn().map_err(|error| format!("docker-registry cannot be run: {error}"))?);
        for _ in 0..100 {
            if std::net::TcpStream::connect(ADDRESS).is_ok() {
                return Ok(registry);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("docker-registry does not listen".into())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Push {
    pub(crate) fn run(&self) -> Result<(), String> {
        let bench = Bench::prepare(self.directory.clone(), "bench-push")?;
        bench.prepare_push()?;
        let runs = self.runs.max(1);
        let (mut kiln, mut skopeo) = (Measured::new("kiln build --push"), Measured::new("skopeo copy (OCI layout)"));
        let (mut empty, mut moved) = (Vec::new(), (0, 0));
        for run in 1..=runs {
            say(&format!("measuring: kiln and skopeo, run {run} of {runs}"));
            let registry = Registry::start(&bench, true)?;
            kiln.first.push(bench.kiln_push("store", "push")?);
            kiln.again.push(bench.kiln_push("store", "push")?);
            let (sample, bytes) = bench.kiln_from_nothing()?;
            empty.push(sample);
            moved = bytes;
            kiln.changed.push(bench.kiln_push("store", "push-more")?);
            drop(registry);
            let registry = Registry::start(&bench, true)?;
            skopeo.first.push(bench.skopeo("torch")?);
            skopeo.again.push(bench.skopeo("torch")?);
            skopeo.changed.push(bench.skopeo("more")?);
            drop(registry);
        }
        bench.run("rm -rf layout")?;
        let mut all = vec![kiln, skopeo];
        if !self.without_daemons {
            all.extend(bench.push_with_buildah(runs)?);
            all.extend(bench.push_with_docker(runs)?);
        }
        let rows = vec![
            Row::new("first push", &all, |measured| &measured.first),
            Row::new("push again", &all, |measured| &measured.again),
            Row::new("push after one small package changed", &all, |measured| &measured.changed),
            Row {
                title: "build and push, empty store, warm registry",
                figures: vec![Figure::new("kiln build --push", empty)],
            },
        ];
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let report = Report { cores, torch: TORCH, rows, moved };
        crate::interop::say(&table(&report));
        if let Some(file) = &self.json {
            let json = serde_json::to_vec_pretty(&report).map_err(|error| error.to_string())?;
            fs_err::write(file, json).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// Samples of one program.
struct Measured {
    name: &'static str,
    first: Vec<Sample>,
    again: Vec<Sample>,
    changed: Vec<Sample>,
}

impl Measured {
    fn new(name: &'static str) -> Self {
        Self { name, first: Vec::new(), again: Vec::new(), changed: Vec::new() }
    }
}

impl Row {
    fn new(title: &'static str, all: &[Measured], samples: fn(&Measured) -> &Vec<Sample>) -> Self {
        let with_samples = all.iter().filter(|measured| !samples(measured).is_empty());
        let figures = with_samples.map(|measured| Figure::new(measured.name, samples(measured).clone())).collect();
        Self { title, figures }
    }
}

impl Bench {
    /// Stacks that name the registry, a store that has their layers, and a layout with both images for skopeo.
    fn prepare_push(&self) -> Result<(), String> {
        for (from, to) in [("stack", "push"), ("more", "push-more")] {
            let text =
                fs_err::read_to_string(self.at.join(from).join("kiln.toml")).map_err(|error| error.to_string())?;
            let registry = format!(
                "name = \"bench\"\nregistry = \"{ADDRESS}/acme\"\n\n[cache]\nremote = \"{ADDRESS}/acme/cache\"\n"
            );
            let directory = self.at.join(to);
            fs_err::create_dir_all(&directory).map_err(|error| error.to_string())?;
            fs_err::write(directory.join("kiln.toml"), text.replace("name = \"bench\"\n", &registry))
                .map_err(|error| error.to_string())?;
            self.run(&format!("cp {from}/kiln.lock {to}/ && ln -sfn ../wheels {to}/wheels"))?;
        }
        let kiln = self.kiln.display();
        self.run("rm -rf store layout && cp -a template store")?;
        self.run(&format!("'{kiln}' -q --store store -f stack/kiln.toml build torch --output oci:layout"))?;
        self.run(&format!("'{kiln}' -q --store store -f more/kiln.toml build torch --output oci:layout-more"))?;
        self.run("skopeo copy -q oci:layout-more:torch oci:layout:more && rm -rf layout-more")
    }

    fn kiln_push(&self, store: &str, stack: &str) -> Result<Sample, String> {
        self.run("sync")?;
        let kiln = self.kiln.display();
        timed(&self.at, &format!("'{kiln}' -q --store {store} -f {stack}/kiln.toml build torch --locked --push"))
    }

    /// A store that knows nothing, and no wheel in reach; also what moved.
    fn kiln_from_nothing(&self) -> Result<(Sample, (u64, u64)), String> {
        self.run(
            "rm -rf nothing && mkdir -p nothing/stack && cp push/kiln.toml push/kiln.lock nothing/stack/ && sync",
        )?;
        let kiln = self.kiln.display();
        let line = format!(
            "'{kiln}' -q --json --store nothing/store -f nothing/stack/kiln.toml build torch --locked --push > nothing/said"
        );
        let sample = timed(&self.at, &line)?;
        let said = fs_err::read(self.at.join("nothing/said")).map_err(|error| error.to_string())?;
        let said: serde_json::Value = serde_json::from_slice(&said).map_err(|error| error.to_string())?;
        let number = |key: &str| said["network"][key].as_u64().unwrap_or(u64::MAX);
        Ok((sample, (number("sent"), number("received"))))
    }

    fn skopeo(&self, image: &str) -> Result<Sample, String> {
        self.run("sync")?;
        let line = format!(
            "skopeo copy -q --insecure-policy --dest-tls-verify=false oci:layout:{image} docker://{ADDRESS}/acme/skopeo:{image}"
        );
        timed(&self.at, &line)
    }

    /// A push to a fresh registry, pushes again, and the push of an image with one package more on top.
    fn push_with(&self, name: &'static str, runs: usize, push: impl Fn(&str) -> String) -> Result<Measured, String> {
        let mut measured = Measured::new(name);
        let _registry = Registry::start(self, true)?;
        measured.first.push(timed(&self.at, &push("torch"))?);
        for _ in 0..runs {
            measured.again.push(timed(&self.at, &push("torch"))?);
        }
        measured.changed.push(timed(&self.at, &push("more"))?);
        Ok(measured)
    }

    /// One package more, as a layer of its own.
    fn second_containerfile(&self, from: &str) -> Result<(), String> {
        let text = format!(
            "FROM {from}\nCOPY wheels/tqdm-4.67.1-py3-none-any.whl /\nRUN /opt/venv/bin/pip install --no-cache-dir --no-deps \
             /tqdm-4.67.1-py3-none-any.whl\n"
        );
        fs_err::write(self.at.join("Second"), text).map_err(|error| error.to_string())
    }

    fn push_with_buildah(&self, runs: usize) -> Result<Option<Measured>, String> {
        if !has("buildah") {
            say("buildah is not installed: left out");
            return Ok(None);
        }
        say("measuring: buildah");
        self.base_tar()?;
        self.run("rm -rf peer && mkdir -p peer && printf 'FROM scratch\\nADD base.tar /\\n' > Base")?;
        let build =
            format!("{BUILDAH} {} bud --isolation chroot -q", if has("runc") { "--runtime /usr/bin/runc" } else { "" });
        self.run(&format!("{build} -t localhost/base -f Base ."))?;
        self.containerfile("localhost/base")?;
        self.run(&format!("{build} --layers -t localhost/torch -f Dockerfile ."))?;
        self.second_containerfile("localhost/torch")?;
        self.run(&format!("{build} --layers -t localhost/more -f Second . && sync"))?;
        let push = |image: &str| {
            format!("{BUILDAH} push -q --tls-verify=false localhost/{image} docker://{ADDRESS}/acme/buildah:{image}")
        };
        let measured = self.push_with("buildah push", runs, push)?;
        self.run("rm -rf peer Base Second registry")?;
        Ok(Some(measured))
    }

    fn push_with_docker(&self, runs: usize) -> Result<Option<Measured>, String> {
        if !PathBuf::from("/usr/sbin/dockerd").exists() && !has("dockerd") {
            say("dockerd is not installed: left out");
            return Ok(None);
        }
        say("measuring: Docker");
        self.base_tar()?;
        self.containerfile("base")?;
        self.second_containerfile("torch")?;
        let measured = self.with_docker(|| self.docker_pushes(runs));
        self.run("rm -rf Second registry")?;
        measured.map(Some)
    }

    fn docker_pushes(&self, runs: usize) -> Result<Measured, String> {
        self.run(&format!("{DOCKER} import base.tar base"))?;
        self.run(&format!("{DOCKER} build -q --network none -t torch -t {ADDRESS}/acme/docker:torch ."))?;
        self.run(&format!("{DOCKER} build -q --network none -t {ADDRESS}/acme/docker:more -f Second . && sync"))?;
        self.push_with("docker push", runs, |image| format!("{DOCKER} push -q {ADDRESS}/acme/docker:{image}"))
    }
}

fn table(report: &Report) -> String {
    let mut text = format!(
        "torch {} and its dependencies on Debian, Python 3.11, {} cores, registry on the loopback interface; medians\n\n\
         | what | who | seconds | processor seconds | peak MB | times kiln |\n| --- | --- | ---: | ---: | ---: | ---: |\n",
        report.torch, report.cores
    );
    for row in &report.rows {
        let kiln = row.figures.first().map_or(0.0, |figure| figure.median);
        for (at, figure) in row.figures.iter().enumerate() {
            let times = if at > 0 && kiln > 0.0 { format!("{:.1}", figure.median / kiln) } else { String::new() };
            text.push_str(&format!(
                "| {} | {} | {:.2} | {:.2} | {} | {times} |\n",
                row.title,
                figure.name,
                figure.median,
                figure.cpu,
                figure.peak / 1_000_000,
            ));
        }
    }
    let (sent, received) = report.moved;
    text.push_str(&format!(
        "\nWith an empty store and a warm registry {sent} bytes were sent and {received} received.\n"
    ));
    text
}
