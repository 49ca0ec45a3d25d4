//! The opcodes as a Python writer puts them.

use super::Value;
use super::walk::{
    BYTES, COMPLEX, DICT, DIGITS, FALSE, FLOAT, FROZENSET, INT, LIST, NONE, PUT, SET, STR, TRUE,
    TUPLE,
};

pub(super) fn value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::None => out.push(NONE),
        Value::Bool(flag) => out.push(if *flag { TRUE } else { FALSE }),
        Value::Int(number) => int(out, *number),
        Value::BigInt(text) => sized(out, DIGITS, text.as_bytes()),
        Value::Float(number) => {
            out.push(FLOAT);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Complex(real, imaginary) => {
            out.push(COMPLEX);
            out.extend_from_slice(&real.to_be_bytes());
            out.extend_from_slice(&imaginary.to_be_bytes());
        }
        Value::Bytes(bytes) => sized(out, BYTES, bytes),
        Value::Str(text) => str(out, text),
        Value::List(items) => list(out, items),
        Value::Tuple(items) => group(out, TUPLE, items),
        Value::Set(items) => group(out, SET, items),
        Value::FrozenSet(items) => group(out, FROZENSET, items),
        Value::Dict(items) => dict(out, items),
    }
}

fn dict(out: &mut Vec<u8>, items: &[(Value, Value)]) {
    out.push(DICT);
    for (key, item) in items {
        value(out, key);
        value(out, item);
        out.push(PUT);
    }
}

pub(super) fn text_dict(out: &mut Vec<u8>, items: &[(String, Value)]) {
    out.push(DICT);
    for (key, item) in items {
        str(out, key);
        value(out, item);
        out.push(PUT);
    }
}

fn list(out: &mut Vec<u8>, items: &[Value]) {
    counted(out, LIST, items.len());
    for (index, item) in items.iter().enumerate() {
        counted(out, INT, index);
        value(out, item);
        out.push(PUT);
    }
}

fn group(out: &mut Vec<u8>, code: u8, items: &[Value]) {
    for item in items {
        value(out, item);
    }
    counted(out, code, items.len());
}

pub(super) fn int(out: &mut Vec<u8>, number: i32) {
    out.push(INT);
    out.extend_from_slice(&number.to_be_bytes());
}

pub(super) fn str(out: &mut Vec<u8>, text: &str) {
    sized(out, STR, text.as_bytes());
}

fn sized(out: &mut Vec<u8>, code: u8, bytes: &[u8]) {
    counted(out, code, bytes.len());
    out.extend_from_slice(bytes);
}

/// An opcode with a count or a length.
pub(super) fn counted(out: &mut Vec<u8>, code: u8, count: usize) {
    out.push(code);
    out.extend_from_slice(&count_bytes(count));
}

/// The 4 bytes of a count or a length.
pub(super) fn count_bytes(count: usize) -> [u8; 4] {
    i32::try_from(count).expect("request limits keep every value far below 2 GiB").to_be_bytes()
}
