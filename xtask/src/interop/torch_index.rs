//! Builds of torch for the CUDA release of a stack, from PyTorch's own index: uv knows where that is, and kiln's source names no
//! host. The index itself cannot be reached from everywhere, so one that is laid out like it stands in its place, behind a proxy
//! that answers under whatever name it is asked for.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kiln_wheel::testing::WheelBuilder;

use super::report::{Checks, same};
use super::{Result, Suite, programs};

/// Makes the checks.
pub(crate) fn check(suite: &Suite, checks: &mut Checks) {
    let project = suite.work.join("torch-index");
    let Some(world) = checks.check("an index laid out like PyTorch's answers", || World::start(&project)) else {
        return;
    };
    checks.check("torch is for the CUDA release that the stack names, or for none", || {
        let locked = world.lock(suite, STACK)?;
        let versions = |image: &str| locked.get(image).cloned().unwrap_or_default();
        for (image, torch, vision) in [
            ("gpu", "2.7.1+cu128", "0.22.1+cu128"),
            ("cpu", "2.7.1+cpu", "0.22.1+cpu"),
            ("default", "2.7.1", "0.22.1"),
            ("same", "2.7.1", "0.22.1"),
            ("near", "2.7.1", "0.22.1"),
        ] {
            let found = versions(image);
            same(&format!("torch of `{image}`"), version(&found, "torch"), torch)?;
            same(&format!("torchvision of `{image}`"), version(&found, "torchvision"), vision)?;
        }
        same("what `above` adds", versions("above").keys().cloned().collect::<Vec<_>>().join(" "), "alpha".to_owned())
    });
    checks.check("an index that the stack names comes first", || {
        let (stack, _) = STACK.split_once("[images.cpu]").ok_or("the stack has no such image")?;
        let named = stack.replace(
            "[images.gpu]",
            "[index]\npackages = { torch = \"https://mirror.example/simple\" }\n\n[images.gpu]",
        );
        let locked = world.lock(suite, &named)?;
        same("torch", version(&locked["gpu"], "torch"), "2.7.1")
    });
    drop(world);
    suite.remove("torch-index");
}

/// One image for another release of CUDA than PyPI's torch, one for none, one that says nothing, one for the same release, one for
/// which PyTorch has no build, and one above the first.
const STACK: &str = r#"
[stack]
name = "torch"

[target]
platforms = ["linux/amd64"]
python = "3.11"

[groups]
torch = ["torch==2.7.1", "torchvision"]

[images.gpu]
from = "scratch"
FACTS
cuda = "12.8"
packages = ["@torch"]

[images.above]
from = "gpu"
packages = ["alpha"]

[images.cpu]
from = "scratch"
FACTS
cuda = "none"
packages = ["@torch"]

[images.default]
from = "scratch"
FACTS
packages = ["@torch"]

[images.same]
from = "scratch"
FACTS
cuda = "12.6"
packages = ["@torch"]

[images.near]
from = "scratch"
FACTS
cuda = "12.4"
packages = ["@torch"]
"#;

/// A proxy that is every server there is.
struct World {
    server: Child,
    port: u16,
    project: PathBuf,
}

impl World {
    fn start(project: &Path) -> Result<Self> {
        let (served, authority) = (project.join("served"), project.join("authority"));
        fs_err::create_dir_all(&authority)?;
        wheels(&served)?;
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=kiln tests"]);
        openssl.arg("-keyout").arg(authority.join("ca.key")).arg("-out").arg(authority.join("ca.pem"));
        programs::output(&mut openssl)?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut server = Command::new("python3");
        server.args(["-c", include_str!("torch_index/serve.py")]).arg(port.to_string()).arg(&served).arg(&authority);
        let log = fs_err::File::create(project.join("requests"))?;
        let server = server.stdout(log.into_file()).stderr(Stdio::null()).spawn()?;
        let world = Self { server, port, project: project.to_owned() };
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(world);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("the proxy does not answer".into())
    }

