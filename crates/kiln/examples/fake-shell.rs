//! The shell of a made-up Debian, which stands for its dpkg and its apt too: it does what kiln's scripts ask of them.

use std::process::ExitCode;

/// The directory in which kiln shows packages to apt.
const PLACE: &str = "/kiln-packages";
/// dpkg's database.
const STATUS: &str = "/var/lib/dpkg/status";

fn main() -> ExitCode {
    let script = std::env::args().next_back().unwrap_or_default();
    let done = match &script {
        script if script.contains("/found") => look().map_err(|error| error.to_string()),
        script if script.contains("--print-uris") => choose(script),
        script => configure(script),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            say(&format!("E: {problem}"));
            ExitCode::from(100)
        }
    }
}

/// Returns the words after the last `install` of a script.
fn included(script: &str) -> Vec<String> {
    let line = script.lines().rev().find_map(|line| line.split_once(" install ")).map_or("", |(_, words)| words);
    let line = line.split(" >> ").next().unwrap_or_default();
    line.split_whitespace().map(|word| word.trim_matches('\'').to_owned()).collect()
}

/// Shows what apt knows of archives and keys.
fn look() -> std::io::Result<()> {
    for directory in ["", "/trusted.gpg.d"] {
        fs_err::create_dir_all(format!("{PLACE}/found/apt{directory}"))?;
        for entry in fs_err::read_dir(format!("/etc/apt{directory}"))? {
            let path = entry?.path();
            if let Some(name) = path.file_name().filter(|_| path.is_file()) {
                fs_err::copy(&path, format!("{PLACE}/found/apt{directory}/{}", name.display()))?;
            }
        }
    }
    Ok(())
}

fn choose(script: &str) -> Result<(), String> {
    let suites: Vec<String> = (0..10).map(|number| lists(&format!("{PLACE}/{number}/dists"))).collect();
    let mut answer = String::new();
    for name in included(script) {
        let found = suites.iter().enumerate().find_map(|(at, list)| Some((at, paragraph(list, &name)?)));
        let (at, paragraph) = found.ok_or(format!("Unable to locate package {name}"))?;
        answer.push_str(&format!("'file:{PLACE}/{at}/{}' {name}.deb 1 SHA256:0\n", field(paragraph, "Filename")));
    }
    fs_err::write(format!("{PLACE}/chosen"), answer).map_err(|error| error.to_string())
}

fn configure(script: &str) -> Result<(), String> {
    let io = |error: std::io::Error| error.to_string();
    let status = fs_err::read_to_string(STATUS).map_err(io)?;
    if status.contains("Package: broken\n") {
        return Err("the script of broken failed".to_owned());
    }
    let mut status = status.replace("install ok unpacked", "install ok installed");
    let archive = fs_err::read_to_string(format!("{PLACE}/archive/Packages")).map_err(io)?;
    if script.contains("apt-get") {
        for name in included(script) {
            let paragraph = paragraph(&archive, &name).ok_or(format!("Unable to locate package {name}"))?;
            let file = field(paragraph, "Filename").trim_start_matches("./");
            let size = fs_err::metadata(format!("{PLACE}/archive/{file}")).map_err(io)?.len();
            assert_eq!(field(paragraph, "Size"), size.to_string());
            let (first, rest) = paragraph.split_once('\n').unwrap_or_default();
            status.push_str(&format!("\n{first}\nStatus: install ok installed\n{rest}\n"));
            fs_err::write(format!("/included-{name}"), "").map_err(io)?;
        }
    }
    fs_err::write(STATUS, status).map_err(io)
}

/// Returns the lists of packages below a directory.
fn lists(directory: &str) -> String {
    let mut text = String::new();
    for entry in fs_err::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        match entry.path() {
            path if path.is_dir() => text.push_str(&lists(&path.display().to_string())),
            path if path.ends_with("Packages") => text.push_str(&fs_err::read_to_string(path).unwrap_or_default()),
            _ => {}
        }
    }
    text
}

/// Returns the paragraph of a package: `NAME`, or `NAME=VERSION`.
fn paragraph<'l>(lists: &'l str, wanted: &str) -> Option<&'l str> {
    let (name, version) = wanted.split_once('=').unwrap_or((wanted, ""));
    let is_it = |paragraph: &&str| {
        field(paragraph, "Package") == name && (version.is_empty() || field(paragraph, "Version") == version)
    };
    lists.split("\n\n").find(is_it)
}

fn field<'p>(paragraph: &'p str, name: &str) -> &'p str {
    let value = |line: &'p str| line.strip_prefix(name)?.strip_prefix(": ");
    paragraph.lines().find_map(value).unwrap_or_default()
}

#[allow(clippy::print_stdout, reason = "the program exists to print")]
fn say(text: &str) {
    println!("{text}");
}
