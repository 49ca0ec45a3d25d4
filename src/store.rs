//! The store: one log of numbered transactions in SQLite, the current value of each key, and file bytes beside it.
//!
//! It promises: serials are dense; an entry, the values it sets and the wake-up of those who wait come from one
//! commit; what was committed is synced to disk; a file that a committed entry names lies in place before it (on a
//! replica: it is listed as wanted in the same commit). Readers see one serial and never wait for the writer.

pub mod blobs;
pub mod changelog;
pub mod check;
pub mod codec;
pub mod doubt;
pub mod expected;
pub mod growing;
mod incoming;
pub mod key;
pub mod lost;
pub mod missing;
mod partial;
pub mod receipts;
pub mod record;
pub mod rewind;
mod rope;
pub mod schema;
pub mod snapshot;
pub mod timeline;
pub mod txn;
pub mod wanted;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::error::{Context, Error, Kind, Result};
use crate::serial::{Serial, SerialClock};
use crate::sync::{Mutex, lock};

use blobs::Blobs;
use changelog::{Chain, Elided, Logged, Position, Received, Written};
use doubt::Doubt;
use incoming::Incoming;
use key::FilePath;
use receipts::Ticket;
use schema::Purpose;
use timeline::{Fence, Timeline};
use txn::{Change, Outcome, Read, ReadTxn, WriteTxn};

/// The database's file in the server's folder.
const DATABASE: &str = "twinpi.sqlite";

/// How long a reader waits for a free connection before the answer is 503.
const CONNECTION_WAIT: Duration = Duration::from_secs(5);

/// Reading, for everyone.
pub struct Store {
    pool: r2d2::Pool<SqliteConnectionManager>,
    clock: Arc<SerialClock>,
    blobs: Blobs,
    timelines: Mutex<Vec<Timeline>>,
    fence: Mutex<Option<Fence>>,
    lost: AtomicU64,
    doubt: Doubt,
}

/// The one right to write: a master's handlers share it, on a replica only the puller has it.
pub struct Writer {
    connection: Mutex<Connection>,
    store: Arc<Store>,
}

/// Opens the store below `dir`, making it when it is not there, with `readers` connections for reading.
///
/// # Errors
/// `Kind::Internal` if the folder cannot be used or the database comes from a newer program.
pub fn open(dir: &Path, readers: u32) -> Result<(Arc<Store>, Writer)> {
    let blobs = Blobs::open(dir)?;
    let file = dir.join(DATABASE);
    let connection = open_to_write(&file).map_err(|e| check::with_way_out(e, &file))?;
    let clock = Arc::new(SerialClock::new(txn::last_serial(&connection)?));
    let timelines = Mutex::new(timeline::load(&connection)?);
    let fence = Mutex::new(timeline::load_fence(&connection)?);
    let lost = AtomicU64::new(lost::count(&connection)?);
    let (pool, doubt) = (pool(&file, readers)?, Doubt::default());
    let store = Arc::new(Store { pool, clock, blobs, timelines, fence, lost, doubt });
    Ok((store.clone(), Writer { connection: Mutex::new(connection), store }))
}

/// Opens the store below `dir` for reading alone, also beside a node that runs there. The clock stands still.
///
/// # Errors
/// `Kind::Invalid` if another version of this program wrote it last; `Kind::Internal` if it cannot be read.
pub fn look(dir: &Path, readers: u32) -> Result<Arc<Store>> {
    let file = dir.join(DATABASE);
    let pool = pool(&file, readers)?;
    let connection = pool.get()?;
    schema::require_newest(&connection)?;
    let store = Store {
        clock: Arc::new(SerialClock::new(txn::last_serial(&connection)?)),
        blobs: Blobs::open(dir)?,
        timelines: Mutex::new(timeline::load(&connection)?),
        fence: Mutex::new(timeline::load_fence(&connection)?),
        lost: AtomicU64::new(lost::count(&connection)?),
        doubt: Doubt::default(),
        pool,
    };
    Ok(Arc::new(store))
}

fn pool(file: &Path, readers: u32) -> Result<r2d2::Pool<SqliteConnectionManager>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let manager = SqliteConnectionManager::file(file)
        .with_flags(flags)
        .with_init(|connection| schema::prepare(connection, Purpose::Read));
    Ok(r2d2::Pool::builder()
        .max_size(readers)
        .min_idle(Some(1))
        .test_on_check_out(false)
        .connection_timeout(CONNECTION_WAIT)
        .build(manager)?)
}

