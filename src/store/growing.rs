//! Files on their way in: one thread stages a file, any number of others read it while it comes.
//!
//! The last bytes are held back until the file is known to be right. So nobody ever gets a whole file with wrong bytes:
//! whoever follows it sees its reading fail instead, and nothing is stored.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait_timeout};

use super::blobs::{Sealed, Staging};
use super::key::FilePath;

/// How much of a file is kept from its readers until it is known to be right. An archive without its end is none.
const HOLD_BACK_BYTES: u64 = 64 << 10;
/// What is written at once at most: readers are woken for each piece.
const PIECE_BYTES: usize = 256 << 10;
/// A file up to this size is waited for as a whole, so that a failure still is a clean answer.
const SMALL_BYTES: u64 = 256 << 10;
/// The longest wait for more bytes; whoever writes gives up sooner.
const PATIENCE: Duration = Duration::from_secs(300);

/// What is said of a file before its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Its length in bytes, when known.
    pub length: Option<u64>,
    /// Header fields of the answer that it comes in.
    pub fields: Vec<(String, String)>,
}

impl About {
    /// The value of a header field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let is_it = |(held, _): &&(String, String)| held.eq_ignore_ascii_case(name);
        self.fields.iter().find(is_it).map(|(_, value)| value.as_str())
    }
}

/// A file on its way in.
#[derive(Default)]
pub struct Growing {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    about: About,
    /// The staging file; good for reading wherever it goes later.
    file: Option<Arc<File>>,
    written: u64,
    /// All of it is there, and it is what it should be.
    is_right: bool,
    end: Option<End>,
}

enum End {
    /// All of it is right, and in its place.
    Done,
    Failed(Kind, String),
}

impl Growing {
    /// Waits until it can be said how the file is to be answered with: a small one is there as a whole, of a large one
    /// the first bytes can be read.
    ///
    /// # Errors
    /// What the one who brings it failed with; `Kind::Timeout` at the deadline.
    pub fn outlook(&self, deadline: Deadline) -> Result<About> {
        let mut state = lock(&self.state);
        loop {
            if state.is_right {
                return Ok(About { length: Some(state.written), ..state.about.clone() });
            }
            match &state.end {
                Some(End::Failed(kind, message)) => {
                    return Err(Error::new(*kind, message.clone()));
                }
                Some(End::Done) => {
                    let length = Some(state.written);
                    return Ok(About { length, ..state.about.clone() });
                }
                None if state.is_large_enough() => return Ok(state.about.clone()),
                None if deadline.is_past() => {
                    return Err(Error::new(Kind::Timeout, "the file did not come in time"));
                }
                None => state = wait_timeout(&self.moved, state, deadline.remaining()),
            }
        }
    }

    /// Waits until it is in its place, as long as more of it comes.
    ///
    /// # Errors
    /// What the one who brings it failed with; `Kind::Timeout` if nothing happens for long.
    pub fn settled(&self) -> Result<()> {
        let mut state = lock(&self.state);
        let (mut seen, mut deadline) = (state.written, Deadline::after(PATIENCE));
        loop {
            if seen < state.written {
                (seen, deadline) = (state.written, Deadline::after(PATIENCE));
            }
            match &state.end {
                Some(End::Done) => return Ok(()),
                Some(End::Failed(kind, message)) => return Err(Error::new(*kind, message.clone())),
                None if deadline.is_past() => {
                    return Err(Error::new(Kind::Timeout, "no more of the file came"));
                }
                None => state = wait_timeout(&self.moved, state, deadline.remaining()),
            }
        }
    }

    /// Reads a part of it, or all if that is no end.
    pub fn reader(self: &Arc<Self>, offset: u64, length: Option<u64>) -> Follower {
        let end = length.map_or(u64::MAX, |length| offset.saturating_add(length));
        Follower { growing: self.clone(), at: offset, end }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.state));
        self.moved.notify_all();
    }
}

impl State {
    fn is_large_enough(&self) -> bool {
        let is_large = self.about.length.is_none_or(|length| SMALL_BYTES < length);
        let first = if self.about.length.is_none() { SMALL_BYTES } else { 0 };
        is_large && HOLD_BACK_BYTES + first < self.written
    }
    /// How many bytes may be read.
    fn readable(&self) -> u64 {
        match self.end {
            Some(End::Done) => self.written,
            _ if self.is_right => self.written,
            _ => self.written.saturating_sub(HOLD_BACK_BYTES),
        }
    }
}

