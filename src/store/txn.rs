//! Transactions: reading at one serial, and writing the next one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use r2d2::PooledConnection;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, OptionalExtension};

use crate::error::{Context, Error, Result};
use crate::serial::Serial;

use super::blobs::{Blobs, Staged};
use super::codec;
use super::key::{FilePath, Key};
use super::record::Record;
use super::rope::{self, Rope};

/// What the store holds under a path: the serial that last touched it, and its value unless that was a deletion.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The last entry that touched the path.
    pub serial: Serial,
    /// The encoded value; `None` after a deletion.
    pub value: Option<Vec<u8>>,
}

/// Reading, at one serial, in either kind of transaction.
pub trait Read {
    /// The serial that is read at: the last one committed when the transaction began.
    fn serial(&self) -> Option<Serial>;

    /// What is stored under a path, if it was ever touched.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    fn row(&self, path: &str) -> Result<Option<Row>>;

    /// The last serial that touched a path, deletions included, without reading the value.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    fn touched(&self, path: &str) -> Result<Option<Serial>>;

    /// The value under a key.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails or the value is not of the key's type.
    fn get<K: Key>(&self, key: &K) -> Result<Option<K::Value>> {
        let path = key.path();
        let bytes = self.row(&path)?.and_then(|row| row.value);
        bytes.map(|bytes| decode::<K>(&path, &bytes)).transpose()
    }

    /// Whether there is a value under a key.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    fn has<K: Key>(&self, key: &K) -> Result<bool> {
        Ok(self.row(&key.path())?.is_some_and(|row| row.value.is_some()))
    }
}

fn decode<K: Key>(path: &str, bytes: &[u8]) -> Result<K::Value> {
    K::Value::decode(bytes)
        .map_err(|e| Error::internal(format!("the value of {path} is damaged")).caused_by(e))
}

/// What a row holds, with the segments of its value.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub serial: Serial,
    pub value: Option<Rope>,
}

pub(super) fn read_held(connection: &Connection, path: &str) -> Result<Option<Held>> {
    let mut query =
        connection.prepare_cached("SELECT serial, is_manifest, value FROM kv WHERE key = ?1")?;
    let row = query
        .query_row([path], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, Option<Vec<u8>>>(2)?)))
        .optional()?;
    let Some((serial, is_manifest, value)) = row else { return Ok(None) };
    let value = value.map(|value| rope::load(connection, value, is_manifest)).transpose()?;
    Ok(Some(Held { serial: serial_of(serial)?, value }))
}

fn read_row(connection: &Connection, path: &str) -> Result<Option<Row>> {
    let held = read_held(connection, path)?;
    Ok(held.map(|held| Row { serial: held.serial, value: held.value.map(|rope| rope.bytes) }))
}

fn read_touched(connection: &Connection, path: &str) -> Result<Option<Serial>> {
    let mut query = connection.prepare_cached("SELECT serial FROM kv WHERE key = ?1")?;
    query.query_row([path], |row| row.get(0)).optional()?.map(serial_of).transpose()
}

/// A serial as a column holds it.
pub(super) fn serial_of(number: i64) -> Result<Serial> {
    u64::try_from(number)
        .ok()
        .and_then(Serial::new)
        .ok_or_else(|| Error::internal(format!("the database holds the serial {number}")))
}

/// The last serial in the log.
pub(super) fn last_serial(connection: &Connection) -> Result<Option<Serial>> {
    let mut query = connection.prepare_cached("SELECT max(serial) FROM changelog")?;
    query.query_row([], |row| row.get::<_, Option<i64>>(0))?.map(serial_of).transpose()
}

/// A snapshot of the store. Keep it short: while it lives, the database cannot shrink its log.
pub struct ReadTxn {
    connection: PooledConnection<SqliteConnectionManager>,
    serial: Option<Serial>,
}

impl ReadTxn {
    pub(super) fn begin(connection: PooledConnection<SqliteConnectionManager>) -> Result<Self> {
        connection.prepare_cached("BEGIN")?.execute([])?;
        let mut txn = Self { connection, serial: None };
        txn.serial = last_serial(&txn.connection)?;
        Ok(txn)
    }
}

impl Drop for ReadTxn {
    fn drop(&mut self) {
        let end = self.connection.prepare_cached("ROLLBACK").and_then(|mut s| s.execute([]));
        if let Err(e) = end {
            log::warn!("a read transaction did not end: {e}");
        }
    }
}

impl Read for ReadTxn {
    fn serial(&self) -> Option<Serial> {
        self.serial
    }
    fn row(&self, path: &str) -> Result<Option<Row>> {
        read_row(&self.connection, path)
    }
    fn touched(&self, path: &str) -> Result<Option<Serial>> {
        read_touched(&self.connection, path)
    }
}

/// One change of a write transaction.
pub(super) struct Change {
    pub keyname: String,
    /// The value to store; `None` deletes.
    pub value: Option<Vec<u8>>,
}

