//! Passwords, tokens and kiln's own key: where they may not turn up.

use insta::assert_snapshot;
use kiln_registry::testing::{Auth, FakeRegistry, Fault, Options, Request, Spy};

use crate::environment::TestEnvironment;
use crate::server::{Behaviour, Server};
use crate::wheels::{pure, stack};

/// A project whose packages come from this index, and a uv that says this and fails.
fn with_index(index: &str, says: &str) -> TestEnvironment {
    let text = stack("packages = [\"six\"]");
    let quoted = index.replace('\\', "\\\\").replace('"', "\\\"");
    let text = text.replace("find-links = [\"wheels\"]", &format!("default = \"{quoted}\""));
    let environment = TestEnvironment::with_stack(&text);
    environment.write("says", says);
    environment.script(
        "uv",
        &format!("while read -r line; do echo \"$line\" >&2; done < {}\nexit 1\n", environment.path("says").display()),
    );
    environment
}

#[test]
fn an_unescaped_password_is_explained_and_not_shown() {
    let mut all = String::new();
    for index in [
        "https://user:pa/ss#word@index.example/simple",
        "https://user:12/secret@index.example/simple",
        "https://user:secret@index.example/simple@2",
        "https://user:secret@index.example:port/simple",
    ] {
        let outcome = with_index(index, "").kiln("lock");
        all.push_str(&format!("{outcome}\n"));
    }
    assert!(!all.contains("secret") && !all.contains("#word"), "{all}");
    assert_snapshot!(all, @r#"
    ------- stderr -------
    error: `https://****@index.example/simple` is not an address: invalid port number
     --> kiln.toml:9:11
      |
    9 | default = "https://***************@index.example/simple"
      |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: in names and passwords `/` is written `%2F`, `#` `%23`, `?` `%3F`, `@` `%40`, `:` `%3A` and `%` `%25`
    [exit status: 2]

    ------- stderr -------
    error: `https://****@index.example/simple` has an `@` after its host
     --> kiln.toml:9:11
      |
    9 | default = "https://**************@index.example/simple"
      |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: in names and passwords `/` is written `%2F`, `#` `%23`, `?` `%3F`, `@` `%40`, `:` `%3A` and `%` `%25`
    [exit status: 2]

    ------- stderr -------
    error: `https://****@2` has an `@` after its host
     --> kiln.toml:9:11
      |
    9 | default = "https://********************************@2"
      |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: in names and passwords `/` is written `%2F`, `#` `%23`, `?` `%3F`, `@` `%40`, `:` `%3A` and `%` `%25`
    [exit status: 2]

    ------- stderr -------
    error: `https://****@index.example:port/simple` is not an address: invalid port number
     --> kiln.toml:9:11
      |
    9 | default = "https://***********@index.example:port/simple"
      |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: in names and passwords `/` is written `%2F`, `#` `%23`, `?` `%3F`, `@` `%40`, `:` `%3A` and `%` `%25`
    [exit status: 2]
    "#);
}

#[test]
fn uv_may_say_a_password_in_any_form_and_it_is_not_shown() {
    for (index, forms) in [
        ("https://user:hunter2%2Fxyz@index.example/simple", ["hunter2%2Fxyz", "hunter2/xyz"]),
        ("https://hunter2tok@index.example/simple", ["hunter2tok", "hunter2tok"]),
        ("https://user:hunter2%20x%22@index.example/simple", ["hunter2 x\"", "hunter2%20x%22"]),
    ] {
        for form in forms {
            for frame in ["error: cannot parse `{}`", "error: invalid port in https://user:{}@index.example", "{}"] {
                let says = frame.replace("{}", form) + "\n";
                let environment = with_index(index, &says);
                for arguments in ["lock", "lock -v", "build --json", "plan -v"] {
                    let outcome = environment.kiln(arguments);
                    assert_ne!(outcome.status, Some(0));
                    assert!(!outcome.to_string().contains("hunter2"), "{outcome}");
                }
            }
        }
    }
}

#[test]
fn a_mistake_beside_a_password_does_not_show_it() {
    let text = stack("packages = [\"six\"]")
        .replace("find-links = [\"wheels\"]", "default = \"https://user:secret@index.example/simple\", extra = 1");
    let mut all = TestEnvironment::with_stack(&text).kiln("lock").to_string();
    let text = stack("packages = [\"six @ https://user:secret@index.example/six.whl ; nonsense\"]");
    all.push_str(&TestEnvironment::with_stack(&text).kiln("lock").to_string());
    let text = "[stack]\nname = \"demo\"\n[target]\nplatforms = [\"linux/amd64\"]\n[images.app]\nfrom = { debian = \
                \"bookworm\", mirror = \"https://user:secret@mirror.example/debian\" }\n";
    all.push_str(&TestEnvironment::with_stack(text).kiln("lock").to_string());
    let gpus = "build --gpus https://user:secret@index.example";
    all.push_str(&TestEnvironment::with_stack(&stack("")).kiln(gpus).to_string());
    all.push_str(
        &TestEnvironment::new().kiln("pull https://user:secret@registry.example/a --output oci:x").to_string(),
    );
    assert!(!all.contains("secret"), "{all}");
    assert_snapshot!(all, @r#"
    ------- stderr -------
    error: unexpected key or value, expected newline, `#`
     --> kiln.toml:9:53
      |
    9 | default = "https://***********@index.example/simple", extra = 1
      |                                                     ^
    [exit status: 2]
    ------- stderr -------
    error: `six @ https://****@index.example/six.whl ; nonsense` has a marker that cannot be read
      --> kiln.toml:13:13
       |
    13 | packages = ["six @ https://***********@index.example/six.whl ; nonsense"]
       |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ `nonsense` is no variable of markers
       |
    help: compare a variable with a quoted string: `; python_version >= '3.10'`
    [exit status: 2]
    ------- stderr -------
    error: the mirror `https://****@mirror.example/debian` has a user name or a password
     --> kiln.toml:6:40
      |
    6 | from = { debian = "bookworm", mirror = "https://***********@mirror.example/debian" }
      |                                        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: the image and the lock name its mirror: choose one that needs no password, or write it into `.netrc`
    [exit status: 2]
    ------- stderr -------
    error: `https://****@index.example` is not a GPU that kiln knows
     |
    help: `kiln gpus` lists every name and capability
    [exit status: 2]
    ------- stderr -------
    error: invalid value 'https://****@registry.example/a' for '<REFERENCE>': `https://****@registry.example/a` is not a reference to an image: after `@` a SHA-256 digest is expected

    For more information, try '--help'.
    [exit status: 2]
    "#);
}

#[test]
fn an_index_that_refuses_says_so() {
    let says = "error: No solution found when resolving dependencies\n  cause: Because six was not found in the package \
                registry and kiln-image depends on six, we can conclude that your requirements are unsatisfiable.\n\n\
                hint: ";
    let mut all = String::new();
    for hint in [
        "An index URL (http://index.example/simple) could not be queried due to a lack of valid authentication \
         credentials (401 Unauthorized)",
        "An index (http://index.example/simple) returned a 403 Forbidden error. Check that the index URL is correct \
         and the credentials are valid.",
    ] {
        let environment = with_index("http://index.example/simple", &format!("{says}{hint}\n"));
        all.push_str(&environment.kiln("lock").to_string());
    }
    assert_snapshot!(all, @r"
    ------- stderr -------
    error: the package index `http://index.example/simple` answered 401: it wants credentials

    hint: give a name and a password or a token for its host in `~/.netrc`, or in its address under `[index]`; is the address right?
    [exit status: 3]
    ------- stderr -------
    error: the package index `http://index.example/simple` answered 403: it does not allow access

    hint: give a name and a password or a token for its host in `~/.netrc`, or in its address under `[index]`; is the address right?
    [exit status: 3]
    ");
}

/// A locked project whose one wheel is on a server that redirects to somebody else.
fn redirected(to: &str, with: Option<&str>) -> (TestEnvironment, Server) {
    const FILE: &str = "remote-1.0-py3-none-any.whl";
    let environment = TestEnvironment::with_stack("");
    let served = environment.root().join("served");
    fs_err::create_dir_all(&served).unwrap();
    fs_err::write(served.join(FILE), pure("remote", "1.0").finish()).unwrap();
    let server = Server::start(served.clone());
    let index = with.map_or_else(|| server.index(), |credentials| server.index_with(credentials));
    let text = stack("packages = [\"remote\"]");
    environment.stack(&text.replace("find-links = [\"wheels\"]", &format!("default = \"{index}\"")));
    environment.tell_uv("served", &served);
    environment.succeed("lock");
    server.behave(FILE, Behaviour::Redirect(format!("{to}/files/{FILE}")));
    (environment, server)
}

#[test]
fn credentials_of_an_index_do_not_follow_a_redirect_to_another_port() {
    for with in [Some("me:secret"), None] {
        let spy = Spy::answering("404 Not Found\r\nContent-Length: 0\r\n\r\n");
        let (environment, _server) = redirected(spy.address(), with);
        if with.is_none() {
            let netrc = "machine 127.0.0.1 login me password secret\n";
            fs_err::write(environment.root().join("home/.netrc"), netrc).unwrap();
        }
        let outcome = environment.kiln("build");
        assert_eq!(outcome.status, Some(3), "{outcome}");
        let seen = spy.requests();
        assert_eq!(seen.len(), 1, "{outcome}");
        for secret in ["authorization", "secret", "bWU6c2VjcmV0", "referer", "cookie"] {
            assert!(!seen[0].to_ascii_lowercase().contains(&secret.to_ascii_lowercase()), "{}", seen[0]);
        }
    }
}

#[test]
fn a_redirect_to_a_file_of_this_machine_is_refused() {
    let (environment, _server) = redirected("file://", None);
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: `remote-1.0-py3-none-any.whl` could not be downloaded: 127.0.0.1 redirects to file:, which is not HTTP
    [exit status: 3]
    ");
}

#[test]
fn a_registry_that_sends_credentials_elsewhere_is_named() {
    let environment = TestEnvironment::new();
    let bearer = Auth::Bearer {
        user: "nobody".into(),
        password: "unused".into(),
        anonymous_pull: false,
        identity_token: Some("refresh".into()),
    };
    let registry = FakeRegistry::with(Options { auth: bearer, ..Options::default() });
    let spy = Spy::start("{\"token\":\"stolen\"}");
    registry.fail(Request::Token, Fault::Redirect(307, spy.address().into()), 9);
    let realm = "401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://auth.example/token?x=y\",service=\"x\"\r\n\
                 Content-Length: 0\r\n\r\n";
    let plain = Spy::answering(realm);
    let plain = plain.address().trim_start_matches("http://");
    let entry = |address: &str| format!("\"{address}\": {{ \"identitytoken\": \"refresh\" }}");
    let config = format!("{{ \"auths\": {{ {}, {} }} }}", entry(&registry.address()), entry(plain));
    fs_err::create_dir_all(environment.root().join("home/.docker")).unwrap();
    fs_err::write(environment.root().join("home/.docker/config.json"), config).unwrap();
    assert_snapshot!(environment.kiln(&format!("pull {}/a:latest --output oci:a", registry.address())), @r"
    ------- stderr -------
    error: reading 127.0.0.1:<port>/a:latest: 127.0.0.1:<port> sends on to http://127.0.0.1:<port>, and credentials do not follow there

    hint: no credential was sent there: the registry must name the address of its token service itself
    [exit status: 3]
    ");
    assert_eq!(spy.requests(), [""; 0]);
    assert_snapshot!(environment.kiln(&format!("pull {plain}/a:latest --output oci:a")), @r"
    ------- stderr -------
    error: reading 127.0.0.1:<port>/a:latest: 127.0.0.1:<port> sends on to http://auth.example, which is not encrypted

    hint: a registry behind a proxy that speaks HTTPS must know that (`X-Forwarded-Proto: https`)
    [exit status: 3]
    ");
}
