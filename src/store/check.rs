//! Whether the log is whole and the values are those that it gives.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OptionalExtension};

use crate::error::{Error, Result};
use crate::serial::Serial;

use super::Store;
use super::changelog::{self, CHAIN_START, Chain};
use super::codec::RawEntry;
use super::rope;
use super::txn::{read_held, serial_of};

/// How many entries at the end of the log a start looks at.
const TAIL_ENTRIES: u64 = 32;
/// Entries that are read in one transaction.
const ENTRIES_AT_ONCE: usize = 200;
/// Bytes of entries that are read in one transaction, if there are more entries than one.
const BYTES_AT_ONCE: usize = 16 << 20;
/// How many complaints SQLite's own check gives.
const COMPLAINTS_MAX: usize = 20;

/// A walk along the log that compares it with itself and with the values.
#[derive(Debug)]
pub struct LogCheck {
    first: Serial,
    next: Serial,
    /// The chain before `next`; none if the entry before is not here.
    chain: Option<Chain>,
    end: Option<Serial>,
    /// Rows whose value is the one of the entry that they name.
    rows: u64,
    /// How many entries were compared.
    pub entries: u64,
    /// How many changes are in them.
    pub changes: u64,
    /// How many serials of the log they are.
    pub serials: u64,
    /// How many serials are not here, or not as a whole, so that their chain is taken as it was told.
    pub elided: u64,
}

impl LogCheck {
    /// Begins at the start of the log; `None` while that is empty.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn begin(sql: &Connection) -> Result<Option<Self>> {
        let Some(first) = changelog::first(sql)? else { return Ok(None) };
        let end = changelog::position(sql)?.map(|end| end.serial);
        let chain = (first == Serial::FIRST).then_some(CHAIN_START);
        let (rows, entries, changes, serials, elided) = (0, 0, 0, 0, 0);
        Ok(Some(Self { first, next: first, chain, end, rows, entries, changes, serials, elided }))
    }

    /// Begins some entries before the end of the log.
    fn of_tail(sql: &Connection) -> Result<Option<Self>> {
        let Some(mut check) = Self::begin(sql)? else { return Ok(None) };
        let end = check.end.map_or(0, Serial::get);
        if let Some(from) = Serial::new(end.saturating_sub(TAIL_ENTRIES))
            && check.first < from
        {
            check.next = from;
            check.chain =
                from.previous().map(|at| changelog::chain_at(sql, at)).transpose()?.flatten();
        }
        Ok(Some(check))
    }

    /// Looks at the next entries and tells each problem; false if that was the end.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn step(&mut self, sql: &Connection, tell: &mut dyn FnMut(String)) -> Result<bool> {
        // One state of log and values; what a running node changes meanwhile comes in a later step.
        let sql = sql.unchecked_transaction()?;
        let mut query = sql.prepare_cached(
            "SELECT serial, chain, is_manifest, data, elided FROM changelog WHERE serial >= ?1 ORDER BY serial LIMIT ?2",
        )?;
        let mut rows = query.query([self.next.get() as i64, ENTRIES_AT_ONCE as i64])?;
        let (mut count, mut bytes) = (0, 0);
        while let Some(row) = rows.next()? {
            let serial = serial_of(row.get(0)?)?;
            let elided: Option<i64> = row.get(4)?;
            let first = changelog::first_of(serial, elided);
            let due = Serial::wire(Some(self.next));
            // A walk of the end may begin between the serials that a row stands for.
            let is_within = self.entries == 0 && elided.is_some() && first < due;
            if first != due && !is_within {
                tell(format!("the log has {first} where {due} should be"));
                self.chain = None;
            }
            if let Some(serials) = elided {
                self.chain = None;
                self.elided += serials.unsigned_abs();
            }
            self.serials += elided.unwrap_or(1).unsigned_abs();
            let kept: Chain = row.get(1)?;
            match rope::load(&sql, row.get(3)?, row.get(2)?) {
                Ok(entry) => {
                    bytes += entry.bytes.len();
                    self.entry(&sql, (serial, &kept), &entry.bytes, tell)?;
                }
                Err(e) => tell(format!("serial {serial} cannot be read: {e}")),
            }
            (self.next, self.chain) = (serial.next(), Some(kept));
            count += 1;
            if BYTES_AT_ONCE < bytes {
                return Ok(true);
            }
        }
        if count == ENTRIES_AT_ONCE {
            return Ok(true);
        }
        self.count_rows(&sql, tell)?;
        Ok(false)
    }

    fn entry(
        &mut self,
        sql: &Connection,
        (serial, kept): (Serial, &Chain),
        bytes: &[u8],
        tell: &mut dyn FnMut(String),
    ) -> Result<()> {
        self.entries += 1;
        if self.chain.is_some_and(|before| changelog::link(&before, serial, bytes) != *kept) {
            tell(format!("serial {serial} is not what its chain says"));
        }
        let entry = match RawEntry::parse(bytes) {
            Ok(entry) => entry,
            Err(e) => {
                tell(format!("serial {serial} is damaged: {e}"));
                return Ok(());
            }
        };
        for change in entry.changes() {
            self.changes += 1;
            let path = change.path;
            match read_held(sql, path) {
                Err(e) => tell(format!("the value of {path} cannot be read: {e}")),
                Ok(None) => tell(format!("there is no value of {path}, which {serial} changed")),
                Ok(Some(held)) if held.serial < serial => {
                    tell(format!("the value of {path} is of {}, not of {serial}", held.serial));
                }
                Ok(Some(held)) if held.serial == serial => {
                    self.rows += 1;
                    if held.value.as_ref().map(|rope| rope.bytes.as_slice()) != change.value {
                        tell(format!("the value of {path} is not that of {serial}"));
                    }
                }
                Ok(Some(_)) => {}
            }
        }
        Ok(())
    }

    /// Each row belongs to an entry. Where a node wrote meanwhile, rows moved on and cannot be counted.
    fn count_rows(&self, sql: &Connection, tell: &mut dyn FnMut(String)) -> Result<()> {
        let end = changelog::position(sql)?.map(|end| end.serial);
        let mut query = sql.prepare_cached("SELECT count(*) FROM kv WHERE serial >= ?1")?;
        let held: i64 = query.query_row([self.first.get() as i64], |row| row.get(0))?;
        let is_whole = self.serials == end.map_or(0, |end| end.get() + 1 - self.first.get());
        if end == self.end && is_whole && held.unsigned_abs() != self.rows {
            tell(format!("{held} values name an entry, and entries have {} of them", self.rows));
        }
        Ok(())
    }
}

