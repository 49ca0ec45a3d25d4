//! A replica's way to its master: signed requests, and what is known of the master from its answers.

use std::io::Read as _;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::http::client::{Answer, Client, ClientBody, Timeouts};
use crate::http::request::Headers;
use crate::serial::Serial;
use crate::stop::Stop;
use crate::sync::{Mutex, lock};

use super::auth::{Manner, Signer};
use super::filter::Filter;
use super::wire;

/// How long it may take until a connection stands.
pub const CONNECT: Duration = Duration::from_secs(5);

/// The local value with the uuid of the last master that was one of this program.
pub const TWIN_MASTER: &str = "twin-master";

/// What a master answers to who does not show in its manner who asks; 503 while it derives the key itself.
const REFUSALS: [u16; 3] = [401, 403, 503];

/// How much is read of an answer that nobody wants, so that its connection can be used again.
const DRAIN_BYTES_MAX: u64 = 64 << 10;

/// How much of a refusal's body is read, for messages.
const EXCERPT_BYTES_MAX: u64 = 600;

/// Statuses with which proxies answer in place of the server behind them; 495 to 497 are nginx's own, for certificates.
const OF_PROXIES: [u16; 7] = [400, 495, 496, 497, 502, 503, 504];
/// How much of a proxy's page is looked at.
const PAGE_BYTES_MAX: u64 = 4096;

/// The way to the master.
pub struct Link {
    client: Client,
    url: String,
    uuid: String,
    outside_url: Option<String>,
    signer: Signer,
    stop: Stop,
    state: Mutex<Known>,
    poke: (Sender<()>, Receiver<()>),
    files: (Sender<()>, Receiver<()>),
}

/// How it stands between this node and its master.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing is known yet.
    #[default]
    Starting,
    /// The master has entries that are not here yet.
    CatchingUp,
    /// All that the master has is here, as far as is known.
    Following,
    /// The master does not answer.
    Unreachable,
    /// The master refuses this node, or answers what cannot be used.
    Refused,
    /// What the master sent cannot be applied here.
    Failing,
    /// The key for the tokens of a Python master is being derived.
    WaitingForKey,
    /// This node has entries that the master has lost.
    Ahead,
    /// This node and the master have different entries at one serial.
    Forked,
    /// The master keeps the entries no longer that are due here.
    Gone,
    /// This node knows a newer master.
    Outdated,
    /// The master is another one than the recorded one.
    Foreign,
}

impl State {
    /// As `/+status` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::CatchingUp => "catching-up",
            Self::Following => "following",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Failing => "failing",
            Self::WaitingForKey => "waiting-for-key",
            Self::Ahead => "ahead",
            Self::Forked => "forked",
            Self::Gone => "gone",
            Self::Outdated => "outdated",
            Self::Foreign => "foreign",
        }
    }
}

/// What is known of the master. Times are those of this node.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// How it stands with it.
    pub state: State,
    /// The last serial at which both have the same history, once that was asked for; the inner one is none if there
    /// is no such serial.
    pub common: Option<Option<Serial>>,
    /// How many batches of entries did not have the chain that the master named.
    pub rejected: u64,
    /// The replicas between the master and this node, if it follows one of them.
    pub path: Vec<String>,
    /// Whether the replica that is followed is not current itself.
    pub is_stale: bool,
    /// Which indexes this node takes over, if not all.
    pub filter: Option<Filter>,
    /// Whether this node brings the files that it learns of.
    pub brings_files: bool,
    /// Its uuid, once it was recorded.
    pub uuid: Option<String>,
    /// Which program gave its last answer, as far as that is known.
    pub program: Option<Program>,
    /// The last master's uuid that was one of this program: devpi's token is kept from whoever answers in its place
    /// as if it were devpi.
    pub twin: Option<String>,
    /// The highest serial that it named; the inner one is none while its log is empty.
    pub serial: Option<Option<Serial>>,
    /// When that changed.
    pub serial_at: Option<SystemTime>,
    /// When it was asked last.
    pub asked_at: Option<SystemTime>,
    /// When it answered last.
    pub answered_at: Option<SystemTime>,
    /// When it last answered a poll as it should.
    pub updated_at: Option<SystemTime>,
    /// When its serial was last seen to be the own one.
    pub in_sync_at: Option<SystemTime>,
    /// What went wrong at the last poll; none if nothing did.
    pub trouble: Option<String>,
}

