//! What comes from outside: the environment, the home directory, the processors. Only the command line looks at it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use kiln_engine::{BuildError, Netrc, Signer, Surroundings};
use kiln_plan::event::{Cancel, Reporter, SharedReporter, Work};
use kiln_programs::{Call, ChildEnvironment, Names, PATH, ProgramError};
use kiln_registry::{Credentials, Options, Proxies};

use crate::arguments::Global;
use crate::render::Failure;

/// The store's directory: what was said, else `kiln` below the XDG cache directory.
pub(crate) fn store_directory(global: &Global) -> Result<PathBuf, Failure> {
    if let Some(store) = &global.store {
        return Ok(store.clone());
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("kiln"))
        .ok_or_else(|| {
            Failure::usage("there is no home directory to keep the store in").hint("say where: `--store DIR`")
        })
}

/// Everything that a build works with and no file says.
pub(crate) fn surroundings(
    global: &Global,
    native: bool,
    reporter: &SharedReporter,
    cancel: &Cancel,
) -> Result<Surroundings, Failure> {
    Ok(Surroundings {
        program: std::env::current_exe()?,
        environment: child_environment(),
        netrc: netrc(),
        registry: registry(global, reporter, cancel),
        signer: signer()?,
        jobs: jobs(global),
        offline: global.offline,
        created: created(std::env::var_os("SOURCE_DATE_EPOCH"))?,
        apt: "/etc/apt".into(),
        native_gpus: if native { native_gpus(reporter, cancel)? } else { Vec::new() },
    })
}

/// The environment that programs are given parts of.
pub(crate) fn child_environment() -> ChildEnvironment {
    ChildEnvironment::new(std::env::vars_os())
}

/// How registries are spoken to.
pub(crate) fn registry(global: &Global, reporter: &SharedReporter, cancel: &Cancel) -> Options {
    Options {
        credentials: Credentials {
            files: credential_files(),
            environment: child_environment(),
            reporter: reporter.clone(),
            cancel: cancel.clone(),
        },
        insecure: global.insecure,
        offline: global.offline,
        certificates: certificate_directories(),
        proxies: proxies(),
        ..Options::default()
    }
}

/// A variable that is a path.
fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn below_home(part: &str) -> Option<PathBuf> {
    path("HOME").map(|home| home.join(part))
}

/// Returns the directory of the user's configuration files.
fn config_home() -> Option<PathBuf> {
    path("XDG_CONFIG_HOME").or_else(|| below_home(".config"))
}

