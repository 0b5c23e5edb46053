//! The configuration of images, and the files that the stack file itself holds.

use crate::bases;
use crate::environment::TestEnvironment;
use crate::images::ReadBack;
use crate::wheels::{greeting, stack};
use insta::assert_snapshot;

#[track_caller]
fn built(image: &str) -> ReadBack {
    let environment = TestEnvironment::with_stack(&stack(image));
    environment.succeed("build --output oci:out");
    ReadBack::of(&environment.path("out"), "app", "amd64")
}

#[track_caller]
fn refused(image: &str) -> crate::environment::Outcome {
    TestEnvironment::with_stack(&stack(image)).kiln("build")
}

#[test]
fn health_ports_volumes_and_signals_are_docker_s() {
    let image = built(
        "healthcheck = { command = \"curl -f localhost:${PORT}\", interval = \"30s\", retries = 3 }\n\
         expose = [8080, \"53/udp\"]\nvolumes = [\"/data\"]\nstop-signal = \"INT\"\ncommand = \"serve ${ARGS} $$ ${x:-y}\"",
    );
    assert_snapshot!(serde_json::to_string(&image.config.config).unwrap(), @r#"{"Env":["PATH=/usr/local/bin:/usr/bin:/bin"],"Cmd":["/bin/sh","-c","serve ${ARGS} $$ ${x:-y}"],"ExposedPorts":{"8080/tcp":{},"53/udp":{}},"Healthcheck":{"Test":["CMD-SHELL","curl -f localhost:${PORT}"],"Interval":30000000000,"Retries":3},"StopSignal":"SIGINT","Volumes":{"/data":{}}}"#);
}

#[test]
fn values_that_mean_nothing_are_refused_with_what_is_valid() {
    assert_snapshot!(refused(
        "healthcheck = { command = [\"x\"], interval = \"soon\" }\nexpose = [\"8080/ftp\"]\nstop-signal = \"SIGKIL\"\n\
         timezone = \"Asia/Soul\"\nuser = { name = \"a\", uid = \"many\" }\nfiles = [{ to = \"/a\" }, { to = \"/b/\", text = \"b\" }]"
    ), @r#"
    ------- stderr -------
    error: `many` is not a number
      --> kiln.toml:17:28
       |
    17 | user = { name = "a", uid = "many" }
       |                            ^^^^^^
       |
    help: a number from 0 to 4294967295, or a variable that holds one: `uid = "${uid}"`

    error: `/a` is either a file, a link or a directory
      --> kiln.toml:18:17
       |
    18 | files = [{ to = "/a" }, { to = "/b/", text = "b" }]
       |                 ^^^^
       |
    help: one of `text`, `append` and `link`; a directory has none of them and a final `/` in `to`

    error: `/b/` ends as a directory does, and is none
      --> kiln.toml:18:32
       |
    18 | files = [{ to = "/a" }, { to = "/b/", text = "b" }]
       |                                ^^^^^

    error: `Asia/Soul` is not the name of a time zone
      --> kiln.toml:16:12
       |
    16 | timezone = "Asia/Soul"
       |            ^^^^^^^^^^^
       |
    help: did you mean `Asia/Seoul`?

    error: `soon` is not a time of a millisecond or more
      --> kiln.toml:13:45
       |
    13 | healthcheck = { command = ["x"], interval = "soon" }
       |                                             ^^^^^^
       |
    help: a number with a unit: `30s`, `2m`, `1m 30s`, `500ms`

    error: `8080/ftp` is not a port
      --> kiln.toml:14:11
       |
    14 | expose = ["8080/ftp"]
       |           ^^^^^^^^^^
       |
    help: `8080`, `"53/udp"` or `"8000-8010"`; protocols are tcp, udp and sctp

    error: `SIGKIL` is not a signal
      --> kiln.toml:15:15
       |
    15 | stop-signal = "SIGKIL"
       |               ^^^^^^^^
       |
    help: did you mean `SIGKILL`?
    [exit status: 2]
    "#);
    assert_snapshot!(refused("healthcheck = true"), @r#"
    ------- stderr -------
    error: a health check needs a command
      --> kiln.toml:13:15
       |
    13 | healthcheck = true
       |               ^^^^
       |
    help: `healthcheck = { command = "curl -f localhost:8080", interval = "30s" }`, or `false` for none
    [exit status: 2]
    "#);
    assert_snapshot!(refused("user = \"bob\""), @r#"
    ------- stderr -------
    error: there is no user `bob` in the base
      --> kiln.toml:13:8
       |
    13 | user = "bob"
       |        ^^^^^
       |
    help: known are root, nobody
    [exit status: 2]
    "#);
}

#[test]
fn a_variable_of_the_image_below_is_inherited() {
    let environment = greeting();
    environment.stack(&stack(
        "packages = [\"greeting\"]\nenv = { PATH = \"/opt/x/bin:${PATH}\", LIBRARIES = \"/opt/x/lib:${LIBRARIES}\" }\n\n\
         [images.top]\nfrom = \"app\"\nenv = { PATH = \"/only\", LIBRARIES = \"${LIBRARIES}:/y\" }",
    ));
    environment.succeed("build --output oci:out");
    let env = |name: &str| ReadBack::of(&environment.path("out"), name, "amd64").config.config.env.join("\n");
    assert_snapshot!(env("app"), @r"
    PATH=/opt/x/bin:/opt/venv/bin:/usr/local/bin:/usr/bin:/bin
    VIRTUAL_ENV=/opt/venv
    LIBRARIES=/opt/x/lib
    ");
    assert_snapshot!(env("top"), @r"
    PATH=/opt/venv/bin:/only
    VIRTUAL_ENV=/opt/venv
    LIBRARIES=/opt/x/lib:/y
    ");
}

#[test]
fn names_that_are_nearly_variables_are_hinted_at() {
    let environment = TestEnvironment::with_stack(&format!(
        "{}\n[vars]\nmodel-size = \"7b\"\n",
        stack("command = \"serve ${model_size} ${model-size} ${arch}\"")
    ));
    assert_snapshot!(environment.kiln("build --output oci:out"), @r"
    app sha256:<digest> 6.17 kB in 1 layer
    ------- stderr -------
    warning: `${model_size}` is no variable of the stack file and is left as it is: `${model-size}` is one
    ");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    assert_eq!(image.config.config.cmd, ["/bin/sh", "-c", "serve ${model_size} 7b x86_64"]);
}

#[test]
fn arch_is_that_of_each_platform() {
    let text = stack("files = [{ to = \"/etc/arch\", text = \"${arch}\" }]")
        .replace("[\"linux/amd64\"]", "[\"linux/amd64\", \"linux/arm64\"]");
    let environment = TestEnvironment::with_stack(&text);
    environment.succeed("build --output oci:out");
    for (cpu, machine) in [("amd64", "x86_64"), ("arm64", "aarch64")] {
        assert_eq!(ReadBack::of(&environment.path("out"), "app", cpu).text("etc/arch"), machine);
    }
}

#[test]
fn files_are_laid_above_the_copies() {
    let environment = TestEnvironment::with_stack(&stack(
        "user = { name = \"alice\" }\nworkdir = \"/srv/app\"\ncopy = [{ from = \"src\", to = \"/app\", owner = \"alice\" }]\n\
         files = [{ to = \"/app/VERSION\", text = \"1.2\", mode = \"0600\", owner = \"alice\" }, { to = \"/data/\", mode = \"1777\" },\n\
         { to = \"/usr/bin/python\", link = \"python3.11\" }, { to = \"/etc/os-release\", append = \"A=1\\n\" },\n\
         { to = \"/app/main.py\", append = \"# end\\n\" }, { to = \"/app/VERSION\", append = \"-dirty\" }]",
    ));
    environment.write("src/main.py", "print()");
    environment.succeed("build --output oci:out");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    assert_snapshot!(image.list(), @r"
    d0755 0:0 etc
    -0644 0:0 etc/passwd
    -0644 0:0 etc/group
    d0755 0:0 home
    d0755 1000:1000 home/alice
    --
    d0755 1000:1000 app
    -0644 1000:1000 app/main.py
    --
    d0755 1000:1000 app
    -0600 1000:1000 app/VERSION
    d1777 0:0 data
    d0755 0:0 usr
    d0755 0:0 usr/bin
    l0777 0:0 usr/bin/python -> python3.11
    d0755 0:0 etc
    -0644 0:0 etc/os-release
    -0644 1000:1000 app/main.py
    d0755 1000:1000 srv
    d0755 1000:1000 srv/app
    ");
    assert_eq!(image.text("etc/os-release"), "ID=debian\nVERSION_ID=\"12\"\nA=1\n");
    assert_eq!(image.text("app/main.py"), "print()\n# end\n");
    assert_eq!(image.text("app/VERSION"), "1.2\n-dirty");
    assert_snapshot!(image.history().join("\n"), @r"
    (base)
    kiln: user alice (1000:1000)
    kiln: copy src to /app
    kiln: files /app/VERSION, /data and 5 more
    ");
    assert_snapshot!(refused("files = [{ to = \"/etc/none\", append = \"x\" }]"), @r"
    ------- stderr -------
    error: nothing can be appended to `/etc/none`: there is no such file

    hint: give the whole file with `text`
    [exit status: 2]
    ");
}

#[test]
fn login_shells_have_the_path_of_the_image() {
    let environment = greeting();
    bases::changed(&environment.path("base"), 0, &|_| ());
    bases::debian_with(&environment.path("base"), &[("etc/profile.d/x.sh", Vec::new())]);
    environment.stack(&stack("packages = [\"greeting\"]\nuser = { name = \"alice\" }"));
    environment.succeed("build --output oci:out");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    assert_snapshot!(image.text("etc/profile.d/kiln.sh"), @r"
    # The PATH of the image, which login shells forget.
    PATH='/opt/venv/bin:/usr/local/bin:/usr/bin:/bin'
    export PATH
    ");
}

#[test]
fn a_program_that_is_not_there_is_refused_with_the_nearest() {
    let environment = greeting();
    environment.write("src/run.sh", "#!/bin/sh\n");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs_err::set_permissions(environment.path("src/run.sh"), executable).unwrap();
    let refused = |entrypoint: &str| {
        let copy = "copy = [{ from = \"src\", to = \"/app\" }]";
        environment.stack(&stack(&format!(
            "packages = [\"greeting\"]\n{copy}\nworkdir = \"/app\"\nentrypoint = [\"{entrypoint}\"]"
        )));
        environment.kiln("build")
    };
    for there in
        ["greet", "/opt/venv/bin/greet", "/app/run.sh", "./run.sh", "python", "/usr/bin/python3.11", "/lib/x", "$X"]
    {
        assert_eq!(refused(there).status, Some(0), "{there}: {}", refused(there));
    }
    assert_snapshot!(refused("gret"), @r"
    ------- stderr -------
    error: the image runs `gret`, which is not in a directory of `PATH`

    hint: did you mean `greet`?
    [exit status: 2]
    ");
    assert_snapshot!(refused("/app/rum.sh"), @r"
    ------- stderr -------
    error: the image runs `/app/rum.sh`, which is not in the image

    hint: did you mean `/app/run.sh`?
    [exit status: 2]
    ");
    assert_snapshot!(refused("/srv/run.sh"), @r"
    ------- stderr -------
    error: the image runs `/srv/run.sh`, which is not in the image

    hint: `copy` or `files` put it there; `packages` bring programs into `/opt/venv/bin`
    [exit status: 2]
    ");
    environment.write("src/data", "");
    assert_snapshot!(refused("/app/data"), @r#"
    ------- stderr -------
    error: the image runs `/app/data`, which nobody may execute
      --> kiln.toml:16:14
       |
    16 | entrypoint = ["/app/data"]
       |              ^^^^^^^^^^^^^
       |
    help: `chmod +x` it in the project, or say `mode = "0755"` where it is copied
    [exit status: 2]
    "#);
    assert_snapshot!(refused("/app"), @r#"
    ------- stderr -------
    error: the image runs `/app`, which is a directory
      --> kiln.toml:16:14
       |
    16 | entrypoint = ["/app"]
       |              ^^^^^^^^
       |
    help: name the program in it
    [exit status: 2]
    "#);
}

#[test]
fn a_tier_that_is_not_published_is_neither_pushed_nor_written_unless_it_is_named() {
    let environment =
        TestEnvironment::with_stack(&stack("publish = false\n\n[images.top]\nfrom = \"app\"\nenv = { A = \"1\" }"));
    environment.succeed("build --output oci:out");
    let index = environment.read("out/index.json");
    assert!(index.contains("\"top\"") && !index.contains("\"app\""), "{index}");
    environment.succeed("build app --output oci:other");
    assert_snapshot!(environment.kiln("build app --push"), @r"
    ------- stderr -------
    error: the image `app` is neither pushed nor loaded: the stack file says `publish = false`

    hint: name an image that stands on it, or leave `publish` out
    [exit status: 2]
    ");
}

#[test]
fn what_only_a_dockerfile_s_build_would_do_is_left_out_with_a_word() {
    let environment = TestEnvironment::with_stack(&stack("env = { A = \"1\" }"));
    bases::changed(&environment.path("base"), 0, &|config| {
        config.config.other.insert("OnBuild".into(), serde_json::json!(["COPY . /app", "RUN make"]));
        let entry = |by: &str| kiln_oci::image::History { created_by: Some(by.into()), ..Default::default() };
        config.history = vec![entry("a"), entry("b"), entry("c")];
    });
    assert_snapshot!(environment.kiln("build --output oci:out"), @r"
    app sha256:<digest> 6.17 kB in 1 layer
    ------- stderr -------
    warning: `app` stands on a base with 2 ONBUILD instructions, which only a Dockerfile's build runs: they are left out
    ");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    assert_eq!(image.config.config.other.get("OnBuild"), None);
    assert_eq!(image.history(), ["a"], "Docker refuses more entries than layers");
    assert!(image.config.history.iter().all(|entry| entry.created.is_some()), "no time is the year 1 for Docker");
}

#[test]
fn a_base_with_an_environment_of_its_own_is_refused() {
    let environment = greeting();
    bases::debian_with(&environment.path("base"), &[("opt/venv/pyvenv.cfg", Vec::new())]);
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: the base has an `/opt/venv` of its own, which is where kiln puts the packages of an image
      --> kiln.toml:12:8
       |
    12 | from = { oci = "base" }
       |        ^^^^^^^^^^^^^^^^
       |
    help: install into the base's Python with `python.environment = "base"`, or choose a base without it
    [exit status: 2]
    "#);
}

#[test]
fn copies_share_layers_where_there_is_no_room_for_more() {
    let copies: Vec<String> = (0..9).map(|at| format!("{{ from = \"src\", to = \"/{}\" }}", at / 2)).collect();
    let environment = TestEnvironment::with_stack(&stack(&format!("copy = [{}]\nworkdir = \"/w\"", copies.join(", "))));
    environment.write("src/x", "x");
    bases::changed(&environment.path("base"), 118, &|_| ());
    assert_snapshot!(environment.kiln("build --output oci:out"), @"app sha256:<digest> <size> in 125 layers");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    assert_eq!(image.layers.len(), 125, "the most that Docker takes");
    for at in 0..5 {
        assert_eq!(image.text(&format!("{at}/x")), "x");
    }
    bases::changed(&environment.path("base"), 124, &|_| ());
    environment.succeed("lock --upgrade");
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: the image `app` would have 127 layers, and 125 is the most that Docker takes: use a base with fewer layers, or a larger `max-layer-size`
    [exit status: 2]
    ");
}

#[test]
fn every_unknown_key_of_a_file_is_named() {
    let environment = TestEnvironment::with_stack(&stack(
        "foo = 1\ncopy = [{ from = \"a\", to = \"/a\", bar = 2 }]\nuser = { name = \"a\", baz = 3 }",
    ));
    let outcome = environment.kiln("plan");
    for key in ["foo", "bar", "baz"] {
        assert!(outcome.stderr.contains(&format!("unknown key `{key}`")), "{outcome}");
    }
}

#[test]
fn what_declared_facts_leave_out_is_said_by_plan() {
    let environment = TestEnvironment::with_stack(&stack("base-facts = { links = [\"/bin -> usr/bin\"] }"));
    environment.succeed("lock");
    assert_snapshot!(environment.kiln("plan").stderr, @"warning: the `base-facts` of `app` declare no `directories`: layers are made as if the base had none");
}

#[test]
fn a_directory_that_is_there_keeps_what_is_not_said() {
    let environment = TestEnvironment::with_stack(&stack(
        "files = [{ to = \"/a/\", mode = \"1777\", owner = \"5:6\" }]\n\n[images.top]\nfrom = \"app\"\n\
         files = [{ to = \"/a/\" }, { to = \"/b/\" }]\n\n[images.more]\nfrom = \"top\"\nfiles = [{ to = \"/a/\", mode = \"0700\" }]",
    ));
    environment.succeed("build --output oci:out");
    let a = |image: &str| {
        let image = ReadBack::of(&environment.path("out"), image, "amd64");
        let a = image.file("a").clone();
        format!("{:o} {:?}", a.mode, a.owner)
    };
    assert_eq!((a("top"), a("more")), ("1777 (5, 6)".into(), "700 (5, 6)".into()));
}

#[test]
fn a_home_begins_as_the_skeleton_of_the_base() {
    let environment = TestEnvironment::with_stack(&stack("user = { name = \"alice\", groups = [\"staff\"] }"));
    bases::debian_with(&environment.path("base"), &[("etc/skel/.config/x", b"x".to_vec())]);
    environment.succeed("build --output oci:out");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    assert_snapshot!(image.list(), @r"
    d0755 0:0 etc
    -0644 0:0 etc/passwd
    -0644 0:0 etc/group
    d0755 0:0 home
    d0755 1000:1000 home/alice
    d0755 1000:1000 home/alice/.config
    -0644 1000:1000 home/alice/.config/x
    ");
    assert_eq!(image.config.config.user, "1000", "with a group beside it, runtimes leave out `staff`");
    assert_snapshot!(environment.kiln("plan").stdout, @r"
    app (linux/amd64)
      oci base                            in the store
      user alice (1000:1000)              in the store

    app: unchanged
    ");
}

#[test]
fn users_that_files_add_are_known_to_the_images_above() {
    let environment = TestEnvironment::with_stack(&stack(
        "files = [{ to = \"/etc/passwd\", append = \"zed:x:1000:1000::/:/bin/sh\\n\" }]\n\n[images.top]\nfrom = \"app\"\n\
         users = [{ name = \"bob\" }]\nuser = \"zed\"",
    ));
    environment.succeed("build --output oci:out");
    let image = ReadBack::of(&environment.path("out"), "top", "amd64");
    assert!(image.text("etc/passwd").ends_with("zed:x:1000:1000::/:/bin/sh\nbob:x:1001:1001:bob:/home/bob:/bin/sh\n"));
    environment.succeed("plan");
    assert!(environment.kiln("inspect top").status == Some(0), "{}", environment.kiln("inspect top"));
    environment.write("passwd", "");
    environment.stack(&stack(
        "copy = [{ from = \"passwd\", to = \"/etc/passwd\" }]\n\n[images.top]\nfrom = \"app\"\nuser = { name = \"bob\" }",
    ));
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: `copy passwd to /etc/passwd` brings another list of users: `bob` cannot be added to it
      --> kiln.toml:17:8
       |
    17 | user = { name = "bob" }
       |        ^^^^^^^^^^^^^^^^
       |
    help: create users in the image that has the copy, or leave the file out of the copy
    [exit status: 2]
    "#);
}

#[test]
fn values_that_look_like_those_of_a_dockerfile_are_warned_of() {
    let environment = TestEnvironment::with_stack(&stack(
        "env = { PATH = \"/x/bin:$PATH\", HOME = \"/home/x\", CACHE = \"${HOME}/.cache\" }",
    ));
    assert_snapshot!(environment.kiln("build"), @r"
    app sha256:<digest> 6.17 kB in 1 layer
    ------- stderr -------
    warning: `${HOME}` in `env.CACHE` is the value of the image below: variables of one table do not see one another
    warning: `$PATH` in `env.PATH` is text: the value of the image below is `${PATH}`
    ");
    assert_snapshot!(refused("env = { A = \"${B:-c}\" }\nports = [8080]\nfiles = [{ to = \"/l\", link = \"\" }]"), @r"
    ------- stderr -------
    error: unknown key `ports`
      --> kiln.toml:14:1
       |
    14 | ports = [8080]
       | ^^^^^
       |
    help: did you mean `expose`?
    [exit status: 2]
    ");
    assert_snapshot!(refused("env = { A = \"${B:-c}\" }\nfiles = [{ to = \"/l\", link = \"\" }]\nentrypoint = [\"\"]"), @r#"
    ------- stderr -------
    error: a link leads somewhere
      --> kiln.toml:14:30
       |
    14 | files = [{ to = "/l", link = "" }]
       |                              ^^
       |
    help: such as `link = "python3"`

    error: `${B:-c}` is for a shell, and `env` has none
      --> kiln.toml:13:13
       |
    13 | env = { A = "${B:-c}" }
       |             ^^^^^^^^^
       |
    help: `${NAME}` alone is the value of the image below

    error: the first word of a command is a program, and this one is empty
      --> kiln.toml:15:14
       |
    15 | entrypoint = [""]
       |              ^^^^
    [exit status: 2]
    "#);
}

#[test]
fn the_layer_of_a_wheel_is_the_same_on_every_base() {
    let environment = greeting();
    bases::debian_with(&environment.path("other"), &[("opt/tools/x", Vec::new()), ("usr/share/doc/x", Vec::new())]);
    let scratch = "from = \"scratch\"\nbase-facts = { libc = { family = \"glibc\", version = \"2.39\" }, interpreters = \
                   [{ path = \"/usr/bin/python3.11\", version = \"3.11.2\" }] }";
    environment.stack(&format!(
        "{}\n[images.other]\nfrom = {{ oci = \"other\" }}\npackages = [\"greeting\"]\n\n[images.scratch]\n{scratch}\n\
         packages = [\"greeting\"]\n",
        stack("packages = [\"greeting\"]")
    ));
    environment.succeed("build --output oci:out");
    let layer = |image: &str| {
        let image = ReadBack::of(&environment.path("out"), image, "amd64");
        *image.config.rootfs.diff_ids.last().unwrap()
    };
    assert_eq!((layer("app"), layer("app")), (layer("other"), layer("scratch")));
}
