//! Taking back the end of the log, for a node that committed what no other node took over.
//!
//! Each change names the serial that changed its key before. So the value that a key had is found in the log itself:
//! the first change after the end that is to be names the entry that holds it.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, TransactionBehavior, params};

use crate::error::{Error, Kind, Result};
use crate::serial::Serial;
use crate::sync::lock;

use super::key::{FILE_KEYS, FilePath};
use super::txn::serial_of;
use super::{Writer, changelog, codec, rope, timeline, txn, wanted};

/// How many bytes of entries are held at once, one entry more at most.
const PIECE_BYTES: usize = 4 << 20;

/// What a rewind took back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewound {
    /// How many entries.
    pub entries: u64,
    /// How many keys have an older value again, or none.
    pub keys: usize,
}

/// What the removed entries touched.
#[derive(Default)]
struct Touched {
    /// By path: the last serial that changed it and stays; -1 if none does.
    backs: BTreeMap<String, i64>,
    files: BTreeSet<FilePath>,
    entries: u64,
}

impl Writer {
    /// Makes `to` the last serial, in one transaction: the log ends there, each key has the value that it had then,
    /// files that are named again and not here are wanted where `wants` says so, and what was noted of later serials
    /// is gone. The clock stays where it is, so the store must be opened anew before anything is served from it.
    ///
    /// # Errors
    /// `Kind::Conflict` if the log does not reach back that far; `Kind::Internal` if it is damaged or the database
    /// fails. Nothing is changed then.
    pub fn rewind(&self, to: Option<Serial>, wants: &dyn Fn(&FilePath) -> bool) -> Result<Rewound> {
        let mut connection = lock(&self.connection);
        let sql = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let last = txn::last_serial(&sql)?;
        check_reach(&sql, to, last)?;
        let touched = touched_after(&sql, to, last)?;
        for (back, paths) in by_back(&touched.backs) {
            restore(&sql, back, &paths)?;
        }
        let end = Serial::wire(to);
        sql.execute("DELETE FROM changelog WHERE ?1 < serial", [end])?;
        sql.execute("DELETE FROM receipt WHERE ?1 < serial", [end])?;
        sql.execute("DELETE FROM timeline WHERE ?1 < after", [end])?;
        let mut removed = wanted::settle(&sql, &self.store.blobs, &touched.files, wants)?;
        removed.extend(drop_unnamed(&sql, &touched.files)?);
        let timelines = timeline::load(&sql)?;
        sql.commit()?;
        *lock(&self.store.timelines) = timelines;
        self.remove_files(&removed);
        Ok(Rewound { entries: touched.entries, keys: touched.backs.len() })
    }
}

fn check_reach(sql: &Connection, to: Option<Serial>, last: Option<Serial>) -> Result<()> {
    let is_held = match to {
        None => changelog::first(sql)?.is_none_or(|first| first == Serial::FIRST),
        Some(to) => changelog::chain_at(sql, to)?.is_some(),
    };
    if is_held {
        return Ok(());
    }
    let message = format!(
        "the log cannot go back to serial {}: it holds no entry there, and ends with {}",
        Serial::wire(to),
        Serial::wire(last)
    );
    Err(Error::new(Kind::Conflict, message))
}

/// Looks through all entries after `to`.
fn touched_after(sql: &Connection, to: Option<Serial>, last: Option<Serial>) -> Result<Touched> {
    let mut touched = Touched::default();
    let mut next = Serial::following(to);
    while let Some(last) = last.filter(|last| next <= *last) {
        for changelog::Logged { serial, entry, .. } in
            changelog::range(sql, next, last, PIECE_BYTES)?
        {
            next = serial.next();
            touched.entries += 1;
            for change in codec::RawEntry::parse(&entry)?.changes() {
                if !touched.backs.contains_key(change.path) {
                    touched.backs.insert(change.path.to_owned(), change.back_serial);
                }
                if FILE_KEYS.contains(&change.keyname) {
                    touched.files.extend(FilePath::parse(change.path));
                }
            }
        }
    }
    Ok(touched)
}

