//! Ctrl-C: while the model works it stops the work, at other times the program; the second one always does.

use std::sync::atomic::{AtomicU8, Ordering};

const IDLE: u8 = 0;
const BUSY: u8 = 1;
const STOP: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(IDLE);

/// Exit status of a program that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;

/// Begins to listen. Where that is not possible, Ctrl-C ends the program as usual.
pub fn listen() {
    // Fails if it was called before.
    let _ = ctrlc::set_handler(|| {
        let first = STATE.compare_exchange(BUSY, STOP, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_err() {
            std::process::exit(INTERRUPTED.into());
        }
    });
}

/// The model works as long as this lives.
pub struct Busy(());

/// Begins a piece of work that Ctrl-C stops.
pub fn busy() -> Busy {
    STATE.store(BUSY, Ordering::Relaxed);
    Busy(())
}

impl Drop for Busy {
    fn drop(&mut self) {
        STATE.store(IDLE, Ordering::Relaxed);
    }
}

/// Whether the work is to stop.
pub fn requested() -> bool {
    STATE.load(Ordering::Relaxed) == STOP
}
