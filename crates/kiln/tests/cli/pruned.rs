//! `kiln prune` of files, directories and wheels through the command line.

use insta::assert_snapshot;
use kiln_fatbin::testing::{Library, cubin, entry, region};
use kiln_wheel::testing::WheelBuilder;

use crate::environment::TestEnvironment;
use crate::gpu_code::{library, lines_with, project};

const CUBIN: u16 = 2;

/// A static library of these members.
fn archive(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in members {
        bytes.extend(
            format!("{:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", format!("{name}/"), 0, 0, 0, 644, content.len()).bytes(),
        );
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(2), b'\n');
    }
    bytes
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
    ops-1.0-1kiln90-cp311-cp311-manylinux_2_28_x86_64.whl: 2 files with GPU code (1 through PTX, 1 missing); driver 570 or later: it cannot run as it is
      ops/_C.so
        B200 (10.0): missing in 2 regions: it has sm_90; kernels: 0 native, 0 through PTX, 0 absent, 2 unknown; it was cut to other GPUs: cut the original for this one too
        H100 (9.0): native
      ops/old.so  H100 (9.0), B200 (10.0): through PTX (compute_80) in 1 of 1 region, compiled at the first start
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
fn a_wheel_with_nothing_left_is_an_error_and_code_that_cannot_be_cut_is_said() {
    let environment = project("", "");
    assert_snapshot!(environment.kiln("prune wheels/ops-1.0-cp311-cp311-manylinux_2_28_x86_64.whl -o out --gpus V100"), @r"
    ------- stderr -------
    error: the wheel `ops-1.0-cp311-cp311-manylinux_2_28_x86_64.whl` has no GPU code for V100 (7.0): nothing of it would be left

    hint: take another wheel of it or another release: `kiln inspect` says what GPU code the wheel has; a stack names files that may lack code in `verify.except`
    [exit status: 1]
    ");
    assert!(fs_err::read_dir(environment.path("out")).unwrap().next().is_none());
    environment.write("a.cubin", cubin(90, "a", &["add"]));
    environment.write("data.so", Library::new().read_only([vec![7; 9_000], cubin(90, "", &["add"])].concat()).finish());
    assert_snapshot!(environment.kiln("prune a.cubin data.so -o out --gpus V100"), @r"
      a.cubin  stays as it is: it is code for sm_90a alone, which none of the GPUs runs
    a.cubin -> out/a.cubin: 1.24 kB -> 1.24 kB (unchanged), 1 file with GPU code
      data.so  stays as it is: it has no code for V100 (7.0): nothing of it would be left
    data.so -> out/data.so: 13.0 kB -> 13.0 kB (unchanged), 1 file with GPU code
    [exit status: 1]
    ");
    assert_snapshot!(lines_with(&environment.succeed("inspect data.so"), "cannot be cut"), @"  1.24 kB in .rodata (bare cubins) cannot be cut: it is for the linker, too little, or found in a way that is not known");
    let mut damaged = library();
    damaged[72] ^= 0x10;
    environment.write("damaged.so", damaged);
    assert_snapshot!(environment.kiln("verify damaged.so --gpus H100"), @r"
    damaged.so: 1 file with GPU code (1 damaged); driver 520 or later: it cannot run as it is
      damaged.so
        H100 (9.0): native (sm_90) in 2 of 2 regions
        it is damaged: the loader does not find all of it where it lies; was it stripped after it was pruned? Strip it before
    [exit status: 1]
    ");
    environment.write("a.fatbin", region(&[entry(CUBIN, 80, 0, 800), entry(CUBIN, 90, 0, 800)]));
    assert_snapshot!(environment.kiln("prune a.fatbin -o out --gpus H100"), @r"
      a.fatbin    1.74 kB      880 B  -49.5%
    a.fatbin -> out/a.fatbin: 1.74 kB -> 880 B (-49.5%), 1 file with GPU code
    ");
}

#[test]
fn files_and_directories_of_which_no_code_would_be_left_stay_as_they_are() {
    let environment = TestEnvironment::new();
    environment.write("lib/a.so", library());
    environment.write("lib/b.so", library());
    environment
        .write("libk.a", archive(&[("k.o", Library::new().object().region(&[entry(CUBIN, 80, 0, 30_000)]).finish())]));
    environment
        .write("k.ptx", ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry add() { ret; }\n".repeat(2));
    assert_snapshot!(environment.kiln("prune lib/a.so libk.a k.ptx -o out --gpus V100"), @r"
      lib/a.so  stays as it is: it has no code for V100 (7.0): nothing of it would be left
    lib/a.so -> out/a.so: 120 kB -> 120 kB (unchanged), 1 file with GPU code
      libk.a  stays as it is: it has no code for V100 (7.0): nothing of it would be left
    libk.a -> out/libk.a: 33.6 kB -> 33.6 kB (unchanged), 1 file with GPU code
      k.ptx  stays as it is: it is PTX, which none of the GPUs can run
    k.ptx -> out/k.ptx: 150 B -> 150 B (unchanged), 1 file with GPU code
    [exit status: 1]
    ");
    assert_snapshot!(environment.kiln("prune lib -o small --gpus V100"), @r"
      a.so  stays as it is: it has no code for V100 (7.0): nothing of it would be left
      b.so  stays as it is: it has no code for V100 (7.0): nothing of it would be left
    lib -> small: 239 kB -> 239 kB (unchanged), 2 files with GPU code
    [exit status: 1]
    ");
    assert_snapshot!(environment.kiln("prune lib --in-place --gpus V100"), @r"
      a.so  stays as it is: it has no code for V100 (7.0): nothing of it would be left
      b.so  stays as it is: it has no code for V100 (7.0): nothing of it would be left
    lib -> lib: 239 kB -> 239 kB (unchanged), 2 files with GPU code
    [exit status: 1]
    ");
    assert!(fs_err::read(environment.path("lib/a.so")).unwrap() == library());
    // Where others have code, a variant may lose all of its own.
    environment.write("lib/old.so", Library::new().region(&[entry(CUBIN, 70, 0, 30_000)]).finish());
    assert_snapshot!(environment.kiln("prune lib -o old --gpus V100"), @r"
      a.so     120 kB    13.1 kB  -89.1%, nothing is left: none of it is for the GPUs
      b.so     120 kB    13.1 kB  -89.1%, nothing is left: none of it is for the GPUs
      old.so  all of it is needed
    lib -> old: 273 kB -> 59.7 kB (-78.1%), 3 files with GPU code
    ");
    assert_snapshot!(environment.kiln("verify old/a.so --gpus A100"), @r"
    old/a.so: 1 file with GPU code (1 missing); driver 450 or later: it cannot run as it is
      old/a.so  A100 (8.0): missing in 2 regions, 2 emptied by a cut; it was cut to other GPUs: cut the original for this one too
    [exit status: 1]
    ");
    assert_snapshot!(environment.kiln("prune k.ptx -o out --gpus H100"), @r"
      k.ptx  all of it is needed
    k.ptx -> out/k.ptx: 150 B -> 150 B (unchanged), 1 file with GPU code
    ");
}

#[test]
fn loose_cubins_for_other_gpus_are_left_out_of_a_wheel() {
    let environment = TestEnvironment::new();
    let cubins =
        [("sm80", cubin(80, "", &["add"])), ("sm90a", cubin(90, "a", &["add"])), ("sm100f", cubin(100, "f", &["add"]))];
    let wheel = cubins
        .iter()
        .fold(WheelBuilder::new("kernels", "1.0").file("kernels/__init__.py", ""), |wheel, (name, code)| {
            wheel.file(&format!("kernels/add_{name}.cubin"), code)
        });
    environment.wheel(&wheel);
    assert_snapshot!(environment.kiln("prune wheels/kernels-1.0-py3-none-any.whl -o out --gpus H100"), @r"
      2 loose cubins  left out
      1 loose cubin   needed
    wheels/kernels-1.0-py3-none-any.whl -> out/kernels-1.0-1kiln90-py3-none-any.whl: 1.95 kB -> 1.34 kB (-31.5%), 3 files with GPU code
    ");
    let left = environment.succeed("inspect out/kernels-1.0-1kiln90-py3-none-any.whl");
    assert!(left.contains("sm_90a") && !left.contains("sm_80") && !left.contains("sm_100"), "{left}");
    assert_snapshot!(environment.kiln("prune wheels/kernels-1.0-py3-none-any.whl -o none --gpus T4"), @r"
    ------- stderr -------
    error: the wheel `kernels-1.0-py3-none-any.whl` has no GPU code for T4 (7.5): nothing of it would be left

    hint: take another wheel of it or another release: `kiln inspect` says what GPU code the wheel has; a stack names files that may lack code in `verify.except`
    [exit status: 1]
    ");
    environment.write("one.cubin", &cubins[0].1);
    assert_snapshot!(environment.kiln("prune one.cubin -o two.cubin --gpus H100"), @r"
      one.cubin  stays as it is: it is code for sm_80 alone, which none of the GPUs runs
    one.cubin -> two.cubin: 1.24 kB -> 1.24 kB (unchanged), 1 file with GPU code
    [exit status: 1]
    ");
    assert_snapshot!(environment.kiln("prune one.cubin -o two.cubin --gpus A100"), @r"
      one.cubin  all of it is needed
    one.cubin -> two.cubin: 1.24 kB -> 1.24 kB (unchanged), 1 file with GPU code
    ");
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
fn two_inputs_do_not_take_each_others_place_and_no_output_lies_in_its_input() {
    let environment = TestEnvironment::new();
    for path in ["a/lib.so", "b/lib.so", "a/inner/x.so", "b/inner/x.so"] {
        environment.write(path, library());
    }
    assert_snapshot!(environment.kiln("prune a/lib.so b/lib.so -o out --gpus H100"), @r"
    ------- stderr -------
    error: `a/lib.so` and `b/lib.so` have one name

    hint: prune them to two directories, one after the other
    [exit status: 2]
    ");
    assert_snapshot!(environment.kiln("prune a/inner b/inner -o out --gpus H100"), @r"
    ------- stderr -------
    error: `a/inner` and `b/inner` have one name

    hint: prune them to two directories, one after the other
    [exit status: 2]
    ");
    assert!(!environment.path("out").exists());
    assert_snapshot!(environment.kiln("prune a -o a/small --gpus H100"), @r"
    ------- stderr -------
    error: `a/small` lies in what is pruned

    hint: name a directory outside of it, or prune with `--in-place`
    [exit status: 2]
    ");
    assert_snapshot!(environment.kiln("prune . -o new/small --gpus H100"), @r"
    ------- stderr -------
    error: `new/small` lies in what is pruned

    hint: name a directory outside of it, or prune with `--in-place`
    [exit status: 2]
    ");
    // One of several that is there already.
    environment.write("out/a/notes", "");
    assert_eq!(environment.kiln("prune a b -o out --gpus H100").status, Some(2));
    assert!(!environment.path("out/b").exists());
    environment.succeed("prune a/inner a/lib.so -o both --gpus H100");
    assert!(environment.path("both/inner/x.so").exists() && environment.path("both/lib.so").exists());
}

#[test]
fn what_a_dead_process_left_is_in_nobodys_way_and_a_copy_is_there_when_it_is_whole() {
    let environment = TestEnvironment::new();
    environment.write("lib/a.so", library());
    environment.write("lib/.kiln-0123456789.tmp", library());
    environment.succeed("prune lib -o copy --gpus H100");
    environment.succeed("prune lib --in-place --gpus H100");
    let names = |path: &str| -> Vec<String> {
        let entries = fs_err::read_dir(environment.path(path)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!((names("lib"), names("copy")), (vec!["a.so".to_owned()], vec!["a.so".to_owned()]));
}

#[test]
fn pipes_and_names_of_any_bytes_are_no_trouble() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let environment = TestEnvironment::new();
    environment.write("lib/a.so", library());
    let odd = OsStr::from_bytes(b"lib/\xff.so");
    fs_err::write(environment.path("").join(odd), library()).unwrap();
    for pipe in ["pipe", "lib/pipe", "pipe.whl"] {
        assert!(std::process::Command::new("mkfifo").arg(environment.path(pipe)).status().unwrap().success());
    }
    assert_snapshot!(environment.kiln("inspect pipe"), @r"
    ------- stderr -------
    error: `pipe` is a pipe

    hint: name a file or a directory; a pipe's content must be in a file first
    [exit status: 2]
    ");
    assert_snapshot!(environment.kiln("verify ./pipe"), @r"
    ------- stderr -------
    error: `./pipe` is a pipe

    hint: name a file or a directory; a pipe's content must be in a file first
    [exit status: 2]
    ");
    assert_snapshot!(environment.kiln("prune pipe.whl -o out --gpus H100"), @r"
    ------- stderr -------
    error: `pipe.whl` is a pipe

    hint: name a file or a directory; a pipe's content must be in a file first
    [exit status: 2]
    ");
    assert_snapshot!(environment.kiln("prune /dev/null -o out --gpus H100"), @r"
    ------- stderr -------
    error: `/dev/null` is a device

    hint: name a file or a directory; a pipe's content must be in a file first
    [exit status: 2]
    ");
    assert_snapshot!(environment.succeed("inspect lib -v"), @r"
    lib/a.so (x86-64)  114 kB of GPU code
      .nv_fatbin: 2 regions, 114 kB
        sm_80   cubin        2    38.1 kB
        sm_90   cubin        2    38.1 kB
        sm_100  cubin        2    38.1 kB
    lib/�.so (x86-64)  114 kB of GPU code
      .nv_fatbin: 2 regions, 114 kB
        sm_80   cubin        2    38.1 kB
        sm_90   cubin        2    38.1 kB
        sm_100  cubin        2    38.1 kB
    2 files with 229 kB of GPU code
    ");
    let pruned = environment.kiln("prune lib -o small --gpus H100 --json");
    assert!(pruned.stdout.contains("it is a pipe, a socket or a device, which is not copied"), "{}", pruned.stdout);
    assert_eq!(pruned.status, Some(1));
    assert_snapshot!(environment.succeed("verify small --gpus H100"), @r"
    small: 2 files with GPU code (2 native); driver 520 or later
      a.so  H100 (9.0): native (sm_90) in 2 of 2 regions
      �.so  H100 (9.0): native (sm_90) in 2 of 2 regions
    ");
    assert!(environment.path("").join(OsStr::from_bytes(b"small/\xff.so")).exists());
}

#[test]
fn sizes_are_those_of_the_content_where_links_lead_to_it_and_devices_take_it() {
    let environment = TestEnvironment::new();
    environment.write("lib/a.so", library());
    std::os::unix::fs::symlink("lib/a.so", environment.path("link.so")).unwrap();
    std::os::unix::fs::symlink("lib", environment.path("links")).unwrap();
    assert_snapshot!(environment.kiln("prune link.so -o one.so --gpus H100"), @r"
      link.so     120 kB    50.0 kB  -58.2%
    link.so -> one.so: 120 kB -> 50.0 kB (-58.2%), 1 file with GPU code
    ");
    assert_snapshot!(environment.kiln("prune links -o copy --gpus H100"), @r"
      a.so     120 kB    50.0 kB  -58.2%
    links -> copy: 120 kB -> 50.0 kB (-58.2%), 1 file with GPU code
    ");
    assert_snapshot!(environment.kiln("prune lib/a.so -o /dev/null --gpus H100"), @r"
      lib/a.so     120 kB    50.0 kB  -58.2%
    lib/a.so -> /dev/null: 120 kB -> 50.0 kB (-58.2%), 1 file with GPU code
    ");
}

#[test]
fn damaged_code_is_a_failure_of_every_command() {
    let environment = TestEnvironment::new();
    let two = || [region(&[entry(CUBIN, 80, 0, 9_000)]), region(&[entry(CUBIN, 90, 0, 9_000)])].concat();
    let mut broken = two();
    broken[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    environment.write("region.so", Library::new().raw(&broken).finish());
    environment.write("cut.fatbin", &two()[..12_000]);
    let object = Library::new().object().region(&[entry(CUBIN, 90, 0, 30_000)]).finish();
    let whole = archive(&[("a.o", object.clone()), ("b.o", object.clone())]);
    environment.write("cut.a", &whole[..40_000]);
    environment.write("head.a", &whole[..whole.len() - object.len() - 30]);
    environment.write("member.a", archive(&[("a.o", object.clone()), ("b.o", object[..20_000].to_vec())]));
    environment.write("cut.so", &library()[..60_000]);
    environment.write("cut.cubin", &cubin(90, "", &["add"])[..400]);
    for name in ["region.so", "cut.fatbin", "cut.a", "head.a", "member.a", "cut.so", "cut.cubin"] {
        for command in ["inspect NAME", "verify NAME --gpus H100", "prune NAME -o out --gpus H100"] {
            let done = environment.kiln(&command.replace("NAME", name));
            assert_eq!(done.status, Some(1), "{command} {name}: {}{}", done.stdout, done.stderr);
        }
        let text = environment.kiln(&format!("inspect {name}"));
        assert!(
            text.stdout.contains("cut off") || text.stdout.contains("longer") || text.stdout.contains("damaged"),
            "{}",
            text.stdout
        );
    }
    assert_snapshot!(environment.kiln("verify region.so cut.a member.a --gpus H100"), @r"
    region.so: 1 file with GPU code (1 damaged): it cannot run as it is
      region.so  .nv_fatbin: at byte 0x100 an entry is longer than its region
    cut.a: 1 file with GPU code (1 damaged); driver 520 or later: it cannot run as it is
      cut.a
        H100 (9.0): native (sm_90) in 1 of 1 region
        at byte 0x834c a member of the archive is cut off
    member.a: 1 file with GPU code (1 damaged); driver 520 or later: it cannot run as it is
      member.a
        H100 (9.0): native (sm_90) in 1 of 1 region
        at byte 0x834c a member of the archive is a damaged ELF file: its section headers are cut off
    [exit status: 1]
    ");
    // Something wrote zeros over a region, and a member of a thin archive is not there.
    let lost = region(&[entry(CUBIN, 90, 0, 30_000)]);
    let mut zeros =
        Library::new().region(&[entry(CUBIN, 90, 0, 9_000)]).region(&[entry(CUBIN, 90, 0, 30_000)]).finish();
    let first = zeros.windows(lost.len()).position(|bytes| bytes == lost).unwrap();
    zeros[first..first + lost.len()].fill(0);
    environment.write("zeros.so", zeros);
    let member = |name: &str, size: usize| format!("{name:<16}{:<32}{size:<10}`\n", 0);
    environment.write("thin.a", format!("!<thin>\n{}{}", member("there.o/", object.len()), member("gone.o/", 9)));
    environment.write("there.o", &object);
    for command in ["inspect NAME", "verify NAME --gpus H100", "prune NAME -o out --gpus H100"] {
        for name in ["zeros.so", "thin.a"] {
            let done = environment.kiln(&command.replace("NAME", name));
            assert_eq!(done.status, Some(1), "{command} {name}: {}{}", done.stdout, done.stderr);
        }
    }
    assert_snapshot!(environment.kiln("verify zeros.so thin.a --gpus H100"), @r"
    zeros.so: 1 file with GPU code (1 damaged); driver 520 or later: it cannot run as it is
      zeros.so
        H100 (9.0): native (sm_90) in 1 of 1 region
        a pointer leads to zeros where a region was, at address 0x2498
    thin.a: 1 file with GPU code (1 damaged); driver 520 or later: it cannot run as it is
      thin.a
        H100 (9.0): native (sm_90) in 1 of 1 region
        its member `gone.o` is not there
    [exit status: 1]
    ");
    environment.write("tree/cut.so", &library()[..60_000]);
    assert_snapshot!(environment.kiln("verify tree --gpus H100"), @r"
    tree: 1 file with GPU code (1 damaged): it cannot run as it is
      cut.so  is a damaged ELF file: its section headers are cut off
    [exit status: 1]
    ");
    assert_eq!(environment.kiln("verify tree --gpus H100 --except cut.so").status, Some(0));
}
