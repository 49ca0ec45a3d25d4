//! The files that a replica knows of and does not hold: a durable queue in the database.
//!
//! A file is *wanted* (to be fetched), *failed* (to be tried again soon, with the reason), *unavailable* (a mirror's
//! file that nobody has at present; asked for again now and then), *gone* (deleted, for good), or it is present and has
//! no row here. The queue is filled in the transaction that applies an entry, so a restart goes on where it stopped.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, params};

use crate::error::Result;
use crate::serial::Serial;

use super::blobs::Blobs;
use super::expected::Expected;
use super::key::FilePath;
use super::record::{Dict, Record};
use super::txn::{self, serial_of};
use super::{Store, Writer};

/// A file to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which one.
    pub path: FilePath,
    /// The serial that made it wanted.
    pub serial: Serial,
    /// How often it was tried in vain.
    pub tries: u32,
}

/// How many files are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// To be fetched.
    pub wanted: u64,
    /// Tried in vain, to be tried again.
    pub failed: u64,
    /// Of a mirror, and had by nobody at present.
    pub unavailable: u64,
    /// How many bytes those wanted and failed have, as far as their records say.
    pub bytes: u64,
    /// The first serial that wants one of these.
    pub oldest: Option<Serial>,
    /// Known to be fetched no more.
    pub gone: u64,
}

/// How far the files of a node have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilesHere {
    /// Up to this serial none is missing.
    pub serial: Option<Serial>,
    /// How many are missing; counted up to `MISSING_COUNTED_MAX`.
    pub missing: u64,
}

/// Missing files are counted up to here: this is asked before each poll.
pub const MISSING_COUNTED_MAX: u64 = 10_000;

/// A file that could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which one.
    pub path: FilePath,
    /// Why not.
    pub reason: String,
    /// How often it was tried.
    pub tries: u32,
}

/// So many records are looked at in one transaction.
const PAGE: usize = 1000;

/// Lists a file as wanted if its record says that there are bytes of it.
fn requeue(sql: &Connection, path: &FilePath) -> Result<bool> {
    let Some(held) = txn::read_held(sql, path.as_str())? else { return Ok(false) };
    let record = held.value.map(|rope| Dict::decode(&rope.bytes)).transpose()?;
    let Some(record) = record.filter(|record| record.get("last_modified").is_some()) else {
        return Ok(false);
    };
    let size = Expected::of(&record).size_bytes.and_then(|n| i64::try_from(n).ok());
    sql.prepare_cached(WANT)?.execute(params![path.as_str(), held.serial.get() as i64, size])?;
    Ok(true)
}

/// Lists a file, anew if it was listed before.
const WANT: &str = "INSERT INTO wanted (path, serial, size) VALUES (?1, ?2, ?3) ON CONFLICT (path)
    DO UPDATE SET serial = ?2, size = ?3, state = 'wanted', tries = 0, next_try = 0, reason = NULL";

