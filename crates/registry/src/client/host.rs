//! One registry: its address, what it asks for, and the tokens that it gave.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kiln_oci::json::{Shape, tidy};
use kiln_plan::reference::Repository;
use reqwest::header::{HeaderValue, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Client, Method, Response, StatusCode};
use serde::Deserialize;
use tokio::sync::{Mutex, OnceCell};
use url::Url;

use super::{Failure, Inner, Options, Purpose, builder};
use crate::certificates::Certificates;
use crate::challenge::Challenge;
use crate::redirect::{self, Handover, Reach, is_loopback};
use crate::{Credential, RegistryError};

/// Bytes of an answer with a token.
const TOKEN_LIMIT: u64 = 1 << 20;
/// How long a token is good where its giver does not say (distribution's "Token Authentication Specification").
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A token is renewed so long before its end, so that it does not end on its way.
const MARGIN: Duration = Duration::from_secs(10);

/// What a token must allow: repositories and actions.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Scope(BTreeMap<String, BTreeSet<&'static str>>);

impl Scope {
    /// Reading from a repository.
    pub(crate) fn pull(repository: &Repository) -> Self {
        Self::default().and(repository, &["pull"])
    }

    /// Returns true if something is to be written.
    pub(crate) fn is_push(&self) -> bool {
        self.0.values().any(|actions| actions.contains("push"))
    }

    /// Writing to a repository.
    pub(crate) fn push(repository: &Repository) -> Self {
        Self::default().and(repository, &["pull", "push"])
    }

    pub(crate) fn and(mut self, repository: &Repository, actions: &[&'static str]) -> Self {
        self.0.entry(repository.path.clone()).or_default().extend(actions);
        self
    }

    /// Whether a scope that a registry asks for is about the same, and more than this.
    fn lacks(&self, asked: &str) -> bool {
        if self.0.is_empty() {
            return !asked.is_empty();
        }
        let parts = asked.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':'));
        let Some((path, actions)) = parts else { return false };
        self.0.get(path).is_some_and(|have| !actions.split(',').all(|action| have.contains(action)))
    }

    fn texts(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(path, actions)| {
            let actions: Vec<&str> = actions.iter().copied().collect();
            format!("repository:{path}:{}", actions.join(","))
        })
    }
}

/// One registry.
#[derive(Debug)]
pub(crate) struct Host {
    /// As references write it: `ghcr.io`.
    pub(crate) name: String,
    pub(crate) client: Client,
    /// Whether it is this machine.
    local: bool,
    /// True where the user accepts plain HTTP everywhere.
    insecure: bool,
    base: OnceCell<Url>,
    credential: Option<Credential>,
    auth: Mutex<Auth>,
}

#[derive(Debug, Default)]
struct Auth {
    challenge: Option<Challenge>,
    tokens: BTreeMap<Scope, Token>,
}

#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) value: HeaderValue,
    pub(crate) until: Instant,
}

impl Host {
    pub(crate) fn new(name: &str, options: &Options, client: &Client) -> Result<Self, RegistryError> {
        let local = is_loopback(name);
        let client = Self::client(name, options, local)?.unwrap_or_else(|| client.clone());
        Ok(Self {
            name: name.to_owned(),
            client,
            local,
            insecure: options.insecure,
            base: OnceCell::new(),
            credential: None,
            auth: Mutex::default(),
        })
    }

    /// Returns a client of its own, where a registry needs one.
    fn client(name: &str, options: &Options, local: bool) -> Result<Option<Client>, RegistryError> {
        let certificates = Certificates::of(name, &options.certificates)?;
        if !local && certificates.is_empty() {
            return Ok(None);
        }
        // A proxy cannot reach this machine's own addresses.
        let plain = || if local { builder(options).no_proxy() } else { options.proxies.apply(builder(options)) };
        let alone = certificates.is_empty();
        let directory = certificates.directory();
        let built = certificates.apply(plain()).build();
        let built = match alone {
            true => built.or_else(|_| plain().tls_certs_only([]).build()),
            false => return built.map(Some).map_err(|error| Certificates::unusable(&directory, error)),
        };
        built.map(Some).map_err(|error| RegistryError::Io(std::io::Error::other(error)))
    }

    pub(crate) fn with(mut self, credential: Option<Credential>) -> Self {
        self.credential = credential;
        self
    }

    /// Returns what an address may get of what this registry gets. Before the registry's own address is known, nothing.
    fn handover(&self, url: &Url) -> Handover {
        self.base.get().map_or(Handover::Refused, |base| redirect::handover(base, url, self.insecure))
    }

    /// Fails where an address that the registry named may not be asked.
    pub(crate) fn check_address(&self, url: &Url, purpose: &Purpose) -> Result<(), RegistryError> {
        match self.handover(url) {
            Handover::Everything | Handover::WithoutCredentials => Ok(()),
            Handover::Refused => Err(purpose.diverted(redirect::origin(url), redirect::rule(url))),
        }
    }

