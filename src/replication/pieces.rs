//! The changelog as it travels between nodes of this program: in pieces, each with the chain at its end.
//!
//! A piece is a head of 64 bytes and a body. The head says how long the body is, what its first serial is, how many
//! serials there are, and which chain the log has after the last one, so that a replica applies what its master has
//! or nothing. The body has for each entry its length as 4 bytes and its bytes; it is compressed where that saves
//! something. A piece of another kind marks the end: a stream without it was cut. Numbers are big-endian.
//!
//! | bytes of the head | |
//! | --- | --- |
//! | 0 | `E` entries, `F` what is left of them for a replica of some indexes (`parts`), `Z` the end |
//! | 1 | how the body is coded: 0 not at all, 1 zstd |
//! | 2..4 | 0 |
//! | 4..8 | how many entries or records |
//! | 8..12 | length of the body as it is sent |
//! | 12..16 | length of the body itself |
//! | 16..24 | the first serial; at the end, the one that is due next |
//! | 24..56 | the chain at the last serial |
//! | 56..64 | the first bytes of SHA-256 over the head so far |

use std::io::{ErrorKind, Read};

use sha2::{Digest as _, Sha256};
use zstd::bulk::Compressor;
use zstd::stream::read::Decoder;

use crate::error::{Context, Error, Kind, Result};
use crate::serial::Serial;
use crate::store::changelog::{CHAIN_START, Chain, Logged, Received};
use crate::store::codec::FRAME_BYTES_MAX;

use super::parts;

/// The length of a head.
const HEAD_BYTES: usize = 64;
/// Where the sum of a head begins.
const SUM_AT: usize = 56;
/// What stands before each entry.
const LENGTH_BYTES: usize = 4;

/// Bodies from this size on are compressed; below, little is saved, and the one entry at the end of the log is in
/// a hurry.
const COMPRESS_BYTES_MIN: usize = 4 << 10;
/// The level of zstd: the fastest of the regular ones.
const LEVEL: i32 = 1;
/// The memory that a compressed body may ask for, as a power of two; what is written here asks for 2^19.
const WINDOW_LOG_MAX: u32 = 23;
/// The most bytes of a body: one entry of the largest size after a body that was not full yet.
pub const BODY_BYTES_MAX: usize = FRAME_BYTES_MAX + (16 << 20);

const ENTRIES: u8 = b'E';
const PARTS: u8 = b'F';
const END: u8 = b'Z';
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// Some entries that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The entries; at least one.
    pub entries: Vec<Received>,
    /// The chain at the last one.
    pub chain: Chain,
}

/// Writes pieces.
pub struct PieceWriter {
    compressor: Compressor<'static>,
    body: Vec<u8>,
}

impl PieceWriter {
    /// A writer.
    ///
    /// # Errors
    /// `Kind::Internal` if there is no memory.
    pub fn new() -> Result<Self> {
        let compressor = Compressor::new(LEVEL).context(|| "beginning to compress")?;
        Ok(Self { compressor, body: Vec::new() })
    }

    /// Appends a piece with these entries.
    ///
    /// # Errors
    /// `Kind::Internal` if they are none or too large.
    pub fn put(&mut self, out: &mut Vec<u8>, entries: &[Logged]) -> Result<()> {
        let too_large = || Error::internal("a piece of the log is too large to be sent");
        let [first, ..] = entries else { return Err(Error::internal("a piece without entries")) };
        let chain = entries.last().map_or(CHAIN_START, |last| last.chain);
        self.body.clear();
        for Logged { entry, .. } in entries {
            let length = u32::try_from(entry.len()).map_err(|_| too_large())?;
            self.body.extend_from_slice(&length.to_be_bytes());
            self.body.extend_from_slice(entry);
        }
        self.send(out, (ENTRIES, entries.len(), first.serial), chain)
    }

    /// Appends a piece with what is left of entries, of which the first is `first`, and the last has `chain`.
    ///
    /// # Errors
    /// `Kind::Internal` if it is nothing, or too large.
    pub fn put_parts(
        &mut self,
        out: &mut Vec<u8>,
        (first, chain): (Serial, Chain),
        records: &[Received],
    ) -> Result<()> {
        if records.is_empty() {
            return Err(Error::internal("a piece without records"));
        }
        self.body.clear();
        parts::put(&mut self.body, records)?;
        self.send(out, (PARTS, records.len(), first), chain)
    }

