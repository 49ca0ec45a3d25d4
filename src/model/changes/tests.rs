//! Entries one after another, and what is said of each.

use std::collections::HashMap;

use super::*;
use crate::store::codec::{encode, encode_entry};

/// Entries one after another, each told with what stood before.
#[derive(Default)]
struct Log {
    values: HashMap<(String, u64), Option<Vec<u8>>>,
    last: HashMap<String, u64>,
    next: u64,
}

impl Log {
    fn add(&mut self, changes: &[(&str, &str, Option<Value>)]) -> Vec<String> {
        let values: Vec<_> = changes.iter().map(|(_, _, v)| v.as_ref().map(encode)).collect();
        let parts = changes.iter().zip(&values).map(|((path, name, _), value)| {
            let back = self.last.get(*path).map_or(-1, |n| i64::try_from(*n).expect("small"));
            (*path, *name, back, value.as_deref())
        });
        let entry = encode_entry(parts.collect::<Vec<_>>());
        let mut before =
            |path: &str, serial: Serial| Ok(self.values[&(path.to_owned(), serial.get())].clone());
        let account = tell(&entry, &mut before).expect("an entry");
        for ((path, ..), value) in changes.iter().zip(values) {
            self.values.insert(((*path).to_owned(), self.next), value);
            self.last.insert((*path).to_owned(), self.next);
        }
        self.next += 1;
        account.parts.into_iter().map(|part| part.text).collect()
    }
}

fn user(password: &str, volatile: bool, url: &str) -> Value {
    let index = Value::dict([
        ("type", Value::str("mirror")),
        ("volatile", Value::Bool(volatile)),
        ("mirror_url", Value::str(url)),
    ]);
    Value::dict([("pwhash", Value::str(password)), ("indexes", Value::dict([("dev", index)]))])
}

#[test]
fn users_and_indexes_are_told_without_what_is_secret() {
    let mut log = Log::default();
    let mut set = |value: Option<Value>| log.add(&[("ann/.config", "USER", value)]);
    assert_eq!(
        set(Some(user("hash1", true, "https://u:geheim@h/simple/"))),
        ["ann was created", "ann/dev was created, a mirror"]
    );
    assert_eq!(
        set(Some(user("hash2", false, "https://u:geheim@other/simple/"))),
        [
            "the password of ann was changed",
            "ann/dev: mirror_url https://h/simple/ -> https://other/simple/; volatile True -> False"
        ]
    );
    let bare = Value::dict([("pwhash", Value::str("hash2")), ("email", Value::str("a@b"))]);
    assert_eq!(set(Some(bare)), ["ann: email changed", "ann/dev was deleted"]);
    assert_eq!(set(None), ["ann was deleted"]);
}

fn release(links: &[(&str, &str, &str)]) -> Value {
    let link = |(name, what, who): &(&str, &str, &str)| {
        let when = Value::tuple([2026, 11, 23, 9, 0, 0].map(Value::Int));
        let item = Value::dict([
            ("what", Value::str(*what)),
            ("who", Value::str(*who)),
            ("when", when),
            ("src", Value::str("ann/dev")),
        ]);
        Value::dict([
            ("rel", Value::str("releasefile")),
            ("entrypath", Value::str(format!("ann/prod/+f/123/4567890123456/{name}"))),
            ("_log", Value::list([item])),
        ])
    };
    Value::dict([("+elinks", Value::list(links.iter().map(link)))])
}

#[test]
fn files_are_told_by_what_their_logs_say() {
    let mut log = Log::default();
    const PATH: &str = "ann/prod/hello/1.0/.config";
    let mut set = |value| log.add(&[(PATH, "PROJVERSION", value)]);
    assert_eq!(set(Some(release(&[]))), ["hello 1.0 was registered on ann/prod"]);
    let one = ("hello-1.0.whl", "upload", "ann");
    assert_eq!(set(Some(release(&[one]))), ["ann uploaded hello-1.0.whl to ann/prod"]);
    let two = [one, ("hello-1.0.zip", "push", "bob"), ("hello-1.0.tgz", "push", "bob")];
    assert_eq!(
        set(Some(release(&two))),
        ["bob pushed hello 1.0 (2 files) from ann/dev to ann/prod"]
    );
    assert_eq!(set(Some(release(&two[..2]))), ["hello-1.0.tgz was deleted from ann/prod"]);
    assert_eq!(set(None), ["hello 1.0 was deleted from ann/prod"]);
}

#[test]
fn a_deleted_index_says_so_once_and_nothing_of_its_content() {
    let mut log = Log::default();
    log.add(&[("ann/.config", "USER", Some(user("x", true, "https://h/")))]);
    let said = log.add(&[
        ("ann/.config", "USER", Some(Value::dict([("pwhash", Value::str("x"))]))),
        ("ann/dev/.projects", "PROJNAMES", None),
        ("ann/dev/p/.versions", "PROJVERSIONS", None),
        ("ann/dev/p/1/.config", "PROJVERSION", None),
        ("ann/dev/+f/123/4567890123456/p-1.whl", "STAGEFILE", None),
    ]);
    assert_eq!(said, ["ann/dev was deleted"]);
}

#[test]
fn mirrors_learn_and_strangers_are_named_for_root() {
    let mut log = Log::default();
    let page = |count: i32| {
        let links = (0..count).map(|n| {
            Value::tuple([Value::str(format!("r-{n}.whl")), Value::str(format!("h/r-{n}.whl"))])
        });
        Value::dict([
            ("links", Value::list(links)),
            ("yanked", Value::list([])),
            ("serial", Value::Int(1)),
        ])
    };
    let mut set = |n| log.add(&[("root/pypi/requests/.simple", "PROJSIMPLELINKS", Some(page(n)))]);
    assert_eq!(set(12), ["mirror root/pypi learned 12 files of requests"]);
    assert_eq!(set(13), ["mirror root/pypi learned 1 file of requests"]);
    assert_eq!(set(13), ["mirror root/pypi saw another page of requests"]);
    let entry = encode_entry([("plugin/x", "PLUGIN", -1, Some(&encode(&Value::None)[..]))]);
    let account = tell(&entry, &mut |_, _| Ok(None)).expect("an entry");
    assert_eq!(account.parts[0].sight, Sight::Root);
}