/// Reads a file while it comes.
pub struct Follower {
    growing: Arc<Growing>,
    at: u64,
    end: u64,
}

impl Follower {
    /// The file and up to where it can be read, once that is more than was read; `None` at the end.
    fn wait(&self) -> io::Result<Option<(Arc<File>, u64)>> {
        let deadline = Deadline::after(PATIENCE);
        let mut state: MutexGuard<'_, State> = lock(&self.growing.state);
        loop {
            // What is right stays right, even if it then finds no place here.
            if let Some(End::Failed(_, message)) = &state.end
                && !state.is_right
            {
                return Err(io::Error::other(message.clone()));
            }
            let readable = state.readable().min(self.end);
            if self.at < readable
                && let Some(file) = &state.file
            {
                return Ok(Some((file.clone(), readable)));
            }
            if state.end.is_some() || state.is_right || self.end <= self.at {
                return Ok(None);
            }
            if deadline.is_past() {
                return Err(io::Error::new(ErrorKind::TimedOut, "no more of the file came"));
            }
            state = wait_timeout(&self.growing.moved, state, deadline.remaining());
        }
    }
}

impl Read for Follower {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let Some((file, readable)) = self.wait()? else { return Ok(0) };
        let room = usize::try_from(readable - self.at).unwrap_or(usize::MAX).min(buf.len());
        let n = file.read_at(&mut buf[..room], self.at)?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into()); // somebody cut the staging file
        }
        self.at += n as u64;
        Ok(n)
    }
}

/// All files on their way in, by path: each comes once for any number of those who want it.
#[derive(Clone, Default)]
pub struct Arrivals(Arc<Mutex<HashMap<FilePath, Arc<Growing>>>>);

impl Arrivals {
    /// The file that is on its way to `path`; if there is none, `start` is given the duty to bring it. `None` if it
    /// turns out to be there.
    pub fn join(
        &self,
        path: &FilePath,
        is_here: impl FnOnce() -> bool,
        start: impl FnOnce(Arrival),
    ) -> Option<Arc<Growing>> {
        let mut coming = lock(&self.0);
        if let Some(growing) = coming.get(path) {
            return Some(growing.clone());
        }
        // Whoever brought it took it off this list after it was in its place.
        if is_here() {
            return None;
        }
        let growing = Arc::new(Growing::default());
        coming.insert(path.clone(), growing.clone());
        drop(coming);
        let (arrivals, path) = (self.clone(), path.clone());
        start(Arrival { arrivals, path, growing: growing.clone(), staging: None });
        Some(growing)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        lock(&self.0).len()
    }
}

/// The duty to bring one file; dropped without an end, it has failed.
pub struct Arrival {
    arrivals: Arrivals,
    path: FilePath,
    growing: Arc<Growing>,
    staging: Option<Staging>,
}

impl Arrival {
    /// Takes all of a file's bytes, which stay with their readers from then on. Gives what they came to.
    ///
    /// # Errors
    /// `Kind::BadGateway` if the source fails or gives more than `bytes_max`; `Kind::Internal` if the disk refuses.
    pub fn take(
        &mut self,
        staging: Staging,
        about: About,
        source: &mut dyn Read,
        bytes_max: u64,
    ) -> Result<Sealed> {
        let file = Arc::new(staging.reopen()?);
        let mut written = staging.written();
        self.growing.change(|state| {
            (state.about, state.file, state.written) = (about, Some(file), written);
        });
        let staging = self.staging.insert(staging);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let more = match source.read(&mut piece) {
                Ok(0) => break,
                Ok(more) => more,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => {
                    return Err(Error::new(Kind::BadGateway, "the file broke off").caused_by(e));
                }
            };
            written += more as u64;
            if bytes_max < written {
                staging.forget();
                let message = format!("the file is over {bytes_max} bytes");
                return Err(Error::new(Kind::BadGateway, message));
            }
            staging.write(&piece[..more])?;
            self.growing.change(|state| state.written = written);
        }
        let staging = self.staging.take().expect("it was put there above");
        Ok(staging.seal())
    }

    /// Says that what was taken is what it should be, where readers may have the end of it before it is in its place. Who
    /// asks for it in between still joins this one.
    pub fn right(&self) {
        self.growing.change(|state| state.is_right = true);
    }

    /// Ends it: the bytes are right, and in their place if they may stay.
    pub fn done(self) {
        self.end(End::Done);
    }

    /// Ends it in failure: whoever reads sees that.
    pub fn fail(self, error: &Error) {
        self.end(End::Failed(error.kind, shown(error)));
    }

    fn end(&self, end: End) {
        // Off the list first: whoever saw the end and comes again finds the file in its place, or begins anew.
        lock(&self.arrivals.0).remove(&self.path);
        self.growing.change(|state| {
            state.end.get_or_insert(end);
        });
    }
}

