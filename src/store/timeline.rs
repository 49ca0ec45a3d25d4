//! Timelines: who was allowed to write which part of the log.
//!
//! A log begins with a first master. Each promotion begins a new timeline, with the next epoch and a random id, after
//! the last serial that the new master had. Replicas take the list from their master, so that any two nodes can say
//! whether one history is the beginning of the other, and which of two masters is the newer one. The list is no part
//! of the log, whose bytes are devpi's.
//!
//! The fence is the other half: a node that learnt of a higher epoch than its own commits nothing any more.

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use crate::digest::hex;
use crate::error::{Error, Kind, Result};
use crate::serial::Serial;
use crate::sync::lock;

use super::changelog::{self, CHAIN_START, Chain, Position};
use super::txn::serial_of;
use super::{Store, Writer};

/// How many promotions a list may tell of.
pub const TIMELINES_MAX: usize = 10_000;

/// The name of the fence among the local values.
const FENCE: &str = "fence";

/// A part of the log that one master wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Its number: one more than that of the timeline before; the first is 1.
    pub epoch: u64,
    /// A random id, 32 lower-case hexadecimal digits: two masters may have been promoted at the same time.
    pub id: String,
    /// The last serial before it; `None` if it began with the log.
    pub after: Option<Serial>,
    /// The chain at that serial.
    pub chain: Chain,
}

/// What ended this node's right to write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The higher epoch that was met.
    pub epoch: u64,
    /// The id of its timeline.
    pub timeline: String,
    /// Who told of it.
    pub uuid: String,
    /// Where the new master is, if that was told.
    pub url: Option<String>,
}

impl Fence {
    /// What clients are told who want to change something.
    pub fn refusal(&self) -> Error {
        let at = self.url.as_deref().map(|url| format!(" at {url}")).unwrap_or_default();
        Error::new(
            Kind::Unavailable,
            format!(
                "this node is the master no more: another one was promoted (epoch {}{at}). Nothing was changed; send \
                 the change there",
                self.epoch
            ),
        )
    }

    /// What a client is told whose change was committed here as this serial just before this node learnt that it was
    /// replaced: nobody here can say whether the other node has it.
    pub fn too_late(&self, serial: Option<Serial>) -> Error {
        let at = self.url.as_deref().map(|url| format!(" at {url}")).unwrap_or_default();
        Error::new(
            Kind::Unavailable,
            format!(
                "this node was replaced as the master (epoch {}{at}) while it carried the request out as serial {}: \
                 look there whether it stands",
                self.epoch,
                Serial::wire(serial)
            ),
        )
    }
}

pub(super) fn load(connection: &Connection) -> Result<Vec<Timeline>> {
    let mut query =
        connection.prepare_cached("SELECT epoch, id, after, chain FROM timeline ORDER BY epoch")?;
    let mut rows = query.query([])?;
    let mut timelines = Vec::new();
    while let Some(row) = rows.next()? {
        let (epoch, after): (i64, Option<i64>) = (row.get(0)?, row.get(2)?);
        timelines.push(Timeline {
            epoch: epoch.unsigned_abs(),
            id: row.get(1)?,
            after: after.map(serial_of).transpose()?,
            chain: row.get(3)?,
        });
    }
    Ok(timelines)
}

fn put(connection: &Connection, timeline: &Timeline) -> Result<()> {
    let after = timeline.after.map(|serial| serial.get() as i64);
    let mut put = connection
        .prepare_cached("INSERT INTO timeline (epoch, id, after, chain) VALUES (?1, ?2, ?3, ?4)")?;
    put.execute(params![timeline.epoch as i64, timeline.id, after, timeline.chain])?;
    Ok(())
}

impl Store {
    /// The timelines of the log, oldest first; empty until a master of this program wrote it or was followed.
    pub fn timelines(&self) -> Vec<Timeline> {
        lock(&self.timelines).clone()
    }

    /// The newest timeline.
    pub fn timeline(&self) -> Option<Timeline> {
        lock(&self.timelines).last().cloned()
    }

    /// The epoch of the newest timeline; 0 if there is none.
    pub fn epoch(&self) -> u64 {
        lock(&self.timelines).last().map_or(0, |timeline| timeline.epoch)
    }

