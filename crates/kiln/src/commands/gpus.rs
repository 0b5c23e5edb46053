//! `kiln gpus`

use clap::Args;
use kiln_plan::event::Cancel;
use kiln_plan::gpu::{CudaRelease, Gpu, GpuRequest, GpuTable};
use serde_json::json;

use super::{Outcome, native, print, print_json, table};
use crate::arguments::Global;
use crate::progress::Terminal;
use crate::render::Failure;

/// List GPU names, their capabilities, and which CUDA releases compile for them
#[derive(Debug, Args)]
pub(crate) struct Gpus {
    /// Only GPUs of these names or parts of them, generations (`ampere`), capabilities (`8.9`), architectures (`sm_120`),
    /// of lists of those (`8.0;8.6+PTX`), or `native`
    filters: Vec<String>,
}

impl Gpus {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let known = GpuTable::get();
        let mut gpus: Vec<&Gpu> = Vec::new();
        for part in self.filters.iter().flat_map(|filter| filter.split([',', ';'])) {
            gpus.extend(meant(part.trim(), global, cancel)?);
        }
        let gpus: Vec<&Gpu> = known.gpus().iter().filter(|gpu| self.filters.is_empty() || gpus.contains(gpu)).collect();
        if gpus.is_empty() {
            return Err(unknown(&self.filters.join(" ")));
        }
        if global.json {
            let list: Vec<_> = gpus
                .iter()
                .map(|gpu| {
                    json!({
                        "name": gpu.name,
                        "aliases": gpu.aliases,
                        "capability": gpu.capability,
                        "architecture": gpu.architecture(),
                        "generation": gpu.generation,
                        "class": gpu.class,
                        "first-driver": known.first_driver(gpu.capability),
                        "last-driver": known.last_driver(gpu.capability),
                    })
                })
                .collect();
            return print_json(&json!({ "gpus": list }));
        }
        let mut rows =
            vec![["GPU", "CAPABILITY", "CODE", "GENERATION", "CLASS", "CUDA", "DRIVER"].map(str::to_owned).to_vec()];
        rows.extend(gpus.iter().map(|gpu| {
            vec![
                gpu.name.clone(),
                gpu.capability.to_string(),
                gpu.architecture().to_string(),
                gpu.generation.clone(),
                gpu.class.to_string(),
                releases(gpu),
                drivers(gpu),
            ]
        }));
        print(&table(&rows))
    }
}

/// The GPUs that a part of a list means: as a whole, since names have blanks, or else word by word.
fn meant(part: &str, global: &Global, cancel: &Cancel) -> Result<Vec<&'static Gpu>, Failure> {
    match of_one(part, global, cancel)? {
        gpus if !gpus.is_empty() => return Ok(gpus),
        _ if part.is_empty() => return Ok(Vec::new()),
        _ => {}
    }
    let mut gpus = Vec::new();
    for word in part.split_whitespace() {
        let of_word = of_one(word, global, cancel)?;
        if of_word.is_empty() {
            return Err(unknown(part));
        }
        gpus.extend(of_word);
    }
    Ok(gpus)
}

/// The GPUs of one request, with or without PTX.
fn of_one(text: &str, global: &Global, cancel: &Cancel) -> Result<Vec<&'static Gpu>, Failure> {
    let known = GpuTable::get();
    let (plain, _) = GpuRequest::without_ptx(text);
    let capabilities = match GpuRequest::parse(text) {
        Ok(GpuRequest::Native) => native(&Terminal::new(global), cancel)?,
        Ok(request) => request.capabilities(),
        Err(_) => Vec::new(),
    };
    let found = if plain.is_empty() { Vec::new() } else { known.filter(plain) };
    let of_capability = |gpu: &&Gpu| found.is_empty() && capabilities.contains(&gpu.capability);
    Ok(known.gpus().iter().filter(|gpu| found.contains(gpu) || of_capability(gpu)).collect())
}

fn unknown(filter: &str) -> Failure {
    let close = GpuTable::get().nearest_names(filter);
    let hint = match close.as_slice() {
        [] => "`kiln gpus` lists all".to_owned(),
        names => format!("did you mean {}?", names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(" or ")),
    };
    Failure::usage(format!("no GPU is called `{filter}`")).hint(hint)
}

/// The branches of the driver that run a GPU: `570 and newer`, `up to 580`.
fn drivers(gpu: &Gpu) -> String {
    let known = GpuTable::get();
    match (known.first_driver(gpu.capability), known.last_driver(gpu.capability)) {
        (Some(first), Some(last)) => format!("{first} to {last}"),
        (Some(first), None) => format!("{first} and newer"),
        (None, Some(last)) => format!("up to {last}"),
        (None, None) => String::new(),
    }
}

/// The releases that compile for a GPU: `11.8 to 12.9`.
fn releases(gpu: &Gpu) -> String {
    let able: Vec<CudaRelease> =
        CudaRelease::known().filter(|release| release.can_compile(&gpu.architecture())).collect();
    match (able.first(), able.last(), CudaRelease::known().last()) {
        (Some(first), Some(last), newest) if Some(*last) == newest => format!("{first} and newer"),
        (Some(first), Some(last), _) => format!("{first} to {last}"),
        _ => GpuTable::get().last_cuda(gpu.capability).map_or("none known".into(), |last| format!("up to {last}")),
    }
}
