//! Objects out of a stream that gives no lengths, as the streaming changelog is.

use std::io::{ErrorKind, Read};

use super::walk::{INT, Operand, STOP, length, operand};
use crate::error::{Error, Kind, Result};

/// The most bytes of one object: an entry holds metadata only, and the largest known, the project list of a big
/// mirror, has some 20 MB.
pub const FRAME_BYTES_MAX: usize = 256 << 20;

/// How much is read at once.
const PIECE: usize = 64 << 10;

/// Cuts a stream into dumped objects. Each byte is looked at once, whatever the pieces it comes in.
pub struct FrameReader<R> {
    source: R,
    piece: Box<[u8]>,
    held: Vec<u8>,
    /// Where the next object begins in `held`.
    start: usize,
    /// Where its next opcode lies, which may be beyond what is held.
    next: usize,
    bytes_max: usize,
    is_cut: bool,
}

impl<R: Read> FrameReader<R> {
    /// Reads from `source`, objects of `FRAME_BYTES_MAX` at most.
    pub fn new(source: R) -> Self {
        Self::with_limit(source, FRAME_BYTES_MAX)
    }

    /// Reads from `source`, objects of `bytes_max` at most.
    pub fn with_limit(source: R, bytes_max: usize) -> Self {
        let piece = vec![0; PIECE].into_boxed_slice();
        Self { source, piece, held: Vec::new(), start: 0, next: 0, bytes_max, is_cut: false }
    }

    /// The bytes of the next object with its stop; `None` when the stream ends before one begins. Only opcodes are
    /// looked at, so what an object holds is still to be checked.
    ///
    /// # Errors
    /// `Kind::BadGateway` if the stream breaks, or ends inside an object (then `is_cut` is true); `Kind::Invalid`
    /// for an opcode or a length that cannot be; `Kind::TooLarge` if the object is over the limit.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.scan()? {
                let frame = self.held[self.start..end].to_vec();
                self.start = end;
                self.next = end;
                return Ok(Some(frame));
            }
            if self.fill()? == 0 {
                self.is_cut = self.held.len() > self.start;
                if self.is_cut {
                    return Err(Error::new(Kind::BadGateway, "the stream ended inside an object"));
                }
                return Ok(None);
            }
        }
    }

    /// The next serial with the bytes of its entry; `None` when the stream ends before a serial.
    ///
    /// # Errors
    /// As `next_frame`; an end between serial and entry is one inside an object.
    pub fn next_entry(&mut self) -> Result<Option<(i64, Vec<u8>)>> {
        let Some(serial) = self.next_frame()? else { return Ok(None) };
        let &[INT, a, b, c, d, STOP] = serial.as_slice() else {
            return Err(Error::invalid("the stream has no serial before an entry"));
        };
        let serial = i64::from(i32::from_be_bytes([a, b, c, d]));
        match self.next_frame()? {
            Some(entry) => Ok(Some((serial, entry))),
            None => {
                self.is_cut = true;
                Err(Error::new(
                    Kind::BadGateway,
                    format!("the stream ended before the entry of serial {serial}"),
                ))
            }
        }
    }

    /// Whether the stream ended inside an object.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Goes from opcode to opcode as far as bytes are there; gives the end of the object once it is known.
    fn scan(&mut self) -> Result<Option<usize>> {
        while let Some(&code) = self.held.get(self.next) {
            let size = match operand(code) {
                Some(Operand::Fixed(size)) => size,
                Some(Operand::Sized) => {
                    let Some(bytes) = self.held.get(self.next + 1..self.next + 5) else {
                        return Ok(None);
                    };
                    let bytes = bytes.try_into().expect("a range of 4 bytes");
                    4 + length(bytes)
                        .ok_or_else(|| Error::invalid("a negative length in the stream"))?
                }
                None => {
                    return Err(Error::invalid(format!("an unknown opcode {code} in the stream")));
                }
            };
            self.next += 1 + size;
            if self.next - self.start > self.bytes_max {
                let message = format!("an object in the stream is over {} bytes", self.bytes_max);
                return Err(Error::new(Kind::TooLarge, message));
            }
            if code == STOP {
                return Ok(Some(self.next));
            }
        }
        Ok(None)
    }

    /// Reads a piece; 0 at the end of the stream.
    fn fill(&mut self) -> Result<usize> {
        if self.start > 0 {
            self.held.drain(..self.start);
            self.next -= self.start;
            self.start = 0;
        }
        loop {
            match self.source.read(&mut self.piece) {
                Ok(size) => {
                    self.held.extend_from_slice(&self.piece[..size]);
                    return Ok(size);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::new(Kind::BadGateway, "the stream broke").caused_by(e)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"F\0\0\0\x07QN\0\0\0\x03QQQQJQ";

    #[test]
    fn frames_end_at_their_stop_only() {
        let mut reader = FrameReader::new(STREAM);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next_frame().expect("well formed") {
            frames.push(frame);
        }
        assert_eq!(frames, [&STREAM[..6], &STREAM[6..15], b"JQ"]);
        assert!(!reader.is_cut());
    }

    #[test]
    fn an_end_inside_an_object_is_told_from_a_clean_one() {
        for end in 0..STREAM.len() {
            let mut reader = FrameReader::new(&STREAM[..end]);
            let result =
                std::iter::from_fn(|| reader.next_frame().transpose()).find_map(Result::err);
            let is_boundary = [0, 6, 15].contains(&end);
            assert_eq!(result.map(|e| e.kind), (!is_boundary).then_some(Kind::BadGateway), "{end}");
            assert_eq!(reader.is_cut(), !is_boundary, "{end}");
        }
    }

    #[test]
    fn entries_come_with_their_serial() {
        let mut reader = FrameReader::new(STREAM);
        assert_eq!(reader.next_entry().expect("whole"), Some((7, STREAM[6..15].to_vec())));
        assert_eq!(reader.next_entry().expect_err("no serial").kind, Kind::Invalid);
        let mut reader = FrameReader::new(&STREAM[..6]);
        assert_eq!(reader.next_entry().expect_err("no entry").kind, Kind::BadGateway);
        assert!(reader.is_cut());
    }

    #[test]
    fn claims_are_refused_before_they_are_read() {
        let kind =
            |bytes: &[u8]| FrameReader::with_limit(bytes, 100).next_frame().expect_err("bad").kind;
        assert_eq!(kind(b"N\x7f\xff\xff\xff"), Kind::TooLarge);
        assert_eq!(kind(b"N\xff\xff\xff\xff"), Kind::Invalid);
        assert_eq!(kind(b"Z"), Kind::Invalid);
        assert_eq!(kind(&[b'L'; 101]), Kind::TooLarge);
    }
}
