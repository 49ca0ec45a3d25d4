//! The files that the log names and that are not here, found by looking: the queue of wanted files knows only what is
//! to be fetched.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use rusqlite::params;

use crate::error::Result;
use crate::sync::lock;

use super::key::{FILE_KEYS, FilePath};
use super::record::{Dict, Record as _};
use super::wanted::unix_ms;
use super::{Store, Writer, lost, rope};

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

impl Writer {
    /// What was wanted of the master is lost now that this node is the master itself: its replicas are asked for it.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn lose_wanted(&self) -> Result<()> {
        self.move_rows(
            "INSERT OR IGNORE INTO lost (path, noted_at) SELECT path, ?1 FROM wanted WHERE state != 'gone'",
            "DELETE FROM wanted",
        )
    }

    /// What was lost is wanted of the master now that there is one.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn want_lost(&self) -> Result<()> {
        self.move_rows(
            "INSERT OR IGNORE INTO wanted (path, serial)
             SELECT lost.path, kv.serial FROM lost JOIN kv ON kv.key = lost.path WHERE kv.value IS NOT NULL AND 0 < ?1",
            "DELETE FROM lost",
        )
    }

    fn move_rows(&self, copy: &str, delete: &str) -> Result<()> {
        let mut connection = lock(&self.connection);
        let sql = connection.transaction()?;
        sql.execute(copy, params![unix_ms(SystemTime::now())])?;
        sql.execute(delete, [])?;
        let count = lost::count(&sql)?;
        sql.commit()?;
        self.store.lost.store(count, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::digest::Digest;
    use crate::names::IndexName;
    use crate::store::key::File;
    use crate::store::open;

    fn count(sql: &Connection, table: &str) -> i64 {
        let query = format!("SELECT count(*) FROM {table}");
        sql.query_row(&query, [], |row| row.get(0)).expect("counts")
    }

    #[test]
    fn what_a_replica_wants_is_lost_to_a_master_and_the_other_way_round() {
        let (dir, other) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
        let (master, master_writer) = open(dir.path(), 1).expect("opens");
        let (store, writer) = open(other.path(), 1).expect("opens");
        let index = IndexName::new("ann", "dev").expect("valid");
        let path = FilePath::of_digest(&index, &Digest::of(b"x").hex(), "x.whl").expect("valid");
        let mut record = Dict::new();
        record.set("last_modified", "then");
        let set = |txn: &mut crate::store::txn::WriteTxn<'_>| {
            txn.set(&File(&path), &record);
            Ok(())
        };
        let serial = master_writer.write(set).expect("commits").1.expect("a serial");
        let entries = master.entries(serial, serial, usize::MAX).expect("reads");
        writer.apply(&entries, None, &|_| true).expect("applies");
        let missing = store.missing_files(9).expect("looks");
        assert_eq!((missing.files, missing.names), (1, vec![path.to_string()]));
        let counts =
            || writer.local(|sql| Ok((count(sql, "wanted"), count(sql, "lost")))).expect("reads");
        assert_eq!(counts(), (1, 0));
        writer.lose_wanted().expect("moves");
        assert_eq!((counts(), store.lost_count()), ((0, 1), 1));
        writer.want_lost().expect("moves");
        assert_eq!((counts(), store.lost_count()), ((1, 0), 0));
    }
}
