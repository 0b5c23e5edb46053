use super::elf::{library, nameless, program};
use super::{check, file, found, libc, link, node, outcomes, said, tree};
use crate::{Hint, Machine, Node, Outcome, Role, Settings, Severity, What};

/// glibc's loader, so that programs can begin.
fn loader() -> Node {
    node("lib64/ld-linux-x86-64.so.2", What::File { object: None, text: None })
}

fn system() -> Vec<Node> {
    vec![loader(), libc("lib/x86_64-linux-gnu/libc.so.6", &["GLIBC_2.4", "GLIBC_2.34", "GLIBC_2.36", "GLIBC_PRIVATE"])]
}

fn with(more: Vec<Node>) -> crate::Tree {
    tree(system().into_iter().chain(more).collect())
}

#[test]
fn rpath_is_left_out_where_there_is_runpath() {
    let libraries = || [file("a/libx.so", library("libx.so")), file("b/libx.so", library("libx.so"))];
    let at = |program| found(&tree(libraries().into_iter().chain([file("bin/p", program)]).collect()), "bin/p");
    let program = || program().needs("libx.so").rpath("/a");
    assert_eq!(at(program()).as_deref(), Some("a/libx.so"));
    assert_eq!(at(program().runpath("/b")).as_deref(), Some("b/libx.so"));
    assert_eq!(at(program().runpath("/c")), None);
}

#[test]
fn rpath_counts_for_what_a_program_loads_and_runpath_for_what_it_names() {
    let loads = |program| {
        let tree = tree(vec![
            file("a/libmiddle.so", library("libmiddle.so").needs("libleaf.so")),
            file("a/libleaf.so", library("libleaf.so")),
            file("bin/p", program),
        ]);
        tree.loads("bin/p", &Settings::default())
            .into_iter()
            .map(|load| (load.library, load.by, load.path))
            .collect::<Vec<_>>()
    };
    let load =
        |library: &str, by: &str, path: Option<&str>| (library.to_owned(), by.to_owned(), path.map(str::to_owned));
    let middle = load("libmiddle.so", "bin/p", Some("a/libmiddle.so"));
    let program = || program().needs("libmiddle.so");
    let leaf = load("libleaf.so", "a/libmiddle.so", Some("a/libleaf.so"));
    assert_eq!(loads(program().rpath("/a")), [middle.clone(), leaf]);
    let leaf = load("libleaf.so", "a/libmiddle.so", None);
    assert_eq!(loads(program().runpath("/a")), [middle.clone(), leaf]);
    // What has been loaded by its name is not looked for again.
    let leaf = load("libleaf.so", "bin/p", Some("a/libleaf.so"));
    assert_eq!(loads(program().needs("libleaf.so").runpath("/a")), [middle, leaf]);
}

#[test]
fn the_library_path_comes_after_rpath_and_before_runpath() {
    let at = |program| {
        let libraries =
            ["a", "b", "usr/lib"].map(|directory| file(&format!("{directory}/libx.so"), library("libx.so")));
        let tree = tree(libraries.into_iter().chain([file("bin/p", program)]).collect());
        let settings = Settings { library_path: vec!["a".into(), "/b".into()], ..Settings::default() };
        tree.loads("bin/p", &settings)[0].path.clone().unwrap()
    };
    assert_eq!(at(program().needs("libx.so").rpath("/a")), "a/libx.so");
    assert_eq!(at(program().needs("libx.so").runpath("/a")), "b/libx.so");
    assert_eq!(at(program().needs("libx.so")), "b/libx.so");
}

#[test]
fn origin_is_the_directory_of_the_object_itself() {
    let tree = tree(vec![
        file(
            "site/torch/lib/libc10.so",
            library("libc10.so").needs("libcudart.so.13").runpath("$ORIGIN/../../nvidia/lib"),
        ),
        file("site/nvidia/lib/libcudart.so.13", library("libcudart.so.13").needs("libc.so.6")),
    ]);
    assert_eq!(said(&tree), [""; 0]);
}

#[test]
fn origin_lib_and_platform_are_written_in_several_ways() {
    let at = |runpath: &str, place: &str| {
        let program = program().needs("libx.so").runpath(runpath);
        found(&tree(vec![file("opt/bin/p", program), file(place, library("libx.so"))]), "opt/bin/p").is_some()
    };
    assert!(at("${ORIGIN}/../x", "opt/x/libx.so"));
    assert!(at("$ORIGIN:/x", "opt/bin/libx.so"));
    assert!(at("$ORIGIN/../$LIB", "opt/lib/x86_64-linux-gnu/libx.so"));
    assert!(at("/opt/${LIB}/$PLATFORM", "opt/lib64/x86_64/libx.so"));
    // These are none of them.
    assert!(!at("$ORIGINAL", "opt/bin/AL/libx.so"));
    assert!(!at("${ORIGIN", "opt/bin/libx.so"));
    assert!(at("/x/$y$z", "x/$y$z/libx.so"));
    assert!(!at("bin:.", "opt/bin/bin/libx.so"));
    assert!(!at(&"$LIB".repeat(100), "libx.so"));
}

