//! `GET /+wait?serial=N`: answers when this node, or each replica that follows it too, has the serial. A script that
//! uploads here and installs there asks this in between.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::http::bell::Bell;
use crate::http::request::Request;
use crate::http::response::{Park, Reply, Response};
use crate::replication::Replica;
use crate::replication::replicas::{self, LIVE, Replicas};
use crate::serial::Serial;

use super::receipts::Call;
use super::{App, Node, ask, at};

/// How long is waited if the request does not say.
const WAIT: Duration = Duration::from_secs(30);
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// How much longer a replica waits for its master's answer than it let the master wait.
const GRACE: Duration = Duration::from_secs(5);
/// So many questions to the master may be open at once: each holds a thread.
const FORWARDED_MAX: usize = 8;
/// The longest answer of the master that is passed on.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// Questions to the master that are open.
static FORWARDED: AtomicUsize = AtomicUsize::new(0);

/// What is waited for.
#[derive(Clone)]
struct Wish {
    serial: Serial,
    is_for_all: bool,
    deadline: Deadline,
    /// The nodes that have it by the master's word.
    others: Vec<Json>,
}

/// `GET /+wait?serial=N[&nodes=all][&timeout=S]`. A replica asks its master about all nodes.
///
/// # Errors
/// `Kind::Invalid` for a parameter that is none.
pub fn wait(app: &Call, request: &Request) -> Result<Reply> {
    let serial = ask::number(request, "serial")?
        .ok_or_else(|| Error::invalid("'serial' is missing: /+wait?serial=N"))?;
    let serial = Serial::new(serial)
        .ok_or_else(|| Error::invalid(format!("'serial': there is never a serial {serial}")))?;
    let is_for_all = match ask::parameter(request, "nodes").as_deref() {
        None | Some("one") => false,
        Some("all") => true,
        Some(_) => return Err(Error::invalid("'nodes' is 'one' or 'all'")),
    };
    let span = timeout(request, WAIT, WAIT_MAX)?;
    let wish = Wish { serial, is_for_all, deadline: Deadline::after(span), others: Vec::new() };
    match &app.node {
        Node::Replica(replica) if is_for_all => Ok(forward(app, replica.clone(), wish, span)),
        _ => Ok(go(app, wish)),
    }
}

/// How long a request wants to be parked.
///
/// # Errors
/// `Kind::Invalid` if it is no number.
pub fn timeout(request: &Request, default: Duration, max: Duration) -> Result<Duration> {
    let seconds = ask::number(request, "timeout")?;
    Ok(seconds.map_or(default, Duration::from_secs).min(max))
}

/// Answers if what is waited for is there or the time is over, and waits on else.
fn go(app: &Arc<App>, wish: Wish) -> Reply {
    let (serial, deadline) = (wish.serial, wish.deadline);
    let is_here = Some(serial) <= app.store.clock().now();
    let is_over = wish.deadline.is_past();
    if !is_here && !is_over {
        let resume = move |app: &Arc<App>| match Some(wish.serial) <= app.store.clock().now() {
            true => go(app, wish),
            false => Reply::Now(answer(app, &wish)),
        };
        return park(app, (serial, deadline), None, resume);
    }
    let replicas = replicas(app).filter(|_| wish.is_for_all && !is_over);
    let Some(replicas) = replicas else { return Reply::Now(answer(app, &wish)) };
    let wait = replicas.wait_for(wish.serial);
    // A replica that falls silent is waited for no longer than it counts as following.
    let Some(left) = patience(replicas, wish.serial) else {
        return Reply::Now(answer(app, &wish));
    };
    let until = Deadline::after(left).min(wish.deadline);
    let bell = wait.bell.clone();
    park(app, (serial, until), Some(bell), move |app| {
        match wait.bell.is_rung() || until.is_past() {
            true => go(app, wish),
            // The client asks something else on this connection, or the node stops.
            false => Reply::Now(answer(app, &wish)),
        }
    })
}

fn park(
    app: &Arc<App>,
    (wanted, deadline): (Serial, Deadline),
    bell: Option<Bell>,
    resume: impl FnOnce(&Arc<App>) -> Reply + Send + 'static,
) -> Reply {
    let (app, wanted) = (app.clone(), bell.is_none().then_some(wanted));
    let resume = Box::new(move || resume(&app));
    Reply::Park(Park { wanted, bell, deadline, resume })
}