    /// Appends the body with its head.
    fn send(
        &mut self,
        out: &mut Vec<u8>,
        (kind, count, first): (u8, usize, Serial),
        chain: Chain,
    ) -> Result<()> {
        if BODY_BYTES_MAX < self.body.len() {
            return Err(Error::internal("a piece of the log is too large to be sent"));
        }
        let packed = match self.body.len() {
            ..COMPRESS_BYTES_MIN => None,
            length => {
                let packed = self.compressor.compress(&self.body).context(|| "compressing")?;
                Some(packed).filter(|packed| packed.len() < length - length / 8)
            }
        };
        let sent = packed.as_deref().unwrap_or(&self.body);
        let head = Head {
            kind,
            coding: if packed.is_some() { ZSTD } else { PLAIN },
            count: count as u32,
            sent_bytes: sent.len() as u32,
            body_bytes: self.body.len() as u32,
            first: first.get(),
            chain,
        };
        out.extend_from_slice(&head.encode());
        out.extend_from_slice(sent);
        Ok(())
    }

    /// Appends the mark of the end; `due` is the serial that comes next.
    pub fn finish(out: &mut Vec<u8>, due: Serial) {
        let end = Head {
            kind: END,
            coding: PLAIN,
            count: 0,
            sent_bytes: 0,
            body_bytes: 0,
            first: due.get(),
            chain: CHAIN_START,
        };
        out.extend_from_slice(&end.encode());
    }
}

/// Reads pieces, and believes nothing of what they claim before it was checked.
pub struct PieceReader<R> {
    source: R,
    due: Serial,
    /// Of which kind the pieces are to be.
    kind: u8,
    is_over: bool,
}

impl<R: Read> PieceReader<R> {
    /// Reads from `source`, which is to begin with the serial `due`.
    pub fn new(source: R, due: Serial) -> Self {
        Self { source, due, kind: ENTRIES, is_over: false }
    }

    /// Reads what is left of entries for a replica of some indexes.
    pub fn of_parts(source: R, due: Serial) -> Self {
        Self { kind: PARTS, ..Self::new(source, due) }
    }

    /// The next piece; `None` after the mark of the end.
    ///
    /// # Errors
    /// `Kind::BadGateway` if the stream breaks, ends without its mark, or is not as it should be.
    pub fn next_piece(&mut self) -> Result<Option<Piece>> {
        if self.is_over {
            return Ok(None);
        }
        let head = self.head()?;
        if head.first != self.due.get() {
            return Err(bad(format!("serial {} came where {} was due", head.first, self.due)));
        }
        if head.kind == END {
            self.is_over = true;
            return self.nothing_follows().map(|()| None);
        }
        if head.kind != self.kind {
            return Err(bad("a piece of another kind came than was asked for".to_owned()));
        }
        let body = self.body(&head)?;
        let entries = match head.kind {
            PARTS => parts::take_apart(&body, head.count, self.due)?,
            _ => take_apart(&body, &head, self.due)?,
        };
        self.due = entries.last().map_or(self.due, |last| last.serial.next());
        Ok(Some(Piece { entries, chain: head.chain }))
    }

    fn head(&mut self) -> Result<Head> {
        let mut bytes = [0; HEAD_BYTES];
        self.source.read_exact(&mut bytes).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => bad("the stream ended before its end".to_owned()),
            _ => bad("the stream broke".to_owned()).caused_by(e),
        })?;
        Head::decode(&bytes)
    }

    fn body(&mut self, head: &Head) -> Result<Vec<u8>> {
        let mut sent = Vec::new();
        // It grows with what comes, not with what was claimed.
        let mut limited = (&mut self.source).take(u64::from(head.sent_bytes));
        limited
            .read_to_end(&mut sent)
            .map_err(|e| bad("the stream broke".to_owned()).caused_by(e))?;
        if sent.len() != head.sent_bytes as usize {
            return Err(bad("the stream ended inside a piece".to_owned()));
        }
        if head.coding == PLAIN {
            return Ok(sent);
        }
        let broken = |e| bad("a compressed piece is damaged".to_owned()).caused_by(e);
        let mut decoder = Decoder::with_buffer(sent.as_slice()).map_err(broken)?.single_frame();
        decoder.window_log_max(WINDOW_LOG_MAX).map_err(broken)?;
        let mut body = Vec::new();
        decoder.take(u64::from(head.body_bytes) + 1).read_to_end(&mut body).map_err(broken)?;
        if body.len() != head.body_bytes as usize {
            return Err(bad("a compressed piece is not as long as it says".to_owned()));
        }
        Ok(body)
    }

    fn nothing_follows(&mut self) -> Result<()> {
        match self.source.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(bad("the stream goes on after its end".to_owned())),
            Err(e) => Err(bad("the stream broke".to_owned()).caused_by(e)),
        }
    }
}

