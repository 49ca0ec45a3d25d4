//! A master's answers to replicas: entries of the changelog, as bytes straight from the store.
//!
//! A replica asks for what follows the serial that it has. If there is nothing yet the request is parked, and the
//! commit that wakes it is in the answer. Nobody but a replica gets any of it: entries hold password hashes.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Map, Value as Json};

use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::http::accept;
use crate::http::request::Request;
use crate::http::response::{Body, Park, Reply, Response, status};
use crate::serial::Serial;
use crate::store::Store;
use crate::store::codec::ListAnswer;
use crate::store::timeline::Fence;

use super::auth::Gate;
use super::filter::Filter;
use super::handshake::{self, Verdict, WirePosition};
use super::herald;
use super::lag::{self, Lag};
use super::outgoing::{Outgoing, missing};
use super::replicas::{Polling, Replica, Replicas};
use super::snapshot::Snapshots;
use super::wire;

/// How long a poll is parked; devpi's replicas give up after 37.5 s.
const POLL: Duration = Duration::from_secs(30);
/// How long the first poll of a replica is parked: its operator waits to see whether it works.
const FIRST_POLL: Duration = Duration::from_secs(1);
/// A list ends with the entry that brings it over this many bytes.
const LIST_BYTES: usize = 5 << 20;

/// Answers replicas; copies share all.
#[derive(Clone)]
pub struct Master(Arc<Inner>);

struct Inner {
    store: Arc<Store>,
    gate: Gate,
    /// The uuid of the master whose log this is: this node's, or that of the one that it follows.
    uuid: Box<dyn Fn() -> String + Send + Sync>,
    replicas: Replicas,
    met: Met,
    /// What this node has of its master's log, if not all: then it hands out nothing.
    filter: Option<Filter>,
    /// Snapshots for replicas that begin.
    snapshots: OnceLock<Arc<Snapshots>>,
}

/// Is told of each replica that knows a newer master than this node.
pub type Met = Box<dyn Fn(&Fence) + Send + Sync>;

/// What a replica asks for.
struct Ask {
    from: Serial,
    form: Form,
    takes_nonce: bool,
    /// Whether it told its position, and is to be told the one of this node.
    tells_position: bool,
    /// What it takes over, if not all.
    filter: Option<Filter>,
    polling: Polling,
}

/// In what form entries go out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One entry as stored.
    Single,
    /// Entries in one object, without their lists of files.
    List,
    /// Serial, entry, serial, entry: as stored, to the end of the log.
    Stream,
    /// This program's own, to the end of the log.
    Pieces,
}

impl Master {
    /// A master with this uuid.
    pub fn new(store: Arc<Store>, gate: Gate, uuid: &str, met: Met) -> Self {
        let uuid = uuid.to_owned();
        Self::of(store, gate, Box::new(move || uuid.clone()), met, None)
    }

    /// A replica that has replicas of its own: what it hands out is the log of its master, whose uuid is asked for each
    /// time. It writes nothing, so a newer master that its replicas know of is no concern of its own. One with a
    /// `filter` refuses all.
    pub fn below(
        store: Arc<Store>,
        gate: Gate,
        uuid: impl Fn() -> String + Send + Sync + 'static,
        filter: Option<Filter>,
    ) -> Self {
        Self::of(store, gate, Box::new(uuid), Box::new(|_| {}), filter)
    }

    fn of(
        store: Arc<Store>,
        gate: Gate,
        uuid: Box<dyn Fn() -> String + Send + Sync>,
        met: Met,
        filter: Option<Filter>,
    ) -> Self {
        let (replicas, snapshots) = (Replicas::new(), OnceLock::new());
        Self(Arc::new(Inner { store, gate, uuid, replicas, met, filter, snapshots }))
    }