pub(super) fn unix_ms(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// Brings the queue in line with the current values of `touched`: what has bytes elsewhere and not here is wanted,
/// what is deleted is not. Gives the files to remove after the commit.
pub(super) fn settle(
    sql: &Connection,
    blobs: &Blobs,
    touched: &BTreeSet<FilePath>,
    wants: &dyn Fn(&FilePath) -> bool,
) -> Result<Vec<FilePath>> {
    let mut want = sql.prepare_cached(WANT)?;
    let mut drop = sql.prepare_cached("DELETE FROM wanted WHERE path = ?1")?;
    let mut removed = Vec::new();
    for path in touched {
        let Some(held) = txn::read_held(sql, path.as_str())? else { continue };
        let record = held.value.map(|rope| Dict::decode(&rope.bytes)).transpose()?;
        match record {
            None => {
                drop.execute([path.as_str()])?;
                removed.push(path.clone());
            }
            // A mirror's file that was never brought, or whose bytes were deleted.
            Some(record) if record.get("last_modified").is_none() => {
                drop.execute([path.as_str()])?;
                removed.extend(blobs.size(path).map(|_| path.clone()));
            }
            Some(_) if !wants(path) || blobs.size(path).is_some() => (),
            Some(record) => {
                let size = Expected::of(&record).size_bytes.and_then(|n| i64::try_from(n).ok());
                want.execute(params![path.as_str(), held.serial.get() as i64, size])?;
            }
        }
    }
    Ok(removed)
}

impl Store {
    /// The next files to fetch, newest serial first, those in `busy` left out.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn wanted(&self, limit: usize, busy: &BTreeSet<FilePath>) -> Result<Vec<Wanted>> {
        let connection = self.pool().get()?;
        let mut query = connection.prepare_cached(
            "SELECT path, serial, tries FROM wanted WHERE state IN ('wanted', 'failed', 'unavailable')
             AND next_try <= ?1 ORDER BY state = 'wanted' DESC, serial DESC LIMIT ?2",
        )?;
        let now = unix_ms(SystemTime::now());
        let mut rows = query.query(params![now, (limit + busy.len()) as i64])?;
        let mut wanted = Vec::new();
        while let Some(row) = rows.next()? {
            let path: String = row.get(0)?;
            let Some(path) = FilePath::parse(&path) else { continue };
            if wanted.len() < limit && !busy.contains(&path) {
                wanted.push(Wanted { path, serial: serial_of(row.get(1)?)?, tries: row.get(2)? });
            }
        }
        Ok(wanted)
    }

    /// How long until the next failed file is due; `None` if none waits.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn next_try_in(&self) -> Result<Option<Duration>> {
        let connection = self.pool().get()?;
        let mut query = connection.prepare_cached(
            "SELECT min(next_try) FROM wanted WHERE state IN ('failed', 'unavailable')",
        )?;
        let next: Option<i64> = query.query_row([], |row| row.get(0))?;
        let now = unix_ms(SystemTime::now());
        Ok(next.map(|at| Duration::from_millis(u64::try_from(at - now).unwrap_or(0))))
    }

    /// How many files are in each state.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn wanted_counts(&self) -> Result<Counts> {
        let connection = self.pool().get()?;
        let mut query = connection.prepare_cached(
            "SELECT state, count(*), total(size), min(serial) FROM wanted GROUP BY state",
        )?;
        let mut rows = query.query([])?;
        let mut counts = Counts::default();
        while let Some(row) = rows.next()? {
            let count = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
            let state: String = row.get(0)?;
            match state.as_str() {
                "wanted" => counts.wanted = count,
                "failed" => counts.failed = count,
                "unavailable" => counts.unavailable = count,
                _ => counts.gone = count,
            }
            if matches!(state.as_str(), "wanted" | "failed") {
                counts.bytes += row.get::<_, f64>(2)? as u64;
                let oldest = serial_of(row.get(3)?)?;
                counts.oldest = Some(counts.oldest.map_or(oldest, |held| held.min(oldest)));
            }
        }
        Ok(counts)
    }

    /// The files that failed, at most `limit`, most tried first.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn failures(&self, limit: usize) -> Result<Vec<Failure>> {
        let connection = self.pool().get()?;
        let mut query = connection.prepare_cached(
            "SELECT path, reason, tries FROM wanted WHERE state = 'failed' ORDER BY tries DESC LIMIT ?1",
        )?;
        let mut rows = query.query([limit as i64])?;
        let mut failures = Vec::new();
        while let Some(row) = rows.next()? {
            let path: String = row.get(0)?;
            let Some(path) = FilePath::parse(&path) else { continue };
            let reason: Option<String> = row.get(1)?;
            failures.push(Failure { path, reason: reason.unwrap_or_default(), tries: row.get(2)? });
        }
        Ok(failures)
    }

    /// Up to which serial all files are here that are wanted; those that are gone for good do not count.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn files_up_to(&self) -> Result<FilesHere> {
        let connection = self.pool().get()?;
        let mut query = connection.prepare_cached(
            "SELECT serial FROM wanted WHERE state != 'gone' AND state != 'unavailable' ORDER BY serial LIMIT 1",
        )?;
        let first = query.query_row([], |row| row.get(0)).optional()?.map(serial_of).transpose()?;
        let mut query = connection.prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM wanted WHERE state != 'gone' AND state != 'unavailable' LIMIT ?1)",
        )?;
        let missing = query.query_row([MISSING_COUNTED_MAX as i64], |row| row.get::<_, i64>(0))?;
        let last = super::txn::last_serial(&connection)?;
        Ok(FilesHere {
            serial: first.map_or(last, Serial::previous),
            missing: u64::try_from(missing).unwrap_or(0),
        })
    }

    /// The paths of files that have records, in their order, those behind `after`.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn file_paths(&self, after: &str, limit: usize) -> Result<Vec<String>> {
        let connection = self.pool().get()?;
        let mut query = connection.prepare_cached(
            "SELECT key FROM kv WHERE ?1 < key AND keyname IN ('STAGEFILE', 'PYPIFILE_NOMD5')
             AND value IS NOT NULL ORDER BY key LIMIT ?2",
        )?;
        let rows = query.query_map(params![after, limit as i64], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Whether a file is listed, in whatever state.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn is_wanted(&self, path: &FilePath) -> Result<bool> {
        let connection = self.pool().get()?;
        let mut query = connection.prepare_cached("SELECT 1 FROM wanted WHERE path = ?1")?;
        Ok(query.query_row([path.as_str()], |_| Ok(())).optional()?.is_some())
    }
}