fn take_apart(body: &[u8], head: &Head, due: Serial) -> Result<Vec<Received>> {
    let wrong = || bad("the entries of a piece are not as long as it says".to_owned());
    let (mut rest, mut serial, mut entries) = (body, Some(due), Vec::new());
    for _ in 0..head.count {
        let (length, after) = rest.split_first_chunk::<LENGTH_BYTES>().ok_or_else(wrong)?;
        let length = u32::from_be_bytes(*length) as usize;
        let (entry, after) = after.split_at_checked(length).ok_or_else(wrong)?;
        let at = serial.ok_or_else(|| bad("a serial that is none".to_owned()))?;
        entries.push(Received { serial: at, entry: entry.to_vec(), elided: None });
        serial = Serial::new(at.get() + 1);
        rest = after;
    }
    if rest.is_empty() { Ok(entries) } else { Err(wrong()) }
}

/// What stands before a body.
struct Head {
    kind: u8,
    coding: u8,
    count: u32,
    sent_bytes: u32,
    body_bytes: u32,
    first: u64,
    chain: Chain,
}

impl Head {
    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        (out[0], out[1]) = (self.kind, self.coding);
        out[4..8].copy_from_slice(&self.count.to_be_bytes());
        out[8..12].copy_from_slice(&self.sent_bytes.to_be_bytes());
        out[12..16].copy_from_slice(&self.body_bytes.to_be_bytes());
        out[16..24].copy_from_slice(&self.first.to_be_bytes());
        out[24..SUM_AT].copy_from_slice(&self.chain);
        let sum = sum(&out);
        out[SUM_AT..].copy_from_slice(&sum);
        out
    }

    fn decode(bytes: &[u8; HEAD_BYTES]) -> Result<Self> {
        if bytes[SUM_AT..] != sum(bytes) {
            return Err(bad("the head of a piece is damaged".to_owned()));
        }
        let four = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let head = Self {
            kind: bytes[0],
            coding: bytes[1],
            count: four(4),
            sent_bytes: four(8),
            body_bytes: four(12),
            first: u64::from_be_bytes(bytes[16..24].try_into().expect("8 bytes")),
            chain: bytes[24..SUM_AT].try_into().expect("32 bytes"),
        };
        let is_coded = match (head.kind, head.coding) {
            (ENTRIES | PARTS, PLAIN) => head.sent_bytes == head.body_bytes,
            (ENTRIES | PARTS, ZSTD) => head.sent_bytes < head.body_bytes,
            (END, PLAIN) => head.count == 0 && head.sent_bytes == 0 && head.body_bytes == 0,
            _ => false,
        };
        let body_bytes = head.body_bytes as usize;
        let fits = (head.count as usize) <= body_bytes / LENGTH_BYTES
            && (head.kind == END || 0 < head.count)
            && body_bytes <= BODY_BYTES_MAX;
        if bytes[2..4] != [0, 0] || !is_coded || !fits {
            return Err(bad("the head of a piece makes no sense".to_owned()));
        }
        Ok(head)
    }
}

fn sum(head: &[u8; HEAD_BYTES]) -> [u8; HEAD_BYTES - SUM_AT] {
    let hash: [u8; 32] = Sha256::digest(&head[..SUM_AT]).into();
    *hash.first_chunk().expect("a hash is longer")
}

