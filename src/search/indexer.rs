//! Keeps the index at the end of the log: one thread, behind the commits, in their order.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};
use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use crate::error::{Error, Result};
use crate::model::{index, stage, user};
use crate::names::{IndexName, ProjectName};
use crate::serial::Serial;
use crate::store::Store;
use crate::store::codec::RawEntry;
use crate::store::key::{self, FilePath, Key as _, Release, Versions};
use crate::store::txn::Read as _;

use super::schema::{self, Stand};
use super::{State, fill};

/// Bytes of the log that are read at once.
const BATCH_BYTES: usize = 4 << 20;
/// Projects that are written in one transaction of the index.
const BATCH_PROJECTS: usize = 500;
/// The same while the index is made: what is gathered in memory first is merged less often on disk.
const FILL_PROJECTS: usize = 2_500;
/// How long one look at the store lasts, and how soon a stop is heard.
const LOOK_TIME: Duration = Duration::from_millis(300);
/// After a failure the index is left alone for so long.
const PAUSE: Duration = Duration::from_secs(20);
/// Files that came are looked for at most so often.
const FILES_PAUSE: Duration = Duration::from_secs(1);
/// Projects whose documentation is awaited, looked at in one go.
const WAITING_MAX: usize = 10_000;

/// The one writer of the index.
pub struct Indexer {
    store: Arc<Store>,
    index: Connection,
    state: Arc<State>,
    /// Said when the index is to end.
    stop: Receiver<()>,
    dir: PathBuf,
}

