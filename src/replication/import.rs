//! From a master's answer to the store: entries are collected and applied many at a time while more follow, and at
//! once at the end of the log.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::serial::Serial;
use crate::store::Writer;
use crate::store::changelog::{Chain, Position, Received};
use crate::store::codec::FrameReader;
use crate::store::key::FilePath;

use super::pieces::PieceReader;

/// A transaction holds at most so many bytes of entries, one entry or piece more at most.
const BATCH_BYTES: usize = 8 << 20;
/// A transaction holds at most so many entries, one piece more at most: the larger, the fewer syncs; the later they
/// are visible.
const BATCH_ENTRIES: usize = 4000;
/// Entries are held back for others at most so long, when they come slowly.
const BATCH_WAIT: Duration = Duration::from_millis(100);
/// The same while more than a whole transaction is still to come.
const BATCH_WAIT_BEHIND: Duration = Duration::from_secs(1);

/// The end of the master's log when it began to answer.
pub struct End {
    /// The last serial.
    pub serial: Option<Serial>,
    /// The same with the chain, from a master that tells it.
    pub position: Option<Position>,
}

/// Why an import ended before its end.
pub enum Broken {
    /// The answer broke off, or cannot be read.
    Source(Error),
    /// The entries cannot be applied.
    Entries(Error),
}

/// Where entries come from.
pub enum Source<R> {
    /// devpi's stream.
    Stream(FrameReader<R>),
    /// Our own, with chains.
    Pieces(PieceReader<R>),
}

impl<R: Read> Source<R> {
    /// A stream as devpi has it.
    pub fn stream(body: R) -> Self {
        Self::Stream(FrameReader::new(body))
    }

    /// Pieces that are to begin with the serial `due`.
    pub fn pieces(body: R, due: Serial) -> Self {
        Self::Pieces(PieceReader::new(body, due))
    }

    /// The same for a node that takes over some indexes.
    pub fn parts(body: R, due: Serial) -> Self {
        Self::Pieces(PieceReader::of_parts(body, due))
    }

    /// Adds what comes next to the batch; false at the end.
    fn fill(&mut self, batch: &mut Batch) -> Result<bool> {
        match self {
            Self::Stream(frames) => {
                let Some((number, entry)) = frames.next_entry()? else { return Ok(false) };
                let serial = Serial::from_wire(number).flatten().ok_or_else(|| odd(number))?;
                batch.push(Received { serial, entry, elided: None });
            }
            Self::Pieces(pieces) => {
                let Some(piece) = pieces.next_piece()? else { return Ok(false) };
                piece.entries.into_iter().for_each(|received| batch.push(received));
                batch.chain = Some(piece.chain);
            }
        }
        Ok(true)
    }
}

fn odd(number: i64) -> Error {
    Error::new(Kind::BadGateway, format!("the stream has the serial {number}"))
}

/// Entries that wait to be applied together.
struct Batch {
    entries: Vec<Received>,
    /// The chain after the last one, where it was told.
    chain: Option<Chain>,
    bytes: usize,
    since: Instant,
}

impl Batch {
    fn new() -> Self {
        Self { entries: Vec::new(), chain: None, bytes: 0, since: Instant::now() }
    }
    fn push(&mut self, received: Received) {
        if self.entries.is_empty() {
            self.since = Instant::now();
        }
        self.bytes += received.entry.len();
        self.entries.push(received);
    }
    fn last(&self) -> Option<Serial> {
        self.entries.last().map(|received| received.serial)
    }
    /// Whether it is to be applied now: it is full, or old, or nothing is known to follow it.
    fn is_due(&self, end: Option<Serial>) -> bool {
        let last = self.last();
        if end <= last || BATCH_ENTRIES <= self.entries.len() || BATCH_BYTES <= self.bytes {
            return true;
        }
        let to_come = Serial::wire(end) - Serial::wire(last);
        let is_far = to_come > BATCH_ENTRIES as i64;
        (if is_far { BATCH_WAIT_BEHIND } else { BATCH_WAIT }) <= self.since.elapsed()
    }
}

/// One answer on its way into the store.
pub struct Import<'a> {
    writer: &'a Writer,
    wants: &'a dyn Fn(&FilePath) -> bool,
    end: End,
    batch: Batch,
    /// How many entries were applied.
    pub applied: usize,
    /// How many batches were not what the master has.
    pub rejected: u64,
}

impl<'a> Import<'a> {
    /// Nothing yet.
    pub fn new(writer: &'a Writer, wants: &'a dyn Fn(&FilePath) -> bool, end: End) -> Self {
        Self { writer, wants, end, batch: Batch::new(), applied: 0, rejected: 0 }
    }