/// The one connection that writes, to a database of the newest version whose end is whole.
fn open_to_write(file: &Path) -> Result<Connection> {
    let mut connection =
        Connection::open(file).context(|| format!("opening {}", file.display()))?;
    schema::prepare(&connection, Purpose::Write)
        .context(|| format!("opening {}", file.display()))?;
    schema::migrate(&mut connection)?;
    check::tail(&connection)?;
    Ok(connection)
}

/// Whether a store was ever made below `dir`.
pub fn exists(dir: &Path) -> bool {
    dir.join(DATABASE).exists()
}

impl Store {
    /// Begins reading at the last committed serial.
    ///
    /// # Errors
    /// `Kind::Unavailable` if no connection gets free in time.
    pub fn read(&self) -> Result<ReadTxn> {
        ReadTxn::begin(self.pool.get()?)
    }
    /// The clock that each commit moves.
    pub fn clock(&self) -> &Arc<SerialClock> {
        &self.clock
    }
    /// Whether this node may have been replaced without knowing.
    pub fn doubt(&self) -> &Doubt {
        &self.doubt
    }
    /// The files.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }
    /// The end of the log; `None` while it is empty.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn position(&self) -> Result<Option<Position>> {
        changelog::position(&*self.pool.get()?)
    }
    /// Raw entries, as `changelog::range` gives them; no transaction stays open.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails or the log has a gap.
    pub fn entries(
        &self,
        from: Serial,
        to: Serial,
        bytes_max: usize,
    ) -> Result<Vec<(Serial, Vec<u8>)>> {
        let logged = self.logged(from, to, bytes_max)?;
        Ok(logged.into_iter().map(|logged| (logged.serial, logged.entry)).collect())
    }
    /// The same, each with the chain at it.
    ///
    /// # Errors
    /// As `entries`.
    pub fn logged(&self, from: Serial, to: Serial, bytes_max: usize) -> Result<Vec<Logged>> {
        changelog::range(&*self.pool.get()?, from, to, bytes_max)
    }
    /// When an entry was written; `None` if that was not noted.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn written(&self, serial: Serial) -> Result<Option<Written>> {
        changelog::written(&*self.pool.get()?, serial)
    }
    /// What fetchers work from.
    pub fn pool(&self) -> &r2d2::Pool<SqliteConnectionManager> {
        &self.pool
    }
    /// Removes what a crash left behind; gives how many files.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk or the database fails.
    pub fn sweep(&self) -> Result<usize> {
        let txn = self.read()?;
        self.blobs.sweep(|path| {
            let named = txn.row(path.as_str())?.is_some_and(|row| row.value.is_some());
            Ok(named || path.as_str().ends_with(".metadata") && is_sidecar_wanted(&txn, path)?)
        })
    }
}

/// Whether the wheel that a `.metadata` file belongs to is still named.
fn is_sidecar_wanted(txn: &ReadTxn, path: &FilePath) -> Result<bool> {
    let wheel = path.as_str().trim_end_matches(".metadata");
    Ok(txn.row(wheel)?.is_some_and(|row| row.value.is_some()))
}