impl Store {
    /// What SQLite's own quick check says of the file; nothing if all is well.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn quick_check(&self) -> Result<Vec<String>> {
        let connection = self.pool().get()?;
        let mut query = connection.prepare(&format!("PRAGMA quick_check({COMPLAINTS_MAX})"))?;
        let said =
            query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
        Ok(said.into_iter().filter(|line| line != "ok").collect())
    }
}

/// Looks at the end of the log and the values that it set: cheap, and the part that a torn write hits.
///
/// # Errors
/// `Kind::Internal` if something is wrong there.
pub(super) fn tail(sql: &Connection) -> Result<()> {
    let mut problem = None;
    if let Some(mut check) = LogCheck::of_tail(sql)? {
        // The rows are not counted: the walk did not begin at the first entry.
        check.end = None;
        let mut tell = |said| {
            problem.get_or_insert(said);
        };
        while check.step(sql, &mut tell)? {}
    }
    let mut query = sql.prepare_cached("SELECT key FROM kv ORDER BY key LIMIT 1")?;
    query.query_row([], |row| row.get::<_, String>(0)).optional()?;
    problem.map_or(Ok(()), |said| {
        Err(Error::internal(format!("it is damaged: {said}")).caused_by(Damage))
    })
}

/// Marks errors that mean that the bytes of the database are wrong.
#[derive(Debug)]
struct Damage;

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("what is on disk is not what was written")
    }
}

impl std::error::Error for Damage {}