    /// Returns an address for messages: without query, and without a path where it is not the registry's own, since either
    /// may hold a token.
    pub(crate) fn shown(&self, url: &Url) -> String {
        match self.handover(url) {
            Handover::Everything => format!("{}{}", redirect::origin(url), url.path()),
            Handover::WithoutCredentials | Handover::Refused => redirect::origin(url),
        }
    }

    /// Whether it speaks for whom this credential names.
    pub(crate) fn is_for(&self, credential: Option<&Credential>) -> bool {
        self.credential.as_ref() == credential
    }

    /// Whether it asked who one is.
    pub(crate) async fn is_guarded(&self) -> bool {
        self.auth.lock().await.challenge.is_some()
    }

    pub(crate) fn is_authenticated(&self) -> bool {
        self.credential.is_some()
    }

    /// The address of its API, found out by asking where plain HTTP is allowed.
    pub(crate) async fn base(&self, inner: &Inner, purpose: &Purpose) -> Result<Url, Failure> {
        self.base.get_or_try_init(|| self.find_base(inner, purpose)).await.cloned()
    }

    async fn find_base(&self, inner: &Inner, purpose: &Purpose) -> Result<Url, Failure> {
        let address = if self.name == "docker.io" { "registry-1.docker.io" } else { &self.name };
        let url = |scheme: &str| {
            let parsed = Url::parse(&format!("{scheme}://{address}/v2/"));
            parsed.map_err(|_| Failure::Final(purpose.unavailable("is not a host name")))
        };
        let (secure, plain) = (url("https")?, url("http")?);
        if !self.local && !self.insecure {
            return Ok(secure);
        }
        // On this machine most registries speak plain HTTP; elsewhere it is tried only where TLS is not spoken.
        let (first, second) = if self.local { (plain, secure) } else { (secure, plain) };
        let refused = match self.speaks(inner, purpose, &first).await {
            Ok(true) => return Ok(first),
            Ok(false) => None,
            Err(refused) => Some(refused),
        };
        match self.speaks(inner, purpose, &second).await {
            Ok(true) => Ok(second),
            Ok(false) => Err(refused.unwrap_or(Failure::Final(purpose.unavailable("speaks neither HTTP nor HTTPS")))),
            // Whoever understood one of the two has failed at the other.
            Err(error) => Err(refused.filter(|_| !matches!(error, Failure::Final(_))).unwrap_or(error)),
        }
    }

    /// Whether a registry that answers at an address does so in the protocol of the address.
    async fn speaks(&self, inner: &Inner, purpose: &Purpose, url: &Url) -> Result<bool, Failure> {
        let asked = inner.answer(purpose, self.client.get(url.clone()).send()).await;
        let response = asked.map_err(|failure| failure.at(&Method::GET, || url.to_string()))?;
        let location = response.headers().get(LOCATION).filter(|_| response.status().is_redirection());
        let target = location.and_then(|location| url.join(location.to_str().ok()?).ok());
        let elsewhere = target.is_some_and(|target| target.scheme() != url.scheme());
        // Go's servers answer so to plain HTTP where they speak TLS.
        let misunderstood = url.scheme() == "http" && response.status() == StatusCode::BAD_REQUEST;
        Ok(!elsewhere && !misunderstood)
    }

    /// Returns the credentials for an address, where the registry asked for any and the address is the registry's own.
    /// An address that may not be asked is an error.
    pub(crate) async fn authorization_for(
        &self,
        url: &Url,
        inner: &Inner,
        purpose: &Purpose,
    ) -> Result<Option<HeaderValue>, Failure> {
        self.check_address(url, purpose)?;
        match self.handover(url) {
            Handover::Everything => self.authorization(inner, purpose).await,
            Handover::WithoutCredentials | Handover::Refused => Ok(None),
        }
    }

    /// What to say about oneself, if the registry was ever heard to ask.
    async fn authorization(&self, inner: &Inner, purpose: &Purpose) -> Result<Option<HeaderValue>, Failure> {
        let mut auth = self.auth.lock().await;
        let (realm, service, asked) = match &auth.challenge {
            None => return Ok(None),
            Some(Challenge::Basic) => return Ok(self.basic()),
            Some(Challenge::Bearer { realm, service, scope }) => (realm.clone(), service.clone(), scope.clone()),
        };
        if let Some(token) = auth.tokens.get(&purpose.scope).filter(|token| Instant::now() + MARGIN < token.until) {
            return Ok(Some(token.value.clone()));
        }
        let mut scopes: Vec<String> = purpose.scope.texts().collect();
        // A registry may ask for more than this client knows to be needed: another action on the same repository.
        scopes.extend(
            asked
                .iter()
                .flat_map(|asked| asked.split(' '))
                .filter(|asked| purpose.scope.lacks(asked))
                .map(str::to_owned),
        );
        let token = self.token(inner, purpose, &realm, service.as_deref(), &scopes).await?;
        let value = token.value.clone();
        auth.tokens.insert(purpose.scope.clone(), token);
        Ok(Some(value))
    }

