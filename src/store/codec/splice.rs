//! Small changes to encoded values without decoding them: one pass over the bytes and one copy.

use std::ops::Range;

use super::walk::{DICT, INT, Item, LIST, Op, PUT, SET, TopType, Walker, top_type};
use super::write;
use crate::error::{Error, Result};

/// Bytes of a set's count with its opcode.
const COUNT_BYTES: usize = 5;

/// Walks over one value, and shows each step of its outermost container before it is taken: `see` gets the stack, where
/// the step begins, and the step.
fn outline<'a>(
    bytes: &'a [u8],
    expected: TopType,
    mut see: impl FnMut(&[Item], usize, &Op<'a>) -> Result<()>,
) -> Result<()> {
    let mut walker = Walker::new(bytes);
    walker.skip_leaves();
    while let Some(op) = walker.read()? {
        let is_outermost = match op {
            Op::Put => walker.stack().len() == 3,
            Op::Group(_, count) => walker.stack().len() == count && walker.at() == bytes.len(),
            _ => false,
        };
        if is_outermost {
            see(walker.stack(), walker.begin(), &op)?;
        }
        walker.apply(&op)?;
        walker.skip_leaves();
    }
    let kind = walker.finish()?.kind;
    if kind == expected {
        return Ok(());
    }
    Err(Error::invalid(format!("the encoded value is of type {kind:?} where {expected:?} is due")))
}

/// The bytes with some spans, in order and apart from each other, replaced.
pub fn replace(bytes: &[u8], edits: impl IntoIterator<Item = (Range<usize>, Vec<u8>)>) -> Vec<u8> {
    const ROOM_BYTES: usize = 1024;
    let mut replaced = Vec::with_capacity(bytes.len() + ROOM_BYTES);
    let mut at = 0;
    for (span, with) in edits {
        replaced.extend_from_slice(&bytes[at..span.start]);
        replaced.extend_from_slice(&with);
        at = span.end;
    }
    replaced.extend_from_slice(&bytes[at..]);
    replaced
}

/// The keys of an encoded dict with the spans of their values. Keys that are no text are left out.
///
/// # Errors
/// `Kind::Invalid` if the bytes are no dict.
pub fn dict_items(bytes: &[u8]) -> Result<Vec<(&str, Range<usize>)>> {
    let mut items = Vec::new();
    outline(bytes, TopType::Dict, |stack, end, _| {
        if let [_, key, value] = stack
            && key.kind == TopType::Str
        {
            items.push((text(bytes, key.start..value.start)?, value.start..end));
        }
        Ok(())
    })?;
    Ok(items)
}

/// The span of the value under a key of an encoded dict.
///
/// # Errors
/// `Kind::Invalid` if the bytes are no dict.
pub fn dict_get_raw(bytes: &[u8], key: &str) -> Result<Option<Range<usize>>> {
    let mut found = None;
    outline(bytes, TopType::Dict, |stack, end, _| {
        if let [_, known, value] = stack
            && known.kind == TopType::Str
            && bytes.get(known.start + COUNT_BYTES..value.start) == Some(key.as_bytes())
        {
            found = Some(value.start..end);
        }
        Ok(())
    })?;
    Ok(found)
}

/// An encoded dict with the encoded value put under a key, in place of the one that is there or at the end.
///
/// # Errors
/// `Kind::Invalid` if the bytes are no dict, or the value is none.
pub fn dict_set_raw(bytes: &[u8], key: &str, value: &[u8]) -> Result<Vec<u8>> {
    top_type(value)?;
    let mut out = Vec::with_capacity(bytes.len() + key.len() + value.len() + 8);
    match dict_get_raw(bytes, key)? {
        Some(held) => {
            out.extend_from_slice(&bytes[..held.start]);
            out.extend_from_slice(value);
            out.extend_from_slice(&bytes[held.end..]);
        }
        None => {
            out.extend_from_slice(bytes);
            write::str(&mut out, key);
            out.extend_from_slice(value);
            out.push(PUT);
        }
    }
    Ok(out)
}

