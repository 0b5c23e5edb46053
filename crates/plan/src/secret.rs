//! Passwords and tokens in addresses, kept out of everything that is printed or written down.
//!
//! They are replaced before an address is parsed: with an unescaped `/` or `#` in a password an address means another
//! host or none at all, and what a parser takes for host and path is the password then. So everything up to the last `@`
//! counts as the user information, unless it can only be the path of an ordinary host. Rather a host is hidden than a
//! password shown.

use std::borrow::Cow;
use std::ops::Range;

use toml::de::{DeTable, DeValue};
use url::Url;

/// The replacement.
const HIDDEN: &str = "****";
/// Shorter secrets cannot be told from other text.
const SHORTEST: usize = 3;

/// Returns an address, or a requirement with one, without its user information.
pub fn redact_address(address: &str) -> Cow<'_, str> {
    replaced(address, &secrets(address, |_| false), |_| HIDDEN.into())
}

/// Returns text without the user information of every address in it, as far as an address reaches: to a space, a quote
/// or a line break.
pub fn redact_text(text: &str) -> Cow<'_, str> {
    let ends = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '`' | '<' | '>');
    replaced(text, &secrets(text, ends), |_| HIDDEN.into())
}

/// Returns the text of a stack file with stars in the place of every secret byte, so that all places stay.
pub fn redact_source(text: &str) -> Cow<'_, str> {
    let mut found = Vec::new();
    match DeTable::parse(text) {
        Ok(document) => in_table(document.get_ref(), text, &mut found),
        Err(_) => found = secrets(text, |c| c == '\n'),
    }
    found.sort_by_key(|range| range.start);
    replaced(text, &found, |range| "*".repeat(range.len()))
}

fn in_table(table: &DeTable<'_>, text: &str, found: &mut Vec<Range<usize>>) {
    for (_, value) in table {
        in_value(value.get_ref(), value.span(), text, found);
    }
}

fn in_value(value: &DeValue<'_>, span: Range<usize>, text: &str, found: &mut Vec<Range<usize>>) {
    match value {
        DeValue::Table(table) => in_table(table, text, found),
        DeValue::Array(values) => {
            for value in values {
                in_value(value.get_ref(), value.span(), text, found);
            }
        }
        DeValue::String(meant) if !secrets(meant, |_| false).is_empty() => {
            // Escapes may hide what stands there; then all of it is hidden.
            let written = secrets(text.get(span.clone()).unwrap_or_default(), |_| false);
            match written.as_slice() {
                [] => found.push(span),
                ranges => found.extend(ranges.iter().map(|range| span.start + range.start..span.start + range.end)),
            }
        }
        _ => {}
    }
}

/// Secrets that are known, to be hidden in the output of a program that got them: it may print them in any form.
#[derive(Clone, Default)]
pub struct Secrets(Vec<String>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

impl Secrets {
    /// Collects the secrets of addresses, as written, as they are parsed, escaped and unescaped.
    pub fn of<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Self {
        let mut forms = Vec::new();
        for address in addresses {
            for range in secrets(address, |_| false) {
                add_forms(&address[range], &mut forms);
            }
            if let Ok(parsed) = address.parse::<Url>() {
                for range in secrets(parsed.as_str(), |_| false) {
                    add_forms(&parsed.as_str()[range], &mut forms);
                }
            }
        }
        forms.retain(|form| form.len() >= SHORTEST);
        // A secret may be part of another one.
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        forms.dedup();
        Self(forms)
    }

    /// Collects the secrets of every address in a stack file.
    pub fn of_source(text: &str) -> Self {
        let mut strings = Vec::new();
        if let Ok(document) = DeTable::parse(text) {
            strings_of(document.get_ref().values().map(toml::Spanned::get_ref), &mut strings);
        }
        Self::of(strings.iter().map(String::as_str))
    }

    /// Returns text without these secrets, and without the user information of any address.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.0.iter().filter(|secret| secret.as_str() != HIDDEN) {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), HIDDEN);
            }
        }
        redact_text(&text).into_owned()
    }
}

fn strings_of<'v, 'd: 'v>(values: impl Iterator<Item = &'v DeValue<'d>>, strings: &mut Vec<String>) {
    for value in values {
        match value {
            DeValue::Table(table) => strings_of(table.values().map(toml::Spanned::get_ref), strings),
            DeValue::Array(values) => strings_of(values.iter().map(toml::Spanned::get_ref), strings),
            DeValue::String(text) => strings.push(text.clone().into_owned()),
            _ => {}
        }
    }
}