/// Which program a master is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// This one, which knows receipts.
    Twinpi,
    /// devpi-server.
    Devpi,
}

impl Program {
    /// Which one an answer is from; none if neither says so, as a proxy's own.
    fn of(headers: &Headers) -> Option<Self> {
        if headers.has(wire::TWINPI_VERSION) {
            return Some(Self::Twinpi);
        }
        headers.has(wire::SERVER_VERSION).then_some(Self::Devpi)
    }
}

impl Known {
    /// Whether the recorded master was ever one of this program.
    fn was_twin(&self) -> bool {
        self.twin.is_some() && self.twin == self.uuid
    }
}

impl Link {
    /// A way to the master at `url`, as the replica `uuid`. `recorded` is the uuid of the master, if it is known.
    pub fn new(
        client: Client,
        url: &str,
        signer: Signer,
        outside_url: Option<String>,
        recorded: Option<String>,
    ) -> Self {
        let known = Known { uuid: recorded, ..Known::default() };
        let (url, uuid) = (url.trim_end_matches('/').to_owned(), signer.uuid().to_owned());
        let state = Mutex::new(known);
        let (poke, files, stop) = (bounded(1), bounded(1), Stop::new());
        Self { client, url, uuid, outside_url, signer, state, poke, files, stop }
    }

    /// The master's URL, without a slash at its end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The uuid of this node.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// What is known of the master.
    pub fn known(&self) -> Known {
        lock(&self.state).clone()
    }

    /// Which indexes this node takes over, if not all.
    pub fn filter(&self) -> Option<Filter> {
        lock(&self.state).filter.clone()
    }

    /// Whether the master is one of this program, as far as is known.
    pub fn is_twin(&self) -> bool {
        let known = lock(&self.state);
        known.was_twin() || known.program == Some(Program::Twinpi)
    }

    /// The recorded master's uuid, if it is one of this program and not marked as such yet, which is for ever.
    pub fn unmarked_twin(&self) -> Option<String> {
        let known = lock(&self.state);
        let is_unmarked = known.program == Some(Program::Twinpi) && !known.was_twin();
        known.uuid.clone().filter(|_| is_unmarked)
    }

    /// Whether who answers is devpi-server in place of a master that was none.
    pub fn is_downgraded(&self) -> bool {
        let known = lock(&self.state);
        known.was_twin() && known.program == Some(Program::Devpi)
    }

    /// How the master wants to be shown who asks.
    fn manner(&self) -> Manner {
        let known = lock(&self.state);
        match known.program {
            Some(Program::Devpi) if !known.was_twin() => Manner::Devpi,
            _ => Manner::Ours,
        }
    }

    /// Whether nothing can be asked for want of the key for devpi's tokens.
    pub fn lacks_key(&self) -> bool {
        self.manner() == Manner::Devpi && self.signer.lacks_key()
    }

    /// Whether that key is being derived.
    pub fn is_deriving_key(&self) -> bool {
        self.manner() == Manner::Devpi && self.signer.is_deriving()
    }

    /// Waits for that key at most until the deadline, and says whether it has come.
    pub fn wait_for_key(&self, deadline: Deadline) -> bool {
        self.signer.wait_for_key(deadline).is_ok()
    }

    /// Changes what is known.
    pub fn note(&self, change: impl FnOnce(&mut Known)) {
        change(&mut lock(&self.state));
    }