/// The paths under the serial that each goes back to.
fn by_back(backs: &BTreeMap<String, i64>) -> BTreeMap<i64, BTreeSet<&str>> {
    let mut paths: BTreeMap<i64, BTreeSet<&str>> = BTreeMap::new();
    for (path, back) in backs {
        paths.entry(*back).or_default().insert(path);
    }
    paths
}

/// Gives keys the values that the entry `back` set; none if that is -1.
fn restore(sql: &Connection, back: i64, paths: &BTreeSet<&str>) -> Result<()> {
    if back < 0 {
        let mut delete = sql.prepare_cached("DELETE FROM kv WHERE key = ?1")?;
        return paths
            .iter()
            .try_for_each(|path| delete.execute([path]).map(drop).map_err(Into::into));
    }
    let serial = serial_of(back)?;
    let entry = changelog::range(sql, serial, serial, 0)?.pop();
    let changelog::Logged { entry, .. } = entry.ok_or_else(|| {
        let message =
            format!("serial {serial}, which has what is to be restored, is not in the log");
        Error::new(Kind::Conflict, message)
    })?;
    let entry = codec::RawEntry::parse(&entry)?;
    let mut restored = 0;
    for change in entry.changes().filter(|change| paths.contains(change.path)) {
        let held = txn::read_held(sql, change.path)?;
        let old = held.as_ref().and_then(|held| held.value.as_ref());
        rope::put_row(sql, (change.path, change.keyname), serial, change.value, old)?;
        restored += 1;
    }
    if restored == paths.len() {
        return Ok(());
    }
    Err(Error::internal(format!("serial {serial} did not change what later entries say it did")))
}