impl Writer {
    /// Runs `change` in the next transaction and commits what it changed. Gives its result with the serial that the
    /// store is at then: the new one, or the old one if nothing changed. If `change` fails, nothing happened.
    ///
    /// # Errors
    /// Those of `change`; `Kind::Unavailable` if another node was promoted or this one retires; `Kind::Internal` if the disk or the
    /// database fails.
    pub fn write<T>(
        &self,
        change: impl FnOnce(&mut WriteTxn<'_>) -> Result<T>,
    ) -> Result<(T, Option<Serial>)> {
        self.write_once(None, change)
    }

    /// As `write`; with a ticket, its receipt is written in the same transaction.
    ///
    /// # Errors
    /// As `write`; `Kind::Conflict` if another request used the ticket's key.
    pub fn write_once<T>(
        &self,
        ticket: Option<&Ticket>,
        change: impl FnOnce(&mut WriteTxn<'_>) -> Result<T>,
    ) -> Result<(T, Option<Serial>)> {
        self.store.doubt.settle();
        let done = self.commit(ticket, change)?;
        self.store.doubt.settle();
        self.store.doubt.check()?;
        match self.store.fence() {
            Some(fence) => Err(fence.too_late(done.1)),
            None => Ok(done),
        }
    }

    fn commit<T>(
        &self,
        ticket: Option<&Ticket>,
        change: impl FnOnce(&mut WriteTxn<'_>) -> Result<T>,
    ) -> Result<(T, Option<Serial>)> {
        let mut connection = lock(&self.connection);
        if let Some(fence) = self.store.fence() {
            return Err(fence.refusal());
        }
        self.store.doubt.check()?;
        let sql = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let last = changelog::position(&sql)?;
        let base = last.map(|p| p.serial);
        let mut txn = WriteTxn::new(&sql, base);
        let value = change(&mut txn)?;
        let Outcome { changes, files, removed } = txn.take();
        let Some(end) = put_changes(&sql, &txn, last, &changes)? else {
            return Ok((value, base));
        };
        drop(txn);
        ticket.map(|ticket| receipts::note(&sql, ticket, end.serial)).transpose()?;
        txn::place_files(&self.store.blobs, files)?;
        sql.commit()?;
        ticket.into_iter().for_each(Ticket::set_used);
        self.store.clock.advance(end.serial);
        self.remove_files(&removed);
        Ok((value, Some(end.serial)))
    }

    fn remove_files(&self, removed: &[FilePath]) {
        for path in removed {
            for path in std::iter::once(path.clone()).chain(path.sidecar()) {
                if let Err(e) = self.store.blobs.remove(&path) {
                    log::warn!("{path} stays as an orphan: {e}");
                }
            }
        }
    }

    /// Applies entries that a master committed, all in one transaction, and lists the files that they name as wanted
    /// where `wants` says so. The serials must follow the store's last one without a gap. With `expected`, the chain
    /// after the last one must be that.
    ///
    /// # Errors
    /// `Kind::BadGateway` if the chain is another; `Kind::Conflict` if a serial does not follow; `Kind::Invalid` if an entry is malformed; `Kind::Internal` if
    /// the database fails. Nothing is applied then.
    pub fn apply(
        &self,
        entries: &[(Serial, Vec<u8>)],
        expected: Option<&Chain>,
        wants: &dyn Fn(&FilePath) -> bool,
    ) -> Result<()> {
        let entries = entries.iter().map(|(serial, entry)| (*serial, entry.as_slice(), None));
        self.apply_all(entries, expected, wants)
    }

    /// As `apply`, for entries of which parts may have been left out.
    ///
    /// # Errors
    /// As `apply`.
    pub fn apply_received(
        &self,
        entries: &[Received],
        expected: Option<&Chain>,
        wants: &dyn Fn(&FilePath) -> bool,
    ) -> Result<()> {
        let entries = entries.iter().map(|r| (r.serial, r.entry.as_slice(), r.elided));
        self.apply_all(entries, expected, wants)
    }

    fn apply_all<'e>(
        &self,
        entries: impl Iterator<Item = (Serial, &'e [u8], Option<Elided>)>,
        expected: Option<&Chain>,
        wants: &dyn Fn(&FilePath) -> bool,
    ) -> Result<()> {
        let mut connection = lock(&self.connection);
        let sql = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut incoming = Incoming::begin(&sql)?;
        for (serial, entry, elided) in entries {
            let due = Serial::following(incoming.last().map(|p| p.serial));
            let first = changelog::first_of(serial, elided.map(|elided| elided.serials.into()));
            if first != Serial::wire(Some(due)) {
                return Err(Error::conflict(format!("serial {serial} came where {due} was due")));
            }
            incoming.push(entry, elided).context(|| format!("applying serial {serial}"))?;
        }
        let last = incoming.last();
        if let (Some(expected), Some(end)) = (expected, last)
            && end.chain != *expected
        {
            return Err(Error::new(
                Kind::BadGateway,
                format!(
                    "the entries up to serial {} are not those that the master has",
                    end.serial
                ),
            ));
        }
        let touched = incoming.finish()?;
        let removed = wanted::settle(&sql, &self.store.blobs, &touched, wants)?;
        sql.commit()?;
        if let Some(end) = last {
            self.store.clock.advance(end.serial);
        }
        self.remove_files(&removed);
        Ok(())
    }

    /// Runs `work` on the writing connection, for tables that are not part of the log.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn local<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        work(&lock(&self.connection))
    }

    /// The store that this writes to.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }
}

/// Writes the rows of what really changed and appends the entry; `None` if nothing did.
fn put_changes(
    sql: &Connection,
    txn: &WriteTxn<'_>,
    last: Option<Position>,
    changes: &BTreeMap<String, Change>,
) -> Result<Option<Position>> {
    let (mut entry, mut values) = (Vec::new(), Vec::new());
    for (path, change) in changes {
        let held = txn.held(path)?;
        let old = held.as_ref().and_then(|held| held.value.as_ref());
        let value = change.value.as_deref();
        if old.map(|rope| rope.bytes.as_slice()) == value {
            continue;
        }
        let back = Serial::wire(held.as_ref().map(|held| held.serial));
        let names = (path.as_str(), change.keyname.as_str());
        let segments = rope::put_row(sql, names, txn.next_serial(), value, old)?;
        values.extend(value.map(|value| (value, segments)));
        entry.push((path.as_str(), change.keyname.as_str(), back, value));
    }
    if entry.is_empty() {
        return Ok(None);
    }
    let written = Written::Committed(SystemTime::now());
    changelog::append(sql, last, &codec::encode_entry(entry), &values, written).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{IndexName, UserName};
    use crate::store::codec::{RawEntry, Value};
    use crate::store::record::Dict;

    fn fresh() -> (tempfile::TempDir, Arc<Store>, Writer) {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, writer) = open(dir.path(), 4).expect("opens");
        (dir, store, writer)
    }

    fn record(text: &str) -> Dict {
        Dict(vec![("last_modified".into(), text.into())])
    }

    fn file(digit: char) -> FilePath {
        let index = IndexName::new("ann", "dev").expect("valid");
        FilePath::of_digest(&index, &digit.to_string().repeat(64), "x.whl").expect("valid")
    }

    fn set_user(writer: &Writer, name: &str, text: &str) -> Option<Serial> {
        let user = UserName::parse(name).expect("valid");
        let set = |txn: &mut WriteTxn<'_>| {
            txn.set(&key::User(&user), &record(text));
            Ok(())
        };
        writer.write(set).expect("writes").1
    }

