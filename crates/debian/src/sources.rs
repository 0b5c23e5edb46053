//! The archives that a machine's apt knows (sources.list(5)): lines of `sources.list`, and paragraphs of files `*.sources`.

use crate::control::stanzas;

/// A place of packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The address above `dists` and `pool`, without a slash at the end.
    pub uri: String,
    /// A suite, such as `bookworm-updates`.
    pub suite: String,
    /// Such as `main`; a suite that ends in a slash has none.
    pub components: Vec<String>,
}

/// Returns the places of a file of lines. What is no line of packages is left out: a file of the machine may hold anything.
pub fn lines(text: &str) -> Vec<Place> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Place> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let rest = match rest.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => rest,
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (address(words.next()?), words.next()?.to_owned());
    Some(Place { uri, suite, components: words.map(str::to_owned).collect() })
}

/// Returns the places of a file of paragraphs, without those that are switched off.
pub fn paragraphs(text: &str) -> Vec<Place> {
    let mut places = Vec::new();
    for stanza in stanzas(text).filter_map(Result::ok) {
        let words = |field: &str| -> Vec<String> {
            stanza.get(field).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
        };
        let is_off =
            stanza.get("Enabled").is_some_and(|value| matches!(value, "no" | "false" | "0" | "off" | "without"));
        if is_off || !words("Types").iter().any(|kind| kind == "deb") {
            continue;
        }
        for uri in words("URIs") {
            let place = |suite| Place { uri: address(&uri), suite, components: words("Components") };
            places.extend(words("Suites").into_iter().map(place));
        }
    }
    places
}

fn address(text: &str) -> String {
    text.trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(uri: &str, suite: &str, components: &[&str]) -> Place {
        let components = components.iter().map(|&name| name.to_owned()).collect();
        Place { uri: uri.to_owned(), suite: suite.to_owned(), components }
    }

    #[test]
    fn lines_name_an_address_a_suite_and_components() {
        let text = "# deb http://a.example/debian old main\n\
                    deb http://a.example/debian/ bookworm main contrib # not all\n\
                    deb-src http://a.example/debian bookworm main\n\
                    deb [ arch=amd64 signed-by=/x.gpg ] https://b.example/debian-security bookworm-security main\n\
                    deb\thttps://c.example/flat ./\n\
                    deb broken\n";
        assert_eq!(
            lines(text),
            [
                place("http://a.example/debian", "bookworm", &["main", "contrib"]),
                place("https://b.example/debian-security", "bookworm-security", &["main"]),
                place("https://c.example/flat", "./", &[]),
            ]
        );
    }

    #[test]
    fn paragraphs_name_several_of_each() {
        let text = "Types: deb deb-src\nURIs: http://a.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\n\
                    Types: deb\nURIs: http://b.example/\nSuites: x\nEnabled: no\n\n\
                    Types: deb-src\nURIs: http://c.example/\nSuites: x\n";
        assert_eq!(
            paragraphs(text),
            [
                place("http://a.example/debian", "bookworm", &["main"]),
                place("http://a.example/debian", "bookworm-updates", &["main"])
            ]
        );
    }
}