    /// Learns from an answer what the registry wants; whether asking again may help.
    pub(crate) async fn challenged(&self, response: &Response, sent: Option<&HeaderValue>) -> bool {
        // Whoever else answers, after a redirect say, has no say in where credentials go.
        if self.handover(response.url()) != Handover::Everything {
            return false;
        }
        let headers = response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let Some(challenge) = Challenge::parse(headers) else { return false };
        let mut auth = self.auth.lock().await;
        let anew = match (&challenge, sent) {
            (Challenge::Basic, Some(_)) => false,
            (Challenge::Basic, None) => self.credential.is_some(),
            (Challenge::Bearer { .. }, _) => true,
        };
        // The token was not good enough or not any more.
        auth.tokens.retain(|_, token| Some(&token.value) != sent);
        auth.challenge = Some(challenge);
        anew
    }

    /// Returns name and password as a header.
    fn basic(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Basic {}", self.credential.as_ref()?.basic()?)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    async fn token(
        &self,
        inner: &Inner,
        purpose: &Purpose,
        realm: &Url,
        service: Option<&str>,
        scopes: &[String],
    ) -> Result<Token, Failure> {
        let credential = self.credential.as_ref();
        if !self.base.get().is_some_and(|base| redirect::may_be_realm(base, realm, self.insecure)) {
            return Err(Failure::Final(purpose.diverted(redirect::origin(realm), redirect::rule(realm))));
        }
        let mut realm = realm.clone();
        // A server has no credentials to give. Neither can fail for an address with a host, which this one has.
        let _ = (realm.set_username(""), realm.set_password(None));
        let mut parameters: Vec<(&str, &str)> = service.map(|service| ("service", service)).into_iter().collect();
        let request = match credential.and_then(Credential::identity_token) {
            Some(token) => {
                let joined = scopes.join(" ");
                parameters.extend([("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", "kiln")]);
                parameters.push(("scope", &joined));
                let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&parameters).finish();
                let kind = "application/x-www-form-urlencoded";
                self.client.post(realm.clone()).header(reqwest::header::CONTENT_TYPE, kind).body(form)
            }
            None => {
                parameters.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
                let mut url = realm.clone();
                url.query_pairs_mut().extend_pairs(&parameters);
                let request = self.client.get(url);
                match self.basic() {
                    Some(value) => request.header(reqwest::header::AUTHORIZATION, value),
                    None => request,
                }
            }
        };
        let response = inner.send_request(purpose, request, Reach::Origin).await?;
        let response = match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                let problem =
                    if credential.is_some() { "does not accept the credentials" } else { "wants credentials" };
                return Err(Failure::Final(purpose.denied(problem.into(), credential.is_some())));
            }
            _ => inner.accept(purpose, response).await?,
        };
        let bytes = inner.body(purpose, response, TOKEN_LIMIT).await?;
        read_token(&bytes)
            .ok_or_else(|| Failure::Again(purpose.nonsense("to the request for a token holds none"), None))
    }
}

pub(crate) fn read_token(bytes: &[u8]) -> Option<Token> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Answer {
        token: String,
        access_token: String,
        expires_in: Option<u64>,
    }
    const SHAPE: Shape =
        Shape::Object(&[("token", Shape::Text), ("access_token", Shape::Text), ("expires_in", Shape::Number)]);
    let mut answer = serde_json::from_slice(bytes).ok()?;
    tidy(&mut answer, &SHAPE);
    let answer: Answer = serde_json::from_value(answer).ok()?;
    let token = [answer.token, answer.access_token].into_iter().find(|token| !token.is_empty())?;
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    let life = answer.expires_in.map_or(DEFAULT_LIFE, |seconds| Duration::from_secs(seconds.min(86_400)));
    Some(Token { value, until: Instant::now() + life.max(MARGIN * 2) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_under_either_name() {
        for (answer, expected) in [
            (r#"{"token": "a"}"#, Some("Bearer a")),
            (r#"{"access_token": "b", "token": ""}"#, Some("Bearer b")),
            (r#"{"access_token": "b", "token": null, "expires_in": null}"#, Some("Bearer b")),
            (r#"{"Token": "a", "access_token": "b", "expires_in": -1}"#, Some("Bearer a")),
            (r#"{"token": "", "access_token": ""}"#, None),
            ("{}", None),
            ("null", None),
        ] {
            let found = read_token(answer.as_bytes()).map(|token| token.value.to_str().unwrap().to_owned());
            assert_eq!(found.as_deref(), expected, "{answer}");
        }
    }

    #[test]
    fn a_scope_names_repositories_and_actions() {
        let (a, b) = ("ghcr.io/a/b".parse().unwrap(), "ghcr.io/c".parse().unwrap());
        let scope = Scope::push(&a).and(&b, &["pull"]);
        let texts: Vec<String> = scope.texts().collect();
        assert_eq!(texts, ["repository:a/b:pull,push", "repository:c:pull"]);
    }
}
