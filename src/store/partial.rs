//! Files that came in part: kept under a name made of path and digests, so that what is here is not sent again after a
//! break or a restart. Only the whole counts: its digests are compared before it gets its place, as those of any file.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::{NamedTempFile, TempPath};

use crate::error::{Context as _, Result};
use crate::sync::{Mutex, lock};

use super::Store;
use super::blobs::{Blobs, Staging};
use super::expected::Expected;
use super::key::{File, FilePath};
use super::txn::Read as _;

/// The folder of what came in part, below the server's folder.
pub(super) const FOLDER: &str = ".partial";

/// A smaller file is sent anew.
const BYTES_MIN: u64 = 1 << 20;

/// So many are kept; files that break off beyond are begun anew.
const COUNT_MAX: usize = 64;

/// What nobody went on with for so long goes.
const AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The longest name that file systems take.
const NAME_BYTES_MAX: usize = 255;

/// Where files lie that came in part, and which of them somebody writes to.
#[derive(Clone, Debug)]
pub(super) struct Partials {
    pub(super) folder: PathBuf,
    claims: Arc<Mutex<BTreeSet<String>>>,
}

/// The right to write to one of them.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Arc<Mutex<BTreeSet<String>>>,
    name: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.claims).remove(&self.name);
    }
}

impl Partials {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, claims: Arc::default() }
    }

    /// Opens one for its next bytes; none if somebody writes to it, or there is none and no new one is to be made.
    fn claim(&self, name: String, is_new: bool) -> Result<Option<(NamedTempFile, Claim)>> {
        if !lock(&self.claims).insert(name.clone()) {
            return Ok(None);
        }
        let place = self.folder.join(&name);
        let claim = Claim { claims: self.claims.clone(), name };
        let mut how = OpenOptions::new();
        match how.read(true).write(true).create_new(is_new).open(&place) {
            Ok(file) => {
                let mut file = NamedTempFile::from_parts(file, TempPath::try_from_path(place)?);
                file.disable_cleanup(true);
                Ok(Some((file, claim)))
            }
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {
                Ok(None)
            }
            Err(e) => Err(e).context(|| format!("opening {}", place.display())),
        }
    }

    fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }
}

/// The name for a part of a file: its path in one piece, and which bytes it is to have. None if that is too long.
fn name_of(path: &FilePath, expected: &Expected) -> Option<String> {
    let path = path.as_str().replace('%', "%25").replace('/', "%2F");
    Some(format!("{path}.{}", expected.key())).filter(|name| name.len() <= NAME_BYTES_MAX)
}

/// Takes such a name apart.
fn named(name: &str) -> Option<(FilePath, &str)> {
    let (path, key) = name.rsplit_once('.')?;
    Some((FilePath::parse(&path.replace("%2F", "/").replace("%25", "%"))?, key))
}

impl Blobs {
    /// What is here of a file that is to have these digests, to go on with; none if there is nothing, or somebody else
    /// goes on with it.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk fails.
    pub fn resume(&self, path: &FilePath, expected: &Expected) -> Result<Option<Staging>> {
        let Some(name) = name_of(path, expected).filter(|_| expected.is_known()) else {
            return Ok(None);
        };
        let Some((mut file, claim)) = self.partials.claim(name, false)? else { return Ok(None) };
        // Of one that is all here the last byte is asked for again, so that there is one way to its place.
        let most = expected.size_bytes.map_or(u64::MAX, |size| size.saturating_sub(1));
        let written = file.as_file().metadata()?.len().min(most);
        file.as_file().set_len(written)?;
        let mut hasher = expected.hasher();
        hasher.take_all(file.as_file_mut())?;
        Ok(Some(Staging { file, hasher, written, claim: Some(claim) }))
    }

