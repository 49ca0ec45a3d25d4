//! The types of stored values. Each keeps fields that it does not know, so that nothing is lost when a value that
//! another server wrote is changed and stored again.

use crate::error::{Error, Result};

use super::codec::{self, Value};

/// A value that can be stored under a key.
pub trait Record: Sized {
    /// Reads the stored bytes.
    ///
    /// # Errors
    /// `Kind::Invalid` if they are no such value.
    fn decode(bytes: &[u8]) -> Result<Self>;
    /// The bytes to store.
    fn encode(&self) -> Vec<u8>;
}

/// A dict with text keys, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dict(pub Vec<(String, Value)>);

impl Dict {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }
    /// From a value that is a dict with text keys.
    pub fn from_value(value: Value) -> Option<Self> {
        let Value::Dict(items) = value else { return None };
        let text_key = |(key, value)| match key {
            Value::Str(key) => Some((key, value)),
            _ => None,
        };
        items.into_iter().map(text_key).collect::<Option<_>>().map(Self)
    }
    /// As a value.
    pub fn into_value(self) -> Value {
        Value::Dict(self.0.into_iter().map(|(k, v)| (Value::Str(k), v)).collect())
    }
    /// The value under a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }
    /// The value under a key, to change.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.0.iter_mut().find(|(k, _)| k == key).map(|(_, v)| v)
    }
    /// The text under a key.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Value::Str(text)) => Some(text),
            _ => None,
        }
    }
    /// The dict under a key, copied.
    pub fn dict(&self, key: &str) -> Option<Self> {
        self.get(key).cloned().and_then(Self::from_value)
    }
    /// The elements under a key: of a list, a tuple or a set; empty when there are none.
    pub fn items(&self, key: &str) -> &[Value] {
        match self.get(key) {
            Some(Value::List(v) | Value::Tuple(v) | Value::Set(v) | Value::FrozenSet(v)) => v,
            _ => &[],
        }
    }
    /// The text elements under a key.
    pub fn texts(&self, key: &str) -> Vec<&str> {
        self.items(key).iter().filter_map(Value::as_str).collect()
    }
    /// The truth under a key.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key) {
            Some(Value::Bool(flag)) => Some(*flag),
            _ => None,
        }
    }
    /// The whole number under a key.
    pub fn integer(&self, key: &str) -> Option<i64> {
        match self.get(key) {
            Some(Value::Int(number)) => Some(i64::from(*number)),
            Some(Value::BigInt(number)) => number.parse().ok(),
            _ => None,
        }
    }
    /// Sets a key, at its place if it is there, else at the end.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        match self.get_mut(key) {
            Some(place) => *place = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }
    /// Takes a key out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.0.iter().position(|(k, _)| k == key)?;
        Some(self.0.remove(at).1)
    }
    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(k, _)| k.as_str())
    }
}

impl Record for Dict {
    fn decode(bytes: &[u8]) -> Result<Self> {
        Self::from_value(codec::decode(bytes)?)
            .ok_or_else(|| Error::invalid("the value is not a dict"))
    }
    fn encode(&self) -> Vec<u8> {
        codec::encode_dict(&self.0)
    }
}

/// A set of names, in the order of arrival.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NameSet(pub Vec<String>);

impl NameSet {
    /// Whether it holds the name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|n| n == name)
    }
    /// Takes a name out; false if it was not in.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|n| n != name);
        self.0.len() < before
    }
}

impl Record for NameSet {
    fn decode(bytes: &[u8]) -> Result<Self> {
        let Value::Set(items) = codec::decode(bytes)? else {
            return Err(Error::invalid("the value is not a set"));
        };
        let text = |item| match item {
            Value::Str(text) => Ok(text),
            _ => Err(Error::invalid("a set holds something that is not text")),
        };
        items.into_iter().map(text).collect::<Result<_>>().map(Self)
    }
    fn encode(&self) -> Vec<u8> {
        codec::encode(&Value::Set(self.0.iter().cloned().map(Value::Str).collect()))
    }
}

/// A number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Number(pub i64);

