//! The replica's one writer: asks the master for what follows its own last serial, applies it, and asks again.
//!
//! While it is behind, entries are applied many at a time; at the end of the log each by itself, at once. Whatever
//! breaks, the next request starts at the serial that is due, so the stream may be cut at any byte.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Error, Kind, Result};
use crate::http::client::{Answer, Timeouts};
use crate::serial::Serial;
use crate::stop::Stop;
use crate::store::Writer;
use crate::store::codec::FrameReader;
use crate::store::key::FilePath;

use super::link::{self, CONNECT, Link};
use super::wire;

/// A poll is parked for 30 s; devpi's replicas wait as long as this for its answer.
const POLL: Duration = Duration::from_millis(37_500);
/// The longest silence inside an answer.
const READ: Duration = Duration::from_secs(30);
/// A transaction holds at most so many bytes of entries, one entry more at most.
const BATCH_BYTES: usize = 4 << 20;
/// A transaction holds at most so many entries: the larger, the fewer syncs; the later they are visible.
const BATCH_ENTRIES: usize = 1000;
/// Entries are held back for others at most so long, when they come slowly.
const BATCH_WAIT: Duration = Duration::from_millis(100);
/// The first pause after a failure, and the longest; it doubles in between.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Records the uuid of the master, for ever.
pub type RecordMaster = Box<dyn Fn(&str) -> Result<()> + Send + Sync>;

/// What the puller tells others.
pub struct Hooks {
    /// Called at the first contact.
    pub record_master: RecordMaster,
    /// Is told the uuid of a foreign master, of which nothing may be applied, and ends the process.
    pub foreign_master: Box<dyn Fn(&str) + Send + Sync>,
    /// Whether the bytes of a file are to be fetched.
    pub wants: Box<dyn Fn(&FilePath) -> bool + Send + Sync>,
}

/// Follows the master.
pub struct Puller {
    link: Arc<Link>,
    writer: Arc<Writer>,
    hooks: Hooks,
    stop: Stop,
    is_first: bool,
}

/// How a request ended, short of a failure.
enum Round {
    /// Something was applied, or the poll ran out as it should.
    Good,
    /// The answer had nothing in it: devpi's masters wake a poll that way.
    Empty,
    /// The answer came from another master than the recorded one.
    Foreign,
}

/// Entries that wait to be applied together.
struct Batch {
    entries: Vec<(Serial, Vec<u8>)>,
    bytes: usize,
    since: Instant,
}

impl Puller {
    /// A puller that has not begun.
    pub fn new(link: Arc<Link>, writer: Arc<Writer>, hooks: Hooks, stop: Stop) -> Self {
        Self { link, writer, hooks, stop, is_first: true }
    }

