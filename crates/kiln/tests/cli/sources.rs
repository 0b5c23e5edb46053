//! Requirements from outside of the project: fetched once, locked with digests.

use insta::assert_snapshot;

use crate::environment::TestEnvironment;
use crate::requirements::locked;
use crate::server::Server;
use crate::wheels::{pure, stack};

/// A project whose requirements are at an address.
fn project() -> (TestEnvironment, Server) {
    let environment = TestEnvironment::with_stack("");
    let served = environment.root().join("served");
    fs_err::create_dir_all(&served).unwrap();
    let server = Server::start(served);
    environment.stack(&stack(&format!(
        "requirements = [{{ file = \"requirements.txt\", from = {{ url = \"http://{}/files/shared.txt\" }} }}]",
        server.address()
    )));
    for version in ["1.0", "2.0"] {
        environment.wheel(&pure("alpha", version));
    }
    (environment, server)
}

fn serve(environment: &TestEnvironment, text: &str) {
    fs_err::write(environment.root().join("served/shared.txt"), text).unwrap();
}

#[test]
fn requirements_at_an_address_are_locked_with_their_digest() {
    let (environment, server) = project();
    serve(&environment, "alpha<2\n");
    environment.succeed("lock");
    assert_eq!(locked(&environment), ["alpha==1.0"]);
    server.log();
    // What changes there changes nothing here, until everything is chosen anew.
    serve(&environment, "alpha\n");
    environment.succeed("lock --check");
    environment.succeed("build --locked");
    assert!(!server.log().iter().any(|line| line.contains("shared")));
    environment.succeed("lock --upgrade");
    assert_eq!(locked(&environment), ["alpha==2.0"]);
}

#[test]
fn other_content_than_is_locked_is_refused() {
    let (environment, _server) = project();
    serve(&environment, "alpha<2\n");
    environment.succeed("lock");
    serve(&environment, "alpha\n");
    fs_err::remove_dir_all(environment.root().join("store")).unwrap();
    let refused = environment.kiln("lock").stderr;
    assert!(refused.contains("has other content than is locked"), "{refused}");
}

#[test]
fn a_source_that_is_not_there_is_an_error_at_its_line() {
    let (environment, _server) = project();
    let refused = environment.kiln("lock").stderr;
    assert!(refused.contains("`shared.txt` could not be downloaded: "), "{refused}");
    assert!(environment.kiln("--offline lock").stderr.contains("is not locked, and the network may not be used"));
}

#[test]
fn mistakes_in_sources_are_shown() {
    let refused = |from: &str| {
        let text = stack(&format!("requirements = [{{ file = \"requirements.txt\", from = {from} }}]"));
        TestEnvironment::with_stack(&text).kiln("lock")
    };
    assert_snapshot!(refused("{ rev = \"main\" }"), @r#"
    ------- stderr -------
    error: a source is either a repository of git or an address
      --> kiln.toml:13:53
       |
    13 | requirements = [{ file = "requirements.txt", from = { rev = "main" } }]
       |                                                     ^^^^^^^^^^^^^^^^
       |
    help: `{ git = "URL", rev = "TAG" }` or `{ url = "URL" }`
    [exit status: 2]
    "#);
    assert_snapshot!(refused("{ git = \"ext::sh -c id\" }"), @r#"
    ------- stderr -------
    error: `ext::sh -c id` is not an address of a repository
      --> kiln.toml:13:61
       |
    13 | requirements = [{ file = "requirements.txt", from = { git = "ext::sh -c id" } }]
       |                                                             ^^^^^^^^^^^^^^^
       |
    help: `https://`, `ssh://`, `file://`, or `user@host:path`
    [exit status: 2]
    "#);
    assert_snapshot!(refused("{ git = \"https://example.org/x\", rev = \"--upload-pack=id\" }"), @r#"
    ------- stderr -------
    error: `--upload-pack=id` is not a branch, a tag or a commit
      --> kiln.toml:13:92
       |
    13 | requirements = [{ file = "requirements.txt", from = { git = "https://example.org/x", rev = "--upload-pack=id" } }]
       |                                                                                            ^^^^^^^^^^^^^^^^^^
    [exit status: 2]
    "#);
    assert_snapshot!(refused("{ url = \"https://me:secret@example.org/x\" }"), @r#"
    ------- stderr -------
    error: the address `https://****@example.org/x` has a password
      --> kiln.toml:13:61
       |
    13 | requirements = [{ file = "requirements.txt", from = { url = "https://*********@example.org/x" } }]
       |                                                             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
    help: the lock names it: credentials belong in `~/.netrc` or in git's credential helper
    [exit status: 2]
    "#);
    assert_snapshot!(refused("{ url = \"file:///etc/passwd\" }"), @r#"
    ------- stderr -------
    error: `file:///etc/passwd` is not an address
      --> kiln.toml:13:61
       |
    13 | requirements = [{ file = "requirements.txt", from = { url = "file:///etc/passwd" } }]
       |                                                             ^^^^^^^^^^^^^^^^^^^^
       |
    help: it begins with `https://`
    [exit status: 2]
    "#);
}
