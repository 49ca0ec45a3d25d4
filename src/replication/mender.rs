//! Giving a master back what it has lost: a replica sends it files by hash, when the master's answers say that some
//! are missing there.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::error::{Error, Kind, Result};
use crate::http::client::{ClientBody, Timeouts};
use crate::store::expected::Expected;
use crate::store::key::{self, FilePath};
use crate::store::txn::Read as _;

use super::files::Files;
use super::link::{self, CONNECT};
use super::wire;

/// How many lost files are told at once.
pub const LIST_MAX: usize = 1000;
/// The longest list in bytes.
const LIST_BYTES_MAX: u64 = 1 << 20;
/// How long the master may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// After this time a file is offered again that the master did not take.
const AGAIN: Duration = Duration::from_secs(300);

/// Wakes the mender.
#[derive(Clone)]
pub struct Word(Sender<()>);

impl Word {
    /// Says that the master misses files.
    pub fn give(&self) {
        let _ = self.0.try_send(()); // full: it was told already
    }
}

/// Sends files to the master.
pub struct Mender {
    files: Arc<Files>,
    words: Receiver<()>,
    /// What was offered, and when.
    offered: BTreeMap<FilePath, Instant>,
}

impl Mender {
    /// One that waits for words; `Word` must outlive it in the puller alone, whose end is the end of both.
    pub fn new(files: Arc<Files>) -> (Self, Word) {
        let (give, words) = bounded(1);
        (Self { files, words, offered: BTreeMap::new() }, Word(give))
    }

    /// Works until nobody can give the word any more.
    pub fn run(mut self) {
        while self.words.recv().is_ok() {
            if let Err(error) = self.mend() {
                log::warn!("the master misses files and cannot be given any: {error}");
            }
        }
    }

    fn mend(&mut self) -> Result<()> {
        self.offered.retain(|_, at| at.elapsed() < AGAIN);
        for path in self.lost()? {
            if self.offered.contains_key(&path) || LIST_MAX <= self.offered.len() {
                continue;
            }
            self.offered.insert(path.clone(), Instant::now());
            match self.offer(&path) {
                Ok(true) => log::info!("{path} was given back to the master"),
                Ok(false) => {}
                Err(error) => log::warn!("{path} cannot be given back to the master: {error}"),
            }
        }
        Ok(())
    }

    /// What the master misses.
    fn lost(&self) -> Result<Vec<FilePath>> {
        let answer = self.files.link.get(wire::LOST_FILES, &[], timeouts())?;
        if answer.status != 200 {
            return Err(bad(answer.status, &link::excerpt(answer)));
        }
        let mut body = Vec::new();
        answer.body.take(LIST_BYTES_MAX).read_to_end(&mut body)?;
        let paths: Vec<String> = serde_json::from_slice(&body).map_err(|e| {
            Error::new(Kind::BadGateway, "the master's list is no JSON").caused_by(e)
        })?;
        Ok(paths.iter().take(LIST_MAX).filter_map(|path| FilePath::parse(path)).collect())
    }

    /// Sends a file if it is here and right; false if it is not.
    fn offer(&self, path: &FilePath) -> Result<bool> {
        let store = self.files.store();
        let Some(record) = store.read()?.get(&key::File(path))? else { return Ok(false) };
        let expected = Expected::of(&record);
        let Some((mut file, length)) = store.blobs().get(path)? else { return Ok(false) };
        let mut hasher = expected.hasher();
        hasher.take_all(&mut file)?;
        if let Err(error) = expected.check(&hasher.finish()) {
            log::error!("{path} is damaged here too: {error}");
            store.blobs().remove(path)?;
            self.files.writer().requeue(path)?;
            return Ok(false);
        }
        let Some((file, _)) = store.blobs().get(path)? else { return Ok(false) };
        let body = ClientBody::Reader { reader: Box::new(file), length: Some(length) };
        let target = format!("{}{}", wire::GIVE_BACK, wire::quote_path(path.as_str()));
        let answer = self.files.link.put(&target, body, timeouts())?;
        match answer.status {
            200 => {
                link::drain(answer);
                Ok(true)
            }
            status => Err(bad(status, &link::excerpt(answer))),
        }
    }
}

fn timeouts() -> Timeouts {
    Timeouts { connect: CONNECT, response_head: PATIENCE, per_read: PATIENCE }
}

fn bad(status: u16, text: &str) -> Error {
    Error::new(Kind::BadGateway, format!("the master answered {status}: {text}"))
}
