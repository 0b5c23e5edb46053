//! Names of files that hold secrets by custom: an image is no place for them.

/// File names, lower case.
const NAMES: [&str; 17] = [
    ".env",
    ".netrc",
    "_netrc",
    ".pypirc",
    ".npmrc",
    ".git-credentials",
    ".htpasswd",
    ".pgpass",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    "credentials.json",
    "client_secret.json",
    "service-account.json",
    "kubeconfig",
    ".vault-token",
];
/// Ends of file names, lower case.
const ENDS: [&str; 7] = [".pem", ".key", ".p12", ".pfx", ".jks", ".ppk", ".kdbx"];
/// Ends of paths, lower case.
const PATHS: [&str; 4] = [".aws/credentials", ".docker/config.json", ".kube/config", ".ssh/config"];
/// Ends of names of templates, which hold none.
const TEMPLATES: [&str; 6] = [".example", ".sample", ".template", ".dist", ".tmpl", ".defaults"];
/// Suspects that a warning names.
const NAMED: usize = 5;

/// Returns true for the path of a file that is likely to hold a secret. An empty path is that of a file that the stack file
/// names, on purpose.
pub(super) fn is_suspect(path: &str) -> bool {
    let path = path.to_lowercase();
    let name = path.rsplit('/').next().unwrap_or(&path);
    if TEMPLATES.iter().any(|end| name.ends_with(end)) || name.is_empty() {
        return false;
    }
    NAMES.contains(&name)
        || name.starts_with(".env.")
        || ENDS.iter().any(|end| name.ends_with(end) && name.len() > end.len())
        || PATHS.iter().any(|end| path == *end || path.ends_with(&format!("/{end}")))
}

/// Returns the warning about suspects of a copy.
pub(super) fn warning(from: &str, suspects: &[String]) -> Option<String> {
    let shown: Vec<String> = suspects.iter().take(NAMED).map(|path| format!("`{path}`")).collect();
    let more = match suspects.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let them = if suspects.len() == 1 { "it" } else { "them" };
    (!suspects.is_empty()).then(|| {
        format!(
            "`{from}` is copied with {}{more}, by the name a secret: whoever has the image has {them}. Leave {them} out \
             with `exclude` or an ignore file",
            shown.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        for path in [".env", "a/.env.production", "keys/id_rsa", "tls/server.PEM", "home/.aws/credentials", "x.key"] {
            assert!(is_suspect(path), "{path}");
        }
        for path in [".env.example", "id_rsa.pub", "pem", "env", "monkey", ".key", "environment.yml", ""] {
            assert!(!is_suspect(path), "{path}");
        }
        let many: Vec<String> = (0..7).map(|at| format!("{at}.pem")).collect();
        assert_eq!(warning("src", &[]), None);
        assert!(warning("src", &many).unwrap().contains("`4.pem` and 2 more, by the name a secret"));
    }
}