    /// Notes the serial that an answer named.
    pub fn note_serial(&self, serial: Option<Serial>) {
        self.note(|known| {
            if known.serial.is_none_or(|seen| seen < serial) {
                known.serial = Some(serial);
                known.serial_at = Some(SystemTime::now());
            }
        });
    }

    /// Wakes whoever listens to `pokes`: what is known of the master has changed, or it is time to stop.
    pub fn poke(&self) {
        let _ = self.poke.0.try_send(()); // full: the word is there already
    }

    /// Where pokes arrive; for one listener.
    pub fn pokes(&self) -> Receiver<()> {
        self.poke.1.clone()
    }

    /// Says that a file has come, or that it is time to stop.
    pub fn files_moved(&self) {
        let _ = self.files.0.try_send(()); // full: the word is there already
    }

    /// Where that arrives; for one listener.
    pub fn file_words(&self) -> Receiver<()> {
        self.files.1.clone()
    }

    /// Asks the master as this replica, with a token. If the master wants one made with a fresh nonce, or in the other
    /// manner, asks again.
    ///
    /// # Errors
    /// Those of `Client::request`; `Kind::Unavailable` while the key for the token is being derived.
    pub fn get(&self, target: &str, extra: &[(&str, &str)], timeouts: Timeouts) -> Result<Answer> {
        self.ask("GET", target, extra, timeouts)
    }

    /// As `get`, with another method and no body.
    ///
    /// # Errors
    /// As `get`.
    pub fn ask(
        &self,
        method: &str,
        target: &str,
        extra: &[(&str, &str)],
        timeouts: Timeouts,
    ) -> Result<Answer> {
        let manner = self.manner();
        let answer = self.ask_once(manner, method, target, extra, timeouts)?;
        let is_stale = answer.status == 401 && answer.headers.has(wire::NONCE);
        let is_other = REFUSALS.contains(&answer.status) && self.manner() != manner;
        if !is_stale && !is_other {
            return Ok(answer);
        }
        drain(answer);
        self.ask_once(self.manner(), method, target, extra, timeouts)
    }

    /// Sends the master a body as this replica. It is sent once: whoever has a nonce is not asked for another one.
    ///
    /// # Errors
    /// Those of `Client::request`.
    pub fn put(&self, target: &str, body: ClientBody, timeouts: Timeouts) -> Result<Answer> {
        let mut headers = self.headers();
        headers.extend(self.signer.authorize(self.manner(), "PUT", target)?);
        let answer = self.send("PUT", target, &headers, body, timeouts)?;
        self.signer.learn(&answer.headers);
        Ok(answer)
    }

