//! Indexes that answer with something else than the page of a package.

use insta::assert_snapshot;

use crate::environment::TestEnvironment;
use crate::server::{Behaviour, Server};
use crate::wheels::stack;

/// A project whose packages come from an index of which uv says this.
fn with_index(index: &str, says: &str) -> TestEnvironment {
    let text = stack("packages = [\"six\"]").replace("find-links = [\"wheels\"]", &format!("default = \"{index}\""));
    let environment = TestEnvironment::with_stack(&text);
    environment.write("says", format!("{says}\n"));
    let says = environment.path("says");
    environment
        .script("uv", &format!("while read -r line; do echo \"$line\" >&2; done < {}\nexit 1\n", says.display()));
    environment
}

#[test]
fn an_answer_that_uv_tells_of_is_named_with_its_address() {
    let mut all = String::new();
    for says in [
        "error: Request failed after 3 retries in 8.4s\n  cause: HTTP status server error (500 Internal Server Error) for url \
         (http://index.example/simple/six/)",
        "error: Failed to fetch: `http://index.example/f/six.whl`\n  cause: HTTP status client error (404 Not Found) for url \
         (http://index.example/f/six.whl)",
        "error: Unsupported `Content-Type` \"text/plain\" for `http://127.0.0.1:1/simple/six/`. Expected JSON or HTML.",
    ] {
        all.push_str(&with_index("http://index.example/simple", says).kiln("lock").to_string());
    }
    assert_snapshot!(all, @r"
    ------- stderr -------
    error: the package index cannot be used: `http://index.example/simple/six/` answered 500 Internal Server Error

    hint: the server fails: try again later, or name another index below `[index]`
    [exit status: 3]
    ------- stderr -------
    error: the package index cannot be used: `http://index.example/f/six.whl` answered 404 Not Found

    hint: the index names what it does not have: choose another version, or another index below `[index]`
    [exit status: 3]
    ------- stderr -------
    error: the package index cannot be used: `http://127.0.0.1:1/simple/six/` answered with text/plain, and not with the page of a package

    hint: open the address in a browser: an index gives the page of a package there (PEP 503, PEP 691). Is it the right one below `[index]`, and does a proxy or a login stand before it?
    [exit status: 3]
    ");
}

#[test]
fn an_answer_that_uv_takes_for_a_package_without_versions_is_looked_at() {
    const SAYS: &str = "error: No solution found when resolving dependencies\n  cause: Because there are no versions of six and \
                        kiln-image depends on six, we can conclude that your requirements are unsatisfiable.\n";
    let served = tempfile::tempdir().unwrap();
    let server = Server::start(served.path().to_owned());
    let environment = with_index(&server.index(), SAYS);
    fs_err::write(served.path().join("six"), "<form></form>").unwrap();
    let mut all = environment.kiln("lock").to_string();
    server.behave("six", Behaviour::Redirect(format!("{}/six/", server.index())));
    all.push_str(&environment.kiln("lock").to_string());
    server.forgive();
    fs_err::remove_file(served.path().join("six")).unwrap();
    all.push_str(&environment.kiln("lock").to_string());
    assert_snapshot!(all, @r#"
    ------- stderr -------
    error: the package index cannot be used: `http://127.0.0.1:<port>/simple/six/` answered with no media type, and not with the page of a package

    hint: open the address in a browser: an index gives the page of a package there (PEP 503, PEP 691). Is it the right one below `[index]`, and does a proxy or a login stand before it?
    [exit status: 3]
    ------- stderr -------
    error: the package index cannot be used: `http://127.0.0.1:<port>/simple/six/` redirects without an end

    hint: open the address in a browser: an index gives the page of a package there (PEP 503, PEP 691). Is it the right one below `[index]`, and does a proxy or a login stand before it?
    [exit status: 3]
    ------- stderr -------
    error: the packages of `app` cannot be resolved on linux/amd64
      --> kiln.toml:13:13
       |
    13 | packages = ["six"]
       |             ^^^^^
       |
    help: Because there are no versions of six and this image depends on six
    [exit status: 2]
    "#);
}
