//! GPU code as `kiln inspect` shows it.

use std::path::Path;

use kiln_engine::FileCode;
use kiln_fatbin::{
    Code, Compression, Depth, Found, Group, Listed, Listing, Machine, Tally, Uncut, Verdict, list_file, list_tree,
    uncut,
};
use kiln_plan::size;
use serde_json::json;

use super::Inspected;
use crate::arguments::Global;
use crate::commands::{Asked, count, table};
use crate::render::Failure;
use crate::surroundings::jobs;

/// The GPU code of a file, or of all files of a directory.
pub(super) fn of_path(path: &Path, asked: &Asked, global: &Global) -> Result<Inspected, Failure> {
    // Finding out what can be cut takes as long as listing does.
    let asks_for_uncut = !path.is_dir() || global.verbose > 0;
    let found: Vec<Listed> = if path.is_dir() {
        list_tree(path, jobs(global))?
    } else {
        let listed = list_file(path, Depth::Headers);
        listed.transpose().into_iter().map(|listed| (path.to_owned(), listed)).collect()
    };
    let stays = |(path, listed): &Listed| match (listed, asks_for_uncut) {
        (Ok(listing), true) => uncut(&fs_err::File::open(path)?, listing),
        _ => Ok(Vec::new()),
    };
    let uncut = found.iter().map(stays).collect::<Result<Vec<_>, _>>()?;
    let file = |(path, listed): Listed| FileCode {
        path: path.display().to_string(),
        listing: listed.map_err(|error| error.to_string()),
        cuda: None,
    };
    let files: Vec<FileCode> = found.into_iter().map(file).collect();
    Ok(with_uncut(&files, &uncut, asked))
}

/// The GPU code of files, as text and as JSON.
pub(super) fn of_files(files: &[FileCode], asked: &Asked) -> Inspected {
    with_uncut(files, &vec![Vec::new(); files.len()], asked)
}

/// The GPU code of files, and for each what of it is never cut.
fn with_uncut(files: &[FileCode], uncut: &[Vec<Uncut>], asked: &Asked) -> Inspected {
    let (mut text, mut values, mut sound) = (String::new(), Vec::new(), true);
    let (mut listed, mut bytes) = (0, 0);
    let is_empty = |file: &FileCode| file.listing.as_ref().is_ok_and(Listing::is_empty);
    for (file, uncut) in files.iter().zip(uncut).filter(|(file, _)| !is_empty(file)) {
        let FileCode { path, listing, cuda, .. } = file;
        match listing {
            Ok(listing) => {
                listed += 1;
                bytes += listing.code.iter().map(|code| code.bytes).sum::<u64>();
                sound &= listing.malformed.is_empty();
                text.push_str(&describe(path, listing, asked));
                for Uncut { place, bytes, reason } in uncut {
                    text.push_str(&format!("  {} in {place} cannot be cut: {reason}\n", size::format(*bytes)));
                }
                let verdicts: Vec<Verdict> = asked.gpus.iter().filter_map(|gpu| listing.verdict(*gpu, *cuda)).collect();
                values.push(json!({ "file": path, "listing": listing, "verdicts": verdicts, "uncut": uncut }));
            }
            Err(error) => {
                sound = false;
                text.push_str(&format!("{path}: {error}\n"));
                values.push(json!({ "file": path, "error": error }));
            }
        }
    }
    text.push_str(&format!("{} with {} of GPU code\n", count(listed, "file"), size::format(bytes)));
    Inspected { text, value: json!({ "files": values, "bytes": bytes }), sound }
}

fn describe(file: &str, listing: &Listing, asked: &Asked) -> String {
    let format = match listing.format {
        Found::Elf(Machine::X86_64) => " (x86-64)",
        Found::Elf(Machine::Aarch64) => " (aarch64)",
        Found::Elf(_) | Found::Compiler => "",
        Found::Cubin => " (cubin)",
        Found::Fatbin => " (fatbin)",
        Found::Ptx => " (PTX)",
        Found::Windows => " (Windows)",
        Found::Archive => " (static library)",
    };
    let bytes: u64 = listing.code.iter().map(|code| code.bytes).sum();
    let mut text = format!("{file}{format}  {} of GPU code\n", size::format(bytes));
    for code in &listing.code {
        text.push_str(&place(code, asked));
    }
    if let Some(release) = listing.compiler {
        text.push_str(&format!("  compiles with CUDA {release}\n"));
    }
    if listing.hip {
        text.push_str("  code for AMD's GPUs, which is not looked into\n");
    }
    for problem in listing.malformed.iter().chain(&listing.unseen) {
        text.push_str(&format!("  {problem}\n"));
    }
    text
}

fn place(code: &Code, asked: &Asked) -> String {
    let regions = count(usize::try_from(code.regions).unwrap_or(usize::MAX), "region");
    let emptied = if code.emptied > 0 { format!(" ({} emptied by a cut)", code.emptied) } else { String::new() };
    let mut text = format!("  {}: {regions}{emptied}, {}\n", code.place, size::format(code.bytes));
    let rows: Vec<Vec<String>> = code.groups.iter().map(row).collect();
    text.push_str(&table(&rows));
    for gpu in &asked.gpus {
        text.push_str(&format!("    {}: {}\n", asked.names.label(*gpu), tally_text(&code.coverage(*gpu))));
    }
    text
}

fn row(group: &Group) -> Vec<String> {
    let architecture = group.architecture.map_or_else(|| "?".into(), |architecture| architecture.to_string());
    let compression = match group.compression {
        Compression::None => "",
        Compression::Zlib => "zlib",
        Compression::Lz4 => "LZ4",
        Compression::Zstd => "zstd",
    };
    let empty = match group.hollow {
        0 => String::new(),
        hollow if hollow == group.entries => "empty".into(),
        hollow => format!("{hollow} empty"),
    };
    let notes: Vec<&str> = [compression, &empty].into_iter().filter(|note| !note.is_empty()).collect();
    vec![
        format!("    {architecture}"),
        group.kind.name(),
        format!("{:>7}", group.entries),
        format!("{:>9}", size::format(group.bytes)),
        notes.join(", "),
    ]
}

fn tally_text(tally: &Tally) -> String {
    let parts = [
        (tally.native, "native"),
        (tally.ptx, "through PTX"),
        (tally.missing, "have no code for it"),
        (tally.unknown, "have code for the linker alone"),
    ];
    let said = parts.iter().filter(|(regions, _)| *regions > 0).map(|(regions, how)| format!("{regions} {how}"));
    let said: Vec<String> = said.collect();
    if said.is_empty() { "no code".into() } else { format!("regions: {}", said.join(", ")) }
}
