//! The codec against bytes that a real devpi-server 6.20.3 wrote. `tests/data/vectors` holds a log of 50 entries
//! with their decoded forms, the first entry of a default initialisation, single values, and tokens.

use std::path::PathBuf;

use serde_json::{Value as Json, json};

use twinpi::secret::{
    Argon2Cost, DevpiKey, LoginClaim, Salt, Secret, TokenFault, login_token, read_login_token,
    read_replica_token, replica_token,
};
use twinpi::serial::Serial;
use twinpi::store::codec::{self, FrameReader, ListAnswer, RawEntry, TopType, Value};

const ENTRIES: usize = 50;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/vectors")
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn read_json(name: &str) -> Json {
    serde_json::from_slice(&bytes(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Each entry with its decoded form.
fn log() -> Vec<(String, Vec<u8>, Json)> {
    let numbered = (0..ENTRIES).map(|n| (format!("changelog-{n:04}.bin"), format!("{n:04}.json")));
    let fresh = ("fresh-default-0000.bin".to_owned(), "fresh-default-0000.json".to_owned());
    numbered
        .chain([fresh])
        .map(|(bin, json)| (bin.clone(), bytes(&bin), read_json(&json)["entry"].clone()))
        .collect()
}

/// The value in the notation of the vectors: tags for what JSON lacks.
fn tagged(value: &Value) -> Json {
    let all = |items: &[Value]| items.iter().map(tagged).collect::<Json>();
    match value {
        Value::None => Json::Null,
        Value::Bool(flag) => json!(flag),
        Value::Int(number) => json!(number),
        Value::BigInt(text) => serde_json::from_str(text).expect("digits"),
        Value::Float(number) => json!(number),
        Value::Complex(real, imaginary) => json!({"__complex__": [real, imaginary]}),
        Value::Bytes(bytes) => json!({"__bytes__": hex(bytes)}),
        Value::Str(text) => json!(text),
        Value::List(items) => all(items),
        Value::Tuple(items) => json!({"__tuple__": all(items)}),
        Value::Set(items) => json!({"__set__": all(items)}),
        Value::FrozenSet(items) => json!({"__frozenset__": all(items)}),
        Value::Dict(items) if items.iter().all(|(key, _)| key.as_str().is_some()) => {
            let item = |(key, value): &(Value, Value)| {
                (key.as_str().expect("checked").to_owned(), tagged(value))
            };
            Json::Object(items.iter().map(item).collect())
        }
        Value::Dict(items) => {
            json!({"__dict__": items.iter().map(|(k, v)| json!([tagged(k), tagged(v)])).collect::<Json>()})
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &Json) -> Vec<u8> {
    let text = text.as_str().expect("hex");
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex"))
        .collect()
}

#[test]
fn entries_decode_to_their_form_and_encode_to_their_bytes() {
    for (name, bytes, expected) in log() {
        let value = codec::load(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        // as text, since the order of keys counts
        assert_eq!(tagged(&value).to_string(), expected.to_string(), "{name}");
        assert_eq!(codec::dump(&value), bytes, "{name}");
        assert_eq!(codec::decode(&bytes[..bytes.len() - 1]).expect("no stop"), value, "{name}");
        assert!(codec::decode(&bytes).is_err(), "{name}: the stop is no part of the value");
    }
}

#[test]
fn raw_entries_tell_the_same_as_decoded_ones() {
    for (name, bytes, expected) in log() {
        let entry = RawEntry::parse(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut changes = serde_json::Map::new();
        for change in entry.changes() {
            let value = change.value.map_or(Value::None, |v| codec::decode(v).expect("a value"));
            let kind = match value {
                Value::Dict(_) => TopType::Dict,
                Value::Set(_) => TopType::Set,
                Value::Int(_) => TopType::Int,
                Value::None => TopType::None,
                other => panic!("{name}: {other:?}"),
            };
            assert_eq!(change.value_kind, kind, "{name}");
            let parts = json!({"__tuple__": [change.keyname, change.back_serial, tagged(&value)]});
            changes.insert(change.path.to_owned(), parts);
        }
        let whole = json!({"__tuple__": [changes, entry.files()]});
        assert_eq!(whole.to_string(), expected.to_string(), "{name}");
    }
}

#[test]
fn entries_are_put_together_again_from_their_parts() {
    for (name, bytes, _) in log() {
        let entry = RawEntry::parse(&bytes).expect("valid");
        let parts = entry.changes().map(|c| (c.path, c.keyname, c.back_serial, c.value));
        let again = codec::encode_entry(parts);
        let whole = codec::load(&bytes).expect("valid");
        let changes = whole.as_list().expect("a pair")[0].clone();
        // the file list is the one part that is not carried over
        assert_eq!(again, codec::dump(&Value::tuple([changes, Value::list([])])), "{name}");
        if entry.files().is_empty() {
            assert_eq!(again, bytes, "{name}");
        }
    }
}

#[test]
fn a_list_answer_is_one_dump_of_serials_and_changes() {
    let mut answer = ListAnswer::new();
    let mut expected = Vec::new();
    for (n, (_, bytes, _)) in log().into_iter().take(ENTRIES).enumerate() {
        let serial = Serial::new(n as u64).expect("small");
        answer.push(serial, &bytes).expect("valid");
        let whole = codec::load(&bytes).expect("valid");
        let changes = whole.as_list().expect("a pair")[0].clone();
        expected.push(Value::tuple([Value::int(n as i64), changes]));
    }
    assert_eq!(answer.finish(), codec::dump(&Value::List(expected)));
    assert_eq!(ListAnswer::new().finish(), codec::dump(&Value::list([])));
}

#[test]
fn a_stream_gives_back_serials_and_entries() {
    let log = log();
    let mut stream = Vec::new();
    for (n, (_, bytes, _)) in log.iter().enumerate() {
        stream.extend_from_slice(&codec::encode_serial(Serial::new(n as u64).expect("small")));
        stream.extend_from_slice(bytes);
    }
    let mut reader = FrameReader::new(stream.as_slice());
    for (n, (name, bytes, _)) in log.iter().enumerate() {
        let (serial, entry) = reader.next_entry().expect("whole").expect("not the end");
        assert_eq!((serial, &entry), (n as i64, bytes), "{name}");
    }
    assert_eq!(reader.next_entry().expect("whole"), None);
}

#[test]
fn single_values_are_written_and_read_as_python_does() {
    let dumps = read_json("dumps.json");
    for case in dumps["dump_and_load"].as_array().expect("cases") {
        let (name, bytes) = (&case["name"], unhex(&case["hex"]));
        let value = codec::load(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(tagged(&value).to_string(), case["value"].to_string(), "{name}");
        assert_eq!(codec::dump(&value), bytes, "{name}");
        let trailing = [bytes.as_slice(), b"Zjunk"].concat();
        assert_eq!(codec::load(&trailing).expect("trailing bytes are ignored"), value, "{name}");
    }
    for case in dumps["load_only"].as_array().expect("cases") {
        let value = codec::load(&unhex(&case["hex"])).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_eq!(tagged(&value).to_string(), case["value"].to_string(), "{case}");
    }
}

#[test]
fn what_python_refuses_is_refused() {
    let dumps = read_json("dumps.json");
    let cases = dumps["load_errors"].as_array().expect("cases");
    assert!(!cases.is_empty());
    for case in cases {
        assert!(codec::load(&unhex(&case["hex"])).is_err(), "{case}");
    }
    assert!(Value::from_json(&json!(-2147483649i64)).is_err());
}

#[test]
fn hostile_bytes_are_refused_cheaply() {
    let deep =
        |n: usize| [b"K\0\0\0\x01F\0\0\0\0".repeat(n), b"L".to_vec(), b"P".repeat(n)].concat();
    assert!(codec::decode(&deep(usize::from(codec::DEPTH_MAX))).is_ok());
    assert!(codec::decode(&deep(usize::from(codec::DEPTH_MAX) + 1)).is_err());
    let cases: [&[u8]; 12] = [
        b"K\x7f\xff\xff\xff",
        b"K\xff\xff\xff\xff",
        b"N\x7f\xff\xff\xffabc",
        b"N\xff\xff\xff\xff",
        b"@\0\0\0\x01",
        b"N\0\0\0\x02\xff\xfe",
        b"H\0\0\0\0",
        b"H\0\0\0\x021_",
        b"JJLP",
        b"J@\0\0\0\0L@\0\0\0\x01LPP",
        b"JO\0\0\0\x01",
        b"LLLP",
    ];
    for bytes in cases {
        assert!(codec::decode(bytes).is_err(), "{bytes:?}");
    }
    // each of many lists claims what the whole could hold
    let claims = b"K\0\0\x10\0".repeat(10_000);
    assert!(codec::decode(&claims).is_err());
}

#[test]
fn a_key_that_comes_again_replaces_the_value() {
    for size in [2, 40] {
        let key = |i: usize| codec::encode(&Value::str(format!("k{i}")));
        let item =
            |i: usize, n: i64| [key(i), codec::encode(&Value::int(n)), b"P".to_vec()].concat();
        let mut bytes = b"J".to_vec();
        (0..size).for_each(|i| bytes.extend(item(i, 0)));
        bytes.extend(item(1, 5));
        let value = codec::decode(&bytes).expect("valid");
        assert_eq!(value.as_dict().map(<[_]>::len), Some(size));
        assert_eq!(value.get("k1"), Some(&Value::Int(5)));
        let span = codec::dict_get_raw(&bytes, "k1").expect("a dict").expect("there");
        assert_eq!(&bytes[span], codec::encode(&Value::Int(5)));
    }
}

/// One signed token of the vectors.
struct Signed {
    key: DevpiKey,
    object: Json,
    time: u64,
    token: String,
}

fn tokens(is_wanted: impl Fn(&Json) -> bool) -> Vec<Signed> {
    let tokens = read_json("auth-tokens.json")["tokens"].take();
    let cases = tokens.as_array().expect("cases").iter().filter(|case| is_wanted(&case["object"]));
    let signed: Vec<_> = cases
        .map(|case| Signed {
            key: DevpiKey::new(unhex(&case["derived_key_hex"]).try_into().expect("16 bytes")),
            object: case["object"].clone(),
            time: case["timestamp"].as_u64().expect("seconds"),
            token: case["token"].as_str().expect("text").to_owned(),
        })
        .collect();
    assert!(signed.len() >= 8);
    signed
}

#[test]
fn replica_tokens_are_signed_and_read_as_python_does() {
    for Signed { key, object, time, token } in tokens(Json::is_string) {
        let uuid = object.as_str().expect("text");
        assert_eq!(replica_token(&key, uuid, time), token);
        for (now, expected) in [
            (time, Ok(())),
            (time + 37, Ok(())),
            (time + 38, Err(TokenFault::Expired)),
            (time - 1, Err(TokenFault::Expired)),
        ] {
            assert_eq!(read_replica_token(&key, &token, uuid, now), expected, "{token} at {now}");
        }
        assert_eq!(read_replica_token(&key, &token, "other", time), Err(TokenFault::Wrong));
        assert_eq!(read_login_token(&key, &token, time), Err(TokenFault::Wrong));
    }
}

#[test]
fn login_tokens_are_signed_and_read_as_python_does() {
    for Signed { key, object, time, token } in tokens(Json::is_array) {
        let groups = object[1].as_array().expect("groups").iter();
        let claim = LoginClaim {
            user: object[0].as_str().expect("a name").to_owned(),
            groups: groups.map(|g| g.as_str().expect("a name").to_owned()).collect(),
            from_user_object: object[2].as_bool().expect("a flag"),
        };
        assert_eq!(login_token(&key, &claim, time), token);
        assert_eq!(read_login_token(&key, &token, time + 36_000), Ok(claim));
        assert_eq!(read_login_token(&key, &token, time + 36_001), Err(TokenFault::Expired));
    }
}

fn derive_all(is_wanted: impl Fn(u64) -> bool) {
    let vectors = read_json("auth-tokens.json");
    let secret = Secret::new(&unhex(&vectors["secret_hex"])).expect("good");
    let mut seen = std::collections::BTreeMap::new();
    for case in vectors["tokens"].as_array().expect("cases") {
        let number = |name| case["argon2"][name].as_u64();
        let (Some(memory), Some(time), Some(lanes)) =
            (number("memory_cost_kib"), number("time_cost"), number("parallelism"))
        else {
            continue;
        };
        if is_wanted(memory) {
            let salt = case["argon2_salt"].as_str().expect("text").to_owned();
            seen.insert((salt, memory, time, lanes), unhex(&case["derived_key_hex"]));
        }
    }
    assert_eq!(seen.len(), 2);
    for ((salt, memory, time, lanes), expected) in seen {
        let [memory_kib, time, parallelism] = [memory, time, lanes].map(|n| n as u32);
        let salt = if salt == "devpi-server-auth" { Salt::Login } else { Salt::Replica };
        let key = DevpiKey::derive(&secret, salt, Argon2Cost { memory_kib, time, parallelism });
        assert!(key.expect("memory") == DevpiKey::new(expected.try_into().expect("16 bytes")));
    }
}

#[test]
fn keys_are_derived_as_python_does() {
    derive_all(|memory| memory < 1024);
}

#[test]
#[ignore = "takes half a gibibyte and some 20 s"]
fn keys_are_derived_as_python_does_by_default() {
    derive_all(|memory| memory >= 1024);
}
