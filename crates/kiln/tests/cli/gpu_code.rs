//! GPU code through the command line: `kiln prune`, `kiln verify`, and what a stack says about both.

use insta::assert_snapshot;
use kiln_fatbin::testing::{Library, cubin, entry, entry_of, region};
use kiln_registry::testing::Options;
use kiln_wheel::testing::WheelBuilder;

use crate::environment::TestEnvironment;
use crate::images::ReadBack;
use crate::team::Team;
use crate::wheels::pure;

const CUBIN: u16 = 2;
const PTX: u16 = 1;

/// A library with these regions, which no wrapper points at.
fn elf_of(regions: &[u8]) -> Vec<u8> {
    Library::new().raw(regions).finish()
}

/// A library with code for Ampere, Hopper and Blackwell.
pub(crate) fn library() -> Vec<u8> {
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

pub(crate) fn project(gpus: &str, image: &str) -> TestEnvironment {
    let environment = TestEnvironment::with_stack(&stack(gpus, image));
    environment.wheel(&ops());
    environment.wheel(&pure("words", "1.0"));
    environment
}

#[test]
fn ptx_that_is_asked_for_stays_and_a_request_for_code_is_said_to_stand_for_gpus() {
    let environment = TestEnvironment::new();
    let code = [entry(CUBIN, 80, 0, 30_000), entry(CUBIN, 120, 0, 30_000), entry(PTX, 120, 0, 30_000)];
    environment.write("a.so", Library::new().region(&code).finish());
    for (gpus, kept) in [("12.0+PTX", true), ("compute_120", true), ("86-real;120-virtual", true), ("12.0", false)] {
        environment.succeed(&format!("prune a.so -o out.so --gpus {gpus}"));
        assert_eq!(environment.succeed("inspect out.so").contains("compute_120"), kept, "{gpus}");
    }
    assert_snapshot!(environment.kiln("verify a.so --gpus 12.0a"), @r"
    a.so: 1 file with GPU code (1 native); driver 570 or later
      a.so  12.0: native (sm_120) in 1 of 1 region
    ------- stderr -------
    warning: `12.0a` names code: it is taken for all GPUs of capability 12.0
    ");
}

#[test]
fn kernels_without_code_and_too_old_a_driver_are_found_whatever_else_a_library_has() {
    let environment = TestEnvironment::new();
    let [both, one] = [cubin(90, "", &["add", "mul"]), cubin(120, "", &["add"])];
    let many = vec![region(&[entry_of(CUBIN, 90, 0, &both)]); 21].concat();
    environment.write("thin.so", elf_of(&[many, region(&[entry_of(CUBIN, 120, 0, &one)])].concat()));
    let half = [entry_of(CUBIN, 90, 0, &both), entry_of(CUBIN, 120, 0, &one)];
    environment.write("half.so", elf_of(&region(&half)));
    assert_snapshot!(environment.kiln("verify thin.so half.so --gpus RTX5090 --kernels"), @r"
    thin.so: 1 file with GPU code (1 missing); driver 570 or later: it cannot run as it is
      thin.so  RTX5090 (12.0): too little: native (sm_120) in 1 of 22 regions; kernels: 1 native, 0 through PTX, 42 absent (add, mul); a newer release of it may have it; if there is none, compile it for sm_120 or with PTX
    half.so: 1 file with GPU code (1 native); driver 570 or later
      half.so  RTX5090 (12.0): native (sm_120) in 1 of 1 region; kernels: 1 native, 0 through PTX, 1 absent (mul)
    [exit status: 1]
    ");
    let json = environment.kiln("verify half.so --gpus RTX5090 --kernels --json").stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["gpus"][0]["names"][0], "RTX5090");
    assert_eq!(json[0]["code"][0]["verdicts"][0]["kernels"]["missing"], 1);
    let mut new = entry_of(CUBIN, 90, 0x8000, &zstd::encode_all(&both[..], 3).unwrap());
    new[24..28].copy_from_slice(&[8, 0, 1, 0]);
    environment.write("new.so", elf_of(&region(&[new])));
    assert_snapshot!(environment.kiln("verify new.so half.so --gpus H100 --driver 535.104"), @r"
    new.so: 1 file with GPU code (1 with too old a driver); driver 580 or later: it cannot run as it is
      new.so  H100 (9.0): native (sm_90) in 1 of 1 region; needs driver 580 (CUDA 13); 535.104 is too old
    half.so: 1 file with GPU code (1 native); driver 520 or later
      half.so  H100 (9.0): native (sm_90) in 1 of 1 region
    [exit status: 1]
    ");
    assert_eq!(environment.kiln("verify new.so --gpus H100 --driver 580.65.06").status, Some(0));
    let code = |major: u8, minor: u8| {
        let mut ptx = entry(PTX, 70, 0, 9_000);
        ptx[24..28].copy_from_slice(&[minor, 0, major, 0]);
        Library::new().region(&[ptx]).finish()
    };
    environment.write("ptx.so", code(8, 7));
    environment.write("newer.so", code(9, 99));
    assert_snapshot!(environment.kiln("verify ptx.so newer.so --gpus V100,H100 --driver 570"), @r"
    ptx.so: 1 file with GPU code (1 with too old a driver); driver 570.26 or later, up to 580: it cannot run as it is
      ptx.so
        V100 (7.0): through PTX (compute_70) in 1 of 1 region, compiled at the first start; needs driver 570.26 (PTX 8.7); compile it for sm_70 to save the time that the driver takes at the first start; 570 may be older: name its whole version
        H100 (9.0): through PTX (compute_70) in 1 of 1 region, compiled at the first start; needs driver 570.26 (PTX 8.7); compile it for sm_90 to save the time that the driver takes at the first start; 570 may be older: name its whole version
    newer.so: 1 file with GPU code (1 with too old a driver): it cannot run as it is
      newer.so
        V100 (7.0): through PTX (compute_70) in 1 of 1 region, compiled at the first start; needs a driver newer than 610.43.02, the newest that this kiln knows of (PTX 9.99); compile it for sm_70 to save the time that the driver takes at the first start; 570 is too old
        H100 (9.0): through PTX (compute_70) in 1 of 1 region, compiled at the first start; needs a driver newer than 610.43.02, the newest that this kiln knows of (PTX 9.99); compile it for sm_90 to save the time that the driver takes at the first start; 570 is too old
      error: newer.so needs a driver newer than 610.43.02, and none runs V100 (7.0): 580 is the last that does
    [exit status: 1]
    ");
    assert_snapshot!(environment.kiln("verify ptx.so --gpus V100,B200 --driver 590.44.01"), @r"
    ptx.so: 1 file with GPU code (1 through PTX); driver 570.26 or later, up to 580: it cannot run as it is
      ptx.so  V100 (7.0), B200 (10.0): through PTX (compute_70) in 1 of 1 region, compiled at the first start; needs driver 570.26 (PTX 8.7)
      error: driver 590.44.01 does not run V100 (7.0): 580 is the last that does
    [exit status: 1]
    ");
    assert_snapshot!(environment.kiln("verify new.so --gpus H100 --driver r580"), @r"
    ------- stderr -------
    error: invalid value 'r580' for '--driver <VERSION>': `r580` is not a version of NVIDIA's driver: write it as `nvidia-smi` does: `550.54.14`

    For more information, try '--help'.
    [exit status: 2]
    ");
}

#[test]
fn variants_of_a_library_stand_in_for_one_another_and_others_are_excepted() {
    let environment = TestEnvironment::new();
    let library = |number| Library::new().region(&[entry(CUBIN, number, 0, 9_000)]).finish();
    environment.write("site/ops/libops_cuda118.so", library(80));
    environment.write("site/ops/libops_cuda128.so", library(120));
    environment.write("site/ops/sm90/common.so", library(90));
    environment.write("site/ops/sm120/common.so", library(120));
    for (at, number) in [90, 90, 100].into_iter().enumerate() {
        environment.write(&format!("site/cubins/gemm/{at}.cubin"), cubin(number, "a", &["gemm"]));
    }
    assert_snapshot!(environment.kiln("verify site --gpus RTX5090"), @r"
    site: 5 files with GPU code (2 native, 2 may do without, 1 missing); driver 570 or later: it cannot run as it is
      cubins/gemm/ (3 cubins)  RTX5090 (12.0): missing in 3 regions: it has sm_90a, sm_100a; a newer release of it may have it; if there is none, compile it for sm_120 or with PTX
      ops/libops_cuda118.so  RTX5090 (12.0): missing in 1 region: it has sm_80, as it may: `ops/libops_cuda128.so` is the variant for it
      ops/sm90/common.so  RTX5090 (12.0): missing in 1 region: it has sm_90, as it may: `ops/sm120/common.so` is the variant for it
      ops/libops_cuda128.so  RTX5090 (12.0): native (sm_120) in 1 of 1 region
      ops/sm120/common.so  RTX5090 (12.0): native (sm_120) in 1 of 1 region
    [exit status: 1]
    ");
    assert_snapshot!(environment.kiln("verify site --gpus RTX5090 --except cubins/gemm*"), @r"
    site: 5 files with GPU code (2 native, 3 may do without); driver 570 or later
      cubins/gemm/ (3 cubins)  RTX5090 (12.0): missing in 3 regions: it has sm_90a, sm_100a, as it may: excepted by `cubins/gemm*`
      ops/libops_cuda118.so  RTX5090 (12.0): missing in 1 region: it has sm_80, as it may: `ops/libops_cuda128.so` is the variant for it
      ops/sm90/common.so  RTX5090 (12.0): missing in 1 region: it has sm_90, as it may: `ops/sm120/common.so` is the variant for it
      ops/libops_cuda128.so  RTX5090 (12.0): native (sm_120) in 1 of 1 region
      ops/sm120/common.so  RTX5090 (12.0): native (sm_120) in 1 of 1 region
    ");
    assert_eq!(environment.kiln("verify site --gpus V100").status, Some(1));
}

#[test]
fn a_compiler_that_cannot_compile_for_a_gpu_is_said() {
    let environment = TestEnvironment::new();
    let release = |text: &str| {
        let mut data = vec![0; 70_000];
        data.extend(format!("Cuda compilation tools, release {text}, V{text}.99\0").bytes());
        Library::new().region(&[entry(CUBIN, 120, 0, 9_000)]).read_only(data).finish()
    };
    environment.write("site/triton/backends/nvidia/bin/ptxas", release("12.4"));
    assert_snapshot!(environment.kiln("verify site --gpus RTX5090"), @r"
    site: 1 file with GPU code (1 native); driver 570 or later
      triton/backends/nvidia/bin/ptxas  RTX5090 (12.0): native (sm_120) in 1 of 1 region
      warning: triton/backends/nvidia/bin/ptxas compiles with CUDA 12.4, which cannot compile for RTX5090 (12.0): CUDA 12.8 and later can; take a newer release of the package that brings it
    ");
    environment.write("site/triton/backends/nvidia/bin/ptxas-blackwell", release("12.9"));
    assert!(!environment.succeed("verify site --gpus RTX5090").contains("warning"));
}

#[test]
fn an_image_with_prune_holds_the_code_of_its_gpus_alone_and_nothing_is_done_twice() {
    let environment = project("\"H100\"", "prune = true");
    let first = environment.digests("");
    assert_snapshot!(environment.kiln("verify app"), @r"
    app (linux/amd64): 2 files with GPU code (1 native, 1 through PTX); driver 520 or later
      opt/venv/lib/python3.11/site-packages/ops/old.so  H100 (9.0): through PTX (compute_80) in 1 of 1 region, compiled at the first start; compile it for sm_90 to save the time that the driver takes at the first start
      opt/venv/lib/python3.11/site-packages/ops/_C.so  H100 (9.0): native (sm_90) in 2 of 2 regions; kernels: 0 native, 0 through PTX, 0 absent, 2 unknown
    ");
    assert_snapshot!(environment.succeed("inspect app").lines().skip(8).collect::<Vec<_>>().join("\n"), @r"
        H100 (9.0): regions: 2 native
    opt/venv/lib/python3.11/site-packages/ops/old.so (x86-64)  9.08 kB of GPU code
      .nv_fatbin: 1 region, 9.08 kB
        compute_80  PTX        1    9.06 kB
        H100 (9.0): regions: 1 through PTX
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
      caused by: opt/venv/lib/python3.11/site-packages/ops/_C.so: V100 (7.0): missing in 2 regions: it has sm_80, sm_90, sm_100; kernels: 0 native, 0 through PTX, 0 absent, 2 unknown; an older release of it may have it; if there is none, compile it for sm_70
        opt/venv/lib/python3.11/site-packages/ops/old.so: V100 (7.0): missing in 1 region: it has compute_80; an older release of it may have it; if there is none, compile it for sm_70
    [exit status: 1]
    ");
    environment.stack(&stack("\"H100\"", "verify = { gpu-code = \"required\" }"));
    assert_snapshot!(environment.kiln("build -o oci:out"), @r"
    app sha256:<digest> <size> in 3 layers
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
fn a_package_that_may_lack_code_is_pruned_and_a_mistyped_pattern_is_said() {
    let environment = project("\"RTX 5090\"", "prune = true");
    let kernels = [("80", cubin(80, "", &["add"])), ("90a", cubin(90, "a", &["add"]))];
    let wheel = kernels.iter().fold(
        WheelBuilder::new("ops", "2.0").tag("cp311-cp311-manylinux_2_28_x86_64").file("ops/__init__.py", ""),
        |wheel, (name, code)| wheel.file(&format!("ops/kernels/add_{name}.cubin"), code),
    );
    environment.wheel(&wheel);
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: the wheel `ops-2.0-cp311-cp311-manylinux_2_28_x86_64.whl` has no GPU code for 12.0: nothing of it would be left

    hint: take another wheel of it or another release: `kiln inspect` says what GPU code the wheel has; a stack names files that may lack code in `verify.except`
    [exit status: 1]
    ");
    let verify = |except: &str| format!("prune = true\nverify = {{ gpu-code = \"required\", except = [{except}] }}");
    environment.stack(&stack("\"RTX 5090\"", &verify("\"ops/kernels*\", \"ops/kernel/*\"")));
    assert_snapshot!(environment.kiln("build"), @r"
    app sha256:<digest> <size> in 3 layers
    ------- stderr -------
    warning: the pattern `ops/kernel/*` of `except` is like no file of app
    ");
    assert_snapshot!(environment.kiln("verify app"), @r"
    app (linux/amd64): 1 file with GPU code (1 may do without); driver 570 or later
      opt/venv/lib/python3.11/site-packages/ops/kernels/ (2 cubins)  RTX 5090 (12.0): missing in 2 regions: it has sm_80, sm_90a; kernels: 0 native, 0 through PTX, 2 absent, as it may: excepted by `ops/kernels*`
    ------- stderr -------
    warning: the pattern `ops/kernel/*` of `except` is like no file
    ");
    assert_snapshot!(environment.kiln("verify app --except nowhere"), @r"
    app (linux/amd64): 1 file with GPU code (1 may do without); driver 570 or later
      opt/venv/lib/python3.11/site-packages/ops/kernels/ (2 cubins)  RTX 5090 (12.0): missing in 2 regions: it has sm_80, sm_90a; kernels: 0 native, 0 through PTX, 2 absent, as it may: excepted by `ops/kernels*`
    ------- stderr -------
    warning: the pattern `nowhere` of `except` is like no file
    warning: the pattern `ops/kernel/*` of `except` is like no file
    ");
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
fn an_image_says_which_driver_its_gpu_code_needs() {
    let environment = TestEnvironment::with_stack(&stack("\"H100\"", "verify = { gpu-code = \"required\" }"));
    let mut code = entry(CUBIN, 90, 0, 30_000);
    code[24..28].copy_from_slice(&[8, 0, 1, 0]);
    let library = Library::new().region(&[code]).finish();
    environment.wheel(&WheelBuilder::new("ops", "1.0").tag("cp311-cp311-manylinux_2_28_x86_64").file_with(
        "ops/_C.so",
        true,
        true,
        library,
    ));
    environment.wheel(&pure("words", "1.0"));
    environment.succeed("build -o oci:out");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    assert_eq!(image.config.config.labels.get("kiln.driver.oldest").map(String::as_str), Some("580"));
}

#[test]
fn a_layout_a_library_and_a_directory_are_verified() {
    let environment = project("\"H100\"", "");
    environment.succeed("build -o oci:out");
    assert_snapshot!(environment.kiln("verify oci:out --gpus V100"), @r"
    app (linux/amd64): 2 files with GPU code (2 missing): it cannot run as it is
      opt/venv/lib/python3.11/site-packages/ops/_C.so  V100 (7.0): missing in 2 regions: it has sm_80, sm_90, sm_100; kernels: 0 native, 0 through PTX, 0 absent, 2 unknown; an older release of it may have it; if there is none, compile it for sm_70
      opt/venv/lib/python3.11/site-packages/ops/old.so  V100 (7.0): missing in 1 region: it has compute_80; an older release of it may have it; if there is none, compile it for sm_70
    [exit status: 1]
    ");
    environment.write("site/a.so", library());
    assert_snapshot!(environment.kiln("verify site site/a.so --gpus H100"), @r"
    site: 1 file with GPU code (1 native); driver 520 or later
      a.so  H100 (9.0): native (sm_90) in 2 of 2 regions
    site/a.so: 1 file with GPU code (1 native); driver 520 or later
      site/a.so  H100 (9.0): native (sm_90) in 2 of 2 regions
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
    assert!(third.succeed("verify ml").contains("H100 (9.0): native (sm_90)"));
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
pub(crate) fn lines_with(text: &str, part: &str) -> String {
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
