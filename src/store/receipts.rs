//! Receipts: what became of requests that carried a key, so that the same request again is not carried out again.
//!
//! A receipt is written in the transaction of its change, so there is one exactly if the change stands. They are this
//! node's own: no entry of the log names them. The key itself is not kept, only its digest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, params};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::serial::Serial;

use super::txn::serial_of;
use super::{Store, Writer, lock};

/// How long a receipt is kept.
const KEPT_SECS: i64 = 24 * 60 * 60;
/// How many receipts are kept at most: more than one a second all day long.
const RECEIPTS_MAX: i64 = 100_000;
/// So many old ones are looked at whenever one is written: more than one, so that their number shrinks.
const SWEPT_AT_ONCE: i64 = 4;
/// The longest body of an answer that is kept. Answers to changes are mostly far shorter.
pub const ANSWER_BYTES_MAX: usize = 8 << 10;

/// A request's right to one receipt.
#[derive(Debug)]
pub struct Ticket {
    /// The digest of the key.
    pub key: Digest,
    /// The digest of what is asked for, and by whom.
    pub request: Digest,
    is_used: AtomicBool,
}

impl Ticket {
    /// One that nothing was written for.
    pub fn new(key: Digest, request: Digest) -> Self {
        Self { key, request, is_used: AtomicBool::new(false) }
    }
    /// Whether a change was committed for it.
    pub fn is_used(&self) -> bool {
        self.is_used.load(Ordering::SeqCst)
    }
    pub(super) fn set_used(&self) {
        self.is_used.store(true, Ordering::SeqCst);
    }
}

/// What was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The reason phrase when it is not the standard one.
    pub reason: Option<String>,
    /// The content type.
    pub content_type: Option<String>,
    /// The body; `None` if it was too long or not to be kept.
    pub body: Option<Vec<u8>>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The digest of what was asked for, and by whom.
    pub request: Digest,
    /// The serial of the change, or the one at which there was nothing to change.
    pub serial: Option<Serial>,
    /// Whether anything was changed.
    pub is_change: bool,
    /// What was answered; `None` if the node ended between the commit and the answer.
    pub answer: Option<Answer>,
}

impl Store {
    /// The receipt for a key.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn receipt(&self, key: &Digest) -> Result<Option<Receipt>> {
        find(&*self.pool.get()?, key, now())
    }
}