/// The length of an encoded list.
///
/// # Errors
/// `Kind::Invalid` if the bytes are no list.
pub fn list_len(bytes: &[u8]) -> Result<usize> {
    outline(bytes, TopType::List, |_, _, _| Ok(()))?;
    let length = bytes.get(1..COUNT_BYTES).and_then(|b| super::walk::length(b.try_into().ok()?));
    length.ok_or_else(|| Error::invalid("the encoded list has no length"))
}

/// The spans of an encoded list's items, as a Python writer puts them: each once and in order.
///
/// # Errors
/// `Kind::Invalid` if the bytes are no such list.
pub fn list_items(bytes: &[u8]) -> Result<Vec<Range<usize>>> {
    let mut items: Vec<Range<usize>> = Vec::new();
    outline(bytes, TopType::List, |stack, end, _| {
        if let [_, index, value] = stack {
            if index.int().and_then(|i| usize::try_from(i).ok()) != Some(items.len()) {
                return Err(Error::invalid("the items of the encoded list are not in order"));
            }
            items.push(value.start..end);
        }
        Ok(())
    })?;
    let length = bytes.get(1..COUNT_BYTES).and_then(|b| super::walk::length(b.try_into().ok()?));
    if length == Some(items.len()) {
        Ok(items)
    } else {
        Err(Error::invalid("the encoded list lacks items"))
    }
}

/// An encoded list with one more encoded item at its end.
///
/// # Errors
/// `Kind::Invalid` if the bytes are no list, or the item is no value.
pub fn list_push_raw(bytes: &[u8], item: &[u8]) -> Result<Vec<u8>> {
    top_type(item)?;
    let length = list_len(bytes)?;
    let mut out = Vec::with_capacity(bytes.len() + item.len() + COUNT_BYTES + 1);
    write::counted(&mut out, LIST, length + 1);
    out.extend_from_slice(&bytes[COUNT_BYTES..]);
    write::counted(&mut out, INT, length);
    out.extend_from_slice(item);
    out.push(PUT);
    Ok(out)
}

/// `list_push_raw` for a list that is known to be well formed: its bytes are copied and not looked at. `None` if it
/// does not even begin as a list.
pub fn list_push_known(bytes: &[u8], item: &[u8]) -> Option<Vec<u8>> {
    let length = known_len(bytes)?;
    let mut out = Vec::with_capacity(bytes.len() + item.len() + COUNT_BYTES + 1);
    write::counted(&mut out, LIST, length + 1);
    out.extend_from_slice(&bytes[COUNT_BYTES..]);
    write::counted(&mut out, INT, length);
    out.extend_from_slice(item);
    out.push(PUT);
    Some(out)
}

fn known_len(list: &[u8]) -> Option<usize> {
    let (opcode, count) = list.get(..COUNT_BYTES)?.split_first()?;
    (*opcode == LIST).then_some(())?;
    super::walk::length(count.try_into().ok()?)
}

/// A dict of exactly two lists of the same length under these keys, in this order, with one item more in each; `None`
/// if it is anything else. The keys must be such that no text inside the first list can hold one as it is encoded,
/// since the second is searched for from the end; the second list is looked at, the first one is only copied.
pub fn pair_push(bytes: &[u8], keys: [&str; 2], items: [&[u8]; 2]) -> Option<Vec<u8>> {
    let [first_key, second_key] = keys.map(|key| {
        let mut encoded = Vec::new();
        write::str(&mut encoded, key);
        encoded
    });
    let first = bytes.strip_prefix(&[DICT])?.strip_prefix(first_key.as_slice())?;
    let (first, _) = first.split_at_checked(first.len().checked_sub(1)?)?;
    let at = memchr::memmem::rfind(first, &second_key)?;
    let (first, second) = (first[..at].strip_suffix(&[PUT])?, &first[at + second_key.len()..]);
    let is_plain = top_type(second).ok()? == TopType::List
        && bytes.ends_with(&[PUT])
        && known_len(first)? == known_len(second)?;
    is_plain.then_some(())?;
    let (first, second) = (list_push_known(first, items[0])?, list_push_known(second, items[1])?);
    let parts: [&[u8]; 7] = [&[DICT], &first_key, &first, &[PUT], &second_key, &second, &[PUT]];
    Some(parts.concat())
}

