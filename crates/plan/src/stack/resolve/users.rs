//! Users of an image.

use super::config::number;
use super::images::{absolute, is_user_name};
use super::{expand, expand_all};
use crate::diagnostic::{Diagnostic, Diagnostics, Span};
use crate::stack::image::NewUser;
use crate::stack::spanned::Spanned;
use crate::stack::vars::Vars;
use crate::stack::written::{ImageTable, NumberWritten, UserTable, UserWritten};

/// Returns the users that an image creates, and the one that it runs as.
pub(super) fn users(table: &ImageTable, vars: &Vars, wrong: &mut Diagnostics) -> (Vec<NewUser>, Option<String>) {
    let mut users: Vec<NewUser> =
        table.users.iter().map(|user| new_user(user.get(), user.span(), vars, wrong)).collect();
    let runs_as = table.user.as_ref().map(|written| match written.get() {
        UserWritten::Name(name) => vars.expand_str(name, written.span()).unwrap_or_else(|diagnostic| {
            wrong.push(diagnostic);
            name.clone()
        }),
        UserWritten::Table(table) => {
            users.push(new_user(table, written.span(), vars, wrong));
            users.last().map(|user| user.name.clone()).unwrap_or_default()
        }
    });
    for (at, user) in users.iter().enumerate() {
        if users[..at].iter().any(|other| other.name == user.name) {
            wrong.push(Diagnostic::at(user.span.clone(), format!("the user `{}` is created twice", user.name)));
        }
    }
    (users, runs_as)
}

fn new_user(table: &UserTable, span: Span, vars: &Vars, wrong: &mut Diagnostics) -> NewUser {
    let name = expand(&table.name, vars, wrong);
    if !is_user_name(&name) {
        wrong.push(
            Diagnostic::at(table.name.span(), format!("`{name}` is not a user name"))
                .hint("lower-case letters, digits, `_`, `-`, `.`, beginning with a letter"),
        );
    }
    let home = table.home.as_ref().map_or_else(|| format!("/home/{name}"), |text| absolute(text, vars, wrong));
    let shell = table.shell.as_ref().map_or_else(|| "/bin/sh".to_owned(), |text| absolute(text, vars, wrong));
    for (text, value) in [(&table.home, &home), (&table.shell, &shell)] {
        if value.contains([':', '\n']) {
            let span = text.as_ref().map_or_else(|| span.clone(), Spanned::span);
            wrong.push(Diagnostic::at(span, "a path in /etc/passwd cannot hold `:` or a line break"));
        }
    }
    if let (Some(gid), Some(_)) = (&table.gid, &table.group) {
        wrong.push(Diagnostic::at(gid.span(), "a user has one group of its own: `gid` or `group`"));
    }
    let mut number =
        |written: &Option<Spanned<NumberWritten>>| written.as_ref().and_then(|text| number(text, vars, wrong));
    let (uid, gid) = (number(&table.uid), number(&table.gid));
    let group = table.group.as_ref().map(|text| expand(text, vars, wrong));
    let groups = expand_all(&table.groups, vars, wrong);
    NewUser { name, span, uid, gid, group, groups, home, shell, replace: table.replace }
}
