//! Proxies, and the certificates of single registries: as skopeo takes them.

use std::path::Path;
use std::process::Command;

use kiln_registry::testing::Spy;

use super::Fixture;
use crate::interop::registries::machine::Outcome;
use crate::interop::registries::server::{Options, Registry};
use crate::interop::registries::{make_certificates, skopeo};
use crate::interop::report::{Checks, none, same};
use crate::interop::{Result, transports};

/// Values of `NO_PROXY` beside a registry at 0.0.0.0, which no program takes for this machine's own address.
const DIRECT: [&str; 14] = [
    "",
    "*",
    "other.example,*",
    "0.0.0.0",
    "other.example, 0.0.0.0",
    " 0.0.0.0 ",
    "0.0.0.0:PORT",
    "0.0.0.0:1",
    "0.0.0.0/8",
    "0.0.0.0/0",
    "10.0.0.0/8",
    "*.example,.example",
    "0.0.0.0/33",
    "0.0.0",
];

/// Makes the checks.
pub(super) fn check(fixture: &Fixture, checks: &mut Checks) {
    checks.check(&format!("{} values of NO_PROXY mean what they mean to skopeo", DIRECT.len()), || {
        let address = fixture.hub.foreign_address();
        let reference = format!("{address}/acme/docker-full:1");
        let port = address.rsplit_once(':').map_or("", |(_, port)| port);
        let mut wrong = Vec::new();
        for value in DIRECT {
            let value = value.replace("PORT", port);
            let mut skopeo = transports::skopeo();
            skopeo.args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{reference}")]);
            let mut kiln = fixture.machine("proxied")?.project("nothing", "")?.kiln();
            kiln.args(["--insecure", "pull", &reference, "--output", "oci:pulled"]);
            let (expected, found) = (uses_proxy(&skopeo, &value)?, uses_proxy(&kiln, &value)?);
            if found != expected {
                wrong.push(format!("`{value}`: {found}, and for skopeo {expected}"));
            }
        }
        none("values are read otherwise", &wrong)
    });
    let Some(registry) = checks.check("a registry wants a certificate of its clients", || guarded(fixture)) else {
        return;
    };
    for (program, directory) in [("containers", ".config/containers"), ("Docker", ".config/docker")] {
        checks.check(&format!("certificates of a registry are found where {program} keeps them"), || {
            certificates(fixture, &registry, directory)
        });
    }
}

/// Runs a program with a proxy that passes nothing on; true if that was asked. What waits for it is ended.
fn uses_proxy(program: &Command, no_proxy: &str) -> Result<bool> {
    let proxy = Spy::answering("404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let mut command = Command::new("timeout");
    command.arg("5").arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(directory) = program.get_current_dir() {
        command.current_dir(directory);
    }
    for name in ["http_proxy", "https_proxy", "no_proxy", "ALL_PROXY", "all_proxy", "REQUEST_METHOD"] {
        command.env_remove(name);
    }
    command.env("HTTP_PROXY", proxy.address()).env("HTTPS_PROXY", proxy.address()).env("NO_PROXY", no_proxy);
    command.output()?;
    Ok(!proxy.requests().is_empty())
}

/// A registry that speaks TLS with those alone who have a certificate of its authority.
fn guarded(fixture: &Fixture) -> Result<Registry> {
    let directory = fixture.directory.join("certificates");
    make_certificates(&directory)?;
    let tls = Some((directory.join("registry.crt"), directory.join("registry.key")));
    let options = Options { tls, client_authority: Some(directory.join("ca.crt")), ..Options::default() };
    Registry::start(&fixture.directory.join("certain"), &options)
}

fn certificates(fixture: &Fixture, registry: &Registry, place: &str) -> Result<()> {
    let made = fixture.directory.join("certificates");
    let address = registry.foreign_address();
    let name = place.replace(['/', '.'], "-");
    let text = format!(
        "[stack]\nname = \"t\"\nregistry = \"{address}/acme\"\n\n[target]\nplatforms = [\"linux/amd64\"]\n\n[images.a]\nfrom = \
         \"scratch\"\ncopy = [{{ from = \"f\", to = \"/f\" }}]\n"
    );
    let machine = fixture.machine(&name)?.project(&name, &text)?.with_file("f", name.as_bytes())?;
    let directory = fixture.directory.join(&name).join("home").join(place).join("certs.d").join(&address);
    let push = || Outcome::of(machine.kiln().env_remove("SSL_CERT_FILE").args(["build", "--push"]), "");
    push()?.failed_with(&["certificate"])?;
    copy(&made, &directory, &[("ca.crt", "ca.crt")])?;
    same("whether anybody may push", push()?.succeeded().is_ok(), false)?;
    copy(&made, &directory, &[("registry.crt", "client.cert"), ("registry.key", "client.key")])?;
    push()?.succeeded()?;
    let directory = directory.to_str().ok_or("the path is not UTF-8")?;
    skopeo::raw(&format!("{address}/acme/t/a:latest"), &["--cert-dir", directory]).map(drop)
}

fn copy(from: &Path, to: &Path, names: &[(&str, &str)]) -> Result<()> {
    fs_err::create_dir_all(to)?;
    names.iter().try_for_each(|(old, new)| Ok(fs_err::copy(from.join(old), to.join(new)).map(drop)?))
}
