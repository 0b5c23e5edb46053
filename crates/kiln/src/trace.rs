//! Spans and events of `tracing`, for whoever looks for the cause of something. Without `-vv` and `KILN_LOG` no subscriber
//! is installed, and they cost a comparison each.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::arguments::Global;
use crate::render::Failure;

/// The variable that chooses spans, with the directives of `tracing_subscriber::EnvFilter`.
const VARIABLE: &str = "KILN_LOG";
/// Spans that `-vv` shows: those of kiln itself.
const OWN: &str = "kiln=debug,kiln_engine=debug,kiln_oci=debug,kiln_registry=debug,kiln_store=debug,kiln_wheel=debug";

/// Tells if spans are shown.
pub(crate) fn is_on(global: &Global) -> bool {
    global.verbose >= 2 || directives().is_some()
}

/// Shows spans on stderr as they end, if they are asked for.
pub(crate) fn install(global: &Global) -> Result<(), Failure> {
    if !is_on(global) {
        return Ok(());
    }
    let directives = directives();
    let filter = EnvFilter::builder().parse(directives.as_deref().unwrap_or(OWN)).map_err(|error| {
        let hint = "write levels, such as `debug`, or targets with levels: `kiln_registry=debug,kiln_engine=debug`";
        Failure::usage(format!("`{VARIABLE}` cannot be read: {error}")).hint(hint)
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(global.color() && std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Nothing else in this program installs one.
    subscriber.try_init().map_err(|error| Failure::usage(format!("`{VARIABLE}`: {error}")))
}

fn directives() -> Option<String> {
    let set = std::env::var_os(VARIABLE).filter(|value| !value.is_empty())?;
    Some(set.to_string_lossy().into_owned())
}
