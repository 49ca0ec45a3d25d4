//! Entries on their way to a replica: a body that reads the log piece by piece, so that its length costs no memory.

use std::io::{self, Read};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::http::response::Body;
use crate::serial::Serial;
use crate::store::Store;
use crate::store::changelog::{Elided, Logged, Position, Received, empty_entry};
use crate::store::codec::encode_serial;

use super::filter::{Filter, Left};
use super::pieces::PieceWriter;
use super::replicas::Polling;

/// How many bytes of the log are held at once, one entry more at most.
const PIECE_BYTES: usize = 256 << 10;

/// How many bytes of the log are looked through for one piece of which most is left out, one read more at most: whoever
/// waits for it hears something now and then.
const LOOKED_THROUGH_MAX: usize = 32 << 20;

/// How entries are written.
enum Format {
    /// Serial, entry, serial, entry: devpi's.
    Plain,
    /// This program's own.
    Pieces(Box<PieceWriter>),
    /// The same, with what is left of the entries for a replica of some indexes.
    Parts(Box<PieceWriter>, Filter),
}

/// A part of the log as a body.
pub struct Outgoing {
    store: Arc<Store>,
    format: Format,
    /// What comes after the piece; none when that is the end.
    next: Option<Serial>,
    to: Serial,
    piece: Vec<u8>,
    at: usize,
    polling: Polling,
}

impl Outgoing {
    /// The entries from `from` up to `to`, in devpi's format.
    pub fn plain(store: &Arc<Store>, from: Serial, to: Serial, polling: Polling) -> Self {
        Self::new(store, Format::Plain, from, to, polling)
    }

    /// The entries from `from` up to `to`, in pieces.
    ///
    /// # Errors
    /// `Kind::Internal` if there is no memory.
    pub fn pieces(store: &Arc<Store>, from: Serial, to: Serial, polling: Polling) -> Result<Self> {
        let format = Format::Pieces(Box::new(PieceWriter::new()?));
        Ok(Self::new(store, format, from, to, polling))
    }

    /// What `filter` leaves of the entries from `from` up to `to`, in pieces.
    ///
    /// # Errors
    /// `Kind::Internal` if there is no memory.
    pub fn parts(
        store: &Arc<Store>,
        from: Serial,
        to: Serial,
        filter: Filter,
        polling: Polling,
    ) -> Result<Self> {
        let format = Format::Parts(Box::new(PieceWriter::new()?), filter);
        Ok(Self::new(store, format, from, to, polling))
    }

    fn new(store: &Arc<Store>, format: Format, from: Serial, to: Serial, polling: Polling) -> Self {
        let (store, piece) = (store.clone(), Vec::new());
        Self { store, format, next: Some(from), to, piece, at: 0, polling }
    }

    /// The body of an answer. What is small goes out in one write, with its length.
    ///
    /// # Errors
    /// `Kind::Internal` if the log cannot be read.
    pub fn body(mut self) -> Result<Body> {
        self.polling.stream();
        self.load()?;
        Ok(match self.next {
            None => Body::Owned(std::mem::take(&mut self.piece)),
            Some(_) => Body::Stream { reader: Box::new(self), length: None },
        })
    }

    /// Loads the next piece in place of the last one.
    fn load(&mut self) -> Result<()> {
        self.piece.clear();
        self.at = 0;
        let Some(from) = self.next else { return Ok(()) };
        let last = match &mut self.format {
            Format::Plain => {
                let entries = self.store.logged(from, self.to, PIECE_BYTES)?;
                for Logged { serial, entry, .. } in &entries {
                    self.piece.extend_from_slice(&encode_serial(*serial));
                    self.piece.extend_from_slice(entry);
                }
                entries.last().map(|logged| logged.serial).ok_or_else(|| missing(from))?
            }
            Format::Pieces(writer) => {
                let entries = self.store.logged(from, self.to, PIECE_BYTES)?;
                let last = entries.last().map(|logged| logged.serial);
                writer.put(&mut self.piece, &entries)?;
                last.ok_or_else(|| missing(from))?
            }
            Format::Parts(writer, filter) => {
                let left = Leftovers::gather(&self.store, filter, from, self.to)?;
                writer.put_parts(&mut self.piece, (from, left.end.chain), &left.records)?;
                left.end.serial
            }
        };
        if last == self.to && !matches!(self.format, Format::Plain) {
            PieceWriter::finish(&mut self.piece, last.next());
        }
        self.next = (last < self.to).then(|| last.next());
        self.polling.sent(last);
        Ok(())
    }
}

/// What a filter leaves of some entries that follow each other.
struct Leftovers {
    records: Vec<Received>,
    /// The last entry that was looked at.
    end: Position,
}

impl Leftovers {
    fn gather(store: &Store, filter: &Filter, from: Serial, to: Serial) -> Result<Self> {
        let (mut records, mut end, mut kept, mut read) = (Vec::new(), None, 0, 0);
        let mut next = from;
        while next <= to && kept < PIECE_BYTES && read < LOOKED_THROUGH_MAX {
            let entries = store.logged(next, to, PIECE_BYTES - kept)?;
            if entries.is_empty() {
                return Err(missing(next));
            }
            for logged in entries {
                let Logged { serial, entry, chain } = logged;
                read += entry.len();
                (next, end) = (serial.next(), Some(Position { serial, chain }));
                let one = Elided { serials: 1, chain };
                match filter.apply(&entry)? {
                    Left::All => records.push(Received { serial, entry, elided: None }),
                    Left::Some(entry) => {
                        records.push(Received { serial, entry, elided: Some(one) });
                    }
                    Left::Nothing => pass_over(&mut records, serial, one),
                }
            }
            kept = records.iter().map(|record| record.entry.len()).sum();
        }
        let end = end.ok_or_else(|| missing(from))?;
        Ok(Self { records, end })
    }
}

/// Adds a serial of which nothing is left, to the record of those before it if nothing is left of them either.
fn pass_over(records: &mut Vec<Received>, serial: Serial, one: Elided) {
    if let Some(Received { serial: at, entry, elided: Some(elided) }) = records.last_mut()
        && *entry == empty_entry()
    {
        (*at, elided.serials, elided.chain) = (serial, elided.serials + 1, one.chain);
        return;
    }
    records.push(Received { serial, entry: empty_entry(), elided: Some(one) });
}

/// The error of a log with a hole.
pub fn missing(serial: Serial) -> Error {
    Error::internal(format!("the log has no serial {serial}"))
}

impl Read for Outgoing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            self.load().map_err(io::Error::other)?;
        }
        let n = buf.len().min(self.piece.len() - self.at);
        buf[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
