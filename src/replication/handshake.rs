//! Whether two nodes have the same history: the position that a replica sends with each poll, and what its master makes
//! of it.
//!
//! A position is the newest timeline that a node knows, its last serial and the chain at it. Equal chains at a serial
//! are equal histories up to it, so a master sends entries only to a replica whose history is the beginning of its own,
//! whatever uuid either has. Everything else has a name and is for people to settle; nothing is ever dropped for it.

use std::fmt;
use std::io::Read as _;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::digest::hex;
use crate::error::{Error, Kind, Result};
use crate::http::client::Timeouts;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::serial::Serial;
use crate::store::Store;
use crate::store::changelog::{Chain, Position};
use crate::store::timeline::{Fence, TIMELINES_MAX, Timeline};

use super::link::{self, CONNECT, Link};
use super::wire;

/// How long a question about a position may take.
const ASK: Duration = Duration::from_secs(10);
/// The longest answer to one: the list of timelines.
const ANSWER_BYTES_MAX: u64 = 200 * TIMELINES_MAX as u64;

/// Where a node's history stands, as nodes tell each other: `EPOCH:TIMELINE:SERIAL:CHAIN`, with `-` for what is not
/// known and serial -1 for an empty log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WirePosition {
    /// The epoch of the newest timeline that it knows; 0 if it knows none.
    pub epoch: u64,
    /// The id of that timeline.
    pub timeline: Option<String>,
    /// The end of its log; `None` while that is empty.
    pub at: Option<Position>,
}

impl WirePosition {
    /// That of this node.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn of(store: &Store) -> Result<Self> {
        Ok(Self::with(store, store.position()?))
    }

    /// That of this node when its log ended with `serial`.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn at(store: &Store, serial: Option<Serial>) -> Result<Self> {
        let Some(serial) = serial else { return Ok(Self::with(store, None)) };
        let chain = store
            .chain_at(serial)?
            .ok_or_else(|| Error::internal(format!("the log has no serial {serial}")))?;
        Ok(Self::with(store, Some(Position { serial, chain })))
    }

    fn with(store: &Store, at: Option<Position>) -> Self {
        let timeline = store.timeline();
        Self {
            epoch: timeline.as_ref().map_or(0, |timeline| timeline.epoch),
            timeline: timeline.map(|timeline| timeline.id),
            at,
        }
    }

    /// Reads what `Display` wrote; `None` if it is something else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let mut next = || parts.next();
        let (epoch, timeline, serial, chain) = (next()?, next()?, next()?, next()?);
        let serial = Serial::from_wire(serial.parse().ok()?)?;
        let at = match (serial, chain) {
            (None, "-") => None,
            (Some(serial), chain) => Some(Position { serial, chain: unhex(chain)? }),
            _ => return None,
        };
        let timeline = match timeline {
            "-" => None,
            id => Some(id.to_owned()).filter(|id| is_id(id)),
        };
        let epoch: u64 = epoch.parse().ok()?;
        let is_whole = next().is_none() && (epoch == 0) == timeline.is_none();
        is_whole.then_some(Self { epoch, timeline, at })
    }

    /// The last serial.
    pub fn serial(&self) -> Option<Serial> {
        self.at.map(|at| at.serial)
    }

    /// As `/+status` and refusals show it.
    pub fn to_json(&self) -> Json {
        json!({
            "epoch": self.epoch,
            "timeline": self.timeline,
            "serial": Serial::wire(self.serial()),
            "chain": self.at.map(|at| hex(&at.chain)),
        })
    }
}

impl fmt::Display for WirePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timeline = self.timeline.as_deref().unwrap_or("-");
        let chain = self.at.map_or_else(|| "-".to_owned(), |at| hex(&at.chain));
        write!(f, "{}:{timeline}:{}:{chain}", self.epoch, Serial::wire(self.serial()))
    }
}

/// What a master makes of a replica's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its history is the beginning of the master's.
    Follows,
    /// It has serials that the master has not.
    Ahead,
    /// It has another entry at a serial.
    Forked,
    /// It needs entries that the master keeps no longer.
    Gone,
    /// It knows of a newer master.
    Fenced,
}

