//! The first transaction of a new server: the superuser, with or without the default mirror.

use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::names::UserName;
use crate::store::key::{User, UserList};
use crate::store::record::{Dict, NameSet};
use crate::store::txn::{Read, WriteTxn};

use super::time;

/// Writes the first transaction.
///
/// # Errors
/// `Kind::Conflict` if there is a history already.
pub fn first(txn: &mut WriteTxn<'_>, pwhash: &str, mirror_url: Option<&str>) -> Result<()> {
    if txn.serial().is_some() {
        return Err(Error::conflict("the server folder already holds data"));
    }
    let root = UserName::root();
    let mut record = Dict::new();
    record.set("pwhash", pwhash);
    record.set("created", time::stamp(SystemTime::now()));
    let mut indexes = Dict::new();
    if let Some(url) = mirror_url {
        indexes.set("pypi", default_mirror(url));
    }
    record.set("indexes", indexes);
    txn.set(&User(&root), &record);
    txn.set(&UserList, &NameSet(vec![root.to_string()]));
    Ok(())
}

fn default_mirror(url: &str) -> Dict {
    let mut mirror = Dict::new();
    mirror.set("type", "mirror");
    mirror.set("volatile", false);
    mirror.set("title", "PyPI");
    mirror.set("mirror_url", url);
    // Where people look is beside the simple index: BASE/simple/ and BASE/project/NAME/.
    if let Some(base) = url.trim_end_matches('/').strip_suffix("simple") {
        mirror.set("mirror_web_url_fmt", format!("{base}project/{{name}}/"));
    }
    mirror
}
