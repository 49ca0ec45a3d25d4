//! What holds for all values and all bytes.

use std::io::Read;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i32>().prop_map(Value::Int),
        "[1-9][0-9]{10,40}".prop_map(Value::BigInt),
        any::<f64>().prop_map(Value::Float),
        (any::<f64>(), any::<f64>()).prop_map(|(real, imaginary)| Value::Complex(real, imaginary)),
        vec(any::<u8>(), 0..20).prop_map(Value::Bytes),
        ".{0,20}".prop_map(Value::Str),
    ]
}

/// What Python can hash.
fn hashable() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(3, 8, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Tuple),
            vec(inner, 0..4).prop_map(Value::FrozenSet),
        ]
    })
}

fn dict(items: Vec<(Value, Value)>) -> Value {
    let mut kept: Vec<(Value, Value)> = Vec::new();
    for (key, value) in items {
        if kept.iter().all(|(known, _)| encode(known) != encode(&key)) {
            kept.push((key, value));
        }
    }
    Value::Dict(kept)
}

fn value() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(5, 64, 8, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Value::List),
            vec(inner.clone(), 0..8).prop_map(Value::Tuple),
            vec(hashable(), 0..8).prop_map(Value::Set),
            vec((hashable(), inner.clone()), 0..8).prop_map(dict),
            vec((".{0,9}".prop_map(Value::Str), inner), 0..30).prop_map(dict),
        ]
    })
}

fn changes() -> impl Strategy<Value = Vec<(String, String, i64, Option<Value>)>> {
    let change = (".{1,20}", "[A-Z_]{1,9}", -1..i64::from(i32::MAX), proptest::option::of(value()));
    vec(change, 0..6).prop_map(|mut changes| {
        changes.sort_by(|a, b| a.0.cmp(&b.0));
        changes.dedup_by(|a, b| a.0 == b.0);
        changes
    })
}

fn entry(changes: &[(String, String, i64, Option<Value>)]) -> Vec<u8> {
    let encoded: Vec<_> = changes.iter().map(|change| change.3.as_ref().map(encode)).collect();
    let parts = changes.iter().zip(&encoded);
    encode_entry(parts.map(|(c, value)| (c.0.as_str(), c.1.as_str(), c.2, value.as_deref())))
}

/// Bytes that are likely to get far: opcodes with small operands.
fn program() -> impl Strategy<Value = Vec<u8>> {
    let op = prop_oneof![
        "[CDJLPRPPQ]".prop_map(String::into_bytes),
        ("[@EFGKOKO]", 0..4u8).prop_map(|(code, n)| [code.as_bytes(), &[0, 0, 0, n]].concat()),
        ("[AHIMNS]", "[0-9a]{0,3}").prop_map(|(code, text)| [
            code.as_bytes(),
            &[0, 0, 0, text.len() as u8],
            text.as_bytes()
        ]
        .concat()),
        vec(any::<u8>(), 1..6),
    ];
    vec(op, 0..60).prop_map(|ops| ops.concat())
}

/// The bytes of a value with some of them changed for others that mean something.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let edit = (
        any::<prop::sample::Index>(),
        prop::sample::select(b"@ACDEFGHIJKLMNOPQRST\0\x01\x02".to_vec()),
    );
    (value(), vec(edit, 0..3)).prop_map(|(value, edits)| {
        let mut bytes = encode(&value);
        for (place, byte) in edits {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes
    })
}

/// Gives its bytes in pieces of the given sizes.
struct Pieces<'a> {
    bytes: &'a [u8],
    sizes: std::iter::Cycle<std::slice::Iter<'a, usize>>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let size = self.sizes.next().copied().unwrap_or(1).min(out.len());
        self.bytes.read(&mut out[..size])
    }
}

fn frames(source: impl Read) -> (Vec<Vec<u8>>, Option<crate::error::Kind>) {
    let mut reader = FrameReader::new(source);
    let mut frames = Vec::new();
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(e) => return (frames, Some(e.kind)),
        }
    }
}