impl Verdict {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Follows => "follows",
            Self::Ahead => "ahead",
            Self::Forked => "forked",
            Self::Gone => "gone",
            Self::Fenced => "fenced",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Follows => "the replica follows",
            Self::Ahead => {
                "the replica has entries that this master has not: was the master restored from an older backup?"
            }
            Self::Forked => "the replica has another history than this master",
            Self::Gone => {
                "the replica needs entries that this master keeps no longer: it has to take a snapshot"
            }
            Self::Fenced => "the replica knows a newer master than this one",
        }
    }
}

/// Compares a replica's position with this node's history.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn judge(store: &Store, theirs: &WirePosition) -> Result<Verdict> {
    if store.epoch() < theirs.epoch {
        return Ok(Verdict::Fenced);
    }
    // Of what this node left out while it replicated a part of the indexes, nobody can be told the whole.
    if store.last_elided()? >= Some(Serial::following(theirs.serial())) {
        return Ok(Verdict::Gone);
    }
    let first = store.first_serial()?;
    let Some(at) = theirs.at else {
        return Ok(match first {
            Some(first) if first != Serial::FIRST => Verdict::Gone,
            _ => Verdict::Follows,
        });
    };
    Ok(match store.chain_at(at.serial)? {
        Some(chain) if chain == at.chain => Verdict::Follows,
        Some(_) => Verdict::Forked,
        None if first.is_some_and(|first| at.serial < first) => Verdict::Gone,
        None => Verdict::Ahead,
    })
}

/// The position that a replica sends; `None` if it sends none.
///
/// # Errors
/// `Kind::Invalid` if it cannot be read, or does not belong to the serial `from` that is asked for.
pub fn position_of(request: &Request, from: Serial) -> Result<Option<WirePosition>> {
    let Some(text) = request.parameter(wire::POSITION_PARAMETER) else { return Ok(None) };
    let position = WirePosition::parse(text)
        .filter(|position| Serial::following(position.serial()) == from)
        .ok_or_else(|| {
            Error::invalid("the position is none, or not that of the serial asked for")
        })?;
    Ok(Some(position))
}

/// Refuses a replica that cannot follow; `own` is the position of this node.
pub fn refusal(verdict: Verdict, own: &WirePosition) -> Response {
    let status = if verdict == Verdict::Gone { 410 } else { 409 };
    let body = json!({
        "message": verdict.sentence(),
        "state": verdict.as_str(),
        "position": own.to_json(),
    });
    Response::bytes(status, "application/json", body.to_string().into_bytes())
        .with_header(wire::STATE, verdict.as_str())
}

/// What a replica's position proves against this node.
pub fn fence_of(uuid: &str, theirs: &WirePosition) -> Option<Fence> {
    let timeline = theirs.timeline.clone()?;
    Some(Fence { epoch: theirs.epoch, timeline, uuid: uuid.to_owned(), url: None })
}

/// The answer to `GET /+position/SERIAL`; 404 if the log does not hold the serial. Where something was left out, it is
/// the last serial before whose chain is known.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn answer_position(store: &Store, serial: u64) -> Result<Response> {
    let chain = match Serial::new(serial) {
        Some(serial) if Some(serial) <= store.clock().now() => store.position_up_to(serial)?,
        _ => None,
    };
    Ok(match chain {
        None => wire::failure(404, "this log does not hold that serial"),
        at => json_answer(&WirePosition::with(store, at).to_json()),
    })
}

/// The answer to `GET /+timelines`, oldest first.
pub fn answer_timelines(store: &Store) -> Response {
    let shown = |timeline: &Timeline| {
        json!({
            "epoch": timeline.epoch,
            "id": timeline.id,
            "after": Serial::wire(timeline.after),
            "chain": hex(&timeline.chain),
        })
    };
    json_answer(&store.timelines().iter().map(shown).collect::<Vec<_>>().into())
}

fn json_answer(json: &Json) -> Response {
    Response::bytes(200, "application/json", json.to_string().into_bytes())
}

