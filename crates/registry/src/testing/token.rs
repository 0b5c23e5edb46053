//! Who may do what: basic credentials, and tokens after distribution's "token authentication specification".

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_testing::http::{Answer, Head, form};
use serde_json::json;

use super::errors::error;
use super::route::Route;
use super::state::State;
use super::{Auth, Request};

/// The name under which the registry asks for tokens.
const SERVICE: &str = "fake";

/// What the bearer of a token may do, and for how long.
#[derive(Debug)]
pub(super) struct Token {
    scopes: Vec<Scope>,
    /// None: never.
    expires: Option<Instant>,
}

/// `repository:<name>:<action>,<action>`; the action `*` is all of them.
#[derive(Debug)]
struct Scope {
    repository: String,
    actions: Vec<String>,
}

impl Token {
    fn is_alive(&self) -> bool {
        self.expires.is_none_or(|expires| Instant::now() < expires)
    }

    fn grants(&self, repository: &str, action: &str) -> bool {
        let allowed = |granted: &String| granted == action || granted == "*";
        self.scopes.iter().any(|scope| scope.repository == repository && scope.actions.iter().any(allowed))
    }
}

impl State {
    /// Whether a request has the credentials that it needs; if not, the challenge.
    pub(super) fn authorize(&self, head: &Head, route: &Route) -> Result<(), Answer> {
        let permitted = match &self.options.auth {
            Auth::None => true,
            Auth::Basic { user, password } => is_basic(head, user, password),
            Auth::Bearer { .. } if route.request == Request::Token => true,
            Auth::Bearer { .. } if route.repository.is_empty() => self.borne(head).is_some(),
            Auth::Bearer { .. } => {
                self.permits(head, &route.repository, if route.request.writes() { "push" } else { "pull" })
            }
        };
        if permitted { Ok(()) } else { Err(self.challenge(route)) }
    }

    /// Whether a request may do something with a repository that need not be the one of its path. Only tokens
    /// tell repositories apart.
    pub(super) fn permits(&self, head: &Head, repository: &str, action: &str) -> bool {
        match self.options.auth {
            Auth::Bearer { .. } => self.borne(head).is_some_and(|token| token.grants(repository, action)),
            Auth::None | Auth::Basic { .. } => true,
        }
    }

    /// 401 with what the client needs to try again. The scope names all that the request needs.
    pub(super) fn challenge(&self, route: &Route) -> Answer {
        let answer = error(401, "UNAUTHORIZED", "authentication required");
        if !matches!(self.options.auth, Auth::Bearer { .. }) {
            return answer.with("WWW-Authenticate", "Basic realm=\"fake\"");
        }
        if route.request == Request::Token {
            return answer;
        }
        let mut challenge = format!("Bearer realm=\"http://{}/token\",service=\"{SERVICE}\"", self.address);
        if !route.repository.is_empty() {
            let actions = if route.request.writes() { "pull,push" } else { "pull" };
            let from = route.from.as_ref().map(|from| format!(" repository:{from}:pull")).unwrap_or_default();
            challenge += &format!(",scope=\"repository:{}:{actions}{from}\"", route.repository);
        }
        answer.with("WWW-Authenticate", challenge)
    }

    /// Answers a request for a token.
    pub(super) fn grant(&mut self, head: &Head, body: &[u8]) -> Result<Answer, Answer> {
        let Auth::Bearer { user, password, anonymous_pull, identity_token } = &self.options.auth else {
            return Err(error(404, "UNSUPPORTED", "this registry issues no tokens"));
        };
        let denied = || error(401, "UNAUTHORIZED", "wrong credentials");
        let (fields, anonymous) = if head.method == "POST" {
            let fields = form(&String::from_utf8_lossy(body));
            let refreshes = value(&fields, "grant_type") == Some("refresh_token")
                && identity_token.is_some()
                && value(&fields, "refresh_token") == identity_token.as_deref();
            (refreshes.then_some(fields).ok_or_else(denied)?, false)
        } else {
            let anonymous = head.field("authorization").is_none();
            let welcome = if anonymous { *anonymous_pull } else { is_basic(head, user, password) };
            (welcome.then(|| head.query()).ok_or_else(denied)?, anonymous)
        };
        if value(&fields, "service") != Some(SERVICE) {
            return Err(error(400, "UNSUPPORTED", "the service is not that of the challenge"));
        }
        let asked = fields.iter().filter(|(name, _)| name == "scope").flat_map(|(_, scopes)| scopes.split(' '));
        let scopes = asked.filter_map(|scope| granted(scope, anonymous)).collect();
        Ok(self.issue_token(scopes))
    }

    fn issue_token(&mut self, scopes: Vec<Scope>) -> Answer {
        let seconds = self.options.token_seconds;
        let expires = Instant::now().checked_add(Duration::from_secs(seconds));
        let token = format!("fake-token-{}", self.issue());
        let answer = Answer::new(200).json(&json!({ "token": token, "access_token": token, "expires_in": seconds }));
        self.tokens.insert(token, Token { scopes, expires });
        answer
    }

    /// The token that a request bears, if it was issued and lives.
    fn borne(&self, head: &Head) -> Option<&Token> {
        self.tokens.get(credentials(head, "bearer")?).filter(|token| token.is_alive())
    }
}

/// A scope as far as it is granted.
fn granted(text: &str, anonymous: bool) -> Option<Scope> {
    let (repository, actions) = text.strip_prefix("repository:")?.rsplit_once(':')?;
    let granted = |action: &&str| !anonymous || *action == "pull";
    let actions = actions.split(',').filter(granted).map(str::to_owned).collect();
    Some(Scope { repository: repository.to_owned(), actions })
}

fn value<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
}

fn is_basic(head: &Head, user: &str, password: &str) -> bool {
    credentials(head, "basic") == Some(&STANDARD.encode(format!("{user}:{password}")))
}

/// What follows the scheme in `Authorization`.
fn credentials<'a>(head: &'a Head, scheme: &str) -> Option<&'a str> {
    let (given, credentials) = head.field("authorization")?.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then(|| credentials.trim())
}