impl Writer {
    /// Keeps what was answered to a request. Its change was synced to disk before; this is not, since a power cut may
    /// cost the words of an answer.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn keep_answer(
        &self,
        ticket: &Ticket,
        serial: Option<Serial>,
        answer: &Answer,
    ) -> Result<()> {
        let connection = lock(&self.connection);
        connection.pragma_update(None, "synchronous", "normal")?;
        let kept = keep(&connection, ticket, serial, answer, now());
        connection.pragma_update(None, "synchronous", "full")?;
        kept
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn find(sql: &Connection, key: &Digest, now: i64) -> Result<Option<Receipt>> {
    let mut query = sql.prepare_cached(
        "SELECT request, serial, is_change, status, reason, content_type, body FROM receipt
         WHERE key = ?1 AND ?2 < written_at",
    )?;
    let row = query
        .query_row(params![key.0, now - KEPT_SECS], |row| {
            let status: Option<u16> = row.get(3)?;
            let (reason, content_type, body) = (row.get(4)?, row.get(5)?, row.get(6)?);
            let answer = status.map(|status| Answer { status, reason, content_type, body });
            Ok((row.get::<_, [u8; 32]>(0)?, row.get::<_, i64>(1)?, row.get(2)?, answer))
        })
        .optional()?;
    let Some((request, serial, is_change, answer)) = row else { return Ok(None) };
    let serial = if serial < 0 { None } else { Some(serial_of(serial)?) };
    Ok(Some(Receipt { request: Digest(request), serial, is_change, answer }))
}

/// Writes that a request's change is committed as this serial, within its transaction.
pub(super) fn note(sql: &Connection, ticket: &Ticket, serial: Serial) -> Result<()> {
    if ticket.is_used() {
        let mut update = sql.prepare_cached("UPDATE receipt SET serial = ?2 WHERE key = ?1")?;
        update.execute(params![ticket.key.0, Serial::wire(Some(serial))])?;
        return Ok(());
    }
    insert(sql, ticket, Some(serial), true, now())
}

fn insert(
    sql: &Connection,
    ticket: &Ticket,
    serial: Option<Serial>,
    is_change: bool,
    now: i64,
) -> Result<()> {
    let over = now - KEPT_SECS;
    sql.prepare_cached(
        "DELETE FROM receipt WHERE id IN (SELECT id FROM receipt ORDER BY id LIMIT ?1)
         AND (written_at <= ?2 OR id <= (SELECT max(id) FROM receipt) - ?3)",
    )?
    .execute(params![SWEPT_AT_ONCE, over, RECEIPTS_MAX - 1])?;
    sql.prepare_cached("DELETE FROM receipt WHERE key = ?1 AND written_at <= ?2")?
        .execute(params![ticket.key.0, over])?;
    let written = sql
        .prepare_cached(
            "INSERT INTO receipt (key, request, written_at, serial, is_change)
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (key) DO NOTHING",
        )?
        .execute(params![ticket.key.0, ticket.request.0, now, Serial::wire(serial), is_change])?;
    // The last word on "once": whoever comes second undoes all that came before in this transaction.
    match written {
        0 => Err(Error::conflict("a request with this receipt key was carried out already")),
        _ => Ok(()),
    }
}

fn keep(
    sql: &Connection,
    ticket: &Ticket,
    serial: Option<Serial>,
    answer: &Answer,
    now: i64,
) -> Result<()> {
    if !ticket.is_used() {
        insert(sql, ticket, serial, false, now)?;
    }
    let body = answer.body.as_deref().filter(|body| body.len() <= ANSWER_BYTES_MAX);
    sql.prepare_cached(
        "UPDATE receipt SET status = ?2, reason = ?3, content_type = ?4, body = ?5 WHERE key = ?1",
    )?
    .execute(params![
        ticket.key.0,
        answer.status,
        answer.reason,
        answer.content_type,
        body
    ])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::names::UserName;
    use crate::store::record::Dict;
    use crate::store::{key, open};

    fn ticket(key: &str, request: &str) -> Ticket {
        Ticket::new(Digest::of(key.as_bytes()), Digest::of(request.as_bytes()))
    }

    fn set(writer: &Writer, ticket: Option<&Ticket>, name: &str) -> Result<Option<Serial>> {
        let user = UserName::parse(name).expect("valid");
        let change = |txn: &mut crate::store::WriteTxn<'_>| {
            txn.set(&key::User(&user), &Dict::new());
            Ok(())
        };
        Ok(writer.write_once(ticket, change)?.1)
    }

    #[test]
    fn a_receipt_stands_exactly_if_its_change_does() {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, writer) = open(dir.path(), 2).expect("opens");
        let (one, two) = (ticket("one", "a"), ticket("two", "a"));
        let failed: Result<((), _)> =
            writer.write_once(Some(&one), |_| Err(Error::invalid("not this")));
        assert!(failed.is_err() && !one.is_used());
        assert_eq!(store.receipt(&one.key).expect("reads"), None);
        assert_eq!(set(&writer, Some(&one), "ann").expect("writes"), Some(Serial::FIRST));
        let expected = Receipt {
            request: one.request,
            serial: Some(Serial::FIRST),
            is_change: true,
            answer: None,
        };
        assert_eq!(store.receipt(&one.key).expect("reads"), Some(expected));
        // Nothing to change: nothing is written.
        assert_eq!(set(&writer, Some(&two), "ann").expect("writes"), Some(Serial::FIRST));
        assert_eq!(store.receipt(&two.key).expect("reads"), None);
    }

    #[test]
    fn the_second_change_under_a_key_is_undone() {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, writer) = open(dir.path(), 2).expect("opens");
        set(&writer, Some(&ticket("one", "a")), "ann").expect("writes");
        let again = set(&writer, Some(&ticket("one", "a")), "bob").expect_err("the second");
        assert_eq!(again.kind, Kind::Conflict);
        assert_eq!(store.clock().now(), Some(Serial::FIRST));
        assert_eq!(set(&writer, None, "eve").expect("writes"), Some(Serial::FIRST.next()));
    }

    #[test]
    fn answers_are_kept_across_a_start_and_long_bodies_are_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, writer) = open(dir.path(), 2).expect("opens");
        let (one, two) = (ticket("one", "a"), ticket("two", "b"));
        set(&writer, Some(&one), "ann").expect("writes");
        let answer = Answer {
            status: 201,
            reason: Some("made".into()),
            content_type: Some("text/plain".into()),
            body: Some(b"hello".to_vec()),
        };
        writer.keep_answer(&one, Some(Serial::FIRST), &answer).expect("keeps");
        let long = Answer { body: Some(vec![7; ANSWER_BYTES_MAX + 1]), ..answer.clone() };
        writer.keep_answer(&two, None, &long).expect("keeps");
        let level: i64 = writer
            .local(|sql| Ok(sql.pragma_query_value(None, "synchronous", |row| row.get(0))?))
            .expect("reads");
        assert_eq!(level, 2, "changes are synced as before");
        drop((store, writer));
        let (store, _writer) = open(dir.path(), 2).expect("opens");
        let receipt = store.receipt(&one.key).expect("reads").expect("kept");
        assert_eq!((receipt.answer, receipt.is_change), (Some(answer), true));
        let receipt = store.receipt(&two.key).expect("reads").expect("kept");
        assert_eq!((receipt.serial, receipt.is_change), (None, false));
        assert_eq!(receipt.answer.map(|answer| (answer.status, answer.body)), Some((201, None)));
    }

    #[test]
    fn receipts_end_after_a_day_and_are_swept() {
        let dir = tempfile::tempdir().expect("a folder");
        let (_store, writer) = open(dir.path(), 2).expect("opens");
        let count = |sql: &Connection| -> Result<i64> {
            Ok(sql.query_row("SELECT count(*) FROM receipt", [], |row| row.get(0))?)
        };
        let work = |sql: &Connection| {
            let first = ticket("first", "a");
            insert(sql, &first, None, true, 1000)?;
            assert!(find(sql, &first.key, 1000 + KEPT_SECS - 1)?.is_some());
            assert!(find(sql, &first.key, 1000 + KEPT_SECS)?.is_none());
            // The same key a day later is another request's.
            insert(sql, &ticket("first", "b"), None, true, 1000 + KEPT_SECS)?;
            for n in 0..9 {
                insert(sql, &ticket(&n.to_string(), "a"), None, true, 2000 + KEPT_SECS)?;
            }
            assert_eq!(count(sql)?, 10);
            for n in 10..13 {
                insert(sql, &ticket(&n.to_string(), "a"), None, true, 3000 + 2 * KEPT_SECS)?;
            }
            assert_eq!(count(sql)?, 3);
            Ok(())
        };
        writer.local(work).expect("works");
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let dir = tempfile::tempdir().expect("a folder");
        let (_store, writer) = open(dir.path(), 2).expect("opens");
        let work = |sql: &Connection| {
            insert(sql, &ticket("old", "a"), None, true, 1000)?;
            sql.execute("UPDATE receipt SET id = id - ?1", [RECEIPTS_MAX])?;
            insert(sql, &ticket("new", "a"), None, true, 1000)?;
            sql.execute(
                "UPDATE receipt SET id = ?1 WHERE id = (SELECT max(id) FROM receipt)",
                [5],
            )?;
            insert(sql, &ticket("newer", "a"), None, true, 1000)?;
            assert!(find(sql, &ticket("old", "a").key, 1001)?.is_none());
            assert!(find(sql, &ticket("new", "a").key, 1001)?.is_some());
            Ok(())
        };
        writer.local(work).expect("works");
    }
}
