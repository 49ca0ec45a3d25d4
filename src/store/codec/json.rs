//! `Value` <-> JSON, as requests bring it and answers show it.

use serde_json::{Map, Number, Value as Json};

use super::Value;
use crate::error::{Error, Result};

/// How deep JSON may nest; what the store wraps around it stays below the codec's own limit.
const JSON_DEPTH_MAX: usize = 150;

impl Value {
    /// As JSON. Tuples and sets become arrays, the latter sorted; integers beyond 64 bits and bytes become text, keys
    /// that are no text the JSON text of theirs; what JSON has no number for becomes null.
    pub fn to_json(&self) -> Json {
        match self {
            Self::None => Json::Null,
            Self::Bool(flag) => Json::Bool(*flag),
            Self::Int(number) => Json::from(*number),
            Self::BigInt(text) => match (text.parse::<u64>(), text.parse::<i64>()) {
                (Ok(number), _) => Json::from(number),
                (_, Ok(number)) => Json::from(number),
                _ => Json::from(text.as_str()),
            },
            Self::Float(number) => float(*number),
            Self::Complex(real, imaginary) => Json::Array(vec![float(*real), float(*imaginary)]),
            Self::Bytes(bytes) => Json::from(String::from_utf8_lossy(bytes)),
            Self::Str(text) => Json::from(text.as_str()),
            Self::List(items) | Self::Tuple(items) => items.iter().map(Self::to_json).collect(),
            Self::Set(items) | Self::FrozenSet(items) => sorted(items),
            Self::Dict(items) => items
                .iter()
                .map(|(key, value)| (key_text(key), value.to_json()))
                .collect::<Map<_, _>>()
                .into(),
        }
    }

    /// From JSON; objects keep their order.
    ///
    /// # Errors
    /// `Kind::Invalid` for an integer below -2^31, which no Python writer can put on the wire, and for values
    /// nested too deep.
    pub fn from_json(json: &Json) -> Result<Self> {
        from_json(json, 0)
    }
}

fn from_json(json: &Json, depth: usize) -> Result<Value> {
    if depth > JSON_DEPTH_MAX {
        return Err(Error::invalid("the JSON is nested too deep"));
    }
    Ok(match json {
        Json::Null => Value::None,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => from_number(number)?,
        Json::String(text) => Value::str(text.as_str()),
        Json::Array(items) => {
            Value::List(items.iter().map(|item| from_json(item, depth + 1)).collect::<Result<_>>()?)
        }
        Json::Object(items) => Value::Dict(
            items
                .iter()
                .map(|(key, item)| Ok((Value::str(key.as_str()), from_json(item, depth + 1)?)))
                .collect::<Result<_>>()?,
        ),
    })
}

fn from_number(number: &Number) -> Result<Value> {
    if let Some(number) = number.as_i64() {
        if number < i64::from(i32::MIN) {
            return Err(Error::invalid(format!(
                "the integer {number} is too small, -2147483648 is the least"
            )));
        }
        return Ok(Value::int(number));
    }
    if let Some(number) = number.as_u64() {
        return Ok(Value::BigInt(number.to_string()));
    }
    let float = number.as_f64().ok_or_else(|| Error::invalid(format!("{number} is no number")))?;
    Ok(Value::Float(float))
}

fn float(number: f64) -> Json {
    Number::from_f64(number).map_or(Json::Null, Json::Number)
}

fn sorted(items: &[Value]) -> Json {
    let mut items: Vec<_> = items.iter().map(Value::to_json).collect();
    items.sort_by_cached_key(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned));
    Json::Array(items)
}

fn key_text(key: &Value) -> String {
    key.as_str().map_or_else(|| key.to_json().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::Kind;

    #[test]
    fn json_comes_back_as_it_was() {
        let json = json!({"b": [1, -1, 2147483648u64, u64::MAX, 1.5, null, true], "a": {"x": {}}, "c": "R\u{2603}"});
        let value = Value::from_json(&json).expect("valid");
        assert_eq!(value.to_json().to_string(), json.to_string());
        assert_eq!(
            value.get("b").and_then(Value::as_list).map(|b| b[2].clone()),
            Some(Value::int(1 << 31))
        );
    }

    #[test]
    fn integers_that_python_cannot_write_are_refused() {
        assert_eq!(
            Value::from_json(&json!(-2147483648i64)).expect("the least"),
            Value::Int(i32::MIN)
        );
        let error = Value::from_json(&json!({"a": [-2147483649i64]})).expect_err("too small");
        assert_eq!(error.kind, Kind::Invalid);
    }

    #[test]
    fn sets_are_sorted_and_keys_are_text() {
        let value = Value::Dict(vec![
            (Value::Int(1), Value::set(["b", "a"])),
            (Value::tuple([Value::str("x")]), Value::Float(f64::NAN)),
        ]);
        assert_eq!(value.to_json(), json!({"1": ["a", "b"], "[\"x\"]": null}));
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = (0..=JSON_DEPTH_MAX).fold(json!(1), |inner, _| json!([inner]));
        assert!(Value::from_json(&deep).is_err());
    }
}
