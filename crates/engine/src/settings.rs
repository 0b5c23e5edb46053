//! The stack's settings for running an image, onto those of the image below (OCI image specification, "Image Configuration";
//! `Healthcheck` and `Shell` are Docker's).

use std::collections::BTreeMap;

use kiln_oci::image::Config;
use kiln_plan::base::DEFAULT_PATH;
use kiln_plan::stack::{self, CommandLine, Healthcheck, Value};
use serde::Serialize;
use serde_json::json;

use crate::accounts::Accounts;

/// The programs of the virtual environment.
const BIN: &str = "/opt/venv/bin";
/// The variable that says that there is one.
const VIRTUAL_ENV: &str = "VIRTUAL_ENV";
/// The variable that says where the loader looks for libraries.
const LIBRARIES: &str = "LD_LIBRARY_PATH";

/// The stack's settings for running an image.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Settings {
    /// The image has a virtual environment.
    pub(crate) venv: bool,
    /// Directories of libraries that its packages open by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) libraries: Vec<String>,
    pub(crate) timezone: Option<String>,
    pub(crate) env: BTreeMap<String, Value>,
    pub(crate) user: Option<String>,
    pub(crate) workdir: Option<String>,
    pub(crate) entrypoint: Option<CommandLine>,
    pub(crate) command: Option<CommandLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) expose: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) volumes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_signal: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
}

impl Settings {
    /// Returns the settings of an image; `venv` says if it has a virtual environment, its own or one below.
    pub(crate) fn of(image: &stack::Image, venv: bool, accounts: &Accounts) -> Self {
        Self {
            venv,
            libraries: Vec::new(),
            timezone: image.timezone.clone(),
            env: image.env.clone(),
            user: image.user.as_ref().map(|user| accounts.runs_as(user)),
            workdir: image.workdir.clone(),
            entrypoint: image.entrypoint.clone(),
            command: image.command.clone(),
            healthcheck: image.healthcheck.clone(),
            expose: image.expose.clone(),
            volumes: image.volumes.clone(),
            stop_signal: image.stop_signal.clone(),
            labels: image.labels.clone(),
        }
    }

    /// Returns `PATH` with these settings, of what it is below; `None` where nothing sets it.
    pub(crate) fn path(&self, below: Option<&str>) -> Option<String> {
        let inherited = match (self.venv, below) {
            (true, below) => Some(with_venv(below.unwrap_or(DEFAULT_PATH))),
            (false, below) => below.map(str::to_owned),
        };
        let Some(value) = self.env.get("PATH") else { return inherited };
        let text = value.text(|name| match name {
            "PATH" => Some(inherited.as_deref().unwrap_or(DEFAULT_PATH)),
            _ => None,
        });
        Some(if self.venv { with_venv(&text) } else { text })
    }

    /// Changes a configuration.
    pub(crate) fn apply(&self, config: &mut Config) {
        self.environment(config);
        let shell = shell(config);
        let words = |command: &CommandLine| match command {
            CommandLine::Words(words) => words.clone(),
            CommandLine::Shell(line) => shell.iter().cloned().chain([line.clone()]).collect(),
        };
        let run = &mut config.config;
        run.user = self.user.clone().unwrap_or_else(|| std::mem::take(&mut run.user));
        run.working_dir = self.workdir.clone().unwrap_or_else(|| std::mem::take(&mut run.working_dir));
        if let Some(entrypoint) = &self.entrypoint {
            run.entrypoint = words(entrypoint);
            run.cmd.clear();
        }
        if let Some(command) = &self.command {
            run.cmd = words(command);
        }
        if let Some(signal) = &self.stop_signal {
            run.other.insert("StopSignal".into(), json!(signal));
        }
        if let Some(health) = &self.healthcheck {
            run.other.insert("Healthcheck".into(), health_object(health));
        }
        for (key, names) in [("ExposedPorts", &self.expose), ("Volumes", &self.volumes)] {
            add_names(&mut run.other, key, names);
        }
        run.labels.extend(self.labels.clone());
    }