    /// Has it offer snapshots, made in the server's folder.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn offer_snapshots(&self, dir: &Path) -> Result<()> {
        let snapshots = Snapshots::new(dir, self.0.store.clone())?;
        self.0.snapshots.get_or_init(|| Arc::new(snapshots));
        Ok(())
    }

    /// Answers `GET /+snapshot`. Making one takes a while, and no thread for local work.
    pub fn snapshot(&self, request: &Request) -> Reply {
        if let Err(refusal) = self.0.admit_any(request) {
            return Reply::Now(refusal);
        }
        let minimum = request.parameter(wire::MINIMUM).and_then(|text| text.parse().ok());
        let (minimum, inner) = (minimum.unwrap_or(0), self.0.clone());
        Reply::Remote(Box::new(move || Reply::Now(inner.snapshot(|all| all.answer(minimum)))))
    }

    /// Answers `GET /+snapshot/ID/N`.
    pub fn snapshot_piece(&self, request: &Request, id: &str, number: usize) -> Response {
        let answer = |_| self.0.snapshot(|all| all.piece(id, number));
        self.0.admit_any(request).map_or_else(|refusal| refusal, answer)
    }

    /// The replicas that poll here.
    pub fn replicas(&self) -> &Replicas {
        &self.0.replicas
    }

    /// The replicas that poll here, as the status shows them.
    pub fn replicas_json(&self) -> Json {
        let shown = |(uuid, replica, lag): (String, Replica, Option<Lag>)| {
            let mut shown = replica.to_json();
            shown["lag"] = lag.map_or(Json::Null, |lag| lag.to_json());
            (uuid, shown)
        };
        self.replicas_with_lag().into_iter().map(shown).collect::<Map<_, _>>().into()
    }

    /// The same replicas, each with how far it is behind as far as that can be told.
    pub fn replicas_with_lag(&self) -> Vec<(String, Replica, Option<Lag>)> {
        let all = self.0.replicas.all().into_iter();
        let with_lag = |(uuid, replica): (String, Replica)| {
            let lag = lag::of_replica(&self.0.store, &replica).ok();
            (uuid, replica, lag)
        };
        all.map(with_lag).collect()
    }

    /// Which replica sends a request; none if it names none. A replica's requests for files come with its token too.
    ///
    /// # Errors
    /// The answer that refuses a wrong token, or asks for a fresh one.
    pub fn replica_of(
        &self,
        request: &Request,
    ) -> std::result::Result<Option<String>, Box<Response>> {
        if !request.headers.has(wire::REPLICA_UUID) {
            return Ok(None);
        }
        self.0.gate.check(request).map_err(Box::new)
    }

    /// Answers `GET /+position/{serial}`.
    pub fn position(&self, request: &Request, serial: u64) -> Response {
        let answer = |uuid: String| {
            self.0.replicas.hear(&uuid, request);
            handshake::answer_position(&self.0.store, serial).unwrap_or_else(|e| broken(&e))
        };
        self.0.admit_any(request).map_or_else(|refusal| refusal, answer)
    }

    /// Refuses whoever is no replica.
    ///
    /// # Errors
    /// The answer for one who is none.
    pub fn require(&self, request: &Request) -> std::result::Result<(), Box<Response>> {
        self.0.admit_any(request).map(drop).map_err(Box::new)
    }

    /// Answers `GET /+timelines`.
    pub fn timelines(&self, request: &Request) -> Response {
        let answer = |_| handshake::answer_timelines(&self.0.store);
        self.0.admit_any(request).map_or_else(|refusal| refusal, answer)
    }

    /// Answers `POST /+fence`, by which a newer master says that it is there.
    pub fn fence(&self, request: &Request) -> Response {
        let answer = |uuid: String| match herald::fence_of(request, &uuid) {
            Ok(fence) => herald::answer(&self.0.store, &fence, &*self.0.met),
            Err(error) => wire::failure(status(error.kind), &error.message),
        };
        self.0.admit_any(request).map_or_else(|refusal| refusal, answer)
    }

    /// Puts what the next request's token is made with on an answer to a node that wants it.
    pub fn lend_nonce(&self, request: &Request, response: &mut Response) {
        if takes_nonce(request) {
            self.0.lend_nonce(response);
        }
    }

    /// Answers `GET /+changelog/{from}`, or `GET /+changelog/{from}-` when it `is_range`.
    pub fn changelog(&self, request: &Request, from: u64, is_range: bool) -> Reply {
        let now = self.0.store.clock().now();
        let next = Serial::following(now);
        let refuse = |refusal| Reply::Now(at(now, refusal));
        let uuid = match self.0.admit(request) {
            Ok(uuid) => uuid,
            Err(refusal) => return refuse(refusal),
        };
        let Some(due) = Serial::new(from) else {
            return refuse(wire::failure(404, "can only wait for next serial"));
        };
        let tells_position = match self.0.meet(request, &uuid, due) {
            Ok(tells) => tells,
            Err(refusal) => return refuse(refusal),
        };
        let Some(from) = Some(due).filter(|due| *due <= next) else {
            return refuse(wire::failure(404, "can only wait for next serial"));
        };
        let form = if is_range { form_of(request) } else { Form::Single };
        let filter = match self.0.filter(request, form, due) {
            Ok(filter) => filter,
            Err(error) => return refuse(wire::failure(status(error.kind), &error.message)),
        };
        let polling = self.0.replicas.begin(&uuid, request, from.previous());
        let takes_nonce = takes_nonce(request);
        let ask = Ask { from, form, takes_nonce, tells_position, filter, polling };
        if from < next {
            return Reply::Now(self.0.answer(ask));
        }
        let wait = if request.has_parameter(wire::INITIAL_FETCH) { FIRST_POLL } else { POLL };
        let master = self.0.clone();
        Reply::Park(Park {
            wanted: Some(from),
            bell: None,
            deadline: Deadline::after(wait),
            resume: Box::new(move || Reply::Now(master.answer(ask))),
        })
    }
}