/// Asks the master for its timelines.
///
/// # Errors
/// `Kind::BadGateway` if it does not tell, or what it tells does not fit the history of this node.
pub fn ask_timelines(link: &Link, store: &Store) -> Result<Vec<Timeline>> {
    let all = tell_timelines(link)?;
    for timeline in &all {
        if let Some(after) = timeline.after
            && store.chain_at(after)?.is_some_and(|chain| chain != timeline.chain)
        {
            return Err(bad("its timelines do not fit the history of this node"));
        }
    }
    Ok(all)
}

/// Asks the master for its timelines, whether or not they fit the history of this node.
///
/// # Errors
/// `Kind::BadGateway` if it does not tell.
pub fn tell_timelines(link: &Link) -> Result<Vec<Timeline>> {
    let json = ask(link, wire::TIMELINES)?.ok_or_else(|| bad("it knows no timelines"))?;
    let read = |json: &Json| {
        Some(Timeline {
            epoch: json["epoch"].as_u64().filter(|epoch| i64::try_from(*epoch).is_ok())?,
            id: json["id"].as_str().filter(|id| is_id(id))?.to_owned(),
            after: Serial::from_wire(json["after"].as_i64()?)?,
            chain: unhex(json["chain"].as_str()?)?,
        })
    };
    let all: Option<Vec<Timeline>> = json
        .as_array()
        .filter(|all| all.len() <= TIMELINES_MAX)
        .and_then(|all| all.iter().map(read).collect());
    all.ok_or_else(|| bad("its timelines cannot be read"))
}

/// Finds the last serial at which this node and the master have the same history, in some twenty questions; `None`
/// if there is none. `head` is the last serial of the master. Where this node left something out, it is the last one
/// before whose chain it knows.
///
/// # Errors
/// `Kind::BadGateway` if the master does not tell.
pub fn last_common(link: &Link, store: &Store, head: Option<Serial>) -> Result<Option<Serial>> {
    let Some(top) = head.min(store.clock().now()) else { return Ok(None) };
    // Serials below `low` are common, those from `high` on are not; whose chain is not known here is what the one
    // before is.
    let (mut low, mut high) = (0, top.get() + 1);
    let mut probe = top.get();
    while low < high {
        let known = Serial::new(probe).map(|at| store.position_up_to(at)).transpose()?.flatten();
        let differs_at = match known.filter(|known| low <= known.serial.get()) {
            Some(known) => difference(link, store, &known)?.filter(|at| low <= at.get()),
            None => None,
        };
        match differs_at {
            Some(at) => high = at.get(),
            None => low = probe + 1,
        }
        probe = low + (high - low) / 2;
    }
    let last = low.checked_sub(1).and_then(Serial::new);
    let last = last.map(|last| store.position_up_to(last)).transpose()?.flatten();
    Ok(last.map(|last| last.serial))
}

/// Where the master's history is seen to differ from the own one: there, or at the last serial before whose chain the
/// master knows; `None` if it does not.
fn difference(link: &Link, store: &Store, own: &Position) -> Result<Option<Serial>> {
    let json = ask(link, &format!("{}{}", wire::POSITIONS, own.serial))?;
    let theirs = json.and_then(|json| {
        let serial = Serial::from_wire(json["serial"].as_i64()?)??;
        Some(Position { serial, chain: unhex(json["chain"].as_str()?)? })
    });
    let Some(theirs) = theirs.filter(|theirs| theirs.serial <= own.serial) else {
        return Ok(Some(own.serial));
    };
    let is_same = store.chain_at(theirs.serial)?.is_none_or(|chain| chain == theirs.chain);
    Ok((!is_same).then_some(theirs.serial))
}