/// The elements of an encoded set of texts.
///
/// # Errors
/// `Kind::Invalid` if the bytes are no set of texts.
pub fn set_strs(bytes: &[u8]) -> Result<Vec<&str>> {
    let mut elements = Vec::new();
    outline(bytes, TopType::Set, |stack, end, op| {
        if let Op::Group(TopType::Set, _) = op {
            elements = set_spans(stack, end)
                .map(|(kind, span)| match kind {
                    TopType::Str => text(bytes, span),
                    _ => Err(Error::invalid("the encoded set holds what is no text")),
                })
                .collect::<Result<_>>()?;
        }
        Ok(())
    })?;
    Ok(elements)
}

/// An encoded set with one more text in it; `None` if it is there already.
///
/// # Errors
/// `Kind::Invalid` if the bytes are no set.
pub fn set_insert_str(bytes: &[u8], element: &str) -> Result<Option<Vec<u8>>> {
    let (mut is_there, mut count) = (false, 0);
    outline(bytes, TopType::Set, |stack, end, op| {
        if let Op::Group(TopType::Set, elements) = op {
            count = *elements;
            is_there = set_spans(stack, end).any(|(kind, span)| {
                kind == TopType::Str
                    && bytes.get(span.start + COUNT_BYTES..span.end) == Some(element.as_bytes())
            });
        }
        Ok(())
    })?;
    if is_there {
        return Ok(None);
    }
    let mut out = Vec::with_capacity(bytes.len() + element.len() + COUNT_BYTES);
    out.extend_from_slice(&bytes[..bytes.len() - COUNT_BYTES]);
    write::str(&mut out, element);
    write::counted(&mut out, SET, count + 1);
    Ok(Some(out))
}

/// The types and spans of what lies on the stack; the topmost value ends at `end`.
fn set_spans(stack: &[Item], end: usize) -> impl Iterator<Item = (TopType, Range<usize>)> + '_ {
    let ends = stack.iter().skip(1).map(|next| next.start).chain(std::iter::once(end));
    stack.iter().zip(ends).map(|(item, end)| (item.kind, item.start..end))
}

