//! devpi's wire bytes <-> `Value`, and work on the bytes themselves where a `Value` would be waste.
//!
//! A value is written for a stack machine: opcodes of one byte push what follows them; a tuple or a set comes after
//! its elements, a dict or a list before its items. Stored values carry no final stop; entries of the changelog do.
//! Everything that reads goes through `walk`, so all readers accept the same bytes. Hostile bytes cost memory in
//! proportion to their number at most.

mod entry;
mod frame;
mod json;
#[cfg(test)]
mod props;
mod splice;
mod value;
mod walk;
mod write;

use std::collections::HashMap;

use crate::error::{Error, Result};

pub use entry::{ListAnswer, RawChange, RawEntry, encode_entry, encode_serial};
pub use frame::{FRAME_BYTES_MAX, FrameReader};
pub use splice::{
    dict_get_raw, dict_items, dict_set_raw, list_items, list_len, list_push_known, list_push_raw,
    pair_push, replace, set_insert_str, set_strs,
};
pub use walk::{DEPTH_MAX, TopType, top_type};

use walk::{Leaf, Op, Walker};

/// A value as Python would have it. Dicts and sets keep their order of arrival; order means nothing but is kept so
/// that bytes survive a round trip.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`
    None,
    /// `True`, `False`
    Bool(bool),
    /// Fits in 4 bytes signed on the wire; larger ones are `BigInt`
    Int(i32),
    /// Above 2^31-1: decimal text
    BigInt(String),
    /// `float`
    Float(f64),
    /// `complex`
    Complex(f64, f64),
    /// `bytes`
    Bytes(Vec<u8>),
    /// `str`
    Str(String),
    /// `list`
    List(Vec<Value>),
    /// `tuple`
    Tuple(Vec<Value>),
    /// `dict`
    Dict(Vec<(Value, Value)>),
    /// `set`
    Set(Vec<Value>),
    /// `frozenset`
    FrozenSet(Vec<Value>),
}

/// The bytes of one value without the final stop.
pub fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    encode_into(&mut out, value);
    out
}

/// The bytes of a dict with text keys, without the final stop.
pub fn encode_dict(items: &[(String, Value)]) -> Vec<u8> {
    let mut out = Vec::new();
    write::text_dict(&mut out, items);
    out
}

/// Appends the bytes of one value without the final stop.
pub fn encode_into(out: &mut Vec<u8>, value: &Value) {
    write::value(out, value);
}

/// The bytes of one value with the final stop.
pub fn dump(value: &Value) -> Vec<u8> {
    let mut out = encode(value);
    out.push(walk::STOP);
    out
}

/// Reads one value written by `encode`; it must end where the bytes end.
///
/// # Errors
/// `Kind::Invalid` if the bytes are not exactly one value.
pub fn decode(bytes: &[u8]) -> Result<Value> {
    let mut walker = Walker::new(bytes);
    let mut builder = Builder::default();
    while let Some(op) = walker.read()? {
        walker.apply(&op)?;
        builder.apply(op);
    }
    walker.finish()?;
    builder.finish()
}

/// Reads one value written by `dump`; what follows the stop is ignored, as Python does.
///
/// # Errors
/// `Kind::Invalid` if the bytes do not begin with a value and its stop.
pub fn load(bytes: &[u8]) -> Result<Value> {
    let mut walker = Walker::new(bytes);
    let mut builder = Builder::default();
    while let Some(op) = walker.read()? {
        if matches!(op, Op::Stop) {
            walker.finish()?;
            return builder.finish();
        }
        walker.apply(&op)?;
        builder.apply(op);
    }
    Err(Error::invalid("the bytes end before their stop"))
}

/// From how many items on a dict is searched by hash while it is read.
const HASHED_FROM: usize = 16;

/// The values that correspond to the walker's stack. The walker has checked each step before it comes here.
#[derive(Default)]
struct Builder {
    stack: Vec<Node>,
}

enum Node {
    Done(Value),
    Dict(Box<DictNode>),
}

/// A dict that may still get items: a key that comes again replaces the value, as in Python.
#[derive(Default)]
struct DictNode {
    items: Vec<(Value, Value)>,
    places: HashMap<Vec<u8>, usize>,
}

impl Builder {
    fn apply(&mut self, op: Op<'_>) {
        let value = match op {
            Op::Leaf(leaf) => leaf.into_value(),
            Op::List(length) => Value::List(vec![Value::None; length]),
            Op::Dict => return self.stack.push(Node::Dict(Box::default())),
            Op::Put => return self.put(),
            Op::Group(kind, count) => self.group(kind, count),
            Op::Stop => return,
        };
        self.stack.push(Node::Done(value));
    }

    fn group(&mut self, kind: TopType, count: usize) -> Value {
        let from = self.stack.len() - count;
        let items = self.stack.drain(from..).map(Node::finish).collect();
        match kind {
            TopType::Set => Value::Set(items),
            TopType::FrozenSet => Value::FrozenSet(items),
            _ => Value::Tuple(items),
        }
    }

    fn put(&mut self) {
        let value = self.stack.pop().map(Node::finish);
        let key = self.stack.pop().map(Node::finish);
        match (self.stack.last_mut(), key, value) {
            (Some(Node::Dict(dict)), Some(key), Some(value)) => dict.put(key, value),
            (Some(Node::Done(Value::List(items))), Some(Value::Int(index)), Some(value)) => {
                if let Some(place) = usize::try_from(index).ok().and_then(|i| items.get_mut(i)) {
                    *place = value;
                }
            }
            _ => unreachable!("the walker refuses such a step"),
        }
    }

    fn finish(mut self) -> Result<Value> {
        let value = self.stack.pop().map(Node::finish);
        value.ok_or_else(|| Error::invalid("there is no value"))
    }
}

impl Node {
    fn finish(self) -> Value {
        match self {
            Self::Done(value) => value,
            Self::Dict(dict) => Value::Dict(dict.items),
        }
    }
}

impl DictNode {
    fn put(&mut self, key: Value, value: Value) {
        match self.place_of(&key) {
            Some(place) => self.items[place].1 = value,
            None => self.items.push((key, value)),
        }
    }

    /// Where the key stands; a new one of a large dict is remembered to stand at the end.
    fn place_of(&mut self, key: &Value) -> Option<usize> {
        if self.items.len() < HASHED_FROM {
            return self.items.iter().position(|(known, _)| known == key);
        }
        for (place, (known, _)) in self.items.iter().enumerate().skip(self.places.len()) {
            self.places.insert(encode(known), place);
        }
        self.places.get(&encode(key)).copied()
    }
}

impl Leaf<'_> {
    fn into_value(self) -> Value {
        match self {
            Self::None => Value::None,
            Self::Bool(flag) => Value::Bool(flag),
            Self::Int(number) => Value::Int(number),
            Self::Digits(text) => Value::from_digits(text),
            Self::Float(number) => Value::Float(number),
            Self::Complex(real, imaginary) => Value::Complex(real, imaginary),
            Self::Bytes(bytes) => Value::Bytes(bytes.to_vec()),
            Self::Str(text) => Value::Str(text.to_owned()),
        }
    }
}
