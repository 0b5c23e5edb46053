//! Who one is on a registry: Docker's configuration file with its helpers and identity tokens, and podman's.
//!
//! The files are those that `docker login` and `podman login` write. A helper is a program `docker-credential-NAME` that
//! speaks JSON on its standard streams. Nothing is looked for here: the command line says which files there are.

mod file;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_plan::event::{Cancel, SharedReporter, Work};
use kiln_plan::reference::Repository;
use kiln_programs::{Call, ChildEnvironment, Failed, LOCATIONS, NETWORK, Names, PATH, ProgramError};
use kiln_store::AtomicFile;
use serde_json::{Map, Value, json};

use file::{ConfigFile, HelperAnswer, credential, host_of, plain_host};

use super::RegistryError;

/// How Docker calls its own registry in its configuration.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// The user that a helper names when the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// The variables that credential helpers need: places, the network, keyrings (docker-credential-helpers: `pass`,
/// `secretservice`), and the accounts of clouds whose helpers turn them into passwords (amazon-ecr-credential-helper,
/// docker-credential-gcr, acr-docker-credential-helper).
const HELPER: Names = &[
    PATH,
    LOCATIONS,
    NETWORK,
    &["USER", "LOGNAME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"],
    &["DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY"],
    &["GNUPGHOME", "GPG_TTY", "PASSWORD_STORE_DIR", "PASSWORD_STORE_GPG_OPTS", "SSH_AUTH_SOCK"],
    &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"],
    &["AWS_DEFAULT_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_SDK_LOAD_CONFIG", "AWS_CA_BUNDLE"],
    &["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME", "AWS_STS_REGIONAL_ENDPOINTS"],
    &["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"],
    &["AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"],
    &["AWS_ECR_CACHE_DIR", "AWS_ECR_DISABLE_CACHE", "AWS_ECR_IGNORE_CREDS_STORAGE"],
    &["GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "CLOUDSDK_ACTIVE_CONFIG_NAME", "CLOUDSDK_PYTHON"],
    &["AZURE_CONFIG_DIR", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE"],
];

/// Who one is.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The name; empty where there is only a token.
    user: String,
    /// Name and password as `Basic` authentication sends them, in base64; empty where there is only a token.
    basic: String,
    /// A token with which the registry's token service gives others (OAuth 2 refresh token).
    identity: Option<String>,
}

impl Credential {
    /// A name and a password, or an access token in its place.
    pub fn password(user: &str, password: &str) -> Self {
        let basic = STANDARD.encode(format!("{user}:{password}"));
        Self { user: user.to_owned(), basic, identity: None }
    }

    /// A token with which the registry's token service gives others.
    pub fn identity(token: &str) -> Self {
        Self { user: String::new(), basic: String::new(), identity: Some(token.to_owned()) }
    }

    /// Returns the name; empty where there is only a token.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns name and password as `Basic` authentication sends them, in base64.
    pub(crate) fn basic(&self) -> Option<&str> {
        Some(self.basic.as_str()).filter(|basic| !basic.is_empty())
    }

    /// Returns the token with which the registry's token service gives others.
    pub(crate) fn identity_token(&self) -> Option<&str> {
        self.identity.as_deref()
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.basic() {
            Some(_) => write!(f, "Password({})", self.user),
            None => f.write_str("Identity"),
        }
    }
}

/// Where credentials are kept.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Files in the format of Docker's `config.json`, the first that has an answer is taken. Those that do not exist
    /// are empty.
    pub files: Vec<PathBuf>,
    /// The environment of helpers, and the `PATH` on which they are found.
    pub environment: ChildEnvironment,
    /// The reporter of the helpers that are run.
    pub reporter: SharedReporter,
    /// Set when the user wants to stop.
    pub cancel: Cancel,
}