/// What those who wait are told; the causes of what is internal stay in the log.
fn shown(error: &Error) -> String {
    match error.kind {
        Kind::Internal => error.message.clone(),
        _ => error.to_string(),
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let is_ended = lock(&self.growing.state).end.is_some();
        if !is_ended {
            let message = "nobody could be found to bring the file; try again";
            self.end(End::Failed(Kind::Unavailable, message.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use crossbeam_channel::{Receiver, bounded};

    use super::*;
    use crate::digest::Hasher;
    use crate::store::blobs::Blobs;

    const LENGTH: usize = 1 << 20;

    /// A source that gives one piece for each word it is sent, and fails on an empty one.
    struct Drip(Receiver<Vec<u8>>, Vec<u8>);

    impl Read for Drip {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.1.is_empty() {
                match self.0.recv() {
                    Err(_) => return Ok(0),
                    Ok(piece) if piece.is_empty() => return Err(ErrorKind::ConnectionReset.into()),
                    Ok(piece) => self.1 = piece,
                }
            }
            let n = buf.len().min(self.1.len());
            buf[..n].copy_from_slice(&self.1[..n]);
            self.1.drain(..n);
            Ok(n)
        }
    }

    struct Scene {
        _dir: tempfile::TempDir,
        blobs: Blobs,
        arrivals: Arrivals,
        path: FilePath,
    }

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            let blobs = Blobs::open(dir.path()).expect("opens");
            let path = FilePath::parse("a/b/+f/123/4567890123456/x.whl").expect("valid");
            Self { _dir: dir, blobs, arrivals: Arrivals::default(), path }
        }
        fn join(&self, start: impl FnOnce(Arrival)) -> Option<Arc<Growing>> {
            let is_here = || self.blobs.size(&self.path).is_some();
            self.arrivals.join(&self.path, is_here, start)
        }
        fn staging(&self) -> Staging {
            self.blobs.begin(Hasher::new()).expect("begins")
        }
    }

    fn about(length: Option<usize>) -> About {
        About { length: length.map(|n| n as u64), fields: Vec::new() }
    }

    fn bytes() -> Vec<u8> {
        (0..LENGTH).map(|n| ((n * 31) >> 7) as u8).collect()
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(5))
    }

    #[test]
    fn many_follow_one_and_the_end_is_kept_from_them_until_it_is_right() {
        let scene = Scene::new();
        let (send, drip) = bounded(1);
        let (go, gone) = bounded::<()>(0);
        let (put, may_put) = bounded::<()>(0);
        thread::scope(|scope| {
            let mut duty = None;
            let growing = scene.join(|arrival| duty = Some(arrival)).expect("comes");
            let mut arrival = duty.expect("begun");
            let writer = scope.spawn(|| {
                let staging = scene.staging();
                let (mut source, about) = (Drip(drip, Vec::new()), about(Some(LENGTH)));
                let sealed = arrival.take(staging, about, &mut source, u64::MAX).expect("comes");
                gone.recv().expect("told");
                arrival.right();
                // Readers have all of it before it is in its place.
                may_put.recv().expect("told");
                let staged = sealed.sync().expect("on disk");
                scene.blobs.place(staged, &scene.path).expect("placed");
                arrival.done();
            });
            let all = bytes();
            send.send(all[..LENGTH / 2].to_vec()).expect("taken");
            assert_eq!(growing.outlook(soon()).expect("large").length, Some(LENGTH as u64));
            let joined = scene.join(|_| unreachable!("it is on its way")).expect("the same");
            let mut early = vec![0; LENGTH / 4];
            joined.reader(10, None).read_exact(&mut early).expect("is there");
            assert!(early == all[10..10 + LENGTH / 4]);
            let mut part = Vec::new();
            joined.reader(5, Some(7)).read_to_end(&mut part).expect("is there");
            assert_eq!(part, all[5..12]);
            send.send(all[LENGTH / 2..].to_vec()).expect("taken");
            drop(send);
            let (told, reached) = bounded(99);
            let readers: Vec<_> = (0..4)
                .map(|n| {
                    let (told, mut reader) = (told.clone(), growing.reader(n, None));
                    scope.spawn(move || {
                        let most = LENGTH - HOLD_BACK_BYTES as usize - n as usize;
                        let mut got = vec![0; most];
                        reader.read_exact(&mut got).expect("is there");
                        told.send(()).expect("heard");
                        let rest = reader.read_to_end(&mut got).expect("comes");
                        assert_eq!(rest, HOLD_BACK_BYTES as usize);
                        got
                    })
                })
                .collect();
            (0..4).for_each(|_| reached.recv().expect("reached"));
            go.send(()).expect("heard");
            for (n, reader) in readers.into_iter().enumerate() {
                assert!(reader.join().expect("no panic") == all[n..]);
            }
            put.send(()).expect("heard");
            writer.join().expect("no panic");
        });
        assert!(scene.join(|_| unreachable!("it is here")).is_none());
        assert_eq!(scene.arrivals.count(), 0);
    }

    #[test]
    fn a_small_file_is_waited_for_and_a_failure_is_known_before_its_first_byte() {
        let scene = Scene::new();
        for fails in [true, false] {
            let growing = scene.join(|mut arrival| {
                let mut source = &b"abc"[..];
                let staged = arrival.take(scene.staging(), about(Some(3)), &mut source, 9);
                let staged = staged.expect("fits");
                assert_eq!(staged.sums.size_bytes, 3);
                match fails {
                    true => arrival.fail(&Error::new(Kind::BadGateway, "wrong digest")),
                    false => arrival.done(),
                }
            });
            let growing = growing.expect("came");
            let outlook = growing.outlook(soon());
            let mut got = Vec::new();
            let read = growing.reader(0, None).read_to_end(&mut got);
            if fails {
                assert_eq!(outlook.expect_err("failed").message, "wrong digest");
                assert!(read.is_err() && got.is_empty());
            } else {
                assert_eq!(outlook.expect("done"), about(Some(3)));
                assert_eq!(got, b"abc", "also when it is in no place");
            }
        }
    }

    #[test]
    fn a_file_that_breaks_off_cuts_its_readers() {
        let scene = Scene::new();
        let (send, drip) = bounded(2);
        send.send(bytes()).expect("taken");
        send.send(Vec::new()).expect("taken");
        let growing = scene.join(|mut arrival| {
            let mut source = Drip(drip, Vec::new());
            let taken = arrival.take(scene.staging(), about(None), &mut source, u64::MAX);
            arrival.fail(&taken.expect_err("broke off"));
        });
        let mut got = Vec::new();
        let end = growing.expect("came").reader(0, None).read_to_end(&mut got);
        assert!(end.is_err());
        let again = scene.join(drop).expect("begins anew");
        assert_eq!(again.outlook(soon()).expect_err("dropped").kind, Kind::Unavailable);
    }

    #[test]
    fn more_than_was_allowed_is_refused_and_waits_end() {
        let scene = Scene::new();
        let growing = Growing::default();
        let late = growing.outlook(Deadline::after(Duration::ZERO)).expect_err("nothing comes");
        assert_eq!(late.kind, Kind::Timeout);
        scene.join(|mut arrival| {
            let taken = arrival.take(scene.staging(), about(None), &mut &b"abcd"[..], 3);
            assert_eq!(taken.expect_err("too long").kind, Kind::BadGateway);
        });
    }
}
