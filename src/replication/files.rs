//! Bringing one file from the master: asking for it, checking it against its record, putting it in place.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::deadline::Deadline;
use crate::error::{Context, Error, Kind, Result};
use crate::http::client::{Answer, ClientBody, Timeouts};
use crate::http::lanes::{Lane, Size};
use crate::http::request::Headers;
use crate::http::resume::{self, Ask, Manner, Opened, Steady};
use crate::names::UserName;
use crate::store::blobs::{Staged, Staging};
use crate::store::expected::Expected;
use crate::store::growing::Arrivals;
use crate::store::key::{self, FilePath};
use crate::store::record::{Dict, Record as _};
use crate::store::txn::{Read as _, ReadTxn};
use crate::store::wanted::Wanted;
use crate::store::{Store, Writer};

use super::link::{self, CONNECT, Link};
use super::sources::{self, FilesWanted, SearchPath, Sources};
use super::wire;

/// The largest file that is taken when its record does not say its size, in bytes: a lying master must not fill the
/// disk.
pub(super) const FILE_BYTES_MAX: u64 = 64 << 30;

/// Where clients say who they are.
const CREDENTIALS: [&str; 2] = ["authorization", "x-devpi-auth"];

/// The choice of files at the last start, among the local values.
const CHOSEN: &str = "files-chosen";

/// How long a stop waits for what is under way.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Work on a lane.
type Work = Box<dyn FnOnce() + Send>;

/// Makes the METADATA that lies beside a wheel; none for other files.
pub type Sidecar = Arc<dyn Fn(&FilePath, &Staged) -> Option<Staged> + Send + Sync>;

/// Threads that bring files which clients wait for.
const WAITED_FOR: Size = Size { threads_min: 0, threads_max: 16, queue_max: 256 };

/// Brings files.
pub struct Files {
    pub(super) link: Arc<Link>,
    /// Those that clients wait for.
    pub(super) arrivals: Arrivals,
    pub(super) lane: Lane<Work>,
    /// Where else bytes are found.
    pub sources: Sources,
    /// What of all files is to be here.
    pub choice: FilesWanted,
    writer: Arc<Writer>,
    sidecar: Sidecar,
    skip: Skip,
    /// The longest wait for an answer's head, and the longest silence in its body.
    timeout: Duration,
}

/// Files of which indexes stay where they are, as `--file-replication-skip-indexes` says.
#[derive(Clone, Debug, Default)]
pub struct Skip(pub Vec<String>);

/// Files that a replica leaves where they are, as it was told at its last start.
#[derive(Debug)]
pub struct LeftOut {
    choice: FilesWanted,
    skip: Skip,
}

impl LeftOut {
    /// What a folder says.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn of(store: &Store) -> Result<Self> {
        let chosen = store.local_value(CHOSEN)?.unwrap_or_default();
        let chosen = String::from_utf8_lossy(&chosen);
        let (choice, skipped) = chosen.split_once(' ').unwrap_or_default();
        let skipped = skipped.split(',').filter(|name| !name.is_empty()).map(str::to_owned);
        let choice = FilesWanted::parse(choice).unwrap_or_default();
        Ok(Self { choice, skip: Skip(skipped.collect()) })
    }

    /// Whether this file is one of them.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn has(&self, store: &Store, path: &FilePath) -> Result<bool> {
        if self.choice != FilesWanted::All || self.skip.has_index(path.index()) {
            return Ok(true);
        }
        if self.skip.0.is_empty() {
            return Ok(false);
        }
        let kind = type_of_index(&store.read()?, path)?;
        Ok(kind.is_some_and(|kind| self.skip.has_type(&kind)))
    }
}

/// The type of the index that a file is in; none if there is no such index.
fn type_of_index(txn: &ReadTxn, path: &FilePath) -> Result<Option<String>> {
    let Some((user, index)) = path.index().split_once('/') else { return Ok(None) };
    let Ok(user) = UserName::parse(user) else { return Ok(None) };
    let config = txn.get(&key::User(&user))?.and_then(|user| user.dict("indexes")?.dict(index));
    Ok(config.and_then(|config| Some(config.text("type")?.to_owned())))
}

/// How an attempt at a file ended.
#[derive(Debug)]
pub enum Outcome {
    /// There is nothing more to do, or its record changed meanwhile, which put it in the queue again.
    Done,
    /// It is not to be had, for good.
    Gone(String),
    /// Nobody has this mirror's file at present.
    Unavailable(String),
    /// It was not to be had this time.
    Failed(String),
    /// The master was not to be had.
    Away(String),
}

