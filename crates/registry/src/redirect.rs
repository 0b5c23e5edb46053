//! Redirects, and every other address that a server names for the next request.
//!
//! Credentials are given to one origin: scheme, host and port (RFC 6454). A server that names another address decides
//! where the next request goes, so that address gets the content of the request and never a credential; from HTTPS to
//! plain HTTP nothing goes at all. [`handover`] is the only place that decides this. The HTTP library follows no
//! redirect by itself: it does not compare schemes, repeats the bodies of `POST` and sends a `Referer`.

use std::net::IpAddr;

use reqwest::header::{AUTHORIZATION, COOKIE, LOCATION, PROXY_AUTHORIZATION};
use reqwest::{Client, Method, Request, Response, StatusCode};
use url::Url;

/// Redirects that are followed one after the other.
const MOST: usize = 10;

/// The part of a request that another address may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// The same origin: everything.
    Everything,
    /// Another origin: everything but credentials.
    WithoutCredentials,
    /// Plain HTTP after HTTPS, or another protocol: nothing.
    Refused,
}

/// Returns the part of a request for `from` that may go to `to`. `insecure`: the user accepts plain HTTP everywhere,
/// but credentials stay where they are.
pub fn handover(from: &Url, to: &Url, insecure: bool) -> Handover {
    match to.scheme() {
        "https" | "http" if from.origin() == to.origin() => Handover::Everything,
        "https" => Handover::WithoutCredentials,
        "http" if from.scheme() == "http" || insecure => Handover::WithoutCredentials,
        _ => Handover::Refused,
    }
}

/// Returns true for an address at which a registry may have tokens asked for, with credentials (distribution's "Token
/// Authentication Specification"). Another host is normal. Plain HTTP is allowed where the registry speaks it too, and
/// then on this machine or where the user accepts it everywhere.
pub fn may_be_realm(registry: &Url, realm: &Url, insecure: bool) -> bool {
    let here = |url: &Url| url.host_str().is_some_and(is_loopback);
    match (registry.scheme(), realm.scheme()) {
        (_, "https") => true,
        ("http", "http") => insecure || (here(registry) && here(realm)),
        _ => false,
    }
}

/// The origins to which redirects of a request may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Anywhere, without credentials.
    Anywhere,
    /// Only within the origin: the request is about credentials, and its body may hold them.
    Origin,
}

/// A request that got no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The request failed.
    #[error(transparent)]
    Request(#[from] reqwest::Error),
    /// The server redirects to where the request may not go.
    #[error("redirects to {to}, {rule}")]
    Redirect {
        /// The origin of the address; the rest may hold a token.
        to: String,
        /// The rule that forbids it.
        rule: Rule,
    },
}

/// A rule about redirects. Its text is a clause about the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// From an encrypted connection to none.
    #[error("which is not encrypted")]
    Encryption,
    /// To another scheme than HTTP and HTTPS.
    #[error("which is not HTTP")]
    Scheme,
    /// With credentials to another origin.
    #[error("and credentials do not follow there")]
    Credentials,
    /// Too many in a row.
    #[error("after too many other redirects")]
    Count,
}

/// Sends a request with a client that follows no redirect by itself, and follows those that are allowed. `GET` and
/// `HEAD` are repeated at the new address; of the others only those that are answered with 307 or 308 and whose body
/// can be sent again. Any other redirect is the answer.
pub async fn send(client: &Client, request: Request, reach: Reach, insecure: bool) -> Result<Response, SendError> {
    let mut request = request;
    for _ in 0..MOST {
        let again = request.try_clone();
        let response = client.execute(request).await?;
        let Some((to, next)) = target(&response).zip(again.filter(|next| is_repeatable(next, response.status())))
        else {
            return Ok(response);
        };
        request = redirected(next, to, reach, insecure)?;
    }
    Err(SendError::Redirect { to: origin(request.url()), rule: Rule::Count })
}

/// Returns the address that a redirect names.
fn target(response: &Response) -> Option<Url> {
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    response.url().join(location).ok()
}

fn is_repeatable(request: &Request, status: StatusCode) -> bool {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match status.as_u16() {
        301..=303 => reads,
        307 | 308 => true,
        _ => false,
    }
}