#[test]
fn a_library_of_another_machine_is_passed_over() {
    let tree = tree(vec![
        file("a/libx.so", library("libx.so").aarch64()),
        node("b/libx.so", What::File { object: None, text: None }),
        file("c/libx.so", library("libx.so")),
        file("bin/p", program().needs("libx.so").runpath("/a:/b:/c")),
    ]);
    assert_eq!(found(&tree, "bin/p").as_deref(), Some("c/libx.so"));
}

#[test]
fn objects_of_another_machine_than_the_tree_s_are_left_alone() {
    let foreign = || file("opt/arm.so", nameless().aarch64().needs("libnothing.so"));
    assert_eq!(said(&with(vec![foreign()])), [""; 0]);
    let arm = Settings { machine: Some(Machine::Aarch64), ..Settings::default() };
    assert_eq!(with(vec![foreign()]).check(&arm).len(), 1);
    // Without a C library, what most objects are for counts.
    assert_eq!(said(&tree(vec![foreign(), file("a.so", nameless()), file("b.so", nameless())])), [""; 0]);
    assert_eq!(said(&tree(vec![foreign()])).len(), 1);
}

#[test]
fn names_with_a_slash_are_paths() {
    let tree = tree(vec![
        file("opt/libx.so", library("libx.so")),
        file("opt/bin/p", program().needs("/opt/libx.so").needs("$ORIGIN/../libx.so").needs("/opt/liby.so")),
    ]);
    assert_eq!(said(&tree), ["opt/bin/p needs /opt/liby.so, which is not there"]);
}

#[test]
fn the_system_s_directories_are_left_out_where_the_object_says_so() {
    let nodes = |program| vec![file("usr/lib/libx.so", library("libx.so")), file("bin/p", program)];
    assert!(found(&tree(nodes(program().needs("libx.so"))), "bin/p").is_some());
    assert!(found(&tree(nodes(nameless().needs("libx.so").nodeflib())), "bin/p").is_none());
}

#[test]
fn a_missing_library_is_an_error_with_what_brings_it() {
    let torch = || library("libtorch.so").needs("libcupti.so.13").needs("libnccl.so.2").needs("libgomp.so.1");
    let tree = with(vec![file("bin/p", program().needs("libtorch.so").runpath("/t")), file("t/libtorch.so", torch())]);
    let findings = check(&tree);
    assert!(findings.iter().all(|finding| finding.severity() == Severity::Error && finding.role == Role::Library));
    assert_eq!(
        said(&tree),
        [
            "t/libtorch.so needs libcupti.so.13, which is not there; the wheel nvidia-cuda-cupti brings it",
            "t/libtorch.so needs libnccl.so.2, which is not there; the wheel nvidia-nccl-cu13 brings it",
            "t/libtorch.so needs libgomp.so.1, which is not there; Debian's package libgomp1 brings it",
        ]
    );
    assert_eq!(
        serde_json::to_string(&findings[0]).unwrap(),
        r#"{"object":"t/libtorch.so","role":"library","library":"libcupti.so.13","kind":"missing","hint":{"wheels":["nvidia-cuda-cupti"]}}"#
    );
}