impl Skip {
    /// Whether the index with this name, `user/index`, is named, or all are.
    pub fn has_index(&self, name: &str) -> bool {
        self.0.iter().any(|skipped| skipped == name || skipped == "all")
    }
    /// Whether indexes of this type are named.
    fn has_type(&self, kind: &str) -> bool {
        self.0.iter().any(|skipped| skipped == kind)
    }
}

impl Files {
    /// Brings files over `link`.
    pub fn new(
        link: Arc<Link>,
        writer: Arc<Writer>,
        sidecar: Sidecar,
        skip: Skip,
        (choice, search): (FilesWanted, Option<SearchPath>),
        timeout: Duration,
    ) -> Self {
        let sources = Sources::new(search);
        let (arrivals, lane) =
            (Arrivals::default(), Lane::new("through", WAITED_FOR, |work: Work| work()));
        Self { link, arrivals, lane, sources, choice, writer, sidecar, skip, timeout }
    }

    /// The store that they are put in.
    pub fn store(&self) -> &Arc<Store> {
        self.writer.store()
    }

    /// The right to note how attempts ended.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Asks the master for a file with these header fields, and waits `patience` times as long as usual for it.
    ///
    /// # Errors
    /// Those of `Client::request`.
    pub fn ask(&self, path: &FilePath, fields: &[(&str, &str)], patience: u32) -> Result<Answer> {
        let target = format!("/{}", wire::quote_path(path.as_str()));
        let timeout = self.timeout * patience;
        let timeouts = Timeouts { connect: CONNECT, response_head: timeout, per_read: timeout };
        let usual = [(wire::FILE_REPLICATION, wire::YES), ("Accept", "*/*")];
        self.link.get(&target, &[&usual, fields].concat(), timeouts)
    }

    /// Ends what clients wait for, after the link was shut down.
    pub fn stop(&self) {
        self.lane.close();
        if !self.lane.join(Deadline::after(STOP_WAIT)) {
            log::warn!("a thread still waits for a file; it is left behind");
        }
    }

    /// Asks the master for a file as the client does who asks here: what no record here names may be for some only,
    /// and the master knows for whom.
    ///
    /// # Errors
    /// Those of `Client::request`.
    pub fn ask_for(
        &self,
        client: &Headers,
        path: &FilePath,
        fields: &[(&str, &str)],
    ) -> Result<Answer> {
        let target = format!("/{}", wire::quote_path(path.as_str()));
        let timeouts =
            Timeouts { connect: CONNECT, response_head: self.timeout, per_read: self.timeout };
        let own = [(wire::FILE_REPLICATION, wire::YES), ("Accept", "*/*")];
        let mut headers: Vec<_> = own
            .iter()
            .chain(fields)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        for name in CREDENTIALS {
            headers.extend(client.get(name).map(|value| (name.to_owned(), value.to_owned())));
        }
        self.link.send("GET", &target, &headers, ClientBody::None, timeouts)
    }

