//! `kiln gpus`

use clap::Args;
use kiln_plan::gpu::{CudaRelease, Gpu, GpuTable};
use serde_json::json;

use super::{Outcome, print, print_json, table};
use crate::arguments::Global;
use crate::render::Failure;

/// List GPU names, their capabilities, and which CUDA releases compile for them
#[derive(Debug, Args)]
pub(crate) struct Gpus {
    /// Only GPUs of this name or a part of one, generation (`ampere`), capability (`8.9`) or architecture (`sm_120`)
    filter: Option<String>,
}

impl Gpus {
    pub(crate) fn run(&self, global: &Global) -> Outcome {
        let known = GpuTable::get();
        let gpus: Vec<&Gpu> = self.filter.as_deref().map_or_else(|| known.gpus().iter().collect(), |f| known.filter(f));
        if gpus.is_empty() {
            let filter = self.filter.as_deref().unwrap_or_default();
            let close = known.nearest_names(filter);
            let hint = match close.as_slice() {
                [] => "`kiln gpus` lists all".to_owned(),
                names => {
                    format!("did you mean {}?", names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(" or "))
                }
            };
            return Err(Failure::usage(format!("no GPU is called `{filter}`")).hint(hint));
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