/// Returns the request for the new address, with what it may get.
fn redirected(mut request: Request, mut to: Url, reach: Reach, insecure: bool) -> Result<Request, SendError> {
    let refused = |rule| SendError::Redirect { to: origin(&to), rule };
    match (handover(request.url(), &to, insecure), reach) {
        (Handover::Everything, _) => {}
        (Handover::WithoutCredentials, Reach::Anywhere) => {
            for header in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION] {
                request.headers_mut().remove(header);
            }
        }
        (Handover::WithoutCredentials, Reach::Origin) => return Err(refused(Rule::Credentials)),
        (Handover::Refused, _) => return Err(refused(rule(&to))),
    }
    // A server has no credentials to give. Neither can fail for an address with a host, which this one has.
    let _ = (to.set_username(""), to.set_password(None));
    *request.url_mut() = to;
    Ok(request)
}

/// Returns the rule that an address breaks to which nothing may go.
pub fn rule(to: &Url) -> Rule {
    if to.scheme() == "http" { Rule::Encryption } else { Rule::Scheme }
}

/// Returns scheme, host and port of an address, for messages.
pub fn origin(url: &Url) -> String {
    match url.origin() {
        origin if origin.is_tuple() => origin.ascii_serialization(),
        _ => format!("{}:", url.scheme()),
    }
}