impl Credentials {
    /// The credential for a repository, if there is one.
    pub fn find(&self, repository: &Repository) -> Result<Option<Credential>, RegistryError> {
        for file in &self.files {
            let Some(config) = read(file)? else { continue };
            if let Some(found) = self.find_in(&config, repository, file)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Returns the names of the helpers that the files name: `ecr-login` of `docker-credential-ecr-login`.
    pub fn helpers(&self) -> Result<BTreeSet<String>, RegistryError> {
        let mut helpers = BTreeSet::new();
        for file in &self.files {
            helpers.extend(read(file)?.iter().flat_map(ConfigFile::helpers).map(str::to_owned));
        }
        Ok(helpers)
    }

    fn find_in(
        &self,
        config: &ConfigFile,
        repository: &Repository,
        file: &Path,
    ) -> Result<Option<Credential>, RegistryError> {
        // What a helper keeps is nowhere else, also where it does not know the registry.
        if let Some((key, helper)) = config.helper_of(&repository.registry) {
            return self.ask(helper, key);
        }
        if let Some((key, entry)) = config.entry_of(repository)
            && let Some(found) = credential(entry)
                .map_err(|problem| RegistryError::Credentials(format!("`{key}` in {} {problem}", file.display())))?
        {
            return Ok(Some(found));
        }
        match config.store() {
            Some(helper) => self.ask(helper, &server(&repository.registry)),
            None => Ok(None),
        }
    }

    /// Asks a helper (docker-credential-helpers, "get"). One that does not know is no error.
    fn ask(&self, helper: &str, server: &str) -> Result<Option<Credential>, RegistryError> {
        let answer = match self.run(helper, "get", server.as_bytes())? {
            Ok(answer) => answer,
            Err(failed) => {
                let said = String::from_utf8_lossy(&failed.stdout).into_owned() + &failed.text();
                if said.contains("not found") {
                    return Ok(None);
                }
                let said = if said.trim().is_empty() { failed.ended.to_string() } else { said };
                return Err(RegistryError::Credentials(format!(
                    "`docker-credential-{helper}` has no answer for {server}: {}",
                    said.trim()
                )));
            }
        };
        let answer = HelperAnswer::parse(&answer).map_err(|_| {
            RegistryError::Credentials(format!("`docker-credential-{helper}` answered something that is not JSON"))
        })?;
        Ok(match (answer.username.as_str(), answer.secret.as_str()) {
            ("", "") => None,
            (TOKEN_USER, token) => Some(Credential::identity(token)),
            (user, password) => Some(Credential::password(user, password)),
        })
    }

    /// Runs a helper; the inner error is the helper's own.
    fn run(&self, helper: &str, verb: &str, input: &[u8]) -> Result<Result<Vec<u8>, Box<Failed>>, RegistryError> {
        let name = format!("docker-credential-{helper}");
        let work = Work::start(&self.reporter, &self.cancel, "ask", &name, None);
        let call = Call::new(&name, HELPER).arg(verb).input(input.to_vec());
        match call.run(&self.environment, &work) {
            Ok(answer) => Ok(Ok(answer)),
            Err(ProgramError::Failed(failed)) => Ok(Err(failed)),
            Err(ProgramError::Interrupted) => Err(RegistryError::Interrupted),
            Err(ProgramError::Io { source, .. }) => {
                Err(RegistryError::Credentials(format!("`{name}` cannot be run: {source}")))
            }
            Err(error @ ProgramError::NotFound { .. }) => {
                Err(RegistryError::Credentials(format!("the credential helper {error}")))
            }
            Err(error) => Err(RegistryError::Credentials(error.to_string())),
        }
    }

    /// Keeps a credential for a registry in the first file, or in the helper that this file names; where it went.
    pub fn store(&self, registry: &str, user: &str, password: &str) -> Result<String, RegistryError> {
        let (file, config) = self.first()?;
        let server = server(registry);
        if let Some(helper) = config.helper_of(registry).map(|(_, helper)| helper).or(config.store()) {
            let input = json!({ "ServerURL": server, "Username": user, "Secret": password }).to_string();
            if let Err(failed) = self.run(helper, "store", input.as_bytes())? {
                let said = String::from_utf8_lossy(&failed.stdout).into_owned() + &failed.text();
                let message = format!("`docker-credential-{helper}` does not keep it: {}", said.trim());
                return Err(RegistryError::Credentials(message));
            }
            return Ok(format!("`docker-credential-{helper}`"));
        }
        let auth = STANDARD.encode(format!("{user}:{password}"));
        change(file, |auths| {
            auths.insert(server, json!({ "auth": auth }));
        })?;
        Ok(file.display().to_string())
    }

    /// Forgets the credential for a registry, wherever it stands; whether there was one.
    pub fn erase(&self, registry: &str) -> Result<bool, RegistryError> {
        let mut known = false;
        for file in &self.files {
            let Some(config) = read(file)? else { continue };
            if let Some((key, helper)) = config.helper_of(registry) {
                known |= self.run(helper, "erase", key.as_bytes())?.is_ok();
            }
            if let Some(helper) = config.store() {
                known |= self.run(helper, "erase", server(registry).as_bytes())?.is_ok();
            }
            let is_its = |key: &str| host_of(key, is_legacy(file)) == plain_host(registry);
            if config.auths.keys().any(|key| is_its(key)) {
                change(file, |auths| auths.retain(|key, _| !is_its(key)))?;
                known = true;
            }
        }
        Ok(known)
    }

    fn first(&self) -> Result<(&PathBuf, ConfigFile), RegistryError> {
        let nowhere = || RegistryError::Credentials("there is no home directory to keep credentials in".into());
        let file = self.files.first().ok_or_else(nowhere)?;
        Ok((file, read(file)?.unwrap_or_default()))
    }
}

/// How a registry is called in configuration files.
fn server(registry: &str) -> String {
    if registry == "docker.io" { DOCKER_HUB_KEY.into() } else { registry.to_owned() }
}

fn read(file: &Path) -> Result<Option<ConfigFile>, RegistryError> {
    let Some(document) = document(file)? else { return Ok(None) };
    ConfigFile::of(document, is_legacy(file)).map(Some).map_err(|error| unreadable(file, &error))
}

/// Docker's file until 2015, whose members are what `auths` holds today.
fn is_legacy(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name == ".dockercfg")
}

fn document(file: &Path) -> Result<Option<Map<String, Value>>, RegistryError> {
    let text = match fs_err::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(RegistryError::Credentials(error.to_string())),
        Ok(text) => text,
    };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let document: Option<Map<String, Value>> = serde_json::from_str(&text).map_err(|error| unreadable(file, &error))?;
    Ok(document)
}

