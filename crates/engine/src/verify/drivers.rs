//! The Linux drivers on which GPU code runs: what the code asks for, and which drivers there are for a GPU.

use std::fmt;

use kiln_fatbin::Verdict;
use kiln_plan::gpu::{Capability, DriverVersion, GpuTable};
use serde::Serialize;

use super::{Judge, VerifiedCode, excuses, is_served};

/// The drivers that take all of some code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Drivers {
    /// The oldest, as far as that is known.
    pub(crate) oldest: Option<DriverVersion>,
    /// The newest, where the GPU has a last one.
    pub(crate) newest: Option<DriverVersion>,
    /// True if some code needs a newer driver than any that is known.
    pub(crate) unknown: bool,
    pub(crate) findings: Vec<DriverFinding>,
}

/// A GPU for which a driver is not made, or code that no driver of a GPU takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DriverFinding {
    /// The GPU.
    pub gpu: Capability,
    /// The first branch that runs it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<DriverVersion>,
    /// The last branch that runs it, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<DriverVersion>,
    /// The driver that is not for it.
    pub driver: DriverVersion,
    /// The file that asks for the driver, where none was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// True if not even that driver is new enough for the file.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub later: bool,
    #[serde(skip)]
    label: String,
}

impl fmt::Display for DriverFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, driver, path, later, label, .. } = self;
        match path {
            Some(path) if *later => write!(f, "{path} needs a driver newer than {driver}, and none runs {label}")?,
            Some(path) => write!(f, "{path} needs driver {driver}, which does not run {label}")?,
            None => write!(f, "driver {driver} does not run {label}")?,
        }
        match (first, last) {
            (Some(first), _) if driver < first => write!(f, ": {first} is the first that does"),
            (_, Some(last)) => write!(f, ": {last} is the last that does"),
            _ => Ok(()),
        }
    }
}

/// Tells if a driver is too old for code.
pub(super) fn is_too_old(driver: &DriverVersion, verdict: &Verdict) -> bool {
    verdict.driver.as_ref().is_some_and(|needed| needed > driver)
        || verdict.driver_after.as_ref().is_some_and(|after| after >= driver)
}

/// Finds the drivers that code needs, and marks the files that ask for a newer one than is to be had. Of variants one is
/// loaded, so that the one which asks for least counts.
pub(super) fn judge(code: &mut [VerifiedCode], judge: &Judge) -> Drivers {
    let mut drivers = Drivers::default();
    let families = excuses::families(code);
    for gpu in &judge.gpus {
        let mut newest_need: Option<Need> = None;
        for members in families.values() {
            let serving = members.iter().filter(|at| !judge.excepts(&code[**at].path)).filter_map(|at| {
                let verdict = code[*at].verdicts.iter().find(|verdict| verdict.gpu == *gpu && is_served(verdict));
                Some((*at, verdict?))
            });
            let serving: Vec<(usize, &Verdict)> = serving.collect();
            let least = serving.iter().min_by_key(|(_, verdict)| (&verdict.driver_after, &verdict.driver));
            let Some((at, least)) = least else { continue };
            drivers.unknown |= least.driver_after.is_some();
            if let Some(driver) = least.driver.as_ref().or(least.driver_after.as_ref())
                && newest_need.as_ref().is_none_or(|need| need.driver < *driver)
            {
                let (driver, path) = (driver.clone(), code[*at].path.clone());
                newest_need = Some(Need { driver, later: least.driver.is_none(), path });
            }
            let too_old = judge.driver.as_ref().is_some_and(|driver| is_too_old(driver, least));
            let marked: Vec<usize> = serving.iter().map(|(at, _)| *at).filter(|_| too_old).collect();
            marked.into_iter().for_each(|at| code[at].driver_too_old = true);
        }
        if code.iter().any(|file| file.verdicts.iter().any(|verdict| verdict.gpu == *gpu)) {
            drivers.bound(*gpu, newest_need, judge);
        }
    }
    drivers
}

