//! `from`: what an image stands on.

use super::images;
use super::remote::{digest, web_address};
use super::{expand, expand_all};
use crate::diagnostic::{Diagnostic, Diagnostics, Span, closest};
use crate::reference::InvalidReference;
use crate::secret;
use crate::stack::Spanned;
use crate::stack::image::{Archive, ArchiveKey, DebSource, From, Mirror, System};
use crate::stack::vars::Vars;
use crate::stack::written::{
    DebWritten, FromWritten, KeyWritten, MirrorWritten, RepositoryTable, StackFile, SystemTable, SystemWritten, Text,
};

/// The address of a Debian mirror, which the image and the lock name: it must hold no secret.
fn mirror(written: &Spanned<MirrorWritten>, vars: &Vars, wrong: &mut Diagnostics) -> Mirror {
    match written.get() {
        MirrorWritten::Uri(uri) => {
            let text = Text::new(written.span(), uri.clone());
            Mirror { uri: mirror_uri(&text, vars, wrong), security: None, snapshot: false, key: None }
        }
        MirrorWritten::Table(table) => Mirror {
            uri: mirror_uri(&table.uri, vars, wrong),
            security: table.security.as_ref().map(|uri| mirror_uri(uri, vars, wrong)),
            snapshot: table.snapshot,
            key: table.key.as_ref().map(|path| images::project_path(path, vars, wrong)),
        },
    }
}

fn mirror_uri(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> String {
    let uri = expand(text, vars, wrong);
    let shown = secret::redact_address(&uri);
    if shown != uri {
        wrong.push(Diagnostic::at(text.span(), format!("the mirror `{shown}` has a user name or a password")).hint(
            "the image and the lock name its mirror: choose one that needs no password, or write it into `.netrc`",
        ));
    } else if !(uri.starts_with("http://") || uri.starts_with("https://")) || uri.contains(char::is_whitespace) {
        wrong.push(
            Diagnostic::at(
                text.span(),
                format!("the mirror `{uri}` is no address that begins with `http://` or `https://`"),
            )
            .hint("it is the address above `dists` and `pool`, such as `https://HOST/debian`"),
        );
    }
    uri.trim_end_matches('/').to_owned()
}

/// Returns the image that a name means: one that the file declares, else a reference.
pub(super) fn from_name(text: &str, span: Span, file: &StackFile, vars: &Vars, wrong: &mut Diagnostics) -> From {
    let name = vars.expand_str(text, span.clone()).unwrap_or_else(|diagnostic| {
        wrong.push(diagnostic);
        text.to_owned()
    });
    let declared = || file.images.keys().map(|image| image.as_str());
    if name == "scratch" {
        return From::Scratch;
    }
    if declared().any(|image| image == name) {
        return From::Image(name);
    }
    if !name.contains(['/', ':', '.']) {
        let hint = match closest(&name, declared()) {
            Some(close) => format!("did you mean `{close}`?"),
            None => format!("a registry reference says its registry: `docker.io/library/{name}:TAG`"),
        };
        let message = format!("there is no image `{name}` in this stack");
        wrong.push(Diagnostic::at(span.clone(), message).hint(hint));
    }
    match name.parse() {
        Ok(reference) => From::Reference(reference),
        Err(error) => {
            if wrong.0.is_empty() {
                wrong.push(Diagnostic::at(span, InvalidReference::to_string(&error)));
            }
            From::Scratch
        }
    }
}

/// What `from` means: a name declared in the file shadows a registry reference.
pub(super) fn from(written: &Spanned<FromWritten>, file: &StackFile, vars: &Vars, wrong: &mut Diagnostics) -> From {
    match written.get() {
        FromWritten::Name(name) => from_name(name, written.span(), file, vars, wrong),
        FromWritten::Table(table) => match (&table.oci, &table.debian) {
            (Some(path), None) => {
                let path_text = images::project_path(path, vars, wrong);
                for (key, used) in [("include", !table.include.is_empty()), ("mirror", table.mirror.is_some())] {
                    if used {
                        wrong
                            .push(Diagnostic::at(written.span(), format!("`{key}` belongs to `debian`, not to `oci`")));
                    }
                }
                From::OciLayout(path_text)
            }
            (None, Some(suite)) => {
                let mirror = table.mirror.as_ref().map(|text| mirror(text, vars, wrong));
                let include = packages(&table.include, vars, wrong);
                let suite = debian_word("suite", suite, b"-._/", vars, wrong);
                From::Debian { suite, include, mirror }
            }
            _ => {
                wrong.push(
                    Diagnostic::at(written.span(), "a base is either a layout or a Debian")
                        .hint("`{ oci = \"PATH\" }` or `{ debian = \"bookworm\", include = [\"python3\"] }`"),
                );
                From::Scratch
            }
        },
    }
}

/// Returns the name of a suite or a package. What apt could take for an option, or for several words, is none.
fn debian_word(what: &str, text: &Text, marks: &[u8], vars: &Vars, wrong: &mut Diagnostics) -> String {
    let word = expand(text, vars, wrong);
    let begins_well = word.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !(begins_well && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || marks.contains(&byte))) {
        wrong.push(Diagnostic::at(text.span(), format!("`{word}` is no name of a Debian {what}")));
    }
    word
}

