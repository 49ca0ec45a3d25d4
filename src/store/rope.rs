//! Large values are stored in segments, so that a value with a little more in it costs a little more disk.
//!
//! devpi's format writes sets and link pages whole with every change. Here the bytes of such a value are cut into
//! segments; a new version of the value shares the segments that it has in common with the one before, and the entry
//! in the log shares those of its values. Segments are never changed and, as the log, never deleted.
//!
//! A manifest lists the parts of some bytes in order: for each one byte, `0` for bytes that stand in the manifest or
//! `1` for a segment, then the length as 4 bytes big-endian, then the bytes, or the segment's id as 8 bytes.

use std::borrow::Cow;

use memchr::memmem;
use rusqlite::{Connection, params};

use crate::error::{Error, Result};
use crate::serial::Serial;

/// Values from this size on are cut. Below, one row is cheaper than several.
const CUT_BYTES_MIN: usize = 8 << 10;
/// The size of a segment when it is cut: what one page of SQLite holds.
const SEGMENT_BYTES: usize = 4_000;
/// How far behind the place where it is expected a segment of the old value is looked for.
const LOOK_BYTES: usize = 4 * SEGMENT_BYTES;
/// How many segments of the old value are looked for before the rest counts as new.
const LOOK_SEGMENTS: usize = 4;

/// A part of stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    id: i64,
    length: usize,
}

/// Bytes with the segments that they are stored in; none for small values.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rope {
    /// The bytes.
    pub bytes: Vec<u8>,
    segments: Vec<Segment>,
}

impl Rope {
    /// Bytes that are stored in these segments.
    pub fn new(bytes: &[u8], segments: &[Segment]) -> Self {
        Self { bytes: bytes.to_vec(), segments: segments.to_vec() }
    }
}

/// What to put into a row: the bytes themselves, or a manifest.
pub(super) struct Stored<'a> {
    /// For the column with the value.
    pub value: Cow<'a, [u8]>,
    /// Whether it is a manifest.
    pub is_manifest: bool,
}

const INLINE: u8 = 0;
const SEGMENT: u8 = 1;

fn put_inline(manifest: &mut Vec<u8>, bytes: &[u8]) {
    if !bytes.is_empty() {
        manifest.push(INLINE);
        manifest.extend((bytes.len() as u32).to_be_bytes());
        manifest.extend(bytes);
    }
}

fn put_segments(manifest: &mut Vec<u8>, segments: &[Segment]) {
    for segment in segments {
        manifest.push(SEGMENT);
        manifest.extend((segment.length as u32).to_be_bytes());
        manifest.extend(segment.id.to_be_bytes());
    }
}

/// Reads back what a row holds.
///
/// # Errors
/// `Kind::Internal` if the database fails or a manifest is damaged.
pub(super) fn load(sql: &Connection, value: Vec<u8>, is_manifest: bool) -> Result<Rope> {
    if !is_manifest {
        return Ok(Rope { bytes: value, segments: Vec::new() });
    }
    let damaged = || Error::internal("the manifest of a stored value is damaged");
    let mut rope = Rope::default();
    let mut read = sql.prepare_cached("SELECT data FROM segment WHERE id = ?1")?;
    let mut rest = value.as_slice();
    while let Some((tag, after)) = rest.split_first() {
        let (length, after) = after.split_first_chunk::<4>().ok_or_else(damaged)?;
        let length = u32::from_be_bytes(*length) as usize;
        rest = match *tag {
            INLINE => {
                let (bytes, after) = after.split_at_checked(length).ok_or_else(damaged)?;
                rope.bytes.extend(bytes);
                after
            }
            SEGMENT => {
                let (id, after) = after.split_first_chunk::<8>().ok_or_else(damaged)?;
                let id = i64::from_be_bytes(*id);
                let before = rope.bytes.len();
                read.query_row([id], |row| {
                    rope.bytes.extend(row.get_ref(0)?.as_blob()?);
                    Ok(())
                })?;
                if rope.bytes.len() - before != length {
                    return Err(damaged());
                }
                rope.segments.push(Segment { id, length });
                after
            }
            _ => return Err(damaged()),
        };
    }
    Ok(rope)
}

/// Whether a value is stored in segments.
pub(super) fn is_cut(value: &[u8]) -> bool {
    CUT_BYTES_MIN <= value.len()
}

