//! The index in its own file: what it was made from stands in the log, so it may be lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use crate::error::{Context as _, Result};
use crate::serial::Serial;
use crate::store::changelog::Chain;

/// The file in the server's folder.
pub const FILE: &str = "search.sqlite";
/// Changes when the tables or what stands in them does; an index of another version is made anew.
const VERSION: i64 = 3;
/// Connections that search.
const READERS: u32 = 6;
/// How long a search waits for one.
const WAIT: Duration = Duration::from_secs(2);
/// How long a connection waits for another's lock.
const BUSY: Duration = Duration::from_secs(5);

/// The columns of text, in order, with what a match in each counts.
pub const WEIGHTS: [(&str, f64); 7] = [
    ("name", 20.0),
    ("parts", 6.0),
    ("title", 5.0),
    ("summary", 4.0),
    ("keywords", 4.0),
    ("author", 2.0),
    ("body", 1.0),
];
/// The columns that words are looked for in; `parts` has the ends of names' words and is asked by itself.
pub const COLUMNS: &str = "name title summary keywords author body";
/// Those of them that are short.
pub const SHORT_COLUMNS: &str = "name title summary keywords author";

const TABLES: &str = "
    CREATE TABLE state (name TEXT PRIMARY KEY, value BLOB);
    CREATE TABLE place (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    CREATE TABLE project (
        id INTEGER PRIMARY KEY,
        place INTEGER NOT NULL,
        name TEXT NOT NULL,
        version TEXT NOT NULL,
        summary TEXT NOT NULL,
        docs TEXT,
        docs_version TEXT,
        is_waiting INTEGER NOT NULL DEFAULT 0,
        UNIQUE (name, place)
    );
    CREATE INDEX project_place ON project (place);
    CREATE INDEX project_waiting ON project (id) WHERE is_waiting;
    CREATE TABLE page (id INTEGER PRIMARY KEY, path TEXT NOT NULL, title TEXT NOT NULL, body BLOB NOT NULL);
    CREATE VIRTUAL TABLE text USING fts5(
        name, parts, title, summary, keywords, author, body, marks,
        content='', contentless_delete=1, prefix='3'
    );
    INSERT INTO text (text, rank) VALUES ('hashsize', 16777216);
";

/// Where an index stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    /// All up to this serial is in it.
    pub serial: Serial,
    /// The chain there, which tells this history from others.
    pub chain: Chain,
}

/// Opens the file for writing. One that is damaged, or of another version, is made anew.
///
/// # Errors
/// `Kind::Internal` if the folder cannot be written to.
pub fn open(dir: &Path) -> Result<Connection> {
    let file = dir.join(FILE);
    match try_open(&file) {
        Ok(Some(connection)) => return Ok(connection),
        Ok(None) => log::info!("the search index is of another version and is made anew"),
        Err(error) => log::warn!("the search index cannot be used and is made anew: {error:?}"),
    }
    remove(dir)?;
    let connection = prepare(&file)?;
    create(&connection)?;
    Ok(connection)
}

/// Removes the files.
///
/// # Errors
/// `Kind::Internal` if the disk refuses.
pub fn remove(dir: &Path) -> Result<()> {
    for end in ["", "-wal", "-shm"] {
        let file = PathBuf::from(format!("{}{end}", dir.join(FILE).display()));
        match fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).context(|| format!("removing {}", file.display()));
            }
            _ => (),
        }
    }
    Ok(())
}

fn try_open(file: &Path) -> Result<Option<Connection>> {
    let connection = prepare(file)?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
    match (version, tables) {
        (VERSION, _) => {
            connection.query_row("SELECT count(*) FROM state", [], |row| row.get::<_, i64>(0))?;
            Ok(Some(connection))
        }
        (0, 0) => create(&connection).map(|()| Some(connection)),
        _ => Ok(None),
    }
}

fn prepare(file: &Path) -> Result<Connection> {
    let connection = Connection::open(file).context(|| format!("opening {}", file.display()))?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // What a crash of the machine takes is made again from the log.
    connection.pragma_update(None, "synchronous", "off")?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "cache_size", -16_384)?;
    connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
    Ok(connection)
}

fn create(connection: &Connection) -> Result<()> {
    connection
        .execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"))?;
    Ok(())
}

