//! Places outside of the project: repositories of git, addresses, images.

use url::Url;

use super::config::number;
use super::images::{Context, project_path, without_nul};
use super::{expand, from_name};
use crate::diagnostic::{Diagnostic, Diagnostics, Span};
use crate::digest::Digest;
use crate::secret;
use crate::stack::copy::{Checkout, Download, Elsewhere, Source};
use crate::stack::image::{From, Remote};
use crate::stack::spanned::Spanned;
use crate::stack::vars::Vars;
use crate::stack::written::{ElsewhereTable, SourceTable, Text};

/// Returns the place of a file of requirements.
pub(super) fn remote(written: &Spanned<SourceTable>, vars: &Vars, wrong: &mut Diagnostics) -> Option<Remote> {
    match written.get() {
        SourceTable { git: Some(url), rev, url: None } => {
            Some(Remote::Git { url: repository(url, vars, wrong), rev: revision(rev.as_ref(), vars, wrong) })
        }
        SourceTable { git: None, rev: None, url: Some(url) } => web_address(url, vars, wrong).map(Remote::Url),
        _ => {
            wrong.push(
                Diagnostic::at(written.span(), "a source is either a repository of git or an address")
                    .hint("`{ git = \"URL\", rev = \"TAG\" }` or `{ url = \"URL\" }`"),
            );
            None
        }
    }
}