    /// The chain at a serial; `None` if the log does not hold it.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn chain_at(&self, serial: Serial) -> Result<Option<Chain>> {
        changelog::chain_at(&*self.pool.get()?, serial)
    }

    /// The last row of the log up to a serial: where something was left out, a row stands for several serials.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn position_up_to(&self, serial: Serial) -> Result<Option<Position>> {
        changelog::position_up_to(&*self.pool.get()?, serial)
    }

    /// The last serial of which something was left out, since this node replicates a part of the indexes.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn last_elided(&self) -> Result<Option<Serial>> {
        changelog::last_elided(&*self.pool.get()?)
    }

    /// The first serial that the log holds; `None` while it is empty.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn first_serial(&self) -> Result<Option<Serial>> {
        changelog::first(&*self.pool.get()?)
    }

    /// A value that is this node's own and no part of the log.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn local_value(&self, name: &str) -> Result<Option<Vec<u8>>> {
        read_local(&*self.pool.get()?, name)
    }

    /// What keeps this node from committing changes; `None` if nothing does.
    pub fn fence(&self) -> Option<Fence> {
        lock(&self.fence).clone()
    }
}

pub(super) fn read_local(connection: &Connection, name: &str) -> Result<Option<Vec<u8>>> {
    let mut query = connection.prepare_cached("SELECT value FROM local WHERE name = ?1")?;
    Ok(query.query_row([name], |row| row.get(0)).optional()?)
}

pub(super) fn load_fence(connection: &Connection) -> Result<Option<Fence>> {
    read_local(connection, FENCE)?
        .map(|json| {
            serde_json::from_slice(&json)
                .map_err(|e| Error::internal("the fence in the database is no JSON").caused_by(e))
        })
        .transpose()
}

impl Writer {
    /// Sets or, with `None`, removes a value that is this node's own.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn set_local_value(&self, name: &str, value: Option<&[u8]>) -> Result<()> {
        self.local(|sql| write_local(sql, name, value))
    }

    /// Sets a value that is this node's own without syncing it: a power cut may cost it.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn note_local_value(&self, name: &str, value: &[u8]) -> Result<()> {
        let connection = lock(&self.connection);
        connection.pragma_update(None, "synchronous", "normal")?;
        let written = write_local(&connection, name, Some(value));
        connection.pragma_update(None, "synchronous", "full")?;
        written
    }

    /// Begins a new timeline at the end of the log: what is committed from now on is this node's. A fence falls.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails or the system gives no random bytes.
    pub fn begin_timeline(&self) -> Result<Timeline> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|e| Error::internal("no random numbers").caused_by(e))?;
        let mut connection = lock(&self.connection);
        let sql = connection.transaction()?;
        let end = changelog::position(&sql)?;
        let fenced = load_fence(&sql)?.map_or(0, |fence| fence.epoch);
        let mut timelines = load(&sql)?;
        let last = timelines.last().map_or(0, |timeline| timeline.epoch);
        let timeline = Timeline {
            epoch: last.max(fenced) + 1,
            id: hex(&id),
            after: end.map(|end| end.serial),
            chain: end.map_or(CHAIN_START, |end| end.chain),
        };
        put(&sql, &timeline)?;
        write_local(&sql, FENCE, None)?;
        sql.commit()?;
        timelines.push(timeline.clone());
        *lock(&self.store.timelines) = timelines;
        *lock(&self.store.fence) = None;
        Ok(timeline)
    }

    /// Takes the timelines of a master, whose history this node shares, in place of its own.
    ///
    /// # Errors
    /// `Kind::Invalid` if they are in no order, and nothing is changed; `Kind::Internal` if the database fails.
    pub fn adopt_timelines(&self, timelines: &[Timeline]) -> Result<()> {
        let is_ordered = timelines.is_sorted_by(|a, b| a.epoch < b.epoch && a.after <= b.after);
        if !is_ordered || TIMELINES_MAX < timelines.len() {
            return Err(Error::invalid("the timelines are in no order, or too many"));
        }
        let mut connection = lock(&self.connection);
        let sql = connection.transaction()?;
        sql.execute("DELETE FROM timeline", [])?;
        for timeline in timelines {
            put(&sql, timeline)?;
        }
        sql.commit()?;
        *lock(&self.store.timelines) = timelines.to_vec();
        Ok(())
    }

    /// Ends this node's right to commit, for good: another node writes with a higher epoch. A commit under way is done
    /// when this returns, and none follows. A fence of a lower epoch changes nothing.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails; commits are refused all the same while this process lives.
    pub fn set_fence(&self, fence: &Fence) -> Result<()> {
        let connection = lock(&self.connection);
        {
            let mut held = lock(&self.store.fence);
            if held.as_ref().is_some_and(|held| fence.epoch <= held.epoch) {
                return Ok(());
            }
            *held = Some(fence.clone());
        }
        self.store.doubt.end();
        let json = serde_json::to_vec(fence).map_err(|e| Error::internal("JSON").caused_by(e))?;
        write_local(&connection, FENCE, Some(&json))
    }

    /// Takes the fence away: this node follows a master, and has no right to write that could be fenced.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn lift_fence(&self) -> Result<()> {
        let connection = lock(&self.connection);
        write_local(&connection, FENCE, None)?;
        *lock(&self.store.fence) = None;
        Ok(())
    }
}

