//! Ctrl-C: once ends cleanly and keeps what is done, twice ends at once.

use std::sync::atomic::{AtomicBool, Ordering};

use kiln_plan::event::Cancel;

/// The status of a run that the user stopped.
pub(crate) const INTERRUPTED: u8 = 130;

/// Asks to be told of Ctrl-C and of a request to terminate.
pub(crate) fn install() -> Cancel {
    static ALREADY: AtomicBool = AtomicBool::new(false);
    let cancel = Cancel::default();
    let asked = cancel.clone();
    // Without a handler the signal ends the program, which the store survives as well.
    let _ = ctrlc::set_handler(move || {
        if ALREADY.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        asked.cancel();
    });
    cancel
}
