//! The GPU code of libraries and directories, as `kiln inspect` shows it.

use std::path::Path;

use kiln_fatbin::{Code, Compression, Found, Group, Listed, Listing, Machine, Tally, list, list_tree};
use kiln_plan::size;
use serde_json::{Value, json};

use crate::arguments::Global;
use crate::commands::{capabilities, count, table};
use crate::render::Failure;
use crate::surroundings::jobs;

pub(super) fn inspect(path: &Path, gpus: &[String], global: &Global) -> Result<(String, Value), Failure> {
    let gpus = capabilities(gpus)?;
    let found: Vec<Listed> = if path.is_dir() {
        list_tree(path, &gpus, jobs(global))?
    } else {
        let listed = list(&fs_err::File::open(path)?, &gpus);
        listed.transpose().into_iter().map(|listed| (path.to_owned(), listed)).collect()
    };
    let mut text = String::new();
    let mut values = Vec::new();
    let (mut files, mut bytes) = (0, 0);
    for (path, listed) in found {
        let shown = path.display().to_string();
        match listed {
            Ok(listing) => {
                files += 1;
                bytes += listing.code.iter().map(|code| code.bytes).sum::<u64>();
                text.push_str(&describe(&shown, &listing));
                values.push(json!({ "file": shown, "listing": listing }));
            }
            Err(error) => {
                text.push_str(&format!("{shown}: {error}\n"));
                values.push(json!({ "file": shown, "error": error.to_string() }));
            }
        }
    }
    text.push_str(&format!("{} with {} of GPU code\n", count(files, "file"), size::format(bytes)));
    Ok((text, json!({ "files": values, "bytes": bytes })))
}

fn describe(file: &str, listing: &Listing) -> String {
    let format = match listing.format {
        Found::Elf(Machine::X86_64) => " (x86-64)",
        Found::Elf(Machine::Aarch64) => " (aarch64)",
        Found::Elf(_) => "",
        Found::Cubin => " (cubin)",
        Found::Fatbin => " (fatbin)",
        Found::Archive => " (static library)",
    };
    let bytes: u64 = listing.code.iter().map(|code| code.bytes).sum();
    let mut text = format!("{file}{format}  {} of GPU code\n", size::format(bytes));
    for code in &listing.code {
        text.push_str(&place(code));
    }
    if listing.hip {
        text.push_str("  code for AMD's GPUs, which is not looked into\n");
    }
    for problem in &listing.malformed {
        text.push_str(&format!("  {problem}\n"));
    }
    text
}

fn place(code: &Code) -> String {
    let regions = count(usize::try_from(code.regions).unwrap_or(usize::MAX), "region");
    let mut text = format!("  {}: {regions}, {}\n", code.place, size::format(code.bytes));
    let rows: Vec<Vec<String>> = code.groups.iter().map(row).collect();
    text.push_str(&table(&rows));
    for (gpu, tally) in &code.coverage {
        text.push_str(&format!("    {gpu}: {}\n", tally_text(tally)));
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
    vec![
        format!("    {architecture}"),
        group.kind.name(),
        format!("{:>7}", group.entries),
        format!("{:>9}", size::format(group.bytes)),
        compression.to_owned(),
    ]
}

fn tally_text(tally: &Tally) -> String {
    let parts = [(tally.native, "native"), (tally.ptx, "through PTX"), (tally.missing, "have no code for it")];
    let said = parts.iter().filter(|(regions, _)| *regions > 0).map(|(regions, how)| format!("{regions} {how}"));
    let said: Vec<String> = said.collect();
    if said.is_empty() { "no code".into() } else { format!("regions: {}", said.join(", ")) }
}
