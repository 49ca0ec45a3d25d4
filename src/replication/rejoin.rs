//! A node that has entries of its own follows another one again: both find the last serial that they share, what comes
//! after it is put aside, and the log goes back to it. Nobody does this but by command.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::error::{Error, Kind, Result};
use crate::http::client::{Client, ClientOptions, Timeouts};
use crate::serial::Serial;
use crate::store::timeline::{Fence, Timeline};
use crate::store::{Store, Writer};

use super::auth::Signer;
use super::handshake;
use super::link::{self, CONNECT, Link};
use super::lost::{self, Lost};
use super::wire;

/// How long the new master may take for an answer.
const ASK: std::time::Duration = std::time::Duration::from_secs(10);

/// The node that is to be followed, as it was met.
pub struct Met {
    link: Link,
    /// The uuid of the master whose log it has; its own if it is one.
    pub master_uuid: String,
    /// Its timelines, oldest first.
    pub timelines: Vec<Timeline>,
    /// The last serial that both share.
    pub common: Option<Serial>,
    /// The last serial of its log.
    pub head: Option<Serial>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejoined {
    /// The last serial that both nodes share.
    pub common: Option<Serial>,
    /// What this node alone had.
    pub lost: Lost,
}

impl Rejoined {
    /// For programs.
    pub fn to_json(&self) -> Json {
        json!({
            "last-common-serial": Serial::wire(self.common),
            "entries-saved": self.lost.entries,
            "files-saved": self.lost.files,
            "folder": self.lost.folder.as_ref().map(|folder| folder.display().to_string()),
        })
    }

    /// For people.
    pub fn shown(&self) -> String {
        match &self.lost.folder {
            None => "this node had nothing that the other one has not".to_owned(),
            Some(folder) => format!(
                "{} changes that this node alone had, after serial {}, were taken back; they are saved in {} with {} \
                 files",
                self.lost.entries,
                Serial::wire(self.common),
                folder.display(),
                self.lost.files
            ),
        }
    }
}

/// Meets the node at `url` as `signer`, and compares histories; nothing is changed.
///
/// # Errors
/// `Kind::BadGateway` if it does not answer; `Kind::Conflict` if it is no node that can be followed.
pub fn meet(store: &Store, url: &str, client: ClientOptions, signer: Signer) -> Result<Met> {
    let own_uuid = signer.uuid().to_owned();
    let link = Link::new(Client::new(client)?, url, signer, None, None);
    let timeouts = Timeouts { connect: CONNECT, response_head: ASK, per_read: ASK };
    let answer = link.get(wire::TIMELINES, &[], timeouts).map_err(|e| link.away("it", &e))?;
    let (status, headers) = (answer.status, answer.headers.clone());
    if status != 200 {
        let message = format!("{url} answered {status}: {}", link::excerpt(answer));
        return Err(Error::new(Kind::BadGateway, message));
    }
    link::drain(answer);
    let master = wire::master_of(&headers).unwrap_or_default().to_owned();
    let refuse = |why: String| Err(Error::new(Kind::Conflict, format!("{url} {why}")));
    if headers.get(wire::UUID) == Some(&own_uuid) {
        return refuse("leads to this node itself".to_owned());
    }
    if master == own_uuid {
        return refuse("follows this node: promote it first".to_owned());
    }
    let head = wire::serial_of(&headers).flatten();
    let timelines = handshake::tell_timelines(&link)?;
    let epoch = timelines.last().map_or(0, |timeline| timeline.epoch);
    if epoch < store.epoch() {
        let own = store.epoch();
        return refuse(format!(
            "is at epoch {epoch} and this node at {own}: it is the older one of the two"
        ));
    }
    let common = handshake::last_common(&link, store, head)?;
    Ok(Met { link, master_uuid: master, timelines, common, head })
}

/// Makes the history of this node the beginning of the one that was met. What it alone has is saved below `dir` first;
/// then, if it `is_writer`, it is fenced; then the log goes back. Each step leaves a state from which the same can be
/// done again.
///
/// # Errors
/// `Kind::Conflict` if there is no common history and this node's is not empty, or the log does not reach back;
/// `Kind::Internal` if the disk or the database fails.
pub fn rejoin(
    writer: &Writer,
    met: &Met,
    uuid: &str,
    dir: &Path,
    is_writer: bool,
) -> Result<Rejoined> {
    let store: &Arc<Store> = writer.store();
    let url = met.link.url();
    let about = json!({
        "uuid": uuid,
        "epoch": store.epoch(),
        "follows": url,
        "follows-uuid": met.master_uuid,
        "follows-epoch": met.timelines.last().map(|timeline| timeline.epoch),
    });
    let lost = lost::save(store, met.common, dir, &about)?;
    if let (true, Some(newest)) = (is_writer, met.timelines.last()) {
        writer.set_fence(&Fence {
            epoch: newest.epoch,
            timeline: newest.id.clone(),
            uuid: met.master_uuid.clone(),
            url: Some(url.to_owned()),
        })?;
    }
    if lost.folder.is_some() {
        let rewound = writer.rewind(met.common, &|_| true)?;
        log::warn!(
            "took back {} entries with {} keys, down to serial {}",
            rewound.entries,
            rewound.keys,
            Serial::wire(met.common)
        );
    }
    Ok(Rejoined { common: met.common, lost })
}
