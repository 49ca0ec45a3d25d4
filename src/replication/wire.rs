//! Names on the wire of replication: the one spelling for both ends. devpi's names come first; where it has an old
//! and a new word for the same node, both are sent, and both are understood.

use crate::http::request::Headers;
use crate::http::response::Response;
use crate::serial::Serial;

/// The version of devpi's API that is spoken; its client refuses any other.
pub const DEVPI_API: &str = "2";
/// The version of devpi-server whose behaviour is kept.
pub const DEVPI_VERSION: &str = "6.20.3";

/// `DEVPI_API`, on every answer.
pub const API_VERSION: &str = "X-DEVPI-API-VERSION";
/// `DEVPI_VERSION`, on every answer.
pub const SERVER_VERSION: &str = "X-DEVPI-SERVER-VERSION";
/// Who answers.
pub const UUID: &str = "X-DEVPI-UUID";
/// The master of who answers, in the old word.
pub const MASTER_UUID: &str = "X-DEVPI-MASTER-UUID";
/// The master of who answers, in the new word.
pub const PRIMARY_UUID: &str = "X-DEVPI-PRIMARY-UUID";
/// The serial that a change got, else the one that was read at; -1 while there is none.
pub const SERIAL: &str = "X-DEVPI-SERIAL";
/// On answers that came through a replica.
pub const PROXY: &str = "X-DEVPI-PROXY";
/// The value of `PROXY`.
pub const BY_REPLICA: &str = "replica";

/// Which replica asks.
pub const REPLICA_UUID: &str = "X-DEVPI-REPLICA-UUID";
/// The replica's own URL, for the master's status.
pub const REPLICA_OUTSIDE_URL: &str = "X-DEVPI-REPLICA-OUTSIDE-URL";
/// Which master the replica expects, in the old word; empty before the first contact.
pub const EXPECTED_MASTER: &str = "X-DEVPI-EXPECTED-MASTER-ID";
/// Which master the replica expects, in the new word.
pub const EXPECTED_PRIMARY: &str = "X-DEVPI-EXPECTED-PRIMARY-ID";
/// On requests of a replica for a file.
pub const FILE_REPLICATION: &str = "X-DEVPI-REPLICA-FILEREPL";
/// The value of `FILE_REPLICATION`.
pub const YES: &str = "YES";
/// The client's address as the proxy in front saw it.
pub const REAL_IP: &str = "X-Real-IP";
/// The URL under which the client knows this node.
pub const OUTSIDE_URL: &str = "X-Outside-Url";

/// The version of twinpi, on requests between its nodes: who sends it understands the fields below.
pub const TWINPI_VERSION: &str = "X-TWINPI-VERSION";
/// This program's version.
pub const THIS_VERSION: &str = env!("CARGO_PKG_VERSION");
/// A number for the next signature, on answers to nodes that sent `TWINPI_VERSION`.
pub const NONCE: &str = "X-TWINPI-NONCE";
/// The uuids of the nodes that relayed a request, comma separated.
pub const RELAY: &str = "X-TWINPI-RELAY";
/// The uuids of the replicas between the master and who answers, this one included, on answers of replicas to nodes.
pub const PATH: &str = "X-TWINPI-PATH";
/// On answers of a replica that is not current itself: who follows it is not either.
pub const STALE: &str = "X-TWINPI-STALE";
/// The reason phrase of the answer to a relayed request, when it is not the standard one.
pub const REASON: &str = "X-TWINPI-REASON";

/// Where the history of the master stands, on answers to a replica that sent its own (`handshake::WirePosition`).
pub const POSITION: &str = "X-TWINPI-POSITION";
/// Where that of a replica stands: a parameter of its polls, since the proof covers the whole target. Whoever could
/// change it on the way could fence a master.
pub const POSITION_PARAMETER: &str = "position";
/// Why a replica is refused: `ahead`, `forked`, `gone` or `fenced`.
pub const STATE: &str = "X-TWINPI-STATE";
/// The highest epoch that a relaying node knows: a master of a lower one must not carry the request out.
pub const EPOCH: &str = "X-TWINPI-EPOCH";
/// The path below which a node tells its chain at a serial.
pub const POSITIONS: &str = "/+position/";
/// The path under which a newer master tells an older one that it is replaced.
pub const FENCE: &str = "/+fence";
/// The path of a node's list of timelines.
pub const TIMELINES: &str = "/+timelines";
/// The path of the latest snapshot, and of its pieces below it.
pub const SNAPSHOT: &str = "/+snapshot";
/// How many entries a log must have for a snapshot of it: a parameter.
pub const MINIMUM: &str = "minimum";
/// The indexes that a replica takes over, if not all: a parameter of its polls, since the proof covers the whole target.
/// The answer has the same as a field, so that a replica knows that it was heeded.
pub const REPLICATE_PARAMETER: &str = "replicate";
/// The indexes that an answer to a poll holds, if not all.
pub const REPLICATE: &str = "X-TWINPI-REPLICATE";
/// How far a replica's files have come, on its requests: `SERIAL:MISSING`.
pub const FILES: &str = "X-TWINPI-FILES";

/// What a start of a replica calls itself, on its polls.
pub const START: &str = "X-TWINPI-START";

/// How many files a master has lost, on answers to polls, when there are any.
pub const LOST: &str = "X-TWINPI-LOST";
/// The path of the list of them.
pub const LOST_FILES: &str = "/+files/lost";
/// The path below which a replica gives files back.
pub const GIVE_BACK: &str = "/+files/";