impl Writer {
    /// Puts a fetched file in place and takes it off the queue if the record that stands now is one that `fits` says
    /// it is for. A file that was deleted meanwhile is dropped; one whose record changed stays wanted.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk or the database fails.
    pub fn fetched(
        &self,
        path: &FilePath,
        staged: super::blobs::Staged,
        fits: impl FnOnce(&Dict) -> bool,
    ) -> Result<bool> {
        self.local(|sql| {
            let value = txn::read_held(sql, path.as_str())?.and_then(|held| held.value);
            let record = value.map(|rope| Dict::decode(&rope.bytes)).transpose()?;
            let is_right = record.as_ref().is_some_and(fits);
            if is_right {
                self.store().blobs().place(staged, path)?;
            }
            if is_right || record.is_none() {
                sql.prepare_cached("DELETE FROM wanted WHERE path = ?1")?
                    .execute([path.as_str()])?;
            }
            Ok(is_right)
        })
    }

    /// Takes a file off the list that is here.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn fetch_done(&self, path: &FilePath) -> Result<()> {
        self.local(|sql| {
            let mut drop = sql.prepare_cached("DELETE FROM wanted WHERE path = ?1")?;
            Ok(drop.execute([path.as_str()]).map(|_| ())?)
        })
    }

    /// Notes that a file could not be fetched, to be tried again after `pause`.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn fetch_failed(&self, path: &FilePath, reason: &str, pause: Duration) -> Result<()> {
        self.try_later(path, "failed", reason, pause)
    }

    /// Notes that nobody has a mirror's file at present, to be asked for again after `pause`.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn fetch_unavailable(&self, path: &FilePath, reason: &str, pause: Duration) -> Result<()> {
        self.try_later(path, "unavailable", reason, pause)
    }

    fn try_later(&self, path: &FilePath, state: &str, reason: &str, pause: Duration) -> Result<()> {
        self.local(|sql| {
            sql.prepare_cached(
                "UPDATE wanted SET state = ?2, tries = tries + 1, next_try = ?3, reason = ?4
                 WHERE path = ?1",
            )?
            .execute(params![
                path.as_str(),
                state,
                unix_ms(SystemTime::now() + pause),
                reason
            ])?;
            Ok(())
        })
    }

    /// Has a file fetched again that should be here and is not, or not as it should be. Gives whether there is such a
    /// file by the records.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn requeue(&self, path: &FilePath) -> Result<bool> {
        self.local(|sql| requeue(sql, path))
    }

    /// Empties the list.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn want_nothing(&self) -> Result<()> {
        self.local(|sql| Ok(sql.execute("DELETE FROM wanted", []).map(drop)?))
    }

    /// Lists as wanted whatever has bytes elsewhere and not here, where `wants` says so, and takes off the list what
    /// it does not want. A page of records at a time, so that neither memory nor the writer is held for long. Gives how
    /// many files were listed.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn requeue_all(&self, wants: &dyn Fn(&FilePath) -> bool) -> Result<u64> {
        let (mut listed, mut after) = (0, String::new());
        loop {
            let paths = self.store().file_paths(&after, PAGE)?;
            let Some(last) = paths.last() else { return Ok(listed) };
            after = last.clone();
            self.local(|sql| {
                let sql = sql.unchecked_transaction()?;
                for path in paths.iter().filter_map(|path| FilePath::parse(path)) {
                    let is_here = self.store().blobs().size(&path).is_some();
                    if !wants(&path) {
                        sql.prepare_cached("DELETE FROM wanted WHERE path = ?1")?
                            .execute([path.as_str()])?;
                    } else if !is_here && requeue(&sql, &path)? {
                        listed += 1;
                    }
                }
                Ok(sql.commit()?)
            })?;
        }
    }

    /// Notes that a file is not to be had any more.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn fetch_gone(&self, path: &FilePath, reason: &str) -> Result<()> {
        self.local(|sql| {
            sql.prepare_cached("UPDATE wanted SET state = 'gone', reason = ?2 WHERE path = ?1")?
                .execute(params![path.as_str(), reason])?;
            Ok(())
        })
    }
}