/// Finds the credential for a repository in the text of a `config.json`, without its helpers.
#[cfg(feature = "fuzzing")]
pub(super) fn in_text(text: &str, repository: &Repository) -> Result<Option<Credential>, RegistryError> {
    let file = Path::new("config.json");
    let document = serde_json::from_str(text).map_err(|error| unreadable(file, &error))?;
    let config = ConfigFile::of(document, false).map_err(|error| unreadable(file, &error))?;
    Credentials::default().find_in(&config.without_helpers(), repository, file)
}

/// Says where a file is wrong. The text of an error about a value quotes the value, which may be a secret.
fn unreadable(file: &Path, error: &serde_json::Error) -> RegistryError {
    let reason = if error.is_data() { "it is not a credential file".to_owned() } else { error.to_string() };
    RegistryError::Credentials(format!("{} cannot be read: {reason}", file.display()))
}

/// Changes the credentials of a file and leaves everything else in it; it is readable for its owner alone.
fn change(file: &Path, change: impl FnOnce(&mut Map<String, Value>)) -> Result<(), RegistryError> {
    let failed = |error: std::io::Error| RegistryError::Credentials(error.to_string());
    let mut document = document(file)?.unwrap_or_default();
    if is_legacy(file) {
        change(&mut document);
    } else {
        match document.entry("auths").or_insert(Value::Null) {
            Value::Object(auths) => change(auths),
            absent @ Value::Null => {
                let mut auths = Map::new();
                change(&mut auths);
                *absent = auths.into();
            }
            _ => return Err(RegistryError::Credentials(format!("`auths` in {} is not a table", file.display()))),
        }
    }
    let directory = file.parent().unwrap_or(Path::new("."));
    fs_err::create_dir_all(directory).map_err(failed)?;
    let mut written = AtomicFile::create_private(file).map_err(failed)?;
    let text = format!("{:#}\n", Value::Object(document));
    written.write_all(text.as_bytes()).and_then(|()| written.commit()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> (tempfile::TempDir, Credentials) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        fs_err::write(&file, text).unwrap();
        let path = directory.path().as_os_str().to_owned();
        let environment = ChildEnvironment::new([("PATH".into(), path)]);
        let credentials = Credentials { files: vec![file], environment, ..Credentials::default() };
        (directory, credentials)
    }

    fn helper(directory: &tempfile::TempDir, script: &str) {
        let path = directory.path().join("docker-credential-fake");
        let written = directory.path().join("written");
        fs_err::write(&written, format!("#!/bin/sh\n{script}")).unwrap();
        fs_err::set_permissions(&written, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert!(std::process::Command::new("cp").args([&written, &path]).status().unwrap().success());
    }

    fn find(credentials: &Credentials, repository: &str) -> Option<Credential> {
        credentials.find(&repository.parse().unwrap()).unwrap()
    }

    fn password(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::password(user, password))
    }

    #[test]
    fn the_error_about_a_file_never_quotes_the_file() {
        let documents = [
            r#""c2VjcmV0""#,
            r#"["c2VjcmV0"]"#,
            r#"{"auths": "c2VjcmV0"}"#,
            r#"{"auths": {"ghcr.io": "c2VjcmV0"}}"#,
            r#"{"auths": {"ghcr.io": {"auth": ["c2VjcmV0"]}}}"#,
            r#"{"auths": {"ghcr.io": {"auth": "c2VjcmV0"}}, "credHelpers": "c2VjcmV0"}"#,
            r#"{"auths": {"ghcr.io": {"auth": "c2VjcmV0"}}, "credsStore": 7"#,
        ];
        for document in documents {
            let (_directory, credentials) = with(document);
            let Err(error) = credentials.find(&"ghcr.io/acme/app".parse().unwrap()) else { continue };
            let error = error.to_string();
            assert!(error.contains("config.json") && !error.contains("c2VjcmV0"), "{document}: {error}");
        }
        let (_directory, credentials) = with(documents[0]);
        let error = credentials.find(&"ghcr.io/acme/app".parse().unwrap()).unwrap_err().to_string();
        assert!(error.ends_with("config.json cannot be read: it is not a credential file"), "{error}");
    }

    #[test]
    fn the_most_specific_entry_is_taken() {
        let (_directory, credentials) = with(
            r#"{"auths": {"ghcr.io": {"auth": "YTox"}, "ghcr.io/acme": {"auth": "Yjoy"}, "other.example": {},
                "https://index.docker.io/v1/": {"username": "hub", "password": "3"}}}"#,
        );
        assert_eq!(find(&credentials, "ghcr.io/x/y"), password("a", "1"));
        assert_eq!(find(&credentials, "ghcr.io/acme/y"), password("b", "2"));
        assert_eq!(find(&credentials, "python"), password("hub", "3"));
        assert_eq!(find(&credentials, "other.example/x"), None);
        assert_eq!(find(&credentials, "quay.io/x"), None);
    }

    #[test]
    fn an_identity_token_counts_more_than_a_password() {
        let (_directory, credentials) =
            with(r#"{"auths": {"r.example": {"auth": "YTox", "identitytoken": "refresh"}}}"#);
        assert_eq!(
            find(&credentials, "r.example/x"),
            Some(Credential { identity: Some("refresh".into()), ..Credential::password("a", "1") })
        );
    }

    #[test]
    fn helpers_are_asked_and_may_not_know() {
        let (directory, credentials) = with(r#"{"credsStore": "fake", "credHelpers": {"gcr.io": "fake"}}"#);
        helper(
            &directory,
            r#"read server
            case $server in
                gcr.io) echo '{"ServerURL": "gcr.io", "Username": "<token>", "Secret": "t"}' ;;
                quay.io) echo '{"ServerURL": "quay.io", "Username": "u", "Secret": "p"}' ;;
                bad.example) echo 'the keyring is locked'; exit 1 ;;
                *) echo 'credentials not found in native keychain'; exit 1 ;;
            esac"#,
        );
        assert_eq!(find(&credentials, "gcr.io/x"), Some(Credential::identity("t")));
        assert_eq!(find(&credentials, "quay.io/x"), password("u", "p"));
        assert_eq!(find(&credentials, "ghcr.io/x"), None);
        let locked = credentials.find(&"bad.example/x".parse().unwrap()).unwrap_err();
        assert_eq!(locked.to_string(), "`docker-credential-fake` has no answer for bad.example: the keyring is locked");
    }

    #[test]
    fn what_is_kept_is_found_and_forgotten_and_the_rest_of_the_file_stays() {
        use std::os::unix::fs::PermissionsExt;
        let (_directory, credentials) = with(r#"{"psFormat": "table", "auths": {"a.example": {"auth": "YTox"}}}"#);
        credentials.store("b.example:5000", "user", "pass:word").unwrap();
        credentials.store("docker.io", "hub", "x").unwrap();
        assert_eq!(find(&credentials, "b.example:5000/x"), password("user", "pass:word"));
        assert_eq!(find(&credentials, "python"), password("hub", "x"));
        assert!(credentials.erase("a.example").unwrap());
        assert!(!credentials.erase("a.example").unwrap());
        let text = fs_err::read_to_string(&credentials.files[0]).unwrap();
        assert!(
            text.contains("psFormat") && text.contains("index.docker.io/v1/") && !text.contains("a.example"),
            "{text}"
        );
        assert_eq!(fs_err::metadata(&credentials.files[0]).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        for text in ["{", r#"{"auths": 1}"#, r#"{"auths": {"a.example": {"auth": "%"}}}"#] {
            let (_directory, credentials) = with(text);
            let error = credentials.find(&"a.example/x".parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains("config.json"), "{error}");
        }
    }
}
