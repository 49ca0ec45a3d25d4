//! Files in the background: one thread takes them from the durable queue, newest first, and hands them to workers.
//!
//! A file that cannot be fetched is a fact about that file: it is tried again later, and others go on. Only when the
//! master itself is away do all wait, and no file is blamed.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded, select};

use crate::error::Result;
use crate::stop::{Stop, spawn};
use crate::store::key::FilePath;
use crate::store::wanted::Wanted;
use crate::sync::{Mutex, lock};

use super::files::{Files, Outcome};

/// The pauses before a file is tried again: the first and the factor between two as in devpi; the longest is of
/// minutes, since whoever mended the cause wants to see the file come.
const RETRY: (Duration, Duration, f64) = (Duration::from_secs(11), Duration::from_secs(300), 1.5);
/// How long a mirror's file that nobody has is left alone.
const UNAVAILABLE: Duration = Duration::from_secs(3600);
/// The first pause when the master is away, and the longest.
const AWAY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// So many files at which the master went away are passed over before they get another turn.
const SUSPECTS_MAX: usize = 100;
/// The longest sleep of the queue; it is woken by commits, by results, and by the puller.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// When the queue was empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// First, after the log was up to date for the first time.
    pub first_at: Option<SystemTime>,
    /// Last.
    pub last_at: Option<SystemTime>,
}

/// The threads that fetch.
pub struct Fetcher {
    threads: Mutex<Vec<JoinHandle<()>>>,
    times: Arc<Mutex<Times>>,
}

impl Fetcher {
    /// Starts `count` workers and the thread that feeds them.
    ///
    /// # Errors
    /// `Kind::Internal` if the system gives no thread.
    pub fn start(files: &Arc<Files>, count: usize, stop: &Stop) -> Result<Self> {
        let times = Arc::new(Mutex::new(Times::default()));
        let mut threads = Vec::new();
        let (jobs, taken) = bounded(2 * count);
        let (done, results) = bounded(2 * count);
        for n in 0..count {
            let (files, taken, done) = (files.clone(), taken.clone(), done.clone());
            threads.push(spawn(format!("fetch-{n}"), move || work(&files, &taken, &done))?);
        }
        if 0 < count {
            let queue = Queue {
                files: files.clone(),
                jobs,
                limit: 2 * count,
                busy: BTreeSet::new(),
                away: None,
                suspects: BTreeSet::new(),
                times: times.clone(),
                stop: stop.clone(),
            };
            threads.push(spawn("fetch-queue", move || queue.run(&results))?);
        }
        Ok(Self { threads: Mutex::new(threads), times })
    }

    /// When the queue was empty.
    pub fn times(&self) -> Times {
        *lock(&self.times)
    }

    /// Waits for the threads to end, after the stop was set and the link shut down.
    pub fn join(&self) {
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            if thread.join().is_err() {
                log::error!("a thread that fetches files panicked");
            }
        }
    }
}

type Done = (Wanted, Outcome);

fn work(files: &Arc<Files>, jobs: &Receiver<Wanted>, done: &Sender<Done>) {
    for wanted in jobs {
        let outcome = match catch_unwind(AssertUnwindSafe(|| files.fetch(&wanted))) {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::Failed(error.to_string()),
            Err(_) => Outcome::Failed("a defect of this program; its log tells more".to_owned()),
        };
        if done.send((wanted, outcome)).is_err() {
            return;
        }
    }
}

/// Feeds the workers.
struct Queue {
    files: Arc<Files>,
    jobs: Sender<Wanted>,
    limit: usize,
    /// What the workers have.
    busy: BTreeSet<FilePath>,
    /// While the master is away: when to try again, and the pause that led to it.
    away: Option<(Instant, Duration)>,
    /// Files at which the master went away: others come first, in case one of them is the reason.
    suspects: BTreeSet<FilePath>,
    times: Arc<Mutex<Times>>,
    stop: Stop,
}

impl Queue {
    fn run(mut self, results: &Receiver<Done>) {
        let commits = self.files.store().clock().watch();
        let pokes = self.files.link.pokes();
        if let Err(error) = self.files.review() {
            log::error!("the records cannot be gone through for files that miss: {error}");
        }
        while !self.stop.is_set() {
            let sleep = self.feed().unwrap_or_else(|error| {
                log::error!("the queue of files cannot be read: {error}");
                Duration::from_secs(5)
            });
            select! {
                recv(results) -> result => if let Ok(done) = result { self.settle(done) },
                recv(commits) -> word => if word.is_err() { return },
                recv(pokes) -> _ => self.away = None, // the puller was answered
                default(sleep) => (),
            }
            while let Ok(done) = results.try_recv() {
                self.settle(done);
            }
        }
    }

