//! Help, and the commands that only tell.

use crate::environment::TestEnvironment;
use insta::assert_snapshot;

#[test]
fn the_help_is_pinned() {
    let environment = TestEnvironment::new();
    assert_snapshot!(environment.kiln("--help"), @r"
    From one stack file to verified, small, reproducible GPU images: wheels become layers without a
    container runtime

    Usage: kiln [OPTIONS] <COMMAND>

    Commands:
      build        Build images
      lock         Resolve bases and packages, and write `kiln.lock`
      plan         Say what a build would do, what is known already, and what it will cost; nothing is
                   done
      explain      Say why images would be built again, or were
      pull         Copy an image from a registry to a layout, an archive or the Docker daemon
      push         Push an image of an OCI layout to a registry
      index        Join what several machines pushed for their platforms, and move the tags
      login        Keep credentials for a registry
      logout       Forget credentials for a registry
      cache        Look after the results that machines share through a registry
      inspect      List what is in images, wheels, directories and libraries, GPU code included
      verify       Prove that images, wheels and directories can run: their GPU code, and the libraries
                   that they need
      prune        Cut GPU code that some GPUs do not need out of libraries and wheels
      gpus         List GPU names and capabilities, and which CUDA releases compile for them
      du           Say what the store takes up
      gc           Remove what was used least recently from the store
      store        Look after what the store holds
      doctor       Say what works on this machine and what does not, and what to do about it
      schema       Print the JSON schema of the stack file
      completions  Print a completion script for a shell
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Global options:
      -f, --file <FILE>
              The stack file
              
              [default: kiln.toml]

          --store <DIR>
              The store [default: `kiln` in the XDG cache directory]
              
              [env: KILN_STORE]

          --jobs <N>
              Threads that work at once [default: one for each processor]

          --insecure
              Speak plain HTTP to registries, and accept certificates that nobody vouches for

          --offline
              Do not use the network

          --json
              Print one JSON document on standard output

      -q, --quiet
              Say less: errors and results only

      -v, --verbose...
              Say more: every retry, and the lines of the programs that kiln runs; twice: every step,
              request and written file too, as `KILN_LOG` does (`KILN_LOG=kiln_registry=debug`)

          --color <WHEN>
              Whether to use colour

              Possible values:
              - auto:   On a terminal, unless `NO_COLOR` is set
              - always
              - never
              
              [default: auto]
    ");
    assert_snapshot!(environment.kiln("build --help"), @r"
    Build images

    Usage: kiln build [OPTIONS] [IMAGES]...

    Arguments:
      [IMAGES]...
              Images to build [default: all]

    Options:
      -o, --output <OUTPUT>
              Destination of the images: `oci:DIR` (an OCI layout), `oci-archive:FILE` or
              `docker-archive:FILE` (`-` is stdout); several times for several places

          --load
              Load the images into the Docker daemon

          --push
              Push the images to their registry, and share results with those who use the same cache

          --locked
              Fail rather than change `kiln.lock`

          --keep-going
              After a failure, make and deliver what does not depend on it

          --no-cache <STEP>
              Perform a command again though its result is known: `IMAGE` means all commands of an
              image, `IMAGE:2` its second; several times for several commands

          --twice
              Perform every command twice, also where its result is known, and fail if it does not
              change the same both times

          --shell-on-failure
              Open a shell where a command fails: with its files, environment, user and working
              directory; the build goes on to fail when the shell ends

          --all-variants
              The stack as it stands and every variant, one after the other: into the store, with
              `--push` or `--load` to where their tags say; `--output` takes one `--variant`

          --variant <NAME>
              A variant that the stack declares

          --var <NAME=VALUE>
              Set a variable of the stack

          --gpus <GPUS>
              GPUs instead of the stack's: names, generations or capabilities, separated by commas

          --platform <PLATFORMS>
              Platforms instead of the stack's, separated by commas

      -h, --help
              Print help (see a summary with '-h')

    Global options:
      -f, --file <FILE>
              The stack file
              
              [default: kiln.toml]

          --store <DIR>
              The store [default: `kiln` in the XDG cache directory]
              
              [env: KILN_STORE]

          --jobs <N>
              Threads that work at once [default: one for each processor]

          --insecure
              Speak plain HTTP to registries, and accept certificates that nobody vouches for

          --offline
              Do not use the network

          --json
              Print one JSON document on standard output

      -q, --quiet
              Say less: errors and results only

      -v, --verbose...
              Say more: every retry, and the lines of the programs that kiln runs; twice: every step,
              request and written file too, as `KILN_LOG` does (`KILN_LOG=kiln_registry=debug`)

          --color <WHEN>
              Whether to use colour

              Possible values:
              - auto:   On a terminal, unless `NO_COLOR` is set
              - always
              - never
              
              [default: auto]
    ");
    assert_snapshot!(environment.kiln("lock -h"), @r"
    Resolve bases and packages, and write `kiln.lock`

    Usage: kiln lock [OPTIONS]

    Options:
          --upgrade [<PACKAGE>...]  Choose anew: everything, or only these packages
          --check                   Fail if the lock does not fit the stack, and write nothing
          --variant <NAME>          A variant that the stack declares
          --var <NAME=VALUE>        Set a variable of the stack
          --gpus <GPUS>             GPUs instead of the stack's: names, generations or capabilities,
                                    separated by commas
          --platform <PLATFORMS>    Platforms instead of the stack's, separated by commas
      -h, --help                    Print help (see more with '--help')

    Global options:
      -f, --file <FILE>   The stack file [default: kiln.toml]
          --store <DIR>   The store [default: `kiln` in the XDG cache directory] [env: KILN_STORE]
          --jobs <N>      Threads that work at once [default: one for each processor]
          --insecure      Speak plain HTTP to registries, and accept certificates that nobody vouches
                          for
          --offline       Do not use the network
          --json          Print one JSON document on standard output
      -q, --quiet         Say less: errors and results only
      -v, --verbose...    Say more: every retry, and the lines of the programs that kiln runs; twice:
                          every step, request and written file too, as `KILN_LOG` does
                          (`KILN_LOG=kiln_registry=debug`)
          --color <WHEN>  Whether to use colour [default: auto] [possible values: auto, always, never]
    ");
}

#[test]
fn without_a_command_the_help_is_shown_and_it_is_a_mistake() {
    let environment = TestEnvironment::new();
    let outcome = environment.kiln("");
    assert_eq!((outcome.status, outcome.stdout.as_str()), (Some(2), ""), "{outcome}");
}

#[test]
fn mistakes_on_the_command_line_are_status_2() {
    let environment = TestEnvironment::new();
    assert_snapshot!(environment.kiln("biuld"), @r"
    ------- stderr -------
    error: unrecognized subcommand 'biuld'

      tip: a similar subcommand exists: 'build'

    Usage: kiln [OPTIONS] <COMMAND>

    For more information, try '--help'.
    [exit status: 2]
    ");
    assert_snapshot!(environment.kiln("build --ouput oci:x"), @r"
    ------- stderr -------
    error: unexpected argument '--ouput' found

      tip: a similar argument exists: '--output'

    Usage: kiln build --output <OUTPUT> [IMAGES]...

    For more information, try '--help'.
    [exit status: 2]
    ");
    assert_snapshot!(environment.kiln("build --var torch"), @r"
    ------- stderr -------
    error: invalid value 'torch' for '--var <NAME=VALUE>': write NAME=VALUE

    For more information, try '--help'.
    [exit status: 2]
    ");
    assert_snapshot!(environment.kiln("build --jobs 0"), @r"
    ------- stderr -------
    error: invalid value '0' for '--jobs <N>': 0 is not in 1..=1024

    For more information, try '--help'.
    [exit status: 2]
    ");
    assert_snapshot!(environment.kiln("build -q -v"), @r"
    ------- stderr -------
    error: the argument '--quiet' cannot be used with '--verbose...'

    Usage: kiln build --quiet --store <DIR> [IMAGES]...

    For more information, try '--help'.
    [exit status: 2]
    ");
}

#[test]
fn gpus_lists_what_is_known() {
    let environment = TestEnvironment::new();
    assert_snapshot!(environment.kiln("gpus h100"), @r"
    GPU   CAPABILITY  CODE   GENERATION  CLASS        CUDA            DRIVER
    H100  9.0         sm_90  Hopper      data centre  11.8 and newer  520 and newer
    ");
    let names = |arguments: &str| -> Vec<String> {
        let json: serde_json::Value =
            serde_json::from_str(&environment.succeed(&format!("gpus --json {arguments}"))).unwrap();
        json["gpus"].as_array().unwrap().iter().map(|gpu| gpu["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("H100+PTX"), names("h100"));
    let both = [names("8.0"), names("8.6")].concat();
    for list in ["8.0;8.6", "8.0,8.6+PTX", "8.0 8.6+PTX", "sm_80 compute_86"] {
        let mut found = names(list);
        let mut all = both.clone();
        found.sort();
        all.sort();
        assert_eq!(found, all, "{list}");
    }
    assert_eq!(names("Ampere+Tegra"), names("8.7"));
    assert_snapshot!(environment.kiln("gpus 8.0;H10O"), @r"
    ------- stderr -------
    error: no GPU is called `H10O`

    hint: did you mean `H100`?
    [exit status: 2]
    ");
    assert_snapshot!(environment.kiln("gpus native"), @r"
    ------- stderr -------
    error: no GPU of this machine can be seen

    hint: name one: `H100`
    [exit status: 2]
    ");
    let all = environment.succeed("gpus --json");
    let all: serde_json::Value = serde_json::from_str(&all).unwrap();
    assert!(all["gpus"].as_array().unwrap().len() > 20);
}

#[test]
fn a_gpu_that_is_not_known_is_said_rather_than_shown_as_an_empty_list() {
    let environment = TestEnvironment::new();
    let outcome = environment.kiln("gpus voodoo");
    assert!(outcome.stderr.contains("`voodoo`"), "{outcome}");
}

#[test]
fn the_schema_describes_every_table_of_the_stack_file() {
    let environment = TestEnvironment::new();
    let schema: serde_json::Value = serde_json::from_str(&environment.succeed("schema")).unwrap();
    let keys: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    assert_snapshot!(format!("{keys:?}"), @r#"["stack", "vars", "target", "variants", "index", "resolution", "cache", "secrets", "groups", "wheels", "images"]"#);
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn completions_are_printed_for_the_usual_shells() {
    let environment = TestEnvironment::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = environment.succeed(&format!("completions {shell}"));
        assert!(script.contains("kiln") && script.contains("inspect"), "{script}");
    }
    assert_snapshot!(environment.kiln("completions tcsh"), @r"
    ------- stderr -------
    error: invalid value 'tcsh' for '<SHELL>'
      [possible values: bash, elvish, fish, powershell, zsh]

      tip: a similar value exists: 'zsh'

    For more information, try '--help'.
    [exit status: 2]
    ");
}

#[test]
fn the_store_is_in_the_cache_directory_unless_said() {
    let environment = TestEnvironment::new();
    let of = |script: &str| {
        let outcome = environment.shell(script);
        outcome.stdout.lines().next().unwrap_or_default().replace(environment.root().to_str().unwrap(), "ROOT")
    };
    assert_eq!(of("$KILN du"), "ROOT/store");
    assert_eq!(of("$KILN du --store elsewhere"), "ROOT/project/elsewhere");
    assert_eq!(of("unset KILN_STORE; $KILN du"), "ROOT/home/.cache/kiln");
    assert_eq!(of("unset KILN_STORE; XDG_CACHE_HOME=$HOME/cache $KILN du"), "ROOT/home/cache/kiln");
    assert_snapshot!(environment.shell("unset KILN_STORE HOME; $KILN du"), @r"
    ------- stderr -------
    error: there is no home directory to keep the store in

    hint: say where: `--store DIR`
    [exit status: 2]
    ");
    assert_snapshot!(environment.kiln("du --store /proc/nowhere"), @r"
    ------- stderr -------
    error: the store cannot read or write its files
      caused by: failed to create directory `/proc/nowhere/blobs/sha256`: No such file or directory (os error 2)
    [exit status: 3]
    ");
}

#[test]
fn the_help_of_every_command_has_lines_that_fit_a_terminal() {
    let environment = TestEnvironment::new();
    for command in ["build", "lock", "plan", "inspect", "gpus", "du", "gc", "doctor", "schema", "completions"] {
        let help = environment.succeed(&format!("{command} --help"));
        let longest = help.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(longest <= 100, "{command}: {longest}\n{help}");
    }
}

#[test]
fn messages_are_coloured_only_when_asked_for() {
    let environment = TestEnvironment::with_stack("[stack]\nname = \"demo\"\nnmae = 1\n");
    assert!(!environment.kiln("build").stderr.contains('\x1b'));
    assert!(environment.kiln("build --color always").stderr.contains('\x1b'));
    assert!(!environment.kiln("build --color never").stderr.contains('\x1b'));
}