/// Connections that search.
///
/// # Errors
/// `Kind::Internal` if the file cannot be opened.
pub fn readers(dir: &Path) -> Result<r2d2::Pool<SqliteConnectionManager>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let manager = SqliteConnectionManager::file(dir.join(FILE)).with_flags(flags).with_init(|c| {
        c.busy_timeout(BUSY)?;
        c.pragma_update(None, "cache_size", -8_192)?;
        c.pragma_update(None, "mmap_size", 256_i64 << 20)
    });
    Ok(r2d2::Pool::builder()
        .max_size(READERS)
        .min_idle(Some(0))
        .test_on_check_out(false)
        .connection_timeout(WAIT)
        .build(manager)?)
}

/// Has the texts merged while they are written, as is usual, or left as they come.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn set_merging(connection: &Connection, is_on: bool) -> Result<()> {
    let (automerge, crisismerge) = if is_on { (8, 16) } else { (0, 1_000) };
    let mut set = connection.prepare_cached("INSERT INTO text (text, rank) VALUES (?1, ?2)")?;
    set.execute(params!["automerge", automerge])?;
    set.execute(params!["crisismerge", crisismerge])?;
    Ok(())
}

/// Where the index stands; `None` if it was never filled.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn stand(connection: &Connection) -> Result<Option<Stand>> {
    let mut query = connection.prepare_cached("SELECT value FROM state WHERE name = ?1")?;
    let serial: Option<i64> = query.query_row(["serial"], |row| row.get(0)).optional()?;
    let chain: Option<Chain> = query.query_row(["chain"], |row| row.get(0)).optional()?;
    let serial = serial.and_then(|number| Serial::from_wire(number).flatten());
    Ok(serial.zip(chain).map(|(serial, chain)| Stand { serial, chain }))
}

/// Notes where the index stands.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn set_stand(connection: &Connection, stand: Stand) -> Result<()> {
    let mut put =
        connection.prepare_cached("INSERT OR REPLACE INTO state (name, value) VALUES (?1, ?2)")?;
    put.execute(params!["serial", Serial::wire(Some(stand.serial))])?;
    put.execute(params!["chain", stand.chain])?;
    Ok(())
}

/// The number of one page of one project in the table of texts: which project, where, and which page; 0 is the
/// project itself. Newer projects have larger numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its row in `project`.
    pub project: i64,
    /// Its row in `place`.
    pub place: i64,
    /// 0 for the project, else the page.
    pub page: i64,
}

/// Most pages of one project.
pub const PAGES_MAX: i64 = (1 << PAGE_BITS) - 1;
/// Most indexes.
pub const PLACES_MAX: i64 = (1 << PLACE_BITS) - 1;
const PAGE_BITS: u32 = 12;
const PLACE_BITS: u32 = 18;

impl Row {
    /// As one number.
    pub fn id(self) -> i64 {
        (self.project << (PAGE_BITS + PLACE_BITS)) | (self.place << PAGE_BITS) | self.page
    }
    /// From the number.
    pub fn of(id: i64) -> Self {
        Self {
            project: id >> (PAGE_BITS + PLACE_BITS),
            place: (id >> PAGE_BITS) & PLACES_MAX,
            page: id & PAGES_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_one_number() {
        for row in [
            Row { project: 1, place: 1, page: 0 },
            Row { project: 4_000_000, place: PLACES_MAX, page: PAGES_MAX },
        ] {
            assert_eq!(Row::of(row.id()), row);
        }
    }

    #[test]
    fn a_damaged_file_is_made_anew() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(
            dir.path().join(FILE),
            b"no database at all, but long enough to be taken for one",
        )
        .expect("writes");
        let connection = open(dir.path()).expect("opens");
        assert_eq!(stand(&connection).expect("reads"), None);
        let stand = Stand { serial: Serial::new(7).expect("fits"), chain: [3; 32] };
        set_stand(&connection, stand).expect("writes");
        drop(connection);
        let connection = open(dir.path()).expect("opens again");
        assert_eq!(super::stand(&connection).expect("reads"), Some(stand));
        connection.pragma_update(None, "user_version", VERSION + 1).expect("writes");
        drop(connection);
        assert_eq!(super::stand(&open(dir.path()).expect("opens")).expect("reads"), None);
    }
}
