//! The log: entries by serial, each with the hash that chains it to all before it.
//!
//! `chain_n = SHA-256(chain_(n-1) || n as 8 bytes big-endian || entry_n)`, with 32 zero bytes before serial 0. Two
//! nodes with the same chain at a serial hold the same history up to it.
//!
//! A node that replicates a part of the indexes cannot make that hash where something was left out. It keeps the one
//! that its master named, and a row says how many serials it stands for: a row of which only some changes are here
//! stands for its own, and one without changes for all that follow the row before it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::serial::Serial;

use super::rope::{self, Segment};
use super::txn::serial_of;
use super::wanted::unix_ms;

/// The hash of a history.
pub type Chain = [u8; 32];

/// The chain before the first entry.
pub const CHAIN_START: Chain = [0; 32];

/// Where a node's history stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The last serial.
    pub serial: Serial,
    /// The chain at it.
    pub chain: Chain,
}

/// An entry, and where its large values are stored already.
type Cut<'e> = (&'e [u8], &'e [(&'e [u8], Vec<Segment>)]);

/// When an entry was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// When it was committed.
    Committed(SystemTime),
    /// When a replica applied what had been committed before.
    Applied(SystemTime),
}

/// An entry as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Its serial.
    pub serial: Serial,
    /// Its bytes.
    pub entry: Vec<u8>,
    /// The chain at it.
    pub chain: Chain,
}

/// The chain after one more entry.
pub fn link(before: &Chain, serial: Serial, entry: &[u8]) -> Chain {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(serial.get().to_be_bytes());
    hash.update(entry);
    hash.finalize().into()
}

/// What a master says of serials of which it leaves something out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elided {
    /// How many serials the row stands for, itself the last; 1 if some of its changes are here.
    pub serials: u32,
    /// The chain at it.
    pub chain: Chain,
}

/// An entry that a master committed, as a replica gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its serial.
    pub serial: Serial,
    /// Its bytes, as far as they are for this node.
    pub entry: Vec<u8>,
    /// What was left out; `None` if nothing was.
    pub elided: Option<Elided>,
}

/// The end of the log.
pub(super) fn position(connection: &Connection) -> Result<Option<Position>> {
    let mut query = connection
        .prepare_cached("SELECT serial, chain FROM changelog ORDER BY serial DESC LIMIT 1")?;
    let found = query.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    found.map(|(serial, chain)| Ok(Position { serial: serial_of(serial)?, chain })).transpose()
}

/// The chain at a serial; `None` if the log does not hold it.
pub(super) fn chain_at(connection: &Connection, serial: Serial) -> Result<Option<Chain>> {
    let mut query = connection.prepare_cached("SELECT chain FROM changelog WHERE serial = ?1")?;
    Ok(query.query_row([serial.get() as i64], |row| row.get(0)).optional()?)
}

/// The last row up to a serial: where something was left out, a row stands for several.
pub(super) fn position_up_to(connection: &Connection, to: Serial) -> Result<Option<Position>> {
    let mut query = connection.prepare_cached(
        "SELECT serial, chain FROM changelog WHERE serial <= ?1 ORDER BY serial DESC LIMIT 1",
    )?;
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let found = query.query_row([to.get() as i64], row).optional()?;
    found.map(|(serial, chain)| Ok(Position { serial: serial_of(serial)?, chain })).transpose()
}

/// The last serial of which something was left out.
pub(super) fn last_elided(connection: &Connection) -> Result<Option<Serial>> {
    let mut query =
        connection.prepare_cached("SELECT max(serial) FROM changelog WHERE elided IS NOT NULL")?;
    query.query_row([], |row| row.get::<_, Option<i64>>(0))?.map(serial_of).transpose()
}

/// The first serial that the log holds.
pub(super) fn first(connection: &Connection) -> Result<Option<Serial>> {
    let mut query = connection
        .prepare_cached("SELECT serial, elided FROM changelog ORDER BY serial LIMIT 1")?;
    let found = query.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    found.map(|(serial, elided)| serial_of(first_of(serial_of(serial)?, elided))).transpose()
}

/// Appends the entry that follows `last`, whose large values are stored already, and gives the new end.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub(super) fn append(
    connection: &Connection,
    last: Option<Position>,
    entry: &[u8],
    values: &[(&[u8], Vec<Segment>)],
    written: Written,
) -> Result<Position> {
    let serial = Serial::following(last.map(|p| p.serial));
    let chain = link(&last.map_or(CHAIN_START, |p| p.chain), serial, entry);
    let end = Position { serial, chain };
    put_row(connection, end, (entry, values), None, written).map(|()| end)
}

