//! GPU code through the command line: `kiln prune`, `kiln verify`, and what a stack says about both.

use insta::assert_snapshot;
use kiln_fatbin::testing::{Library, entry};
use kiln_registry::testing::Options;
use kiln_wheel::testing::WheelBuilder;

use crate::environment::TestEnvironment;
use crate::team::Team;
use crate::wheels::pure;

const CUBIN: u16 = 2;
const PTX: u16 = 1;

/// A library with code for Ampere, Hopper and Blackwell.
fn library() -> Vec<u8> {
    let code = |payload| [80, 90, 100].map(|number| entry(CUBIN, number, 0, payload));
    Library::new().region(&code(30_000)).region(&code(8_000)).finish()
}

/// A wheel with that library, and one with PTX alone.
pub(crate) fn ops() -> WheelBuilder {
    let old = Library::new().region(&[entry(PTX, 80, 0, 9_000)]).finish();
    WheelBuilder::new("ops", "1.0")
        .tag("cp311-cp311-manylinux_2_28_x86_64")
        .file("ops/__init__.py", "import ops._C\n")
        .file_with("ops/_C.so", true, true, library())
        .file_with("ops/old.so", true, true, old)
}

fn stack(gpus: &str, image: &str) -> String {
    format!(
        "[stack]\nname = \"demo\"\n\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"3.11\"\ngpus = [{gpus}]\n\n\
         [index]\nfind-links = [\"wheels\"]\n\n[images.app]\nfrom = {{ oci = \"base\" }}\npackages = [\"ops\", \"words\"]\n\
         {image}\n"
    )
}

fn project(gpus: &str, image: &str) -> TestEnvironment {
    let environment = TestEnvironment::with_stack(&stack(gpus, image));
    environment.wheel(&ops());
    environment.wheel(&pure("words", "1.0"));
    environment
}

