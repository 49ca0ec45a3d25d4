//! Entries on their way to a replica: a body that reads the log piece by piece, so that its length costs no memory.

use std::io::{self, Read};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::http::response::Body;
use crate::serial::Serial;
use crate::store::Store;
use crate::store::changelog::Logged;
use crate::store::codec::encode_serial;

use super::pieces::PieceWriter;
use super::replicas::Polling;

/// How many bytes of the log are held at once, one entry more at most.
const PIECE_BYTES: usize = 256 << 10;

/// How entries are written.
enum Format {
    /// Serial, entry, serial, entry: devpi's.
    Plain,
    /// This program's own.
    Pieces(Box<PieceWriter>),
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
        let entries = self.store.logged(from, self.to, PIECE_BYTES)?;
        let last = entries.last().map(|logged| logged.serial).ok_or_else(|| missing(from))?;
        match &mut self.format {
            Format::Plain => {
                for Logged { serial, entry, .. } in entries {
                    self.piece.extend_from_slice(&encode_serial(serial));
                    self.piece.extend_from_slice(&entry);
                }
            }
            Format::Pieces(writer) => {
                writer.put(&mut self.piece, &entries)?;
                if last == self.to {
                    PieceWriter::finish(&mut self.piece, last.next());
                }
            }
        }
        self.next = (last < self.to).then(|| last.next());
        self.polling.sent(last);
        Ok(())
    }
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