/// Returns an address, which the lock names: it must hold no secret.
fn address(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> String {
    let address = expand(text, vars, wrong);
    let shown = secret::redact_address(&address);
    if shown != address {
        wrong.push(
            Diagnostic::at(text.span(), format!("the address `{shown}` has a password"))
                .hint("the lock names it: credentials belong in `~/.netrc` or in git's credential helper"),
        );
    }
    address
}

fn repository(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> String {
    let url = address(text, vars, wrong);
    let allowed = ["https://", "ssh://", "file://"].iter().any(|scheme| url.starts_with(scheme));
    let is_scp = url.split_once(':').is_some_and(|(host, path)| host.contains('@') && !path.starts_with("//"));
    if !(allowed || is_scp) || url.starts_with('-') {
        wrong.push(
            Diagnostic::at(text.span(), format!("`{url}` is not an address of a repository"))
                .hint("`https://`, `ssh://`, `file://`, or `user@host:path`"),
        );
    }
    url
}

fn revision(text: Option<&Text>, vars: &Vars, wrong: &mut Diagnostics) -> String {
    let Some(text) = text else { return "HEAD".into() };
    let rev = expand(text, vars, wrong);
    if rev.is_empty() || rev.starts_with('-') || rev.contains(|c: char| c.is_whitespace() || "~^:?*[\\".contains(c)) {
        wrong.push(Diagnostic::at(text.span(), format!("`{rev}` is not a branch, a tag or a commit")));
    }
    rev
}

pub(super) fn web_address(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> Option<Url> {
    let written = address(text, vars, wrong);
    let parsed = Url::parse(&written).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    if parsed.is_none() {
        let message = format!("`{written}` is not an address");
        wrong.push(Diagnostic::at(text.span(), message).hint("it begins with `https://`"));
    }
    parsed
}

/// Returns the place that a table of a copy names, and the path there.
pub(super) fn elsewhere(
    table: &ElsewhereTable,
    span: Span,
    context: &Context<'_>,
    wrong: &mut Diagnostics,
) -> Option<(Elsewhere, String)> {
    let vars = context.vars;
    refuse_others(table, &span, wrong);
    let path = table.path.as_ref().map(|text| inner_path(text, vars, wrong)).unwrap_or_default();
    let strip = table.strip.as_ref().and_then(|strip| number(strip, vars, wrong)).unwrap_or(0);
    let place = match (&table.image, &table.git, &table.url) {
        (Some(image), None, None) => {
            if path.is_empty() && table.path.is_none() {
                let hint = "such as `path = \"/usr/local/bin\"`; `path = \"/\"` is all of it";
                wrong.push(Diagnostic::at(span, "a copy of an image needs a `path`").hint(hint));
            }
            match from_name(image.get(), image.span(), context.file, vars, wrong) {
                From::Image(name) => Elsewhere::Image(name),
                From::Reference(reference) => Elsewhere::Reference(reference),
                _ => {
                    wrong.push(Diagnostic::at(image.span(), "there is nothing to copy from `scratch`"));
                    return None;
                }
            }
        }
        (None, Some(url), None) => Elsewhere::Git(Checkout {
            url: repository(url, vars, wrong),
            rev: revision(table.rev.as_ref(), vars, wrong),
            submodules: table.submodules,
            lfs: table.lfs.unwrap_or(true),
            keep_git: table.keep_git,
            patches: table
                .patches
                .iter()
                .map(|text| Source { path: project_path(text, vars, wrong), span: text.span() })
                .collect(),
            strip,
        }),
        (None, None, Some(url)) => {
            let sha256 = table.sha256.as_ref().and_then(|text| digest(text, vars, wrong));
            Elsewhere::Url(Download { url: web_address(url, vars, wrong)?, sha256, unpack: table.unpack, strip })
        }
        _ => {
            let message = "a copy from outside of the project is of an image, of a repository of git, or of an address";
            wrong.push(Diagnostic::at(span, message).hint(
                "`{ image = \"builder\", path = \"/out\" }`, `{ git = \"URL\", rev = \"TAG\" }` or `{ url = \"URL\" }`",
            ));
            return None;
        }
    };
    Some((place, path))
}

/// Notes keys of a table that do not belong to its kind of place.
fn refuse_others(table: &ElsewhereTable, span: &Span, wrong: &mut Diagnostics) {
    let given = |text: &Option<Text>| text.as_ref().map(Spanned::span);
    let flag = |is_set: bool| is_set.then(|| span.clone());
    let of_git = [
        ("rev", given(&table.rev)),
        ("submodules", flag(table.submodules)),
        ("lfs", flag(table.lfs.is_some())),
        ("keep-git", flag(table.keep_git)),
        ("patches", table.patches.first().map(Spanned::span)),
    ];
    let of_url = [("sha256", given(&table.sha256)), ("unpack", flag(table.unpack))];
    let groups = [(table.git.is_some(), "git", &of_git[..]), (table.url.is_some(), "url", &of_url[..])];
    for (is_own, kind, keys) in groups {
        for (key, at) in keys.iter().filter_map(|(key, at)| Some((key, at.clone()?))).filter(|_| !is_own) {
            wrong.push(Diagnostic::at(at, format!("`{key}` belongs to copies with `{kind}`")));
        }
    }
    let is_whole = table.image.is_some() || table.url.is_some() && !table.unpack;
    if let Some(strip) = table.strip.as_ref().filter(|_| is_whole) {
        let message = "`strip` is for archives that are unpacked, and for repositories";
        wrong.push(Diagnostic::at(strip.span(), message).hint("add `unpack = true`, or leave `strip` out"));
    }
    if let Some(path) = table.path.as_ref().filter(|_| table.url.is_some() && !table.unpack) {
        let message = "`path` is for archives that are unpacked";
        wrong.push(Diagnostic::at(path.span(), message).hint("add `unpack = true`, or leave `path` out"));
    }
}

/// Returns a path inside of a place, without slashes at its ends.
fn inner_path(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> String {
    let path = without_nul(text, vars, wrong);
    if path.split('/').any(|name| name == "..") {
        wrong.push(Diagnostic::at(text.span(), format!("`{path}` leads out of the place that is copied from")));
    }
    let names = path.split('/').filter(|name| !matches!(*name, "" | "."));
    names.collect::<Vec<_>>().join("/")
}

pub(super) fn digest(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> Option<Digest> {
    let written = expand(text, vars, wrong);
    let hex = written.strip_prefix("sha256:").unwrap_or(&written).to_ascii_lowercase();
    let parsed = format!("sha256:{hex}").parse().ok();
    if parsed.is_none() {
        let message = format!("`{written}` is not a SHA-256");
        wrong.push(Diagnostic::at(text.span(), message).hint("64 hexadecimal digits, as `sha256sum` prints them"));
    }
    parsed
}