/// Stores the bytes of a value, sharing what it can with the value before, and gives the segments; none for a small
/// value.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub(super) fn store(sql: &Connection, new: &[u8], old: Option<&Rope>) -> Result<Vec<Segment>> {
    if !is_cut(new) {
        return Ok(Vec::new());
    }
    let mut segments = Vec::new();
    for piece in share(new, old) {
        match piece {
            Piece::Shared(segment) => segments.push(segment),
            Piece::New(bytes) => {
                let mut put = sql.prepare_cached("INSERT INTO segment (data) VALUES (?1)")?;
                for chunk in bytes.chunks(SEGMENT_BYTES) {
                    put.execute([chunk])?;
                    segments.push(Segment { id: sql.last_insert_rowid(), length: chunk.len() });
                }
            }
        }
    }
    Ok(segments)
}

/// What goes into the row of a value that is stored in these segments, or in none.
pub(super) fn stored<'a>(value: &'a [u8], segments: &[Segment]) -> Stored<'a> {
    if segments.is_empty() {
        return Stored { value: value.into(), is_manifest: false };
    }
    let mut manifest = Vec::new();
    put_segments(&mut manifest, segments);
    Stored { value: manifest.into(), is_manifest: true }
}

/// Stores an entry, sharing the segments of its large values, which stand in it word for word.
pub(super) fn store_entry<'e>(entry: &'e [u8], values: &[(&[u8], Vec<Segment>)]) -> Stored<'e> {
    let mut manifest = Vec::new();
    let mut at = 0;
    for (value, segments) in values.iter().filter(|(_, segments)| !segments.is_empty()) {
        if let Some(found) = find(&entry[at..], value) {
            put_inline(&mut manifest, &entry[at..at + found]);
            put_segments(&mut manifest, segments);
            at += found + value.len();
        }
    }
    if at == 0 {
        return Stored { value: entry.into(), is_manifest: false };
    }
    put_inline(&mut manifest, &entry[at..]);
    Stored { value: manifest.into(), is_manifest: true }
}

/// Where long bytes stand in others. They are looked for by their beginning: preparing a search for all of them would
/// cost more than the search.
fn find(bytes: &[u8], long: &[u8]) -> Option<usize> {
    const PROBE_BYTES: usize = 32;
    let probe = &long[..long.len().min(PROBE_BYTES)];
    memmem::find_iter(bytes, probe).find(|at| bytes[*at..].starts_with(long))
}

/// `find` for a segment that begins not far from the beginning.
fn find_start(bytes: &[u8], segment: &[u8]) -> Option<usize> {
    find(&bytes[..bytes.len().min(LOOK_BYTES + segment.len())], segment)
}

/// A part of a new value.
#[derive(Debug, PartialEq)]
enum Piece<'a> {
    Shared(Segment),
    New(&'a [u8]),
}

/// Takes a new value apart into segments of the old one and new bytes.
fn share<'a>(new: &'a [u8], old: Option<&Rope>) -> Vec<Piece<'a>> {
    let Some(old) = old.filter(|old| !old.segments.is_empty()) else {
        return vec![Piece::New(new)];
    };
    let mut starts = Vec::with_capacity(old.segments.len());
    let mut start = 0;
    for segment in &old.segments {
        starts.push(start);
        start += segment.length;
    }
    let bytes = |n: usize| &old.bytes[starts[n]..starts[n] + old.segments[n].length];
    let (mut pieces, mut at, mut next) = (Vec::new(), 0, 0);
    while at < new.len() {
        let candidates = next..old.segments.len().min(next + LOOK_SEGMENTS);
        let found = candidates.clone().find_map(|n| {
            if n == next && new[at..].starts_with(bytes(n)) {
                return Some((n, 0));
            }
            find_start(&new[at..], bytes(n)).map(|place| (n, place))
        });
        let Some((n, place)) = found else { break };
        if place > 0 {
            pieces.push(Piece::New(&new[at..at + place]));
        }
        pieces.push(Piece::Shared(old.segments[n]));
        at += place + old.segments[n].length;
        next = n + 1;
    }
    if at < new.len() {
        pieces.push(Piece::New(&new[at..]));
    }
    pieces
}

