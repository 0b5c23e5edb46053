//! An image as somebody reads it: by kiln's libraries, or by skopeo.

use std::path::Path;

use kiln_oci::image::{Config, LoadedImage, from_json};
use kiln_oci::layout::Layout;
use kiln_plan::platform::Platform;
use kiln_registry::Registries;
use serde_json::{Map, Value};

use crate::interop::{Result, programs, transports};

/// The members of a config that OCI's specification names; others are nobody's business but their author's.
const MEMBERS: [&str; 8] = ["architecture", "os", "variant", "created", "author", "config", "rootfs", "history"];
const RUN_MEMBERS: [&str; 9] =
    ["User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal"];
const HISTORY: [&str; 5] = ["created", "created_by", "author", "comment", "empty_layer"];

/// Returns what kiln reads in a layout, or the reason why it does not.
pub(super) fn in_layout(layout: &Path, platform: Platform) -> std::result::Result<Value, String> {
    let opened = Layout::open(layout).map_err(|error| error.to_string())?;
    seen(opened.image_for(None, platform).map_err(|error| error.to_string())?)
}

/// Returns what kiln reads on a registry, or the reason why it does not.
pub(super) fn on_registry(
    registries: &Registries,
    reference: &str,
    platform: Platform,
) -> std::result::Result<Value, String> {
    let reference = reference.parse().map_err(|error| format!("{error:?}"))?;
    seen(registries.image(&reference, platform).map_err(|error| error.to_string())?.loaded)
}

fn seen(loaded: LoadedImage) -> std::result::Result<Value, String> {
    let config: Config = from_json(&loaded.config_bytes, "the config").map_err(|error| error.to_string())?;
    Ok(plain(serde_json::to_value(&config).map_err(|error| error.to_string())?))
}

/// Returns what skopeo reads of an image (`oci:DIRECTORY`, `docker://REFERENCE`); nothing where it cannot.
pub(super) fn by_skopeo(place: &str) -> Result<Option<Value>> {
    let mut skopeo = transports::skopeo();
    skopeo.args(["--override-os", "linux", "--override-arch", "amd64", "inspect", "--config"]);
    let output = skopeo.args(place.starts_with("docker:").then_some("--tls-verify=false")).arg(place).output()?;
    if !output.status.success() {
        return Ok(None);
    }
    Ok(Some(plain(serde_json::from_slice(&output.stdout)?)))
}

/// Returns the digest of the manifest that skopeo chooses for linux/amd64.
pub(super) fn chosen_by_skopeo(place: &str, directory: &Path) -> Result<String> {
    let mut skopeo = transports::skopeo();
    skopeo.args(["--override-os", "linux", "--override-arch", "amd64", "copy", "--quiet"]);
    skopeo.args(place.starts_with("docker:").then_some("--src-tls-verify=false"));
    programs::output(skopeo.arg(place).arg(format!("dir:{}", directory.display())))?;
    let digest = transports::digest(&fs_err::read(directory.join("manifest.json"))?);
    fs_err::remove_dir_all(directory)?;
    Ok(digest)
}

/// Returns a config without what is empty, and with nothing but what OCI's specification names: Go's programs write
/// `null`, an empty value or nothing for the same.
fn plain(config: Value) -> Value {
    let mut config = only(config, &MEMBERS);
    let run = only(config["config"].take(), &RUN_MEMBERS);
    config["rootfs"] = only(config["rootfs"].take(), &["diff_ids"]);
    let history = config["history"].take();
    let history = history.as_array().cloned().unwrap_or_default();
    let history: Vec<Value> = history.into_iter().map(|entry| without_empty(only(entry, &HISTORY))).collect();
    config["config"] = run;
    config["history"] = history.into();
    // Sets are written as objects, whose members have no value.
    for set in ["ExposedPorts", "Volumes"] {
        if let Value::Object(members) = &config["config"][set] {
            config["config"][set] = members.keys().cloned().collect::<Vec<_>>().into();
        }
    }
    config["config"] = without_empty(config["config"].take());
    without_empty(config)
}

fn only(value: Value, names: &[&str]) -> Value {
    let Value::Object(members) = value else { return Value::Object(Map::new()) };
    members.into_iter().filter(|(name, _)| names.contains(&name.as_str())).collect::<Map<_, _>>().into()
}

fn without_empty(value: Value) -> Value {
    let is_empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(elements) => elements.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(members) => {
            members.into_iter().filter(|(_, value)| !is_empty(value)).collect::<Map<_, _>>().into()
        }
        other => other,
    }
}