    /// Where the bytes of a file go from `at`: behind what was begun, or to a new place, which outlasts a break if the
    /// file is worth it.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk fails.
    pub fn go_on(
        &self,
        path: &FilePath,
        expected: &Expected,
        begun: Option<Staging>,
        (at, length): (u64, Option<u64>),
    ) -> Result<Staging> {
        if let Some(mut begun) = begun {
            if begun.written() != at {
                begun.restart(expected.hasher())?;
            }
            return Ok(begun);
        }
        let is_worth_it = expected.is_known() && length.is_some_and(|length| BYTES_MIN <= length);
        if let Some(name) = name_of(path, expected).filter(|_| is_worth_it)
            && self.partials.names()?.len() < COUNT_MAX
            && let Some((file, claim)) = self.partials.claim(name, true)?
        {
            let hasher = expected.hasher();
            return Ok(Staging { file, hasher, written: 0, claim: Some(claim) });
        }
        self.begin(expected.hasher())
    }

    /// Removes the parts of files that `is_wanted` denies, by path and key, and those that are old.
    fn sweep_parts(
        &self,
        names: Vec<String>,
        mut is_wanted: impl FnMut(&FilePath, &str) -> Result<bool>,
    ) -> Result<usize> {
        let mut swept = 0;
        for name in names {
            let place = self.partials.folder.join(&name);
            let written = fs::metadata(&place).and_then(|about| about.modified());
            let age = written.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
            let is_young = age.is_ok_and(|age| age < AGE_MAX);
            if is_young
                && let Some((path, key)) = named(&name)
                && is_wanted(&path, key)?
            {
                continue;
            }
            let claims = lock(&self.partials.claims);
            if !claims.contains(&name) && fs::remove_file(&place).is_ok() {
                swept += 1;
            }
        }
        Ok(swept)
    }
}

impl Store {
    /// Removes the parts of files that are here as a whole, or are due no more, or not with these bytes. Gives how many.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk or the database fails.
    pub fn sweep_partials(&self) -> Result<usize> {
        let names = self.blobs().partials.names()?;
        if names.is_empty() {
            return Ok(0);
        }
        let txn = self.read()?;
        self.blobs().sweep_parts(names, |path, key| {
            let record = txn.get(&File(path))?;
            let is_due = record.is_some_and(|record| Expected::of(&record).key() == key);
            Ok(is_due && self.blobs().size(path).is_none())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::digest::Digest;
    use crate::error::Kind;

    const LENGTH: usize = 3 << 20;

    struct Scene {
        dir: tempfile::TempDir,
        blobs: Blobs,
        path: FilePath,
        bytes: Vec<u8>,
        expected: Expected,
    }

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            let blobs = Blobs::open(dir.path()).expect("opens");
            let path = FilePath::parse("a/b/+f/123/4567890123456/x%1.whl").expect("valid");
            let bytes: Vec<u8> = (0..LENGTH).map(|n| ((n * 31) >> 7) as u8).collect();
            let expected = Expected::of_sha256(&Digest::of(&bytes).hex());
            Self { dir, blobs, path, bytes, expected }
        }
        /// Takes bytes up to `end`, where the source breaks off.
        fn take(&self, end: usize) -> Result<super::super::blobs::Staged> {
            let begun = self.blobs.resume(&self.path, &self.expected)?;
            let at = begun.as_ref().map_or(0, Staging::written);
            let length = Some(LENGTH as u64);
            let staging = self.blobs.go_on(&self.path, &self.expected, begun, (at, length))?;
            let bytes = &self.bytes[at as usize..end];
            let mut source = bytes.chain(Breaks(end == LENGTH));
            self.blobs.fill(staging, &mut source, u64::MAX)
        }
        fn parts(&self) -> Vec<String> {
            self.blobs.partials.names().expect("reads")
        }
        fn held(&self) -> Option<u64> {
            self.blobs.resume(&self.path, &self.expected).expect("reads").map(|s| s.written())
        }
    }

    struct Breaks(bool);

    impl Read for Breaks {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            if self.0 { Ok(0) } else { Err(ErrorKind::ConnectionReset.into()) }
        }
    }

    #[test]
    fn a_part_is_gone_on_with_and_becomes_the_file() {
        let scene = Scene::new();
        assert!(scene.take(1_000_000).is_err());
        assert_eq!(scene.held(), Some(1_000_000));
        // As after a restart.
        let scene = Scene { blobs: Blobs::open(scene.dir.path()).expect("opens"), ..scene };
        assert!(scene.take(2_000_000).is_err());
        let staged = scene.take(LENGTH).expect("whole");
        scene.expected.check(&staged.sums).expect("right");
        scene.blobs.place(staged, &scene.path).expect("placed");
        assert_eq!(scene.blobs.size(&scene.path), Some(LENGTH as u64));
        assert!(scene.parts().is_empty());
        assert!(lock(&scene.blobs.partials.claims).is_empty());
    }