/// Returns the changes of packages that an image wants.
pub(super) fn system(written: &Spanned<SystemWritten>, vars: &Vars, wrong: &mut Diagnostics) -> System {
    let span = written.span();
    let table = match written.get() {
        SystemWritten::List(install) => SystemTable { install: install.clone(), ..SystemTable::default() },
        SystemWritten::Table(table) => table.clone(),
    };
    let SystemTable { upgrade, recommends, .. } = table;
    let (install, remove) = (packages(&table.install, vars, wrong), packages(&table.remove, vars, wrong));
    let repositories = table.repositories.iter().map(|repository| self::repository(repository, vars, wrong)).collect();
    let mut disable = expand_all(&table.disable, vars, wrong);
    disable.sort();
    if let Some(both) = remove.iter().find(|name| install.contains(name)) {
        wrong.push(Diagnostic::at(span.clone(), format!("`{both}` is installed and removed")));
    }
    let debs = table.debs.iter().filter_map(|written| deb(written, vars, wrong)).collect();
    System { install, remove, upgrade, recommends, repositories, disable, debs, span }
}

fn repository(table: &RepositoryTable, vars: &Vars, wrong: &mut Diagnostics) -> Archive {
    let suites = expand_all(&table.suites, vars, wrong);
    let components = expand_all(&table.components, vars, wrong);
    if let Some(suite) = suites.iter().find(|suite| suite.ends_with('/') != components.is_empty()) {
        let message = match components.is_empty() {
            true => format!("the suite `{suite}` has components, such as `main`"),
            false => format!("`{suite}` is a directory of the archive, which has no components"),
        };
        wrong.push(Diagnostic::at(table.uri.span(), message));
    }
    Archive {
        uri: mirror_uri(&table.uri, vars, wrong),
        suites,
        components,
        key: table.key.as_ref().and_then(|key| self::key(key, vars, wrong)),
    }
}

fn key(written: &Spanned<KeyWritten>, vars: &Vars, wrong: &mut Diagnostics) -> Option<ArchiveKey> {
    let table = match written.get() {
        KeyWritten::File(path) => {
            let path = expand(&Spanned::new(written.span(), path.clone()), vars, wrong);
            return Some(ArchiveKey::File(images::project_path_in(&path, written.span(), vars, wrong)));
        }
        KeyWritten::Table(table) => table,
    };
    let url = web_address(&table.url, vars, wrong)?;
    let fingerprint = table.fingerprint.as_ref().map(|text| {
        let digits: String = expand(text, vars, wrong).split_whitespace().collect::<String>().to_ascii_lowercase();
        if !matches!(digits.len(), 40 | 64) || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            let message = format!("`{digits}` is not a fingerprint");
            wrong.push(
                Diagnostic::at(text.span(), message).hint("it has 40 hexadecimal digits: `gpg --show-keys FILE`"),
            );
        }
        digits
    });
    if url.scheme() == "http" && fingerprint.is_none() {
        let message = "anybody on the way could replace keys that come by `http`";
        wrong.push(Diagnostic::at(table.url.span(), message).hint("use `https`, or give a `fingerprint`"));
    }
    Some(ArchiveKey::Url { url, fingerprint })
}

fn deb(written: &Spanned<DebWritten>, vars: &Vars, wrong: &mut Diagnostics) -> Option<DebSource> {
    match written.get() {
        DebWritten::File(path) => {
            let path = expand(&Spanned::new(written.span(), path.clone()), vars, wrong);
            Some(DebSource::File(images::project_path_in(&path, written.span(), vars, wrong)))
        }
        DebWritten::Table(table) => {
            let (url, sha256) = (web_address(&table.url, vars, wrong), digest(&table.sha256, vars, wrong));
            Some(DebSource::Url { url: url?, sha256: sha256? })
        }
    }
}

/// Returns names of packages, sorted: their order in the stack file must not show.
fn packages(written: &[Text], vars: &Vars, wrong: &mut Diagnostics) -> Vec<String> {
    let mut names: Vec<String> =
        written.iter().map(|package| debian_word("package", package, b"+-.:=~_", vars, wrong)).collect();
    names.sort();
    names.dedup();
    names
}
