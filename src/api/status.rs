//! `GET /+status`: what this node knows of itself and of the others; what is not known is null.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value as Json, json};

use crate::error::Result;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::model::index;
use crate::names::IndexName;
use crate::replication::handshake::WirePosition;
use crate::replication::{Master, wire};
use crate::serial::Serial;
use crate::store::key::FilePath;

use super::{App, Node, ask, at};

/// `GET /+status`.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn status(app: &App, request: &Request) -> Result<Response> {
    let clock = app.store.clock();
    let serial = Serial::wire(clock.now());
    let committed = unix(clock.moved_at());
    let config = &app.config;
    let address = config.listen.first();
    let mut shown = Map::new();
    let mut put = |key: &str, value: Json| {
        shown.insert(key.to_owned(), value);
    };
    put("serverdir", config.serverdir.display().to_string().into());
    put("uuid", app.uuid.as_str().into());
    put(
        "versioninfo",
        json!({
            "devpi-server": wire::DEVPI_VERSION,
            "twinpi": wire::THIS_VERSION,
        }),
    );
    put(
        "server-code",
        std::env::current_exe().map_or(Json::Null, |path| path.display().to_string().into()),
    );
    put("host", address.map_or(Json::Null, |a| a.ip().to_string().into()));
    put("port", address.map_or(Json::Null, |a| a.port().into()));
    put("outside-url", config.outside_url.as_deref().map_or(Json::Null, Json::from));
    put("serial", serial.into());
    put("last-commit-timestamp", committed.into());
    // What others do in events after a commit is done inside it here, so events never lag.
    put("event-serial", serial.into());
    put("event-serial-timestamp", committed.into());
    put("event-serial-in-sync-at", unix(SystemTime::now()).into());
    put("metrics", metrics(app)?);
    put("position", position(app)?);
    put(
        "fenced",
        app.store
            .fence()
            .map_or(Json::Null, |fence| json!({"epoch": fence.epoch, "url": fence.url})),
    );
    put("polling_replicas", app.serves().map_or(json!({}), Master::replicas_json));
    match &app.node {
        Node::Master { .. } => put("role", "MASTER".into()),
        Node::Replica(replica) => {
            put("role", "REPLICA".into());
            if let Json::Object(mut fields) = replica.status_json()? {
                if let Some(Json::Object(errors)) = fields.get_mut("replication-errors") {
                    leave_out_closed(app, request, errors)?;
                }
                shown.extend(fields);
            }
        }
    }
    Ok(at(clock.now(), ask::result(200, "status", Json::Object(shown))))
}

/// Leaves out files of indexes that the asker may not read.
pub(super) fn leave_out_closed(
    app: &App,
    request: &Request,
    errors: &mut Map<String, Json>,
) -> Result<()> {
    let name = |path: &str| IndexName::parse(FilePath::parse(path)?.index()).ok();
    let names: BTreeSet<IndexName> = errors.keys().filter_map(|path| name(path)).collect();
    let txn = app.store.read()?;
    let mut closed = Vec::new();
    for name in &names {
        closed.extend(index::find(&txn, name)?.filter(|index| !index.is_open()));
    }
    drop(txn);
    let who = app.reader_of(request, &closed)?;
    closed.retain(|index| !app.may_read(&who, index));
    errors.retain(|path, _| name(path).is_none_or(|name| closed.iter().all(|i| i.name != name)));
    Ok(())
}

/// Seconds since 1970.
fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// The end of the log with the hash of all history up to it.
fn position(app: &App) -> Result<Json> {
    Ok(WirePosition::of(&app.store)?.to_json())
}

/// Numbers: name, kind, value.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn metrics(app: &App) -> Result<Json> {
    let mut metrics = Vec::new();
    if let Some(watcher) = app.http.get() {
        let stats = watcher.stats();
        let mut put = |name: &str, kind: &str, number: u64| {
            metrics.push(json!([format!("twinpi_http_{name}"), kind, number]));
        };
        put("connections", "gauge", stats.connections as u64);
        put("requests_in_flight", "gauge", stats.in_flight as u64);
        put("requests_parked", "gauge", stats.parked as u64);
        put("requests", "counter", stats.requests);
        put("requests_refused", "counter", stats.refused);
        put("requests_busy", "counter", stats.busy);
        put("handler_panics", "counter", stats.panics);
        put("requests_leaked", "counter", stats.leaked);
        put("connections_cut", "counter", stats.cut);
    }
    if matches!(app.node, Node::Replica(_)) {
        let counts = app.store.wanted_counts()?;
        metrics.push(json!([
            "devpi_server_replica_file_download_queue_size",
            "gauge",
            counts.wanted
        ]));
        let name = "devpi_server_replica_file_download_error_queue_size";
        metrics.push(json!([name, "gauge", counts.failed]));
    }
    Ok(metrics.into())
}