/// Takes files that no row names any more off the queue; gives them.
fn drop_unnamed(sql: &Connection, files: &BTreeSet<FilePath>) -> Result<Vec<FilePath>> {
    let mut unnamed = Vec::new();
    for path in files {
        if txn::read_held(sql, path.as_str())?.is_none() {
            sql.prepare_cached("DELETE FROM wanted WHERE path = ?1")?
                .execute(params![path.as_str()])?;
            unnamed.push(path.clone());
        }
    }
    Ok(unnamed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::{Digest, Hasher};
    use crate::names::{IndexName, UserName};
    use crate::store::blobs::Blobs;
    use crate::store::key::{File, User};
    use crate::store::record::Dict;
    use crate::store::{Store, open};

    /// What a transaction does: to which of a few users and files.
    #[derive(Clone, Debug)]
    enum Step {
        Set(u8, usize),
        Delete(u8),
        Upload(u8),
        Remove(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            // Around the size from which on values are cut into segments.
            (0..4_u8, 0..12_000_usize).prop_map(|(user, length)| Step::Set(user, length)),
            (0..4_u8).prop_map(Step::Delete),
            (0..3_u8).prop_map(Step::Upload),
            (0..3_u8).prop_map(Step::Remove),
        ]
    }

    fn file(number: u8) -> (FilePath, Vec<u8>) {
        let bytes = vec![number; 9];
        let index = IndexName::new("ann", "dev").expect("valid");
        let path = FilePath::of_digest(&index, &Digest::of(&bytes).hex(), "x.whl");
        (path.expect("valid"), bytes)
    }

    fn carry_out(writer: &Writer, step: &Step, number: usize) {
        let user = |number: &u8| UserName::parse(&format!("user{number}")).expect("valid");
        writer
            .write(|txn| {
                match step {
                    Step::Set(who, length) => {
                        let text = format!("{number} {}", "xyz".repeat(*length));
                        txn.set(&User(&user(who)), &Dict(vec![("title".into(), text.into())]));
                    }
                    Step::Delete(who) => txn.delete(&User(&user(who))),
                    Step::Upload(which) => {
                        let (path, bytes) = file(*which);
                        let blobs: &Blobs = &writer.store().blobs;
                        let staged = blobs.stage(&mut bytes.as_slice(), Hasher::new(), u64::MAX)?;
                        let record = Dict(vec![("last_modified".into(), "then".into())]);
                        txn.set(&File(&path), &record);
                        txn.add_file(path, staged);
                    }
                    Step::Remove(which) => {
                        let (path, _) = file(*which);
                        txn.delete(&File(&path));
                        txn.remove_file(path);
                    }
                }
                Ok(())
            })
            .expect("commits");
    }

    /// Key, kind, serial and value of each row.
    type Row = (String, String, i64, Option<Vec<u8>>);

    fn rows(store: &Store) -> Vec<Row> {
        let connection = store.pool.get().expect("a connection");
        let mut query = connection
            .prepare("SELECT key, keyname, serial, is_manifest, value FROM kv ORDER BY key")
            .expect("good");
        let mut rows = query.query([]).expect("reads");
        let mut all = Vec::new();
        while let Some(row) = rows.next().expect("reads") {
            let value: Option<Vec<u8>> = row.get(4).expect("a value");
            let is_manifest = row.get(3).expect("a flag");
            let value =
                value.map(|v| rope::load(&connection, v, is_manifest).expect("loads").bytes);
            let get = |n| row.get::<_, String>(n).expect("text");
            all.push((get(0), get(1), row.get(2).expect("a serial"), value));
        }
        all
    }

    fn entries(store: &Store) -> Vec<(Serial, Vec<u8>)> {
        let Some(end) = store.position().expect("reads") else { return Vec::new() };
        store.entries(Serial::FIRST, end.serial, usize::MAX).expect("reads")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn a_log_that_was_rewound_is_one_that_never_went_on(
            steps in prop::collection::vec(step(), 1..25),
            keep in 0.0..1.0_f64,
        ) {
            let dir = tempfile::tempdir().expect("a folder");
            let (store, writer) = open(dir.path(), 2).expect("opens");
            for (number, step) in steps.iter().enumerate() {
                carry_out(&writer, step, number);
            }
            let all = entries(&store);
            let kept = (all.len() as f64 * keep) as usize;
            let to = kept.checked_sub(1).map(|n| all[n].0);
            let rewound = writer.rewind(to, &|_| true).expect("rewinds");
            prop_assert_eq!(rewound.entries as usize, all.len() - kept);
            drop((store, writer));

            let (store, writer) = open(dir.path(), 2).expect("opens again");
            let other = tempfile::tempdir().expect("a folder");
            let (fresh, fresh_writer) = open(other.path(), 2).expect("opens");
            fresh_writer.apply(&all[..kept], None, &|_| true).expect("applies");
            prop_assert_eq!(store.clock().now(), to);
            prop_assert_eq!(rows(&store), rows(&fresh));
            prop_assert_eq!(store.position().expect("reads"), fresh.position().expect("reads"));
            for which in 0..3 {
                let (path, _) = file(which);
                let named = rows(&fresh).iter().any(|row| row.0 == path.as_str() && row.3.is_some());
                let is_here = store.blobs().size(&path).is_some();
                // What is named is here or wanted; what is not is neither.
                prop_assert_eq!(named, is_here || store.is_wanted(&path).expect("reads"));
                prop_assert!(named || !is_here);
            }
            writer.apply(&all[kept..], None, &|_| true).expect("goes on as before");
            prop_assert_eq!(entries(&store), all);
        }
    }

    #[test]
    fn what_was_noted_of_later_serials_is_gone() {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, writer) = open(dir.path(), 2).expect("opens");
        let first = writer.begin_timeline().expect("begins");
        carry_out(&writer, &Step::Set(0, 1), 0);
        carry_out(&writer, &Step::Set(0, 2), 1);
        writer.begin_timeline().expect("begins");
        let key = Digest::of(b"key");
        let ticket = crate::store::receipts::Ticket::new(key, key);
        let set = |txn: &mut txn::WriteTxn<'_>| {
            txn.delete(&User(&UserName::parse("user0").expect("valid")));
            Ok(())
        };
        writer.write_once(Some(&ticket), set).expect("commits");
        assert!(store.receipt(&key).expect("reads").is_some());
        writer.rewind(Some(Serial::FIRST), &|_| true).expect("rewinds");
        assert!(store.receipt(&key).expect("reads").is_none());
        assert_eq!(store.timelines(), [first]);
        let far = Serial::new(7).expect("small");
        assert_eq!(
            writer.rewind(Some(far), &|_| true).expect_err("is not there").kind,
            Kind::Conflict
        );
    }
}
