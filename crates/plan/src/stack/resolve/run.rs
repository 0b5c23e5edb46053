//! Commands that run while an image is built.

use std::collections::BTreeMap;

use super::images::{Context, absolute, choice};
use super::{config, expand, files};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::stack::image::CommandLine;
use crate::stack::run::{Run, Shell};
use crate::stack::spanned::Spanned;
use crate::stack::written::{RunTable, RunWritten, TextOrList};

/// Returns a command; `None` where it is wrong.
pub(super) fn run(written: &Spanned<RunWritten>, context: &Context<'_>, wrong: &mut Diagnostics) -> Option<Run> {
    match written.get() {
        RunWritten::Command(command) => {
            let command = Spanned::new(written.span(), command.clone());
            let command = line(&command, context, wrong)?;
            let (span, env) = (written.span(), BTreeMap::new());
            Some(Run {
                command,
                span,
                shell: Shell::Sh,
                env,
                user: None,
                workdir: None,
                timeout: None,
                bind: Vec::new(),
            })
        }
        RunWritten::Table(table) => with_options(table, context, wrong),
    }
}

fn with_options(table: &RunTable, context: &Context<'_>, wrong: &mut Diagnostics) -> Option<Run> {
    let vars = context.vars;
    if let (TextOrList::List(_), Some(shell)) = (table.command.get(), &table.shell) {
        let message = "a list of words runs without a shell";
        wrong.push(Diagnostic::at(shell.span(), message).hint("leave `shell` out, or write the command as one line"));
    }
    let shells = [("sh", Shell::Sh), ("bash", Shell::Bash)];
    let shell = choice(table.shell.as_ref(), &shells, "`shell`", vars, wrong);
    Some(Run {
        command: line(&table.command, context, wrong)?,
        span: table.command.span(),
        shell,
        env: config::variables(&table.env, context, wrong),
        user: table.user.as_ref().map(|text| (expand(text, vars, wrong), text.span())),
        workdir: table.workdir.as_ref().map(|text| absolute(text, vars, wrong)),
        timeout: table.timeout.as_ref().map(|text| config::duration(text, vars, wrong)),
        bind: table.bind.iter().filter_map(|table| files::copy(table, context, wrong)).collect(),
    })
}

fn line(text: &Spanned<TextOrList>, context: &Context<'_>, wrong: &mut Diagnostics) -> Option<CommandLine> {
    let is_empty = match text.get() {
        TextOrList::Text(line) => line.trim().is_empty(),
        TextOrList::List(words) => words.is_empty(),
    };
    if is_empty {
        wrong.push(Diagnostic::at(text.span(), "a command is missing").hint("such as `run = [\"make -C /src\"]`"));
        return None;
    }
    Some(config::command(text, context, wrong))
}
