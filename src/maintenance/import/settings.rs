//! Users and indexes of an export, with what older versions of devpi wrote brought to today's form.

use serde_json::{Map, Value as Json};

use crate::error::{Context, Error, Result};
use crate::model::index::Index;
use crate::model::settings::{self, Type};
use crate::names::{IndexName, UserName};
use crate::store::codec::Value;
use crate::store::key::{self, UserList};
use crate::store::record::Dict;
use crate::store::txn::{Read as _, WriteTxn};

use super::super::spool::{Spool, StageDump};
use super::ImportOptions;

/// The default mirror.
const ROOT_PYPI: &str = "root/pypi";
/// What a user gets whose record does not say when it was made.
const LONG_AGO: &str = "1970-01-01T00:00:00Z";

/// The indexes to import, each with its place in the export.
///
/// # Errors
/// `Kind::Invalid` if a name or a type is not known; all that are wrong are told at once.
pub fn stages(spool: &Spool, options: &ImportOptions) -> Result<Vec<(usize, Index)>> {
    let (mut stages, mut wrong) = (Vec::new(), Vec::new());
    for name in spool.users.keys() {
        wrong.extend(UserName::parse(name).err().map(|e| e.message));
    }
    for (at, dump) in spool.stages.iter().enumerate() {
        let word = dump.config.get("type").and_then(Json::as_str).unwrap_or_default();
        if options.skip_types.iter().any(|skipped| skipped == word) {
            log::info!("index {} is left out: it is of type '{word}'", dump.name);
        } else if options.no_root_pypi && dump.name == ROOT_PYPI {
            log::info!("index {ROOT_PYPI} is left out, as asked for");
        } else {
            match stage(spool, dump, word) {
                Ok(index) => stages.push((at, index)),
                Err(e) => wrong.push(format!("index {}: {}", dump.name, e.message)),
            }
        }
    }
    if !wrong.is_empty() {
        return Err(Error::invalid(wrong.join("; ")));
    }
    warn_of_bases(&stages);
    Ok(stages)
}

fn stage(spool: &Spool, dump: &StageDump, word: &str) -> Result<Index> {
    let of = Type::parse(word).map_err(|e| {
        Error::invalid(format!("{}; --skip-import-type {word} leaves it out", e.message))
    })?;
    let name = IndexName::parse(&dump.name)?;
    if !spool.users.contains_key(name.user().as_str()) {
        return Err(Error::invalid("its user is not in the export"));
    }
    Ok(Index { config: config(of, &name, &dump.config)?, name })
}

fn config(of: Type, name: &IndexName, fields: &Map<String, Json>) -> Result<Dict> {
    let mut config = settings::defaults(of, name.user().as_str());
    for (key, value) in fields {
        let is_empty = value.as_str().map_or(value.is_null(), str::is_empty);
        match key.as_str() {
            "type" => (),
            "uploadtrigger_jenkins" if is_empty => (),
            "pypi_whitelist" if fields.contains_key("mirror_whitelist") => (),
            "pypi_whitelist" => put(of, &mut config, "mirror_whitelist", value)?,
            // Kept as they are: bases may name indexes that are gone.
            "bases" if of == Type::Stage => {
                let bases = value.as_array().map(Vec::as_slice).unwrap_or_default();
                let bases = bases.iter().map(Value::from_json).collect::<Result<_>>()?;
                config.set(key, Value::Tuple(bases));
            }
            _ => put(of, &mut config, key, value)?,
        }
    }
    Ok(config)
}

/// Sets what this server knows in its own form, and the rest, of plugins for instance, as it is.
fn put(of: Type, config: &mut Dict, key: &str, value: &Json) -> Result<()> {
    let one = Map::from_iter([(key.to_owned(), value.clone())]);
    if settings::apply(of, config, &one).is_err() {
        config.set(key, Value::from_json(value)?);
    }
    Ok(())
}

fn warn_of_bases(stages: &[(usize, Index)]) {
    let mut missing: Vec<String> = stages
        .iter()
        .flat_map(|(_, index)| index.bases())
        .filter(|base| !stages.iter().any(|(_, index)| index.name == *base))
        .map(|base| base.to_string())
        .filter(|base| base != ROOT_PYPI)
        .collect();
    missing.sort();
    missing.dedup();
    if !missing.is_empty() {
        log::warn!("bases that are not in the export stay as they are: {}", missing.join(", "));
    }
}

/// Writes the users, without indexes yet.
///
/// # Errors
/// `Kind::Invalid` if a record cannot be stored; `Kind::Internal` if the database fails.
pub fn put_users(txn: &mut WriteTxn<'_>, spool: &Spool) -> Result<()> {
    for (name, json) in &spool.users {
        let user = UserName::parse(name)?;
        let fields = json
            .as_object()
            .ok_or_else(|| Error::invalid(format!("the record of user {name} is no object")))?;
        let held = txn.get(&key::User(&user))?;
        let is_new = held.is_none();
        let mut record = held.unwrap_or_default();
        for (key, value) in fields.iter().filter(|(key, _)| !is_ours(key)) {
            let value = Value::from_json(value).context(|| format!("user {name}"))?;
            record.set(key, value);
        }
        if is_new && record.get("created").is_none() {
            record.set("created", LONG_AGO);
        }
        if record.get("indexes").is_none() {
            record.set("indexes", Dict::new());
        }
        txn.set(&key::User(&user), &record);
        txn.insert_name(&UserList, user.as_str())?;
    }
    Ok(())
}

/// Fields that the server keeps itself.
fn is_ours(key: &str) -> bool {
    matches!(key, "username" | "indexes")
}

/// Writes an index into its user's record.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn put_index(txn: &mut WriteTxn<'_>, index: &Index) -> Result<()> {
    let key = key::User(index.name.user());
    let mut record = txn.get(&key)?.unwrap_or_default();
    let mut indexes = record.dict("indexes").unwrap_or_default();
    indexes.set(index.name.index(), index.config.clone());
    record.set("indexes", indexes);
    txn.set(&key, &record);
    Ok(())
}
