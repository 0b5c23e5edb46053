//! kiln under the name of a Python: uv asks it for the facts of an interpreter, and it has them in a file.
//!
//! `kiln lock` makes a link `python3.11` to itself with the answer beside it. Nothing that uv passes on is run.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Prints the document, where the program was started by such a link.
pub(crate) fn answer(started_as: Option<OsString>) -> Option<ExitCode> {
    let program = started_as?;
    let program = Path::new(&program);
    if !program.file_name()?.to_str()?.starts_with("python3.") {
        return None;
    }
    let document = fs_err::read(kiln_wheel::uv::description(program));
    match document.and_then(|document| std::io::stdout().write_all(&document)) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(_) => Some(ExitCode::FAILURE),
    }
}
