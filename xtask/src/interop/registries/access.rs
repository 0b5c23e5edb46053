//! Registries that want to know who one is, and registries whose certificate only their own people know.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::machine::{Machine, Outcome};
use super::server::{Options, Registry};
use super::{Fixture, beginning, skopeo};
use crate::interop::report::{Checks, same};
use crate::interop::transports::digest;
use crate::interop::{Result, programs};

const USER: &str = "alice";
/// Some of it means something to a shell, to a URL, or between user and password.
const PASSWORD: &str = "s3cr:t &%41$x";

/// Makes the checks.
pub(crate) fn check(fixture: &Fixture, checks: &mut Checks) {
    if let Some((registry, machine)) = checks.check("a registry asks for a password", || guarded(fixture)) {
        passwords(&registry, &machine, checks);
    }
    if let Some((registry, authority)) =
        checks.check("a registry has a certificate of its own authority", || private(fixture))
    {
        certificates(fixture, &registry, &authority, checks);
    }
}

/// A project with an image of a single small layer.
fn project(fixture: &Fixture, name: &str, address: &str) -> Result<Machine> {
    let text = format!(
        "{}[images.app]\nfrom = \"scratch\"\ncopy = [{{ from = \"src\", to = \"/app\" }}]\n",
        beginning(address, &["linux/amd64"])
    );
    fixture.machine(name)?.project(name, &text)?.with_file("src/main.py", b"print('hello')\n")
}

fn guarded(fixture: &Fixture) -> Result<(Registry, Machine)> {
    let file = fixture.directory.join("htpasswd");
    let mut htpasswd = Command::new("htpasswd");
    programs::output(htpasswd.args(["-B", "-b", "-c"]).arg(&file).args([USER, PASSWORD]))?;
    let options = Options { htpasswd: Some(file), ..Options::default() };
    let registry = Registry::start(&fixture.directory.join("guarded"), &options)?;
    let machine = project(fixture, "login", &registry.address())?;
    Ok((registry, machine))
}

fn passwords(registry: &Registry, machine: &Machine, checks: &mut Checks) {
    let address = registry.address();
    let login = |password: &str| {
        Outcome::of(machine.kiln().args(["login", &address, "--user", USER, "--password-stdin"]), password)
    };
    checks.check("without a password a push fails and says what to do", || {
        Outcome::of(machine.kiln().args(["build", "--push"]), "")?
            .failed_with(&["wants credentials", &format!("kiln login {address}")])
    });
    checks.check("a wrong password is refused and not kept", || {
        login("wrong")?.failed_with(&["does not accept the credentials"])?;
        same("whether anything was kept", machine.credentials().exists(), false)
    });
    checks.check("after a login a push works", || {
        login(&format!("{PASSWORD}\n"))?.succeeded()?;
        machine.push(&[]).map(drop)
    });
    checks.check("skopeo uses the credentials that kiln keeps", || {
        let told = machine.push(&[])?;
        let pushed = told.pushed("app")?;
        let file = machine.credentials();
        let file = file.to_str().ok_or("the path is not UTF-8")?;
        let found = skopeo::raw(&pushed.reference(), &["--tls-verify=false", "--authfile", file])?;
        same("the digest of the index", digest(&found), pushed.digest.clone())
    });
    checks.check("kiln uses the credentials that skopeo keeps", || {
        let (file, reference) = (machine.project.join("auth.json"), format!("{address}/acme/arr/app"));
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["login", "--tls-verify=false", "--username", USER, "--password-stdin", "--authfile"]);
        Outcome::of(skopeo.arg(&file).arg(&address), PASSWORD)?.succeeded()?;
        Outcome::of(machine.kiln().args(["logout", &address]), "")?.succeeded()?;
        Outcome::of(machine.kiln().args(["pull", &reference, "--output", "oci:none"]), "")?
            .failed_with(&["kiln login"])?;
        let mut kiln = machine.kiln();
        kiln.env("REGISTRY_AUTH_FILE", &file);
        Outcome::of(kiln.args(["pull", &reference, "--output", "oci:pulled", "--platform", "linux/amd64"]), "")?
            .succeeded()
    });
}

/// Makes a certificate of an authority (`ca.crt`) and one of a registry on this machine (`registry.crt`, `registry.key`),
/// which serves a client too.
pub(crate) fn make_certificates(directory: &Path) -> Result<()> {
    fs_err::create_dir_all(directory)?;
    let openssl =
        |arguments: &[&str]| programs::output(Command::new("openssl").args(arguments).current_dir(directory)).map(drop);
    let request = ["req", "-newkey", "rsa:2048", "-nodes"];
    let authority = ["-x509", "-days", "2", "-subj", "/CN=interop authority", "-keyout", "ca.key", "-out", "ca.crt"];
    openssl(&[&request[..], &authority].concat())?;
    openssl(&[&request[..], &["-subj", "/CN=interop registry", "-keyout", "registry.key", "-out", "csr"]].concat())?;
    fs_err::write(directory.join("names"), "subjectAltName=IP:127.0.0.1,IP:0.0.0.0,DNS:localhost\n")?;
    let sign = ["x509", "-req", "-in", "csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"];
    openssl(&[&sign[..], &["-extfile", "names", "-out", "registry.crt"]].concat())
}

/// A registry that speaks TLS, and the certificate of the authority that vouches for it.
fn private(fixture: &Fixture) -> Result<(Registry, PathBuf)> {
    let directory = fixture.directory.join("certificates");
    make_certificates(&directory)?;
    let tls = Some((directory.join("registry.crt"), directory.join("registry.key")));
    let registry = Registry::start(&fixture.directory.join("private"), &Options { tls, ..Options::default() })?;
    // skopeo takes every file beside it for a certificate too.
    let trusted = directory.join("trusted");
    fs_err::create_dir_all(&trusted)?;
    fs_err::copy(directory.join("ca.crt"), trusted.join("ca.crt"))?;
    Ok((registry, trusted.join("ca.crt")))
}

fn certificates(fixture: &Fixture, registry: &Registry, authority: &Path, checks: &mut Checks) {
    let addresses = [
        ("an address elsewhere", "elsewhere", registry.foreign_address()),
        ("this machine's address", "here", registry.address()),
    ];
    for (kind, name, address) in addresses {
        let push = |how: &str, arguments: &[&str], authority: Option<&Path>| {
            let machine = project(fixture, &format!("{name}-{how}"), &address)?;
            let mut kiln = machine.kiln();
            kiln.env_remove("SSL_CERT_DIR").env_remove("SSL_CERT_FILE");
            kiln.envs(authority.map(|file| ("SSL_CERT_FILE", file)));
            Outcome::of(kiln.args(["build", "--push"]).args(arguments), "")
        };
        checks.check(&format!("a certificate that nobody vouches for is refused at {kind}"), || {
            push("refused", &[], None)?.failed_with(&["certificate"])
        });
        checks.check(&format!("a private authority that is named is trusted at {kind}"), || {
            push("trusted", &[], Some(authority))?.succeeded()?;
            let reference = format!("{address}/acme/arr/app:latest");
            let directory = authority.parent().and_then(Path::to_str).ok_or("the path is not UTF-8")?;
            skopeo::raw(&reference, &["--cert-dir", directory]).map(drop)
        });
        checks.check(&format!("any certificate does at {kind} where that is asked for"), || {
            push("insecure", &["--insecure"], None)?.succeeded()
        });
    }
}
