//! How a fresh replica begins with a snapshot of its master instead of the whole log: brought piece by piece, resumed
//! where it broke off, checked, and only then put in place (docs/decisions/0010-snapshots.md).

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::digest::{Hasher, hex};
use crate::error::{Context as _, Error, Kind, Result};
use crate::http::client::Timeouts;
use crate::store::snapshot;

use super::link::{self, CONNECT, Link};
use super::snapshot::{Manifest, PIECE_BYTES, unpack};
use super::wire;

/// The folder of what has come so far, in the server's folder.
pub const FOLDER: &str = ".bootstrap";
/// How long a master may take to make a snapshot before it answers.
const MAKING: Duration = Duration::from_secs(600);
/// The longest silence inside an answer.
const READ: Duration = Duration::from_secs(30);
/// How long a master that went silent is waited for before the log is taken instead.
const PATIENCE: Duration = Duration::from_secs(120);
/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is begun anew when the master has made another snapshot meanwhile.
const BEGINNINGS_MAX: usize = 3;
/// The longest manifest, in bytes; one of a database of 256 GiB has some 6 MiB.
const MANIFEST_BYTES_MAX: u64 = 8 << 20;
/// How often the log says how far it is.
const TELL: Duration = Duration::from_secs(5);

/// Why there is no snapshot.
enum Halt {
    /// The node is to end.
    Stopped,
    /// The master has another one by now.
    Remade,
    /// It cannot be had, or not be used.
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

type Attempt<T> = std::result::Result<T, Halt>;

/// A snapshot being brought.
pub struct Bootstrap<'a> {
    link: &'a Link,
    folder: PathBuf,
    /// Fewer entries than this are taken from the log.
    minimum: u64,
    /// Sleeps for a span, and says whether the node is to end.
    sleep: &'a dyn Fn(Duration) -> bool,
}

impl<'a> Bootstrap<'a> {
    /// One into the server's folder `dir`.
    pub fn new(
        link: &'a Link,
        dir: &Path,
        minimum: u64,
        sleep: &'a dyn Fn(Duration) -> bool,
    ) -> Self {
        Self { link, folder: dir.join(FOLDER), minimum, sleep }
    }

    /// Brings a snapshot and checks it. Gives the file that may become the database; `None` if the master offers none,
    /// or cannot be reached, or sent what cannot be used: then the log is to be taken, which is always right.
    ///
    /// # Errors
    /// `Kind::Internal` if the own disk fails.
    pub fn take(&self) -> Result<Option<PathBuf>> {
        for _ in 0..BEGINNINGS_MAX {
            match self.attempt() {
                Ok(taken) => return Ok(taken),
                Err(Halt::Stopped) => return Ok(None),
                Err(Halt::Remade) => {
                    log::info!("the master has a newer snapshot: begins with that")
                }
                Err(Halt::Failed(error)) if error.kind == Kind::Internal => return Err(error),
                Err(Halt::Failed(error)) => {
                    log::warn!("the whole log is taken, since there is no snapshot: {error}");
                    self.forget()?;
                    return Ok(None);
                }
            }
        }
        log::warn!(
            "the whole log is taken, since the master makes snapshots faster than they come"
        );
        Ok(None)
    }

