//! What machines ask of a node: `GET /+alive`, `GET /+ready`, `GET /+metrics` and `GET /+badge.svg`.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::replication::replicas::Replica;
use crate::serial::Serial;

use super::{App, Node, ask, at, standing, status};

/// The media type of Prometheus' text.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `GET /+alive`: the process answers.
pub fn alive(app: &App) -> Response {
    at(app.store.clock().now(), ask::result(200, "alive", json!({"alive": true})))
}

/// `GET /+ready[?max-lag=S]`: 200 if clients may be sent here, else 503 and why not. A replica is ready once it has
/// anything to serve; with `max-lag` only while its log is no more seconds behind its master's than that.
///
/// # Errors
/// `Kind::Invalid` if `max-lag` is no number; `Kind::Internal` if the database fails.
pub fn ready(app: &App, request: &Request) -> Result<Response> {
    let max: Option<f64> = match ask::parameter(request, "max-lag") {
        None => None,
        Some(text) => {
            Some(text.parse().ok().filter(|seconds: &f64| 0.0 <= *seconds).ok_or_else(|| {
                Error::invalid(format!("'max-lag' is no time in seconds: '{text}'"))
            })?)
        }
    };
    let (mut why, mut behind) = (None, Json::Null);
    if let Node::Replica(replica) = &app.node {
        let status = replica.status()?;
        let lag = status.lag.metadata;
        behind = status.lag.to_json();
        let trouble = || status.known.trouble.clone().unwrap_or_else(|| "no trouble".to_owned());
        if app.store.clock().now().is_none() {
            why = Some(format!("nothing has come from the master yet: {}", trouble()));
        } else if let Some(max) = max
            && lag.seconds.is_none_or(|seconds| max < seconds)
        {
            let far =
                lag.seconds.map_or("it is not known how far".to_owned(), |s| format!("{s:.1} s"));
            why = Some(format!("behind the master: {far}; {}", trouble()));
        }
    }
    let code = if why.is_none() { 200 } else { 503 };
    let found = standing::verdict(app);
    let result = json!({
        "ready": why.is_none(),
        "reason": why,
        "lag": behind,
        "state": found.level.as_str(),
        "verdict": found.what,
        "advice": found.advice,
    });
    Ok(at(app.store.clock().now(), ask::result(code, "ready", result)))
}

/// `GET /+badge.svg`: how this node is, in a word, for pages elsewhere.
pub fn badge(app: &App) -> Response {
    let role = match &app.node {
        Node::Master { .. } => "master",
        Node::Replica(_) => "replica",
    };
    let drawn = crate::pages::status::badge(role, standing::verdict(app).level);
    let response = Response::bytes(200, "image/svg+xml", drawn)
        .with_header("Cache-Control", "no-store")
        .with_header("Content-Security-Policy", "default-src 'none'")
        .with_header("X-Content-Type-Options", "nosniff");
    at(app.store.clock().now(), response)
}

/// `GET /+metrics`: numbers for Prometheus. What is not known is left out.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn metrics(app: &App) -> Result<Response> {
    let mut page = Page(String::new());
    let store = &app.store;
    page.put("twinpi_serial", "gauge", "", Some(Serial::wire(store.clock().now()) as f64));
    page.put("twinpi_epoch", "gauge", "", Some(store.epoch() as f64));
    page.put("twinpi_fenced", "gauge", "", Some(f64::from(u8::from(store.fence().is_some()))));
    match &app.node {
        Node::Master { .. } => (),
        Node::Replica(replica) => {
            let status = replica.status()?;
            let state = format!("state=\"{}\"", status.known.state.as_str());
            page.put("twinpi_replication_state", "gauge", &state, Some(1.0));
            for (what, behind) in [("metadata", status.lag.metadata), ("files", status.lag.files)] {
                let label = format!("of=\"{what}\"");
                let serials = behind.serials.map(|serials| serials as f64);
                page.put("twinpi_lag_serials", "gauge", &label, serials);
            }
            for (what, behind) in [("metadata", status.lag.metadata), ("files", status.lag.files)] {
                page.put("twinpi_lag_seconds", "gauge", &format!("of=\"{what}\""), behind.seconds);
            }
        }
    }
    let all = app.serves().map(|master| master.replicas().all()).unwrap_or_default();
    page.replicas(&all, store.clock().now());
    for metric in status::metrics(app)?.as_array().into_iter().flatten() {
        if let (Some(name), Some(kind), number) =
            (metric[0].as_str(), metric[1].as_str(), metric[2].as_f64())
        {
            page.put(name, kind, "", number);
        }
    }
    Ok(Response::bytes(200, METRICS_TYPE, page.0.into_bytes()))
}

/// The text as it grows. All samples of a name follow one another.
struct Page(String);

impl Page {
    fn put(&mut self, name: &str, kind: &str, labels: &str, number: Option<f64>) {
        let Some(number) = number else { return };
        let line = format!("# TYPE {name} {kind}\n");
        if !self.0.contains(&line) {
            self.0.push_str(&line);
        }
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.0, "{name}{labels} {number}"); // a String takes all
    }

    fn replicas(&mut self, all: &[(String, Replica)], now: Option<Serial>) {
        let count = all.iter().filter(|(_, replica)| replica.is_live()).count();
        self.put("twinpi_replicas_following", "gauge", "", Some(count as f64));
        for (uuid, replica) in all {
            let behind = Serial::wire(now) - Serial::wire(replica.held);
            let label = format!("uuid=\"{uuid}\"");
            self.put("twinpi_replica_lag_serials", "gauge", &label, Some(behind.max(0) as f64));
        }
        for (uuid, replica) in all {
            let missing = replica.files.map(|files| files.missing as f64);
            self.put("twinpi_replica_files_missing", "gauge", &format!("uuid=\"{uuid}\""), missing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_name_share_their_type() {
        let mut page = Page(String::new());
        page.put("a", "gauge", "x=\"1\"", Some(2.0));
        page.put("a", "gauge", "x=\"2\"", Some(0.5));
        page.put("b", "counter", "", None);
        assert_eq!(page.0, "# TYPE a gauge\na{x=\"1\"} 2\na{x=\"2\"} 0.5\n");
    }
}
