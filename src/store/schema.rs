//! The database's tables, its settings, and its numbered migrations.

use std::time::Duration;

use rusqlite::Connection;

use crate::error::{Context, Error, Result};

/// How long a connection waits for another one's lock. The writer is alone, so only checkpoints are ever waited for.
const BUSY: Duration = Duration::from_secs(5);

/// Prepared statements kept per connection; there are some thirty in the program.
const STATEMENTS_CACHED: usize = 64;

/// Each step brings the database from the version that is its place in this list to the next one.
const MIGRATIONS: [&str; 6] = [FIRST, RECEIPTS, TIMELINES, TIMES, SIZES, ELIDED];

const FIRST: &str = "
    CREATE TABLE changelog (
        serial INTEGER PRIMARY KEY,
        chain BLOB NOT NULL,
        is_manifest INTEGER NOT NULL,
        data BLOB NOT NULL
    );
    CREATE TABLE segment (
        id INTEGER PRIMARY KEY,
        data BLOB NOT NULL
    );
    CREATE TABLE kv (
        key TEXT PRIMARY KEY,
        keyname TEXT NOT NULL,
        serial INTEGER NOT NULL,
        is_manifest INTEGER NOT NULL,
        value BLOB
    );
    CREATE TABLE wanted (
        path TEXT PRIMARY KEY,
        serial INTEGER NOT NULL,
        state TEXT NOT NULL DEFAULT 'wanted',
        tries INTEGER NOT NULL DEFAULT 0,
        next_try INTEGER NOT NULL DEFAULT 0,
        reason TEXT
    );
    CREATE INDEX wanted_next ON wanted (state, next_try, serial);
";

/// What became of requests that carried a key; rows are in the order in which they were written.
const RECEIPTS: &str = "
    CREATE TABLE receipt (
        id INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        request BLOB NOT NULL,
        written_at INTEGER NOT NULL,
        serial INTEGER NOT NULL,
        is_change INTEGER NOT NULL,
        status INTEGER,
        reason TEXT,
        content_type TEXT,
        body BLOB
    );
";

/// Who wrote which part of the log, and values of this node alone.
const TIMELINES: &str = "
    CREATE TABLE timeline (
        epoch INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        after INTEGER,
        chain BLOB NOT NULL
    );
    CREATE TABLE local (
        name TEXT PRIMARY KEY,
        value BLOB NOT NULL
    );
";

/// When entries were written, in milliseconds since 1970: committed by the node that wrote this, or applied by it. The
/// files that a replica lacks are asked for by serial.
const TIMES: &str = "
    ALTER TABLE changelog ADD COLUMN committed_at INTEGER;
    ALTER TABLE changelog ADD COLUMN applied_at INTEGER;
    CREATE INDEX wanted_serial ON wanted (serial) WHERE state != 'gone';
";

/// How large wanted files are, and the files that a master knows to have lost.
const SIZES: &str = "
    ALTER TABLE wanted ADD COLUMN size INTEGER;
    CREATE TABLE lost (
        path TEXT PRIMARY KEY,
        noted_at INTEGER NOT NULL
    );
";

/// Which rows of a filtered log are not all that the master has: how many serials each stands for, itself the last. A row
/// without a number is a whole entry.
const ELIDED: &str = "
    ALTER TABLE changelog ADD COLUMN elided INTEGER;
    CREATE INDEX changelog_elided ON changelog (serial) WHERE elided IS NOT NULL;
";

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The one connection that writes.
    Write,
    /// One of the pool.
    Read,
}

/// Sets a fresh connection up.
pub fn prepare(connection: &Connection, purpose: Purpose) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    connection.pragma_update(None, "temp_store", "memory")?;
    match purpose {
        Purpose::Write => {
            connection.pragma_update(None, "journal_mode", "wal")?;
            // FULL: the log is synced at each commit, so a serial that was answered for survives a power cut.
            connection.pragma_update(None, "synchronous", "full")?;
            connection.pragma_update(None, "cache_size", -16_384)?;
            // Four times the usual: the page of a large mirrored project alone is a thousand pages of the database.
            connection.pragma_update(None, "wal_autocheckpoint", 4000)?;
            connection.pragma_update(None, "journal_size_limit", 64 << 20)
        }
        Purpose::Read => {
            connection.pragma_update(None, "cache_size", -2_048)?;
            connection.pragma_update(None, "mmap_size", 256_i64 << 20)?;
            connection.pragma_update(None, "query_only", true)
        }
    }
}

/// Brings the tables to the newest version.
///
/// # Errors
/// `Kind::Internal` if the database comes from a newer program or a step fails; then nothing is changed.
pub fn migrate(connection: &mut Connection) -> Result<()> {
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let version = version as usize;
    if version > MIGRATIONS.len() {
        return Err(Error::internal(format!(
            "the database has version {version}; this program knows versions up to {}",
            MIGRATIONS.len()
        )));
    }
    for (step, sql) in MIGRATIONS.iter().enumerate().skip(version) {
        let txn = connection.transaction()?;
        txn.execute_batch(sql).context(|| format!("migration {} of the database", step + 1))?;
        txn.pragma_update(None, "user_version", (step + 1) as i64)?;
        txn.commit()?;
    }
    Ok(())
}

/// Refuses a database whose tables are not those of this version.
///
/// # Errors
/// `Kind::Invalid` if they are not.
pub fn require_newest(connection: &Connection) -> Result<()> {
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version as usize == MIGRATIONS.len() {
        return Ok(());
    }
    Err(Error::invalid("another version of this program wrote the folder: start a node there once"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_the_first_version_gets_what_came_later() {
        let mut connection = Connection::open_in_memory().expect("opens");
        connection.execute_batch(FIRST).expect("makes");
        connection.pragma_update(None, "user_version", 1).expect("writes");
        connection
            .execute("INSERT INTO changelog VALUES (0, x'00', 0, x'01')", [])
            .expect("writes");
        migrate(&mut connection).expect("migrates");
        migrate(&mut connection).expect("does nothing");
        let count = |table: &str| -> i64 {
            let sql = format!("SELECT count(*) FROM {table}");
            connection.query_row(&sql, [], |row| row.get(0)).expect("reads")
        };
        assert_eq!((count("changelog"), count("receipt")), (1, 0));
    }
}
