//! What happens during a build. The terminal, the report and the tests read the same events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::digest::Digest;
use crate::step::StepKey;

/// Something that takes events. Called from many threads; it must not block for long.
pub trait Reporter: Send + Sync {
    /// One thing happened.
    fn event(&self, event: Event);

    /// Tells if the events of single steps are wanted. There may be as many of them as there are wheels in a stack.
    fn follows_steps(&self) -> bool {
        false
    }
}

/// Identifies one activity between its start and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Activity(pub u64);

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Something began that takes time.
    Started {
        /// Which.
        activity: Activity,
        /// A verb: `fetch`, `splice`, `bootstrap`, `resolve`, `copy`, `write`.
        verb: &'static str,
        /// What it is done to.
        subject: String,
        /// Bytes in all, where known.
        bytes: Option<u64>,
    },
    /// It got further.
    Progressed {
        /// Which.
        activity: Activity,
        /// Bytes more than before.
        bytes: u64,
    },
    /// It ended, well or not; an error reaches the caller in another way.
    Finished {
        /// Which.
        activity: Activity,
    },
    /// A program is started.
    Run {
        /// The activity that runs it.
        activity: Activity,
        /// The path or the name of the program.
        program: String,
        /// Its arguments, without secrets.
        arguments: Vec<String>,
    },
    /// A line of a program that kiln runs.
    Output {
        /// Which activity runs it.
        activity: Activity,
        /// The line without its end.
        line: String,
    },
    /// A request or a transfer failed and is attempted again.
    Retry {
        /// The purpose of the request: `pushing sha256:0123... to ghcr.io/acme/train`.
        subject: String,
        /// The server.
        host: String,
        /// The number of the attempt that follows, from 2 on.
        attempt: u32,
        /// Attempts that are made at most.
        of: u32,
        /// A clause that follows the server's name: `answered 503 Service Unavailable`.
        cause: String,
        /// The time until the attempt.
        pause: Duration,
    },
    /// The product of a step is known without performing the step.
    Settled {
        /// The step.
        step: StepName,
        /// The origin of the product.
        origin: Origin,
    },
    /// A step was performed.
    Performed {
        /// The step.
        step: StepName,
        /// Bytes that the product names.
        bytes: u64,
        /// The time that it took.
        time: Duration,
    },
    /// Another process has what this one needs.
    Waiting {
        /// The step, or another activity that cannot begin.
        subject: String,
        /// A clause: the reason to wait.
        reason: &'static str,
    },
    /// Something went on all the same, and is worth knowing.
    Warning {
        /// What.
        message: String,
    },
    /// An image is ready.
    Image {
        /// Its name in the stack.
        name: String,
        /// The digest of its index or manifest.
        digest: Digest,
        /// Whether nothing had to be done.
        unchanged: bool,
    },
}

/// Names a step.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepName {
    /// The kind: `wheels`, `prune`.
    pub kind: &'static str,
    /// The subject, as text for people.
    pub subject: String,
    /// The key; `None` where the product is declared and something that the step reads is unknown.
    pub key: Option<StepKey>,
}

/// The origin of a product that is known without performing its step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The step declares it.
    Declared,
    /// This store recorded it.
    Local,
    /// A cache recorded it.
    Remote,
}

/// Says that the user wants to stop. Clones share one flag.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

/// The user wants to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Cancelled;

impl Cancel {
    /// Asks everything to stop at the next good moment.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// An error, once stopping was asked for.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.0.load(Ordering::Relaxed) { Err(Cancelled) } else { Ok(()) }
    }
}

impl From<Cancelled> for std::io::Error {
    fn from(cancelled: Cancelled) -> Self {
        Self::other(cancelled)
    }
}

/// One activity while it goes on: started when made, finished when dropped.
pub struct Work<'a> {
    reporter: &'a dyn Reporter,
    cancel: &'a Cancel,
    activity: Activity,
}

impl<'a> Work<'a> {
    /// Says that something begins.
    pub fn start(
        reporter: &'a dyn Reporter,
        cancel: &'a Cancel,
        verb: &'static str,
        subject: impl Into<String>,
        bytes: Option<u64>,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let activity = Activity(NEXT.fetch_add(1, Ordering::Relaxed));
        reporter.event(Event::Started { activity, verb, subject: subject.into(), bytes });
        Self { reporter, cancel, activity }
    }

    /// Says that it got further by some bytes; an error once stopping was asked for.
    pub fn advance(&self, bytes: u64) -> Result<(), Cancelled> {
        self.reporter.event(Event::Progressed { activity: self.activity, bytes });
        self.cancel.check()
    }

    /// Returns the reporter of the activity.
    pub fn reporter(&self) -> &dyn Reporter {
        self.reporter
    }

    /// Whether the user wants to stop.
    pub fn cancel(&self) -> &Cancel {
        self.cancel
    }

    /// Reports the start of a program that does it. The arguments hold no secrets.
    pub fn run(&self, program: String, arguments: Vec<String>) {
        self.reporter.event(Event::Run { activity: self.activity, program, arguments });
    }

    /// Passes on a line of the program that does it.
    pub fn output(&self, line: &str) {
        self.reporter.event(Event::Output { activity: self.activity, line: line.to_owned() });
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.reporter.event(Event::Finished { activity: self.activity });
    }
}

/// A reporter with several owners, for clients that outlive a borrow. The default one is silent.
#[derive(Clone)]
pub struct SharedReporter(Arc<dyn Reporter>);

impl SharedReporter {
    /// Shares a reporter.
    pub fn new(reporter: Arc<dyn Reporter>) -> Self {
        Self(reporter)
    }
}

impl Default for SharedReporter {
    fn default() -> Self {
        Self(Arc::new(Silent))
    }
}

impl std::fmt::Debug for SharedReporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedReporter")
    }
}

impl Reporter for SharedReporter {
    fn event(&self, event: Event) {
        self.0.event(event);
    }
}

/// A reporter that says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn event(&self, _: Event) {}
}
