//! The replica's one writer: asks the master for what follows its own last serial, applies it, and asks again.
//!
//! While it is behind, entries are applied many at a time; at the end of the log each by itself, at once. Whatever
//! breaks, the next request starts at the serial that is due, so the stream may be cut at any byte.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::http::client::{Answer, Timeouts};
use crate::serial::Serial;
use crate::stop::Stop;
use crate::store::Writer;
use crate::store::key::FilePath;

use super::filter::Filter;
use super::handshake::{self, WirePosition};
use super::import::{Broken, End, Import, Source};
use super::link::{self, CONNECT, Link, State};
use super::mender::Word;
use super::seen::{Diary, Seen};
use super::{replicas, twins, wire};

/// A poll is parked for 30 s; devpi's replicas wait as long as this for its answer.
const POLL: Duration = Duration::from_millis(37_500);
/// The longest silence inside an answer.
const READ: Duration = Duration::from_secs(30);
/// How many replicas may stand between the master and this node.
const PATH_MAX: usize = 16;
/// The first pause after a failure, and the longest; it doubles in between.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// How long a stop waits at most for one who waits for the key for devpi's tokens.
const KEY_LOOK: Duration = Duration::from_millis(500);

/// What is said of one who answers as devpi-server in the place of a master that was none.
const DOWNGRADED: &str = "the master was a twinpi and answers now as devpi-server would; it gets no token of devpi's, \
                          which somebody in between could be after";

/// Records the uuid of the master, for ever.
pub type RecordMaster = Box<dyn Fn(&str) -> Result<()> + Send + Sync>;

/// What the puller tells others.
pub struct Hooks {
    /// Called at the first contact.
    pub record_master: RecordMaster,
    /// Is told the uuid of a foreign master, of which nothing may be applied, and ends the process.
    pub foreign_master: Box<dyn Fn(&str) + Send + Sync>,
    /// Is told when the master says that it has lost files.
    pub mend: Word,
    /// Whether the bytes of a file are to be fetched.
    pub wants: Box<dyn Fn(&FilePath) -> bool + Send + Sync>,
    /// Is told when entries were applied.
    pub learned: Box<dyn Fn() + Send + Sync>,
}

/// Follows the master.
pub struct Puller {
    link: Arc<Link>,
    writer: Arc<Writer>,
    hooks: Hooks,
    stop: Stop,
    is_first: bool,
    /// What this start of the node calls itself.
    start: String,
    /// The head of the master for which the last common serial was asked.
    probed: Option<Option<Serial>>,
    diary: Diary,
    /// What is taken over, if not all.
    filter: Option<Filter>,
}

/// Why a round failed.
struct Failure {
    state: State,
    error: Error,
}

impl Failure {
    fn of(state: State) -> impl FnOnce(Error) -> Self {
        move |error| Self { state, error }
    }
}

type Attempt<T> = std::result::Result<T, Failure>;

/// How a request ended, short of a failure.
enum Round {
    /// Something was applied, or the poll ran out as it should.
    Good,
    /// The answer had nothing in it: devpi's masters wake a poll that way.
    Empty,
    /// The answer came from another master than the recorded one.
    Foreign,
}

impl Puller {
    /// A puller that has not begun.
    pub fn new(link: Arc<Link>, writer: Arc<Writer>, hooks: Hooks, stop: Stop) -> Self {
        let (filter, diary) = (link.known().filter, Diary::default());
        let start = twins::name();
        Self { link, writer, hooks, stop, is_first: true, start, probed: None, diary, filter }
    }

    /// Follows the master until the stop, or until it turns out to be another one.
    pub fn run(mut self) {
        self.follow();
        self.note_seen(true);
    }

    /// Writes down what the master is at, for the day on which it is gone.
    fn note_seen(&mut self, is_last: bool) {
        let seen = Seen::of(self.link.url(), &self.link.known());
        self.diary.note(&self.writer, seen, is_last);
    }

    fn follow(&mut self) {
        let mut pause = PAUSES.0;
        let mut is_empty = false;
        while !self.stop.is_set() {
            let before = self.last();
            let result = self.round();
            if self.stop.is_set() {
                return;
            }
            let has_moved = before < self.last();
            if has_moved {
                pause = PAUSES.0;
            }
            let was_empty = std::mem::replace(&mut is_empty, matches!(result, Ok(Round::Empty)));
            match result {
                Ok(Round::Foreign) => return,
                Ok(Round::Good) => self.recovered(),
                Ok(Round::Empty) if !was_empty => self.recovered(),
                Ok(Round::Empty) => {
                    self.stop.sleep(pause);
                }
                Err(failure) => {
                    self.failed(&failure, has_moved);
                    if self.wait_for_key() {
                        continue;
                    }
                    self.stop.sleep(pause);
                    pause = (pause * 2).min(PAUSES.1);
                    continue;
                }
            }
            pause = PAUSES.0;
        }
    }

