//! Credential files in the forms in which Docker and podman write them, and people: kiln sends a registry the user whom
//! skopeo sends, or none.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_registry::testing::Spy;

use super::Fixture;
use crate::interop::report::{Checks, none};
use crate::interop::{Result, transports};

/// Files with credentials, below the home directory.
const DOCKER: &str = ".docker/config.json";
const PODMAN: &str = "run/containers/auth.json";
const PODMAN_AT_HOME: &str = ".config/containers/auth.json";
const LEGACY: &str = ".dockercfg";
const NAMED: &str = "named.json";
/// `bob:secret`, `alice:x`, `bob:a:b`, `bob:` and two zero bytes after `secret`, `bób:é`.
const FORMS: [(&str, &str); 37] = [
    (DOCKER, r#"{"auths": {"ADDRESS": {"auth": "Ym9iOnNlY3JldA=="}}}"#),
    (PODMAN, r#"{"auths": {"ADDRESS": {"auth": "Ym9iOnNlY3JldA=="}}}"#),
    (PODMAN_AT_HOME, r#"{"auths": {"ADDRESS": {"auth": "Ym9iOnNlY3JldA=="}}}"#),
    (LEGACY, r#"{"ADDRESS": {"auth": "Ym9iOnNlY3JldA==", "email": "x"}}"#),
    (LEGACY, r#"{"https://ADDRESS/v1/": {"auth": "Ym9iOnNlY3JldA=="}}"#),
    (NAMED, r#"{"auths": {"ADDRESS": {"auth": "Ym9iOnNlY3JldA=="}}}"#),
    (DOCKER, r#"{"auths": null}"#),
    (DOCKER, r#"{"auths": {}, "credHelpers": null, "credsStore": null}"#),
    (DOCKER, r#"{"auths": {"ADDRESS": {"auth": "Ym9iOnNlY3JldA=="}}, "credsStore": ""}"#),
    (DOCKER, r#"{"auths": {"ADDRESS": {"auth": "Ym9iOnNlY3JldA=="}}, "credHelpers": {"other.example": ""}}"#),
    (DOCKER, r#"{"auths": {"ADDRESS": {"auth": "Ym9iOnNl\nY3Jl\r\ndA==\n"}}}"#),
    (DOCKER, r#"{"auths": {"ADDRESS": {"auth": "Ym9iOnNlY3JldA==", "username": "eve", "password": "x"}}}"#),
    (DOCKER, r#"{"auths": {"ADDRESS": {"auth": "Ym9iOnNlY3JldA==", "identitytoken": null, "email": null}}}"#),
    (DOCKER, r#"{"auths": {"ADDRESS": {"auth": "Ym9iOnNlY3JldA==", "identitytoken": ""}}}"#),
    (DOCKER, r#"{"auths": {"ADDRESS": {"auth": "Ym9iOg==", "identitytoken": "refresh"}}}"#),
    (DOCKER, r#"{"auths": {"https://ADDRESS": {"auth": "Ym9iOnNlY3JldA=="}}}"#),
    (DOCKER, r#"{"auths": {"http://ADDRESS/v1/": {"auth": "Ym9iOnNlY3JldA=="}}}"#),
    (DOCKER, r#"{"auths": {"https://ADDRESS/v2/": {"auth": "Ym9iOnNlY3JldA=="}}}"#),
    (PODMAN, r#"{"auths": {"ADDRESS/acme": {"auth": "Ym9iOnNlY3JldA=="}}}"#),
    (PODMAN, r#"{"auths": {"ADDRESS/acme/app": {"auth": "Ym9iOnNlY3JldA=="}}}"#),
    (PODMAN, r#"{"auths": {"ADDRESS/other": {"auth": "Ym9iOnNlY3JldA=="}}}"#),
    (PODMAN, r#"{"auths": {"ADDRESS": {"auth": "Ym9iOnNlY3JldA=="}, "ADDRESS/acme": {"auth": "YWxpY2U6eA=="}}}"#),
    (PODMAN, r#"{"auths": {"ADDRESS": {"auth": "Ym9iOnNlY3JldA=="}, "ADDRESS/acme": {}}}"#),
    (DOCKER, r#"{"auths": {"ADDRESS/": {"auth": "Ym9iOnNlY3JldA=="}}}"#),
    (DOCKER, r#"{"Auths": {"ADDRESS": {"AUTH": "Ym9iOnNlY3JldA=="}}}"#),
    (DOCKER, r#"{"HttpHeaders": null, "psFormat": "x", "auths": {"ADDRESS": {"auth": "Ym9iOnNlY3JldA==", "a": {}}}}"#),
    (DOCKER, r#"{"auths": {"ADDRESS": {"auth": "Ym9i"}}}"#),
    (DOCKER, r#"{"auths": {"ADDRESS": {"auth": ""}}}"#),
    (DOCKER, r#"{"auths": {"ADDRESS": {}}}"#),
    (DOCKER, r#"{"auths": {"ADDRESS": null}}"#),
    (DOCKER, r#"{"auths": {"ADDRESS": {"auth": "Ym9iOmE6Yg=="}}}"#),
    (DOCKER, r#"{"auths": {"ADDRESS": {"auth": "Ym9iOnNlY3JldAAA"}}}"#),
    (DOCKER, r#"{"auths": {"ADDRESS": {"auth": "YsOzYjrDqQ=="}}}"#),
    (DOCKER, r#"{"auths": {"ADDRESS": {"auth": "%"}}}"#),
    (DOCKER, r#"{"credHelpers": {"ADDRESS": "interop"}, "auths": {"ADDRESS": {"auth": "YWxpY2U6eA=="}}}"#),
    (PODMAN, r#"{"credHelpers": {"ADDRESS": "interop"}}"#),
    (DOCKER, "{}"),
];
/// A helper that knows every registry.
const HELPER: &str =
    "#!/bin/sh\ncat >/dev/null\necho '{\"ServerURL\": \"x\", \"Username\": \"bob\", \"Secret\": \"helped\"}'\n";

/// Makes the checks.
pub(super) fn check(fixture: &Fixture, checks: &mut Checks) {
    checks.check(&format!("kiln sends whom skopeo sends, by {} credential files", FORMS.len()), || {
        let mut wrong = Vec::new();
        for (number, (file, text)) in FORMS.iter().enumerate() {
            for challenge in ["Basic", "Bearer"] {
                let guarded = Guarded::start(challenge);
                let home = fixture.directory.join(format!("home-{number}-{challenge}"));
                prepare(&home, file, &text.replace("ADDRESS", guarded.address()))?;
                let reference = format!("{}/acme/app:1", guarded.address());
                let mut skopeo = transports::skopeo();
                skopeo.args(["inspect", "--tls-verify=false", &format!("docker://{reference}")]);
                let expected = guarded.users(&mut skopeo, &home)?;
                let mut kiln = Command::new(&fixture.kiln);
                kiln.arg("--store").arg(home.join("store")).args(["pull", &reference, "--output", "oci:pulled"]);
                let found = guarded.users(&mut kiln, &home)?;
                if found != expected {
                    wrong.push(format!("{challenge} {file} {text}: {found:?}, and skopeo sends {expected:?}"));
                }
                fs_err::remove_dir_all(home)?;
            }
        }
        none("credential files are read otherwise", &wrong)
    });
}

fn prepare(home: &Path, file: &str, text: &str) -> Result<()> {
    let helper = home.join("bin/docker-credential-interop");
    for (path, text) in [(home.join(file), text), (helper.clone(), HELPER)] {
        fs_err::create_dir_all(path.parent().unwrap_or(home))?;
        fs_err::write(path, text)?;
    }
    Ok(fs_err::set_permissions(helper, PermissionsExt::from_mode(0o755))?)
}

/// A registry that lets nobody in, and its token service.
struct Guarded {
    registry: Spy,
    tokens: Spy,
}

impl Guarded {
    fn start(challenge: &str) -> Self {
        const NOBODY: &str = "Connection: close\r\nContent-Length: 0\r\n\r\n";
        let tokens = Spy::answering(&format!("401 Unauthorized\r\n{NOBODY}"));
        let asked = format!("{challenge} realm=\"{}/token\",service=\"interop\"", tokens.address());
        let registry = Spy::answering(&format!("401 Unauthorized\r\nWWW-Authenticate: {asked}\r\n{NOBODY}"));
        Self { registry, tokens }
    }

    fn address(&self) -> &str {
        self.registry.address().trim_start_matches("http://")
    }

    /// Runs a program and returns the users and the refresh tokens that it sent.
    fn users(&self, program: &mut Command, home: &Path) -> Result<BTreeSet<String>> {
        let path = std::env::var("PATH").unwrap_or_default();
        program.env("HOME", home).env("PATH", format!("{}:{path}", home.join("bin").display())).current_dir(home);
        program.env("XDG_RUNTIME_DIR", home.join("run")).env_remove("XDG_CONFIG_HOME").env_remove("DOCKER_CONFIG");
        let named: PathBuf = home.join(NAMED);
        match named.is_file() {
            true => program.env("REGISTRY_AUTH_FILE", named),
            false => program.env_remove("REGISTRY_AUTH_FILE"),
        };
        program.output()?;
        let requests = [self.registry.requests(), self.tokens.requests()].concat();
        Ok(requests.iter().flat_map(|request| users_in(request)).collect())
    }
}

fn users_in(request: &str) -> Vec<String> {
    let basic = request.lines().filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization").then(|| value.trim().to_owned())
    });
    // skopeo sends an empty name where it knows none.
    let basic = basic.filter(|value| value != "Basic Og==");
    let token = request.split(['&', '\n', '?']).filter(|part| part.starts_with("refresh_token="));
    basic.chain(token.map(|part| part.trim().to_owned())).collect()
}
