use super::*;
use crate::testing::{WheelBuilder, ZipBuilder};

fn install_with(wheel: &WheelBuilder, scheme: &Scheme) -> Result<Vec<InstalledFile>, InstallError> {
    let bytes = wheel.finish();
    let name = wheel.file_name().parse().unwrap();
    Wheel::open(name, bytes.as_slice(), bytes.len() as u64)?.install(scheme)
}

fn listing(wheel: &WheelBuilder) -> Vec<String> {
    let files = install_with(wheel, &Scheme::venv("3.11")).unwrap();
    let line = |file: &InstalledFile| {
        let kind = match &file.content {
            Content::Entry(_) => "entry",
            Content::Bytes(_) => "bytes",
        };
        format!("{} {} {kind}", if file.executable { "755" } else { "644" }, file.path)
    };
    files.iter().map(line).collect()
}

fn bytes_of(wheel: &WheelBuilder, path: &str) -> String {
    let files = install_with(wheel, &Scheme::venv("3.11")).unwrap();
    let file = files.iter().find(|file| file.path == path).unwrap();
    match &file.content {
        Content::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        Content::Entry(entry) => panic!("{} is an entry", entry.path),
    }
}

fn awkward() -> WheelBuilder {
    WheelBuilder::new("Awk_ward", "1.0")
        .file("awkward/__init__.py", "")
        .file_with("awkward/tool", true, true, "binary")
        .file("Awk_ward-1.0.data/purelib/pure.py", "")
        .file("Awk_ward-1.0.data/platlib/plat.py", "")
        .file("Awk_ward-1.0.data/data/share/doc/x", "")
        .file("Awk_ward-1.0.data/headers/x.h", "")
        .file("Awk_ward-1.0.data/scripts/run", "#!python -O\nprint()\n")
        .file("Awk_ward-1.0.data/scripts/sh", "#!/bin/sh\n")
        .file("Awk_ward-1.0.dist-info/entry_points.txt", "[console_scripts]\nmain = awkward:main\n")
}

#[test]
fn every_scheme_has_its_place() {
    insta::assert_snapshot!(listing(&awkward()).join("\n"));
}

#[test]
fn a_python_script_gets_the_interpreter_of_the_environment() {
    assert_eq!(bytes_of(&awkward(), "opt/venv/bin/run"), "#!/opt/venv/bin/python\nprint()\n");
    let windows = WheelBuilder::new("a", "1").file("a-1.data/scripts/w", "#!pythonw\r\nprint()\r\n");
    assert_eq!(bytes_of(&windows, "opt/venv/bin/w"), "#!/opt/venv/bin/python\nprint()\r\n");
}

#[test]
fn the_record_lists_what_was_installed_where() {
    let record = bytes_of(&awkward(), "opt/venv/lib/python3.11/site-packages/Awk_ward-1.0.dist-info/RECORD");
    insta::assert_snapshot!(record);
}

#[test]
fn a_scheme_that_does_not_exist_is_refused() {
    let wheel = WheelBuilder::new("a", "1").file("a-1.data/other/x", "");
    let error = install_with(&wheel, &Scheme::venv("3.11")).unwrap_err().to_string();
    assert!(error.starts_with("its `a-1.data/other/x` is for a scheme that does not exist"), "{error}");
}

#[test]
fn two_files_cannot_go_to_one_path() {
    let wheel = WheelBuilder::new("a", "1").file("x.py", "").file("a-1.data/purelib/x.py", "");
    let error = install_with(&wheel, &Scheme::venv("3.11")).unwrap_err().to_string();
    assert_eq!(error, "two of its files go to `opt/venv/lib/python3.11/site-packages/x.py`");
}

#[test]
fn a_file_cannot_go_to_where_another_needs_a_directory() {
    let wheel = WheelBuilder::new("a", "1").file("a-1.data/purelib/x", "").file("x/y.py", "");
    let error = install_with(&wheel, &Scheme::venv("3.11")).unwrap_err().to_string();
    assert_eq!(error, "two of its files go to `opt/venv/lib/python3.11/site-packages/x`");
}

fn problem_of(file_name: &str, bytes: &[u8]) -> String {
    Wheel::open(file_name.parse().unwrap(), bytes, bytes.len() as u64).unwrap_err().to_string()
}

