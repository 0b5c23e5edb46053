//! uv's words in the words of a stack file: what it warns of, why it found no answer, and what it advises.
//!
//! uv tells of packages without a fitting wheel one at a time, and advises options of its own command line.

use super::UvError;

/// A package of which no wheel fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// Its normalised name.
    pub name: String,
    /// The versions that are asked for, such as `==4.9.3`; empty for all that there are.
    pub versions: String,
    /// The reason, a clause: which wheels it has, where uv tells.
    pub reason: Option<String>,
    /// uv's explanation: it names the requirements that lead to the package.
    pub explanation: String,
}

impl Blocker {
    /// Returns the reason, or all that is known of it.
    pub fn told(&self) -> &str {
        self.reason.as_deref().unwrap_or("it has wheels for other systems alone, or only its source")
    }

    /// Returns a version that is asked for, if one can be told.
    pub(super) fn version(&self) -> Option<&str> {
        version_in(&self.versions).or_else(|| {
            // `all versions of x have no usable wheels and you require x>=2`
            let asked = self.explanation.split_whitespace().filter_map(|word| word.strip_prefix(self.name.as_str()));
            asked.filter(|rest| rest.starts_with(OPERATORS)).find_map(version_in)
        })
    }
}

const OPERATORS: [char; 5] = ['=', '<', '>', '~', '!'];

/// The last version that a specifier allows; the first where it has no end.
fn version_in(specifiers: &str) -> Option<&str> {
    let all = || specifiers.split(',').map(|one| one.trim_end_matches(['.', '*', ',']));
    let last = all().find(|one| one.starts_with("==") || one.starts_with("<="));
    let version = last.or_else(|| all().find(|one| one.starts_with(OPERATORS)))?.trim_start_matches(OPERATORS);
    version.parse::<pep440_rs::Version>().ok().map(|_| version)
}

/// The phrases by which uv tells that no wheel fits.
const NO_WHEEL: [&str; 4] = [
    " has no usable wheels",
    " have no usable wheels",
    " has no wheels with a matching",
    " have no wheels with a matching",
];

/// Finds the packages of which no wheel fits in an explanation with its hints.
pub(super) fn blockers(explanation: &str) -> Vec<Blocker> {
    let mut found: Vec<Blocker> = Vec::new();
    let phrases = NO_WHEEL.iter().flat_map(|phrase| explanation.match_indices(phrase));
    for (at, _) in phrases {
        let Some(word) = explanation[..at].split_whitespace().next_back() else { continue };
        let end = word.find(|c| OPERATORS.contains(&c)).unwrap_or(word.len());
        let Some(name) = word[..end].split('[').next().and_then(crate::name_of) else { continue };
        if found.iter().any(|known| known.name == name.as_ref()) {
            continue;
        }
        let has = |line: &&str| line.starts_with(HAS_WHEELS) && line.contains(&format!("`{name}`"));
        let reason = explanation.lines().find(has).map(str::to_owned);
        let (name, versions) = (name.to_string(), word[end..].to_owned());
        found.push(Blocker { name, versions, reason, explanation: explanation.to_owned() });
    }
    found
}

const HAS_WHEELS: &str = "there are wheels of";

/// Returns the warnings among uv's lines.
pub(super) fn warnings(lines: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for line in lines.iter().filter_map(|line| line.trim().strip_prefix("warning: ")) {
        let warning = warning(line);
        if !found.contains(&warning) {
            found.push(warning);
        }
    }
    found
}

fn warning(line: &str) -> String {
    let quoted: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
    match quoted.as_slice() {
        [package, extra] if line.contains("does not have an extra named") => {
            format!("`{package}` has no extra `{extra}`: nothing is installed for it")
        }
        [file] if line.contains("is missing an upload date") => {
            format!("`{file}` is left out: its index does not tell when it was uploaded, and `exclude-newer` is given")
        }
        _ => of_image(line),
    }
}

fn of_image(text: &str) -> String {
    text.replace("`kiln-image`", "this image").replace("kiln-image", "this image")
}

/// The phrase by which uv tells that requirements name several files for one package.
const CONFLICTING: &str = "Requirements contain conflicting URLs for package `";