/// Where Docker and podman keep credentials, in the order in which they are asked; new ones go into the first.
fn credential_files() -> Vec<PathBuf> {
    if let Some(file) = path("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let docker = path("DOCKER_CONFIG").or_else(|| below_home(".docker")).map(|docker| docker.join("config.json"));
    // Without a session, podman keeps them below the user's number (containers-auth.json(5)).
    let runtime = path("XDG_RUNTIME_DIR").map(|run| run.join("containers/auth.json"));
    let runtime =
        runtime.unwrap_or_else(|| format!("/run/containers/{}/auth.json", rustix::process::getuid().as_raw()).into());
    let config = config_home().map(|dir| dir.join("containers/auth.json"));
    [docker, Some(runtime), config, below_home(".dockercfg")].into_iter().flatten().collect()
}

/// Returns the directories in which podman and Docker keep certificates of registries (containers-certs.d(5); docs.docker.com, "Verify repository
/// client with certificates", "Rootless mode").
fn certificate_directories() -> Vec<PathBuf> {
    let user = |program: &str| config_home().map(|dir| dir.join(program).join("certs.d"));
    let all = |program: &str| Some(Path::new("/etc").join(program).join("certs.d"));
    [user("containers"), all("containers"), user("docker"), all("docker")].into_iter().flatten().collect()
}

/// The proxies of this machine, by the variables that Go's programs read; `ALL_PROXY`, which curl reads, stands for either.
fn proxies() -> Proxies {
    let any = |names: &[&str]| {
        let values = names.iter().filter_map(|name| std::env::var(name).ok());
        values.into_iter().find(|value| !value.is_empty()).unwrap_or_default()
    };
    let all = ["ALL_PROXY", "all_proxy"];
    // A server's program finds the header `Proxy` of a request in `HTTP_PROXY` (CVE-2016-5386).
    let http: &[&str] = if path("REQUEST_METHOD").is_some() { &["http_proxy"] } else { &["HTTP_PROXY", "http_proxy"] };
    Proxies::new(
        &any(&[http, all.as_slice()].concat()),
        &any(&[["HTTPS_PROXY", "https_proxy"].as_slice(), all.as_slice()].concat()),
        &any(&["NO_PROXY", "no_proxy"]),
    )
}

/// The secret key of this machine, where it has one: the key itself, or the file that holds it.
fn signer() -> Result<Option<Signer>, Failure> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let (name, text) = match (set("KILN_CACHE_KEY"), set("KILN_CACHE_KEY_FILE")) {
        (Some(text), _) => ("KILN_CACHE_KEY", text.to_string_lossy().into_owned()),
        (None, Some(file)) => {
            let read = fs_err::read_to_string(PathBuf::from(file));
            let absent = |error| Failure::usage(format!("`KILN_CACHE_KEY_FILE`: {error}"));
            ("KILN_CACHE_KEY_FILE", read.map_err(absent)?)
        }
        (None, None) => return Ok(None),
    };
    let wrong = |error| Failure::usage(format!("`{name}`: {error}")).hint("`kiln cache keygen FILE` makes one");
    Signer::parse(&text).map(Some).map_err(wrong)
}

/// Threads that work at once.
pub(crate) fn jobs(global: &Global) -> usize {
    global.jobs.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
}

/// The time that images are said to be made at (reproducible-builds.org, "SOURCE_DATE_EPOCH").
fn created(variable: Option<OsString>) -> Result<u64, Failure> {
    let Some(value) = variable.filter(|value| !value.is_empty()) else { return Ok(kiln_oci::time::CREATED) };
    let seconds = value.to_str().and_then(|text| text.parse().ok()).filter(|seconds| *seconds < 253_402_300_800);
    seconds.ok_or_else(|| {
        Failure::usage(format!("`SOURCE_DATE_EPOCH` is `{}`", value.display()))
            .hint("it is a number of seconds since 1970")
    })
}

fn netrc() -> Netrc {
    let file = std::env::var_os("NETRC").map(PathBuf::from);
    let file = file.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".netrc")));
    let text = file.and_then(|file| fs_err::read_to_string(file).ok());
    text.map(|text| Netrc::parse(&text)).unwrap_or_default()
}

/// The variables that nvidia-smi needs: the places of the driver's library, which some systems keep in a place of their own.
pub(crate) const NVIDIA_SMI: Names = &[PATH, &["LD_LIBRARY_PATH"]];

/// Returns the capabilities of this machine's GPUs, as the driver's own tool tells them. A machine without the tool has no
/// GPU.
pub(crate) fn native_gpus(reporter: &dyn Reporter, cancel: &Cancel) -> Result<Vec<String>, Failure> {
    let work = Work::start(reporter, cancel, "ask", "nvidia-smi", None);
    let call = Call::new("nvidia-smi", NVIDIA_SMI).args(["--query-gpu=compute_cap", "--format=csv,noheader"]);
    let output = match call.run(&child_environment(), &work) {
        Ok(output) => output,
        Err(ProgramError::Interrupted) => return Err(BuildError::Interrupted.into()),
        // Some drivers end with an error after they have told of the GPUs that work.
        Err(ProgramError::Failed(failed)) => failed.stdout,
        Err(_) => return Ok(Vec::new()),
    };
    let text = String::from_utf8_lossy(&output);
    let mut found: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    found.retain(|capability| capability.parse::<kiln_plan::gpu::Capability>().is_ok());
    found.sort();
    found.dedup();
    Ok(found)
}