#[test]
fn there_is_one_dist_info_and_it_belongs_to_the_package() {
    let bytes = WheelBuilder::new("a", "1").finish();
    assert_eq!(
        problem_of("b-1-py3-none-any.whl", &bytes),
        "it has no directory `b-1.dist-info` as its file name demands"
    );
    for other in ["b-1.dist-info/METADATA", "A-1.dist-info/x", "a-2.dist-info/x", "b.dist-info"] {
        let bytes = WheelBuilder::new("a", "1").file(other, "").finish();
        let problem = problem_of("a-1-py3-none-any.whl", &bytes);
        assert!(problem.starts_with("it has several `.dist-info` directories: "), "{other}: {problem}");
    }
    let nested = WheelBuilder::new("a", "1").file("vendored/b-1.dist-info/METADATA", "");
    assert!(install_with(&nested, &Scheme::venv("3.11")).is_ok());
}

#[test]
fn the_metadata_must_be_that_of_the_file_name() {
    let wheel = |metadata: &str| {
        ZipBuilder::new()
            .stored("a_b-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
            .stored("a_b-1.0.dist-info/METADATA", metadata)
            .stored("a_b-1.0.dist-info/RECORD", "")
            .finish()
    };
    let file_name = "a_b-1.0+cu1-py3-none-any.whl";
    for good in ["Name: A.b\nVersion: 1\n", "Name: a-b\nVersion: 1.0+cu1\n", "Name:\n a_b\nversion: 1.0.0+CU1\n"] {
        let bytes = wheel(good);
        assert!(Wheel::open(file_name.parse().unwrap(), bytes.as_slice(), bytes.len() as u64).is_ok(), "{good}");
    }
    let problems =
        ["Name: c\nVersion: 1.0\n", "Name: a-b\nVersion: 2\n", "Name: a-b\nVersion: 1+cu2\n", "Name: a-b\n", ""]
            .map(|metadata| problem_of(file_name, &wheel(metadata)));
    insta::assert_snapshot!(problems.join("\n"), @r"
    its `a_b-1.0.dist-info/METADATA` says Name `c`, and the file name says `a-b`
    its `a_b-1.0.dist-info/METADATA` says Version `2`, and the file name says `1.0+cu1`
    its `a_b-1.0.dist-info/METADATA` says Version `1+cu2`, and the file name says `1.0+cu1`
    its `a_b-1.0.dist-info/METADATA` says Version ``, and the file name says `1.0+cu1`
    its `a_b-1.0.dist-info/METADATA` says Name ``, and the file name says `a-b`
    ");
}

#[test]
fn nothing_of_the_environment_itself_is_replaced() {
    let refused = |wheel: WheelBuilder| match install_with(&wheel, &Scheme::venv("3.11")) {
        Err(InstallError::Refused { path, problem }) => format!("{path}: {problem}"),
        other => panic!("{other:?}"),
    };
    let script = |name: &str| WheelBuilder::new("a", "1").file(&format!("a-1.data/scripts/{name}"), "#!python\n");
    let data = |path: &str| WheelBuilder::new("a", "1").file(&format!("a-1.data/data/{path}"), "");
    let point = |name: &str, section: &str| {
        WheelBuilder::new("a", "1").file("a-1.dist-info/entry_points.txt", format!("[{section}]\n{name} = a:main\n"))
    };
    for name in ["python", "python3", "python3.9", "Python3.13T", "pythonw", "pypy", "activate", "Activate.ps1"] {
        for section in ["console_scripts", "gui_scripts"] {
            refused(point(name, section));
        }
        refused(script(name));
        refused(data(&format!("bin/{name}")));
    }
    for path in ["pyvenv.cfg", "pyvenv.cfg/x", "lib64", "bin", "lib/python3.11", "include/site", "bin/python/x"] {
        refused(data(path));
    }
    for name in ["activate-global-python-argcomplete", "python-config", "ipython3", "pip", "python2"] {
        assert!(install_with(&script(name), &Scheme::venv("3.11")).is_ok(), "{name}");
    }
    insta::assert_snapshot!(refused(point("python", "console_scripts")), @"opt/venv/bin/python: `python` is the name of an interpreter, which it would replace");
}

#[test]
fn no_name_of_a_whiteout_is_installed() {
    let data = |path: &str| WheelBuilder::new("a", "1").file(path, "");
    let point = "[console_scripts]\n.wh.numpy = a:main\n";
    for wheel in [
        data(".wh.numpy"),
        data("numpy/.wh..wh..opq"),
        data("numpy/.wh.x/y"),
        data("a-1.data/data/.wh.lib"),
        data("a-1.data/scripts/.wh.pip"),
        data("a-1.data/headers/.wh.h"),
        data("a-1.data/purelib/.wh.pip"),
        WheelBuilder::new("a", "1").file("a-1.dist-info/entry_points.txt", point),
    ] {
        for scheme in [Scheme::venv("3.11"), Scheme::base("/usr/bin/python3.11", "/usr/lib/python3/dist-packages")] {
            let refused = install_with(&wheel, &scheme);
            assert!(matches!(&refused, Err(InstallError::Refused { .. })), "{wheel:?}: {refused:?}");
        }
    }
}

#[test]
fn what_goes_to_lib64_goes_where_the_link_of_the_environment_leads() {
    let wheel = WheelBuilder::new("a", "1").file("a-1.data/data/lib64/python3.11/site-packages/a/b.so", "");
    assert!(listing(&wheel).contains(&"644 opt/venv/lib/python3.11/site-packages/a/b.so entry".to_owned()));
    let record = bytes_of(&wheel, "opt/venv/lib/python3.11/site-packages/a-1.dist-info/RECORD");
    assert!(record.contains("\na/b.so,sha256=") || record.starts_with("a/b.so,sha256="), "{record}");
    let twice = wheel.file("a/b.so", "");
    assert!(matches!(install_with(&twice, &Scheme::venv("3.11")), Err(InstallError::Collision(_))));
}

#[test]
fn scripts_lie_in_no_directory() {
    let wheel = WheelBuilder::new("a", "1").file("a-1.data/scripts/sub/x", "");
    let error = install_with(&wheel, &Scheme::venv("3.11")).unwrap_err().to_string();
    assert_eq!(error, "its `a-1.data/scripts/sub/x` lies in a directory, which scripts do not");
}

#[test]
fn a_wheel_of_another_major_version_is_refused() {
    let bytes = ZipBuilder::new().stored("a-1.dist-info/WHEEL", "Wheel-Version: 2.0\n").finish();
    let name = "a-1-py3-none-any.whl".parse().unwrap();
    let error = Wheel::open(name, bytes.as_slice(), bytes.len() as u64).unwrap_err().to_string();
    assert!(error.contains("says Wheel-Version `2.0`"), "{error}");
}

#[test]
fn the_environment_of_a_base_is_installed_into_where_its_interpreter_looks() {
    let scheme = Scheme::base("/usr/local/bin/python3.11", "/usr/local/lib/python3.11/site-packages");
    let files = install_with(&awkward(), &scheme).unwrap();
    assert!(files.iter().any(|file| file.path == "usr/local/bin/main"));
    assert!(scheme.exists("usr/local/lib") && scheme.exists("usr/local/bin") && !scheme.exists("usr/local/etc"));
}

#[test]
fn paths_are_relative_to_site_packages() {
    assert_eq!(relative("opt/venv/bin/x", "opt/venv/lib/python3.11/site-packages"), "../../../bin/x");
    assert_eq!(relative("a/b/c", "a/b"), "c");
}

#[test]
fn the_record_has_a_row_for_each_file_and_for_nothing_else() {
    let wheel = crate::testing::ZipBuilder::new()
        .stored("a/__init__.py", "x")
        .stored("a/unlisted.py", "y")
        .stored("a-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: a\nVersion: 1\n")
        .stored("a-1.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        .stored(
            "a-1.dist-info/RECORD",
            "a/__init__.py,sha256=x,1\na/,,\na/gone.py,sha256=z,3\n../../../../etc/passwd,,\n",
        )
        .finish();
    let wheel = Wheel::open("a-1-py3-none-any.whl".parse().unwrap(), wheel.as_slice(), wheel.len() as u64).unwrap();
    let files = wheel.install(&Scheme::venv("3.11")).unwrap();
    let Content::Bytes(record) = &files.last().unwrap().content else { panic!() };
    let paths: Vec<&str> =
        std::str::from_utf8(record).unwrap().lines().map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "a-1.dist-info/INSTALLER",
            "a-1.dist-info/METADATA",
            "a-1.dist-info/RECORD",
            "a-1.dist-info/WHEEL",
            "a/__init__.py",
            "a/unlisted.py"
        ]
    );
}

#[test]
fn pip_is_named_after_the_python_of_the_environment() {
    let points = "[console_scripts]\npip = pip._internal:main\npip3 = pip._internal:main\npip3.10 = pip._internal:main\npipe = pip:x\n";
    let wheel = WheelBuilder::new("pip", "24.0").file("pip-24.0.dist-info/entry_points.txt", points);
    let files = install_with(&wheel, &Scheme::venv("3.11")).unwrap();
    let scripts: Vec<&str> = files.iter().filter_map(|file| file.path.strip_prefix("opt/venv/bin/")).collect();
    assert_eq!(scripts, ["pip", "pip3", "pip3.11", "pipe"]);
}