    /// Follows the master until the stop, or until it turns out to be another one.
    pub fn run(mut self) {
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
                Err(error) => {
                    self.failed(&error, has_moved);
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

    fn recovered(&mut self) {
        self.is_first = false;
        self.link.note(|known| {
            if known.trouble.take().is_some() {
                log::info!("following the master again");
            }
        });
    }

    /// Logs the first of a row of failures, and each that is another one than before.
    fn failed(&self, error: &Error, has_moved: bool) {
        let trouble = error.to_string();
        self.link.note(|known| {
            if has_moved || known.trouble.as_deref() != Some(&trouble) {
                log::warn!("cannot follow the master at present: {trouble}");
            }
            known.trouble = Some(trouble);
        });
    }

    /// One request, and what it brings.
    fn round(&mut self) -> Result<Round> {
        let due = Serial::following(self.last());
        let first = if self.is_first { format!("?{}", wire::INITIAL_FETCH) } else { String::new() };
        let target = format!("{}{due}-{first}", wire::CHANGELOG);
        let timeouts = Timeouts { connect: CONNECT, response_head: POLL, per_read: READ };
        let answer = self.link.get(&target, &[("Accept", wire::ACCEPT_STREAM)], timeouts)?;
        if !matches!(answer.status, 200 | 202) {
            return Err(refused(answer, due));
        }
        let serial = wire::serial_of(&answer.headers)
            .ok_or_else(|| bad(format!("the master's answer has no valid {}", wire::SERIAL)))?;
        let uuid = wire::master_of(&answer.headers)
            .ok_or_else(|| bad("the answer does not say which master gives it".to_owned()))?;
        if !self.is_expected(uuid)? {
            return Ok(Round::Foreign);
        }
        let uuid = uuid.to_owned();
        self.link.note_serial(serial);
        if answer.status == 202 {
            link::drain(answer);
            self.updated(serial);
            return Ok(Round::Good);
        }
        self.record(&uuid)?;
        let applied = self.import(answer, serial)?;
        self.updated(serial);
        Ok(if applied == 0 { Round::Empty } else { Round::Good })
    }

    fn is_expected(&self, uuid: &str) -> Result<bool> {
        if uuid == self.link.uuid() {
            return Err(bad("the master's address leads to this node itself".to_owned()));
        }
        let recorded = self.link.known().uuid;
        let Some(recorded) = recorded.filter(|recorded| recorded != uuid) else { return Ok(true) };
        let message = format!(
            "{} has the uuid {uuid}; this replica belongs to the master {recorded} and follows no other",
            self.link.describe()
        );
        log::error!("{message}");
        self.link.note(|known| known.trouble = Some(message));
        (self.hooks.foreign_master)(uuid);
        Ok(false)
    }

    fn record(&self, uuid: &str) -> Result<()> {
        if self.link.known().uuid.is_none() {
            (self.hooks.record_master)(uuid)?;
            self.link.note(|known| known.uuid = Some(uuid.to_owned()));
            log::info!("following the master {uuid}");
        }
        Ok(())
    }

    /// Notes an answer as it should be, which named this serial.
    fn updated(&self, serial: Option<Serial>) {
        let now = SystemTime::now();
        let is_in_sync = self.last() == serial;
        self.link.note(|known| {
            known.updated_at = Some(now);
            if is_in_sync {
                known.in_sync_at = Some(now);
            }
        });
        self.link.poke();
    }

    /// Applies what a stream brings, and gives how many entries that were. What was whole before a failure stays.
    fn import(&self, answer: Answer, end: Option<Serial>) -> Result<usize> {
        let mut frames = FrameReader::new(answer.body);
        let mut batch = Batch::new();
        let mut applied = 0;
        loop {
            let next = frames.next_entry().and_then(|next| next.map(with_serial).transpose());
            let is_over = !matches!(next, Ok(Some(_)));
            let failure = match next {
                Ok(Some((serial, entry))) => {
                    batch.push(serial, entry);
                    None
                }
                Ok(None) => None,
                Err(error) => Some(error),
            };
            if is_over || batch.is_due(end) {
                applied += self.apply(&mut batch)?;
            }
            match failure {
                Some(error) => return Err(error.while_doing("reading the changelog")),
                None if is_over => return Ok(applied),
                None if self.stop.is_set() => return Ok(applied),
                None => {}
            }
        }
    }

    /// Applies a batch. If one entry of it cannot be, those before it are, and the error names it.
    fn apply(&self, batch: &mut Batch) -> Result<usize> {
        let entries = std::mem::take(&mut batch.entries);
        batch.bytes = 0;
        if entries.is_empty() {
            return Ok(0);
        }
        let wants = |path: &FilePath| (self.hooks.wants)(path);
        match self.writer.apply(&entries, None, &wants) {
            Ok(()) => {}
            Err(_) if 1 < entries.len() => {
                for entry in entries.chunks(1) {
                    self.writer.apply(entry, None, &wants)?;
                }
            }
            Err(error) => return Err(error),
        }
        Ok(entries.len())
    }
}

impl Batch {
    fn new() -> Self {
        Self { entries: Vec::new(), bytes: 0, since: Instant::now() }
    }
    fn push(&mut self, serial: Serial, entry: Vec<u8>) {
        if self.entries.is_empty() {
            self.since = Instant::now();
        }
        self.bytes += entry.len();
        self.entries.push((serial, entry));
    }
    /// Whether it is to be applied now: it is full, or old, or nothing is known to follow it.
    fn is_due(&self, end: Option<Serial>) -> bool {
        let last = self.entries.last().map(|(serial, _)| *serial);
        end <= last
            || BATCH_ENTRIES <= self.entries.len()
            || BATCH_BYTES <= self.bytes
            || BATCH_WAIT <= self.since.elapsed()
    }
}

fn with_serial((number, entry): (i64, Vec<u8>)) -> Result<(Serial, Vec<u8>)> {
    let serial = Serial::from_wire(number).flatten();
    Ok((serial.ok_or_else(|| bad(format!("the stream has the serial {number}")))?, entry))
}

fn bad(message: String) -> Error {
    Error::new(Kind::BadGateway, message)
}

fn refused(answer: Answer, due: Serial) -> Error {
    let status = answer.status;
    let text = excerpt_of(answer);
    bad(match status {
        404 => format!(
            "the master does not know serial {due} nor is it its next one: it has lost entries that this replica has, \
             or its address leads elsewhere: {text}"
        ),
        401 | 403 => format!("the master refuses this replica ({status}): {text}"),
        status => format!("the master answered {status}: {text}"),
    })
}

fn excerpt_of(answer: Answer) -> String {
    let reason = answer.reason.clone().unwrap_or_default();
    let text = link::excerpt(answer);
    if text.is_empty() { reason } else { text }
}
