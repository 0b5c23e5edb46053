//! Progress for people: a bar for each activity on a terminal, a line for each that ends elsewhere.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use kiln_plan::event::{Activity, Event, Reporter, SharedReporter};
use kiln_plan::size;

use crate::arguments::Global;
use crate::render::plain;
use crate::trace;

/// Activities shorter than this leave no line behind.
const WORTH_A_LINE: Duration = Duration::from_millis(300);
/// Pauses shorter than this are no reason to tell of a first failure.
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// Requests that are under way at once fail alike: the same is said once in this time.
const SAID_AGAIN: Duration = Duration::from_secs(10);
/// How often the bars are drawn, in times a second.
const DRAWS: u8 = 12;

/// Shows events on stderr.
pub(crate) struct Terminal {
    bars: Option<MultiProgress>,
    quiet: bool,
    verbose: bool,
    color: bool,
    running: Mutex<HashMap<Activity, Running>>,
    /// What was warned of: planning looks at the same things more than once.
    warned: Mutex<HashSet<String>>,
    /// Times at which retries were printed, by host, attempt and cause.
    retried: Mutex<HashMap<(String, u32, String), Instant>>,
}

struct Running {
    bar: Option<ProgressBar>,
    title: String,
    since: Instant,
    bytes: u64,
    last_line: Option<String>,
}

