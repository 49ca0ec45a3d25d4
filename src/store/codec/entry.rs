//! Changelog entries as bytes: taking them apart and putting them together without building values.

use std::collections::HashSet;

use super::walk::{DICT, LIST, Op, PUT, STOP, TUPLE, TopType, Walker};
use super::{encode_into, write};
use crate::error::{Error, Result};
use crate::serial::Serial;
use crate::store::codec::Value;

/// One change of an entry; everything points into the entry's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawChange<'a> {
    /// The path of the key.
    pub path: &'a str,
    /// The name of the kind of key.
    pub keyname: &'a str,
    /// The serial that changed this key before; -1 if none did.
    pub back_serial: i64,
    /// The encoded value without a stop; `None` if the key was deleted.
    pub value: Option<&'a [u8]>,
    /// The type of the value.
    pub value_kind: TopType,
}

/// A changelog entry, checked and taken apart.
#[derive(Clone, Debug)]
pub struct RawEntry<'a> {
    changes: Vec<RawChange<'a>>,
    files: Vec<&'a str>,
    changes_bytes: &'a [u8],
}

impl<'a> RawEntry<'a> {
    /// Takes apart the bytes of one entry with its stop.
    ///
    /// # Errors
    /// `Kind::Invalid` if the bytes are not exactly one pair of a dict of changes and a list of files, or a path
    /// comes twice.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let Some((&STOP, bytes)) = bytes.split_last() else {
            return Err(Error::invalid("the entry has no stop at its end"));
        };
        let mut walker = Walker::new(bytes);
        let mut parser =
            Parser { bytes, change: None, changes: Vec::new(), files: Vec::new(), changes_end: 0 };
        walker.skip_leaves();
        while let Some(op) = walker.read()? {
            parser.see(&walker, &op)?;
            walker.apply(&op)?;
            walker.skip_leaves();
        }
        walker.finish()?;
        if parser.changes_end == 0 {
            return Err(walker.bad("the entry is no pair of changes and files"));
        }
        let Parser { changes, files, changes_end, .. } = parser;
        let mut paths = HashSet::with_capacity(changes.len());
        if let Some(twice) = changes.iter().find(|change| !paths.insert(change.path)) {
            return Err(Error::invalid(format!("the entry changes '{}' twice", twice.path)));
        }
        Ok(Self { changes, files, changes_bytes: &bytes[..changes_end] })
    }

    /// The changes in their order.
    pub fn changes(&self) -> impl ExactSizeIterator<Item = &RawChange<'a>> {
        self.changes.iter()
    }

    /// The list of files that devpi renames at the commit.
    pub fn files(&self) -> &[&'a str] {
        &self.files
    }

    /// The encoded dict of changes.
    pub fn changes_bytes(&self) -> &'a [u8] {
        self.changes_bytes
    }
}

/// Watches a walk over an entry. The stack tells where a step belongs: the dict of changes lies at its bottom, above it
/// a path with the parts of its tuple, or the list of files.
struct Parser<'a> {
    bytes: &'a [u8],
    change: Option<RawChange<'a>>,
    changes: Vec<RawChange<'a>>,
    files: Vec<&'a str>,
    changes_end: usize,
}