    /// Locks a stack, and returns versions by image and package.
    fn lock(&self, suite: &Suite, stack: &str) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
        let _ = fs_err::remove_file(self.project.join("kiln.lock"));
        let facts = "base-facts = { libc = { family = \"glibc\", version = \"2.36\" }, \
                     interpreters = [{ path = \"/usr/bin/python3.11\", version = \"3.11.9\" }] }";
        fs_err::write(self.project.join("kiln.toml"), stack.replace("FACTS", facts))?;
        // A store of its own: what was learnt of the real servers is of no use here.
        let mut kiln = Command::new(&suite.kiln);
        kiln.arg("--store").arg(self.project.join("store")).current_dir(&self.project);
        let uv = super::requirements::uv(suite, &self.project.join("uv"))?;
        let path = std::env::var("PATH").unwrap_or_default();
        kiln.env("PATH", format!("{}:{path}", uv.parent().unwrap_or(Path::new("/")).display()));
        let proxy = format!("http://127.0.0.1:{}", self.port);
        for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
            kiln.env(name, &proxy);
        }
        kiln.env("SSL_CERT_FILE", self.project.join("authority/ca.pem")).env_remove("SSL_CERT_DIR");
        programs::output(kiln.arg("lock"))?;
        let lock: toml::Table = fs_err::read_to_string(self.project.join("kiln.lock"))?.parse()?;
        let text = |value: &toml::Value, key: &str| value.get(key).and_then(toml::Value::as_str).map(str::to_owned);
        let mut images = BTreeMap::new();
        for image in lock.get("image").and_then(toml::Value::as_array).into_iter().flatten() {
            let packages = image.get("packages").and_then(toml::Value::as_array).into_iter().flatten();
            let packages = packages.filter_map(|package| Some((text(package, "name")?, text(package, "version")?)));
            images.insert(text(image, "name").unwrap_or_default(), packages.collect());
        }
        Ok(images)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn version<'v>(versions: &'v BTreeMap<String, String>, package: &str) -> &'v str {
    versions.get(package).map_or("none", String::as_str)
}

/// Writes the wheels: PyPI's torch is for CUDA 12.6, as 2.7.1 is, and PyTorch's own are for 12.8 and for none.
fn wheels(served: &Path) -> Result<()> {
    let wheel = |name: &str, version: &str, requires: &[String]| {
        let wheel = WheelBuilder::new(name, version).file(&format!("{name}/__init__.py"), "x = 1\n");
        requires.iter().fold(wheel, |wheel, one| wheel.requires(one))
    };
    let runtime = "nvidia_cuda_runtime_cu12";
    let torch = |local: &str, cuda: Option<&str>| {
        let runtime: Vec<String> = cuda.map(|version| format!("{runtime}=={version}")).into_iter().collect();
        let torch = wheel("torch", &format!("2.7.1{local}"), &runtime);
        [torch, wheel("torchvision", &format!("0.22.1{local}"), &[format!("torch==2.7.1{local}")])]
    };
    let put = |place: &str, wheel: &WheelBuilder| -> Result<()> {
        let file = wheel.file_name();
        let name = file.split('-').next().unwrap_or_default().replace('_', "-");
        let directory = served.join(place).join(name);
        fs_err::create_dir_all(&directory)?;
        Ok(fs_err::write(directory.join(file), wheel.finish())?)
    };
    for wheel in torch("", Some("12.6.77")) {
        put("simple", &wheel)?;
    }
    put("simple", &wheel("alpha", "1.0", &["torch>=2".to_owned()]))?;
    for version in ["12.6.77", "12.8.57"] {
        put("simple", &wheel(runtime, version, &[]))?;
    }
    for (tag, local, cuda) in [("cu128", "+cu128", Some("12.8.57")), ("cpu", "+cpu", None)] {
        for wheel in torch(local, cuda) {
            put(&format!("whl/{tag}"), &wheel)?;
        }
    }
    put("whl/cu128", &wheel(runtime, "12.8.57", &[]))
}