impl Inner {
    fn snapshot(&self, ask: impl FnOnce(&Snapshots) -> Result<Response>) -> Response {
        let offered = self.snapshots.get().filter(|_| self.filter.is_none());
        match offered.map(|all| ask(all)) {
            None => wire::failure(404, "this node offers no snapshots"),
            Some(Ok(response)) => response,
            Some(Err(error)) if error.kind == Kind::Internal => broken(&error),
            Some(Err(error)) => wire::failure(status(error.kind), &error.message),
        }
    }

    /// Compares the position of the replica that asks, and gives whether it told one; refuses one that cannot follow.
    fn meet(
        &self,
        request: &Request,
        uuid: &str,
        from: Serial,
    ) -> std::result::Result<bool, Response> {
        let failed = |error: Error| wire::failure(status(error.kind), &error.message);
        let Some(theirs) = handshake::position_of(request, from).map_err(failed)? else {
            return Ok(false);
        };
        let verdict = handshake::judge(&self.store, &theirs).map_err(|e| broken(&e))?;
        if verdict == Verdict::Follows {
            return Ok(true);
        }
        let own = WirePosition::of(&self.store).map_err(|e| broken(&e))?;
        self.replicas.refused(uuid, request, verdict.as_str(), theirs.serial());
        log::warn!("replica {uuid} at {theirs} is {} of this node at {own}", verdict.as_str());
        if verdict == Verdict::Fenced
            && let Some(fence) = handshake::fence_of(uuid, &theirs)
        {
            (self.met)(&fence);
        }
        Err(handshake::refusal(verdict, &own).with_header(wire::POSITION, own.to_string()))
    }

    /// The part of the log that a replica asks for, if not all of it; refuses one that this node cannot serve.
    fn filter(&self, request: &Request, form: Form, from: Serial) -> Result<Option<Filter>> {
        if self.store.last_elided()?.is_some_and(|last| from <= last) {
            return Err(Error::new(
                Kind::Gone,
                format!(
                    "this node replicated a part of the indexes before it was promoted, and has not all of serial \
                     {from} and what follows: who needs that cannot follow it"
                ),
            ));
        }
        let Some(text) = request.parameter(wire::REPLICATE_PARAMETER) else { return Ok(None) };
        if form != Form::Pieces {
            return Err(Error::invalid("a part of the log is sent in pieces only"));
        }
        Filter::of_wire(text).map(Some)
    }

    /// The uuid of the replica that asks.
    fn admit(&self, request: &Request) -> std::result::Result<String, Response> {
        let (primary, master) = (wire::EXPECTED_PRIMARY, wire::EXPECTED_MASTER);
        let expected = request.headers.get(primary).or_else(|| request.headers.get(master));
        let Some(expected) = expected else {
            return Err(wire::failure(
                400,
                &format!("replica sent no {primary} or {master} header"),
            ));
        };
        // Of two nodes of ours the histories decide, not the uuids: a replica may follow whoever was promoted.
        let is_proven = request.has_parameter(wire::POSITION_PARAMETER);
        let own = (self.uuid)();
        if !expected.is_empty() && expected != own && !is_proven {
            let message = format!("expected {own} as primary_uuid, replica sent {expected}");
            return Err(wire::failure(400, &message));
        }
        self.admit_any(request)
    }