impl Terminal {
    pub(crate) fn new(global: &Global) -> Self {
        use std::io::IsTerminal;
        // Bars and the lines of spans would overwrite one another.
        let bars = std::io::stderr().is_terminal() && !global.quiet && !trace::is_on(global);
        Self {
            bars: bars.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS))),
            quiet: global.quiet,
            verbose: global.verbose > 0,
            color: global.color(),
            running: Mutex::new(HashMap::new()),
            warned: Mutex::default(),
            retried: Mutex::default(),
        }
    }

    /// Makes a terminal that registries report to as well.
    pub(crate) fn shared(global: &Global) -> SharedReporter {
        SharedReporter::new(Arc::new(Self::new(global)))
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Activity, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[expect(clippy::print_stderr, reason = "this is where progress reaches the user")]
    fn line(&self, line: &str) {
        match &self.bars {
            // A terminal that has gone away is no reason to stop.
            Some(bars) => drop(bars.println(line)),
            None => eprintln!("{line}"),
        }
    }

    /// Does something while nothing is shown: events wait.
    pub(crate) fn hidden<T>(&self, act: impl FnOnce() -> T) -> T {
        match &self.bars {
            Some(bars) => bars.suspend(act),
            None => act(),
        }
    }

    /// Returns true if such a retry was not printed lately.
    fn is_news(&self, retry: (String, u32, String)) -> bool {
        let mut retried = self.retried.lock().unwrap_or_else(PoisonError::into_inner);
        retried.insert(retry, Instant::now()).is_none_or(|said| said.elapsed() > SAID_AGAIN)
    }

    fn bar(&self, title: &str, bytes: Option<u64>) -> Option<ProgressBar> {
        let bars = self.bars.as_ref()?;
        let bar = match bytes.filter(|bytes| *bytes > 0) {
            Some(bytes) => {
                let bar = ProgressBar::new(bytes);
                let template = "{prefix:44} {bar:20} {decimal_bytes:>9}/{decimal_total_bytes:9} {decimal_bytes_per_sec:>11} {eta:>4}";
                bar.set_style(style(template).progress_chars("=> "));
                bar
            }
            None => {
                let bar = ProgressBar::new_spinner();
                bar.set_style(style("{prefix:44} {spinner} {elapsed:>4} {wide_msg}"));
                bar
            }
        };
        let bar = bars.add(bar);
        bar.set_prefix(shorten(title, 44));
        bar.enable_steady_tick(Duration::from_millis(250));
        Some(bar)
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

impl Reporter for Terminal {
    fn event(&self, event: Event) {
        match event {
            Event::Started { activity, verb, subject, bytes } => {
                let title = plain(&format!("{verb} {subject}"));
                let running =
                    Running { bar: self.bar(&title, bytes), title, since: Instant::now(), bytes: 0, last_line: None };
                self.running().insert(activity, running);
            }
            Event::Progressed { activity, bytes } => {
                if let Some(running) = self.running().get_mut(&activity) {
                    running.bytes += bytes;
                    if let Some(bar) = &running.bar {
                        bar.inc(bytes);
                    }
                }
            }
            Event::Finished { activity } => {
                let Some(done) = self.running().remove(&activity) else { return };
                if let Some(bar) = done.bar {
                    bar.finish_and_clear();
                }
                let took = done.since.elapsed();
                if !self.quiet && took >= WORTH_A_LINE {
                    self.line(&summary(&done.title, done.bytes, took));
                }
            }
            Event::Run { program, arguments, .. } => {
                if self.verbose {
                    self.line(&format!("  $ {}", plain(&command_line(&program, &arguments))));
                }
            }
            Event::Output { activity, line } => {
                if self.verbose {
                    self.line(&format!("  {}", plain(&line)));
                } else if let Some(running) = self.running().get_mut(&activity) {
                    if let Some(bar) = &running.bar {
                        bar.set_message(plain(&line));
                    }
                    running.last_line = Some(line);
                }
            }
            Event::Retry { subject, host, attempt, of, cause, pause } => {
                let seconds = pause.as_secs_f64();
                let line = format!("{subject}: attempt {attempt} of {of} in {seconds:.1} s: it {cause}");
                // The first failure alone is no news where the next attempt follows at once.
                let matters = attempt > 2 || pause >= LONG_PAUSE;
                if self.verbose || (matters && !self.quiet && self.is_news((host, attempt, cause))) {
                    self.line(&plain(&line));
                }
            }
            Event::Waiting { subject, reason } => {
                if !self.quiet {
                    self.line(&format!("{}: {reason}; waiting", plain(&subject)));
                }
            }
            Event::Warning { message } => {
                if !self.warned.lock().unwrap_or_else(PoisonError::into_inner).insert(message.clone()) {
                    return;
                }
                let word = if self.color { "\x1b[1;33mwarning:\x1b[0m" } else { "warning:" };
                self.line(&format!("{word} {}", plain(&message)));
            }
            Event::Settled { .. } | Event::Performed { .. } | Event::Image { .. } => {}
        }
    }
}

/// Returns a command as a shell reads it, on one line.
fn command_line(program: &str, arguments: &[String]) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-+=:,./@%^~*".contains(c);
    let quoted = |word: &str| match word {
        "" => "''".to_owned(),
        word if word.chars().all(is_plain) && !word.starts_with(['~', '=', '*']) => word.to_owned(),
        word if word.chars().any(char::is_control) => {
            format!("$'{}'", word.chars().map(escaped).collect::<String>())
        }
        word => format!("'{}'", word.replace('\'', "'\\''")),
    };
    std::iter::once(program).chain(arguments.iter().map(String::as_str)).map(quoted).collect::<Vec<_>>().join(" ")
}

/// Escapes a character for `$'...'` of a shell.
fn escaped(c: char) -> String {
    match c {
        '\n' => "\\n".to_owned(),
        '\\' | '\'' => format!("\\{c}"),
        c if c.is_control() => format!("\\x{:02x}", u32::from(c)),
        c => c.to_string(),
    }
}

fn summary(title: &str, bytes: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    let mut line = format!("{title}: {seconds:.1} s");
    if bytes > 0 {
        line.push_str(&format!(", {}, {}/s", size::format(bytes), size::format((bytes as f64 / seconds) as u64)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_a_shell_reads_it_on_one_line() {
        let arguments = ["-m", "pip", ":all:", "", "two words", "it's", "a\n'b' \"c\""].map(str::to_owned);
        let shown = command_line("/usr/bin/python3", &arguments);
        assert_eq!(shown, r#"/usr/bin/python3 -m pip :all: '' 'two words' 'it'\''s' $'a\n\'b\' "c"'"#);
    }
}
