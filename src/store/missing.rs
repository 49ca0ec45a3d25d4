//! The files that the log names and that are not here, found by looking: the queue of wanted files knows only what is
//! to be fetched.

use crate::error::Result;

use super::Store;
use super::key::{FILE_KEYS, FilePath};
use super::record::{Dict, Record as _};
use super::rope;

/// Files that are named and not here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// How many there are.
    pub files: u64,
    /// What they come to in bytes, as far as their records tell.
    pub bytes: u64,
    /// The first of them.
    pub names: Vec<String>,
    /// How many there are besides that can be brought from an upstream again.
    pub mirrored: u64,
}

impl Store {
    /// Looks for each file that is named, and gives the first `names_max` of those that are not here. It takes a look at
    /// the disk for each file there is.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails or a record is damaged.
    pub fn missing_files(&self, names_max: usize) -> Result<Missing> {
        let connection = self.pool().get()?;
        let mut query = connection.prepare_cached(
            "SELECT key, is_manifest, value FROM kv WHERE keyname IN (?1, ?2) AND value IS NOT NULL ORDER BY key",
        )?;
        let mut rows = query.query(FILE_KEYS)?;
        let mut missing = Missing::default();
        while let Some(row) = rows.next()? {
            let path: String = row.get(0)?;
            let Some(path) = FilePath::parse(&path) else { continue };
            if self.blobs().size(&path).is_some() {
                continue;
            }
            let record = rope::load(&connection, row.get(2)?, row.get(1)?)?;
            let record = Dict::decode(&record.bytes)?;
            if record.text("url").is_some() {
                missing.mirrored += u64::from(record.get("last_modified").is_some());
                continue;
            }
            if record.get("last_modified").is_none() {
                continue;
            }
            missing.files += 1;
            missing.bytes += super::expected::Expected::of(&record).size_bytes.unwrap_or(0);
            if missing.names.len() < names_max {
                missing.names.push(path.to_string());
            }
        }
        Ok(missing)
    }
}