/// The text of an encoded `str` at a span that the walker has checked.
fn text(bytes: &[u8], span: Range<usize>) -> Result<&str> {
    let text = bytes.get(span.start + COUNT_BYTES..span.end).unwrap_or_default();
    std::str::from_utf8(text).map_err(|_| Error::invalid("a text that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::super::{Value, decode, encode};
    use super::*;

    fn links(count: usize) -> Value {
        let link =
            |i| Value::tuple([format!("x-{i}.whl").into(), format!("a/b/+f/{i}#sha256=0").into()]);
        Value::dict([
            ("links", Value::list((0..count).map(link))),
            ("serial", Value::int(-1)),
            ("requires_python", Value::list((0..count).map(|_| Value::None))),
        ])
    }

    #[test]
    fn items_of_a_dict_are_found_and_replaced() {
        let dict = encode(&links(3));
        let keys: Vec<_> =
            dict_items(&dict).expect("a dict").into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["links", "serial", "requires_python"]);
        let span = dict_get_raw(&dict, "serial").expect("a dict").expect("there");
        assert_eq!(&dict[span], encode(&Value::Int(-1)));
        assert_eq!(dict_get_raw(&dict, "seria").expect("a dict"), None);
        let mut expected = links(3);
        let mut spliced = dict;
        for (key, value) in
            [("serial", Value::tuple([])), ("new", Value::dict([("a", Value::None)]))]
        {
            expected.insert(key, value.clone());
            spliced = dict_set_raw(&spliced, key, &encode(&value)).expect("a dict");
        }
        assert_eq!(decode(&spliced).expect("whole"), expected);
    }

    #[test]
    fn pairs_of_lists_grow_together_or_not_at_all() {
        let list = |n: i32| Value::List((0..n).map(Value::Int).collect());
        let dict = |a: i32, b: i32, more: &[&str]| {
            let more = more.iter().map(|key| ((*key).to_owned(), Value::None));
            let lists = [("a".to_owned(), list(a)), ("b".to_owned(), list(b))];
            encode(&Value::dict(lists.into_iter().chain(more)))
        };
        let push = |bytes: &[u8], item: i32| {
            let item = encode(&Value::Int(item));
            pair_push(bytes, ["a", "b"], [&item, &item])
        };
        assert_eq!(push(&dict(2, 2, &[]), 2), Some(dict(3, 3, &[])));
        assert_eq!(push(&dict(0, 0, &[]), 0), Some(dict(1, 1, &[])));
        assert_eq!(push(&dict(2, 1, &[]), 2), None);
        assert_eq!(push(&dict(2, 2, &["c"]), 2), None);
        assert_eq!(push(&encode(&Value::dict([("b", list(1)), ("a", list(1))])), 1), None);
        for end in 0..dict(2, 2, &[]).len() {
            assert_eq!(push(&dict(2, 2, &[])[..end], 2), None, "cut at {end}");
        }
    }

    #[test]
    fn lists_grow_at_their_end() {
        let mut list = encode(&Value::list([]));
        for i in 0..3 {
            list = list_push_raw(&list, &encode(&Value::tuple([Value::Int(i)]))).expect("a list");
            assert_eq!(list_len(&list).expect("a list"), list_items(&list).expect("a list").len());
        }
        let expected = Value::list((0..3).map(|i| Value::tuple([Value::Int(i)])));
        assert_eq!(list, encode(&expected));
        let last = list_items(&list).expect("a list")[2].clone();
        assert_eq!(&list[last], encode(&Value::tuple([Value::Int(2)])));
        assert!(list_push_raw(&list, b"LL").is_err());
    }

    #[test]
    fn sets_take_an_element_once() {
        let set = encode(&Value::set(["a", "b"]));
        assert_eq!(set_insert_str(&set, "b").expect("a set"), None);
        let more = set_insert_str(&set, "c").expect("a set").expect("new");
        assert_eq!(more, encode(&Value::set(["a", "b", "c"])));
        assert_eq!(set_strs(&more).expect("a set"), ["a", "b", "c"]);
        let first =
            set_insert_str(&encode(&Value::set([""; 0])), "a").expect("a set").expect("new");
        assert_eq!(first, encode(&Value::set(["a"])));
    }

    #[test]
    fn other_types_are_refused() {
        let (list, set) = (encode(&Value::list([])), encode(&Value::set(["a"])));
        let tuple = encode(&Value::tuple([Value::list([])]));
        assert!(dict_items(&list).is_err() && dict_set_raw(&set, "a", b"L").is_err());
        assert!(list_len(&tuple).is_err() && list_items(&set).is_err() && list_len(b"K").is_err());
        assert!(set_strs(&tuple).is_err() && set_insert_str(&list, "a").is_err());
    }

    #[test]
    #[ignore = "a measurement: run it in release with --nocapture"]
    fn a_thousand_links_are_scanned_fast() {
        let bytes = encode(&links(1000));
        let mut best = std::time::Duration::MAX;
        for _ in 0..500 {
            let start = std::time::Instant::now();
            assert!(dict_get_raw(&bytes, "requires_python").expect("a dict").is_some());
            best = best.min(start.elapsed());
        }
        println!("{} bytes in {best:?} at best", bytes.len());
    }
}