    /// Removes what has come.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn forget(&self) -> Result<()> {
        forget(&self.folder)
    }

    /// Removes what is left in the server's folder `dir` of one that is not gone on with.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn sweep(dir: &Path) -> Result<()> {
        forget(&dir.join(FOLDER))
    }

    fn attempt(&self) -> Attempt<Option<PathBuf>> {
        let Some(manifest) = self.manifest()? else { return Ok(None) };
        let began = Instant::now();
        log::info!(
            "begins with a snapshot of the master at serial {}, {} bytes",
            manifest.end.serial,
            manifest.size_bytes
        );
        let file = self.bring(&manifest)?;
        self.check(&file, &manifest)?;
        log::info!(
            "the snapshot is here and in order after {:.1} s",
            began.elapsed().as_secs_f64()
        );
        Ok(Some(file))
    }

    /// What the master offers; `None` if that is nothing, or it does not answer.
    fn manifest(&self) -> Attempt<Option<Manifest>> {
        let target = format!("{}?minimum={}", wire::SNAPSHOT, self.minimum);
        let timeouts = Timeouts { connect: CONNECT, response_head: MAKING, per_read: READ };
        let answer = match self.link.get(&target, &[], timeouts) {
            Ok(answer) => answer,
            Err(error) => {
                log::info!("no snapshot: {error}");
                return Ok(None);
            }
        };
        if answer.status != 200 || !self.link.is_twin() {
            log::debug!("no snapshot: the master answered {}", answer.status);
            link::drain(answer);
            return Ok(None);
        }
        let mut text = Vec::new();
        let cut = |e| Error::new(Kind::BadGateway, "the manifest did not come whole").caused_by(e);
        answer.body.take(MANIFEST_BYTES_MAX).read_to_end(&mut text).map_err(cut)?;
        let manifest = serde_json::from_slice(&text).ok().and_then(|json| Manifest::of_json(&json));
        let unread = || Error::new(Kind::BadGateway, "the master's manifest of it cannot be read");
        Ok(Some(manifest.ok_or_else(unread)?))
    }

    /// Brings the pieces that are not here yet.
    fn bring(&self, manifest: &Manifest) -> Attempt<PathBuf> {
        let path = self.folder.join(&manifest.id);
        if !path.exists() {
            self.forget()?;
            fs::create_dir_all(&self.folder)?;
        }
        let mut file =
            OpenOptions::new().create(true).truncate(false).write(true).read(true).open(&path)?;
        let here = (file.metadata()?.len() / PIECE_BYTES as u64) as usize;
        // The last one is short, so it cannot be told whether it is whole.
        let mut number = here.min(manifest.pieces.len() - 1);
        if 0 < number {
            log::info!("goes on at piece {number} of {}", manifest.pieces.len());
        }
        file.set_len((number * PIECE_BYTES) as u64)?;
        file.seek(SeekFrom::End(0))?;
        let (mut heard_at, mut told_at) = (Instant::now(), Instant::now());
        while number < manifest.pieces.len() {
            let mut pause = Duration::ZERO;
            match self.piece(manifest, number) {
                Ok(bytes) => {
                    file.write_all(&bytes)?;
                    file.sync_data()?;
                    number += 1;
                    heard_at = Instant::now();
                }
                Err(Halt::Failed(error)) if heard_at.elapsed() < PATIENCE => {
                    log::info!("piece {number} of the snapshot did not come: {error}");
                    pause = PAUSE;
                }
                Err(halt) => return Err(halt),
            }
            if (self.sleep)(pause) {
                return Err(Halt::Stopped);
            }
            if TELL <= told_at.elapsed() {
                told_at = Instant::now();
                log::info!("{number} of {} pieces of the snapshot are here", manifest.pieces.len());
            }
        }
        Ok(path)
    }

    fn piece(&self, manifest: &Manifest, number: usize) -> Attempt<Vec<u8>> {
        let piece = &manifest.pieces[number];
        let target = format!("{}/{}/{number}", wire::SNAPSHOT, manifest.id);
        let timeouts = Timeouts { connect: CONNECT, response_head: READ, per_read: READ };
        let answer = self.link.get(&target, &[], timeouts)?;
        match answer.status {
            200 => (),
            404 => {
                link::drain(answer);
                return Err(Halt::Remade);
            }
            status => {
                let message = format!("the master answered {status}: {}", link::excerpt(answer));
                return Err(Halt::Failed(Error::new(Kind::BadGateway, message)));
            }
        }
        let mut packed = Vec::new();
        let cut = |e| Error::new(Kind::BadGateway, "the connection broke").caused_by(e);
        // One byte more than there should be shows that it is another piece.
        answer.body.take(piece.packed_bytes + 1).read_to_end(&mut packed).map_err(cut)?;
        let rest = manifest.size_bytes - (number * PIECE_BYTES) as u64;
        Ok(unpack(piece, &packed, rest.min(PIECE_BYTES as u64) as usize)?)
    }

    /// Checks what has come against its hash, by itself, and against the master's log.
    fn check(&self, path: &Path, manifest: &Manifest) -> Attempt<()> {
        let wrong = |why: &str| {
            Halt::Failed(Error::new(
                Kind::BadGateway,
                format!("the snapshot cannot be used: {why}"),
            ))
        };
        let mut hasher = Hasher::new();
        hasher.take_all(&mut File::open(path)?)?;
        if hasher.finish().sha256 != manifest.sha256 {
            return Err(wrong("it has not the hash that the master said"));
        }
        snapshot::check(path, &manifest.end).map_err(|e| wrong(&e.to_string()))?;
        let target = format!("{}{}", wire::POSITIONS, manifest.end.serial);
        let timeouts = Timeouts { connect: CONNECT, response_head: READ, per_read: READ };
        let answer = self.link.get(&target, &[], timeouts)?;
        let mut text = Vec::new();
        // A connection that breaks here is no failure of the own disk.
        let cut = |e| Error::new(Kind::BadGateway, "the connection broke").caused_by(e);
        answer.body.take(MANIFEST_BYTES_MAX).read_to_end(&mut text).map_err(cut)?;
        let told: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        match told["chain"].as_str() == Some(&hex(&manifest.end.chain)) {
            true => Ok(()),
            false => Err(wrong("the master's log has another chain there")),
        }
    }
}

/// Removes what has come of a snapshot into a server's folder.
///
/// # Errors
/// `Kind::Internal` if the disk refuses.
fn forget(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}