/// The next transaction. It sees its own changes; nobody else sees any before it is committed.
pub struct WriteTxn<'c> {
    connection: &'c Connection,
    base: Option<Serial>,
    changes: BTreeMap<String, Change>,
    /// Rows that were read, by path; each is read once.
    held: RefCell<BTreeMap<String, Option<Rc<Held>>>>,
    files: Vec<(FilePath, Staged)>,
    removed: Vec<FilePath>,
}

/// What a write transaction came to: paths with their new values, and files to put in place or to remove.
pub(super) struct Outcome {
    pub changes: BTreeMap<String, Change>,
    pub files: Vec<(FilePath, Staged)>,
    pub removed: Vec<FilePath>,
}

impl<'c> WriteTxn<'c> {
    pub(super) fn new(connection: &'c Connection, base: Option<Serial>) -> Self {
        let (changes, held, files, removed) = Default::default();
        Self { connection, base, changes, held, files, removed }
    }
    /// What was stored under a path before this transaction.
    pub(super) fn held(&self, path: &str) -> Result<Option<Rc<Held>>> {
        if let Some(held) = self.held.borrow().get(path) {
            return Ok(held.clone());
        }
        let held = read_held(self.connection, path)?.map(Rc::new);
        self.held.borrow_mut().insert(path.to_owned(), held.clone());
        Ok(held)
    }

    pub(super) fn take(&mut self) -> Outcome {
        let (changes, files, removed) = (&mut self.changes, &mut self.files, &mut self.removed);
        Outcome {
            changes: std::mem::take(changes),
            files: std::mem::take(files),
            removed: std::mem::take(removed),
        }
    }

    /// The serial that this transaction gets if it changes anything.
    pub fn next_serial(&self) -> Serial {
        Serial::following(self.base)
    }

    /// Stores a value.
    pub fn set<K: Key>(&mut self, key: &K, value: &K::Value) {
        self.set_encoded(key, value.encode());
    }

    /// Stores a value that is encoded already.
    pub fn set_encoded<K: Key>(&mut self, key: &K, value: Vec<u8>) {
        let change = Change { keyname: K::NAME.to_owned(), value: Some(value) };
        self.changes.insert(key.path(), change);
    }

    /// Deletes a value.
    pub fn delete<K: Key>(&mut self, key: &K) {
        self.changes.insert(key.path(), Change { keyname: K::NAME.to_owned(), value: None });
    }

    /// Adds a name to a set by splicing; false if it was there. The cost does not depend on what else the set holds
    /// but for one pass over its bytes.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails or the set is damaged.
    pub fn insert_name<K>(&mut self, key: &K, name: &str) -> Result<bool>
    where
        K: Key<Value = super::record::NameSet>,
    {
        let path = key.path();
        let held = self.row(&path)?.and_then(|row| row.value);
        let spliced = match held {
            Some(bytes) => {
                codec::set_insert_str(&bytes, name).context(|| format!("changing {path}"))?
            }
            None => Some(super::record::NameSet(vec![name.to_owned()]).encode()),
        };
        let is_new = spliced.is_some();
        if let Some(bytes) = spliced {
            self.set_encoded(key, bytes);
        }
        Ok(is_new)
    }

    /// Takes a name out of a set; false if it was not in. An empty set stays.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails or the set is damaged.
    pub fn remove_name<K>(&mut self, key: &K, name: &str) -> Result<bool>
    where
        K: Key<Value = super::record::NameSet>,
    {
        let Some(mut names) = self.get(key)? else { return Ok(false) };
        let was_in = names.remove(name);
        if was_in {
            self.set(key, &names);
        }
        Ok(was_in)
    }

    /// Has a file put in place before the commit.
    pub fn add_file(&mut self, path: FilePath, staged: Staged) {
        self.removed.retain(|p| *p != path);
        self.files.push((path, staged));
    }

    /// Has a file removed after the commit.
    pub fn remove_file(&mut self, path: FilePath) {
        self.files.retain(|(p, _)| *p != path);
        self.removed.push(path);
    }
}

impl Read for WriteTxn<'_> {
    fn serial(&self) -> Option<Serial> {
        self.base
    }
    fn row(&self, path: &str) -> Result<Option<Row>> {
        match self.changes.get(path) {
            Some(change) => {
                Ok(Some(Row { serial: self.next_serial(), value: change.value.clone() }))
            }
            None => Ok(self.held(path)?.map(|held| Row {
                serial: held.serial,
                value: held.value.as_ref().map(|rope| rope.bytes.clone()),
            })),
        }
    }
    fn touched(&self, path: &str) -> Result<Option<Serial>> {
        if self.changes.contains_key(path) {
            return Ok(Some(self.next_serial()));
        }
        read_touched(self.connection, path)
    }
}

/// Puts files in place.
pub(super) fn place_files(blobs: &Blobs, files: Vec<(FilePath, Staged)>) -> Result<()> {
    files.into_iter().try_for_each(|(path, staged)| blobs.place(staged, &path))
}