/// What must hold for bytes that decode: all readers take them, and what is written again says the same.
fn check_decoded(bytes: &[u8], value: &Value) -> std::result::Result<(), TestCaseError> {
    prop_assert!(top_type(bytes).is_ok());
    let canonical = encode(value);
    prop_assert_eq!(encode(&decode(&canonical).expect("own bytes")), canonical);
    prop_assert_eq!(dict_items(bytes).is_ok(), matches!(value, Value::Dict(_)));
    prop_assert_eq!(list_len(bytes).is_ok(), matches!(value, Value::List(_)));
    prop_assert_eq!(set_insert_str(bytes, "\0new").is_ok(), matches!(value, Value::Set(_)));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn values_survive_a_round_trip(value in value()) {
        let bytes = encode(&value);
        let again = decode(&bytes).expect("own bytes");
        // by text: NaN is not equal to itself
        prop_assert_eq!(format!("{again:?}"), format!("{value:?}"));
        prop_assert_eq!(encode(&again), bytes.as_slice());
        prop_assert!(load(&dump(&value)).is_ok());
        check_decoded(&bytes, &value)?;
    }

    #[test]
    fn any_bytes_are_decoded_or_refused_by_all_alike(bytes in prop_oneof![program(), nearly()]) {
        match decode(&bytes) {
            Ok(value) => check_decoded(&bytes, &value)?,
            Err(_) => prop_assert!(top_type(&bytes).is_err() && dict_items(&bytes).is_err()),
        }
        let _ = load(&bytes);
        let _ = RawEntry::parse(&bytes);
    }

    #[test]
    fn mutated_entries_are_never_taken_for_what_does_not_decode(
        changes in changes(), place in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut bytes = entry(&changes);
        let place = place.index(bytes.len());
        if cut { bytes.truncate(place) } else { bytes[place] = byte }
        let Ok(parsed) = RawEntry::parse(&bytes) else { return Ok(()) };
        prop_assert!(load(&bytes).is_ok());
        for change in parsed.changes() {
            let value = change.value.map(|value| decode(value).expect("checked"));
            prop_assert_eq!(value.is_none(), change.value_kind == TopType::None);
        }
    }

    #[test]
    fn entries_come_apart_into_what_they_were_made_of(changes in changes()) {
        let bytes = entry(&changes);
        let parsed = RawEntry::parse(&bytes).expect("own bytes");
        let apart: Vec<_> = parsed
            .changes()
            .map(|c| (c.path.to_owned(), c.keyname.to_owned(), c.back_serial, c.value.map(<[u8]>::to_vec)))
            .collect();
        let expected: Vec<_> = changes
            .iter()
            .map(|c| (c.0.clone(), c.1.clone(), c.2, c.3.as_ref().filter(|v| !v.is_none()).map(encode)))
            .collect();
        prop_assert_eq!(apart, expected);
    }

    #[test]
    fn frames_do_not_depend_on_the_pieces(
        values in vec(value(), 0..6), sizes in vec(1..40usize, 1..6), junk in vec(any::<u8>(), 0..4),
    ) {
        let dumps: Vec<_> = values.iter().map(dump).collect();
        let stream = [dumps.concat(), junk].concat();
        let whole = frames(stream.as_slice());
        prop_assert_eq!(&whole.0[..dumps.len()], dumps.as_slice());
        let pieces = Pieces { bytes: &stream, sizes: sizes.iter().cycle() };
        prop_assert_eq!(frames(pieces), whole);
    }

    #[test]
    fn splices_say_the_same_as_changing_the_value(
        items in vec((".{0,9}", value()), 0..30), key in ".{0,9}", new in value(),
    ) {
        let mut whole = dict(items.into_iter().map(|(key, value)| (Value::Str(key), value)).collect());
        let held = whole.get(&key).map(encode);
        let bytes = encode(&whole);
        let span = dict_get_raw(&bytes, &key).expect("a dict");
        prop_assert_eq!(span.map(|span| bytes[span].to_vec()), held);
        let spliced = dict_set_raw(&bytes, &key, &encode(&new)).expect("a dict");
        whole.insert(&key, new.clone());
        prop_assert_eq!(&spliced, &encode(&whole));

        let mut list: Vec<_> = whole.as_dict().expect("a dict").iter().map(|(_, v)| v.clone()).collect();
        let pushed = list_push_raw(&encode(&Value::List(list.clone())), &encode(&new)).expect("a list");
        list.push(new);
        prop_assert_eq!(pushed, encode(&Value::List(list)));
    }

    #[test]
    fn sets_take_texts_like_sets(names in vec("[a-c]{0,2}", 0..12)) {
        let mut bytes = encode(&Value::Set(Vec::new()));
        let mut known: Vec<String> = Vec::new();
        for name in names {
            let more = set_insert_str(&bytes, &name).expect("a set");
            prop_assert_eq!(more.is_none(), known.contains(&name));
            if let Some(more) = more {
                known.push(name);
                bytes = more;
            }
            prop_assert_eq!(set_strs(&bytes).expect("texts"), known.as_slice());
        }
    }
}
