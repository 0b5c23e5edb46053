//! What a registry asks for: the `WWW-Authenticate` header (RFC 9110, section 11.6.1).

use std::collections::BTreeMap;

use url::Url;

/// How to say who one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// With a name and a password in every request.
    Basic,
    /// With a token that another service gives (distribution's "Token Authentication Specification").
    Bearer {
        /// That service.
        realm: Url,
        /// What the registry is called there.
        service: Option<String>,
        /// What the token must allow, as the registry sees it.
        scope: Option<String>,
    },
}

impl Challenge {
    /// The best that a header offers; nothing if none of it is known here.
    pub(super) fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let offered: Vec<(String, BTreeMap<String, String>)> = headers.flat_map(challenges).collect();
        let bearer = offered.iter().filter(|(scheme, _)| scheme == "bearer").find_map(|(_, parameters)| {
            Some(Self::Bearer {
                realm: parameters.get("realm")?.parse().ok()?,
                service: parameters.get("service").cloned(),
                scope: parameters.get("scope").cloned(),
            })
        });
        bearer.or_else(|| offered.iter().any(|(scheme, _)| scheme == "basic").then_some(Self::Basic))
    }
}

/// Every challenge of one header: scheme in lower case, and parameters.
fn challenges(header: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    for item in items(header) {
        let (name, value) = match item.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim())),
            None => (item.trim(), None),
        };
        // The first parameter of a challenge follows its scheme after a space.
        let parameter = match name.rsplit_once(' ') {
            Some((scheme, parameter)) => {
                found.push((scheme.trim().to_ascii_lowercase(), BTreeMap::new()));
                parameter
            }
            None if value.is_none() => {
                found.push((name.to_ascii_lowercase(), BTreeMap::new()));
                continue;
            }
            None => name,
        };
        if let (Some((_, parameters)), Some(value)) = (found.last_mut(), value) {
            parameters.insert(parameter.to_ascii_lowercase(), unquote(value));
        }
    }
    found
}

/// The parts between commas that do not stand in quotes.
fn items(header: &str) -> Vec<&str> {
    let (mut items, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in header.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                items.push(&header[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items.push(&header[start..]);
    items.into_iter().map(str::trim).filter(|item| !item.is_empty()).collect()
}

fn unquote(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) else {
        return value.to_owned();
    };
    let mut text = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(c) = characters.next() {
        text.extend(if c == '\\' { characters.next() } else { Some(c) });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(header: &str) -> Option<Challenge> {
        Challenge::parse(std::iter::once(header))
    }

    #[test]
    fn a_bearer_challenge_says_where_tokens_are() {
        let header =
            r#"Bearer realm="https://auth.example/token?a=b,c",service="r.example",scope="repository:a/b:pull,push""#;
        assert_eq!(
            parse(header),
            Some(Challenge::Bearer {
                realm: "https://auth.example/token?a=b,c".parse().unwrap(),
                service: Some("r.example".into()),
                scope: Some("repository:a/b:pull,push".into()),
            })
        );
    }

    #[test]
    fn basic_is_taken_where_nothing_better_is_offered() {
        assert_eq!(parse(r#"Basic realm="Registry, \"mine\"""#), Some(Challenge::Basic));
        assert_eq!(parse("basic"), Some(Challenge::Basic));
        assert!(matches!(
            parse(r#"Basic realm="x", Bearer realm="https://a.example/t""#),
            Some(Challenge::Bearer { .. })
        ));
    }

    #[test]
    fn what_makes_no_sense_offers_nothing() {
        for header in ["", "Negotiate abc", "Bearer realm=\"not a url\"", "Bearer", "=,=,\"", "Digest a=\"\\"] {
            assert_eq!(parse(header), None, "{header}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_it_panic(header in "[ -~\\\\\"é,= ]{0,60}") {
            let _ = parse(&header);
        }
    }
}
