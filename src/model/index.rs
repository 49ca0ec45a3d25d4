//! Indexes: their configuration inside the owner's record, made, changed and read.

use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};
use crate::names::{IndexName, UserName};
use crate::store::codec::Value;
use crate::store::key;
use crate::store::record::Dict;
use crate::store::txn::{Read, WriteTxn};

use super::acl::ANONYMOUS;
use super::settings::{self, Type};
use super::{delete, user};

/// An index with its configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Index {
    /// Its name.
    pub name: IndexName,
    /// All settings, those of plugins of other servers included.
    pub config: Dict,
}

impl Index {
    /// Whether it caches another server.
    pub fn is_mirror(&self) -> bool {
        self.config.text("type") == Some("mirror")
    }
    /// Whether files may be replaced and deleted.
    pub fn is_volatile(&self) -> bool {
        self.config.flag("volatile").unwrap_or(true)
    }
    /// Who may upload.
    pub fn acl_upload(&self) -> Vec<&str> {
        self.config.texts("acl_upload")
    }
    /// Who may upload test results; everybody where it does not say.
    pub fn acl_toxresult_upload(&self) -> Vec<&str> {
        match self.config.get("acl_toxresult_upload") {
            Some(_) => self.config.texts("acl_toxresult_upload"),
            None => vec![ANONYMOUS],
        }
    }
    /// Who may read; everybody where it does not say. Owner, root and named uploaders may besides (`acl::Policy`).
    pub fn acl_pkg_read(&self) -> Vec<&str> {
        match self.config.get("acl_pkg_read") {
            Some(_) => self.config.texts("acl_pkg_read"),
            None => vec![ANONYMOUS],
        }
    }
    /// Whether everybody may read.
    pub fn is_open(&self) -> bool {
        self.acl_pkg_read().contains(&ANONYMOUS)
    }
    /// The bases, in order; those that are no name of an index are left out.
    pub fn bases(&self) -> Vec<IndexName> {
        self.config.texts("bases").iter().filter_map(|base| IndexName::parse(base).ok()).collect()
    }
    /// The configuration as JSON.
    pub fn shown(&self) -> Json {
        self.config.clone().into_value().to_json()
    }
}

/// A stored configuration as JSON.
pub fn shown_config(config: &Value) -> Json {
    config.to_json()
}

/// The indexes of a user's record.
pub fn of_user(user: &UserName, record: &Dict) -> Vec<Index> {
    let indexes = record.dict("indexes").unwrap_or_default();
    let index = |(name, config): (String, Value)| {
        let name = IndexName::new(user.as_str(), &name).ok()?;
        Some(Index { name, config: Dict::from_value(config)? })
    };
    indexes.0.into_iter().filter_map(index).collect()
}

/// An index, if there is one of this name.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn find(txn: &impl Read, name: &IndexName) -> Result<Option<Index>> {
    let Some(record) = txn.get(&key::User(name.user()))? else { return Ok(None) };
    let config = record.dict("indexes").and_then(|indexes| indexes.dict(name.index()));
    Ok(config.map(|config| Index { name: name.clone(), config }))
}

/// An index that must exist.
///
/// # Errors
/// `Kind::NotFound` if there is none of this name.
pub fn require(txn: &impl Read, name: &IndexName) -> Result<Index> {
    find(txn, name)?
        .ok_or_else(|| Error::not_found(format!("The stage {name} could not be found.")))
}

/// Makes an index.
///
/// # Errors
/// `Kind::NotFound` if its user does not exist, `Kind::Conflict` if the index does, `Kind::Invalid` for bad settings.
pub fn create(
    txn: &mut WriteTxn<'_>,
    name: &IndexName,
    fields: &Map<String, Json>,
) -> Result<Index> {
    let record = user::require(txn, name.user())?;
    if find(txn, name)?.is_some() {
        return Err(Error::conflict(format!("index '{name}' exists")));
    }
    let of = match fields.get("type") {
        None => Type::Stage,
        Some(word) => Type::parse(word.as_str().unwrap_or(&word.to_string()))?,
    };
    let mut config = settings::defaults(of, name.user().as_str());
    settings::apply(of, &mut config, fields)?;
    check_bases(txn, &config, Some(name))?;
    let index = Index { name: name.clone(), config };
    store(txn, record, &index);
    Ok(index)
}

/// How a request changes an index.
pub enum Patch<'a> {
    /// Settings by name; the others stay.
    Object(&'a Map<String, Json>),
    /// Changes in order.
    List(&'a [Json]),
}

/// Changes an index. Gives it as it is then; `None` if that is what it was.
///
/// # Errors
/// `Kind::NotFound` if there is no such index, `Kind::Invalid` for bad settings.
pub fn modify(
    txn: &mut WriteTxn<'_>,
    name: &IndexName,
    patch: &Patch<'_>,
) -> Result<(Index, bool)> {
    let before = require(txn, name)?;
    let of = Type::parse(before.config.text("type").unwrap_or("stage"))?;
    let mut config = before.config.clone();
    let mut checks_bases = true;
    match patch {
        Patch::Object(fields) => {
            if fields.get("type").is_some_and(|word| word.as_str() != Some(of.as_str())) {
                return Err(Error::invalid("the 'type' of an index can't be changed"));
            }
            settings::apply(of, &mut config, fields)?;
            checks_bases = fields.contains_key("bases");
        }
        Patch::List(operations) => settings::apply_operations(of, &mut config, operations)?,
    }
    if checks_bases {
        check_bases(txn, &config, None)?;
    }
    let is_changed = config != before.config;
    let index = Index { name: name.clone(), config };
    if is_changed {
        let record = user::require(txn, name.user())?;
        store(txn, record, &index);
    }
    Ok((index, is_changed))
}

/// Deletes an index with its content.
///
/// # Errors
/// `Kind::NotFound` if there is no such index, `Kind::Forbidden` if it is not volatile.
pub fn remove(txn: &mut WriteTxn<'_>, name: &IndexName) -> Result<()> {
    let index = require(txn, name)?;
    if !index.is_volatile() {
        return Err(Error::forbidden(format!("index {name} non-volatile, cannot delete")));
    }
    delete::index_content(txn, &index)?;
    let mut record = user::require(txn, name.user())?;
    let mut indexes = record.dict("indexes").unwrap_or_default();
    indexes.remove(name.index());
    record.set("indexes", indexes);
    txn.set(&key::User(name.user()), &record);
    Ok(())
}

fn store(txn: &mut WriteTxn<'_>, mut record: Dict, index: &Index) {
    let mut indexes = record.dict("indexes").unwrap_or_default();
    indexes.set(index.name.index(), index.config.clone());
    record.set("indexes", indexes);
    txn.set(&key::User(index.name.user()), &record);
}

/// Each base must exist; an index that is being made may name itself.
fn check_bases(txn: &impl Read, config: &Dict, itself: Option<&IndexName>) -> Result<()> {
    let mut wrong = Vec::new();
    for base in config.texts("bases") {
        let name = IndexName::parse(base)?;
        if itself != Some(&name) && find(txn, &name)?.is_none() {
            wrong.push(format!("base index '{base}' does not exist"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Error::invalid(wrong.join(", "))) }
}