#[test]
fn wheels_are_named_for_the_cuda_that_the_object_is_for() {
    let hints = |libraries: &[&str]| {
        let object = libraries.iter().fold(library("x"), |object, library| object.needs(library));
        check(&tree(vec![file("x", object)])).into_iter().filter_map(|finding| finding.hint).collect::<Vec<_>>()
    };
    let wheels = |names: &[&str]| Hint::Wheels(names.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!(
        hints(&["libcurand.so.10", "libcudart.so.12", "libcudnn_ops.so.9"]),
        [wheels(&["nvidia-curand-cu12"]), wheels(&["nvidia-cuda-runtime-cu12"]), wheels(&["nvidia-cudnn-cu12"])]
    );
    assert_eq!(hints(&["libcurand.so.10"]), [wheels(&["nvidia-curand-cu12", "nvidia-curand"])]);
    assert_eq!(hints(&["libunheard.so.1"]), []);
}

#[test]
fn a_plugin_that_lacks_something_is_a_warning() {
    let tree = with(vec![file("lib/transport_ucx.so", nameless().needs("libucp.so.0"))]);
    let [finding] = &check(&tree)[..] else { panic!() };
    assert_eq!((finding.role, finding.severity()), (Role::Plugin, Severity::Warning));
    let tree = with(vec![file("lib/_C.cpython-311-x86_64-linux-gnu.so", nameless().needs("libucp.so.0"))]);
    let [finding] = &check(&tree)[..] else { panic!() };
    assert_eq!((finding.role, finding.severity()), (Role::Extension, Severity::Error));
}

#[test]
fn what_the_driver_brings_is_not_missing() {
    let driver = ["libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1", "libnvcuvid.so.1", "libnvoptix.so.1"];
    let object = driver.iter().fold(library("x"), |object, library| object.needs(library));
    let stub = file("usr/local/cuda/lib64/stubs/libcuda.so", library("libcuda.so.1"));
    let tree = tree(vec![file("x", object.needs("libnvidia-container.so.1")), stub]);
    let mut expected = vec![Outcome::Driver; 5];
    expected.push(Outcome::Missing);
    assert_eq!(outcomes(&tree), expected);
    assert_eq!(check(&tree)[0].severity(), Severity::Note);
}

#[test]
fn a_library_that_something_else_has_to_load_first_is_told() {
    let tree = tree(vec![
        file("flash/_C.abi3.so", nameless().needs("libtorch.so").needs("libnamed.so.2")),
        file("torch/lib/libtorch.so", library("libtorch.so")),
        file("named/libnamed.so.2.1", nameless()),
        link("named/libnamed.so.2", "libnamed.so.2.1"),
    ]);
    let sentences = [
        "flash/_C.abi3.so needs libtorch.so, which is at torch/lib/libtorch.so, where the loader does not look by itself",
        "flash/_C.abi3.so needs libnamed.so.2, which is at named/libnamed.so.2, where the loader does not look by itself",
    ];
    assert_eq!(said(&tree), sentences);
    assert_eq!(check(&tree)[0].severity(), Severity::Note);
}

#[test]
fn nobody_loads_libraries_for_a_program() {
    let tree = with(vec![file("bin/p", program().needs("libx.so")), file("opt/libx.so", library("libx.so"))]);
    assert_eq!(check(&tree)[0].severity(), Severity::Warning);
}

#[test]
fn a_version_that_the_library_lacks_is_an_error() {
    let program = || program().needs("libc.so.6").requires("libc.so.6", "GLIBC_2.34");
    assert_eq!(said(&with(vec![file("bin/p", program())])), [""; 0]);
    let newer = program().requires("libc.so.6", "GLIBC_2.38").requires("libc.so.6", "GLIBC_2.100");
    let tree = with(vec![file("bin/p", newer)]);
    assert_eq!(
        said(&tree),
        [
            "bin/p needs GLIBC_2.38, GLIBC_2.100 of libc.so.6, and lib/x86_64-linux-gnu/libc.so.6 provides up to GLIBC_2.36"
        ]
    );
    assert_eq!(check(&tree)[0].severity(), Severity::Error);
    let private = program().requires("libc.so.6", "OTHER");
    assert!(said(&with(vec![file("bin/p", private)]))[0].ends_with("provides no such version"));
}

#[test]
fn a_weak_version_need_not_be_there() {
    let program = program().needs("libc.so.6").requires_weakly("libc.so.6", "GLIBC_2.99");
    assert_eq!(said(&with(vec![file("bin/p", program)])), [""; 0]);
}

#[test]
fn a_library_without_versions_is_taken_for_any() {
    let program = program().needs("libx.so").requires("libx.so", "X_2");
    assert_eq!(said(&with(vec![file("bin/p", program), file("usr/lib/libx.so", library("libx.so"))])), [""; 0]);
}

#[test]
fn of_libraries_elsewhere_one_that_has_the_versions_is_enough() {
    let object = || file("x", nameless().needs("libv.so").requires("libv.so", "V_2"));
    let old = || file("a/libv.so", library("libv.so").provides("V_1"));
    let new = file("b/deeper/libv.so", library("libv.so").provides("V_1").provides("V_2"));
    assert_eq!(outcomes(&tree(vec![object(), old(), new])), [Outcome::Elsewhere { path: "b/deeper/libv.so".into() }]);
    let expected = Outcome::VersionMissing {
        provider: "a/libv.so".into(),
        versions: vec!["V_2".into()],
        most: Some("V_1".into()),
    };
    assert_eq!(outcomes(&tree(vec![object(), old()])), [expected]);
}

#[test]
fn a_part_of_a_system_is_taken_to_have_its_c_library() {
    let object =
        || library("x").needs("libc.so.6").needs("libstdc++.so.6").needs("ld-linux-x86-64.so.2").needs("libGL.so.1");
    assert_eq!(
        said(&tree(vec![file("x", object())])),
        ["x needs libGL.so.1, which is not there; Debian's package libgl1 brings it"]
    );
    let whole = Settings { partial: Some(false), ..Settings::default() };
    assert_eq!(tree(vec![file("x", object())]).check(&whole).len(), 4);
    // A whole system that lacks one of them.
    assert_eq!(said(&with(vec![file("x", object())])).len(), 3);
}

#[test]
fn a_program_whose_loader_is_not_there_cannot_begin() {
    let musl = || program().interpreter("/lib/ld-musl-x86_64.so.1").needs("libc.musl-x86_64.so.1");
    assert_eq!(
        said(&with(vec![file("bin/p", musl())])),
        ["bin/p is started by /lib/ld-musl-x86_64.so.1, which is not there"]
    );
    assert_eq!(outcomes(&tree(vec![file("bin/p", program())])), []);
}
