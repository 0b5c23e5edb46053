//! Commands that run while an image is built.

use std::collections::BTreeMap;

use super::images::{Context, absolute, choice, size};
use super::{config, expand, files};
use crate::diagnostic::{Diagnostic, Diagnostics, closest};
use crate::stack::image::CommandLine;
use crate::stack::run::{CacheMount, Network, Run, SecretMount, SecretSource, Shell};
use crate::stack::spanned::Spanned;
use crate::stack::vars::Vars;
use crate::stack::written::{
    CacheMountTable, CacheMountWritten, NetworkWritten, RunTable, RunWritten, SecretMountTable, SecretMountWritten,
    SecretTable, Text, TextOrList,
};

const NANOSECONDS: u64 = 1_000_000_000;
/// Bytes of a cache above which it is emptied.
const CACHE_SIZE: u64 = 10 << 30;

/// Returns a command; `None` where it is wrong.
pub(super) fn run(written: &Spanned<RunWritten>, context: &Context<'_>, wrong: &mut Diagnostics) -> Option<Run> {
    match written.get() {
        RunWritten::Command(command) => {
            let command = Spanned::new(written.span(), command.clone());
            let command = line(&command, context, wrong)?;
            Some(Run::new(command, written.span()))
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
    let network = table.network.as_ref().map(|network| self::network(network, vars, wrong)).unwrap_or_default();
    if let (Network::None, Some(age)) = (&network, &table.max_age) {
        let message = "`max-age` is for commands with a network: without one, the same inputs give the same result";
        wrong.push(Diagnostic::at(age.span(), message).hint("add `network = true`, or leave `max-age` out"));
    }
    let max_age = table.max_age.as_ref().map(|text| config::duration(text, vars, wrong) / NANOSECONDS);
    Some(Run {
        network,
        max_age,
        caches: table.cache.iter().map(|cache| self::cache(cache, context, wrong)).collect(),
        secrets: table.secrets.iter().map(|secret| self::secret(secret, context, wrong)).collect(),
        ssh: table.ssh,
        apt: table.apt,
        shell,
        env: config::variables(&table.env, context, wrong),
        user: table.user.as_ref().map(|text| (expand(text, vars, wrong), text.span())),
        workdir: table.workdir.as_ref().map(|text| absolute(text, vars, wrong)),
        timeout: table.timeout.as_ref().map(|text| config::duration(text, vars, wrong)),
        bind: table.bind.iter().filter_map(|table| files::copy(table, context, wrong)).collect(),
        ..Run::new(line(&table.command, context, wrong)?, table.command.span())
    })
}

fn network(written: &Spanned<NetworkWritten>, vars: &Vars, wrong: &mut Diagnostics) -> Network {
    match written.get() {
        NetworkWritten::Flag(false) => Network::None,
        NetworkWritten::Flag(true) => Network::Proxy(Vec::new()),
        NetworkWritten::Table(table) => {
            let mut allow: Vec<String> = table.allow.iter().map(|host| self::host(host, vars, wrong)).collect();
            allow.sort();
            Network::Proxy(allow)
        }
        NetworkWritten::Word(word) if word == "full" => Network::Full,
        NetworkWritten::Word(word) => {
            let message = format!("`{word}` is not a network");
            let hint = "valid are `true`, `false`, `\"full\"` and `{ allow = [\"HOST:PORT\"] }`";
            wrong.push(Diagnostic::at(written.span(), message).hint(hint));
            Network::None
        }
    }
}

fn host(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> String {
    let host = expand(text, vars, wrong);
    // `[::1]:80`, `host:80`, `host`, `::1`.
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
        _ => (host.as_str(), None),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if name.is_empty() || !name.chars().all(is_name) || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        let message = format!("`{host}` is not a host");
        wrong.push(Diagnostic::at(text.span(), message).hint("`HOST` or `HOST:PORT`, such as `localhost:5000`"));
    }
    host
}

fn cache(written: &Spanned<CacheMountWritten>, context: &Context<'_>, wrong: &mut Diagnostics) -> CacheMount {
    let vars = context.vars;
    let table = match written.get() {
        CacheMountWritten::Path(path) => {
            CacheMountTable { to: Spanned::new(written.span(), path.clone()), id: None, sharing: None, max_size: None }
        }
        CacheMountWritten::Table(table) => table.clone(),
    };
    let sharing = [("locked", false), ("private", true)];
    CacheMount {
        to: absolute(&table.to, vars, wrong),
        span: table.to.span(),
        id: table.id.as_ref().map(|text| {
            let id = expand(text, vars, wrong);
            if id.is_empty() || id.contains(char::is_control) {
                wrong.push(Diagnostic::at(text.span(), "an `id` is a name of letters, digits and the like"));
            }
            id
        }),
        is_private: choice(table.sharing.as_ref(), &sharing, "`sharing`", vars, wrong),
        max_size: table.max_size.as_ref().and_then(|text| size(text, vars, wrong)).unwrap_or(CACHE_SIZE),
    }
}

fn secret(written: &Spanned<SecretMountWritten>, context: &Context<'_>, wrong: &mut Diagnostics) -> SecretMount {
    let vars = context.vars;
    let table = match written.get() {
        SecretMountWritten::Name(name) => {
            SecretMountTable { name: Spanned::new(written.span(), name.clone()), to: None, mode: None }
        }
        SecretMountWritten::Table(table) => table.clone(),
    };
    let name = expand(&table.name, vars, wrong);
    let declared = &context.file.secrets;
    if !declared.keys().any(|known| *known.get() == name) {
        let close = closest(&name, declared.keys().map(|name| name.as_str()));
        let hint = match close {
            Some(close) => format!("did you mean `{close}`?"),
            None => format!(
                "declare it: `[secrets]` with `{name} = {{ file = \"PATH\" }}`, `{{ env = \"NAME\" }}` or `{{ command = [...] }}`"
            ),
        };
        let message = format!("the stack declares no secret `{name}`");
        wrong.push(Diagnostic::at(table.name.span(), message).hint(hint));
    }
    let to = table.to.as_ref().map(|to| absolute(to, vars, wrong));
    SecretMount {
        to: to.unwrap_or_else(|| format!("/run/secrets/{name}")),
        span: table.to.as_ref().unwrap_or(&table.name).span(),
        mode: table.mode.as_ref().and_then(|text| files::mode(text, vars, wrong)).unwrap_or(0o400),
        name,
    }
}

/// Returns the sources of secrets.
pub(super) fn secrets(
    written: &BTreeMap<Spanned<String>, SecretTable>,
    vars: &Vars,
    wrong: &mut Diagnostics,
) -> BTreeMap<String, SecretSource> {
    let mut secrets = BTreeMap::new();
    for (name, table) in written {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.get().is_empty() || !name.get().chars().all(is_plain) || name.get().starts_with('.') {
            let message = format!("`{}` is not a name for a secret", name.get());
            wrong.push(Diagnostic::at(name.span(), message).hint("letters, digits, `-`, `_` and `.`"));
        }
        let source = match (&table.file, &table.env, &table.command) {
            (Some(file), None, None) => SecretSource::File(expand(file, vars, wrong)),
            (None, Some(env), None) => SecretSource::Env(expand(env, vars, wrong)),
            (None, None, Some(command)) => SecretSource::Command(match command.get() {
                TextOrList::Text(line) => CommandLine::Shell(line.clone()),
                TextOrList::List(words) => CommandLine::Words(words.iter().map(|word| word.get().clone()).collect()),
            }),
            _ => {
                let message = format!("the secret `{}` needs one source", name.get());
                let hint = "one of `file = \"PATH\"`, `env = \"NAME\"` and `command = [...]`";
                wrong.push(Diagnostic::at(name.span(), message).hint(hint));
                continue;
            }
        };
        secrets.insert(name.get().clone(), source);
    }
    secrets
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