pub(super) fn bad(message: String) -> Error {
    Error::new(Kind::BadGateway, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::changelog;

    /// Three pieces, one of them compressed, and the end.
    fn stream() -> (Vec<u8>, Vec<Piece>) {
        let mut writer = PieceWriter::new().expect("a writer");
        let (mut out, mut pieces) = (Vec::new(), Vec::new());
        let (mut serial, mut chain) = (Serial::new(7).expect("small"), CHAIN_START);
        for (count, length) in [(1, 40), (20, 900), (2, 10)] {
            let logged: Vec<_> = (0..count)
                .map(|n| {
                    let entry = vec![n; length + usize::from(n)];
                    let at = serial;
                    serial = serial.next();
                    chain = changelog::link(&chain, at, &entry);
                    Logged { serial: at, entry, chain }
                })
                .collect();
            writer.put(&mut out, &logged).expect("written");
            let received = |l: Logged| Received { serial: l.serial, entry: l.entry, elided: None };
            let entries = logged.into_iter().map(received).collect();
            pieces.push(Piece { entries, chain });
        }
        PieceWriter::finish(&mut out, serial);
        (out, pieces)
    }

    fn read(bytes: &[u8]) -> (Vec<Piece>, Option<Error>) {
        let mut reader = PieceReader::new(bytes, Serial::new(7).expect("small"));
        let mut pieces = Vec::new();
        loop {
            match reader.next_piece() {
                Ok(Some(piece)) => pieces.push(piece),
                Ok(None) => return (pieces, None),
                Err(error) => return (pieces, Some(error)),
            }
        }
    }

    #[test]
    fn what_is_written_is_read_and_compressed_where_it_saves() {
        let (bytes, pieces) = stream();
        let (got, error) = read(&bytes);
        assert_eq!((got, error.map(|e| e.message)), (pieces, None));
        assert!(bytes.len() < 1000, "{} bytes", bytes.len());
    }

    #[test]
    fn a_stream_that_is_cut_anywhere_says_so_and_gives_whole_pieces() {
        let (bytes, pieces) = stream();
        for end in 0..bytes.len() {
            let (got, error) = read(&bytes[..end]);
            assert_eq!(error.map(|e| e.kind), Some(Kind::BadGateway), "{end}");
            assert_eq!(got, pieces[..got.len()], "{end}");
        }
    }

    #[test]
    fn a_changed_byte_is_refused_or_shows_in_the_chain() {
        let (bytes, pieces) = stream();
        for at in 0..bytes.len() {
            for bit in [0, 3, 7] {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                let (got, error) = read(&bytes);
                let mut chain = CHAIN_START;
                let is_good = |piece: &&Piece| {
                    let next = piece
                        .entries
                        .iter()
                        .fold(chain, |c, r| changelog::link(&c, r.serial, &r.entry));
                    chain = next;
                    next == piece.chain
                };
                let good = got.iter().take_while(is_good).count();
                assert_eq!(got[..good], pieces[..good], "{at}");
                // zstd has bits that mean nothing: then all is as it was.
                let is_same = got == pieces;
                assert!(is_same || error.is_some() || good < got.len(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn claims_cost_no_memory() {
        let head = |count, sent_bytes, body_bytes, coding| {
            let chain = CHAIN_START;
            Head { kind: ENTRIES, coding, count, sent_bytes, body_bytes, first: 7, chain }.encode()
        };
        for bytes in [
            head(1, u32::MAX, u32::MAX, PLAIN),
            head(1, BODY_BYTES_MAX as u32, BODY_BYTES_MAX as u32, PLAIN),
            head(u32::MAX, 8, 8, PLAIN),
            head(0, 8, 8, PLAIN),
            head(1, 9, 8, ZSTD),
            head(1, 8, 8, 2),
        ] {
            let (got, error) = read(&bytes);
            assert!(got.is_empty() && error.is_some());
        }
        // A body that would become much longer than it says.
        let packed = zstd::bulk::compress(&vec![0; 1 << 20], LEVEL).expect("compresses");
        let mut bytes = head(1, packed.len() as u32, 4096, ZSTD).to_vec();
        bytes.extend(packed);
        assert!(read(&bytes).1.expect("an error").message.contains("not as long"));
    }
}