    fn environment(&self, config: &mut Config) {
        let below: BTreeMap<String, String> = config
            .config
            .env
            .iter()
            .filter_map(|entry| {
                let (name, value) = entry.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            })
            .collect();
        if let Some(path) = self.path(below.get("PATH").map(String::as_str)) {
            config.set_env("PATH", &path);
        }
        if self.venv {
            config.set_env(VIRTUAL_ENV, "/opt/venv");
        }
        if !self.libraries.is_empty() {
            let inherited = below.get(LIBRARIES).map(String::as_str).unwrap_or_default();
            let there: Vec<&str> = inherited.split(':').filter(|directory| !directory.is_empty()).collect();
            let new = self.libraries.iter().map(String::as_str).filter(|directory| !there.contains(directory));
            config.set_env(LIBRARIES, &new.chain(there.iter().copied()).collect::<Vec<_>>().join(":"));
        }
        if let Some(zone) = &self.timezone {
            config.set_env("TZ", zone);
        }
        for (name, value) in self.env.iter().filter(|(name, _)| *name != "PATH") {
            let set = |name: &str| config.env(name).map(str::to_owned);
            let (path, libraries) = (set("PATH"), set(LIBRARIES));
            let inherited = |name: &str| match name {
                "PATH" => path.as_deref(),
                LIBRARIES => libraries.as_deref(),
                name => below.get(name).map(String::as_str),
            };
            config.set_env(name, &value.text(inherited));
        }
    }
}

fn with_venv(path: &str) -> String {
    match path.split(':').any(|part| part == BIN) {
        true => path.to_owned(),
        false if path.is_empty() => BIN.to_owned(),
        false => format!("{BIN}:{path}"),
    }
}

/// Returns the shell of an image: what `SHELL` of a Dockerfile said, or Docker's default.
fn shell(config: &Config) -> Vec<String> {
    let said =
        config.config.other.get("Shell").and_then(|shell| serde_json::from_value::<Vec<String>>(shell.clone()).ok());
    said.filter(|words| !words.is_empty()).unwrap_or_else(|| ["/bin/sh", "-c"].map(str::to_owned).to_vec())
}

fn health_object(health: &Healthcheck) -> serde_json::Value {
    let Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries } = health else {
        return json!({ "Test": ["NONE"] });
    };
    let test: Vec<String> = match command {
        CommandLine::Words(words) => ["CMD".to_owned()].into_iter().chain(words.clone()).collect(),
        CommandLine::Shell(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
    };
    let mut object = serde_json::Map::from_iter([("Test".to_owned(), json!(test))]);
    let numbers = [("Interval", *interval), ("Timeout", *timeout), ("StartPeriod", *start_period)];
    let more = [("StartInterval", *start_interval), ("Retries", u64::from(*retries))];
    for (key, number) in numbers.into_iter().chain(more).filter(|(_, number)| *number > 0) {
        object.insert(key.to_owned(), json!(number));
    }
    object.into()
}

