//! A program for images of tests: it does what its arguments say. Images of tests have no shell.

use std::process::ExitCode;

use fs_err::os::unix::fs::symlink;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for words in arguments.split(|word| word == "then") {
        match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["print", text] => say(text),
            ["variable", name] => say(&std::env::var(name).unwrap_or_else(|_| "unset".into())),
            ["where"] => say(&std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default()),
            ["write", path, text] => done(fs_err::write(path, text)),
            ["append", path, text] => {
                let old = fs_err::read_to_string(path).unwrap_or_default();
                done(fs_err::write(path, old + text));
            }
            ["show", path] => match fs_err::read_to_string(path) {
                Ok(text) => say(&text),
                Err(error) => done(Err(error)),
            },
            // Nobody can make the same file twice.
            ["now", path] => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                done(fs_err::write(path, format!("{:020}", now.as_nanos())));
            }
            ["make", path] => done(fs_err::create_dir_all(path)),
            ["remove", path] => done(fs_err::remove_file(path)),
            ["link", target, path] => done(symlink(target, path)),
            ["own", path] => done(fs_err::os::unix::fs::chown(path, Some(1000), Some(1000))),
            ["wait"] => std::thread::sleep(std::time::Duration::from_secs(60)),
            ["fail", status] => return ExitCode::from(status.parse::<u8>().unwrap_or(1)),
            other => say(&format!("unknown: {other:?}")),
        }
    }
    ExitCode::SUCCESS
}

#[allow(clippy::print_stdout, reason = "the program exists to print")]
fn say(text: &str) {
    println!("{text}");
}

fn done(result: std::io::Result<()>) {
    if let Err(error) = result {
        say(&error.to_string());
        std::process::exit(9);
    }
}