/// The key of a request that is to be carried out once.
pub const RECEIPT: &str = "X-TWINPI-RECEIPT";
/// On the answer to a request that was carried out before.
pub const REPEATED: &str = "X-TWINPI-REPEATED";
/// The path below which it is asked what became of a request.
pub const RECEIPTS: &str = "/+receipt/";

/// A changelog that is streamed: each serial and its entry as two objects.
pub const STREAM_TYPE: &str = "application/x-devpi-replica-changes";
/// One entry, or a list of them.
pub const BYTES_TYPE: &str = "application/octet-stream";
/// A changelog in pieces, between nodes of this program.
pub const PIECES_TYPE: &str = "application/x-twinpi-changes";
/// What a replica accepts that wants devpi's stream.
pub const ACCEPT_STREAM: &str =
    "application/x-devpi-replica-changes, application/octet-stream; q=0.9";
/// What a replica accepts that wants pieces: all of them fully, since a devpi master streams to nobody else.
pub const ACCEPT_PIECES: &str = "application/x-twinpi-changes, application/x-devpi-replica-changes, \
                                 application/octet-stream; q=0.9";

/// The path below which the changelog is asked for.
pub const CHANGELOG: &str = "/+changelog/";
/// The parameter of a replica's first request, which is to be answered soon.
pub const INITIAL_FETCH: &str = "initial_fetch";

/// Who a node is, as its answers tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node's own uuid: 32 lower-case hex digits.
    pub uuid: String,
    /// The uuid of its master: its own on a master, empty on a replica before the first contact.
    pub master_uuid: String,
}

/// Puts the node's identity on an answer, and the serial unless the answer names one. Doing it twice changes nothing.
pub fn identify(response: &mut Response, identity: &Identity, serial: Option<Serial>) {
    let own = [
        (API_VERSION, DEVPI_API.to_owned()),
        (SERVER_VERSION, DEVPI_VERSION.to_owned()),
        (UUID, identity.uuid.clone()),
        (MASTER_UUID, identity.master_uuid.clone()),
        (PRIMARY_UUID, identity.master_uuid.clone()),
    ];
    response
        .headers
        .retain(|(held, _)| own.iter().all(|(name, _)| !held.eq_ignore_ascii_case(name)));
    for (name, value) in own {
        response.headers.push((name.into(), value.into()));
    }
    if response.header(SERIAL).is_none() {
        set_serial(response, serial);
    }
}

/// Names the serial of an answer.
pub fn set_serial(response: &mut Response, serial: Option<Serial>) {
    response.headers.retain(|(name, _)| !name.eq_ignore_ascii_case(SERIAL));
    response.headers.push((SERIAL.into(), Serial::wire(serial).to_string().into()));
}

/// The serial that an answer names; `None` if it names none that can be.
pub fn serial_of(headers: &Headers) -> Option<Option<Serial>> {
    Serial::from_wire(headers.get(SERIAL)?.trim().parse().ok()?)
}

/// The master that an answer names; `None` if it names none, or two.
pub fn master_of(headers: &Headers) -> Option<&str> {
    let (new, old) = (headers.get(PRIMARY_UUID), headers.get(MASTER_UUID));
    let named = new.or(old).filter(|uuid| !uuid.is_empty())?;
    old.is_none_or(|old| old == named).then_some(named)
}

/// A failure as devpi's programs read it: the sentence in JSON.
pub fn failure(status: u16, message: &str) -> Response {
    let body = serde_json::json!({ "message": message }).to_string();
    Response::bytes(status, "application/json", body.into_bytes())
}

/// The path of a file as a URL has it.
pub fn quote_path(path: &str) -> String {
    percent_encoding::utf8_percent_encode(path, PATH_ESCAPES).to_string()
}

/// All but what RFC 3986 allows in a path.
const PATH_ESCAPES: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn an_identity_replaces_another_and_keeps_the_serial() {
        let identity = Identity { uuid: "aa".into(), master_uuid: "bb".into() };
        let mut response =
            Response::new(200).with_header("x-devpi-uuid", "zz").with_header("x-devpi-serial", "7");
        identify(&mut response, &identity, Serial::new(9));
        identify(&mut response, &identity, Serial::new(9));
        assert_eq!(response.header(UUID), Some("aa"));
        assert_eq!(response.header(MASTER_UUID), Some("bb"));
        assert_eq!(response.header(PRIMARY_UUID), Some("bb"));
        assert_eq!(response.header(SERIAL), Some("7"));
        assert_eq!(response.headers.len(), 6);
    }

    #[test]
    fn the_master_is_named_by_either_word_but_not_by_both_differently() {
        assert_eq!(master_of(&headers(&[(MASTER_UUID, "a")])), Some("a"));
        assert_eq!(master_of(&headers(&[("x-devpi-primary-uuid", "a")])), Some("a"));
        assert_eq!(master_of(&headers(&[(PRIMARY_UUID, "a"), (MASTER_UUID, "a")])), Some("a"));
        assert_eq!(master_of(&headers(&[(PRIMARY_UUID, "a"), (MASTER_UUID, "b")])), None);
        assert_eq!(master_of(&headers(&[(PRIMARY_UUID, "")])), None);
        assert_eq!(master_of(&headers(&[])), None);
    }

    #[test]
    fn serials_are_read_as_written() {
        for (text, serial) in
            [("-1", Some(None)), ("0", Some(Serial::new(0))), ("x", None), ("-2", None)]
        {
            assert_eq!(serial_of(&headers(&[(SERIAL, text)])), serial, "{text}");
        }
        assert_eq!(serial_of(&headers(&[])), None);
    }

    #[test]
    fn paths_keep_the_plus() {
        assert_eq!(quote_path("a/b/+f/123/x y#1.whl"), "a/b/+f/123/x%20y%231.whl");
    }
}