/// Appends what a master left over of the entries that follow `last`, and gives the new end. `entry` has no changes if
/// that is nothing. Rows stay as they are: a position that this node once had is one that it knows.
///
/// # Errors
/// `Kind::Invalid` if there are not that many serials; `Kind::Internal` if the database fails.
pub(super) fn append_part(
    connection: &Connection,
    last: Option<Position>,
    (entry, values): Cut<'_>,
    elided: Elided,
    written: Written,
) -> Result<Position> {
    let due = Serial::following(last.map(|p| p.serial)).get();
    let at = (due + u64::from(elided.serials)).checked_sub(1).filter(|at| due <= *at);
    let serial = at.and_then(Serial::new);
    let serial = serial.ok_or_else(|| Error::invalid("a row for no serial, or for too many"))?;
    let serials = i64::from(elided.serials);
    if serials != 1 && entry != empty_entry() {
        return Err(Error::invalid("changes that are of several serials"));
    }
    let end = Position { serial, chain: elided.chain };
    put_row(connection, end, (entry, values), Some(serials), written).map(|()| end)
}

/// An entry without changes, which stands for those of which nothing is here.
pub fn empty_entry() -> Vec<u8> {
    super::codec::encode_entry([])
}

fn put_row(
    connection: &Connection,
    at: Position,
    (entry, values): Cut<'_>,
    elided: Option<i64>,
    written: Written,
) -> Result<()> {
    let stored = rope::store_entry(entry, values);
    let mut put = connection.prepare_cached(
        "INSERT INTO changelog (serial, chain, is_manifest, data, committed_at, applied_at, elided)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    let (committed, applied) = match written {
        Written::Committed(at) => (Some(unix_ms(at)), None),
        Written::Applied(at) => (None, Some(unix_ms(at))),
    };
    let (serial, manifest, value) = (at.serial.get() as i64, stored.is_manifest, stored.value);
    put.execute(params![serial, at.chain, manifest, value, committed, applied, elided])?;
    Ok(())
}

/// The first serial that the row at `serial` stands for.
pub(super) fn first_of(serial: Serial, elided: Option<i64>) -> i64 {
    Serial::wire(Some(serial)) - elided.map_or(0, |serials| serials - 1)
}

/// When an entry was written; `None` if that was not noted.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub(super) fn written(connection: &Connection, serial: Serial) -> Result<Option<Written>> {
    let mut query = connection
        .prepare_cached("SELECT committed_at, applied_at FROM changelog WHERE serial = ?1")?;
    let row =
        query.query_row([serial.get() as i64], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    Ok(match row {
        Some((Some(committed), _)) => Some(Written::Committed(from_unix_ms(committed))),
        Some((None, Some(applied))) => Some(Written::Applied(from_unix_ms(applied))),
        _ => None,
    })
}

/// Entries from `from` up to `to`, at least one if there is one, stopping after the one that brings their bytes
/// above `bytes_max`. Where all was left out, the one entry that stands for several serials has the last of them.
///
/// # Errors
/// `Kind::Internal` if the database fails or the log has a gap.
pub(super) fn range(
    connection: &Connection,
    from: Serial,
    to: Serial,
    bytes_max: usize,
) -> Result<Vec<Logged>> {
    let mut query = connection.prepare_cached(
        "SELECT serial, is_manifest, data, chain, elided FROM changelog WHERE serial BETWEEN ?1 AND ?2 ORDER BY serial",
    )?;
    let mut rows = query.query(params![from.get() as i64, to.get() as i64])?;
    let (mut entries, mut bytes, mut expected) = (Vec::new(), 0, from);
    while let Some(row) = rows.next()? {
        let serial: i64 = row.get(0)?;
        let entry = rope::load(connection, row.get(2)?, row.get(1)?)?.bytes;
        let serial = serial_of(serial)?;
        if Serial::wire(Some(expected)) < first_of(serial, row.get(4)?) {
            return Err(Error::internal(format!(
                "the log has {serial} where {expected} should be"
            )));
        }
        expected = serial.next();
        bytes += entry.len();
        entries.push(Logged { serial, entry, chain: row.get(3)? });
        if bytes_max < bytes {
            break;
        }
    }
    Ok(entries)
}

fn from_unix_ms(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Digest, hex};

    #[test]
    fn the_chain_is_the_hash_of_the_chain_before_the_serial_and_the_entry() {
        let first = link(&CHAIN_START, Serial::FIRST, b"abc");
        let mut bytes = vec![0; 40];
        bytes.extend(b"abc");
        assert_eq!(hex(&first), Digest::of(&bytes).hex());
        assert_ne!(first, link(&first, Serial::FIRST, b"abc"));
        assert_ne!(first, link(&CHAIN_START, Serial::FIRST.next(), b"abc"));
    }
}
