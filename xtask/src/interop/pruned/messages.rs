//! binutils and elfutils have no more to complain about in a pruned library than they had before.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use super::super::report::{Checks, none};
use super::super::{Result, programs};
use super::Trees;

/// A program that complains, and where it does.
struct Reader {
    name: &'static str,
    arguments: &'static [&'static str],
    on_stdout: bool,
}

const READERS: [Reader; 2] = [
    // What it lists may differ: addresses are others. It warns on stderr.
    Reader { name: "readelf", arguments: &["-aW"], on_stdout: false },
    Reader { name: "eu-elflint", arguments: &["--gnu-ld"], on_stdout: true },
];

/// What eu-elflint says where it finds nothing.
const CONTENT: &str = "No errors";

/// New complaints that follow from cuts within a section, whose pieces are mapped by segments of their own: the loader does not
/// read sections (`docs/fatbin.md`).
const MEANT: [&str; 4] = [
    "'.cask_resource' not fully contained in segment of program header entry N",
    "'.rodata' not fully contained in segment of program header entry N",
    "'.ldata' not fully contained in segment of program header entry N",
    "loadable segment [N] is writable but contains no writable sections",
];

/// Complaints without numbers, and how many there are of each.
type Complaints = BTreeMap<String, usize>;

/// Makes the checks.
pub(super) fn check(trees: &Trees<'_>, checks: &mut Checks) {
    for reader in READERS {
        checks.check(&format!("{} has nothing new to say about pruned libraries", reader.name), || {
            let mut wrong = Vec::new();
            for (library, before, after) in trees.pruned() {
                let known = reader.complaints(&before)?;
                for (complaint, count) in reader.complaints(&after)? {
                    let before = known.get(&complaint).copied().unwrap_or(0);
                    if count > before && !MEANT.iter().any(|meant| complaint.ends_with(meant)) {
                        wrong.push(format!("{}: {count} rather than {before}: {complaint}", library.path.display()));
                    }
                }
            }
            none("complaints are new", &wrong)
        });
    }
}

impl Reader {
    fn complaints(&self, path: &Path) -> Result<Complaints> {
        let program = programs::find(self.name).ok_or_else(|| format!("{} is not installed", self.name))?;
        let mut command = Command::new(program);
        command.args(self.arguments).arg(path).env("LC_ALL", "C").stdin(Stdio::null());
        if !self.on_stdout {
            command.stdout(Stdio::null());
        }
        let output = command.output()?;
        if self.on_stdout && output.stdout.is_empty() {
            return Err(format!("{} says nothing about {}", self.name, path.display()).into());
        }
        let mut complaints = Complaints::new();
        for stream in [&output.stdout, &output.stderr] {
            for line in String::from_utf8_lossy(stream).lines().filter(|line| *line != CONTENT) {
                let line = line.replace(&*path.to_string_lossy(), "FILE");
                *complaints.entry(without_numbers(&line)).or_default() += 1;
            }
        }
        if output.status.code().is_none() {
            complaints.insert(output.status.to_string(), 1);
        }
        Ok(complaints)
    }
}

/// A line with `N` for every word that begins with a digit: numbers, addresses, positions.
fn without_numbers(line: &str) -> String {
    let (mut text, mut within) = (String::new(), None);
    for letter in line.chars() {
        let is_number = match (letter.is_ascii_alphanumeric(), within) {
            (false, _) => None,
            (true, Some(is_number)) => Some(is_number),
            (true, None) => Some(letter.is_ascii_digit()),
        };
        match (is_number, within) {
            (Some(true), Some(_)) => {}
            (Some(true), None) => text.push('N'),
            _ => text.push(letter),
        }
        within = is_number;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::without_numbers;

    #[test]
    fn numbers_do_not_tell_complaints_apart() {
        assert_eq!(
            without_numbers("section [10] '.rela.dyn': 0x12ab of 7, lib64"),
            "section [N] '.rela.dyn': N of N, lib64"
        );
    }
}