fn replicas(app: &App) -> Option<&Replicas> {
    app.serves().map(|master| master.replicas())
}

/// How long the first of those that lack the serial still counts as following; none if no such lacks it.
fn patience(replicas: &Replicas, serial: Serial) -> Option<Duration> {
    let lacks = |replica: &replicas::Replica| replica.is_live() && !replica.has(serial);
    let all = replicas.all().into_iter();
    let left = |replica: replicas::Replica| match replica.requests {
        0 => LIVE.saturating_sub(replica.silent_for()),
        _ => LIVE,
    };
    all.filter(|(_, replica)| lacks(replica)).map(|(_, replica)| left(replica)).min()
}

/// What is known now: 200 if what is waited for is there, else 504.
fn answer(app: &App, wish: &Wish) -> Response {
    let now = app.store.clock().now();
    let mut is_there = Some(wish.serial) <= now;
    let mut result = json!({
        "serial": wish.serial.get(),
        "node-serial": Serial::wire(now),
    });
    if wish.is_for_all {
        let all = replicas(app).map(Replicas::all).unwrap_or_default();
        let lacking = all.iter().filter(|(_, r)| r.is_live() && !r.has(wish.serial));
        is_there &= lacking.count() == 0;
        let own = all.iter().map(|(uuid, r)| node(uuid, r, wish.serial));
        result["nodes"] = wish.others.iter().cloned().chain(own).collect();
    }
    result["reached"] = is_there.into();
    at(now, ask::result(if is_there { 200 } else { 504 }, "wait", result))
}

fn node(uuid: &str, replica: &replicas::Replica, serial: Serial) -> Json {
    let state = match (replica.has(serial), replica.is_live()) {
        (true, _) => "has",
        (false, true) => "lacks",
        (false, false) => "away",
    };
    json!({
        "uuid": uuid,
        "outside-url": replica.outside_url,
        "serial": Serial::wire(replica.held),
        "state": state,
        "silent-seconds": replica.silent_for().as_secs_f64(),
    })
}

/// Counts one question to the master while it lives.
struct Forwarded;

impl Forwarded {
    fn begin() -> Option<Self> {
        let place = Self;
        (FORWARDED.fetch_add(1, Ordering::Relaxed) < FORWARDED_MAX).then_some(place)
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        FORWARDED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Asks the master about the nodes that follow it, and then those that follow this one.
fn forward(app: &Arc<App>, replica: Arc<Replica>, wish: Wish, span: Duration) -> Reply {
    let app = app.clone();
    let Some(place) = Forwarded::begin() else {
        let busy = "too many wait for all nodes through this replica: ask its master";
        return Reply::Now(ask::failure(&Error::new(Kind::Unavailable, busy), true));
    };
    Reply::Remote(Box::new(move || {
        let _place = place;
        match ask_master(&replica, wish.serial, span) {
            Err(error) => Reply::Now(ask::failure(&error, true)),
            Ok((status, body)) if status != 200 => {
                Reply::Now(Response::bytes(status, ask::JSON, body))
            }
            Ok((_, body)) => {
                let told: Json = serde_json::from_slice(&body).unwrap_or_default();
                let others = told["result"]["nodes"].as_array().cloned().unwrap_or_default();
                go(&app, Wish { others, ..wish })
            }
        }
    }))
}

fn ask_master(replica: &Replica, serial: Serial, span: Duration) -> Result<(u16, Vec<u8>)> {
    let target = format!("/+wait?serial={serial}&nodes=all&timeout={}", span.as_secs());
    let answer = replica.get(&target, &[("Accept", ask::JSON)], span + GRACE)?;
    let status = answer.status;
    if !matches!(status, 200 | 504) {
        let message = format!("the master does not tell about all nodes: it answered {status}");
        return Err(Error::new(Kind::BadGateway, message));
    }
    let mut body = Vec::new();
    let broken = |e| Error::new(Kind::BadGateway, "the master's answer broke off").caused_by(e);
    answer.body.take(ANSWER_BYTES_MAX).read_to_end(&mut body).map_err(broken)?;
    Ok((status, body))
}