    fn last(&self) -> Option<Serial> {
        self.writer.store().clock().now()
    }

    /// Waits for the key for devpi's tokens if it is being derived, and says whether it has come.
    fn wait_for_key(&self) -> bool {
        while !self.stop.is_set() && self.link.is_deriving_key() {
            if self.link.wait_for_key(Deadline::after(KEY_LOOK)) {
                return true;
            }
        }
        false
    }

    fn recovered(&mut self) {
        self.is_first = false;
        self.probed = None;
        let last = self.last();
        self.link.note(|known| {
            let is_behind = known.serial.is_some_and(|serial| last < serial);
            known.state = if is_behind { State::CatchingUp } else { State::Following };
            known.common = None;
            if known.trouble.take().is_some() {
                log::info!("following the master again");
            }
        });
    }

    /// Logs the first of a row of failures, and each that is another one than before.
    fn failed(&mut self, failure: &Failure, has_moved: bool) {
        // The next answer is wanted soon, whether it brings anything or not.
        self.is_first = true;
        let trouble = failure.error.to_string();
        self.link.note(|known| {
            known.state = failure.state;
            if has_moved || known.trouble.as_deref() != Some(&trouble) {
                log::warn!("cannot follow the master at present: {trouble}");
            }
            known.trouble = Some(trouble);
        });
    }

    /// One request, and what it brings.
    fn round(&mut self) -> Attempt<Round> {
        let answer = self.poll()?;
        let serial = wire::serial_of(&answer.headers).ok_or_else(|| {
            Failure::of(State::Refused)(bad(format!(
                "the master's answer has no valid {}",
                wire::SERIAL
            )))
        })?;
        let theirs = position_of(&answer, serial)?;
        let uuid = wire::master_of(&answer.headers).map(str::to_owned).ok_or_else(|| {
            Failure::of(State::Refused)(bad(
                "the answer does not say which master gives it".to_owned()
            ))
        })?;
        if !self.is_expected(&uuid, theirs.as_ref())? {
            return Ok(Round::Foreign);
        }
        self.learn_path(&answer)?;
        self.link.note_serial(serial);
        self.note_seen(false);
        if answer.headers.has(wire::LOST) {
            self.hooks.mend.give();
        }
        if let Some(theirs) = &theirs {
            self.learn_timelines(theirs)?;
            self.record(&uuid).map_err(Failure::of(State::Failing))?;
        }
        if answer.status == 202 {
            link::drain(answer);
            self.updated(serial)?;
            return Ok(Round::Good);
        }
        self.record(&uuid).map_err(Failure::of(State::Failing))?;
        let end = End { serial, position: theirs.and_then(|theirs| theirs.at) };
        let applied = self.import(answer, end)?;
        self.updated(serial)?;
        Ok(if applied == 0 { Round::Empty } else { Round::Good })
    }

    /// Asks for what follows; gives an answer with entries, or that there are none.
    fn poll(&mut self) -> Attempt<Answer> {
        let own = WirePosition::of(self.writer.store()).map_err(Failure::of(State::Failing))?;
        let due = Serial::following(own.serial());
        let first = if self.is_first { format!("{}&", wire::INITIAL_FETCH) } else { String::new() };
        let position = wire::POSITION_PARAMETER;
        let part = self.filter.as_ref().map_or_else(String::new, |filter| {
            format!("&{}={}", wire::REPLICATE_PARAMETER, filter.wire())
        });
        let target = format!("{}{due}-?{first}{position}={own}{part}", wire::CHANGELOG);
        let timeouts = Timeouts { connect: CONNECT, response_head: POLL, per_read: READ };
        let files = self.files_word().map_err(Failure::of(State::Failing))?;
        let mut headers = vec![("Accept", wire::ACCEPT_PIECES), (wire::START, &self.start)];
        headers.extend(files.as_deref().map(|files| (wire::FILES, files)));
        let answer = self.link.get(&target, &headers, timeouts).map_err(|error| {
            let lacks_key = self.link.lacks_key();
            Failure {
                state: if lacks_key { State::WaitingForKey } else { State::Unreachable },
                error,
            }
        })?;
        match answer.status {
            200 | 202 => self.check_part(answer),
            _ => Err(self.refused(answer, due)),
        }
    }

