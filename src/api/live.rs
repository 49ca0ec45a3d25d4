//! `GET /+live?mark=M`: answers when this node has moved since the mark. Pages that update themselves ask it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::{Park, Reply, Response};
use crate::replication::Master;
use crate::serial::Serial;

use super::receipts::Call;
use super::wait::timeout;
use super::{App, ask, at};

/// How long is waited if the request does not say, and at most.
const WAIT: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(60));

/// Where a node stands: its own serial, and how often it heard anything new of its replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    serial: Option<Serial>,
    moves: u64,
}

impl Mark {
    /// Where this node stands now.
    pub fn of(app: &App) -> Self {
        // Moves first: whatever comes between is seen by the next look.
        let moves = app.serves().map_or(0, |master| master.replicas().moves());
        Self { serial: app.store.clock().now(), moves }
    }
    /// As pages carry it.
    pub fn text(self) -> String {
        format!("{}.{}", Serial::wire(self.serial), self.moves)
    }
    fn parse(text: &str) -> Option<Self> {
        let (serial, moves) = text.split_once('.')?;
        let serial = Serial::from_wire(serial.parse().ok()?)?;
        Some(Self { serial, moves: moves.parse().ok()? })
    }
}

/// `GET /+live?mark=M[&timeout=S]`: at once if this node stands elsewhere than at the mark, else as soon as it moves, at
/// the latest when the time is over. The mark is none of another node, or of this one before it was started again.
///
/// # Errors
/// `Kind::Invalid` for a parameter that is none.
pub fn wait(app: &Call, request: &Request) -> Result<Reply> {
    let text = ask::parameter(request, "mark").unwrap_or_default();
    let mark =
        Mark::parse(&text).ok_or_else(|| Error::invalid(format!("'mark' is no mark: '{text}'")))?;
    let deadline = Deadline::after(timeout(request, WAIT.0, WAIT.1)?);
    if Mark::of(app) != mark || deadline.is_past() {
        return Ok(Reply::Now(answer(app)));
    }
    let watch = app.serves().map(|master: &Master| master.replicas().watch(mark.moves));
    let bell = watch.as_ref().map(|watch| watch.bell.clone());
    let (app, wanted) = (Arc::clone(app), Some(Serial::following(mark.serial)));
    let resume = Box::new(move || {
        drop(watch);
        Reply::Now(answer(&app))
    });
    Ok(Reply::Park(Park { wanted, bell, deadline, resume }))
}

fn answer(app: &App) -> Response {
    let mark = Mark::of(app);
    let result = json!({"mark": mark.text(), "serial": Serial::wire(mark.serial)});
    at(mark.serial, ask::result(200, "live", result)).with_header("Cache-Control", "no-store")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_the_way_through_a_page() {
        for (serial, moves) in [(None, 0), (Some(0), 7), (Some(41), u64::MAX)] {
            let mark = Mark { serial: serial.and_then(Serial::new), moves };
            assert_eq!(Mark::parse(&mark.text()), Some(mark));
        }
        for bad in ["", "1", "1.x", "-2.0", "x.1", "1.-1"] {
            assert_eq!(Mark::parse(bad), None, "{bad}");
        }
    }
}