    /// The uuid of the replica that asks, whomever it takes this node for.
    fn admit_any(&self, request: &Request) -> std::result::Result<String, Response> {
        let uuid = self.gate.check(request)?;
        if let (Some(_), Some(own)) = (&uuid, &self.filter) {
            let message = format!(
                "this node replicates {own} only, so nobody can follow it: follow its master instead"
            );
            return Err(wire::failure(409, &message));
        }
        uuid.ok_or_else(|| wire::failure(403, "Replication endpoint requires a replica identity."))
    }

    /// Answers with what there is by now.
    fn answer(&self, ask: Ask) -> Response {
        let (takes_nonce, tells_position) = (ask.takes_nonce, ask.tells_position);
        let filter = ask.filter.as_ref().map(Filter::wire);
        let now = self.store.clock().now();
        let answer = match now.filter(|now| ask.from <= *now) {
            None => Ok(Response::text(202, NOTHING_NEW)),
            Some(now) => self.entries(ask, now),
        };
        let own =
            if tells_position { WirePosition::at(&self.store, now).map(Some) } else { Ok(None) };
        let mut answer = match (answer, own) {
            (Ok(answer), Ok(None)) => answer,
            (Ok(answer), Ok(Some(own))) => answer.with_header(wire::POSITION, own.to_string()),
            (Err(e), _) | (_, Err(e)) => broken(&e),
        };
        let lost = self.store.lost_count();
        if tells_position && 0 < lost {
            answer = answer.with_header(wire::LOST, lost.to_string());
        }
        if let Some(filter) = filter {
            answer = answer.with_header(wire::REPLICATE, filter);
        }
        answer = at(now, answer);
        if takes_nonce {
            self.lend_nonce(&mut answer);
        }
        answer
    }

    fn lend_nonce(&self, response: &mut Response) {
        response.headers.extend(self.gate.nonce().map(|nonce| (wire::NONCE.into(), nonce.into())));
    }

    fn entries(&self, ask: Ask, to: Serial) -> Result<Response> {
        match ask.form {
            Form::Single => {
                let entry = self.store.entries(ask.from, ask.from, 0)?.pop();
                let (_, entry) = entry.ok_or_else(|| missing(ask.from))?;
                Ok(Response::bytes(200, wire::BYTES_TYPE, entry))
            }
            Form::List => {
                let mut list = ListAnswer::new();
                for (serial, entry) in self.store.entries(ask.from, to, LIST_BYTES)? {
                    list.push(serial, &entry)?;
                }
                Ok(Response::bytes(200, wire::BYTES_TYPE, list.finish()))
            }
            Form::Stream => {
                let body = Outgoing::plain(&self.store, ask.from, to, ask.polling).body()?;
                Ok(streamed(wire::STREAM_TYPE, body))
            }
            Form::Pieces => {
                let (store, from, polling) = (&self.store, ask.from, ask.polling);
                let outgoing = match ask.filter {
                    None => Outgoing::pieces(store, from, to, polling)?,
                    Some(filter) => Outgoing::parts(store, from, to, filter, polling)?,
                };
                Ok(streamed(wire::PIECES_TYPE, outgoing.body()?))
            }
        }
    }
}

fn streamed(media_type: &'static str, body: Body) -> Response {
    Response::new(200).with_header("Content-Type", media_type).with_body(body)
}

/// The body of a poll that ran out; devpi's has this shape.
const NOTHING_NEW: &str =
    "202 Accepted\n\nThe request is accepted for processing.\n\n\nno new transaction yet\n\n\n";

/// Names the serial that the log ended with when the answer was made.
fn at(serial: Option<Serial>, mut response: Response) -> Response {
    wire::set_serial(&mut response, serial);
    response
}

fn broken(error: &Error) -> Response {
    log::error!("a replica's request for entries failed: {error:?}");
    wire::failure(status(error.kind), "the changelog cannot be read")
}

fn takes_nonce(request: &Request) -> bool {
    request.headers.has(wire::TWINPI_VERSION)
}

/// devpi's rule: a stream must be wanted most, and plain bytes less. Ours goes before devpi's.
fn form_of(request: &Request) -> Form {
    let quality = |media_type| accept::quality(request.accept(), media_type);
    match quality(wire::BYTES_TYPE) {
        1000 => Form::List,
        _ if quality(wire::PIECES_TYPE) == 1000 => Form::Pieces,
        _ if quality(wire::STREAM_TYPE) == 1000 => Form::Stream,
        _ => Form::List,
    }
}
