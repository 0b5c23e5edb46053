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
    let wheel = WheelBuilder::new("a", "1")
        .file("a-1.data/data/bin", "")
        .file("a-1.dist-info/entry_points.txt", "[console_scripts]\nx = a:b\n");
    let error = install_with(&wheel, &Scheme::venv("3.11")).unwrap_err().to_string();
    assert_eq!(error, "two of its files go to `opt/venv/bin`");
}

#[test]
fn the_dist_info_must_belong_to_the_file_name() {
    let bytes = WheelBuilder::new("a", "1").finish();
    let name = "a-2-py3-none-any.whl".parse().unwrap();
    let error = Wheel::open(name, bytes.as_slice(), bytes.len() as u64).unwrap_err().to_string();
    assert_eq!(error, "it has no directory `a-2.dist-info` as its file name demands");
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