/// Stores the current value of a path, and gives the segments it is in.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub(super) fn put_row(
    sql: &Connection,
    names: (&str, &str),
    serial: Serial,
    value: Option<&[u8]>,
    old: Option<&Rope>,
) -> Result<Vec<Segment>> {
    let segments = value.map(|value| store(sql, value, old)).transpose()?.unwrap_or_default();
    write_row(sql, names, serial, value.map(|value| stored(value, &segments)))?;
    Ok(segments)
}

/// Writes the row of a path and its kind of key; the segments of its value are stored already.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub(super) fn write_row(
    sql: &Connection,
    (path, keyname): (&str, &str),
    serial: Serial,
    stored: Option<Stored<'_>>,
) -> Result<()> {
    let is_manifest = stored.as_ref().is_some_and(|stored| stored.is_manifest);
    let mut put = sql.prepare_cached(
        "INSERT INTO kv (key, keyname, serial, is_manifest, value) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (key) DO UPDATE SET keyname = ?2, serial = ?3, is_manifest = ?4, value = ?5",
    )?;
    let value = stored.as_ref().map(|stored| stored.value.as_ref());
    put.execute(params![path, keyname, serial.get() as i64, is_manifest, value])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn database() -> Connection {
        let sql = Connection::open_in_memory().expect("opens");
        sql.execute("CREATE TABLE segment (id INTEGER PRIMARY KEY, data BLOB NOT NULL)", [])
            .expect("makes a table");
        sql
    }

    fn count(sql: &Connection) -> i64 {
        sql.query_row("SELECT count(*) FROM segment", [], |row| row.get(0)).expect("counts")
    }

    fn stored(sql: &Connection, bytes: &[u8], old: Option<&Rope>) -> Rope {
        let segments = store(sql, bytes, old).expect("stores");
        let stored = super::stored(bytes, &segments);
        load(sql, stored.value.into_owned(), stored.is_manifest).expect("loads")
    }

    /// Bytes without repetition.
    fn noise(length: u32) -> Vec<u8> {
        (0..length / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
    }

    #[test]
    fn a_value_that_grows_at_two_places_shares_nearly_all_of_itself() {
        let sql = database();
        let mut bytes = noise(400_000);
        let old = stored(&sql, &bytes, None);
        let before = count(&sql);
        bytes[3] ^= 1; // a count
        bytes.splice(300_000..300_000, noise(200));
        bytes.extend(noise(80));
        let new = stored(&sql, &bytes, Some(&old));
        assert_eq!(new.bytes, bytes);
        let fresh = count(&sql) - before;
        assert!(fresh <= 6, "{fresh} new segments");
    }

    #[test]
    fn an_entry_shares_the_segments_of_its_values() {
        let sql = database();
        let value = noise(100_000);
        let segments = store(&sql, &value, None).expect("stores");
        let entry = [b"before".as_slice(), &value, b"after"].concat();
        let held = count(&sql);
        let put = store_entry(&entry, &[(b"small", Vec::new()), (&value, segments)]);
        assert!(put.is_manifest && put.value.len() < 1000);
        assert_eq!(load(&sql, put.value.into_owned(), true).expect("loads").bytes, entry);
        assert_eq!(count(&sql), held);
        let plain = store_entry(b"small", &[]);
        assert_eq!((plain.value.as_ref(), plain.is_manifest), (b"small".as_slice(), false));
    }

    #[test]
    fn a_damaged_manifest_is_an_error() {
        let sql = database();
        for bad in
            [&[2_u8][..], &[INLINE, 0, 0, 0, 9, 1], &[SEGMENT, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9]]
        {
            assert!(load(&sql, bad.to_vec(), true).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn whatever_changes_comes_back_as_it_was(
            cuts in prop::collection::vec((0_usize..60_000, 0_usize..9_000, 0_u32..9_000), 1..6),
            length in 17_000_u32..60_000,
        ) {
            let sql = database();
            let mut bytes = noise(length);
            let mut held = stored(&sql, &bytes, None);
            for (at, removed, added) in cuts {
                let at = at.min(bytes.len());
                let end = (at + removed).min(bytes.len());
                bytes.splice(at..end, noise(added).into_iter().rev());
                held = stored(&sql, &bytes, Some(&held));
                prop_assert_eq!(&held.bytes, &bytes);
            }
        }
    }
}