    /// Refuses the whole log in place of the part that was asked for, and a part in place of the whole.
    fn check_part(&self, answer: Answer) -> Attempt<Answer> {
        let (asked, sent) = (self.filter.as_ref(), answer.headers.get(wire::REPLICATE));
        if asked.map(Filter::wire).as_deref() == sent {
            return Ok(answer);
        }
        let message = match asked {
            Some(filter) => format!(
                "{} cannot leave out what is not for this node, as --replicate {filter} wants: that takes a twinpi \
                 that knows the option, and a devpi-server cannot do it. Follow such a master, or start with an empty \
                 folder and without --replicate",
                self.link.describe()
            ),
            None => "the master sends a part of its log where all was asked for".to_owned(),
        };
        Err(Failure::of(State::Refused)(bad(message)))
    }

    /// How far the files have come, where they are brought.
    fn files_word(&self) -> Result<Option<String>> {
        match self.link.known().brings_files {
            true => Ok(Some(replicas::files_word(&self.writer.store().files_up_to()?))),
            false => Ok(None),
        }
    }

    /// What an answer means that brings nothing.
    fn refused(&mut self, answer: Answer, due: Serial) -> Failure {
        let state = match (answer.status, answer.headers.get(wire::STATE)) {
            (409, Some("fenced")) => State::Outdated,
            (409, Some("forked")) => State::Forked,
            (409, Some("ahead")) => State::Ahead,
            (410, Some("gone")) => State::Gone,
            (404, _) => State::Ahead,
            (400, _) if self.is_of_another(&answer) => State::Foreign,
            _ => State::Refused,
        };
        let head = wire::serial_of(&answer.headers);
        let is_ours = answer.headers.has(wire::POSITION);
        let error = match self.link.is_downgraded() {
            true => refusal(answer, due).while_doing(DOWNGRADED),
            false => refusal(answer, due),
        };
        if !matches!(state, State::Ahead | State::Forked) {
            return Failure { state, error };
        }
        self.link.note(|known| known.serial = head.or(known.serial));
        if is_ours && self.probed != head {
            match handshake::last_common(&self.link, self.writer.store(), head.flatten()) {
                Ok(common) => {
                    self.probed = head;
                    self.link.note(|known| known.common = Some(common));
                }
                Err(error) => return Failure { state, error },
            }
        }
        let Some(common) = self.link.known().common.filter(|_| is_ours) else {
            return Failure { state, error };
        };
        let (common_at, last) = (Serial::wire(common), Serial::wire(due.previous()));
        let state = if Some(common) == head { State::Ahead } else { State::Forked };
        let message = format!(
            "{error}: this replica has serials up to {last}, the master up to {}, and both have the same history up to \
             {common_at}. Nothing is dropped here before someone decides which history is to stay: promote this node, \
             or have it follow the master with `twinpi demote`, which saves what it alone has",
            Serial::wire(head.flatten()),
        );
        Failure { state, error: bad(message) }
    }

    /// Whether an answer names another master than the recorded one.
    fn is_of_another(&self, answer: &Answer) -> bool {
        let recorded = self.link.known().uuid;
        let named = wire::master_of(&answer.headers);
        recorded.is_some() && named.is_some() && recorded.as_deref() != named
    }

    /// Takes down over which replicas the log comes here.
    fn learn_path(&self, answer: &Answer) -> Attempt<()> {
        let path = answer.headers.get(wire::PATH).unwrap_or_default();
        let path: Vec<String> = path
            .split(',')
            .map(|uuid| uuid.trim().to_owned())
            .filter(|uuid| !uuid.is_empty())
            .take(PATH_MAX + 1)
            .collect();
        let is_circle = path.iter().any(|uuid| uuid == self.link.uuid());
        if is_circle || PATH_MAX < path.len() {
            let message =
                "the master's address leads in a circle: it is a replica that follows this node"
                    .to_owned();
            return Err(Failure::of(State::Refused)(bad(message)));
        }
        let is_stale = answer.headers.has(wire::STALE);
        self.link.note(|known| {
            known.path = path;
            known.is_stale = is_stale;
        });
        Ok(())
    }

    /// Takes the master's timelines when it has others than this node.
    fn learn_timelines(&self, theirs: &WirePosition) -> Attempt<()> {
        let store = self.writer.store();
        let own = store.timeline();
        if theirs.epoch < store.epoch() {
            let message = format!(
                "the master is at epoch {}, and this node knows of epoch {}: another node was promoted meanwhile",
                theirs.epoch,
                store.epoch()
            );
            return Err(Failure::of(State::Outdated)(bad(message)));
        }
        if theirs.timeline == own.map(|own| own.id) {
            return Ok(());
        }
        let timelines =
            handshake::ask_timelines(&self.link, store).map_err(Failure::of(State::Refused))?;
        self.writer.adopt_timelines(&timelines).map_err(Failure::of(State::Failing))?;
        log::info!("the log is now on the timeline of epoch {}", store.epoch());
        Ok(())
    }

