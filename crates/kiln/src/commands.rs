//! The command line as typed; one file for each command.

pub(crate) mod build;
pub(crate) mod cache;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod du;
pub(crate) mod explain;
pub(crate) mod gc;
pub(crate) mod gpus;
pub(crate) mod index;
pub(crate) mod inspect;
pub(crate) mod lock;
pub(crate) mod login;
pub(crate) mod plan;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod schema;
pub(crate) mod store;
pub(crate) mod verify;

use std::io::Write;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use kiln_engine::{BuildError, Output, Project, Workshop};
use kiln_plan::event::{Cancel, Event, Reporter, SharedReporter};
use kiln_plan::gpu::{Capability, GpuNames, GpuRequest, Suffix};
use kiln_plan::stack::{self, Overrides, Stack};
use kiln_store::Store;

use crate::arguments::{Global, StackOptions};
use crate::progress::Terminal;
use crate::render::{Failure, plain};
use crate::surroundings::{native_gpus, store_directory, surroundings};

/// A command's result.
pub(crate) type Outcome = Result<ExitCode, Failure>;

/// From one stack file to verified, small, reproducible GPU images: wheels become layers without a container runtime.
#[derive(Debug, Parser)]
#[command(name = "kiln", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build images
    Build(build::Build),
    /// Resolve bases and packages, and write `kiln.lock`
    Lock(lock::LockCommand),
    /// Say what a build would do, what is known already, and what it will cost; nothing is done
    Plan(plan::Plan),
    /// Say why images would be built again, or were
    Explain(explain::Explain),
    /// Copy an image from a registry to a layout, an archive or the Docker daemon
    Pull(pull::Pull),
    /// Push an image of an OCI layout to a registry
    Push(push::Push),
    /// Join what several machines pushed for their platforms, and move the tags
    Index(index::IndexCommand),
    /// Keep credentials for a registry
    Login(login::Login),
    /// Forget credentials for a registry
    Logout(login::Logout),
    /// Look after the results that machines share through a registry
    Cache(cache::CacheCommand),
    /// List what is in images, wheels, directories and libraries, GPU code included
    Inspect(inspect::Inspect),
    /// Prove that images, wheels and directories can run: their GPU code, and the libraries that they need
    Verify(verify::Verify),
    /// Cut GPU code that some GPUs do not need out of libraries and wheels
    Prune(prune::Prune),
    /// List GPU names and capabilities, and which CUDA releases compile for them
    Gpus(gpus::Gpus),
    /// Say what the store takes up
    Du(du::Du),
    /// Remove what was used least recently from the store
    Gc(gc::Gc),
    /// Look after what the store holds
    Store(store::StoreCommand),
    /// Say what works on this machine and what does not, and what to do about it
    Doctor(doctor::Doctor),
    /// Print the JSON schema of the stack file
    Schema(schema::SchemaCommand),
    /// Print a completion script for a shell
    Completions(completions::Completions),
}

/// Runs a command.
pub(crate) fn run(arguments: &Arguments, cancel: &Cancel) -> Outcome {
    let global = &arguments.global;
    match &arguments.command {
        Command::Build(command) => command.run(global, cancel),
        Command::Lock(command) => command.run(global, cancel),
        Command::Plan(command) => command.run(global, cancel),
        Command::Explain(command) => command.run(global, cancel),
        Command::Pull(command) => command.run(global, cancel),
        Command::Push(command) => command.run(global, cancel),
        Command::Index(command) => command.run(global, cancel),
        Command::Login(command) => command.run(global, cancel),
        Command::Logout(command) => command.run(global, cancel),
        Command::Cache(command) => command.run(global, cancel),
        Command::Inspect(command) => command.run(global, cancel),
        Command::Verify(command) => command.run(global, cancel),
        Command::Prune(command) => command.run(global, cancel),
        Command::Gpus(command) => command.run(global, cancel),
        Command::Du(command) => command.run(global, cancel),
        Command::Gc(command) => command.run(global, cancel),
        Command::Store(command) => command.run(global, cancel),
        Command::Doctor(command) => command.run(global, cancel),
        Command::Schema(command) => command.run(),
        Command::Completions(command) => command.run(),
    }
}

