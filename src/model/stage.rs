//! Which indexes answer for an index: itself, then its bases.

use std::collections::{BTreeSet, VecDeque};

use crate::error::Result;
use crate::names::{IndexName, ProjectName};
use crate::store::key;
use crate::store::txn::Read;

use super::index::{self, Index};

/// `start` and its bases, stages breadth first, then the mirrors in the order met; each once, missing ones skipped
/// (spec/http-api.md 7.1).
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn resolution_order(txn: &impl Read, start: Index) -> Result<Vec<Index>> {
    let (mut stages, mut mirrors) = (Vec::new(), Vec::new());
    let mut seen: BTreeSet<IndexName> = BTreeSet::from([start.name.clone()]);
    let mut todo = VecDeque::from([start]);
    while let Some(index) = todo.pop_front() {
        for base in index.bases() {
            if seen.insert(base.clone())
                && let Some(base) = index::find(txn, &base)?
            {
                todo.push_back(base);
            }
        }
        if index.is_mirror() { mirrors.push(index) } else { stages.push(index) }
    }
    stages.append(&mut mirrors);
    Ok(stages)
}

/// Whether an index holds a project.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn holds(txn: &impl Read, index: &IndexName, project: &ProjectName) -> Result<bool> {
    txn.has(&key::Versions(index, project))
}

/// The projects of an index, sorted.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn projects(txn: &impl Read, index: &IndexName) -> Result<Vec<String>> {
    let mut names = txn.get(&key::Projects(index))?.unwrap_or_default().0;
    names.sort();
    Ok(names)
}

/// The projects of several indexes, sorted, each once.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn all_projects(txn: &impl Read, indexes: &[Index]) -> Result<Vec<String>> {
    let mut names = BTreeSet::new();
    for index in indexes {
        names.extend(txn.get(&key::Projects(&index.name))?.unwrap_or_default().0);
    }
    Ok(names.into_iter().collect())
}