#[test]
fn a_wheel_is_pruned_to_a_smaller_one_of_another_name() {
    let environment = project("", "");
    assert_snapshot!(environment.kiln("prune wheels/ops-1.0-cp311-cp311-manylinux_2_28_x86_64.whl -o out --gpus H100"), @r"
      ops/_C.so     120 kB    50.0 kB  -58.2%
    wheels/ops-1.0-cp311-cp311-manylinux_2_28_x86_64.whl -> out/ops-1.0-1kiln90-cp311-cp311-manylinux_2_28_x86_64.whl: 2.26 kB -> 2.32 kB (+2.4%), 1 file with GPU code
    ");
    let pruned = "out/ops-1.0-1kiln90-cp311-cp311-manylinux_2_28_x86_64.whl";
    assert_snapshot!(environment.kiln(&format!("verify {pruned} --gpus H100,B200")), @r"
    ops-1.0-1kiln90-cp311-cp311-manylinux_2_28_x86_64.whl: 2 files with GPU code (1 through PTX, 1 missing): it cannot run as it is
      ops/_C.so  9.0: native (sm_90); 10.0: missing: it has sm_90; take a newer release of it, or compile it for sm_100 or with PTX
      ops/old.so  9.0: through PTX (compute_80), compiled at the first start; compile it for sm_90 to save the time that the driver takes at the first start; 10.0: through PTX (compute_80), compiled at the first start; compile it for sm_100 to save the time that the driver takes at the first start
    [exit status: 1]
    ");
    // Nothing is left to cut: what lies there of another time makes room for the same wheel.
    environment.write("again/ops-1.0-1kiln90-cp311-cp311-manylinux_2_28_x86_64.whl", "stale");
    let report = environment.succeed(&format!("prune {pruned} -o again --gpus H100 --report json"));
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["inputs"][0]["files"][0]["outcome"], "needed");
    assert_eq!(report["inputs"][0]["before"], report["inputs"][0]["after"]);
}

#[test]
fn files_and_directories_are_pruned_to_a_copy_or_in_place() {
    let environment = TestEnvironment::new();
    environment.write("lib/a.so", library());
    environment.write("lib/notes.txt", "notes");
    assert_snapshot!(environment.kiln("prune lib -o small --gpus H100,L4"), @r"
      a.so     120 kB    86.8 kB  -27.4%
    lib -> small: 120 kB -> 86.8 kB (-27.4%), 1 file with GPU code
    ");
    assert_eq!(environment.read("small/notes.txt"), "notes");
    assert_snapshot!(environment.kiln("prune lib -o small --gpus H100"), @r"
    ------- stderr -------
    error: `small` is there already

    hint: name a new directory, or prune with `--in-place`
    [exit status: 2]
    ");
    environment.succeed("prune lib/a.so -o one.so --gpus 9.0");
    std::os::unix::fs::symlink("a.so", environment.path("lib/link.so")).unwrap();
    environment.succeed("prune lib/link.so --in-place --gpus H100");
    assert!(environment.path("lib/link.so").is_symlink());
    let read = |path: &str| fs_err::read(environment.path(path)).unwrap();
    assert!(read("one.so") == read("lib/a.so") && read("one.so").len() < library().len());
}

#[test]
fn what_cannot_be_pruned_stays_and_is_a_failure_that_says_why() {
    let environment = TestEnvironment::new();
    let odd = Library::new().region(&[entry(CUBIN, 80, 0, 9_000)]).pointer(0, 8).finish();
    environment.write("odd.so", &odd);
    assert_snapshot!(environment.kiln("prune odd.so -o out.so --gpus H100"), @r"
      odd.so  stays as it is: a relocation points into a region, at 0x128
    odd.so -> out.so: 13.1 kB -> 13.1 kB (unchanged), 1 file with GPU code
    [exit status: 1]
    ");
    assert!(fs_err::read(environment.path("out.so")).unwrap() == odd);
    assert_snapshot!(environment.kiln("prune odd.so -o out.so --gpus H10O"), @r"
    ------- stderr -------
    error: `H10O` is not a GPU that kiln knows

    hint: did you mean `H100`?
    [exit status: 2]
    ");
}

#[test]
fn an_image_with_prune_holds_the_code_of_its_gpus_alone_and_nothing_is_done_twice() {
    let environment = project("\"H100\"", "prune = true");
    let first = environment.digests("");
    assert_snapshot!(environment.kiln("verify app"), @r"
    app (linux/amd64): 2 files with GPU code (1 native, 1 through PTX)
      opt/venv/lib/python3.11/site-packages/ops/old.so  9.0: through PTX (compute_80), compiled at the first start; compile it for sm_90 to save the time that the driver takes at the first start
      opt/venv/lib/python3.11/site-packages/ops/_C.so  9.0: native (sm_90)
    ");
    assert_snapshot!(environment.succeed("inspect app").lines().skip(8).collect::<Vec<_>>().join("\n"), @r"
        9.0: regions: 2 native
    opt/venv/lib/python3.11/site-packages/ops/old.so (x86-64)  9.08 kB of GPU code
      .nv_fatbin: 1 region, 9.08 kB
        compute_80  PTX        1    9.06 kB
        9.0: regions: 1 through PTX
    2 files with 47.2 kB of GPU code
    ");
    // What it is judged for may be another GPU than what it was cut for.
    assert_eq!(environment.kiln("verify app --gpus B200").status, Some(1));
    assert_eq!(environment.digests(""), first);
    assert!(environment.succeed("plan").ends_with("app: unchanged\n"));
    environment.stack(&stack("\"H100\"", ""));
    assert_ne!(environment.digests(""), first);
    environment.stack(&stack("\"H100\", \"B200\"", "prune = { keep-ptx = true }"));
    assert_snapshot!(environment.kiln("explain app"), @r"
    app:
      prune: keep-ptx is new (kiln.toml line 15)
      target.gpus: sm_90, sm_100 is new (kiln.toml line 7)
    ");
    let both = environment.digests("");
    assert_ne!(both, first);
    environment.stack(&stack("\"H100\"", "prune = true"));
    assert_eq!(environment.digests(""), first);
    // Garbage collection leaves what images of stacks that are there need.
    environment.succeed("gc --keep-storage 0GB");
    assert_eq!(environment.digests(""), first);
}

#[test]
fn an_image_that_requires_gpu_code_is_not_built_without() {
    let environment = project("\"H100\", \"V100\"", "verify = { gpu-code = \"required\" }");
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: `app` (linux/amd64) lacks GPU code that its stack file requires
      caused by: opt/venv/lib/python3.11/site-packages/ops/_C.so: 7.0: missing: it has sm_80, sm_90, sm_100; take an older release of it, or compile it for sm_70
        opt/venv/lib/python3.11/site-packages/ops/old.so: 7.0: missing: it has compute_80; take an older release of it, or compile it for sm_70
    [exit status: 1]
    ");
    environment.stack(&stack("\"H100\"", "verify = { gpu-code = \"required\" }"));
    assert_snapshot!(environment.kiln("build -o oci:out"), @r"
    app sha256:<digest> <size> in 3 layers (unchanged)
    ------- stderr -------
    warning: GPU code is there as PTX alone, which the driver compiles at the first start: `kiln verify app` names the files
    ");
    environment.stack(&stack("\"H100\"", "verify = { gpu-code = \"native\" }"));
    // A check that was not done is no image that is unchanged.
    let plan = environment.succeed("plan");
    assert!(plan.ends_with("app: to be put together and checked\n"), "{plan}");
    assert_eq!(environment.kiln("build").status, Some(1));
}

#[test]
fn what_a_stack_says_wrongly_about_gpu_code_is_explained() {
    let environment = project("", "prune = true");
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: `prune` needs to know the GPUs that images are for
      --> kiln.toml:15:9
       |
    15 | prune = true
       |         ^^^^
       |
    help: name them: `gpus = ["L4", "H100"]` in `[target]`, or `--gpus`
    [exit status: 2]
    "#);
    environment.stack(&stack("\"H100\"", "prune = { keep = true }\nverify = { gpu-code = \"maybe\" }"));
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: unknown key `keep`
      --> kiln.toml:15:11
       |
    15 | prune = { keep = true }
       |           ^^^^
       |
    help: valid here: `keep-ptx`, `drop-relocatable`
    [exit status: 2]
    ");
    environment.stack(&stack("\"H100\"", "verify = { gpu-code = \"maybe\" }"));
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: `maybe` is not a value of `verify.gpu-code`
      --> kiln.toml:15:23
       |
    15 | verify = { gpu-code = "maybe" }
       |                       ^^^^^^^
       |
    help: valid are `any`, `required`, `native`
    [exit status: 2]
    "#);
    environment.stack(&stack("\"H100\"", "verify = { imports = [\"torch\"] }"));
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: this release of kiln cannot do `imports` yet
      --> kiln.toml:15:12
       |
    15 | verify = { imports = ["torch"] }
       |            ^^^^^^^
       |
    help: it is refused rather than ignored, so that an image is never less than its stack file says
    [exit status: 2]
    "#);
}

#[test]
fn a_layout_a_library_and_a_directory_are_verified() {
    let environment = project("\"H100\"", "");
    environment.succeed("build -o oci:out");
    assert_snapshot!(environment.kiln("verify oci:out --gpus V100"), @r"
    app (linux/amd64): 2 files with GPU code (2 missing): it cannot run as it is
      opt/venv/lib/python3.11/site-packages/ops/_C.so  7.0: missing: it has sm_80, sm_90, sm_100; take an older release of it, or compile it for sm_70
      opt/venv/lib/python3.11/site-packages/ops/old.so  7.0: missing: it has compute_80; take an older release of it, or compile it for sm_70
    [exit status: 1]
    ");
    environment.write("site/a.so", library());
    assert_snapshot!(environment.kiln("verify site site/a.so --gpus H100"), @r"
    site: 1 file with GPU code (1 native)
      a.so  9.0: native (sm_90)
    site/a.so: 1 file with GPU code (1 native)
      site/a.so  9.0: native (sm_90)
    ");
    assert_snapshot!(environment.kiln("verify nothing"), @r"
    ------- stderr -------
    error: the stack has no image `nothing`; it has `app`
    [exit status: 2]
    ");
}

#[test]
fn pruned_wheels_are_shared_so_that_another_machine_needs_neither_the_wheel_nor_the_time() {
    let mut team = Team::with(Options::default(), "[cache]\nremote = \"REGISTRY/acme/cache\"\n");
    let prune = |machine: &TestEnvironment, extra: &str| {
        let text = machine.read("kiln.toml");
        let text = text.replace("python = \"3.11\"\n", "python = \"3.11\"\ngpus = [\"H100\"]\n");
        let text = text.replace(
            "packages = [\"solver\", \"words<2\"]\n",
            &format!("packages = [\"ops\", \"words<2\"]\nprune = true\n{extra}"),
        );
        machine.stack(&text);
    };
    let first = team.machine();
    first.wheel(&ops());
    prune(&first, "");
    first.succeed("build ml --push");
    team.commit(&first);
    let second = team.bare_machine();
    assert_snapshot!(lines_with(&second.succeed("plan ml"), "registry"), @r"
      virtual environment              in the registry
      2 small packages      3.12 kB    in the registry
    ml: cached in registry
    ");
    second.succeed("build ml --push");
    // Another compression makes other layers, out of the same pruned wheel.
    let third = team.bare_machine();
    third.wheel(&pure("words", "1.0"));
    let text = third.read("kiln.toml").replace("prune = true\n", "prune = true\ncompression = \"zstd\"\n");
    third.stack(&text);
    third.succeed("build ml");
    assert!(third.succeed("verify ml").contains("9.0: native (sm_90)"));
    let listed = lines_with(&third.succeed("cache ls --remote"), "prun");
    let one = "  prune      pruning ops-1.0-cp311-cp311-manylinux_2_28_x86_64.whl  arr/ml linux/amd64\n";
    assert!(listed.lines().count() == 1 && listed.ends_with(one), "{listed}");
    assert_snapshot!(first.succeed("cache verify ml"), @r"
    ml (linux/amd64)  agreement  ml                                                     holds
    ml (linux/amd64)  conflicts  ml                                                     holds
    ml (linux/amd64)  facts      oci base                                               holds
    ml (linux/amd64)  paths      ops-1.0-cp311-cp311-manylinux_2_28_x86_64.whl          holds
    ml (linux/amd64)  paths      words-1.0-py3-none-any.whl                             holds
    ml (linux/amd64)  prune      pruning ops-1.0-cp311-cp311-manylinux_2_28_x86_64.whl  holds
    ml (linux/amd64)  venv       virtual environment                                    holds
    ml (linux/amd64)  wheels     2 small packages                                       holds
    8 records checked, 0 wrong
    ");
}

/// The lines that have some text in them.
fn lines_with(text: &str, part: &str) -> String {
    text.lines().filter(|line| line.contains(part)).map(|line| format!("{line}\n")).collect()
}

/// The keys of an image's steps by name.
fn keys(environment: &TestEnvironment, arguments: &str) -> std::collections::BTreeMap<String, String> {
    let plan: serde_json::Value =
        serde_json::from_str(&environment.succeed(&format!("plan --json {arguments}"))).unwrap();
    let steps = plan["images"][0]["steps"].as_array().unwrap().iter();
    steps.map(|step| (step["name"].as_str().unwrap().to_owned(), step["key"].to_string())).collect()
}

#[test]
fn another_gpu_leaves_the_layers_alone_in_which_nothing_changes() {
    let environment = TestEnvironment::with_stack(&stack("\"H100\"", "prune = true"));
    let large = ops().file("ops/data.bin", crate::wheels::noise(12_000_000, "ops"));
    environment.wheel(&large);
    environment.wheel(&pure("words", "1.0"));
    environment.succeed("build");
    let one = keys(&environment, "");
    // sm_100 has code of its own in the library, sm_120 has none: what stays is the same.
    environment.succeed("build --gpus H100,RTX5090");
    let same = keys(&environment, "--gpus H100,RTX5090");
    assert_eq!(one, same, "both cuts leave the same bytes");
    environment.succeed("build --gpus H100,B200");
    let other = keys(&environment, "--gpus H100,B200");
    assert_ne!(one["ops 1.0"], other["ops 1.0"]);
    assert_eq!(one["words 1.0"], other["words 1.0"]);
    // And a wheel without GPU code has the layer that it has in a stack that prunes nothing.
    environment.stack(&stack("\"H100\"", ""));
    environment.succeed("build");
    assert_eq!(keys(&environment, "")["words 1.0"], one["words 1.0"]);
}