    #[test]
    fn serials_are_dense_and_a_change_of_nothing_uses_none() {
        let (_dir, store, writer) = fresh();
        assert_eq!(store.clock().now(), None);
        assert_eq!(set_user(&writer, "ann", "1"), Some(Serial::FIRST));
        assert_eq!(set_user(&writer, "ann", "1"), Some(Serial::FIRST));
        assert_eq!(set_user(&writer, "ann", "2"), Some(Serial::FIRST.next()));
        assert_eq!(store.clock().now(), Some(Serial::FIRST.next()));
    }

    #[test]
    fn a_failed_change_leaves_nothing() {
        let (_dir, store, writer) = fresh();
        let failed: Result<((), _)> = writer.write(|txn| {
            txn.set(&key::User(&UserName::root()), &record("1"));
            Err(Error::invalid("no"))
        });
        assert!(failed.is_err());
        assert_eq!(store.read().expect("reads").row("root/.config").expect("reads"), None);
        assert_eq!(set_user(&writer, "root", "1"), Some(Serial::FIRST));
    }

    #[test]
    fn a_reader_stays_at_its_serial() {
        let (_dir, store, writer) = fresh();
        set_user(&writer, "ann", "1");
        let before = store.read().expect("reads");
        set_user(&writer, "ann", "2");
        let user = UserName::parse("ann").expect("valid");
        assert_eq!(before.get(&key::User(&user)).expect("reads"), Some(record("1")));
        assert_eq!(before.serial(), Some(Serial::FIRST));
    }