/// Asks the master for something small in JSON; `None` if it has no such thing.
fn ask(link: &Link, target: &str) -> Result<Option<Json>> {
    let timeouts = Timeouts { connect: CONNECT, response_head: ASK, per_read: ASK };
    let answer = link.get(target, &[], timeouts)?;
    match answer.status {
        200 => {}
        404 => {
            link::drain(answer);
            return Ok(None);
        }
        status => return Err(bad(&format!("it answered {status}: {}", link::excerpt(answer)))),
    }
    let mut body = Vec::new();
    answer.body.take(ANSWER_BYTES_MAX).read_to_end(&mut body)?;
    serde_json::from_slice(&body).map(Some).map_err(|e| bad("its answer is no JSON").caused_by(e))
}

fn bad(message: &str) -> Error {
    Error::new(Kind::BadGateway, format!("the master was asked for its history: {message}"))
}

/// Whether a text can be the id of a timeline.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn unhex(text: &str) -> Option<Chain> {
    let mut chain = Chain::default();
    let bytes = text.as_bytes();
    if bytes.len() != 2 * chain.len() || !bytes.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, pair) in chain.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::UserName;
    use crate::store::record::Dict;
    use crate::store::txn::WriteTxn;
    use crate::store::{Writer, key};

    fn change(writer: &Writer, text: &str) {
        let record = Dict(vec![("created".into(), text.into())]);
        let set = |txn: &mut WriteTxn<'_>| {
            txn.set(&key::User(&UserName::root()), &record);
            Ok(())
        };
        writer.write(set).expect("commits");
    }

    #[test]
    fn a_position_is_read_as_written() {
        let at = Serial::new(7).map(|serial| Position { serial, chain: [0xa5; 32] });
        let id = Some("0123456789abcdef".repeat(2));
        for position in [
            WirePosition { epoch: 0, timeline: None, at: None },
            WirePosition { epoch: 0, timeline: None, at },
            WirePosition { epoch: 3, timeline: id.clone(), at: None },
            WirePosition { epoch: 3, timeline: id, at },
        ] {
            assert_eq!(WirePosition::parse(&position.to_string()), Some(position));
        }
        let chain = "a5".repeat(32);
        for bad in [
            String::new(),
            "0:-:-1".to_owned(),
            "1:-:-1:-".to_owned(),
            "0:-:-1:-:".to_owned(),
            "0:-:7:-".to_owned(),
            format!("0:-:-1:{chain}"),
            format!("0:-:7:{chain}0"),
            format!("0:-:7:{}", "+5".repeat(32)),
            format!("0:-:-2:{chain}"),
            format!("x:-:7:{chain}"),
            format!("1:{}:7:{chain}", "G".repeat(32)),
        ] {
            assert_eq!(WirePosition::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_master_tells_what_a_position_is_to_it() {
        let (dir, other) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("one"));
        let (store, writer) = crate::store::open(dir.path(), 1).expect("opens");
        let (theirs, their_writer) = crate::store::open(other.path(), 1).expect("opens");
        let empty = WirePosition::of(&theirs).expect("reads");
        assert_eq!(judge(&store, &empty).expect("reads"), Verdict::Follows);
        for text in ["1", "2"] {
            change(&writer, text);
            change(&their_writer, text);
            let position = WirePosition::of(&theirs).expect("reads");
            assert_eq!(judge(&store, &position).expect("reads"), Verdict::Follows, "{text}");
        }
        change(&their_writer, "3");
        let ahead = WirePosition::of(&theirs).expect("reads");
        assert_eq!(judge(&store, &ahead).expect("reads"), Verdict::Ahead);
        change(&writer, "another");
        assert_eq!(judge(&store, &ahead).expect("reads"), Verdict::Forked);
        their_writer.begin_timeline().expect("begins");
        let newer = WirePosition::of(&theirs).expect("reads");
        assert_eq!(judge(&store, &newer).expect("reads"), Verdict::Fenced);
        writer
            .local(|sql| Ok(sql.execute("DELETE FROM changelog WHERE serial < 2", [])?))
            .expect("trims");
        assert_eq!(judge(&store, &empty).expect("reads"), Verdict::Gone);
        let old = WirePosition {
            epoch: 0,
            timeline: None,
            at: Some(Position { serial: Serial::FIRST, chain: [1; 32] }),
        };
        assert_eq!(judge(&store, &old).expect("reads"), Verdict::Gone);
    }
}