/// Adds names to an object whose values are empty objects.
fn add_names(other: &mut BTreeMap<String, serde_json::Value>, key: &str, names: &[String]) {
    if names.is_empty() {
        return;
    }
    let object = other.entry(key.to_owned()).or_insert_with(|| json!({}));
    if !object.is_object() {
        *object = json!({});
    }
    for name in names {
        object[name.as_str()] = json!({});
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_plan::stack::Part;

    fn config(env: &[&str]) -> Config {
        let mut config = Config::default();
        config.config.env = env.iter().map(|entry| (*entry).to_owned()).collect();
        config
    }

    fn value(parts: &[&str]) -> Value {
        let part = |text: &&str| match text.strip_prefix('$') {
            Some(name) => Part::Inherited(name.to_owned()),
            None => Part::Text((*text).to_owned()),
        };
        Value(parts.iter().map(part).collect())
    }

    fn env(settings: &Settings, below: &[&str]) -> Vec<String> {
        let mut config = config(below);
        settings.apply(&mut config);
        config.config.env
    }

    #[test]
    fn libraries_that_packages_open_by_name_are_found_beside_what_is_inherited() {
        let libraries = vec!["/v/a".to_owned(), "/v/b".to_owned()];
        let settings = Settings { libraries, ..Settings::default() };
        assert_eq!(env(&settings, &[]), ["LD_LIBRARY_PATH=/v/a:/v/b"]);
        assert_eq!(env(&settings, &["LD_LIBRARY_PATH=/x:/v/b"]), ["LD_LIBRARY_PATH=/v/a:/x:/v/b"]);
        let own = BTreeMap::from([("LD_LIBRARY_PATH".to_owned(), value(&["/own:", "$LD_LIBRARY_PATH"]))]);
        assert_eq!(env(&Settings { env: own, ..settings }, &[]), ["LD_LIBRARY_PATH=/own:/v/a:/v/b"]);
    }

    #[test]
    fn path_keeps_the_virtual_environment_whatever_the_stack_says() {
        let with = |parts: &[&str], venv| Settings {
            venv,
            env: [("PATH".to_owned(), value(parts))].into(),
            ..Settings::default()
        };
        assert_eq!(
            env(&with(&["/x:", "$PATH"], true), &["PATH=/bin"]),
            ["PATH=/x:/opt/venv/bin:/bin", "VIRTUAL_ENV=/opt/venv"]
        );
        assert_eq!(env(&with(&["/x"], true), &["PATH=/bin"]), ["PATH=/opt/venv/bin:/x", "VIRTUAL_ENV=/opt/venv"]);
        assert_eq!(env(&with(&["/x"], false), &["PATH=/bin"]), ["PATH=/x"]);
        assert_eq!(env(&with(&["/x:", "$PATH"], false), &[]), [format!("PATH=/x:{DEFAULT_PATH}")]);
    }

    #[test]
    fn an_inherited_variable_that_is_unset_leaves_no_colon() {
        let libraries = |parts: &[&str], below: &[&str]| {
            let settings = Settings { env: [("L".to_owned(), value(parts))].into(), ..Settings::default() };
            env(&settings, below).pop().unwrap()
        };
        assert_eq!(libraries(&["/a:", "$L"], &[]), "L=/a");
        assert_eq!(libraries(&["$L", ":/a"], &[]), "L=/a");
        assert_eq!(libraries(&["/a:", "$L", ":/b"], &[]), "L=/a:/b");
        assert_eq!(libraries(&["/a:", "$L", ":/b"], &["L=/c"]), "L=/a:/c:/b");
        assert_eq!(libraries(&["$M", ":", "$L"], &["L="]), "L=");
        assert_eq!(libraries(&["x", "$M"], &["M=y"]), "L=xy");
    }

    #[test]
    fn a_line_is_for_the_shell_of_the_image() {
        let mut config = config(&[]);
        let settings = Settings { entrypoint: Some(CommandLine::Shell("exec x".into())), ..Settings::default() };
        settings.apply(&mut config);
        assert_eq!(config.config.entrypoint, ["/bin/sh", "-c", "exec x"]);
        config.config.other.insert("Shell".into(), json!(["/bin/bash", "-lc"]));
        settings.apply(&mut config);
        assert_eq!(config.config.entrypoint, ["/bin/bash", "-lc", "exec x"]);
    }

    #[test]
    fn docker_s_fields_have_docker_s_names() {
        let mut config = config(&[]);
        let health = Healthcheck::Check {
            command: CommandLine::Words(vec!["curl".into(), "localhost".into()]),
            interval: 30_000_000_000,
            timeout: 0,
            start_period: 5_000_000,
            start_interval: 0,
            retries: 3,
        };
        let settings = Settings {
            healthcheck: Some(health),
            expose: vec!["8080/tcp".into()],
            volumes: vec!["/data".into()],
            stop_signal: Some("SIGINT".into()),
            ..Settings::default()
        };
        config.config.other.insert("ExposedPorts".into(), json!({ "22/tcp": {} }));
        settings.apply(&mut config);
        let other = serde_json::to_value(&config.config.other).unwrap();
        assert_eq!(
            other,
            json!({
                "ExposedPorts": { "22/tcp": {}, "8080/tcp": {} },
                "Healthcheck": { "Test": ["CMD", "curl", "localhost"], "Interval": 30_000_000_000_u64, "Retries": 3, "StartPeriod": 5_000_000 },
                "StopSignal": "SIGINT",
                "Volumes": { "/data": {} },
            })
        );
        let cleared = Settings { healthcheck: Some(Healthcheck::Disabled), ..Settings::default() };
        cleared.apply(&mut config);
        assert_eq!(config.config.other["Healthcheck"], json!({ "Test": ["NONE"] }));
    }
}
