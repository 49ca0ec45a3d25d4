//! Where a replica finds bytes besides its master: a folder with files of another server, and what an upstream still
//! has of a mirror. Whatever comes is checked against the record like the master's own.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use serde_json::{Value as Json, json};

use crate::error::Result;
use crate::http::resume::Ask;
use crate::store::blobs::{Blobs, Staged};
use crate::store::expected::Expected;
use crate::store::key::FilePath;
use crate::store::record::Dict;
use crate::sync::{Mutex, lock};

use super::link::Link;

/// Which files are brought here, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FilesWanted {
    /// All, ahead of need.
    #[default]
    All,
    /// Those that a client asks for; they stay.
    OnDemand,
    /// None stays: what a client asks for is passed through.
    None,
}

impl FilesWanted {
    /// As the option and the status write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::OnDemand => "on-demand",
            Self::None => "none",
        }
    }
    /// Reads what `as_str` wrote.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::All, Self::OnDemand, Self::None].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// `--replica-file-search-path`: a folder that may have files already.
#[derive(Clone, Debug)]
pub struct SearchPath {
    /// A server's folder, its `+files`, or an export.
    pub folder: PathBuf,
    /// `--hard-links`: files found there get a second name here instead of a copy.
    pub links: bool,
}

/// Asks for a mirror's file at its upstream, if it has one.
pub type Elsewhere = Box<dyn Fn(&FilePath, &Dict) -> Option<Ask> + Send + Sync>;

/// The sources besides the master, and which ones gave wrong bytes.
#[derive(Default)]
pub struct Sources {
    search: Option<SearchPath>,
    /// Other replicas.
    pub siblings: Vec<Arc<Link>>,
    elsewhere: OnceLock<Elsewhere>,
    suspects: Mutex<BTreeMap<&'static str, u64>>,
}

/// The master, as `Sources::suspect` names it.
pub const MASTER: &str = "master";
/// The folder of `--replica-file-search-path`.
pub const SEARCH_PATH: &str = "search-path";
/// Another replica.
pub const SIBLING: &str = "replica";
/// The upstream of a mirror.
pub const UPSTREAM: &str = "upstream";

impl Sources {
    /// With a folder, if one was given.
    pub fn new(search: Option<SearchPath>) -> Self {
        Self { search, ..Self::default() }
    }

    /// Says how upstreams are asked; once, when all parts of the node are there.
    pub fn set_elsewhere(&self, elsewhere: Elsewhere) {
        drop(self.elsewhere.set(elsewhere));
    }

    /// How a file's upstream is asked, if it has one.
    pub fn elsewhere(&self, path: &FilePath, record: &Dict) -> Option<Ask> {
        self.elsewhere.get().and_then(|elsewhere| elsewhere(path, record))
    }

    /// Notes that a source gave bytes that are not those of the record.
    pub fn suspect(&self, source: &'static str) {
        *lock(&self.suspects).entry(source).or_default() += 1;
    }

    /// How often each source gave wrong bytes since the start.
    pub fn suspects_json(&self) -> Json {
        json!(*lock(&self.suspects))
    }

    /// The file from the folder that was given, staged; none if it is not there, or is another one. A file whose
    /// digest is not known is never taken.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk fails here.
    pub fn search(
        &self,
        blobs: &Blobs,
        path: &FilePath,
        record: &Dict,
        expected: &Expected,
    ) -> Result<Option<Staged>> {
        let Some(search) = self.search.as_ref().filter(|_| expected.is_known()) else {
            return Ok(None);
        };
        for place in search.places(path, record) {
            let Ok(mut file) = File::open(&place) else { continue };
            if !file.metadata().is_ok_and(|about| about.is_file()) {
                continue;
            }
            let bytes_max = expected.size_bytes.unwrap_or(u64::MAX);
            let staged = match search.links {
                true => blobs.link(&place, file, expected.hasher()),
                false => blobs.stage(&mut file, expected.hasher(), bytes_max),
            };
            let checked = staged.and_then(|staged| expected.check(&staged.sums).map(|()| staged));
            match checked {
                Ok(staged) => return Ok(Some(staged)),
                Err(error) => {
                    log::warn!("{} is not {path}: {error}", place.display());
                    self.suspect(SEARCH_PATH);
                }
            }
        }
        Ok(None)
    }
}

impl SearchPath {
    /// Where a file may lie: as in a server's folder, and as in an export (spec/replication-wire.md 5.2).
    fn places(&self, path: &FilePath, record: &Dict) -> Vec<PathBuf> {
        let files = self.folder.join("+files");
        let base = if files.is_dir() { files } else { self.folder.clone() };
        let mut places = vec![base.join(path.as_str())];
        let is_plain = |part: &&str| !part.is_empty() && !part.contains('/') && *part != "..";
        let (project, version) = (record.text("project"), record.text("version"));
        if let (Some(project), Some(version)) = (project.filter(is_plain), version.filter(is_plain))
        {
            let export = self.folder.join(path.index()).join(project).join(version);
            places.push(export.join(path.name()));
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::digest::Digest;

    #[test]
    fn files_are_found_in_both_layouts_and_only_with_the_right_bytes() {
        let dir = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::open(&dir.path().join("own")).expect("opens");
        let hex = Digest::of(b"abc").hex();
        let path = FilePath::parse("ann/dev/+f/123/4567890123456/x-1.whl").expect("valid");
        let mut record = Dict::new();
        record.set("hash_spec", format!("sha256={hex}"));
        record.set("project", "x");
        record.set("version", "1");
        let expected = Expected::of(&record);
        for (place, links) in [
            ("a/+files/ann/dev/+f/123/4567890123456/x-1.whl", false),
            ("b/ann/dev/+f/123/4567890123456/x-1.whl", true),
            ("c/ann/dev/x/1/x-1.whl", false),
        ] {
            let file = dir.path().join(place);
            fs::create_dir_all(file.parent().expect("a folder")).expect("makes it");
            fs::write(&file, "abx").expect("writes");
            let folder = dir.path().join(&place[..1]);
            let sources = Sources::new(Some(SearchPath { folder, links }));
            let find = || sources.search(&blobs, &path, &record, &expected).expect("reads");
            assert!(find().is_none(), "{place}");
            assert_eq!(sources.suspects_json(), json!({"search-path": 1}));
            fs::write(&file, "abc").expect("writes");
            assert_eq!(find().expect("is there").sums.sha256.hex(), hex);
            assert!(
                sources.search(&blobs, &path, &record, &Expected::default()).expect("x").is_none()
            );
        }
    }
}