/// Adds the ways in which a program may write the secret of `USER:PASSWORD` or `TOKEN`.
fn add_forms(user_information: &str, forms: &mut Vec<String>) {
    let secret = user_information.split_once(':').map_or(user_information, |(_, password)| password);
    let decoded = percent_decoded(secret);
    for form in [secret, &decoded, &percent_encoded(&decoded), &percent_encoded(secret)] {
        let quoted = [format!("{form:?}"), toml::Value::String(form.to_owned()).to_string()];
        forms.extend(quoted.iter().filter_map(|quoted| Some(quoted.get(1..quoted.len() - 1)?.to_owned())));
        forms.extend([form.to_owned(), form.trim().to_owned()]);
    }
}

fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// Returns text with percent-encoded bytes decoded (RFC 3986); what is no encoding stays.
pub fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| byte == b'%') {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn replaced<'t>(text: &'t str, ranges: &[Range<usize>], by: impl Fn(&Range<usize>) -> String) -> Cow<'t, str> {
    if ranges.is_empty() {
        return Cow::Borrowed(text);
    }
    let (mut out, mut from) = (String::with_capacity(text.len()), 0);
    for range in ranges {
        out.push_str(&text[from..range.start]);
        out.push_str(&by(range));
        from = range.end;
    }
    out.push_str(&text[from..]);
    Cow::Owned(out)
}

/// Returns the places of the user information of every address in a text. `ends`: no address goes on after this character.
fn secrets(text: &str, ends: impl Fn(char) -> bool) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    let (mut from, mut end, mut last) = (0, 0, None);
    while let Some(start) = address_start(text, from) {
        // Addresses may stand side by side by the million: where they end is looked for once.
        if start >= end {
            end = text[start..].find(&ends).map_or(text.len(), |length| start + length);
            last = text[start..end].rfind('@').map(|at| start + at);
        }
        let Some(last) = last.filter(|last| *last >= start) else {
            from = end.max(start);
            continue;
        };
        // An address that stands within another one is part of its secret.
        from = match is_user_information(&text[start..end]) {
            true => {
                found.push(start..last);
                last
            }
            false => start,
        };
    }
    found
}

/// Returns where the next address begins after its scheme: `NAME://`, and `http:` with any number of slashes, as parsers
/// take it.
fn address_start(text: &str, from: usize) -> Option<usize> {
    let of_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    text[from..].match_indices(':').find_map(|(at, _)| {
        let colon = from + at;
        let name = &text[from..colon];
        let name = &name[name.trim_end_matches(of_scheme).len()..];
        let rest = &text[colon + 1..];
        let slashes = rest.len() - rest.trim_start_matches(['/', '\\']).len();
        let web = ["http", "https"].iter().any(|scheme| name.eq_ignore_ascii_case(scheme));
        let begins = !name.is_empty() && (rest.starts_with("//") || web);
        begins.then(|| colon + 1 + if web { slashes } else { 2 })
    })
}