    fn ask_once(
        &self,
        manner: Manner,
        method: &str,
        target: &str,
        extra: &[(&str, &str)],
        timeouts: Timeouts,
    ) -> Result<Answer> {
        let mut headers = self.headers();
        headers.extend(self.signer.authorize(manner, method, target)?);
        headers.extend(extra.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        let answer = self.send(method, target, &headers, ClientBody::None, timeouts)?;
        self.signer.learn(&answer.headers);
        Ok(answer)
    }

    /// Sends any request to the master as it is.
    ///
    /// # Errors
    /// Those of `Client::request`.
    pub fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(String, String)],
        body: ClientBody,
        timeouts: Timeouts,
    ) -> Result<Answer> {
        self.note(|known| known.asked_at = Some(SystemTime::now()));
        let url = format!("{}{target}", self.url);
        let answer = self.client.request(method, &url, headers, body, timeouts)?;
        let answer = self.of_master(answer)?;
        self.note(|known| {
            known.answered_at = Some(SystemTime::now());
            known.program = Program::of(&answer.headers).or(known.program);
        });
        Ok(answer)
    }

    /// An answer of the master, or of what it is behind; an error if something in between made it up.
    fn of_master(&self, mut answer: Answer) -> Result<Answer> {
        if answer.headers.has(wire::API_VERSION) || !OF_PROXIES.contains(&answer.status) {
            return Ok(answer);
        }
        let mut page = Vec::new();
        let _ = answer.body.by_ref().take(PAGE_BYTES_MAX).read_to_end(&mut page);
        let (url, status) = (shown(&self.url), answer.status);
        let text = String::from_utf8_lossy(&page);
        let message = match (self.client.explain_page(&self.url, &text), status) {
            (Some(message), _) => message,
            (None, 502) => format!("the proxy at {url} does not reach the master behind it (502)"),
            (None, 503) => format!("the proxy at {url} has no master to pass this on to (503)"),
            (None, 504) => format!(
                "the proxy at {url} did not wait long enough for the master (504): polls are open for 30 s, and \
                 changes as long as they take. In nginx that is proxy_read_timeout"
            ),
            (None, _) => {
                answer.body = Box::new(std::io::Cursor::new(page).chain(answer.body));
                return Ok(answer);
            }
        };
        Err(Error::new(Kind::BadGateway, message))
    }

    fn headers(&self) -> Vec<(String, String)> {
        let expected = lock(&self.state).uuid.clone().unwrap_or_default();
        let mut headers = vec![
            (wire::REPLICA_UUID.to_owned(), self.uuid.clone()),
            (wire::EXPECTED_MASTER.to_owned(), expected.clone()),
            (wire::EXPECTED_PRIMARY.to_owned(), expected),
            (wire::TWINPI_VERSION.to_owned(), wire::THIS_VERSION.to_owned()),
        ];
        if let Some(url) = &self.outside_url {
            headers.push((wire::REPLICA_OUTSIDE_URL.to_owned(), url.clone()));
        }
        headers
    }

    /// The master and when it was heard of last, for messages.
    pub fn describe(&self) -> String {
        let contact = match lock(&self.state).answered_at {
            None => "it did not answer since this node was started".to_owned(),
            Some(at) => {
                let ago = at.elapsed().unwrap_or_default().as_secs();
                format!("last contact {} ({ago} s ago)", httpdate::fmt_http_date(at))
            }
        };
        format!("the master at {}, {contact}", shown(&self.url))
    }

    /// The error for a master that did not answer; `what` names what is not to be had.
    pub fn away(&self, what: &str, error: &Error) -> Error {
        let index = what.match_indices('/').nth(1).map(|(end, _)| &what[..end]);
        let what = match (index, self.filter()) {
            (Some(index), Some(filter)) if !filter.has(index) => {
                format!("{index} is not replicated here: this node has {filter}. {what}")
            }
            _ => what.to_owned(),
        };
        let message = format!("{what} is not to be had from {}: {error}", self.describe());
        Error::new(Kind::BadGateway, message)
    }

    /// Ends all requests under way, and refuses new ones.
    pub fn shutdown(&self) {
        self.stop.set();
        self.client.shutdown();
    }

    /// Sleeps for `span` before something is asked again; false if nothing may be asked any more.
    pub fn pause(&self, span: Duration) -> bool {
        !self.stop.sleep(span)
    }
}

/// A URL without user and password.
fn shown(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(mut parsed) if !parsed.username().is_empty() || parsed.password().is_some() => {
            let _ = parsed.set_username("");
            let _ = parsed.set_password(None);
            parsed.to_string()
        }
        _ => url.to_owned(),
    }
}

/// Reads the rest of an answer that is small, so that its connection can be used again.
pub fn drain(answer: Answer) {
    let _ = std::io::copy(&mut answer.body.take(DRAIN_BYTES_MAX), &mut std::io::sink());
}

/// The beginning of an answer's body in one line, for logs.
pub fn excerpt(answer: Answer) -> String {
    let mut text = Vec::new();
    let _ = answer.body.take(EXCERPT_BYTES_MAX).read_to_end(&mut text);
    String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" ")
}