/// Returns true for names of this machine, with or without a port.
pub(crate) fn is_loopback(name: &str) -> bool {
    let host = match name.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => name,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.ends_with(".localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(from: &str, to: &str) -> [Handover; 2] {
        [false, true].map(|insecure| handover(&from.parse().unwrap(), &to.parse().unwrap(), insecure))
    }

    #[test]
    fn credentials_stay_within_scheme_host_and_port() {
        use Handover::{Everything, Refused, WithoutCredentials};
        for (from, to, expected) in [
            ("https://a.example/x", "https://a.example/y", [Everything; 2]),
            ("https://a.example/x", "https://a.example:443/y", [Everything; 2]),
            ("https://a.example/x", "https://A.EXAMPLE/y", [Everything; 2]),
            ("https://a.example:5000/x", "https://a.example:5000/y", [Everything; 2]),
            ("http://a.example/x", "http://a.example:80/y", [Everything; 2]),
            ("http://[::1]:5000/", "http://[::1]:5000/y", [Everything; 2]),
            ("https://a.example/x", "https://b.example/x", [WithoutCredentials; 2]),
            ("https://a.example/x", "https://sub.a.example/x", [WithoutCredentials; 2]),
            ("https://sub.a.example/x", "https://a.example/x", [WithoutCredentials; 2]),
            ("https://a.example/x", "https://a.example./x", [WithoutCredentials; 2]),
            ("https://a.example/x", "https://a.example:444/x", [WithoutCredentials; 2]),
            ("https://a.example/x", "https://a.example@b.example/x", [WithoutCredentials; 2]),
            ("http://a.example/x", "https://a.example/x", [WithoutCredentials; 2]),
            ("http://a.example:5000/x", "https://a.example:5000/x", [WithoutCredentials; 2]),
            ("http://a.example/x", "http://b.example/x", [WithoutCredentials; 2]),
            ("http://127.0.0.1:1/x", "http://127.0.0.1:2/x", [WithoutCredentials; 2]),
            ("http://localhost:1/x", "http://127.0.0.1:1/x", [WithoutCredentials; 2]),
            ("https://a.example/x", "http://a.example/x", [Refused, WithoutCredentials]),
            ("https://a.example:5000/x", "http://a.example:5000/x", [Refused, WithoutCredentials]),
            ("https://a.example/x", "http://127.0.0.1/x", [Refused, WithoutCredentials]),
            ("https://a.example/x", "ftp://a.example/x", [Refused; 2]),
            ("http://a.example/x", "file:///etc/passwd", [Refused; 2]),
            ("file:///x", "file:///x", [Refused; 2]),
            ("http://a.example/x", "data:,x", [Refused; 2]),
        ] {
            assert_eq!(decided(from, to), expected, "{from} to {to}");
        }
    }

    #[test]
    fn tokens_are_asked_for_over_https_unless_the_registry_speaks_http() {
        for (registry, realm, expected) in [
            ("https://a.example/v2/", "https://a.example/token", [true; 2]),
            ("https://a.example/v2/", "https://auth.example/token", [true; 2]),
            ("http://a.example/v2/", "https://auth.example/token", [true; 2]),
            ("https://a.example/v2/", "http://a.example/token", [false; 2]),
            ("https://a.example/v2/", "http://auth.example/token", [false; 2]),
            ("https://a.example/v2/", "http://127.0.0.1:5000/token", [false; 2]),
            ("https://localhost/v2/", "http://localhost/token", [false; 2]),
            ("http://127.0.0.1:5000/v2/", "http://localhost:5001/token", [true; 2]),
            ("http://[::1]:5000/v2/", "http://127.0.0.1:5001/token", [true; 2]),
            ("http://127.0.0.1:5000/v2/", "http://auth.example/token", [false, true]),
            ("http://a.example/v2/", "http://auth.example/token", [false, true]),
            ("http://a.example/v2/", "http://127.0.0.1/token", [false, true]),
            ("http://a.example/v2/", "ftp://a.example/token", [false; 2]),
            ("http://a.example/v2/", "file:///token", [false; 2]),
        ] {
            let (base, realm_url) = (registry.parse().unwrap(), realm.parse().unwrap());
            let found = [false, true].map(|insecure| may_be_realm(&base, &realm_url, insecure));
            assert_eq!(found, expected, "{registry} and {realm}");
        }
    }

    fn request(method: Method, url: &str) -> Request {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().tls_certs_only([]).build().unwrap();
        let request = client.request(method, url).header(COOKIE, "c").header("accept", "x");
        request.basic_auth("user", Some("password")).build().unwrap()
    }

    #[test]
    fn a_redirected_request_keeps_no_credential_in_another_origin() {
        let from = "https://a.example/x";
        let go = |to: &str, reach| redirected(request(Method::GET, from), to.parse().unwrap(), reach, false);
        let within = go("https://a.example/y", Reach::Anywhere).unwrap();
        assert!(within.headers().contains_key(AUTHORIZATION));
        let beyond = go("https://u:p@b.example/y?sig=z", Reach::Anywhere).unwrap();
        assert_eq!(beyond.url().as_str(), "https://b.example/y?sig=z");
        let left: Vec<&str> = beyond.headers().keys().map(|name| name.as_str()).collect();
        assert_eq!(left, ["accept"]);
        let problem = |to, reach| go(to, reach).unwrap_err().to_string();
        assert_eq!(
            problem("http://a.example/y?sig=z", Reach::Anywhere),
            "redirects to http://a.example, which is not encrypted"
        );
        assert_eq!(
            problem("https://b.example/y?sig=z", Reach::Origin),
            "redirects to https://b.example, and credentials do not follow there"
        );
        assert_eq!(problem("file:///etc/passwd", Reach::Anywhere), "redirects to file:, which is not HTTP");
    }

    #[test]
    fn only_what_changes_nothing_is_repeated_after_any_redirect() {
        for (method, statuses) in [
            (Method::GET, vec![301, 302, 303, 307, 308]),
            (Method::HEAD, vec![301, 302, 303, 307, 308]),
            (Method::POST, vec![307, 308]),
            (Method::PUT, vec![307, 308]),
            (Method::PATCH, vec![307, 308]),
            (Method::DELETE, vec![307, 308]),
        ] {
            let request = request(method.clone(), "https://a.example/");
            let repeated = |status: &u16| is_repeatable(&request, StatusCode::from_u16(*status).unwrap());
            assert_eq!((200..600).filter(repeated).collect::<Vec<u16>>(), statuses, "{method}");
        }
    }

    #[test]
    fn this_machine_is_known_by_all_its_names() {
        for name in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000", "a.localhost:1"] {
            assert!(is_loopback(name), "{name}");
        }
        for name in ["ghcr.io", "localhost.example", "10.0.0.1:5000", "[fe80::1]:5000"] {
            assert!(!is_loopback(name), "{name}");
        }
    }
}
