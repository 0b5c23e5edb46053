//! `cargo xtask bench fatbin`: the GPU code of torch and its CUDA libraries, listed and cut.
//!
//! Listing is measured beside NVIDIA's cuobjdump. For cutting there is no peer: files are measured as they are, wheels and
//! images beside the least that anybody would do for them who writes wheels as others do, compressing what has changed.
//! Files are in the page cache, so that what is measured is not the disk's reading. Each row ends with the bar that it has
//! to meet.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::interop::{self, PruneReport, complain as say};

use super::assemble::TORCH;
use super::measure::{Figure, Sample, has, run, timed};

/// torch with libraries of CUDA 12, and the newest one.
const TORCH_12: &str = "2.7.1";
const NEWEST: &str = "2.15.0";
/// What is pruned to.
const GPUS: &str = "H100";

/// What is measured and how often.
#[derive(Debug, Args)]
pub(crate) struct Fatbin {
    /// Runs of each row; cuobjdump runs once, and pruning the torch with CUDA 12 and the newest
    #[arg(short = 'n', long, default_value_t = 3)]
    runs: usize,
    /// Where to work; needs 25 GB [default: below the target directory]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Where wheels are kept, those for CUDA 12 in a directory of theirs: what is there is not fetched [default: below
    /// the directory]
    #[arg(long, value_name = "DIR")]
    wheels: Option<PathBuf>,
    /// Leave out the torch with CUDA 12 and the newest, which fetch 5.5 GB more
    #[arg(long)]
    without_others: bool,
    /// Also write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    cores: usize,
    torch: &'static str,
    gpus: &'static str,
    rows: Vec<Row>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    figure: Figure,
    /// Bytes before and after, of what is pruned.
    bytes: Option<(u64, u64)>,
    bar: &'static str,
}

/// Where everything lies.
struct Bench {
    at: PathBuf,
    kiln: PathBuf,
    wheels: PathBuf,
    runs: usize,
}

/// Directories of a tree that are pruned together, and the tree that they lie in.
struct Part {
    name: &'static str,
    tree: &'static str,
    /// Nothing for the whole tree.
    directories: &'static [&'static str],
    bar: &'static str,
}

const PARTS: [Part; 3] = [
    Part { name: "everything", tree: "tree", directories: &[], bar: "" },
    Part { name: "without triton", tree: "tree-without-triton", directories: &[], bar: "" },
    Part { name: "torch and nvidia", tree: "tree", directories: &["torch", "nvidia"], bar: "5 s, -32%" },
];