/// Returns uv's explanation without what only concerns its own command line, and with its advice for a stack file.
pub(crate) fn explain(stderr: &str) -> UvError {
    let unreachable = ["Failed to fetch", "error sending request", "Network connectivity is disabled", "dns error"];
    let lines: Vec<&str> = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("hint:") && !line.starts_with("warning:"))
        .collect();
    let text = of_image(&lines.join(" "));
    let text = text.trim_start_matches("error: ").to_owned();
    if let Some((_, cause)) = text.split_once("No solution found when resolving dependencies") {
        // Where packages cannot be seen, uv says that there are none, and only in a hint why.
        if let Some(refused) =
            stderr.lines().find_map(refused).filter(|_| cause.contains("not found in the package registry"))
        {
            return refused;
        }
        let cause = cause.trim_start_matches([':', ' ']).trim_start_matches("cause:").trim();
        let hints = stderr.lines().filter_map(|line| hint(line.trim().strip_prefix("hint:")?.trim()));
        let told: Vec<String> = std::iter::once(sentences(cause)).chain(hints).collect();
        return UvError::Unsatisfiable(told.join("\n"));
    }
    if let Some(odd) = odd(&text) {
        return odd;
    }
    if let Some((package, urls)) = text.split_once(CONFLICTING).and_then(|(_, rest)| rest.split_once("`: ")) {
        let urls: Vec<&str> = urls.split("- ").map(str::trim).filter(|url| !url.is_empty()).collect();
        return UvError::Unsatisfiable(format!(
            "`{package}` is required from more than one place: {}",
            urls.join(", ")
        ));
    }
    if unreachable.iter().any(|sign| text.contains(sign)) {
        return UvError::Index(text);
    }
    UvError::Failed(text)
}

/// Reads what an index answered that is no answer to what it was asked.
fn odd(text: &str) -> Option<UvError> {
    let between = |start: &str, end: &str| text.split_once(start)?.1.split(end).next().map(str::to_owned);
    let (address, answer) = if text.contains("HTTP status ") {
        (between("for url (", ")")?, format!("answered {}", between(" error (", ")")?))
    } else if text.contains("Received some unexpected JSON") {
        (between("JSON from `", "`")?, "answered with JSON that is not the page of a package".to_owned())
    } else if text.contains("Unsupported `Content-Type`") {
        let kind = between("Unsupported `Content-Type` \"", "\"")?;
        (between("for `", "`")?, format!("answered with {kind}, and not with the page of a package"))
    } else if text.contains("Missing `Content-Type`") {
        (between("header for `", "`")?, "answered without a media type, and not with the page of a package".to_owned())
    } else if text.contains("Failed to extract archive: ") {
        (between("Failed to extract archive: ", " ")?, "is no wheel: the index gives something else for it".to_owned())
    } else {
        return None;
    };
    Some(UvError::Odd { address, answer })
}

/// Translates a hint; nothing for one that only concerns uv's command line.
fn hint(line: &str) -> Option<String> {
    let quoted: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
    let example = line.split_once("(e.g., ").and_then(|(_, rest)| rest.split(')').next());
    let first = *quoted.first()?;
    if let Some((_, rest)) = line.split_once(" was found on ") {
        let (index, other) = (rest.split(", but not").next()?, example?);
        return Some(format!(
            "`{first}` is taken from {index} alone, the first index that has it; to take it from another, write \
             `{first} = \"{other}\"` below `[index.packages]`"
        ));
    }
    if line.contains("re-release") && line.contains("weren't enabled") {
        let example = example.map(|version| format!(", such as {version}")).unwrap_or_default();
        return Some(format!(
            "`{first}` has pre-releases{example}: `prerelease = [\"{first}\"]` below `[resolution]` allows them"
        ));
    }
    if line.contains("was filtered by `exclude-newer`") {
        return Some(format!("`exclude-newer` leaves out later versions of `{first}`"));
    }
    // uv names the package and its version: `x` (v1.2).
    let version = |name: &str| {
        let (_, rest) = line.split_once(&format!("`{name}` (v"))?;
        rest.split(')').next().map(str::to_owned)
    };
    if line.contains("the following Python ABI tag") {
        let [_, name, tags @ ..] = quoted.as_slice() else { return None };
        return Some(format!("{HAS_WHEELS} `{name}` {} for {} alone", version(name)?, tags.join(", ")));
    }
    if line.starts_with("Wheels are available for") {
        let tags = &quoted[1..];
        return Some(format!("{HAS_WHEELS} `{first}` {} for {} alone", version(first)?, tags.join(", ")));
    }
    None
}

/// Returns true for packages whose wheels are known and not here.
pub(super) fn needs_network(error: &UvError) -> bool {
    matches!(error, UvError::Unsatisfiable(text) if text.contains("needs to be downloaded from a registry"))
}