    /// Hands out what is due; gives how long nothing more is.
    fn feed(&mut self) -> Result<Duration> {
        let mut limit = self.limit;
        if let Some((until, _)) = self.away {
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return Ok(left);
            }
            limit = 1; // one file tries whether the master is back
        }
        let room = limit.saturating_sub(self.busy.len());
        if room == 0 {
            return Ok(SLEEP_MAX);
        }
        let mut due = self.files.store().wanted(room, &(&self.busy | &self.suspects))?;
        if due.is_empty() && !self.suspects.is_empty() {
            self.suspects.clear();
            due = self.files.store().wanted(room, &self.busy)?;
        }
        self.note_time(due.is_empty());
        let is_more = due.len() == room;
        for wanted in due {
            self.busy.insert(wanted.path.clone());
            if self.jobs.send(wanted).is_err() {
                return Ok(SLEEP_MAX);
            }
        }
        if is_more {
            return Ok(SLEEP_MAX); // a result comes first
        }
        // What is due and busy counts as due at once; its result wakes, so this is no hurry.
        let next = self.files.store().next_try_in()?.unwrap_or(SLEEP_MAX);
        Ok(next.clamp(Duration::from_secs(1), SLEEP_MAX))
    }

    fn note_time(&self, is_nothing_due: bool) {
        if !is_nothing_due || !self.busy.is_empty() || self.files.link.known().in_sync_at.is_none()
        {
            return;
        }
        let mut times = lock(&self.times);
        let now = SystemTime::now();
        times.first_at.get_or_insert(now);
        if let Err(error) = self.files.store().sweep_partials() {
            log::warn!("parts of files cannot be swept: {error}");
        }
        // Files that wait for another try are not in sync.
        if self.files.store().wanted_counts().is_ok_and(|counts| counts.wanted + counts.failed == 0)
        {
            times.last_at = Some(now);
        }
    }

    /// Notes how an attempt ended.
    fn settle(&mut self, (wanted, outcome): Done) {
        let path = &wanted.path;
        self.busy.remove(path);
        if self.stop.is_set() {
            return; // whatever failed now failed because of the stop
        }
        if !matches!(outcome, Outcome::Away(_)) {
            self.away = None;
        }
        let writer = self.files.writer();
        let noted = match outcome {
            Outcome::Done => {
                self.files.link.files_moved();
                Ok(())
            }
            Outcome::Gone(reason) => {
                log::info!("{path} is not fetched: {reason}");
                writer.fetch_gone(path, &reason)
            }
            Outcome::Unavailable(reason) => {
                log::info!("{path} is to be had nowhere at present: {reason}");
                writer.fetch_unavailable(path, &reason, UNAVAILABLE)
            }
            Outcome::Failed(reason) => {
                let pause = retry_pause(wanted.tries);
                log::warn!(
                    "{path} could not be fetched, next try in {} s: {reason}",
                    pause.as_secs()
                );
                writer.fetch_failed(path, &reason, pause)
            }
            Outcome::Away(reason) => {
                log::debug!("{path} waits for the master: {reason}");
                self.wait_for_master(path);
                Ok(())
            }
        };
        if let Err(error) = noted {
            log::error!("what became of {path} cannot be noted: {error}");
        }
    }

    fn wait_for_master(&mut self, path: &FilePath) {
        let now = Instant::now();
        // Several attempts may fail together; only the first of them makes the pause longer.
        if self.away.is_none_or(|(until, _)| until <= now) {
            let pause = self.away.map_or(AWAY.0, |(_, last)| (last * 2).min(AWAY.1));
            self.away = Some((now + pause, pause));
        }
        if SUSPECTS_MAX <= self.suspects.len() {
            self.suspects.clear();
        }
        self.suspects.insert(path.clone());
    }
}

/// The pause after so many tries before this one.
fn retry_pause(tries: u32) -> Duration {
    let factor = RETRY.2.powi(i32::try_from(tries.min(100)).unwrap_or(100));
    RETRY.0.mul_f64(factor).min(RETRY.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_by_half_up_to_five_minutes() {
        let pauses: Vec<_> =
            [0, 1, 2, 8, 9, 4_000_000_000].map(retry_pause).map(|p| p.as_secs_f64()).into();
        assert_eq!(pauses[..3], [11.0, 16.5, 24.75]);
        assert!(200.0 < pauses[3] && pauses[3] < 300.0);
        assert_eq!(pauses[4..], [300.0, 300.0]);
    }
}
