//! Thin archives (ar(1)): static libraries whose members lie in files beside them, named by a table.

use std::collections::BTreeSet;
use std::path::Path;

use crate::ar::{Member, THIN};
use crate::compiler::list_named;
use crate::listing::{Depth, FatbinError, Found, Listing};
use crate::read::list_with;
use crate::source::{Source, Window};

/// Members whose content lies in the archive: both forms of the index, and the table of names.
const INSIDE: [&str; 3] = ["/", "/SYM64/", NAMES];
const NAMES: &str = "//";
/// Bytes of the largest table of names that is read.
const MOST: u64 = 64 << 20;

/// Lists the GPU code of a file at a path; of a thin archive that of its members. `None` where the file has none and is
/// none.
pub fn list_file(path: &Path, depth: Depth) -> Result<Option<Listing>, FatbinError> {
    let file = fs_err::File::open(path)?;
    let mut start = [0; THIN.len()];
    file.read_at(&mut start, 0)?;
    if start != THIN {
        return list_named(&path.to_string_lossy(), &file, depth);
    }
    let mut listing = Listing::new(Found::Archive, depth);
    let mut seen = BTreeSet::new();
    for (name, size) in members(&mut Window::new(&file)?, &mut listing)? {
        let member = path.parent().unwrap_or(Path::new("")).join(&name);
        if !seen.insert(member.clone()) {
            continue;
        }
        match fs_err::metadata(&member) {
            Ok(found) if found.is_file() && found.len() == size => {}
            Ok(found) if found.is_file() => {
                listing.malformed.push(format!("its member `{name}` is not the file that it was made of"));
                continue;
            }
            _ => {
                listing.malformed.push(format!("its member `{name}` is not there"));
                continue;
            }
        }
        match list_with(&fs_err::File::open(&member)?, depth) {
            Ok(Some(found)) => listing.add(found),
            Ok(None) => {}
            Err(FatbinError::Elf(error)) => listing.malformed.push(format!("its member `{name}` {error}")),
            Err(error) => return Err(error),
        }
    }
    Ok((!listing.is_empty()).then_some(listing))
}

/// Paths of members as the archive names them, and their bytes.
fn members(window: &mut Window<'_, fs_err::File>, listing: &mut Listing) -> Result<Vec<(String, u64)>, FatbinError> {
    let (mut members, mut names) = (Vec::new(), Vec::new());
    let mut at = THIN.len() as u64;
    while at < window.size() {
        let member = match Member::read(window, at)? {
            Ok(member) => member,
            Err(problem) => {
                listing.malformed.push(problem);
                break;
            }
        };
        let is_inside = INSIDE.contains(&member.name());
        at = if is_inside { member.next() } else { member.from };
        if member.name() == NAMES && member.size <= MOST {
            names = member.content(window)?;
        }
        match full(member.name(), &names).filter(|_| !is_inside) {
            Some(path) => members.push((path, member.size)),
            None if is_inside => {}
            None => listing.malformed.push(format!("at byte {:#x} a member of the archive has no name", member.at)),
        }
    }
    Ok(members)
}

/// The path of a member: `name/`, or `/12` where the table of names has it, with `/` and a line's end behind.
fn full(name: &str, names: &[u8]) -> Option<String> {
    let Some(place) = name.strip_prefix('/') else { return name.strip_suffix('/').map(str::to_owned) };
    let rest = names.get(place.parse::<usize>().ok()?..)?;
    let line = rest.split(|byte| *byte == b'\n').next()?;
    Some(String::from_utf8_lossy(line.strip_suffix(b"/")?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Library, entry};

    fn header(name: &str, size: usize) -> String {
        format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 644)
    }

    fn archive(objects: &[(&str, usize)]) -> Vec<u8> {
        let names: String = objects.iter().map(|(name, _)| format!("{name}/\n")).collect();
        let mut text = format!("!<thin>\n{}{}{}{names}", header("/", 4), "\0\0\0\0", header("//", names.len()));
        text.push_str(if names.len() % 2 == 1 { "\n" } else { "" });
        let mut place = 0;
        for (name, size) in objects {
            text.push_str(&header(&format!("/{place}"), *size));
            place += name.len() + 2;
        }
        text.into_bytes()
    }

    #[test]
    fn members_of_a_thin_archive_are_read_from_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let object = Library::new().object().region(&[entry(2, 80, 0, 64)]).finish();
        fs_err::create_dir(at("objects")).unwrap();
        fs_err::write(at("first.o"), &object).unwrap();
        fs_err::write(at("objects/second.o"), &object).unwrap();
        let both = [("first.o", object.len()), ("objects/second.o", object.len())];
        fs_err::write(at("libadd.a"), archive(&both)).unwrap();
        let listing = list_file(&at("libadd.a"), Depth::Headers).unwrap().unwrap();
        assert_eq!((listing.format, listing.code[0].regions, listing.malformed.len()), (Found::Archive, 2, 0));
        fs_err::write(at("first.o"), "changed").unwrap();
        fs_err::remove_file(at("objects/second.o")).unwrap();
        let listing = list_file(&at("libadd.a"), Depth::Headers).unwrap().unwrap();
        assert_eq!(
            listing.malformed,
            ["its member `first.o` is not the file that it was made of", "its member `objects/second.o` is not there"]
        );
        fs_err::write(at("cut.a"), &archive(&both)[..100]).unwrap();
        assert_eq!(
            list_file(&at("cut.a"), Depth::Headers).unwrap().unwrap().malformed,
            ["at byte 0x48 the archive is cut off"]
        );
    }
}
