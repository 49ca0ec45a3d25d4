//! Which indexes a replica takes over: what it asks its master for, and what the master leaves out of its log.
//!
//! Users with the configurations of their indexes go to every replica: they say who may do what, and which index is
//! based on which. All else belongs to the index under which its key lies.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use serde_json::Value as Json;

use crate::error::{Context as _, Error, Result};
use crate::names::IndexName;
use crate::serial::Serial;
use crate::store::changelog::Position;
use crate::store::codec::{RawEntry, encode_entry};
use crate::store::key::{Key as _, User, UserList};
use crate::store::{Store, Writer};

use super::wire;

/// How many indexes a filter may name.
const INDEXES_MAX: usize = 100;
/// How long a filter may be on the wire: it stands in the address of each poll.
const WIRE_BYTES_MAX: usize = 4000;
/// The local value with the filter of this folder.
const RECORDED: &str = "replicate";

/// The indexes that a replica takes over; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(Arc<BTreeSet<String>>);

/// What is left of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// All of it.
    All,
    /// An entry with some of its changes.
    Some(Vec<u8>),
    /// None of its changes.
    Nothing,
}

impl Filter {
    /// A filter for the indexes with these names.
    ///
    /// # Errors
    /// `Kind::Invalid` if one is no name; those of `new`.
    pub fn of_names(names: &[String]) -> Result<Self> {
        let names = names.iter().map(|name| IndexName::parse(name));
        Self::new(&names.collect::<Result<Vec<_>>>().context(|| "--replicate")?)
    }

    /// A filter for these indexes.
    ///
    /// # Errors
    /// `Kind::Invalid` if they are none or too many.
    pub fn new(indexes: &[IndexName]) -> Result<Self> {
        let filter = Self(Arc::new(indexes.iter().map(ToString::to_string).collect()));
        if filter.0.is_empty() || INDEXES_MAX < filter.0.len() {
            return Err(Error::invalid(format!("name 1 to {INDEXES_MAX} indexes to replicate")));
        }
        if WIRE_BYTES_MAX < filter.wire().len() {
            return Err(Error::invalid("the names of the indexes to replicate are too long"));
        }
        Ok(filter)
    }

    /// Reads what `wire` wrote.
    ///
    /// # Errors
    /// `Kind::Invalid` if it is something else.
    pub fn of_wire(text: &str) -> Result<Self> {
        let name = |part: &str| {
            let name = percent_decode_str(part).decode_utf8();
            IndexName::parse(&name.map_err(|_| Error::invalid("a name that is not UTF-8"))?)
        };
        if WIRE_BYTES_MAX < text.len() {
            return Err(Error::invalid("the names of the indexes to replicate are too long"));
        }
        Self::new(&text.split(',').map(name).collect::<Result<Vec<_>>>()?)
    }