fn write_local(connection: &Connection, name: &str, value: Option<&[u8]>) -> Result<()> {
    match value {
        Some(value) => connection
            .prepare_cached("INSERT OR REPLACE INTO local (name, value) VALUES (?1, ?2)")?
            .execute(params![name, value])?,
        None => connection.prepare_cached("DELETE FROM local WHERE name = ?1")?.execute([name])?,
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::UserName;
    use crate::store::key;
    use crate::store::record::Dict;
    use crate::store::txn::WriteTxn;

    fn change(writer: &Writer, text: &str) -> Result<()> {
        let record = Dict(vec![("created".into(), text.into())]);
        let set = |txn: &mut WriteTxn<'_>| {
            txn.set(&key::User(&UserName::root()), &record);
            Ok(())
        };
        writer.write(set).map(drop)
    }

    fn fence(epoch: u64) -> Fence {
        Fence { epoch, timeline: "ab".repeat(16), uuid: "cd".repeat(16), url: None }
    }

    #[test]
    fn each_timeline_begins_at_the_end_of_the_log() {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, writer) = crate::store::open(dir.path(), 1).expect("opens");
        assert_eq!((store.timelines(), store.epoch()), (vec![], 0));
        let first = writer.begin_timeline().expect("begins");
        assert_eq!((first.epoch, first.after, first.chain), (1, None, CHAIN_START));
        change(&writer, "1").expect("commits");
        let second = writer.begin_timeline().expect("begins");
        let at = store.position().expect("reads").expect("an entry");
        assert_eq!((second.epoch, second.after), (2, Some(at.serial)));
        assert_eq!(store.chain_at(at.serial).expect("reads"), Some(second.chain));
        assert_ne!(first.id, second.id);
        drop((store, writer));
        let (store, _writer) = crate::store::open(dir.path(), 1).expect("opens again");
        assert_eq!(store.timelines(), [first, second]);
    }

    #[test]
    fn a_fenced_node_commits_nothing_until_it_is_promoted_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, writer) = crate::store::open(dir.path(), 1).expect("opens");
        writer.begin_timeline().expect("begins");
        change(&writer, "1").expect("commits");
        writer.set_fence(&fence(5)).expect("sets");
        writer.set_fence(&fence(3)).expect("does nothing");
        let refused = change(&writer, "2").expect_err("is fenced");
        assert_eq!(refused.kind, Kind::Unavailable);
        assert!(refused.message.contains("epoch 5"), "{refused}");
        drop((store, writer));
        let (store, writer) = crate::store::open(dir.path(), 1).expect("opens again");
        assert_eq!(store.fence().map(|fence| fence.epoch), Some(5));
        assert!(change(&writer, "2").is_err());
        assert_eq!(writer.begin_timeline().expect("begins").epoch, 6);
        change(&writer, "2").expect("commits");
    }

    #[test]
    fn timelines_of_a_master_are_taken_if_they_are_in_order() {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, writer) = crate::store::open(dir.path(), 1).expect("opens");
        let timeline = |epoch, after| Timeline {
            epoch,
            id: format!("{epoch:032x}"),
            after: Serial::new(after),
            chain: [epoch as u8; 32],
        };
        let good = [timeline(1, 3), timeline(2, 3), timeline(7, 9)];
        writer.adopt_timelines(&good).expect("takes them");
        assert_eq!(store.timelines(), good);
        for bad in [[timeline(2, 3), timeline(1, 4)], [timeline(1, 4), timeline(2, 3)]] {
            assert!(writer.adopt_timelines(&bad).is_err());
        }
        assert_eq!(store.epoch(), 7);
    }

    #[test]
    fn local_values_are_set_replaced_and_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, writer) = crate::store::open(dir.path(), 1).expect("opens");
        for value in [Some(&b"1"[..]), Some(b"2"), None] {
            writer.set_local_value("x", value).expect("writes");
            assert_eq!(store.local_value("x").expect("reads").as_deref(), value);
        }
    }
}