/// Tells how to go on if the error means that the database is damaged; other errors stay as they are.
pub(super) fn with_way_out(error: Error, file: &Path) -> Error {
    let source = std::error::Error::source(&error);
    let is_damage = source.is_some_and(|source| {
        let code =
            source.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
        source.is::<Damage>()
            || matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
    });
    if !is_damage {
        return error;
    }
    let file = file.display();
    let text = format!(
        "the database {file} is damaged, so this node does not start ({error}). Nothing was changed. To rebuild it from \
         another node, put this folder aside, make a new one with `init --role replica --primary-url URL` and start it \
         as a replica; if this was the master, promote a replica first. Else take back a backup or import an export"
    );
    Error::new(error.kind, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::UserName;
    use crate::store::record::Dict;
    use crate::store::txn::WriteTxn;
    use crate::store::{DATABASE, Writer, key, open};

    fn set_user(writer: &Writer, name: &str, text: &str) {
        let user = UserName::parse(name).expect("valid");
        let set = |txn: &mut WriteTxn<'_>| {
            txn.set(&key::User(&user), &Dict(vec![("title".into(), text.into())]));
            Ok(())
        };
        writer.write(set).expect("writes");
    }

    /// A folder with a log of some entries, changed by `sql` behind the store's back.
    fn changed(sql: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        {
            let (_store, writer) = open(dir.path(), 1).expect("opens");
            for n in 0..100 {
                let text = if n == 50 { "x".repeat(20_000) } else { n.to_string() };
                set_user(&writer, &format!("user{}", n % 7), &text);
            }
        }
        let connection = Connection::open(dir.path().join(DATABASE)).expect("opens");
        connection.execute_batch(sql).expect("changes");
        dir
    }

    fn problems(sql: &str) -> Vec<String> {
        let dir = changed(sql);
        let connection = Connection::open(dir.path().join(DATABASE)).expect("opens");
        let mut said = Vec::new();
        let mut check = LogCheck::begin(&connection).expect("reads").expect("has entries");
        while check.step(&connection, &mut |line| said.push(line)).expect("reads") {}
        assert!(90 <= check.entries);
        said
    }

    #[test]
    fn each_damage_is_told() {
        assert_eq!(problems(""), [""; 0]);
        for (sql, part) in [
            ("DELETE FROM changelog WHERE serial = 20", "21 where 20"),
            ("UPDATE changelog SET chain = zeroblob(32) WHERE serial = 20", "serial 20 is not"),
            ("UPDATE changelog SET data = x'0102' WHERE serial = 20", "serial 20 is damaged"),
            ("UPDATE changelog SET elided = 3 WHERE serial = 20", "the log has 18 where 20"),
            ("DELETE FROM segment", "serial 50 cannot be read"),
            ("UPDATE kv SET value = x'00' WHERE key = 'user3/.config'", "is not that of"),
            ("UPDATE kv SET serial = 1 WHERE key = 'user3/.config'", "is of 1, not of"),
            ("DELETE FROM kv WHERE key = 'user3/.config'", "there is no value"),
            ("INSERT INTO kv VALUES ('z/.config', 'USER', 3, 0, x'00')", "8 values"),
        ] {
            let said = problems(sql);
            assert!(said.iter().any(|line| line.contains(part)), "{sql}: {said:?}");
        }
    }

    #[test]
    fn a_start_is_refused_with_the_way_out() {
        for sql in [
            "UPDATE changelog SET data = x'0102' WHERE serial = 99",
            "UPDATE changelog SET chain = zeroblob(32) WHERE serial = 90",
            "UPDATE kv SET value = x'00' WHERE key = 'user1/.config'",
        ] {
            let dir = changed(sql);
            let error = open(dir.path(), 1).err().expect("is refused");
            assert!(error.message.contains("init --role replica"), "{sql}: {error}");
        }
        let dir = changed("PRAGMA wal_checkpoint(truncate)");
        let file = dir.path().join(DATABASE);
        let mut bytes = std::fs::read(&file).expect("reads");
        bytes[..4096].fill(0x55);
        std::fs::write(&file, bytes).expect("writes");
        let error = open(dir.path(), 1).err().expect("is refused");
        assert!(error.message.contains("init --role replica"), "{error}");
    }
}
