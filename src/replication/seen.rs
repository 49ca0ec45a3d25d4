//! What a replica saw of its master last, kept for the day on which the master is gone: it is the bill of a promotion.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::serial::Serial;
use crate::store::{Store, Writer};

use super::link::Known;

/// The name among the local values.
const NAME: &str = "master-seen";
/// It is written down at most so often.
const PAUSE: Duration = Duration::from_secs(1);

/// The master as it was heard of last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Where.
    pub url: String,
    /// Its uuid.
    pub uuid: Option<String>,
    /// Its last serial; -1 for an empty log.
    pub serial: i64,
    /// When, in seconds since 1970.
    pub at: f64,
}

impl Seen {
    /// What is known of the master at `url`; `None` if it never answered a poll.
    pub fn of(url: &str, known: &Known) -> Option<Self> {
        let at = known.updated_at.max(known.serial_at)?;
        Some(Self {
            url: url.to_owned(),
            uuid: known.uuid.clone(),
            serial: Serial::wire(known.serial?),
            at: at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
        })
    }

    /// What was written down.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn load(store: &Store) -> Result<Option<Self>> {
        Ok(store.local_value(NAME)?.and_then(|json| serde_json::from_slice(&json).ok()))
    }

    /// How many seconds ago that was.
    pub fn seconds_ago(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        (now - self.at).max(0.0) as u64
    }
}

/// Writes down what is seen, at most once a second.
#[derive(Default)]
pub struct Diary {
    last: Option<(Instant, Seen)>,
}

impl Diary {
    /// Notes what is seen, if it is time or `is_last`. It is not synced: a power cut may cost the last word.
    pub fn note(&mut self, writer: &Writer, seen: Option<Seen>, is_last: bool) {
        let Some(seen) = seen else { return };
        let is_early = self.last.as_ref().is_some_and(|(at, _)| at.elapsed() < PAUSE);
        let is_same = self.last.as_ref().is_some_and(|(_, last)| *last == seen);
        if is_same || is_early && !is_last {
            return;
        }
        let written = serde_json::to_vec(&seen)
            .map_err(|e| Error::internal("JSON").caused_by(e))
            .and_then(|json| writer.note_local_value(NAME, &json));
        if let Err(error) = written {
            log::warn!("what the master is at cannot be written down: {error}");
        }
        self.last = Some((Instant::now(), seen));
    }
}