/// Why the work ended before it was done.
enum Halt {
    Stopped,
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Indexer {
    /// Opens the index of a folder for writing.
    ///
    /// # Errors
    /// `Kind::Internal` if the folder cannot be written to.
    pub fn open(
        dir: &Path,
        store: Arc<Store>,
        state: Arc<State>,
        stop: Receiver<()>,
    ) -> Result<Self> {
        let index = schema::open(dir)?;
        // Of another log it says nothing about this one.
        let stand = schema::stand(&index)?;
        let held = stand.map(|stand| store.chain_at(stand.serial)).transpose()?.flatten();
        state.set(stand.filter(|stand| held == Some(stand.chain)));
        state.set_readers(schema::readers(dir)?);
        Ok(Self { store, index, state, stop, dir: dir.to_owned() })
    }

    /// Works until it is told to stop.
    pub fn run(mut self) {
        let (commits, files) = (self.store.clock().watch(), self.store.blobs().watch());
        let damage = self.state.damage();
        let mut looked_at = Instant::now();
        let mut has_files = true;
        loop {
            let done = self.catch_up(&mut |_| ()).and_then(|()| match has_files {
                true => self.take_files(),
                false => Ok(()),
            });
            let pause = match done {
                Err(Halt::Stopped) => return,
                Err(Halt::Failed(error)) if is_damage(&error) && self.replace(&error) => None,
                Err(Halt::Failed(error)) => {
                    log::warn!("the search index cannot be brought up to date: {error:?}");
                    Some(PAUSE)
                }
                Ok(()) => None,
            };
            if std::mem::take(&mut has_files) {
                looked_at = Instant::now();
            }
            if let Some(pause) = pause {
                if self.stop.recv_timeout(pause)
                    != Err(crossbeam_channel::RecvTimeoutError::Timeout)
                {
                    return;
                }
                continue;
            }
            select! {
                recv(commits) -> _ => (),
                recv(damage) -> _ => {
                    self.replace(&Error::internal("a search met damage"));
                }
                recv(files) -> _ => {
                    has_files = true;
                    let left = FILES_PAUSE.saturating_sub(looked_at.elapsed());
                    if self.stop.recv_timeout(left) != Err(crossbeam_channel::RecvTimeoutError::Timeout) {
                        return;
                    }
                }
                recv(self.stop) -> _ => return,
            }
        }
    }

    /// Makes the index anew; `tell` hears how many projects were put in since it was told last.
    ///
    /// # Errors
    /// `Kind::Internal` if a database fails.
    pub fn make_anew(&mut self, tell: &mut dyn FnMut(u64)) -> Result<()> {
        self.clear()?;
        match self.catch_up(tell) {
            Ok(()) | Err(Halt::Stopped) => Ok(()),
            Err(Halt::Failed(error)) => Err(error),
        }
    }

    /// Puts an empty index in the place of one that is damaged; false if that fails.
    fn replace(&mut self, why: &Error) -> bool {
        log::warn!("the search index is damaged and is made anew: {why:?}");
        let opened = schema::remove(&self.dir)
            .and_then(|()| Ok((schema::open(&self.dir)?, schema::readers(&self.dir)?)));
        match opened {
            Ok((index, readers)) => {
                self.index = index;
                self.state.set(None);
                self.state.set_readers(readers);
                true
            }
            Err(error) => {
                log::warn!("it cannot be made anew: {error:?}");
                false
            }
        }
    }

    fn is_stopped(&self) -> bool {
        !self.stop.is_empty()
    }

    fn catch_up(&mut self, tell: &mut dyn FnMut(u64)) -> std::result::Result<(), Halt> {
        loop {
            let Some(end) = self.store.position()? else { return Ok(()) };
            let stand = schema::stand(&self.index)?;
            let Some(stand) = stand else {
                self.fill(Stand { serial: end.serial, chain: end.chain }, tell)?;
                continue;
            };
            if self.store.chain_at(stand.serial)? != Some(stand.chain) {
                log::info!("the log is not the one that the search index was made from");
                self.clear()?;
                continue;
            }
            if end.serial <= stand.serial {
                self.state.set(Some(stand));
                return Ok(());
            }
            self.follow(stand, end.serial)?;
            if self.is_stopped() {
                return Err(Halt::Stopped);
            }
        }
    }

    /// Empties the index.
    fn clear(&mut self) -> Result<()> {
        let txn = self.index.transaction_with_behavior(TransactionBehavior::Immediate)?;
        txn.execute_batch(
            "DELETE FROM state; DELETE FROM project; DELETE FROM page; DELETE FROM place;
             INSERT INTO text (text) VALUES ('delete-all');",
        )?;
        txn.commit()?;
        self.state.set(None);
        Ok(())
    }

    /// Puts in all that there is. What changes meanwhile comes by the log, after `stand`.
    fn fill(&mut self, stand: Stand, tell: &mut dyn FnMut(u64)) -> std::result::Result<(), Halt> {
        self.clear()?;
        // Merged once, at the end, and not again and again on the way.
        schema::set_merging(&self.index, false)?;
        let names = {
            let txn = self.store.read()?;
            let mut names = Vec::new();
            for user in user::names(&txn)? {
                let record = txn.get(&key::User(&user))?.unwrap_or_default();
                let stages = index::of_user(&user, &record).into_iter().filter(|i| !i.is_mirror());
                names.extend(stages.map(|index| index.name));
            }
            names
        };
        for name in names {
            let projects = stage::projects(&self.store.read()?, &name)?;
            for some in projects.chunks(FILL_PROJECTS) {
                let dirty = some.iter().map(|project| (name.clone(), ProjectName::new(project)));
                self.write(dirty, None)?;
                tell(some.len() as u64);
                if self.is_stopped() {
                    return Err(Halt::Stopped);
                }
            }
        }
        self.index.execute("INSERT INTO text (text) VALUES ('optimize')", [])?;
        schema::set_merging(&self.index, true)?;
        self.write(std::iter::empty(), Some(stand))?;
        Ok(())
    }

    /// Takes in what one stretch of the log touched.
    fn follow(&mut self, stand: Stand, end: Serial) -> Result<()> {
        let logged = self.store.logged(stand.serial.next(), end, BATCH_BYTES)?;
        let mut dirty = BTreeSet::new();
        let mut reached = stand;
        for entry in &logged {
            for change in RawEntry::parse(&entry.entry)?.changes() {
                dirty.extend(project_of(change.keyname, change.path));
            }
            reached = Stand { serial: entry.serial, chain: entry.chain };
            if BATCH_PROJECTS <= dirty.len() {
                break;
            }
        }
        if self.write(dirty.into_iter(), Some(reached))? {
            self.state.set(Some(reached));
        }
        Ok(())
    }

    /// Brings projects up to date and notes the stand with the last of them; false if it was stopped before.
    fn write(
        &mut self,
        dirty: impl Iterator<Item = (IndexName, ProjectName)>,
        stand: Option<Stand>,
    ) -> Result<bool> {
        let mut dirty = dirty.peekable();
        let txn = self.index.transaction_with_behavior(TransactionBehavior::Immediate)?;
        while dirty.peek().is_some() && self.stop.is_empty() {
            let (began, read) = (Instant::now(), self.store.read()?);
            while began.elapsed() < LOOK_TIME
                && let Some((name, project)) = dirty.next()
            {
                fill::project(&txn, &self.store, &read, (&name, &project))?;
            }
        }
        let is_done = dirty.peek().is_none();
        if let (true, Some(stand)) = (is_done, stand) {
            schema::set_stand(&txn, stand)?;
        }
        txn.commit()?;
        Ok(is_done)
    }

    /// Takes in documentation whose file came after its record.
    fn take_files(&mut self) -> std::result::Result<(), Halt> {
        let waiting = fill::waiting(&self.index, WAITING_MAX)?;
        let is_here = |docs: &str| {
            let path = docs.split(' ').next().and_then(FilePath::parse);
            path.is_some_and(|path| self.store.blobs().size(&path).is_some())
        };
        let come: Vec<_> = waiting
            .into_iter()
            .filter(|(_, _, docs)| is_here(docs))
            .filter_map(|(name, project, _)| {
                Some((IndexName::parse(&name).ok()?, ProjectName::new(&project)))
            })
            .collect();
        for some in come.chunks(BATCH_PROJECTS) {
            self.write(some.iter().cloned(), None)?;
            if self.is_stopped() {
                return Err(Halt::Stopped);
            }
        }
        Ok(())
    }
}

/// Whether an error says that the file is not what it should be.
pub(super) fn is_damage(error: &Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(rusqlite::Error::SqliteFailure(code, _)) = error.downcast_ref() {
            return matches!(code.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase);
        }
        cause = error.source();
    }
    false
}

/// The project of a stage that a key is about.
fn project_of(keyname: &str, path: &str) -> Option<(IndexName, ProjectName)> {
    let is_version = keyname == Release::NAME;
    if keyname != Versions::NAME && !is_version {
        return None;
    }
    let mut parts = path.split('/');
    let index = IndexName::new(parts.next()?, parts.next()?).ok()?;
    Some((index, ProjectName::new(parts.next()?)))
}
