//! devpi's wire bytes <-> `Value`. Pure; the format is spec/replication-wire.md section 1.

use crate::error::Result;

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
pub fn encode(_value: &Value) -> Vec<u8> {
    Vec::new()
}

/// Reads one value written by `encode`; it must end where the bytes end.
///
/// # Errors
/// `Kind::Invalid` if the bytes are not exactly one value.
pub fn decode(_bytes: &[u8]) -> Result<Value> {
    Ok(Value::None)
}
