//! `from`: what an image stands on.

use super::images;
use super::{expand, expand_all};
use crate::diagnostic::{Diagnostic, Diagnostics, Span, closest};
use crate::reference::InvalidReference;
use crate::secret;
use crate::stack::Spanned;
use crate::stack::image::{Archive, From, Mirror, System};
use crate::stack::vars::Vars;
use crate::stack::written::{FromWritten, MirrorWritten, RepositoryTable, StackFile, SystemTable, SystemWritten, Text};

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
    System { install, remove, upgrade, recommends, repositories, disable, span }
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
        key: table.key.as_ref().map(|path| images::project_path(path, vars, wrong)),
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