    /// Lists what misses if another choice of files was made than at the last start.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn review(&self) -> Result<()> {
        let chosen = format!("{} {}", self.choice.as_str(), self.skip.0.join(","));
        if self.store().local_value(CHOSEN)?.as_deref() == Some(chosen.as_bytes()) {
            return Ok(());
        }
        match self.choice {
            FilesWanted::All => {
                let wants = |path: &FilePath| !self.skip.has_index(path.index());
                let listed = self.writer.requeue_all(&wants)?;
                log::info!("{listed} files are missing and will be fetched");
            }
            _ => self.writer.want_nothing()?,
        }
        self.writer.set_local_value(CHOSEN, Some(chosen.as_bytes()))
    }

    /// Brings one file of the queue.
    ///
    /// # Errors
    /// `Kind::Internal` if disk or database fail.
    pub fn fetch(self: &Arc<Self>, wanted: &Wanted) -> Result<Outcome> {
        let path = &wanted.path;
        let (value, kind) = self.look_up(path)?;
        let Some(value) = value else { return Ok(Outcome::Gone("it was deleted".to_owned())) };
        let kind = kind.as_deref();
        if kind.is_some_and(|kind| self.skip.has_type(kind)) {
            return Ok(Outcome::Gone("its index is of a type that is not replicated".to_owned()));
        }
        let record = Dict::decode(&value)?;
        let expected = Expected::of(&record);
        if self.is_right_here(path, &expected)? {
            self.writer.fetch_done(path)?;
            return Ok(Outcome::Done);
        }
        if let Some(staged) = self.sources.search(self.store().blobs(), path, &record, &expected)? {
            self.place(path, &expected, staged)?;
            return Ok(Outcome::Done);
        }
        // While the master is known to be away its silence costs more than a question to another replica.
        let is_away = self.link.known().state == link::State::Unreachable;
        if is_away && let Some(outcome) = self.ask_siblings(path, &value, &expected) {
            return Ok(outcome);
        }
        let outcome = self.ask_master(path, &value, &expected, kind)?;
        let is_missing = !matches!(outcome, Outcome::Done | Outcome::Gone(_));
        if is_missing
            && !is_away
            && let Some(done) = self.ask_siblings(path, &value, &expected)
        {
            return Ok(done);
        }
        let is_elsewhere = matches!(outcome, Outcome::Unavailable(_) | Outcome::Failed(_));
        match self.sources.elsewhere(path, &record).filter(|_| is_elsewhere) {
            Some(ask) => Ok(self.ask_upstream(path, &value, &expected, ask).unwrap_or(outcome)),
            None => Ok(outcome),
        }
    }

    /// Whether the file lies here with the right bytes: a crash may have come between its place and the note of it.
    /// What is something else is removed.
    fn is_right_here(&self, path: &FilePath, expected: &Expected) -> Result<bool> {
        let blobs = self.store().blobs();
        let Some((mut file, _)) = blobs.get(path)? else { return Ok(false) };
        let mut hasher = expected.hasher();
        hasher.take_all(&mut file)?;
        if expected.is_known() && expected.check(&hasher.finish()).is_ok() {
            return Ok(true);
        }
        blobs.remove(path)?;
        Ok(false)
    }

    fn ask_master(
        self: &Arc<Self>,
        path: &FilePath,
        value: &[u8],
        expected: &Expected,
        kind: Option<&str>,
    ) -> Result<Outcome> {
        let started = SystemTime::now();
        let begun = self.store().blobs().resume(path, expected)?;
        let at = begun.as_ref().map_or(0, Staging::written);
        let (files, asked) = (self.clone(), path.clone());
        let ask: Ask = Box::new(move |fields| files.ask(&asked, fields, 1));
        let manner = Manner { is_checked: expected.is_known(), asks_again: false };
        let mut body = match resume::open_at(ask, manner, at) {
            Ok(Opened::Body(body)) => body,
            Ok(Opened::Refused(answer)) => return Ok(judge(answer.status, kind, answer)),
            // The master answered others meanwhile, so this file is what it cannot do.
            Err(error) if self.link.known().answered_at.is_some_and(|at| started < at) => {
                return Ok(Outcome::Failed(error.to_string()));
            }
            Err(error) => return Ok(Outcome::Away(error.to_string())),
        };
        let went_on_at = body.at();
        match self.take(path, value, expected, (begun, &mut body), sources::MASTER) {
            // What was here of it was wrong, and is gone.
            Err(error) if 0 < went_on_at && error.kind == Kind::BadGateway => {
                log::warn!("{path} is begun anew: {error}");
                self.ask_master(path, value, expected, kind)
            }
            taken => Ok(taken.unwrap_or_else(|error| Outcome::Failed(error.to_string()))),
        }
    }

    /// The file from another replica; none if no one has it. They are asked by the queue alone, so that no two nodes ask
    /// each other for what neither has.
    fn ask_siblings(&self, path: &FilePath, value: &[u8], expected: &Expected) -> Option<Outcome> {
        let siblings = self.sources.siblings.iter().filter(|_| expected.is_known());
        siblings.into_iter().find_map(|sibling| {
            let asked = self.ask_sibling(sibling, path, value, expected);
            let told = |error| log::info!("{path} from the replica {}: {error}", sibling.url());
            asked.map_err(told).ok().flatten()
        })
    }

    fn ask_sibling(
        &self,
        sibling: &Arc<Link>,
        path: &FilePath,
        value: &[u8],
        expected: &Expected,
    ) -> Result<Option<Outcome>> {
        let begun = self.store().blobs().resume(path, expected)?;
        let at = begun.as_ref().map_or(0, Staging::written);
        let target = format!("/{}", wire::quote_path(path.as_str()));
        let timeouts =
            Timeouts { connect: CONNECT, response_head: self.timeout, per_read: self.timeout };
        let link = sibling.clone();
        let usual = [(wire::FILE_REPLICATION, wire::YES), ("Accept", "*/*")];
        let ask: Ask =
            Box::new(move |fields| link.get(&target, &[&usual, fields].concat(), timeouts));
        let manner = Manner { is_checked: true, asks_again: false };
        let mut body = match resume::open_at(ask, manner, at)? {
            Opened::Body(body) => body,
            Opened::Refused(answer) => {
                link::drain(answer);
                return Ok(None);
            }
        };
        self.take(path, value, expected, (begun, &mut body), sources::SIBLING).map(Some)
    }

    /// The file from the upstream of its mirror; none if that has it not either.
    fn ask_upstream(
        &self,
        path: &FilePath,
        value: &[u8],
        expected: &Expected,
        ask: Ask,
    ) -> Option<Outcome> {
        let manner = Manner { is_checked: expected.is_known(), asks_again: false };
        let mut body = match resume::open(ask, manner) {
            Ok(Opened::Body(body)) if expected.is_known() => body,
            _ => return None,
        };
        let taken = self.take(path, value, expected, (None, &mut body), sources::UPSTREAM);
        taken.inspect_err(|error| log::warn!("{path} from its upstream: {error}")).ok()
    }

    /// The record of a file as bytes, and the type of its index, as far as there are such.
    fn look_up(&self, path: &FilePath) -> Result<(Option<Vec<u8>>, Option<String>)> {
        let txn = self.store().read()?;
        let value = txn.row(path.as_str())?.and_then(|row| row.value);
        Ok((value, type_of_index(&txn, path)?))
    }

    fn take(
        &self,
        path: &FilePath,
        value: &[u8],
        expected: &Expected,
        (begun, body): (Option<Staging>, &mut Steady),
        source: &'static str,
    ) -> Result<Outcome> {
        let bytes_max = expected.size_bytes.unwrap_or(FILE_BYTES_MAX);
        let (blobs, at) = (self.store().blobs(), body.at());
        let staging = blobs.go_on(path, expected, begun, (at, body.length()))?;
        let staged = blobs.fill(staging, body, bytes_max)?;
        let is_all_theirs = at == 0;
        let blame = |_: &Error| {
            if is_all_theirs {
                self.sources.suspect(source)
            }
        };
        expected.check(&staged.sums).inspect_err(blame)?;
        if self.look_up(path)?.0.as_deref() != Some(value) {
            return Ok(Outcome::Done);
        }
        self.place(path, expected, staged)?;
        Ok(Outcome::Done)
    }

    /// Puts a file whose bytes were checked in place, with its METADATA before it.
    ///
    /// # Errors
    /// `Kind::Internal` if disk or database fail.
    pub fn place(&self, path: &FilePath, expected: &Expected, staged: Staged) -> Result<()> {
        let blobs = self.store().blobs();
        if let Some(due) = &expected.metadata_sha256 {
            match (self.sidecar)(path, &staged) {
                Some(metadata) if metadata.sums.sha256.hex() == *due => {
                    blobs.place(metadata, &path.sidecar()?)?;
                }
                _ => log::warn!(
                    "the METADATA in {path} is not what its record says; it is not offered beside it"
                ),
            }
        }
        blobs.prepare(path)?;
        let sums = staged.sums.clone();
        // The record may be another one by now, that of a mirror's file at least, which the master writes again when it
        // has brought it. Bytes that nothing can be compared with stay only if the master has such.
        let fits = |record: &Dict| {
            let due = Expected::of(record);
            let is_settled = due.is_known() || record.get("last_modified").is_some();
            is_settled && due.check(&sums).is_ok()
        };
        let is_in_place =
            self.writer.fetched(path, staged, fits).context(|| format!("storing {path}"))?;
        if !is_in_place {
            log::debug!("{path} was deleted or changed while it was fetched");
        }
        Ok(())
    }
}

