//! What a piece of the changelog holds for a replica that takes over some indexes: entries of which something was left
//! out, and rows for all that was left out between them.
//!
//! | bytes of a record | |
//! | --- | --- |
//! | 0 | `A` all of an entry, `S` some of its changes, `N` nothing of some serials |
//! | 1..5 | length of the entry; for `N` how many serials |
//! | 5.. | the entry; not for `N` |
//! | then 32 | the chain at it, which the replica cannot make; not for `A` |
//!
//! The chain does not show what happened to such a piece on its way, so SHA-256 over all records follows the last one.

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::serial::Serial;
use crate::store::changelog::{Chain, Elided, Received, empty_entry};

use super::pieces::bad;

const ALL: u8 = b'A';
const SOME: u8 = b'S';
const NONE: u8 = b'N';

/// Appends records with their sum.
///
/// # Errors
/// `Kind::Internal` if an entry is too large.
pub fn put(out: &mut Vec<u8>, records: &[Received]) -> Result<()> {
    let (begin, nothing) = (out.len(), empty_entry());
    for Received { entry, elided, .. } in records {
        let length = u32::try_from(entry.len())
            .map_err(|_| Error::internal("an entry is too large to be sent"))?;
        let (kind, number) = match elided {
            None => (ALL, length),
            Some(elided) if *entry == nothing => (NONE, elided.serials),
            Some(_) => (SOME, length),
        };
        out.push(kind);
        out.extend_from_slice(&number.to_be_bytes());
        if kind != NONE {
            out.extend_from_slice(entry);
        }
        if let Some(elided) = elided {
            out.extend_from_slice(&elided.chain);
        }
    }
    let sum: [u8; 32] = Sha256::digest(&out[begin..]).into();
    out.extend_from_slice(&sum);
    Ok(())
}

/// Reads `count` records, of which the first is to be for the serial `due`.
///
/// # Errors
/// `Kind::BadGateway` if they are not as they were written.
pub fn take_apart(body: &[u8], count: u32, due: Serial) -> Result<Vec<Received>> {
    let damaged = || bad("a piece with parts of entries is damaged".to_owned());
    let (mut rest, sum) = body.split_last_chunk::<32>().ok_or_else(damaged)?;
    let found: [u8; 32] = Sha256::digest(rest).into();
    if found != *sum {
        return Err(damaged());
    }
    let (mut due, mut records) = (due.get(), Vec::new());
    for _ in 0..count {
        let (head, after) = rest.split_first_chunk::<5>().ok_or_else(damaged)?;
        let number = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let length = if head[0] == NONE { 0 } else { number as usize };
        let (entry, after) = after.split_at_checked(length).ok_or_else(damaged)?;
        let (chain, after) = match head[0] {
            ALL => (None, after),
            SOME | NONE => {
                let (chain, after) = after.split_first_chunk::<32>().ok_or_else(damaged)?;
                (Some(chain), after)
            }
            _ => return Err(damaged()),
        };
        rest = after;
        let record = record(due, head[0] == NONE, number, entry, chain).ok_or_else(damaged)?;
        due = record.serial.get() + 1;
        records.push(record);
    }
    if rest.is_empty() { Ok(records) } else { Err(damaged()) }
}

fn record(
    due: u64,
    is_nothing: bool,
    number: u32,
    entry: &[u8],
    chain: Option<&Chain>,
) -> Option<Received> {
    let serials = if is_nothing { number } else { 1 };
    let serial = Serial::new(due + u64::from(serials.checked_sub(1)?))?;
    let elided = chain.map(|chain| Elided { serials, chain: *chain });
    let entry = if is_nothing { empty_entry() } else { entry.to_vec() };
    Some(Received { serial, entry, elided })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::store::codec::encode_entry;

    fn records() -> Vec<Received> {
        let entry = encode_entry([("ann/dev/.projects", "PROJNAMES", -1, None)]);
        let record = |serial, entry: &[u8], serials| Received {
            serial: Serial::new(serial).expect("small"),
            entry: entry.to_vec(),
            elided: (0 < serials).then_some(Elided { serials, chain: [serial as u8; 32] }),
        };
        let nothing = empty_entry();
        vec![
            record(7, &entry, 0),
            record(507, &nothing, 500),
            record(508, &entry, 1),
            record(509, &nothing, 0),
            record(510, &nothing, 1),
        ]
    }

    #[test]
    fn records_are_read_as_written() {
        let mut body = Vec::new();
        put(&mut body, &records()).expect("small");
        assert_eq!(take_apart(&body, 5, Serial::new(7).expect("small")).expect("good"), records());
    }

    #[test]
    fn what_was_changed_is_refused() {
        let mut whole = Vec::new();
        put(&mut whole, &records()).expect("small");
        let read = |body: &[u8], count| take_apart(body, count, Serial::FIRST);
        for at in 0..whole.len() {
            let mut body = whole.clone();
            body[at] ^= 4;
            assert_eq!(read(&body, 5).expect_err("changed").kind, Kind::BadGateway, "{at}");
            assert!(read(&whole[..at], 5).is_err(), "{at}");
        }
        assert!(read(&whole, 4).is_err() && read(&whole, 6).is_err());
        // A sum does not make sense of what makes none.
        for records in [&b"N\0\0\0\0"[..], b"N\xff\xff\xff\xff", b"A\xff\xff\xff\xff", b"X\0\0\0\0"]
        {
            let mut body = [records, &[0; 32]].concat();
            let sum: [u8; 32] = Sha256::digest(&body).into();
            body.extend(sum);
            assert!(read(&body, 1).is_err(), "{records:?}");
        }
    }
}
