//! Users: their records, and what of them is shown.

use std::time::SystemTime;

use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};
use crate::names::UserName;
use crate::store::codec::Value;
use crate::store::key::{self, UserList};
use crate::store::record::{Dict, NameSet};
use crate::store::txn::{Read, WriteTxn};

use super::{delete, index, time, tokens};

/// Fields that a user's record may be given.
const SETTINGS: [&str; 4] = ["email", "title", "description", "custom_data"];

/// Fields that are kept by the server; in a request to change a user they are passed over, since clients send back
/// what they read.
const HIDDEN: [&str; 4] = ["username", "pwhash", "pwsalt", "password"];

/// The record of a user who must exist.
///
/// # Errors
/// `Kind::NotFound` if there is no such user.
pub fn require(txn: &impl Read, user: &UserName) -> Result<Dict> {
    txn.get(&key::User(user))?.ok_or_else(|| Error::not_found(format!("no user '{user}'")))
}

/// The names of all users, sorted.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn names(txn: &impl Read) -> Result<Vec<UserName>> {
    let NameSet(mut names) = txn.get(&UserList)?.unwrap_or_default();
    names.sort();
    names.iter().map(|name| UserName::parse(name)).collect()
}

/// What everybody may see of a user.
pub fn shown(user: &UserName, record: &Dict) -> Json {
    let mut shown = Map::new();
    for (key, value) in record.0.iter().filter(|(key, _)| !HIDDEN.contains(&key.as_str())) {
        if key != "indexes" && key != tokens::FIELD {
            shown.insert(key.clone(), value.to_json());
        }
    }
    shown.entry("created").or_insert_with(|| "1970-01-01T00:00:00Z".into());
    shown.insert("username".into(), user.as_str().into());
    let indexes = record.dict("indexes").unwrap_or_default();
    let of_index = |(name, config): &(String, Value)| (name.clone(), index::shown_config(config));
    shown.insert("indexes".into(), Json::Object(indexes.0.iter().map(of_index).collect()));
    Json::Object(shown)
}

/// Reads the settings of a request to make a user; `password` is left to the caller.
///
/// # Errors
/// `Kind::Invalid` if a field is not known.
pub fn parse_settings(fields: &Map<String, Json>) -> Result<Vec<(&'static str, Value)>> {
    let unknown: Vec<&str> = fields
        .keys()
        .map(String::as_str)
        .filter(|key| !SETTINGS.contains(key) && !HIDDEN.contains(key) && *key != "indexes")
        .collect();
    if !unknown.is_empty() {
        return Err(Error::invalid(format!("Unknown keys in user config: {}", unknown.join(", "))));
    }
    known_settings(fields)
}

/// Reads the settings of a request to change a user; what is not known is passed over.
///
/// # Errors
/// `Kind::Invalid` if a value cannot be stored.
pub fn known_settings(fields: &Map<String, Json>) -> Result<Vec<(&'static str, Value)>> {
    let known = SETTINGS.iter().filter_map(|key| fields.get(*key).map(|value| (*key, value)));
    known.map(|(key, value)| Ok((key, Value::from_json(value)?))).collect()
}

fn is_falsy(value: &Value) -> bool {
    match value {
        Value::None | Value::Bool(false) | Value::Int(0) => true,
        Value::Str(text) => text.is_empty(),
        Value::List(items) => items.is_empty(),
        Value::Dict(items) => items.is_empty(),
        Value::Float(number) => *number == 0.0,
        _ => false,
    }
}

/// Makes a user.
///
/// # Errors
/// `Kind::Conflict` if the name is taken.
pub fn create(
    txn: &mut WriteTxn<'_>,
    user: &UserName,
    pwhash: &str,
    settings: Vec<(&'static str, Value)>,
) -> Result<Dict> {
    if txn.has(&key::User(user))? {
        return Err(Error::conflict("user already exists"));
    }
    let mut record = Dict::new();
    record.set("pwhash", pwhash);
    for (key, value) in settings.into_iter().filter(|(_, value)| !is_falsy(value)) {
        record.set(key, value);
    }
    record.set("created", time::stamp(SystemTime::now()));
    record.set("indexes", Dict::new());
    txn.set(&key::User(user), &record);
    txn.insert_name(&UserList, user.as_str())?;
    Ok(record)
}

/// Changes a user's settings and, if `pwhash` is given, the password.
///
/// # Errors
/// `Kind::NotFound` if there is no such user.
pub fn modify(
    txn: &mut WriteTxn<'_>,
    user: &UserName,
    pwhash: Option<&str>,
    settings: Vec<(&'static str, Value)>,
) -> Result<()> {
    let before = require(txn, user)?;
    let mut record = before.clone();
    for (key, value) in settings {
        if is_falsy(&value) {
            record.remove(key);
        } else {
            record.set(key, value);
        }
    }
    if let Some(pwhash) = pwhash {
        record.remove("pwsalt");
        record.set("pwhash", pwhash);
    }
    if record != before {
        record.set("modified", time::stamp(SystemTime::now()));
        txn.set(&key::User(user), &record);
    }
    Ok(())
}

/// Deletes a user with all indexes and their files.
///
/// # Errors
/// `Kind::NotFound` if there is no such user; `Kind::Forbidden` if an index is not volatile.
pub fn remove(txn: &mut WriteTxn<'_>, user: &UserName) -> Result<()> {
    let indexes = index::of_user(user, &require(txn, user)?);
    if let Some(held) = indexes.iter().find(|index| !index.is_volatile()) {
        let name = &held.name;
        return Err(Error::forbidden(format!("user '{user}' has non-volatile index: {name}")));
    }
    for index in &indexes {
        delete::index_content(txn, index)?;
    }
    txn.delete(&key::User(user));
    txn.remove_name(&UserList, user.as_str())?;
    Ok(())
}
