//! How this node stands, as a page: its own place, its master, its replicas, and what is wrong with what to do.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Map, Value as Json};

use crate::error::Result;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::pages::live::Live;
use crate::pages::status::{self, Down, Failed, StatusPage, Up};
use crate::replication::ReplicaStatus;
use crate::replication::handshake::WirePosition;
use crate::replication::lag::Lag;
use crate::replication::replicas::Replica;
use crate::serial::Serial;
use crate::store::changelog::Written;

use super::super::live::Mark;
use super::super::standing::{self, OWN, name_of, silent_for};
use super::super::status::leave_out_closed;
use super::super::{App, Node};
use super::{place, reader, respond};

/// After so many seconds the page is drawn again though nothing moved.
const EVERY: u32 = 3;
/// How many replicas are shown.
const REPLICAS: usize = 100;
/// How many failed files are shown.
const FAILED: usize = 50;

/// `GET /+status`
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn page(app: &App, request: &Request) -> Result<Response> {
    let live = Live { mark: Mark::of(app).text(), every: EVERY };
    let standing = standing::gather(app)?;
    let position = WirePosition::of(&app.store)?;
    let serial = app.store.clock().now();
    let written = serial.map(|serial| app.store.written(serial)).transpose()?.flatten();
    let committed = written.map(|(Written::Committed(at) | Written::Applied(at))| at);
    let failed = match &standing.own {
        Some(own) => failed(app, request, own)?,
        None => Vec::new(),
    };
    let down: Vec<Down> =
        standing.replicas.iter().take(REPLICAS).map(|one| down(app, one)).collect();
    let who = reader(app, request)?;
    let page = StatusPage {
        health: &standing.health,
        uuid: &app.uuid,
        outside_url: app.config.outside_url.as_deref(),
        epoch: app.store.epoch(),
        chain: &chain(&position),
        committed,
        takes_replicas: app.serves().is_some(),
        up: standing.own.as_ref().map(|own| up(app, own)),
        down: &down,
        more: standing.replicas.len().saturating_sub(REPLICAS),
        failed: &failed,
        lost: match &app.node {
            Node::Master { .. } => app.store.lost_count(),
            Node::Replica(_) => 0,
        },
        now: SystemTime::now(),
        live,
    };
    Ok(respond(200, serial, status::page(&place(app, request, &who), &page)))
}

fn chain(position: &WirePosition) -> String {
    position.to_json()["chain"].as_str().unwrap_or_default().to_owned()
}

fn up(app: &App, own: &ReplicaStatus) -> Up {
    let known = &own.known;
    Up {
        master: own.master_url.clone(),
        state: known.state.as_str(),
        trouble: known.trouble.clone(),
        serial: known.serial.map(Serial::wire),
        lag: own.lag,
        answered: known.answered_at,
        brings_files: known.brings_files,
        wanted: own.files.wanted,
        bytes: own.files.bytes,
        failed: own.files.failed,
        unavailable: own.files.unavailable,
        path: known.path.clone(),
        history: app.standing.history(OWN),
    }
}

fn down(app: &App, (uuid, replica, lag): &(String, Replica, Option<Lag>)) -> Down {
    Down {
        name: name_of(uuid, replica),
        url: replica.outside_url.clone(),
        uuid: uuid.clone(),
        ip: replica.remote_ip.clone(),
        version: replica.version.clone(),
        refusal: replica.refusal,
        silent: silent_for(replica),
        is_streaming: 0 < replica.streams,
        serial: Serial::wire(replica.held),
        lag: *lag,
        asked: replica.last_request,
        history: app.standing.history(uuid),
    }
}

/// Files that failed, of indexes that the asker may read.
fn failed(app: &App, request: &Request, own: &ReplicaStatus) -> Result<Vec<Failed>> {
    let all: BTreeMap<_, _> =
        own.failures.iter().map(|one| (one.path.as_str().to_owned(), one.reason.clone())).collect();
    let mut open: Map<String, Json> = all.keys().map(|path| (path.clone(), Json::Null)).collect();
    leave_out_closed(app, request, &mut open)?;
    let shown = all.into_iter().filter(|(path, _)| open.contains_key(path));
    Ok(shown.take(FAILED).map(|(path, reason)| Failed { path, reason }).collect())
}