impl Fatbin {
    pub(crate) fn run(&self) -> Result<(), String> {
        let (target, kiln) = interop::build_kiln().map_err(text)?;
        let at = self.directory.clone().unwrap_or_else(|| target.join("bench-fatbin"));
        fs_err::create_dir_all(&at).map_err(text)?;
        let at = fs_err::canonicalize(at).map_err(text)?;
        let wheels = self.wheels.clone().unwrap_or_else(|| at.join("wheels"));
        fs_err::create_dir_all(&wheels).map_err(text)?;
        let wheels = fs_err::canonicalize(wheels).map_err(text)?;
        let bench = Bench { at, kiln, wheels, runs: self.runs.max(1) };
        if !has("pigz") {
            return Err("pigz is not installed: `apt-get install pigz`".into());
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut report = Report { cores, torch: TORCH, gpus: GPUS, rows: Vec::new(), notes: Vec::new() };
        let torch = bench.unpack(TORCH, "")?;
        bench.inspect(&mut report)?;
        for part in &PARTS {
            report.rows.push(bench.copied(part, bench.runs)?);
            report.rows.push(bench.in_place(part)?);
        }
        bench.wheel(&torch, &mut report)?;
        bench.image(&mut report)?;
        if !self.without_others {
            bench.newest(&mut report)?;
            bench.other(TORCH_12, "-43%", &mut report)?;
        }
        bench.run("rm -rf tree tree-without-triton copy gone pruned-wheel")?;
        interop::say(&table(&report));
        if let Some(file) = &self.json {
            let json = serde_json::to_vec_pretty(&report).map_err(text)?;
            fs_err::write(file, json).map_err(text)?;
        }
        Ok(())
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

impl Bench {
    fn run(&self, line: &str) -> Result<(), String> {
        run(&self.at, line)
    }

    /// Frees what files take up and puts them away: ext4 looks for an inode that was not used for minutes, so that creating
    /// files after deleting as many takes longer than pruning does.
    fn discard(&self, paths: &str) -> Result<(), String> {
        self.run(&format!(
            "mkdir -p gone && for path in {paths}; do [ -e $path ] || continue; \
             find $path -type f -size +64k -exec truncate -s 0 {{}} + && mv $path $(mktemp -d gone/XXXXXX); done && sync"
        ))
    }

    fn figure(
        &self,
        name: &str,
        runs: usize,
        sample: impl FnMut() -> Result<Sample, String>,
    ) -> Result<Figure, String> {
        say(&format!("measuring: {name}"));
        let samples = std::iter::repeat_with(sample).take(runs).collect::<Result<_, _>>()?;
        Ok(Figure::new(name, samples))
    }

    /// Fetches torch and what it needs, unless it is there, and unpacks it as it is when it is installed; its wheel.
    fn unpack(&self, version: &str, below: &str) -> Result<PathBuf, String> {
        let directory = self.wheels.join(below);
        fs_err::create_dir_all(&directory).map_err(text)?;
        let torch = || -> Result<Option<PathBuf>, String> {
            Ok(interop::wheels(&directory).map_err(text)?.into_iter().find(|wheel| interop::is_torch(wheel)))
        };
        if torch()?.is_none() {
            say(&format!("fetching torch {version}"));
            let to = directory.display();
            self.run(&format!("python3 -m pip download -q --only-binary :all: -d '{to}' torch=={version}"))?;
        }
        say(&format!("unpacking torch {version}"));
        self.discard("tree tree-without-triton copy")?;
        self.run("mkdir tree")?;
        for wheel in interop::wheels(&directory).map_err(text)? {
            interop::unpack(&wheel, &self.at.join("tree")).map_err(text)?;
        }
        self.run("cp -al tree tree-without-triton && rm -rf tree-without-triton/triton")?;
        torch()?.ok_or_else(|| format!("there is no wheel of torch in {}", directory.display()))
    }

    /// Reads everything once, so that it comes from memory from then on.
    fn warm(&self, path: &str) -> Result<(), String> {
        self.run(&format!("find {path} -type f -print0 | xargs -0 cat > /dev/null"))
    }

    fn inspect(&self, report: &mut Report) -> Result<(), String> {
        self.warm("tree")?;
        let line = format!("'{}' inspect tree --json > inspect.json", self.kiln.display());
        let ours = self.figure("kiln inspect", self.runs, || timed(&self.at, &line))?;
        let cuobjdump = interop::cuobjdump(&self.at).map_err(text)?;
        let list = "python3 -c 'import json; [print(file[\"file\"]) for file in json.load(open(\"inspect.json\"))[\"files\"]]'";
        self.run(&format!("{list} > files.txt"))?;
        let dump = format!("'{}' -all -lelf \"$file\"", cuobjdump.display());
        // It gives up on some files, and is slow enough for once.
        let line = format!("while read -r file; do {dump} > /dev/null 2>&1 || true; done < files.txt");
        let theirs = self.figure("cuobjdump -all -lelf", 1, || timed(&self.at, &line))?;
        let times = theirs.median / ours.median;
        report.notes.push(format!("cuobjdump takes {times:.0} times as long as kiln inspect (bar: 100)."));
        report.rows.push(Row { figure: ours, bytes: None, bar: "0.15 s" });
        report.rows.push(Row { figure: theirs, bytes: None, bar: "" });
        Ok(())
    }

    /// Runs `kiln prune`, which leaves its report.
    fn prune(&self, arguments: &str) -> Result<Sample, String> {
        timed(&self.at, &format!("'{}' -q --json prune {arguments} --gpus {GPUS} > report.json", self.kiln.display()))
    }

    fn report(&self) -> Result<PruneReport, String> {
        let json = fs_err::read(self.at.join("report.json")).map_err(text)?;
        serde_json::from_slice(&json).map_err(text)
    }

    /// Bytes before and after the last prune.
    fn bytes(&self) -> Result<Option<(u64, u64)>, String> {
        let inputs = self.report()?.inputs;
        Ok(Some((inputs.iter().map(|input| input.before).sum(), inputs.iter().map(|input| input.after).sum())))
    }

    fn copied(&self, part: &Part, runs: usize) -> Result<Row, String> {
        self.warm(part.tree)?;
        let figure = self.figure(&format!("kiln prune, {}, to a copy", part.name), runs, || {
            self.discard("copy")?;
            self.prune(&format!("{} --output copy", part.inputs(part.tree)))
        })?;
        Ok(Row { figure, bytes: self.bytes()?, bar: part.bar })
    }

    fn in_place(&self, part: &Part) -> Result<Row, String> {
        let figure = self.figure(&format!("kiln prune, {}, in place", part.name), self.runs, || {
            self.discard("copy")?;
            self.run(&format!("cp -a {} copy && sync", part.tree))?;
            self.prune(&format!("{} --in-place", part.inputs("copy")))
        })?;
        Ok(Row { figure, bytes: self.bytes()?, bar: part.bar })
    }

    /// Prunes torch's wheel, and compresses alone what changes in it. The last copy has the libraries.
    fn wheel(&self, torch: &Path, report: &mut Report) -> Result<(), String> {
        self.run(&format!("cat '{}' > /dev/null", torch.display()))?;
        let ours = self.figure("kiln prune, torch's wheel", self.runs, || {
            self.run("rm -rf pruned-wheel && sync")?;
            self.prune(&format!("'{}' --output pruned-wheel/", torch.display()))
        })?;
        let bytes = self.bytes()?;
        let libraries = self.report()?.inputs.into_iter().flat_map(|input| input.files);
        let changed: Vec<String> = libraries
            .filter(|library| library.is_pruned())
            .map(|library| format!("'copy/{}'", library.path.display()))
            .collect();
        let line = format!("cat {} | pigz -6 -p {} > /dev/null", changed.join(" "), report.cores);
        self.run(&format!("cat {} > /dev/null", changed.join(" ")))?;
        let bound = self.figure("pigz -6, what changes in torch's wheel", self.runs, || timed(&self.at, &line))?;
        let rate = fs_err::metadata(torch).map_err(text)?.len() as f64 / ours.median / 1e6;
        report.notes.push(format!(
            "The wheel is pruned at {rate:.0} MB/s of what it was, in {:.2} times the time that pigz needs for what changes.",
            ours.median / bound.median
        ));
        report.rows.push(Row { figure: ours, bytes, bar: "600 MB of memory" });
        report.rows.push(Row { figure: bound, bytes: None, bar: "" });
        Ok(())
    }

    /// An image of the wheels, without and with pruning: each from an empty store. What changes in all of them is
    /// compressed alone.
    fn image(&self, report: &mut Report) -> Result<(), String> {
        self.run("rm -rf image && mkdir -p image/pruned")?;
        fs_err::os::unix::fs::symlink(&self.wheels, self.at.join("image/wheels")).map_err(text)?;
        for (stack, wheels, prune) in [("image", "wheels", ""), ("image/pruned", "../wheels", "prune = true")] {
            self.run(&format!(
                "version=$(python3 -c 'import platform; print(platform.python_version())')\n\
                 cat > {stack}/kiln.toml <<END\n\
                 [stack]\nname = \"bench\"\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"${{version%.*}}\"\n\
                 gpus = [\"{GPUS}\"]\n[index]\nfind-links = [\"{wheels}\"]\n[images.torch]\nfrom = \"scratch\"\n\
                 packages = [\"torch=={TORCH}\"]\n{prune}\n\
                 base-facts = {{ interpreters = [{{ path = \"/usr/bin/python3\", version = \"$version\" }}], \
                 libc = {{ family = \"glibc\", version = \"2.36\" }} }}\nEND"
            ))?;
            self.run(&format!("'{}' -q --store image/store lock -f {stack}/kiln.toml", self.kiln.display()))?;
        }
        let build = |stack: &str| {
            let kiln = self.kiln.display();
            timed(&self.at, &format!("'{kiln}' -q --offline --store image/store build -f {stack}/kiln.toml --locked"))
        };
        let cold = |stack: &str| {
            self.run("rm -rf image/store && sync")?;
            build(stack)
        };
        let plain = self.figure("kiln build, cold", self.runs, || cold("image"))?;
        let pruned = self.figure("kiln build, cold, prune = true", self.runs, || cold("image/pruned"))?;
        let again = self.figure("kiln build, prune = true, nothing changed", self.runs, || build("image/pruned"))?;
        self.discard("copy")?;
        self.prune("tree --output copy")?;
        let files = self.report()?.inputs.into_iter().flat_map(|input| input.files);
        let changed: Vec<String> =
            files.filter(|file| file.is_pruned()).map(|file| format!("'copy/{}'", file.path.display())).collect();
        if changed.is_empty() {
            return Err("nothing was pruned".into());
        }
        let line = format!("cat {} | pigz -6 -p {} > /dev/null", changed.join(" "), report.cores);
        let bound = self.figure("pigz -6, what changes in all wheels", self.runs, || timed(&self.at, &line))?;
        report.notes.push(format!(
            "An image with `prune = true` takes {:.1} s longer, {:.2} times the time that pigz needs for what changes.",
            pruned.median - plain.median,
            (pruned.median - plain.median) / bound.median
        ));
        for figure in [plain, pruned, again, bound] {
            report.rows.push(Row { figure, bytes: None, bar: "" });
        }
        self.discard("copy")?;
        self.run("rm -rf image")
    }

    /// The same for the newest torch, listed by headers and by kernels.
    fn newest(&self, report: &mut Report) -> Result<(), String> {
        self.other(NEWEST, "", report)?;
        self.warm("tree")?;
        let kiln = self.kiln.display();
        for (arguments, bar) in
            [("inspect tree --json", "0.2 s, 30 MB"), ("verify tree --gpus H100 --kernels", "5 s, 200 MB")]
        {
            let line = format!("'{kiln}' {arguments} > listed.txt");
            let figure =
                self.figure(&format!("kiln {arguments} (torch {NEWEST})"), self.runs, || timed(&self.at, &line))?;
            report.rows.push(Row { figure, bytes: None, bar });
        }
        Ok(())
    }

    /// The same for another torch, of which only sizes count.
    fn other(&self, version: &str, bar: &'static str, report: &mut Report) -> Result<(), String> {
        self.unpack(version, &format!("torch-{version}"))?;
        for part in &PARTS {
            let mut row = self.copied(part, 1)?;
            row.figure.name = format!("{} (torch {version})", row.figure.name);
            row.bar = if part.bar.is_empty() { "" } else { bar };
            report.rows.push(row);
        }
        Ok(())
    }
}

impl Part {
    /// What kiln is given, in a tree.
    fn inputs(&self, tree: &str) -> String {
        if self.directories.is_empty() {
            return tree.to_owned();
        }
        self.directories.iter().map(|directory| format!("{tree}/{directory} ")).collect()
    }
}

fn table(report: &Report) -> String {
    let mut text = format!(
        "torch {} and its dependencies, pruned to {}, {} cores, page cache warm; medians\n\n\
         | what | seconds | processor seconds | peak MB | MB before | MB after | less | bar |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n",
        report.torch, report.gpus, report.cores
    );
    for Row { figure, bytes, bar } in &report.rows {
        let sizes = bytes.map_or_else(
            || " |  | ".to_owned(),
            |(before, after)| {
                let less = before.saturating_sub(after) as f64 / before.max(1) as f64 * 100.0;
                format!("{} | {} | -{less:.1}%", before / 1_000_000, after / 1_000_000)
            },
        );
        text.push_str(&format!(
            "| {} | {:.2} | {:.2} | {} | {sizes} | {bar} |\n",
            figure.name,
            figure.median,
            figure.cpu,
            figure.peak / 1_000_000,
        ));
    }
    text.push('\n');
    text.push_str(&report.notes.join("\n"));
    text
}
