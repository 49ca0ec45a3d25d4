//! Entries that come from a master, many in one transaction.
//!
//! The log gets each of them. The current values are written at the end, in the order of their keys, and only the
//! last value of each: what a batch changes twice is written once, and neighbours share the pages that they touch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use rusqlite::Connection;

use crate::error::{Error, Result};
use crate::serial::Serial;

use super::changelog::{self, Elided, Position, Written};
use super::codec::RawEntry;
use super::key::{FILE_KEYS, FilePath};
use super::rope::{self, Rope, Segment};
use super::txn;

/// What a batch has come to so far.
pub(super) struct Incoming<'c, 'e> {
    sql: &'c Connection,
    /// The end of the log.
    last: Option<Position>,
    rows: BTreeMap<&'e str, NewRow<'e>>,
    files: BTreeSet<FilePath>,
    /// When it is applied.
    written: Written,
}

/// A row that is to be written at the end.
struct NewRow<'e> {
    keyname: &'e str,
    serial: Serial,
    value: Option<&'e [u8]>,
    /// Where the value is stored already; nowhere if it is small.
    segments: Vec<Segment>,
}

impl<'c, 'e> Incoming<'c, 'e> {
    /// A batch that follows the end of the log.
    pub fn begin(sql: &'c Connection) -> Result<Self> {
        let last = changelog::position(sql)?;
        let written = Written::Applied(SystemTime::now());
        Ok(Self { sql, last, rows: BTreeMap::new(), files: BTreeSet::new(), written })
    }

    /// The end of the log, with what was added.
    pub fn last(&self) -> Option<Position> {
        self.last
    }

    /// Adds the next entry, or what is for this node of it.
    ///
    /// # Errors
    /// `Kind::Invalid` if it is malformed; `Kind::Internal` if the database fails. The transaction is to be given up
    /// then.
    pub fn push(&mut self, entry: &'e [u8], elided: Option<Elided>) -> Result<()> {
        let serial = Serial::following(self.last.map(|p| p.serial));
        let mut values = Vec::new();
        for change in RawEntry::parse(entry)?.changes() {
            let segments = match change.value.filter(|value| rope::is_cut(value)) {
                Some(value) => rope::store(self.sql, value, self.held(change.path)?.as_ref())?,
                None => Vec::new(),
            };
            if let Some(value) = change.value.filter(|_| !segments.is_empty()) {
                values.push((value, segments.clone()));
            }
            let (keyname, value) = (change.keyname, change.value);
            self.rows.insert(change.path, NewRow { keyname, serial, value, segments });
            if FILE_KEYS.contains(&keyname) {
                let path = FilePath::parse(change.path).ok_or_else(|| {
                    Error::invalid(format!("'{}' is no path of a file", change.path))
                })?;
                self.files.insert(path);
            }
        }
        let (sql, last, written) = (self.sql, self.last, self.written);
        self.last = Some(match elided {
            None => changelog::append(sql, last, entry, &values, written)?,
            Some(elided) => changelog::append_part(sql, last, (entry, &values), elided, written)?,
        });
        Ok(())
    }

    /// The value of a key before the next entry.
    fn held(&self, path: &str) -> Result<Option<Rope>> {
        match self.rows.get(path) {
            Some(row) => Ok(row.value.map(|value| Rope::new(value, &row.segments))),
            None => Ok(txn::read_held(self.sql, path)?.and_then(|held| held.value)),
        }
    }

    /// Writes the rows, and gives the files whose records changed.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn finish(self) -> Result<BTreeSet<FilePath>> {
        for (path, row) in &self.rows {
            let value = row.value.map(|value| rope::stored(value, &row.segments));
            rope::write_row(self.sql, (path, row.keyname), row.serial, value)?;
        }
        Ok(self.files)
    }
}

#[cfg(test)]
mod tests {
    use crate::names::{IndexName, UserName};
    use crate::serial::Serial;
    use crate::store::key;
    use crate::store::record::{Dict, NameSet};
    use crate::store::txn::{Read as _, WriteTxn};
    use crate::store::{self, Store};

    /// A log with a set that grows, a record that changes, and both deleted and made again.
    fn log() -> Vec<(Serial, Vec<u8>)> {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, writer) = store::open(dir.path(), 2).expect("opens");
        let index = IndexName::new("ann", "dev").expect("valid");
        let mut names: Vec<String> = (0..900).map(|n| format!("project-{n:05}")).collect();
        for n in 0..30 {
            names.push(format!("later-{n}"));
            let change = |txn: &mut WriteTxn<'_>| {
                if n % 10 == 7 {
                    txn.delete(&key::Projects(&index));
                } else {
                    txn.set(&key::Projects(&index), &NameSet(names.clone()));
                }
                let record = Dict(vec![("title".into(), format!("{n}").into())]);
                txn.set(&key::User(&UserName::root()), &record);
                Ok(())
            };
            writer.write(change).expect("commits");
        }
        let last = store.clock().now().expect("not empty");
        store.entries(Serial::FIRST, last, usize::MAX).expect("reads")
    }

    fn segments(store: &Store) -> i64 {
        let connection = store.pool().get().expect("a connection");
        connection.query_row("SELECT count(*) FROM segment", [], |row| row.get(0)).expect("counts")
    }

    #[test]
    fn a_batch_leaves_what_its_entries_leave_one_by_one() {
        let entries = log();
        let mut ends = Vec::new();
        for size in [1, 4, 30] {
            let dir = tempfile::tempdir().expect("a folder");
            let (store, writer) = store::open(dir.path(), 2).expect("opens");
            for batch in entries.chunks(size) {
                writer.apply(batch, None, &|_| true).expect("applies");
            }
            let txn = store.read().expect("reads");
            let rows = [".config", "root/.config", "ann/dev/.projects"]
                .map(|path| txn.row(path).expect("reads"));
            let last = store.clock().now().expect("not empty");
            let log = store.entries(Serial::FIRST, last, usize::MAX).expect("reads");
            ends.push((rows, store.position().expect("reads"), log, segments(&store)));
        }
        assert_eq!(ends[0].2, entries);
        assert_eq!(ends[0], ends[1]);
        assert_eq!(ends[0], ends[2]);
    }
}
