//! Copied files, and files that the stack file itself holds.

use super::images::{Context, absolute, without_nul};
use super::{expand, images, remote};
use crate::diagnostic::{Diagnostic, Diagnostics, Span};
use crate::stack::copy::{Copy, Pattern, Source};
use crate::stack::image::{File, FileContent, Owner};
use crate::stack::spanned::Spanned;
use crate::stack::vars::Vars;
use crate::stack::written::{CopyFromWritten, CopyTable, FileTable, Text, TextOrList};

/// Returns a copy; `None` where its source is wrong.
pub(super) fn copy(table: &CopyTable, context: &Context<'_>, wrong: &mut Diagnostics) -> Option<Copy> {
    let vars = context.vars;
    let (elsewhere, from, is_list) = match table.from.get() {
        CopyFromWritten::Project(paths) => {
            let from = project_sources(paths, table.from.span(), vars, wrong);
            (None, from, matches!(paths, TextOrList::List(_)))
        }
        CopyFromWritten::Elsewhere(place) => {
            if let Some(file) = &table.ignore_file {
                let message = "`ignore-file` is for copies of the project";
                wrong.push(Diagnostic::at(file.span(), message).hint("`exclude` leaves files out of any copy"));
            }
            let span = table.from.span();
            let (elsewhere, path) = remote::elsewhere(place, span.clone(), context, wrong)?;
            (Some(elsewhere), vec![Source { path, span }], false)
        }
    };
    Some(Copy {
        keeps_names: elsewhere.is_none() && (is_list || from.iter().any(Source::is_pattern)),
        elsewhere,
        from,
        to: absolute(&table.to, vars, wrong),
        exclude: table
            .exclude
            .iter()
            .map(|text| Pattern { text: expand(text, vars, wrong), span: text.span() })
            .collect(),
        ignore_file: table.ignore_file.as_ref().map(|text| images::project_path(text, vars, wrong)),
        owner: table.owner.as_ref().map_or_else(Owner::default, |text| owner(&expand(text, vars, wrong))),
        owner_span: table.owner.as_ref().map(Spanned::span),
        mode: table.mode.as_ref().and_then(|text| mode(text, vars, wrong)),
    })
}

fn project_sources(paths: &TextOrList, span: Span, vars: &Vars, wrong: &mut Diagnostics) -> Vec<Source> {
    match paths {
        TextOrList::Text(text) if text.contains("://") || text.starts_with("git@") => {
            let message = format!("`{text}` is an address, and a text names files of the project");
            let hint = "`from = { url = \"URL\" }` or `from = { git = \"URL\", rev = \"TAG\" }`";
            wrong.push(Diagnostic::at(span, message).hint(hint));
            Vec::new()
        }
        TextOrList::Text(text) => {
            vec![Source { path: images::project_path_in(text, span.clone(), vars, wrong), span }]
        }
        TextOrList::List(texts) => {
            if texts.is_empty() {
                wrong.push(Diagnostic::at(span, "a copy of nothing").hint("name a file or a directory"));
            }
            let source = |text: &Text| Source { path: images::project_path(text, vars, wrong), span: text.span() };
            texts.iter().map(source).collect()
        }
    }
}

fn owner(text: &str) -> Owner {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group.to_owned())),
        None => (text, None),
    };
    Owner { user: Some(user.to_owned()), group }
}

pub(super) fn mode(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> Option<u32> {
    let digits = expand(text, vars, wrong);
    let mode = u32::from_str_radix(&digits, 8).ok().filter(|mode| *mode <= 0o7777);
    if mode.is_none() {
        let message = format!("`{digits}` is not an octal mode");
        wrong.push(Diagnostic::at(text.span(), message).hint("such as `\"0644\"` or `\"0755\"`"));
    }
    mode
}

/// Returns a file, a directory or a link.
pub(super) fn file(table: &FileTable, context: &Context<'_>, wrong: &mut Diagnostics) -> Option<File> {
    let vars = context.vars;
    let to = absolute(&table.to, vars, wrong);
    let ends_as_directory = to.ends_with('/');
    let declared = |text: &Text, wrong: &mut Diagnostics| {
        context.warn_of_names(text);
        vars.expand_declared(text, text.span()).unwrap_or_else(|diagnostic| {
            wrong.push(diagnostic);
            String::new()
        })
    };
    let content = match (&table.text, &table.append, &table.link) {
        (Some(text), None, None) => FileContent::Text(declared(text, wrong)),
        (None, Some(text), None) => FileContent::Append(declared(text, wrong)),
        (None, None, Some(text)) => {
            let target = without_nul(text, vars, wrong);
            if target.is_empty() {
                wrong.push(Diagnostic::at(text.span(), "a link leads somewhere").hint("such as `link = \"python3\"`"));
            }
            FileContent::Link(target)
        }
        (None, None, None) if ends_as_directory => FileContent::Directory,
        _ => {
            let message = format!("`{to}` is either a file, a link or a directory");
            let hint = "one of `text`, `append` and `link`; a directory has none of them and a final `/` in `to`";
            wrong.push(Diagnostic::at(table.to.span(), message).hint(hint));
            return None;
        }
    };
    if ends_as_directory && content != FileContent::Directory {
        wrong.push(Diagnostic::at(table.to.span(), format!("`{to}` ends as a directory does, and is none")));
    }
    if matches!(content, FileContent::Append(_) | FileContent::Link(_)) {
        for (key, text) in [("owner", &table.owner), ("mode", &table.mode)] {
            if let Some(text) = text {
                let message = format!("`{key}` is not for links, nor for files that are only made longer");
                wrong.push(Diagnostic::at(text.span(), message));
            }
        }
    }
    Some(File {
        to,
        to_span: table.to.span(),
        content,
        owner: table.owner.as_ref().map_or_else(Owner::default, |text| owner(&expand(text, vars, wrong))),
        owner_span: table.owner.as_ref().map(Spanned::span),
        mode: table.mode.as_ref().and_then(|text| mode(text, vars, wrong)),
    })
}