    #[test]
    fn a_part_that_turns_out_wrong_is_not_kept() {
        let scene = Scene::new();
        assert!(scene.take(1_000_000).is_err());
        let part = scene.blobs.partials.folder.join(&scene.parts()[0]);
        let mut bytes = fs::read(&part).expect("reads");
        bytes[5] ^= 1;
        fs::write(&part, bytes).expect("writes");
        let staged = scene.take(LENGTH).expect("whole");
        assert_eq!(scene.expected.check(&staged.sums).expect_err("wrong").kind, Kind::BadGateway);
        drop(staged);
        assert!(scene.parts().is_empty());
    }

    #[test]
    fn two_never_write_to_one_part() {
        let scene = Scene::new();
        assert!(scene.take(1_000_000).is_err());
        let one = scene.blobs.resume(&scene.path, &scene.expected).expect("reads");
        assert!(one.is_some() && scene.held().is_none());
        let at = (0, Some(LENGTH as u64));
        let other = scene.blobs.go_on(&scene.path, &scene.expected, None, at).expect("begins");
        assert!(other.claim.is_none(), "it takes a place of its own");
        drop((one, other));
        assert_eq!(scene.held(), Some(1_000_000));
    }

    #[test]
    fn small_files_and_those_of_unknown_digest_are_begun_anew() {
        let scene = Scene::new();
        let begin = |expected: &Expected, length: u64| {
            scene.blobs.go_on(&scene.path, expected, None, (0, Some(length))).expect("begins")
        };
        assert!(begin(&scene.expected, BYTES_MIN - 1).claim.is_none());
        assert!(begin(&Expected::default(), BYTES_MIN).claim.is_none());
        assert!(begin(&scene.expected, BYTES_MIN).claim.is_some());
        let long = FilePath::parse(&format!("a/b/+f/1/2/{}", "x".repeat(250))).expect("valid");
        let at = (0, Some(BYTES_MIN));
        assert!(
            scene.blobs.go_on(&long, &scene.expected, None, at).expect("begins").claim.is_none()
        );
    }

    #[test]
    fn there_are_never_many() {
        let scene = Scene::new();
        for n in 0..2 * COUNT_MAX {
            let path = scene.path.sibling(&format!("{n}.whl")).expect("valid");
            let at = (0, Some(BYTES_MIN));
            drop(scene.blobs.go_on(&path, &scene.expected, None, at).expect("begins"));
        }
        assert_eq!(scene.parts().len(), COUNT_MAX);
    }

    #[test]
    fn what_is_due_no_more_is_swept() {
        let scene = Scene::new();
        assert!(scene.take(1_000_000).is_err());
        let names = || scene.parts();
        let mut asked = Vec::new();
        let kept = scene.blobs.sweep_parts(names(), |path, key| {
            asked.push((path.clone(), key.to_owned()));
            Ok(true)
        });
        assert_eq!(kept.expect("sweeps"), 0);
        assert_eq!(asked, [(scene.path.clone(), scene.expected.key())]);
        let claimed = scene.blobs.resume(&scene.path, &scene.expected).expect("reads");
        assert_eq!(scene.blobs.sweep_parts(names(), |_, _| Ok(false)).expect("sweeps"), 0);
        drop(claimed);
        fs::write(scene.blobs.partials.folder.join("odd"), "x").expect("writes");
        assert_eq!(scene.blobs.sweep_parts(names(), |_, _| Ok(false)).expect("sweeps"), 2);
        assert!(scene.take(1_000_000).is_err());
        let old = SystemTime::now() - AGE_MAX;
        let part =
            fs::File::options().write(true).open(scene.blobs.partials.folder.join(&names()[0]));
        part.and_then(|part| part.set_modified(old)).expect("sets");
        assert_eq!(scene.blobs.sweep_parts(names(), |_, _| Ok(true)).expect("sweeps"), 1);
    }
}