    #[test]
    fn entries_link_back_to_the_last_change_deletions_included() {
        let (_dir, store, writer) = fresh();
        let user = UserName::parse("ann").expect("valid");
        set_user(&writer, "ann", "1");
        let delete = |txn: &mut WriteTxn<'_>| {
            txn.delete(&key::User(&user));
            Ok(())
        };
        writer.write(delete).expect("deletes");
        set_user(&writer, "ann", "3");
        let last = Serial::new(2).expect("small");
        let backs: Vec<i64> = store
            .entries(Serial::FIRST, last, usize::MAX)
            .expect("reads")
            .iter()
            .map(|(_, entry)| {
                let entry = RawEntry::parse(entry).expect("well formed");
                entry.changes().next().expect("one change").back_serial
            })
            .collect();
        assert_eq!(backs, [-1, 0, 1]);
    }

    #[test]
    fn a_replica_ends_with_the_chain_of_its_master() {
        let (_master_dir, master, writer) = fresh();
        for n in 0..20 {
            set_user(&writer, &format!("user{}", n % 3), &n.to_string());
        }
        let (_dir, replica, puller) = fresh();
        let entries = master.entries(Serial::FIRST, Serial::new(99).expect("small"), usize::MAX);
        let entries = entries.expect("reads");
        puller.apply(&entries[..7], None, &|_| true).expect("applies");
        let gap = puller.apply(&entries[8..], None, &|_| true).expect_err("has a gap");
        assert_eq!(gap.kind, crate::error::Kind::Conflict);
        puller.apply(&entries[7..], None, &|_| true).expect("applies");
        assert_eq!(replica.position().expect("reads"), master.position().expect("reads"));
    }

    #[test]
    fn a_replica_wants_what_it_does_not_hold_and_drops_what_was_deleted() {
        let (_master_dir, master, writer) = fresh();
        let (one, two) = (file('1'), file('2'));
        for path in [&one, &two] {
            let staged =
                master.blobs().stage(&mut &b"abc"[..], Default::default(), 9).expect("fits");
            let add = |txn: &mut WriteTxn<'_>| {
                txn.set(&key::File(path), &record("now"));
                txn.add_file(path.clone(), staged);
                Ok(())
            };
            writer.write(add).expect("writes");
        }
        assert!(master.blobs().size(&one).is_some());
        let remove = |txn: &mut WriteTxn<'_>| {
            txn.delete(&key::File(&one));
            txn.remove_file(one.clone());
            Ok(())
        };
        writer.write(remove).expect("deletes");
        assert!(master.blobs().size(&one).is_none());

        let (_dir, replica, puller) = fresh();
        let last = Serial::new(2).expect("small");
        let entries = master.entries(Serial::FIRST, last, usize::MAX).expect("reads");
        puller.apply(&entries[..2], None, &|_| true).expect("applies");
        assert_eq!(replica.wanted_counts().expect("reads").wanted, 2);
        puller.apply(&entries[2..], None, &|_| true).expect("applies");
        let wanted = replica.wanted(9, &Default::default()).expect("reads");
        assert_eq!(wanted.iter().map(|w| &w.path).collect::<Vec<_>>(), [&two]);

        let staged = replica.blobs().stage(&mut &b"abc"[..], Default::default(), 9).expect("fits");
        assert!(!puller.fetched(&two, staged, |_| false).expect("is for another record"));
        assert_eq!(replica.wanted_counts().expect("reads").wanted, 1);
        let staged = replica.blobs().stage(&mut &b"abc"[..], Default::default(), 9).expect("fits");
        assert!(puller.fetched(&two, staged, |_| true).expect("places"));
        assert_eq!(replica.wanted_counts().expect("reads"), Default::default());
        assert!(replica.blobs().size(&two).is_some());
    }

    #[test]
    fn a_damaged_entry_is_refused_whole() {
        let (_dir, replica, puller) = fresh();
        let value = codec::encode(&Value::Dict(vec![]));
        let good = codec::encode_entry([("a/.config", "USER", -1, Some(value.as_slice()))]);
        let serials = [Serial::FIRST, Serial::FIRST.next()];
        let entries = [(serials[0], good.clone()), (serials[1], good[..good.len() - 3].to_vec())];
        assert!(puller.apply(&entries, None, &|_| true).is_err());
        assert_eq!(replica.position().expect("reads"), None);
    }

    #[test]
    fn unknown_keys_are_kept() {
        let (_dir, replica, puller) = fresh();
        let value = codec::encode(&Value::Dict(vec![]));
        let entry = codec::encode_entry([("a/b/.plugin", "PLUGIN", -1, Some(value.as_slice()))]);
        puller.apply(&[(Serial::FIRST, entry.clone())], None, &|_| true).expect("applies");
        let kept = replica.entries(Serial::FIRST, Serial::FIRST, 9).expect("reads");
        assert_eq!(kept, [(Serial::FIRST, entry)]);
        let row = replica.read().expect("reads").row("a/b/.plugin").expect("reads");
        assert_eq!(row.expect("kept").value, Some(value));
    }
}
