//! How far long work has come: one line that is written over on a terminal, a line of the log now and then elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// How often the line on a terminal changes.
const REDRAW: Duration = Duration::from_millis(200);
/// How often the log tells where there is no terminal.
const LOG_EACH: Duration = Duration::from_secs(10);

/// Counts things that are done and shows how many.
#[derive(Debug)]
pub struct Progress {
    what: String,
    total: Option<u64>,
    done: u64,
    is_terminal: bool,
    shown_at: Instant,
    is_drawn: bool,
}

impl Progress {
    /// Begins: `what` is being done, to `total` things if their number is known.
    pub fn new(what: impl Into<String>, total: Option<u64>) -> Self {
        Self {
            what: what.into(),
            total,
            done: 0,
            is_terminal: std::io::stderr().is_terminal(),
            shown_at: Instant::now(),
            is_drawn: false,
        }
    }

    /// So many more are done.
    pub fn add(&mut self, more: u64) {
        self.done += more;
        let pause = if self.is_terminal { REDRAW } else { LOG_EACH };
        if self.shown_at.elapsed() < pause {
            return;
        }
        self.shown_at = Instant::now();
        if self.is_terminal {
            self.is_drawn = true;
            let mut err = std::io::stderr().lock();
            // Nobody is told where even that is refused.
            let _ = write!(err, "\r\x1b[K{}", self.line()).and_then(|()| err.flush());
        } else {
            log::info!("{}", self.line());
        }
    }

    fn line(&self) -> String {
        match self.total {
            Some(total) => format!("{}: {} of {total}", self.what, self.done),
            None => format!("{}: {}", self.what, self.done),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_drawn {
            eprintln!("\r\x1b[K{}", self.line());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_how_many_of_how_many() {
        let mut progress = Progress::new("files", Some(7));
        progress.add(2);
        progress.add(1);
        assert_eq!(progress.line(), "files: 3 of 7");
        assert_eq!(Progress::new("files", None).line(), "files: 0");
    }
}
