//! What a replica knows of itself; what it does not know is null.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value as Json, json};

use crate::error::Result;
use crate::serial::Serial;
use crate::store::wanted::{Counts, Failure};

use super::fetcher::Times;
use super::files::Files;
use super::filter::Filter;
use super::lag::{self, Lag};
use super::link::{Known, Link};
use super::sources::FilesWanted;
use super::wire;

/// How many failed files are listed.
const ERRORS_MAX: usize = 200;

/// The state of a replica.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// The master's URL.
    pub master_url: String,
    /// What is known of the master.
    pub known: Known,
    /// When this node was started.
    pub started_at: SystemTime,
    /// When the files were all here for the first time since the start, those apart that failed.
    pub files_first_at: Option<SystemTime>,
    /// When the files were all here last.
    pub files_at: Option<SystemTime>,
    /// How many files are in each state.
    pub files: Counts,
    /// Files that failed, at most a page of them.
    pub failures: Vec<Failure>,
    /// What of all files is to be here.
    pub choice: FilesWanted,
    /// How often each source gave wrong bytes.
    pub suspects: Json,
    /// How far it is behind.
    pub lag: Lag,
}

impl ReplicaStatus {
    pub(super) fn collect(
        link: &Link,
        files: &Files,
        times: Times,
        started_at: SystemTime,
    ) -> Result<Self> {
        let (known, store) = (link.known(), files.store());
        let (choice, suspects) = (files.choice, files.sources.suspects_json());
        let files = store.wanted_counts()?;
        let is_all_here = times.first_at.is_some() && files.wanted + files.failed == 0;
        let files_at = if is_all_here { Some(SystemTime::now()) } else { times.last_at };
        let own = store.clock().now();
        Ok(Self {
            master_url: link.url().to_owned(),
            started_at,
            files_first_at: times.first_at,
            files_at,
            lag: lag::of_this_node(&known, own, store.files_up_to()?, files_at),
            files,
            failures: store.failures(ERRORS_MAX)?,
            known,
            choice,
            suspects,
        })
    }

    /// When log and files were first and last known to be in step: the latest of the three times, if all are known.
    pub fn in_sync_at(&self) -> Option<SystemTime> {
        let (log, first, files) = (self.known.in_sync_at?, self.files_first_at?, self.files_at?);
        Some(log.max(first).max(files))
    }

    /// The fields that devpi shows of a replica, and a few of ours.
    pub fn to_json(&self) -> Json {
        let known = &self.known;
        let mut shown = Map::new();
        let both = [
            ("url", Json::from(self.master_url.as_str())),
            ("uuid", json!(known.uuid)),
            ("serial", known.serial.map_or(Json::Null, |serial| Serial::wire(serial).into())),
            ("serial-timestamp", time(known.serial_at)),
            ("contacted-at", time(known.asked_at)),
        ];
        for word in ["master", "primary"] {
            for (name, value) in &both {
                shown.insert(format!("{word}-{name}"), value.clone());
            }
            shown.insert(format!("update-from-{word}-at"), time(known.updated_at));
        }
        for (name, value) in [
            ("replica-started-at", time(Some(self.started_at))),
            ("replica-metadata-in-sync-at", time(known.in_sync_at)),
            ("replica-init-queue-finished-at", time(self.files_first_at)),
            ("replica-files-in-sync-at", time(self.files_at)),
            ("replica-in-sync-at", time(self.in_sync_at())),
            ("replication-errors", self.errors()),
            ("replication-trouble", json!(known.trouble)),
            ("lag", self.lag.to_json()),
            ("replication-state", known.state.as_str().into()),
            ("replication-state-reason", json!(known.trouble)),
            ("last-common-serial", known.common.map_or(Json::Null, |at| Serial::wire(at).into())),
            ("batches-rejected", known.rejected.into()),
            ("replicate", known.filter.as_ref().map_or(Json::Null, Filter::to_json)),
            ("files", self.choice.as_str().into()),
            ("suspect-sources", self.suspects.clone()),
            ("files-wanted", self.files.wanted.into()),
            ("files-failed", self.files.failed.into()),
            ("files-unavailable", self.files.unavailable.into()),
            ("files-gone", self.files.gone.into()),
            ("files-missing-bytes", self.files.bytes.into()),
            (
                "files-missing-since-serial",
                self.files.oldest.map_or(Json::Null, |s| s.get().into()),
            ),
        ] {
            shown.insert(name.to_owned(), value);
        }
        shown.into()
    }

    fn errors(&self) -> Json {
        let error = |failure: &Failure| {
            let path = failure.path.as_str();
            let url = format!("{}/{}", self.master_url, wire::quote_path(path));
            (path.to_owned(), json!({"url": url, "message": failure.reason, "relpath": path}))
        };
        self.failures.iter().map(error).collect::<Map<_, _>>().into()
    }
}

/// Seconds since 1970, or null.
fn time(at: Option<SystemTime>) -> Json {
    at.and_then(|at| at.duration_since(UNIX_EPOCH).ok())
        .map_or(Json::Null, |d| d.as_secs_f64().into())
}