/// Returns true where an address, its scheme left out, begins with user information rather than with a host. It holds an
/// `@`.
fn is_user_information(rest: &str) -> bool {
    let authority = &rest[..rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len())];
    // `github.com/a/b@main` is a path, `user:pass/word@host` is not, and a token has no dot that a host would have.
    let host = !authority.contains(['@', ':']) && (authority.contains('.') || authority == "localhost");
    !host && !authority.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn user_information_is_hidden_and_nothing_else() {
        for (address, shown) in [
            ("https://user:secret@a.example/simple", "https://****@a.example/simple"),
            ("https://user:se/cr#et@a.example/simple", "https://****@a.example/simple"),
            ("https://user:se?cr@et@a.example/simple", "https://****@a.example/simple"),
            ("https://user:12/secret@a.example/simple", "https://****@a.example/simple"),
            ("https://secret@a.example/simple", "https://****@a.example/simple"),
            ("https://sec/ret@a.example/simple", "https://****@a.example/simple"),
            ("https://:secret@a.example/simple", "https://****@a.example/simple"),
            ("HTTPS:user:secret@a.example", "HTTPS:****@a.example"),
            ("https:/user:secret@a.example", "https:/****@a.example"),
            ("https:\\\\user:secret@a.example", "https:\\\\****@a.example"),
            ("https://user:x://secret@a.example", "https://****@a.example"),
            ("https://user:pass word\"'`<secret@a.example", "https://****@a.example"),
            ("git+https://user:secret@a.example/b@main", "git+https://****@main"),
            ("a @ https://user:secret@a.example/a.whl", "a @ https://****@a.example/a.whl"),
            ("a @ https://a.example/a@1.whl", "a @ https://a.example/a@1.whl"),
            ("git+https://a.example/b@main", "git+https://a.example/b@main"),
            ("https://a.example:8080/simple", "https://a.example:8080/simple"),
            ("http://localhost/a@b", "http://localhost/a@b"),
            ("file:///home/me@work/x", "file:///home/me@work/x"),
            ("wheels@home", "wheels@home"),
            ("someone@example.org", "someone@example.org"),
        ] {
            assert_eq!(redact_address(address), shown);
        }
    }

    #[test]
    fn text_keeps_what_is_around_addresses() {
        for (text, shown) in [
            (
                "Failed: `https://u:s/#x@a.example/six/` for six @ me",
                "Failed: `https://****@a.example/six/` for six @ me",
            ),
            ("https://a.example:1/x and me@a.example", "https://a.example:1/x and me@a.example"),
            ("\"https://u:s@a\", \"https://v:t@b\"", "\"https://****@a\", \"https://****@b\""),
            ("error: https: no @", "error: https: no @"),
        ] {
            assert_eq!(redact_text(text), shown);
        }
    }

    #[test]
    fn text_of_any_kind_takes_time_in_proportion_to_its_length() {
        for part in ["a://", "http:", "http://a.b/", "http://a.b/ ", "://", ":", "@", "http://a:b@c/", "/"] {
            let text = part.repeat(100_000 / part.len());
            for text in [text.clone() + "@", format!("@{text}"), text] {
                let _ = (redact_address(&text), redact_text(&text));
            }
        }
    }

    #[test]
    fn a_stack_file_keeps_its_places() {
        let text = "[index]\ndefault = \"https://u:p\\\"ä/x@a.example/s\"\nextra = [\"http://b\", 'http://c:d@e']\n";
        let expected = text.replace("u:p\\\"ä/x", "*********").replace("c:d", "***");
        assert_eq!(redact_source(text), expected);
        let escaped = "x = \"https://u:p\\u0040a.example\"\n";
        assert_eq!(redact_source(escaped), format!("x = {}\n", "*".repeat(escaped.len() - 5)));
        assert_eq!(redact_source("x = \"https://u:p/x@a\ny = 1\n"), "x = \"https://*****@a\ny = 1\n");
    }

    #[test]
    fn a_known_secret_is_found_in_every_form() {
        let secrets = Secrets::of(["https://user:pa%2Fss word\"@a.example/simple"]);
        for form in ["pa%2Fss word\"", "pa/ss word\"", "pa%2Fss%20word%22", "pa/ss word\\\"", "pa%252Fss%20word%22"] {
            assert_eq!(secrets.redact(&format!("uv says {form}.")), "uv says ****.", "{form}");
        }
    }

    fn escaped(password: &str) -> String {
        percent_encoded(password)
    }

    proptest! {
        /// Whatever the password is, and wherever the address is shown.
        #[test]
        fn no_password_is_shown(password in "\\PC{3,24}|[!-~]{3,24}|[a-z:/@#?\\[\\]%]{3,12}", dressed in any::<bool>()) {
            let written = if dressed { escaped(&password) } else { password.clone() };
            let address = format!("https://uu:{written}@h/ii");
            let shows = |text: &str| {
                // What is shown of the rest may look like a part of the password.
                let rest = text.replace(HIDDEN, "\u{0}").replace("@h/ii", "\u{0}").replace("https://", "\u{0}");
                rest.contains(&password) || rest.contains(&written)
            };
            prop_assert!(!shows(&redact_address(&address)), "{}", redact_address(&address));
            let source = format!("default = {}", toml::Value::String(address.clone()));
            let masked = redact_source(&source).replace("*", "\u{0}").replace("default = ", "");
            prop_assert!(!shows(&masked), "{}", masked);
            let secrets = Secrets::of([address.as_str()]);
            let mut said = vec![address.clone(), format!("{address:?}")];
            said.extend(address.parse::<Url>().map(String::from));
            for said in said {
                prop_assert!(!shows(&secrets.redact(&said)), "{}", secrets.redact(&said));
            }
            prop_assert!(!shows(&secrets.redact(&written)), "{}", secrets.redact(&written));
        }

        #[test]
        fn no_text_makes_it_panic(text in "(https?:|//|@|[a-zä:/@#?. \"\\n]){0,40}") {
            let _ = (redact_address(&text), redact_text(&text));
            prop_assert_eq!(redact_source(&text).len(), text.len());
        }
    }
}