/// The stack file's path, text and meaning.
fn read_stack(global: &Global, options: &StackOptions) -> Result<(String, Stack), Failure> {
    let path = global.file.display().to_string();
    let text = fs_err::read_to_string(&global.file).map_err(|error| {
        let hint = "say where the stack file is: `-f FILE`; or write one: the README begins with an example";
        match error.kind() {
            std::io::ErrorKind::NotFound => Failure::usage(format!("there is no stack file `{path}`")).hint(hint),
            _ => Failure::from(error),
        }
    })?;
    let overrides = Overrides {
        variant: options.variant.clone(),
        vars: options.vars.iter().cloned().collect(),
        gpus: options.gpus.clone(),
        platforms: options.platform.clone(),
    };
    let stack = stack::read(&text, &overrides).map_err(|error| Failure::from(error).in_stack(&path, &text))?;
    Ok((text, stack))
}

/// Opens the stack and the store, and does something with both.
fn with_project<T>(
    global: &Global,
    options: &StackOptions,
    cancel: &Cancel,
    run: impl FnOnce(&Project<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_reported_project(global, options, cancel, Arc::new(Terminal::new(global)), run)
}

/// Opens the stack and the store, and does something with both that a reporter is told of.
fn with_reported_project<T>(
    global: &Global,
    options: &StackOptions,
    cancel: &Cancel,
    reporter: Arc<dyn Reporter>,
    run: impl FnOnce(&Project<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (text, stack) = read_stack(global, options)?;
    let store = open_store(global, cancel, &*reporter)?;
    let directory = global.file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let shared = SharedReporter::new(Arc::clone(&reporter));
    let surroundings = surroundings(global, stack.has_native_gpus(), &shared, cancel)?;
    let workshop = Workshop::new(&store, reporter, cancel.clone(), surroundings);
    stack.warnings.iter().for_each(|warning| workshop.warn(warning));
    let directory = fs_err::canonicalize(directory)?;
    let file = directory.join(global.file.file_name().unwrap_or_default());
    let project = Project { directory, file, stack, workshop };
    run(&project).map_err(|failure| failure.in_stack(&global.file.display().to_string(), &text))
}

/// Opens the store, and does something that needs no stack.
fn with_workshop<T>(
    global: &Global,
    cancel: &Cancel,
    run: impl FnOnce(&Workshop<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let terminal: Arc<dyn Reporter> = Arc::new(Terminal::new(global));
    let store = open_store(global, cancel, &*terminal)?;
    let shared = SharedReporter::new(Arc::clone(&terminal));
    let surroundings = surroundings(global, false, &shared, cancel)?;
    run(&Workshop::new(&store, terminal, cancel.clone(), surroundings))
}

fn open_store(global: &Global, cancel: &Cancel, reporter: &dyn Reporter) -> Result<Store, Failure> {
    let directory = store_directory(global)?;
    Ok(Store::open_waiting(
        &directory,
        &mut waiting(cancel, reporter, "another kiln opens it or removes garbage from it"),
    )?)
}

/// Tells once that another process has the store, until the user wants to stop.
fn waiting(cancel: &Cancel, reporter: &dyn Reporter, reason: &'static str) -> impl FnMut() -> kiln_store::Result<()> {
    let mut is_said = false;
    move || {
        cancel.check().map_err(std::io::Error::from)?;
        if !std::mem::replace(&mut is_said, true) {
            reporter.event(Event::Waiting { subject: "the store".into(), reason });
        }
        Ok(())
    }
}

/// Fails where several images would go to stdout, one behind the other.
fn require_one_stdout(outputs: &[Output]) -> Result<(), Failure> {
    match outputs.iter().filter(|output| output.is_stdout()).count() {
        0 | 1 => Ok(()),
        _ => Err(Failure::usage("several outputs go to stdout").hint("name a file for all but one of them")),
    }
}

/// Prints a result on stdout; on stderr where an image goes to stdout, which then holds nothing else.
fn print_beside(outputs: &[Output], text: &str) -> Outcome {
    if outputs.iter().any(Output::is_stdout) { print_to(std::io::stderr().lock(), text) } else { print(text) }
}

/// Prints a result on stdout.
fn print(text: &str) -> Outcome {
    print_to(std::io::stdout().lock(), text)
}

fn print_to(mut out: impl Write, text: &str) -> Outcome {
    match out.write_all(plain(text).as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough, as `head` does.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure::from(BuildError::Io(error))),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

/// Prints a JSON document on stdout.
fn print_json(value: &serde_json::Value) -> Outcome {
    print(&json_text(value))
}

fn json_text(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

/// A size on the command line.
fn size_value(text: &str) -> Result<u64, String> {
    kiln_plan::size::parse(text).ok_or_else(|| "write a number with a unit: `20GB`, `512MiB`".into())
}

/// The GPUs of a command line.
#[derive(Debug, Clone, Default)]
struct Asked {
    /// Their capabilities, ascending.
    gpus: Vec<Capability>,
    /// The names that they were asked for under.
    names: GpuNames,
    /// True if code for later GPUs is wanted too: `8.0+PTX`, `compute_80`.
    ptx: bool,
}

impl Asked {
    /// Reads requests, each of which may be a list; of `native`, the GPUs of this machine.
    fn read(texts: &[String], global: &Global, cancel: &Cancel) -> Result<Self, Failure> {
        let mut asked = Self::default();
        let terminal = Terminal::new(global);
        for text in texts {
            let requests = GpuRequest::parse_list(text).map_err(|error| {
                let hint = error.hint().unwrap_or_else(|| "`kiln gpus` lists every name and capability".into());
                Failure::usage(error.to_string()).hint(hint)
            })?;
            for (text, request) in requests {
                if request == GpuRequest::Native {
                    asked.gpus.extend(native(&terminal, cancel)?);
                }
                if let Some(message) = names_code(&text, &request) {
                    terminal.event(Event::Warning { message });
                }
                asked.names.add(&text, &request);
                asked.gpus.extend(request.capabilities());
                asked.ptx |= request.asks_for_ptx();
            }
        }
        asked.gpus.sort_unstable();
        asked.gpus.dedup();
        Ok(asked)
    }
}

/// The capabilities of this machine's GPUs.
fn native(terminal: &Terminal, cancel: &Cancel) -> Result<Vec<Capability>, Failure> {
    let native = native_gpus(terminal, cancel)?;
    if native.is_empty() {
        return Err(Failure::usage("no GPU of this machine can be seen").hint("name one: `H100`"));
    }
    Ok(native.iter().filter_map(|text| text.parse().ok()).collect())
}

/// Says of a request with a suffix that it names code, where GPUs are asked for.
fn names_code(text: &str, request: &GpuRequest) -> Option<String> {
    let architectures = request.architectures().unwrap_or_default();
    let code = architectures.iter().find(|architecture| architecture.suffix != Suffix::None)?;
    Some(format!("`{text}` names code: it is taken for all GPUs of capability {}", code.capability))
}

/// Refuses a path that leads to neither a file nor a directory: reading from a pipe would wait for who writes into it.
fn require_file(path: &Path) -> Result<(), Failure> {
    // One that is not there is for its reader to name.
    let Ok(found) = fs_err::metadata(path) else { return Ok(()) };
    let other = match found.file_type() {
        kind if kind.is_file() || kind.is_dir() => return Ok(()),
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    let message = format!("`{}` is {other}", path.display());
    Err(Failure::usage(message).hint("name a file or a directory; a pipe's content must be in a file first"))
}

/// `1 layer`, `2 layers`.
fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// Rows with columns that line up.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
