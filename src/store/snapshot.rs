//! Snapshots: the database at one serial as a file that another node may begin with, and how it begins.
//!
//! What is this node's own is not in it: what it knows of requests and of other nodes, which files it lacks. What is
//! everybody's is all in it: the log with its chain, the values, who wrote which part.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::backup::Backup;

use crate::error::{Context, Error, Result};

use super::changelog::{self, Position};
use super::check::LogCheck;
use super::schema;
use super::{DATABASE, Store};

/// Tables of this node alone.
const OWN_TABLES: [&str; 4] = ["receipt", "local", "wanted", "lost"];

impl Store {
    /// Writes the database as it is now to `target`, without what is this node's own, and gives where its log ends.
    /// Commits go on meanwhile; what they write stays in the write-ahead log until the copy is made.
    ///
    /// # Errors
    /// `Kind::Internal` if the disk is full, or the database fails; `Kind::Invalid` if the log is empty.
    pub fn copy_to(&self, target: &Path) -> Result<Position> {
        let mut copy =
            Connection::open(target).context(|| format!("opening {}", target.display()))?;
        {
            let from = self.pool().get()?;
            // All in one step: a copy in several begins anew whenever something is committed.
            Backup::new(&from, &mut copy)?.step(-1)?;
        }
        copy.pragma_update(None, "journal_mode", "delete")?;
        copy.pragma_update(None, "synchronous", "off")?;
        // What is deleted is overwritten: it is nobody else's.
        copy.pragma_update(None, "secure_delete", "on")?;
        let txn = copy.transaction()?;
        for table in OWN_TABLES {
            txn.execute(&format!("DELETE FROM {table}"), [])?;
        }
        // Who begins with it commits nothing of this: it takes it over.
        txn.execute(
            "UPDATE changelog SET applied_at = coalesce(applied_at, committed_at), committed_at = NULL
             WHERE committed_at IS NOT NULL",
            [],
        )?;
        let end = changelog::position(&txn)?;
        txn.commit()?;
        copy.close().map_err(|(_, e)| Error::from(e))?;
        File::open(target)?.sync_all()?;
        end.ok_or_else(|| Error::invalid("the log is empty"))
    }
}

/// Checks a file that is to become a node's database: that it is one of this version, that it is whole, that each entry
/// has the chain that follows from the one before, that the values are those of the log, and that it ends at `end`.
///
/// # Errors
/// `Kind::Invalid` with what is wrong.
pub fn check(file: &Path, end: &Position) -> Result<()> {
    let wrong = |why: String| Error::invalid(format!("the snapshot cannot be used: {why}"));
    let sql = Connection::open(file)?;
    schema::require_newest(&sql)?;
    let said: String = sql.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    if said != "ok" {
        return Err(wrong(said));
    }
    for table in OWN_TABLES {
        let rows: i64 =
            sql.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
        if rows != 0 {
            return Err(wrong(format!("it has rows in {table}, which are another node's")));
        }
    }
    let found = changelog::position(&sql)?;
    if found.as_ref() != Some(end) {
        return Err(wrong("it does not end where the master said".to_owned()));
    }
    let mut first = None;
    let mut tell = |what: String| {
        first.get_or_insert(what);
    };
    if let Some(mut log) = LogCheck::begin(&sql)? {
        while log.step(&sql, &mut tell)? {}
    }
    match first {
        None => Ok(()),
        Some(what) => Err(wrong(what)),
    }
}

/// Puts a checked file in the place of a folder's database, in which nothing was ever committed and which nobody has
/// open. After a crash at any moment either the one or the other is there.
///
/// # Errors
/// `Kind::Internal` if the disk refuses.
pub fn install(dir: &Path, file: &Path) -> Result<()> {
    let database = dir.join(DATABASE);
    OpenOptions::new().write(true).open(file)?.sync_all()?;
    // What these hold belongs to the former file, which has no entry; without them it is as good as new.
    for end in ["-wal", "-shm"] {
        let beside = PathBuf::from(format!("{}{end}", database.display()));
        match fs::remove_file(&beside) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => (),
        }
    }
    fs::rename(file, &database).context(|| format!("putting {} in place", database.display()))?;
    File::open(dir)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::UserName;
    use crate::store::key::User;
    use crate::store::record::Dict;
    use crate::store::txn::Read as _;

    fn set(writer: &crate::store::Writer, name: &UserName, record: &Dict) {
        let set = |txn: &mut crate::store::txn::WriteTxn<'_>| {
            txn.set(&User(name), record);
            Ok(())
        };
        writer.write(set).expect("commits");
    }

    fn fill(dir: &Path, users: usize) -> std::sync::Arc<Store> {
        let (store, writer) = crate::store::open(dir, 2).expect("opens");
        writer.begin_timeline().expect("begins");
        for number in 0..users {
            let mut record = Dict::new();
            record.set("email", "x".repeat(number));
            let name = UserName::parse(&format!("user{number}")).expect("valid");
            set(&writer, &name, &record);
        }
        writer.set_local_value("secret-of-this-node", Some(b"a very own value")).expect("writes");
        store
    }

    #[test]
    fn a_node_that_begins_with_a_copy_has_all_but_what_is_the_others_own() {
        let (one, other) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("one"));
        let store = fill(one.path(), 50);
        drop(crate::store::open(other.path(), 1).expect("makes an empty one"));
        let file = other.path().join("copy");
        let end = store.copy_to(&file).expect("copies");
        assert_eq!(Some(&end), store.position().expect("reads").as_ref());
        let bytes = fs::read(&file).expect("reads");
        let has = |text: &[u8]| memchr::memmem::find(&bytes, text).is_some();
        assert!(!has(b"a very own value") && has(b"user49"));
        check(&file, &end).expect("is good");
        install(other.path(), &file).expect("installs");
        let (copy, writer) = crate::store::open(other.path(), 1).expect("opens");
        assert_eq!(copy.position().expect("reads"), store.position().expect("reads"));
        assert_eq!(copy.timelines(), store.timelines());
        assert_eq!(copy.local_value("secret-of-this-node").expect("reads"), None);
        let name = UserName::parse("user7").expect("valid");
        assert!(copy.read().expect("reads").has(&User(&name)).expect("reads"));
        set(&writer, &name, &Dict::new());
    }

    #[test]
    fn a_file_that_was_tampered_with_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = fill(dir.path(), 50);
        let file = dir.path().join("copy");
        let end = store.copy_to(&file).expect("copies");
        for (harm, why) in [
            ("UPDATE changelog SET data = data || x'00' WHERE serial = 20", "an entry"),
            ("DELETE FROM changelog WHERE serial = 20", "a gap"),
            ("UPDATE kv SET value = x'46' WHERE key = 'user3/.config'", "a value"),
            ("DELETE FROM changelog WHERE serial = (SELECT max(serial) FROM changelog)", "the end"),
            ("INSERT INTO local (name, value) VALUES ('fence', x'00')", "another's own"),
            ("PRAGMA user_version = 1", "the version"),
        ] {
            let harmed = dir.path().join("harmed");
            fs::copy(&file, &harmed).expect("copies");
            Connection::open(&harmed).expect("opens").execute_batch(harm).expect("harms");
            assert!(check(&harmed, &end).is_err(), "{why}");
        }
        let mut bytes = fs::read(&file).expect("reads");
        bytes.truncate(bytes.len() / 2);
        fs::write(dir.path().join("half"), bytes).expect("writes");
        assert!(check(&dir.path().join("half"), &end).is_err());
    }
}
