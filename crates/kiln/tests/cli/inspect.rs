//! `kiln plan` and `kiln inspect`.

use crate::environment::{TestEnvironment, run};
use crate::wheels::{greeting, native, pure, stack};
use insta::assert_snapshot;
use kiln_fatbin::testing::{cubin, entry, entry_of, region};

#[test]
fn a_plan_says_what_a_build_will_do_and_afterwards_that_nothing_is_left() {
    let environment = greeting();
    environment.wheel(&native("solver", "3.0", "x86_64", 10_000_000));
    environment.write("src/main.py", "print()\n");
    environment.stack(&stack(
        "packages = [\"greeting\", \"solver\"]\ncopy = [{ from = \"src\", to = \"/app\" }]\ntimezone = \"UTC\"\n\n\
         [images.empty]\nfrom = \"app\"",
    ));
    assert_snapshot!(environment.kiln("plan"), @r"
    ------- stderr -------
    error: there is no `kiln.lock` yet

    hint: run `kiln lock`
    [exit status: 2]
    ");
    environment.succeed("lock");
    assert_snapshot!(environment.kiln("plan"), @r"
    app (linux/amd64)
      oci base                         in the store
      virtual environment              to do: never built, under a second
      solver 3.0            8.87 MB    to do: never built
      2 small packages      2.01 kB    depends on greeting-1.0-py3-none-any.whl, solver-3.0-cp311-cp311-manylinux_2_28_x86_64.whl, words-2.1-py3-none-any.whl: never built
      time zone UTC                    to do: never built, under a second
      copy src to /app          8 B    to do: never built
      image                            depends on virtual environment, solver 3.0, 2 small packages and 2 more
    empty (linux/amd64)
      image                            depends on app

    app: 5 steps to do · empty: depends on app
    ");
    environment.succeed("build");
    assert_snapshot!(environment.kiln("plan"), @r"
    app (linux/amd64)
      oci base                         in the store
      virtual environment              in the store
      solver 3.0            8.87 MB    in the store
      2 small packages      2.01 kB    in the store
      time zone UTC                    in the store
      copy src to /app          8 B    in the store
    empty (linux/amd64)

    app: unchanged · empty: unchanged
    ");
    assert_snapshot!(environment.kiln("plan empty --json"), @r#"
    {
      "images": [
        {
          "image": "app",
          "platform": "linux/amd64",
          "base": {
            "name": "oci base",
            "key": null,
            "bytes": 0,
            "state": {
              "state": "here"
            },
            "needs": {
              "base_bytes": false,
              "cpu": false
            },
            "fetch": 0,
            "seconds": null,
            "reasons": [],
            "notes": []
          },
          "steps": [
            {
              "name": "virtual environment",
              "key": "<digest>",
              "bytes": 0,
              "state": {
                "state": "here"
              },
              "needs": {
                "base_bytes": false,
                "cpu": false
              },
              "fetch": 0,
              "seconds": 0.0,
              "reasons": [],
              "notes": []
            },
            {
              "name": "solver 3.0",
              "key": "<digest>",
              "bytes": 8865880,
              "state": {
                "state": "here"
              },
              "needs": {
                "base_bytes": false,
                "cpu": false
              },
              "fetch": 0,
              "seconds": 0.0,
              "reasons": [],
              "notes": []
            },
            {
              "name": "2 small packages",
              "key": "<digest>",
              "bytes": 2010,
              "state": {
                "state": "here"
              },
              "needs": {
                "base_bytes": false,
                "cpu": false
              },
              "fetch": 0,
              "seconds": 0.0,
              "reasons": [],
              "notes": []
            },
            {
              "name": "time zone UTC",
              "key": "<digest>",
              "bytes": 0,
              "state": {
                "state": "here"
              },
              "needs": {
                "base_bytes": false,
                "cpu": false
              },
              "fetch": 0,
              "seconds": 0.0,
              "reasons": [],
              "notes": []
            },
            {
              "name": "copy src to /app",
              "key": "<digest>",
              "bytes": 8,
              "state": {
                "state": "here"
              },
              "needs": {
                "base_bytes": false,
                "cpu": false
              },
              "fetch": 0,
              "seconds": 0.0,
              "reasons": [],
              "notes": []
            }
          ],
          "result": {
            "state": "here"
          },
          "changes": [],
          "fetch": 0,
          "seconds": 0.0
        },
        {
          "image": "empty",
          "platform": "linux/amd64",
          "base": null,
          "steps": [],
          "result": {
            "state": "here"
          },
          "changes": [],
          "fetch": 0,
          "seconds": 0.0
        }
      ]
    }
    "#);
}

#[test]
fn an_image_of_the_stack_a_layout_and_a_wheel_can_be_looked_at() {
    let environment = greeting();
    environment.stack(&stack(
        "packages = [\"greeting\"]\nuser = \"nobody\"\n\
         workdir = \"/tmp\"\nentrypoint = [\"greet\"]",
    ));
    environment.succeed("build --output oci:out");
    assert_snapshot!(environment.kiln("inspect oci:out"), @r"
    app (linux/amd64)  sha256:<digest>  8.54 kB
      user: nobody
      workdir: /tmp
      entrypoint: greet
      env: PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin VIRTUAL_ENV=/opt/venv
      <digest>    6.17 kB  (base)
      <digest>    1.06 kB  kiln: virtual environment for /usr/bin/python3.11
      <digest>    1.23 kB  kiln: words 2.1, greeting 1.0
      <digest>       79 B  kiln: files /tmp
    ");
    assert_eq!(environment.succeed("inspect app"), environment.succeed("inspect oci:out"));
    assert_snapshot!(environment.kiln("inspect wheels/greeting-1.0-py3-none-any.whl"), @r"
    greeting 1.0  1.16 kB in 7 files, 575 B unpacked
      requires words>=2
          370 B  greeting-1.0.dist-info/RECORD
           75 B  greeting-1.0.dist-info/WHEEL
           74 B  greeting-1.0.dist-info/METADATA
           40 B  greeting-1.0.dist-info/entry_points.txt
           16 B  greeting/__init__.py
    ");
    assert_snapshot!(environment.kiln("inspect wheels/greeting-1.0-py3-none-any.whl --json"), @r#"
    {
      "gpu-code": {
        "files": [],
        "bytes": 0
      },
      "name": "greeting",
      "version": "1.0",
      "requires": [
        "words>=2"
      ],
      "size": <n>,
      "unpacked": 575,
      "files": [
        {
          "path": "greeting-1.0.dist-info/RECORD",
          "size": <n>,
          "compressed": 255
        },
        {
          "path": "greeting-1.0.dist-info/WHEEL",
          "size": <n>,
          "compressed": 76
        },
        {
          "path": "greeting-1.0.dist-info/METADATA",
          "size": <n>,
          "compressed": 69
        },
        {
          "path": "greeting-1.0.dist-info/entry_points.txt",
          "size": <n>,
          "compressed": 38
        },
        {
          "path": "greeting/__init__.py",
          "size": <n>,
          "compressed": 21
        }
      ]
    }
    "#);
}

#[test]
fn what_cannot_be_looked_at_is_said() {
    let environment = greeting();
    assert_snapshot!(environment.kiln("inspect oci:nowhere"), @r"
    ------- stderr -------
    error: `nowhere` is not a usable OCI image layout: there is no such directory

    hint: name another directory, or write this one again with the program that made it
    [exit status: 2]
    ");
    assert_snapshot!(environment.kiln("inspect nowhere.whl"), @r"
    ------- stderr -------
    error: the wheel `nowhere.whl` cannot be used
      caused by: `nowhere.whl` is not the file name of a wheel (NAME-VERSION-PYTHON-ABI-PLATFORM.whl)
    [exit status: 1]
    ");
    assert_snapshot!(environment.kiln("inspect wheels/nowhere-1.0-py3-none-any.whl"), @r"
    ------- stderr -------
    error: failed to open file `wheels/nowhere-1.0-py3-none-any.whl`: No such file or directory (os error 2)
    [exit status: 3]
    ");
    environment.wheel(&pure("cut", "1.0"));
    let path = "wheels/cut-1.0-py3-none-any.whl";
    let bytes = fs_err::read(environment.path(path)).unwrap();
    environment.write(path, &bytes[..bytes.len() / 2]);
    assert_snapshot!(environment.kiln(&format!("inspect {path}")), @r"
    ------- stderr -------
    error: the wheel `cut-1.0-py3-none-any.whl` cannot be used
      caused by: it is truncated or not a zip archive (Missing end of central directory)

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    assert_snapshot!(environment.kiln("inspect nosuch"), @r"
    ------- stderr -------
    error: the stack has no image `nosuch`; it has `app`
    [exit status: 2]
    ");
}

#[test]
fn a_stack_elsewhere_is_named_with_f() {
    let environment: TestEnvironment = greeting();
    let mut command = environment.command();
    command.current_dir(environment.root()).args(["build", "-f", "project/kiln.toml", "--output", "oci:there"]);
    let outcome = crate::environment::Outcome::of(command);
    assert_snapshot!(outcome, @"app sha256:<digest> <size> in 3 layers");
    assert!(environment.root().join("there/index.json").is_file(), "outputs are relative to where kiln runs");
    assert!(environment.path("kiln.lock").is_file());
    assert_snapshot!(run(&environment, &["plan", "-f", "no such.toml"]), @r"
    ------- stderr -------
    error: there is no stack file `no such.toml`

    hint: say where the stack file is: `-f FILE`; or write one: the README begins with an example
    [exit status: 2]
    ");
}

#[test]
fn what_a_wheel_says_cannot_command_the_terminal() {
    let environment = TestEnvironment::new();
    environment.wheel(&pure("sly", "1.0").file("sly/\u{1b}[2J\u{1b}[31m.py", "").requires("more \u{1b}[2J"));
    let outcome = environment.kiln("inspect wheels/sly-1.0-py3-none-any.whl");
    assert!(!outcome.stdout.contains('\u{1b}'), "{outcome}");
}

/// A region with an entry of machine code and one of PTX (docs/fatbin.md).
fn fatbin() -> Vec<u8> {
    let entry = |kind: u16, number: u32, flags: u64| {
        let mut bytes = vec![0; 80];
        bytes[0..2].copy_from_slice(&kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&64u32.to_le_bytes());
        bytes[8..16].copy_from_slice(&16u64.to_le_bytes());
        bytes[28..32].copy_from_slice(&number.to_le_bytes());
        bytes[40..48].copy_from_slice(&flags.to_le_bytes());
        bytes
    };
    let body = [entry(2, 90, 0x8000), entry(1, 80, 0)].concat();
    let mut bytes = vec![0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0];
    bytes.extend((body.len() as u64).to_le_bytes());
    bytes.extend(body);
    bytes
}

#[test]
fn the_gpu_code_of_files_and_directories_is_listed() {
    let environment = TestEnvironment::new();
    environment.write("code/one.fatbin", fatbin());
    environment.write("code/deep/two.fatbin", [fatbin(), fatbin()].concat());
    environment.write("code/text.txt", "no code at all, however long the text may be that stands here");
    assert_snapshot!(environment.kiln("inspect code --gpus L4,H100,V100"), @r"
    code/deep/two.fatbin (fatbin)  352 B of GPU code
      the file: 2 regions, 352 B
        compute_80  PTX          2      160 B
        sm_90       cubin        2      160 B  zstd
        V100 (7.0): regions: 2 have no code for it
        L4 (8.9): regions: 2 through PTX
        H100 (9.0): regions: 2 native
    code/one.fatbin (fatbin)  176 B of GPU code
      the file: 1 region, 176 B
        compute_80  PTX          1       80 B
        sm_90       cubin        1       80 B  zstd
        V100 (7.0): regions: 1 have no code for it
        L4 (8.9): regions: 1 through PTX
        H100 (9.0): regions: 1 native
    2 files with 528 B of GPU code
    ");
    // The linker's cubin and PTX of a library without a kernel.
    let ptx = b".version 9.4\n.target sm_75\n.address_size 64\n";
    let nothing = [entry_of(2, 75, 0, &cubin(75, "", &[])), entry_of(1, 75, 0, ptx), entry(2, 90, 0, 16)];
    environment.write("empty.fatbin", region(&nothing));
    assert_snapshot!(environment.kiln("inspect empty.fatbin --gpus L4,H100"), @r"
    empty.fatbin (fatbin)  704 B of GPU code
      the file: 1 region, 704 B
        compute_75  PTX          1      112 B  empty
        sm_75       cubin        1      496 B  empty
        sm_90       cubin        1       80 B
        L4 (8.9): regions: 1 have no code for it
        H100 (9.0): regions: 1 native
    1 file with 704 B of GPU code
    ");
    assert_snapshot!(environment.kiln("inspect code/text.txt"), @"0 files with 0 B of GPU code");
    assert_snapshot!(environment.kiln("inspect code/one.fatbin --json --gpus H100"), @r#"
    {
      "files": [
        {
          "file": "code/one.fatbin",
          "listing": {
            "format": "fatbin",
            "code": [
              {
                "place": "the file",
                "regions": 1,
                "bytes": 176,
                "groups": [
                  {
                    "architecture": "compute_80",
                    "kind": "ptx",
                    "compression": "none",
                    "entries": 1,
                    "bytes": 80,
                    "ptx": "0.0"
                  },
                  {
                    "architecture": "sm_90",
                    "kind": "cubin",
                    "compression": "zstd",
                    "entries": 1,
                    "bytes": 80
                  }
                ],
                "alike": [
                  {
                    "architectures": [
                      "compute_80",
                      "sm_90"
                    ],
                    "languages": {
                      "compute_80": "0.0"
                    },
                    "regions": 1
                  }
                ]
              }
            ],
            "hip": false,
            "malformed": []
          },
          "verdicts": [
            {
              "gpu": "9.0",
              "coverage": "native",
              "extent": "served",
              "regions": {
                "native": 1,
                "ptx": 0,
                "missing": 0
              },
              "architectures": [
                "sm_90"
              ],
              "driver": "550.54.14",
              "driver_for": "Zstandard"
            }
          ],
          "uncut": []
        }
      ],
      "bytes": 176
    }
    "#);
    assert_snapshot!(environment.kiln("inspect code --gpus H1OO"), @r"
    ------- stderr -------
    error: `H1OO` is not a GPU that kiln knows

    hint: did you mean `H100`?
    [exit status: 2]
    ");
}
