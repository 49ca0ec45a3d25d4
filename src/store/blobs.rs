//! File bytes: staged with their sums, put in place, opened, removed, and the orphans of crashes swept.
//!
//! A file's bytes are synced and under their final name before the row that names them commits. So a crash can leave
//! a file without a row, which is swept at the next start, and never a row without its file.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use tempfile::NamedTempFile;

use crate::digest::{Digest, Hasher, Sums};
use crate::error::{Context, Error, Kind, Result};
use crate::sync::{Mutex, lock};

use super::key::FilePath;
use super::partial::{self, Claim, Partials};

/// Bytes per read and write when a file is staged.
const CHUNK_BYTES: usize = 256 << 10;

/// The folder of all files below the server's folder; devpi's name for it, so that either program finds them.
const FILES: &str = "+files";

/// The folder of files that are not in place yet; in the same file system, so that a rename is enough.
const STAGING: &str = ".staging";

/// Where file bytes lie.
#[derive(Clone, Debug)]
pub struct Blobs {
    files: PathBuf,
    staging: PathBuf,
    pub(super) partials: Partials,
    /// Who wants to know that a file came.
    watchers: Arc<Mutex<Vec<Sender<()>>>>,
}

/// Bytes that are on disk and synced, under a temporary name; removed when dropped.
#[derive(Debug)]
pub struct Staged {
    file: NamedTempFile,
    /// What the bytes came to.
    pub sums: Sums,
    /// Whether it is a second name of a file that is in place.
    is_link: bool,
    /// Behind the file, which goes first.
    _claim: Option<Claim>,
}

impl Staged {
    /// Opens the bytes for reading, from the start.
    ///
    /// # Errors
    /// `Kind::Internal` if the system refuses.
    pub fn open(&self) -> Result<File> {
        let mut file = self.file.reopen()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }
}

/// A file being staged piece by piece.
pub struct Staging {
    pub(super) file: NamedTempFile,
    pub(super) hasher: Hasher,
    pub(super) written: u64,
    /// The right to a part of a file that outlasts a break; behind the file, which goes first.
    pub(super) claim: Option<Claim>,
}

impl Staging {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses them.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        let written = self.file.write_all(bytes);
        // What does not fit makes room.
        written.inspect_err(|_| self.forget()).context(|| "writing a file")
    }
    /// How many bytes there are.
    pub fn written(&self) -> u64 {
        self.written
    }
    /// Begins anew.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn restart(&mut self, hasher: Hasher) -> Result<()> {
        self.file.as_file().set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.hasher, self.written) = (hasher, 0);
        Ok(())
    }
    /// Has what is there removed with it, whether it could outlast a break or not.
    pub fn forget(&mut self) {
        self.file.disable_cleanup(false);
    }
    /// Opens what is there and what will come for reading, also after it was moved or removed.
    ///
    /// # Errors
    /// `Kind::Internal` if the system refuses.
    pub fn reopen(&self) -> Result<File> {
        self.file.reopen().context(|| "opening a file that is being staged")
    }
    /// Syncs and ends it.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn finish(self) -> Result<Staged> {
        self.seal().sync()
    }
    /// Ends it, to be synced later.
    pub fn seal(mut self) -> Sealed {
        self.forget();
        Sealed { file: self.file, sums: self.hasher.finish(), claim: self.claim }
    }
}

/// Bytes that are all written, and may not be on disk yet.
#[derive(Debug)]
pub struct Sealed {
    file: NamedTempFile,
    /// What they came to.
    pub sums: Sums,
    claim: Option<Claim>,
}

impl Sealed {
    /// Has them on disk.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn sync(self) -> Result<Staged> {
        self.file.as_file().sync_data().context(|| "syncing a file")?;
        Ok(Staged { file: self.file, sums: self.sums, is_link: false, _claim: self.claim })
    }
}

impl Blobs {
    /// Uses the folders below `dir`, making them when needed.
    ///
    /// # Errors
    /// `Kind::Internal` if they cannot be made.
    pub fn open(dir: &Path) -> Result<Self> {
        let partials = Partials::new(dir.join(partial::FOLDER));
        let (files, staging) = (dir.join(FILES), dir.join(STAGING));
        let blobs = Self { files, staging, partials, watchers: Arc::default() };
        for folder in [&blobs.files, &blobs.staging, &blobs.partials.folder] {
            fs::create_dir_all(folder).context(|| format!("making {}", folder.display()))?;
        }
        Ok(blobs)
    }

