//! The files whose bytes a master has lost: named by their records, and not on its disk. Its replicas are asked for
//! them.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use rusqlite::{Connection, params};

use crate::error::Result;

use super::key::FilePath;
use super::wanted::unix_ms;
use super::{Store, Writer};

/// How many lost files are remembered; whoever looks again finds the rest again.
const LOST_MAX: u64 = 10_000;

pub(super) fn count(connection: &Connection) -> Result<u64> {
    let count: i64 = connection.query_row("SELECT count(*) FROM lost", [], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

pub(super) fn forget(connection: &Connection, path: &FilePath) -> Result<usize> {
    let mut forget = connection.prepare_cached("DELETE FROM lost WHERE path = ?1")?;
    Ok(forget.execute([path.as_str()])?)
}

impl Store {
    /// How many files are known to be lost; costs no look into the database.
    pub fn lost_count(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The files that are lost, those noted first at the front.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn lost(&self, limit: usize) -> Result<Vec<FilePath>> {
        let connection = self.pool().get()?;
        let mut query =
            connection.prepare_cached("SELECT path FROM lost ORDER BY noted_at, path LIMIT ?1")?;
        let rows = query.query_map([limit as i64], |row| row.get::<_, String>(0))?;
        let paths = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(paths.iter().filter_map(|path| FilePath::parse(path)).collect())
    }
}

impl Writer {
    /// Notes that a file's bytes should be here and are not. Gives whether that is news.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn note_lost(&self, path: &FilePath) -> Result<bool> {
        if LOST_MAX <= self.store().lost_count() {
            return Ok(false);
        }
        self.local(|sql| {
            let mut note =
                sql.prepare_cached("INSERT OR IGNORE INTO lost (path, noted_at) VALUES (?1, ?2)")?;
            let is_news = 0 < note.execute(params![path.as_str(), unix_ms(SystemTime::now())])?;
            self.store().lost.store(count(sql)?, Ordering::Relaxed);
            Ok(is_news)
        })
    }

    /// Takes a file off the list: it is here again, or its record is gone.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn forget_lost(&self, path: &FilePath) -> Result<()> {
        self.local(|sql| {
            if 0 < forget(sql, path)? {
                self.store().lost.store(count(sql)?, Ordering::Relaxed);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_files_are_listed_until_they_are_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, writer) = crate::store::open(dir.path(), 1).expect("opens");
        let path = FilePath::parse("a/b/+f/123/4567890123456/x.whl").expect("valid");
        let other = path.sibling("y.whl").expect("valid");
        for is_news in [true, false] {
            assert_eq!(writer.note_lost(&path).expect("writes"), is_news);
        }
        writer.note_lost(&other).expect("writes");
        assert_eq!((store.lost_count(), store.lost(9).expect("reads").len()), (2, 2));
        writer.forget_lost(&path).expect("writes");
        writer.forget_lost(&path).expect("twice is no error");
        drop((store, writer));
        let (store, _writer) = crate::store::open(dir.path(), 1).expect("opens again");
        assert_eq!((store.lost_count(), store.lost(9).expect("reads")), (1, vec![other]));
    }
}
