//! Markers through kiln and uv: uv gets them as they are written, and has to choose what `packaging` chooses.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use kiln_wheel::testing::WheelBuilder;
use serde_json::Value;

use super::super::{Result, Suite, programs};

/// The environment among those of the readings that the image has.
const ENVIRONMENT: usize = 1;

/// Locks one package for each marker, and compares those that are chosen with the markers' values.
pub(super) fn decides(suite: &Suite, project: &Path, markers: &[(String, Value)]) -> Result<()> {
    let wheels = project.join("wheels");
    fs_err::create_dir_all(&wheels)?;
    let mut requirements = String::from("--no-index\n--find-links wheels\n");
    let mut expected = BTreeSet::new();
    for (at, (marker, values)) in markers.iter().enumerate() {
        let wheel = WheelBuilder::new(&format!("m{at}"), "1");
        fs_err::write(wheels.join(wheel.file_name()), wheel.finish())?;
        let _ = writeln!(requirements, "m{at} ; {marker}");
        if values.get(ENVIRONMENT).and_then(Value::as_bool).ok_or("a marker has no value")? {
            expected.insert(at);
        }
    }
    fs_err::write(project.join("requirements.txt"), requirements)?;
    fs_err::write(
        project.join("kiln.toml"),
        "[stack]\nname = \"markers\"\n\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"3.11\"\n\n[images.a]\n\
         from = \"scratch\"\nrequirements = \"requirements.txt\"\nbase-facts = { libc = { family = \"glibc\", \
         version = \"2.36\" }, interpreters = [{ path = \"/usr/bin/python3.11\", version = \"3.11.2\" }] }\n",
    )?;
    programs::output(suite.kiln(project).arg("lock"))?;
    let lock: toml::Table = fs_err::read_to_string(project.join("kiln.lock"))?.parse()?;
    let packages = lock.get("image").and_then(|images| images.get(0)?.get("packages")?.as_array());
    let name = |package: &toml::Value| package.get("name")?.as_str()?.strip_prefix('m')?.parse::<usize>().ok();
    let chosen: BTreeSet<usize> = packages.into_iter().flatten().filter_map(name).collect();
    let differs: Vec<&str> = chosen.symmetric_difference(&expected).map(|at| markers[*at].0.as_str()).collect();
    match differs.is_empty() && !expected.is_empty() {
        true => Ok(()),
        false => Err(format!("uv decides {} in another way: {}", differs.len(), differs.join("\n")).into()),
    }
}
