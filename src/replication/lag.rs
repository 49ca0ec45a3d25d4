//! How far a replica is behind its master, for the log and for the files apart; what is not known is null.

use std::time::SystemTime;

use serde_json::{Value as Json, json};

use crate::error::Result;
use crate::serial::Serial;
use crate::store::Store;
use crate::store::changelog::Written;
use crate::store::wanted::FilesHere;

use super::HEARD;
use super::link::Known;
use super::replicas::Replica;

/// How far behind something is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Behind {
    /// In serials; `None` if the other end is not known.
    pub serials: Option<u64>,
    /// In seconds: how long ago it was not behind. `None` if it never was as far as is known.
    pub seconds: Option<f64>,
}

/// How far a replica is behind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lag {
    /// The log.
    pub metadata: Behind,
    /// The files; all none if nobody tells.
    pub files: Behind,
    /// How many files are missing, counted up to a bound.
    pub missing: Option<u64>,
}

impl Lag {
    /// As `/+status` shows it.
    pub fn to_json(&self) -> Json {
        let shown = |behind: &Behind| json!({"serials": behind.serials, "seconds": behind.seconds});
        let mut files = shown(&self.files);
        files["missing"] = self.missing.into();
        json!({"metadata": shown(&self.metadata), "files": files})
    }
}

/// That of this node, which is at `own` and was complete with its files last at `complete_at`.
pub(super) fn of_this_node(
    known: &Known,
    own: Option<Serial>,
    files: FilesHere,
    complete_at: Option<SystemTime>,
) -> Lag {
    let heard = seconds_since(known.updated_at).is_some_and(|ago| ago < HEARD.as_secs_f64());
    let master = known.serial.filter(|_| heard && known.trouble.is_none());
    let serials = master.map(|master| between(own, master));
    let seconds = match serials {
        Some(0) => Some(0.0),
        _ => seconds_since(known.in_sync_at),
    };
    let metadata = Behind { serials, seconds };
    let complete = if files.missing == 0 { seconds } else { seconds_since(complete_at) };
    let files_serials = master.map(|master| between(files.serial.min(own), master));
    let behind = Behind { serials: files_serials, seconds: complete };
    match known.brings_files {
        true => Lag { metadata, files: behind, missing: Some(files.missing) },
        false => Lag { metadata, files: Behind::default(), missing: None },
    }
}

/// That of a replica that polls here.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub(super) fn of_replica(store: &Store, replica: &Replica) -> Result<Lag> {
    let now = store.clock().now();
    let behind = |held: Option<Serial>| -> Result<Behind> {
        let serials = between(held, now);
        let seconds = match (serials, store.written(Serial::following(held))?) {
            (0, _) => Some(0.0),
            // The first that it lacks was written then.
            (_, Some(Written::Committed(at) | Written::Applied(at))) => seconds_since(Some(at)),
            (_, None) => None,
        };
        Ok(Behind { serials: Some(serials), seconds })
    };
    let files = match replica.files {
        Some(files) => behind(files.serial.min(replica.held))?,
        None => Behind::default(),
    };
    let missing = replica.files.map(|files| files.missing);
    Ok(Lag { metadata: behind(replica.held)?, files, missing })
}

fn between(held: Option<Serial>, end: Option<Serial>) -> u64 {
    u64::try_from(Serial::wire(end) - Serial::wire(held)).unwrap_or(0)
}

fn seconds_since(at: Option<SystemTime>) -> Option<f64> {
    at.map(|at| at.elapsed().unwrap_or_default().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(serial: u64) -> Option<Serial> {
        Serial::new(serial)
    }

    fn ago(seconds: u64) -> Option<SystemTime> {
        Some(SystemTime::now() - Duration::from_secs(seconds))
    }

    #[test]
    fn what_is_not_known_is_none() {
        let files = FilesHere { serial: at(7), missing: 0 };
        let lag = of_this_node(&Known::default(), at(7), files, None);
        assert_eq!(lag.metadata, Behind::default());
        assert_eq!(lag.files, Behind::default());
    }

    #[test]
    fn log_and_files_lag_each_for_itself() {
        let known = Known {
            serial: Some(at(9)),
            updated_at: ago(1),
            in_sync_at: ago(20),
            brings_files: true,
            ..Known::default()
        };
        let files = FilesHere { serial: at(4), missing: 3 };
        let lag = of_this_node(&known, at(9), files, ago(60));
        assert_eq!(lag.metadata, Behind { serials: Some(0), seconds: Some(0.0) });
        assert_eq!((lag.files.serials, lag.missing), (Some(5), Some(3)));
        assert!(59.0 < lag.files.seconds.expect("known"));
        let lag = of_this_node(&known, at(7), FilesHere { serial: at(7), missing: 0 }, None);
        assert_eq!((lag.metadata.serials, lag.files.serials), (Some(2), Some(2)));
        assert!(19.0 < lag.metadata.seconds.expect("known"));
    }

    #[test]
    fn a_master_that_is_silent_may_have_any_serial() {
        let known = Known {
            serial: Some(at(9)),
            updated_at: ago(100),
            in_sync_at: ago(100),
            ..Known::default()
        };
        let lag = of_this_node(&known, at(9), FilesHere { serial: at(9), missing: 0 }, None);
        assert_eq!(lag.metadata.serials, None);
        assert!(99.0 < lag.metadata.seconds.expect("known"));
    }
}