impl<'a> Parser<'a> {
    fn see(&mut self, walker: &Walker<'a>, op: &Op<'a>) -> Result<()> {
        let text = |from: usize, to: usize| {
            // the opcode and the length come before the text
            let text = self.bytes.get(from + 5..to).unwrap_or_default();
            std::str::from_utf8(text).map_err(|_| walker.bad("a text that is not UTF-8"))
        };
        // a change is put where it belongs at once, or it is a part of something else
        let last = self.change.take();
        match (op, walker.stack()) {
            (Op::Group(TopType::Tuple, 3), [_, path, name, back, value])
                if [path.kind, name.kind] == [TopType::Str, TopType::Str] =>
            {
                let back_serial = back.int().filter(|serial| *serial >= -1);
                let back_serial =
                    back_serial.ok_or_else(|| walker.bad("a back serial that is none"))?;
                let is_deleted = value.kind == TopType::None;
                self.change = Some(RawChange {
                    path: text(path.start, name.start)?,
                    keyname: text(name.start, back.start)?,
                    back_serial: i64::from(back_serial),
                    value: (!is_deleted).then(|| &self.bytes[value.start..walker.begin()]),
                    value_kind: value.kind,
                });
            }
            (Op::Put, [dict, _, _]) if dict.kind == TopType::Dict => {
                self.changes.push(last.ok_or_else(|| walker.bad("a change that is none"))?);
            }
            (Op::Put, [_, list, _, file]) if list.kind == TopType::List => {
                if file.kind != TopType::Str {
                    return Err(walker.bad("a file that is no text"));
                }
                self.files.push(text(file.start, walker.begin())?);
            }
            (Op::Group(TopType::Tuple, 2), [dict, list])
                if [dict.kind, list.kind] == [TopType::Dict, TopType::List]
                    && walker.at() == self.bytes.len() =>
            {
                self.changes_end = list.start;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Puts an entry together from encoded values, with no files, and with its stop. A `None` deletes the key.
pub fn encode_entry<'a>(
    changes: impl IntoIterator<Item = (&'a str, &'a str, i64, Option<&'a [u8]>)>,
) -> Vec<u8> {
    let mut out = vec![DICT];
    for (path, keyname, back_serial, value) in changes {
        write::str(&mut out, path);
        write::str(&mut out, keyname);
        encode_into(&mut out, &Value::int(back_serial));
        match value {
            Some(value) => out.extend_from_slice(value),
            None => encode_into(&mut out, &Value::None),
        }
        write::counted(&mut out, TUPLE, 3);
        out.push(PUT);
    }
    write::counted(&mut out, LIST, 0);
    write::counted(&mut out, TUPLE, 2);
    out.push(STOP);
    out
}

/// The bytes of a serial with their stop, as they come before an entry in a stream.
pub fn encode_serial(serial: Serial) -> [u8; 6] {
    let mut out = [super::walk::INT, 0, 0, 0, 0, STOP];
    out[1..5].copy_from_slice(&wire(serial).to_be_bytes());
    out
}

/// The answer that carries several entries in one dump: a list of pairs of serial and changes.
pub struct ListAnswer {
    out: Vec<u8>,
    count: usize,
}

impl Default for ListAnswer {
    fn default() -> Self {
        let mut out = Vec::new();
        write::counted(&mut out, LIST, 0);
        Self { out, count: 0 }
    }
}

impl ListAnswer {
    /// An answer with no entries yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a stored entry.
    ///
    /// # Errors
    /// `Kind::Invalid` if the bytes are no entry.
    pub fn push(&mut self, serial: Serial, entry: &[u8]) -> Result<()> {
        let entry = RawEntry::parse(entry)?;
        write::counted(&mut self.out, super::walk::INT, self.count);
        write::int(&mut self.out, wire(serial));
        self.out.extend_from_slice(entry.changes_bytes());
        write::counted(&mut self.out, TUPLE, 2);
        self.out.push(PUT);
        self.count += 1;
        Ok(())
    }

    /// How many bytes there are by now.
    pub fn size_bytes(&self) -> usize {
        self.out.len()
    }

    /// The bytes of the answer.
    pub fn finish(mut self) -> Vec<u8> {
        self.out[1..5].copy_from_slice(&write::count_bytes(self.count));
        self.out.push(STOP);
        self.out
    }
}

fn wire(serial: Serial) -> i32 {
    i32::try_from(serial.get()).expect("serials end below 2^31")
}

#[cfg(test)]
mod tests {
    use super::super::{dump, encode};
    use super::*;

    fn change(parts: &[Value]) -> Value {
        Value::dict([("a/.config", Value::tuple(parts.iter().cloned()))])
    }

    fn parse(changes: Value, files: Value) -> Result<usize> {
        RawEntry::parse(&dump(&Value::tuple([changes, files]))).map(|entry| entry.changes().len())
    }

    #[test]
    fn what_was_put_together_comes_apart() {
        let value =
            encode(&Value::tuple([Value::dict([("x", Value::tuple([]))]), Value::str("Q")]));
        let changes =
            [("a/.config", "USER", -1, Some(value.as_slice())), ("b/.config", "USER", 7, None)];
        let bytes = encode_entry(changes);
        let entry = RawEntry::parse(&bytes).expect("own bytes");
        let apart: Vec<_> =
            entry.changes().map(|c| (c.path, c.keyname, c.back_serial, c.value)).collect();
        assert_eq!(apart, changes);
        assert_eq!(
            entry.changes().map(|c| c.value_kind).collect::<Vec<_>>(),
            [TopType::Tuple, TopType::None]
        );
        assert!(RawEntry::parse(&encode_entry([])).expect("empty").files().is_empty());
    }

    #[test]
    fn other_shapes_are_refused() {
        let text = Value::str("USER");
        let good = [text.clone(), Value::Int(0), Value::Int(5)];
        assert_eq!(parse(change(&good), Value::list([Value::str("f")])).expect("good"), 1);
        for bad in [
            &[text.clone(), Value::Int(0)][..],
            &[text.clone(), Value::Int(-2), Value::Int(5)],
            &[text.clone(), text.clone(), Value::Int(5)],
            &[Value::Int(0), Value::Int(0), Value::Int(5)],
        ] {
            assert!(parse(change(bad), Value::list([])).is_err(), "{bad:?}");
        }
        assert!(parse(change(&good), Value::tuple([])).is_err());
        assert!(parse(change(&good), Value::list([Value::Int(1)])).is_err());
        assert!(parse(Value::dict([("a", Value::Int(1))]), Value::list([])).is_err());
        assert!(parse(Value::list([]), Value::list([])).is_err());
        assert!(RawEntry::parse(&dump(&change(&good))).is_err());
        assert!(RawEntry::parse(b"").is_err());
    }

    #[test]
    fn a_path_comes_once() {
        let twice = encode_entry([("a", "USER", -1, None), ("a", "USER", -1, None)]);
        assert!(RawEntry::parse(&twice).is_err());
    }

    #[test]
    fn a_tuple_of_three_inside_a_value_is_no_change() {
        let inner = Value::tuple([Value::str("USER"), Value::Int(-1), Value::Int(3)]);
        assert!(parse(change(std::slice::from_ref(&inner)), Value::list([])).is_err());
        let value = encode(&Value::list([inner.clone(), Value::dict([("USER", inner)])]));
        let bytes = encode_entry([("p", "K", -1, Some(value.as_slice()))]);
        let entry = RawEntry::parse(&bytes).expect("valid");
        assert_eq!(entry.changes().map(|c| c.value).collect::<Vec<_>>(), [Some(value.as_slice())]);
    }
}
