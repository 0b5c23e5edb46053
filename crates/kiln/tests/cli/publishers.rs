//! Publishers of wheels, by the word of an index (PEP 740).

use insta::assert_snapshot;
use kiln_plan::digest::Digest;

use crate::environment::{Outcome, TestEnvironment};
use crate::server::{Behaviour, Server};
use crate::wheels::{pure, stack};

/// A project with wheels of `alpha` on a server.
struct Project {
    environment: TestEnvironment,
    server: Server,
    /// The files of the page: name, digest, document.
    files: Vec<(String, Digest, Option<String>)>,
}

impl Project {
    fn new() -> Self {
        let environment = TestEnvironment::with_stack("");
        let served = environment.root().join("served");
        fs_err::create_dir_all(&served).unwrap();
        environment.tell_uv("served", &served);
        let server = Server::start(served);
        let text = stack("packages = [\"alpha\"]");
        environment.stack(&text.replace("find-links = [\"wheels\"]", &format!("default = \"{}\"", server.index())));
        Self { environment, server, files: Vec::new() }
    }

    fn serve(&self, name: &str, content: impl AsRef<[u8]>) {
        fs_err::write(self.environment.root().join("served").join(name), content).unwrap();
    }

    /// Publishes a version, by somebody or by nobody.
    fn publish(&mut self, version: &str, publisher: Option<&str>) {
        let wheel = pure("alpha", version);
        let (file, content) = (wheel.file_name(), wheel.finish());
        self.serve(&file, &content);
        if let Some(publisher) = publisher {
            let document = format!(
                "{{\"version\": 1, \"attestation_bundles\": [{{\"publisher\": {publisher}, \"attestations\": []}}]}}"
            );
            self.serve(&format!("{file}.provenance"), document);
        }
        let document = publisher.map(|_| format!("\"http://{}/files/{file}.provenance\"", self.server.address()));
        self.files.push((file, Digest::of(&content), document));
        let files: Vec<String> = self
            .files
            .iter()
            .map(|(file, sha256, document)| {
                let document = document.as_deref().unwrap_or("null");
                format!(
                    "{{\"filename\": \"{file}\", \"hashes\": {{\"sha256\": \"{}\"}}, \"provenance\": {document}}}",
                    sha256.hex()
                )
            })
            .collect();
        self.serve(
            "alpha",
            format!(
                "{{\"meta\": {{\"api-version\": \"1.3\"}}, \"name\": \"alpha\", \"files\": [{}]}}",
                files.join(", ")
            ),
        );
    }

    fn lock(&self, arguments: &str) -> Outcome {
        let outcome = self.environment.kiln(&format!("lock {arguments}"));
        assert_eq!(outcome.status, Some(0), "{outcome}");
        outcome
    }

    fn publishers(&self) -> Vec<String> {
        let lock = self.environment.read("kiln.lock");
        lock.lines().filter(|line| line.starts_with("publisher")).map(str::to_owned).collect()
    }
}

const ENGINE: &str = r#"{"kind": "GitHub", "repository": "acme/engine", "workflow": "release.yml", "environment": "pypi", "claims": null}"#;

#[test]
fn the_publisher_of_a_wheel_stands_in_the_lock_and_is_asked_for_once() {
    let mut project = Project::new();
    project.publish("1.0", Some(ENGINE));
    project.lock("");
    assert_eq!(project.publishers(), [r#"publisher = "GitHub acme/engine release.yml (environment pypi)""#]);
    let asked = project.server.log();
    assert!(asked.contains(&"GET alpha".to_owned()), "{asked:?}");
    // What is locked is not asked about again, and a build reads the lock as it is.
    let lock = project.environment.read("kiln.lock");
    project.lock("--upgrade");
    assert_eq!(project.environment.read("kiln.lock"), lock);
    project.environment.succeed("build --output oci:out");
    assert!(!project.server.log().iter().any(|line| line.ends_with("provenance")));
}

#[test]
fn another_publisher_and_none_any_more_are_warned_of() {
    let mut project = Project::new();
    project.publish("1.0", Some(ENGINE));
    project.lock("");
    project.publish("2.0", Some(&ENGINE.replace("acme", "other")));
    assert_snapshot!(project.lock("--upgrade"), @r"
    <root>/project/kiln.lock: app (1 package)
    ------- stderr -------
    warning: alpha 2.0 is published by GitHub other/engine release.yml (environment pypi), and 1.0 was by GitHub acme/engine release.yml (environment pypi): does the project say why?
    ");
    project.publish("3.0", None);
    assert_snapshot!(project.lock("--upgrade"), @r"
    <root>/project/kiln.lock: app (1 package)
    ------- stderr -------
    warning: alpha 3.0 is published by nobody whom the index names, and 2.0 was by GitHub other/engine release.yml (environment pypi): somebody may have uploaded it by hand
    ");
    assert_eq!(project.publishers(), [""; 0]);
    // Nobody is missed who was not there before.
    project.publish("4.0", None);
    assert!(!project.lock("--upgrade").to_string().contains("published"));
    project.publish("5.0", Some(ENGINE));
    assert!(!project.lock("--upgrade").to_string().contains("published"));
}

#[test]
fn an_index_that_says_nothing_or_nonsense_is_no_error() {
    let mut project = Project::new();
    project.publish("1.0", Some(ENGINE));
    project.lock("");
    for (version, file, behaviour) in [
        ("2.0", "alpha", Behaviour::Other(b"<!DOCTYPE html><a href=\"/files/x\">x</a>".to_vec())),
        ("3.0", "alpha", Behaviour::Status { status: 503, times: 9 }),
        ("4.0", "alpha", Behaviour::Other(b"{\"files\": []}".to_vec())),
        // As a mirror that leaves publishers out.
        ("4.5", "alpha", Behaviour::Other(b"{\"files\": [{\"filename\": \"alpha-4.5-py3-none-any.whl\"}]}".to_vec())),
        ("5.0", "alpha-5.0-py3-none-any.whl.provenance", Behaviour::Status { status: 404, times: 9 }),
        ("6.0", "alpha-6.0-py3-none-any.whl.provenance", Behaviour::Other(b"{\"version\": 2}".to_vec())),
        ("7.0", "alpha-7.0-py3-none-any.whl.provenance", Behaviour::Redirect("file:///etc/passwd".into())),
        ("8.0", "alpha-8.0-py3-none-any.whl.provenance", Behaviour::Endless),
    ] {
        project.publish(version, Some(ENGINE));
        project.server.behave(file, behaviour);
        let outcome = project.lock("--upgrade").to_string();
        assert!(!outcome.contains("published") && !outcome.contains("warning"), "{version}: {outcome}");
        assert_eq!(project.publishers(), [""; 0], "{version}");
        project.server.forgive();
    }
}