    /// As it stands in addresses and header fields.
    pub fn wire(&self) -> String {
        let names: Vec<String> = self.0.iter().map(|name| wire::quote_path(name)).collect();
        names.join(",")
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// As the status shows it.
    pub fn to_json(&self) -> Json {
        self.names().collect::<Vec<_>>().into()
    }

    /// Whether the index with this name, `user/index`, is taken over.
    pub fn has(&self, index: &str) -> bool {
        self.0.contains(index)
    }

    /// Whether a key goes to the replica.
    pub fn keeps(&self, path: &str, keyname: &str) -> bool {
        if matches!(keyname, User::NAME | UserList::NAME) {
            return true;
        }
        // user/index/what
        path.match_indices('/').nth(1).is_none_or(|(end, _)| self.has(&path[..end]))
    }

    /// Leaves out of an entry what is not for the replica.
    ///
    /// # Errors
    /// `Kind::Invalid` if it is no entry.
    pub fn apply(&self, entry: &[u8]) -> Result<Left> {
        let raw = RawEntry::parse(entry)?;
        let kept: Vec<_> = raw.changes().filter(|c| self.keeps(c.path, c.keyname)).collect();
        Ok(match kept.len() {
            all if all == raw.changes().len() => Left::All,
            0 => Left::Nothing,
            _ => Left::Some(encode_entry(
                kept.iter().map(|c| (c.path, c.keyname, c.back_serial, c.value)),
            )),
        })
    }

    /// The filter of a folder; `None` if all indexes are taken over there.
    ///
    /// # Errors
    /// `Kind::Internal` if the database fails.
    pub fn recorded(store: &Store) -> Result<Option<Self>> {
        let text = store.local_value(RECORDED)?.map(String::from_utf8).transpose();
        let text = text.map_err(|e| Error::internal("the filter of the folder").caused_by(e))?;
        text.map(|text| Self::of_wire(&text).context(|| "the filter of the folder")).transpose()
    }

    /// The filter that a folder is to work with: the recorded one, or the one that is asked for if the log is empty. It
    /// is for the life of the folder, since what was left out once cannot be told from what never was.
    ///
    /// # Errors
    /// `Kind::Conflict` if another one is asked for than the folder has.
    pub fn settle(writer: &Writer, asked: Option<Self>) -> Result<Option<Self>> {
        let store = writer.store();
        let recorded = Self::recorded(store)?;
        match (&recorded, &asked) {
            (_, None) => return Ok(recorded),
            (Some(held), Some(asked)) if held == asked => return Ok(recorded),
            _ => {}
        }
        if let Some(Position { serial, .. }) = store.position()? {
            return Err(mismatch(serial, recorded.as_ref(), asked.as_ref()));
        }
        let text = asked.as_ref().map(Self::wire);
        writer.set_local_value(RECORDED, text.as_deref().map(str::as_bytes))?;
        Ok(asked)
    }
}

fn mismatch(serial: Serial, recorded: Option<&Filter>, asked: Option<&Filter>) -> Error {
    let shown =
        |filter: Option<&Filter>| filter.map_or("all indexes".to_owned(), ToString::to_string);
    let (held, asked) = (shown(recorded), shown(asked));
    Error::conflict(format!(
        "--replicate asks for {asked}, and this folder replicates {held} (up to serial {serial}). What a folder \
         replicates is settled once: start with an empty --serverdir and --replicate {asked} to copy that anew, or \
         leave the option as it was"
    ))
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::store::codec::{Value, encode};

    fn filter(names: &[&str]) -> Filter {
        let names: Vec<_> =
            names.iter().map(|name| IndexName::parse(name).expect("valid")).collect();
        Filter::new(&names).expect("few")
    }

    #[test]
    fn a_filter_is_read_as_written() {
        let two = filter(&["bob/x", "ann/dev"]);
        assert_eq!(two.wire(), "ann/dev,bob/x");
        let odd = filter(&["ann/d\u{e9}v"]);
        assert!(odd.wire().is_ascii());
        for filter in [two, odd] {
            assert_eq!(Filter::of_wire(&filter.wire()).expect("own text"), filter);
        }
        for bad in ["", "ann", "ann/dev,", "ann/dev,,bob/x", "ann/a%2cb", "%ff/x"] {
            assert_eq!(Filter::of_wire(bad).expect_err(bad).kind, Kind::Invalid);
        }
        let many: Vec<_> = (0..=INDEXES_MAX)
            .map(|n| IndexName::new("ann", &n.to_string()).expect("valid"))
            .collect();
        assert!(Filter::new(&many).is_err() && Filter::new(&[]).is_err());
    }

    #[test]
    fn keys_belong_to_the_index_that_they_lie_under() {
        let filter = filter(&["ann/dev"]);
        for (path, name, is_kept) in [
            (".config", "USERLIST", true),
            ("bob/.config", "USER", true),
            ("ann/dev/.projects", "PROJNAMES", true),
            ("ann/dev/p/1/.config", "PROJVERSION", true),
            ("ann/dev/+f/123/4567890123456/x.whl", "STAGEFILE", true),
            ("ann/dev2/.projects", "PROJNAMES", false),
            ("ann/de/.projects", "PROJNAMES", false),
            ("ann/de/dev/.simple", "PROJSIMPLELINKS", false),
            ("bob/dev/+e/http_host/x.whl", "PYPIFILE_NOMD5", false),
            ("root/pypi/.mirrornameschange", "MIRRORNAMESINIT", false),
            ("bob/x/.plugin", "PLUGIN", false),
            (".plugin", "PLUGIN", true),
        ] {
            assert_eq!(filter.keeps(path, name), is_kept, "{path}");
        }
    }

    #[test]
    fn an_entry_keeps_what_is_for_the_replica() {
        let filter = filter(&["ann/dev"]);
        let value = encode(&Value::Int(5));
        let one = ("ann/dev/.projects", "PROJNAMES", 3, Some(&value[..]));
        let other = ("bob/x/.projects", "PROJNAMES", -1, None);
        let apply =
            |changes: &[_]| filter.apply(&encode_entry(changes.iter().copied())).expect("an entry");
        assert_eq!(apply(&[one]), Left::All);
        assert_eq!(apply(&[]), Left::All);
        assert_eq!(apply(&[one, other]), Left::Some(encode_entry([one])));
        assert_eq!(apply(&[other]), Left::Nothing);
        assert!(filter.apply(b"x").is_err());
    }

    #[test]
    fn a_folder_keeps_its_filter() {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, writer) = crate::store::open(dir.path(), 1).expect("opens");
        let (one, two) = (filter(&["ann/dev"]), filter(&["ann/dev", "bob/x"]));
        let settle = |asked: Option<&Filter>| Filter::settle(&writer, asked.cloned());
        assert_eq!(settle(None).expect("nothing"), None);
        for asked in [&two, &one] {
            assert_eq!(settle(Some(asked)).expect("is empty").as_ref(), Some(asked));
        }
        let entry = encode_entry([("ann/dev/.projects", "PROJNAMES", -1, None)]);
        writer.apply(&[(Serial::FIRST, entry.clone())], None, &|_| true).expect("applies");
        assert_eq!(settle(None).expect("the same").as_ref(), Some(&one));
        assert_eq!(settle(Some(&one)).expect("the same").as_ref(), Some(&one));
        let refused = settle(Some(&two)).expect_err("wider");
        assert!(refused.message.contains("replicates ann/dev (up to serial 0)"), "{refused}");
        assert_eq!(Filter::recorded(&store).expect("reads"), Some(one.clone()));

        let dir = tempfile::tempdir().expect("a folder");
        let (_store, writer) = crate::store::open(dir.path(), 1).expect("opens");
        writer.apply(&[(Serial::FIRST, entry)], None, &|_| true).expect("applies");
        let refused = Filter::settle(&writer, Some(one)).expect_err("narrower");
        assert!(refused.message.contains("replicates all indexes"), "{refused}");
    }
}