impl Record for Number {
    fn decode(bytes: &[u8]) -> Result<Self> {
        let number = codec::decode(bytes)?.as_i64();
        number.map(Self).ok_or_else(|| Error::invalid("the value is not a number"))
    }
    fn encode(&self) -> Vec<u8> {
        codec::encode(&Value::int(self.0))
    }
}

/// One link of a simple page.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// The file's name.
    pub name: String,
    /// The file's path with its hash: `user/index/+f/abc/0123456789abc/name#sha256=hex`.
    pub href: String,
    /// What Python it asks for; empty and `None` both mean anything.
    pub requires_python: Option<String>,
    /// Mirrors: `None` is not yanked.
    pub yanked: Value,
}

impl Link {
    /// The path without the hash.
    pub fn path(&self) -> &str {
        self.href.split_once('#').map_or(self.href.as_str(), |(path, _)| path)
    }
    /// `(type, hex)` of the hash, when there is one.
    pub fn hash(&self) -> Option<(&str, &str)> {
        self.href.split_once('#')?.1.split_once('=')
    }
}

/// The links of a project on one index (spec/replication-wire.md 2.3).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Links {
    /// The links, in stored order.
    pub links: Vec<Link>,
    /// The other fields: `etag` and `serial` of mirrors.
    pub rest: Dict,
    is_mirror: bool,
}

impl Links {
    /// Links of a stage.
    pub fn of_stage(links: Vec<Link>) -> Self {
        Self { links, ..Self::default() }
    }
    /// Links of a mirror, with what else is known of the page.
    pub fn of_mirror(links: Vec<Link>, rest: Dict) -> Self {
        Self { links, rest, is_mirror: true }
    }
    /// Whether a mirror holds the page: devpi leaves an empty value behind when it cleared its cache.
    pub fn is_of_mirror(&self) -> bool {
        self.is_mirror
    }
}

impl Record for Links {
    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut dict = Dict::decode(bytes)?;
        let list = |dict: &mut Dict, key| match dict.remove(key) {
            Some(Value::List(items) | Value::Tuple(items)) => items,
            _ => Vec::new(),
        };
        let is_mirror = dict.get("yanked").is_some() || dict.get("serial").is_some();
        let links = list(&mut dict, "links");
        let mut requires_python = list(&mut dict, "requires_python").into_iter();
        let mut yanked = list(&mut dict, "yanked").into_iter();
        let link = |item| {
            let (Value::Tuple(pair) | Value::List(pair)) = item else { return None };
            let Ok([Value::Str(name), Value::Str(href)]) = <[Value; 2]>::try_from(pair) else {
                return None;
            };
            let requires_python = match requires_python.next() {
                Some(Value::Str(text)) => Some(text),
                _ => None,
            };
            Some(Link { name, href, requires_python, yanked: yanked.next().unwrap_or(Value::None) })
        };
        let links = links
            .into_iter()
            .map(link)
            .collect::<Option<_>>()
            .ok_or_else(|| Error::invalid("a link is not a pair of texts"))?;
        Ok(Self { links, rest: dict, is_mirror })
    }
    fn encode(&self) -> Vec<u8> {
        let text = |text: &str| Value::Str(text.to_owned());
        let pair = |l: &Link| Value::Tuple(vec![text(&l.name), text(&l.href)]);
        let python = |l: &Link| l.requires_python.as_deref().map_or(Value::None, text);
        let mut dict = self.rest.clone();
        dict.set("links", Value::List(self.links.iter().map(pair).collect()));
        dict.set("requires_python", Value::List(self.links.iter().map(python).collect()));
        if self.is_mirror {
            dict.set("yanked", Value::List(self.links.iter().map(|l| l.yanked.clone()).collect()));
        }
        dict.encode()
    }
}

impl From<Dict> for Value {
    fn from(dict: Dict) -> Self {
        dict.into_value()
    }
}

impl From<Vec<String>> for Value {
    fn from(texts: Vec<String>) -> Self {
        Self::List(texts.into_iter().map(Self::Str).collect())
    }
}