    /// Takes the next part of the answer, and applies what is due; false at the end, when all is applied.
    ///
    /// # Errors
    /// Why it ended. What was whole before is applied.
    pub fn take(&mut self, source: &mut Source<impl Read>) -> std::result::Result<bool, Broken> {
        let more = source.fill(&mut self.batch);
        if !matches!(more, Ok(true)) || self.batch.is_due(self.end.serial) {
            self.apply().map_err(Broken::Entries)?;
        }
        more.map_err(Broken::Source)
    }

    /// Applies a batch. If one entry of it cannot be, those before it are, and the error names it; but if the chain
    /// at its end is known, all of it is what the master has, or none is applied.
    fn apply(&mut self) -> Result<()> {
        let Batch { entries, chain, .. } = std::mem::replace(&mut self.batch, Batch::new());
        let Some(last) = entries.last().map(|last| last.serial) else { return Ok(()) };
        let at_end = self.end.position.filter(|at| at.serial == last).map(|at| at.chain);
        let expected = chain.or(at_end);
        match self.writer.apply_received(&entries, expected.as_ref(), self.wants) {
            Ok(()) => {}
            Err(error) if error.kind == Kind::BadGateway || expected.is_some() => {
                self.rejected += 1;
                return Err(error);
            }
            Err(_) if 1 < entries.len() => {
                for entry in entries.chunks(1) {
                    self.writer.apply_received(entry, None, self.wants)?;
                }
            }
            Err(error) => return Err(error),
        }
        self.applied += entries.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::replication::pieces::PieceWriter;
    use crate::store::changelog::{CHAIN_START, Logged, link};
    use crate::store::codec::{Value, encode, encode_entry};
    use crate::store::{self, Store};

    const LAST: u64 = 11;

    /// A log of users, some of them with long records.
    fn log() -> Vec<Logged> {
        let mut chain = CHAIN_START;
        let logged = |n: u64| {
            let serial = Serial::new(n).expect("small");
            let text = format!("{n}").repeat(if n % 4 == 3 { 3000 } else { 3 });
            let record = Value::Dict(vec![(Value::Str("title".into()), Value::Str(text))]);
            let path = format!("user{}/.config", n % 3);
            let entry = encode_entry([(path.as_str(), "USER", -1, Some(&encode(&record)[..]))]);
            chain = link(&chain, serial, &entry);
            Logged { serial, entry, chain }
        };
        (0..=LAST).map(logged).collect()
    }

    /// What a master sends from `due` on: pieces of three serials.
    fn answer(log: &[Logged], due: Serial) -> Vec<u8> {
        let (mut out, mut writer) = (Vec::new(), PieceWriter::new().expect("a writer"));
        for piece in log[due.get() as usize..].chunks(3) {
            writer.put(&mut out, piece).expect("written");
        }
        PieceWriter::finish(&mut out, Serial::new(LAST + 1).expect("small"));
        out
    }

    struct Node {
        _dir: tempfile::TempDir,
        store: Arc<Store>,
        writer: Writer,
    }

    impl Node {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            let (store, writer) = store::open(dir.path(), 1).expect("opens");
            Self { _dir: dir, store, writer }
        }
        fn due(&self) -> Serial {
            Serial::following(self.store.clock().now())
        }
        /// Takes an answer as the puller does.
        fn import(&self, bytes: &[u8]) -> (bool, u64) {
            let end = End { serial: Serial::new(LAST), position: None };
            let mut import = Import::new(&self.writer, &|_| true, end);
            let mut source = Source::pieces(bytes, self.due());
            let is_good = loop {
                match import.take(&mut source) {
                    Ok(true) => {}
                    result => break result.is_ok(),
                }
            };
            (is_good, import.rejected)
        }
        /// What is here is the beginning of the log, and the rest can follow.
        fn check(&self, log: &[Logged], what: &str) {
            let at = self.store.position().expect("reads");
            let expected = at.map(|at| log[at.serial.get() as usize].chain);
            assert_eq!(at.map(|at| at.chain), expected, "{what}");
            assert_eq!(self.import(&answer(log, self.due())), (true, 0), "{what}");
            let at = self.store.position().expect("reads").expect("not empty");
            assert_eq!(at.chain, log[LAST as usize].chain, "{what}");
        }
    }

    #[test]
    fn an_answer_that_is_cut_anywhere_leaves_whole_serials_and_is_resumed() {
        let log = log();
        let whole = answer(&log, Serial::FIRST);
        for end in (0..whole.len()).step_by(37) {
            let node = Node::new();
            assert_eq!(node.import(&whole[..end]), (false, 0), "{end}");
            node.check(&log, &format!("cut at {end}"));
        }
    }

    #[test]
    fn a_changed_byte_never_gets_into_the_log() {
        let log = log();
        let whole = answer(&log, Serial::FIRST);
        let mut rejected = 0;
        for at in (0..whole.len()).step_by(19) {
            let node = Node::new();
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            rejected += node.import(&bytes).1;
            node.check(&log, &format!("byte {at}"));
        }
        assert!(0 < rejected);
    }
}
