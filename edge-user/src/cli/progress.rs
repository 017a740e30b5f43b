//! How far a long command is: a bar on a terminal's standard error, nothing anywhere else.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::Global;

/// Between two moves of what only turns.
const TURN: Duration = Duration::from_millis(100);

pub struct Progress(ProgressBar);

impl Progress {
    /// Gone when dropped.
    pub fn new(global: &Global) -> Progress {
        let target = if global.quiet > 0 { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        Progress(ProgressBar::with_draw_target(None, target))
    }

    /// So many bytes are to be read, where that is known.
    pub fn reading(&self, name: &str, bytes: Option<u64>) {
        match bytes {
            Some(bytes) => {
                self.0.set_length(bytes);
                self.style("{msg} {wide_bar} {bytes} of {total_bytes}");
            }
            None => self.style("{msg} {bytes}"),
        }
        self.0.set_message(format!("reading {name}"));
    }

    pub fn read(&self, bytes: usize) {
        self.0.inc(bytes as u64);
    }

    /// A step of which nobody knows how far it is.
    pub fn step(&self, what: String) {
        self.style("{spinner} {msg} {elapsed}");
        self.0.set_message(what);
        if !self.0.is_hidden() {
            self.0.enable_steady_tick(TURN);
        }
    }

    fn style(&self, template: &str) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