/// Reads uv's hint about an index that it may not ask.
fn refused(line: &str) -> Option<UvError> {
    let (_, rest) = line.trim().strip_prefix("hint: An index")?.split_once('(')?;
    let (index, rest) = rest.split_once(')')?;
    let status = [401, 403].into_iter().find(|status| rest.contains(&status.to_string()))?;
    Some(UvError::Refused { index: index.to_owned(), status })
}

/// One clause a line, without the conclusion that everybody knows.
fn sentences(cause: &str) -> String {
    let cause = cause.replace(", we can conclude that your requirements are unsatisfiable", "");
    let cause = cause.replace("╰─▶", "").replace("  ", " ");
    cause.trim().trim_end_matches('.').replace(". And because ", ",\nand because ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_is_shortened_to_what_conflicts() {
        let stderr = "error: No solution found when resolving dependencies\n  cause: Because torch==2.7.1 depends on \
                      sympy>=1.13.3 and kiln-image depends on torch==2.7.1, we can conclude that kiln-image depends \
                      on sympy>=1.13.3.\n         And because kiln-image depends on sympy<1.10, we can conclude that \
                      your requirements are unsatisfiable.\n\nhint: something about uv\n";
        let UvError::Unsatisfiable(text) = explain(stderr) else { panic!() };
        insta::assert_snapshot!(text);
    }

    #[test]
    fn an_index_that_refuses_is_told_apart() {
        let error = "error: No solution found when resolving dependencies\n  cause: Because torch was not found in the \
                     package registry and kiln-image depends on torch==2, we can conclude that your requirements are \
                     unsatisfiable.\n\nhint: ";
        for (hint, expected) in [
            (
                "An index URL (http://a.example/simple) could not be queried due to a lack of valid authentication \
                 credentials (401 Unauthorized)",
                401,
            ),
            (
                "An index (http://a.example/simple) returned a 403 Forbidden error. Check that the index URL is \
                 correct and the credentials are valid.",
                403,
            ),
        ] {
            let UvError::Refused { index, status } = explain(&format!("{error}{hint}\n")) else { panic!("{hint}") };
            assert_eq!((index.as_str(), status), ("http://a.example/simple", expected));
        }
        assert!(matches!(explain(error), UvError::Unsatisfiable(_)));
    }

    #[test]
    fn an_index_that_answers_with_something_else_is_told_apart() {
        let said: Vec<String> = [
            "error: Request failed after 3 retries in 8.4s\n  cause: Failed to fetch: `http://a.example/simple/six/`\n  cause: HTTP \
             status server error (500 Internal Server Error) for url (http://a.example/simple/six/)",
            "error: Failed to fetch: `http://a.example/f/six.whl`\n  cause: HTTP status client error (404 Not Found) for url \
             (http://a.example/f/six.whl)",
            "error: Received some unexpected JSON from `http://a.example/simple/six/`\n  cause: missing field `files` at line 1",
            "error: Unsupported `Content-Type` \"text/plain\" for `http://a.example/simple/six/`. Expected JSON or HTML.",
            "error: Missing `Content-Type` header for `http://a.example/simple/six/`",
            "error: Failed to download `six==1.16.0`\n  cause: Failed to extract archive: six-1.16.0-py2.py3-none-any.whl\n  cause: \
             Invalid zip file structure",
        ]
        .iter()
        .map(|stderr| match explain(stderr) {
            UvError::Odd { address, answer } => format!("{address} {answer}"),
            other => panic!("{other:?}"),
        })
        .collect();
        insta::assert_snapshot!(said.join("\n"), @r"
        http://a.example/simple/six/ answered 500 Internal Server Error
        http://a.example/f/six.whl answered 404 Not Found
        http://a.example/simple/six/ answered with JSON that is not the page of a package
        http://a.example/simple/six/ answered with text/plain, and not with the page of a package
        http://a.example/simple/six/ answered without a media type, and not with the page of a package
        six-1.16.0-py2.py3-none-any.whl is no wheel: the index gives something else for it
        ");
    }

    #[test]
    fn an_unreachable_index_is_told_apart() {
        let stderr = "error: Failed to fetch: `http://127.0.0.1:1/simple/six/`\n  Caused by: error sending request\n";
        assert!(matches!(explain(stderr), UvError::Index(_)));
    }

    fn unsatisfiable(stderr: &str) -> String {
        let UvError::Unsatisfiable(text) = explain(stderr) else { panic!("{stderr}") };
        text
    }

    #[test]
    fn packages_without_a_fitting_wheel_are_named_with_what_they_have() {
        let source = unsatisfiable(
            "error: No solution found when resolving dependencies\n  cause: Because antlr4-python3-runtime>=4.9,<=4.9.3 \
             has no usable wheels and only the following versions of antlr4-python3-runtime are available:\n  \
             antlr4-python3-runtime<4.9.dev0\n we can conclude that antlr4-python3-runtime==4.9.* cannot be used.\n  \
             And because omegaconf==2.3.0 depends on antlr4-python3-runtime==4.9.* and kiln-image depends on \
             omegaconf==2.3.0, we can conclude that your requirements are unsatisfiable.\n\nhint: Wheels are required \
             for `antlr4-python3-runtime` because building from source is disabled\n",
        );
        let found = blockers(&source);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].name.as_str(), found[0].version()), ("antlr4-python3-runtime", Some("4.9.3")));
        assert_eq!(found[0].reason, None);
        let other = unsatisfiable(
            "error: No solution found when resolving dependencies\n  cause: Because tensorflow==2.5.0 has no wheels with \
             a matching Python ABI tag (e.g., `cp311`) and kiln-image depends on tensorflow==2.5.0, we can conclude that \
             your requirements are unsatisfiable.\n\nhint: You require CPython 3.11 (`cp311`), but we only found wheels \
             for `tensorflow` (v2.5.0) with the following Python ABI tags: `cp38`, `cp39`\n",
        );
        let found = blockers(&other);
        assert_eq!(found[0].reason.as_deref(), Some("there are wheels of `tensorflow` 2.5.0 for cp38, cp39 alone"));
        let all = unsatisfiable(
            "error: No solution found when resolving dependencies\n  cause: Because all versions of flash-attn have no \
             usable wheels and kiln-image depends on flash-attn>=2.5, we can conclude that your requirements are \
             unsatisfiable.\n",
        );
        assert_eq!(blockers(&all)[0].version(), Some("2.5"));
        let extra = "Because gruut[de]==2.2.3 has no usable wheels and this image depends on gruut[de]==2.2.3";
        assert_eq!((blockers(extra)[0].name.as_str(), blockers(extra)[0].versions.as_str()), ("gruut", "==2.2.3"));
        assert!(blockers("Because only six==1.0 is available and you require six>=1.16").is_empty());
    }

    #[test]
    fn advice_is_about_the_stack_file() {
        let hints = [
            "`six` was found on http://a.example/p, but not at the requested version (six>=1.16). A compatible version may \
             be available on a subsequent index (e.g., http://b.example/simple). By default, uv will only consider \
             versions that are published on the first index that contains a given package.",
            "Pre-releases are available for `httpx` in the requested range (e.g., 1.0rc1), but pre-releases weren't \
             enabled (try: `--prerelease=allow`)",
            "`six` was filtered by `exclude-newer` to only include packages uploaded before 2020-01-01T23:59:59Z.",
            "Wheels are available for `pywin32` (v312) on the following platforms: `win32`, `win_amd64`",
            "Wheels are required for `numpy` because building from source is disabled for all packages",
        ];
        let found: Vec<String> = hints.iter().filter_map(|line| hint(line)).collect();
        insta::assert_snapshot!(found.join("\n"), @r#"
        `six` is taken from http://a.example/p alone, the first index that has it; to take it from another, write `six = "http://b.example/simple"` below `[index.packages]`
        `httpx` has pre-releases, such as 1.0rc1: `prerelease = ["httpx"]` below `[resolution]` allows them
        `exclude-newer` leaves out later versions of `six`
        there are wheels of `pywin32` 312 for win32, win_amd64 alone
        "#);
    }

    #[test]
    fn warnings_say_what_follows() {
        let lines = [
            "Resolved 6 packages in 433ms",
            "warning: The package `jax==0.4.38` does not have an extra named `cuda12-pipp`",
            "warning: `cryptography==37.0.3` is yanked (reason: \"Regression in OpenSSL.\")",
            "warning: `a-1-py3-none-any.whl` is missing an upload date, but user provided: 2020-01-01T23:59:59Z",
            "warning: `a-1-py3-none-any.whl` is missing an upload date, but user provided: 2020-01-01T23:59:59Z",
        ];
        insta::assert_snapshot!(warnings(&lines.map(str::to_owned)).join("\n"), @r#"
        `jax==0.4.38` has no extra `cuda12-pipp`: nothing is installed for it
        `cryptography==37.0.3` is yanked (reason: "Regression in OpenSSL.")
        `a-1-py3-none-any.whl` is left out: its index does not tell when it was uploaded, and `exclude-newer` is given
        "#);
    }
}