    fn is_expected(&self, uuid: &str, theirs: Option<&WirePosition>) -> Attempt<bool> {
        if uuid == self.link.uuid() {
            let message = "the master's address leads to this node itself".to_owned();
            return Err(Failure::of(State::Refused)(bad(message)));
        }
        let recorded = self.link.known().uuid;
        let Some(recorded) = recorded.filter(|recorded| recorded != uuid) else { return Ok(true) };
        // It compared the histories, and this one is the beginning of its own.
        if theirs.is_some() {
            return Ok(true);
        }
        let message = format!(
            "{} has the uuid {uuid}; this replica belongs to the master {recorded} and follows no other",
            self.link.describe()
        );
        log::error!("{message}");
        self.link.note(|known| {
            known.state = State::Foreign;
            known.trouble = Some(message);
        });
        (self.hooks.foreign_master)(uuid);
        Ok(false)
    }

    fn record(&self, uuid: &str) -> Result<()> {
        if self.link.known().uuid.as_deref() != Some(uuid) {
            (self.hooks.record_master)(uuid)?;
            self.link.note(|known| known.uuid = Some(uuid.to_owned()));
            log::info!("following the master {uuid}");
        }
        Ok(())
    }

    /// Notes an answer as it should be, which named this serial.
    fn updated(&self, serial: Option<Serial>) -> Attempt<()> {
        if let Some(uuid) = self.link.unmarked_twin() {
            let marked = self.writer.set_local_value(link::TWIN_MASTER, Some(uuid.as_bytes()));
            marked.map_err(Failure::of(State::Failing))?;
            self.link.note(|known| known.twin = Some(uuid));
        }
        let now = SystemTime::now();
        let is_in_sync = self.last() == serial;
        self.link.note(|known| {
            known.updated_at = Some(now);
            if is_in_sync {
                known.in_sync_at = Some(now);
            }
        });
        self.link.poke();
        Ok(())
    }

    /// Applies what an answer brings, and gives how many entries that were. What was whole before a failure stays.
    fn import(&self, answer: Answer, end: End) -> Attempt<usize> {
        let is_ours = answer.headers.get("content-type") == Some(wire::PIECES_TYPE);
        let due = Serial::following(self.last());
        let mut source = match (is_ours, &self.filter) {
            (true, None) => Source::pieces(answer.body, due),
            (true, Some(_)) => Source::parts(answer.body, due),
            (false, None) => Source::stream(answer.body),
            (false, Some(_)) => {
                let message = "the master sends a part of its log in a form that has no parts";
                return Err(Failure::of(State::Refused)(bad(message.to_owned())));
            }
        };
        let mut import = Import::new(&self.writer, &self.hooks.wants, end);
        let result = loop {
            match import.take(&mut source) {
                Ok(true) if !self.stop.is_set() => {}
                Ok(_) => break Ok(()),
                Err(broken) => break Err(broken),
            }
        };
        self.link.note(|known| known.rejected += import.rejected);
        if 0 < import.applied {
            (self.hooks.learned)();
        }
        match result {
            Ok(()) => Ok(import.applied),
            Err(Broken::Source(error)) => {
                let error = error.while_doing("reading the changelog");
                Err(Failure::of(State::Unreachable)(error))
            }
            Err(Broken::Entries(error)) => Err(Failure::of(State::Failing)(error)),
        }
    }
}

fn bad(message: String) -> Error {
    Error::new(Kind::BadGateway, message)
}

/// The master's position; `None` if it tells none.
fn position_of(answer: &Answer, serial: Option<Serial>) -> Attempt<Option<WirePosition>> {
    let Some(text) = answer.headers.get(wire::POSITION) else { return Ok(None) };
    let position = WirePosition::parse(text).filter(|position| position.serial() == serial);
    let wrong = || bad(format!("the master's {} cannot be read", wire::POSITION));
    position.map(Some).ok_or_else(|| Failure::of(State::Refused)(wrong()))
}

fn refusal(answer: Answer, due: Serial) -> Error {
    let status = answer.status;
    let text = excerpt_of(answer);
    bad(match status {
        409 | 410 => message_of(&text).unwrap_or(text),
        404 => format!(
            "the master does not know serial {due} nor is it its next one: it has lost entries that this replica has, \
             or its address leads elsewhere: {text}"
        ),
        401 | 403 => format!("the master refuses this replica ({status}): {text}"),
        status => format!("the master answered {status}: {text}"),
    })
}

/// The sentence in an answer of ours.
fn message_of(text: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    json["message"].as_str().map(str::to_owned)
}

fn excerpt_of(answer: Answer) -> String {
    let reason = answer.reason.clone().unwrap_or_default();
    let text = link::excerpt(answer);
    if text.is_empty() { reason } else { text }
}