/// What becomes of a file that the master did not send (spec/replication-wire.md 5.2).
fn judge(status: u16, kind: Option<&str>, answer: Answer) -> Outcome {
    let reason = answer.reason.clone().unwrap_or_default();
    link::drain(answer);
    match (status, kind) {
        (403, Some("mirror")) => {
            Outcome::Gone("the master keeps it back: its project is in quarantine".to_owned())
        }
        (302, _) => Outcome::Gone("the master does not keep it".to_owned()),
        (410, _) => Outcome::Gone("the master deleted it".to_owned()),
        (404 | 502, None) => {
            Outcome::Gone("its index is gone, and the master has it no more".to_owned())
        }
        (404 | 502, Some("mirror")) => {
            Outcome::Unavailable("neither the master's mirror nor its upstream has it".to_owned())
        }
        _ => Outcome::Failed(format!("the master answered {status} {reason}")),
    }
}

/// The error for a file that the master did not send to a client who waits.
pub(super) fn not_sent(answer: Answer) -> Error {
    let status = answer.status;
    link::drain(answer);
    let (kind, message) = match status {
        404 => (Kind::NotFound, "no such file".to_owned()),
        410 => (Kind::Gone, "file existed, deleted in later serial".to_owned()),
        401 => (Kind::Unauthorized, "authentication is required to read this index".to_owned()),
        403 => (Kind::Forbidden, "the master refuses the file".to_owned()),
        _ => (Kind::BadGateway, format!("the master answered {status} when asked for the file")),
    };
    Error::new(kind, message)
}