    /// Begins a file.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn begin(&self, hasher: Hasher) -> Result<Staging> {
        let file = NamedTempFile::new_in(&self.staging)?;
        Ok(Staging { file, hasher, written: 0, claim: None })
    }

    /// Copies `body` to disk, hashing on the way; memory use does not grow with it.
    ///
    /// # Errors
    /// `Kind::TooLarge` over `bytes_max`; `Kind::Invalid` if the body breaks off; `Kind::Internal` if the disk refuses.
    pub fn stage(&self, body: &mut dyn Read, hasher: Hasher, bytes_max: u64) -> Result<Staged> {
        self.fill(self.begin(hasher)?, body, bytes_max)
    }

    /// As `stage`, with what was begun elsewhere. What is too large is not kept, what breaks off may be.
    ///
    /// # Errors
    /// Those of `stage`.
    pub fn fill(
        &self,
        mut staging: Staging,
        body: &mut dyn Read,
        bytes_max: u64,
    ) -> Result<Staged> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let n = match body.read(&mut chunk) {
                Ok(0) => return staging.finish(),
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::FileTooLarge => {
                    return Err(Error::new(Kind::TooLarge, "the request is too large").caused_by(e));
                }
                Err(e) => return Err(Error::invalid("the body broke off").caused_by(e)),
            };
            if bytes_max < staging.written + n as u64 {
                staging.forget();
                return Err(Error::new(
                    Kind::TooLarge,
                    format!("the file is over {bytes_max} bytes"),
                ));
            }
            staging.write(&chunk[..n])?;
        }
    }

    /// Stages a file of another folder by a second name where the file system allows it, else by a copy. It must never
    /// change in place.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn link(&self, place: &Path, mut file: File, mut hasher: Hasher) -> Result<Staged> {
        let link = |name: &Path| fs::hard_link(place, name).and_then(|()| File::open(name));
        let Ok(linked) = tempfile::Builder::new().make_in(&self.staging, link) else {
            return self.stage(&mut file, hasher, u64::MAX);
        };
        hasher.take_all(&mut file)?;
        Ok(Staged { file: linked, sums: hasher.finish(), is_link: true, _claim: None })
    }

    fn place_of(&self, path: &FilePath) -> PathBuf {
        self.files.join(path.as_str())
    }

    /// Makes and syncs the folders for a file, so that `place` has little left to do under the writer's lock.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn prepare(&self, path: &FilePath) -> Result<()> {
        let place = self.place_of(path);
        let folder = place.parent().expect("a file's path has several parts");
        make_folders(folder).context(|| format!("making the folder of {path}"))
    }

    /// Puts a file in place and syncs its folder; one that lies there is replaced.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn place(&self, staged: Staged, path: &FilePath) -> Result<()> {
        let place = self.place_of(path);
        let folder = place.parent().expect("a file's path has several parts");
        make_folders(folder)?;
        let link = staged.is_link.then(|| staged.file.path().to_owned());
        let put = staged.file.persist(&place).map_err(|e| e.error);
        put.and_then(|_| sync_folder(folder)).context(|| format!("putting {path} in place"))?;
        self.tell();
        // Where both names are of one file already, renaming does nothing and leaves both.
        match link.map(fs::remove_file) {
            Some(Err(e)) if !is_absent(&e) => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// A channel that says "look again" after a file came; several files may share one word.
    pub fn watch(&self) -> Receiver<()> {
        let (tell, told) = bounded(1);
        lock(&self.watchers).push(tell);
        told
    }

    fn tell(&self) {
        lock(&self.watchers)
            .retain(|w| !matches!(w.try_send(()), Err(TrySendError::Disconnected(()))));
    }

    /// A file's bytes staged once more, to stand under another path too: by a second name where the file system allows
    /// it, else copied. Files never change in place, so they may share bytes. `None` if the file is not here.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses or the bytes are not those of the digest.
    pub fn share(&self, path: &FilePath, sha256: Option<Digest>) -> Result<Option<Staged>> {
        let Some((mut file, size_bytes)) = self.get(path)? else { return Ok(None) };
        let place = self.place_of(path);
        if let Some(sha256) = sha256 {
            let link = |name: &Path| fs::hard_link(&place, name).and_then(|()| File::open(name));
            if let Ok(file) = tempfile::Builder::new().make_in(&self.staging, link) {
                let sums = Sums::known(size_bytes, sha256);
                return Ok(Some(Staged { file, sums, is_link: true, _claim: None }));
            }
        }
        let staged = self.stage(&mut file, Hasher::new(), u64::MAX)?;
        if sha256.is_some_and(|sha256| sha256 != staged.sums.sha256) {
            return Err(Error::internal(format!("{path} is damaged: its digest is another one")));
        }
        Ok(Some(staged))
    }

    /// Gives a file a second name elsewhere; false if it is not here.
    ///
    /// # Errors
    /// `Kind::Internal` if the file system does not allow it.
    pub fn link_to(&self, path: &FilePath, elsewhere: &Path) -> Result<bool> {
        match fs::hard_link(self.place_of(path), elsewhere) {
            Ok(()) => Ok(true),
            Err(e) if is_absent(&e) => Ok(false),
            Err(e) => Err(e).context(|| format!("linking {path}")),
        }
    }

    /// A file elsewhere staged by a second name, with its sums; `None` where the file system does not allow that.
    ///
    /// # Errors
    /// `Kind::Internal` if it cannot be read.
    pub fn adopt(&self, elsewhere: &Path, mut hasher: Hasher) -> Result<Option<Staged>> {
        let link = |name: &Path| fs::hard_link(elsewhere, name).and_then(|()| File::open(name));
        let Ok(file) = tempfile::Builder::new().make_in(&self.staging, link) else {
            return Ok(None);
        };
        let (mut bytes, mut chunk) = (file.as_file(), vec![0; CHUNK_BYTES]);
        loop {
            match bytes.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => hasher.update(&chunk[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context(|| format!("reading {}", elsewhere.display())),
            }
        }
        Ok(Some(Staged { file, sums: hasher.finish(), is_link: true, _claim: None }))
    }

    /// Opens a file with its length in bytes; `None` if it is not here.
    ///
    /// # Errors
    /// `Kind::Internal` if it is here and cannot be read.
    pub fn get(&self, path: &FilePath) -> Result<Option<(File, u64)>> {
        match File::open(self.place_of(path)) {
            Ok(file) => {
                let about = file.metadata()?;
                Ok(about.is_file().then_some((file, about.len())))
            }
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(Error::internal(format!("cannot read {path}")).caused_by(e)),
        }
    }

    /// Puts a second name of a file at a place outside, or a copy where the file system allows no second name; false if
    /// the file is not here. What stands at the place is replaced.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn copy_to(&self, path: &FilePath, place: &Path) -> Result<bool> {
        let held = self.place_of(path);
        if !held.is_file() {
            return Ok(false);
        }
        let _ = fs::remove_file(place); // mostly nothing is there
        let folder = place.parent().unwrap_or(place);
        if fs::hard_link(&held, place).is_err() {
            fs::copy(&held, place).context(|| format!("copying {path}"))?;
            File::open(place)?.sync_all()?;
        }
        sync_folder(folder)?;
        Ok(true)
    }

    /// The length of a file in bytes; `None` if it is not here.
    pub fn size(&self, path: &FilePath) -> Option<u64> {
        fs::metadata(self.place_of(path)).ok().filter(fs::Metadata::is_file).map(|m| m.len())
    }

    /// Removes a file; one that is not here is no error. The folder stays: another upload may be about to use it.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk refuses.
    pub fn remove(&self, path: &FilePath) -> Result<()> {
        match fs::remove_file(self.place_of(path)) {
            Err(e) if !is_absent(&e) => {
                Err(Error::internal(format!("cannot remove {path}")).caused_by(e))
            }
            _ => Ok(()),
        }
    }

    /// Removes what a crash left: everything staged, and each file that `is_wanted` denies. Gives their number.
    ///
    /// # Errors
    /// `Kind::Internal` if a folder cannot be read; those that `is_wanted` gives.
    pub fn sweep(&self, mut is_wanted: impl FnMut(&FilePath) -> Result<bool>) -> Result<usize> {
        let mut swept = 0;
        for left in fs::read_dir(&self.staging)? {
            fs::remove_file(left?.path())?;
            swept += 1;
        }
        let mut folders = vec![self.files.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else if let Some(path) = self.path_of(&entry.path())
                    && !is_wanted(&path)?
                {
                    log::info!("sweeping {path}, which no entry names");
                    fs::remove_file(entry.path())?;
                    swept += 1;
                }
            }
        }
        Ok(swept)
    }

    fn path_of(&self, place: &Path) -> Option<FilePath> {
        FilePath::parse(place.strip_prefix(&self.files).ok()?.to_str()?)
    }
}

fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename)
}

/// Makes a folder and all above it, syncing each folder that got a new entry.
fn make_folders(folder: &Path) -> io::Result<()> {
    let mut missing = BTreeSet::new();
    let mut at = folder;
    while !at.is_dir() {
        missing.insert(at.to_owned());
        at = at.parent().ok_or_else(|| io::Error::from(ErrorKind::NotFound))?;
    }
    for folder in missing {
        match fs::create_dir(&folder) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
            _ => sync_folder(folder.parent().expect("a folder that was made has one above it"))?,
        }
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    OpenOptions::new().read(true).open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let dir = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::open(dir.path()).expect("opens");
        (dir, blobs)
    }

    #[test]
    fn a_staged_file_is_served_after_it_was_placed_and_only_then() {
        let (_dir, blobs) = blobs();
        let path = FilePath::parse("a/b/+f/123/4567890123456/x.whl").expect("valid");
        let staged = blobs.stage(&mut &b"abc"[..], Hasher::new(), 3).expect("fits");
        assert_eq!(staged.sums.size_bytes, 3);
        assert!(blobs.get(&path).expect("readable").is_none());
        blobs.place(staged, &path).expect("placed");
        let (mut file, length) = blobs.get(&path).expect("readable").expect("there");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("text");
        assert_eq!((text.as_str(), length), ("abc", 3));
        blobs.remove(&path).expect("removed");
        blobs.remove(&path).expect("twice is no error");
    }

    #[test]
    fn a_shared_file_stands_under_both_paths_until_both_are_removed() {
        let (dir, blobs) = blobs();
        let path = FilePath::parse("a/b/+f/123/4567890123456/x.whl").expect("valid");
        let other = FilePath::parse("a/c/+f/123/4567890123456/x.whl").expect("valid");
        assert!(blobs.share(&path, None).expect("absent").is_none());
        let staged = blobs.stage(&mut &b"abc"[..], Hasher::new(), 3).expect("fits");
        let sums = staged.sums.clone();
        blobs.place(staged, &path).expect("placed");
        // Twice: the second time, both names are of one file before it is put in place.
        for digest in [Some(sums.sha256), Some(sums.sha256), None] {
            let shared = blobs.share(&path, digest).expect("readable").expect("there");
            assert_eq!((shared.sums.size_bytes, shared.sums.sha256), (3, sums.sha256));
            blobs.place(shared, &other).expect("placed");
            assert_eq!(fs::read_dir(dir.path().join(STAGING)).expect("readable").count(), 0);
        }
        blobs.remove(&path).expect("removed");
        assert_eq!(blobs.size(&other), Some(3));
    }

    #[test]
    fn a_body_over_the_limit_leaves_nothing() {
        let (dir, blobs) = blobs();
        let error = blobs.stage(&mut &b"abcd"[..], Hasher::new(), 3).expect_err("too long");
        assert_eq!(error.kind, Kind::TooLarge);
        assert_eq!(fs::read_dir(dir.path().join(STAGING)).expect("readable").count(), 0);
    }

    #[test]
    fn the_sweep_takes_only_what_no_row_names() {
        let (dir, blobs) = blobs();
        let keep = FilePath::parse("a/b/+f/123/4567890123456/x.whl").expect("valid");
        let orphan = keep.sibling("y.whl").expect("valid");
        for path in [&keep, &orphan] {
            let staged = blobs.stage(&mut &b"abc"[..], Hasher::new(), 9).expect("fits");
            blobs.place(staged, path).expect("placed");
        }
        fs::write(dir.path().join(STAGING).join("left"), "x").expect("written");
        assert_eq!(blobs.sweep(|p| Ok(*p == keep)).expect("sweeps"), 2);
        assert!(blobs.size(&keep).is_some() && blobs.size(&orphan).is_none());
    }
}