/// The driver that a file needs.
struct Need {
    driver: DriverVersion,
    /// True if it needs a later one than that.
    later: bool,
    path: String,
}

impl Drivers {
    /// Adds what a GPU asks for: its first and last driver, and the newest one that its code needs.
    fn bound(&mut self, gpu: Capability, needed: Option<Need>, judge: &Judge) {
        let table = GpuTable::get();
        let (first, last) = (table.first_driver(gpu).cloned(), table.last_driver(gpu).cloned());
        let fits = |driver: &DriverVersion| {
            let branch = driver.branch();
            first.as_ref().is_none_or(|first| *first <= branch) && last.as_ref().is_none_or(|last| branch <= *last)
        };
        let too_new = |driver: &DriverVersion| last.as_ref().is_some_and(|last| *last < driver.branch());
        let asked = judge.driver.iter().filter(|driver| !fits(driver)).map(|driver| (driver.clone(), None, false));
        let code = needed.iter().filter(|need| too_new(&need.driver));
        let code = code.map(|need| (need.driver.clone(), Some(need.path.clone()), need.later));
        for (driver, path, later) in asked.chain(code) {
            let (first, last, label) = (first.clone(), last.clone(), judge.names.label(gpu));
            self.findings.push(DriverFinding { gpu, first, last, driver, path, later, label });
        }
        self.oldest = self.oldest.take().max(needed.map(|need| need.driver)).max(first);
        self.newest = match (self.newest.take(), last) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
}

#[cfg(test)]
mod tests {
    use kiln_fatbin::testing::{Library, entry};

    use super::*;
    use crate::contents::FileCode;
    use crate::verify::Verification;

    /// The drivers of files with machine code for an architecture, each linked with a release of CUDA.
    fn drivers(files: &[(&str, u32, u8)], gpu: &str, driver: Option<&str>) -> (Option<String>, Vec<String>, bool) {
        let code: Vec<FileCode> = files
            .iter()
            .map(|(path, number, cuda)| {
                let library = Library::new().region(&[entry(2, *number, 0, 9_000)]).finish();
                let listing = kiln_fatbin::list(library.as_slice()).unwrap().unwrap();
                FileCode { path: (*path).to_owned(), listing: Ok(listing), cuda: Some(*cuda) }
            })
            .collect();
        let driver = driver.map(|text| text.parse().unwrap());
        let judge = Judge { gpus: vec![gpu.parse().unwrap()], driver, ..Judge::default() };
        let found = Verification::new("a", &code, &judge);
        let findings = found.drivers.iter().map(ToString::to_string).collect();
        (found.driver.as_ref().map(ToString::to_string), findings, found.is_sound())
    }

    #[test]
    fn a_gpu_has_a_first_and_a_last_driver() {
        let blackwell = [("a.so", 120, 12)];
        assert_eq!(drivers(&blackwell, "12.0", None), (Some("570".into()), Vec::new(), true));
        let (_, findings, sound) = drivers(&blackwell, "12.0", Some("535.104"));
        assert_eq!(
            (findings[0].as_str(), sound),
            ("driver 535.104 does not run 12.0: 570 is the first that does", false)
        );
        let (_, findings, _) = drivers(&[("a.so", 70, 12)], "7.0", Some("590.44.01"));
        assert_eq!(findings, ["driver 590.44.01 does not run 7.0: 580 is the last that does"]);
        assert!(drivers(&[("a.so", 70, 12)], "7.0", Some("580.65.06")).2);
    }

    #[test]
    fn of_variants_the_one_that_asks_for_the_oldest_driver_counts() {
        let variants = [("a/libk_cuda118.so", 90, 11), ("a/libk_cuda132.so", 90, 13)];
        assert_eq!(drivers(&variants, "9.0", Some("535.104")), (Some("520".into()), Vec::new(), true));
        let (oldest, _, sound) = drivers(&variants[1..], "9.0", Some("535.104"));
        assert_eq!((oldest.as_deref(), sound), (Some("580"), false));
    }
}
